//! A work that this node owns: gives entries their places, and knows up to where they are committed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use littoral_model::entry::{Commit, Position, ProducerSequence};
use littoral_model::id::{Epoch, NodeId};
use littoral_model::wire;
use littoral_model::work::{Assignment, WorkId};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::owned::Committing;
use super::publish::Producers;
use super::recent::Recent;
use super::room::Room;
use super::work::{Shared, Work};
use super::{Ack, COMMIT_BYTES_MAX, WorkConfig, WriteError};
use crate::error::StoreError;
use crate::log::Append;

/// How many bytes of a work may wait to be committed: enough for a link of 1 Gbit/s with a round trip of 100 ms.
const IN_FLIGHT_BYTES_MAX: usize = 16 << 20;
/// What an entry counts at least, so that many small ones are bounded too.
const ENTRY_BYTES_MIN: usize = 1 << 10;
/// How many appends may wait for the disk.
const SYNCING_MAX: usize = IN_FLIGHT_BYTES_MAX / ENTRY_BYTES_MIN;

/// Why an ownership ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Lost {
    /// There is an owner of this higher epoch.
    Fenced(Epoch),
    /// This node's copy is behind what it had acknowledged; this node has a whole one.
    Copy(NodeId),
    /// The disk failed, or what is on it cannot be read.
    Failed(WriteError),
    /// The node stops, or the work was removed.
    Stopped,
}

/// How far an ownership is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Progress {
    pub(super) committed: u64,
    /// What was held at its beginning is committed.
    pub(super) ready: bool,
    pub(super) lost: bool,
}

pub(super) struct Ownership {
    pub(super) shared: Arc<Shared>,
    pub(super) id: WorkId,
    pub(super) name: String,
    pub(super) epoch: Epoch,
    pub(super) gate: Arc<tokio::sync::Mutex<()>>,
    pub(super) progress: watch::Sender<Progress>,
    /// The last index on this node's disk.
    pub(super) durable: watch::Sender<u64>,
    /// Something happened that may change who should be in sync.
    pub(super) reconsider: Notify,
    /// Something happened that may let the log forget entries.
    pub(super) room_changed: Notify,
    /// Held while an entry is given its place; what must have the same order as the entries.
    pub(super) order: tokio::sync::Mutex<Producers>,
    /// The number of the latest handle; entries of earlier ones are not taken any more.
    handle: AtomicU64,
    inner: Mutex<Inner>,
    budget: Arc<Semaphore>,
    applied: Arc<AtomicU64>,
    syncing: mpsc::Sender<Append>,
    tasks: Mutex<Tasks>,
}

#[derive(Default)]
struct Tasks {
    syncer: Option<AbortHandle>,
    followers: BTreeMap<NodeId, AbortHandle>,
}

/// A replica that falls silent again so soon after it was trusted again is on probation, for longer each time.
const RELAPSE: Duration = Duration::from_secs(60);
/// How long that is at first and at most. It is sent entries all the time, but not waited for.
const PROBATION: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(300));

/// What is known of a replica.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Follower {
    /// It has everything up to this index on its disk.
    pub(super) matched: u64,
    /// It has not answered for a while, although entries wait for it.
    pub(super) silent: bool,
    /// When it last fell silent, and how often in a row, each soon after the one before.
    pub(super) fell_silent: Option<Instant>,
    pub(super) relapses: u32,
}

impl Follower {
    /// It falls silent. Once is an accident; one that does so again and again would have everybody wait each time.
    pub(super) fn falls_silent(&mut self, now: Instant) {
        let soon =
            self.fell_silent.is_some_and(|last| now.saturating_duration_since(last) < self.probation() + RELAPSE);
        self.relapses = if soon { self.relapses.saturating_add(1) } else { 0 };
        self.fell_silent = Some(now);
        self.silent = true;
    }

    /// For how long after its last silence it is not waited for.
    pub(super) fn probation(&self) -> Duration {
        match self.relapses {
            0 => Duration::ZERO,
            relapses => (PROBATION.0 * 2_u32.saturating_pow(relapses - 1)).min(PROBATION.1),
        }
    }

    /// Whether it is waited for once it has everything.
    pub(super) fn is_trusted(&self, now: Instant) -> bool {
        !self.silent && self.fell_silent.is_none_or(|last| now.saturating_duration_since(last) >= self.probation())
    }
}

pub(super) struct Inner {
    /// How the work is acknowledged, kept and read, once known.
    pub(super) config: Option<WorkConfig>,
    pub(super) replicas: Vec<NodeId>,
    /// Who the keeper says is in sync.
    pub(super) in_sync: BTreeSet<NodeId>,
    /// Who the keeper was asked to count as in sync, while the answer is not known.
    pub(super) asked: BTreeSet<NodeId>,
    /// Whether the keeper has confirmed this ownership and its in-sync set since it began here.
    pub(super) confirmed: bool,
    pub(super) followers: BTreeMap<NodeId, Follower>,
    /// The last index held when the ownership began, once known.
    pub(super) inherited: Option<u64>,
    durable: u64,
    pub(super) committed: u64,
    waiters: VecDeque<Waiter>,
    pub(super) recent: Recent,
    /// How far each consumer has committed.
    pub(super) consumers: BTreeMap<WorkId, Position>,
    pub(super) trim_below: u64,
    pub(super) lost: Option<Lost>,
}

struct Waiter {
    index: u64,
    bytes: usize,
    done: oneshot::Sender<Result<u64, WriteError>>,
    _budget: OwnedSemaphorePermit,
}

impl Ownership {
    /// Begins an ownership; `promote` does what must be done before it is ready.
    pub(super) fn begin(work: &Work, assignment: Assignment, config: Option<WorkConfig>) -> Arc<Self> {
        let (syncing, appends) = mpsc::channel(SYNCING_MAX);
        let inner = Inner {
            config,
            replicas: assignment.replicas,
            in_sync: assignment.in_sync.into_iter().collect(),
            asked: BTreeSet::new(),
            confirmed: false,
            followers: BTreeMap::new(),
            inherited: None,
            durable: 0,
            committed: 0,
            waiters: VecDeque::new(),
            recent: Recent::default(),
            consumers: BTreeMap::new(),
            trim_below: 0,
            lost: None,
        };
        let ownership = Arc::new(Self {
            shared: Arc::clone(&work.shared),
            id: assignment.work,
            name: work.name.clone(),
            epoch: assignment.epoch,
            gate: Arc::clone(&work.gate),
            progress: watch::Sender::default(),
            durable: watch::Sender::default(),
            reconsider: Notify::new(),
            room_changed: Notify::new(),
            order: tokio::sync::Mutex::default(),
            handle: AtomicU64::new(0),
            inner: Mutex::new(inner),
            budget: Arc::new(Semaphore::new(IN_FLIGHT_BYTES_MAX)),
            applied: Arc::clone(&work.applied),
            syncing,
            tasks: Mutex::default(),
        });
        let syncer = tokio::spawn(Arc::clone(&ownership).sync(appends)).abort_handle();
        ownership.tasks().syncer = Some(syncer);
        tokio::spawn(Arc::clone(&ownership).run());
        ownership
    }

    pub(super) fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tasks(&self) -> MutexGuard<'_, Tasks> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_lost(&self) -> bool {
        self.progress.borrow().lost
    }

    pub(super) fn is_ready(&self) -> bool {
        let progress = *self.progress.borrow();
        progress.ready && !progress.lost
    }

    pub(super) fn committed(&self) -> u64 {
        self.progress.borrow().committed
    }

    /// The index of the last entry in the derived state.
    pub(super) fn applied(&self) -> u64 {
        self.applied.load(Ordering::Acquire)
    }

    /// Waits until the ownership is ready. False when it ended before.
    pub(super) async fn ready(&self) -> bool {
        let mut progress = self.progress.subscribe();
        let reached = progress.wait_for(|progress| progress.ready || progress.lost).await;
        reached.is_ok_and(|progress| !progress.lost)
    }

    /// Waits until the ownership ends.
    pub(super) async fn lost(&self) {
        // An error would mean that the sender is gone, which this handle keeps.
        self.progress.subscribe().wait_for(|progress| progress.lost).await.ok();
    }

    pub(super) fn fenced(&self) -> WriteError {
        WriteError::Fenced { work: self.id.clone(), epoch: self.epoch }
    }

    fn lost_error(&self, lost: &Lost) -> WriteError {
        match lost {
            Lost::Failed(error) => error.clone(),
            _ => self.fenced(),
        }
    }

    /// Ends the ownership: nothing is committed by it from now on. The first reason counts.
    pub(super) fn end(&self, lost: Lost) {
        let waiters = {
            let mut inner = self.inner();
            if inner.lost.is_some() {
                return;
            }
            inner.lost = Some(lost.clone());
            std::mem::take(&mut inner.waiters)
        };
        match &lost {
            Lost::Fenced(epoch) => {
                tracing::info!(work = %self.name, ours = %self.epoch, theirs = %epoch, "another node owns the work now")
            }
            Lost::Copy(holder) => {
                tracing::error!(work = %self.name, epoch = %self.epoch, %holder, "this node's copy is incomplete; the work is handed over")
            }
            Lost::Failed(error) => {
                tracing::error!(work = %self.name, epoch = %self.epoch, %error, "the work cannot be owned here")
            }
            Lost::Stopped => tracing::debug!(work = %self.name, epoch = %self.epoch, "stopped"),
        }
        self.progress.send_modify(|progress| progress.lost = true);
        self.reconsider.notify_one();
        self.budget.close();
        let tasks = std::mem::take(&mut *self.tasks());
        for task in tasks.syncer.iter().chain(tasks.followers.values()) {
            task.abort();
        }
        let error = self.lost_error(&lost);
        for waiter in waiters {
            waiter.done.send(Err(error.clone())).ok();
        }
    }

    pub(super) fn configure(&self, config: WorkConfig) {
        let mut inner = self.inner();
        inner.config = Some(config);
        self.advance(&mut inner);
        drop(inner);
        self.room_changed.notify_waiters();
    }

    /// Ships to these nodes from now on.
    pub(super) fn set_replicas(self: &Arc<Self>, replicas: &[NodeId]) {
        let others: BTreeSet<&NodeId> = replicas.iter().filter(|node| **node != self.shared.node).collect();
        let mut inner = self.inner();
        inner.replicas = replicas.to_vec();
        // Before that, nothing is known that could be sent.
        if inner.inherited.is_none() || inner.lost.is_some() {
            return;
        }
        let mut tasks = self.tasks();
        tasks.followers.retain(|node, task| {
            let stays = others.contains(node);
            if !stays {
                task.abort();
                inner.followers.remove(node);
            }
            stays
        });
        for node in others {
            if !tasks.followers.contains_key(node) {
                inner.followers.insert(node.clone(), Follower::default());
                let shipping = super::follower::ship(Arc::clone(self), node.clone());
                tasks.followers.insert(node.clone(), tokio::spawn(shipping).abort_handle());
            }
        }
        drop(tasks);
        drop(inner);
        self.reconsider.notify_one();
    }

    /// Says that the log is on disk up to `index`.
    pub(super) fn reached_disk(&self, index: u64) {
        let mut inner = self.inner();
        inner.durable = inner.durable.max(index);
        self.durable.send_replace(inner.durable);
        self.advance(&mut inner);
    }

    /// Commits what all that must have it have.
    pub(super) fn advance(&self, inner: &mut Inner) {
        let (Some(inherited), true, None) = (inner.inherited, inner.confirmed, &inner.lost) else { return };
        let mut upto = inner.durable;
        if inner.config.as_ref().map(|config| config.ack).unwrap_or_default() == Ack::Site {
            let others = inner.in_sync.union(&inner.asked).filter(|node| **node != self.shared.node);
            for node in others {
                upto = upto.min(inner.followers.get(node).map_or(0, |follower| follower.matched));
            }
        }
        inner.committed = inner.committed.max(upto);
        let mut fresh = 0;
        while let Some(waiter) = inner.waiters.front()
            && waiter.index <= inner.committed
            && let Some(waiter) = inner.waiters.pop_front()
        {
            fresh += waiter.bytes;
            // Who waits may have given up.
            waiter.done.send(Ok(waiter.index)).ok();
        }
        self.shared.fresh(fresh);
        let next = Progress { committed: inner.committed, ready: inner.committed >= inherited, lost: false };
        if self.progress.send_if_modified(|progress| std::mem::replace(progress, next) != next) {
            self.room_changed.notify_waiters();
        }
    }

    /// Waits for the disk, append by append.
    async fn sync(self: Arc<Self>, mut appends: mpsc::Receiver<Append>) {
        while let Some(append) = appends.recv().await {
            let last = append.last;
            match append.durable().await {
                Ok(()) => self.reached_disk(last),
                Err(error) => return self.end(Lost::Failed(error.into())),
            }
        }
    }

    /// Gives out a handle, which ends the earlier ones: whoever starts anew under the same epoch must not find that its
    /// predecessor still writes.
    pub(super) fn new_handle(&self) -> u64 {
        self.handle.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// Waits until everything that was given a place before this call is committed.
    pub(super) async fn settled(&self, handle: u64) -> Result<u64, WriteError> {
        let last = {
            // Who has a place by now, has it; who comes later with an earlier handle is turned away.
            let _order = self.order.lock().await;
            let inner = self.inner();
            inner.waiters.back().map_or(inner.committed, |waiter| waiter.index)
        };
        let mut progress = self.progress.subscribe();
        let reached = progress.wait_for(|progress| progress.lost || progress.committed >= last).await;
        match reached {
            Ok(progress) if !progress.lost && self.handle.load(Ordering::Acquire) == handle => Ok(progress.committed),
            _ => Err(self.fenced()),
        }
    }

    /// Gives a commit its place, if it comes from the latest handle or from outside. `published` is asked once all earlier ones have theirs, and may find that the commit is
    /// not needed; it may also add to it.
    pub(super) async fn append(
        &self,
        mut commit: Commit,
        published: Option<&ProducerSequence>,
        handle: Option<u64>,
    ) -> Result<Appended, WriteError> {
        // Encoded before its turn; once more only where a producer is forgotten for it.
        let mut payload = encode(&commit)?;
        let permits = payload.len().clamp(ENTRY_BYTES_MIN, IN_FLIGHT_BYTES_MAX);
        let permits = u32::try_from(permits).unwrap_or(u32::MAX);
        // What is stored already is told so, whether there is room or not.
        if let Some(publication) = published
            && let Err(turned_down) = self.order.lock().await.admit(publication)
        {
            return Ok(Appended::TurnedDown(turned_down));
        }
        let (budget, mut producers) = loop {
            self.wait_for_room(payload.len(), handle.is_none()).await?;
            let budget = Arc::clone(&self.budget).acquire_many_owned(permits).await.map_err(|_| self.fenced())?;
            let order = self.order.lock().await;
            // Those who had their turn before may have taken it.
            if matches!(self.room(payload.len())?, Room::Enough) {
                break (budget, order);
            }
        };
        if handle.is_some_and(|handle| handle != self.handle.load(Ordering::Acquire)) {
            return Err(self.fenced());
        }
        if let Some(publication) = published {
            match producers.admit(publication) {
                Ok(None) => {}
                Ok(Some(gone)) => {
                    commit.producers.insert(0, gone);
                    payload = encode(&commit)?;
                }
                Err(turned_down) => return Ok(Appended::TurnedDown(turned_down)),
            }
        }
        let bytes = payload.len();
        let log = &self.shared.log;
        let append = async {
            match handle {
                Some(_) => log.append_wait(&self.name, self.epoch, vec![payload]).await,
                // What comes from outside would keep those behind it from being told that the disk is full.
                None => log.append_unless_full(&self.name, self.epoch, vec![payload]).await,
            }
        };
        let append = tokio::select! {
            append = append => append,
            () = self.lost() => return Err(self.fenced()),
        };
        let append = match append {
            Ok(append) => append,
            Err(StoreError::Fenced { .. }) => return Err(self.fenced()),
            Err(error) => return Err(error.into()),
        };
        let index = append.last;
        if let Some(publication) = published {
            producers.published(publication, index);
        }
        let (done, answer) = oneshot::channel();
        {
            let mut inner = self.inner();
            if let Some(lost) = &inner.lost {
                return Err(self.lost_error(lost));
            }
            inner.recent.push(index, bytes, Arc::new(commit));
            inner.waiters.push_back(Waiter { index, bytes, done, _budget: budget });
        }
        // Never full, as the budget is smaller; the receiver is gone only when the ownership has ended.
        self.syncing.try_send(append).map_err(|_| self.fenced())?;
        Ok(Appended::Entry(Committing { answer, fenced: self.fenced() }))
    }
}

/// What became of a commit that was to be appended.
pub(super) enum Appended {
    Entry(Committing),
    TurnedDown(super::publish::TurnedDown),
}

fn encode(commit: &Commit) -> Result<bytes::Bytes, WriteError> {
    match wire::encode(commit) {
        Ok(payload) if payload.len() <= COMMIT_BYTES_MAX => Ok(payload),
        Ok(payload) => Err(WriteError::TooLarge { bytes: payload.len() }),
        Err(_) => Err(WriteError::TooLarge { bytes: wire::MESSAGE_BYTES_MAX + 1 }),
    }
}
