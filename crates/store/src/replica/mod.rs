//! The logs of works, copied from their owners to the replicas of a site.
//!
//! [`Works`] holds all works of a node (`work`). Where the keeper made this node a work's owner, an `owner::Ownership`
//! (handed out as `owned::Owned`) gives entries their places, `follower` ships them to each replica, `in_sync` agrees with the keeper on who must hold
//! an entry before it is committed, and `promote` takes over what earlier owners left. Where the node is a replica,
//! `receive` takes what the owner sends and refuses owners of the past (`epochs`). Committed entries are read with
//! `fetch`, written from outside with `publish`, and turned into derived state (`keys`) by `apply`, which also forgets
//! what nobody needs any more; `room` says what that is, and keeps a work within its limit.
//!
//! Why an acknowledged entry is never lost: it is on the disks of all in-sync nodes, of which one becomes the next owner.
//! The in-sync set that an owner waits for always contains the keeper's: a node is waited for from before the keeper is
//! asked to count it as in sync, until after the keeper said that it no longer does. An owner ships only what is on its
//! own disk, so that no entry number and epoch ever stand for two different entries.

mod apply;
mod epochs;
mod fetch;
mod follower;
mod in_sync;
mod keys;
mod owned;
mod owner;
mod promote;
mod publish;
mod receive;
mod recent;
mod room;
mod work;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use littoral_model::id::{Epoch, NodeId};
use littoral_model::wire::{
    FetchReply, FetchRequest, InstallRequest, PublishReply, PublishRequest, ReplicateReply, ReplicateRequest,
};
use littoral_model::work::{Assignment, KeeperAnswer, WorkId};
use tokio::task::AbortHandle;

use crate::derived::Derived;
use crate::error::StoreError;
use crate::log::Log;
use epochs::Epochs;
use work::{Shared, Work};

pub use keys::Restored;
pub use owned::{Committing, Owned};

/// The largest commit, encoded: with what is sent around it, it must fit into a message.
pub const COMMIT_BYTES_MAX: usize = 12 << 20;

/// The replicas of this node's works, on other nodes.
#[async_trait]
pub trait Peers: Send + Sync + 'static {
    /// Sends entries; for [`Works::handle_replicate`] on the other node.
    ///
    /// # Errors
    /// When there was no answer.
    async fn replicate(&self, to: &NodeId, request: ReplicateRequest) -> Result<ReplicateReply, PeerError>;

    /// Sends a state; for [`Works::handle_install`] on the other node.
    ///
    /// # Errors
    /// When there was no answer, or it could not be installed.
    async fn install(&self, to: &NodeId, request: InstallRequest) -> Result<(), PeerError>;

    /// Whether a node is known to be down by now, so that it is not waited for as one that is merely slow.
    fn is_down(&self, _node: &NodeId) -> bool {
        false
    }
}

/// A replica that did not answer, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PeerError(pub String);

/// The keeper of this node's works. An answer must be of the keeper's present state, and a request that gave an error
/// must not be carried out after a later one was answered (`consensus::SiteGroup::propose` keeps both).
#[async_trait]
pub trait Keeper: Send + Sync + 'static {
    /// Asks for `KeeperCommand::Resync`. With empty sets that is always refused, which tells how the work is assigned.
    ///
    /// # Errors
    /// When nothing was decided in time.
    async fn resync(
        &self,
        work: &WorkId,
        epoch: Epoch,
        replicas: Vec<NodeId>,
        in_sync: Vec<NodeId>,
    ) -> Result<KeeperAnswer, KeeperError>;

    /// Asks for `KeeperCommand::Move` to `owner`, excluding this node: it has lost its copy.
    ///
    /// # Errors
    /// When nothing was decided in time.
    async fn hand_over(&self, work: &WorkId, epoch: Epoch, owner: NodeId) -> Result<KeeperAnswer, KeeperError>;
}

/// A keeper that did not decide, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct KeeperError(pub String);

/// When an entry counts as committed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ack {
    /// Once the owner has it on disk. What was acknowledged just before the owner died can be lost.
    Local,
    /// Once all in-sync replicas have it on disk.
    #[default]
    Site,
}

/// How long a stream keeps records that all consumers have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// Records older than this may be forgotten; without it none is before its bytes are needed. Counted from the start of the
    /// present owner.
    pub age: Option<Duration>,
}

/// What an owner must know of a work beyond its assignment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorkConfig {
    /// When an entry counts as committed.
    pub ack: Ack,
    /// For streams. None for stages: their entries are forgotten as soon as all consumers have them.
    pub retention: Option<Retention>,
    /// The most that its entries may take of the disk. The oldest make room for new ones once all consumers have them; while
    /// one has not, what is published is turned down ([`PublishReply::Full`]), and what this node appends itself waits.
    pub bytes_max: Option<u64>,
    /// The works that read this one. Nothing is forgotten that one of them has not committed.
    pub consumers: Vec<WorkId>,
}

/// This node does not own the work, and does not become its owner now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this node does not own {work}; {}", match assignment { Some(known) => format!("{} does, at epoch {}", known.owner, known.epoch), None => "nobody is known to".to_owned() })]
pub struct NotOwner {
    /// Which work.
    pub work: WorkId,
    /// Who does own it, as far as this node knows.
    pub assignment: Option<Assignment>,
}

/// Why something could not be written or restored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// Another owner took over, or the work was taken from this node. Whether the entry counts, only the new owner knows.
    #[error("this node no longer owns {work}: it was given away after epoch {epoch}; ask its present owner")]
    Fenced {
        /// Which work.
        work: WorkId,
        /// The epoch at which this node owned it.
        epoch: Epoch,
    },
    /// The commit does not fit into a message.
    #[error("the commit has {bytes} bytes; at most {COMMIT_BYTES_MAX} are taken: split it")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// The work holds as much as it may, and the oldest of it is not to be forgotten yet.
    #[error(
        "{work} is full: it holds {held} of the {bytes_max} bytes that it may, and {consumer} has not read the oldest of them; publish again once it has, or raise the stream's `retention`"
    )]
    Full {
        /// Which work.
        work: WorkId,
        /// What its entries take of the disk, in bytes.
        held: u64,
        /// What they may.
        bytes_max: u64,
        /// The consumer that is furthest behind.
        consumer: Box<WorkId>,
    },
    /// What is stored cannot be read.
    #[error("the state of {work} cannot be read: {reason}")]
    Unreadable {
        /// Which work.
        work: WorkId,
        /// What is wrong.
        reason: String,
    },
    /// The disk failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// All works of this node.
pub struct Works {
    shared: Arc<Shared>,
    works: Arc<Mutex<HashMap<WorkId, Arc<Work>>>>,
    applier: AbortHandle,
}

impl std::fmt::Debug for Works {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Works").field("node", &self.shared.node).finish_non_exhaustive()
    }
}

impl Works {
    /// Takes over what the log and the derived state hold. Blocks briefly. Call it, and its methods, on a tokio runtime.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn new(
        node: NodeId,
        log: Log,
        derived: Derived,
        peers: Arc<dyn Peers>,
        keeper: Arc<dyn Keeper>,
    ) -> Result<Arc<Self>, StoreError> {
        let epochs = Epochs::open(log.clone())?;
        let shared = Arc::new(Shared::new(node, log, derived, peers, keeper, epochs));
        let works: Arc<Mutex<HashMap<WorkId, Arc<Work>>>> = Arc::default();
        let applier = tokio::spawn(apply::run(Arc::clone(&shared), Arc::clone(&works))).abort_handle();
        Ok(Arc::new(Self { shared, works, applier }))
    }

    /// Takes note of what the keeper decided: this node becomes owner or replica, or stops being so. Older news than
    /// known is ignored.
    pub fn assigned(&self, assignment: Assignment) {
        self.work(&assignment.work).assigned(assignment);
    }

    /// Forgets a work that the keeper has removed, with all that is held of it but the epoch that it ended at, or the
    /// latest heard of where that is not known: nobody who owned it until then may write again.
    ///
    /// # Errors
    /// When the disk fails.
    pub async fn removed(&self, work: &WorkId, ended: Option<Epoch>) -> Result<(), StoreError> {
        let known = self.work(work);
        known.remove(ended).await?;
        self.lock().remove(work);
        Ok(())
    }

    /// Which of the works that the keeper has removed, with the epochs that they ended at, still have records of before
    /// here: of those that were removed while this node did not run or hear of it, whether they were made anew or not.
    #[must_use]
    pub fn left_over(&self, removed: &BTreeMap<WorkId, Epoch>) -> Vec<WorkId> {
        let holds = |(work, ended): &(&WorkId, &Epoch)| {
            let head = self.shared.log.head(&work.to_string());
            // A log that begins anew has no epoch yet.
            head.is_some_and(|head| head.last_epoch > Epoch(0) && head.last_epoch <= **ended)
        };
        removed.iter().filter(holds).map(|(work, _)| work.clone()).collect()
    }

    /// Says how a work is to be acknowledged, kept and read. Until then it acknowledges as [`Ack::Site`] and forgets
    /// nothing.
    pub fn configure(&self, work: &WorkId, config: WorkConfig) {
        self.work(work).configure(config);
    }

    /// The right to write to a work that this node owns. Waits until what earlier owners left is safe. Rights that were
    /// given before end with it.
    ///
    /// # Errors
    /// When this node is not its owner, or stops being so while waiting.
    pub async fn lead(&self, work: &WorkId) -> Result<Owned, NotOwner> {
        let known = self.find(work);
        let ownership = known.as_ref().and_then(|known| known.ownership());
        if let Some(ownership) = ownership
            && ownership.ready().await
        {
            let handle = ownership.new_handle();
            return Ok(Owned { ownership, handle });
        }
        Err(NotOwner { work: work.clone(), assignment: known.and_then(|known| known.assignment()) })
    }

    /// Takes entries from a work's owner.
    pub async fn handle_replicate(&self, request: ReplicateRequest) -> Result<ReplicateReply, StoreError> {
        self.work(&request.work).replicate(request).await
    }

    /// Takes a state from a work's owner.
    ///
    /// # Errors
    /// When the sender was replaced, or the disk fails.
    pub async fn handle_install(&self, request: InstallRequest) -> Result<(), WriteError> {
        self.work(&request.work).install(request).await
    }

    /// Committed rows of a work that this node owns; waits for the first as long as the request says.
    pub async fn fetch(&self, request: FetchRequest) -> FetchReply {
        let known = self.find(&request.work);
        if let Some(ownership) = known.as_ref().and_then(|known| known.ownership())
            && let Some(reply) = ownership.fetch(request).await
        {
            return reply;
        }
        FetchReply::NotOwner(known.and_then(|known| known.assignment()))
    }

    /// Appends rows from outside to a stream's partition that this node owns, unless they are a repeat.
    pub async fn publish(&self, request: PublishRequest) -> PublishReply {
        let known = self.find(&request.work);
        if let Some(ownership) = known.as_ref().and_then(|known| known.ownership())
            && let Some(reply) = ownership.publish(request).await
        {
            return reply;
        }
        PublishReply::NotOwner(known.and_then(|known| known.assignment()))
    }

    /// How works stand here, for metrics and for whoever looks after them; in no order.
    #[must_use]
    pub fn standings(&self) -> Vec<Standing> {
        let works: Vec<Arc<Work>> = self.lock().values().cloned().collect();
        works.iter().map(|work| work.standing()).collect()
    }

    /// Stops writing, shipping and applying. What is held stays, and can be opened again.
    pub fn stop(&self) {
        self.shared.stopped.store(true, Ordering::Release);
        self.applier.abort();
        for work in self.lock().values() {
            work.stop();
        }
    }

    fn find(&self, work: &WorkId) -> Option<Arc<Work>> {
        self.lock().get(work).cloned()
    }

    /// A work, which is made where it is new.
    fn work(&self, work: &WorkId) -> Arc<Work> {
        let mut works = self.lock();
        Arc::clone(works.entry(work.clone()).or_insert_with(|| Work::open(work.clone(), Arc::clone(&self.shared))))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<WorkId, Arc<Work>>> {
        self.works.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Works {
    fn drop(&mut self) {
        self.stop();
    }
}

/// How a work stands on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Which work.
    pub work: WorkId,
    /// Whether this node owns it, and what was held when it became owner is safe.
    pub leads: bool,
    /// The epoch that this node has promised to it.
    pub epoch: Epoch,
    /// The index of the first entry held.
    pub first: u64,
    /// The index of the last entry held.
    pub last: u64,
    /// The index of the last entry known to be committed.
    pub committed: u64,
    /// The index of the last entry in the derived state.
    pub applied: u64,
}
