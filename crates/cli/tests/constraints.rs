//! Constraints on real nodes: what a battery's level, fed by its maker's file, does to a function.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;
#[path = "../../runtime-wasm/tests/support/mod.rs"]
mod support;

use common::*;

const APP: &str = r#"
name = "watch"
version = "1.0.0"

[functions.front]
component = "handler.wasm"
timeout = "30s"
placement = { tier = "edge", battery-above = "30%" }

[[routes]]
path = "/*"
function = "front"
"#;

/// States how full a node's battery is, as its maker's program would: the file is replaced whole.
fn feed(world: &World, name: &str, percent: u8) {
    let folder = world.path(&format!("{name}-situation"));
    std::fs::create_dir_all(&folder).unwrap();
    let text = format!("[power]\nsource = \"battery\"\nbattery = \"{percent}%\"\n");
    std::fs::write(folder.join("next"), text).unwrap();
    std::fs::rename(folder.join("next"), folder.join("situation.toml")).unwrap();
}

/// Starts a node at the edge that reads its situation from a file.
fn edge(world: &World, first: &Node, name: &str, percent: u8) -> Node {
    feed(world, name, percent);
    let file = world.path(&format!("{name}-situation")).join("situation.toml");
    let token = first.token(world, "10min");
    let ports = ["--listen", ANY_PORT, "--http", ANY_PORT, "--join", &token, "--situation", file.to_str().unwrap()];
    world.start(name, &[&["--name", name, "--tier", "edge", "--site", "hall"], &ports[..]].concat())
}

#[test]
fn a_function_is_served_elsewhere_when_a_battery_runs_low() {
    let world = World::new();
    let cloud = world.first("cloud-1");
    let nodes = [edge(&world, &cloud, "edge-1", 80), edge(&world, &cloud, "edge-2", 20)];
    eventually("they see each other", || nodes.iter().chain([&cloud]).all(|node| node.sees(&world).len() == 3));
    let folder = world.path("watch");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("handler.wasm"), support::sdk_example("fabric")).unwrap();
    std::fs::write(folder.join("littoral.toml"), APP).unwrap();
    cloud.tell(&world, &["deploy", folder.to_str().unwrap()]);

    let served_by = |name: &str| cloud.get("/context").contains(&format!("node: \"{name}\""));
    eventually("edge-1 serves it", || served_by("edge-1"));
    // One that has become able leaves it where it is; it takes over when the other is no longer able.
    feed(&world, "edge-2", 90);
    feed(&world, "edge-1", 30);
    eventually("edge-2 serves it", || served_by("edge-2"));
    // Asked directly, too, edge-1 passes on what it may not serve itself.
    eventually("edge-1 passes it on", || nodes[0].get("/context").contains("node: \"edge-2\""));
    // A level that flaps about the limit does not bring it back.
    feed(&world, "edge-1", 31);
    assert!(served_by("edge-2"));
    // With both low nobody serves it, and a new plan says why.
    feed(&world, "edge-2", 10);
    eventually("nobody serves it", || cloud.get("/context").starts_with("HTTP/1.1 503"));
    let refused = |needle: &str| {
        let output = cloud.ask(&world, &["plan", folder.to_str().unwrap()]);
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), errors(&output));
        !output.status.success() && said.contains(needle)
    };
    eventually("the plan names it", || refused("battery-above=30%"));
    feed(&world, "edge-1", 60);
    eventually("edge-1 serves it again", || served_by("edge-1"));
}

#[test]
fn a_stream_goes_to_its_copy_when_its_owners_battery_runs_low_and_loses_nothing() {
    let world = World::new();
    let cloud = world.first("cloud-1");
    let nodes = [edge(&world, &cloud, "edge-1", 80), edge(&world, &cloud, "edge-2", 80)];
    eventually("they see each other", || nodes.iter().chain([&cloud]).all(|node| node.sees(&world).len() == 3));
    let folder = world.path("notes");
    std::fs::create_dir_all(&folder).unwrap();
    let app = "name = \"notes\"\nversion = \"1.0.0\"\n[streams.notes]\nack = \"site\"\n\
        placement = { tier = \"edge\", battery-above = \"30%\" }\n";
    std::fs::write(folder.join("littoral.toml"), app).unwrap();
    cloud.tell(&world, &["deploy", folder.to_str().unwrap()]);
    let partition = || cloud.json(&world, &["get", "streams", "-o", "json"])[0]["partitions"][0].clone();
    eventually("it has two copies", || partition()["in_sync"].as_array().is_some_and(|nodes| nodes.len() == 2));
    let publish = |value| cloud.tell(&world, &["stream", "publish", "notes/notes", "--value", value]);
    publish("before");
    let mut owner = None;
    eventually("it has an owner", || {
        owner = partition()["owner"].as_str().map(str::to_owned);
        owner.is_some()
    });
    let owner = owner.unwrap();
    let other = if owner == "edge-1" { "edge-2" } else { "edge-1" };
    feed(&world, &owner, 25);
    eventually("the other one owns it", || partition()["owner"] == other);
    publish("after");
    let stored = cloud.tell(&world, &["stream", "tail", "notes/notes", "--from", "start"]);
    assert!(stored.contains("\"before\"") && stored.contains("\"after\""), "{stored}");
    // It stays there when the first one may have it again.
    feed(&world, &owner, 90);
    publish("later");
    eventually("it stays there", || partition()["owner"] == other);
}
