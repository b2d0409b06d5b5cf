//! Tests of [`super`].

#![allow(clippy::unwrap_used)]
use littoral_model::id::Tier;
use littoral_model::wire::VersionRange;

use super::*;
use crate::sample::tests::digest;

/// SplitMix64.
struct Draws(u64);

impl Draws {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (mixed ^ (mixed >> 31)) % bound
    }
}

/// A node of a mesh of twelve with ten functions.
fn busy_node() -> NodeDigest {
    let mut digest = digest("edge-1", "hall", Tier::Edge);
    digest.protocol = VersionRange::OURS;
    digest.functions = (0..10).map(|at| format!("default/shop/function-{at}")).collect();
    digest.condition.served = digest
        .functions
        .iter()
        .map(|function| Served { function: function.clone(), p50_us: 10_000, p95_us: 30_000, samples: 600, queue: 2 })
        .collect();
    digest.links = (0..11)
        .map(|at| LinkReport { peer: format!("n{at}").parse().unwrap(), rtt_us: 40_000, bandwidth_bps: None })
        .collect();
    digest.condition.coordinate = Some(Coordinate { error_permille: 100, ..Coordinate::default() });
    digest
}

/// Runs a node whose load is `noise` around its mean for ten minutes, looked at every 200 ms; bytes and announcements.
fn run(noise: u64, urgent_every_ms: u64) -> (u64, u64) {
    let (mut announcer, mut draws, mut digest) = (Announcer::default(), Draws(7), busy_node());
    let (mut bytes, mut count) = (0, 0);
    for now_ms in (0..600_000_u64).step_by(200) {
        let mut around = |mean: u64, width: u64| (mean - width / 2) + draws.below(width.max(1));
        let condition = &mut digest.condition;
        condition.busy_permille = around(500, 10 * noise) as u16;
        condition.run_queue = around(50, noise) as u16;
        condition.memory_free_bytes = around(8 << 30, noise << 26);
        condition.slowdown_permille = around(1_500, 20 * noise) as u16;
        for served in &mut condition.served {
            (served.p50_us, served.queue) = (around(10_000, 100 * noise) as u32, around(50, noise) as u32);
        }
        for link in &mut digest.links {
            link.rtt_us = around(40_000, 200 * noise);
        }
        if now_ms % urgent_every_ms == 0 {
            digest.works += 1;
        }
        if announcer.consider(now_ms, &digest) == Verdict::Announce {
            bytes += wire::encode(&digest).unwrap().len() as u64;
            count += 1;
        }
    }
    (bytes, count)
}

#[test]
fn a_noisy_load_stays_within_the_budget_of_bytes() {
    let (bytes, count) = run(80, u64::MAX);
    println!("noisy: {} bytes a second in {count} announcements", bytes / 600);
    assert!(bytes <= 600 * BYTES_PER_S + 2 * BURST_BYTES, "{bytes}");
    assert!(count > 20, "what has changed is told: {count}");
    // Urgent changes every second overdraw by one burst at the most.
    let (bytes, count) = run(80, 1_000);
    assert!(bytes <= 600 * BYTES_PER_S + 3 * BURST_BYTES, "{bytes} in {count}");
}

#[test]
fn a_load_that_wavers_is_told_once() {
    let (bytes, count) = run(10, u64::MAX);
    assert_eq!(count, 1, "{bytes} bytes");
}

#[test]
fn what_others_act_upon_is_told_at_once_although_the_budget_is_spent() {
    let (mut announcer, mut digest) = (Announcer::default(), busy_node());
    assert_eq!(announcer.consider(0, &digest), Verdict::Announce);
    assert_eq!(announcer.consider(1, &digest), Verdict::Same);
    let mut spent = false;
    for at in 0..100 {
        digest.condition.busy_permille = if at % 2 == 0 { 900 } else { 100 };
        if let Verdict::Wait { until_ms } = announcer.consider(1, &digest) {
            assert!(until_ms > 1);
            let mut later = announcer.clone();
            assert_eq!(later.consider(until_ms, &digest), Verdict::Announce, "then it is told");
            spent = true;
        }
    }
    assert!(spent);
    digest.functions.pop();
    assert_eq!(announcer.consider(1, &digest), Verdict::Announce);
}

#[test]
fn every_field_is_told_when_it_has_changed_enough() {
    let told = busy_node();
    let changed = |change: &dyn Fn(&mut NodeDigest)| {
        let mut now = told.clone();
        change(&mut now);
        super::change(&told, &now)
    };
    let noticeable: [&dyn Fn(&mut NodeDigest); 12] = [
        &|now| now.condition.busy_permille += 151,
        &|now| now.condition.run_queue += 4,
        &|now| now.condition.memory_free_bytes += 1 << 40,
        &|now| now.condition.slowdown_permille += 251,
        &|now| now.condition.machine.steps_per_us += 1,
        &|now| now.condition.artifacts.push(1),
        &|now| now.condition.coordinate = None,
        &|now| {
            now.condition.coordinate =
                Some(Coordinate { point_us: [2_001, 0, 0], error_permille: 100, ..Coordinate::default() })
        },
        &|now| now.condition.served[0].p95_us += 8_000,
        &|now| now.condition.served[0].queue += 4,
        &|now| drop(now.condition.served.pop()),
        &|now| now.links[3].rtt_us += 10_001,
    ];
    for (at, change) in noticeable.iter().enumerate() {
        assert_eq!(changed(change), Change::Noticeable, "{at}");
    }
    let urgent: [&dyn Fn(&mut NodeDigest); 5] = [
        &|now| now.works += 1,
        &|now| now.intent += 1,
        &|now| drop(now.functions.pop()),
        &|now| now.condition.ready.wasm ^= true,
        &|now| now.condition.clients.push("10.0.0.0/8".parse().unwrap()),
    ];
    for (at, change) in urgent.iter().enumerate() {
        assert_eq!(changed(change), Change::Urgent, "{at}");
    }
    assert_eq!(changed(&|now| now.condition.busy_permille += 150), Change::Nothing);
    assert_eq!(changed(&|now| now.sequence += 1), Change::Nothing);
}
