//! Real containers, of an image that is made here of Debian's static busybox. This program is also the host and the shims of its
//! containers, so that it has a `main` of its own. Without root, a runtime or busybox it says that it is skipped.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "support/bench.rs"]
mod bench;
#[path = "support/layout.rs"]
mod layout;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use littoral_runtime::Limits;
use littoral_runtime::container::{ContainerSpec, Containers, OciRuntime, run_host, run_shim};
use littoral_runtime::http::{HttpFunction, HttpSettings};

use bench::{Bench, Lines, Test, ask, cgroups, echo, is_throttled, program, until};
use layout::{BUSYBOX, make_layout, runs};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["container", "host", folder] => run_host(Path::new(folder), &program()).unwrap(),
        ["container", "shim", folder] => drop(run_shim(Path::new(folder))),
        // The other half of the test of adoption: starts a container and is killed.
        ["start-and-wait", folder] => start_and_wait(Path::new(folder)),
        _ => return tests(&words),
    }
    ExitCode::SUCCESS
}

fn tests(words: &[&str]) -> ExitCode {
    let tests: [Test; 11] = [
        ("a_container_serves_and_is_confined", |bench| Box::pin(a_container_serves_and_is_confined(bench))),
        ("limits_hold", |bench| Box::pin(limits_hold(bench))),
        ("processors_are_limited", |bench| Box::pin(processors_are_limited(bench))),
        ("it_reaches_what_is_granted", |bench| Box::pin(it_reaches_what_is_granted(bench))),
        ("it_is_held_still_and_goes_on", |bench| Box::pin(it_is_held_still_and_goes_on(bench))),
        ("what_it_writes_and_how_it_ends_is_known", |bench| Box::pin(what_it_writes_and_how_it_ends_is_known(bench))),
        ("a_container_that_is_not_healthy_leaves_nothing", |bench| Box::pin(not_healthy_leaves_nothing(bench))),
        ("what_a_wiped_node_left_is_removed_by_the_next", |bench| Box::pin(what_a_wiped_node_left_is_removed(bench))),
        ("another_process_takes_it_up", |bench| Box::pin(another_process_takes_it_up(bench))),
        ("another_one_is_made_while_the_last_one_ends", |bench| Box::pin(another_one_while_the_last_one_ends(bench))),
        ("requests_are_answered_over_kept_connections", |bench| Box::pin(requests_over_kept_connections(bench))),
    ];
    let path = std::env::var_os("PATH");
    let unable = OciRuntime::find(path.as_deref()).err().map(|unable| unable.to_string());
    let unable = unable
        .or_else(|| (!Path::new(BUSYBOX).exists()).then(|| format!("there is no {BUSYBOX}: install busybox-static")));
    bench::run(words, &tests, path.as_deref(), unable)
}

fn containers(folder: &Path) -> Containers {
    bench::containers(folder, std::env::var_os("PATH").as_deref())
}

impl Bench {
    /// An image that serves a page; made when it is first asked for.
    fn layout(&self) -> PathBuf {
        let layout = self.folder.path().join("layout");
        if !layout.exists() {
            make_layout(&layout, &["/bin/busybox", "httpd", "-f", "-p", "8080", "-h", "/www"]);
        }
        layout
    }

    async fn spec(&self) -> ContainerSpec {
        let image = self.containers.unpack(self.layout()).await.unwrap().0;
        ContainerSpec { stop_within: Duration::from_millis(50), ..ContainerSpec::new("t/a/f", image) }
    }
}

async fn page(function: &HttpFunction, what: &str) -> String {
    let (status, body) = ask(function, &format!("/cgi-bin/do?{what}")).await;
    assert_eq!(status, 200, "{body}");
    body
}

async fn a_container_serves_and_is_confined(bench: Arc<Bench>) {
    let environment = vec![("REPLACED".to_owned(), "function".to_owned())];
    let function = bench.start(ContainerSpec { environment, ..bench.spec().await }).await;
    assert_eq!(ask(&function, "/index.html").await, (200, "page".to_owned()));
    assert_eq!(page(&function, "").await, "hello from function\n");
    let status = page(&function, "status").await;
    let line = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
    for capabilities in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        assert_eq!(line(capabilities), "0000000000000000", "{capabilities}");
    }
    assert_eq!((line("NoNewPrivs:").as_str(), line("Seccomp:").as_str()), ("1", "2"));
    assert_eq!((line("Uid:").as_str(), line("Gid:").as_str()), ("33\t33\t33\t33", "34\t34\t34\t34"));
    assert_eq!(page(&function, "write").await, "/x refused\n/www/x refused\n/tmp/x written\n");
    let network = page(&function, "network").await;
    let interfaces: Vec<&str> = network.lines().skip(2).map(|line| line.split(':').next().unwrap().trim()).collect();
    assert_eq!(interfaces, ["lo"], "{network}");
    let variables = page(&function, "variables").await;
    for variable in ["PORT=8080", "FROM_IMAGE=1", "REPLACED=function"] {
        assert!(variables.lines().any(|line| line == variable), "{variable} is not in {variables}");
    }
    let tried = page(&function, "mount").await;
    assert!(!tried.contains("mounted") && !tried.contains("unshared"), "{tried}");
    let processes = page(&function, "processes").await;
    assert!(processes.lines().count() < 8 && processes.contains("httpd"), "it sees others: {processes}");
    // Without it is somebody who is nobody here, where there are user namespaces.
    let container = function.container().unwrap();
    let outside = fs::read_to_string(format!("/proc/{}/status", container.pid())).unwrap();
    if bench.containers.abilities().images.as_ref().unwrap().has_user_namespaces {
        assert!(outside.contains("Uid:\t1879048225"), "{outside}");
        let shim = fs::read_to_string(format!("/proc/{}/status", container.shim_pid())).unwrap();
        assert!(shim.contains("Uid:\t1879048192") && shim.contains("Threads:\t1\n"), "{shim}");
    }
    bench.stop(&function).await;
}

async fn limits_hold(bench: Arc<Bench>) {
    let spec = ContainerSpec { memory_bytes: 32 << 20, pids: 20, cpu_millis: Some(500), ..bench.spec().await };
    let function = bench.start(spec).await;
    let id = function.container().unwrap().id().to_owned();
    let (_, memory) = ask(&function, "/cgi-bin/do?memory").await;
    assert!(!memory.contains("300000000"), "it had ten times its memory: {memory}");
    let (_, forked) = ask(&function, "/cgi-bin/do?fork").await;
    assert!(!forked.contains("begun 100"), "it had five times its processes: {forked}");
    // What was ended for it was not the server, which answers once it can have a process for that.
    let end = Instant::now() + Duration::from_secs(60);
    while ask(&function, "/index.html").await.0 != 200 {
        assert!(Instant::now() < end, "the server has ended");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let quota: Vec<String> = cgroups(&id)
        .iter()
        .filter_map(|folder| {
            fs::read_to_string(folder.join("cpu.cfs_quota_us"))
                .or_else(|_| fs::read_to_string(folder.join("cpu.max")))
                .ok()
        })
        .collect();
    assert!(quota.iter().any(|quota| quota.starts_with("50000")), "{quota:?}");
    let used = function.container().unwrap().used().unwrap();
    assert!(used.cpu > Duration::ZERO && used.memory_bytes > 0, "{used:?}");
    until("what it uses is counted", || bench.usage.now().cpu_ns > 0 && bench.usage.now().memory_byte_us > 0);
    bench.stop(&function).await;
}

async fn processors_are_limited(bench: Arc<Bench>) {
    let function = bench.start(ContainerSpec { cpu_millis: Some(200), ..bench.spec().await }).await;
    assert_eq!(page(&function, "spin").await, "spins\n");
    is_throttled(function.container().unwrap(), 200);
    bench.stop(&function).await;
}

async fn it_reaches_what_is_granted(bench: Arc<Bench>) {
    let (granted, other) = (echo(), echo());
    let http = vec![granted.to_string().parse().unwrap()];
    let function = bench.start(ContainerSpec { http, ..bench.spec().await }).await;
    let variables = page(&function, "variables").await;
    for name in ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"] {
        assert!(variables.lines().any(|line| line == format!("{name}=http://127.0.0.1:3128")), "{name}: {variables}");
    }
    // By its address, and by a name that leads to it.
    for host in [granted.to_string(), format!("localhost:{}", granted.port())] {
        let answer = page(&function, &format!("get/{host}")).await;
        assert!(answer.contains("GET /path HTTP/1.1") && answer.contains("via: 1.1 littoral"), "{answer}");
        assert!(
            answer.to_lowercase().contains(&format!("host: {host}\r")) && answer.ends_with("status 0\n"),
            "{answer}"
        );
    }
    let answer = page(&function, &format!("tunnel/{granted}")).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains("Host: within\r\n"), "{answer}");
    let missing = format!("a request to {other} was denied; grant it with `http = [\"{other}\"]`");
    let answer = page(&function, &format!("get/{other}")).await;
    assert!(answer.contains("403 Forbidden") && answer.ends_with("status 1\n"), "{answer}");
    let answer = page(&function, &format!("tunnel/{other}")).await;
    assert!(answer.starts_with("HTTP/1.1 403 Forbidden") && answer.contains(&missing), "{answer}");
    assert!(bench.lines.0.lock().unwrap().contains(&missing), "{:?}", bench.lines.0);
    // There is no other way.
    for way in [granted.to_string(), "192.0.2.1:80".to_owned()] {
        let answer = page(&function, &format!("direct/{way}")).await;
        assert!(answer.ends_with("status 1\n"), "{way}: {answer}");
    }
    bench.stop(&function).await;
    // Who is granted nothing finds no proxy.
    let function = bench.start(bench.spec().await).await;
    assert!(!page(&function, "variables").await.to_lowercase().contains("proxy"));
    let answer = page(&function, &format!("tunnel/{granted}")).await;
    assert!(answer.contains("refused") && answer.ends_with("status 1\n"), "{answer}");
    bench.stop(&function).await;
}

async fn it_is_held_still_and_goes_on(bench: Arc<Bench>) {
    let function = Arc::new(bench.start(bench.spec().await).await);
    let container = Arc::clone(function.container().unwrap());
    container.pause(true).await.unwrap();
    let asked = tokio::spawn({
        let function = Arc::clone(&function);
        async move { ask(&function, "/index.html").await }
    });
    // The kernel accepts for it; it does not answer while it is held, however long that is.
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!asked.is_finished(), "it answered while it was held");
    container.pause(false).await.unwrap();
    assert_eq!(asked.await.unwrap(), (200, "page".to_owned()), "nothing of it is lost");
    // It is stopped as well while it is held.
    container.pause(true).await.unwrap();
    bench.stop(&function).await;
}

async fn what_it_writes_and_how_it_ends_is_known(bench: Arc<Bench>) {
    let layout = bench.folder.path().join("talks");
    make_layout(
        &layout,
        &[
            "/bin/sh",
            "-c",
            "echo one; echo two >&2; busybox httpd -p 8080 -h /www; while [ ! -e /tmp/end ]; do sleep 0.05; done; sleep 1; echo last; exit 7",
        ],
    );
    let image = bench.containers.unpack(layout).await.unwrap().0;
    let function = bench.start(ContainerSpec { contents: image.into(), ..bench.spec().await }).await;
    let container = Arc::clone(function.container().unwrap());
    page(&function, "end").await;
    let how = container.until_ended().await;
    assert_eq!(how, "it exited with status 7");
    let lines = bench.lines.0.lock().unwrap().clone();
    for line in ["one", "two", "last"] {
        assert!(lines.iter().any(|had| had == line), "{line} is not in {lines:?}");
    }
    let (status, message) = ask(&function, "/index.html").await;
    assert_eq!(status, 500);
    assert!(message.contains("it exited with status 7"), "{message}");
    // Whoever asks for it again gets another one, which is cleared away here.
    bench.stop(&function).await;
}

async fn not_healthy_leaves_nothing(bench: Arc<Bench>) {
    let start = |spec| bench.containers.start(spec, Arc::clone(&bench.lines) as _, 100, Arc::clone(&bench.usage));
    let layout = |name: &str, command: &[&str]| {
        let path = bench.folder.path().join(name);
        make_layout(&path, command);
        bench.containers.unpack(path)
    };
    let within = Duration::from_secs(2);
    let deaf = layout("deaf", &["/bin/sleep", "1000"]).await.unwrap().0;
    let refused = start(ContainerSpec { contents: deaf.into(), ready_within: within, ..bench.spec().await })
        .await
        .unwrap_err()
        .to_string();
    assert!(refused.contains("it does not listen on its port"), "{refused}");
    let ends = layout("ends", &["/bin/sh", "-c", "exit 3"]).await.unwrap().0;
    let refused = start(ContainerSpec { contents: ends.into(), ..bench.spec().await }).await.unwrap_err().to_string();
    assert!(refused.contains("it exited with status 3 before it was ready"), "{refused}");
    let missing = layout("missing", &["/bin/no-such-program"]).await.unwrap().0;
    let refused =
        start(ContainerSpec { contents: missing.into(), ..bench.spec().await }).await.unwrap_err().to_string();
    assert!(refused.contains("no-such-program"), "{refused}");
    let nothing = layout("nothing", &[]).await.unwrap().0;
    let refused =
        start(ContainerSpec { contents: nothing.into(), ..bench.spec().await }).await.unwrap_err().to_string();
    assert!(refused.contains("build it with ENTRYPOINT or CMD"), "{refused}");
    // 404 is an answer.
    let answers = start(ContainerSpec { health_path: "/none".to_owned(), ..bench.spec().await }).await.unwrap();
    let function = HttpFunction::of_container(answers, HttpSettings::default());
    bench.stop(&function).await;
}

async fn what_a_wiped_node_left_is_removed(bench: Arc<Bench>) {
    bench.layout();
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
    let (layout, folder) = (bench.layout(), &bench.folder.path().join("other"));
    let (mut other, said) = bench::other(folder);
    let pids: Vec<i32> = said.split_whitespace().map(|pid| pid.parse().unwrap()).collect();
    // As `kill -9`.
    other.kill().unwrap();
    other.wait().unwrap();
    let again = containers(folder);
    let start = |spec| again.start(spec, Arc::clone(&bench.lines) as _, 100, Arc::clone(&bench.usage));
    let image = again.unpack(layout).await.unwrap().0;
    let spec = ContainerSpec { stop_within: Duration::from_millis(50), ..ContainerSpec::new("t/a/f", image) };
    let container = start(spec.clone()).await.unwrap();
    assert!(container.is_adopted());
    assert_eq!([container.pid(), container.shim_pid()], [pids[0], pids[1]]);
    let function = HttpFunction::of_container(Arc::clone(&container), HttpSettings::default());
    assert_eq!(ask(&function, "/index.html").await, (200, "page".to_owned()));
    // What nobody asks for is removed, and only that.
    let removed = again.remove_unknown().await;
    assert_eq!(removed.len(), 1, "{removed:?}");
    bench_is_left_with(folder, &[container.id()]);
    until("its processes have ended", || pids[2..].iter().all(|pid| !runs(*pid)));
    assert_eq!(cgroups(&removed[0]), Vec::<PathBuf>::new());
    // One that differs in anything is another one.
    let function_other = start(ContainerSpec { memory_bytes: 64 << 20, ..spec }).await.unwrap();
    assert!(!function_other.is_adopted());
    again.stop(&function_other).await;
    again.stop(&container).await;
    bench_is_left_with(folder, &[]);
    bench.nothing_is_left(container.id(), &pids);
}

async fn another_one_while_the_last_one_ends(bench: Arc<Bench>) {
    let spec = bench.spec().await;
    let first = bench.start(spec.clone()).await;
    let first = Arc::clone(first.container().unwrap());
    let pids = [first.pid(), first.shim_pid()];
    let mut stopped = Box::pin(bench.containers.stop(&first));
    assert!(futures::poll!(&mut stopped).is_pending(), "it is told to end");
    let (next, ()) = futures::join!(bench.start(spec), stopped);
    assert_ne!(next.container().unwrap().pid(), pids[0]);
    until("the first one has ended", || pids.iter().all(|pid| !runs(*pid)));
    assert_eq!(ask(&next, "/index.html").await, (200, "page".to_owned()));
    bench.stop(&next).await;
}

fn bench_is_left_with(folder: &Path, ids: &[&str]) {
    let names: Vec<String> = fs::read_dir(folder.join("containers/run"))
        .unwrap()
        .map(|it| it.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(names, ids);
    assert_eq!(fs::read_dir(folder.join("containers/runtime")).unwrap().count(), ids.len());
}

/// Starts two containers, says which processes they are, and waits to be killed.
fn start_and_wait(folder: &Path) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let containers = containers(folder);
        let image = containers.unpack(folder.parent().unwrap().join("layout")).await.unwrap().0;
        let spec = ContainerSpec::new("t/a/f", image);
        let start = |spec| containers.start(spec, Arc::<Lines>::default() as _, 100, Arc::default());
        let wanted = start(spec.clone()).await.unwrap();
        let unwanted = start(ContainerSpec { name: "t/a/g".to_owned(), ..spec }).await.unwrap();
        println!("{} {} {} {}", wanted.pid(), wanted.shim_pid(), unwanted.pid(), unwanted.shim_pid());
        std::future::pending::<()>().await;
    });
}

async fn requests_over_kept_connections(bench: Arc<Bench>) {
    let function = Arc::new(bench.start(bench.spec().await).await);
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let function = Arc::clone(&function);
            tokio::spawn(async move {
                for _ in 0..25 {
                    assert_eq!(ask(&function, "http://app.example/index.html").await, (200, "page".to_owned()));
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(function.stats().latency.count, 200);
    // One that takes too long is given up, and those after it are answered.
    let limits = Limits { timeout: Duration::from_millis(100), ..Limits::default() };
    let hasty = HttpFunction::of_container(
        Arc::clone(function.container().unwrap()),
        HttpSettings { limits, ..HttpSettings::default() },
    );
    let (status, message) = ask(&hasty, "/cgi-bin/do?hang").await;
    assert_eq!(status, 504, "{message}");
    assert_eq!(ask(&function, "/index.html").await.0, 200);
    bench.stop(&function).await;
}
