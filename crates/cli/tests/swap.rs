//! Replacing a function of a flow that runs: it goes on with its state, no record is lost or doubled, and the pause is told.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;
#[path = "../../runtime-wasm/tests/support/mod.rs"]
mod support;

use std::path::PathBuf;

use common::*;
use serde_json::Value;

const MANIFEST: &str = r#"
name = "tally"
version = "1.0.0"

[functions.count]
component = "count.wasm"

[streams.values]
partitions = 2

[streams.counts]
partitions = 2

[flows.counting]
source = "values"
stages = ["count"]
sink = "counts"
dead-letter = "bad"

[streams.bad]
"#;

/// The same with a cheaper variant.
const VARIED: &str = r#"component = "count.wasm"
variants = [{ name = "coarse", component = "coarse.wasm" }]"#;

/// What the component says of a value that is none, and what its next versions say.
const SAYS: [&str; 4] = ["is no number", "is none: v-1", "is none: v-2", "is none: v-3"];

/// The component as a version that says something else.
fn version(component: &[u8], number: usize) -> Vec<u8> {
    let (before, after) = (SAYS[0].as_bytes(), SAYS[number].as_bytes());
    let at = component.windows(before.len()).position(|part| part == before).unwrap();
    [&component[..at], after, &component[at + before.len()..]].concat()
}

fn publish(world: &World, node: &Node, key: &str, values: std::ops::Range<u32>) {
    let lines: String = values.map(|value| format!("{{\"key\":\"{key}\",\"value\":\"{value}\"}}\n")).collect();
    let file = world.path("values.ndjson");
    std::fs::write(&file, lines).unwrap();
    node.tell(world, &["stream", "publish", "tally/values", "--ndjson", "--file", file.to_str().unwrap()]);
}

/// How many rows of a key were counted, in the order in which they came out.
fn counts(world: &World, node: &Node, key: &str) -> Vec<i64> {
    let output = node.ask(world, &["stream", "tail", "tally/counts", "--from", "start"]);
    let rows = String::from_utf8(output.stdout).unwrap();
    let rows = rows.lines().map(|row| serde_json::from_str::<Value>(row).unwrap());
    let rows = rows.map(|row| row.get("row").cloned().unwrap_or(row));
    rows.filter(|row| row["key"] == key).map(|row| row["count"].as_i64().unwrap()).collect()
}

/// What is said of a value that is none, which is the next after so many.
fn reason(world: &World, node: &Node, before: usize) -> String {
    node.tell(world, &["stream", "publish", "tally/values", "--key", "odd", "--value", "odd"]);
    let mut reasons = Vec::new();
    eventually("it is rejected", || {
        let output = node.ask(world, &["stream", "tail", "tally/bad", "--from", "start"]);
        let rows = String::from_utf8(output.stdout).unwrap();
        let rows = rows.lines().map(|row| serde_json::from_str::<Value>(row).unwrap());
        reasons = rows.map(|row| row["reason"].as_str().unwrap().to_owned()).collect();
        reasons.len() > before
    });
    let reason = &reasons[before];
    SAYS.into_iter().find(|said| reason.ends_with(said)).unwrap_or_else(|| panic!("{reason}")).to_owned()
}

/// The folder of an app with these components, which is deployed.
fn deployed(world: &World, node: &Node, manifest: &str, components: &[(&str, &[u8])]) -> PathBuf {
    let folder = world.path("tally");
    std::fs::create_dir_all(&folder).unwrap();
    for (name, component) in components {
        std::fs::write(folder.join(name), component).unwrap();
    }
    std::fs::write(folder.join("littoral.toml"), manifest).unwrap();
    node.tell(world, &["deploy", folder.to_str().unwrap()]);
    folder
}

#[test]
fn a_function_is_replaced_while_its_flow_runs() {
    let world = World::new();
    let node = world.first("cloud-1");
    let component = support::sdk_example("count");
    deployed(&world, &node, MANIFEST, &[("count.wasm", &component)]);
    for (swap, from) in (1..SAYS.len()).zip((0..).step_by(100)) {
        publish(&world, &node, "a", from..from + 50);
        publish(&world, &node, "b", from..from + 50);
        let file = world.path("count.wasm");
        std::fs::write(&file, version(&component, swap)).unwrap();
        assert_eq!(reason(&world, &node, swap - 1), SAYS[swap - 1]);
        let file = file.to_str().unwrap();
        let report = node.json(&world, &["swap", "tally/count", file, "-o", "json"]);
        let stages = report["stages"].as_array().unwrap();
        assert_eq!(stages.len(), 2, "{report}");
        for stage in stages {
            assert!(stage["pause_ms"].as_f64().is_some_and(|ms| ms > 0.0) && stage["node"] == "cloud-1", "{report}");
        }
        let again = errors(&node.ask(&world, &["swap", "tally/count", file]));
        assert!(again.contains("count is that component already"), "{again}");
        publish(&world, &node, "a", from + 50..from + 100);
        publish(&world, &node, "b", from + 50..from + 100);
    }
    for key in ["a", "b"] {
        eventually("all are counted", || counts(&world, &node, key).len() >= 300);
        assert_eq!(counts(&world, &node, key), (1..=300).collect::<Vec<i64>>());
    }
    assert_eq!(reason(&world, &node, SAYS.len() - 1), SAYS[SAYS.len() - 1]);
    // What cannot run does not take the place of what does.
    let file = world.path("broken.wasm");
    std::fs::write(&file, b"no component").unwrap();
    let output = node.ask(&world, &["swap", "tally/count", file.to_str().unwrap(), "--timeout", "2s"]);
    assert!(!output.status.success());
    publish(&world, &node, "a", 300..310);
    eventually("what ran before goes on", || counts(&world, &node, "a").len() == 310);
    eventually("it is said why", || {
        node.json(&world, &["get", "flows", "-o", "json"])[0]["reasons"].to_string().contains("count")
    });
    for (arguments, said) in [
        (["tally/cuont", file.to_str().unwrap()], "the app has no function cuont"),
        (["telly/count", file.to_str().unwrap()], "there is no app telly"),
        (["tally/count", "/nowhere.wasm"], "/nowhere.wasm cannot be read"),
    ] {
        let said_instead = errors(&node.ask(&world, &[&["swap"], &arguments[..]].concat()));
        assert!(said_instead.contains(said), "{said_instead}");
    }
}

#[test]
fn a_variant_runs_in_a_functions_place_and_back_while_its_flow_runs() {
    let world = World::new();
    let node = world.first("cloud-1");
    let component = support::sdk_example("count");
    let components = [("count.wasm", &component[..]), ("coarse.wasm", &version(&component, 1))];
    let manifest = MANIFEST.replace("component = \"count.wasm\"", VARIED);
    let folder = deployed(&world, &node, &manifest, &components);
    let runs = || -> Vec<Value> {
        let flows = node.json(&world, &["get", "flows", "-o", "json"]);
        flows[0]["stages"].as_array().unwrap().iter().map(|stage| stage["runs"]["variants"]["count"].clone()).collect()
    };
    eventually("its own component runs", || runs() == ["count", "count"]);
    for (swap, (variant, before, after)) in
        [("coarse", 0, 1), ("count", 1, 0), ("coarse", 0, 1)].into_iter().enumerate()
    {
        let from = u32::try_from(swap).unwrap() * 100;
        publish(&world, &node, "a", from..from + 50);
        publish(&world, &node, "b", from..from + 50);
        assert_eq!(reason(&world, &node, swap), SAYS[before]);
        let report = node.json(&world, &["swap", "tally/count", "--variant", variant, "-o", "json"]);
        let stages = report["stages"].as_array().unwrap();
        assert_eq!(stages.len(), 2, "{report}");
        assert!(stages.iter().all(|stage| stage["pause_ms"].as_f64().is_some_and(|ms| ms > 0.0)), "{report}");
        assert_eq!(runs(), [variant, variant]);
        let again = errors(&node.ask(&world, &["swap", "tally/count", "--variant", variant]));
        assert!(again.contains(&format!("{variant} is the usual variant of count already")), "{again}");
        publish(&world, &node, "a", from + 50..from + 100);
        publish(&world, &node, "b", from + 50..from + 100);
        if swap == 2 {
            assert_eq!(reason(&world, &node, swap + 1), SAYS[after]);
        }
    }
    for key in ["a", "b"] {
        eventually("all are counted", || counts(&world, &node, key).len() >= 300);
        assert_eq!(counts(&world, &node, key), (1..=300).collect::<Vec<i64>>());
    }
    let wide = node.ask(&world, &["get", "flows", "-o", "wide"]);
    assert!(String::from_utf8_lossy(&wide.stdout).contains("count: coarse"), "{wide:?}");
    let explained = node.ask(&world, &["flow", "explain", folder.to_str().unwrap()]);
    assert!(String::from_utf8_lossy(&explained.stdout).contains("count as coarse"), "{explained:?}");
    let file = folder.join("count.wasm");
    for (arguments, said) in [
        (&["--variant", "coarser"][..], "count has no variant coarser"),
        (&[file.to_str().unwrap()][..], "count runs its variant coarse"),
    ] {
        let said_instead = errors(&node.ask(&world, &[&["swap", "tally/count"], arguments].concat()));
        assert!(said_instead.contains(said), "{said_instead}");
    }
}
