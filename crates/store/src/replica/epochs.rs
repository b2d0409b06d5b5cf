//! The highest epoch that this node has promised to each work, on disk: once it is given to an owner, or an owner is
//! answered, no lower one is served any more, also after a restart. Where a work was removed, the epoch that it ended at
//! is not served either: an owner that has not heard of it yet writes into nothing that comes after.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use littoral_model::id::Epoch;
use littoral_model::wire;

use crate::error::StoreError;
use crate::log::{Append, Log};

/// The name of the records in the node's log.
const WORK: &str = "~epochs";
/// The records' own epoch; nobody is fenced from them.
const EPOCH: Epoch = Epoch(1);
/// After this many records all are written anew and the old ones forgotten: well under a megabyte.
const RECORDS_MAX: usize = 4_096;
/// How many removed works are remembered. Those removed longest ago are forgotten first; by then nobody has an append of
/// theirs under way.
const REMOVED_MAX: usize = 1_024;
/// What a record says of a work that was removed, in place of an epoch.
const REMOVED: Epoch = Epoch(0);
/// How much is read at once.
const READ_BYTES: usize = 1 << 20;

pub(super) struct Epochs {
    log: Log,
    known: Mutex<Known>,
    /// How many records there are; held while one is written.
    records: tokio::sync::Mutex<usize>,
}

#[derive(Default)]
struct Known {
    epochs: BTreeMap<String, Epoch>,
    /// Works that were removed and not made anew, the one removed longest ago first.
    removed: VecDeque<String>,
}

impl Known {
    /// Takes in a record.
    fn take(&mut self, work: String, epoch: Epoch) {
        self.removed.retain(|other| *other != work);
        let known = self.epochs.entry(work.clone()).or_default();
        if epoch > REMOVED {
            *known = epoch.max(*known);
            return;
        }
        *known = known.next();
        self.removed.push_back(work);
        if self.removed.len() > REMOVED_MAX
            && let Some(oldest) = self.removed.pop_front()
        {
            self.epochs.remove(&oldest);
        }
    }

    /// The records that say the same, in as few as there can be.
    fn records(&self) -> Vec<(String, Epoch)> {
        let kept = self.epochs.iter().filter(|(work, _)| !self.removed.contains(work));
        let mut records: Vec<_> = kept.map(|(work, epoch)| (work.clone(), *epoch)).collect();
        for work in &self.removed {
            let ended = self.epochs.get(work).map(|epoch| Epoch(epoch.0.saturating_sub(1)));
            records.extend(ended.filter(|ended| *ended > REMOVED).map(|ended| (work.clone(), ended)));
            records.push((work.clone(), REMOVED));
        }
        records
    }
}

impl Epochs {
    /// Reads the records. Blocks.
    pub(super) fn open(log: Log) -> Result<Self, StoreError> {
        let mut known = Known::default();
        let mut records = 0;
        let mut next = log.head(WORK).map_or(1, |head| head.first);
        loop {
            let entries = log.read(WORK, next, READ_BYTES)?;
            let Some(last) = entries.last() else { break };
            next = last.index + 1;
            records += entries.len();
            for entry in &entries {
                let (work, epoch): (String, Epoch) = wire::decode(&entry.payload).map_err(|error| failed(&error))?;
                known.take(work, epoch);
            }
        }
        Ok(Self { log, known: Mutex::new(known), records: tokio::sync::Mutex::new(records) })
    }

    /// The highest epoch promised to a work.
    pub(super) fn known(&self, work: &str) -> Epoch {
        self.lock().epochs.get(work).copied().unwrap_or_default()
    }

    /// Promises not to serve a lower one; durable when it returns.
    pub(super) async fn raise(&self, work: &str, epoch: Epoch) -> Result<(), StoreError> {
        let is_promised = {
            let known = self.lock();
            let highest = known.epochs.get(work).copied().unwrap_or_default();
            // What was removed and is made anew must be found to be so after a restart.
            epoch < highest || (epoch == highest && !known.removed.iter().any(|removed| removed == work))
        };
        if is_promised { Ok(()) } else { self.record(work, epoch).await }
    }

    /// Takes note that a work was removed at `ended`: no epoch up to that is served again.
    pub(super) async fn remove(&self, work: &str, ended: Epoch) -> Result<(), StoreError> {
        let known = self.known(work);
        if known > ended {
            return Ok(());
        }
        if known < ended {
            self.record(work, ended).await?;
        }
        self.record(work, REMOVED).await
    }

    async fn record(&self, work: &str, epoch: Epoch) -> Result<(), StoreError> {
        let mut records = self.records.lock().await;
        let append = self.append(&[(work.to_owned(), epoch)]).await?;
        *records += 1;
        append.durable().await?;
        let all = {
            let mut known = self.lock();
            known.take(work.to_owned(), epoch);
            (*records > RECORDS_MAX).then(|| known.records())
        };
        let Some(all) = all else { return Ok(()) };
        let append = self.append(&all).await?;
        let below = append.first;
        append.durable().await?;
        *records = all.len();
        self.log.trim(WORK, below)
    }

    async fn append(&self, records: &[(String, Epoch)]) -> Result<Append, StoreError> {
        let encoded: Result<Vec<Bytes>, _> = records.iter().map(wire::encode).collect();
        self.log.append_wait(WORK, EPOCH, encoded.map_err(|error| failed(&error))?).await
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn failed(error: &wire::WireError) -> StoreError {
    StoreError::Failed { reason: format!("a record of epochs cannot be written or read: {error}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(records: &[(&str, u64)]) -> Known {
        let mut known = Known::default();
        records.iter().for_each(|(work, epoch)| known.take((*work).to_owned(), Epoch(*epoch)));
        known
    }

    #[test]
    fn fewer_records_say_the_same() {
        // Of `d` nothing was known when it was removed; `b` was made anew.
        let long = known(&[("a", 1), ("a", 3), ("b", 2), ("b", 0), ("c", 5), ("c", 0), ("d", 0), ("b", 3), ("a", 2)]);
        let mut short = Known::default();
        long.records().into_iter().for_each(|(work, epoch)| short.take(work, epoch));
        let expected = [("a", 3), ("b", 3), ("c", 6), ("d", 1)].map(|(work, epoch)| (work.to_owned(), Epoch(epoch)));
        assert_eq!((&short.epochs, &short.removed), (&BTreeMap::from(expected), &long.removed));
        assert_eq!(long.epochs, short.epochs);
    }

    #[test]
    fn the_latest_removals_are_remembered() {
        let mut known = known(&[("kept", 1)]);
        for number in 0..=REMOVED_MAX {
            known.take(format!("{number:05}"), Epoch(0));
        }
        assert_eq!((known.epochs.len(), known.removed.len()), (REMOVED_MAX + 1, REMOVED_MAX));
        assert!(!known.epochs.contains_key("00000") && known.epochs.contains_key("kept"));
    }
}
