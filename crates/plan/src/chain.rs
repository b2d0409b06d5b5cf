//! The cheapest way through a chain of layers: a source, the stages of a flow, its sink.
//!
//! Costs add up along the chain, so dynamic programming over layers and nodes finds the optimum. Memory does not add up
//! along a chain but on a node, so the optimum without regard to memory is a lower bound; where it overfills a node,
//! each of the layers on that node is forbidden there in turn, best bound first, until a way fits. The first that fits
//! is the optimum with regard to memory.

use std::collections::{BTreeMap, BTreeSet};

/// The most ways that are tried until one fits into memory. Chains have a handful of stages; more tries mean that the
/// fabric is all but full.
const TRIES_MAX: usize = 512;

/// One position of the chain.
#[derive(Clone, Debug)]
pub(crate) struct Layer {
    /// Where it may be.
    pub(crate) options: Vec<Choice>,
    /// How it relates to the layer before.
    pub(crate) join: Join,
    /// The memory that it takes from a node's free memory; nothing if that is booked already.
    pub(crate) memory_bytes: u64,
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
    /// How much the node carries already; decides between equal times.
    pub(crate) load: u64,
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

/// A way through the chain. The order is by time, then load, then names.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Way {
    pub(crate) latency_us: u64,
    pub(crate) load: u64,
    /// One node for each layer.
    pub(crate) spots: Vec<usize>,
}

/// The best way, and what others would have cost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Solution {
    pub(crate) way: Way,
    /// For each layer and node the time of the best way that puts this layer there, memory left aside.
    pub(crate) through_us: Vec<BTreeMap<usize, u64>>,
}

/// Why there is no way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoWay {
    /// Layers that must be together may not be.
    Apart,
    /// No way fits into the nodes' memory.
    Memory,
}

/// Finds the best way: least time, then least load, then first by name. `hop_us` is the cost of a hop, `free_bytes` the
/// memory that a node has left.
pub(crate) fn optimum(
    layers: &[Layer],
    hop_us: &impl Fn(usize, usize) -> u64,
    free_bytes: &impl Fn(usize) -> u64,
) -> Result<Solution, NoWay> {
    let mut open: BTreeSet<(Way, BTreeSet<(usize, usize)>)> = BTreeSet::new();
    let first = forward(layers, hop_us, &BTreeSet::new()).ok_or(NoWay::Apart)?;
    open.insert((first, BTreeSet::new()));
    for _ in 0..TRIES_MAX {
        let (way, forbidden) = open.pop_first().ok_or(NoWay::Memory)?;
        let Some(overfull) = overfull(layers, &way, free_bytes) else {
            return Ok(Solution { through_us: through(layers, hop_us), way });
        };
        for pair in overfull {
            let mut forbidden = forbidden.clone();
            forbidden.insert(pair);
            if let Some(way) = forward(layers, hop_us, &forbidden) {
                open.insert((way, forbidden));
            }
        }
    }
    Err(NoWay::Memory)
}

/// What it costs to go on from one choice to another: time and load; none if that is not allowed.
fn transition(from: &Choice, to: &Choice, join: Join, hop_us: &impl Fn(usize, usize) -> u64) -> Option<(u64, u64)> {
    let own = to.enter_us.saturating_add(to.execute_us);
    match join {
        Join::MayFuse if from.spot == to.spot => Some((to.execute_us, 0)),
        Join::Beside if from.spot != to.spot => None,
        _ => Some((hop_us(from.spot, to.spot).saturating_add(own), to.load)),
    }
}

/// The best way that avoids what is forbidden, memory left aside.
fn forward(
    layers: &[Layer],
    hop_us: &impl Fn(usize, usize) -> u64,
    forbidden: &BTreeSet<(usize, usize)>,
) -> Option<Way> {
    let mut reached: Vec<(Choice, Way)> = Vec::new();
    for (depth, layer) in layers.iter().enumerate() {
        let allowed = layer.options.iter().filter(|option| !forbidden.contains(&(depth, option.spot)));
        reached = allowed
            .filter_map(|option| {
                let way = if depth == 0 {
                    let latency_us = option.enter_us.saturating_add(option.execute_us);
                    Some(Way { latency_us, load: option.load, spots: vec![option.spot] })
                } else {
                    reached.iter().filter_map(|(from, way)| extend(from, way, option, layer.join, hop_us)).min()
                };
                way.map(|way| (*option, way))
            })
            .collect();
    }
    reached.into_iter().map(|(_, way)| way).min()
}

fn extend(from: &Choice, way: &Way, to: &Choice, join: Join, hop_us: &impl Fn(usize, usize) -> u64) -> Option<Way> {
    let (latency_us, load) = transition(from, to, join, hop_us)?;
    let mut spots = way.spots.clone();
    spots.push(to.spot);
    Some(Way { latency_us: way.latency_us.saturating_add(latency_us), load: way.load.saturating_add(load), spots })
}

/// The layers on the first node that the way overfills, each with the node.
fn overfull(layers: &[Layer], way: &Way, free_bytes: &impl Fn(usize) -> u64) -> Option<Vec<(usize, usize)>> {
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

/// For each layer and node the time of the best way through it, memory left aside.
fn through(layers: &[Layer], hop_us: &impl Fn(usize, usize) -> u64) -> Vec<BTreeMap<usize, u64>> {
    let mut before: Vec<Vec<Option<u64>>> = Vec::new();
    for (depth, layer) in layers.iter().enumerate() {
        let costs = layer.options.iter().map(|to| {
            let Some(previous) = depth.checked_sub(1).and_then(|d| layers.get(d).zip(before.get(d))) else {
                return Some(to.enter_us.saturating_add(to.execute_us));
            };
            let froms = previous.0.options.iter().zip(previous.1);
            froms.filter_map(|(from, cost)| Some((*cost)? + transition(from, to, layer.join, hop_us)?.0)).min()
        });
        let costs = costs.collect();
        before.push(costs);
    }
    let mut after: Vec<Option<u64>> = layers.last().map(|layer| vec![Some(0); layer.options.len()]).unwrap_or_default();
    let mut result = Vec::new();
    let mut next: Option<&Layer> = None;
    for (layer, before) in layers.iter().zip(&before).rev() {
        if let Some(next) = next {
            let rest = layer.options.iter().map(|from| {
                let tos = next.options.iter().zip(&after);
                tos.filter_map(|(to, cost)| Some((*cost)? + transition(from, to, next.join, hop_us)?.0)).min()
            });
            after = rest.collect();
        }
        let both = layer.options.iter().zip(before.iter().zip(&after));
        result.push(both.filter_map(|(option, (b, a))| Some((option.spot, (*b)?.saturating_add((*a)?)))).collect());
        next = Some(layer);
    }
    result.reverse();
    result
}

#[cfg(test)]
#[path = "chain_tests.rs"]
mod tests;
