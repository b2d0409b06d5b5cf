//! Tests of [`super`].

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]
use std::collections::BTreeMap;

use super::*;

fn candidate(name: &str, site: &str, tier: Tier, rtt_us: u64) -> Candidate {
    Candidate {
        node: name.parse().unwrap(),
        site: site.parse().unwrap(),
        tier,
        rtt_us,
        execution_us: 10_000,
        queue: 0,
        cores: 2,
        is_able: true,
    }
}

/// The nodes in order, asked from node `self` of tier `edge` and site `hall`.
fn ordered(key: Option<&str>, draw: u64, candidates: &[Candidate]) -> Vec<String> {
    let (node, site) = ("self".parse().unwrap(), "hall".parse().unwrap());
    let asking = Asking { node: &node, site: &site, tier: Tier::Edge, key, budget_us: 200_000, draw };
    order(&asking, candidates.to_vec()).into_iter().map(|choice| choice.node.to_string()).collect()
}

fn hall(count: usize) -> Vec<Candidate> {
    (0..count).map(|at| candidate(&format!("edge-{at}"), "hall", Tier::Edge, 300)).collect()
}

#[test]
fn nothing_near_escalates_a_tier_at_a_time_and_then_to_anyone() {
    let mut all = vec![
        candidate("cloud", "dc", Tier::Cloud, 40_000),
        candidate("far-edge", "shop", Tier::Edge, 20_000),
        candidate("region", "metro", Tier::Region, 60_000),
        candidate("town-edge", "depot", Tier::Edge, 2_000),
        candidate("home", "hall", Tier::Device, 90_000),
    ];
    for draw in 0..20 {
        let order = ordered(None, draw, &all);
        assert_eq!(order[2..], ["region", "cloud"], "{order:?}");
        assert!(order[0] == "town-edge" || order[0] == "home", "{order:?}");
    }
    all[3].is_able = false;
    all[4].queue = 1_000;
    assert_eq!(ordered(None, 1, &all), ["region", "cloud", "far-edge", "home"], "the dead one comes last");
    // A region too slow for the budget is passed over.
    all[2].rtt_us = 250_000;
    assert_eq!(ordered(None, 1, &all), ["cloud", "far-edge", "home", "region"]);
    assert!(ordered(None, 1, &[]).is_empty());
}

#[test]
fn of_two_drawn_ones_the_less_loaded_is_asked_and_load_spreads() {
    let mut all = hall(10);
    for draw in 0..10_000_u64 {
        let first = &ordered(None, draw.wrapping_mul(0x9e37_79b9_7f4a_7c15), &all)[0];
        all.iter_mut().find(|candidate| candidate.node.as_str() == first).unwrap().queue += 1;
    }
    let queues: Vec<u32> = all.iter().map(|candidate| candidate.queue).collect();
    let (least, most) = (queues.iter().min().unwrap(), queues.iter().max().unwrap());
    // Of one choice only, the deviation would be some thirty.
    assert!(most - least <= 10, "{queues:?}");
    all[3].queue = 5_000;
    assert!((0..1_000).all(|draw| ordered(None, draw, &all)[0] != "edge-3"), "the most loaded loses against any");
}

#[test]
fn oneself_is_asked_unless_another_is_quicker_with_the_way_there() {
    let mut all = hall(4);
    all.push(candidate("self", "hall", Tier::Edge, 0));
    assert!((0..100).all(|draw| ordered(None, draw, &all)[0] == "self"));
    all[4].queue = 10;
    assert!((0..100).all(|draw| ordered(None, draw, &all)[0] != "self"));
}

#[test]
fn a_key_stays_and_only_the_keys_of_a_dead_instance_move() {
    let mut all = hall(5);
    let keys: Vec<String> = (0..1_000).map(|at| format!("user-{at}")).collect();
    let place = |all: &[Candidate]| -> BTreeMap<String, String> {
        let first = |key: &String| ordered(Some(key), 7, all)[0].clone();
        keys.iter().map(|key| (key.clone(), first(key))).collect()
    };
    let before = place(&all);
    all[0].queue = 300;
    all.rotate_left(2);
    assert_eq!(place(&all), before, "neither load nor order moves a key");
    let mut elsewhere: Vec<_> =
        all.iter().map(|at| Candidate { site: "shop".parse().unwrap(), ..at.clone() }).collect();
    for rtt_us in [NEAR_RTT_US - 1, NEAR_RTT_US + 1] {
        elsewhere[0].rtt_us = rtt_us;
        assert_eq!(place(&elsewhere), before, "nor does a round trip that is measured anew");
    }
    let mut counts: BTreeMap<&String, u32> = BTreeMap::new();
    before.values().for_each(|node| *counts.entry(node).or_default() += 1);
    assert!(counts.len() == 5 && counts.values().all(|count| (140..260).contains(count)), "{counts:?}");
    let dead = all.iter().position(|candidate| candidate.node.as_str() == "edge-2").unwrap();
    all[dead].is_able = false;
    for (key, node) in place(&all) {
        assert!(before[&key] == "edge-2" || before[&key] == node, "{key} moved from {} to {node}", before[&key]);
        assert_ne!(node, "edge-2");
    }
}

#[test]
fn a_hedge_waits_for_the_95th_percentile_or_twice_the_guess() {
    assert_eq!(hedge_after_us(1_000, Some(30_000), 5_000), 31_000);
    assert_eq!(hedge_after_us(1_000, None, 5_000), 11_000);
}
