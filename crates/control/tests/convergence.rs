//! Whatever dies and returns: in the end each unit of work that can have a live owner has one, and only one runs it.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use common::{Sim, digest, link, placed, placement};
use littoral_model::id::{NodeId, Tier};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

/// Rounds after which nothing may be left to do: elections are instant here, so that the longest wait is the grace for
/// nodes that were never seen (20 rounds), then moves, then replicas.
const ROUNDS_TO_SETTLE: usize = 30;

#[derive(Clone, Debug)]
enum Fault {
    Kill(usize),
    Pause(usize),
    Raise(usize),
    Wait(usize),
}

fn faults() -> impl Strategy<Value = Vec<Fault>> {
    let fault = prop_oneof![
        (0usize..7).prop_map(Fault::Kill),
        (0usize..7).prop_map(Fault::Pause),
        (0usize..7).prop_map(Fault::Raise),
        (0usize..7).prop_map(Fault::Raise),
        (1usize..25).prop_map(Fault::Wait),
    ];
    proptest::collection::vec(fault, 0..30)
}

fn fabric() -> Sim {
    let mut digests = vec![
        digest("cloud-1", Tier::Cloud, "central"),
        digest("device-1", Tier::Device, "field-1"),
        digest("edge-1", Tier::Edge, "hall-7"),
        digest("edge-2", Tier::Edge, "hall-7"),
        digest("metro-1", Tier::Region, "metro"),
        digest("metro-2", Tier::Region, "metro"),
        digest("metro-3", Tier::Region, "metro"),
    ];
    digests[2].links = vec![link("cloud-1", 40_000)];
    let works = vec![
        placed("stream/alerts/0@central", "cloud-1", &[]),
        placed("stream/readings/0@field-1", "device-1", &[]),
        placed("stream/health/0@hall-7", "edge-1", &["edge-2"]),
        placed("stream/health/1@hall-7", "edge-2", &["edge-1"]),
        placed("stream/scores/0@hall-7", "edge-1", &["edge-2"]),
        placed("stream/scores/0@metro", "metro-1", &["metro-2", "metro-3"]),
        placed("stream/scores/1@metro", "metro-2", &["metro-3", "metro-1"]),
    ];
    Sim::new(digests, placement(works, Vec::new()))
}

fn settle(sim: &mut Sim) -> Result<(), TestCaseError> {
    for _ in 0..ROUNDS_TO_SETTLE {
        sim.round();
    }
    prop_assert_eq!(sim.round(), 0, "something is still being done");
    Ok(())
}

fn check(sim: &Sim) -> Result<(), TestCaseError> {
    for group in sim.groups.values() {
        let living = group.voters.iter().filter(|node| sim.alive.contains(*node)).count();
        if living * 2 <= group.voters.len() {
            continue;
        }
        for assignment in group.assignments.values() {
            let could_live = assignment.in_sync.iter().any(|node| sim.alive.contains(node));
            prop_assert_eq!(sim.alive.contains(&assignment.owner), could_live, "{:?}", assignment);
            let runs =
                |node: &&NodeId| sim.running.get(*node).is_some_and(|works| works.contains_key(&assignment.work));
            let runners: Vec<&NodeId> = sim.alive.iter().filter(runs).collect();
            let expected: Vec<&NodeId> = sim.alive.get(&assignment.owner).into_iter().collect();
            prop_assert_eq!(runners, expected);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, rng_seed: RngSeed::Fixed(1), ..ProptestConfig::with_cases(150) })]

    #[test]
    fn agents_converge(faults in faults()) {
        let mut sim = fabric();
        let nodes: Vec<NodeId> = sim.digests.keys().cloned().collect();
        settle(&mut sim)?;
        check(&sim)?;
        prop_assert_eq!(sim.groups.values().map(|group| group.assignments.len()).sum::<usize>(), 7);
        for fault in faults {
            match fault {
                Fault::Kill(at) => sim.kill(&nodes[at]),
                Fault::Pause(at) => sim.pause(&nodes[at]),
                Fault::Raise(at) => sim.raise(&nodes[at]),
                Fault::Wait(rounds) => _ = (0..rounds).map(|_| sim.round()).sum::<usize>(),
            }
        }
        settle(&mut sim)?;
        check(&sim)?;
        let moves: usize = sim.groups.values().map(|group| group.moves.len()).sum();
        for node in &nodes {
            sim.raise(node);
        }
        settle(&mut sim)?;
        check(&sim)?;
        // What every group could mend before the others returned does not move for their return.
        let later: usize = sim.groups.values().map(|group| group.moves.len()).sum();
        prop_assert_eq!(moves, later);
        for group in sim.groups.values() {
            for assignment in group.assignments.values() {
                prop_assert!(sim.alive.contains(&assignment.owner));
            }
        }
    }
}
