//! Dynamic programming over a chain: the best way to, and on from, each option of each layer.

use std::collections::BTreeMap;

use super::{Choice, Forbidden, Layer, Rules, Way, is_fused, own, transition};
use crate::objective::Terms;

/// The scores of going from each option of a layer to each of the next one.
pub(super) struct Passage {
    /// How many options the layer before has.
    froms: usize,
    /// By option of the next layer, then by option of the layer before; [`NOT_ALLOWED`] where there is no way.
    scores: Vec<u64>,
}

const NOT_ALLOWED: u64 = u64::MAX;

impl Passage {
    /// From each option of the layer before to one of the next.
    fn to(&self, to: usize) -> &[u64] {
        self.scores.get(to * self.froms..(to + 1) * self.froms).unwrap_or_default()
    }
}

/// The passages to each layer but the first. They are gone through again and again, and looking up links takes the most of
/// making a placement.
pub(super) fn passages(layers: &[Layer], rules: &Rules<'_>) -> Vec<Passage> {
    let pairs = layers.iter().zip(layers.iter().skip(1));
    let passage = |(before, layer): (&Layer, &Layer)| {
        let score = |(to, from)| {
            transition((from, before.share), to, layer.join, rules)
                .map_or(NOT_ALLOWED, |terms| terms.score(rules.objectives))
        };
        let scores = layer.options.iter().flat_map(|to| before.options.iter().map(move |from| (to, from))).map(score);
        Passage { froms: before.options.len(), scores: scores.collect() }
    };
    pairs.map(passage).collect()
}

/// The layers with those options only, with the passages between them.
pub(super) fn thin(
    layers: &[Layer],
    passages: &[Passage],
    keeps: impl Fn(usize, usize) -> bool,
) -> (Vec<Layer>, Vec<Passage>) {
    let kept: Vec<Vec<usize>> = layers
        .iter()
        .enumerate()
        .map(|(depth, layer)| {
            let options = layer.options.iter().enumerate();
            options.filter(|(_, option)| keeps(depth, option.spot)).map(|(number, _)| number).collect()
        })
        .collect();
    let thinned = layers.iter().zip(&kept).map(|(layer, kept)| Layer {
        options: kept.iter().filter_map(|number| layer.options.get(*number)).copied().collect(),
        ..*layer
    });
    let between = passages.iter().zip(kept.iter().zip(kept.iter().skip(1))).map(|(passage, (froms, tos))| {
        let row = |to: &usize| {
            let row = passage.to(*to);
            froms.iter().filter_map(move |from| row.get(*from)).copied()
        };
        Passage { froms: froms.len(), scores: tos.iter().flat_map(row).collect() }
    });
    (thinned.collect(), between.collect())
}

/// The best way to one option of a layer.
#[derive(Clone, Copy)]
struct Reached {
    score: u64,
    load: u64,
    /// Its place among the ways to this layer, by the names of their nodes.
    rank: usize,
    /// The option of the layer before by which it goes.
    from: usize,
    terms: Terms,
}

/// For each layer, for each of its options, the best way there.
pub(super) struct Table(Vec<Vec<Option<Reached>>>);

impl Table {
    /// The best ways that avoid what is forbidden, memory and pairs left aside.
    pub(super) fn fill(layers: &[Layer], passages: &[Passage], rules: &Rules<'_>, forbidden: &Forbidden) -> Self {
        let mut table: Vec<Vec<Option<Reached>>> = Vec::with_capacity(layers.len());
        for (depth, layer) in layers.iter().enumerate() {
            let before = depth.checked_sub(1).and_then(|d| Some((layers.get(d)?, table.get(d)?, passages.get(d)?)));
            let reach = |(to, option): (usize, &Choice)| {
                if forbidden.contains(&(depth, option.spot)) {
                    return None;
                }
                let Some((previous, reached, passage)) = before else {
                    let terms = own(option);
                    let score = terms.score(rules.objectives);
                    return Some(Reached { score, load: option.load, rank: 0, from: 0, terms });
                };
                let froms = passage.to(to).iter().zip(reached).zip(&previous.options).enumerate();
                let ways = froms.filter_map(|(from, ((score, reached), choice))| {
                    let reached = reached.as_ref().filter(|_| *score != NOT_ALLOWED)?;
                    let load = if is_fused(choice, option, layer.join) { 0 } else { option.load };
                    let score = reached.score.saturating_add(*score);
                    Some((score, reached.load.saturating_add(load), reached.rank, from))
                });
                let (score, load, rank, from) = ways.min()?;
                let so_far = reached.get(from).copied().flatten()?.terms;
                let terms =
                    so_far.and(transition((previous.options.get(from)?, previous.share), option, layer.join, rules)?);
                Some(Reached { score, load, rank, from, terms })
            };
            let mut reached: Vec<Option<Reached>> = layer.options.iter().enumerate().map(reach).collect();
            rank(&mut reached, layer);
            table.push(reached);
        }
        Self(table)
    }

    /// The best way of all.
    pub(super) fn best(&self, layers: &[Layer]) -> Option<Way> {
        let ends = self.0.last()?.iter().enumerate();
        let ends = ends.filter_map(|(option, reached)| Some((reached.as_ref()?, option)));
        let (end, mut option) = ends.min_by_key(|(reached, _)| (reached.score, reached.load, reached.rank))?;
        let mut spots = Vec::with_capacity(layers.len());
        for (layer, reached) in layers.iter().zip(&self.0).rev() {
            spots.push(layer.options.get(option)?.spot);
            option = reached.get(option)?.as_ref()?.from;
        }
        spots.reverse();
        Some(Way { score: end.score, load: end.load, spots, terms: end.terms })
    }

    /// For each layer and node what the best way through it costs, memory and pairs left aside.
    pub(super) fn through(
        &self,
        layers: &[Layer],
        passages: &[Passage],
        rules: &Rules<'_>,
    ) -> Vec<BTreeMap<usize, Terms>> {
        let mut result = Vec::with_capacity(layers.len());
        let mut after: Vec<Option<(u64, Terms)>> = Vec::new();
        for (depth, (layer, reached)) in layers.iter().zip(&self.0).enumerate().rev() {
            after = match layers.get(depth + 1).zip(passages.get(depth)) {
                None => vec![Some((0, Terms::default())); layer.options.len()],
                Some((next, passage)) => onwards(layer, next, passage, &after, rules),
            };
            let both = layer.options.iter().zip(reached.iter().zip(&after));
            let both = both.filter_map(|(option, (before, after))| {
                Some((option.spot, before.as_ref()?.terms.and(after.as_ref()?.1)))
            });
            result.push(both.collect());
        }
        result.reverse();
        result
    }
}

/// For each option of a layer the best way on to the end, given those of the next layer.
fn onwards(
    layer: &Layer,
    next: &Layer,
    passage: &Passage,
    after: &[Option<(u64, Terms)>],
    rules: &Rules<'_>,
) -> Vec<Option<(u64, Terms)>> {
    let mut best: Vec<Option<(u64, usize)>> = vec![None; layer.options.len()];
    for (to, rest) in after.iter().enumerate() {
        let Some((rest, _)) = rest else { continue };
        for (best, score) in best.iter_mut().zip(passage.to(to)).filter(|(_, score)| **score != NOT_ALLOWED) {
            let score = score.saturating_add(*rest);
            if best.is_none_or(|(least, _)| score < least) {
                *best = Some((score, to));
            }
        }
    }
    let on = |(from, best): (&Choice, Option<(u64, usize)>)| {
        let (score, to) = best?;
        let terms = transition((from, layer.share), next.options.get(to)?, next.join, rules)?;
        Some((score, terms.and(after.get(to).copied().flatten()?.1)))
    };
    layer.options.iter().zip(best).map(on).collect()
}

/// Numbers the ways to a layer in the order of the names of their nodes. Until now each has the rank of the way that it
/// continues.
fn rank(reached: &mut [Option<Reached>], layer: &Layer) {
    let mut order: Vec<(usize, usize, &mut Reached)> = reached
        .iter_mut()
        .zip(&layer.options)
        .filter_map(|(reached, option)| reached.as_mut().map(|reached| (reached.rank, option.spot, reached)))
        .collect();
    order.sort_unstable_by_key(|(rank, spot, _)| (*rank, *spot));
    for (rank, (_, _, reached)) in order.into_iter().enumerate() {
        reached.rank = rank;
    }
}
