//! Lays the queues of functions that are called asynchronously: a partition in each site that serves the function, so that
//! a site that is cut off goes on accepting and running calls.

use std::collections::BTreeSet;

use littoral_model::id::{FunctionName, NodeId, SiteId, StreamName};
use littoral_model::work::{WorkId, WorkKind};

use crate::board::Ask;
use crate::compile::{Planner, reason_of};
use crate::explain;
use crate::kept::KeptWork;
use crate::placement::{PlacedWork, Role, Source};
use crate::reason::Reason;
use crate::spec::{Constraints, FunctionSpec};

/// The port of a stream's records.
const PORT: &str = littoral_model::entry::PORT_MAIN;

impl Planner<'_> {
    /// Queues that exist stay, wherever the function is served now: they hold what was accepted. A site that serves a
    /// function and has no queue of it gets one, beside the best instance there.
    pub(crate) fn place_queues(&mut self) {
        for name in self.spec.queues.keys() {
            let Some(function) = self.spec.functions.get(name) else { continue };
            let kept = self.kept.queues.iter().filter(|((of, _), _)| of == name);
            let kept: Vec<KeptWork> = kept.map(|(_, kept)| kept.clone()).collect();
            let mut sites: BTreeSet<SiteId> = BTreeSet::new();
            let mut next = 0;
            for kept in kept {
                sites.insert(kept.work.site.clone());
                next = next.max(kept.work.partition.saturating_add(1));
                self.lay_queue(name, function, kept.work.partition, kept.spot, Some(&kept));
            }
            let nodes: Vec<NodeId> = self
                .instances
                .iter()
                .filter(|placed| placed.function == *name)
                .map(|placed| placed.node.clone())
                .collect();
            for node in nodes {
                let Some(spot) = self.board.spot(&node) else { continue };
                let Some(site) = self.board.view(spot).map(|view| view.site.clone()) else { continue };
                if sites.insert(site) {
                    self.lay_queue(name, function, next, spot, None);
                    next += 1;
                }
            }
        }
        self.queues.sort_by(|a, b| a.work.cmp(&b.work));
    }

    fn lay_queue(
        &mut self,
        name: &FunctionName,
        function: &FunctionSpec,
        partition: u32,
        spot: usize,
        kept: Option<&KeptWork>,
    ) {
        let Some(queue) = self.spec.queues.get(name) else { return };
        let requires = requires(function);
        let ask = ask(&requires);
        let Some(site) = self.board.view(spot).map(|view| view.site.clone()) else { return };
        let ack = self.board.effective_ack(spot, queue.ack, &requires);
        let (Some(owner), replicas) = self.holders(kept, spot, ack, &requires) else { return };
        let new =
            || WorkId { app: self.spec.app.clone(), kind: WorkKind::Queue, name: name.to_string(), partition, site };
        let work = kept.map_or_else(new, |kept| kept.work.clone());
        let beside = || Reason::Beside { writer: format!("function {name}") };
        let mut reasons = vec![kept.map_or_else(beside, |kept| reason_of(&kept.how))];
        reasons.extend(explain::excluded(&self.board, spot, ask));
        // The first queue fires all triggers: what a schedule or a stream has called is remembered in one place.
        let sources = if partition == 0 { self.records_of(&queue.streams) } else { Vec::new() };
        self.queues.push(PlacedWork {
            work,
            owner,
            replicas,
            ack,
            role: Role::Queue { function: name.clone(), sources },
            requires: requires.clone(),
            memory_bytes: 0,
            reasons,
        });
    }

    /// The partitions of streams, to be read.
    fn records_of(&self, streams: &BTreeSet<StreamName>) -> Vec<Source> {
        let partitions = self.streams.iter().filter(|((stream, _), _)| streams.contains(stream));
        partitions.map(|(_, placed)| Source { work: placed.work.clone(), port: PORT.to_owned() }).collect()
    }
}

/// What a queue asks of its nodes: that they are where the function's data may be. What only running it takes does not matter.
pub(crate) fn requires(function: &FunctionSpec) -> Constraints {
    let Constraints { sites, regions, .. } = function.placement.clone();
    Constraints { sites, regions, ..Constraints::default() }
}

pub(crate) fn ask(requires: &Constraints) -> Ask<'_> {
    Ask { placement: requires, memory_bytes: 0, ack: None, has_copies: true }
}
