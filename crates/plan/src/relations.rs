//! What must be together with something else of its app, or apart from it, while a placement is being made.
//!
//! What is placed later regards what was placed before, whichever of the two asks for it; what must be together with
//! something that is yet to be placed goes where that may follow. Within a chain the search itself regards both ends
//! (see `chain`). In the end everything is checked once more: nothing that is not regarded is ever accepted.

use std::collections::BTreeSet;

use littoral_model::id::StreamName;
use littoral_model::manifest::Affinity;

use crate::admission::{Violation, apart, together};
use crate::board::Ask;
use crate::compile::Planner;
use crate::flows::chain_functions;
use crate::refusal::{NearestMiss, Unplaceable};
use crate::spec::{AppSpec, Constraints};

/// The function or the stream of that name: what to call it, and its constraints.
fn named<'a>(spec: &'a AppSpec, name: &str) -> Option<(String, &'a Constraints)> {
    let function = spec.functions.iter().find(|(function, _)| function.as_str() == name);
    let stream = spec.streams.iter().find(|(stream, _)| stream.as_str() == name);
    function
        .map(|(_, function)| (format!("function {name}"), &function.placement))
        .or_else(|| stream.map(|(_, stream)| (format!("stream {name}"), &stream.placement)))
}

impl Planner<'_> {
    /// Where something is, as far as it is placed.
    pub(crate) fn located(&self, name: &str) -> &BTreeSet<usize> {
        self.located.get(name).unwrap_or(&self.nowhere)
    }

    /// Notes where something is.
    pub(crate) fn locate(&mut self, name: &str, spot: usize) {
        self.located.entry(name.to_owned()).or_default().insert(spot);
    }

    /// Notes where everything is that stays.
    pub(crate) fn locate_kept(&mut self) {
        let mut found: Vec<(String, usize)> =
            self.kept.streams.iter().map(|((stream, _), work)| (stream.to_string(), work.spot)).collect();
        for ((flow, _), stages) in &self.kept.stages {
            let functions = self.spec.flows.get(flow).map(chain_functions).unwrap_or_default();
            let at = |position: &usize| functions.get(*position).map(ToString::to_string);
            found.extend(stages.iter().filter_map(|(position, work)| Some((at(position)?, work.spot))));
        }
        for (name, spot) in found {
            self.locate(&name, spot);
        }
    }

    /// What keeps something from a node because of what else is where. `chain` are those that are placed in one go with
    /// it: being together with them is the search's to find.
    pub(crate) fn unrelated(
        &self,
        name: &str,
        placement: &Constraints,
        spot: usize,
        chain: &BTreeSet<&str>,
    ) -> Vec<Violation> {
        let board = &self.board;
        let near = |affinity: &Affinity, spots: &BTreeSet<usize>| {
            spots.iter().any(|other| board.together(affinity.scope, spot, *other))
        };
        let mut found = Vec::new();
        for affinity in placement.affinity.iter().filter(|affinity| !chain.contains(affinity.with.as_str())) {
            let there = self.located(&affinity.with);
            let why = if there.is_empty() {
                let Some((_, theirs)) = named(self.spec, &affinity.with) else { continue };
                let ask = Ask { placement: theirs, memory_bytes: 0, ack: None, has_copies: false };
                if near(affinity, &board.candidates(ask).into_iter().collect()) {
                    continue;
                }
                format!("is not where {} may be", affinity.with)
            } else if near(affinity, there) {
                continue;
            } else {
                format!("is not where {} is", affinity.with)
            };
            found.push(Violation { constraint: together(affinity), why });
        }
        // What is apart from something that is yet to be placed leaves it the only place that it may have.
        let must_be_here = |affinity: &Affinity, name: &str| {
            let theirs = named(self.spec, name).filter(|_| !chain.contains(name) && self.located(name).is_empty());
            theirs.is_some_and(|(_, theirs)| {
                let ask = Ask { placement: theirs, memory_bytes: 0, ack: None, has_copies: false };
                let options = board.candidates(ask);
                !options.is_empty() && options.iter().all(|other| board.together(affinity.scope, spot, *other))
            })
        };
        let is_where = |affinity: &Affinity, name: &str| {
            let is = near(affinity, self.located(name)).then(|| format!("is where {name} is"));
            is.or_else(|| must_be_here(affinity, name).then(|| format!("is where {name} must be")))
        };
        for affinity in &placement.anti_affinity {
            let why = is_where(affinity, &affinity.with);
            found.extend(why.map(|why| Violation { constraint: apart(affinity), why }));
        }
        for (other, theirs) in self.declared() {
            for affinity in theirs.anti_affinity.iter().filter(|affinity| affinity.with == name) {
                let constraint = format!("{} of {other}", apart(affinity));
                found.extend(is_where(affinity, other).map(|why| Violation { constraint, why }));
            }
        }
        found
    }

    /// Of `options` those where what else is where lets something be.
    pub(crate) fn related(
        &self,
        name: &str,
        placement: &Constraints,
        mut options: Vec<usize>,
        chain: &BTreeSet<&str>,
    ) -> Vec<usize> {
        options.retain(|spot| self.unrelated(name, placement, *spot, chain).is_empty());
        options
    }

    /// Whether something that is placed already wants to be with this on that node.
    pub(crate) fn is_wanted_at(&self, name: &str, spot: usize) -> bool {
        self.declared().any(|(other, theirs)| {
            let wants = theirs.affinity.iter().filter(|affinity| affinity.with == name);
            wants
                .into_iter()
                .any(|wish| self.located(other).iter().any(|there| self.board.together(wish.scope, spot, *there)))
        })
    }

    /// Everything that is declared, with its constraints.
    fn declared(&self) -> impl Iterator<Item = (&str, &Constraints)> {
        let functions = self.spec.functions.iter().map(|(name, function)| (name.as_str(), &function.placement));
        functions.chain(self.spec.streams.iter().map(|(name, stream)| (name.as_str(), &stream.placement)))
    }

    /// Names that are not declared. The manifest's checks find them with their lines.
    pub(crate) fn unknown_relations(&self) -> Vec<(String, String)> {
        let mut missing = Vec::new();
        for (name, placement) in self.declared() {
            for affinity in placement.affinity.iter().chain(&placement.anti_affinity) {
                if named(self.spec, &affinity.with).is_none() {
                    missing.push((name.to_owned(), format!("function or stream {} to be declared", affinity.with)));
                }
            }
        }
        missing
    }

    /// What is not regarded in the end. Work that waits for a dead owner is left alone.
    pub(crate) fn check_relations(&mut self) {
        let mut findings = Vec::new();
        for (name, placement) in self.declared() {
            for &spot in self.located(name).iter().filter(|spot| self.board.is_alive(**spot)) {
                let live = |affinity: &Affinity| {
                    let mut there = self.located(&affinity.with).iter().filter(|other| self.board.is_alive(**other));
                    there.any(|other| self.board.together(affinity.scope, spot, *other))
                };
                let parted = placement.affinity.iter().filter(|affinity| !live(affinity));
                let parted = parted.map(|a| (together(a), format!("is not where {} is", a.with)));
                let beside = placement.anti_affinity.iter().filter(|affinity| live(affinity));
                let beside = beside.map(|a| (apart(a), format!("is where {} is", a.with)));
                for (constraint, why) in parted.chain(beside) {
                    let nearest_miss = self.board.view(spot).map(|view| NearestMiss { node: view.node.clone(), why });
                    let what = named(self.spec, name).map_or_else(|| name.to_owned(), |(what, _)| what);
                    findings.push(Unplaceable { what, constraint, nearest_miss });
                }
            }
        }
        self.findings.extend(findings);
    }

    /// The finding for a function or a stream that may be nowhere.
    pub(crate) fn nowhere(&self, name: &str, ask: Ask<'_>, chain: &BTreeSet<&str>) -> Unplaceable {
        let what = named(self.spec, name).map_or_else(|| name.to_owned(), |(what, _)| what);
        self.board.unplaceable(what, ask, |spot| self.unrelated(name, ask.placement, spot, chain))
    }

    /// The finding for a stream that may be nowhere.
    pub(crate) fn stream_nowhere(&self, name: &StreamName, ask: Ask<'_>) -> Unplaceable {
        self.nowhere(name.as_str(), ask, &BTreeSet::new())
    }
}
