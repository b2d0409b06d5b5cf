//! The engine's storage: its log and its state machine, both on the group's journal.
//!
//! The state machine lives in memory. After a restart it is built from the last snapshot and the entries known to be
//! committed.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io::Cursor;
use std::ops::RangeBounds;
use std::sync::Arc;

use bytes::Bytes;
use littoral_model::id::Epoch;
use littoral_model::wire;
use littoral_model::work::{Assignment, WorkId};
use openraft::storage::{LogFlushed, RaftLogStorage, RaftStateMachine};
use openraft::{
    AnyError, EntryPayload, LogState, OptionalSend, RaftLogReader, RaftSnapshotBuilder, Snapshot, StorageIOError,
};
use tokio::sync::watch;

use super::decide::{Keeping, Outcome};
use super::journal::{Journal, Saved, any};
use super::types::{LogId, RaftEntry, SnapshotMeta, StorageError, StoredMembership, TypeConfig, Vote, Voter};

/// All assignments of a site.
pub type Assignments = BTreeMap<WorkId, Assignment>;

/// Works of a site that were removed, also those made anew since, with the epochs that they ended at.
pub type Removed = BTreeMap<WorkId, Epoch>;

/// The engine's log.
#[derive(Clone)]
pub(crate) struct LogStore(pub(crate) Arc<Journal>);

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<RaftEntry>, StorageError> {
        Ok(self.0.content().entries.range(range).map(|(_, entry)| entry.clone()).collect())
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, StorageError> {
        let content = self.0.content();
        let last_log_id = content.entries.last_key_value().map(|(_, entry)| entry.log_id).or(content.purged);
        Ok(LogState { last_purged_log_id: content.purged, last_log_id })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError> {
        self.0.save_vote(*vote).await.map_err(|error| StorageIOError::write_vote(any(&error)).into())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        Ok(self.0.content().vote)
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), StorageError> {
        self.0.save_committed(committed).await.map_err(|error| StorageIOError::write_logs(any(&error)).into())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, StorageError> {
        Ok(self.0.content().committed)
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<TypeConfig>) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = RaftEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<RaftEntry> = entries.into_iter().collect();
        let append = self.0.append(entries).await.map_err(|error| StorageIOError::write_logs(any(&error)))?;
        let durable = append.durable().await;
        callback.log_io_completed(durable.map_err(std::io::Error::other));
        Ok(())
    }

    async fn truncate(&mut self, log_id: LogId) -> Result<(), StorageError> {
        self.0.truncate(log_id.index).await.map_err(|error| StorageIOError::write_logs(any(&error)).into())
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), StorageError> {
        self.0.purge(log_id).await.map_err(|error| StorageIOError::write_logs(any(&error)).into())
    }
}

/// The state machine.
pub(crate) struct Machine {
    journal: Arc<Journal>,
    last: Option<LogId>,
    membership: StoredMembership,
    keeping: Keeping,
    shown: Shown,
}

/// What of the state others look at.
pub(crate) struct Shown {
    pub(crate) assignments: watch::Sender<Arc<Assignments>>,
    pub(crate) removed: watch::Sender<Arc<Removed>>,
}

#[allow(clippy::result_large_err, reason = "the engine chose its error")]
impl Machine {
    /// The state as of the last snapshot.
    pub(crate) fn open(journal: Arc<Journal>, shown: Shown) -> Result<Self, StorageError> {
        let saved = journal.content().snapshot.clone();
        let (last, membership) = (None, StoredMembership::default());
        let mut machine = Self { journal, last, membership, keeping: Keeping::default(), shown };
        if let Some(saved) = saved {
            machine.load(&saved)?;
        }
        Ok(machine)
    }

    fn load(&mut self, saved: &Saved) -> Result<(), StorageError> {
        self.keeping = wire::decode(&saved.bytes)
            .map_err(|error| StorageIOError::read_snapshot(Some(saved.meta.signature()), AnyError::new(&error)))?;
        self.last = saved.meta.last_log_id;
        self.membership = saved.meta.last_membership.clone();
        self.show();
        Ok(())
    }

    /// Tells those who look what has changed; most of what is decided only renews a lease. Who sees that a work is gone
    /// finds it among the removed.
    fn show(&self) {
        self.shown.removed.send_if_modified(|shown| {
            let is_new = !shown.iter().eq(self.keeping.removed());
            if is_new {
                *shown = Arc::new(self.keeping.removed().map(|(work, epoch)| (work.clone(), *epoch)).collect());
            }
            is_new
        });
        self.shown.assignments.send_if_modified(|shown| {
            let is_new = **shown != self.keeping.assignments;
            if is_new {
                *shown = Arc::new(self.keeping.assignments.clone());
            }
            is_new
        });
    }
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), StorageError> {
        Ok((self.last, self.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Vec<Outcome>>, StorageError>
    where
        I: IntoIterator<Item = RaftEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut answers = Vec::new();
        let mut changed = false;
        for entry in entries {
            self.last = Some(entry.log_id);
            answers.push(match entry.payload {
                EntryPayload::Blank => Vec::new(),
                EntryPayload::Membership(membership) => {
                    self.membership = StoredMembership::new(Some(entry.log_id), membership);
                    Vec::new()
                }
                EntryPayload::Normal(proposals) => {
                    changed = true;
                    proposals.into_iter().map(|proposal| self.keeping.propose(proposal)).collect()
                }
            });
        }
        if changed {
            self.show();
        }
        Ok(answers)
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        let last = self.last;
        let id = last.map_or_else(|| "empty".to_owned(), |last| last.to_string());
        let meta = SnapshotMeta { last_log_id: last, last_membership: self.membership.clone(), snapshot_id: id };
        Builder { journal: Arc::clone(&self.journal), meta, keeping: self.keeping.clone() }
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Cursor<Vec<u8>>>, StorageError> {
        Ok(Box::default())
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: Box<Cursor<Vec<u8>>>,
    ) -> Result<(), StorageError> {
        let saved = Saved { meta: meta.clone(), bytes: Bytes::from(snapshot.into_inner()) };
        self.journal
            .save_snapshot(&saved)
            .await
            .map_err(|error| StorageIOError::write_snapshot(Some(meta.signature()), any(&error)))?;
        self.load(&saved)
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<TypeConfig>>, StorageError> {
        let saved = self.journal.content().snapshot.clone();
        Ok(saved.map(|saved| Snapshot { meta: saved.meta, snapshot: Box::new(Cursor::new(saved.bytes.to_vec())) }))
    }
}

/// A copy of the state, to be written down while the machine goes on.
pub(crate) struct Builder {
    journal: Arc<Journal>,
    meta: SnapshotMeta,
    keeping: Keeping,
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    async fn build_snapshot(&mut self) -> Result<Snapshot<TypeConfig>, StorageError> {
        let failed = |error: AnyError| StorageError::from(StorageIOError::<Voter>::write_snapshot(None, error));
        let bytes = wire::encode(&self.keeping).map_err(|error| failed(AnyError::new(&error)))?;
        let saved = Saved { meta: self.meta.clone(), bytes };
        self.journal.save_snapshot(&saved).await.map_err(|error| failed(any(&error)))?;
        Ok(Snapshot { meta: saved.meta, snapshot: Box::new(Cursor::new(saved.bytes.to_vec())) })
    }
}
