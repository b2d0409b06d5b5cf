//! Places a flow: for each partition of its source, the whole chain from the source over the stages to the sink.

use std::collections::{BTreeMap, BTreeSet};

use littoral_model::entry::{PORT_CHANGES, PORT_DEAD_LETTER, PORT_MAIN, handover_port, partition_port};
use littoral_model::id::{FlowName, FunctionName, NodeId, StreamName, Tier};
use littoral_model::manifest::Partitioning;
use littoral_model::unit::Bandwidth;
use littoral_model::work::{WorkId, WorkKind};

use crate::board::Ask;
use crate::chain::{self, Choice, Join, Layer, NoWay, Pair, Rules, Solution};
use crate::compile::{Planner, reason_of};
use crate::explain;
use crate::kept::KeptWork;
use crate::links::Basis;
use crate::objective::REFERENCE_EXECUTION_US;
use crate::placement::{FlowPrediction, Hop, PlacedWork, Rescaling, Role, Source, StageFunction, Step};
use crate::reason::{Milliseconds, Reason};
use crate::refusal::{NearestMiss, Unplaceable};
use crate::spec::{Constraints, FlowSpec, FunctionSpec, SAME_PERMILLE, Sink};
use crate::streams::{STORE_US, ask as ask_stream, is_free};
use crate::traffic::Share;

/// The most bytes that are left, for a thousand, where most is left out.
const MOSTLY_LEFT_OUT_PERMILLE: u32 = 500;

/// The functions of a flow, in order; a sink that is a function runs as the last stage.
pub(crate) fn chain_functions(flow: &FlowSpec) -> Vec<&FunctionName> {
    let sink = match &flow.sink {
        Some(Sink::Function(function)) => Some(function),
        _ => None,
    };
    flow.stages.iter().chain(sink).collect()
}

/// The names of a chain's layers: its source, its functions, its sink.
fn layer_names(flow: &FlowSpec) -> Vec<&str> {
    let sink = match &flow.sink {
        Some(Sink::Stream(stream)) => Some(stream.as_str()),
        _ => None,
    };
    let functions = chain_functions(flow).into_iter().map(FunctionName::as_str);
    std::iter::once(flow.source.as_str()).chain(functions).chain(sink).collect()
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
        if let Some(divided) = self.divided(name, flow) {
            self.findings.insert(divided);
            return;
        }
        let mut ends = Vec::new();
        for partition in 0..self.partitions(&flow.source) {
            let chain = Chain { name, flow, partition };
            let Some(layers) = self.layers(chain) else { return };
            let board = &self.board;
            let pairs = self.pairs(chain, &layers);
            let rate_bps = self.spec.rate_bps(name);
            // What runs already goes on as it can.
            let asked_bps = rate_bps.filter(|_| layers.iter().skip(1).all(|layer| !layer.stays));
            let carries = |a: usize, b: usize, share: Share| {
                asked_bps.is_none_or(|bps| board.spare_bps(a, b).is_none_or(|spare| spare >= share.of(bps)))
            };
            let rules = Rules {
                hop: &|a, b, share| carries(a, b, share).then(|| board.hop_of(a, b, share)),
                free_bytes: &|spot| board.free_bytes(spot),
                together: &|scope, a, b| board.together(scope, a, b),
                pairs: &pairs,
                objectives: self.spec.objectives,
            };
            match chain::optimum_within(&layers, &rules, flow.slo_us) {
                Ok(solution) => {
                    let prediction = self.predict(chain, &layers, &solution);
                    self.findings.extend(self.infeasible(chain, &layers, &prediction));
                    self.note(prediction);
                    self.promise(&layers, &solution, rate_bps);
                    ends.extend(self.lay_chain(chain, &layers, &solution));
                }
                Err(reason) => {
                    let unbounded = Rules { hop: &|a, b, share| Some(board.hop_of(a, b, share)), ..rules };
                    if let (NoWay::Apart, Some(bps), Ok(way)) = (reason, asked_bps, chain::optimum(&layers, &unbounded))
                    {
                        self.findings.insert(self.too_narrow(chain, &way, bps));
                        continue;
                    }
                    let constraint = match reason {
                        NoWay::Memory => "the memory that all its functions need together".to_owned(),
                        NoWay::Apart => "that its sink is beside its last stage".to_owned(),
                        NoWay::Pair(pair) => {
                            let names = layer_names(flow);
                            let name = |layer: usize| names.get(layer).copied().unwrap_or_default();
                            let relation = if pair.apart { "apart" } else { "together" };
                            let (one, other) = (name(pair.one), name(pair.other));
                            format!("{one} and {other} to be {relation} ({})", pair.scope)
                        }
                    };
                    let what = format!("flow {name}, partition {partition}");
                    self.findings.insert(Unplaceable { what, constraint, nearest_miss: None });
                }
            }
        }
        if let (true, Some(Sink::Stream(sink))) = (self.goes_by_key(flow), &flow.sink) {
            self.connect_by_key(name, sink, &ends);
        }
    }

    /// Lets each partition of a stream take in its rows of all chains, whose last stages these are and where they run.
    fn connect_by_key(&mut self, name: &FlowName, sink: &StreamName, ends: &[(WorkId, usize)]) {
        for (partition, (_, spot)) in (0..self.partitions(sink)).zip(ends.iter().cycle()) {
            // It lies somewhere already, but for those beyond the number of chains.
            let laid = self.lay_output(sink, partition, *spot, name.as_str());
            for (work, _) in ends.iter().filter(|_| laid.is_some()) {
                self.connect(sink, partition, Source { work: work.clone(), port: partition_port(partition) });
            }
        }
    }

    /// Where the number of partitions by key changes, or has changed, connects the stages of all partitions with one another: the first of
    /// those with key groups announces it to those that spread rows, and each hands over to each.
    pub(crate) fn connect_rescaled(&mut self) {
        let is_keyed = |name: &StreamName| {
            let flows = self.spec.flows.values().filter(|flow| flow.sink == Some(Sink::Stream(name.clone())));
            flows.into_iter().any(|flow| self.goes_by_key(flow))
        };
        let rescaled = self.spec.streams.iter().filter(|(name, _)| is_keyed(name));
        let rescaled: Vec<_> = rescaled.filter_map(|(name, stream)| Some((name, stream.before?.first))).collect();
        for (stream, first) in rescaled {
            let reads = |placed: &PlacedWork| {
                matches!(&placed.role, Role::Stage { input, .. }
                    if input.work.kind == WorkKind::Stream && input.work.name == stream.as_str())
            };
            let keyed: Vec<WorkId> =
                self.stages.iter().filter(|placed| reads(placed)).map(|placed| placed.work.clone()).collect();
            let Some(announces) = keyed.iter().find(|work| work.partition == 0) else { continue };
            let most = self.partitions(stream);
            let changes = Source { work: announces.clone(), port: PORT_CHANGES.to_owned() };
            for placed in &mut self.stages {
                let Role::Stage { input, outputs, rescaling, .. } = &mut placed.role else { continue };
                let has_groups = input.work.kind == WorkKind::Stream && input.work.name == stream.as_str();
                let spreads = outputs.get(&partition_port(0)) == Some(stream);
                if has_groups || spreads {
                    let changes = Some(changes.clone()).filter(|_| spreads);
                    *rescaling = Some(Box::new(Rescaling { first, most, changes }));
                }
            }
            for partition in 0..most {
                for work in &keyed {
                    self.connect(stream, partition, Source { work: work.clone(), port: handover_port(partition) });
                }
            }
        }
    }

    /// Whether the last stage of a flow puts out rows for each partition of its sink.
    fn goes_by_key(&self, flow: &FlowSpec) -> bool {
        let last = flow.stages.last().and_then(|stage| self.spec.functions.get(stage));
        last.is_some_and(|function| matches!(function.partitioning, Partitioning::ByKey(_)))
    }

    /// The finding for a flow whose source has other partitions than its rows are grouped from.
    fn divided(&self, name: &FlowName, flow: &FlowSpec) -> Option<Unplaceable> {
        let (source, partitions) = (&flow.source, self.partitions(&flow.source));
        let constraint = flow.stages.iter().find_map(|stage| match self.spec.functions.get(stage)?.partitioning {
            Partitioning::Single if partitions > 1 => Some(format!(
                "all rows of {source} in one partition, for {stage} groups them; it has {partitions}, and a stream never has fewer than it had: gather it by a flow, or give it another name"
            )),
            Partitioning::ByKey(wanted) if partitions != wanted => Some(format!(
                "{source} in {wanted} partitions, for {stage} waits for so many; it has {partitions}, and a stream never has fewer than it had: say PARTITIONS {partitions}, or give it another name"
            )),
            _ => None,
        });
        Some(Unplaceable { what: format!("flow {name}"), constraint: constraint?, nearest_miss: None })
    }

    /// Takes what a chain needs of the links on its way.
    fn promise(&mut self, layers: &[Layer], solution: &Solution, rate_bps: Option<u64>) {
        let spots = &solution.way.spots;
        for (layer, (from, to)) in layers.iter().zip(spots.iter().zip(spots.iter().skip(1))) {
            self.board.promise(*from, *to, layer.share.of(rate_bps.unwrap_or_default()));
        }
    }

    /// The finding for a chain for which the links have too little left: the narrowest one of the way that would else be the
    /// best.
    fn too_narrow(&self, chain: Chain<'a>, best: &Solution, bps: u64) -> Unplaceable {
        let spots = &best.way.spots;
        let links = spots.iter().zip(spots.iter().skip(1)).filter(|(from, to)| from != to);
        let spare = links.filter_map(|(from, to)| Some((self.board.spare_bps(*from, *to)?, *from, *to)));
        let nearest_miss = spare.min().and_then(|(spare, from, to)| {
            let (from, to) = (self.board.view(from)?, self.board.view(to)?);
            let why = format!("has {} left of its link from {}", Bandwidth::from_bits_per_second(spare), from.node);
            Some(NearestMiss { node: to.node.clone(), why })
        });
        Unplaceable {
            what: format!("flow {}, partition {}", chain.name, chain.partition),
            constraint: format!(
                "rate={} of {} on each link of its way",
                Bandwidth::from_bits_per_second(bps),
                chain.flow.source
            ),
            nearest_miss,
        }
    }

    /// The layers of a chain: source, stages, sink. None if one of them can be nowhere; that is then a finding.
    fn layers(&mut self, chain: Chain<'a>) -> Option<Vec<Layer>> {
        let flow = chain.flow;
        let source = self.stream_layer(chain, &flow.source, chain.partition);
        let mut layers = vec![source];
        for (at, function) in chain_functions(flow).into_iter().enumerate() {
            layers.push(self.stage_layer(chain, at, function));
        }
        if let Some(Sink::Stream(sink)) = &flow.sink {
            layers.push(self.sink_layer(chain, sink, layers.last()?.as_ref()));
        }
        let mut layers: Vec<Layer> = layers.into_iter().collect::<Option<_>>()?;
        let puts_out = |function| self.spec.functions.get(function).map_or(SAME_PERMILLE, |f| f.output_permille);
        let mut share = Share::ALL;
        let mut functions = chain_functions(flow).into_iter();
        for layer in layers.iter_mut().skip(1) {
            share = functions.next().map_or(share, |function| share.behind(puts_out(function)));
            layer.share = share;
        }
        Some(layers)
    }

    /// Which layers must be together or apart. Two that stay where they are cannot be brought there.
    fn pairs(&self, chain: Chain<'a>, layers: &[Layer]) -> Vec<Pair> {
        let names = layer_names(chain.flow);
        let stays = |layer: usize| layers.get(layer).is_some_and(|layer| layer.stays);
        let mut pairs = Vec::new();
        for (one, name) in names.iter().enumerate() {
            let Some(placement) = self.constraints_of(name) else { continue };
            let together = placement.affinity.iter().map(|affinity| (affinity, false));
            for (affinity, apart) in together.chain(placement.anti_affinity.iter().map(|affinity| (affinity, true))) {
                let others = names.iter().enumerate().filter(|(_, name)| **name == affinity.with);
                let others = others.filter(|(other, _)| !(stays(one) && stays(*other)));
                pairs.extend(others.map(|(other, _)| Pair { one, other, scope: affinity.scope, apart }));
            }
        }
        pairs
    }

    fn constraints_of(&self, name: &str) -> Option<&'a Constraints> {
        let function = self.spec.functions.iter().find(|(function, _)| function.as_str() == name);
        let stream = self.spec.streams.iter().find(|(stream, _)| stream.as_str() == name);
        function.map(|(_, function)| &function.placement).or_else(|| stream.map(|(_, stream)| &stream.placement))
    }

    fn stream_layer(&mut self, chain: Chain<'a>, name: &StreamName, partition: u32) -> Option<Layer> {
        let stream = self.spec.streams.get(name)?;
        let commit = |spot| {
            let ack = self.board.effective_ack(spot, stream.ack, &stream.placement);
            self.board.commit_us(spot, ack, &stream.placement)
        };
        let options: Vec<Choice> = match self.fixed_spot(name, partition) {
            Some(spot) => {
                let terms = self.board.execution(spot, STORE_US);
                vec![Choice { spot, enter_us: commit(spot), execute_us: 0, load: 0, terms }]
            }
            None => {
                let names = layer_names(chain.flow).into_iter().collect();
                let options = self.board.candidates(ask_stream(stream));
                let options = self.related(name.as_str(), &stream.placement, options, &names);
                let spots = self.wished(options, &stream.placement);
                let choice = |spot| Choice {
                    spot,
                    enter_us: commit(spot).saturating_add(self.board.queue_us(spot)),
                    execute_us: 0,
                    load: u64::from(self.board.load(spot)),
                    terms: self.board.execution(spot, STORE_US),
                };
                spots.into_iter().map(choice).collect()
            }
        };
        if options.is_empty() {
            let names = layer_names(chain.flow).into_iter().collect();
            self.findings.insert(self.nowhere(name.as_str(), ask_stream(stream), &names));
            return None;
        }
        let stays = self.fixed_spot(name, partition).is_some();
        Some(Layer { options, join: Join::Separate, memory_bytes: 0, stays, share: Share::ALL })
    }

    /// A sink without constraints is beside the last stage.
    fn sink_layer(&mut self, chain: Chain<'a>, name: &StreamName, last: Option<&Layer>) -> Option<Layer> {
        let partition = chain.partition.checked_rem(self.partitions(name)).unwrap_or_default();
        let stream = self.spec.streams.get(name)?;
        if self.fixed_spot(name, partition).is_some() || !is_free(stream) {
            return self.stream_layer(chain, name, partition);
        }
        let beside = |option: &Choice| {
            let ack = self.board.effective_ack(option.spot, stream.ack, &stream.placement);
            let enter_us = self.board.commit_us(option.spot, ack, &stream.placement);
            let terms = self.board.execution(option.spot, STORE_US);
            Choice { spot: option.spot, enter_us, execute_us: 0, load: 0, terms }
        };
        let names = layer_names(chain.flow).into_iter().collect();
        let may = |option: &&Choice| self.unrelated(name.as_str(), &stream.placement, option.spot, &names).is_empty();
        let options = last?.options.iter().filter(may).map(beside).collect();
        Some(Layer { options, join: Join::Beside, memory_bytes: 0, stays: false, share: Share::ALL })
    }

    /// The nodes on which a chain's source is or may come to be, if something else than the chain says so and none is a device: these keep
    /// a single copy of what they know. None otherwise.
    fn decided(&self, chain: Chain<'_>) -> Option<Vec<usize>> {
        let source = self.spec.streams.get(&chain.flow.source)?;
        let spots = match self.fixed_spot(&chain.flow.source, chain.partition) {
            Some(spot) => vec![spot],
            None if is_free(source) => return None,
            None => self.board.candidates(ask_stream(source)),
        };
        let is_device = |spot: &usize| self.board.view(*spot).is_none_or(|view| view.tier == Tier::Device);
        (!spots.is_empty() && !spots.iter().any(is_device)).then_some(spots)
    }

    /// Of `options` those in the sites of some nodes, no devices among them.
    fn in_sites_of(&self, spots: &[usize], options: &[usize]) -> Vec<usize> {
        let sites: BTreeSet<_> = spots.iter().filter_map(|spot| Some(&self.board.view(*spot)?.site)).collect();
        let is_there = |spot: &usize| {
            self.board.view(*spot).is_some_and(|view| view.tier != Tier::Device && sites.contains(&view.site))
        };
        options.iter().copied().filter(is_there).collect()
    }

    fn stage_layer(&mut self, chain: Chain<'_>, at: usize, name: &FunctionName) -> Option<Layer> {
        let function = self.spec.functions.get(name)?;
        let execution_us = function.execution_us.unwrap_or(REFERENCE_EXECUTION_US);
        let choice = |spot| {
            let ack = self.board.effective_ack(spot, None, &function.placement);
            let commit_us = self.board.commit_us(spot, ack, &function.placement);
            Choice {
                spot,
                enter_us: commit_us.saturating_add(self.board.queue_us(spot)),
                execute_us: execution_us,
                load: u64::from(self.board.load(spot)),
                terms: self.board.execution(spot, execution_us),
            }
        };
        if let Some(kept) = self.kept_stage(chain, at) {
            let begins = kept.work.name == stage_name(chain.name, at);
            let join = if at == 0 || begins { Join::Separate } else { Join::MayFuse };
            return Some(Layer {
                options: vec![choice(kept.spot)],
                join,
                memory_bytes: 0,
                stays: true,
                share: Share::ALL,
            });
        }
        let placement = &function.placement;
        let ask = Ask { placement, memory_bytes: function.memory_bytes, ack: None, has_copies: true };
        let names = layer_names(chain.flow).into_iter().collect();
        let options = self.related(name.as_str(), placement, self.board.candidates(ask), &names);
        // What spreads rows and leaves most out is in the site where they are, if that is decided, whatever the flow that it is a part of prefers.
        let spreads = matches!(function.partitioning, Partitioning::ByKey(_));
        let leaves_out = spreads && function.output_permille <= MOSTLY_LEFT_OUT_PERMILLE;
        let source = leaves_out.then(|| self.decided(chain)).flatten();
        let there = source.map(|source| self.in_sites_of(&source, &options)).filter(|there| !there.is_empty());
        let spots = match there {
            Some(there) => self.near(there, placement),
            None => self.wished(options, placement),
        };
        if spots.is_empty() {
            self.findings.insert(self.nowhere(name.as_str(), ask, &names));
            return None;
        }
        let join = if at == 0 { Join::Separate } else { Join::MayFuse };
        let options = spots.into_iter().map(choice).collect();
        Some(Layer { options, join, memory_bytes: function.memory_bytes, stays: false, share: Share::ALL })
    }

    /// Lays everything of a chain where the solution says. Answers its last stage, and where that runs.
    fn lay_chain(&mut self, chain: Chain<'a>, layers: &[Layer], solution: &Solution) -> Option<(WorkId, usize)> {
        let flow = chain.flow;
        let source_spot = *solution.way.spots.first()?;
        let source_reasons = self.alternatives(flow, solution, 0, None);
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
            reasons.extend(self.alternatives(flow, solution, at, None));
            self.lay_stream(sink, partition, spot, reasons)?;
            if !self.goes_by_key(flow) {
                self.connect(sink, partition, input.clone());
            }
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
        Some((input.work, input_spot))
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
        for (at, (function_name, function)) in functions.iter().enumerate() {
            self.locate(function_name.as_str(), spot);
            if self.kept_stage(chain, first + at).is_none() {
                self.board.take_memory(spot, function.memory_bytes);
            }
        }
        let reasons = self.stage_reasons(chain, first, &functions, kept.as_ref(), (input_spot, spot), solution);
        let mut outputs: BTreeMap<String, StreamName> = chain.flow.outputs.clone();
        outputs.extend(chain.flow.dead_letter.clone().map(|stream| (PORT_DEAD_LETTER.to_owned(), stream)));
        if let (true, Some(Sink::Stream(sink))) = (is_last, &chain.flow.sink) {
            let ports = match self.goes_by_key(chain.flow) {
                true => (0..self.partitions(sink)).map(partition_port).collect(),
                false => vec![PORT_MAIN.to_owned()],
            };
            outputs.extend(ports.into_iter().map(|port| (port, sink.clone())));
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
                rescaling: None,
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
        let ask = |placement| Ask { placement, memory_bytes: 0, ack: None, has_copies: false };
        let asks = functions.iter().map(|(_, f)| ask(&f.placement));
        if self.board.is_alive(spot) {
            reasons.extend(asks.clone().flat_map(explain::satisfied));
        }
        reasons.extend(explain::near(&self.board, input_spot, spot));
        reasons.extend(functions.iter().filter_map(|(name, f)| explain::measured(name, f)));
        if functions.len() > 1 {
            let functions = functions.iter().map(|(name, _)| (*name).clone()).collect();
            reasons.push(Reason::Fused { functions });
        }
        // A node is named once, with the function that would be the cheapest to have there.
        let mut others: BTreeMap<NodeId, ((u64, u64), Reason)> = BTreeMap::new();
        for (at, (name, _)) in functions.iter().enumerate() {
            for reason in self.alternatives(chain.flow, solution, first + at + 1, Some(name)) {
                let (node, worse) = match &reason {
                    Reason::Alternative { node, slower_us, weighed, .. } => {
                        (node, (weighed.as_ref().map_or(0, |weighed| weighed.worse_us), *slower_us))
                    }
                    Reason::TooSlow { node, p95_us, .. } => (node, (u64::MAX, *p95_us)),
                    _ => continue,
                };
                if others.get(node).is_none_or(|(other, _)| *other > worse) {
                    others.insert(node.clone(), (worse, reason));
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

    fn alternatives(
        &self,
        flow: &FlowSpec,
        solution: &Solution,
        layer: usize,
        function: Option<&FunctionName>,
    ) -> Vec<Reason> {
        match (solution.through.get(layer), solution.way.spots.get(layer)) {
            (Some(through), Some(&chosen)) => {
                // What may not be there beside the rest is no alternative.
                let is_unmet = |spot: usize| {
                    solution.pairs.iter().any(|pair| {
                        let other = if pair.one == layer { pair.other } else { pair.one };
                        (pair.one == layer || pair.other == layer)
                            && solution
                                .way
                                .spots
                                .get(other)
                                .is_some_and(|other| self.board.together(pair.scope, spot, *other) == pair.apart)
                    })
                };
                let through = through.iter().filter(|(spot, _)| !is_unmet(**spot));
                let through = &through.map(|(spot, terms)| (*spot, *terms)).collect();
                let wanted = (self.spec.objectives, flow.slo_us, function);
                explain::alternatives(&self.board, through, solution.way.terms, chosen, wanted)
            }
            _ => Vec::new(),
        }
    }

    /// What the chain is expected to take.
    fn predict(&self, chain: Chain<'a>, layers: &[Layer], solution: &Solution) -> FlowPrediction {
        let functions = chain_functions(chain.flow);
        let mut hops = Vec::new();
        let mut before: Option<(usize, Share)> = None;
        for (at, (layer, &spot)) in layers.iter().zip(&solution.way.spots).enumerate() {
            let Some(node) = self.board.view(spot).map(|view| view.node.clone()) else { continue };
            let Some(choice) = layer.options.iter().find(|option| option.spot == spot) else { continue };
            let link = before.map(|(from, share)| (from, share, self.board.link(from, spot)));
            let fused = layer.join == Join::MayFuse && before.is_some_and(|(from, _)| from == spot);
            if let Some((from, share, link)) = link
                && link.basis != Basis::SameNode
                && let Some(from_view) = self.board.view(from)
            {
                let step = Step::Link { from: from_view.node.clone(), rtt_us: link.rtt_us, basis: link.basis };
                hops.push(Hop { step, node: node.clone(), p95_us: self.board.hop_us(from, spot, share) });
            }
            if let Some(function) = at.checked_sub(1).and_then(|stage| functions.get(stage)) {
                let step = Step::Execute { function: (*function).clone() };
                hops.push(Hop { step, node: node.clone(), p95_us: choice.execute_us });
            }
            if !fused {
                hops.push(Hop { step: Step::Commit, node, p95_us: choice.enter_us });
            }
            before = Some((spot, layer.share));
        }
        let p95_us = solution.way.terms.latency_us;
        let slo_us = chain.flow.slo_us;
        let within_slo = slo_us.is_none_or(|slo| p95_us <= slo);
        FlowPrediction { flow: chain.name.clone(), partition: chain.partition, p95_us, hops, slo_us, within_slo }
    }

    /// Notes the prediction of a chain, if it is the flow's slowest so far.
    fn note(&mut self, prediction: FlowPrediction) {
        let slowest = self.predictions.get(&prediction.flow);
        if slowest.is_none_or(|other| other.p95_us < prediction.p95_us) {
            self.predictions.insert(prediction.flow.clone(), prediction);
        }
    }

    /// The finding for a chain that surely takes longer than the flow's objective: what was measured of it alone does. A guess
    /// refuses nothing, nor is a flow refused that runs already: what keeps its objective then are its watchers.
    fn infeasible(&self, chain: Chain<'a>, layers: &[Layer], prediction: &FlowPrediction) -> Option<Unplaceable> {
        let slo_us = prediction.slo_us.filter(|_| !prediction.within_slo)?;
        if layers.iter().skip(1).any(|layer| layer.stays) {
            return None;
        }
        let measured = |hop: &&Hop| match &hop.step {
            Step::Commit => false,
            Step::Link { basis, .. } => *basis != Basis::Default,
            Step::Execute { function } => self.spec.functions.get(function).is_some_and(|f| f.execution_us.is_some()),
        };
        let surely_us: u64 = prediction.hops.iter().filter(measured).map(|hop| hop.p95_us).sum();
        let longest = prediction.hops.iter().filter(measured).max_by_key(|hop| hop.p95_us)?;
        let what = match &longest.step {
            Step::Commit => return None,
            Step::Link { from, .. } => format!("the way from {from}"),
            Step::Execute { function } => format!("{function}"),
        };
        let (p95, part) = (Milliseconds(prediction.p95_us), Milliseconds(longest.p95_us));
        (surely_us > slo_us).then(|| Unplaceable {
            what: format!("flow {}", chain.name),
            constraint: format!("slo={} at the 95th percentile", Milliseconds(slo_us)),
            nearest_miss: Some(NearestMiss {
                node: longest.node.clone(),
                why: format!("is on the quickest way that there is, which takes {p95}, {part} of it for {what}"),
            }),
        })
    }

    fn kept_stage(&self, chain: Chain<'_>, at: usize) -> Option<&KeptWork> {
        self.kept.stages.get(&(chain.name.clone(), chain.partition))?.get(&at)
    }
}

/// The name of the work that begins with the stage at that position.
fn stage_name(flow: &FlowName, first: usize) -> String {
    format!("{flow}.{first}")
}
