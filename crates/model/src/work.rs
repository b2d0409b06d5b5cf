//! Units of work that have one owner: partitions of streams and of functions' queues, partitioned stages of flows, sources and sinks.
//!
//! Each has an ordered log of entries (see [`crate::entry`]), written by its owner under an epoch and copied to the
//! replicas of its site. The site's keeper (a consensus group, design decision 1) holds the [`Assignment`].

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::id::{AppId, AppName, Epoch, NodeId, SiteId, TenantId};

/// What kind of work a [`WorkId`] names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WorkKind {
    /// A partition of a stream.
    Stream,
    /// One partition's run of a stage of a flow.
    Stage,
    /// A partition of the queue of a function's asynchronous invocations.
    Queue,
    /// What outside the fabric becomes records of a stream.
    Source,
    /// What outside the fabric takes the records of a stream.
    Sink,
}

/// A unit of work; written `tenant/app/kind/name/partition@site`.
///
/// For a stream the name is the stream's; for a stage it is the flow's name, a dot, and the stage's position in the
/// flow (`health.0`); for a queue it is the function's; for a source or sink its own. The site is the one whose keeper assigns it, so any node knows whom to ask for its owner.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct WorkId {
    /// The app it belongs to.
    pub app: AppId,
    /// Stream, stage, queue, source or sink.
    pub kind: WorkKind,
    /// The stream's, the function's, the source's or the sink's name, or the flow's with the stage's position.
    pub name: String,
    /// Which partition, from 0.
    pub partition: u32,
    /// The site whose keeper assigns it.
    pub site: SiteId,
}

impl fmt::Display for WorkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            WorkKind::Stream => "stream",
            WorkKind::Stage => "stage",
            WorkKind::Queue => "queue",
            WorkKind::Source => "source",
            WorkKind::Sink => "sink",
        };
        write!(f, "{}/{kind}/{}/{}@{}", self.app, self.name, self.partition, self.site)
    }
}

/// A text that does not name a unit of work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` does not name a unit of work; expected tenant/app/stream|stage|queue|source|sink/name/partition@site")]
pub struct InvalidWorkId(pub String);

impl FromStr for WorkId {
    type Err = InvalidWorkId;

    fn from_str(text: &str) -> Result<Self, InvalidWorkId> {
        let invalid = || InvalidWorkId(text.to_owned());
        let (path, site) = text.rsplit_once('@').ok_or_else(invalid)?;
        let mut parts = path.split('/');
        let mut next = || parts.next().ok_or_else(invalid);
        let tenant = TenantId::new(next()?).map_err(|_| invalid())?;
        let app = AppName::new(next()?).map_err(|_| invalid())?;
        let kind = match next()? {
            "stream" => WorkKind::Stream,
            "stage" => WorkKind::Stage,
            "queue" => WorkKind::Queue,
            "source" => WorkKind::Source,
            "sink" => WorkKind::Sink,
            _ => return Err(invalid()),
        };
        let name = next()?.to_owned();
        let partition = next()?.parse().map_err(|_| invalid())?;
        if name.is_empty() || parts.next().is_some() {
            return Err(invalid());
        }
        let site = SiteId::new(site).map_err(|_| invalid())?;
        Ok(Self { app: AppId { tenant, app }, kind, name, partition, site })
    }
}

impl TryFrom<String> for WorkId {
    type Error = InvalidWorkId;
    fn try_from(text: String) -> Result<Self, InvalidWorkId> {
        text.parse()
    }
}

impl From<WorkId> for String {
    fn from(work: WorkId) -> String {
        work.to_string()
    }
}

/// Who owns a unit of work, and who holds copies of its log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    /// What is assigned.
    pub work: WorkId,
    /// Who writes it.
    pub owner: NodeId,
    /// Raised by the keeper each time the owner changes.
    pub epoch: Epoch,
    /// The nodes that should hold a copy, the owner among them.
    pub replicas: Vec<NodeId>,
    /// The replicas known to hold every acknowledged entry, the owner among them; only these may become owner. An
    /// entry is committed when all of them have it on disk.
    pub in_sync: Vec<NodeId>,
}

/// What a keeper is asked to decide. Each is applied in the order of the group's consensus log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum KeeperCommand {
    /// Assign work that has no assignment yet, at epoch 1 and in sync with its owner only. No effect if it has one.
    Create {
        /// What to assign.
        work: WorkId,
        /// Its first owner.
        owner: NodeId,
        /// Who should hold copies, the owner among them.
        replicas: Vec<NodeId>,
    },
    /// Give the work to another node of the in-sync set and raise the epoch. Refused unless `epoch` is the current
    /// one and `owner` is in sync. The old owner leaves the in-sync set when `exclude_old` is set (it is thought dead).
    Move {
        /// What to move.
        work: WorkId,
        /// The epoch that the proposer saw.
        epoch: Epoch,
        /// The new owner.
        owner: NodeId,
        /// Whether the old owner is to leave the in-sync set.
        exclude_old: bool,
    },
    /// Change the replicas or the in-sync set; the epoch stays. Refused unless `epoch` is the current one and the
    /// owner stays in both.
    Resync {
        /// Whose sets change.
        work: WorkId,
        /// The epoch that the proposer saw.
        epoch: Epoch,
        /// The new set of nodes that should hold copies.
        replicas: Vec<NodeId>,
        /// The new in-sync set.
        in_sync: Vec<NodeId>,
    },
    /// Forget work for good.
    Remove {
        /// What to forget.
        work: WorkId,
    },
    /// Change only who should hold copies. The in-sync set loses the nodes that are no longer among them and is
    /// otherwise left to the owner, who alone knows it: a proposer that saw an older in-sync set cannot bring back a
    /// node that has since fallen behind. Refused unless `epoch` is the current one and the owner stays.
    Replicas {
        /// Whose replicas change.
        work: WorkId,
        /// The epoch that the proposer saw.
        epoch: Epoch,
        /// The new set of nodes that should hold copies.
        replicas: Vec<NodeId>,
    },
}

/// What became of a [`KeeperCommand`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum KeeperAnswer {
    /// It was applied (or had been before); the work is now assigned so.
    Applied(Option<Assignment>),
    /// It came from a proposer that did not know the present state, which is this.
    Refused(Option<Assignment>),
}
