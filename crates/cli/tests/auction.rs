//! Deployments that compete: what one node has is promised once.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;
#[path = "../../runtime-wasm/tests/support/mod.rs"]
mod support;

use std::fmt::Write as _;

use common::*;

/// The share of a machine's memory that functions may use, times 60 %: two such apps do not fit.
const SHARE: f64 = 0.75 * 0.6;

/// An app for the cloud that takes more than half of what a node has. Its folder.
fn app(world: &World, name: &str) -> String {
    let folder = world.path(name);
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("f.wasm"), support::test_guest("detector")).unwrap();
    let total: u64 =
        std::fs::read_to_string("/proc/meminfo").unwrap().split_whitespace().nth(1).unwrap().parse().unwrap();
    let mib = (total as f64 / 1024.0 * SHARE) as u64;
    let functions = mib / 2048 + 1;
    let mut manifest = format!("name = \"{name}\"\nversion = \"1.0.0\"\n");
    for number in 0..functions {
        let memory = mib / functions;
        write!(
            manifest,
            "[functions.f{number}]\ncomponent = \"f.wasm\"\nmemory = \"{memory}MiB\"\nplacement = {{ tier = \"cloud\" }}\n"
        )
        .unwrap();
    }
    std::fs::write(folder.join("littoral.toml"), manifest).unwrap();
    folder.to_str().unwrap().to_owned()
}

#[test]
fn two_deployments_at_once_are_not_promised_the_same_memory() {
    let world = World::new();
    let cloud = world.first_with("cloud-1", &["--tier", "cloud"]);
    let token = cloud.token(&world, "10min");
    let joining = ["--name", "edge-1", "--tier", "edge", "--site", "hall", "--listen", ANY_PORT, "--http", ANY_PORT];
    let edge = world.start("edge-1", &[&joining[..], &["--join", &token]].concat());
    eventually("both see both", || [&cloud, &edge].iter().all(|node| node.sees(&world).len() == 2));
    let apps = [app(&world, "one"), app(&world, "two")];
    let key = cloud.data.join("admin");
    let deploy =
        |node: &Node, app: &str| node.ask(&world, &["deploy", app, "--no-build", "--key", key.to_str().unwrap()]);
    let outputs = std::thread::scope(|scope| {
        let deploying = [&cloud, &edge].into_iter().zip(&apps);
        let deploying: Vec<_> = deploying.map(|(node, app)| scope.spawn(|| deploy(node, app))).collect();
        deploying.into_iter().map(|deployed| deployed.join().unwrap()).collect::<Vec<_>>()
    });
    let accepted: Vec<usize> = (0..2).filter(|at| outputs[*at].status.success()).collect();
    assert!(accepted.len() <= 1, "both were accepted");
    for refused in outputs.iter().filter(|output| !output.status.success()) {
        let said = errors(refused);
        assert!(said.contains("memory=") || said.contains("refused what they had offered"), "{said}");
    }
    // Whoever lost gets its place when the other one goes, and not before; if both lost, the first to try again does.
    let (held, waits) = if accepted == [1] { (1, 0) } else { (0, 1) };
    eventually("one is deployed", || deploy(&cloud, &apps[held]).status.success());
    let said = errors(&deploy(&edge, &apps[waits]));
    assert!(said.contains("memory=") && said.contains("cloud-1"), "{said}");
    cloud.tell(&world, &["delete", ["one", "two"][held]]);
    // What was leased for the one is held for a minute.
    eventually_within(STORY_MAX, "the other one is", || deploy(&edge, &apps[waits]).status.success());
}
