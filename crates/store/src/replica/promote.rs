//! Takes over what earlier owners left, then looks after the ownership until it ends.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use littoral_model::entry::Commit;
use littoral_model::wire;
use littoral_model::work::WorkId;

use super::WriteError;
use super::keys::{self, Changes, Rebuilt};
use super::owner::{Lost, Ownership};
use super::work::Shared;
use crate::blocking::blocking;
use crate::derived::Derived;
use crate::error::StoreError;
use crate::log::Log;

/// How much is read at once.
const READ_BYTES: usize = 4 << 20;

impl Ownership {
    /// The whole life of an ownership.
    pub(super) async fn run(self: Arc<Self>) {
        match self.promote().await {
            Ok(()) => self.keep_in_sync().await,
            Err(error) => self.end(Lost::Failed(error)),
        }
        let holder = {
            let inner = self.inner();
            match &inner.lost {
                Some(Lost::Copy(holder)) => Some(holder.clone()),
                // This disk does not serve the work; another copy may.
                Some(Lost::Failed(_)) => inner.in_sync.iter().find(|node| **node != self.shared.node).cloned(),
                _ => None,
            }
        };
        if let Some(holder) = holder {
            self.hand_over(holder).await;
        }
    }

    async fn promote(self: &Arc<Self>) -> Result<(), WriteError> {
        let gate = self.gate.lock().await;
        self.shared.epochs.raise(&self.name, self.epoch).await?;
        // Follows on everything that was appended before.
        self.shared.log.append_at(&self.name, Vec::new())?.durable().await?;
        let head = self.shared.log.head(&self.name);
        let (first, last) = head.map_or((1, 0), |head| (head.first, head.next - 1));
        let rebuilt = rebuild(&self.shared, &self.id, &self.name, last).await?;
        self.order.lock().await.restore(rebuilt.producers);
        let (derived, name) = (self.shared.derived.clone(), self.name.clone());
        let applied = blocking(move || derived.applied(&name)).await?;
        if applied > last {
            let reason = format!("its log ends at {last}, before what its state covers ({applied})");
            return Err(WriteError::Unreadable { work: self.id.clone(), reason });
        }
        let replicas = {
            let mut inner = self.inner();
            inner.committed = applied.max(first - 1);
            inner.inherited = Some(last);
            inner.replicas.clone()
        };
        drop(gate);
        self.reached_disk(last);
        self.set_replicas(&replicas);
        Ok(())
    }
}

/// What the derived state and the entries after it say together, up to an index (or up to what is applied already, if
/// that is more).
pub(super) async fn rebuild(shared: &Shared, work: &WorkId, name: &str, upto: u64) -> Result<Rebuilt, WriteError> {
    let unreadable = |reason: String| WriteError::Unreadable { work: work.clone(), reason };
    loop {
        let (log, derived, name) = (shared.log.clone(), shared.derived.clone(), name.to_owned());
        let gathered = blocking(move || gather(&log, &derived, &name, upto)).await;
        match gathered {
            Ok(Gathered::Rows(rows)) => return keys::read(&rows).map_err(|error| unreadable(error.to_string())),
            // Applied and forgotten while it was read: there is a newer derived state.
            Ok(Gathered::Overtaken) => {}
            Ok(Gathered::Missing { first, applied }) => {
                let reason =
                    format!("entries {} to {} are neither in the log nor in the derived state", applied + 1, first - 1);
                return Err(unreadable(reason));
            }
            Ok(Gathered::Malformed(error)) => return Err(unreadable(error.to_string())),
            Err(error) => return Err(error.into()),
        }
    }
}

enum Gathered {
    Rows(BTreeMap<Bytes, Bytes>),
    Overtaken,
    Missing { first: u64, applied: u64 },
    Malformed(wire::WireError),
}

fn gather(log: &Log, derived: &Derived, name: &str, upto: u64) -> Result<Gathered, StoreError> {
    let ((applied, _), rows) = derived.load_at(name)?;
    let mut rows: BTreeMap<Bytes, Bytes> = rows.into_iter().collect();
    let mut changes = Changes::new();
    match collect(log, name, applied + 1, upto, usize::MAX, &mut changes) {
        Ok(_) => {}
        Err(Collect::Store(StoreError::Trimmed { first, .. })) => {
            let now = derived.applied(name)?;
            return Ok(if now + 1 >= first { Gathered::Overtaken } else { Gathered::Missing { first, applied: now } });
        }
        Err(Collect::Store(error)) => return Err(error),
        Err(Collect::Wire(error)) => return Ok(Gathered::Malformed(error)),
    }
    for (key, value) in changes {
        match value {
            Some(value) => rows.insert(key, value),
            None => rows.remove(&key),
        };
    }
    Ok(Gathered::Rows(rows))
}

/// Why entries could not be collected.
pub(super) enum Collect {
    Store(StoreError),
    Wire(wire::WireError),
}

/// What was collected: the last entry's index and epoch, and the bytes of all.
pub(super) struct Collected {
    pub(super) last: (u64, littoral_model::id::Epoch),
    pub(super) bytes: usize,
}

/// Folds the changes of the entries from one index to another, up to about so many bytes. Blocks.
pub(super) fn collect(
    log: &Log,
    name: &str,
    from: u64,
    upto: u64,
    bytes_max: usize,
    changes: &mut Changes,
) -> Result<Option<Collected>, Collect> {
    let mut collected: Option<Collected> = None;
    let mut next = from;
    while next <= upto && collected.as_ref().is_none_or(|collected| collected.bytes < bytes_max) {
        let entries = log.read(name, next, READ_BYTES.min(bytes_max)).map_err(Collect::Store)?;
        if entries.is_empty() {
            break;
        }
        for entry in entries.into_iter().take_while(|entry| entry.index <= upto) {
            let commit = Commit::decode(&entry.payload).map_err(Collect::Wire)?;
            keys::fold(changes, entry.index, &commit).map_err(Collect::Wire)?;
            next = entry.index + 1;
            let bytes = collected.map_or(0, |collected| collected.bytes) + entry.payload.len();
            collected = Some(Collected { last: (entry.index, entry.epoch), bytes });
        }
    }
    Ok(collected)
}
