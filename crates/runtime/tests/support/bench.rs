//! A test program that is also the host and the shims of the containers that it tests, so that it has a `main` of its own; and what
//! each of its tests has.

use std::fs;
use std::future::Future;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use http_body_util::BodyExt as _;
use littoral_runtime::container::{Abilities, Container, ContainerProgram, ContainerSpec, Containers, HostProcess};
use littoral_runtime::http::{HttpFunction, HttpSettings, full};
use littoral_runtime::{Limits, LogSink, LogStream, Usage};
use tempfile::TempDir;

/// A test by its name.
pub(crate) type Test = (&'static str, fn(Arc<Bench>) -> Pin<Box<dyn Future<Output = ()> + Send>>);

/// What a test has: a folder that nobody else may enter, as a node's, and its containers.
pub(crate) struct Bench {
    pub(crate) folder: TempDir,
    pub(crate) containers: Containers,
    pub(crate) lines: Arc<Lines>,
    pub(crate) usage: Arc<Usage>,
}

/// In how many periods a container that spins has to be throttled.
const PERIODS_THROTTLED: u64 = 5;

#[derive(Default)]
pub(crate) struct Lines(pub(crate) Mutex<Vec<String>>);

impl LogSink for Lines {
    fn line(&self, _stream: LogStream, text: &str) {
        self.0.lock().unwrap().push(text.to_owned());
    }
}

/// Runs the tests that the words of the command line ask for, as libtest does. `path` is where a container runtime is looked for;
/// `unable` is why this machine runs none of them.
pub(crate) fn run(words: &[&str], tests: &[Test], path: Option<&std::ffi::OsStr>, unable: Option<String>) -> ExitCode {
    if words.contains(&"--list") {
        tests.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    if let Some(reason) = unable {
        println!("test result: skipped, this machine cannot: {reason}");
        return ExitCode::SUCCESS;
    }
    let wanted: Vec<&&str> =
        words.iter().filter(|word| !word.starts_with('-') && word.parse::<u32>().is_err()).collect();
    let is_wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|word| name.contains(**word));
    let mut failed = 0;
    for (name, test) in tests.iter().filter(|(name, _)| is_wanted(name)) {
        println!("test {name} ...");
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let bench = Arc::new(runtime.block_on(async { Bench::new(path) }));
        let passed = runtime.block_on(async { tokio::spawn(test(Arc::clone(&bench))).await });
        // Whatever a test that failed has left.
        runtime.block_on(bench.containers.stop_all());
        println!("test {name} ... {}", if passed.is_ok() { "ok" } else { "FAILED" });
        failed += usize::from(passed.is_err());
    }
    println!("test result: {failed} failed");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// This program, as the host and the shims.
pub(crate) fn program() -> ContainerProgram {
    ContainerProgram { program: std::env::current_exe().unwrap(), arguments: vec!["container".into()] }
}

/// Another process, this program, that has started containers in a folder; and what it says of them.
pub(crate) fn other(folder: &Path) -> (Child, String) {
    let mut other = Command::new(std::env::current_exe().unwrap());
    let mut other = other.args(["start-and-wait", folder.to_str().unwrap()]).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = String::new();
    BufReader::new(other.stdout.take().unwrap()).read_line(&mut said).unwrap();
    (other, said)
}

/// The containers of a folder, on a machine with the runtime that is found in `path`, or with none.
pub(crate) fn containers(folder: &Path, path: Option<&std::ffi::OsStr>) -> Containers {
    let host = HostProcess::start(&folder.join("containers"), Abilities::find(path), &program()).unwrap();
    Containers::open(Arc::new(host)).unwrap()
}

impl Bench {
    fn new(path: Option<&std::ffi::OsStr>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
        let containers = containers(folder.path(), path);
        Self { folder, containers, lines: Arc::default(), usage: Arc::default() }
    }

    pub(crate) async fn start(&self, spec: ContainerSpec) -> HttpFunction {
        let container =
            self.containers.start(spec, Arc::clone(&self.lines) as _, 100, Arc::clone(&self.usage)).await.unwrap();
        // On a busy machine it has a small share of the processors.
        let limits = Limits { timeout: Duration::from_secs(600), ..Limits::default() };
        HttpFunction::of_container(
            container,
            HttpSettings { name: "t/a/f".to_owned(), limits, ..HttpSettings::default() },
        )
    }

    /// Stops what runs; nothing must be left of it.
    pub(crate) async fn stop(&self, function: &HttpFunction) {
        let container = function.container().unwrap();
        let (id, pids) = (container.id().to_owned(), [container.pid(), container.shim_pid()]);
        self.containers.stop(container).await;
        self.nothing_is_left(&id, &pids);
    }

    pub(crate) fn nothing_is_left(&self, id: &str, pids: &[i32]) {
        until("its processes have ended", || pids.iter().all(|pid| !crate::layout::runs(*pid)));
        assert_eq!(cgroups(id), Vec::<PathBuf>::new());
        for folder in ["run", "runtime"] {
            let folder = self.folder.path().join("containers").join(folder);
            let left: Vec<_> = fs::read_dir(&folder).into_iter().flatten().collect();
            assert!(left.is_empty(), "{} has {left:?}", folder.display());
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(self.folder.path().to_str().unwrap()), "a mount is left: {mounts}");
    }
}

/// The control groups of that name.
pub(crate) fn cgroups(id: &str) -> Vec<PathBuf> {
    let hierarchies = fs::read_dir("/sys/fs/cgroup").unwrap().map(|entry| entry.unwrap().path());
    let all = hierarchies.chain([PathBuf::from("/sys/fs/cgroup")]).map(|path| path.join(id));
    all.filter(|path| path.exists()).collect()
}

/// Waits until the kernel has held a container to its limit of processor time in several periods of a tenth of a second, and sees that it
/// has used no more than the limit in all that have begun.
pub(crate) fn is_throttled(container: &Container, cpu_millis: u64) {
    let groups = cgroups(container.id());
    // Where both versions are mounted, that of version 2 has no limit.
    let stats = || groups.iter().filter_map(|group| fs::read_to_string(group.join("cpu.stat")).ok());
    let stat = || stats().find(|stat| stat.contains("nr_throttled ")).unwrap();
    let number = |stat: &str, name: &str| -> u64 {
        stat.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().parse().unwrap()
    };
    until("it is throttled", || number(&stat(), "nr_throttled ") >= PERIODS_THROTTLED);
    // First what it has used: more periods may pass in between, and more is used in none than its part.
    let used = container.used().unwrap().cpu.as_micros() as u64;
    let periods = number(&stat(), "nr_periods ");
    let allowed = (periods + 1) * cpu_millis * 100;
    // What each processor had fetched of the part before it stopped is used up a little later.
    assert!(used <= allowed + allowed / 4, "it used {used} us in {periods} periods, and may use {allowed}");
}

/// A server of this machine that answers each connection with the head of a request that it was sent; it ends with this process.
pub(crate) fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap_or(0) == 1 {
                head.push(byte[0]);
            }
            let answer = format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", head.len());
            let _ = stream.write_all(&[answer.as_bytes(), &head].concat());
        }
    });
    address
}

/// Waits for something that happens in other processes.
pub(crate) fn until(what: &str, is_so: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(Instant::now() < end, "not yet: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The status and the body of what a function answers.
pub(crate) async fn ask(function: &HttpFunction, path: &str) -> (u16, String) {
    let response = function.call(http::Request::get(path).body(full("")).unwrap()).await;
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.map(|body| body.to_bytes().to_vec()).unwrap_or_default();
    (status, String::from_utf8(body).unwrap())
}
