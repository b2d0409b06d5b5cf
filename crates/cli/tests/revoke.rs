//! A node that was shut out takes no part any more, also with its key and its old data; the others go on.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use common::*;

const MANIFEST: &str = "name = \"notes\"\nversion = \"1.0.0\"\n[streams.notes]\n";

/// Starts a node of the hall.
fn join(world: &World, first: &Node, name: &str) -> Node {
    let token = first.token(world, "10min");
    let place = ["--name", name, "--tier", "edge", "--site", "hall", "--listen", ANY_PORT, "--http", ANY_PORT];
    world.start(name, &[&place[..], &["--join", &token]].concat())
}

#[test]
fn a_node_that_was_shut_out_stops_and_gets_in_no_more_not_even_with_its_old_data() {
    let world = World::new();
    let cloud = world.first("cloud-1");
    let (edge, lost) = (join(&world, &cloud, "edge-1"), join(&world, &cloud, "edge-2"));
    let all = ["cloud-1", "edge-1", "edge-2"];
    eventually("all see all", || [&cloud, &edge, &lost].iter().all(|node| node.sees(&world) == all));
    // What a thief has: its key, and its data of a time when nobody had shut it out.
    let stolen = lost.data.clone();
    assert_eq!(lost.stop(), 0);
    copy(&stolen, &world.path("stolen"));
    let mut lost = world.start("edge-2", &[]);
    eventually("it is back", || cloud.sees(&world) == all && lost.sees(&world) == all);

    // Without the administrator's key nobody is shut out.
    let refused = edge.ask(&world, &["node", "revoke", "edge-2"]);
    assert!(!refused.status.success() && errors(&refused).contains("--key"), "{}", errors(&refused));
    let key = cloud.data.join("admin");
    edge.tell(&world, &["node", "revoke", "edge-2", "--key", key.to_str().unwrap()]);
    lost.ended();
    assert!(lost.said().contains("shut out of the fabric"), "{}", lost.said());
    let mut again = world.spawn("edge-2", &[]);
    assert_eq!(again.ended(), 1);
    assert!(again.said().contains("was shut out of the fabric"), "{}", again.said());
    eventually("the others see two", || [&cloud, &edge].iter().all(|node| node.sees(&world) == ["cloud-1", "edge-1"]));
    let table = cloud.tell(&world, &["get", "nodes"]);
    assert!(table.lines().any(|line| line.contains("edge-2") && line.contains("revoked")), "{table}");

    let refuses = |node: &Node| node.said().contains("it is refused from now on");
    eventually("both refuse it", || refuses(&cloud) && refuses(&edge));

    // The thief's copy knows nothing of it. Nobody answers it, or counts it in.
    let thief = world.start("stolen", &[]);
    let turned_away = |node: &Node| node.said().contains("a node that was revoked still asks");
    eventually("it is turned away", || turned_away(&cloud) || turned_away(&edge));
    assert_eq!(thief.sees(&world), ["edge-2"]);
    eventually("nobody counts it in", || cloud.sees(&world) == ["cloud-1", "edge-1"]);
    // Nor is there a link to it once the others were started anew: its certificate is good no more.
    let listen = cloud.address("mesh/0");
    assert_eq!(cloud.stop(), 0);
    let cloud = world.start("cloud-1", &["--listen", &listen]);
    eventually("the others are together", || edge.sees(&world) == ["cloud-1", "edge-1"]);
    eventually("it has no link", || thief.said().contains("not linked to the fabric"));

    // The others go on.
    let folder = world.path("notes");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("littoral.toml"), MANIFEST).unwrap();
    cloud.tell(&world, &["deploy", folder.to_str().unwrap()]);
    edge.tell(&world, &["stream", "publish", "notes/notes", "--value", "still here"]);
}
