//! Flows in SQL on real nodes: deployed from a file, exact through kill -9 of the node that runs them, and explained.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use common::*;
use serde_json::{Value, json};

const MANIFEST: &str = r#"
name = "mill"
version = "1.0.0"

[streams.readings]
partitions = 1
placement = { tier = "cloud" }

[[routes]]
path = "/hot"
stream = "hot"
"#;

const FLOWS: &str = "\
CREATE STREAM readings (machine text, ts timestamp, temperature bigint);

-- What is too hot, and by how much; at 100 the margin cannot be said.
CREATE FLOW hot WITHIN '5 s' AT P95 PREFER edge DEAD LETTER INTO bad AS
  SELECT machine, ts, temperature, 1000 / (100 - temperature) AS margin
  FROM readings WHERE temperature > 50;

CREATE FLOW means PREFER edge AS
  SELECT machine, window_start, count(*) AS n, avg(temperature) AS mean
  FROM TUMBLE(hot, ts, INTERVAL '10 seconds')
  GROUP BY machine, window_start, window_end HAVING count(*) > 1;

CREATE FLOW seen PREFER edge AS
  SELECT machine, ts FROM hot UNION ALL SELECT machine, window_start FROM means;
";

/// How many records are published, ten a second of their own time.
const RECORDS: usize = 1_800;
/// In so many portions; before two of them the node that runs the flow is killed.
const PORTIONS: usize = 6;

fn temperature(number: usize) -> i64 {
    (number * 7 % 120) as i64
}

fn moment(tenths: usize) -> String {
    let text = format!("2024-01-01T00:{:02}:{:02}.{}00Z", tenths / 600, tenths / 10 % 60, tenths % 10);
    text.replace(".000Z", "Z")
}

fn record(number: usize) -> String {
    let (machine, ts) = (format!("m{}", number % 3), moment(number));
    json!({ "machine": machine, "ts": ts, "temperature": temperature(number) }).to_string()
}

/// What `hot` has to come to, and `means`, and how many rows fail.
fn expected() -> (Vec<Value>, BTreeSet<String>, usize) {
    let warm: Vec<usize> = (0..RECORDS).filter(|number| temperature(*number) > 50).collect();
    let fine: Vec<usize> = warm.iter().copied().filter(|number| temperature(*number) != 100).collect();
    let row = |number: &usize| {
        let temperature = temperature(*number);
        let (machine, ts) = (format!("m{}", number % 3), moment(*number));
        json!({ "machine": machine, "ts": ts, "temperature": temperature, "margin": 1000 / (100 - temperature) })
    };
    let last = fine.last().unwrap() / 100;
    let mut groups: BTreeMap<(usize, usize), (i64, i64)> = BTreeMap::new();
    for number in fine.iter().filter(|number| *number / 100 < last) {
        let group = groups.entry((number / 100, number % 3)).or_default();
        *group = (group.0 + 1, group.1 + temperature(*number));
    }
    let groups = groups.into_iter().filter(|(_, (count, _))| *count > 1);
    let means = groups.map(|((window, machine), (n, sum))| {
        let mean = sum as f64 / n as f64;
        json!({ "machine": format!("m{machine}"), "window_start": moment(window * 100), "n": n, "mean": mean })
            .to_string()
    });
    (fine.iter().map(row).collect(), means.collect(), warm.len() - fine.len())
}

/// The rows of a stream.
fn rows(world: &World, node: &Node, stream: &str) -> Vec<Value> {
    let output = node.ask(world, &["stream", "tail", stream, "--from", "start"]);
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|row| serde_json::from_str(row).unwrap()).collect()
}

/// A row without what the log adds to it.
fn plain(row: &Value, columns: &[&str]) -> Value {
    let row = row.get("row").unwrap_or(row);
    columns.iter().map(|column| ((*column).to_owned(), row[*column].clone())).collect()
}

fn stage(world: &World, node: &Node, flow: &str) -> Option<(String, usize)> {
    let flows = node.json(world, &["get", "flows", "-o", "json"]);
    let flow = flows.as_array()?.iter().find(|status| status["name"] == flow)?.clone();
    let stage = &flow["stages"][0];
    Some((stage["owner"].as_str()?.to_owned(), stage["in_sync"].as_array()?.len()))
}

fn write(world: &World, flows: &str) -> String {
    let folder = world.path("mill");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("littoral.toml"), MANIFEST).unwrap();
    std::fs::write(folder.join("flows.sql"), flows).unwrap();
    folder.to_str().unwrap().to_owned()
}

fn start(world: &World) -> (Node, BTreeMap<String, Node>) {
    let cloud = world.first_with("cloud-1", &["--tier", "cloud"]);
    let mut edges = BTreeMap::new();
    for (at, name) in ["edge-1", "edge-2"].into_iter().enumerate() {
        let token = cloud.token(world, "10min");
        let place = ["--name", name, "--tier", "edge", "--site", "hall", "--join", &token];
        let edge = world.start(name, &[&place[..], &["--listen", ANY_PORT, "--http", ANY_PORT]].concat());
        eventually("they see each other", || edge.sees(world).len() == at + 2 && cloud.sees(world).len() == at + 2);
        edges.insert(name.to_owned(), edge);
    }
    (cloud, edges)
}

#[test]
fn a_flow_in_sql_is_exact_through_kills_and_says_where_it_runs() {
    let world = World::new();
    let (cloud, mut edges) = start(&world);
    let folder = write(&world, FLOWS);
    let explained = cloud.tell(&world, &["flow", "explain", &folder, "hot"]);
    for part in [
        "filter",
        "project machine text, ts timestamp",
        "on edge-",
        "predicted p95",
        "of 5000 ms",
        "it does not run yet",
    ] {
        assert!(explained.contains(part), "{part} in\n{explained}");
    }
    cloud.tell(&world, &["deploy", &folder]);
    eventually("two edges hold the stages", || {
        ["hot", "means"].iter().all(|flow| stage(&world, &cloud, flow).is_some_and(|(_, copies)| copies == 2))
    });
    for portion in 0..PORTIONS {
        let mut lines = String::new();
        let size = RECORDS / PORTIONS;
        (portion * size..(portion + 1) * size).for_each(|number| writeln!(lines, "{}", record(number)).unwrap());
        let file = world.path("portion.json");
        std::fs::write(&file, lines).unwrap();
        cloud.tell(&world, &["stream", "publish", "mill/readings", "--file", file.to_str().unwrap()]);
        if portion % 2 == 1 && portion + 1 < PORTIONS {
            let mut owner = None;
            eventually("it has an owner", || {
                owner = stage(&world, &cloud, "hot").map(|(owner, _)| owner);
                owner.is_some()
            });
            let owner = owner.unwrap();
            assert!(owner.starts_with("edge-"), "{owner}");
            edges.remove(&owner).unwrap().kill();
            edges.insert(owner.clone(), world.start(&owner, &[]));
            eventually("both hold the stages again", || {
                ["hot", "means"].iter().all(|flow| stage(&world, &cloud, flow).is_some_and(|(_, copies)| copies == 2))
            });
        }
    }
    let (hot, means, failed) = expected();
    assert!(failed > 10 && means.len() > 30, "{failed} {}", means.len());
    eventually("all rows arrive", || {
        rows(&world, &cloud, "mill/hot").len() >= hot.len()
            && rows(&world, &cloud, "mill/means").len() >= means.len()
            && rows(&world, &cloud, "mill/bad").len() >= failed
            && rows(&world, &cloud, "mill/seen").len() >= hot.len() + means.len()
    });
    let found: Vec<Value> = rows(&world, &cloud, "mill/hot")
        .iter()
        .map(|row| plain(row, &["machine", "ts", "temperature", "margin"]))
        .collect();
    assert_eq!(found, hot);
    let found = rows(&world, &cloud, "mill/means");
    let plainly = |row: &Value| plain(row, &["machine", "window_start", "n", "mean"]).to_string();
    assert_eq!(found.len(), means.len());
    assert_eq!(found.iter().map(plainly).collect::<BTreeSet<_>>(), means);
    assert_eq!(rows(&world, &cloud, "mill/seen").len(), hot.len() + means.len());
    let bad = rows(&world, &cloud, "mill/bad");
    assert_eq!(bad.len(), failed);
    assert!(bad.iter().all(|row| row.to_string().contains("division by zero")), "{}", bad[0]);
    let explained = cloud.tell(&world, &["flow", "explain", &folder, "hot"]);
    assert!(explained.contains("measured hot.0/0 on edge-"), "{explained}");
}

#[test]
fn a_mistake_in_a_file_of_statements_is_shown_in_its_line() {
    let world = World::new();
    let folder = write(&world, &FLOWS.replace("temperature > 50", "temprature > 50"));
    let cloud = world.first("cloud-1");
    let output = cloud.ask(&world, &["plan", &folder]);
    assert_eq!(output.status.code(), Some(2));
    let errors = errors(&output);
    for part in ["there is no column `temprature`", "--> flows.sql:6:23", "did you mean `temperature`?"] {
        assert!(errors.contains(part), "{errors}");
    }
}
