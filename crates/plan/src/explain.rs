//! Reasons and predictions, from what was chosen and what was not.

use std::collections::BTreeMap;

use littoral_model::id::FunctionName;

use crate::board::{Ask, Board, describe};
use crate::reason::Reason;

/// The most alternatives shown for a function: the two best tell how close the choice was.
const ALTERNATIVES_MAX: usize = 2;
/// The most excluded nodes shown; in a large fabric most nodes are.
const EXCLUDED_MAX: usize = 3;

/// The constraints that the chosen node satisfies.
pub(crate) fn satisfied(ask: Ask<'_>) -> Vec<Reason> {
    describe(ask).into_iter().map(|constraint| Reason::Satisfies { constraint }).collect()
}

/// How far the input is.
pub(crate) fn near(board: &Board, from: usize, to: usize) -> Option<Reason> {
    let link = board.link(from, to);
    Some(Reason::Near { node: board.view(from)?.node.clone(), rtt_us: link.rtt_us, basis: link.basis })
}

/// The next best nodes, and by how much they would have been slower.
pub(crate) fn alternatives(
    board: &Board,
    through_us: &BTreeMap<usize, u64>,
    best_us: u64,
    chosen: usize,
    function: Option<&FunctionName>,
) -> Vec<Reason> {
    let mut others: Vec<(u64, usize)> = through_us
        .iter()
        .filter(|(spot, _)| **spot != chosen)
        .map(|(spot, us)| (us.saturating_sub(best_us), *spot))
        .collect();
    others.sort_unstable();
    let reason = |(slower_us, spot): (u64, usize)| {
        let node = board.view(spot)?.node.clone();
        Some(Reason::Alternative { function: function.cloned(), node, slower_us })
    };
    others.into_iter().take(ALTERNATIVES_MAX).filter_map(reason).collect()
}

/// Live nodes that a constraint rules out; nodes that miss least come first.
pub(crate) fn excluded(board: &Board, chosen: usize, ask: Ask<'_>) -> Vec<Reason> {
    let mut missing: Vec<_> =
        board.live_spots().filter(|spot| *spot != chosen).map(|s| (board.violations(s, ask), s)).collect();
    missing.retain(|(violations, _)| !violations.is_empty());
    missing.sort_by_key(|(violations, spot)| (violations.len(), *spot));
    let reason = |(violations, spot): (Vec<crate::board::Violation>, usize)| {
        let because = violations.iter().map(|v| v.why.as_str()).collect::<Vec<_>>().join(" and ");
        Some(Reason::Excluded { node: board.view(spot)?.node.clone(), because })
    };
    missing.into_iter().take(EXCLUDED_MAX).filter_map(reason).collect()
}
