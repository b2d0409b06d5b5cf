//! Network coordinates on round trips that were measured between cities: what a node predicts of those it never measured.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::{BTreeMap, BTreeSet};

use littoral_model::condition::Coordinate;
use littoral_plan::coordinate::{Locator, RTT_US_MAX, STEP_US_MAX, estimate_us, is_known};

const WAN: &str = include_str!("data/wan-rtt-2020-06-20.tsv");
/// How many others each node measures.
const NEIGHBOURS: usize = 8;
const ROUNDS: usize = 200;

/// SplitMix64.
struct Draws(u64);

impl Draws {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

/// The cities' round trips in microseconds, both ways.
fn wan() -> (usize, BTreeMap<(usize, usize), u64>) {
    let mut names: Vec<&str> = Vec::new();
    let mut number = |name| {
        names.iter().position(|known| *known == name).unwrap_or_else(|| {
            names.push(name);
            names.len() - 1
        })
    };
    let mut rtts = BTreeMap::new();
    for line in WAN.lines().filter(|line| !line.starts_with('#')) {
        let mut fields = line.split('\t');
        let (a, b) = (number(fields.next().unwrap()), number(fields.next().unwrap()));
        let rtt_us = (fields.next().unwrap().parse::<f64>().unwrap() * 1_000.0) as u64;
        rtts.extend([((a, b), rtt_us), ((b, a), rtt_us)]);
    }
    (names.len(), rtts)
}

/// Lets all nodes measure some others for a while, of which the first `liars` lie; the median of the relative errors
/// of what honest nodes predict of the pairs that were not measured, the share of those that count as known, and all
/// coordinates.
fn run(seed: u64, liars: usize) -> (f64, f64, Vec<Coordinate>) {
    let (count, rtts) = wan();
    let mut draws = Draws(seed);
    let mut nodes = vec![Locator::default(); count];
    let mut neighbours: Vec<BTreeSet<usize>> = Vec::new();
    for node in 0..count {
        let mut others = BTreeSet::new();
        while others.len() < NEIGHBOURS {
            let other = draws.below(count);
            if rtts.contains_key(&(node, other)) {
                others.insert(other);
            }
        }
        neighbours.push(others);
    }
    for _ in 0..ROUNDS {
        for node in 0..count {
            let other = *neighbours[node].iter().nth(draws.below(NEIGHBOURS)).unwrap();
            let (mut rtt_us, mut peer) = (rtts[&(node, other)], nodes[other].coordinate());
            // A tenth of a queue now and then, as real samples have it.
            rtt_us += rtt_us * (draws.below(100) as u64 / 90) / 10;
            if other < liars {
                let far = |draw: u64| (draw % 400_000) as i32 - 200_000;
                let point_us = [far(draws.next()), far(draws.next()), far(draws.next())];
                peer = Coordinate { point_us, height_us: 0, error_permille: 0 };
                rtt_us = draws.next() % (2 * RTT_US_MAX);
            }
            let draw = draws.next();
            nodes[node].observe(rtt_us, &peer, draw);
        }
    }
    let coordinates: Vec<Coordinate> = nodes.iter().map(Locator::coordinate).collect();
    let unmeasured = |a: usize, b: usize| a < b && !neighbours[a].contains(&b) && !neighbours[b].contains(&a);
    let judged: Vec<(f64, bool)> = rtts
        .iter()
        .filter(|((a, b), _)| unmeasured(*a, *b) && *a >= liars)
        .map(|((a, b), rtt_us)| {
            let (a, b) = (&coordinates[*a], &coordinates[*b]);
            (estimate_us(a, b).abs_diff(*rtt_us) as f64 / *rtt_us as f64, is_known(a, b))
        })
        .collect();
    assert!(judged.len() > 100, "there must be something to predict: {}", judged.len());
    let mut errors: Vec<f64> = judged.iter().map(|(error, _)| *error).collect();
    errors.sort_by(f64::total_cmp);
    let known = judged.iter().filter(|(_, known)| *known).count() as f64 / judged.len() as f64;
    (errors[errors.len() / 2], known, coordinates)
}

#[test]
fn the_median_prediction_of_unmeasured_wan_pairs_errs_by_less_than_15_percent() {
    let medians: Vec<f64> = (1..=5).map(|seed| run(seed, 0).0).collect();
    println!("median relative errors: {medians:.3?}");
    assert!(medians.iter().all(|median| *median < 0.15), "{medians:?}");
    let (_, known, _) = run(1, 0);
    assert!(known > 0.9, "honest nodes are sure of themselves: {known}");
}

#[test]
fn a_node_that_lies_and_measures_nonsense_does_not_spoil_the_others() {
    let medians: Vec<f64> = (1..=5).map(|seed| run(seed, 1).0).collect();
    println!("median relative errors beside a liar: {medians:.3?}");
    assert!(medians.iter().all(|median| *median < 0.30), "{medians:?}");
}

#[test]
fn equal_draws_give_equal_coordinates() {
    assert_eq!(run(3, 0).2, run(3, 0).2);
}

#[test]
fn absurd_samples_are_refused_and_steps_are_bounded() {
    let mut locator = Locator::default();
    let peer = Coordinate { point_us: [1_000, 0, 0], height_us: 10, error_permille: 100 };
    for absurd in [0, RTT_US_MAX + 1, u64::MAX] {
        assert!(!locator.observe(absurd, &peer, 1));
    }
    for absurd in [
        Coordinate { point_us: [i32::MIN, 0, 0], ..peer },
        Coordinate { point_us: [0, 0, i32::MAX], ..peer },
        Coordinate { height_us: u32::MAX, ..peer },
    ] {
        assert!(!locator.observe(50_000, &absurd, 1));
    }
    assert_eq!(locator.coordinate(), Locator::default().coordinate());
    // The other claims to be perfectly sure, and infinitely unsure: neither moves us farther.
    for error_permille in [0, u16::MAX] {
        let before = locator.coordinate();
        assert!(locator.observe(RTT_US_MAX, &Coordinate { error_permille, ..peer }, 1));
        let moved =
            estimate_us(&Coordinate { height_us: 0, ..before }, &Coordinate { height_us: 0, ..locator.coordinate() });
        let risen = locator.coordinate().height_us.abs_diff(before.height_us);
        assert!(moved <= STEP_US_MAX as u64 + 2 && u64::from(risen) <= STEP_US_MAX as u64, "{moved} {risen}");
    }
    assert!(!is_known(&peer, &Coordinate { error_permille: 1_000, ..peer }));
}

#[test]
fn two_nodes_at_one_place_part_and_agree_on_their_round_trip() {
    let (mut a, mut b) = (Locator::default(), Locator::default());
    for draw in 0..200_u64 {
        a.observe(40_000, &b.coordinate(), draw.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        b.observe(40_000, &a.coordinate(), draw.wrapping_mul(0xbf58_476d_1ce4_e5b9));
    }
    let predicted = estimate_us(&a.coordinate(), &b.coordinate());
    assert!(predicted.abs_diff(40_000) < 2_000, "{predicted}");
}
