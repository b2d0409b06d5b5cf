//! The objective of a function that is slow on one node: its calls go where they are answered sooner.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;
#[path = "../../runtime-wasm/tests/support/mod.rs"]
mod support;

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::*;

/// About how far apart a client's calls are.
const CALL_EVERY: Duration = Duration::from_millis(50);

const COUNTER: &str = r#"
name = "counter"
version = "1.0.0"

[functions.front]
component = "service.wasm"
slo = "200ms"
config = { DELAY = "secret:delay" }
placement = { tier = "edge" }

[[routes]]
path = "/delay"
function = "front"
"#;

#[test]
fn calls_of_a_function_that_is_slow_on_one_node_go_to_another() {
    let world = World::new();
    let cloud = world.first_with("cloud-1", &["--tier", "cloud"]);
    let edges = [("edge-1", "400"), ("edge-2", "1")].map(|(name, delay)| {
        let token = cloud.token(&world, "10min");
        let joining = ["--name", name, "--tier", "edge", "--site", "hall", "--join", &token];
        let edge = world.start(name, &[&joining[..], &["--listen", ANY_PORT, "--http", ANY_PORT]].concat());
        let secrets = edge.data.join("secrets/default/counter");
        std::fs::create_dir_all(&secrets).unwrap();
        std::fs::write(secrets.join("delay"), delay).unwrap();
        edge
    });
    eventually("all see all", || edges.iter().chain([&cloud]).all(|node| node.sees(&world).len() == 3));
    let folder = world.path("counter");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("service.wasm"), support::test_guest("service")).unwrap();
    std::fs::write(folder.join("littoral.toml"), COUNTER).unwrap();
    cloud.tell(&world, &["deploy", folder.to_str().unwrap(), "--no-build"]);
    for edge in &edges {
        eventually("it is served", || edge.get("/delay").starts_with("HTTP/1.1 200"));
    }
    // The quick one is known to be quick: it has callers of its own.
    (0..20).for_each(|_| drop(edges[1].get("/delay")));
    let told = || {
        let report = edges[0].json(&world, &["events", "--app", "counter", "-o", "json"]);
        let of = |kind: &str| {
            let mut events = report["events"].as_array().unwrap().iter();
            events
                .find(|event| event["kind"] == kind && event["node"] == "edge-1")
                .map(|event| event["text"].to_string())
        };
        [of("violated"), of("action"), of("restored")]
    };
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    let answer = edges[0].get("/delay");
                    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
                    thread::sleep(CALL_EVERY);
                }
            });
        }
        let _over = Over(&is_over);
        let begun = Instant::now();
        while told().iter().any(Option::is_none) {
            assert!(begun.elapsed() < STORY_MAX, "it does not hold again: {:?}", told());
            thread::sleep(CALL_EVERY * 10);
        }
    });
    let [violated, action, restored] = told().map(Option::unwrap);
    assert!(
        violated.contains("of the calls took longer than 200.0 ms") && violated.contains("edge-1 answered"),
        "{violated}"
    );
    assert!(action.contains("they go wherever they are predicted to be answered sooner, as to edge-2"), "{action}");
    assert!(restored.contains("what was done helped"), "{restored}");
}
