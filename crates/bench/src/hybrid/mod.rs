//! `hybrid`: a load that changes from rare short calls to frequent long ones and back, answered by a component, by a container, and by a
//! function that is both, for which the node chooses. What each costs: its mean latency over the better fixed one's, plus the memory
//! times time that it held over the better fixed one's (Elevating the Edge to be a Peer of the Cloud, VI). The oracle has each phase
//! answered by the one that is better in it.
//!
//! Component and container compute the same, from one source, each as its compiler builds it by default. Latencies are the client's,
//! each from the moment at which its call was due; memory is what `littoral usage` says.

mod plot;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use bytes::Bytes;
use littoral_runtime::container::Abilities;
use ring::digest::{SHA256, digest};
use serde_json::Value;

use crate::client::{Connection, Place};
use crate::container::{image, server};
use crate::fabric::{self, Fabric, Spec};
use crate::guests::guest;
use crate::peers;
use crate::results::{Results, Series, load, target};

/// The trace, in `crates/bench/traces`: made for this benchmark, phases of a minute. When a call is due, and how many rows it has.
const TRACE: &str = "hybrid.csv";
/// How long a phase of the trace is.
const PHASE: Duration = Duration::from_secs(60);
/// How many phases the short form has: rare, frequent, rare.
const PHASES_SHORT: usize = 3;
/// How many threads send calls: more than ever overlap.
const CONNECTIONS: usize = 8;
/// For how long a connection without a call is used again, and how long before a call another one is opened.
const FRESH: Duration = Duration::from_secs(5);
const AHEAD: Duration = Duration::from_millis(50);
const NODE: &str = "cloud-1";
/// What is compared: the app's name, and whether its function has a component and an image.
const CONTENDERS: [(&str, bool, bool); 3] =
    [("component", true, false), ("container", false, true), ("hybrid", true, true)];

/// A call: when it is due, and how many rows it has.
type Call = (Duration, u32);

/// What a phase came to, or several.
#[derive(Clone, Copy, Debug, Default)]
struct Outcome {
    calls: usize,
    latency_ms: f64,
    gib_s: f64,
}

impl Outcome {
    fn and(self, other: Self) -> Self {
        Self {
            calls: self.calls + other.calls,
            latency_ms: self.latency_ms + other.latency_ms,
            gib_s: self.gib_s + other.gib_s,
        }
    }

    fn mean_ms(self) -> f64 {
        self.latency_ms / self.calls.max(1) as f64
    }

    /// Against the better of two, in each.
    fn cost(self, fixed: [Self; 2]) -> f64 {
        let [one, other] = fixed;
        self.mean_ms() / one.mean_ms().min(other.mean_ms()) + self.gib_s / one.gib_s.min(other.gib_s)
    }
}

/// An app's run over the trace.
struct Run {
    name: &'static str,
    phases: Vec<Outcome>,
    /// When each call was due, and its latency, in seconds and milliseconds.
    calls: Vec<(f64, f64)>,
    /// When the other variant came to answer, in seconds, and what was said of it.
    switches: Vec<(f64, String)>,
}

impl Run {
    fn whole(&self) -> Outcome {
        self.phases.iter().copied().fold(Outcome::default(), Outcome::and)
    }
}

/// Runs the benchmark.
pub(crate) fn run(short: bool) -> anyhow::Result<()> {
    let mut results = Results::begin("hybrid", short);
    if let Err(reason) = Abilities::find(std::env::var_os("PATH").as_deref()).images {
        anyhow::bail!("it takes a container runtime: {reason}");
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("traces").join(TRACE);
    let text = fs::read_to_string(&path).with_context(|| format!("the trace {} cannot be read", path.display()))?;
    let hash: String = digest(&SHA256, text.as_bytes()).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    println!("trace: {} (SHA-256 {hash})", path.display());
    let phases = phases(&text, if short { PHASES_SHORT } else { usize::MAX })?;
    let littoral = peers::littoral()?;
    let fabric = Fabric::start(&littoral, &[Spec { name: NODE, tier: "cloud", connect: &[] }])?;
    let mut runs = Vec::new();
    for (name, component, container) in CONTENDERS {
        runs.push(contend(&fabric, name, (component, container), &phases)?);
    }
    let about = format!("{}, one node, {TRACE}, SHA-256 {hash}", peers::version(&littoral)?);
    report(&runs, &about, &mut results)?;
    results.load.1 = load();
    results.publish()
}

/// The calls of each phase, from its beginning.
fn phases(trace: &str, most: usize) -> anyhow::Result<Vec<Vec<Call>>> {
    let mut phases: BTreeMap<usize, Vec<Call>> = BTreeMap::new();
    for line in trace.lines().skip(1).filter(|line| !line.is_empty()) {
        let (at, rows) = line.split_once(',').with_context(|| format!("no call of the trace: {line}"))?;
        let at = Duration::from_millis(at.parse()?);
        let phase = (at.as_millis() / PHASE.as_millis()) as usize;
        phases.entry(phase).or_default().push((at - PHASE * u32::try_from(phase)?, rows.parse()?));
    }
    Ok(phases.into_values().take(most).collect())
}

/// Deploys an app, sends it the trace's calls, and deletes it.
fn contend(fabric: &Fabric, name: &'static str, is: (bool, bool), phases: &[Vec<Call>]) -> anyhow::Result<Run> {
    let app = tempfile::tempdir()?;
    write(app.path(), name, is)?;
    fabric.deploy(app.path())?;
    let place = Place::Tcp(fabric.http(NODE)?);
    // Neither compiling nor unpacking is a part of it.
    Connection::open(&place)?.ask("/score/1", Bytes::new())?;
    let mut run = Run { name, phases: Vec::new(), calls: Vec::new(), switches: Vec::new() };
    let (begun, begun_us) = (Instant::now(), since_1970_us());
    let mut held = gib_s(fabric, name)?;
    for (number, calls) in phases.iter().enumerate() {
        let before = begun.elapsed().as_secs_f64();
        let latencies = send(&place, calls)?;
        let held_now = gib_s(fabric, name)?;
        let took = latencies.iter().map(|(_, took_ms)| took_ms).sum();
        run.phases.push(Outcome { calls: latencies.len(), latency_ms: took, gib_s: held_now - held });
        held = held_now;
        run.calls.extend(latencies.into_iter().map(|(due_s, took_ms)| (before + due_s, took_ms)));
        eprintln!("{name}: phase {} of {}", number + 1, phases.len());
    }
    run.switches = switches(fabric, name, begun_us)?;
    fabric.tell(NODE, &["delete", name])?;
    let containers = fabric.data(NODE).join("containers/run");
    let is_gone = || fs::read_dir(&containers).map_or(true, |mut left| left.next().is_none());
    fabric::wait(is_gone, "a container is left")?;
    Ok(run)
}

fn write(folder: &Path, name: &str, (component, container): (bool, bool)) -> anyhow::Result<()> {
    let mut text = format!("name = \"{name}\"\nversion = \"1.0.0\"\n\n[functions.score]\ntimeout = \"10s\"\n");
    if component {
        fs::copy(guest("hybrid")?, folder.join("score.wasm"))?;
        text += "component = \"score.wasm\"\n";
    }
    if container {
        image::write(&folder.join("image"), &server()?)?;
        text += "image = \"image\"\n";
    }
    text += "\n[[routes]]\npath = \"/score/*\"\nfunction = \"score\"\n";
    fs::write(folder.join("littoral.toml"), text).context("cannot write the manifest")
}

/// Sends a phase's calls when they are due; when each was, in seconds, and its latency in milliseconds.
fn send(place: &Place, calls: &[Call]) -> anyhow::Result<Vec<(f64, f64)>> {
    let begin = Instant::now();
    let mut all = thread::scope(|scope| {
        let threads: Vec<_> = (0..CONNECTIONS)
            .map(|first| {
                scope.spawn(move || {
                    let mut connection = Connection::open(place)?;
                    let mut latencies = Vec::new();
                    let mut used = begin;
                    for (due, rows) in calls.iter().skip(first).step_by(CONNECTIONS) {
                        // The node closes a connection on which nothing comes.
                        thread::sleep((begin + *due).saturating_duration_since(Instant::now() + AHEAD));
                        if used.elapsed() > FRESH {
                            connection = Connection::open(place)?;
                        }
                        thread::sleep((begin + *due).saturating_duration_since(Instant::now()));
                        connection.time(&format!("/score/{rows}"), Bytes::new())?;
                        used = Instant::now();
                        latencies.push((due.as_secs_f64(), (begin + *due).elapsed().as_secs_f64() * 1e3));
                    }
                    anyhow::Ok(latencies)
                })
            })
            .collect();
        let mut all = Vec::new();
        for thread in threads {
            all.extend(thread.join().ok().context("a thread of the load generator panicked")??);
        }
        anyhow::Ok(all)
    })?;
    all.sort_by(|one, other| one.0.total_cmp(&other.0));
    thread::sleep((begin + PHASE).saturating_duration_since(Instant::now()));
    Ok(all)
}

/// The memory times time that an app has held so far.
fn gib_s(fabric: &Fabric, app: &str) -> anyhow::Result<f64> {
    let usage = fabric.ask(&["usage", "--since", "1h", "-o", "json"])?;
    let nodes = usage.get("nodes").and_then(Value::as_array).into_iter().flatten();
    let functions = nodes.filter_map(|node| node.get("functions")?.as_array()).flatten();
    let of_app = functions.filter(|function| function.get("app").and_then(Value::as_str) == Some(app));
    let held = of_app.filter_map(|function| function.get("memory_byte_s")?.as_f64());
    Ok(held.sum::<f64>() / f64::from(1 << 30))
}

/// When the variant changed, as the node's events tell.
fn switches(fabric: &Fabric, app: &str, begun_us: i64) -> anyhow::Result<Vec<(f64, String)>> {
    let events = fabric.ask(&["events", "-o", "json"])?;
    let rows = events.get("events").and_then(Value::as_array).into_iter().flatten();
    let mut switches: Vec<(f64, String)> = rows
        .filter(|row| row.get("app").and_then(Value::as_str) == Some(app))
        .filter_map(|row| Some((row.get("time_us")?.as_i64()?, row.get("text")?.as_str()?.to_owned())))
        .map(|(at_us, text)| ((at_us - begun_us) as f64 / 1e6, text))
        .collect();
    switches.sort_by(|one, other| one.0.total_cmp(&other.0));
    Ok(switches)
}

fn report(runs: &[Run], about: &str, results: &mut Results) -> anyhow::Result<()> {
    let [component, container, ours] = runs else { anyhow::bail!("three are compared") };
    let fixed = [component.whole(), container.whole()];
    let oracle = component.phases.iter().zip(&container.phases).map(|(one, other)| {
        let phase = [*one, *other];
        if one.cost(phase) <= other.cost(phase) { *one } else { *other }
    });
    let oracle = oracle.fold(Outcome::default(), Outcome::and);
    for run in runs {
        let mut series = Series::new(run.name, about, "mean_ms");
        for phase in &run.phases {
            series.note(phase.mean_ms(), &[("calls", phase.calls as f64), ("mib_s", phase.gib_s * 1024.0)]);
        }
        results.series.push(series);
    }
    let mut costs = vec![("oracle", oracle.cost(fixed))];
    costs.extend(runs.iter().map(|run| (run.name, run.whole().cost(fixed))));
    results.ratios.extend(costs.iter().map(|(name, cost)| (format!("hybrid_cost_{name}"), *cost)));
    let cost = ours.whole().cost(fixed);
    let best = fixed.map(|one| one.cost(fixed)).into_iter().fold(f64::MAX, f64::min);
    results.ratios.insert("hybrid_cost_vs_best_fixed".to_owned(), cost / best);
    results.ratios.insert("hybrid_cost_vs_oracle".to_owned(), cost / oracle.cost(fixed));
    println!("switches:");
    ours.switches.iter().for_each(|(at_s, text)| println!("{at_s:>8.1} s  {text}"));
    let picture: PathBuf = target().join("bench/hybrid.svg");
    fs::create_dir_all(target().join("bench"))?;
    fs::write(&picture, plot::svg(runs, PHASE))?;
    println!("plotted: {}", picture.display());
    Ok(())
}

fn since_1970_us() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}
