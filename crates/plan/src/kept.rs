//! The work that exists and stays where it is.
//!
//! Work moves only if its owner is dead or may not hold it any more, and then only to a node that holds everything it
//! acknowledged. A stage that cannot stay and has no such node starts anew elsewhere; a stream does not, for its
//! records would be lost.

use std::collections::BTreeMap;

use littoral_model::id::{ConnectorName, FlowName, FunctionName, NodeId, StreamName};
use littoral_model::work::{Assignment, WorkId, WorkKind};

use crate::admission::Violation;
use crate::board::{Ask, Board};
use crate::flows::chain_functions;
use crate::queues::requires;
use crate::refusal::{NearestMiss, Unplaceable};
use crate::repair::successor;
use crate::spec::{AppSpec, ConnectorSpec, Constraints, Direction};

/// A unit of work that stays.
#[derive(Clone, Debug)]
pub(crate) struct KeptWork {
    pub(crate) work: WorkId,
    pub(crate) spot: usize,
    pub(crate) replicas: Vec<NodeId>,
    pub(crate) how: How,
}

/// How it stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum How {
    Stays,
    Moved { from: NodeId, because: String },
    Waits,
}

/// All work that stays.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    pub(crate) streams: BTreeMap<(StreamName, u32), KeptWork>,
    /// For each flow and partition, by the stage's position; a fused work stands at each of its stages.
    pub(crate) stages: BTreeMap<(FlowName, u32), BTreeMap<usize, KeptWork>>,
    /// The partitions of functions' queues.
    pub(crate) queues: BTreeMap<(FunctionName, WorkId), KeptWork>,
    /// Sources and sinks.
    pub(crate) connectors: BTreeMap<(Direction, ConnectorName), KeptWork>,
    /// Stages that cannot stay: who had them, and why they cannot.
    pub(crate) replaced: BTreeMap<(FlowName, u32, usize), (NodeId, String)>,
    pub(crate) findings: Vec<Unplaceable>,
}

impl Kept {
    /// Finds what stays and books its memory.
    pub(crate) fn find(spec: &AppSpec, board: &mut Board<'_>, existing: &[Assignment]) -> Self {
        let mut kept = Self::default();
        let mut own: Vec<&Assignment> = existing.iter().filter(|a| a.work.app == spec.app).collect();
        own.sort_by(|a, b| a.work.cmp(&b.work));
        let mut stages: BTreeMap<(FlowName, u32), BTreeMap<usize, &Assignment>> = BTreeMap::new();
        for assignment in own {
            match assignment.work.kind {
                WorkKind::Stream => kept.keep_stream(spec, board, assignment),
                WorkKind::Queue => kept.keep_queue(spec, board, assignment),
                WorkKind::Source | WorkKind::Sink => kept.keep_connector(spec, board, assignment),
                WorkKind::Stage => {
                    if let Some((flow, first)) = stage_position(&assignment.work.name) {
                        let at = stages.entry((flow, assignment.work.partition)).or_default();
                        // A stage that started anew at another site is newer than what it left behind.
                        let is_newer = at.get(&first).is_none_or(|other| !owner_is_alive(board, other));
                        if is_newer {
                            at.insert(first, assignment);
                        }
                    }
                }
            }
        }
        for (key, works) in stages {
            kept.keep_chain(spec, board, &key, &works);
        }
        kept
    }

    fn keep_stream(&mut self, spec: &AppSpec, board: &Board<'_>, assignment: &Assignment) {
        let Ok(stream) = StreamName::new(&assignment.work.name) else { return };
        let Some(asked) = spec.streams.get(&stream) else { return };
        let ask = Ask { placement: &asked.placement, memory_bytes: 0, ack: None, has_copies: false };
        let partition = assignment.work.partition;
        match hold(board, assignment, ask) {
            Ok(work) => {
                self.streams.entry((stream, partition)).or_insert(work);
            }
            Err(violations) => self.findings.push(Unplaceable {
                what: format!(
                    "stream {stream}, partition {partition} (its records stay in site {}; to have it elsewhere, declare a \
                     stream of another name)",
                    assignment.work.site
                ),
                constraint: join(&violations, |violation| &violation.constraint),
                nearest_miss: Some(NearestMiss {
                    node: assignment.owner.clone(),
                    why: join(&violations, |violation| &violation.why),
                }),
            }),
        }
    }

    fn keep_queue(&mut self, spec: &AppSpec, board: &Board<'_>, assignment: &Assignment) {
        let Ok(name) = FunctionName::new(&assignment.work.name) else { return };
        let Some(function) = spec.functions.get(&name).filter(|_| spec.queues.contains_key(&name)) else { return };
        let requires = requires(function);
        let ask = Ask { placement: &requires, memory_bytes: 0, ack: None, has_copies: false };
        match hold(board, assignment, ask) {
            Ok(work) => drop(self.queues.insert((name, work.work.clone()), work)),
            Err(violations) => self.findings.push(Unplaceable {
                what: format!(
                    "the queue of function {name} in site {} (it holds calls that were accepted there; to have them \
                     elsewhere, declare a function of another name)",
                    assignment.work.site
                ),
                constraint: join(&violations, |violation| &violation.constraint),
                nearest_miss: Some(NearestMiss {
                    node: assignment.owner.clone(),
                    why: join(&violations, |violation| &violation.why),
                }),
            }),
        }
    }

    fn keep_connector(&mut self, spec: &AppSpec, board: &Board<'_>, assignment: &Assignment) {
        let WorkId { kind, name, .. } = &assignment.work;
        let is_it = |of: &&ConnectorSpec| of.direction.kind() == *kind && of.name.as_str() == name;
        let Some(connector) = spec.connectors.iter().find(is_it) else { return };
        let ask = Ask { has_copies: false, ..connector.ask() };
        match hold(board, assignment, ask) {
            Ok(work) => drop(self.connectors.entry((connector.direction, connector.name.clone())).or_insert(work)),
            Err(violations) => self.findings.push(Unplaceable {
                what: format!(
                    "{} (where it is, it is known how far it has come; to have it elsewhere, declare one of another name)",
                    connector.title()
                ),
                constraint: join(&violations, |violation| &violation.constraint),
                nearest_miss: Some(NearestMiss {
                    node: assignment.owner.clone(),
                    why: join(&violations, |violation| &violation.why),
                }),
            }),
        }
    }

    fn keep_chain(
        &mut self,
        spec: &AppSpec,
        board: &mut Board<'_>,
        key: &(FlowName, u32),
        works: &BTreeMap<usize, &Assignment>,
    ) {
        let Some(flow) = spec.flows.get(&key.0) else { return };
        let functions: Vec<_> = chain_functions(flow);
        let mut firsts: Vec<usize> = works.keys().copied().collect();
        firsts.push(functions.len());
        for (first, next) in firsts.iter().zip(firsts.iter().skip(1)) {
            let Some(assignment) = works.get(first) else { continue };
            let range = functions.iter().enumerate().take(*next).skip(*first);
            let group: Vec<_> = range.filter_map(|(at, name)| Some((at, spec.functions.get(*name)?))).collect();
            let merged = group.iter().try_fold(Constraints::any(), |all, (_, f)| all.and(&f.placement));
            // Fused stages share one log: they stay together or go on together where a copy is. Failing that, those
            // that may stay do, and the others start anew.
            let together = merged
                .map(|placement| {
                    hold(
                        board,
                        assignment,
                        Ask { placement: &placement, memory_bytes: 0, ack: None, has_copies: false },
                    )
                })
                .and_then(Result::ok);
            for (at, function) in group {
                let ask = Ask { placement: &function.placement, memory_bytes: 0, ack: None, has_copies: false };
                let held = match &together {
                    Some(work) => Ok(work.clone()),
                    None => hold(board, assignment, ask).and_then(|work| match work.how {
                        How::Stays => Ok(work),
                        _ => Err(board.spot(&assignment.owner).map(|o| board.violations(o, ask)).unwrap_or_default()),
                    }),
                };
                let booked = held.and_then(|work| {
                    let fits = work.how == How::Waits || board.take_memory(work.spot, function.memory_bytes);
                    if fits { Ok(work) } else { Err(Vec::new()) }
                });
                match booked {
                    Ok(work) => {
                        self.stages.entry(key.clone()).or_default().insert(at, work);
                    }
                    Err(violations) => {
                        let because = match violations.is_empty() {
                            true => "has too little memory left for it".to_owned(),
                            false => join(&violations, |violation| &violation.why),
                        };
                        let lost = (assignment.owner.clone(), because);
                        self.replaced.insert((key.0.clone(), key.1, at), lost);
                    }
                }
            }
        }
    }
}

/// Who holds a work from now on: its owner, else a live node that is in sync and satisfies what is asked, else, if the
/// owner is dead, still its owner. The error is what the live owner violates.
fn hold(board: &Board<'_>, assignment: &Assignment, ask: Ask<'_>) -> Result<KeptWork, Vec<Violation>> {
    let Some(owner) = board.spot(&assignment.owner) else { return Err(Vec::new()) };
    let alive = board.is_alive(owner);
    let violations = board.violations(owner, ask);
    let kept = |spot, how| KeptWork { work: assignment.work.clone(), spot, replicas: assignment.replicas.clone(), how };
    if alive && violations.is_empty() {
        return Ok(kept(owner, How::Stays));
    }
    let load = |node: &NodeId| {
        let spot = board.spot(node)?;
        (board.is_alive(spot) && board.violations(spot, ask).is_empty()).then(|| board.load(spot))
    };
    let next = successor(assignment, load).and_then(|node| board.spot(&node));
    match next {
        Some(spot) => {
            let because = if alive { join(&violations, |violation| &violation.why) } else { "is down".to_owned() };
            Ok(kept(spot, How::Moved { from: assignment.owner.clone(), because }))
        }
        None if !alive => Ok(kept(owner, How::Waits)),
        None => Err(violations),
    }
}

fn owner_is_alive(board: &Board<'_>, assignment: &Assignment) -> bool {
    board.spot(&assignment.owner).is_some_and(|spot| board.is_alive(spot))
}

/// The flow and the position of the first stage, of the name of a stage's work.
fn stage_position(name: &str) -> Option<(FlowName, usize)> {
    let (flow, first) = name.rsplit_once('.')?;
    Some((FlowName::new(flow).ok()?, first.parse().ok()?))
}

fn join(violations: &[Violation], text: impl Fn(&Violation) -> &String) -> String {
    violations.iter().map(|violation| text(violation).as_str()).collect::<Vec<_>>().join(" and ")
}
