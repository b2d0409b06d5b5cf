//! The highest epoch that this node has promised to each work, on disk: once it is given to an owner, or an owner is
//! answered, no lower one is served any more, also after a restart.

use std::collections::BTreeMap;
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
/// How much is read at once.
const READ_BYTES: usize = 1 << 20;

pub(super) struct Epochs {
    log: Log,
    known: Mutex<BTreeMap<String, Epoch>>,
    /// How many records there are; held while one is written.
    records: tokio::sync::Mutex<usize>,
}

impl Epochs {
    /// Reads the records. Blocks.
    pub(super) fn open(log: Log) -> Result<Self, StoreError> {
        let mut known = BTreeMap::new();
        let mut records = 0;
        let mut next = log.head(WORK).map_or(1, |head| head.first);
        loop {
            let entries = log.read(WORK, next, READ_BYTES)?;
            let Some(last) = entries.last() else { break };
            next = last.index + 1;
            records += entries.len();
            for entry in &entries {
                let (work, epoch): (String, Epoch) = wire::decode(&entry.payload).map_err(|error| failed(&error))?;
                known.insert(work, epoch);
            }
        }
        known.retain(|_, epoch| *epoch > Epoch(0));
        Ok(Self { log, known: Mutex::new(known), records: tokio::sync::Mutex::new(records) })
    }

    /// The highest epoch promised to a work.
    pub(super) fn known(&self, work: &str) -> Epoch {
        self.lock().get(work).copied().unwrap_or_default()
    }

    /// Promises not to serve a lower one; durable when it returns.
    pub(super) async fn raise(&self, work: &str, epoch: Epoch) -> Result<(), StoreError> {
        if self.known(work) >= epoch {
            return Ok(());
        }
        self.record(work, epoch).await?;
        let mut known = self.lock();
        let highest = known.entry(work.to_owned()).or_default();
        *highest = epoch.max(*highest);
        Ok(())
    }

    /// Forgets a work that was removed.
    pub(super) async fn forget(&self, work: &str) -> Result<(), StoreError> {
        if self.lock().remove(work).is_some() {
            self.record(work, Epoch(0)).await?;
        }
        Ok(())
    }

    async fn record(&self, work: &str, epoch: Epoch) -> Result<(), StoreError> {
        let mut records = self.records.lock().await;
        let append = self.append(&[(work.to_owned(), epoch)]).await?;
        *records += 1;
        append.durable().await?;
        if *records <= RECORDS_MAX {
            return Ok(());
        }
        // The one just written is not among the known ones yet.
        let mut all: BTreeMap<String, Epoch> = self.lock().clone();
        all.insert(work.to_owned(), epoch);
        let all: Vec<_> = all.into_iter().collect();
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

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Epoch>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn failed(error: &wire::WireError) -> StoreError {
    StoreError::Failed { reason: format!("a record of epochs cannot be written or read: {error}") }
}
