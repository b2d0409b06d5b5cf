//! How requests find an instance, on real nodes: keys stay where they are, dead nodes are gone around, and clients are
//! told where to go.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;
#[path = "../../runtime-wasm/tests/support/mod.rs"]
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};

use common::*;

const APP: &str = r#"
name = "shop"
version = "1.0.0"

[functions.front]
component = "handler.wasm"
timeout = "30s"
placement = { tier = "edge" }

[[routes]]
path = "/*"
function = "front"

[[routes]]
path = "/context"
function = "front"
sticky = "x-session"

[[routes]]
path = "/config/*"
function = "front"
hedge = true
"#;

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
    let folder = world.path("shop");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("handler.wasm"), support::sdk_example("fabric")).unwrap();
    std::fs::write(folder.join("littoral.toml"), APP).unwrap();
    first.tell(world, &["deploy", folder.to_str().unwrap()]);
    // As long as a node has heard of one instance only, all keys lead there.
    for node in edges.iter().chain([&first]) {
        eventually("it knows both instances", || {
            let nodes = node.json(world, &["get", "nodes", "-o", "json"]);
            let serves = |node: &&serde_json::Value| node["functions"][0] == "default/shop/front";
            nodes.as_array().unwrap().iter().filter(serves).count() == 2
        });
    }
    (first, edges)
}

/// Sends a request with a header; the whole answer.
fn send(node: &Node, method: &str, path: &str, header: &str) -> String {
    let mut stream = std::net::TcpStream::connect(node.address("http")).unwrap();
    let head =
        format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 0\r\n{header}\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// The node that answered a request for the context, which must succeed.
fn answered_by(node: &Node, key: &str) -> String {
    let answer = send(node, "GET", "/context", &format!("littoral-key: {key}"));
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    answer.split("node: \"").nth(1).and_then(|rest| rest.split('"').next()).unwrap().to_owned()
}

/// The nodes on which keys are, asked at one node; once both serve the function.
fn keys(node: &Node) -> BTreeMap<String, String> {
    let ask = || (0..16).map(|at| (format!("k{at}"), answered_by(node, &format!("k{at}")))).collect::<BTreeMap<_, _>>();
    eventually("it is served", || send(node, "GET", "/context", "x: y").starts_with("HTTP/1.1 200"));
    eventually("both serve it", || ask().values().collect::<BTreeSet<_>>().len() == 2);
    ask()
}

#[test]
fn a_key_stays_and_a_dead_instance_is_gone_around_within_the_request() {
    let world = World::new();
    let (cloud, mut edges) = fabric(&world);
    let placed = keys(&cloud);
    for edge in &edges {
        eventually("every node sends a key to the same instance", || keys(edge) == placed);
    }
    // The header that the route names does so, too.
    for (key, node) in &placed {
        let answer = send(&cloud, "GET", "/context", &format!("x-session: {key}"));
        assert!(answer.contains(&format!("node: \"{node}\"")), "{key} should be on {node}: {answer}");
    }
    let key = placed.iter().find(|(_, node)| *node == "edge-1").unwrap().0.clone();

    let edge = edges.remove(0);
    edge.signal(Signal::STOP);
    assert_eq!(answered_by(&cloud, &key), "edge-2", "a node that hangs is gone around");
    edge.signal(Signal::CONT);
    eventually("the key is back", || answered_by(&cloud, &key) == "edge-1");
    edge_hangs_during_a_post(&cloud, &edge, &key);
    eventually("the key is back again", || answered_by(&cloud, &key) == "edge-1");
    edge.kill();
    assert_eq!(answered_by(&cloud, &key), "edge-2", "a node that is dead is gone around");
    let moved: BTreeMap<String, String> = placed.keys().map(|key| (key.clone(), answered_by(&cloud, key))).collect();
    assert!(moved.values().all(|node| node == "edge-2"), "{moved:?}");
}

/// What may have been done is not done again elsewhere, and the client is told so.
fn edge_hangs_during_a_post(cloud: &Node, edge: &Node, key: &str) {
    edge.signal(Signal::STOP);
    let answer = send(cloud, "POST", "/context", &format!("littoral-key: {key}"));
    edge.signal(Signal::CONT);
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("may have been done"), "{answer}");
}

#[test]
fn a_client_is_told_its_nearest_entry_point_and_sent_there_when_it_asks() {
    let world = World::new();
    let first = world.first_with("cloud-1", &["--clients", "127.0.0.0/8", "--clients", "192.0.0.0/16"]);
    let token = first.token(&world, "10min");
    let arguments = ["--name", "edge-1", "--tier", "edge", "--site", "hall", "--listen", ANY_PORT, "--http", ANY_PORT];
    let clients = ["--clients", "192.0.2.0/24", "--join", &token];
    let edge = world.start("edge-1", &[&arguments[..], &clients].concat());
    let ask = |node: &Node, query: &str| node.get(&format!("/.well-known/littoral/nearest?{query}"));
    let names = |node: &Node, query: &str| {
        let answer = ask(node, query);
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        let told: serde_json::Value = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
        let entries = told["entries"].as_array().unwrap();
        entries.iter().map(|entry| entry["node"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    // Both say the same, whichever is asked: the longest declared prefix decides, else where the client comes from.
    for node in [&first, &edge] {
        eventually("they know each other", || names(node, "address=192.0.2.7").len() == 2);
        assert_eq!(names(node, "address=192.0.2.7"), ["edge-1", "cloud-1"]);
        assert_eq!(names(node, "address=192.0.7.7"), ["cloud-1", "edge-1"]);
        assert_eq!(names(node, ""), ["cloud-1", "edge-1"], "this test comes from 127.0.0.1");
    }
    assert!(ask(&first, "lat=91&lon=0").starts_with("HTTP/1.1 400"));
    let answer = ask(&first, "address=192.0.2.7&redirect=1&path=/livez");
    assert!(answer.starts_with("HTTP/1.1 307"), "{answer}");
    let location = format!("location: http://{}/livez\r\n", edge.address("http"));
    assert!(answer.contains(&location), "{answer} should lead to {location}");
    assert!(request(&edge.address("http"), "GET", "/livez", "").starts_with("HTTP/1.1 200"));
    let preferred = send(&edge, "GET", "/.well-known/littoral/nearest", "prefer: redirect");
    assert!(preferred.contains(&format!("location: http://{}/\r\n", first.address("http"))), "{preferred}");
    assert!(ask(&first, "redirect=1&path=//evil.test").starts_with("HTTP/1.1 400"));

    // What was declared is kept over a restart.
    drop(edge);
    let edge = world.start("edge-1", &[]);
    eventually("it is known again", || names(&edge, "address=192.0.2.7") == ["edge-1", "cloud-1"]);
}

#[test]
fn what_a_node_measures_reaches_the_others_and_a_late_answer_is_hedged() {
    let world = World::new();
    let (cloud, edges) = fabric(&world);
    let placed = keys(&cloud);
    for edge in &edges {
        for _ in 0..20 {
            assert!(send(edge, "GET", "/context", "x: y").starts_with("HTTP/1.1 200"));
        }
    }
    let told = |name: &str| {
        let nodes = cloud.json(&world, &["get", "nodes", "-o", "json"]);
        nodes.as_array().unwrap().iter().find(|node| node["id"] == name).unwrap()["condition"].clone()
    };
    let samples = |name: &str| told(name)["served"][0]["samples"].as_u64().unwrap_or(0);
    eventually("the cloud knows how the function fares", || samples("edge-1") >= 8 && samples("edge-2") >= 8);
    let condition = told("edge-1");
    assert_eq!(condition["served"][0]["function"], "default/shop/front");
    assert!(condition["served"][0]["p95_ms"].as_f64() >= condition["served"][0]["p50_ms"].as_f64(), "{condition}");
    assert!(condition["memory_free_bytes"].as_u64() > Some(0) && condition["slowdown"].as_f64() >= Some(1.0));

    // An instance that hangs is not waited for: after its 95th percentile the other one is asked as well.
    let hedged = || cloud.get("/metrics").contains("littoral_requests_hedged_total");
    let key = placed.iter().find(|(_, node)| *node == "edge-1").unwrap().0.clone();
    assert!(!hedged(), "no route that was asked so far has it");
    edges[0].signal(Signal::STOP);
    let answer = send(&cloud, "GET", "/config/greeting", &format!("littoral-key: {key}"));
    assert!(answer.starts_with("HTTP/1.1 200") && hedged(), "{answer}");
    edges[0].signal(Signal::CONT);
}
