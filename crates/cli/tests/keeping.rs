//! An objective that does not hold because one node is overloaded: it is said why, something is done, it holds again.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;
#[path = "../../runtime-wasm/tests/support/mod.rs"]
mod support;

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::*;

const MANIFEST: &str = r#"
name = "press"
version = "1.0.0"

[functions.count]
component = "count.wasm"
timeout = "30s"
placement = { site = "hall" }

[streams.strokes]
partitions = 1
ack = "local"
placement = { tier = "cloud" }

[flows.wear]
source = "strokes"
stages = ["count"]
slo = "600ms"

[[routes]]
path = "/strokes"
stream = "strokes"
"#;
/// The overloaded node has the processor for a sixth of the time: too short to be quick, also as a copy (which is not waited for any
/// more when it was silent for 1.5 seconds), and long enough to be a member, also on a busy machine (a link is given up after two).
const STOPPED: Duration = Duration::from_millis(1_700);
const RUNS: Duration = Duration::from_millis(300);
/// About how far apart records are.
const RECORD_EVERY: Duration = Duration::from_millis(25);

/// What happened to the app, as kind and text.
fn events(world: &World, node: &Node) -> Vec<(String, String)> {
    let report = node.json(world, &["events", "--app", "press", "-o", "json"]);
    let text = |event: &serde_json::Value, field: &str| event[field].as_str().unwrap().to_owned();
    report["events"].as_array().unwrap().iter().map(|event| (text(event, "kind"), text(event, "text"))).collect()
}

/// Who runs the stage, by the status of the flow.
fn owner(world: &World, node: &Node) -> Option<(String, usize)> {
    let flows = node.json(world, &["get", "flows", "-o", "json"]);
    let stage = &flows[0]["stages"][0];
    Some((stage["owner"].as_str()?.to_owned(), stage["in_sync"].as_array()?.len()))
}

#[test]
fn a_stage_on_an_overloaded_node_is_moved_and_the_objective_holds_again() {
    let world = World::new();
    let cloud = world.first_with("cloud-1", &["--tier", "cloud"]);
    let edges = ["edge-1", "edge-2"].map(|name| {
        let token = cloud.token(&world, "10min");
        let joining = [
            "--name", name, "--tier", "edge", "--site", "hall", "--listen", ANY_PORT, "--http", ANY_PORT, "--join",
            &token,
        ];
        world.start(name, &joining)
    });
    eventually("all see all", || edges.iter().chain([&cloud]).all(|node| node.sees(&world).len() == 3));
    let folder = world.path("press");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("count.wasm"), support::sdk_example("count")).unwrap();
    std::fs::write(folder.join("littoral.toml"), MANIFEST).unwrap();
    cloud.tell(&world, &["deploy", folder.to_str().unwrap(), "--no-build"]);
    let mut first = None;
    eventually("the stage has its state on both edges", || {
        first = owner(&world, &cloud).filter(|(_, in_sync)| *in_sync == 2).map(|(owner, _)| owner);
        first.is_some()
    });
    let first = first.unwrap();
    let overloaded = &edges[usize::from(first == "edge-2")];
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                let posted = cloud.post("/strokes", "1.5");
                assert!(posted.starts_with("HTTP/1.1 200"), "{posted}");
                thread::sleep(RECORD_EVERY);
            }
        });
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                overloaded.signal(Signal::STOP);
                thread::sleep(STOPPED);
                overloaded.signal(Signal::CONT);
                thread::sleep(RUNS);
            }
        });
        let _over = Over(&is_over);
        let (mut told, begun) = (Vec::new(), Instant::now());
        while !told.iter().any(|(kind, _)| kind == "restored") {
            assert!(begun.elapsed() < STORY_MAX, "it does not hold again: {told:?}");
            thread::sleep(RECORD_EVERY * 10);
            told = events(&world, &cloud);
        }
    });
    let mut told = Vec::new();
    eventually("all of it is told", || {
        told = events(&world, &cloud);
        ["violated", "action", "restored"].iter().all(|wanted| told.iter().any(|(kind, _)| kind == wanted))
    });
    let of = |wanted: &str| told.iter().find(|(kind, _)| kind == wanted).map(|(_, text)| text.as_str());
    assert!(of("violated").unwrap().contains("took longer than"), "{told:?}");
    let action = of("action").unwrap();
    assert!(
        action.starts_with(&format!("stage count on {first} adds")) && action.contains("was predicted"),
        "{told:?}"
    );
    let restored = of("restored").unwrap();
    assert!(restored.contains("what was done helped, p95 ") && restored.contains(" -> "), "{told:?}");
    eventually("another one has it", || owner(&world, &cloud).is_some_and(|(now, _)| now != first));
}
