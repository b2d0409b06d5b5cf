//! Hostile guests on a node: what `tests/escape/corpus.toml` lists, one after the other, while an honest function of the
//! same node answers. Whatever they try must leave the host and the neighbour as they were.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;
#[path = "../../runtime-wasm/tests/support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use common::*;
use serde::Deserialize;

/// What nobody may read.
const SECRET: &str = "the secret of the host";
/// What a node may take at most while all of this runs: its own, and twice what the guests may have.
const MEMORY_PEAK_BYTES: u64 = 1 << 30;
/// More files than a node needs while one guest holds all that it may.
const OPEN_FILES_PEAK: usize = 5_000;

#[derive(Deserialize)]
struct Corpus {
    case: Vec<Case>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    /// A path of the guest `hostile`.
    path: Option<String>,
    /// The name of a `.wat`.
    wat: Option<String>,
    /// What it does, for readers; a `.wat` says it itself.
    #[serde(rename = "tries")]
    _tries: Option<String>,
    ends: String,
    /// How many attempts there are at least, so that a guest that tries nothing does not pass.
    attempts: Option<usize>,
    says: Option<String>,
    granted: Option<bool>,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/escape")
}

fn corpus() -> Vec<Case> {
    let text = std::fs::read_to_string(folder().join("corpus.toml")).unwrap();
    toml::from_str::<Corpus>(&text).unwrap().case
}

/// The component that a `.wat` of the corpus stands for.
fn component(name: &str) -> Vec<u8> {
    let part = |name: &str| std::fs::read_to_string(folder().join(name).with_extension("wat")).unwrap();
    let text = format!("(component\n{}{}{})", part("prelude"), part(name), part("epilogue"));
    wat::parse_str(text).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The folders that the guest is granted, and what lies beside them.
struct Ground {
    folder: PathBuf,
}

impl Ground {
    fn new(folder: PathBuf) -> Self {
        for name in ["data/sub/deep", "read/empty", "outside/empty"] {
            std::fs::create_dir_all(folder.join(name)).unwrap();
        }
        let outside = folder.join("outside");
        for (name, content) in [("outside/secret", SECRET), ("data/own", "its own"), ("read/file", "to be read")] {
            std::fs::write(folder.join(name), content).unwrap();
        }
        for (name, target) in [
            ("data/link-file", Path::new("../outside/secret")),
            ("data/link-dir", Path::new("../outside")),
            ("data/link-link", Path::new("link-file")),
            ("data/absolute-link", &outside.join("secret")),
            ("data/dangling", Path::new("../outside/made")),
            ("data/absolute-dangling", &outside.join("made")),
            ("data/sub/up", Path::new("../..")),
            ("data/proc-link", Path::new("/proc")),
            ("data/root-link", Path::new("/")),
            ("outside/link", Path::new("secret")),
        ] {
            symlink(target, folder.join(name)).unwrap();
        }
        Self { folder }
    }

    /// Everything outside the folder that may be written: names, kinds, content, times.
    fn state(&self) -> BTreeMap<PathBuf, String> {
        let mut found = BTreeMap::new();
        let mut waiting = vec![self.folder.join("outside"), self.folder.join("read")];
        while let Some(folder) = waiting.pop() {
            for entry in std::fs::read_dir(&folder).unwrap() {
                let path = entry.unwrap().path();
                let metadata = std::fs::symlink_metadata(&path).unwrap();
                let content = std::fs::read(&path).unwrap_or_default();
                let what = (metadata.file_type(), metadata.modified().unwrap(), metadata.len(), content);
                found.insert(path.clone(), format!("{what:?}"));
                if metadata.is_dir() {
                    waiting.push(path);
                }
            }
        }
        let beside = std::fs::read_dir(&self.folder).unwrap().map(|entry| entry.unwrap().file_name());
        found.insert(self.folder.clone(), format!("{:?}", beside.collect::<std::collections::BTreeSet<_>>()));
        found
    }
}

/// Sockets that nobody may reach, at one port of this machine.
struct Canary {
    port: u16,
    tcp: Vec<TcpListener>,
    udp: Vec<UdpSocket>,
}

impl Canary {
    fn new() -> Self {
        let first = TcpListener::bind(ANY_PORT).unwrap();
        let port = first.local_addr().unwrap().port();
        let second = TcpListener::bind(("::1", port));
        let tcp: Vec<_> = std::iter::once(first).chain(second).collect();
        let udp: Vec<_> = ["127.0.0.1", "::1"].iter().filter_map(|host| UdpSocket::bind((*host, port)).ok()).collect();
        tcp.iter().for_each(|socket| socket.set_nonblocking(true).unwrap());
        udp.iter().for_each(|socket| socket.set_nonblocking(true).unwrap());
        Self { port, tcp, udp }
    }

    /// Fails if anybody came.
    fn unseen(&self, after: &str) {
        for socket in &self.tcp {
            assert!(socket.accept().is_err(), "{after}: a connection reached {socket:?}");
        }
        for socket in &self.udp {
            assert!(socket.recv(&mut [0; 16]).is_err(), "{after}: a datagram reached {socket:?}");
        }
    }
}

/// A server that sends everybody elsewhere.
fn redirects_to(port: u16) -> String {
    let listener = TcpListener::bind(ANY_PORT).unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                if stream.read(&mut byte).unwrap_or(0) == 0 {
                    break;
                }
                head.push(byte[0]);
            }
            let to = format!("location: http://127.0.0.1:{port}/\r\ncontent-length: 0\r\nconnection: close");
            stream.write_all(format!("HTTP/1.1 302 Found\r\n{to}\r\n\r\n").as_bytes()).ok();
        }
    });
    address
}

/// An honest function's client, which never stops asking.
struct Neighbour {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    asking: std::thread::JoinHandle<()>,
}

impl Neighbour {
    fn start(address: String) -> Self {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let asking = std::thread::spawn({
            let (stop, answered) = (Arc::clone(&stop), Arc::clone(&answered));
            move || {
                while !stop.load(Ordering::Relaxed) {
                    let number = answered.load(Ordering::Relaxed);
                    let answer = request(&address, "GET", &format!("/honest/{number}"), "");
                    let expected = format!("hello from /honest/{number} ");
                    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains(&expected), "{answer}");
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        Self { stop, answered, asking }
    }

    /// Fails if it does not answer any more, or has answered wrongly.
    fn goes_on(&self, after: &str) {
        let before = self.answered.load(Ordering::Relaxed);
        eventually(&format!("the neighbour answers after {after}"), || {
            assert!(!self.asking.is_finished(), "{after}: the neighbour failed");
            self.answered.load(Ordering::Relaxed) > before
        });
    }

    fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.asking.join().expect("every answer was right");
    }
}

/// Deploys the corpus beside an honest function.
fn deploy(world: &World, node: &Node, cases: &[Case], ground: &Ground, canary: u16, granted: &str) {
    let app = world.path("escape");
    std::fs::create_dir_all(&app).unwrap();
    std::fs::write(app.join("hostile.wasm"), support::test_guest("hostile")).unwrap();
    std::fs::write(app.join("honest.wasm"), support::sdk_example("hello")).unwrap();
    let folder = ground.folder.display();
    // Whatever must end by itself has the time for it on a busy machine.
    let (limits, brief) = ["60s", "2s"].map(|timeout| format!("memory = \"64MiB\"\ntimeout = \"{timeout}\"\n")).into();
    let mut manifest = format!(
        "name = \"escape\"\nversion = \"1.0.0\"\n\
         [functions.honest]\ncomponent = \"honest.wasm\"\n[functions.bare]\ncomponent = \"hostile.wasm\"\n{limits}\
         [functions.brief]\ncomponent = \"hostile.wasm\"\n{brief}\
         [functions.granted]\ncomponent = \"hostile.wasm\"\n{limits}[functions.granted.grants]\n\
         http = [\"{granted}\", \"localhost:{canary}\"]\nsockets = [\"{granted}\"]\n\
         directories = {{ \"/data\" = {{ path = \"{folder}/data\", write = true }}, \"/read\" = \"{folder}/read\" }}\n"
    );
    let mut functions = vec!["honest", "bare", "brief", "granted"];
    for case in cases.iter().filter(|case| case.ends != "refused") {
        let Some(name) = &case.wat else { continue };
        let limits = if case.ends == "timeout" { &brief } else { &limits };
        std::fs::write(app.join(name).with_extension("wasm"), component(name)).unwrap();
        manifest += &format!("[functions.{name}]\ncomponent = \"{name}.wasm\"\n{limits}");
        functions.push(name);
    }
    for function in functions {
        manifest += &format!("[[routes]]\npath = \"/{function}/*\"\nfunction = \"{function}\"\n");
    }
    std::fs::write(app.join("littoral.toml"), manifest).unwrap();
    node.tell(world, &["deploy", app.to_str().unwrap(), "--no-build"]);
}

/// Deploys a component that must not be served; what is wrong if it is.
fn refused(world: &World, node: &Node, name: &str) -> Option<String> {
    let app = world.path(name);
    std::fs::create_dir_all(&app).unwrap();
    std::fs::write(app.join("guest.wasm"), component(name)).unwrap();
    let manifest = format!("name = \"{name}\"\nversion = \"1.0.0\"\n[functions.guest]\ncomponent = \"guest.wasm\"\n");
    std::fs::write(app.join("littoral.toml"), manifest).unwrap();
    node.tell(world, &["deploy", app.to_str().unwrap(), "--no-build", "--no-wait"]);
    let mut outcome = None;
    eventually(&format!("{name} is refused"), || {
        let apps = node.json(world, &["get", "apps", "-o", "json"]);
        let app = apps.as_array().unwrap().iter().find(|app| app["name"] == name);
        let Some(app) = app else { return false };
        if app["state"] == "healthy" {
            outcome = Some(Some("it is served".to_owned()));
        } else if app["reasons"].to_string().contains("does not load") {
            outcome = Some(None);
        }
        outcome.is_some()
    });
    node.tell(world, &["delete", name]);
    outcome.unwrap()
}

/// The body of an answer that came in parts or whole.
fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").map_or("", |(_, body)| body)
}

/// The function that runs a path of the hostile guest.
fn function(case: &Case) -> &'static str {
    match (case.granted, case.ends.as_str()) {
        (Some(false), "timeout") => "brief",
        (Some(false), _) => "bare",
        _ => "granted",
    }
}

/// What is wrong with how a case ended.
fn problem(case: &Case, answer: &str) -> Option<String> {
    let lines = |verdict: &'static str| body(answer).lines().filter(move |line| line.starts_with(verdict));
    let as_expected = match case.ends.as_str() {
        "held" => {
            answer.starts_with("HTTP/1.1 200")
                && lines("ESCAPED: ").count() == 0
                && lines("held: ").count() >= case.attempts.unwrap()
        }
        // An error, or a response that nobody takes for whole.
        "broken" => {
            let chunked = answer.to_ascii_lowercase().contains("transfer-encoding: chunked");
            answer.starts_with("HTTP/1.1 500") || (chunked && !answer.ends_with("\r\n0\r\n\r\n"))
        }
        kind => serde_json::from_str(body(answer)).is_ok_and(|error: serde_json::Value| error["error"] == kind),
    };
    let said = case.says.as_ref().is_none_or(|says| answer.contains(says));
    if as_expected && said && !answer.contains(SECRET) {
        return None;
    }
    let escaped: Vec<_> = lines("ESCAPED: ").collect();
    let held = lines("held: ").count();
    Some(format!("not `{}`: {held} held, {escaped:#?} {}", case.ends, answer.get(..1000).unwrap_or(answer)))
}

#[test]
fn hostile_guests_leave_the_host_and_their_neighbour_as_they_were() {
    let world = World::new();
    let ground = Ground::new(world.path("ground"));
    let canary = Canary::new();
    let redirects = redirects_to(canary.port);
    let cases = corpus();
    let offered = ground.folder.to_str().unwrap();
    let node =
        world.first_with("cloud-1", &["--offer", &format!("{offered}/data"), "--offer", &format!("{offered}/read")]);
    deploy(&world, &node, &cases, &ground, canary.port, &redirects);
    let before = ground.state();
    let neighbour = Neighbour::start(node.address("http"));
    let mut problems = Vec::new();
    for case in &cases {
        let name = case.wat.as_deref().filter(|_| case.ends == "refused");
        if let Some(name) = name {
            problems.extend(refused(&world, &node, name).map(|problem| format!("{name}: {problem}")));
            neighbour.goes_on(name);
            continue;
        }
        let path = match (&case.path, &case.wat) {
            (Some(path), None) => format!("/{}{path}", function(case)),
            (None, Some(wat)) => format!("/{wat}/"),
            _ => panic!("a case has a path or a wat"),
        };
        let path = path.replace("{outside}", &format!("{offered}/outside"));
        let path = path.replace("{canary}", &canary.port.to_string()).replace("{redirects}", &redirects);
        problems.extend(problem(case, &node.get(&path)).map(|problem| format!("{path}: {problem}")));
        assert_eq!(ground.state(), before, "{path} had an effect");
        canary.unseen(&path);
        neighbour.goes_on(&path);
        assert!(node.open_files() < OPEN_FILES_PEAK, "{path}: the node has {} files open", node.open_files());
        let peak = node.memory_peak_bytes();
        assert!(peak < MEMORY_PEAK_BYTES, "{path}: the node took {peak} bytes");
    }
    neighbour.stop();
    assert_eq!(node.stop(), 0);
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

/// Sends two requests over one connection; what comes back until it is closed.
fn pipelined(address: &str, first: &str, second: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    let get = |path: &str, more: &str| format!("GET {path} HTTP/1.1\r\nhost: x\r\n{more}\r\n");
    stream.write_all((get(first, "") + &get(second, "connection: close\r\n")).as_bytes()).unwrap();
    let mut answer = Vec::new();
    // A connection that is cut may end in a reset.
    stream.read_to_end(&mut answer).ok();
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn a_response_of_another_length_than_promised_is_never_taken_for_two() {
    let world = World::new();
    let node = world.first("cloud-1");
    let app = world.path("split");
    std::fs::create_dir_all(&app).unwrap();
    std::fs::write(app.join("hostile.wasm"), support::test_guest("hostile")).unwrap();
    std::fs::write(app.join("honest.wasm"), support::sdk_example("hello")).unwrap();
    let functions =
        "[functions.hostile]\ncomponent = \"hostile.wasm\"\n[functions.honest]\ncomponent = \"honest.wasm\"\n";
    let routes = ["hostile", "honest"].map(|name| format!("[[routes]]\npath = \"/{name}/*\"\nfunction = \"{name}\"\n"));
    let manifest = format!("name = \"split\"\nversion = \"1.0.0\"\n{functions}{}", routes.concat());
    std::fs::write(app.join("littoral.toml"), manifest).unwrap();
    node.tell(&world, &["deploy", app.to_str().unwrap(), "--no-build"]);
    let address = node.address("http");
    for promised in ["0", "1", "5", "1000", "18446744073709551615"] {
        let answer = pipelined(&address, &format!("/hostile/split?{promised}"), "/honest/second");
        // The first is read as its head says; what follows must be what the node answers to the second, or nothing.
        let (head, rest) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let head = head.to_ascii_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
        let second = rest.get(length.unwrap_or(rest.len()).min(rest.len())..).unwrap_or("");
        assert!(second.is_empty() || second.contains("hello from /honest/second"), "{promised}: {answer:?}");
        assert!(!second.contains("forged"), "{promised}: it was split: {answer:?}");
    }
    assert!(node.get("/honest/after").contains("hello from /honest/after"));
}

#[test]
fn the_guest_that_calls_everything_imports_everything() {
    let component = support::test_guest("hostile");
    let text = String::from_utf8_lossy(&component);
    for interface in [
        "cli/environment",
        "cli/exit",
        "cli/stdin",
        "cli/stdout",
        "cli/stderr",
        "cli/terminal-input",
        "cli/terminal-output",
        "cli/terminal-stdin",
        "cli/terminal-stdout",
        "cli/terminal-stderr",
        "clocks/monotonic-clock",
        "clocks/wall-clock",
        "filesystem/preopens",
        "filesystem/types",
        "http/types",
        "http/outgoing-handler",
        "io/error",
        "io/poll",
        "io/streams",
        "random/random",
        "random/insecure",
        "random/insecure-seed",
        "sockets/instance-network",
        "sockets/ip-name-lookup",
        "sockets/network",
        "sockets/tcp",
        "sockets/tcp-create-socket",
        "sockets/udp",
        "sockets/udp-create-socket",
    ] {
        assert!(text.contains(&format!("wasi:{interface}@0.2.")), "{interface} is not imported");
    }
}
