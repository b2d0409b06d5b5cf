//! A site that is cut off from the cloud goes on by itself, also through a reboot of all its machines, and is one with the
//! rest again after the heal.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;
#[path = "../../runtime-wasm/tests/support/mod.rs"]
mod support;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, Ordering};

use common::*;
use littoral_mesh::shaper::{LinkShape, Shaper};

/// The function is in the hall; the other apps are wherever there is room.
const SHOP: &str = "[functions.double]\ncomponent = \"typed.wasm\"\nplacement = { tier = \"edge\" }\n\
                    async = {}\n[[routes]]\npath = \"/double\"\nfunction = \"double\"\n";
const LOG: &str = "[streams.log]\n";

/// Two edge nodes and the links of each to the cloud.
struct Fabric {
    world: World,
    cloud: Node,
    edges: Vec<Node>,
    uplinks: Vec<Shaper>,
    /// Carries the links.
    _runtime: tokio::runtime::Runtime,
}

impl Fabric {
    fn start() -> Self {
        let world = World::new();
        let cloud = world.first("cloud-1");
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let mesh: SocketAddr = cloud.address("mesh/0").parse().unwrap();
        let uplink =
            |seed| runtime.block_on(Shaper::start(ANY_PORT.parse().unwrap(), mesh, LinkShape::default(), seed));
        let uplinks: Vec<Shaper> = [1, 2].map(|seed| uplink(seed).unwrap()).into();
        // They listen at the same ports again after a reboot.
        let ports = [free_port(), free_port()];
        let mut edges = Vec::new();
        for (number, name) in ["edge-1", "edge-2"].into_iter().enumerate() {
            let token = cloud.token(&world, "10min");
            let (up, peer) = (uplinks[number].address().to_string(), ports[1 - number].clone());
            let place = ["--name", name, "--tier", "edge", "--site", "hall", "--http", ANY_PORT, "--join", &token];
            let links = ["--listen", &ports[number], "--connect", &up, "--connect", &peer];
            edges.push(world.start(name, &[&place[..], &links[..]].concat()));
        }
        let fabric = Self { world, cloud, edges, uplinks, _runtime: runtime };
        fabric.all_see(&["cloud-1", "edge-1", "edge-2"]);
        fabric
    }

    fn all(&self) -> impl Iterator<Item = &Node> {
        self.edges.iter().chain([&self.cloud])
    }

    fn all_see(&self, names: &[&str]) {
        eventually("all see all", || self.all().all(|node| node.sees(&self.world) == names));
    }

    /// Deploys a version of an app at a node, with the key that its people have.
    fn deploy(&self, at: &Node, app: &str, version: &str, rest: &str, arguments: &[&str]) {
        let folder = self.world.path(app);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("typed.wasm"), support::sdk_example("typed")).unwrap();
        let manifest = format!("name = \"{app}\"\nversion = \"{version}\"\n{rest}");
        std::fs::write(folder.join("littoral.toml"), manifest).unwrap();
        self.sign(at, &[&["deploy", folder.to_str().unwrap()], arguments].concat());
    }

    fn sign(&self, at: &Node, arguments: &[&str]) -> String {
        let key = self.cloud.data.join("admin");
        at.tell(&self.world, &[arguments, &["--key", key.to_str().unwrap()]].concat())
    }

    /// The apps that a node knows, with their versions.
    fn apps(&self, at: &Node) -> Vec<String> {
        let apps = at.json(&self.world, &["get", "apps", "-o", "json"]);
        let text = |app: &serde_json::Value, name: &str| app[name].as_str().unwrap().to_owned();
        apps.as_array().unwrap().iter().map(|app| text(app, "name") + " " + &text(app, "version")).collect()
    }

    /// The owner and the epoch of a stream's partition.
    fn owner(&self, at: &Node, stream: &str) -> (String, u64) {
        let streams = at.json(&self.world, &["get", "streams", stream, "-o", "json"]);
        let partition = &streams[0]["partitions"][0];
        (partition["owner"].as_str().unwrap_or_default().to_owned(), partition["epoch"].as_u64().unwrap())
    }
}

/// A port at an address of its own, so that nobody takes it while no node listens there.
fn free_port() -> String {
    static LAST: AtomicU8 = AtomicU8::new(1);
    let own = 1 + LAST.fetch_add(1, Ordering::Relaxed);
    std::net::TcpListener::bind(format!("127.0.0.{own}:0")).unwrap().local_addr().unwrap().to_string()
}

fn doubles(node: &Node) -> bool {
    node.post("/double", "21").ends_with("42")
}

#[test]
fn a_site_that_is_cut_off_deploys_calls_deletes_and_reboots_and_is_one_with_the_rest_after_the_heal() {
    let mut fabric = Fabric::start();
    let [edge, _] = &fabric.edges[..] else { panic!("two edge nodes") };
    fabric.deploy(edge, "shop", "1.0.0", SHOP, &[]);
    fabric.deploy(&fabric.cloud, "notes", "1.0.0", LOG, &[]);
    fabric.deploy(&fabric.cloud, "old", "1.0.0", LOG, &[]);
    for node in fabric.all() {
        eventually("it is deployed everywhere", || fabric.apps(node) == ["notes 1.0.0", "old 1.0.0", "shop 1.0.0"]);
        eventually("any node answers", || doubles(node));
    }
    fabric.uplinks.iter().for_each(Shaper::cut);
    eventually("the cloud is alone", || fabric.cloud.sees(&fabric.world) == ["cloud-1"]);
    for edge in &fabric.edges {
        eventually("the hall is alone", || edge.sees(&fabric.world) == ["edge-1", "edge-2"]);
    }
    let edge = &fabric.edges[0];
    fabric.deploy(edge, "shop", "1.1.0", SHOP, &[]);
    fabric.deploy(edge, "fresh", "1.0.0", LOG, &[]);
    fabric.sign(edge, &["delete", "old"]);
    edge.tell(&fabric.world, &["stream", "publish", "fresh/log", "--value", "within the cut"]);
    assert!(fabric.edges.iter().all(doubles));
    let call = ["call", "shop/double", "--data", "4", "--async"];
    let later = edge.tell(&fabric.world, &call).trim().to_owned();
    assert_eq!(edge.tell(&fabric.world, &["call", "--result", &later]), "8", "accepted and run within the cut");
    // The same app, in the hall once and in the cloud twice; and what the hall has deleted. Some of it is where the other side
    // is, and so is not healthy within the cut.
    fabric.deploy(edge, "notes", "1.1.0", LOG, &["--no-wait", "--author", "hall"]);
    let cloud = ["--no-wait", "--author", "cloud"];
    fabric.deploy(&fabric.cloud, "notes", "1.2.0", LOG, &cloud);
    fabric.deploy(&fabric.cloud, "notes", "1.3.0", LOG, &cloud);
    fabric.deploy(&fabric.cloud, "old", "2.0.0", LOG, &cloud);

    // Every machine of the hall loses its power.
    fabric.edges.drain(..).for_each(Node::kill);
    fabric.edges = ["edge-1", "edge-2"].map(|name| fabric.world.start(name, &[])).into();
    for edge in &fabric.edges {
        eventually("the hall is back", || edge.sees(&fabric.world) == ["edge-1", "edge-2"]);
        eventually("it knows what was deployed", || fabric.apps(edge) == ["fresh 1.0.0", "notes 1.1.0", "shop 1.1.0"]);
        eventually("it answers", || doubles(edge));
    }
    let edge = &fabric.edges[0];
    let held = || edge.ask(&fabric.world, &["stream", "tail", "fresh/log", "--from", "start"]);
    eventually("what was published is there", || String::from_utf8_lossy(&held().stdout).contains("within the cut"));
    let owner = fabric.owner(edge, "fresh/log");

    fabric.uplinks.iter().for_each(Shaper::heal);
    fabric.all_see(&["cloud-1", "edge-1", "edge-2"]);
    for node in fabric.all() {
        let apps = ["fresh 1.0.0", "notes 1.3.0", "shop 1.1.0"];
        eventually("all know the same", || fabric.apps(node) == apps);
        eventually("any node answers", || doubles(node));
    }
    eventually("what was healthy was left alone", || fabric.owner(&fabric.cloud, "fresh/log") == owner);
    let told = fabric.cloud.tell(&fabric.world, &["call", "--result", &later]);
    assert_eq!(told, "8", "the result is found from the other side, through the reboot of the hall");
    // Whoever lost is told, with the way back.
    let table = edge.tell(&fabric.world, &["get", "apps"]);
    assert!(table.contains("version 1.1.0 by hall") && table.contains("littoral reapply notes"), "{table}");
    let history = fabric.cloud.tell(&fabric.world, &["history", "notes"]);
    assert!(history.contains("holds") && history.contains("lost"), "{history}");
    let history = edge.json(&fabric.world, &["history", "old", "-o", "json"]);
    assert_eq!(history["holds"]["edit"]["ends"], true, "{history}");
    assert_eq!(history["lost"][0]["edit"]["author"], "cloud", "{history}");
    fabric.sign(edge, &["reapply", "notes", "--author", "hall"]);
    for node in fabric.all() {
        eventually("what lost was applied again", || fabric.apps(node)[1] == "notes 1.1.0");
    }
}

#[test]
fn a_deployment_may_ask_for_the_generation_that_it_has_seen() {
    let world = World::new();
    let node = world.first("cloud-1");
    let folder = world.path("notes");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("littoral.toml"), format!("name = \"notes\"\nversion = \"1.0.0\"\n{LOG}")).unwrap();
    let deploy = |generation: &str| {
        node.ask(&world, &["deploy", folder.to_str().unwrap(), "--no-wait", "--if-generation", generation])
    };
    assert!(deploy("0").status.success());
    let refused = deploy("0");
    assert!(!refused.status.success() && errors(&refused).contains("generation 1 now, not 0"), "{}", errors(&refused));
    assert!(deploy("1").status.success());
    node.tell(&world, &["delete", "notes"]);
    assert!(deploy("3").status.success());
    assert_eq!(node.json(&world, &["get", "apps", "-o", "json"])[0]["generation"], 4);
}

/// The node on which the function is run that a node answers with.
fn serves(node: &Node) -> Option<String> {
    let answer = node.post("/double", "context");
    let (_, rest) = answer.split_once("node: \"")?;
    Some(rest.split_once('"')?.0.to_owned())
}

#[test]
fn a_singleton_is_served_by_one_node_and_not_by_one_that_was_paused_and_replaced() {
    let fabric = Fabric::start();
    fabric.deploy(&fabric.cloud, "solo", "1.0.0", &format!("partition = \"singleton\"\n{SHOP}"), &[]);
    let mut first = None;
    eventually("one serves", || {
        first = serves(&fabric.edges[0]);
        first.is_some()
    });
    // Deployed again it is served where it was, and replaced as before.
    fabric.deploy(&fabric.cloud, "solo", "1.1.0", &format!("partition = \"singleton\"\n{SHOP}"), &[]);
    let paused = usize::from(first.as_deref() == Some("edge-2"));
    let (paused, other) = (&fabric.edges[paused], &fabric.edges[1 - paused]);
    for node in [&fabric.cloud, other] {
        eventually("all have it from that one", || serves(node) == first);
    }
    paused.signal(Signal::STOP);
    let mut second = None;
    eventually("the other one serves", || {
        second = serves(other);
        second.is_some()
    });
    assert_ne!(first, second);
    paused.signal(Signal::CONT);
    // From its first moment on it answers with what the other one says, or says why not.
    for _ in 0..20 {
        let answer = paused.post("/double", "context");
        assert!(!answer.contains(&format!("node: {first:?}").replace("Some(", "").replace(')', "")), "{answer}");
    }
    eventually("it hands requests on", || serves(paused) == second);
}

#[test]
fn an_app_that_is_out_of_contact_stops_and_says_why() {
    let mut fabric = Fabric::start();
    fabric.deploy(&fabric.cloud, "shop", "1.0.0", &format!("partition = {{ stop-after = \"1s\" }}\n{SHOP}"), &[]);
    assert!(fabric.edges.iter().all(doubles));
    // Of the two it is the one with the first name that goes on.
    fabric.edges.remove(0).kill();
    let edge = fabric.edges.remove(0);
    let mut said = String::new();
    eventually("it stops", || {
        said = edge.post("/double", "21");
        said.starts_with("HTTP/1.1 503") && said.contains("is stopped on this node")
    });
    assert!(said.contains("reached 1 of the 2 nodes") && said.contains("`partition` in its manifest"), "{said}");
    let _back = fabric.world.start("edge-1", &[]);
    eventually("it goes on", || doubles(&edge));
}

#[test]
fn a_node_restored_from_an_old_backup_learns_what_it_missed_and_brings_nothing_back() {
    let mut fabric = Fabric::start();
    for app in ["notes", "old"] {
        fabric.deploy(&fabric.cloud, app, "1.0.0", LOG, &["--no-wait"]);
    }
    eventually("it knows both", || fabric.apps(&fabric.edges[1]) == ["notes 1.0.0", "old 1.0.0"]);
    let edge = fabric.edges.pop().unwrap();
    let (data, backup) = (edge.data.clone(), fabric.world.path("backup"));
    assert_eq!(edge.stop(), 0);
    copy(&data, &backup);
    fabric.deploy(&fabric.cloud, "notes", "1.1.0", LOG, &["--no-wait"]);
    fabric.sign(&fabric.cloud, &["delete", "old"]);
    fabric.edges.push(fabric.world.start("edge-2", &[]));
    eventually("it has heard of it", || fabric.apps(&fabric.edges[1]) == ["notes 1.1.0"]);
    assert_eq!(fabric.edges.pop().unwrap().stop(), 0);
    std::fs::remove_dir_all(&data).unwrap();
    copy(&backup, &data);
    fabric.edges.push(fabric.world.start("edge-2", &[]));
    eventually("it has heard of it again", || fabric.apps(&fabric.edges[1]) == ["notes 1.1.0"]);
    fabric.all_see(&["cloud-1", "edge-1", "edge-2"]);
    for node in fabric.all() {
        assert_eq!(fabric.apps(node), ["notes 1.1.0"]);
        let history = node.json(&fabric.world, &["history", "notes", "-o", "json"]);
        assert!(history["lost"].as_array().unwrap().is_empty(), "what it had is what the others' follows: {history}");
    }
}
