//! Real node processes in a temporary folder; they end with the test.
#![allow(dead_code, unreachable_pub)]

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, kill_process};
use serde_json::Value;

pub use rustix::process::Signal;

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a whole story of an objective may take: violated, acted upon, restored.
pub const STORY_MAX: Duration = Duration::from_secs(400);
/// How soon is looked whether something has happened; then later and later, so that looking does not keep it from happening.
const LOOK_FIRST: Duration = Duration::from_millis(20);
const LOOK_LAST: Duration = Duration::from_millis(200);
/// Where the kernel chooses a port.
pub const ANY_PORT: &str = "127.0.0.1:0";

/// Waits until something holds.
pub fn eventually(what: &str, holds: impl FnMut() -> bool) {
    eventually_within(PATIENCE, what, holds);
}

/// Waits until something holds that takes its time.
pub fn eventually_within(patience: Duration, what: &str, mut holds: impl FnMut() -> bool) {
    let (deadline, mut pause) = (Instant::now() + patience, LOOK_FIRST);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}: not within {} s", patience.as_secs());
        std::thread::sleep(pause);
        pause = (pause * 2).min(LOOK_LAST);
    }
}

/// Ends the threads of a test, also when it fails.
pub struct Over<'a>(pub &'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A process; it is killed when this is dropped.
pub struct Process(pub Child);

impl Drop for Process {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Whether all threads of a process are stopped.
fn stands_still(pid: u32) -> bool {
    std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten().all(|task| {
        let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_none_or(|(_, state)| state.starts_with('T'))
    })
}

impl Process {
    /// Sends it a signal. One that is stopped stands still when this returns.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.0.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
        if signal == Signal::STOP {
            // One of its threads has to have a turn first, and the others go on until then.
            eventually("it stands still", || stands_still(self.0.id()));
        }
    }

    /// Waits for its end; its exit status.
    pub fn ended(&mut self) -> i32 {
        let mut status = None;
        eventually("the process ends", || {
            status = self.0.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap().code().unwrap_or(-1)
    }
}

/// A running node.
pub struct Node {
    pub data: PathBuf,
    pub log: PathBuf,
    process: Process,
}

/// A folder in which fabrics live, and nothing of the user's.
pub struct World {
    folder: tempfile::TempDir,
}

impl World {
    pub fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The command, with the user's files elsewhere.
    pub fn littoral(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_littoral"));
        command.env("HOME", self.folder.path()).current_dir(self.folder.path());
        for name in [
            "XDG_STATE_HOME",
            "XDG_CONFIG_HOME",
            "XDG_DATA_HOME",
            "XDG_CACHE_HOME",
            "DOCKER_CONFIG",
            "LITTORAL_KEY",
            "LITTORAL_LIBRARY",
            "LITTORAL_REGISTRY",
            "LITTORAL_REGISTRY_USER",
            "LITTORAL_REGISTRY_PASSWORD",
            "LITTORAL_SOCKET",
            "LITTORAL_CONTEXT",
            "LITTORAL_JOIN",
        ] {
            command.env_remove(name);
        }
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        self.littoral().args(arguments).output().unwrap()
    }

    /// Makes a fabric and runs its first node.
    pub fn first(&self, name: &str) -> Node {
        self.first_with(name, &[])
    }

    /// Makes a fabric and runs its first node with these arguments.
    pub fn first_with(&self, name: &str, arguments: &[&str]) -> Node {
        let data = self.path(name);
        let ports = ["--listen", ANY_PORT, "--join-listen", ANY_PORT, "--http", ANY_PORT];
        let made = self.littoral().args(["init", "--node", name, "--data"]).arg(&data).args(ports).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        self.start(name, arguments)
    }

    /// Starts a node and waits until it listens.
    pub fn start(&self, name: &str, arguments: &[&str]) -> Node {
        let mut node = self.spawn(name, arguments);
        let addresses = node.data.join("addresses.json");
        eventually(&format!("{name} starts"), || {
            let ended = node.process.0.try_wait().unwrap();
            assert!(ended.is_none(), "{name} ended: {}", node.said());
            addresses.exists()
        });
        node
    }

    /// Starts a node, which may fail.
    pub fn spawn(&self, name: &str, arguments: &[&str]) -> Node {
        let (data, log) = (self.path(name), self.path(&format!("{name}.log")));
        std::fs::remove_file(data.join("addresses.json")).ok();
        let file = std::fs::File::create(&log).unwrap();
        let mut command = self.littoral();
        command.args(["node", "--stop-on-stdin-close", "--data"]).arg(&data).args(arguments);
        let child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(file).spawn().unwrap();
        Node { data, log, process: Process(child) }
    }
}

impl Node {
    /// The command, asking this node.
    pub fn littoral(&self, world: &World) -> Command {
        let mut command = world.littoral();
        command.arg("--socket").arg(self.data.join("admin.sock"));
        command
    }

    /// Runs a command at this node.
    pub fn ask(&self, world: &World, arguments: &[&str]) -> Output {
        self.littoral(world).args(arguments).output().unwrap()
    }

    /// Runs a command that must succeed; what it printed.
    pub fn tell(&self, world: &World, arguments: &[&str]) -> String {
        let output = self.ask(world, arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    pub fn json(&self, world: &World, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.tell(world, arguments)).unwrap()
    }

    pub fn token(&self, world: &World, ttl: &str) -> String {
        self.tell(world, &["token", "create", "--ttl", ttl]).trim().to_owned()
    }

    /// One of its addresses, as `mesh/0` or `http`.
    pub fn address(&self, which: &str) -> String {
        let addresses: Value =
            serde_json::from_slice(&std::fs::read(self.data.join("addresses.json")).unwrap()).unwrap();
        addresses.pointer(&format!("/{which}")).and_then(Value::as_str).unwrap().to_owned()
    }

    /// Everything that it has logged.
    pub fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// The most memory that it has taken so far, in bytes.
    pub fn memory_peak_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.0.id())).unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        peak.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
    }

    /// How many files and sockets it has open.
    pub fn open_files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.process.0.id())).unwrap().count()
    }

    /// The names of the nodes that it sees.
    pub fn sees(&self, world: &World) -> Vec<String> {
        let nodes = self.json(world, &["get", "nodes", "-o", "json"]);
        let alive = nodes.as_array().unwrap().iter().filter(|node| node["state"] == "alive");
        alive.map(|node| node["id"].as_str().unwrap().to_owned()).collect()
    }

    /// What it answers at its HTTP port, head and body.
    pub fn get(&self, path: &str) -> String {
        self.get_within(PATIENCE, path)
    }

    /// The same for what takes its time.
    pub fn get_within(&self, patience: Duration, path: &str) -> String {
        request_within(patience, &self.address("http"), "GET", path, "")
    }

    /// What it answers to something sent to its HTTP port, head and body.
    pub fn post(&self, path: &str, body: &str) -> String {
        request(&self.address("http"), "POST", path, body)
    }

    /// Closes its standard input, which stops it in order; its exit status.
    pub fn stop(mut self) -> i32 {
        drop(self.process.0.stdin.take());
        self.ended()
    }

    /// Stops it in order by a signal; its exit status and its log.
    pub fn stop_by(mut self, signal: Signal) -> (i32, String) {
        self.process.signal(signal);
        (self.ended(), self.said())
    }

    /// Sends it a signal, as to stop (SIGSTOP) and go on (SIGCONT) in the middle of what it does.
    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Kills it at once.
    pub fn kill(mut self) {
        self.process.0.kill().unwrap();
        self.process.0.wait().unwrap();
    }

    /// The number of its process.
    pub fn id(&self) -> u32 {
        self.process.0.id()
    }

    /// Waits for its end; its exit status.
    pub fn ended(&mut self) -> i32 {
        self.process.ended()
    }
}

/// What is said on standard error.
pub fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Sends one HTTP request; the whole answer.
pub fn request(address: &str, method: &str, path: &str, body: &str) -> String {
    request_within(PATIENCE, address, method, path, body)
}

/// The same with a header of the sender's own (`name: value`); the answer's head, and its body, which may be no text.
pub fn request_with(address: &str, header: &str, method: &str, path: &str, body: &str) -> (String, Vec<u8>) {
    let answer = exchange(PATIENCE, address, &format!("{header}\r\n"), method, path, body);
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
    (String::from_utf8(answer[..end].to_vec()).unwrap(), answer[end + 4..].to_vec())
}

fn request_within(patience: Duration, address: &str, method: &str, path: &str, body: &str) -> String {
    String::from_utf8(exchange(patience, address, "", method, path, body)).unwrap()
}

fn exchange(patience: Duration, address: &str, header: &str, method: &str, path: &str, body: &str) -> Vec<u8> {
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(patience)).unwrap();
    let length = body.len();
    let head =
        format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{header}content-length: {length}\r\n\r\n");
    stream.write_all((head + body).as_bytes()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    answer
}

/// Copies a folder with everything in it but sockets.
pub fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (kind, to) = (entry.file_type().unwrap(), to.join(entry.file_name()));
        if kind.is_dir() {
            copy(&entry.path(), &to);
        } else if kind.is_file() {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// Deploys the app `plant`, of which this is the rest of the manifest.
pub fn deploy(world: &World, node: &Node, manifest: &str) {
    deploy_with(world, node, manifest, &[]);
}

/// The same, with more arguments.
pub fn deploy_with(world: &World, node: &Node, manifest: &str, more: &[&str]) {
    let folder = world.path("app");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("littoral.toml"), format!("name = \"plant\"\nversion = \"1\"\n{manifest}")).unwrap();
    node.tell(world, &[&["deploy", folder.to_str().unwrap()], more].concat());
}

/// The values of all records of a stream.
pub fn values(world: &World, node: &Node, stream: &str) -> Vec<String> {
    let rows = node.tell(world, &["stream", "tail", stream, "--from", "start"]);
    rows.lines().map(|row| serde_json::from_str::<Value>(row).unwrap()["value"].as_str().unwrap().to_owned()).collect()
}

/// What a node says of the first of its sources or sinks.
pub fn connector(world: &World, node: &Node, kind: &str) -> Value {
    node.json(world, &["get", kind, "-o", "json"])[0].clone()
}

/// An authority, a server's certificate and a client's.
pub fn certify(folder: &Path) {
    let openssl = |arguments: &[&str]| {
        let output = Command::new("openssl").args(arguments).current_dir(folder).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", errors(&output));
    };
    let new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    let authority = ["req", "-x509", "-subj", "/CN=plant-ca", "-days", "2", "-keyout", "ca.key", "-out", "ca.pem"];
    openssl(&[&authority[..], &new_key].concat());
    std::fs::write(folder.join("names"), "subjectAltName=IP:127.0.0.1,DNS:pump\n").unwrap();
    for name in ["server", "pump"] {
        let (subject, key, request, pem) =
            (format!("/CN={name}"), format!("{name}.key"), format!("{name}.csr"), format!("{name}.pem"));
        openssl(&[&["req", "-new", "-subj", &subject, "-keyout", &key, "-out", &request][..], &new_key].concat());
        let sign = ["x509", "-req", "-in", &request, "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"];
        openssl(&[&sign[..], &["-days", "2", "-out", &pem, "-extfile", "names"]].concat());
    }
}
