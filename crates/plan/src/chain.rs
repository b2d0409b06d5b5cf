//! The cheapest way through a chain of layers: a source, the stages of a flow, its sink.
//!
//! Costs add up along the chain, so dynamic programming over layers and nodes finds the optimum. Memory does not add up
//! along a chain but on a node, so the optimum without regard to memory is a lower bound; where it overfills a node,
//! each of the layers on that node is forbidden there in turn, best bound first, until a way fits. Layers that must be
//! together or apart are brought there in the same way. The first way that fits is the optimum with regard to both.

use std::collections::{BTreeMap, BTreeSet};

use littoral_model::manifest::{Objectives, Scope};

use crate::objective::Terms;
use crate::traffic::Share;
use table::{Passage, Table, passages, thin};

mod table;

/// The most ways that are tried until one fits into memory. Chains have a handful of stages; more tries mean that the
/// fabric is all but full.
const TRIES_MAX: usize = 512;

/// How often the weight of time is doubled where a way is too slow, and how often what is between is tried then.
const WEIGHT_DOUBLINGS: u32 = 16;
const WEIGHT_HALVINGS: u32 = 4;

/// How many options of each layer are tried first where the best way does not fit; in tests, fewer than there are.
const FEW: usize = if cfg!(test) { 2 } else { 16 };

/// One position of the chain.
#[derive(Clone, Debug)]
pub(crate) struct Layer {
    /// Where it may be.
    pub(crate) options: Vec<Choice>,
    /// How it relates to the layer before.
    pub(crate) join: Join,
    /// The memory that it takes from a node's free memory; nothing if that is booked already.
    pub(crate) memory_bytes: u64,
    /// Whether it is there already.
    pub(crate) stays: bool,
    /// How much of the bytes of the source it sends on.
    pub(crate) share: Share,
}

/// One node for one layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Choice {
    /// Which node, as its position in the order of names.
    pub(crate) spot: usize,
    /// What it costs that a unit of work begins here: waiting and a commit.
    pub(crate) enter_us: u64,
    /// What a record costs here.
    pub(crate) execute_us: u64,
    /// How much the node carries already; decides between equal scores.
    pub(crate) load: u64,
    /// What it costs here besides time.
    pub(crate) terms: Terms,
}

/// How a layer relates to the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Join {
    /// A unit of work of its own.
    Separate,
    /// One unit of work with the layer before if both are on one node.
    MayFuse,
    /// A unit of work of its own, on the node of the layer before.
    Beside,
}

/// Two layers that must be on one node or in one site, or must not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pair {
    pub(crate) one: usize,
    pub(crate) other: usize,
    pub(crate) scope: Scope,
    pub(crate) apart: bool,
}

/// What a chain has to regard.
pub(crate) struct Rules<'a> {
    /// What a hop costs what is left of a record; none if its link has too little left.
    pub(crate) hop: &'a dyn Fn(usize, usize, Share) -> Option<Terms>,
    /// The memory that a node has left.
    pub(crate) free_bytes: &'a dyn Fn(usize) -> u64,
    /// Whether two nodes are together.
    pub(crate) together: &'a dyn Fn(Scope, usize, usize) -> bool,
    pub(crate) pairs: &'a [Pair],
    pub(crate) objectives: Objectives,
}

/// A way through the chain. The order is by score, then load, then names.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Way {
    pub(crate) score: u64,
    pub(crate) load: u64,
    /// One node for each layer.
    pub(crate) spots: Vec<usize>,
    pub(crate) terms: Terms,
}

/// The best way, and what others would have cost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Solution {
    pub(crate) way: Way,
    /// For each layer and node what the best way costs that puts this layer there, all else left aside.
    pub(crate) through: Vec<BTreeMap<usize, Terms>>,
    /// What was regarded.
    pub(crate) pairs: Vec<Pair>,
}

/// Why there is no way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoWay {
    /// Layers that must be beside one another may not be, or no link has enough left.
    Apart,
    /// No way fits into the nodes' memory.
    Memory,
    /// These two cannot be where they must be towards one another.
    Pair(Pair),
}

/// A layer that may not be on a node.
type Forbidden = BTreeSet<(usize, usize)>;

/// Finds the best way among those that take no longer than the limit, or else the quickest of all.
///
/// The chain is planned as a whole, so its time goes to where it buys most of the other objectives. Where the best way is too
/// slow, time is weighed more: twice as much until a way is quick enough, then between that and half of it (a Lagrangian
/// relaxation of the shortest path with a limit: G. Handler and I. Zang, "A Dual Algorithm for the Constrained Shortest Path
/// Problem", 1980). What it finds is quick enough, and next to the best that is.
pub(crate) fn optimum_within(layers: &[Layer], rules: &Rules<'_>, limit_us: Option<u64>) -> Result<Solution, NoWay> {
    let best = optimum(layers, rules)?;
    let objectives = rules.objectives;
    let is_quick = |solution: &Solution| limit_us.is_none_or(|limit_us| solution.way.terms.latency_us <= limit_us);
    if is_quick(&best) || objectives.is_time_alone() {
        return Ok(best);
    }
    let weighing = |latency: u32| {
        let objectives = Objectives { latency: objectives.latency.saturating_add(latency), ..objectives };
        optimum(layers, &Rules { objectives, ..*rules })
    };
    let mut found = None;
    let mut too_little = 0;
    for latency in (0..WEIGHT_DOUBLINGS).map(|doublings| 1 << doublings) {
        let solution = weighing(latency)?;
        if is_quick(&solution) {
            found = Some((latency, solution));
            break;
        }
        too_little = latency;
    }
    let Some((mut enough, mut solution)) = found else {
        return optimum(layers, &Rules { objectives: Objectives::default(), ..*rules });
    };
    for _ in 0..WEIGHT_HALVINGS {
        let between = too_little.midpoint(enough);
        let tried = weighing(between)?;
        if is_quick(&tried) {
            (enough, solution) = (between, tried);
        } else {
            too_little = between;
        }
    }
    Ok(solution)
}

/// Finds the best way: least score, then least load, then first by name.
///
/// Where the best way of all does not fit, a way over few options is looked for first. Its score bounds the search: what
/// cannot be part of a better way, all else left aside, is not looked at again.
pub(crate) fn optimum(layers: &[Layer], rules: &Rules<'_>) -> Result<Solution, NoWay> {
    let passages = passages(layers, rules);
    let free = Table::fill(layers, &passages, rules, &BTreeSet::new());
    let best = free.best(layers).ok_or(NoWay::Apart)?;
    let through = free.through(layers, &passages, rules);
    let fits = overfull(layers, &best, rules.free_bytes).is_none() && unmet(&best, rules).is_none();
    let way = if fits { best } else { bounded(layers, &passages, rules, &through)? };
    Ok(Solution { through, pairs: rules.pairs.to_vec(), way })
}

/// The best way that fits, given what the best way through each option costs.
fn bounded(
    layers: &[Layer],
    passages: &[Passage],
    rules: &Rules<'_>,
    through: &[BTreeMap<usize, Terms>],
) -> Result<Way, NoWay> {
    let score = |depth: usize, spot: usize| Some(through.get(depth)?.get(&spot)?.score(rules.objectives));
    let least: Vec<u64> = (0..layers.len())
        .map(|depth| {
            let scores = layers.get(depth).into_iter().flat_map(|layer| &layer.options);
            let mut scores: Vec<u64> = scores.filter_map(|option| score(depth, option.spot)).collect();
            scores.sort_unstable();
            scores.get(FEW - 1).or(scores.last()).copied().unwrap_or_default()
        })
        .collect();
    let few = |depth: usize, spot: usize| score(depth, spot) <= least.get(depth).copied();
    let (some, ways) = thin(layers, passages, |depth, spot| score(depth, spot).is_some() && few(depth, spot));
    let Ok(bound) = search(&some, &ways, rules) else { return search(layers, passages, rules) };
    let (rest, ways) =
        thin(layers, passages, |depth, spot| score(depth, spot).is_some_and(|score| score <= bound.score));
    // Not worse than the bound, unless it ran out of tries.
    search(&rest, &ways, rules).or(Ok(bound))
}

/// The best way that fits, best bound first.
fn search(layers: &[Layer], passages: &[Passage], rules: &Rules<'_>) -> Result<Way, NoWay> {
    let mut open: BTreeSet<(Way, Forbidden)> = BTreeSet::new();
    let free = Table::fill(layers, passages, rules, &BTreeSet::new());
    open.insert((free.best(layers).ok_or(NoWay::Apart)?, BTreeSet::new()));
    let mut last = NoWay::Memory;
    for _ in 0..TRIES_MAX {
        let (way, forbidden) = open.pop_first().ok_or(last)?;
        let more: Vec<Forbidden> = if let Some(overfull) = overfull(layers, &way, rules.free_bytes) {
            overfull.into_iter().map(|pair| BTreeSet::from([pair])).collect()
        } else if let Some(pair) = unmet(&way, rules) {
            last = NoWay::Pair(pair);
            mend(layers, &way, rules, pair)
        } else {
            return Ok(way);
        };
        for more in more {
            let forbidden = &forbidden | &more;
            if let Some(way) = Table::fill(layers, passages, rules, &forbidden).best(layers) {
                open.insert((way, forbidden));
            }
        }
    }
    Err(last)
}

/// The first pair that a way does not regard.
fn unmet(way: &Way, rules: &Rules<'_>) -> Option<Pair> {
    let is_unmet = |pair: &&Pair| match (way.spots.get(pair.one), way.spots.get(pair.other)) {
        (Some(&one), Some(&other)) => (rules.together)(pair.scope, one, other) == pair.apart,
        _ => false,
    };
    rules.pairs.iter().find(is_unmet).copied()
}

/// What to forbid so that a pair is regarded, in as many ways as there are: one of the two goes elsewhere; or both go
/// where both may be.
fn mend(layers: &[Layer], way: &Way, rules: &Rules<'_>, pair: Pair) -> Vec<Forbidden> {
    if pair.apart {
        let stays = [pair.one, pair.other].into_iter().filter_map(|layer| Some((layer, *way.spots.get(layer)?)));
        return stays.map(|stay| BTreeSet::from([stay])).collect();
    }
    let options = |layer: usize| layers.get(layer).into_iter().flat_map(|l| &l.options).map(|option| option.spot);
    let mut places: Vec<usize> = Vec::new();
    for spot in options(pair.one) {
        if !places.iter().any(|place| (rules.together)(pair.scope, *place, spot)) {
            places.push(spot);
        }
    }
    let elsewhere = |place: usize| {
        let both = [pair.one, pair.other].into_iter();
        let all = both.flat_map(|layer| options(layer).map(move |spot| (layer, spot)));
        all.filter(|(_, spot)| !(rules.together)(pair.scope, place, *spot)).collect()
    };
    places.into_iter().map(elsewhere).collect()
}

/// What it costs to go on from one choice to another; none if that is not allowed.
fn transition((from, share): (&Choice, Share), to: &Choice, join: Join, rules: &Rules<'_>) -> Option<Terms> {
    match join {
        _ if is_fused(from, to, join) => Some(Terms::latency(to.execute_us).and(to.terms)),
        Join::Beside if from.spot != to.spot => None,
        _ => Some((rules.hop)(from.spot, to.spot, share)?.and(own(to))),
    }
}

/// Whether two choices become one unit of work.
fn is_fused(from: &Choice, to: &Choice, join: Join) -> bool {
    join == Join::MayFuse && from.spot == to.spot
}

/// What a choice costs by itself.
fn own(choice: &Choice) -> Terms {
    Terms::latency(choice.enter_us.saturating_add(choice.execute_us)).and(choice.terms)
}

/// The layers on the first node that the way overfills, each with the node.
fn overfull(layers: &[Layer], way: &Way, free_bytes: &dyn Fn(usize) -> u64) -> Option<Vec<(usize, usize)>> {
    let mut taken: BTreeMap<usize, (u64, Vec<(usize, usize)>)> = BTreeMap::new();
    for (depth, (layer, &spot)) in layers.iter().zip(&way.spots).enumerate() {
        if layer.memory_bytes > 0 {
            let (bytes, pairs) = taken.entry(spot).or_default();
            *bytes = bytes.saturating_add(layer.memory_bytes);
            pairs.push((depth, spot));
        }
    }
    taken.into_iter().find(|(spot, (bytes, _))| *bytes > free_bytes(*spot)).map(|(_, (_, pairs))| pairs)
}

#[cfg(test)]
#[path = "chain_tests.rs"]
mod tests;
