//! Flows in SQL on real nodes: deployed from a file, exact through kill -9 of the node that runs them, and explained.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;
#[path = "../../runtime-wasm/tests/support/mod.rs"]
mod support;

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

/// Who runs the partitions of a flow's stage, and how many nodes have the state of each.
fn stages(world: &World, node: &Node, flow: &str) -> Option<Vec<(String, usize)>> {
    let flows = node.json(world, &["get", "flows", "-o", "json"]);
    let flow = flows.as_array()?.iter().find(|status| status["name"] == flow)?.clone();
    let told = |stage: &Value| Some((stage["owner"].as_str()?.to_owned(), stage["in_sync"].as_array()?.len()));
    flow["stages"].as_array()?.iter().map(told).collect()
}

fn stage(world: &World, node: &Node, flow: &str) -> Option<(String, usize)> {
    stages(world, node, flow)?.into_iter().next()
}

/// Kills the edge that runs the first partition of a flow's stage, and starts it again.
fn strike(world: &World, cloud: &Node, edges: &mut BTreeMap<String, Node>, flow: &str) {
    let mut owner = None;
    eventually("it has an owner", || {
        owner = stage(world, cloud, flow).map(|(owner, _)| owner);
        owner.is_some()
    });
    let owner = owner.unwrap();
    edges.remove(&owner).unwrap_or_else(|| panic!("`{flow}` runs on {owner}, no edge")).kill();
    edges.insert(owner.clone(), world.start(&owner, &[]));
}

fn write(world: &World, flows: &str) -> String {
    write_app(world, MANIFEST, flows)
}

fn write_app(world: &World, manifest: &str, flows: &str) -> String {
    let folder = world.path("mill");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("littoral.toml"), manifest).unwrap();
    std::fs::write(folder.join("flows.sql"), flows).unwrap();
    folder.to_str().unwrap().to_owned()
}

fn publish(world: &World, node: &Node, records: impl Iterator<Item = String>) {
    publish_to(world, node, "mill/readings", records);
}

fn publish_to(world: &World, node: &Node, stream: &str, records: impl Iterator<Item = String>) {
    let mut lines = String::new();
    records.for_each(|record| writeln!(lines, "{record}").unwrap());
    let file = world.path("portion.json");
    std::fs::write(&file, lines).unwrap();
    node.tell(world, &["stream", "publish", stream, "--file", file.to_str().unwrap()]);
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
        let size = RECORDS / PORTIONS;
        publish(&world, &cloud, (portion * size..(portion + 1) * size).map(record));
        if portion % 2 == 1 && portion + 1 < PORTIONS {
            strike(&world, &cloud, &mut edges, "hot");
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
    let drawn = world.path("flows.svg");
    let explained = cloud.tell(&world, &["flow", "explain", &folder, "hot", "--svg", drawn.to_str().unwrap()]);
    assert!(explained.contains("measured hot.0/0 on edge-"), "{explained}");
    // The counts of a node that was killed are gone; what is said of them together does not depend on it.
    let (share, _) = explained.split_once(" % of the bytes that come from readings go on to hot").unwrap();
    let share: f64 = share.rsplit(' ').next().unwrap().parse().unwrap();
    assert!((10.0..100.0).contains(&share), "{explained}");
    let drawn = std::fs::read_to_string(drawn).unwrap();
    assert!(drawn.contains("on edge-") && drawn.contains(" ms old"), "{drawn}");
}

const SPREAD_MANIFEST: &str = r#"
name = "mill"
version = "1.0.0"

[streams.readings]
partitions = 4
placement = { tier = "cloud" }
"#;

const SPREAD: &str = "\
CREATE STREAM readings (machine text, ts timestamp, temperature bigint);
CREATE STREAM taps (ts timestamp) PARTITIONS 4;

CREATE FLOW sums PREFER edge PARTITIONS 3 DEAD LETTER INTO bad AS
  SELECT machine, window_start, count(*) AS n, avg(temperature) AS mean, max(temperature) FILTER (WHERE temperature < 90) AS top
  FROM TUMBLE(readings, ts, INTERVAL '10 seconds')
  WHERE temperature > 10
  GROUP BY machine, window_start, window_end;

-- All of its rows are in one partition.
CREATE FLOW tapped PREFER edge IDLE AFTER '1 s' AS
  SELECT window_start, count(*) AS n FROM TUMBLE(taps, ts, INTERVAL '10 seconds') GROUP BY window_start;

-- One partition, whose rows are grouped in two.
CREATE STREAM doors (door text, ts timestamp);
CREATE FLOW opened PREFER edge PARTITIONS 2 AS
  SELECT door, count(*) AS n FROM TUMBLE(doors, ts, INTERVAL '10 seconds') GROUP BY door, window_start;
";

/// What `sums` has to come to.
fn expected_sums() -> BTreeSet<String> {
    let mut groups: BTreeMap<(usize, usize), Vec<i64>> = BTreeMap::new();
    for number in (0..RECORDS).filter(|number| temperature(*number) > 10) {
        groups.entry((number / 100, number % 3)).or_default().push(temperature(number));
    }
    let told = |((window, machine), of): ((usize, usize), Vec<i64>)| {
        let (n, mean) = (of.len(), of.iter().sum::<i64>() as f64 / of.len() as f64);
        let top = of.iter().filter(|temperature| **temperature < 90).max();
        let (machine, window_start) = (format!("m{machine}"), moment(window * 100));
        json!({ "machine": machine, "window_start": window_start, "n": n, "mean": mean, "top": top }).to_string()
    };
    groups.into_iter().map(told).collect()
}

/// Has each partition say that it is past all windows: of so many records there is one for each.
fn publish_end(world: &World, node: &Node) {
    let end = |number| record(0).replace(":00Z", &format!(":{:02}Z", number % 60)).replace("T00", "T01");
    publish(world, node, (0..64).map(end));
}

/// Waits for all groups, and compares them.
fn check_sums(world: &World, node: &Node) {
    let expected = expected_sums();
    assert!(expected.len() > 50, "{}", expected.len());
    eventually("all groups arrive", || rows(world, node, "mill/sums").len() >= expected.len());
    let found = rows(world, node, "mill/sums");
    let plainly = |row: &Value| plain(row, &["machine", "window_start", "n", "mean", "top"]).to_string();
    assert_eq!(found.len(), expected.len());
    assert_eq!(found.iter().map(plainly).collect::<BTreeSet<_>>(), expected);
    assert_eq!(rows(world, node, "mill/bad"), Vec::<Value>::new());
}

#[test]
fn groups_over_several_partitions_are_exact_through_kills() {
    let world = World::new();
    let (cloud, mut edges) = start(&world);
    let folder = write_app(&world, SPREAD_MANIFEST, SPREAD);
    let explained = cloud.tell(&world, &["flow", "explain", &folder, "sums"]);
    let parts = [
        "partial tumble 10 s, 1 keys",
        "spread by 1 keys over 3 partitions",
        "watermark the least of 4 partitions",
        "from sums-by-key",
        "stage sums-by-key, partition 3: on cloud-1",
    ];
    for part in parts {
        assert!(explained.contains(part), "{part} in\n{explained}");
    }
    cloud.tell(&world, &["deploy", &folder]);
    let are_copied = || {
        let all = |(flow, count): &(&str, usize)| {
            let stages = stages(&world, &cloud, flow).filter(|stages| stages.len() == *count);
            stages.is_some_and(|stages| stages.iter().all(|(_, copies)| *copies == 2))
        };
        // The groups of a partition are summed up where its rows are, before they cross the link.
        let at_source = stages(&world, &cloud, "sums-by-key").unwrap_or_default();
        at_source.len() == 4 && at_source.iter().all(|(owner, _)| owner == "cloud-1") && [("sums", 3)].iter().all(all)
    };
    eventually("two edges hold each stage", are_copied);
    for portion in 0..PORTIONS {
        let size = RECORDS / PORTIONS;
        publish(&world, &cloud, (portion * size..(portion + 1) * size).map(record));
        if portion % 2 == 1 {
            strike(&world, &cloud, &mut edges, "sums");
            eventually("both hold the stages again", are_copied);
        }
    }
    publish_end(&world, &cloud);
    check_sums(&world, &cloud);
    let explained = cloud.tell(&world, &["flow", "explain", &folder, "sums"]);
    assert!(explained.contains(" % of the bytes that come from readings go on to sums-by-key"), "{explained}");
    for moment in [moment(0), moment(RECORDS)] {
        let record = json!({ "ts": moment }).to_string();
        cloud.tell(&world, &["stream", "publish", "mill/taps", "--key", "one", "--value", &record]);
    }
    eventually("a window does not wait for idle partitions", || rows(&world, &cloud, "mill/tapped").len() == 1);
    let doors = (0..24).map(|number| json!({ "door": format!("d{}", number % 8), "ts": moment(0) }));
    let last = json!({ "door": "d0", "ts": moment(RECORDS) });
    publish_to(&world, &cloud, "mill/doors", doors.chain([last]).map(|row| row.to_string()));
    eventually("all doors arrive", || rows(&world, &cloud, "mill/opened").len() >= 8);
    assert_eq!(stages(&world, &cloud, "opened").map(|stages| stages.len()), Some(2));
    let opened = rows(&world, &cloud, "mill/opened");
    let opened: BTreeSet<String> = opened.iter().map(|row| plain(row, &["door", "n"]).to_string()).collect();
    assert_eq!(opened, (0..8).map(|door| json!({ "door": format!("d{door}"), "n": 3 }).to_string()).collect());
}

/// Whether all partitions of a flow's stages have changed to so many.
fn has_partitions(world: &World, node: &Node, flow: &str, number: u64) -> bool {
    let flows = node.json(world, &["get", "flows", "-o", "json"]);
    let flow =
        flows.as_array().into_iter().flatten().find(|status| status["name"] == flow).cloned().unwrap_or_default();
    let stages = flow["stages"].as_array().cloned().unwrap_or_default();
    stages.len() as u64 >= number && stages.iter().all(|stage| stage["runs"]["rescaled"]["to"] == number)
}

#[test]
fn the_number_of_partitions_changes_while_rows_flow_and_nodes_are_killed() {
    let world = World::new();
    let (cloud, mut edges) = start(&world);
    // In one phase, which is at the edges, too, to be killed there.
    let over = |number: u64| SPREAD.replace("PARTITIONS 3", &format!("AGGREGATE IN ONE PHASE PARTITIONS {number}"));
    let write = |number| write_app(&world, SPREAD_MANIFEST, &over(number));
    cloud.tell(&world, &["deploy", &write(3)]);
    let are_copied = |count: usize| {
        let all = stages(&world, &cloud, "sums").filter(|stages| stages.len() == count);
        all.is_some_and(|stages| stages.iter().all(|(_, copies)| *copies == 2))
    };
    let portion = |number: usize| {
        let size = RECORDS / PORTIONS;
        publish(&world, &cloud, (number * size..(number + 1) * size).map(record));
    };
    portion(0);
    let told = cloud.tell(&world, &["deploy", &write(5)]);
    assert!(told.contains("flow sums has 5 partitions now, before 3; handing over paused it for up to "), "{told}");
    portion(1);
    eventually("two edges hold each stage", || are_copied(5));
    cloud.tell(&world, &["deploy", "--no-wait", &write(1)]);
    strike(&world, &cloud, &mut edges, "sums");
    portion(2);
    eventually("one partition has all groups", || has_partitions(&world, &cloud, "sums", 1));
    // The same number again changes nothing; two changes at once are done one after the other.
    cloud.tell(&world, &["deploy", &write(1)]);
    portion(3);
    cloud.tell(&world, &["deploy", "--no-wait", &write(6)]);
    let told = cloud.tell(&world, &["deploy", "-o", "json", &write(4)]);
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!((&told["name"], &told["rescaled"][0]["to"]), (&json!("mill"), &json!(4)));
    portion(4);
    eventually("two edges hold each stage", || are_copied(6));
    cloud.tell(&world, &["deploy", "--no-wait", &write(2)]);
    portion(5);
    strike(&world, &cloud, &mut edges, "sums-by-key");
    publish_end(&world, &cloud);
    check_sums(&world, &cloud);
}

const JOINED: &str = "\
CREATE STREAM readings (machine text, ts timestamp, temperature bigint);
CREATE STREAM pressures (machine text, at timestamp, pressure bigint) PARTITIONS 3 ON TIER cloud;

CREATE FLOW matched PREFER edge DEAD LETTER INTO bad AS
  SELECT r.machine, r.ts, r.temperature, p.pressure
  FROM readings AS r LEFT JOIN pressures AS p
    ON r.machine = p.machine AND p.at BETWEEN r.ts - INTERVAL '1 second' AND r.ts + INTERVAL '1 second' AND p.pressure % 5 <> 0
  WHERE r.temperature > 10;

CREATE FLOW valued PREFER edge DEAD LETTER INTO bad AS
  SELECT r.machine, r.ts, r.temperature, p.pressure
  FROM readings AS r LEFT JOIN pressures FOR SYSTEM_TIME AS OF r.ts AS p ON r.machine = p.machine;
";

/// Pressures are taken less often, and of a machine more.
const PRESSURES: usize = RECORDS / 6;

fn pressure(number: usize) -> String {
    json!({ "machine": format!("m{}", number % 4), "at": moment(number * 6), "pressure": number }).to_string()
}

/// What `matched` has to come to: each reading with each pressure.
fn expected_pairs() -> BTreeSet<String> {
    let mut pairs = BTreeSet::new();
    for reading in (0..RECORDS).filter(|number| temperature(*number) > 10) {
        let joins = |pressure: &usize| {
            reading % 3 == pressure % 4 && reading.abs_diff(pressure * 6) <= 10 && !pressure.is_multiple_of(5)
        };
        let joined: Vec<Option<usize>> = (0..PRESSURES).filter(joins).map(Some).collect();
        for pressure in if joined.is_empty() { vec![None] } else { joined } {
            let (machine, ts) = (format!("m{}", reading % 3), moment(reading));
            let row =
                json!({ "machine": machine, "ts": ts, "temperature": temperature(reading), "pressure": pressure });
            pairs.insert(row.to_string());
        }
    }
    pairs
}

/// What `valued` has to come to: each reading with the last pressure before it.
fn expected_values() -> BTreeSet<String> {
    let row = |reading: usize| {
        let is_valid = |pressure: &usize| reading % 3 == pressure % 4 && pressure * 6 <= reading;
        let (machine, ts) = (format!("m{}", reading % 3), moment(reading));
        let pressure = (0..PRESSURES).rev().find(is_valid);
        json!({ "machine": machine, "ts": ts, "temperature": temperature(reading), "pressure": pressure }).to_string()
    };
    (0..RECORDS).map(row).collect()
}

#[test]
fn pairs_of_two_streams_over_several_partitions_are_exact_through_kills() {
    let world = World::new();
    let (cloud, mut edges) = start(&world);
    let folder = write_app(&world, SPREAD_MANIFEST, JOINED);
    let explained = cloud.tell(&world, &["flow", "explain", &folder, "matched"]);
    for part in ["left join by 1 keys", "the least of 4 and of 3 partitions", "from matched-by-key", "from pressures"] {
        assert!(explained.contains(part), "{part} in\n{explained}");
    }
    cloud.tell(&world, &["deploy", &folder]);
    let joins = ["matched", "valued"];
    let counts = joins
        .iter()
        .flat_map(|name| [(format!("{name}-left"), 4), (format!("{name}-right"), 3), ((*name).to_owned(), 4)]);
    let counts: Vec<(String, usize)> = counts.filter(|(flow, _)| flow != "matched-left").collect();
    let are_copied = || {
        let is_copied = |(flow, count): &(String, usize)| {
            let all = stages(&world, &cloud, flow).filter(|stages| stages.len() == *count);
            all.is_some_and(|stages| stages.iter().all(|(_, copies)| *copies == 2))
        };
        // Of these rows the most are left out, where they are.
        let at_source = stages(&world, &cloud, "matched-left").unwrap_or_default();
        at_source.len() == 4 && at_source.iter().all(|(owner, _)| owner == "cloud-1") && counts.iter().all(is_copied)
    };
    eventually("two edges hold each stage", are_copied);
    for portion in 0..PORTIONS {
        let part = |all: usize| portion * all / PORTIONS..(portion + 1) * all / PORTIONS;
        publish(&world, &cloud, part(RECORDS).map(record));
        publish_to(&world, &cloud, "mill/pressures", part(PRESSURES).map(pressure));
        // Those that spread rows, and who makes pairs with versions.
        let struck = ["valued-left", "matched-right", "valued"].get(portion / 2).filter(|_| portion % 2 == 1);
        if let Some(flow) = struck {
            strike(&world, &cloud, &mut edges, flow);
            eventually("both hold the stages again", are_copied);
        }
    }
    check_pairs(&world, &cloud);
}

#[test]
fn the_number_of_partitions_of_joins_changes_while_rows_flow() {
    let world = World::new();
    let (cloud, mut edges) = start(&world);
    let write = |number: u64| {
        let over = format!(" PREFER edge PARTITIONS {number} ");
        write_app(&world, SPREAD_MANIFEST, &JOINED.replace(" PREFER edge ", &over))
    };
    cloud.tell(&world, &["deploy", &write(4)]);
    for (portion, number) in [4, 2, 7, 7, 1, 3].into_iter().enumerate() {
        let part = |all: usize| portion * all / PORTIONS..(portion + 1) * all / PORTIONS;
        publish(&world, &cloud, part(RECORDS).map(record));
        cloud.tell(&world, &["deploy", "--no-wait", &write(number)]);
        if portion == 2 {
            strike(&world, &cloud, &mut edges, "matched");
        }
        publish_to(&world, &cloud, "mill/pressures", part(PRESSURES).map(pressure));
        let are_done = || ["matched", "valued"].iter().all(|flow| has_partitions(&world, &cloud, flow, number));
        eventually("all have changed", || portion == 0 || are_done());
    }
    check_pairs(&world, &cloud);
}

/// Has each partition say that it is past all, waits for all pairs, and compares them.
fn check_pairs(world: &World, cloud: &Node) {
    // Each partition has to say that it is past all of these.
    let later = |text: String| (0..60).map(move |second| text.replace("T00:00:00Z", &format!("T01:00:{second:02}Z")));
    publish(world, cloud, later(record(0).replace("\"temperature\":0", "\"temperature\":20")));
    publish_to(world, cloud, "mill/pressures", later(pressure(0).replace("m0", "none")));
    let expected = expected_pairs();
    let (pairs, alone): (Vec<_>, Vec<_>) = expected.iter().partition(|row| !row.contains("null"));
    assert!(pairs.len() > 300 && alone.len() > 300, "{} {}", pairs.len(), alone.len());
    for (stream, expected) in [("mill/matched", &expected), ("mill/valued", &expected_values())] {
        let found = || -> Vec<String> {
            let columns = ["machine", "ts", "temperature", "pressure"];
            let rows = rows(world, cloud, stream).into_iter().map(|row| plain(&row, &columns).to_string());
            rows.filter(|row| !row.contains("T01")).collect()
        };
        eventually("all rows arrive", || found().len() >= expected.len());
        let found = found();
        assert_eq!(found.len(), expected.len());
        assert_eq!(&found.into_iter().collect::<BTreeSet<_>>(), expected);
    }
    assert_eq!(rows(world, cloud, "mill/bad"), Vec::<Value>::new());
}

#[test]
fn stages_move_to_another_node_on_request_without_losing_or_doubling_a_row() {
    let world = World::new();
    let (cloud, edges) = start(&world);
    let folder = write(&world, FLOWS);
    cloud.tell(&world, &["deploy", &folder]);
    for portion in 0..PORTIONS {
        let size = RECORDS / PORTIONS;
        publish(&world, &cloud, (portion * size..(portion + 1) * size).map(record));
        for flow in ["hot", "means"] {
            let mut owner = None;
            eventually("it has an owner and a second copy", || {
                owner = stage(&world, &cloud, flow).filter(|(_, copies)| *copies == 2).map(|(owner, _)| owner);
                owner.is_some()
            });
            let to = edges.keys().find(|edge| Some(*edge) != owner.as_ref()).unwrap();
            let of = format!("mill/{flow}");
            let report = cloud.json(&world, &["move", &of, "--to", to, "-o", "json"]);
            let moved = &report["works"][0];
            assert_eq!(
                (moved["from"].as_str(), moved["to"].as_str()),
                (owner.as_deref(), Some(to.as_str())),
                "{report}"
            );
            assert!(moved["pause_ms"].as_f64().is_some_and(|ms| ms > 0.0), "{report}");
            let again = cloud.tell(&world, &["move", &of, "--to", to]);
            assert!(again.contains("none, it was there"), "{again}");
        }
    }
    let (hot, means, failed) = expected();
    eventually("all rows arrive", || {
        rows(&world, &cloud, "mill/hot").len() >= hot.len()
            && rows(&world, &cloud, "mill/means").len() >= means.len()
            && rows(&world, &cloud, "mill/bad").len() >= failed
    });
    assert_eq!(rows(&world, &cloud, "mill/hot").len(), hot.len());
    let found = rows(&world, &cloud, "mill/means");
    let plainly = |row: &Value| plain(row, &["machine", "window_start", "n", "mean"]).to_string();
    assert_eq!((found.len(), found.iter().map(plainly).collect()), (means.len(), means));
    for (arguments, said) in [
        (["mill/hot", "--to", "edge-9"], "there is no live node `edge-9`"),
        (["mill/hot", "--to", "cloud-1"], "work moves within its site"),
        (["mill/hat", "--to", "edge-1"], "has no flow `hat`"),
        (["mull/hot", "--to", "edge-1"], "there is no app `mull`"),
    ] {
        let output = cloud.ask(&world, &[&["move"], &arguments[..]].concat());
        assert!(!output.status.success());
        let errors = errors(&output);
        assert!(errors.contains(said), "{errors}");
    }
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

const JUDGED_MANIFEST: &str = r#"
name = "mill"
version = "1.0.0"

[functions.judge]
component = "judge.wasm"
timeout = "10s"

[streams.readings]
partitions = 1
placement = { tier = "cloud" }
"#;

const JUDGED: &str = "\
CREATE STREAM readings (machine text, ts timestamp, temperature double, n bigint);

CREATE FUNCTION detect (mean double precision) RETURNS double LANGUAGE wasm AS 'judge';
CREATE FUNCTION check_n (value bigint) RETURNS bigint AS 'judge', 'check';
CREATE FUNCTION grade (score double, strict boolean) RETURNS text AS 'judge', 'acme:judge/verdicts@1.0.0#grade';
CREATE FUNCTION misbehave (how text) RETURNS text AS 'judge';

CREATE FLOW judged PREFER edge DEAD LETTER INTO bad AS
  SELECT machine, ts, detect(temperature) AS score, check_n(n) AS checked, grade(detect(temperature), n > 5) AS grade
  FROM readings
  WHERE n IS NULL OR n <> 99 OR misbehave('trap') = 'TRAP';

CREATE FLOW scores PREFER edge AS
  SELECT machine, window_end, detect(avg(temperature)) AS score
  FROM TUMBLE(readings, ts, INTERVAL '10 seconds')
  GROUP BY machine, window_start, window_end
  HAVING detect(avg(temperature)) < 1;
";

/// What is measured, if it was, and what is counted: nothing, 13, which is refused, 99, on which the component traps, or something.
fn judged_values(number: usize) -> (Option<f64>, Option<i64>) {
    let temperature = (number % 11 != 3).then(|| temperature(number) as f64);
    let n = match number % 40 {
        0 => None,
        7 => Some(13),
        21 if number % 200 == 21 => Some(99),
        n => Some(n as i64 % 12),
    };
    (temperature, n)
}

fn judged_record(number: usize) -> String {
    let (temperature, n) = judged_values(number);
    let (machine, ts) = (format!("m{}", number % 3), moment(number));
    json!({ "machine": machine, "ts": ts, "temperature": temperature, "n": n }).to_string()
}

fn detect(mean: f64) -> f64 {
    (mean - 50.0).abs() / 10.0
}

/// A row of `scores`, as exact as the reader of JSON is.
fn told_score(machine: &str, window_end: &str, score: f64) -> String {
    format!("{machine} {window_end} {score:.12}")
}

/// What `judged` has to come to, and `scores`.
fn expected_judged() -> (Vec<Value>, BTreeSet<String>) {
    let row = |number: usize| {
        let (temperature, n) = judged_values(number);
        let score = temperature.map(detect);
        let checked = match n {
            None => Some(-1),
            Some(13 | 99) => return None,
            Some(0) => None,
            Some(n) => Some(n * 2),
        };
        // Whether it is to be strict must be known.
        let limit = n.map(|n| if n > 5 { 1.0 } else { 3.0 });
        let grade = limit.and_then(|limit| match score {
            None => Some("unknown"),
            Some(score) => (score > limit).then_some("bad"),
        });
        let (machine, ts) = (format!("m{}", number % 3), moment(number));
        Some(json!({ "machine": machine, "ts": ts, "score": score, "checked": checked, "grade": grade }))
    };
    let mut groups: BTreeMap<(usize, usize), Vec<f64>> = BTreeMap::new();
    for number in 0..RECORDS / 100 * 100 {
        groups.entry((number / 100, number % 3)).or_default().extend(judged_values(number).0);
    }
    // The last window stays open.
    let closed = groups.into_iter().filter(|((window, _), _)| *window < RECORDS / 100 - 1);
    let score = |((window, machine), of): ((usize, usize), Vec<f64>)| {
        let score = detect(of.iter().sum::<f64>() / of.len() as f64);
        let (machine, window_end) = (format!("m{machine}"), moment((window + 1) * 100));
        (score < 1.0).then(|| told_score(&machine, &window_end, score))
    };
    ((0..RECORDS).filter_map(row).collect(), closed.filter_map(score).collect())
}

/// The app with a component of that name.
fn write_judged(world: &World, flows: &str, component: &[u8]) -> String {
    let folder = write_app(world, JUDGED_MANIFEST, flows);
    std::fs::write(world.path("mill").join("judge.wasm"), component).unwrap();
    folder
}

#[test]
fn expressions_call_functions_of_the_app_exactly_through_kills() {
    let world = World::new();
    let (cloud, mut edges) = start(&world);
    let component = support::test_guest("judge");
    let folder = write_judged(&world, JUDGED, &component);
    let explained = cloud.tell(&world, &["flow", "explain", &folder, "judged"]);
    assert!(explained.contains("call detect(mean double) of function judge"), "{explained}");
    cloud.tell(&world, &["deploy", &folder]);
    let flows = ["judged", "scores"];
    let are_copied = || flows.iter().all(|flow| stage(&world, &cloud, flow).is_some_and(|(_, copies)| copies == 2));
    eventually("two edges hold the stages", are_copied);
    for portion in 0..PORTIONS {
        let size = RECORDS / PORTIONS;
        publish(&world, &cloud, (portion * size..(portion + 1) * size).map(judged_record));
        if portion % 2 == 1 && portion + 1 < PORTIONS {
            let mut owner = None;
            eventually("it has an owner", || {
                owner = stage(&world, &cloud, flows[portion / 2]).map(|(owner, _)| owner);
                owner.is_some()
            });
            let owner = owner.unwrap();
            edges.remove(&owner).unwrap().kill();
            edges.insert(owner.clone(), world.start(&owner, &[]));
            eventually("both hold the stages again", are_copied);
        }
    }
    let (judged, scores) = expected_judged();
    let failed = RECORDS - judged.len();
    assert!(failed > 50 && scores.len() > 20 && scores.len() < 51, "{failed} {}", scores.len());
    eventually("all rows arrive", || {
        rows(&world, &cloud, "mill/judged").len() >= judged.len()
            && rows(&world, &cloud, "mill/scores").len() >= scores.len()
            && rows(&world, &cloud, "mill/bad").len() >= failed
    });
    let columns = ["machine", "ts", "score", "checked", "grade"];
    let found: Vec<Value> = rows(&world, &cloud, "mill/judged").iter().map(|row| plain(row, &columns)).collect();
    assert_eq!(found, judged);
    let found = rows(&world, &cloud, "mill/scores");
    let plainly = |row: &Value| {
        let row = plain(row, &["machine", "window_end", "score"]);
        let text = |column: &str| row[column].as_str().unwrap().to_owned();
        told_score(&text("machine"), &text("window_end"), row["score"].as_f64().unwrap())
    };
    assert_eq!((found.len(), found.iter().map(plainly).collect()), (scores.len(), scores));
    let bad: Vec<String> = rows(&world, &cloud, "mill/bad").iter().map(ToString::to_string).collect();
    let with = |reason: &str| bad.iter().filter(|row| row.contains(reason)).count();
    let trapped = (0..RECORDS).filter(|number| judged_values(*number).1 == Some(99)).count();
    let counts = (bad.len(), with("misbehave: it trapped: "), with("check_n: 13 is not wanted"));
    assert_eq!(counts, (failed, trapped, failed - trapped), "{}", bad[0]);
    let served = cloud.json(&world, &["get", "functions", "-o", "json"]);
    assert!(served[0]["nodes"].as_array().is_some_and(|nodes| !nodes.is_empty()), "{served}");
}

#[test]
fn what_expressions_call_has_the_types_of_the_component_also_after_a_swap() {
    let world = World::new();
    let node = world.first("cloud-1");
    let component = support::test_guest("judge");
    for (declared, other, said) in [
        ("mean double precision", "mean text", "`mean` is f64, which takes double"),
        ("RETURNS double LANGUAGE", "RETURNS bigint LANGUAGE", "it returns f64, which is double"),
        ("check_n (value bigint)", "check_n (value bigint, more bigint)", "it takes 1 arguments, and is given 2"),
        (
            "detect (mean double precision) RETURNS double LANGUAGE wasm AS 'judge'",
            "detect (mean double) RETURNS double AS 'judge', 'outline'",
            "it takes `of`, which is no bool",
        ),
    ] {
        // Without the flows, that would not fit either.
        let declarations = JUDGED.split("CREATE FLOW").next().unwrap();
        let folder = write_judged(&world, &declarations.replace(declared, other), &component);
        for command in [&["deploy", &folder][..], &["plan", &folder]] {
            let refused = node.ask(&world, command);
            let errors = errors(&refused);
            assert!(!refused.status.success() && errors.contains(said), "{errors}");
            assert!(
                errors.contains("the statement declares:") && errors.contains("function judge exports"),
                "{errors}"
            );
        }
    }
    let folder = write_judged(&world, JUDGED, &component);
    node.tell(&world, &["deploy", &folder]);
    publish(&world, &node, (1..3).map(judged_record));
    eventually("it judges", || rows(&world, &node, "mill/judged").len() == 2);
    let file = world.path("other.wasm");
    let other = file.to_str().unwrap();
    std::fs::write(&file, support::test_guest("detector")).unwrap();
    let refused = errors(&node.ask(&world, &["swap", "mill/judge", other]));
    assert!(
        refused.contains("detect(mean double) RETURNS double") && refused.contains("detect: func(frame: frame"),
        "{refused}"
    );
    // The same with a section that nobody reads is another component.
    std::fs::write(&file, [&component[..], &[0, 5, 4], b"swap"].concat()).unwrap();
    let report = node.json(&world, &["swap", "mill/judge", other, "-o", "json"]);
    let stages: BTreeSet<&str> =
        report["stages"].as_array().unwrap().iter().filter_map(|of| of["stage"].as_str()).collect();
    assert_eq!(stages, BTreeSet::from(["judged.0", "scores.0"]), "{report}");
    publish(&world, &node, (3..5).map(judged_record));
    eventually("it goes on", || rows(&world, &node, "mill/judged").len() == 4);
}
