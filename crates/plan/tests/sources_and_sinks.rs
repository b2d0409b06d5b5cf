//! Where sources and sinks are laid, what they are connected with, and that they stay.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod common;

use std::collections::BTreeSet;

use littoral_model::entry::{PORT_MAIN, partition_port};
use littoral_model::id::Epoch;
use littoral_model::work::{Assignment, WorkKind};
use littoral_plan::{ConnectorSpec, Constraints, Direction, PlacedWork, Placement, Role, Source, compile};

const FABRIC: &str = "
node edge-1 edge hall-7
node edge-2 edge hall-7
node cloud-1 cloud central
link edge-1 cloud-1 us=40000 mbit=50
link edge-2 cloud-1 us=40000 mbit=50
stream readings partitions=2 tier=edge
";

fn connector(direction: Direction, nodes: &[&str]) -> ConnectorSpec {
    let nodes = nodes.iter().map(|node| node.parse().unwrap()).collect();
    ConnectorSpec {
        name: "outside".parse().unwrap(),
        direction,
        stream: "readings".parse().unwrap(),
        placement: Constraints { nodes, ..Constraints::any() },
    }
}

fn of(placement: &Placement, kind: WorkKind) -> PlacedWork {
    placement.works.iter().find(|placed| placed.work.kind == kind).unwrap().clone()
}

#[test]
fn a_source_feeds_every_partition_and_a_sink_reads_every_one() {
    let mut scenario = common::parse(FABRIC);
    scenario.spec.connectors = vec![connector(Direction::In, &["edge-2"]), connector(Direction::Out, &[])];
    let placement = compile(&scenario.spec, &scenario.fabric, &[]).unwrap();
    let (source, sink) = (of(&placement, WorkKind::Source), of(&placement, WorkKind::Sink));
    assert_eq!(source.work.to_string(), "default/demo/source/outside/0@hall-7");
    assert_eq!((source.owner.as_str(), source.replicas.len()), ("edge-2", 1), "what is pinned has no copy elsewhere");
    assert!(matches!(&source.role, Role::Source { partitions, .. } if *partitions == [0, 1]), "{:?}", source.role);
    let partitions: Vec<&PlacedWork> = placement.works.iter().filter(|it| it.work.kind == WorkKind::Stream).collect();
    assert_eq!(partitions.len(), 2);
    for partition in &partitions {
        let port = partition_port(partition.work.partition);
        assert!(partition.role.inputs().eq([&Source { work: source.work.clone(), port }]));
    }
    // Beside the stream, and copied as it is.
    assert_eq!((sink.work.site.as_str(), sink.replicas.len()), ("hall-7", 2));
    let read: BTreeSet<Source> = sink.role.inputs().cloned().collect();
    let all = partitions.iter().map(|it| Source { work: it.work.clone(), port: PORT_MAIN.to_owned() }).collect();
    assert_eq!(read, all);
}

#[test]
fn one_that_is_there_stays_and_is_refused_where_it_may_not() {
    let mut scenario = common::parse(FABRIC);
    scenario.spec.connectors = vec![connector(Direction::Out, &[])];
    let held = Assignment {
        work: "default/demo/sink/outside/0@central".parse().unwrap(),
        owner: "cloud-1".parse().unwrap(),
        epoch: Epoch(3),
        replicas: vec!["cloud-1".parse().unwrap()],
        in_sync: vec!["cloud-1".parse().unwrap()],
    };
    let existing = [held];
    let stays = of(&compile(&scenario.spec, &scenario.fabric, &existing).unwrap(), WorkKind::Sink);
    assert_eq!((stays.owner.as_str(), stays.work.site.as_str()), ("cloud-1", "central"));
    scenario.spec.connectors = vec![connector(Direction::Out, &["edge-1"])];
    let refusal = compile(&scenario.spec, &scenario.fabric, &existing).unwrap_err().to_string();
    assert!(refusal.contains("sink outside") && refusal.contains("node=edge-1"), "{refusal}");
    scenario.spec.connectors = Vec::new();
    let without = compile(&scenario.spec, &scenario.fabric, &existing).unwrap();
    assert_eq!(without.retired, [existing[0].work.clone()], "nobody waits for it any more");
    scenario.spec.connectors = vec![connector(Direction::In, &["edge-9"])];
    let refusal = compile(&scenario.spec, &scenario.fabric, &[]).unwrap_err().to_string();
    assert!(refusal.contains("source outside") && refusal.contains("node=edge-9"), "{refusal}");
}
