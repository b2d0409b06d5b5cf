//! A node's life: stopped in order, killed, started again with no network, started twice.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;
#[path = "../../runtime-wasm/tests/support/mod.rs"]
mod support;

use std::io::{Read as _, Write as _};
use std::process::Stdio;

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
    let posted = node.post("/notes", "hello");
    assert!(posted.starts_with("HTTP/1.1 200"), "{posted}");
    assert!(node.get("/notes?last=1").contains("\"hello\""));
    node.tell(&world, &["delete", "notes"]);
    eventually("the app is gone", || node.json(&world, &["get", "apps", "-o", "json"]).as_array().unwrap().is_empty());
    assert!(node.get("/notes").starts_with("HTTP/1.1 404"));
    assert_eq!(node.stop(), 0);
}

#[test]
fn a_route_to_a_stream_takes_many_records_at_once_and_gives_all_as_arrow() {
    let world = World::new();
    let node = world.first("cloud-1");
    deploy(&world, &node);
    let http = node.address("http");
    let ask = |query: &str| {
        let accept = "accept: application/vnd.apache.arrow.stream";
        let (head, body) = request_with(&http, accept, "GET", &format!("/notes?{query}"), "");
        let next = head.lines().find_map(|line| line.strip_prefix("littoral-next: ")).map(str::to_owned);
        (head.split(' ').nth(1).unwrap().to_owned(), next.unwrap_or_default(), body)
    };
    let (status, start, body) = ask("from=start");
    assert_eq!((status.as_str(), body.len()), ("204", 0));
    let lines = "{\"value\": \"one\"}\n{\"value\": \"two\", \"key\": \"k\", \"time_us\": 5}\n";
    for _ in 0..2 {
        let (head, body) = request_with(&http, "content-type: application/x-ndjson", "POST", "/notes", lines);
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        assert!(String::from_utf8(body).unwrap().contains("\"stored\":2"));
    }
    assert_eq!(notes(&world, &node), ["one", "two", "one", "two"]);
    // One stream of two batches, each of its own publication, from the beginning and from where nothing was yet.
    for from in ["start", &start] {
        let (status, next, body) = ask(&format!("from={from}&wait_ms=10000"));
        let count = |text: &[u8]| body.windows(text.len()).filter(|bytes| *bytes == text).count();
        assert_eq!(
            (status.as_str(), count(b"onetwo"), count(b"value")),
            ("200", 2, 1),
            "the names of columns stand once"
        );
        assert_eq!(ask(&format!("from={next}")).0, "204");
    }
    assert_eq!(ask("from=7.x").0, "400");
    assert_eq!(ask("partition=1").0, "404");
    let (head, _) = request_with(&http, "content-type: application/x-ndjson", "POST", "/notes", "no object\n");
    assert!(head.starts_with("HTTP/1.1 400"), "{head}");
    assert_eq!(node.stop(), 0);
}

#[test]
fn a_publisher_outlives_a_kill_and_each_record_is_there_once() {
    let world = World::new();
    let node = world.first("cloud-1");
    deploy(&world, &node);
    let wanted: Vec<String> = (0..20_000).map(|number| format!("note {number}")).collect();
    let (before, after) = wanted.split_at(wanted.len() / 2);
    let mut command = node.littoral(&world);
    command.args(["stream", "publish", "notes/notes"]).stdin(Stdio::piped()).stdout(Stdio::null());
    let mut publisher = Process(command.stderr(Stdio::piped()).spawn().unwrap());
    let mut input = publisher.0.stdin.take().unwrap();
    let mut lines = |lines: &[String]| lines.iter().for_each(|line| writeln!(input, "{line}").unwrap());
    lines(before);
    eventually("the first records are stored", || node.get("/notes?last=1").contains("note"));
    // Half of the records are still to be published, and who knows which were under way.
    node.kill();
    let node = std::thread::scope(|scope| {
        // It takes what fits its buffers until the node is back.
        scope.spawn(move || lines(after));
        world.start("cloud-1", &[])
    });
    let status = {
        drop(input);
        publisher.ended()
    };
    let mut said = String::new();
    publisher.0.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(status, 0, "{said}");
    assert!(notes(&world, &node) == wanted, "some are missing, twice there or out of order: {said}");
}

#[test]
fn a_node_starts_from_its_own_disk_with_no_network() {
    let world = World::new();
    let first = world.first("cloud-1");
    let token = first.token(&world, "10min");
    let arguments = ["--name", "edge-1", "--tier", "edge", "--site", "hall", "--listen", ANY_PORT, "--http", ANY_PORT];
    let edge = world.start("edge-1", &[&arguments[..], &["--join", &token, "--label", "power=mains"]].concat());
    eventually("they see each other", || edge.sees(&world).len() == 2 && first.sees(&world).len() == 2);
    let folder = world.path("notes");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("web.wasm"), support::sdk_example("hello")).unwrap();
    let placement = "placement = { site = \"hall\", labels = { power = \"mains\" } }";
    let manifest = STREAM_APP.replace("[streams.notes]", &format!("[streams.notes]\n{placement}"))
        + "[[routes]]\npath = \"/web/*\"\nfunction = \"web\"\n"
        + &format!("[functions.web]\ncomponent = \"web.wasm\"\n{placement}\n");
    std::fs::write(folder.join("littoral.toml"), manifest).unwrap();
    let app = folder.to_str().unwrap();
    first.tell(&world, &["deploy", app]);
    first.tell(&world, &["stream", "publish", "notes/notes", "--value", "from afar"]);
    assert!(first.get("/web/x").contains("hello from /web/x"), "any node answers any route");
    // Where it was built is gone too.
    std::fs::remove_dir_all(&folder).unwrap();
    first.kill();
    assert_eq!(edge.stop_by(Signal::TERM).0, 0);
    let edge = world.start("edge-1", &[]);
    eventually("the app is healthy", || edge.json(&world, &["get", "apps", "-o", "json"])[0]["state"] == "healthy");
    assert_eq!(notes(&world, &edge), ["from afar"]);
    assert!(edge.get("/web/x").contains("hello from /web/x"));
    assert_eq!(edge.tell(&world, &["call", "notes/web", "--data", "echoed"]), "echoed");
    edge.tell(&world, &["stream", "publish", "notes/notes", "--value", "alone"]);
    assert_eq!(notes(&world, &edge), ["from afar", "alone"]);
    // Being cut off from the cloud does not make it unready.
    assert_eq!(edge.sees(&world), ["edge-1"]);
    for (path, what) in [("/livez", "live"), ("/readyz", "\"ready\":true"), ("/metrics", "littoral_log_appends_total")]
    {
        let answer = edge.get(path);
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains(what), "{path}: {answer}");
    }
}

#[test]
fn a_stop_in_order_is_no_failure() {
    let world = World::new();
    let mut node = world.first("cloud-1");
    deploy(&world, &node);
    for (number, signal) in [Signal::TERM, Signal::INT].into_iter().enumerate() {
        node.tell(&world, &["stream", "publish", "notes/notes", "--value", &format!("note {number}")]);
        let (status, said) = node.stop_by(signal);
        assert_eq!(status, 0, "{said}");
        assert!(said.contains("stopped") && !said.contains("ERROR"), "{said}");
        assert!(!world.path("cloud-1").join("admin.sock").exists());
        node = world.start("cloud-1", &[]);
        eventually("the app is healthy", || node.json(&world, &["get", "apps", "-o", "json"])[0]["state"] == "healthy");
    }
    assert_eq!(notes(&world, &node), ["note 0", "note 1"]);
}

#[test]
fn a_directory_belongs_to_one_process() {
    let world = World::new();
    let node = world.first_with("cloud-1", &["--label", "power=mains"]);
    let label = |node: &Node| node.json(&world, &["get", "nodes", "-o", "json"])[0]["labels"]["power"].clone();
    let second = world.littoral().args(["node", "--label", "power=none", "--data"]).arg(&node.data).output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    assert!(errors(&second).contains("a node runs on this data directory already"), "{}", errors(&second));
    assert_eq!(node.sees(&world), ["cloud-1"]);
    // What the second was told is of no consequence, not even at the next start.
    assert_eq!(node.stop(), 0);
    assert_eq!(label(&world.start("cloud-1", &[])), "mains");
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
    for command in [&["deploy", app][..], &["deploy", app, "--dry-run"], &["plan", app]] {
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
    for command in [&["deploy", app][..], &["deploy", app, "--dry-run"], &["plan", app], &["build", app]] {
        let invalid = node.ask(&world, command);
        assert_eq!(invalid.status.code(), Some(2), "{command:?}");
        assert!(errors(&invalid).contains("littoral.toml:4:13"), "{command:?}: {}", errors(&invalid));
    }
    assert!(node.json(&world, &["get", "apps", "-o", "json"]).as_array().unwrap().is_empty());
}

#[test]
fn a_stream_takes_in_what_a_flow_that_comes_later_puts_there() {
    let world = World::new();
    let node = world.first("cloud-1");
    let folder = world.path("ways");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(
        folder.join("littoral.toml"),
        "name = \"ways\"\nversion = \"1.0.0\"\n[streams.one]\n[streams.two]\n",
    )
    .unwrap();
    let deploy = |version: &str, flows: &str| {
        let streams =
            "CREATE STREAM one (v bigint); CREATE STREAM two (v bigint); CREATE STREAM all_of_it (v bigint);\n";
        std::fs::write(folder.join("flows.sql"), format!("{streams}{flows}")).unwrap();
        let manifest = std::fs::read_to_string(folder.join("littoral.toml")).unwrap();
        std::fs::write(folder.join("littoral.toml"), manifest.replace("1.0.0", version)).unwrap();
        node.tell(&world, &["deploy", folder.to_str().unwrap()]);
    };
    let publish = |stream: &str, value: u32| {
        node.tell(&world, &["stream", "publish", &format!("ways/{stream}"), "--value", &format!("{{\"v\":{value}}}")]);
    };
    let rows = || {
        let output = node.ask(&world, &["stream", "tail", "ways/all-of-it", "--from", "start"]);
        String::from_utf8(output.stdout).unwrap().lines().count()
    };
    deploy("1.0.0", "CREATE FLOW all_of_it AS SELECT v FROM one;");
    publish("one", 1);
    eventually("it is there", || rows() == 1);
    deploy("2.0.0", "CREATE FLOW all_of_it AS SELECT v FROM one UNION ALL SELECT v FROM two;");
    publish("two", 2);
    eventually("what comes from the second stream is there, too", || rows() == 2);
    publish("one", 3);
    eventually("and from the first", || rows() == 3);
}
