//! The optimum of a chain, against trying every way.

use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use super::*;

type Case = (Vec<Layer>, Vec<u64>, Vec<u64>, Vec<Pair>);

const SPOTS: usize = 4;

fn cases() -> impl Strategy<Value = Case> {
    let choice = (0u64..50, 0u64..20, 0u64..3, 0u64..30);
    let join = prop_oneof![Just(Join::Separate), Just(Join::MayFuse), Just(Join::MayFuse), Just(Join::Beside)];
    let options = proptest::collection::btree_map(0..SPOTS, choice, 1..=SPOTS);
    let share = prop::sample::select(vec![200, 1_000, 2_000]).prop_map(|permille| Share::ALL.behind(permille));
    let layer = (options, join, 0u64..40, share).prop_map(|(options, join, memory_bytes, share)| Layer {
        options: options
            .into_iter()
            .map(|(spot, (enter_us, execute_us, load, carbon_us))| {
                let terms = Terms { carbon_us, ..Terms::default() };
                Choice { spot, enter_us, execute_us, load, terms }
            })
            .collect(),
        join,
        memory_bytes,
        stays: false,
        share,
    });
    let layers = proptest::collection::vec(layer, 1..=4);
    let hops = proptest::collection::vec(0u64..40, SPOTS * SPOTS);
    let free = proptest::collection::vec(0u64..90, SPOTS);
    let scope = prop_oneof![Just(Scope::Node), Just(Scope::Site)];
    let pair = (0usize..4, 0usize..4, scope, any::<bool>());
    let pairs = proptest::collection::vec(pair, 0..3).prop_map(|pairs| {
        let pairs = pairs.into_iter().filter(|(one, other, ..)| one != other);
        pairs.map(|(one, other, scope, apart)| Pair { one, other, scope, apart }).collect()
    });
    (layers, hops, free, pairs)
}

fn extend((from, share): (&Choice, Share), way: &Way, to: &Choice, join: Join, rules: &Rules<'_>) -> Option<Way> {
    let terms = way.terms.and(transition((from, share), to, join, rules)?);
    let load = way.load.saturating_add(if is_fused(from, to, join) { 0 } else { to.load });
    let spots = way.spots.iter().chain([&to.spot]).copied().collect();
    Some(Way { score: terms.score(rules.objectives), load, spots, terms })
}

fn every_way(layers: &[Layer], rules: &Rules<'_>) -> Vec<Way> {
    let mut ways: Vec<(Option<(Choice, Share)>, Way)> = vec![(None, Way::default())];
    for layer in layers {
        ways =
            ways.iter()
                .flat_map(|(from, way)| {
                    layer.options.iter().filter_map(move |to| match from {
                        None => {
                            let terms = own(to);
                            let score = terms.score(rules.objectives);
                            Some((Some((*to, layer.share)), Way { score, load: to.load, spots: vec![to.spot], terms }))
                        }
                        Some((from, share)) => extend((from, *share), way, to, layer.join, rules)
                            .map(|way| (Some((*to, layer.share)), way)),
                    })
                })
                .collect();
    }
    ways.into_iter().map(|(_, way)| way).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, rng_seed: RngSeed::Fixed(1), ..ProptestConfig::with_cases(400) })]

    #[test]
    fn the_optimum_is_that_of_brute_force((layers, hops, free, pairs) in cases(), carbon in 0u32..3) {
        let hop = |a: usize, b: usize, share: Share| {
            Some(Terms::latency(if a == b { 0 } else { share.of(hops[a * SPOTS + b]) }))
        };
        let free_bytes = |spot: usize| free[spot];
        // Two sites of two nodes each.
        let together = |scope, a: usize, b: usize| if scope == Scope::Node { a == b } else { a / 2 == b / 2 };
        let objectives = Objectives { carbon, ..Objectives::default() };
        let rules = Rules { hop: &hop, free_bytes: &free_bytes, together: &together, pairs: &pairs, objectives };
        let ways = every_way(&layers, &rules);
        let fits = |way: &&Way| overfull(&layers, way, &free_bytes).is_none() && unmet(way, &rules).is_none();
        let best = ways.iter().filter(fits).min();
        match optimum(&layers, &rules) {
            Ok(solution) => {
                let found = best.map(|best| (best.score, best.load, &best.spots));
                prop_assert_eq!(Some((solution.way.score, solution.way.load, &solution.way.spots)), found);
                for (depth, costs) in solution.through.iter().enumerate() {
                    for (spot, cost) in costs {
                        let least = ways.iter().filter(|way| way.spots[depth] == *spot).map(|way| way.score).min();
                        prop_assert_eq!(Some(cost.score(objectives)), least);
                    }
                }
            }
            Err(NoWay::Apart) => prop_assert!(ways.is_empty()),
            Err(_) => prop_assert!(best.is_none()),
        }
    }

    #[test]
    fn where_a_way_within_the_limit_fits_one_is_found((layers, hops, free, pairs) in cases(), limit_us in 0u64..250) {
        let hop = |a: usize, b: usize, share: Share| {
            Some(Terms::latency(if a == b { 0 } else { share.of(hops[a * SPOTS + b]) }))
        };
        let free_bytes = |spot: usize| free[spot];
        let together = |scope, a: usize, b: usize| if scope == Scope::Node { a == b } else { a / 2 == b / 2 };
        let objectives = Objectives { latency: 0, carbon: 2, ..Objectives::default() };
        let rules = Rules { hop: &hop, free_bytes: &free_bytes, together: &together, pairs: &pairs, objectives };
        let ways = every_way(&layers, &rules);
        let fits = |way: &&Way| overfull(&layers, way, &free_bytes).is_none() && unmet(way, &rules).is_none();
        let quick: Vec<&Way> = ways.iter().filter(fits).filter(|way| way.terms.latency_us <= limit_us).collect();
        let Ok(found) = optimum_within(&layers, &rules, Some(limit_us)) else { return Ok(()) };
        prop_assert!(fits(&&found.way));
        prop_assert_eq!(found.way.terms.latency_us <= limit_us, !quick.is_empty());
        // Of those that are as quick as what was found, none is better; where time is short, the rest is what it costs.
        let better = quick.iter().filter(|way| way.terms.latency_us <= found.way.terms.latency_us);
        let least = better.map(|way| way.terms.score(objectives)).min();
        prop_assert!(quick.is_empty() || least == Some(found.way.terms.score(objectives)));
    }
}
