//! A node's life: stopped in order, killed, started again with no network, started twice.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::io::{Read as _, Write as _};

use common::*;

/// An app with a stream and nothing to build.
const STREAM_APP: &str =
    "name = \"notes\"\nversion = \"1.0.0\"\n[streams.notes]\n[[routes]]\npath = \"/notes\"\nstream = \"notes\"\n";

fn deploy(world: &World, node: &Node) {
    let folder = world.path("notes");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("littoral.toml"), STREAM_APP).unwrap();
    node.tell(world, &["deploy", folder.to_str().unwrap()]);
}

fn notes(world: &World, node: &Node) -> Vec<String> {
    let text = node.tell(world, &["stream", "tail", "notes/notes", "--from", "start"]);
    text.lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["value"].as_str().unwrap().to_owned())
        .collect()
}

/// A request to the node's HTTP port; the whole answer.
fn http(node: &Node, request: &str) -> String {
    let mut stream = std::net::TcpStream::connect(node.address("http")).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn get(node: &Node, path: &str) -> String {
    http(node, &format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"))
}

#[test]
fn what_was_acknowledged_is_there_after_a_kill_and_the_app_comes_back() {
    let world = World::new();
    let node = world.first("cloud-1");
    deploy(&world, &node);
    let mut expected = Vec::new();
    for number in 0..20 {
        let note = format!("note {number}");
        node.tell(&world, &["stream", "publish", "notes/notes", "--value", &note]);
        expected.push(note);
    }
    node.kill();
    let node = world.start("cloud-1", &[]);
    eventually("the app is healthy", || {
        let apps = node.json(&world, &["get", "apps", "-o", "json"]);
        apps[0]["name"] == "notes" && apps[0]["state"] == "healthy"
    });
    assert_eq!(notes(&world, &node), expected);
    // The route of a stream: its last records, and what is posted is published.
    let posted = http(&node, "POST /notes HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 5\r\n\r\nhello");
    assert!(posted.starts_with("HTTP/1.1 200"), "{posted}");
    assert!(get(&node, "/notes?last=1").contains("\"hello\""));
    node.tell(&world, &["delete", "notes"]);
    eventually("the app is gone", || node.json(&world, &["get", "apps", "-o", "json"]).as_array().unwrap().is_empty());
    assert!(get(&node, "/notes").starts_with("HTTP/1.1 404"));
    assert_eq!(node.stop(), 0);
}

#[test]
fn a_node_starts_from_its_own_disk_with_no_network() {
    let world = World::new();
    let first = world.first("cloud-1");
    let token = first.token(&world, "10min");
    let arguments = ["--name", "edge-1", "--tier", "edge", "--site", "hall", "--listen", ANY_PORT, "--http", ANY_PORT];
    let edge = world.start("edge-1", &[&arguments[..], &["--join", &token, "--label", "power=mains"]].concat());
    eventually("they see each other", || edge.sees(&world).len() == 2);
    let folder = world.path("notes");
    std::fs::create_dir_all(&folder).unwrap();
    let manifest = STREAM_APP
        .replace("[streams.notes]", "[streams.notes]\nplacement = { site = \"hall\", labels = { power = \"mains\" } }");
    std::fs::write(folder.join("littoral.toml"), manifest).unwrap();
    first.tell(&world, &["deploy", folder.to_str().unwrap()]);
    first.tell(&world, &["stream", "publish", "notes/notes", "--value", "from afar"]);
    first.kill();
    assert_eq!(edge.stop(), 0);
    let edge = world.start("edge-1", &[]);
    eventually("the app is healthy", || edge.json(&world, &["get", "apps", "-o", "json"])[0]["state"] == "healthy");
    assert_eq!(notes(&world, &edge), ["from afar"]);
    for (path, status) in [("/livez", 200), ("/readyz", 200), ("/metrics", 200)] {
        let answer = get(&edge, path);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{path}: {answer}");
    }
}

#[test]
fn a_directory_belongs_to_one_process() {
    let world = World::new();
    let node = world.first("cloud-1");
    let second = world.littoral().args(["node", "--data"]).arg(&node.data).output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(said.contains("a node runs on this data directory already"), "{said}");
    assert_eq!(node.sees(&world), ["cloud-1"]);
}

#[test]
fn what_cannot_be_placed_or_read_is_refused_with_the_reason() {
    let world = World::new();
    let node = world.first("cloud-1");
    let folder = world.path("notes");
    std::fs::create_dir_all(&folder).unwrap();
    let app = folder.to_str().unwrap();
    std::fs::write(
        folder.join("littoral.toml"),
        STREAM_APP.replace("[streams.notes]", "[streams.notes]\nplacement = { tier = \"device\" }"),
    )
    .unwrap();
    for command in [&["deploy", app][..], &["deploy", app, "--dry-run"]] {
        let refused = node.ask(&world, command);
        assert_eq!(refused.status.code(), Some(1), "{command:?}");
        let told = String::from_utf8_lossy(&[refused.stdout, refused.stderr].concat()).into_owned();
        assert!(told.contains("tier=device") && told.contains("cloud-1"), "{told}");
    }
    std::fs::write(
        folder.join("littoral.toml"),
        STREAM_APP.replace("[streams.notes]", "[streams.notes]\nretention = \"7 days\""),
    )
    .unwrap();
    let invalid = node.ask(&world, &["deploy", app]);
    assert_eq!(invalid.status.code(), Some(2));
    let said = String::from_utf8_lossy(&invalid.stderr).into_owned();
    assert!(said.contains("littoral.toml:4:13"), "{said}");
    assert!(node.json(&world, &["get", "apps", "-o", "json"]).as_array().unwrap().is_empty());
}
