//! What must hold whatever happens, a file each. All judge the same evidence: what happened, and how things stand 30
//! seconds after the last fault has ended.

mod capacity;
mod constraints;
mod convergence;
mod deleted;
mod fencing;
mod lost;
mod owners;
mod restarts;
mod singleton;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use littoral_control::Intent;
use littoral_control::partition::is_serving_work;
use littoral_model::entry::{PORT_MAIN, Position};
use littoral_model::id::{Epoch, NodeId, SiteId};
use littoral_model::wire::{FetchReply, FetchRequest};
use littoral_model::work::{Assignment, WorkId};
use littoral_plan::{AppSpec, Placement};

use crate::history::Event;
use crate::node::Facts;
use crate::world::World;

/// What the invariants are judged by.
#[derive(Debug)]
pub struct Evidence {
    /// What happened, each with its virtual milliseconds.
    pub events: Vec<(u64, Event)>,
    /// When every fault had ended.
    pub healed_ms: u64,
    /// Whether nothing was wrong for long before but a cut between two sites.
    pub is_clean: bool,
    /// The machines.
    pub machines: BTreeMap<NodeId, Facts>,
    /// How the main app was placed.
    pub main: Arc<Placement>,
    /// What each node knows to be deployed, at the end.
    pub intents: BTreeMap<NodeId, Arc<Intent>>,
    /// What apps are made of.
    pub specs: Vec<AppSpec>,
    /// What runs on each node at the end.
    pub running: BTreeMap<NodeId, BTreeMap<WorkId, Epoch>>,
    /// The works of which each node's log holds something at the end.
    pub held: BTreeMap<NodeId, Vec<WorkId>>,
    /// What each site's leader says of its work at the end; none for a site without a leader.
    pub keepers: BTreeMap<SiteId, Option<BTreeMap<WorkId, Assignment>>>,
    /// The committed texts of each stream's partition, with their indexes, as its owner gives them at the end.
    pub streams: BTreeMap<WorkId, Vec<(u64, String)>>,
}

/// One invariant: how it is broken, if it is.
type Invariant = fn(&Evidence) -> Result<(), String>;

/// All of them.
const ALL: [(&str, Invariant); 9] = [
    ("no work has two owners", owners::check),
    ("no write of an old epoch is accepted", fencing::check),
    ("no constraint is violated", constraints::check),
    ("no memory is promised twice", capacity::check),
    ("healthy work is not restarted by a heal", restarts::check),
    ("intent converges within 30 s of a heal", convergence::check),
    ("a quorum singleton is never served twice", singleton::check),
    ("nothing deleted comes back", deleted::check),
    ("no acknowledged record is lost", lost::check),
];

/// The invariants that do not hold, and how.
#[must_use]
pub fn check(evidence: &Evidence) -> Vec<String> {
    let judged = ALL.iter().filter_map(|(name, holds)| Some(format!("{name}: {}", holds(evidence).err()?)));
    judged.collect()
}

impl Evidence {
    /// Looks at how things stand.
    pub async fn gather(world: &Arc<World>, main: Arc<Placement>) -> Self {
        let nodes = world.nodes();
        let events = world.history.events();
        let healed = events.iter().rev().find(|(_, event)| matches!(event, Event::Healed | Event::Mended));
        let mut keepers: BTreeMap<SiteId, Option<BTreeMap<WorkId, Assignment>>> = BTreeMap::new();
        for machine in world.machines.values() {
            let site = &machine.facts.site;
            let group = nodes.get(&machine.facts.node).and_then(|node| node.groups.get(site));
            let led = group.filter(|group| group.leads()).map(|group| (**group.assignments().borrow()).clone());
            let known = keepers.entry(site.clone()).or_default();
            *known = known.take().or(led);
        }
        let intents: BTreeMap<_, _> =
            nodes.iter().map(|(node, running)| (node.clone(), running.intent.now().intent)).collect();
        let apps: BTreeSet<_> = intents.values().flat_map(|intent| intent.apps.keys().chain(&intent.ended)).collect();
        let mut evidence = Self {
            healed_ms: healed.map_or(0, |(at_ms, _)| *at_ms),
            is_clean: healed.is_some_and(|(_, event)| *event == Event::Mended),
            machines: world.machines.iter().map(|(node, machine)| (node.clone(), machine.facts.clone())).collect(),
            main,
            specs: apps.into_iter().filter_map(|app| world.spec(app)).collect(),
            intents,
            running: nodes.iter().map(|(node, running)| (node.clone(), running.runner.running())).collect(),
            held: nodes.iter().map(|(node, running)| (node.clone(), running.held())).collect(),
            keepers,
            events,
            streams: BTreeMap::new(),
        };
        for assignment in evidence.assignments().cloned().collect::<Vec<_>>() {
            if let Some(owner) = nodes.get(&assignment.owner) {
                evidence.streams.insert(assignment.work.clone(), read(owner, &assignment.work).await);
            }
        }
        evidence
    }

    /// What all keepers say at the end of work that has a log.
    fn assignments(&self) -> impl Iterator<Item = &Assignment> {
        let all = self.keepers.values().flatten().flat_map(BTreeMap::values);
        all.filter(|assignment| !is_serving_work(&assignment.work))
    }
}

/// All committed texts of a work.
pub(crate) async fn read(owner: &Arc<crate::node::Node>, work: &WorkId) -> Vec<(u64, String)> {
    let mut all = Vec::new();
    let mut from = Position::START;
    loop {
        let (work, port, bytes_max) = (work.clone(), PORT_MAIN.to_owned(), 1 << 20);
        let request =
            FetchRequest { work, port, consumer: None, from, committed: Position::START, bytes_max, wait_ms: 0 };
        match owner.works.fetch(request).await {
            FetchReply::Rows { batches, next, .. } => {
                let text = |bytes: &bytes::Bytes| String::from_utf8_lossy(bytes).into_owned();
                all.extend(batches.iter().map(|(index, batch)| (*index, text(&batch.arrow))));
                if next == from {
                    return all;
                }
                from = next;
            }
            FetchReply::Trimmed(first) if first > from => from = first,
            _ => return all,
        }
    }
}
