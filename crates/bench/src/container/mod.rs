//! `container`: how long containers and processes take to their first answer, and what the node costs beside the same server bare.
//!
//! Starts: with the runtime of the node in this process, from nothing (the image is unpacked, the program is there) to the first answer;
//! from a container that was started beforehand; from one that is held still. Requests: wrk over 1 and 64 connections to a node's HTTP, and
//! to the same program bare on this machine, in alternating pairs: an empty handler, and one of some 2 ms of computing.

pub(crate) mod image;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use http_body_util::BodyExt as _;
use hyper::Request;
use littoral_runtime::container::{
    Abilities, ContainerProgram, ContainerSpec, Containers, Contents, HostProcess, Program, run_host, run_shim,
};
use littoral_runtime::http::{HttpFunction, HttpSettings, full};
use littoral_runtime::{Discard, Usage};

use crate::fabric::{self, Fabric, Spec};
use crate::http::wrk;
use crate::peers;
use crate::results::{Results, Series, load, median, target};
use crate::server::{Server, free_address};

/// How often each kind is started.
const STARTS: usize = 40;
/// The same in the short form.
const STARTS_SHORT: usize = 5;
/// How many rounds of requests; each visits every server.
const ROUNDS: usize = 5;
/// How long a server is loaded in a round, in seconds; and in the short form.
const SECONDS: u32 = 4;
const SECONDS_SHORT: u32 = 2;
/// How long each is loaded before a cell.
const WARM_UP_SECONDS: u32 = 1;
/// Over so many connections.
const CONNECTIONS: [u32; 2] = [1, 64];
const NODE: &str = "cloud-1";
const RATE: &str = "requests/s";
const TIME: &str = "p50_ms";
/// What this program is called with to be one of the processes of containers.
pub(crate) const ROLE: &str = "container-process";

/// What is asked for: how it is called, the paths that lead to the container and to the process, and the key of the container's ratio.
type Cell = (&'static str, [&'static str; 2], &'static str);

/// The bare server looks at the beginning of a path only.
const CELLS: [Cell; 2] = [
    ("empty", ["/container", "/process"], "container_rps_empty_vs_bare"),
    ("2 ms CPU", ["/cpu/container", "/cpu/process"], "container_rps_2ms_vs_bare"),
];

/// Runs the benchmark.
pub(crate) fn run(short: bool) -> anyhow::Result<()> {
    let mut results = Results::begin("container", short);
    let server = server()?;
    starts(&server, if short { STARTS_SHORT } else { STARTS }, &mut results)?;
    requests(&server, if short { SECONDS_SHORT } else { SECONDS }, &mut results)?;
    results.load.1 = load();
    results.publish()
}

/// Is a process of containers.
pub(crate) fn role(role: &str, folder: &Path) -> anyhow::Result<()> {
    match role {
        "host" => run_host(folder, &program()?).context("the host of containers"),
        "shim" => {
            // What was wrong, it has said where the host hears it.
            let _ = run_shim(folder);
            Ok(())
        }
        _ => Err(anyhow!("there is no role {role}")),
    }
}

fn program() -> anyhow::Result<ContainerProgram> {
    Ok(ContainerProgram { program: std::env::current_exe()?, arguments: vec![ROLE.into()] })
}

/// The server's program, built where guests are: linked statically, so that an image needs nothing else.
pub(crate) fn server() -> anyhow::Result<PathBuf> {
    let folder = target().join("guests/bench/server");
    fs::create_dir_all(&folder)?;
    let program = folder.canonicalize()?.join("server");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("guests/server/server.rs");
    let mut rustc = Command::new("rustc");
    rustc.args(["-O", "--edition", "2024", "-C", "target-feature=+crt-static", "-C", "strip=symbols", "-o"]);
    fabric::run(rustc.arg(&program).arg(source))?;
    Ok(program)
}

/// Measures first answers of containers and of processes in turn.
fn starts(server: &Path, starts: usize, results: &mut Results) -> anyhow::Result<()> {
    let abilities = Abilities::find(std::env::var_os("PATH").as_deref());
    let mut about = "program of no image, made by ourselves".to_owned();
    if let Ok(runtime) = &abilities.images {
        about = format!("{}; {about}", peers::version(&runtime.program)?);
    }
    let folder = tempfile::tempdir()?;
    image::write(&folder.path().join("image"), server)?;
    let host = HostProcess::start(&folder.path().join("containers"), abilities, &program()?)?;
    let containers = Containers::open(Arc::new(host))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let contents = runtime.block_on(contents(&containers, folder.path(), server, results));
    let ways = ["cold", "prewarmed", "resume"];
    let named = |kind: &str, way: &str| Series::new(format!("{kind}, {way}"), about.clone(), TIME);
    let mut series: Vec<[Series; 3]> = contents.iter().map(|(kind, _)| ways.map(|way| named(kind, way))).collect();
    for round in 0..starts {
        for ((kind, contents), series) in contents.iter().zip(&mut series) {
            // Another name each time: it is not to be taken for the one before.
            let mut spec = ContainerSpec::new(format!("bench/{kind}/{round}"), contents.clone());
            spec.stop_within = Duration::from_millis(10);
            let times = runtime.block_on(first_answers(&containers, spec))?;
            series.iter_mut().zip(times).for_each(|(series, time)| series.note(time.as_secs_f64() * 1e3, &[]));
        }
    }
    runtime.block_on(containers.stop_all());
    for ((kind, _), series) in contents.iter().zip(&series) {
        for (way, series) in ways.iter().zip(series) {
            results.ratios.insert(format!("{kind}_{way}_p50_ms"), median(&series.samples));
        }
    }
    results.series.extend(series.into_iter().flatten());
    Ok(())
}

/// What can be started here, by kind.
async fn contents(
    containers: &Containers,
    folder: &Path,
    server: &Path,
    results: &mut Results,
) -> Vec<(&'static str, Contents)> {
    let mut contents = Vec::new();
    match &containers.abilities().images {
        Err(reason) => drop(results.failed.insert("container".to_owned(), reason.to_string())),
        Ok(_) => match containers.unpack(folder.join("image")).await {
            Ok((image, _)) => contents.push(("container", image.into())),
            Err(error) => drop(results.failed.insert("container".to_owned(), error.to_string())),
        },
    }
    match &containers.abilities().programs {
        Err(reason) => drop(results.failed.insert("process".to_owned(), reason.to_string())),
        Ok(()) => match containers.place(server.to_owned(), "server").await {
            Ok((file, _)) => {
                contents.push(("process", Program { file, name: "server".to_owned(), arguments: Vec::new() }.into()));
            }
            Err(error) => drop(results.failed.insert("process".to_owned(), error.to_string())),
        },
    }
    contents
}

/// How long it takes from nothing to the first answer, then with what was started, then with what is held still.
async fn first_answers(containers: &Containers, spec: ContainerSpec) -> anyhow::Result<[Duration; 3]> {
    let begun = Instant::now();
    let container = containers.start(spec, Arc::new(Discard), 0, Arc::new(Usage::default())).await?;
    // Each has a client of its own, which has no connection yet.
    let function = || HttpFunction::of_container(Arc::clone(&container), HttpSettings::default());
    answer(&function()).await?;
    let cold = begun.elapsed();
    let begun = Instant::now();
    answer(&function()).await?;
    let prewarmed = begun.elapsed();
    container.pause(true).await?;
    let begun = Instant::now();
    container.pause(false).await?;
    answer(&function()).await?;
    let resumed = begun.elapsed();
    containers.stop(&container).await;
    Ok([cold, prewarmed, resumed])
}

async fn answer(function: &HttpFunction) -> anyhow::Result<()> {
    let response = function.call(Request::get("/").body(full(""))?).await;
    let (head, body) = response.into_parts();
    let body = body.collect().await?.to_bytes();
    anyhow::ensure!(head.status.is_success(), "{}: {}", head.status, String::from_utf8_lossy(&body));
    Ok(())
}

/// Measures requests through a node, beside the same server bare.
fn requests(server: &Path, seconds: u32, results: &mut Results) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let script = folder.path().join("wrk.lua");
    fs::write(&script, wrk::SCRIPT)?;
    let address = free_address()?;
    let mut command = Command::new(server);
    command.env("PORT", address.port().to_string());
    let bare = Server::start(command, address, &folder.path().join("log"))?;
    let fabric = Fabric::start(&peers::littoral()?, &[Spec { name: NODE, tier: "cloud", connect: &[] }])?;
    let kinds = deploy(&fabric, server, &folder.path().join("app"), results)?;
    let contest = Contest { script, bare: bare.address(), node: fabric.http(NODE)?, kinds, seconds };
    let mut cells = CELLS.iter().flat_map(|cell| CONNECTIONS.map(|connections| (cell, connections)));
    let measured = cells.try_for_each(|(cell, connections)| contest.cell(cell, connections, results));
    // They would outlive a node that is killed.
    fabric.tell(NODE, &["delete", "bench"])?;
    let run = fabric.data(NODE).join("containers/run");
    fabric::wait(|| fs::read_dir(&run).is_ok_and(|mut left| left.next().is_none()), "containers are left")?;
    measured
}

/// The servers that are compared, all of which run.
struct Contest {
    script: PathBuf,
    bare: SocketAddr,
    node: SocketAddr,
    /// What the node runs, and which of a cell's paths leads there.
    kinds: Vec<(&'static str, usize)>,
    seconds: u32,
}

impl Contest {
    /// Loads them in turn with requests of one kind over so many connections.
    fn cell(&self, (what, paths, key): &Cell, connections: u32, results: &mut Results) -> anyhow::Result<()> {
        let about = format!("{}, one node; wrk -t1, {} s each", peers::version(&peers::littoral()?)?, self.seconds);
        let named = |who: &str| Series::new(format!("{what}, {connections} conn: {who}"), &about, RATE);
        let [first, _] = paths;
        let mut contestants = vec![(self.bare, *first, named("bare"))];
        let path = |number: &usize| paths.get(*number).copied().unwrap_or_default();
        contestants.extend(self.kinds.iter().map(|(kind, number)| (self.node, path(number), named(kind))));
        for (address, path, _) in &contestants {
            wrk::run(&self.script, *address, path, connections, WARM_UP_SECONDS)?;
        }
        for round in 0..ROUNDS {
            let mut turns: Vec<_> = contestants.iter_mut().collect();
            if round % 2 == 1 {
                turns.reverse();
            }
            for (address, path, series) in turns {
                let run = wrk::run(&self.script, *address, path, connections, self.seconds)?;
                series.note(run.requests_per_s, &[("p50_ms", run.p50_ms), ("p99_ms", run.p99_ms)]);
            }
        }
        let mut series = contestants.into_iter().map(|(.., series)| series);
        let peer = series.next().context("the bare server was measured")?;
        for ((kind, _), mut ours) in self.kinds.iter().zip(series) {
            let ratio = ours.compare(&peer, RATE);
            println!("{what}, {connections} conn: {kind} × {ratio:.2} of bare");
            let worst = results.ratios.entry(key.replacen("container", kind, 1)).or_insert(ratio);
            *worst = worst.min(ratio);
            results.series.push(ours);
        }
        results.series.push(peer);
        Ok(())
    }
}

/// Deploys the server as an image and as a process, as far as this machine runs them; which, and which of a cell's paths leads there.
fn deploy(fabric: &Fabric, server: &Path, app: &Path, results: &Results) -> anyhow::Result<Vec<(&'static str, usize)>> {
    fs::create_dir(app)?;
    fs::copy(server, app.join("server"))?;
    image::write(&app.join("image"), server)?;
    let mut manifest = "name = \"bench\"\nversion = \"1.0.0\"\n".to_owned();
    let mut kinds = Vec::new();
    for (number, (kind, made_of)) in
        [("container", "image = \"image\""), ("process", "process = \"server\"")].into_iter().enumerate()
    {
        if results.failed.contains_key(kind) {
            continue;
        }
        manifest += &format!("\n[functions.{kind}]\n{made_of}\ntimeout = \"30s\"\n");
        for (_, paths, _) in CELLS {
            let path = paths.get(number).copied().unwrap_or_default();
            manifest += &format!("\n[[routes]]\npath = \"{path}\"\nfunction = \"{kind}\"\n");
        }
        kinds.push((kind, number));
    }
    fs::write(app.join("littoral.toml"), manifest)?;
    fabric.deploy(app)?;
    Ok(kinds)
}
