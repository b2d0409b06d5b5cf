//! Reads the log lines of an app from all nodes, for those who look at them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use futures::stream;
use littoral_mesh::{Mesh, Method, Priority};
use littoral_model::id::{AppName, NodeId};
use tokio::time::Instant;

use crate::admin::operations::Answers;
use crate::admin::types::LogLine;
use crate::logs::{LogAnswer, LogQuery, Logs};
use crate::wiring::ask;

/// How long a node may take to send lines.
const DEADLINE: Duration = Duration::from_secs(2);
/// How often nodes are asked for new lines while somebody follows.
const EVERY: Duration = Duration::from_millis(500);

/// Reads the lines of all live nodes.
pub(crate) struct LogReader {
    pub(crate) mesh: Arc<dyn Mesh>,
    pub(crate) logs: Arc<Logs>,
}

/// How far somebody has read.
struct Reading {
    reader: LogReader,
    app: Option<AppName>,
    /// Where each node's lines go on.
    places: BTreeMap<NodeId, u64>,
    /// Lines to hand out, the next one last.
    waiting: Vec<LogLine>,
    /// How many past lines are still to be shown.
    last: Option<usize>,
    next: Instant,
}

impl LogReader {
    /// The last lines in the order of their times, and with `follow` those to come.
    pub(crate) fn read(self, app: Option<AppName>, follow: bool, last: usize) -> Answers<LogLine> {
        let (places, waiting) = (BTreeMap::new(), Vec::new());
        let reading = Reading { reader: self, app, places, waiting, last: Some(last), next: Instant::now() };
        Box::pin(stream::unfold(reading, move |mut reading| async move {
            loop {
                if let Some(line) = reading.waiting.pop() {
                    return Some((Ok(line), reading));
                }
                if reading.last.is_none() && !follow {
                    return None;
                }
                reading.more().await;
            }
        }))
    }
}

impl Reading {
    async fn more(&mut self) {
        let last = self.last.take();
        if last.is_none() {
            tokio::time::sleep_until(self.next).await;
        }
        self.next = Instant::now() + EVERY;
        let mut lines = self.ask_all(last.unwrap_or(usize::MAX)).await;
        if let Some(last) = last {
            lines.drain(..lines.len().saturating_sub(last));
        }
        lines.reverse();
        self.waiting = lines;
    }

    async fn ask_all(&mut self, count: usize) -> Vec<LogLine> {
        let LogReader { mesh, logs } = &self.reader;
        let members = mesh.members().borrow().clone();
        let asked = members.keys().map(|node| {
            let query = LogQuery {
                app: self.app.as_ref().map(ToString::to_string),
                from: self.places.get(node).copied(),
                count,
            };
            async move {
                if node == mesh.node() {
                    return Some((node.clone(), logs.find(&query)));
                }
                let answer: Result<LogAnswer, _> =
                    ask(mesh, node, Method::Logs, Priority::Data, DEADLINE, &query).await;
                answer.ok().map(|answer| (node.clone(), answer))
            }
        });
        let answers = join_all(asked).await;
        let mut lines = Vec::new();
        for (node, answer) in answers.into_iter().flatten() {
            self.places.insert(node, answer.next);
            lines.extend(answer.lines);
        }
        lines.sort_by_key(|line| line.time_us);
        lines
    }
}
