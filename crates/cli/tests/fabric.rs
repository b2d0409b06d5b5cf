//! What functions get of the fabric, on real nodes: calls of one another here and elsewhere, publications, buckets, their
//! context; and that they get none of it without a grant.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;
#[path = "../../runtime-wasm/tests/support/mod.rs"]
mod support;

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use common::*;

/// `front` does what its path says, `back` is called without HTTP, `far` is like `front`; where they run is to be filled in.
const APP: &str = r#"
name = "shop"
version = "1.0.0"

[functions.front]
component = "handler.wasm"
timeout = "30s"
config = { greeting = "moin" }
grants = FRONT

[functions.back]
component = "typed.wasm"
timeout = "30s"

[functions.far]
component = "handler.wasm"
timeout = "30s"
placement = { tier = "TIER" }
grants = { call = ["front", "far"] }

[functions.far-back]
component = "typed.wasm"
placement = { tier = "TIER" }

[streams.orders]

[[routes]]
path = "/double"
function = "back"

[[routes]]
path = "/*"
function = "front"
"#;
const GRANTED: &str =
    "{ call = [\"back\", \"far\", \"far-back\", \"front\"], publish = [\"orders\"], keyvalue = [\"carts\"] }";

/// Deploys the app, with some of its functions on nodes of a tier.
fn deploy(world: &World, node: &Node, grants: &str, tier: &str) {
    let folder = world.path("shop");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("handler.wasm"), support::sdk_example("fabric")).unwrap();
    std::fs::write(folder.join("typed.wasm"), support::sdk_example("typed")).unwrap();
    let manifest = APP.replace("FRONT", grants).replace("TIER", tier);
    std::fs::write(folder.join("littoral.toml"), manifest).unwrap();
    node.tell(world, &["deploy", folder.to_str().unwrap()]);
}

/// What the front function says, which must answer with 200.
fn ask(node: &Node, path: &str, body: &str) -> String {
    let answer = node.post(path, body);
    let (head, said) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{path}: {answer}");
    let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    let said = if chunked { unchunked(said) } else { said.to_owned() };
    said.trim_end().to_owned()
}

/// A body that came in chunks (RFC 9112, section 7.1), put together.
fn unchunked(mut rest: &str) -> String {
    let mut whole = String::new();
    while let Some((size, more)) = rest.split_once("\r\n") {
        let (chunk, more) = more.split_at(usize::from_str_radix(size, 16).unwrap());
        whole.push_str(chunk);
        rest = more.strip_prefix("\r\n").unwrap();
    }
    whole
}

/// Starts a second node, at the edge, and waits until both know it.
fn edge(world: &World, first: &Node) -> Node {
    let token = first.token(world, "10min");
    let arguments = ["--name", "edge-1", "--tier", "edge", "--site", "hall", "--listen", ANY_PORT, "--http", ANY_PORT];
    let edge = world.start("edge-1", &[&arguments[..], &["--join", &token]].concat());
    eventually("they see each other", || edge.sees(world).len() == 2 && first.sees(world).len() == 2);
    edge
}

#[test]
fn functions_call_publish_and_see_where_they_are() {
    let world = World::new();
    let node = world.first("cloud-1");
    deploy(&world, &node, GRANTED, "cloud");
    assert_eq!(ask(&node, "/call/back", "21"), "text/plain; charset=utf-8: 42");
    // Without HTTP in between, and over it.
    assert_eq!(node.tell(&world, &["call", "shop/back", "--data", "4"]), "8");
    assert_eq!(ask(&node, "/double", "8"), "16");
    let failed = ask(&node, "/call/back", "fail on purpose");
    assert!(failed.starts_with("Failed") && failed.contains("on purpose"), "{failed}");
    assert_eq!(ask(&node, "/publish/orders", "one"), "stored 1");
    let stored = node.tell(&world, &["stream", "tail", "shop/orders", "--from", "start"]);
    assert!(stored.contains("\"one\"") && stored.contains("\"fabric\""), "{stored}");
    assert_eq!(ask(&node, "/config/greeting", ""), "moin");
    let context = ask(&node, "/context", "");
    for part in ["tenant: \"default\"", "app: \"shop\"", "function: \"front\"", "node: \"cloud-1\"", "tier: \"cloud\""]
    {
        assert!(context.contains(part), "{part}: {context}");
    }
    assert!(context.contains("depth: 0") && context.contains("deadline_us: 1"), "{context}");
    let called = ask(&node, "/call/back", "context");
    assert!(called.contains("depth: 1") && called.contains("function: \"back\""), "{called}");
    ask(&node, "/log", "something strange");
    let logged = || node.tell(&world, &["logs", "shop"]).contains("WARN example: something strange");
    eventually("the line is in the log", logged);
}

#[test]
fn a_call_reaches_another_node_and_a_cycle_ends() {
    let world = World::new();
    let first = world.first("cloud-1");
    let _edge = edge(&world, &first);
    deploy(&world, &first, GRANTED, "edge");
    eventually("the far function is called", || ask(&first, "/call/far-back", "21").ends_with(": 42"));
    let called = ask(&first, "/call/far-back", "context");
    for part in ["depth: 1", "attempt: 1", "node: \"edge-1\"", "tier: \"edge\"", "site: \"hall\""] {
        assert!(called.contains(part), "{part}: {called}");
    }
    eventually("the far handler is called", || ask(&first, "/call/far", "nobody").contains("nobody"));
    for cycle in ["front", "far", "far front"] {
        let said = ask(&first, "/again", cycle);
        assert!(said.starts_with("ended at 15: ") && said.contains("break the cycle"), "{cycle}: {said}");
    }
}

#[test]
fn what_is_not_granted_is_denied_and_named() {
    let world = World::new();
    let node = world.first("cloud-1");
    deploy(&world, &node, "{}", "cloud");
    assert!(ask(&node, "/call/back", "21").starts_with("Denied"));
    assert!(ask(&node, "/publish/orders", "one").starts_with("Denied"));
    assert!(node.post("/increment/carts/k", "").contains("not granted"));
    for grant in ["call = [\"back\"]", "publish = [\"orders\"]", "keyvalue = [\"carts\"]"] {
        let line = format!("grant it with `{grant}` in `[functions.front.grants]`");
        let mut said = String::new();
        eventually(&format!("the log says: {line}"), || {
            said = node.tell(&world, &["logs", "shop"]);
            said.contains(&line)
        });
    }
    // A grant is taken up without a restart.
    deploy(&world, &node, GRANTED, "cloud");
    eventually("the grant is there", || ask(&node, "/call/back", "21").ends_with(": 42"));
}

#[test]
fn a_bucket_outlives_a_kill_and_goes_with_its_app() {
    let world = World::new();
    let node = world.first("cloud-1");
    deploy(&world, &node, GRANTED, "cloud");
    for count in 1..=20 {
        assert_eq!(ask(&node, "/increment/carts/count", ""), count.to_string());
    }
    assert_eq!(ask(&node, "/set/carts/a", "apple"), "set");
    assert_eq!(ask(&node, "/set/carts/b", "pear"), "set");
    assert_eq!(ask(&node, "/delete/carts/b", ""), "deleted");
    node.kill();
    let node = world.start("cloud-1", &[]);
    eventually("the app is healthy", || node.json(&world, &["get", "apps", "-o", "json"])[0]["state"] == "healthy");
    eventually("it is served", || node.get("/context").contains("200 OK"));
    assert_eq!(ask(&node, "/increment/carts/count", ""), "21");
    assert_eq!(ask(&node, "/get/carts/a", ""), "apple");
    assert_eq!(ask(&node, "/keys/carts", ""), "a count");
    node.tell(&world, &["delete", "shop"]);
    eventually("the bucket is forgotten", || node.said().contains("forgot the buckets"));
    deploy(&world, &node, GRANTED, "cloud");
    assert_eq!(ask(&node, "/get/carts/count", ""), "nothing");
}

#[test]
fn a_typed_handler_is_served_alone_and_has_no_fabric_then() {
    let world = World::new();
    let serve = |name: &str| {
        let path = world.path(&format!("{name}.wasm"));
        std::fs::write(&path, support::sdk_example(name)).unwrap();
        let mut command = world.littoral();
        command.args(["run", "--addr", ANY_PORT, "--env", "greeting=moin"]).arg(path);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stderr.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.split("http://").nth(1).unwrap_or_else(|| panic!("{line}")).trim().trim_end_matches('/');
        (Process(child), address.to_owned())
    };
    let (_typed, address) = serve("typed");
    assert!(request(&address, "POST", "/", "21").ends_with("42"));
    assert!(request(&address, "POST", "/", "x").starts_with("HTTP/1.1 400"));
    let (_handler, address) = serve("fabric");
    let denied = request(&address, "POST", "/call/back", "21");
    assert!(denied.contains("Denied") && denied.contains("littoral run"), "{denied}");
    assert!(request(&address, "GET", "/config/greeting", "").contains("moin"));
}
