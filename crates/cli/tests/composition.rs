//! Functions that import what other functions of their app export: on one node, on two, and what does not fit.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;
#[path = "../../runtime-wasm/tests/support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;

use common::*;
use littoral_mesh::tenant::TenantKey;
use littoral_node::admin::exchange::artifact_digest;
use littoral_node::admin::types::AppBundle;

const INTERFACE: &str = "acme:vision/detect@1.2.0";
/// What the gallery can be asked for.
const PATHS: [&str; 7] = ["/detect", "/small", "/empty", "/large", "/next", "/nested", "/count"];

/// An app of these functions: name, component, more of the manifest. Its folder.
fn app(world: &World, functions: &[(&str, Vec<u8>, &str)]) -> String {
    let folder = world.path("app");
    std::fs::create_dir_all(&folder).unwrap();
    let mut manifest = "name = \"app\"\nversion = \"1.0.0\"\n".to_owned();
    for (name, component, more) in functions {
        std::fs::write(folder.join(format!("{name}.wasm")), component).unwrap();
        manifest += &format!("[functions.{name}]\ncomponent = \"{name}.wasm\"\ntimeout = \"30s\"\n{more}\n");
    }
    let routes = PATHS.iter().chain(&["/trap"]);
    manifest.extend(routes.map(|path| format!("[[routes]]\npath = \"{path}\"\nfunction = \"gallery\"\n")));
    std::fs::write(folder.join("littoral.toml"), manifest).unwrap();
    folder.to_str().unwrap().to_owned()
}

fn gallery(gallery: &'static str, detector: &'static str) -> [(&'static str, Vec<u8>, &'static str); 2] {
    let (user, exporter) = (support::test_guest("gallery"), support::test_guest("detector"));
    [("gallery", user, gallery), ("detector", exporter, detector)]
}

/// The status and the body of an answer.
fn answer(node: &Node, path: &str) -> (String, String) {
    let answer = node.get(path);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().to_owned();
    // A guest that gives way before it is done has its answer sent in chunks; how is of no concern here.
    let is_chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    (status, if is_chunked { joined(body) } else { body.to_owned() })
}

/// A body that was sent in chunks, each with its length before it.
fn joined(mut chunks: &str) -> String {
    let mut body = String::new();
    loop {
        let (length, rest) = chunks.split_once("\r\n").unwrap();
        let (chunk, rest) = rest.split_at(usize::from_str_radix(length, 16).unwrap());
        if chunk.is_empty() {
            return body;
        }
        body += chunk;
        chunks = rest.strip_prefix("\r\n").unwrap();
    }
}

/// Where a function runs, and how often it was called.
fn served(world: &World, node: &Node, function: &str) -> (Vec<String>, u64) {
    let functions = node.json(world, &["get", "functions", "-o", "json"]);
    let found = functions.as_array().unwrap().iter().find(|found| found["name"] == function).unwrap();
    let nodes = found["nodes"].as_array().unwrap().iter().map(|node| node.as_str().unwrap().to_owned());
    (nodes.collect(), found["invocations"].as_u64().unwrap())
}

#[test]
fn the_guest_cannot_tell_whether_what_it_calls_is_near_or_far() {
    let world = World::new();
    let first = world.first("cloud-1");
    first.tell(&world, &["deploy", &app(&world, &gallery("", ""))]);
    let near: Vec<_> = PATHS.iter().map(|path| answer(&first, path)).collect();
    assert!(near.iter().all(|(status, _)| status == "200"), "{near:?}");
    assert!(near[0].1.contains("beach/3"), "{near:?}");
    // `/count` calls twice; all others call once, but `/nested`, which does so five times.
    assert_eq!(served(&world, &first, "detector"), (vec!["cloud-1".to_owned()], 12));
    let (status, body) = answer(&first, "/trap");
    assert_eq!(status, "502", "{body}");
    assert!(body.contains("function detector exports, failed: it trapped"), "{body}");
    let called = first.ask(&world, &["call", "app/detector"]);
    assert!(errors(&called).contains("app/detector answers no HTTP"), "{}", errors(&called));

    let token = first.token(&world, "10min");
    let joining = ["--name", "edge-1", "--tier", "edge", "--site", "hall", "--listen", ANY_PORT, "--http", ANY_PORT];
    let edge = world.start("edge-1", &[&joining[..], &["--join", &token]].concat());
    eventually("both see both", || [&first, &edge].iter().all(|node| node.sees(&world).len() == 2));
    let (cloud, hall) = ("placement = { tier = \"cloud\" }", "placement = { tier = \"edge\" }");
    first.tell(&world, &["deploy", &app(&world, &gallery(cloud, hall))]);
    eventually("the detector has moved", || served(&world, &first, "detector").0 == ["edge-1"]);
    eventually("the gallery stays", || served(&world, &first, "gallery").0 == ["cloud-1"]);
    eventually("both are ready", || first.json(&world, &["get", "apps", "-o", "json"])[0]["state"] == "healthy");
    for node in [&first, &edge] {
        let far: Vec<_> = PATHS.iter().map(|path| answer(node, path)).collect();
        assert_eq!(far, near);
    }
    eventually("its calls are counted", || served(&world, &first, "detector").1 == 24);
    let (status, body) = answer(&first, "/trap");
    assert_eq!(status, "502", "{body}");
    assert!(body.contains("failed: on edge-1, it trapped"), "{body}");
    edge.kill();
    let (status, body) = answer(&first, "/small");
    assert!(["502", "504"].contains(&status.as_str()), "{status} {body}");
    assert!(body.contains("its call of `detect` in"), "{body}");
}

/// A component that imports this interface.
fn importing(name: &str, of: &str) -> Vec<u8> {
    wat::parse_str(format!("(component (import \"{name}\" (instance {of})))")).unwrap()
}

/// A component that exports `f`, which gives back a number, in an interface.
fn exporting(name: &str) -> Vec<u8> {
    let text = format!(
        "(component
            (core module $m (func (export \"f\") (param i32) (result i32) local.get 0))
            (core instance $i (instantiate $m))
            (func $f (param \"a\" u32) (result u32) (canon lift (core func $i \"f\")))
            (instance (export \"{name}\") (export \"f\" (func $f))))"
    );
    wat::parse_str(text).unwrap()
}

#[test]
fn what_does_not_fit_is_refused_before_it_is_deployed() {
    let world = World::new();
    let node = world.first("cloud-1");
    let refused = |functions: &[(&str, Vec<u8>, &str)]| {
        let folder = app(&world, functions);
        let said = [&["deploy", &folder][..], &["deploy", &folder, "--dry-run"], &["plan", &folder]].map(|command| {
            let refused = node.ask(&world, command);
            assert_eq!(refused.status.code(), Some(1), "{command:?}: {}", errors(&refused));
            errors(&refused)
        });
        assert_eq!(said[0], said[1]);
        assert_eq!(said[0], said[2]);
        said[0].clone()
    };
    let user = support::test_guest("gallery");

    let said = refused(&[("gallery", user.clone(), ""), ("detector", exporting(INTERFACE), "")]);
    for side in [
        "  gallery imports in acme:vision/detect@1.2.0:\n    detect: func(frame: frame, hints: hints) -> result<list<finding>, problem>",
        "record frame { name: string, size: tuple<u32, u32>, pixels: list<u8>, corners: list<point>, taken: option<u64> }",
        "  detector exports in acme:vision/detect@1.2.0:\n    no function `detect`",
    ] {
        assert!(said.contains(side), "{side}\n{said}");
    }

    let other = exporting("acme:vision/detects@1.2.0");
    let said = refused(&[("gallery", user.clone(), ""), ("detector", other, "")]);
    let expected = "function gallery imports `acme:vision/detect@1.2.0`, which no other function of the app exports; \
                    the nearest is `acme:vision/detects@1.2.0` of function detector";
    assert!(said.contains(expected), "{said}");

    let resource = "(export \"image\" (type $i (sub resource))) (export \"f\" (func (param \"a\" (borrow $i))))";
    let said = refused(&[("gallery", importing(INTERFACE, resource), ""), ("detector", exporting(INTERFACE), "")]);
    assert!(said.contains("it has resource `image`"), "{said}");
    let stream = "(export \"f\" (func (result (stream u8))))";
    let said = refused(&[("gallery", importing(INTERFACE, stream), ""), ("detector", exporting(INTERFACE), "")]);
    assert!(said.contains("it has a stream in `f`"), "{said}");

    let exporter = support::test_guest("detector");
    let twins = |more| [("gallery", user.clone(), more), ("a", exporter.clone(), ""), ("b", exporter.clone(), "")];
    assert!(refused(&twins("")).contains("which several functions export: `a`, `b`"));
    node.tell(&world, &["deploy", &app(&world, &twins("imports = { \"acme:vision/detect@1.2.0\" = \"b\" }"))]);
    assert!(answer(&node, "/detect").1.contains("beach"));
    assert_eq!((served(&world, &node, "a").1, served(&world, &node, "b").1), (0, 1));

    // Alone, it says what it lacks.
    let alone = world.run(&["run", world.path("app/gallery.wasm").to_str().unwrap()]);
    assert!(
        errors(&alone).contains("it imports `acme:vision/detect@1.2.0` from another function"),
        "{}",
        errors(&alone)
    );
}

/// Sends something to a node's admin socket; the whole answer.
fn post(node: &Node, path: &str, kind: &str, body: &[u8]) -> String {
    let mut stream = UnixStream::connect(node.data.join("admin.sock")).unwrap();
    let length = body.len();
    let head = format!("POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: {kind}\r\n");
    write!(stream, "{head}content-length: {length}\r\n\r\n").unwrap();
    stream.write_all(body).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn a_node_refuses_what_does_not_fit_whoever_sends_it() {
    let world = World::new();
    let node = world.first("cloud-1");
    let functions = [("gallery", support::test_guest("gallery"), ""), ("detector", exporting(INTERFACE), "")];
    let folder = app(&world, &functions);
    let mut artifacts = BTreeMap::new();
    for (name, component, _) in functions {
        let answer = post(&node, "/v1/artifacts", "application/wasm", &component);
        assert!(answer.starts_with("HTTP/1.1 20"), "{answer}");
        artifacts.insert(name.to_owned(), artifact_digest(&component));
    }
    let manifest = std::fs::read_to_string(format!("{folder}/littoral.toml")).unwrap();
    let mut bundle = AppBundle {
        manifest,
        artifacts,
        edit: Some(littoral_model::edit::Edit::first(1, "ann".to_owned())),
        signature: None,
    };
    let key = TenantKey::load(&node.data.join("admin")).unwrap();
    bundle.signature = Some(littoral_node::signing::sign(&bundle, &key).unwrap());
    let answer = post(&node, "/v1/apps", "application/json", &serde_json::to_vec(&bundle).unwrap());
    assert!(answer.starts_with("HTTP/1.1 422") && answer.contains("do not mean the same by"), "{answer}");
    assert!(node.json(&world, &["get", "apps", "-o", "json"]).as_array().unwrap().is_empty());
}
