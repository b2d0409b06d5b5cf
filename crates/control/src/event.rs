//! What an agent is told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use littoral_model::digest::NodeDigest;
use littoral_model::id::{AppId, Epoch, NodeId};
use littoral_model::work::{Assignment, WorkId};
use littoral_plan::Placement;

/// Something an agent is told. Events that carry a whole state replace what was told before.
#[derive(Clone, Debug)]
pub enum Event {
    /// The live nodes, by the mesh's failure detection. Nodes that are missing are down.
    Members(Arc<BTreeMap<NodeId, NodeDigest>>),
    /// The assignments of the group's state machine, as far as this node has applied them.
    Assignments(Arc<BTreeMap<WorkId, Assignment>>),
    /// The group's voters.
    Voters(BTreeSet<NodeId>),
    /// Whether this node leads the group now.
    Leadership(bool),
    /// What is deployed.
    Intent(Arc<Intent>),
    /// Work that was to be started runs.
    WorkStarted {
        /// Which.
        work: WorkId,
        /// Under which epoch.
        epoch: Epoch,
    },
    /// Work could not be started, or has ended by itself.
    WorkFailed {
        /// Which.
        work: WorkId,
        /// Under which epoch; one of an earlier epoch is disregarded.
        epoch: Epoch,
        /// Why, for people.
        reason: String,
    },
    /// Time has passed. A few a second keep deadlines; nothing depends on their number.
    Tick,
}

/// What is deployed on the fabric, as far as this node knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Intent {
    /// The deployed apps, each with its placement.
    pub apps: BTreeMap<AppId, Arc<Placement>>,
    /// Apps that were deployed and deleted since, and are not among `apps`. Work of an app that is in neither is left
    /// alone: this node has yet to hear of it.
    pub ended: BTreeSet<AppId>,
}
