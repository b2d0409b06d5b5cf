//! Which nodes to ask for a function.

use std::sync::Arc;

use littoral_mesh::Mesh;
use littoral_model::id::{AppId, FunctionName, NodeId};

use crate::intent::IntentStore;

/// The live nodes that serve a function, nearest first; of equally near ones another one first for each `turn`.
pub(crate) fn serving(
    mesh: &Arc<dyn Mesh>,
    intent: &IntentStore,
    turn: usize,
    app: &AppId,
    function: &FunctionName,
) -> Vec<NodeId> {
    let name = format!("{app}/{function}");
    let links = mesh.links();
    let members = mesh.members().borrow().clone();
    let serves = |node: &&NodeId| members.get(*node).is_some_and(|digest| digest.functions.contains(&name));
    let mut nodes: Vec<NodeId> = members.keys().filter(serves).cloned().collect();
    if nodes.is_empty() {
        // Those that are to serve it may do so before their digests say it.
        let apps = intent.now();
        let placed = apps.apps.get(app).into_iter().flat_map(|app| &app.placement.instances);
        let placed = placed.filter(|placed| placed.function == *function).map(|placed| &placed.node);
        nodes.extend(placed.filter(|node| members.contains_key(*node)).cloned());
    }
    if !nodes.is_empty() {
        let turn = turn % nodes.len();
        nodes.rotate_left(turn);
    }
    // Milliseconds: nodes of one site are equally near.
    nodes.sort_by_key(|node| links.iter().find(|link| link.peer == *node).map_or(u64::MAX, |link| link.rtt_us / 1_000));
    nodes
}
