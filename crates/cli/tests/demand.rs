//! A function is brought to the node whose callers its placement leaves waiting.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;
#[path = "../../runtime-wasm/tests/support/mod.rs"]
mod support;

use common::*;

/// What is cheapest is preferred, and the objective is one that no call over a link can hold.
const APP: &str = r#"
name = "desk"
version = "1.0.0"
objectives = { cost = 1 }

[functions.front]
component = "handler.wasm"
timeout = "30s"
slo = "10us"

[[routes]]
path = "/*"
function = "front"
"#;

/// The options of a node whose cores have a price.
fn priced(world: &World, name: &str, price: &str) -> String {
    let file = world.path(&format!("{name}.toml"));
    std::fs::write(&file, format!("core-hour-price = {price}\n")).unwrap();
    file.to_str().unwrap().to_owned()
}

#[test]
fn callers_whose_objective_is_violated_get_an_instance_of_their_own() {
    let world = World::new();
    let cloud = world.first_with("cloud-1", &["--tier", "cloud", "--situation", &priced(&world, "cloud-1", "0.01")]);
    let (token, dear) = (cloud.token(&world, "10min"), priced(&world, "edge-1", "90.0"));
    let names = ["--name", "edge-1", "--tier", "edge", "--site", "hall", "--situation", &dear];
    let ports = ["--listen", ANY_PORT, "--http", ANY_PORT, "--join", &token];
    let edge = world.start("edge-1", &[&names[..], &ports[..]].concat());
    eventually("they see each other", || edge.sees(&world).len() == 2 && cloud.sees(&world).len() == 2);
    let folder = world.path("desk");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("handler.wasm"), support::sdk_example("fabric")).unwrap();
    std::fs::write(folder.join("littoral.toml"), APP).unwrap();
    cloud.tell(&world, &["deploy", folder.to_str().unwrap()]);
    eventually("the cheap node serves the edge's callers", || edge.get("/context").contains("node: \"cloud-1\""));

    eventually_within(STORY_MAX, "they have an instance of their own", || {
        edge.get("/context").contains("node: \"edge-1\"")
    });
    let functions = cloud.json(&world, &["get", "functions", "-o", "json"]);
    let nodes = functions[0]["nodes"].as_array().unwrap_or_else(|| panic!("{functions}"));
    assert!(nodes.iter().any(|node| node == "cloud-1"), "the first one stays: {functions}");
    let told = || {
        let report = cloud.json(&world, &["events", "--app", "desk", "-o", "json"]);
        let events = report["events"].as_array().unwrap().clone();
        let of = |kind: &str| {
            events
                .iter()
                .filter(|event| event["kind"] == kind)
                .map(|event| event["text"].to_string())
                .collect::<String>()
        };
        (of("action"), of("restored"))
    };
    assert!(told().0.contains("took longer than its objective: it is brought here"), "{:?}", told());
    eventually("it is told what that achieved", || {
        edge.get("/context");
        told().1.contains("elsewhere they took")
    });
}
