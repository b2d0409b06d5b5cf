//! Asynchronous invocations on real nodes: accepted durably, run at least once, tried again, given up, found from every node;
//! through kill -9 of the node, and of the queue's owner under load.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;
#[path = "../../runtime-wasm/tests/support/mod.rs"]
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};

use common::*;
use serde_json::Value;

/// What `work` does is seen in the stream; `plain` has no queue.
const APP: &str = r#"
name = "shop"
version = "1.0.0"

[functions.work]
component = "handler.wasm"
timeout = "10s"
placement = { tier = "TIER" }
grants = { publish = ["ran"] }

[functions.work.async]
attempts = 2
backoff = "1ms"

[functions.plain]
component = "handler.wasm"
timeout = "10s"

[streams.ran]
placement = { tier = "cloud" }

[[routes]]
path = "/*"
function = "work"

[[routes]]
path = "/config/*"
function = "plain"
"#;

fn deploy(world: &World, node: &Node, tier: &str, more: &str) {
    let folder = world.path("shop");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("handler.wasm"), support::sdk_example("fabric")).unwrap();
    std::fs::write(folder.join("littoral.toml"), APP.replace("TIER", tier) + more).unwrap();
    node.tell(world, &["deploy", folder.to_str().unwrap()]);
}

/// An answer's status, head and body. None if the node hangs up or there is none to talk to.
fn try_send(address: &str, method: &str, path: &str, headers: &str, body: &str) -> Option<(u16, String, String)> {
    let mut stream = std::net::TcpStream::connect(address).ok()?;
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n"
    );
    stream.write_all((head + body).as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, head.to_ascii_lowercase(), body.to_owned()))
}

fn send(node: &Node, method: &str, path: &str, headers: &str, body: &str) -> (u16, String, String) {
    try_send(&node.address("http"), method, path, headers, body).unwrap()
}

const LATER: &str = "prefer: respond-async\r\n";

fn later(key: &str) -> String {
    format!("{LATER}idempotency-key: \"{key}\"\r\n")
}

/// Where an accepted call is found.
fn place((status, head, body): &(u16, String, String)) -> String {
    assert_eq!(*status, 202, "{head}\n{body}");
    assert!(head.contains("preference-applied: respond-async"), "{head}");
    let told: Value = serde_json::from_str(body).unwrap();
    let place = told["status"].as_str().unwrap().to_owned();
    assert!(head.contains(&format!("location: {}", place.to_ascii_lowercase())), "{head}");
    place
}

/// What the function answered, waited for.
fn result(node: &Node, place: &str) -> (u16, String) {
    let mut found = (0, String::new());
    eventually(&format!("{place} has ended"), || {
        let (status, _, body) = send(node, "GET", &format!("{place}/result"), "prefer: wait=5\r\n", "");
        found = (status, body);
        status != 202
    });
    found
}

fn status(node: &Node, place: &str) -> Value {
    let (status, head, body) = send(node, "GET", place, "", "");
    assert_eq!(status, 200, "{head}\n{body}");
    serde_json::from_str(&body).unwrap()
}

/// What has run, in the stream.
fn ran(world: &World, node: &Node) -> Vec<String> {
    let rows = node.tell(world, &["stream", "tail", "shop/ran", "--from", "start"]);
    rows.lines().map(|row| serde_json::from_str::<Value>(row).unwrap()["value"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_call_is_accepted_run_tried_again_and_given_up_and_outlives_a_kill() {
    let world = World::new();
    let node = world.first("cloud-1");
    deploy(&world, &node, "cloud", "");
    let accepted = send(&node, "POST", "/publish/ran", LATER, "one");
    let one = place(&accepted);
    assert_eq!(result(&node, &one), (200, "stored 1\n".to_owned()));
    let told = status(&node, &one);
    assert_eq!((told["state"].as_str(), told["status"].as_u64()), (Some("done"), Some(200)), "{told}");
    assert_eq!(ran(&world, &node), ["one"]);

    // A key stands for one call; another request with it is refused. Whoever wants no key gets another call.
    let keyed = place(&send(&node, "POST", "/publish/ran", &later("k"), "two"));
    assert_eq!(place(&send(&node, "POST", "/publish/ran", &later("k"), "two")), keyed);
    let (refused, _, why) = send(&node, "POST", "/publish/ran", &later("k"), "other");
    assert!(refused == 422 && why.contains("another request"), "{refused} {why}");
    result(&node, &keyed);
    assert_eq!(place(&send(&node, "POST", "/publish/ran", &later("k"), "two")), keyed, "after its end, too");
    assert_eq!(ran(&world, &node), ["one", "two"]);

    // A function without a queue answers at once, and says nothing of the wish.
    let (at_once, head, _) = send(&node, "GET", "/config/greeting", LATER, "");
    assert!(at_once == 200 && !head.contains("preference-applied"), "{head}");
    let refused = node.ask(&world, &["call", "shop/plain", "--async"]);
    assert!(errors(&refused).contains("[functions.plain.async]"), "{}", errors(&refused));
    let (status_of_none, _, _) = send(&node, "GET", &one.replace("work", "plain"), "", "");
    assert_eq!(status_of_none, 404);

    // What fails is tried as often as the manifest says; then it is a dead letter, which can be run again and dropped.
    let id = node.tell(&world, &["call", "shop/work", "--path", "/nonsense", "--async"]).trim().to_owned();
    let failed = node.ask(&world, &["call", "--result", &id]);
    assert!(!failed.status.success() && errors(&failed).contains("given up"), "{}", errors(&failed));
    let dead = |node: &Node| node.json(&world, &["queue", "ls", "shop/work", "--state", "dead", "-o", "json"]);
    let letter = &dead(&node)["invocations"][0];
    assert_eq!((letter["id"].as_str(), letter["attempts"].as_u64()), (Some(id.as_str()), Some(2)), "{letter}");
    assert!(letter["error"].as_str().unwrap().contains("answered 500"), "{letter}");
    assert_eq!(node.tell(&world, &["queue", "retry", "--dead", "shop"]), "1 are run once more\n");
    eventually("it is given up again", || dead(&node)["invocations"][0]["attempts"] == 2);
    assert!(node.tell(&world, &["queue", "show", &id]).contains("GET /nonsense"));

    // All of it is there after a kill, and what was accepted just before it is run.
    let last = place(&send(&node, "POST", "/publish/ran", LATER, "three"));
    node.kill();
    let node = world.start("cloud-1", &[]);
    eventually("the queue is back", || send(&node, "GET", &one, "", "").0 == 200);
    assert_eq!(result(&node, &last), (200, "stored 1\n".to_owned()));
    assert!(ran(&world, &node).contains(&"three".to_owned()));
    assert_eq!(result(&node, &keyed).0, 200);
    assert_eq!(dead(&node)["invocations"][0]["id"].as_str(), Some(id.as_str()));
    node.tell(&world, &["queue", "drop", &id]);
    assert_eq!(dead(&node)["invocations"].as_array().unwrap().len(), 0);
    assert!(!node.ask(&world, &["queue", "show", &id]).status.success());
}

/// A cloud node without the function, and two nodes at the edge that serve it.
fn fabric(world: &World) -> (Node, Vec<Node>) {
    let first = world.first("cloud-1");
    let mut edges = Vec::new();
    for (at, name) in ["edge-1", "edge-2"].into_iter().enumerate() {
        let token = first.token(world, "10min");
        let ports = ["--listen", ANY_PORT, "--http", ANY_PORT];
        let place = ["--name", name, "--tier", "edge", "--site", "hall", "--join", &token];
        let edge = world.start(name, &[&place[..], &ports].concat());
        eventually("they see each other", || edge.sees(world).len() == at + 2 && first.sees(world).len() == at + 2);
        edges.push(edge);
    }
    deploy(world, &first, "edge", "");
    (first, edges)
}

/// How many calls are made, half of them before the owner is killed.
const CALLS: usize = 48;

#[test]
fn no_acknowledged_call_is_lost_and_no_keyed_one_doubled_when_the_owner_is_killed() {
    let world = World::new();
    let (cloud, mut edges) = fabric(&world);
    // Both copies must be there before one is taken away.
    let queue = || edges[0].json(&world, &["queue", "ls", "shop", "-o", "json"])["queues"][0].clone();
    eventually("both have a copy", || queue()["in_sync"].as_array().is_some_and(|nodes| nodes.len() == 2));
    place(&send(&cloud, "POST", "/publish/ran", &later("first"), "first"));
    let owner = usize::from(queue()["owner"] == "edge-2");
    let owner = edges.remove(owner);
    let addresses = [cloud.address("http"), edges[0].address("http")];
    let mut acknowledged: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut owner = Some(owner);
    for number in 0..CALLS {
        if number == CALLS / 2 {
            // One that was silent for a moment would lack what was accepted since.
            let queue = || edges[0].json(&world, &["queue", "ls", "shop", "-o", "json"])["queues"][0].clone();
            eventually("both have a copy still", || {
                queue()["in_sync"].as_array().is_some_and(|nodes| nodes.len() == 2)
            });
            owner.take().unwrap().kill();
        }
        let (key, body) = (format!("key-{number}"), format!("call {number}"));
        // Each is sent at both nodes until both have acknowledged it, as a client does that is not sure.
        for address in &addresses {
            eventually(&format!("call {number} is accepted"), || {
                let answer = try_send(address, "POST", "/publish/ran", &later(&key), &body);
                let answer = answer.filter(|(status, ..)| *status == 202);
                answer.map(|answer| acknowledged.entry(key.clone()).or_default().insert(place(&answer))).is_some()
            });
        }
    }
    assert_eq!(acknowledged.len(), CALLS);
    for (key, places) in &acknowledged {
        assert_eq!(places.len(), 1, "{key} was accepted twice: {places:?}");
        let place = places.first().unwrap();
        assert_eq!(result(&cloud, place), (200, "stored 1\n".to_owned()), "{key}");
        assert_eq!(result(&edges[0], place), (200, "stored 1\n".to_owned()), "{key}, asked elsewhere");
    }
    let done: BTreeSet<String> = ran(&world, &cloud).into_iter().collect();
    let lost: Vec<usize> = (0..CALLS).filter(|number| !done.contains(&format!("call {number}"))).collect();
    assert_eq!(lost, Vec::<usize>::new(), "acknowledged and never run");
    let listed = cloud.json(&world, &["queue", "ls", "shop/work", "-o", "json"]);
    let keys: Vec<&str> =
        listed["invocations"].as_array().unwrap().iter().map(|call| call["key"].as_str().unwrap()).collect();
    assert_eq!(keys.len(), keys.iter().collect::<BTreeSet<_>>().len(), "a key has two results");
    assert_eq!(keys.len(), CALLS + 1);
}

/// `clock` is called by the clock, `work` for each record of `orders`.
const TRIGGERS: &str = r#"
[streams.orders]

[[triggers]]
function = "work"
stream = "orders"

[functions.clock]
component = "handler.wasm"
timeout = "10s"
async = {}

[[triggers]]
function = "clock"
schedule = "* * * * *"
"#;
/// How many records are published, half of them before the node is killed.
const RECORDS: usize = 20;
/// A schedule ticks within a minute; a busy machine takes its time on top.
const A_TICK: std::time::Duration = std::time::Duration::from_secs(150);

#[test]
fn each_record_and_each_tick_is_one_call_through_a_kill() {
    let world = World::new();
    let mut node = world.first("cloud-1");
    deploy(&world, &node, "cloud", TRIGGERS);
    let calls = |node: &Node, of: &str| {
        let listed = node.ask(&world, &["queue", "ls", of, "-o", "json"]).stdout;
        let listed: Value = serde_json::from_slice(&listed).unwrap_or_default();
        let calls = listed["invocations"].as_array().cloned().unwrap_or_default();
        calls.into_iter().filter(|call| call["state"] == "done").collect::<Vec<_>>()
    };
    let begun = std::time::Instant::now();
    for number in 0..RECORDS {
        if number == RECORDS / 2 {
            node.kill();
            node = world.start("cloud-1", &[]);
            eventually("the app is healthy", || {
                node.json(&world, &["get", "apps", "-o", "json"])[0]["state"] == "healthy"
            });
        }
        node.tell(&world, &["stream", "publish", "shop/orders", "--value", &format!("order {number}")]);
    }
    eventually("each record has called the function", || calls(&node, "shop/work").len() >= RECORDS);
    eventually_within(A_TICK, "the clock has ticked", || !calls(&node, "shop/clock").is_empty());
    assert_eq!(calls(&node, "shop/work").len(), RECORDS, "no record has called it twice");
    let ticks = calls(&node, "shop/clock").len() as u64;
    assert!(ticks <= begun.elapsed().as_secs() / 60 + 1, "{ticks} ticks in {:?}", begun.elapsed());
}
