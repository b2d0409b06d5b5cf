//! A data directory as the first format wrote it: a fabric's first node, with an app deployed, a token granted and records
//! published. Whatever this program becomes, it starts from it.
//!
//! The node's keys are of no fabric that exists. The log's file is kept without the zeros at its end; the derived state is
//! left out, as it is made anew from the log.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::path::{Path, PathBuf};

use common::*;

/// The size of a log file, in bytes.
const SEGMENT_BYTES: u64 = 64 << 20;
/// What is kept of a data directory.
const KEPT: [&str; 5] = ["node.facts", "tokens", "identity", "root", "log"];
const MANIFEST: &str = "name = \"notes\"\nversion = \"1.0.0\"\n[streams.notes]\n";

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/node-v1")
}

/// Makes the directory, when it is to be made.
fn bless() {
    let world = World::new();
    let node = world.first("cloud-1");
    let app = world.path("notes");
    std::fs::create_dir_all(&app).unwrap();
    std::fs::write(app.join("littoral.toml"), MANIFEST).unwrap();
    node.tell(&world, &["deploy", app.to_str().unwrap()]);
    node.token(&world, "1h");
    node.tell(&world, &["stream", "publish", "notes/notes", "--key", "k", "--value", "one", "--value", "two"]);
    let data = node.data.clone();
    assert_eq!(node.stop(), 0);
    std::fs::remove_dir_all(golden()).ok();
    std::fs::create_dir_all(golden()).unwrap();
    for name in KEPT {
        let (from, to) = (data.join(name), golden().join(name));
        if from.is_dir() {
            copy(&from, &to);
        } else {
            std::fs::copy(from, to).unwrap();
        }
    }
    for name in ["lock", "spare.tmp"] {
        std::fs::remove_file(golden().join("log").join(name)).ok();
    }
    for file in std::fs::read_dir(golden().join("log")).unwrap() {
        let path = file.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        let end = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
        bytes.truncate(end);
        std::fs::write(path, bytes).unwrap();
    }
}

#[test]
fn a_directory_of_version_1_is_started_from() {
    if std::env::var("LITTORAL_BLESS").is_ok_and(|bless| bless == "1") {
        bless();
    }
    let world = World::new();
    copy(&golden(), &world.path("cloud-1"));
    for file in std::fs::read_dir(world.path("cloud-1").join("log")).unwrap() {
        let file = std::fs::File::options().write(true).open(file.unwrap().path()).unwrap();
        file.set_len(SEGMENT_BYTES).unwrap();
    }
    let node = world.start("cloud-1", &[]);
    eventually("the app is healthy", || {
        let apps = node.json(&world, &["get", "apps", "-o", "json"]);
        apps[0]["name"] == "notes" && apps[0]["version"] == "1.0.0" && apps[0]["state"] == "healthy"
    });
    // It was deployed when bundles were not signed, and is kept on this node.
    assert!(node.said().contains("deployed before bundles were signed"), "{}", node.said());
    let text = node.tell(&world, &["stream", "tail", "notes/notes", "--from", "start"]);
    let values: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(values.iter().map(|row| row["value"].as_str().unwrap()).collect::<Vec<_>>(), ["one", "two"]);
    assert!(values.iter().all(|row| row["key"] == "k"));
    node.tell(&world, &["stream", "publish", "notes/notes", "--value", "three"]);
    // It is a fabric's first node still: it lets others in.
    node.token(&world, "1h");
    assert_eq!(node.stop(), 0);
}
