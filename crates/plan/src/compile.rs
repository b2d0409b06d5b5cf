//! Puts a placement together.
//!
//! The order: work that exists stays (`kept`); streams that devices write are laid on the devices (`streams`); flows
//! are placed one after another, each after those that write its source, a whole chain per partition (`flows`);
//! what streams are left and the HTTP functions follow.

use std::collections::{BTreeMap, BTreeSet};

use littoral_model::id::{FlowName, NodeId, StreamName};
use littoral_model::work::{Assignment, WorkId};

use crate::INSTANCES_MAX;
use crate::board::{Ask, Board};
use crate::explain;
use crate::fabric::Fabric;
use crate::flows::chain_functions;
use crate::kept::{How, Kept, KeptWork};
use crate::placement::{FlowPrediction, PlacedFunction, PlacedWork, Placement};
use crate::reason::Reason;
use crate::refusal::{Refusal, Unplaceable};
use crate::spec::{AppSpec, Constraints, FlowSpec, Interface, Sink};

/// Places an app: hard constraints are satisfied, work that exists stays where it is unless it violates one or its
/// owner is dead, and the rest goes where the flows are predicted to be fastest, then least loaded, then first by name.
///
/// The same call repairs a placement: give it the fabric with the dead nodes marked and the assignments as they are.
///
/// # Errors
/// Names each constraint that no live node satisfies, with the nearest miss.
pub fn compile(spec: &AppSpec, fabric: &Fabric, existing: &[Assignment]) -> Result<Placement, Refusal> {
    let mut planner = Planner::new(spec, fabric, existing);
    planner.check_names();
    planner.refuse_if_findings()?;
    planner.place_device_streams();
    let flows = planner.flows_in_order();
    for (name, flow) in flows {
        planner.place_flow(name, flow);
    }
    planner.place_streams_left();
    planner.place_instances();
    planner.refuse_if_findings()?;
    Ok(planner.finish(existing))
}

/// A placement in the making.
#[derive(Debug)]
pub(crate) struct Planner<'a> {
    pub(crate) spec: &'a AppSpec,
    pub(crate) board: Board,
    pub(crate) kept: Kept,
    pub(crate) streams: BTreeMap<(StreamName, u32), PlacedWork>,
    pub(crate) stages: Vec<PlacedWork>,
    pub(crate) instances: Vec<PlacedFunction>,
    pub(crate) predictions: BTreeMap<FlowName, FlowPrediction>,
    pub(crate) findings: BTreeSet<Unplaceable>,
}

impl<'a> Planner<'a> {
    fn new(spec: &'a AppSpec, fabric: &Fabric, existing: &[Assignment]) -> Self {
        let mut board = Board::new(fabric, existing);
        let mut kept = Kept::find(spec, &mut board, existing);
        let findings = std::mem::take(&mut kept.findings).into_iter().collect();
        Self {
            spec,
            board,
            kept,
            streams: BTreeMap::new(),
            stages: Vec::new(),
            instances: Vec::new(),
            predictions: BTreeMap::new(),
            findings,
        }
    }

    fn refuse_if_findings(&self) -> Result<(), Refusal> {
        if self.findings.is_empty() {
            return Ok(());
        }
        Err(Refusal { findings: self.findings.iter().cloned().collect() })
    }

    /// The manifest's checks find dangling names with their lines; this keeps a spec made otherwise from being half
    /// placed.
    fn check_names(&mut self) {
        let mut missing: BTreeSet<(String, String)> = BTreeSet::new();
        let mut stream = |user: String, name: &StreamName| {
            if !self.spec.streams.contains_key(name) {
                missing.insert((user, format!("stream {name} to be declared")));
            }
        };
        for (name, flow) in &self.spec.flows {
            stream(format!("flow {name}"), &flow.source);
            for output in flow_outputs(flow) {
                stream(format!("flow {name}"), output);
            }
        }
        let functions = self.spec.functions.iter().map(|(name, f)| (format!("function {name}"), &f.placement));
        let streams = self.spec.streams.iter().map(|(name, s)| (format!("stream {name}"), &s.placement));
        for (user, placement) in functions.chain(streams) {
            if let Some(near) = &placement.near {
                stream(user, near);
            }
        }
        for (name, flow) in &self.spec.flows {
            let functions = chain_functions(flow);
            if functions.is_empty() {
                missing.insert((format!("flow {name}"), "a stage to be declared".to_owned()));
            }
            for function in functions.into_iter().filter(|function| !self.spec.functions.contains_key(*function)) {
                missing.insert((format!("flow {name}"), format!("function {function} to be declared")));
            }
        }
        self.findings.extend(missing.into_iter().map(|(what, constraint)| Unplaceable {
            what,
            constraint,
            nearest_miss: None,
        }));
    }

    /// Each flow after all that write its source.
    fn flows_in_order(&mut self) -> Vec<(&'a FlowName, &'a FlowSpec)> {
        let mut left: BTreeMap<&FlowName, &FlowSpec> = self.spec.flows.iter().collect();
        let mut ordered = Vec::new();
        while let Some((&name, &flow)) = left
            .iter()
            .find(|(_, flow)| !left.values().any(|other| flow_outputs(other).any(|output| *output == flow.source)))
        {
            left.remove(name);
            ordered.push((name, flow));
        }
        if let Some(name) = left.keys().next() {
            let constraint = "flows that do not feed one another in a circle".to_owned();
            self.findings.insert(Unplaceable { what: format!("flow {name}"), constraint, nearest_miss: None });
        }
        ordered
    }

    /// The HTTP functions, on every node that may serve them up to a bound: an idle one costs next to nothing, and a
    /// request that is served where it arrives crosses no link.
    fn place_instances(&mut self) {
        for (name, function) in self.spec.functions.iter().filter(|(_, f)| f.interface == Interface::Http) {
            let ask = Ask { placement: &function.placement, memory_bytes: function.memory_bytes, ack: None };
            let mut options = self.near(self.board.candidates(ask), &function.placement);
            if options.is_empty() {
                self.findings.insert(self.board.unplaceable(format!("function {name}"), ask));
            }
            options.sort_by_key(|spot| (self.board.queue_us(*spot), self.board.load(*spot), *spot));
            for spot in options.into_iter().take(INSTANCES_MAX) {
                self.board.take_memory(spot, function.memory_bytes);
                let Some(view) = self.board.view(spot) else { continue };
                let mut reasons = explain::satisfied(ask);
                reasons.extend(explain::excluded(&self.board, spot, ask));
                let (function, artifact) = (name.clone(), function.artifact.clone());
                self.instances.push(PlacedFunction { function, artifact, node: view.node.clone(), reasons });
            }
        }
    }

    fn finish(self, existing: &[Assignment]) -> Placement {
        let mut works: Vec<PlacedWork> = self.streams.into_values().chain(self.stages).collect();
        works.sort_by(|a, b| a.work.cmp(&b.work));
        let used: BTreeSet<&WorkId> = works.iter().map(|placed| &placed.work).collect();
        let own = existing.iter().map(|assignment| &assignment.work).filter(|work| work.app == self.spec.app);
        let retired: BTreeSet<WorkId> = own.filter(|work| !used.contains(work)).cloned().collect();
        Placement {
            app: self.spec.app.clone(),
            works,
            instances: self.instances,
            predictions: self.predictions.into_values().collect(),
            retired: retired.into_iter().collect(),
        }
    }

    /// Of `options` those that are near what the constraints name; all of them if they name nothing, or a stream that
    /// follows its writers.
    pub(crate) fn near(&self, options: Vec<usize>, placement: &Constraints) -> Vec<usize> {
        let Some(stream) = &placement.near else { return options };
        let placed = self.streams.iter().filter(|((name, _), _)| name == stream);
        let mut anchors: Vec<usize> = placed.filter_map(|(_, work)| self.board.spot(&work.owner)).collect();
        let kept = self.kept.streams.iter().filter(|((name, _), _)| name == stream);
        anchors.extend(kept.map(|(_, work)| work.spot));
        if anchors.is_empty()
            && let Some(spec) = self.spec.streams.get(stream).filter(|spec| !spec.placement.is_any())
        {
            anchors = self.board.candidates(Ask { placement: &spec.placement, memory_bytes: 0, ack: spec.ack });
        }
        self.board.nearest(options, &anchors)
    }

    /// Who holds the log of a work: as it is for one that stays, else as the rules for new ones say.
    pub(crate) fn holders(
        &mut self,
        kept: Option<&KeptWork>,
        spot: usize,
        ack: crate::Ack,
        requires: &Constraints,
    ) -> (Option<NodeId>, Vec<NodeId>) {
        let owner = self.board.view(spot).map(|view| view.node.clone());
        let replicas = match kept {
            Some(kept) => {
                let others = kept.replicas.iter().filter(|node| Some(*node) != owner.as_ref());
                owner.iter().chain(others).cloned().collect()
            }
            None => self.board.replicas(spot, ack, requires),
        };
        if kept.is_none_or(|kept| matches!(kept.how, How::Moved { .. })) {
            self.board.add_work(spot);
        }
        (owner, replicas)
    }
}

/// The streams that a flow writes.
pub(crate) fn flow_outputs(flow: &FlowSpec) -> impl Iterator<Item = &StreamName> {
    let sink = match &flow.sink {
        Some(Sink::Stream(stream)) => Some(stream),
        _ => None,
    };
    sink.into_iter().chain(flow.outputs.values()).chain(&flow.dead_letter)
}

/// How a work that stays came to be where it is, as a reason.
pub(crate) fn reason_of(how: &How) -> Reason {
    match how {
        How::Stays => Reason::Stays,
        How::Moved { from, because } => Reason::Moved { from: from.clone(), because: because.clone() },
        How::Waits => Reason::Waits,
    }
}
