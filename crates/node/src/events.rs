//! What happened on this node that an operator wants to know afterwards: objectives violated and restored, what was done
//! about it, and what that achieved. Kept in the node's log, so that it is known after a restart.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use futures::future::join_all;
use littoral_mesh::{Mesh, Method, Priority};
use littoral_model::id::{AppName, Epoch, NodeId};
use littoral_store::log::Log;
use serde::{Deserialize, Serialize};

use crate::admin::events::{EventKind, EventRow, EventsReport, Moved};
use crate::sync::lock;
use crate::wiring::ask;

/// Where events are in the node's log.
const WORK: &str = "~events";
/// How many a node keeps.
const EVENTS_MAX: usize = 1_000;
/// How many more may be in the log before the older ones are forgotten there.
const SURPLUS_MAX: u64 = 256;
/// The longest text, in bytes; with [`EVENTS_MAX`] this bounds an answer.
const TEXT_BYTES_MAX: usize = 2_048;
/// How much of the log is read at once.
const READ_BYTES: usize = 4 << 20;
/// How long a node may take to answer.
const DEADLINE: Duration = Duration::from_secs(2);

/// Asks a node for its events.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct EventsRequest {
    /// Since when, in microseconds since 1970.
    since_us: i64,
    /// Of which app; of all if none.
    app: Option<AppName>,
}

/// The events of this node.
pub(crate) struct Events {
    node: NodeId,
    log: Log,
    held: Mutex<VecDeque<EventRow>>,
}

impl Events {
    /// Reads what this node's disk holds. Blocks briefly.
    pub(crate) fn open(node: NodeId, log: Log) -> anyhow::Result<Self> {
        let mut held = VecDeque::new();
        if let Some(head) = log.head(WORK) {
            let mut from = head.first;
            while from < head.next {
                let entries = log.read(WORK, from, READ_BYTES).context("the stored events cannot be read")?;
                let Some(last) = entries.last() else { break };
                from = last.index + 1;
                // One that another version wrote is not worth a node that does not start.
                held.extend(entries.iter().filter_map(|entry| serde_json::from_slice(&entry.payload).ok()));
            }
        }
        held.drain(..held.len().saturating_sub(EVENTS_MAX));
        Ok(Self { node, log, held: Mutex::new(held) })
    }

    /// Takes note of an event.
    pub(crate) async fn note(&self, app: &AppName, subject: String, kind: EventKind, text: String) {
        self.note_moved(app, subject, kind, text, None).await;
    }

    /// Takes note of an event, and of what was moved.
    pub(crate) async fn note_moved(
        &self,
        app: &AppName,
        subject: String,
        kind: EventKind,
        text: String,
        moved: Option<Moved>,
    ) {
        let cut = text.floor_char_boundary(TEXT_BYTES_MAX);
        let event = EventRow {
            time_us: littoral_flow::stats::now_us(),
            node: self.node.to_string(),
            app: app.to_string(),
            subject,
            kind,
            text: text.get(..cut).unwrap_or_default().to_owned(),
            moved,
        };
        tracing::info!(app = event.app, subject = event.subject, kind = %event.kind, "{}", event.text);
        {
            let mut held = lock(&self.held);
            if held.len() >= EVENTS_MAX {
                held.pop_front();
            }
            held.push_back(event.clone());
        }
        if let Err(error) = self.write(&event).await {
            tracing::warn!(error, "an event could not be written; it is forgotten when the node stops");
        }
    }

    async fn write(&self, event: &EventRow) -> Result<(), String> {
        let payload = serde_json::to_vec(event).map_err(|error| error.to_string())?;
        let append = self.log.append_wait(WORK, Epoch(1), vec![Bytes::from(payload)]).await;
        let last = append.map_err(|error| error.to_string())?.first;
        let keep = EVENTS_MAX as u64;
        match self.log.head(WORK) {
            Some(head) if last.saturating_sub(head.first) > keep + SURPLUS_MAX => {
                self.log.trim(WORK, last.saturating_sub(keep)).map_err(|error| error.to_string())
            }
            _ => Ok(()),
        }
    }

    /// Answers another node's [`Method::Events`].
    pub(crate) fn answer(&self, request: &EventsRequest) -> Vec<EventRow> {
        let held = lock(&self.held);
        let wanted = |event: &&EventRow| {
            event.time_us >= request.since_us && request.app.as_ref().is_none_or(|app| app.as_str() == event.app)
        };
        held.iter().filter(wanted).cloned().collect()
    }

    /// The events of all live nodes, in the order of their times.
    pub(crate) async fn gather(&self, mesh: &Arc<dyn Mesh>, since_us: i64, app: Option<AppName>) -> EventsReport {
        let request = EventsRequest { since_us, app };
        let members = mesh.members().borrow().clone();
        let asked = members.keys().map(|node| {
            let request = &request;
            async move {
                if *node == self.node {
                    return (node, Ok(self.answer(request)));
                }
                (node, ask::<_, Vec<EventRow>>(mesh, node, Method::Events, Priority::Data, DEADLINE, request).await)
            }
        });
        let mut report = EventsReport::default();
        for (node, answer) in join_all(asked).await {
            match answer {
                Ok(events) => report.events.extend(events),
                Err(error) => {
                    tracing::debug!(%node, %error, "a node does not tell its events");
                    report.missing.push(node.to_string());
                }
            }
        }
        report.events.sort_by(|a, b| (a.time_us, &a.node).cmp(&(b.time_us, &b.node)));
        report
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use littoral_store::log::LogOptions;

    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn events_outlive_the_process_and_are_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let open = || {
            let log = Log::open(folder.path(), LogOptions::small()).unwrap();
            (log.clone(), Events::open("edge-1".parse().unwrap(), log).unwrap())
        };
        let (log, events) = open();
        let app: AppName = "machine".parse().unwrap();
        for number in 0..EVENTS_MAX + 2 * SURPLUS_MAX as usize {
            events.note(&app, "flow health".to_owned(), EventKind::Violated, number.to_string()).await;
        }
        let head = log.head(WORK).unwrap();
        assert!(head.next - head.first <= EVENTS_MAX as u64 + SURPLUS_MAX + 1, "the log is bounded, too");
        let all = |events: &Events, since_us, app: Option<&AppName>| {
            events.answer(&EventsRequest { since_us, app: app.cloned() })
        };
        let before = all(&events, 0, Some(&app));
        assert_eq!(before.len(), EVENTS_MAX);
        assert!(all(&events, 0, Some(&"other".parse().unwrap())).is_empty());
        assert!(all(&events, i64::MAX, None).is_empty());
        log.close().unwrap();
        drop((log, events));
        let (_, events) = open();
        assert_eq!(all(&events, 0, None), before);
    }
}
