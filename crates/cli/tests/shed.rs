//! An objective that does not hold because a function is too slow, which has no cheaper variant, and no node is left to move it to: the
//! stage passes over records that are too old, as its flow says it may, and counts them. The objective holds again for all others.
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
config = { each-row = "true" }

[streams.strokes]
partitions = 1

[streams.judged]
partitions = 1

[flows.wear]
source = "strokes"
stages = ["judge"]
sink = "judged"
slo = "3s"
shed = true

[[routes]]
path = "/strokes"
stream = "strokes"
"#;
/// How records with keys are posted.
const LINES_OF_JSON: &str = "content-type: application/x-ndjson";
/// About how far apart records are.
const RECORD_EVERY: Duration = Duration::from_millis(25);

/// The component, which takes a twentieth of a second for each row.
fn slow(component: &[u8]) -> Vec<u8> {
    let (before, after) = (b"pause-ms:0900", b"pause-ms:0050");
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

/// How many rows the stage has taken, and how many it has passed over.
fn counted(world: &World, node: &Node) -> (u64, u64) {
    let flows = node.json(world, &["get", "flows", "-o", "json"]);
    let stage = &flows[0]["stages"][0];
    (stage["rows_in"].as_u64().unwrap(), stage["rows_shed"].as_u64().unwrap())
}

/// What came out, in order: each record and its number.
fn judged(world: &World, node: &Node) -> Vec<(u64, i64)> {
    let output = node.ask(world, &["stream", "tail", "press/judged", "--from", "start"]);
    let rows = String::from_utf8(output.stdout).unwrap();
    let rows = rows.lines().map(|row| serde_json::from_str::<Value>(row).unwrap());
    let rows = rows.map(|row| row.get("row").cloned().unwrap_or(row));
    rows.map(|row| (row["value"].as_str().unwrap().parse().unwrap(), row["count"].as_i64().unwrap())).collect()
}

#[test]
fn a_stage_that_nothing_else_helps_passes_over_what_is_too_old_and_the_objective_holds_again() {
    let world = World::new();
    let node = world.first("cloud-1");
    let folder = world.path("press");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("judge.wasm"), slow(&support::test_guest("patient"))).unwrap();
    std::fs::write(folder.join("littoral.toml"), MANIFEST).unwrap();
    node.tell(&world, &["deploy", folder.to_str().unwrap(), "--no-build"]);
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
        drop(over);
        (publishing.join().unwrap(), told)
    });
    let acted: Vec<&Value> = told.iter().filter(|event| event["kind"] == "action").collect();
    let [action] = acted.as_slice() else { panic!("{told:?}") };
    let text = action["text"].as_str().unwrap();
    assert!(text.ends_with("it goes on with records that are not older than 1500.0 ms when it reads them"), "{text}");
    // Each record was judged once, in order, or passed over and counted.
    eventually("all are judged or passed over", || {
        let judged = judged(&world, &node);
        judged.len() as u64 + counted(&world, &node).1 == published
    });
    let (judged, (_, shed)) = (judged(&world, &node), counted(&world, &node));
    assert!(shed > 0 && judged.is_sorted_by(|(one, _), (next, _)| one < next), "{judged:?}");
    assert!(judged.iter().map(|(_, count)| *count).eq(1..=judged.len() as i64), "{judged:?}");
    let explained = node.ask(&world, &["flow", "explain", folder.to_str().unwrap()]);
    assert!(String::from_utf8_lossy(&explained.stdout).contains(&format!("{shed} shed")), "{explained:?}");
}
