//! Puts a placement together.
//!
//! The order: work that exists stays (`kept`); streams that devices write are laid on the devices (`streams`); flows
//! are placed one after another, each after those that write its source, a whole chain per partition (`flows`);
//! what streams are left, sources and sinks (`connectors`), the HTTP functions and their queues (`queues`) follow.

use std::collections::{BTreeMap, BTreeSet};

use littoral_model::id::{FlowName, FunctionName, NodeId, StreamName};
use littoral_model::work::{Assignment, WorkId};

use crate::INSTANCES_MAX;
use crate::board::{Ask, Board};
use crate::explain;
use crate::fabric::Fabric;
use crate::flows::chain_functions;
use crate::instances::Serving;
use crate::kept::{How, Kept, KeptWork};
use crate::objective::{REFERENCE_EXECUTION_US, Terms};
use crate::placement::{FlowPrediction, PlacedFunction, PlacedWork, Placement};
use crate::reason::Reason;
use crate::refusal::{NearestMiss, Refusal, Unplaceable};
use crate::spec::{AppSpec, Constraints, FlowSpec, FunctionSpec, Interface, Sink};
use crate::streams;

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
    planner.connect_rescaled();
    planner.place_streams_left();
    planner.place_connectors();
    planner.place_instances();
    planner.place_queues();
    planner.check_relations();
    planner.refuse_if_findings()?;
    Ok(planner.finish(existing))
}

/// A placement in the making.
#[derive(Debug)]
pub(crate) struct Planner<'a> {
    pub(crate) spec: &'a AppSpec,
    pub(crate) board: Board<'a>,
    pub(crate) kept: Kept,
    pub(crate) streams: BTreeMap<(StreamName, u32), PlacedWork>,
    pub(crate) stages: Vec<PlacedWork>,
    pub(crate) queues: Vec<PlacedWork>,
    pub(crate) connectors: Vec<PlacedWork>,
    pub(crate) instances: Vec<PlacedFunction>,
    pub(crate) predictions: BTreeMap<FlowName, FlowPrediction>,
    pub(crate) findings: BTreeSet<Unplaceable>,
    /// Where each function and each stream is so far.
    pub(crate) located: BTreeMap<String, BTreeSet<usize>>,
    pub(crate) nowhere: BTreeSet<usize>,
    serving: Vec<Serving>,
}

impl<'a> Planner<'a> {
    fn new(spec: &'a AppSpec, fabric: &'a Fabric, existing: &[Assignment]) -> Self {
        let mut board = Board::new(fabric, existing);
        let mut kept = Kept::find(spec, &mut board, existing);
        let findings = std::mem::take(&mut kept.findings).into_iter().collect();
        let mut planner = Self {
            spec,
            board,
            kept,
            streams: BTreeMap::new(),
            stages: Vec::new(),
            queues: Vec::new(),
            connectors: Vec::new(),
            instances: Vec::new(),
            predictions: BTreeMap::new(),
            findings,
            located: BTreeMap::new(),
            nowhere: BTreeSet::new(),
            serving: Vec::new(),
        };
        planner.locate_kept();
        planner
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
        for connector in &self.spec.connectors {
            stream(connector.title(), &connector.stream);
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
        missing.extend(self.unknown_relations());
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

    /// The HTTP functions, each after those that it must be with.
    fn place_instances(&mut self) {
        let is_http = |(_, function): &(&FunctionName, &FunctionSpec)| function.interface == Interface::Http;
        let mut left: BTreeMap<&FunctionName, &FunctionSpec> = self.spec.functions.iter().filter(is_http).collect();
        let waits = |function: &FunctionSpec, left: &BTreeMap<&FunctionName, &FunctionSpec>| {
            function.placement.affinity.iter().any(|with| left.keys().any(|name| name.as_str() == with.with))
        };
        while let Some((&name, &function)) =
            left.iter().find(|(_, function)| !waits(function, &left)).or_else(|| left.iter().next())
        {
            left.remove(name);
            self.place_function(name, function);
        }
        self.instances.sort_by(|a, b| a.function.cmp(&b.function));
        self.serving.sort_by(|a, b| a.function.cmp(&b.function));
    }

    /// An HTTP function, on every node that may serve it up to a bound: an idle one costs next to nothing, and a request
    /// that is served where it arrives crosses no link. Where more than the time is weighed, only on those that cost less
    /// than the detour to the best one that they save.
    fn place_function(&mut self, name: &'a FunctionName, function: &'a FunctionSpec) {
        let placement = &function.placement;
        let ask = Ask { placement, memory_bytes: function.memory_bytes, ack: None, has_copies: false };
        let nobody = BTreeSet::new();
        let options = self.related(name.as_str(), placement, self.board.candidates(ask), &nobody);
        let options = self.wished(options, placement);
        let weights = self.spec.objectives;
        let execution_us = function.execution_us.unwrap_or(REFERENCE_EXECUTION_US);
        let terms = |board: &Board<'_>, spot: usize| {
            Terms::latency(board.queue_us(spot)).and(board.execution(spot, execution_us))
        };
        let mut ranked: Vec<(bool, u64, u32, usize, Terms)> = options
            .into_iter()
            .map(|spot| {
                let terms = terms(&self.board, spot);
                let idle = !self.is_wanted_at(name.as_str(), spot);
                (idle, terms.score(weights), self.board.load(spot), spot, terms)
            })
            .collect();
        ranked.sort_unstable();
        let mut chosen: Vec<(usize, Terms)> = Vec::new();
        let mut passed: BTreeMap<usize, Terms> = BTreeMap::new();
        for (idle, score, _, spot, terms) in ranked {
            let detour = |(best, theirs): &(usize, Terms)| theirs.and(self.board.hop(spot, *best)).score(weights);
            let is_worth_it = !idle || chosen.first().is_none_or(|best| score <= detour(best));
            if chosen.len() < INSTANCES_MAX && is_worth_it && self.may_join(&chosen, spot, placement) {
                chosen.push((spot, terms));
            } else {
                passed.insert(spot, terms);
            }
        }
        let Some(&(_, best)) = chosen.first() else {
            self.findings.insert(self.nowhere(name.as_str(), ask, &nobody));
            return;
        };
        if !placement.spread.is_empty() && chosen.len() < 2 {
            self.findings.insert(self.unspread(name, placement, &chosen));
        }
        let mut first = Vec::new();
        for (position, (spot, _)) in chosen.iter().enumerate() {
            self.board.take_memory(*spot, function.memory_bytes);
            self.locate(name.as_str(), *spot);
            let Some(view) = self.board.view(*spot) else { continue };
            let mut reasons = explain::satisfied(ask);
            if position == 0 {
                reasons.extend(explain::measured(name, function));
                reasons.extend(explain::alternatives(&self.board, &passed, best, *spot, (weights, None, None)));
            }
            reasons.extend(explain::excluded(&self.board, *spot, ask));
            first.push(view.node.clone());
            let (function, artifact) = (name.clone(), function.artifact.clone());
            self.instances.push(PlacedFunction { function, artifact, node: view.node.clone(), reasons });
        }
        self.serving.push(Serving {
            function: name.clone(),
            artifact: function.artifact.clone(),
            requires: placement.clone(),
            memory_bytes: function.memory_bytes,
            wanted: u32::try_from(first.len()).unwrap_or(u32::MAX),
            first,
        });
    }

    /// Whether an instance may be there beside others: it shares nothing with them over which they are to be spread.
    fn may_join(&self, others: &[(usize, Terms)], spot: usize, placement: &Constraints) -> bool {
        let Some(view) = self.board.view(spot) else { return false };
        let others = others.iter().filter_map(|(other, _)| self.board.view(*other));
        others.into_iter().all(|other| placement.spreads(&other.situation, &view.situation))
    }

    /// The finding for a function that only one node could serve.
    fn unspread(&self, name: &FunctionName, placement: &Constraints, chosen: &[(usize, Terms)]) -> Unplaceable {
        let spread: Vec<String> = placement.spread.iter().map(ToString::to_string).collect();
        let node = chosen.first().and_then(|(spot, _)| self.board.view(*spot)).map(|view| view.node.clone());
        Unplaceable {
            what: format!("function {name}"),
            constraint: format!("spread={} (two nodes that share none of these)", spread.join("|")),
            nearest_miss: node.map(|node| NearestMiss {
                node,
                why: "would serve it alone: each other one is excluded or shares one".to_owned(),
            }),
        }
    }

    fn finish(self, existing: &[Assignment]) -> Placement {
        let works = self.streams.into_values().chain(self.stages).chain(self.queues).chain(self.connectors);
        let mut works: Vec<PlacedWork> = works.collect();
        works.sort_by(|a, b| a.work.cmp(&b.work));
        let used: BTreeSet<&WorkId> = works.iter().map(|placed| &placed.work).collect();
        let own = existing.iter().map(|assignment| &assignment.work).filter(|work| work.app == self.spec.app);
        // What a keeper assigns for itself, as who serves a singleton, is in no placement and not to be forgotten for that.
        let own = own.filter(|work| !work.name.starts_with('~'));
        let retired: BTreeSet<WorkId> = own.filter(|work| !used.contains(work)).cloned().collect();
        Placement {
            app: self.spec.app.clone(),
            works,
            instances: self.instances,
            serving: self.serving,
            predictions: self.predictions.into_values().collect(),
            retired: retired.into_iter().collect(),
        }
    }

    /// Of `options` those on the preferred tier, if there are any, and of these those near what the constraints name.
    pub(crate) fn wished(&self, options: Vec<usize>, placement: &Constraints) -> Vec<usize> {
        let is_preferred = |spot: &usize| self.board.view(*spot).map(|view| view.tier) == placement.prefer;
        let preferred: Vec<usize> = options.iter().copied().filter(is_preferred).collect();
        self.near(if preferred.is_empty() { options } else { preferred }, placement)
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
            anchors = self.board.candidates(streams::ask(spec));
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
