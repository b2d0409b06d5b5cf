//! Real processes of programs: this file's own program, which is linked dynamically, Debian's static busybox, scripts. This program is
//! also the host and the shims, and the server that is run, so that it has a `main` of its own. Where processes cannot be confined it
//! says that it is skipped.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::disallowed_methods)]

#[path = "support/bench.rs"]
mod bench;
#[path = "support/layout.rs"]
mod layout;
#[path = "support/server.rs"]
mod server;

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use littoral_runtime::container::{Abilities, ContainerSpec, Containers, Program, run_host, run_shim};
use littoral_runtime::http::{HttpFunction, HttpSettings};
use littoral_runtime::{Limits, Usage};

use bench::{Bench, Lines, Test, ask, cgroups, echo, is_throttled, program, until};
use layout::{BUSYBOX, runs};

/// The processor time that a process uses after its use was noted.
const BURNT_MS: u64 = 500;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["container", "host", folder] => run_host(Path::new(folder), &program()).unwrap(),
        ["container", "shim", folder] => drop(run_shim(Path::new(folder))),
        ["serve", greeting] => server::serve(greeting),
        // The other half of the test of adoption: starts processes and is killed.
        ["start-and-wait", folder] => start_and_wait(Path::new(folder)),
        _ => return tests(&words),
    }
    ExitCode::SUCCESS
}

fn tests(words: &[&str]) -> ExitCode {
    let tests: [Test; 11] = [
        ("a_program_serves_and_sees_nothing_else", |bench| Box::pin(serves_and_sees_nothing_else(bench))),
        ("a_program_has_no_rights", |bench| Box::pin(has_no_rights(bench))),
        ("limits_hold", |bench| Box::pin(limits_hold(bench))),
        ("static_programs_and_scripts_are_served", |bench| Box::pin(static_programs_and_scripts(bench))),
        ("processors_are_limited", |bench| Box::pin(processors_are_limited(bench))),
        ("it_reaches_what_is_granted", |bench| Box::pin(it_reaches_what_is_granted(bench))),
        ("it_is_held_still_and_goes_on", |bench| Box::pin(it_is_held_still_and_goes_on(bench))),
        ("what_it_writes_and_how_it_ends_is_known", |bench| Box::pin(what_it_writes_and_how_it_ends(bench))),
        ("a_program_that_does_not_start_leaves_nothing", |bench| Box::pin(does_not_start(bench))),
        ("what_a_wiped_node_left_is_removed_by_the_next", |bench| Box::pin(what_a_wiped_node_left_is_removed(bench))),
        ("another_process_takes_it_up", |bench| Box::pin(another_process_takes_it_up(bench))),
    ];
    bench::run(words, &tests, None, Abilities::find(None).programs.err().map(|unable| unable.to_string()))
}

/// Of a machine without a container runtime: processes need none.
fn containers(folder: &Path) -> Containers {
    bench::containers(folder, None)
}

impl Bench {
    /// This program, as a server.
    async fn spec(&self) -> ContainerSpec {
        self.spec_of(&std::env::current_exe().unwrap(), &["serve", "hello"]).await
    }

    async fn spec_of(&self, file: &Path, arguments: &[&str]) -> ContainerSpec {
        let name = file.file_name().unwrap().to_str().unwrap().to_owned();
        let file = self.containers.place(file.to_owned(), &name).await.unwrap().0;
        let arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
        ContainerSpec::new("t/a/f", Program { file, name, arguments })
    }

    /// A script, by its lines.
    async fn script(&self, name: &str, lines: &str) -> ContainerSpec {
        let file = self.folder.path().join(name);
        fs::write(&file, lines).unwrap();
        self.spec_of(&file, &[]).await
    }

    async fn refused(&self, spec: ContainerSpec) -> String {
        let started = self.containers.start(spec, Arc::clone(&self.lines) as _, 100, Arc::clone(&self.usage)).await;
        started.unwrap_err().to_string()
    }

    /// Stops what runs beside something else.
    async fn stop_quietly(&self, function: &HttpFunction) {
        self.containers.stop(function.container().unwrap()).await;
    }
}

async fn page(function: &HttpFunction, path: &str) -> String {
    let (status, body) = ask(function, path).await;
    assert_eq!(status, 200, "{path}: {body}");
    body
}

async fn serves_and_sees_nothing_else(bench: Arc<Bench>) {
    let environment = vec![("COLOUR".to_owned(), "blue".to_owned())];
    let function = bench.start(ContainerSpec { environment, ..bench.spec().await }).await;
    assert_eq!(page(&function, "/").await, "hello from function, user 1879");
    let variables = page(&function, "/variables").await;
    let mut names: Vec<&str> = variables.lines().filter_map(|line| line.split('=').next()).collect();
    names.sort_unstable();
    assert_eq!(names, ["COLOUR", "HOME", "PATH", "PORT"], "{variables}");
    // What the machine has beside what is installed is not there at all, the node's own folder included, which is its own folder's parent.
    let data = bench.folder.path().join("containers/run");
    let own = data.join(function.container().unwrap().id());
    fs::write(bench.folder.path().join("secret"), "secret").unwrap();
    for path in [
        Path::new("/etc/shadow"),
        Path::new("/etc/passwd"),
        Path::new("/root"),
        Path::new("/sys/kernel"),
        Path::new("/var"),
        &bench.folder.path().join("secret"),
        &data,
        &own.join("order.json"),
        &own.join("sock"),
    ] {
        let path = path.to_str().unwrap();
        assert_eq!(page(&function, &format!("/read{path}")).await, "NotFound", "{path}");
    }
    // That of its first process is kept from it, and leads nowhere else.
    for path in ["/proc/1/environ", "/proc/1/root/etc", "/proc/1/mem"] {
        assert_eq!(page(&function, &format!("/read{path}")).await, "PermissionDenied", "{path}");
    }
    // It sees the files of its root, and may not list it: Landlock grants what is needed and no more.
    assert_eq!(page(&function, "/read/").await, "PermissionDenied");
    assert!(page(&function, "/read/usr/bin").await.ends_with("entries"));
    assert_eq!(page(&function, "/processes").await, "2", "it and the first one");
    assert_eq!(page(&function, "/interfaces").await, "lo");
    bench.stop(&function).await;
}

async fn has_no_rights(bench: Arc<Bench>) {
    let function = bench.start(bench.spec().await).await;
    let status = page(&function, "/read-text/proc/self/status").await;
    let line = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
    for capabilities in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        assert_eq!(line(capabilities), "0000000000000000", "{capabilities}");
    }
    assert_eq!((line("NoNewPrivs:").as_str(), line("Seccomp:").as_str()), ("1", "2"));
    // A user of its own: that of the shim, and of no other function's process.
    let user = line("Uid:").split_whitespace().next().unwrap().parse::<u32>().unwrap();
    assert!((1_879_113_728..1_879_179_264).contains(&user), "{user}");
    let shim = fs::read_to_string(format!("/proc/{}/status", function.container().unwrap().shim_pid())).unwrap();
    assert!(shim.contains(&format!("Uid:\t{user}\t{user}\t{user}")) && shim.contains("Threads:\t1\n"), "{shim}");
    assert!(shim.contains("CapEff:\t0000000000000000"), "{shim}");
    let other = bench.start(ContainerSpec { name: "t/a/g".to_owned(), ..bench.spec().await }).await;
    assert!(!page(&other, "/read-text/proc/self/status").await.contains(&format!("Uid:\t{user}\t")));
    bench.stop_quietly(&other).await;
    for path in ["/usr/x", "/app/x", "/x", "/etc/x", "/dev/x"] {
        let outcome = page(&function, &format!("/write{path}")).await;
        assert!(["PermissionDenied", "ReadOnlyFilesystem"].contains(&outcome.as_str()), "{path}: {outcome}");
    }
    for path in ["/tmp/x", "/dev/shm/x", "/dev/null"] {
        assert_eq!(page(&function, &format!("/write{path}")).await, "written", "{path}");
    }
    // Neither this machine's servers nor others, neither by TCP nor by a socket's path or name.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    assert_eq!(page(&function, &format!("/connect/{}", listener.local_addr().unwrap())).await, "ConnectionRefused");
    assert_eq!(page(&function, "/connect/192.0.2.1:80").await, "NetworkUnreachable");
    let socket = bench.folder.path().join("host-of-others.sock");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    assert_eq!(page(&function, &format!("/connect-unix{}", socket.display())).await, "NotFound");
    // What only administrators may, fails as if the kernel did not know it.
    for call in ["unshare", "mount", "bpf", "packet-socket"] {
        assert_eq!(page(&function, &format!("/call/{call}")).await, "Function not implemented", "{call}");
    }
    bench.stop(&function).await;
}

async fn limits_hold(bench: Arc<Bench>) {
    let spec =
        ContainerSpec { memory_bytes: 64 << 20, pids: 20, cpu_millis: Some(500), cpu_shares: 8, ..bench.spec().await };
    let function = bench.start(spec.clone()).await;
    let id = function.container().unwrap().id().to_owned();
    let begun: u32 = page(&function, "/fork").await.parse().unwrap();
    assert!((1..20).contains(&begun), "{begun} processes");
    let filled: u64 = page(&function, "/fill").await.parse().unwrap();
    assert!((1 << 20..=32 << 20).contains(&filled), "{filled} bytes in /tmp");
    let quota = |folder: &PathBuf| {
        fs::read_to_string(folder.join("cpu.cfs_quota_us")).or_else(|_| fs::read_to_string(folder.join("cpu.max"))).ok()
    };
    let shares = |folder: &PathBuf| {
        fs::read_to_string(folder.join("cpu.shares")).or_else(|_| fs::read_to_string(folder.join("cpu.weight"))).ok()
    };
    let shares: Vec<String> = cgroups(&id).iter().filter_map(shares).collect();
    assert!(shares == ["8\n"] || shares == ["1\n"], "{shares:?}");
    let quota: Vec<String> = cgroups(&id).iter().filter_map(quota).collect();
    assert!(quota.iter().any(|quota| quota.starts_with("50000")), "{quota:?}");
    let used = function.container().unwrap().used().unwrap();
    assert!(used.cpu > Duration::ZERO && used.memory_bytes > 0, "{used:?}");
    until("what it uses is counted", || bench.usage.now().cpu_ns > 0 && bench.usage.now().memory_byte_us > 0);
    // Whoever takes more memory than there is for it is ended, and nobody else is.
    let neighbour = bench.start(ContainerSpec { name: "t/a/g".to_owned(), ..spec }).await;
    assert_eq!(ask(&function, "/allocate").await.0, 500);
    assert_eq!(function.container().unwrap().until_ended().await, "it was ended by signal 9");
    assert!(page(&neighbour, "/").await.starts_with("hello"));
    bench.stop_quietly(&neighbour).await;
    bench.stop(&function).await;
}

async fn static_programs_and_scripts(bench: Arc<Bench>) {
    if Path::new(BUSYBOX).exists() {
        let arguments = ["httpd", "-f", "-p", "8080", "-h", "/usr/share/common-licenses"];
        let spec = bench.spec_of(Path::new(BUSYBOX), &arguments).await;
        let function = bench.start(spec).await;
        assert!(page(&function, "/GPL-3").await.contains("GNU"));
        bench.stop(&function).await;
        let spec = bench.script("script", "#!/bin/sh\necho page >index.html\nexec busybox httpd -f -p $PORT\n").await;
        let function = bench.start(spec).await;
        assert_eq!(page(&function, "/index.html").await, "page\n");
        bench.stop(&function).await;
    }
    if Path::new("/usr/bin/python3").exists() {
        let python = "#!/usr/bin/python3\nimport http.server, os, pathlib, ssl, sqlite3\npathlib.Path('index.html').write_text('python')\n\
            http.server.HTTPServer(('127.0.0.1', int(os.environ['PORT'])), http.server.SimpleHTTPRequestHandler).serve_forever()\n";
        let function = bench.start(bench.script("python", python).await).await;
        assert_eq!(page(&function, "/").await, "python");
        bench.stop(&function).await;
    }
}

async fn processors_are_limited(bench: Arc<Bench>) {
    let function = bench.start(ContainerSpec { cpu_millis: Some(200), ..bench.spec().await }).await;
    assert_eq!(page(&function, "/spin").await, "it spins");
    is_throttled(function.container().unwrap(), 200);
    bench.stop(&function).await;
}

async fn it_reaches_what_is_granted(bench: Arc<Bench>) {
    let (granted, other) = (echo(), echo());
    let http = vec![granted.to_string().parse().unwrap()];
    let function = bench.start(ContainerSpec { http, ..bench.spec().await }).await;
    let answer = page(&function, &format!("/get/{granted}")).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains(&format!("host: {granted}")), "{answer}");
    let answer = page(&function, &format!("/tunnel/{granted}")).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("Host: within"), "{answer}");
    let missing = format!("a request to {other} was denied; grant it with `http = [\"{other}\"]`");
    for way in ["get", "tunnel"] {
        let answer = page(&function, &format!("/{way}/{other}")).await;
        assert!(answer.starts_with("HTTP/1.1 403") && answer.contains(&missing), "{way}: {answer}");
    }
    assert!(bench.lines.0.lock().unwrap().contains(&missing), "{:?}", bench.lines.0);
    assert_eq!(page(&function, &format!("/connect/{granted}")).await, "ConnectionRefused");
    bench.stop(&function).await;
}

async fn it_is_held_still_and_goes_on(bench: Arc<Bench>) {
    let function = Arc::new(bench.start(bench.spec().await).await);
    let container = Arc::clone(function.container().unwrap());
    container.pause(true).await.unwrap();
    let asked = tokio::spawn({
        let function = Arc::clone(&function);
        async move { ask(&function, "/variables").await }
    });
    // The kernel accepts for it; it does not answer while it is held, however long that is.
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!asked.is_finished(), "it answered while it was held");
    container.pause(false).await.unwrap();
    assert_eq!(asked.await.unwrap().0, 200, "nothing of it is lost");
    // The time in which it is held is not the call's, however long that is.
    let limits = Limits { timeout: Duration::from_secs(5), ..Limits::default() };
    let hasty = HttpFunction::of_container(Arc::clone(&container), HttpSettings { limits, ..HttpSettings::default() });
    container.pause(true).await.unwrap();
    let asked = tokio::spawn(async move { ask(&hasty, "/variables").await });
    tokio::time::sleep(limits.timeout + Duration::from_secs(1)).await;
    assert!(!asked.is_finished(), "it was given up while it was held");
    container.pause(false).await.unwrap();
    assert_eq!(asked.await.unwrap().0, 200);
    // It is stopped as well while it is held.
    container.pause(true).await.unwrap();
    bench.stop(&function).await;
}

async fn what_it_writes_and_how_it_ends(bench: Arc<Bench>) {
    for (path, how) in [("/exit/7", "it exited with status 7"), ("/abort", "it was ended by signal 6")] {
        let function = bench.start(bench.spec().await).await;
        assert_eq!(ask(&function, path).await.0, 500);
        assert_eq!(function.container().unwrap().until_ended().await, how);
        bench.stop(&function).await;
    }
    let lines = bench.lines.0.lock().unwrap().clone();
    for line in ["it listens", "it exits"] {
        assert!(lines.iter().any(|had| had == line), "{line} is not in {lines:?}");
    }
    // It is asked to end before it is made to, which the first process of a namespace would not hear.
    let function = bench.start(ContainerSpec { stop_within: Duration::from_secs(60), ..bench.spec().await }).await;
    let container = Arc::clone(function.container().unwrap());
    bench.stop(&function).await;
    assert_eq!(container.until_ended().await, "it was ended by signal 15");
}

async fn does_not_start(bench: Arc<Bench>) {
    let within = Duration::from_secs(2);
    let deaf = bench.script("deaf", "#!/bin/sh\nexec sleep 1000\n").await;
    let refused = bench.refused(ContainerSpec { ready_within: within, ..deaf }).await;
    assert!(refused.contains("it does not listen on its port"), "{refused}");
    let refused = bench.refused(bench.script("ends", "#!/bin/sh\nexit 3\n").await).await;
    assert!(refused.contains("it exited with status 3 before it was ready"), "{refused}");
    let refused = bench.refused(bench.script("missing", "#!/usr/bin/no-such-program\n").await).await;
    assert!(refused.contains("missing cannot be started: No such file"), "{refused}");
    // Neither another file of this machine nor another place in its root.
    let mut elsewhere = bench.spec().await;
    elsewhere.contents =
        Program { file: "/usr/bin/true".into(), name: "true".to_owned(), arguments: Vec::new() }.into();
    let refused = bench.refused(elsewhere.clone()).await;
    assert!(refused.contains("is no program of this node"), "{refused}");
    let file = bench.containers.place(std::env::current_exe().unwrap(), "other").await.unwrap().0;
    elsewhere.contents = Program { file, name: "../usr/bin/x".to_owned(), arguments: Vec::new() }.into();
    let refused = bench.refused(elsewhere).await;
    assert!(refused.contains("is no name of a file"), "{refused}");
    assert_eq!(fs::read_dir(bench.folder.path().join("containers/run")).unwrap().count(), 0);
    // Programs that nobody runs are removed.
    bench.containers.sweep_contents().await.unwrap();
    assert_eq!(fs::read_dir(bench.folder.path().join("containers/programs")).unwrap().count(), 0);
}

async fn what_a_wiped_node_left_is_removed(bench: Arc<Bench>) {
    let (folder, next) = (&bench.folder.path().join("other"), bench.folder.path().join("next"));
    let (mut other, said) = bench::other(folder);
    let left: Vec<String> = fs::read_dir(folder.join("containers/run"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let state = fs::read_link(folder.join("containers/run")).unwrap().parent().unwrap().to_owned();
    // As `kill -9`, and then the disk is lost.
    other.kill().unwrap();
    other.wait().unwrap();
    let socket = folder.join("containers/host.sock");
    until("its host has ended", || std::os::unix::net::UnixStream::connect(&socket).is_err());
    fs::remove_dir_all(folder).unwrap();
    let pids: Vec<i32> = said.split_whitespace().map(|pid| pid.parse().unwrap()).collect();
    assert!(!left.is_empty() && pids.iter().all(|pid| runs(*pid)), "{left:?} {pids:?}");
    let _next = containers(&next);
    until("nothing of it runs", || pids.iter().all(|pid| !runs(*pid)));
    until("nothing of it is left", || left.iter().all(|id| cgroups(id).is_empty()) && !state.exists());
    // What is in use stays.
    assert!(bench.folder.path().join("containers/run").is_dir());
}

async fn another_process_takes_it_up(bench: Arc<Bench>) {
    let folder = &bench.folder.path().join("other");
    let (mut other, said) = bench::other(folder);
    let pids: Vec<i32> = said.split_whitespace().map(|pid| pid.parse().unwrap()).collect();
    // As `kill -9`.
    other.kill().unwrap();
    other.wait().unwrap();
    let again = containers(folder);
    let usage = Arc::<Usage>::default();
    let container = again.start(adopted_spec(&again).await, Arc::clone(&bench.lines) as _, 100, Arc::clone(&usage));
    let container = container.await.unwrap();
    assert!(container.is_adopted());
    assert_eq!([container.pid(), container.shim_pid()], [pids[0], pids[1]]);
    let function = HttpFunction::of_container(Arc::clone(&container), HttpSettings::default());
    assert_eq!(ask(&function, "/").await.0, 200);
    // What it used since its use was noted counts, although nobody was there to count it, and what was counted does not again.
    until("it is counted", || usage.now().cpu_ns >= BURNT_MS * 1_000_000);
    let counted = Duration::from_nanos(usage.now().cpu_ns);
    assert!(counted < container.used().unwrap().cpu, "{counted:?} of {:?}", container.used());
    assert!(usage.now().memory_byte_us > 0);
    // What nobody asks for is removed, and only that.
    let removed = again.remove_unknown().await;
    assert_eq!(removed.len(), 1, "{removed:?}");
    until("its processes have ended", || pids[2..].iter().all(|pid| !runs(*pid)));
    assert_eq!(cgroups(&removed[0]), Vec::<PathBuf>::new());
    assert!(page(&function, "/").await.starts_with("hello"), "the other one serves on");
    again.stop(&container).await;
    assert_eq!(fs::read_dir(folder.join("containers/run")).unwrap().count(), 0);
    bench.nothing_is_left(container.id(), &pids);
}

async fn adopted_spec(containers: &Containers) -> ContainerSpec {
    let file = containers.place(std::env::current_exe().unwrap(), "digest").await.unwrap().0;
    let arguments = vec!["serve".to_owned(), "hello".to_owned()];
    ContainerSpec::new("t/a/f", Program { file, name: "server".to_owned(), arguments })
}

/// Starts two processes, says which they are, and waits to be killed.
fn start_and_wait(folder: &Path) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let containers = containers(folder);
        let spec = adopted_spec(&containers).await;
        let start = |spec| containers.start(spec, Arc::<Lines>::default() as _, 100, Arc::default());
        let usage = Arc::<Usage>::default();
        let wanted =
            containers.start(spec.clone(), Arc::<Lines>::default() as _, 100, Arc::clone(&usage)).await.unwrap();
        until("something of it is counted", || usage.now().cpu_ns > 0);
        let unwanted = start(ContainerSpec { name: "t/a/g".to_owned(), ..spec }).await.unwrap();
        containers.note_counted().unwrap();
        let limits = Limits { timeout: Duration::from_secs(600), ..Limits::default() };
        let settings = HttpSettings { limits, ..HttpSettings::default() };
        let function = HttpFunction::of_container(Arc::clone(&wanted), settings);
        assert_eq!(page(&function, &format!("/burn/{BURNT_MS}")).await, "burnt");
        println!("{} {} {} {}", wanted.pid(), wanted.shim_pid(), unwanted.pid(), unwanted.shim_pid());
        std::future::pending::<()>().await;
    });
}
