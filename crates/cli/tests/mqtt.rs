//! MQTT on real nodes, with mosquitto's own clients: what is acknowledged is in the stream, whatever becomes of the node;
//! who returns goes on where it was; nobody is let in who is not named.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use common::*;
use serde_json::Value;

const MANIFEST: &str = r#"
name = "plant"
version = "1.0.0"

[streams.readings]
partitions = 1

[streams.states]
partitions = 1

[streams.commands]
partitions = 1

[mqtt."sensors/{key}/temperature"]
stream = "readings"

[mqtt."states/#"]
stream = "states"
retain = true

[mqtt."commands/{key}"]
stream = "commands"
clients = "subscribe"
"#;

const VERSIONS: [&str; 2] = ["mqttv311", "mqttv5"];
/// How long a client may take before it is ended.
const PATIENCE: Duration = Duration::from_secs(60);

/// A node with the app, which lets anybody in unless it is said who.
fn start(world: &World, settings: &str) -> Node {
    start_with(world, settings, |_| {})
}

/// The same, with more in its data directory.
fn start_with(world: &World, settings: &str, prepare: impl Fn(&Path)) -> Node {
    let folder = world.path("plant");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("littoral.toml"), MANIFEST).unwrap();
    let data = world.path("cloud-1");
    let ports = ["--listen", ANY_PORT, "--join-listen", ANY_PORT, "--http", ANY_PORT];
    let made = world.littoral().args(["init", "--node", "cloud-1", "--data"]).arg(&data).args(ports).output().unwrap();
    assert!(made.status.success(), "{}", errors(&made));
    std::fs::write(data.join("mqtt.toml"), settings).unwrap();
    prepare(&data);
    let node = world.start("cloud-1", &["--mqtt", ANY_PORT]);
    node.tell(world, &["deploy", folder.to_str().unwrap()]);
    node
}

fn client(program: &str, node: &Node, more: &[&str]) -> Command {
    let address = node.address("mqtt");
    let (host, port) = address.rsplit_once(':').unwrap();
    // Line by line, although nobody types.
    let mut command = Command::new("stdbuf");
    command.args(["-oL", program, "-h", host, "-p", port]).args(more);
    command
}

fn publish(node: &Node, more: &[&str]) -> Output {
    client("mosquitto_pub", node, more).output().expect("mosquitto-clients is installed by scripts/setup")
}

fn published(node: &Node, more: &[&str]) {
    let output = publish(node, more);
    assert!(output.status.success(), "{more:?}: {}", errors(&output));
}

/// Receives so many messages, `topic payload` each, and goes.
fn received(node: &Node, count: usize, more: &[&str]) -> Vec<String> {
    // What waits for who returns comes before all else.
    let mut subscriber = Subscriber::spawn(node, &[more, &["-C", &count.to_string()]].concat());
    let lines = (0..count).map(|_| subscriber.next()).collect();
    assert_eq!(subscriber.process.ended(), 0);
    lines
}

/// A client that subscribes.
struct Subscriber {
    process: Process,
    lines: mpsc::Receiver<String>,
}

impl Subscriber {
    /// One that has subscribed.
    fn start(node: &Node, more: &[&str]) -> Self {
        let mut subscriber = Self::spawn(node, more);
        while !subscriber.line().starts_with("Subscribed") {}
        subscriber
    }

    fn spawn(node: &Node, more: &[&str]) -> Self {
        let mut command = client("mosquitto_sub", node, &[&["-d", "-v"], more].concat());
        let mut child =
            command.stdout(Stdio::piped()).spawn().expect("mosquitto-clients is installed by scripts/setup");
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (sender, receiver) = mpsc::sync_channel(1_024);
        std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| sender.send(line).map_err(drop)));
        Self { process: Process(child), lines: receiver }
    }

    fn line(&mut self) -> String {
        self.lines.recv_timeout(PATIENCE).expect("the client says more")
    }

    /// The next message.
    fn next(&mut self) -> String {
        loop {
            let line = self.line();
            // With -d, it tells of packets, too.
            if !["Client ", "Subscribed"].iter().any(|told| line.starts_with(told)) {
                return line;
            }
        }
    }
}

/// The key and the value of all records of a stream.
fn records(world: &World, node: &Node, stream: &str) -> Vec<(String, String)> {
    let output = node.tell(world, &["stream", "tail", &format!("plant/{stream}"), "--from", "start"]);
    let row = |line: &str| {
        let row: Value = serde_json::from_str(line).unwrap();
        let row = row.get("row").cloned().unwrap_or(row);
        (row["key"].as_str().unwrap_or_default().to_owned(), row["value"].as_str().unwrap().to_owned())
    };
    output.lines().map(row).collect()
}

#[test]
fn what_is_acknowledged_outlives_a_node_that_is_killed() {
    let world = World::new();
    let mut node = start(&world, "anonymous = true\n");
    let mut expected = Vec::new();
    for (round, version) in VERSIONS.into_iter().enumerate() {
        for number in 0..5 {
            let (topic, value) = (format!("sensors/m{round}/temperature"), format!("{round}-{number}"));
            published(&node, &["-V", version, "-q", "1", "-t", &topic, "-m", &value]);
            expected.push((format!("m{round}"), value));
        }
        node.kill();
        node = world.start("cloud-1", &[]);
    }
    assert_eq!(records(&world, &node, "readings"), expected);
    // Many from one client, one after the other acknowledged, at once on their way.
    let mut many = client("mosquitto_pub", &node, &["-q", "1", "-t", "sensors/many/temperature", "-l"]);
    let mut many = Process(many.stdin(Stdio::piped()).spawn().unwrap());
    let mut input = many.0.stdin.take().unwrap();
    (0..300).for_each(|number| writeln!(input, "{number}").unwrap());
    drop(input);
    assert_eq!(many.ended(), 0);
    let found = records(&world, &node, "readings").split_off(expected.len());
    assert_eq!(found, (0..300).map(|number| ("many".to_owned(), number.to_string())).collect::<Vec<_>>());
}

#[test]
fn who_subscribes_gets_what_is_published_by_devices_and_by_others() {
    let world = World::new();
    let node = start(&world, "anonymous = true\n");
    for (version, qos) in VERSIONS.into_iter().zip(["0", "1"]) {
        let mut subscriber = Subscriber::start(&node, &["-V", version, "-q", qos, "-t", "sensors/+/temperature"]);
        let mut commands = Subscriber::start(&node, &["-V", version, "-q", qos, "-t", "commands/#"]);
        published(&node, &["-V", version, "-q", "0", "-t", "sensors/7/temperature", "-m", "warm"]);
        assert_eq!(subscriber.next(), "sensors/7/temperature warm");
        node.tell(&world, &["stream", "publish", "plant/commands", "--value", "open", "--key", "valve-3"]);
        assert_eq!(commands.next(), "commands/valve-3 open");
    }
    // Devices only listen to commands: version 5 can say so, and 3.1.1 closes.
    let refused = publish(&node, &["-V", "mqttv5", "-q", "1", "-d", "-t", "commands/valve-3", "-m", "shut"]);
    assert!(String::from_utf8_lossy(&refused.stdout).contains("RC:144"), "{refused:?}");
    assert_eq!(records(&world, &node, "commands").len(), VERSIONS.len());
}

#[test]
fn the_last_state_of_each_topic_is_retained_and_a_will_is_a_state() {
    let world = World::new();
    let node = start(&world, "anonymous = true\n");
    for (topic, value) in
        [("states/a", "on"), ("states/b/c", "idle"), ("states/a", "off"), ("states/d", "x"), ("states/d", "")]
    {
        published(&node, &["-q", "1", "-r", "-t", topic, "-m", value]);
    }
    for version in VERSIONS {
        assert_eq!(received(&node, 2, &["-V", version, "-t", "states/#"]), ["states/b/c idle", "states/a off"]);
        assert_eq!(received(&node, 1, &["-V", version, "-q", "1", "-t", "states/+"]), ["states/a off"]);
    }
    let mut watching = Subscriber::start(&node, &["-q", "1", "-R", "-t", "states/#"]);
    for (version, topic) in VERSIONS.into_iter().zip(["states/one", "states/two"]) {
        let will = ["--will-topic", topic, "--will-payload", "gone", "--will-qos", "1"];
        let dying = Subscriber::start(&node, &[&["-V", version, "-t", "commands/#"][..], &will].concat());
        dying.process.signal(Signal::KILL);
        assert_eq!(watching.next(), format!("{topic} gone"));
        // Who says goodbye has no will.
        let leaving = [&["-V", version, "-q", "1", "-t", "states/a", "-m", "on"][..], &will].concat();
        published(&node, &leaving);
        assert_eq!(watching.next(), "states/a on");
    }
    assert_eq!(records(&world, &node, "states").iter().filter(|(_, value)| value == "gone").count(), VERSIONS.len());
}

#[test]
fn who_returns_goes_on_where_it_was_also_after_the_node_was_killed() {
    let world = World::new();
    let mut node = start(&world, "anonymous = true\n");
    for version in VERSIONS {
        let session: &[&str] = match version {
            "mqttv5" => &["-V", version, "-q", "1", "-c", "-x", "3600", "-i", version, "-t", "sensors/#"],
            _ => &["-V", version, "-q", "1", "-c", "-i", version, "-t", "sensors/#"],
        };
        let send = |node: &Node, value: &str| {
            published(node, &["-q", "1", "-t", &format!("sensors/{version}/temperature"), "-m", value]);
        };
        let line = |value: &str| format!("sensors/{version}/temperature {value}");
        // It subscribes, takes one, and goes.
        let mut first = Subscriber::start(&node, &[session, &["-C", "1"]].concat());
        send(&node, "1");
        assert_eq!(first.next(), line("1"));
        assert_eq!(first.process.ended(), 0);
        send(&node, "2");
        node.kill();
        node = world.start("cloud-1", &[]);
        send(&node, "3");
        assert_eq!(received(&node, 2, &[session, &[]].concat()), [line("2"), line("3")]);
    }
}

#[test]
fn nobody_is_let_in_who_is_not_named() {
    let world = World::new();
    let settings =
        format!("[users.pump]\npassword-sha256 = \"{}\"\npublish = [\"sensors/pump/#\"]\n", sha256("correct-horse"));
    let node = start(&world, &settings);
    for version in VERSIONS {
        let message = ["-V", version, "-q", "1", "-t", "sensors/pump/temperature", "-m", "x"];
        let with = |user: &[&str]| publish(&node, &[&message[..], user].concat());
        assert!(with(&["-u", "pump", "-P", "correct-horse"]).status.success());
        for user in [&[][..], &["-u", "pump"], &["-u", "pump", "-P", "wrong"], &["-u", "else", "-P", "correct-horse"]] {
            let refused = with(user);
            assert!(!refused.status.success(), "{version} {user:?}: {refused:?}");
        }
    }
    let elsewhere =
        ["-V", "mqttv5", "-u", "pump", "-P", "correct-horse", "-q", "1", "-d", "-t", "sensors/other/temperature"];
    let refused = publish(&node, &[&elsewhere[..], &["-m", "x"]].concat());
    assert!(String::from_utf8_lossy(&refused.stdout).contains("RC:135"), "{refused:?}");
    assert_eq!(records(&world, &node, "readings").len(), VERSIONS.len());
}

fn sha256(text: &str) -> String {
    let mut child = Command::new("sha256sum").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    String::from_utf8(output.stdout).unwrap().split(' ').next().unwrap().to_owned()
}

#[test]
fn connections_are_encrypted_and_clients_show_certificates_where_that_is_wanted() {
    let world = World::new();
    let folder = world.path("certificates");
    std::fs::create_dir_all(&folder).unwrap();
    certify(&folder);
    let file = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let settings = "[tls]\ncertificate = \"server.pem\"\nkey = \"server.key\"\nclients = \"ca.pem\"\n\
                    [users.pump]\npublish = [\"sensors/pump/+\"]\n";
    let node = start_with(&world, settings, |data| {
        for name in ["server.pem", "server.key", "ca.pem"] {
            std::fs::copy(folder.join(name), data.join(name)).unwrap();
        }
    });
    let ca = file("ca.pem");
    let (certificate, key) = (file("pump.pem"), file("pump.key"));
    let message = ["-V", "mqttv5", "-q", "1", "-d", "-m", "x", "--cafile", &ca];
    let shown = ["--cert", &certificate, "--key", &key];
    published(&node, &[&message[..], &shown, &["-t", "sensors/pump/temperature"]].concat());
    let refused = publish(&node, &[&message[..], &shown, &["-t", "sensors/other/temperature"]].concat());
    assert!(String::from_utf8_lossy(&refused.stdout).contains("RC:135"), "{refused:?}");
    for unknown in [&message[..], &["-q", "1", "-m", "x"]] {
        let refused = publish(&node, &[unknown, &["-t", "sensors/pump/temperature"]].concat());
        assert!(!refused.status.success(), "{refused:?}");
    }
    assert_eq!(records(&world, &node, "readings"), [("pump".to_owned(), "x".to_owned())]);
}

#[test]
fn garbage_closes_its_connection_and_nothing_else() {
    let world = World::new();
    let node = start(&world, "anonymous = true\n");
    let mut subscriber = Subscriber::start(&node, &["-q", "1", "-t", "sensors/#"]);
    let connect = b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01g";
    let hostile: [&[u8]; 7] = [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\xff\xff\xff\xff\xff\xff\xff\xff",
        // Nothing comes before CONNECT.
        b"\xc0\x00",
        // A packet of 256 MiB.
        b"\x10\xff\xff\xff\x7f\x00\x04MQTT",
        // CONNECT twice.
        b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01g\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01g",
        // A topic with a wildcard, after a good beginning.
        b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01g\x30\x05\x00\x03a/#",
        // Exactly once.
        b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01g\x34\x06\x00\x01a\x00\x01x",
    ];
    for bytes in hostile {
        let mut stream = TcpStream::connect(node.address("mqtt")).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(bytes).unwrap();
        let mut answer = Vec::new();
        // It is closed, in order or not, and says no more than that a client was let in.
        let read = stream.read_to_end(&mut answer);
        let is_closed = read.as_ref().map_or_else(|error| error.kind() == ErrorKind::ConnectionReset, |_| true);
        assert!(is_closed && answer.len() <= 4, "{bytes:?}: {read:?} {answer:?}");
    }
    // A version that there is not is told so (MQTT 3.1.1, section 3.1.2.2).
    let mut stream = TcpStream::connect(node.address("mqtt")).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(&[&connect[..8], &[9], &connect[9..]].concat()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, [0x20, 2, 0, 1]);
    published(&node, &["-q", "1", "-t", "sensors/7/temperature", "-m", "fine"]);
    assert_eq!(subscriber.next(), "sensors/7/temperature fine");
}
