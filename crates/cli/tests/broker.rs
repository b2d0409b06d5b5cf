//! Sources and sinks of a broker of MQTT outside the fabric, which is Debian's mosquitto: what it has acknowledged, and what is to be
//! published, is there at the end, whatever becomes of the node and of the broker.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use common::*;
use serde_json::Value;

const MOSQUITTO: &str = "/usr/sbin/mosquitto";
const VERSIONS: [(&str, &str); 2] = [("5", "mqttv5"), ("3.1.1", "mqttv311")];

/// A broker that keeps what it has for who is away, also while it is down itself.
struct Broker {
    port: u16,
    folder: PathBuf,
    process: Process,
}

impl Broker {
    fn start(world: &World) -> Self {
        Self::start_with(world, "allow_anonymous true\n")
    }

    /// With more settings.
    fn start_with(world: &World, more: &str) -> Self {
        assert!(Path::new(MOSQUITTO).exists(), "mosquitto is installed by scripts/setup");
        let folder = world.path("broker");
        std::fs::create_dir_all(&folder).unwrap();
        loop {
            // It takes no port of the kernel's choice; somebody else may have this one by then.
            let port = TcpListener::bind(ANY_PORT).unwrap().local_addr().unwrap().port();
            let settings = format!(
                "listener {port} 127.0.0.1\nuser root\npersistence true\npersistence_location {}/\nmax_queued_messages 0\n\
                 log_dest file {}\nlog_type all\n{more}",
                folder.display(),
                folder.join("log").display()
            );
            std::fs::write(folder.join("mosquitto.conf"), settings).unwrap();
            if let Some(process) = Self::run(&folder, port) {
                return Self { port, folder, process };
            }
        }
    }

    /// None if it has ended before it listened.
    fn run(folder: &Path, port: u16) -> Option<Process> {
        let mut command = Command::new(MOSQUITTO);
        command.arg("-c").arg(folder.join("mosquitto.conf")).stdout(Stdio::null()).stderr(Stdio::null());
        let mut process = Process(command.spawn().unwrap());
        let mut has_ended = false;
        eventually("the broker listens", || {
            has_ended = process.0.try_wait().unwrap().is_some();
            has_ended || TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        (!has_ended).then_some(process)
    }

    fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Ends it in order: it writes down what it has.
    fn stop(&mut self) {
        self.process.signal(Signal::TERM);
        self.process.ended();
    }

    fn start_again(&mut self) {
        self.process = Self::run(&self.folder, self.port).expect("it starts again");
    }

    fn said(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    fn client(&self, program: &str, more: &[&str]) -> Command {
        // Line by line, although nobody types.
        let mut command = Command::new("stdbuf");
        command.args(["-oL", program, "-h", "127.0.0.1", "-p", &self.port.to_string()]).args(more);
        command
    }

    /// A client that publishes a line a message.
    fn publish(&self, topic: &str, lines: impl Iterator<Item = String>) {
        let mut child = self.publisher(topic);
        let mut input = child.0.stdin.take().unwrap();
        lines.for_each(|line| writeln!(input, "{line}").unwrap());
        drop(input);
        assert_eq!(child.ended(), 0);
    }

    fn publisher(&self, topic: &str) -> Process {
        let mut command = self.client("mosquitto_pub", &["-q", "1", "-t", topic, "-l"]);
        let child: Child =
            command.stdin(Stdio::piped()).spawn().expect("mosquitto-clients is installed by scripts/setup");
        Process(child)
    }
}

/// The numbers that are there, in the order in which each came first, and how often one came again.
fn first_seen(values: impl IntoIterator<Item = u64>) -> (Vec<u64>, usize) {
    let (mut known, mut order, mut again) = (BTreeSet::new(), Vec::new(), 0);
    for value in values {
        if known.insert(value) {
            order.push(value);
        } else {
            again += 1;
        }
    }
    (order, again)
}

fn reason(world: &World, node: &Node, kind: &str, name: &str) -> String {
    let told = node.json(world, &["get", kind, name, "-o", "json"]);
    told[0]["reason"].as_str().unwrap_or_default().to_owned()
}

fn source(broker: &Broker, version: &str, topics: &str) -> String {
    let address = broker.address();
    format!(
        "[streams.readings]\npartitions = 1\n[sources.plant]\nstream = \"readings\"\n[sources.plant.mqtt]\ntopics = [{topics}]\n\
         broker = {{ url = \"mqtt://{address}\", grants = [\"{address}\"], version = \"{version}\" }}\n"
    )
}

#[test]
fn what_a_broker_has_for_a_source_is_in_the_stream_whatever_becomes_of_the_node_and_of_the_broker() {
    const COUNT: u64 = 30_000;
    for (version, name) in VERSIONS {
        let world = World::new();
        let mut broker = Broker::start(&world);
        let mut node = world.first("cloud-1");
        deploy(&world, &node, &source(&broker, version, "\"sensors/{key}/t\""));
        eventually("it has subscribed", || {
            broker.said().contains("Received SUBSCRIBE from littoral.default.plant.source.plant")
        });
        let numbers = || -> Vec<u64> {
            values(&world, &node, "plant/readings").iter().map(|value| value.parse().unwrap()).collect()
        };
        let send = |range: std::ops::Range<u64>| {
            let mut publisher = broker.publisher("sensors/press/t");
            let mut input = publisher.0.stdin.take().unwrap();
            std::thread::spawn(move || range.for_each(|number| writeln!(input, "{number}").unwrap()));
            publisher
        };
        let mut publisher = send(0..COUNT / 2);
        eventually("some of it is there", || numbers().len() > 1_000);
        // In the middle of it, as likely as not; the rest waits at the broker.
        node.kill();
        assert_eq!(publisher.ended(), 0);
        node = world.start("cloud-1", &[]);
        let numbers = || -> Vec<u64> {
            values(&world, &node, "plant/readings").iter().map(|value| value.parse().unwrap()).collect()
        };
        let there = |upto: u64| first_seen(numbers()).0.len() as u64 >= upto;
        eventually_within(STORY_MAX, "the first half is there", || there(COUNT / 2));
        broker.stop();
        eventually("it says that the broker is away", || {
            reason(&world, &node, "sources", "plant").contains(&broker.address())
        });
        broker.start_again();
        broker.publish("sensors/press/t", (COUNT / 2..COUNT).map(|number| number.to_string()));
        eventually_within(STORY_MAX, "all is there", || there(COUNT));
        eventually("nothing is the matter any more", || reason(&world, &node, "sources", "plant").is_empty());
        let (order, again) = first_seen(numbers());
        assert!(order == (0..COUNT).collect::<Vec<_>>(), "{name}: messages are missing or out of order");
        if version == "5" {
            assert_eq!(again, 0, "the numbers of the messages say which are there already");
        }
        let rows = node.tell(&world, &["stream", "tail", "plant/readings", "--from", "start"]);
        let row: Value = serde_json::from_str(rows.lines().next().unwrap()).unwrap();
        assert_eq!(row["key"], "press");
        assert_eq!(node.stop(), 0);
    }
}

#[test]
fn what_is_no_record_is_passed_over_and_what_comes_behind_it_is_taken() {
    for (version, _) in VERSIONS {
        let world = World::new();
        let broker = Broker::start(&world);
        let node = world.first("cloud-1");
        deploy(&world, &node, &source(&broker, version, "\"a/{key}\", \"b/#\""));
        eventually("it has subscribed", || broker.said().contains("Received SUBSCRIBE from littoral"));
        let file = world.path("payload");
        let publish = |topic: &str, payload: &[u8]| {
            std::fs::write(&file, payload).unwrap();
            let told = broker.client("mosquitto_pub", &["-q", "1", "-t", topic, "-f", file.to_str().unwrap()]).output();
            assert!(told.unwrap().status.success());
        };
        publish("a/1", b"\xff\xfe");
        publish("b/2", &vec![b'x'; 3 << 20]);
        publish("b/3/4", b"fine");
        eventually("the last one is there", || values(&world, &node, "plant/readings") == ["fine"]);
        assert_eq!(connector(&world, &node, "sources")["passed_over"], 2);
        assert_eq!(node.stop(), 0);
    }
}

#[test]
fn a_subscriber_gets_all_rows_of_a_sink_in_order_and_nobody_waits_for_a_broker_that_is_away() {
    const COUNT: u64 = 12_000;
    for (version, name) in VERSIONS {
        let world = World::new();
        let mut broker = Broker::start(&world);
        let out = world.path("out");
        std::fs::create_dir_all(&out).unwrap();
        let offer = ["--offer", out.to_str().unwrap()];
        let node = world.first_with("cloud-1", &offer);
        let session: &[&str] = if version == "5" { &["-x", "3600"] } else { &[] };
        let messages = world.path("messages");
        // It connects again by itself; were it killed, it might have acknowledged what it has not written down.
        let _subscriber = subscribe(&broker, name, session, &messages);
        eventually("somebody subscribes", || broker.said().contains("Received SUBSCRIBE from reader"));
        let address = broker.address();
        let manifest = format!(
            "[streams.made]\npartitions = 1\n[sources.load]\nstream = \"made\"\n[sources.load.generator]\nrate = 3000\ncount = {COUNT}\n\
             fields = {{ n = \"sequence\", m = [\"press\"] }}\nkey = \"m\"\n[sinks.out]\nstream = \"made\"\n[sinks.out.mqtt]\ntopic = \"out/{{key}}\"\n\
             broker = {{ url = \"mqtt://{address}\", grants = [\"{address}\"], version = \"{version}\" }}\n\
             [sinks.archive]\nstream = \"made\"\nnode = \"cloud-1\"\nfile = {{ path = {out:?} }}\n"
        );
        deploy(&world, &node, &manifest);
        let got = || -> Vec<u64> {
            let text = std::fs::read_to_string(&messages).unwrap_or_default();
            let whole = text.rsplit_once('\n').map(|(whole, _)| whole.to_owned()).unwrap_or_default();
            let number = |line: &str| {
                let payload = line.strip_prefix("out/press ").expect("it is of that topic");
                serde_json::from_str::<Value>(payload).unwrap()["n"].as_u64().unwrap()
            };
            whole.lines().map(number).collect()
        };
        eventually("some of it has arrived", || got().len() > 500);
        node.kill();
        let node = world.start("cloud-1", &offer);
        let before = first_seen(got()).0.len();
        eventually_within(STORY_MAX, "it goes on", || first_seen(got()).0.len() > before);
        broker.stop();
        eventually("it says that the broker is away", || {
            reason(&world, &node, "sinks", "out").contains(&broker.address())
        });
        let archived = || {
            let files = std::fs::read_dir(&out)
                .unwrap()
                .flatten()
                .filter_map(|entry| std::fs::read_to_string(entry.path()).ok());
            files.map(|text| text.lines().count() as u64).sum::<u64>()
        };
        // One line more says whose the folder is.
        eventually_within(STORY_MAX, "the files have all", || archived() > COUNT);
        broker.start_again();
        eventually_within(STORY_MAX, "the subscriber has all", || first_seen(got()).0.len() as u64 >= COUNT);
        let (order, _) = first_seen(got());
        assert!(order == (0..COUNT).collect::<Vec<_>>(), "{name}: messages are missing or out of order");
        eventually("nothing is the matter any more", || reason(&world, &node, "sinks", "out").is_empty());
        assert_eq!(node.stop(), 0);
    }
}

/// A client that returns, and writes down what it gets.
fn subscribe(broker: &Broker, name: &str, session: &[&str], messages: &Path) -> Process {
    let file = std::fs::OpenOptions::new().create(true).append(true).open(messages).unwrap();
    let arguments = [&["-V", name, "-c", "-i", "reader", "-q", "1", "-t", "out/#", "-v"], session].concat();
    Process(broker.client("mosquitto_sub", &arguments).stdout(file).spawn().unwrap())
}

#[test]
fn a_broker_is_known_by_its_authority_and_the_client_by_its_certificate_and_password() {
    let world = World::new();
    let folder = world.path("certificates");
    std::fs::create_dir_all(&folder).unwrap();
    certify(&folder);
    let users = folder.join("users");
    let made = Command::new("mosquitto_passwd").args(["-c", "-b"]).arg(&users).args(["pump", "correct-horse"]).output();
    assert!(made.unwrap().status.success());
    let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let broker = Broker::start_with(
        &world,
        &format!(
            "allow_anonymous false\npassword_file {}\ncafile {}\ncertfile {}\nkeyfile {}\nrequire_certificate true\n",
            users.display(),
            path("ca.pem"),
            path("server.pem"),
            path("server.key")
        ),
    );
    let node = world.first("cloud-1");
    let secrets = node.data.join("secrets/default/plant");
    std::fs::create_dir_all(&secrets).unwrap();
    for (secret, file) in [("ca", "ca.pem"), ("certificate", "pump.pem"), ("key", "pump.key")] {
        std::fs::copy(folder.join(file), secrets.join(secret)).unwrap();
    }
    std::fs::write(secrets.join("password"), "wrong\n").unwrap();
    let address = broker.address();
    let target = format!("url = \"mqtts://{address}\", grants = [\"{address}\"]");
    let all = "user = \"pump\", password = \"secret:password\", ca = \"secret:ca\", certificate = \"secret:certificate\", key = \"secret:key\"";
    let named = format!("url = \"mqtts://localhost:{}\", grants = [\"localhost\"]", broker.port);
    let sink = |name: &str, broker: &str| {
        format!("[sinks.{name}]\nstream = \"notes\"\n[sinks.{name}.mqtt]\ntopic = \"notes\"\nbroker = {{ {broker} }}\n")
    };
    let manifest = "[streams.notes]\npartitions = 1\n".to_owned()
        + &sink("good", &format!("{target}, {all}"))
        + &sink("stranger", &format!("{target}, user = \"pump\", password = \"secret:password\""))
        + &sink("private", &format!("{named}, {all}"))
        + "[streams.back]\npartitions = 1\n[sources.back]\nstream = \"back\"\n[sources.back.mqtt]\ntopics = [\"notes\"]\n"
        + &format!("broker = {{ {target}, {all} }}\n");
    deploy_with(&world, &node, &manifest, &["--no-wait"]);
    eventually("the password is wrong", || {
        reason(&world, &node, "sinks", "good").contains("does not let the client in")
    });
    eventually("the authority is unknown", || reason(&world, &node, "sinks", "stranger").contains("UnknownIssuer"));
    eventually("a name leads to no private address", || {
        reason(&world, &node, "sinks", "private").contains("which is not public; say `grants = [")
    });
    std::fs::write(secrets.join("password"), "correct-horse\n").unwrap();
    eventually("the source has subscribed", || broker.said().contains("Received SUBSCRIBE from littoral"));
    node.tell(&world, &["stream", "publish", "plant/notes", "--value", "hello"]);
    eventually("it has been there and back", || values(&world, &node, "plant/back") == ["hello"]);
    eventually("nothing is the matter any more", || reason(&world, &node, "sinks", "good").is_empty());
    assert_eq!(node.stop(), 0);
}
