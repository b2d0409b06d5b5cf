//! Reasons and predictions, from what was chosen and what was not.

use std::collections::BTreeMap;

use littoral_model::id::FunctionName;
use littoral_model::manifest::Objectives;

use crate::board::{Ask, Board, describe};
use crate::objective::Terms;
use crate::reason::Reason;
use crate::spec::FunctionSpec;

/// The most alternatives shown for a function: the two best tell how close the choice was.
const ALTERNATIVES_MAX: usize = 2;
/// The most excluded nodes shown; in a large fabric most nodes are.
const EXCLUDED_MAX: usize = 3;

/// The constraints that the chosen node satisfies.
pub(crate) fn satisfied(ask: Ask<'_>) -> Vec<Reason> {
    describe(ask).into_iter().map(|constraint| Reason::Satisfies { constraint }).collect()
}

/// What a function takes, if that was measured.
pub(crate) fn measured(name: &FunctionName, function: &FunctionSpec) -> Option<Reason> {
    function.execution_us.map(|p95_us| Reason::Measured { function: name.clone(), p95_us })
}

/// How far the input is.
pub(crate) fn near(board: &Board<'_>, from: usize, to: usize) -> Option<Reason> {
    let link = board.link(from, to);
    Some(Reason::Near { node: board.view(from)?.node.clone(), rtt_us: link.rtt_us, basis: link.basis })
}

/// The next best nodes, and by how much they would have been worse; also those that would have been better, had `slo_us` not
/// been passed with them.
pub(crate) fn alternatives(
    board: &Board<'_>,
    through: &BTreeMap<usize, Terms>,
    best: Terms,
    chosen: usize,
    (objectives, slo_us, function): (Objectives, Option<u64>, Option<&FunctionName>),
) -> Vec<Reason> {
    let mut others: Vec<(u64, usize, Terms)> = through
        .iter()
        .filter(|(spot, _)| **spot != chosen)
        .map(|(spot, terms)| (terms.score(objectives), *spot, *terms))
        .collect();
    others.sort_unstable();
    let slo_us = slo_us.filter(|slo_us| best.latency_us <= *slo_us);
    let reason = |(_, spot, terms): (u64, usize, Terms)| {
        let (function, node) = (function.cloned(), board.view(spot)?.node.clone());
        if let Some(slo_us) = slo_us.filter(|slo_us| terms.latency_us > *slo_us) {
            return Some(Reason::TooSlow { function, node, p95_us: terms.latency_us, slo_us });
        }
        Some(Reason::Alternative {
            function,
            node,
            slower_us: terms.latency_us.saturating_sub(best.latency_us),
            weighed: terms.compare(best, objectives),
        })
    };
    others.into_iter().take(ALTERNATIVES_MAX).filter_map(reason).collect()
}

/// Live nodes that a constraint rules out; nodes that miss least come first.
pub(crate) fn excluded(board: &Board<'_>, chosen: usize, ask: Ask<'_>) -> Vec<Reason> {
    let mut missing: Vec<_> =
        board.live_spots().filter(|spot| *spot != chosen).map(|s| (board.violations(s, ask), s)).collect();
    missing.retain(|(violations, _)| !violations.is_empty());
    missing.sort_by_key(|(violations, spot)| (violations.len(), *spot));
    let reason = |(violations, spot): (Vec<crate::admission::Violation>, usize)| {
        let because = violations.iter().map(|v| v.why.as_str()).collect::<Vec<_>>().join(" and ");
        Some(Reason::Excluded { node: board.view(spot)?.node.clone(), because })
    };
    missing.into_iter().take(EXCLUDED_MAX).filter_map(reason).collect()
}
