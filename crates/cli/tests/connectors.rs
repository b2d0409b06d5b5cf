//! Sources and sinks on real nodes: files that grow and are moved away, files that are written, made-up records; through kill -9 in the
//! middle, with each record there once.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::io::Write as _;
use std::path::{Path, PathBuf};

use common::*;
use serde_json::Value;

fn deploy(world: &World, node: &Node, manifest: &str) {
    deploy_with(world, node, manifest, &[]);
}

fn deploy_with(world: &World, node: &Node, manifest: &str, more: &[&str]) {
    let folder = world.path("app");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("littoral.toml"), format!("name = \"plant\"\nversion = \"1\"\n{manifest}")).unwrap();
    node.tell(world, &[&["deploy", folder.to_str().unwrap()], more].concat());
}

/// A folder that the node offers.
fn shared(world: &World) -> PathBuf {
    let folder = world.path("shared");
    std::fs::create_dir_all(folder.join("out")).unwrap();
    folder
}

fn values(world: &World, node: &Node, stream: &str) -> Vec<String> {
    let rows = node.tell(world, &["stream", "tail", stream, "--from", "start"]);
    rows.lines().map(|row| serde_json::from_str::<Value>(row).unwrap()["value"].as_str().unwrap().to_owned()).collect()
}

fn append(path: &Path, text: &str) {
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

/// The files of a sink in their order: their names and what is in them.
fn written(folder: &Path) -> Vec<(String, String)> {
    let files = std::fs::read_dir(folder).unwrap().flatten().map(|entry| entry.file_name().into_string().unwrap());
    let mut names: Vec<String> = files.filter(|name| !name.starts_with('.')).collect();
    names.sort();
    names
        .into_iter()
        .map(|name| (name.clone(), std::fs::read_to_string(folder.join(name)).unwrap_or_default()))
        .collect()
}

/// The numbers that the rows of a sink's files have, in order.
fn numbers(folder: &Path) -> Vec<u64> {
    let texts = written(folder);
    let rows =
        texts.iter().flat_map(|(_, text)| text.lines()).filter_map(|line| serde_json::from_str::<Value>(line).ok());
    rows.map(|row| serde_json::from_str::<Value>(row["value"].as_str().unwrap()).unwrap()["n"].as_u64().unwrap())
        .collect()
}

fn connector(world: &World, node: &Node, kind: &str) -> Value {
    node.json(world, &["get", kind, "-o", "json"])[0].clone()
}

#[test]
fn each_line_of_a_file_that_grows_is_in_the_stream_once_whatever_is_killed() {
    let world = World::new();
    let shared = shared(&world);
    let offer = ["--offer", shared.to_str().unwrap()];
    let node = world.first_with("cloud-1", &offer);
    let input = shared.join("in.jsonl");
    let manifest =
        format!("[streams.lines]\n[sources.lines]\nstream = \"lines\"\nfile = {{ path = {input:?}, key = \"k\" }}\n");
    deploy(&world, &node, &manifest);
    let line = |number: u64| format!("{{\"n\":{number},\"k\":\"k{}\"}}\n", number % 7);
    let lines = |range: std::ops::Range<u64>| range.map(line).collect::<String>();
    let expected = |upto: u64| lines(0..upto).lines().map(str::to_owned).collect::<Vec<_>>();
    append(&input, &lines(0..20_000));
    eventually("some of it is there", || !values(&world, &node, "plant/lines").is_empty());
    // In the middle of it, as likely as not.
    node.kill();
    // It goes on growing while nobody reads it; the last line is not complete.
    append(&input, &(lines(20_000..20_100) + "{\"n\":20100,"));
    let node = world.start("cloud-1", &offer);
    eventually("all complete lines are there", || values(&world, &node, "plant/lines").len() >= 20_100);
    append(&input, "\"k\":\"k3\"}\n");
    eventually("the line that was begun is there", || values(&world, &node, "plant/lines").len() >= 20_101);
    assert!(values(&world, &node, "plant/lines") == expected(20_101), "lines are missing, doubled or out of order");

    // It is moved away, and another one takes its place; what came last to the old one is read first.
    let moved = shared.join("moved.jsonl");
    std::fs::rename(&input, &moved).unwrap();
    append(&moved, &lines(20_101..20_102));
    append(&input, &lines(20_102..20_110));
    eventually("the next file is read", || values(&world, &node, "plant/lines").len() >= 20_109);
    let said = values(&world, &node, "plant/lines");
    assert!(said.iter().skip(20_101).all(|value| expected(20_110).contains(value)), "{:?}", &said[20_101..]);
    let source = connector(&world, &node, "sources");
    assert_eq!((source["name"].as_str(), source["owner"].as_str()), (Some("lines"), Some("cloud-1")), "{source}");
    assert_eq!(node.stop(), 0);
}

#[test]
fn what_a_generator_makes_is_in_the_files_of_a_sink_once_whatever_is_killed() {
    const COUNT: u64 = 30_000;
    let world = World::new();
    let shared = shared(&world);
    let out = shared.join("out");
    let offer = ["--offer", shared.to_str().unwrap()];
    let node = world.first_with("cloud-1", &offer);
    let manifest = format!(
        "[streams.made]\npartitions = 1\n[sources.load]\nstream = \"made\"\nnode = \"cloud-1\"\n[sources.load.generator]\nrate = 5000\nseed = 7\n\
         count = {COUNT}\nfields = {{ n = \"sequence\", t = {{ from = -5, to = 40 }}, m = [\"m1\", \"m2\"] }}\nkey = \"m\"\n\
         [sinks.archive]\nstream = \"made\"\nfile = {{ path = {out:?}, rotate = \"300KiB\" }}\n"
    );
    deploy(&world, &node, &manifest);
    let mut node = Some(node);
    for share in [5, 3, 2] {
        let so_far = COUNT / share;
        eventually("a part is written", || numbers(&out).len() as u64 >= so_far / 2);
        node.take().unwrap().kill();
        node = Some(world.start("cloud-1", &offer));
    }
    let node = node.unwrap();
    eventually_within(STORY_MAX, "all is written", || numbers(&out).len() as u64 >= COUNT);
    assert!(numbers(&out) == (0..COUNT).collect::<Vec<_>>(), "rows are missing, doubled or out of order");
    let files = written(&out);
    assert!(files.len() > 2, "{} files", files.len());
    for (place, (name, text)) in files.iter().enumerate() {
        let is_last = place + 1 == files.len();
        let ending = if is_last { ".open" } else { "" };
        assert_eq!(*name, format!("archive-{:08}.jsonl{ending}", place + 1));
        assert!(text.len() <= 300 << 10, "{name} has {} bytes", text.len());
    }
    eventually("both say how far they are", || {
        connector(&world, &node, "sinks")["records"].as_u64().is_some_and(|records| records > 0)
    });
    assert_eq!(node.stop(), 0);
}

#[test]
fn a_sink_that_is_down_keeps_nobody_else_waiting_and_gets_everything_later() {
    let world = World::new();
    let shared = shared(&world);
    let (out, aside) = (shared.join("out"), shared.join("aside"));
    let node = world.first_with("cloud-1", &["--offer", shared.to_str().unwrap()]);
    std::fs::rename(&out, &aside).unwrap();
    let manifest = format!(
        "[streams.notes]\n[sinks.notes]\nstream = \"notes\"\nfile = {{ path = {out:?}, format = \"csv\" }}\n\
         [sinks.other]\nstream = \"notes\"\nfile = {{ path = {shared:?} }}\n[sinks.beyond]\nstream = \"notes\"\nfile = {{ path = \"/var/none\" }}\n"
    );
    deploy_with(&world, &node, &manifest, &["--no-wait"]);
    let publish = |value: &str| drop(node.tell(&world, &["stream", "publish", "plant/notes", "--value", value]));
    publish("one");
    publish("two, \"quoted\"");
    let other = shared.join("other-00000001.jsonl.open");
    eventually("the other one has them", || {
        std::fs::read_to_string(&other).is_ok_and(|text| text.lines().count() == 2)
    });
    let reason = |name: &str| {
        let sinks = node.json(&world, &["get", "sinks", name, "-o", "json"]);
        sinks[0]["reason"].as_str().unwrap_or_default().to_owned()
    };
    eventually("it says what is the matter", || reason("notes").contains("out"));
    eventually("a folder that is not offered is named", || {
        reason("beyond").contains("start it with --offer /var/none")
    });
    assert!(std::fs::read_dir(&aside).unwrap().next().is_none());
    std::fs::rename(&aside, &out).unwrap();
    let file = out.join("notes-00000001.csv.open");
    eventually("it has caught up", || std::fs::read_to_string(&file).is_ok_and(|text| text.lines().count() == 3));
    let text = std::fs::read_to_string(&file).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "key,time,value");
    assert!(lines[1].ends_with(",one") && lines[2].ends_with(",\"two, \"\"quoted\"\"\""), "{text}");
    eventually("nothing is the matter any more", || reason("notes").is_empty());
    assert_eq!(node.stop(), 0);
}

#[test]
fn rows_of_commas_become_objects_and_what_is_none_is_passed_over() {
    let world = World::new();
    let shared = shared(&world);
    let node = world.first_with("cloud-1", &["--offer", shared.to_str().unwrap()]);
    let input = shared.join("in.csv");
    append(&input, "machine,temperature,note\nm1,20.5,\"a, \"\"b\"\"\"\nm2,too,many,fields\nm3,,\n");
    let manifest = format!(
        "[streams.rows]\n[sources.rows]\nstream = \"rows\"\nfile = {{ path = {input:?}, format = \"csv\", key = \"machine\" }}\n"
    );
    deploy(&world, &node, &manifest);
    eventually("they are there", || values(&world, &node, "plant/rows").len() == 2);
    let rows =
        values(&world, &node, "plant/rows").into_iter().map(|value| serde_json::from_str::<Value>(&value).unwrap());
    let wanted = [
        serde_json::json!({ "machine": "m1", "temperature": 20.5, "note": "a, \"b\"" }),
        serde_json::json!({ "machine": "m3", "temperature": null, "note": null }),
    ];
    assert_eq!(rows.collect::<Vec<_>>(), wanted);
    assert_eq!(connector(&world, &node, "sources")["passed_over"], 1);
    assert_eq!(node.stop(), 0);
}
