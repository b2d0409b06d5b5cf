//! What holds for every placement: constraints, memory, determinism, stickiness.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::{BTreeMap, BTreeSet};

use littoral_model::digest::LinkReport;
use littoral_model::id::{AppId, AppName, Epoch, NodeId, TenantId, Tier};
use littoral_model::manifest::{Objectives, Partitioning};
use littoral_model::situation::Situation;
use littoral_model::work::Assignment;
use littoral_plan::{
    AppSpec, Candidate, Constraints, Fabric, FlowSpec, FunctionSpec, Interface, NodeFacts, NodeView, Now, Placement,
    SAME_PERMILLE, Serving, Sink, StreamSpec, compile,
};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

fn constraints() -> impl Strategy<Value = Constraints> {
    let tiers = proptest::collection::btree_set(proptest::sample::select(Tier::ALL.to_vec()), 0..=2);
    let sites = proptest::collection::btree_set((0u8..3).prop_map(|n| format!("site-{n}").parse().unwrap()), 0..=1);
    let label = prop_oneof![4 => Just(None), 1 => Just(Some("gpu"))];
    let near = prop_oneof![4 => Just(None), 1 => Just(Some("source")), 1 => Just(Some("sink"))];
    (tiers, sites, label, near).prop_map(|(tiers, sites, label, near)| Constraints {
        tiers: if tiers.len() == 1 { tiers } else { BTreeSet::new() },
        sites,
        labels: label.map(|key| (key.to_owned(), "yes".to_owned())).into_iter().collect(),
        near: near.map(|name| name.parse().unwrap()),
        ..Constraints::any()
    })
}

fn node() -> impl Strategy<Value = (usize, u8, bool, u32, u64, u32, bool)> {
    (0usize..4, 0u8..3, any::<bool>(), 1u32..5, 0u64..200, 0u32..6, prop::bool::weighted(0.85))
}

fn fabrics() -> impl Strategy<Value = Fabric> {
    let links = proptest::collection::vec((0usize..6, 0usize..6, 100u64..90_000), 0..12);
    (proptest::collection::vec(node(), 1..7), links).prop_map(|(nodes, links)| {
        let name = |at: usize| NodeId::new(format!("node-{at}")).unwrap();
        let views = nodes.into_iter().enumerate().map(|(at, (tier, site, gpu, cores, mib, works, alive))| NodeView {
            node: name(at),
            tier: Tier::ALL[tier],
            site: format!("site-{site}").parse().unwrap(),
            labels: gpu.then(|| ("gpu".to_owned(), "yes".to_owned())).into_iter().collect(),
            situation: Situation::default(),
            cores,
            memory_bytes: mib << 20,
            memory_promised_bytes: 0,
            works,
            alive,
        });
        let reports = links
            .into_iter()
            .map(|(a, b, rtt_us)| (name(a), LinkReport { peer: name(b), rtt_us, bandwidth_bps: None }));
        Fabric::new(views, reports)
    })
}

fn specs() -> impl Strategy<Value = AppSpec> {
    let function = (constraints(), 1u64..80);
    let streams = proptest::collection::vec((constraints(), proptest::option::of(1u32..4)), 3);
    (proptest::collection::vec(function, 1..4), streams).prop_map(|(functions, streams)| {
        let names: Vec<_> = (0..functions.len()).map(|at| format!("f{at}")).collect();
        let functions = names.iter().zip(functions).map(|(name, (placement, mib))| {
            let (artifact, memory_bytes, execution_us) = (name.clone(), mib << 20, None);
            let interface = Interface::Stage;
            (
                name.parse().unwrap(),
                FunctionSpec {
                    artifact,
                    interface,
                    memory_bytes,
                    placement,
                    execution_us,
                    partitioning: Partitioning::Any,
                    output_permille: SAME_PERMILLE,
                },
            )
        });
        let streams = ["source", "sink", "rejected"].iter().zip(streams).map(|(name, (placement, partitions))| {
            (name.parse().unwrap(), StreamSpec { partitions, placement, ..StreamSpec::default() })
        });
        let flow = FlowSpec {
            source: "source".parse().unwrap(),
            stages: names.iter().map(|name| name.parse().unwrap()).collect(),
            sink: Some(Sink::Stream("sink".parse().unwrap())),
            outputs: BTreeMap::new(),
            dead_letter: Some("rejected".parse().unwrap()),
            slo_us: None,
        };
        AppSpec {
            app: AppId { tenant: TenantId::default_tenant(), app: AppName::new("demo").unwrap() },
            functions: functions.collect(),
            streams: streams.collect(),
            flows: BTreeMap::from([("flow".parse().unwrap(), flow)]),
            queues: BTreeMap::new(),
            connectors: Vec::new(),
            objectives: Objectives::default(),
        }
    })
}

fn satisfies(view: &NodeView, asked: &Constraints) -> bool {
    (asked.tiers.is_empty() || asked.tiers.contains(&view.tier))
        && (asked.sites.is_empty() || asked.sites.contains(&view.site))
        && asked.labels.iter().all(|(key, value)| view.labels.get(key) == Some(value))
}

fn check(fabric: &Fabric, placement: &Placement) -> Result<(), TestCaseError> {
    let mut memory: BTreeMap<&NodeId, u64> = BTreeMap::new();
    for placed in &placement.works {
        let owner = &fabric.nodes[&placed.owner];
        prop_assert!(owner.alive);
        prop_assert_eq!(&owner.site, &placed.work.site);
        prop_assert_eq!(placed.replicas.first(), Some(&placed.owner));
        for replica in &placed.replicas {
            let view = &fabric.nodes[replica];
            prop_assert_eq!(&view.site, &placed.work.site);
            prop_assert!(satisfies(view, &placed.requires));
        }
        *memory.entry(&placed.owner).or_default() += placed.memory_bytes;
    }
    for (node, bytes) in memory {
        prop_assert!(bytes <= fabric.nodes[node].memory_bytes);
    }
    Ok(())
}

fn assignments(placement: &Placement) -> Vec<Assignment> {
    let assignment = |placed: &littoral_plan::PlacedWork| Assignment {
        work: placed.work.clone(),
        owner: placed.owner.clone(),
        epoch: Epoch(1),
        replicas: placed.replicas.clone(),
        in_sync: placed.replicas.clone(),
    };
    placement.works.iter().map(assignment).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, rng_seed: RngSeed::Fixed(1), ..ProptestConfig::with_cases(400) })]

    #[test]
    fn constraints_hold_and_answers_repeat(spec in specs(), fabric in fabrics()) {
        let first = compile(&spec, &fabric, &[]);
        prop_assert_eq!(&first, &compile(&spec, &fabric, &[]));
        match first {
            Ok(placement) => check(&fabric, &placement)?,
            Err(refusal) => prop_assert!(!refusal.findings.is_empty()),
        }
    }

    #[test]
    fn who_sees_fewer_nodes_serves_at_least_as_much(
        full in proptest::collection::btree_set(0u8..20, 1..20),
        hidden in proptest::collection::btree_set(0u8..20, 0..10),
        wanted in 1u32..6,
        first in proptest::collection::vec(0u8..20, 0..4),
    ) {
        let name = |at: &u8| NodeId::new(format!("node-{at}")).unwrap();
        let serving = Serving {
            function: "f".parse().unwrap(),
            artifact: String::new(),
            requires: Constraints::any(),
            memory_bytes: 1,
            wanted,
            first: first.iter().map(name).collect(),
        };
        let (site, labels, situation) = ("hall".parse().unwrap(), BTreeMap::new(), Situation::default());
        let chosen = |seen: &BTreeSet<u8>| -> BTreeSet<NodeId> {
            let nodes: Vec<NodeId> = seen.iter().map(name).collect();
            let now = Now::default();
            let facts = |node| NodeFacts { node, tier: Tier::Edge, site: &site, labels: &labels, situation: &situation, now };
            let live = nodes.iter().map(|node| Candidate { node, facts: facts(node), memory_bytes: 1 });
            serving.nodes(live, |_| Vec::new()).into_iter().cloned().collect()
        };
        let partial: BTreeSet<u8> = full.difference(&hidden).copied().collect();
        let (all, some) = (chosen(&full), chosen(&partial));
        prop_assert_eq!(all.len(), full.len().min(wanted as usize));
        for node in partial.iter().map(name).filter(|node| all.contains(node)) {
            prop_assert!(some.contains(&node), "{} serves where all are seen and not where fewer are", node);
        }
    }

    #[test]
    fn nothing_moves_without_need(spec in specs(), fabric in fabrics(), grown in 0u32..4) {
        let Ok(placement) = compile(&spec, &fabric, &[]) else { return Ok(()) };
        let mut later = fabric;
        for view in later.nodes.values_mut() {
            view.works += grown;
        }
        let mut held = assignments(&placement);
        // What the keeper has for itself is no placement's to retire.
        held.extend(held.first().cloned().map(|mut own| {
            own.work.name = "~serving".to_owned();
            own
        }));
        let again = compile(&spec, &later, &held).unwrap();
        prop_assert!(again.retired.is_empty());
        for (before, after) in placement.works.iter().zip(&again.works) {
            prop_assert_eq!((&before.work, &before.owner, &before.role), (&after.work, &after.owner, &after.role));
        }
        check(&later, &again)?;
    }

    #[test]
    fn a_death_moves_only_what_the_dead_node_owned(spec in specs(), fabric in fabrics(), dead in 0usize..6) {
        let Ok(placement) = compile(&spec, &fabric, &[]) else { return Ok(()) };
        let mut later = fabric;
        let Some(view) = later.nodes.values_mut().nth(dead) else { return Ok(()) };
        view.alive = false;
        let dead = view.node.clone();
        let Ok(again) = compile(&spec, &later, &assignments(&placement)) else { return Ok(()) };
        for before in &placement.works {
            let Some(after) = again.work(&before.work) else { continue };
            if before.owner != dead {
                prop_assert_eq!(&before.owner, &after.owner);
            } else if before.replicas.len() > 1 {
                prop_assert!(before.replicas.contains(&after.owner));
            }
        }
    }
}
