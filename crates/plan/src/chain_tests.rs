//! The optimum of a chain, against trying every way.

use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use super::*;

type Case = (Vec<Layer>, Vec<u64>, Vec<u64>);

const SPOTS: usize = 4;

fn cases() -> impl Strategy<Value = Case> {
    let choice = (0u64..50, 0u64..20, 0u64..3).prop_map(|(enter_us, execute_us, load)| (enter_us, execute_us, load));
    let join = prop_oneof![Just(Join::Separate), Just(Join::MayFuse), Just(Join::MayFuse), Just(Join::Beside)];
    let options = proptest::collection::btree_map(0..SPOTS, choice, 1..=SPOTS);
    let layer = (options, join, 0u64..40).prop_map(|(options, join, memory_bytes)| Layer {
        options: options
            .into_iter()
            .map(|(spot, (enter_us, execute_us, load))| Choice { spot, enter_us, execute_us, load })
            .collect(),
        join,
        memory_bytes,
    });
    let layers = proptest::collection::vec(layer, 1..=4);
    let hops = proptest::collection::vec(0u64..40, SPOTS * SPOTS);
    let free = proptest::collection::vec(0u64..90, SPOTS);
    (layers, hops, free)
}

fn every_way(layers: &[Layer], hop_us: &impl Fn(usize, usize) -> u64) -> Vec<Way> {
    let mut ways: Vec<(Option<Choice>, Way)> = vec![(None, Way::default())];
    for layer in layers {
        ways = ways
            .iter()
            .flat_map(|(from, way)| {
                layer.options.iter().filter_map(move |to| match from {
                    None => {
                        let latency_us = to.enter_us + to.execute_us;
                        Some((Some(*to), Way { latency_us, load: to.load, spots: vec![to.spot] }))
                    }
                    Some(from) => extend(from, way, to, layer.join, hop_us).map(|way| (Some(*to), way)),
                })
            })
            .collect();
    }
    ways.into_iter().map(|(_, way)| way).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, rng_seed: RngSeed::Fixed(1), ..ProptestConfig::with_cases(400) })]

    #[test]
    fn the_optimum_is_that_of_brute_force((layers, hops, free) in cases()) {
        let hop_us = |a: usize, b: usize| if a == b { 0 } else { hops[a * SPOTS + b] };
        let free_bytes = |spot: usize| free[spot];
        let ways = every_way(&layers, &hop_us);
        let best = ways.iter().filter(|way| overfull(&layers, way, &free_bytes).is_none()).min();
        match optimum(&layers, &hop_us, &free_bytes) {
            Ok(solution) => {
                prop_assert_eq!(Some(&solution.way), best);
                for (depth, costs) in solution.through_us.iter().enumerate() {
                    for (spot, cost) in costs {
                        let least = ways.iter().filter(|way| way.spots[depth] == *spot).map(|way| way.latency_us).min();
                        prop_assert_eq!(Some(*cost), least);
                    }
                }
            }
            Err(NoWay::Apart) => prop_assert!(ways.is_empty()),
            Err(NoWay::Memory) => prop_assert!(best.is_none()),
        }
    }
}
