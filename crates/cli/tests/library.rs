//! Operators of a library: found by name, told what its index says that they may be told, and run in flows of SQL.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;
#[path = "../../runtime-wasm/tests/support/mod.rs"]
mod support;

use std::process::Output;

use common::*;
use serde_json::{Value, json};

/// How many readings are published, one a second of their own time, half a second behind it.
const READINGS: usize = 200;
/// Which of them is unlike the others.
const UNUSUAL: usize = 150;

const FLOWS: &str = "\
CREATE FLOW unusual AS
  SELECT machine, ts, heat FROM judge(decode(readings)) AS judged
    (machine text, ts timestamp, heat double, score double, anomaly boolean)
  WHERE anomaly;

CREATE FLOW even DEAD LETTER INTO bad AS
  SELECT machine, ts, heat FROM grid(decode(readings)) AS grid (machine text, ts timestamp, heat double);

CREATE FLOW seldom AS
  SELECT machine, ts, heat FROM once(decode(readings)) AS once (machine text, ts timestamp, heat double);
";

fn heat(number: usize) -> f64 {
    let swing = [0.0, 1.0, 0.5, -1.0, -0.5][number % 5];
    20.0 + swing + if number == UNUSUAL { 40.0 } else { 0.0 }
}

fn moment(half_seconds: usize) -> String {
    let (seconds, half) = (half_seconds / 2, if half_seconds % 2 == 1 { ".500" } else { "" });
    format!("2024-01-01T00:{:02}:{:02}{half}Z", seconds / 60, seconds % 60)
}

/// The repository's library, built, in a folder of its own.
fn library(world: &World) -> String {
    let (folder, from) = (world.path("shared"), support::repository().join("library"));
    std::fs::create_dir_all(folder.join("target/wasm32-wasip2/release")).unwrap();
    std::fs::copy(from.join("library.toml"), folder.join("library.toml")).unwrap();
    for name in ["decode", "resample", "anomaly", "nearest", "deduplicate"] {
        let component = support::workspace_component("library", name);
        std::fs::write(folder.join(format!("target/wasm32-wasip2/release/{name}.wasm")), component).unwrap();
    }
    folder.to_str().unwrap().to_owned()
}

/// Runs a command that sees the library.
fn ask(world: &World, node: &Node, library: &str, arguments: &[&str]) -> Output {
    node.littoral(world).env("LITTORAL_LIBRARY", library).args(arguments).output().unwrap()
}

/// A function that is an operator: told each default that the index has, so that they are values that it takes, and these settings.
fn function(
    world: &World,
    node: &Node,
    library: &str,
    (name, operator): (&str, &str),
    settings: &[(&str, &str)],
) -> String {
    let shown = ask(world, node, library, &["library", "show", operator, "-o", "json"]);
    let shown: Value = serde_json::from_slice(&shown.stdout).unwrap();
    let mut config = serde_json::Map::new();
    for (name, parameter) in shown["parameters"].as_object().unwrap() {
        if let Some(default) = parameter["default"].as_str() {
            config.insert(name.clone(), json!(default));
        }
    }
    config.extend(settings.iter().map(|(name, value)| ((*name).to_owned(), json!(value))));
    let config: String = config.iter().map(|(name, value)| format!("{name} = {value}\n")).collect();
    format!("[functions.{name}]\ncomponent = \"library:{operator}@1\"\n[functions.{name}.config]\n{config}")
}

fn rows(world: &World, node: &Node, stream: &str) -> Vec<Value> {
    let text = String::from_utf8(node.ask(world, &["stream", "tail", stream, "--from", "start"]).stdout).unwrap();
    let rows = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let plain = |row: Value| {
        let row = row.get("row").cloned().unwrap_or(row);
        json!([row["machine"], row["ts"], row["heat"]])
    };
    rows.map(plain).collect()
}

#[test]
fn operators_are_found_by_name_and_run_in_flows() {
    let world = World::new();
    let (node, library) = (world.first("node-1"), library(&world));
    let of = |names, settings: &[(&str, &str)]| function(&world, &node, &library, names, settings);
    let keys = [("key", "machine"), ("time", "ts")];
    let functions = [
        of(("decode", "decode"), &[("columns", "machine text not null, ts timestamp not null, heat double")]),
        of(("judge", "anomaly"), &[&keys[..], &[("value", "heat"), ("learning", "1min")]].concat()),
        of(("grid", "resample"), &[&keys[..], &[("values", "heat"), ("every", "2s")]].concat()),
        of(("once", "deduplicate"), &[&keys[..], &[("within", "20s")]].concat()),
    ];
    let folder = world.path("mill");
    std::fs::create_dir_all(&folder).unwrap();
    let manifest = format!("name = \"mill\"\nversion = \"1.0.0\"\n[streams.readings]\n{}", functions.concat());
    std::fs::write(folder.join("flows.sql"), FLOWS).unwrap();
    let deploy = |manifest: &str| {
        std::fs::write(folder.join("littoral.toml"), manifest).unwrap();
        ask(&world, &node, &library, &["deploy", folder.to_str().unwrap(), "--no-build"])
    };

    for (from, to, said) in [
        ("library:anomaly@1", "library:anomly@1", "did you mean `anomaly`?"),
        ("library:anomaly@1", "library:anomaly@3", "expected a version that begins one of 1.0.0"),
        ("half-life", "half-live", "did you mean `half-life`?"),
        ("every = \"2s\"", "every = \"2\"", "expected a time"),
    ] {
        let refused = deploy(&manifest.replace(from, to));
        assert_eq!(refused.status.code(), Some(2));
        assert!(errors(&refused).contains(said), "{}", errors(&refused));
    }
    let unknown = node.ask(&world, &["deploy", folder.to_str().unwrap(), "--no-build"]);
    assert!(errors(&unknown).contains("LITTORAL_LIBRARY"), "without a library: {}", errors(&unknown));

    let deployed = deploy(&manifest);
    assert!(deployed.status.success(), "{}", errors(&deployed));
    let reading =
        |number| json!({ "machine": "press", "ts": moment(2 * number + 1), "heat": heat(number) }).to_string();
    let readings: String = (0..READINGS).map(|number| reading(number) + "\n").collect();
    let file = world.path("readings.json");
    std::fs::write(&file, readings + "{}\n").unwrap();
    node.tell(&world, &["stream", "publish", "mill/readings", "--file", file.to_str().unwrap()]);

    // Half-way between two readings the line between them is at their mean.
    let between = |second: &usize| json!(["press", moment(2 * second), (heat(second - 1) + heat(*second)) / 2.0]);
    let even: Vec<Value> = (1..READINGS).filter(|second| second % 2 == 0).map(|second| between(&second)).collect();
    eventually("all are on the grid", || rows(&world, &node, "mill/even").len() >= even.len());
    assert_eq!(rows(&world, &node, "mill/even"), even);
    let as_it_is = |number: usize| json!(["press", moment(2 * number + 1), heat(number)]);
    eventually("what is unusual is found", || !rows(&world, &node, "mill/unusual").is_empty());
    assert_eq!(rows(&world, &node, "mill/unusual"), [as_it_is(UNUSUAL)]);
    let seldom: Vec<Value> = (0..READINGS).step_by(20).map(as_it_is).collect();
    eventually("one each twenty seconds passes", || rows(&world, &node, "mill/seldom").len() >= seldom.len());
    assert_eq!(rows(&world, &node, "mill/seldom"), seldom);
    eventually("what is no reading is rejected", || rows(&world, &node, "mill/bad").len() == 1);
}
