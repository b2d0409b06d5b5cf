//! Who goes on with work whose owner is dead.

use littoral_model::id::NodeId;
use littoral_model::work::Assignment;

/// The live node of the in-sync set that carries least, by name among equals; `load` answers with a node's load, or
/// with none if the node is dead or may not hold the work. Only nodes of the in-sync set hold every acknowledged
/// record.
#[must_use]
pub fn successor(assignment: &Assignment, load: impl Fn(&NodeId) -> Option<u32>) -> Option<NodeId> {
    assignment
        .in_sync
        .iter()
        .filter(|node| **node != assignment.owner)
        .filter_map(|node| load(node).map(|load| (load, node)))
        .min()
        .map(|(_, node)| node.clone())
}
