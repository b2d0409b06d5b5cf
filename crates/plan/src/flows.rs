//! Places a flow: for each partition of its source, the whole chain from the source over the stages to the sink.

use std::collections::BTreeMap;

use littoral_model::entry::{PORT_DEAD_LETTER, PORT_MAIN};
use littoral_model::id::{FlowName, FunctionName, NodeId, StreamName};
use littoral_model::work::{WorkId, WorkKind};

use crate::board::Ask;
use crate::chain::{self, Choice, Join, Layer, NoWay, Solution};
use crate::compile::{Planner, reason_of};
use crate::explain;
use crate::kept::KeptWork;
use crate::links::Basis;
use crate::placement::{FlowPrediction, Hop, PlacedWork, Role, Source, StageFunction, Step};
use crate::reason::Reason;
use crate::refusal::Unplaceable;
use crate::spec::{Constraints, FlowSpec, FunctionSpec, Sink};
use crate::streams::{ask as ask_stream, is_free};

/// What a record is taken to cost a function of which nothing was declared or measured, in microseconds: several times
/// what the guests of our examples need.
const EXECUTION_US: u64 = 200;

/// The functions of a flow, in order; a sink that is a function runs as the last stage.
pub(crate) fn chain_functions(flow: &FlowSpec) -> Vec<&FunctionName> {
    let sink = match &flow.sink {
        Some(Sink::Function(function)) => Some(function),
        _ => None,
    };
    flow.stages.iter().chain(sink).collect()
}

/// One partition of a flow that is being placed.
#[derive(Clone, Copy)]
struct Chain<'f> {
    name: &'f FlowName,
    flow: &'f FlowSpec,
    partition: u32,
}

/// Consecutive stages on one node.
struct Group<'f> {
    first: usize,
    spot: usize,
    functions: Vec<(&'f FunctionName, &'f FunctionSpec)>,
}

impl<'a> Planner<'a> {
    /// Places all partitions of a flow, one after another; each sees the load of those before.
    pub(crate) fn place_flow(&mut self, name: &'a FlowName, flow: &'a FlowSpec) {
        for partition in 0..self.partitions(&flow.source) {
            let chain = Chain { name, flow, partition };
            let Some(layers) = self.layers(chain) else { return };
            let board = &self.board;
            match chain::optimum(&layers, &|a, b| board.hop_us(a, b), &|spot| board.free_bytes(spot)) {
                Ok(solution) => {
                    self.predict(chain, &layers, &solution);
                    self.lay_chain(chain, &layers, &solution);
                }
                Err(reason) => {
                    let constraint = match reason {
                        NoWay::Memory => "the memory that all its functions need together",
                        NoWay::Apart => "that its sink is beside its last stage",
                    };
                    let what = format!("flow {name}, partition {partition}");
                    self.findings.insert(Unplaceable { what, constraint: constraint.to_owned(), nearest_miss: None });
                }
            }
        }
    }

    /// The layers of a chain: source, stages, sink. None if one of them can be nowhere; that is then a finding.
    fn layers(&mut self, chain: Chain<'a>) -> Option<Vec<Layer>> {
        let flow = chain.flow;
        let source = self.stream_layer(&flow.source, chain.partition);
        let mut layers = vec![source];
        for (at, function) in chain_functions(flow).into_iter().enumerate() {
            layers.push(self.stage_layer(chain, at, function));
        }
        if let Some(Sink::Stream(sink)) = &flow.sink {
            layers.push(self.sink_layer(sink, chain.partition, layers.last()?.as_ref()));
        }
        layers.into_iter().collect()
    }

    fn stream_layer(&mut self, name: &StreamName, partition: u32) -> Option<Layer> {
        let stream = self.spec.streams.get(name)?;
        let commit = |spot| {
            let ack = self.board.effective_ack(spot, stream.ack, &stream.placement);
            self.board.commit_us(spot, ack, &stream.placement)
        };
        let options: Vec<Choice> = match self.fixed_spot(name, partition) {
            Some(spot) => vec![Choice { spot, enter_us: commit(spot), execute_us: 0, load: 0 }],
            None => {
                let spots = self.near(self.board.candidates(ask_stream(stream)), &stream.placement);
                let choice = |spot| Choice {
                    spot,
                    enter_us: commit(spot).saturating_add(self.board.queue_us(spot)),
                    execute_us: 0,
                    load: u64::from(self.board.load(spot)),
                };
                spots.into_iter().map(choice).collect()
            }
        };
        if options.is_empty() {
            self.findings.insert(self.board.unplaceable(format!("stream {name}"), ask_stream(stream)));
            return None;
        }
        Some(Layer { options, join: Join::Separate, memory_bytes: 0 })
    }

    /// A sink without constraints is beside the last stage.
    fn sink_layer(&mut self, name: &StreamName, flow_partition: u32, last: Option<&Layer>) -> Option<Layer> {
        let partition = flow_partition.checked_rem(self.partitions(name)).unwrap_or_default();
        let stream = self.spec.streams.get(name)?;
        if self.fixed_spot(name, partition).is_some() || !is_free(stream) {
            return self.stream_layer(name, partition);
        }
        let beside = |option: &Choice| {
            let ack = self.board.effective_ack(option.spot, stream.ack, &stream.placement);
            let enter_us = self.board.commit_us(option.spot, ack, &stream.placement);
            Choice { spot: option.spot, enter_us, execute_us: 0, load: 0 }
        };
        let options = last?.options.iter().map(beside).collect();
        Some(Layer { options, join: Join::Beside, memory_bytes: 0 })
    }

    fn stage_layer(&mut self, chain: Chain<'_>, at: usize, name: &FunctionName) -> Option<Layer> {
        let function = self.spec.functions.get(name)?;
        let choice = |spot| {
            let ack = self.board.effective_ack(spot, None, &function.placement);
            let commit_us = self.board.commit_us(spot, ack, &function.placement);
            Choice {
                spot,
                enter_us: commit_us.saturating_add(self.board.queue_us(spot)),
                execute_us: function.execution_us.unwrap_or(EXECUTION_US),
                load: u64::from(self.board.load(spot)),
            }
        };
        if let Some(kept) = self.kept_stage(chain, at) {
            let begins = kept.work.name == stage_name(chain.name, at);
            let join = if at == 0 || begins { Join::Separate } else { Join::MayFuse };
            return Some(Layer { options: vec![choice(kept.spot)], join, memory_bytes: 0 });
        }
        let ask = Ask { placement: &function.placement, memory_bytes: function.memory_bytes, ack: None };
        let spots = self.near(self.board.candidates(ask), &function.placement);
        if spots.is_empty() {
            self.findings.insert(self.board.unplaceable(format!("function {name}"), ask));
            return None;
        }
        let join = if at == 0 { Join::Separate } else { Join::MayFuse };
        Some(Layer { options: spots.into_iter().map(choice).collect(), join, memory_bytes: function.memory_bytes })
    }

    /// Lays everything of a chain where the solution says.
    fn lay_chain(&mut self, chain: Chain<'a>, layers: &[Layer], solution: &Solution) -> Option<()> {
        let flow = chain.flow;
        let source_spot = *solution.way.spots.first()?;
        let source_reasons = self.alternatives(solution, 0, None);
        let mut input = Source {
            work: self.lay_stream(&flow.source, chain.partition, source_spot, source_reasons)?,
            port: PORT_MAIN.to_owned(),
        };
        let mut input_spot = source_spot;
        let groups = self.groups(flow, layers, solution);
        let count = groups.len();
        let first_spot = groups.first()?.spot;
        let mut works = Vec::new();
        for (position, group) in groups.into_iter().enumerate() {
            let is_last = position + 1 == count;
            let spot = group.spot;
            let work = self.lay_stage(chain, group, input, input_spot, is_last, solution)?;
            input = Source { work: work.clone(), port: PORT_MAIN.to_owned() };
            input_spot = spot;
            works.push(work);
        }
        let writer = chain.name.as_str();
        if let Some(Sink::Stream(sink)) = &flow.sink {
            let partition = chain.partition.checked_rem(self.partitions(sink)).unwrap_or_default();
            let at = layers.len().checked_sub(1)?;
            let spot = *solution.way.spots.last()?;
            let mut reasons: Vec<Reason> = match layers.last()?.join {
                Join::Beside => vec![Reason::Beside { writer: writer.to_owned() }],
                _ => explain::near(&self.board, input_spot, spot).into_iter().collect(),
            };
            reasons.extend(self.alternatives(solution, at, None));
            self.lay_stream(sink, partition, spot, reasons)?;
            self.connect(sink, partition, input);
        }
        let sides = flow.outputs.iter().map(|(port, stream)| (port.as_str(), stream, input_spot));
        let rejected = flow.dead_letter.iter().map(|stream| (PORT_DEAD_LETTER, stream, first_spot));
        for (port, stream, spot) in sides.chain(rejected) {
            let partition = chain.partition.checked_rem(self.partitions(stream)).unwrap_or_default();
            self.lay_output(stream, partition, spot, writer)?;
            for work in &works {
                self.connect(stream, partition, Source { work: work.clone(), port: port.to_owned() });
            }
        }
        Some(())
    }

    /// The stages of a chain that are one unit of work each.
    fn groups(&self, flow: &'a FlowSpec, layers: &[Layer], solution: &Solution) -> Vec<Group<'a>> {
        let mut groups: Vec<Group<'a>> = Vec::new();
        let stages = layers.iter().zip(&solution.way.spots).skip(1);
        for (at, (name, (layer, &spot))) in chain_functions(flow).into_iter().zip(stages).enumerate() {
            let Some(function) = self.spec.functions.get(name) else { continue };
            match groups.last_mut() {
                Some(group) if layer.join == Join::MayFuse && group.spot == spot => {
                    group.functions.push((name, function));
                }
                _ => groups.push(Group { first: at, spot, functions: vec![(name, function)] }),
            }
        }
        groups
    }

    fn lay_stage(
        &mut self,
        chain: Chain<'a>,
        group: Group<'a>,
        input: Source,
        input_spot: usize,
        is_last: bool,
        solution: &Solution,
    ) -> Option<WorkId> {
        let Group { first, spot, functions } = group;
        let work = WorkId {
            app: self.spec.app.clone(),
            kind: WorkKind::Stage,
            name: stage_name(chain.name, first),
            partition: chain.partition,
            site: self.board.view(spot)?.site.clone(),
        };
        let requires = functions.iter().try_fold(Constraints::any(), |all, (_, f)| all.and(&f.placement));
        // Contradictory constraints end here only where a work waits for its dead owner; nothing is then asked of it.
        let requires = requires.unwrap_or_default();
        let kept = self.kept_stage(chain, first).filter(|kept| kept.work == work).cloned();
        let ack = self.board.effective_ack(spot, None, &requires);
        let (owner, replicas) = self.holders(kept.as_ref(), spot, ack, &requires);
        for (at, (_, function)) in functions.iter().enumerate() {
            if self.kept_stage(chain, first + at).is_none() {
                self.board.take_memory(spot, function.memory_bytes);
            }
        }
        let reasons = self.stage_reasons(chain, first, &functions, kept.as_ref(), (input_spot, spot), solution);
        let mut outputs: BTreeMap<String, StreamName> = chain.flow.outputs.clone();
        outputs.extend(chain.flow.dead_letter.clone().map(|stream| (PORT_DEAD_LETTER.to_owned(), stream)));
        if let (true, Some(Sink::Stream(sink))) = (is_last, &chain.flow.sink) {
            outputs.insert(PORT_MAIN.to_owned(), sink.clone());
        }
        let stage = |(name, f): &(&FunctionName, &FunctionSpec)| StageFunction {
            function: (*name).clone(),
            artifact: f.artifact.clone(),
        };
        self.stages.push(PlacedWork {
            work: work.clone(),
            owner: owner?,
            replicas,
            ack,
            role: Role::Stage {
                flow: chain.name.clone(),
                functions: functions.iter().map(stage).collect(),
                input,
                outputs,
            },
            requires,
            memory_bytes: functions.iter().map(|(_, f)| f.memory_bytes).fold(0, u64::saturating_add),
            reasons,
        });
        Some(work)
    }

    fn stage_reasons(
        &self,
        chain: Chain<'_>,
        first: usize,
        functions: &[(&FunctionName, &FunctionSpec)],
        kept: Option<&KeptWork>,
        (input_spot, spot): (usize, usize),
        solution: &Solution,
    ) -> Vec<Reason> {
        let mut reasons: Vec<Reason> = kept.iter().map(|kept| reason_of(&kept.how)).collect();
        let lost = (first..first + functions.len())
            .filter_map(|at| self.kept.replaced.get(&(chain.name.clone(), chain.partition, at)));
        reasons.extend(lost.map(|(from, because)| Reason::Replaced { from: from.clone(), because: because.clone() }));
        let asks = functions.iter().map(|(_, f)| Ask { placement: &f.placement, memory_bytes: 0, ack: None });
        if self.board.is_alive(spot) {
            reasons.extend(asks.clone().flat_map(explain::satisfied));
        }
        reasons.extend(explain::near(&self.board, input_spot, spot));
        if functions.len() > 1 {
            let functions = functions.iter().map(|(name, _)| (*name).clone()).collect();
            reasons.push(Reason::Fused { functions });
        }
        // A node is named once, with the function that would be the cheapest to have there.
        let mut others: BTreeMap<NodeId, (u64, Reason)> = BTreeMap::new();
        for (at, (name, _)) in functions.iter().enumerate() {
            for reason in self.alternatives(solution, first + at + 1, Some(name)) {
                let Reason::Alternative { node, slower_us, .. } = &reason else { continue };
                if others.get(node).is_none_or(|(other_us, _)| other_us > slower_us) {
                    others.insert(node.clone(), (*slower_us, reason));
                }
            }
        }
        reasons.extend(others.into_values().map(|(_, reason)| reason));
        if kept.is_none() {
            reasons.extend(asks.flat_map(|ask| explain::excluded(&self.board, spot, ask)));
        }
        let mut unique: Vec<Reason> = Vec::new();
        for reason in reasons {
            if !unique.contains(&reason) {
                unique.push(reason);
            }
        }
        unique
    }

    fn alternatives(&self, solution: &Solution, layer: usize, function: Option<&FunctionName>) -> Vec<Reason> {
        match (solution.through_us.get(layer), solution.way.spots.get(layer)) {
            (Some(through_us), Some(&chosen)) => {
                explain::alternatives(&self.board, through_us, solution.way.latency_us, chosen, function)
            }
            _ => Vec::new(),
        }
    }

    /// Notes what the chain is expected to take, if it is the flow's slowest so far.
    fn predict(&mut self, chain: Chain<'a>, layers: &[Layer], solution: &Solution) {
        let functions = chain_functions(chain.flow);
        let mut hops = Vec::new();
        let mut before: Option<usize> = None;
        for (at, (layer, &spot)) in layers.iter().zip(&solution.way.spots).enumerate() {
            let Some(node) = self.board.view(spot).map(|view| view.node.clone()) else { continue };
            let Some(choice) = layer.options.iter().find(|option| option.spot == spot) else { continue };
            let link = before.map(|from| (from, self.board.link(from, spot)));
            let fused = layer.join == Join::MayFuse && before == Some(spot);
            if let Some((from, link)) = link
                && link.basis != Basis::SameNode
                && let Some(from_view) = self.board.view(from)
            {
                let step = Step::Link { from: from_view.node.clone(), rtt_us: link.rtt_us, basis: link.basis };
                hops.push(Hop { step, node: node.clone(), p95_us: self.board.hop_us(from, spot) });
            }
            if let Some(function) = at.checked_sub(1).and_then(|stage| functions.get(stage)) {
                let step = Step::Execute { function: (*function).clone() };
                hops.push(Hop { step, node: node.clone(), p95_us: choice.execute_us });
            }
            if !fused {
                hops.push(Hop { step: Step::Commit, node, p95_us: choice.enter_us });
            }
            before = Some(spot);
        }
        let p95_us = solution.way.latency_us;
        let slo_us = chain.flow.slo_us;
        let prediction = FlowPrediction {
            flow: chain.name.clone(),
            partition: chain.partition,
            p95_us,
            hops,
            slo_us,
            within_slo: slo_us.is_none_or(|slo| p95_us <= slo),
        };
        let slowest = self.predictions.get(chain.name);
        if slowest.is_none_or(|other| other.p95_us < p95_us) {
            self.predictions.insert(chain.name.clone(), prediction);
        }
    }

    fn kept_stage(&self, chain: Chain<'_>, at: usize) -> Option<&KeptWork> {
        self.kept.stages.get(&(chain.name.clone(), chain.partition))?.get(&at)
    }
}

/// The name of the work that begins with the stage at that position.
fn stage_name(flow: &FlowName, first: usize) -> String {
    format!("{flow}.{first}")
}
