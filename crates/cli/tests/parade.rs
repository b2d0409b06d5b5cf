//! The parade: two phones whose frames lead to guidance, and whose next frames depend on it, compared with a plain computation; through
//! kill -9 of the nodes that run the flow.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;
#[path = "../../runtime-wasm/tests/support/mod.rs"]
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use common::*;
use serde_json::{Value, json};

/// How many frames each phone takes.
const FRAMES: i64 = 120;
/// After which of them a node is killed, and whose stage it runs then.
const STRUCK: [(i64, &str); 2] = [(40, "seen"), (80, "sought")];
/// A phone makes its wish anew after so many frames, and it lasts so many.
const WISH_FRAMES: i64 = 50;
const WISH_LASTS: i64 = 60;
/// The length of the windows in which sightings are counted, and how late they close, in frames.
const WINDOW: i64 = 20;
const DELAY: i64 = 20;
/// How large the scene, a frame, and somebody in it are.
const SCENE: [i64; 2] = [96, 64];
const ZONE: [i64; 2] = [32, 24];
const PERSON: i64 = 6;
/// Where the phones and the nodes at the route are.
const REGION: &str = "new-york";
/// Somebody whom nobody knows; the others are known.
const STRANGER: &str = "a passer-by";
const RIDES: [(&str, &str); 3] =
    [("comet", "The Comet's Tail"), ("duchess", "The Winter Palace"), ("harlequin", "The Paper Circus")];

/// Somebody at the parade: what makes them known, and their way.
struct Person {
    name: String,
    signature: Vec<i64>,
    path: Vec<[i64; 3]>,
}

impl Person {
    /// Where they are, on straight ways from point to point.
    fn at(&self, frame: i64) -> [i64; 2] {
        let leg = self.path.windows(2).find(|leg| frame <= leg[1][0]).unwrap();
        let [[begin, from_x, from_y], [end, to_x, to_y]] = [leg[0], leg[1]];
        let between = |from: i64, to: i64| from + ((to - from) * (frame - begin)).div_euclid(end - begin);
        [between(from_x, to_x), between(from_y, to_y)]
    }

    /// Whether they are wholly in a zone, and not at its edge.
    fn is_in(&self, zone: [i64; 2], frame: i64) -> bool {
        let at = self.at(frame);
        (0..2).all(|side| at[side] > zone[side] && at[side] + PERSON < zone[side] + ZONE[side])
    }
}

/// A phone, and from which frame on whom it seeks.
struct Phone {
    name: String,
    seeks: Vec<(i64, String)>,
}

impl Phone {
    fn sought(&self, frame: i64) -> &str {
        &self.seeks.iter().rfind(|(since, _)| *since <= frame).unwrap().1
    }

    fn makes_a_wish(&self, frame: i64) -> bool {
        frame % WISH_FRAMES == 0 || self.seeks.iter().any(|(since, _)| *since == frame)
    }

    /// Whom it has wished for lately.
    fn wishes(&self, frame: i64) -> BTreeSet<&str> {
        let lately = (frame - WISH_LASTS + 1).max(0)..=frame;
        lately.filter(|since| self.makes_a_wish(*since)).map(|since| self.sought(since)).collect()
    }
}

/// What the scene's file says.
fn scene() -> (Vec<Person>, Vec<Phone>) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/parade/data/scene.json");
    let scene: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    assert_eq!((&scene["scene"], &scene["zone"], &scene["frame_ms"]), (&json!(SCENE), &json!(ZONE), &json!(100)));
    let list = |of: &Value| of.as_array().unwrap().clone();
    let number = |of: &Value| of.as_i64().unwrap();
    let text = |of: &Value| of.as_str().unwrap().to_owned();
    let person = |of: Value| Person {
        name: text(&of["name"]),
        signature: list(&of["signature"]).iter().map(number).collect(),
        path: list(&of["path"]).iter().map(|point| [0, 1, 2].map(|place| number(&point[place]))).collect(),
    };
    let phone = |of: Value| Phone {
        name: text(&of["name"]),
        seeks: list(&of["seeks"]).iter().map(|seek| (number(&seek[0]), text(&seek[1]))).collect(),
    };
    (list(&scene["people"]).into_iter().map(person).collect(), list(&scene["cameras"]).into_iter().map(phone).collect())
}

/// When a frame is taken.
fn moment(frame: i64) -> String {
    let text = format!("2026-11-26T14:00:{:02}.{}00Z", frame / 10, frame % 10);
    text.replace(".000Z", "Z")
}

/// What a camera shows: dim noise, and whoever is there, more or less lit.
fn picture(people: &[Person], zone: [i64; 2], frame: i64) -> String {
    let mut seed = (frame as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut noise = |below: i64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as i64 % below
    };
    let light = 80 + noise(21);
    let mut hex = String::new();
    for (y, x) in (0..ZONE[1]).flat_map(|y| (0..ZONE[0]).map(move |x| (zone[1] + y, zone[0] + x))) {
        let here = people.iter().find_map(|person| {
            let [left, top] = person.at(frame);
            let is_here = (left..left + PERSON).contains(&x) && (top..top + PERSON).contains(&y);
            is_here.then(|| person.signature[((y - top) / 2 * 3 + (x - left) / 2) as usize])
        });
        let pixel = match here {
            Some(part) => part * light / 100 + noise(6),
            None => 10 + noise(60),
        };
        hex.push_str(&format!("{pixel:02x}"));
    }
    hex
}

/// Where a camera looks that knows nothing, zone by zone.
fn scan(turn: usize) -> [i64; 2] {
    [(turn % 3) as i64 * 32, (turn / 3 % 3) as i64 * 20]
}

/// What is to come of one phone's frames.
#[derive(Default)]
struct Expected {
    /// The zone of each frame.
    zones: Vec<[i64; 2]>,
    /// Who is seen on which frame.
    seen: Vec<(i64, String)>,
    /// The guidance for a frame and somebody.
    guidance: BTreeMap<(i64, String), Value>,
}

/// The whole loop, from the scene alone.
fn expected(people: &[Person], phone: &Phone) -> Expected {
    let (mut expected, mut turn, mut zone) = (Expected::default(), 0, scan(0));
    let mut last: BTreeMap<&str, (i64, [i64; 2])> = BTreeMap::new();
    for frame in 0..FRAMES {
        expected.zones.push(zone);
        let mut next = None;
        for person in people.iter().filter(|person| person.name != STRANGER && person.is_in(zone, frame)) {
            expected.seen.push((frame, person.name.clone()));
            if !phone.wishes(frame).contains(&*person.name) {
                continue;
            }
            let at = person.at(frame);
            let before = last.insert(&person.name, (frame, at)).filter(|(before, _)| frame - before <= 5);
            let ahead: [i64; 2] = std::array::from_fn(|side| {
                at[side] + before.map_or(0, |(before, from)| (at[side] - from[side]) / (frame - before))
            });
            let to: [i64; 2] = std::array::from_fn(|side| {
                (ahead[side] + PERSON / 2 - ZONE[side] / 2).clamp(0, SCENE[side] - ZONE[side])
            });
            let ride = RIDES.iter().find(|(name, _)| *name == person.name).unwrap().1;
            let row = json!({
                "camera": phone.name, "frame": frame, "taken": moment(frame), "person": person.name,
                "x": at[0], "y": at[1], "ride": ride, "zone_x": to[0], "zone_y": to[1],
            });
            expected.guidance.insert((frame, person.name.clone()), row);
            next = next.or((person.name == phone.sought(frame)).then_some(to));
        }
        turn += usize::from(next.is_none());
        zone = next.unwrap_or_else(|| scan(turn));
    }
    expected
}

/// How often each is counted in the windows that close: those that end before the last sightings of all phones, less the delay.
fn expected_crowd(all: &[(String, Expected)]) -> BTreeSet<String> {
    let newest = |expected: &Expected| expected.seen.iter().map(|(frame, _)| *frame).max().unwrap();
    let closed = all.iter().map(|(_, expected)| newest(expected)).min().unwrap() - DELAY;
    let mut windows: BTreeMap<(i64, &str), (i64, BTreeSet<&str>)> = BTreeMap::new();
    for (phone, expected) in all {
        for (frame, person) in &expected.seen {
            let group = windows.entry((frame / WINDOW * WINDOW, person)).or_default();
            group.0 += 1;
            group.1.insert(phone);
        }
    }
    let closed = windows.into_iter().filter(|((start, _), _)| start + WINDOW <= closed);
    let row = |((start, person), (sightings, cameras)): ((i64, &str), (i64, BTreeSet<&str>))| {
        json!({ "person": person, "window_start": moment(start), "sightings": sightings, "cameras": cameras.len() })
            .to_string()
    };
    closed.map(row).collect()
}

/// A continuum: two phones, two nodes at the route, and the cloud.
struct Continuum {
    cloud: Node,
    edges: BTreeMap<String, Node>,
    phones: BTreeMap<String, Node>,
}

/// Where it stands in which region a node is.
fn situation(world: &World, name: &str, region: &str) -> String {
    let file = world.path(&format!("{name}.toml"));
    std::fs::write(&file, format!("region = \"{region}\"\n")).unwrap();
    file.to_str().unwrap().to_owned()
}

fn start(world: &World, phones: &[Phone]) -> Continuum {
    let there = situation(world, "cloud-1", "virginia");
    let cloud = world.first_with("cloud-1", &["--tier", "cloud", "--situation", &there]);
    let join = |name: &str, place: &[&str]| {
        let token = cloud.token(world, "10min");
        let here = situation(world, name, REGION);
        let names = ["--name", name, "--http", ANY_PORT, "--situation", &here, "--join", &token];
        world.start(name, &[&names, place].concat())
    };
    let edge = ["--tier", "edge", "--site", "sixth-avenue", "--listen", ANY_PORT];
    let edges: BTreeMap<String, Node> =
        ["edge-1", "edge-2"].into_iter().map(|name| (name.to_owned(), join(name, &edge))).collect();
    let near: Vec<String> = edges.values().map(|edge| edge.address("mesh/0")).collect();
    let phones = phones.iter().map(|phone| {
        let site = phone.name.replace("phone", "spectator");
        let place = ["--tier", "device", "--site", &site, "--connect", &near[0], "--connect", &near[1]];
        (phone.name.clone(), join(&phone.name, &place))
    });
    let phones: BTreeMap<String, Node> = phones.collect();
    let all = || edges.values().chain(phones.values()).chain([&cloud]);
    eventually("all see all", || all().all(|node| node.sees(world).len() == 5));
    Continuum { cloud, edges, phones }
}

/// The example as it is, with the library beside it, both built.
fn app(world: &World) -> String {
    let folder = world.path("parade");
    for (part, of, members) in [
        ("parade", "examples/parade", &["detect", "guide"][..]),
        ("library", "library", &["decode", "nearest", "deduplicate"]),
    ] {
        let to = world.path(part);
        std::fs::create_dir_all(to.join("target/wasm32-wasip2/release")).unwrap();
        for file in ["littoral.toml", "parade.sql", "library.toml"] {
            let from = support::repository().join(of).join(file);
            if from.exists() {
                std::fs::copy(from, to.join(file)).unwrap();
            }
        }
        for member in members {
            let component = support::workspace_component(of, member);
            std::fs::write(to.join(format!("target/wasm32-wasip2/release/{member}.wasm")), component).unwrap();
        }
    }
    folder.to_str().unwrap().to_owned()
}

fn publish(node: &Node, stream: &str, phone: &str, value: &Value) {
    publish_text(node, stream, phone, &value.to_string());
}

fn publish_text(node: &Node, stream: &str, phone: &str, value: &str) {
    let body = json!({ "key": phone, "value": value }).to_string();
    let route = format!("/parade/{stream}");
    let (head, answer) =
        request_with(&node.address("http"), "content-type: application/x-ndjson", "POST", &route, &body);
    assert!(head.starts_with("HTTP/1.1 200"), "{head} {}", String::from_utf8_lossy(&answer));
}

/// The rows of a stream, as a node's route to it gives them.
fn rows(node: &Node, stream: &str, last: usize) -> Vec<Value> {
    let answer = node.get(&format!("/parade/{stream}?last={last}"));
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{answer}");
    let rows: Vec<Value> = serde_json::from_str(body).unwrap();
    rows.into_iter().map(|row| row.get("row").cloned().unwrap_or(row)).collect()
}

/// A row with these columns alone.
fn plain(row: &Value, columns: &[&str]) -> Value {
    columns.iter().map(|column| ((*column).to_owned(), row[*column].clone())).collect()
}

/// Who runs the partitions of a flow's stage, and how many nodes have the state of each.
fn stages(world: &World, node: &Node, flow: &str) -> Vec<(Option<String>, usize)> {
    let flows = node.json(world, &["get", "flows", "-o", "json"]);
    let status = flows.as_array().unwrap().iter().find(|status| status["name"] == flow).cloned().unwrap_or_default();
    let stages = status["stages"].as_array().cloned().unwrap_or_default();
    let told = |stage: &Value| (stage["owner"].as_str().map(str::to_owned), stage["in_sync"].as_array().unwrap().len());
    stages.iter().map(told).collect()
}

const KEPT: [&str; 7] = ["seen", "sought-left", "sought-right", "sought", "guidance", "counts-by-key", "counts"];
const GUIDANCE: [&str; 9] = ["camera", "frame", "taken", "person", "x", "y", "ride", "zone_x", "zone_y"];

impl Continuum {
    /// Waits until each stage of the flows that are kept in the region has an owner there and a second copy.
    fn is_copied(&self, world: &World) {
        eventually("two nodes at the route hold each stage", || {
            KEPT.iter().all(|flow| {
                let stages = stages(world, &self.cloud, flow);
                let is_copied = |(owner, copies): &(Option<String>, usize)| {
                    owner.as_ref().is_some_and(|owner| owner.starts_with("edge-")) && *copies == 2
                };
                !stages.is_empty() && stages.iter().all(is_copied)
            })
        });
    }

    /// Kills the node that runs a stage of the flow at once, and starts it from what is on its disk, where it was.
    fn strike(&mut self, world: &World, flow: &str) {
        let owner = stages(world, &self.cloud, flow).into_iter().find_map(|(owner, _)| owner).expect("it has an owner");
        let node = self.edges.remove(&owner).unwrap();
        let (mesh, http) = (node.address("mesh/0"), node.address("http"));
        node.kill();
        let here = situation(world, &owner, REGION);
        let again = ["--listen", &mesh, "--http", &http, "--situation", &here];
        self.edges.insert(owner.clone(), world.start(&owner, &again));
    }

    /// One frame of a phone; its wish before it, if it makes one.
    fn take(&self, people: &[Person], phone: &Phone, zone: [i64; 2], frame: i64) {
        let (node, taken) = (&self.phones[&phone.name], moment(frame));
        if phone.makes_a_wish(frame) {
            let wish = json!({ "camera": phone.name, "person": phone.sought(frame), "since": taken });
            publish(node, "wishes", &phone.name, &wish);
        }
        let pixels = picture(people, zone, frame);
        let shown = json!({ "frame": frame, "taken": taken, "zone_x": zone[0], "zone_y": zone[1], "pixels": pixels });
        publish(node, "frames", &phone.name, &shown);
    }

    /// What the phone is told of a frame, at its own node.
    fn guidance(&self, phone: &Phone, frame: i64) -> [i64; 2] {
        let mut row = None;
        eventually(&format!("{} is guided after frame {frame}", phone.name), || {
            let rows = rows(&self.phones[&phone.name], "guidance", 40);
            let meant = |row: &Value| {
                row["camera"] == *phone.name && row["frame"] == frame && row["person"] == phone.sought(frame)
            };
            row = rows.into_iter().find(meant);
            row.is_some()
        });
        let row = row.unwrap();
        ["zone_x", "zone_y"].map(|side| row[side].as_i64().unwrap())
    }
}

#[test]
fn phones_are_guided_to_whom_they_seek_also_through_kills() {
    let world = World::new();
    let (people, phones) = scene();
    let all: Vec<(String, Expected)> =
        phones.iter().map(|phone| (phone.name.clone(), expected(&people, phone))).collect();
    let folder = app(&world);
    let mut continuum = start(&world, &phones);
    let explained = continuum.cloud.tell(&world, &["flow", "explain", &folder, "guidance"]);
    for part in ["└ once", "└ guide", "on edge-", "of 150 ms"] {
        assert!(explained.contains(part), "{part} in\n{explained}");
    }
    continuum.cloud.tell(&world, &["deploy", &folder, "--no-build"]);
    continuum.is_copied(&world);

    // Where a phone looks next is what it was told, or the next zone of those that it looks through.
    let mut looks: Vec<([i64; 2], usize)> = vec![(scan(0), 0); phones.len()];
    for frame in 0..FRAMES {
        for (phone, (zone, _)) in phones.iter().zip(&looks) {
            continuum.take(&people, phone, *zone, frame);
        }
        if let Some((_, flow)) = STRUCK.iter().find(|(at, _)| *at == frame) {
            continuum.strike(&world, flow);
            continuum.is_copied(&world);
        }
        for ((phone, look), (_, expected)) in phones.iter().zip(&mut looks).zip(&all) {
            assert_eq!(look.0, expected.zones[frame as usize], "{} looks there at frame {frame}", phone.name);
            let is_due = expected.guidance.contains_key(&(frame, phone.sought(frame).to_owned()));
            *look = match is_due {
                true => (continuum.guidance(phone, frame), look.1),
                false => (scan(look.1 + 1), look.1 + 1),
            };
        }
    }
    for (phone, value) in [
        ("phone-1", "{"),
        (
            "phone-2",
            &*json!({
                "frame": 1, "taken": moment(0), "zone_x": 0, "zone_y": 0, "pixels": "00",
            })
            .to_string(),
        ),
    ] {
        publish_text(&continuum.phones[phone], "frames", phone, value);
    }
    compare(&world, &continuum, &all);
}

/// Compares everything that came out with what was to.
fn compare(world: &World, continuum: &Continuum, all: &[(String, Expected)]) {
    let Continuum { cloud, phones, .. } = continuum;
    let wanted: BTreeSet<String> =
        all.iter().flat_map(|(_, expected)| expected.guidance.values().map(Value::to_string)).collect();
    assert!(wanted.len() > 150, "the phones find whom they seek: {}", wanted.len());
    let unsought = |expected: &Expected| expected.seen.iter().any(|seen| !expected.guidance.contains_key(seen));
    assert!(all.iter().any(|(_, expected)| unsought(expected)), "somebody is seen after the wish for them has ended");
    eventually("all guidance is there", || rows(&phones["phone-1"], "guidance", 10_000).len() >= wanted.len());
    let guidance = rows(&phones["phone-2"], "guidance", 10_000);
    assert_eq!(guidance.len(), wanted.len(), "none stands twice");
    assert_eq!(guidance.iter().map(|row| plain(row, &GUIDANCE).to_string()).collect::<BTreeSet<_>>(), wanted);
    let about = |row: &Value| row["about"].as_str().unwrap().to_owned();
    assert_eq!(guidance.iter().map(about).collect::<BTreeSet<_>>().len(), RIDES.len());

    let wanted = expected_crowd(all);
    assert!(wanted.len() > 6, "{}", wanted.len());
    eventually("the crowd is counted", || rows(cloud, "crowd", 1_000).len() >= wanted.len());
    let crowd = rows(cloud, "crowd", 1_000);
    let counted = |row: &Value| plain(row, &["person", "window_start", "sightings", "cameras"]).to_string();
    assert_eq!(crowd.len(), wanted.len());
    assert_eq!(crowd.iter().map(counted).collect::<BTreeSet<_>>(), wanted);

    let rejects = || cloud.tell(world, &["stream", "tail", "parade/rejects", "--from", "start"]);
    eventually("what is no frame is rejected", || rejects().lines().count() == 2);
    let rejects = rejects();
    assert!(rejects.contains("it is no JSON") && rejects.contains("the image has 2 digits"), "{rejects}");

    let flows = cloud.json(world, &["get", "flows", "parade/guidance", "-o", "json"]);
    let sink = flows[0]["sinks"].as_array().unwrap().iter().find(|sink| sink["name"] == "guidance").unwrap().clone();
    assert_eq!((&sink["slo_p95_ms"], sink["slo_met"].is_boolean()), (&json!(150.0), true), "{flows}");
    assert!(sink["latency"]["p95_ms"].as_f64().is_some_and(|ms| ms > 0.0), "{flows}");
    let table = cloud.tell(world, &["get", "flows", "parade/guidance"]);
    assert!(table.contains("p95 < 150"), "{table}");
}
