//! What a consensus group keeps on disk: records in the node's log, read once when the group is opened.
//!
//! Every record states one thing anew, so that a checkpoint is nothing but the present state written once more, and
//! everything before it can be forgotten. A crash in the midst of a checkpoint does no harm: what it had restated is
//! the same as what is there.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use littoral_model::id::{Epoch, SiteId};
use littoral_model::wire;
use openraft::AnyError;
use serde::{Deserialize, Serialize};

use super::WORK_PREFIX;
use super::types::{LogId, RaftEntry, SnapshotMeta, Vote};
use crate::error::StoreError;
use crate::log::{Append, Log};

/// The records' epoch in the node's log: a group has no owner, it fences by its own terms.
const EPOCH: Epoch = Epoch(1);
/// A snapshot is cut into records of this size, well below the largest entry of even a small log.
const CHUNK_BYTES: usize = 64 << 10;
/// How much is read at once when a group is opened.
const READ_BYTES: usize = 4 << 20;

/// One thing that a group remembers.
#[derive(Serialize, Deserialize)]
enum Record {
    Vote(Vote),
    Entry(RaftEntry),
    /// Entries from this index on are void.
    Truncate(u64),
    /// Entries up to this one are in a snapshot, and not needed any more.
    Purge(LogId),
    Committed(Option<LogId>),
    /// A piece of a snapshot, at a place; the last one completes it.
    Snapshot {
        meta: SnapshotMeta,
        offset: u64,
        bytes: Bytes,
        last: bool,
    },
    /// How often the group was started here.
    Incarnation(u64),
}

/// A snapshot of the state machine.
#[derive(Clone, Debug)]
pub(crate) struct Saved {
    pub(crate) meta: SnapshotMeta,
    pub(crate) bytes: Bytes,
}

/// What the records say.
#[derive(Default)]
pub(crate) struct Content {
    pub(crate) vote: Option<Vote>,
    pub(crate) entries: BTreeMap<u64, RaftEntry>,
    pub(crate) purged: Option<LogId>,
    pub(crate) committed: Option<LogId>,
    pub(crate) snapshot: Option<Saved>,
    incarnation: u64,
    /// The pieces of a snapshot that is not complete yet.
    partial: Vec<u8>,
}

/// The records of a group.
pub(crate) struct Journal {
    log: Log,
    work: String,
    content: Mutex<Content>,
    /// Held while a record is given its place and the content changed, so that both have one order.
    writing: tokio::sync::Mutex<()>,
}

impl Journal {
    /// Reads the records of a group. Blocks.
    pub(crate) fn open(log: Log, site: &SiteId) -> Result<Arc<Self>, StoreError> {
        let work = format!("{WORK_PREFIX}{site}");
        let mut content = Content::default();
        let mut next = log.head(&work).map_or(1, |head| head.first);
        loop {
            let entries = log.read(&work, next, READ_BYTES)?;
            let Some(last) = entries.last() else { break };
            next = last.index + 1;
            for entry in &entries {
                let record = wire::decode(&entry.payload).map_err(|error| unreadable(&work, &error))?;
                content.take(record);
            }
        }
        content.partial.clear();
        Ok(Arc::new(Self { log, work, content: Mutex::new(content), writing: tokio::sync::Mutex::default() }))
    }

    pub(crate) fn content(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a new incarnation, above those known here and above `known`. The first of a disk is drawn by lot: a node
    /// that has lost its disk would otherwise count as it had before, and be given the answers to what it had asked then.
    pub(crate) async fn new_incarnation(&self, known: u64) -> Result<u64, StoreError> {
        let incarnation = match self.content().incarnation.max(known) {
            0 => RandomState::new().hash_one(&self.work) >> 32,
            before => before,
        } + 1;
        self.write(vec![Record::Incarnation(incarnation)]).await?.durable().await?;
        Ok(incarnation)
    }

    pub(crate) async fn save_vote(&self, vote: Vote) -> Result<(), StoreError> {
        self.write(vec![Record::Vote(vote)]).await?.durable().await
    }

    /// Not waited for: it is only a hint that saves the state from going back after a restart.
    pub(crate) async fn save_committed(&self, committed: Option<LogId>) -> Result<(), StoreError> {
        self.write(vec![Record::Committed(committed)]).await.map(drop)
    }

    pub(crate) async fn append(&self, entries: Vec<RaftEntry>) -> Result<Append, StoreError> {
        self.write(entries.into_iter().map(Record::Entry).collect()).await
    }

    pub(crate) async fn truncate(&self, from: u64) -> Result<(), StoreError> {
        self.write(vec![Record::Truncate(from)]).await?.durable().await
    }

    pub(crate) async fn save_snapshot(&self, saved: &Saved) -> Result<(), StoreError> {
        self.write(chunks(saved)).await?.durable().await
    }

    /// Forgets the entries up to one, writes down what is left and lets the log forget everything before that.
    pub(crate) async fn purge(&self, upto: LogId) -> Result<(), StoreError> {
        let writing = self.writing.lock().await;
        self.content().take(Record::Purge(upto));
        let first = {
            let records = self.content().restated();
            self.write_locked(records).await?
        };
        drop(writing);
        let below = first.first;
        first.durable().await?;
        self.log.trim(&self.work, below)
    }

    async fn write(&self, records: Vec<Record>) -> Result<Append, StoreError> {
        let _writing = self.writing.lock().await;
        self.write_locked(records).await
    }

    /// Writes records, then takes them over. Only while `writing` is held.
    async fn write_locked(&self, records: Vec<Record>) -> Result<Append, StoreError> {
        let mut payloads = Vec::with_capacity(records.len());
        for record in &records {
            payloads.push(wire::encode(record).map_err(|error| unreadable(&self.work, &error))?);
        }
        let append = self.log.append_wait(&self.work, EPOCH, payloads).await?;
        let mut content = self.content();
        for record in records {
            content.take(record);
        }
        Ok(append)
    }
}

impl Content {
    fn take(&mut self, record: Record) {
        match record {
            Record::Vote(vote) => self.vote = Some(vote),
            Record::Entry(entry) => {
                self.entries.insert(entry.log_id.index, entry);
            }
            Record::Truncate(from) => drop(self.entries.split_off(&from)),
            Record::Purge(upto) => {
                self.entries = self.entries.split_off(&(upto.index + 1));
                self.purged = self.purged.max(Some(upto));
            }
            Record::Committed(committed) => self.committed = committed,
            Record::Snapshot { meta, offset, bytes, last } => {
                self.partial.truncate(usize::try_from(offset).unwrap_or(usize::MAX));
                self.partial.extend_from_slice(&bytes);
                if last {
                    self.snapshot = Some(Saved { meta, bytes: Bytes::from(std::mem::take(&mut self.partial)) });
                }
            }
            Record::Incarnation(incarnation) => self.incarnation = incarnation,
        }
    }

    /// Everything that is known, as records.
    fn restated(&self) -> Vec<Record> {
        let mut records = vec![Record::Incarnation(self.incarnation), Record::Committed(self.committed)];
        records.extend(self.vote.map(Record::Vote));
        records.extend(self.snapshot.iter().flat_map(chunks));
        records.extend(self.purged.map(Record::Purge));
        records.extend(self.entries.values().cloned().map(Record::Entry));
        records
    }
}

fn chunks(saved: &Saved) -> Vec<Record> {
    let mut records = Vec::new();
    let mut offset = 0;
    loop {
        let end = (offset + CHUNK_BYTES).min(saved.bytes.len());
        let last = end == saved.bytes.len();
        let bytes = saved.bytes.slice(offset..end);
        records.push(Record::Snapshot { meta: saved.meta.clone(), offset: offset as u64, bytes, last });
        if last {
            return records;
        }
        offset = end;
    }
}

fn unreadable(work: &str, error: &wire::WireError) -> StoreError {
    StoreError::Failed { reason: format!("a record of {work} cannot be written or read: {error}") }
}

/// A store's error as the engine wants it.
pub(crate) fn any(error: &StoreError) -> AnyError {
    AnyError::new(error)
}
