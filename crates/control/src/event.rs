//! What an agent is told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use littoral_model::digest::NodeDigest;
use littoral_model::id::{AppId, Epoch, FunctionName, NodeId};
use littoral_model::work::{Assignment, WorkId};
use littoral_plan::Placement;

use crate::demand::Demand;
use crate::partition::Policy;

/// Something an agent is told. Events that carry a whole state replace what was told before.
#[derive(Clone, Debug)]
pub enum Event {
    /// The live nodes, by the mesh's failure detection. Nodes that are missing are down.
    Members(Arc<BTreeMap<NodeId, Arc<NodeDigest>>>),
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
    /// A renewal was decided on.
    Renewed {
        /// Whose lease it is.
        app: AppId,
        /// When it was asked for, as [`crate::Command::Renew`] said.
        asked_ms: u64,
        /// What was assigned when it was decided.
        assignment: Assignment,
    },
    /// What callers of this node have asked of functions since the last look, each [`crate::demand::LOOK_MS`]; without those
    /// that they did not ask for.
    Demand(Arc<BTreeMap<(AppId, FunctionName), Demand>>),
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
    /// What apps do in a cut, of those that do not simply go on. Members must be told after this.
    pub policies: BTreeMap<AppId, Policy>,
    /// The nodes that are shut out: none of them returns, so what they held is replaced at once.
    pub revoked: Arc<BTreeSet<NodeId>>,
}
