//! An objective that does not hold because a function is too slow, and no node is left to move it to: the stage goes on with a cheaper
//! variant of it, no record is lost or doubled, and the objective holds again.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;
#[path = "../../runtime-wasm/tests/support/mod.rs"]
mod support;

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::*;
use serde_json::Value;

const MANIFEST: &str = r#"
name = "press"
version = "1.0.0"

[functions.judge]
component = "judge.wasm"
variants = [{ name = "coarse", component = "coarse.wasm" }]

[streams.strokes]
partitions = 1

[streams.judged]
partitions = 1

[flows.wear]
source = "strokes"
stages = ["judge"]
sink = "judged"
slo = "600ms"

[[routes]]
path = "/strokes"
stream = "strokes"
"#;
/// How records with keys are posted.
const LINES_OF_JSON: &str = "content-type: application/x-ndjson";
/// About how far apart records are.
const RECORD_EVERY: Duration = Duration::from_millis(25);

/// The component as a variant that takes no time for a batch.
fn coarse(component: &[u8]) -> Vec<u8> {
    let (before, after) = (b"pause-ms:0900", b"pause-ms:0000");
    let at = component.windows(before.len()).position(|part| part == before).unwrap();
    [&component[..at], after, &component[at + before.len()..]].concat()
}

/// What happened to the app.
fn events(world: &World, node: &Node) -> Vec<Value> {
    node.json(world, &["events", "--app", "press", "-o", "json"])["events"].as_array().unwrap().clone()
}

/// Whether it says that the objective holds again because of what was done.
fn has_helped(event: &Value) -> bool {
    event["kind"] == "restored" && event["text"].as_str().unwrap().contains("what was done helped, p95 ")
}

/// Which variant runs, by the status of the flow.
fn variant(world: &World, node: &Node) -> Value {
    let flows = node.json(world, &["get", "flows", "-o", "json"]);
    flows[0]["stages"][0]["runs"]["variants"]["judge"].clone()
}

/// What came out, in order: each record and its number.
fn judged(world: &World, node: &Node) -> Vec<(String, i64)> {
    let output = node.ask(world, &["stream", "tail", "press/judged", "--from", "start"]);
    let rows = String::from_utf8(output.stdout).unwrap();
    let rows = rows.lines().map(|row| serde_json::from_str::<Value>(row).unwrap());
    let rows = rows.map(|row| row.get("row").cloned().unwrap_or(row));
    rows.map(|row| (row["value"].as_str().unwrap().to_owned(), row["count"].as_i64().unwrap())).collect()
}

#[test]
fn a_stage_that_is_too_slow_goes_on_with_a_cheaper_variant_and_the_objective_holds_again() {
    let world = World::new();
    let node = world.first("cloud-1");
    let folder = world.path("press");
    std::fs::create_dir_all(&folder).unwrap();
    let component = support::test_guest("patient");
    std::fs::write(folder.join("judge.wasm"), &component).unwrap();
    std::fs::write(folder.join("coarse.wasm"), coarse(&component)).unwrap();
    std::fs::write(folder.join("littoral.toml"), MANIFEST).unwrap();
    node.tell(&world, &["deploy", folder.to_str().unwrap(), "--no-build"]);
    eventually("its own component runs", || variant(&world, &node) == "judge");
    let is_over = AtomicBool::new(false);
    let (published, told) = thread::scope(|scope| {
        let publishing = scope.spawn(|| {
            let mut published = 0;
            while !is_over.load(Ordering::Relaxed) {
                let record = format!("{{\"key\":\"a\",\"value\":\"{published}\"}}");
                let (head, _) = request_with(&node.address("http"), LINES_OF_JSON, "POST", "/strokes", &record);
                assert!(head.starts_with("HTTP/1.1 200"), "{head}");
                published += 1;
                thread::sleep(RECORD_EVERY);
            }
            published
        });
        let over = Over(&is_over);
        let (mut told, begun) = (Vec::new(), Instant::now());
        while !told.iter().any(has_helped) {
            assert!(begun.elapsed() < STORY_MAX, "it does not hold again: {told:?}");
            thread::sleep(RECORD_EVERY * 10);
            told = events(&world, &node);
        }
        assert_eq!(variant(&world, &node), "coarse");
        let explained = node.ask(&world, &["flow", "explain", folder.to_str().unwrap()]);
        assert!(String::from_utf8_lossy(&explained.stdout).contains("judge as coarse"), "{explained:?}");
        // What is chosen by hand is the usual one from then on, and is gone back from while records flow.
        node.tell(&world, &["swap", "press/judge", "--variant", "coarse"]);
        assert_eq!(variant(&world, &node), "coarse");
        node.tell(&world, &["swap", "press/judge", "--variant", "judge"]);
        assert_eq!(variant(&world, &node), "judge");
        drop(over);
        (publishing.join().unwrap(), told)
    });
    // The end of the flow and its last stage are watched each by itself; one of them acts.
    let acted: Vec<&Value> = told.iter().filter(|event| event["kind"] == "action").collect();
    let [action] = acted.as_slice() else { panic!("{told:?}") };
    let text = action["text"].as_str().unwrap();
    assert!(text.starts_with("stage judge on cloud-1 adds") && text.contains("of it in its functions"), "{text}");
    assert!(text.ends_with("it goes on with variant coarse of judge"), "{text}");
    let moved = &action["moved"];
    assert!(moved["from"] == "cloud-1" && moved["to"] == "cloud-1", "{action}");
    assert!(moved["p95_us"].as_u64().is_some_and(|p95_us| p95_us > 600_000), "{action}");
    eventually("all are judged", || judged(&world, &node).len() >= published);
    let wanted: Vec<(String, i64)> = (0..published).map(|value| value.to_string()).zip(1..).collect();
    assert_eq!(judged(&world, &node), wanted);
}
