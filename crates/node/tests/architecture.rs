//! Keeps ARCHITECTURE.md's code map and the crate graph the same, and engines inside the one crate that may name them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

type Graph = BTreeMap<String, BTreeSet<String>>;

/// Which crate alone may depend on packages with this prefix.
const ENGINES: [(&str, &str); 5] =
    [("zenoh", "mesh"), ("wasmtime", "runtime-wasm"), ("redb", "store"), ("openraft", "store"), ("axum", "node")];

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

fn metadata() -> serde_json::Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version", "1", "--offline"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Normal dependencies of each of our crates.
fn dependencies() -> Graph {
    let metadata = metadata();
    let packages = metadata["packages"].as_array().unwrap();
    packages
        .iter()
        .map(|package| {
            let dependencies = package["dependencies"].as_array().unwrap();
            let normal = dependencies.iter().filter(|dependency| dependency["kind"].is_null());
            let names = normal.map(|dependency| dependency["name"].as_str().unwrap().to_owned()).collect();
            (package["name"].as_str().unwrap().to_owned(), names)
        })
        .collect()
}

fn short(name: &str) -> Option<String> {
    name.strip_prefix("littoral-").map(str::to_owned)
}

fn drawn() -> Graph {
    let text = std::fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let map = text.split("## Code map").nth(1).unwrap().split("\n## ").next().unwrap();
    let rows = map.lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let names = cells.last().unwrap().split(',').map(|name| name.trim().trim_matches('`').to_owned());
        (cells[0].trim_matches('`').to_owned(), names.filter(|name| !name.is_empty()).collect())
    })
    .collect()
}

#[test]
fn the_code_map_is_true() {
    let real: Graph = dependencies()
        .into_iter()
        .map(|(name, dependencies)| (short(&name).unwrap(), dependencies.iter().filter_map(|name| short(name)).collect()))
        .collect();
    assert_eq!(drawn(), real, "ARCHITECTURE.md's code map (left) and the crates' dependencies (right) differ");
}

#[test]
fn engines_are_named_by_one_crate_only() {
    for (name, dependencies) in dependencies() {
        for (prefix, owner) in ENGINES {
            let names_it = dependencies.iter().any(|dependency| dependency.starts_with(prefix));
            assert!(!names_it || short(&name).as_deref() == Some(owner), "{name} depends on {prefix}; only {owner} may");
        }
    }
}

#[test]
fn pure_crates_know_no_runtime() {
    let graph = dependencies();
    for name in ["littoral-model", "littoral-plan", "littoral-control"] {
        for banned in ["tokio", "zenoh", "futures", "rand", "rustix"] {
            assert!(!graph[name].contains(banned), "{name} is pure and must not depend on {banned}");
        }
    }
}
