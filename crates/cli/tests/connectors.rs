//! Sources and sinks on real nodes: files that grow and are moved away, files that are written, made-up records; through kill -9 in the
//! middle, with each record there once.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard};

use common::*;
use serde_json::Value;

/// A folder that the node offers.
fn shared(world: &World) -> PathBuf {
    let folder = world.path("shared");
    std::fs::create_dir_all(folder.join("out")).unwrap();
    folder
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

#[test]
fn each_line_of_a_file_that_grows_is_in_the_stream_once_whatever_is_killed() {
    let world = World::new();
    let shared = shared(&world);
    let offer = ["--offer", shared.to_str().unwrap()];
    let node = world.first_with("cloud-1", &offer);
    let input = shared.join("in.jsonl");
    let manifest = format!(
        "[streams.lines]\n[sources.lines]\nstream = \"lines\"\nnode = \"cloud-1\"\nfile = {{ path = {input:?}, key = \"k\" }}\n"
    );
    deploy_with(&world, &node, &manifest, &["--no-wait"]);
    eventually("it says that there is no file", || {
        connector(&world, &node, "sources")["reason"].as_str().is_some_and(|reason| reason.contains("is not there"))
    });
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
    eventually("the next file is read", || values(&world, &node, "plant/lines").len() >= 20_110);
    let said = values(&world, &node, "plant/lines");
    assert!(said == expected(20_110), "{:?}", &said[20_101..]);
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
         [sinks.archive]\nstream = \"made\"\nnode = \"cloud-1\"\nfile = {{ path = {out:?}, rotate = \"300KiB\" }}\n"
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
    eventually("all files but the last have their names", || {
        written(&out).iter().filter(|(name, _)| name.ends_with(".open")).count() == 1
    });
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
fn what_is_written_as_parquet_and_read_again_is_there_once_whatever_is_killed() {
    const COUNT: u64 = 12_000;
    let world = World::new();
    let shared = shared(&world);
    let out = shared.join("out");
    let offer = ["--offer", shared.to_str().unwrap()];
    let node = world.first_with("cloud-1", &offer);
    let manifest = format!(
        "[streams.made]\npartitions = 2\n[streams.back]\npartitions = 1\n[sources.load]\nstream = \"made\"\nnode = \"cloud-1\"\n[sources.load.generator]\n\
         rate = 3000\nseed = 7\ncount = {COUNT}\nfields = {{ n = \"sequence\", m = [\"m1\", \"m2\"] }}\n\
         [sinks.archive]\nstream = \"made\"\nnode = \"cloud-1\"\nfile = {{ path = {out:?}, format = \"parquet\", rotate = \"16KiB\", rotate-every = \"1s\" }}\n\
         [sources.back]\nstream = \"back\"\nnode = \"cloud-1\"\nfile = {{ path = {out:?}, format = \"parquet\" }}\n"
    );
    deploy(&world, &node, &manifest);
    let back = |node: &Node| values(&world, node, "plant/back");
    let mut node = Some(node);
    for share in [6, 3, 2] {
        eventually("a part is there", || back(node.as_ref().unwrap()).len() as u64 >= COUNT / share / 2);
        node.take().unwrap().kill();
        node = Some(world.start("cloud-1", &offer));
    }
    let node = node.unwrap();
    // The last rows fill no file: they come because its time is over.
    eventually_within(STORY_MAX, "all is there", || back(&node).len() as u64 >= COUNT);
    let number = |value: &String| {
        let row: Value = serde_json::from_str(value).unwrap();
        assert!(row["key"].is_null() && row["time"].as_str().unwrap().ends_with('Z'), "{row}");
        serde_json::from_str::<Value>(row["value"].as_str().unwrap()).unwrap()["n"].as_u64().unwrap()
    };
    let mut numbers: Vec<u64> = back(&node).iter().map(number).collect();
    numbers.sort_unstable();
    assert!(numbers == (0..COUNT).collect::<Vec<_>>(), "rows are missing or doubled");
    let names: Vec<String> = written(&out).into_iter().map(|(name, _)| name).collect();
    let (open, whole): (Vec<&String>, Vec<&String>) = names.iter().partition(|name| name.ends_with(".open"));
    assert!(open.len() == 1 && whole.len() > 2, "{names:?}");
    assert_eq!(connector(&world, &node, "sources")["passed_over"], 0);
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
        "[streams.notes]\n[sinks.notes]\nstream = \"notes\"\nnode = \"cloud-1\"\nfile = {{ path = {out:?}, format = \"csv\" }}\n\
         [sinks.other]\nstream = \"notes\"\nnode = \"cloud-1\"\nfile = {{ path = {shared:?} }}\n[sinks.beyond]\nstream = \"notes\"\nnode = \"cloud-1\"\nfile = {{ path = \"/var/none\" }}\n"
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
    append(&input, "machine,temperature,note\nm1,20.5,\"a, \"\"b\"\"\"\nm2,too,many,fields\nm3,,\nm4,,\"\"\n");
    let manifest = format!(
        "[streams.rows]\n[sources.rows]\nstream = \"rows\"\nnode = \"cloud-1\"\nfile = {{ path = {input:?}, format = \"csv\", key = \"machine\" }}\n"
    );
    deploy(&world, &node, &manifest);
    eventually("they are there", || values(&world, &node, "plant/rows").len() == 3);
    let rows =
        values(&world, &node, "plant/rows").into_iter().map(|value| serde_json::from_str::<Value>(&value).unwrap());
    let wanted = [
        serde_json::json!({ "machine": "m1", "temperature": 20.5, "note": "a, \"b\"" }),
        serde_json::json!({ "machine": "m3", "temperature": null, "note": null }),
        serde_json::json!({ "machine": "m4", "temperature": null, "note": "" }),
    ];
    assert_eq!(rows.collect::<Vec<_>>(), wanted);
    assert_eq!(connector(&world, &node, "sources")["passed_over"], 1);
    assert_eq!(node.stop(), 0);
}

/// A service that is asked and posted to. It keeps the keys of requests, and takes rows with a known one not again.
struct Service {
    address: String,
    state: Arc<Mutex<Served>>,
}

#[derive(Default)]
struct Served {
    /// It answers 503.
    is_down: bool,
    /// It takes so many requests, and hangs up instead of answering.
    hangs_up: usize,
    /// It takes no larger requests, if this is not 0.
    bytes_max: usize,
    keys: BTreeSet<String>,
    rows: Vec<String>,
    repeats: usize,
    /// What it answers to who asks, and its tag.
    answer: (String, String),
    not_modified: usize,
    asked_with: BTreeSet<String>,
}

impl Service {
    fn start() -> Self {
        let listener = TcpListener::bind(ANY_PORT).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let state = Arc::new(Mutex::new(Served::default()));
        let served = Arc::clone(&state);
        // It ends with the process of the tests.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                serve(stream, &served);
            }
        });
        Self { address, state }
    }

    fn state(&self) -> MutexGuard<'_, Served> {
        self.state.lock().unwrap()
    }
}

fn serve(mut stream: TcpStream, served: &Mutex<Served>) {
    let (mut got, mut chunk) = (Vec::new(), [0; 65_536]);
    let (head, body) = loop {
        let Ok(read @ 1..) = stream.read(&mut chunk) else { return };
        got.extend_from_slice(&chunk[..read]);
        let text = String::from_utf8_lossy(&got).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = header(head, "content-length").map_or(0, |length| length.parse().unwrap());
        if body.len() >= length {
            break (head.to_owned(), body.to_owned());
        }
    };
    let mut served = served.lock().unwrap();
    let (status, headers, answer) = if served.is_down {
        ("503 Service Unavailable", String::new(), "later".to_owned())
    } else if head.starts_with("POST") && served.bytes_max > 0 && body.len() > served.bytes_max {
        ("413 Content Too Large", String::new(), String::new())
    } else if head.starts_with("POST") {
        let key = header(&head, "idempotency-key").unwrap();
        if served.keys.insert(key) {
            served.rows.extend(body.lines().map(str::to_owned));
        } else {
            served.repeats += 1;
        }
        if served.hangs_up > 0 {
            served.hangs_up -= 1;
            return;
        }
        ("200 OK", String::new(), String::new())
    } else {
        served.asked_with.extend(header(&head, "authorization"));
        let (answer, tag) = served.answer.clone();
        if header(&head, "if-none-match").is_some_and(|known| known == tag) {
            served.not_modified += 1;
            ("304 Not Modified", String::new(), String::new())
        } else {
            ("200 OK", format!("etag: {tag}\r\n"), answer)
        }
    };
    let length = answer.len();
    write!(stream, "HTTP/1.1 {status}\r\n{headers}content-length: {length}\r\nconnection: close\r\n\r\n{answer}").ok();
}

fn header(head: &str, name: &str) -> Option<String> {
    let named = |line: &str| {
        line.split_once(": ").filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned())
    };
    head.lines().find_map(named)
}

#[test]
fn a_service_gets_each_row_once_also_if_it_was_down_or_its_answers_were_lost() {
    const COUNT: u64 = 6_000;
    let world = World::new();
    let shared = shared(&world);
    let offer = ["--offer", shared.to_str().unwrap()];
    let node = world.first_with("cloud-1", &offer);
    let service = Service::start();
    let (address, out) = (&service.address, shared.join("out"));
    service.state().is_down = true;
    let manifest = format!(
        "[streams.made]\npartitions = 2\n[sources.load]\nstream = \"made\"\n[sources.load.generator]\nrate = 3000\ncount = {COUNT}\n\
         fields = {{ n = \"sequence\" }}\n[sinks.service]\nstream = \"made\"\nhttp = {{ url = \"http://{address}/rows\", grants = [\"{address}\"] }}\n\
         [sinks.private]\nstream = \"made\"\nhttp = {{ url = \"http://localhost:1/\", grants = [\"localhost\"] }}\n\
         [sinks.archive]\nstream = \"made\"\nnode = \"cloud-1\"\nfile = {{ path = {out:?} }}\n"
    );
    deploy_with(&world, &node, &manifest, &["--no-wait"]);
    let sorted = |mut numbers: Vec<u64>| {
        numbers.sort_unstable();
        numbers
    };
    // All else goes on: what comes, and who else wants it.
    eventually_within(STORY_MAX, "the files have all", || numbers(&out).len() as u64 >= COUNT);
    assert!(service.state().rows.is_empty());
    let reason = |name: &str| {
        let sinks = node.json(&world, &["get", "sinks", name, "-o", "json"]);
        sinks[0]["reason"].as_str().unwrap_or_default().to_owned()
    };
    eventually("it says what the service answers", || reason("service").contains("it answered 503"));
    eventually("a name leads to no private address", || {
        reason("private").contains("which is not public; say `grants = [")
    });
    {
        let mut served = service.state();
        // It takes the first ones, and nobody hears of it.
        (served.is_down, served.hangs_up) = (false, usize::MAX);
    }
    eventually("it has taken some", || !service.state().rows.is_empty());
    node.kill();
    service.state().hangs_up = 0;
    let node = world.start("cloud-1", &offer);
    let had = || -> Vec<u64> {
        let rows = service.state().rows.clone();
        let number = |row: &String| {
            let row: Value = serde_json::from_str(row).unwrap();
            serde_json::from_str::<Value>(row["value"].as_str().unwrap()).unwrap()["n"].as_u64().unwrap()
        };
        rows.iter().map(number).collect()
    };
    eventually_within(STORY_MAX, "the service has all", || had().len() as u64 >= COUNT);
    assert!(sorted(had()) == (0..COUNT).collect::<Vec<_>>(), "rows are missing or doubled: {}", had().len());
    assert!(service.state().repeats > 0, "nothing was sent again: the test has not seen what it is about");
    assert_eq!(node.stop(), 0);
}

#[test]
fn a_request_that_is_too_large_is_sent_in_halves_and_a_row_that_is_is_passed_over() {
    const COUNT: u64 = 400;
    let world = World::new();
    let node = world.first("cloud-1");
    let service = Service::start();
    let address = &service.address;
    service.state().bytes_max = 4_000;
    let text = format!("{{\"n\":{COUNT},\"text\":\"{}\"}}", "x".repeat(5_000));
    let manifest = format!(
        "[streams.made]\npartitions = 1\n[sources.load]\nstream = \"made\"\n[sources.load.generator]\nrate = 100000\ncount = {COUNT}\n\
         fields = {{ n = \"sequence\" }}\n[sinks.service]\nstream = \"made\"\nhttp = {{ url = \"http://{address}/rows\", grants = [\"{address}\"] }}\n"
    );
    deploy(&world, &node, &manifest);
    eventually("all rows that fit are there", || service.state().rows.len() as u64 >= COUNT);
    node.tell(&world, &["stream", "publish", "plant/made", "--value", &text]);
    node.tell(&world, &["stream", "publish", "plant/made", "--value", "{\"n\":-1}"]);
    eventually("what comes behind the one that does not is there", || service.state().rows.len() as u64 > COUNT);
    let number = |row: &String| {
        let row: Value = serde_json::from_str(row).unwrap();
        serde_json::from_str::<Value>(row["value"].as_str().unwrap()).unwrap()["n"].as_i64().unwrap()
    };
    let numbers: Vec<i64> = service.state().rows.iter().map(number).collect();
    assert!(numbers == (0..COUNT as i64).chain([-1]).collect::<Vec<_>>(), "{numbers:?}");
    eventually("it is counted", || connector(&world, &node, "sinks")["passed_over"] == 1);
    assert_eq!(node.stop(), 0);
}

#[test]
fn an_answer_is_taken_once_until_it_is_another() {
    let world = World::new();
    let node = world.first("cloud-1");
    let service = Service::start();
    let address = &service.address;
    let answers = |text: &str, tag: &str| service.state().answer = (text.to_owned(), tag.to_owned());
    answers("[{\"k\":\"a\",\"v\":1},{\"k\":\"b\",\"v\":2}]", "\"one\"");
    let secrets = node.data.join("secrets/default/plant");
    std::fs::create_dir_all(&secrets).unwrap();
    std::fs::write(secrets.join("token"), "Bearer hunter2\n").unwrap();
    let manifest = format!(
        "[streams.answers]\n[sources.service]\nstream = \"answers\"\n[sources.service.http]\nurl = \"http://{address}/now\"\n\
         grants = [\"{address}\"]\nevery = \"20ms\"\nkey = \"k\"\nheaders = {{ authorization = \"secret:token\" }}\n"
    );
    deploy(&world, &node, &manifest);
    let first = [r#"{"k":"a","v":1}"#, r#"{"k":"b","v":2}"#].map(str::to_owned).to_vec();
    eventually("both are there", || values(&world, &node, "plant/answers") == first);
    eventually("it is asked again", || service.state().not_modified > 2);
    node.kill();
    service.state().not_modified = 0;
    let node = world.start("cloud-1", &[]);
    eventually("it is asked with the tag that was committed", || service.state().not_modified > 2);
    assert_eq!(values(&world, &node, "plant/answers"), first);
    answers("{\"k\":\"c\"}", "\"two\"");
    let then = [first, vec!["{\"k\":\"c\"}".to_owned()]].concat();
    eventually("the other answer is there", || values(&world, &node, "plant/answers") == then);
    assert_eq!(service.state().asked_with, BTreeSet::from(["Bearer hunter2".to_owned()]));
    assert_eq!(node.stop(), 0);
}

#[test]
fn what_a_sink_that_is_down_has_left_fills_the_stream_and_stops_its_source_and_no_more() {
    const COUNT: u64 = 60_000;
    let world = World::new();
    let shared = shared(&world);
    let (out, aside) = (shared.join("out"), shared.join("aside"));
    let node = world.first_with("cloud-1", &["--offer", shared.to_str().unwrap()]);
    std::fs::rename(&out, &aside).unwrap();
    // Ten megabytes, of which the stream and the log of its source may have one each.
    let manifest = format!(
        "[streams.made]\npartitions = 1\nretention = \"1MiB\"\n[sources.load]\nstream = \"made\"\n[sources.load.generator]\nrate = 100000\ncount = {COUNT}\n\
         fields = {{ n = \"sequence\", text = [\"{}\"] }}\n[sinks.archive]\nstream = \"made\"\nnode = \"cloud-1\"\nfile = {{ path = {out:?} }}\n\
         [[routes]]\npath = \"/made\"\nstream = \"made\"\n",
        "x".repeat(120)
    );
    deploy_with(&world, &node, &manifest, &["--no-wait"]);
    let other = format!("{{\"n\":{COUNT},\"text\":\"{}\"}}", "y".repeat(2_000));
    eventually("the stream is full", || {
        let answer = node.post("/made", &other);
        answer.starts_with("HTTP/1.1 503") && answer.contains("is full: it holds")
    });
    let read = connector(&world, &node, "sources")["records"].as_u64().unwrap();
    assert!(read < COUNT / 2, "{read} records were read, which nothing can hold");
    std::fs::rename(&aside, &out).unwrap();
    let made = || -> Vec<u64> { numbers(&out).into_iter().filter(|number| *number < COUNT).collect() };
    eventually_within(STORY_MAX, "all is written", || made().len() as u64 >= COUNT);
    assert!(made() == (0..COUNT).collect::<Vec<_>>(), "rows are missing, doubled or out of order");
    assert_eq!(node.stop(), 0);
}

/// A small file system; it is gone when this is dropped.
struct Mounted(PathBuf);

impl Mounted {
    /// None where it may not be made.
    fn new(folder: &Path, size: &str) -> Option<Self> {
        std::fs::create_dir_all(folder).unwrap();
        let options = format!("size={size}");
        let made = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(folder).output().unwrap();
        made.status.success().then(|| Self(folder.to_owned()))
    }

    fn grow(&self, size: &str) {
        let options = format!("remount,size={size}");
        assert!(Command::new("mount").args(["-o", &options]).arg(&self.0).status().unwrap().success());
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        Command::new("umount").arg("--lazy").arg(&self.0).status().ok();
    }
}

#[test]
fn a_disk_that_is_full_stops_the_sink_that_writes_there_until_there_is_room() {
    const COUNT: u64 = 6_000;
    let world = World::new();
    let shared = shared(&world);
    let (full, out) = (shared.join("full"), shared.join("out"));
    let Some(mounted) = Mounted::new(&full, "256k") else {
        return eprintln!("skipped: only root may mount a file system of its own");
    };
    let offer = ["--offer", full.to_str().unwrap(), "--offer", out.to_str().unwrap()];
    let node = world.first_with("cloud-1", &offer);
    let manifest = format!(
        "[streams.made]\npartitions = 1\n[sources.load]\nstream = \"made\"\n[sources.load.generator]\nrate = 100000\ncount = {COUNT}\n\
         fields = {{ n = \"sequence\" }}\n[sinks.archive]\nstream = \"made\"\nnode = \"cloud-1\"\nfile = {{ path = {full:?}, rotate = \"64KiB\" }}\n\
         [sinks.other]\nstream = \"made\"\nnode = \"cloud-1\"\nfile = {{ path = {out:?} }}\n"
    );
    deploy_with(&world, &node, &manifest, &["--no-wait"]);
    eventually("the other one has all", || numbers(&out).len() as u64 >= COUNT);
    let reason = || {
        let sinks = node.json(&world, &["get", "sinks", "archive", "-o", "json"]);
        sinks[0]["reason"].as_str().unwrap_or_default().to_owned()
    };
    eventually("it says that the disk is full", || reason().contains("No space left"));
    node.kill();
    let node = world.start("cloud-1", &offer);
    mounted.grow("8m");
    eventually("all is written", || numbers(&full).len() as u64 >= COUNT);
    assert!(numbers(&full) == (0..COUNT).collect::<Vec<_>>(), "rows are missing, doubled or out of order");
    assert_eq!(node.stop(), 0);
}

#[test]
fn the_continuum_of_dev_offers_what_it_is_told_to() {
    let world = World::new();
    let out = shared(&world).join("out");
    let folder = world.path("app");
    std::fs::create_dir_all(&folder).unwrap();
    let manifest = format!(
        "name = \"plant\"\nversion = \"1\"\n[[dev.nodes]]\nname = \"here\"\ntier = \"cloud\"\nsite = \"cloud\"\n\
         [streams.made]\npartitions = 1\n[sources.load]\nstream = \"made\"\n[sources.load.generator]\nrate = 1000\ncount = 20\n\
         fields = {{ n = \"sequence\" }}\n[sinks.archive]\nstream = \"made\"\nnode = \"here\"\nfile = {{ path = {out:?} }}\n"
    );
    std::fs::write(folder.join("littoral.toml"), manifest).unwrap();
    let mut command = world.littoral();
    command.arg("dev").arg(&folder).arg("--offer").arg(&out).stdout(Stdio::null());
    let mut dev = Process(command.spawn().unwrap());
    eventually("all is written", || numbers(&out) == (0..20).collect::<Vec<_>>());
    dev.signal(Signal::INT);
    assert_eq!(dev.ended(), 0);
}
