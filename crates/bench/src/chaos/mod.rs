//! `chaos`: twelve nodes on loopback are killed, paused, wiped and cut off, one after the other in an order that a seed
//! decides, while records flow and functions are called. How long it takes until all that can go on does; whether
//! anything was started that no disturbance is the reason for; and whether each acknowledged record came out once.
//!
//! A disturbance has two moments that are measured alike: when it begins, and when it is mended (the node started again,
//! continued or replaced; the link healed). The time to resume is that of the slowest: of all producers, until the
//! first record published since came out at its sink; of all nodes, until the first of ten calls that succeed one after
//! the other. Who cannot go on while a disturbance lasts is left out of its beginning (`Producer::survives`,
//! `calls::survives`), never of its end.

mod apps;
mod calls;
pub(crate) mod flows;
mod held;
mod nodes;
pub(crate) mod queue;
mod records;
mod restarts;
mod schedule;
mod wire;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinSet;

use self::calls::Calls;
use self::nodes::{Nodes, ROLES};
use self::records::{Ledger, Producer};
use self::restarts::Restarts;
use self::schedule::{Disturbance, Kind, Schedule};
use crate::peers;
use crate::results::{Results, Series, load, quantile};

/// For how long nodes are disturbed; the short form has one disturbance of each kind.
const DURATION: Duration = Duration::from_secs(600);
/// How long a disturbance lasts at least: long enough for a silent node to be given up and replaced.
const HOLD: Duration = Duration::from_secs(6);
/// How long the nodes may take to compile the components and to begin.
const BEGIN: Duration = Duration::from_secs(300);
/// After how long something counts as not resumed at all.
const LIMIT: Duration = Duration::from_secs(60);
/// How often is looked whether something has happened.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How long a node may take to say how it is.
const ANSWER: Duration = Duration::from_secs(5);
/// What the time to resume should not exceed, in 95 of 100 cases.
const RESUME_P95_S: f64 = 5.0;

/// Runs it; without a seed one is drawn.
pub(crate) fn run(short: bool, seed: Option<u64>) -> anyhow::Result<()> {
    in_folder("chaos", seed, async |seed, folder| disturb(short, seed, folder).await)
}

/// Runs one of the three benchmarks under a seed, in a folder of its own, which is kept where it fails; without a seed one is drawn.
fn in_folder(
    benchmark: &str,
    seed: Option<u64>,
    run: impl AsyncFnOnce(u64, &Path) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let drawn = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_secs() % 1_000_000);
    let seed = seed.unwrap_or_else(drawn);
    println!("seed {seed}: `littoral-bench {benchmark} --seed {seed}` does the same in the same order");
    let folder = tempfile::tempdir()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let done = runtime.block_on(run(seed, folder.path()));
    if done.is_err() {
        println!("logs and data: {}", folder.keep().display());
    }
    done
}

async fn disturb(short: bool, seed: u64, folder: &Path) -> anyhow::Result<()> {
    let mut results = Results::begin("chaos", short);
    let littoral = peers::littoral()?;
    let nodes = Nodes::start(&littoral, folder).await?;
    deploy(&nodes, folder)?;
    let mut run = Run::begin(nodes, folder)?;
    let schedule: Box<dyn Iterator<Item = Disturbance>> =
        if short { Box::new(Schedule::short(seed).into_iter()) } else { Box::new(Schedule::new(seed)) };
    run.settle().await?;
    for disturbance in schedule {
        if run.begun.elapsed() >= DURATION {
            break;
        }
        run.carry_out(disturbance).await?;
    }
    let outcome = run.end(folder).await?;
    let about = format!("{}, twelve nodes, seed {seed}", peers::version(&littoral)?);
    outcome.report(&mut results, &about);
    results.load.1 = load();
    results.publish()?;
    outcome.judge(short)
}

/// Deploys the apps; each is healthy afterwards.
fn deploy(nodes: &Nodes, folder: &Path) -> anyhow::Result<()> {
    for app in apps::HALLS.into_iter().chain([apps::CALLED]) {
        let source = folder.join("apps").join(app);
        std::fs::create_dir_all(&source)?;
        if app == apps::CALLED {
            apps::write_calls(&source)?
        } else {
            apps::write_hall(&source, app)?
        }
        let source = source.to_str().context("the folder's name is not text")?;
        nodes.tell(&["deploy", source, "--no-build", "--timeout", "5min", "-o", "json"])?;
    }
    Ok(())
}

/// What goes on while nodes are struck.
struct Run {
    begun: Instant,
    nodes: Nodes,
    ledger: Arc<Ledger>,
    producers: Vec<Arc<Producer>>,
    calls: Vec<Arc<Calls>>,
    publishing: JoinSet<anyhow::Result<()>>,
    input: PathBuf,
    stop: watch::Sender<bool>,
    restarts: Restarts,
    times: BTreeMap<(Kind, usize), Vec<Resumed>>,
    /// How many calls were made at nodes that can be called, and how many of them failed.
    called: (usize, usize),
}

/// How long it took from a moment on until the slowest flow and the slowest caller went on, in seconds.
#[derive(Clone, Copy)]
struct Resumed {
    flows_s: f64,
    calls_s: f64,
}

impl Run {
    fn begin(nodes: Nodes, folder: &Path) -> anyhow::Result<Self> {
        let (stop, stopped) = watch::channel(false);
        let (ledger, input) = (Arc::<Ledger>::default(), folder.join("input"));
        std::fs::create_dir_all(&input)?;
        let producers: Vec<Arc<Producer>> = records::producers().into_iter().map(Arc::new).collect();
        let mut publishing = JoinSet::new();
        for producer in &producers {
            let places = producer.nodes.iter().map(|number| nodes.admin(*number)).collect();
            let (producer, ledger) = (Arc::clone(producer), Arc::clone(&ledger));
            publishing.spawn(records::publish(producer, places, ledger, input.clone(), stopped.clone()));
        }
        records::watch_sinks(&nodes, &ledger);
        let calls: Vec<Arc<Calls>> = ROLES.iter().map(|_| Arc::default()).collect();
        for (number, calls) in calls.iter().enumerate() {
            tokio::spawn(calls::call(nodes.http(number), Arc::clone(calls), stopped.clone()));
        }
        let (restarts, times, called, begun) = (Restarts::default(), BTreeMap::new(), (0, 0), Instant::now());
        Ok(Self { begun, nodes, ledger, producers, calls, publishing, input, stop, restarts, times, called })
    }

    /// Waits until everything goes on for the first time.
    async fn settle(&mut self) -> anyhow::Result<()> {
        let all_go_on = |run: &Self| {
            let flow = run.producers.iter().all(|producer| run.ledger.resumed(&producer.name, run.begun).is_some());
            flow && run.calls.iter().all(|calls| calls.resumed(run.begun).is_some())
        };
        while !all_go_on(self) {
            anyhow::ensure!(self.begun.elapsed() < BEGIN, "nothing comes out within {} s", BEGIN.as_secs());
            tokio::time::sleep(LOOK_EVERY).await;
        }
        println!("all goes on after {:.0} s", self.begun.elapsed().as_secs_f64());
        self.begun = Instant::now();
        Ok(())
    }

    /// Waits until all is well, strikes, waits until all that can has resumed, mends, and waits again.
    async fn carry_out(&mut self, disturbance: Disturbance) -> anyhow::Result<()> {
        self.whole().await?;
        if self.restarts.look(&self.nodes).await {
            self.restarts.well();
        }
        self.restarts.struck(disturbance);
        for (end, name) in disturbance.kind.names().into_iter().enumerate() {
            let since = Instant::now();
            if end == 0 {
                self.nodes.strike(disturbance)?
            } else {
                self.nodes.mend(disturbance).await?
            }
            let resumed = self.resumed(disturbance, end == 0, since, name).await;
            self.times.entry((disturbance.kind, end)).or_default().push(resumed);
            if end == 0 {
                tokio::time::sleep(HOLD.saturating_sub(since.elapsed())).await;
            }
            for number in callers(disturbance, end == 0) {
                let (made, failed) = self.calls.get(number).map_or((0, 0), |calls| calls.failed(since));
                self.called = (self.called.0 + made, self.called.1 + failed);
            }
            let needless = self.restarts.needless.len();
            self.restarts.look(&self.nodes).await;
            for start in self.restarts.needless.iter().skip(needless) {
                println!("         needless start: {start}");
            }
        }
        Ok(())
    }

    /// Waits until everything that can go on does; says how long that took, and who was the slowest.
    async fn resumed(&self, disturbance: Disturbance, struck: bool, since: Instant, what: &str) -> Resumed {
        let producers = self.producers.iter().filter(|producer| !struck || producer.survives(disturbance));
        let producers: Vec<&str> = producers.map(|producer| producer.name.as_str()).collect();
        let callers: Vec<usize> = callers(disturbance, struck).collect();
        loop {
            let is_over = since.elapsed() >= LIMIT;
            let flows = slowest(producers.iter().map(|name| (*name, self.ledger.resumed(name, since))), is_over);
            let called = |number: &usize| {
                let name = ROLES.get(*number).map_or("", |role| role.name);
                (name, self.calls.get(*number).and_then(|calls| calls.resumed(since)))
            };
            let calls = slowest(callers.iter().map(called), is_over);
            if let (Some((flow, flows)), Some((caller, calls))) = (flows, calls) {
                let resumed = Resumed { flows_s: flows.as_secs_f64(), calls_s: calls.as_secs_f64() };
                println!(
                    "{:5.0} s  {what:8} {:9} flows after {:6.2} s ({flow}), calls after {:6.2} s ({caller})",
                    (since - self.begun).as_secs_f64(),
                    disturbance.target(),
                    resumed.flows_s,
                    resumed.calls_s
                );
                return resumed;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Waits until everything that is to have a second copy has one.
    async fn whole(&self) -> anyhow::Result<()> {
        let since = Instant::now();
        loop {
            let missing = match self.copies_missing().await {
                Ok(missing) if missing.is_empty() => return Ok(()),
                Ok(missing) => missing.join(", "),
                Err(error) => format!("the first node does not say: {error:#}"),
            };
            anyhow::ensure!(since.elapsed() < LIMIT, "without a second copy for {} s: {missing}", LIMIT.as_secs());
            tokio::time::sleep(LOOK_EVERY * 4).await;
        }
    }

    async fn copies_missing(&self) -> anyhow::Result<Vec<String>> {
        let admin = self.nodes.admin(0);
        let mut missing = Vec::new();
        for (path, part) in [("/v1/streams", "/partitions"), ("/v1/flows", "/stages")] {
            let all = wire::get(&admin, path, ANSWER).await?;
            for (of, one) in
                all.as_array().into_iter().flatten().flat_map(|of| parts(of, part).map(move |one| (of, one)))
            {
                let text =
                    |value: &Value, name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
                let copies = one.get("in_sync").and_then(Value::as_array).map_or(0, Vec::len);
                let site = text(one, "site");
                if copies < 2 && (site == "cloud" || apps::HALLS.contains(&site.as_str())) {
                    missing.push(format!("{}/{}{} at {site}", text(of, "app"), text(of, "name"), text(one, "name")));
                }
            }
        }
        Ok(missing)
    }

    /// Ends the traffic when all is acknowledged and has come out, and compares what went in with what did.
    async fn end(mut self, folder: &Path) -> anyhow::Result<Outcome> {
        self.stop.send_replace(true);
        let acknowledged = async {
            while let Some(ended) = self.publishing.join_next().await {
                ended??;
            }
            anyhow::Ok(())
        };
        tokio::time::timeout(LIMIT, acknowledged).await.context("a producer gets no acknowledgement")??;
        let since = Instant::now();
        while self.ledger.outstanding() > 0 && since.elapsed() < LIMIT {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        let output = folder.join("output");
        std::fs::create_dir_all(&output)?;
        let files = records::dump(&self.nodes, &output)?;
        let checked = check(&self.input, &files, folder)?;
        let (work_starts, needless) = (self.restarts.work_starts, self.restarts.needless);
        let (published, called) = (self.ledger.published(), self.called);
        Ok(Outcome { times: self.times, published, called, work_starts, needless, checked })
    }
}

/// The nodes that can be called: all, or while a disturbance lasts those that it leaves to be called.
fn callers(disturbance: Disturbance, struck: bool) -> impl Iterator<Item = usize> {
    (0..ROLES.len()).filter(move |number| !struck || calls::survives(*number, disturbance))
}

fn parts<'v>(value: &'v Value, pointer: &str) -> impl Iterator<Item = &'v Value> + use<'v> {
    value.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
}

/// The one that took longest; none while one has yet to resume, unless it is over, when that one took until now.
fn slowest<'n>(all: impl Iterator<Item = (&'n str, Option<Duration>)>, is_over: bool) -> Option<(&'n str, Duration)> {
    let mut slowest = ("nobody", Duration::ZERO);
    for (name, resumed) in all {
        let resumed = resumed.or(is_over.then_some(LIMIT))?;
        if resumed >= slowest.1 {
            slowest = (name, resumed);
        }
    }
    Some(slowest)
}

/// Has the drill's checker, which shares no code with what it checks, compare what went in with what came out.
fn check(input: &Path, scores: &[PathBuf], folder: &Path) -> anyhow::Result<Value> {
    let checker = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/checker/checker.py");
    // No malformed record is published, and the flows have no dead-letter stream.
    let (rejects, verdict) = (folder.join("rejects.ndjson"), folder.join("verdict.json"));
    std::fs::write(&rejects, "")?;
    let mut command = Command::new("python3");
    command.arg(checker).arg("--input").arg(input).arg("--rejects").arg(rejects).arg("--json").arg(&verdict);
    let status = command.arg("--scores").args(scores).status().context("cannot run python3")?;
    anyhow::ensure!(status.code().is_some_and(|code| code < 2), "the checker cannot read what was written");
    Ok(serde_json::from_slice(&std::fs::read(verdict)?)?)
}

/// What came of it.
struct Outcome {
    times: BTreeMap<(Kind, usize), Vec<Resumed>>,
    published: u64,
    /// How many calls were made at nodes that can be called, and how many of them failed.
    called: (usize, usize),
    work_starts: u64,
    needless: Vec<String>,
    checked: Value,
}

impl Outcome {
    fn count(&self, what: &str) -> f64 {
        self.checked.get(what).and_then(Value::as_f64).unwrap_or(f64::NAN)
    }

    /// All times to resume, the slower of flows and calls of each.
    fn resume_s(&self) -> Vec<f64> {
        self.times.values().flatten().map(|resumed| resumed.flows_s.max(resumed.calls_s)).collect()
    }

    fn report(&self, results: &mut Results, about: &str) {
        for ((kind, end), times) in &self.times {
            let name = kind.names().into_iter().nth(*end).unwrap_or_default();
            let flows: Vec<f64> = times.iter().map(|time| time.flows_s).collect();
            let calls: Vec<f64> = times.iter().map(|time| time.calls_s).collect();
            for (part, times) in [("flows", flows), ("calls", calls)] {
                let mut series = Series::new(format!("{name}: {part}"), about, "resume_s");
                times.into_iter().for_each(|time| series.note(time, &[]));
                let (p50, p95) = (quantile(&series.samples, 0.5), quantile(&series.samples, 0.95));
                println!("{:20} p50 {p50:6.2} s  p95 {p95:6.2} s  of {}", series.name, series.samples.len());
                results.series.push(series);
            }
        }
        let resume_s = self.resume_s();
        let (calls, failed) = self.called;
        let figures = [
            ("chaos_resume_p50_s", quantile(&resume_s, 0.5)),
            ("chaos_resume_p95_s", quantile(&resume_s, 0.95)),
            ("chaos_resume_max_s", quantile(&resume_s, 1.0)),
            ("chaos_disturbances", resume_s.len() as f64 / 2.0),
            ("chaos_lost", self.count("lost")),
            ("chaos_duplicated", self.count("duplicated")),
            ("chaos_needless_restarts", self.needless.len() as f64),
            ("chaos_work_starts", self.work_starts as f64),
            ("chaos_records", self.published as f64),
            ("chaos_calls", calls as f64),
            ("chaos_calls_failed", failed as f64),
        ];
        results.ratios.extend(figures.map(|(name, figure)| (name.to_owned(), figure)));
    }

    /// Whether all is as it should be. Times are judged in the long form only: a busy machine proves nothing in a minute.
    fn judge(&self, short: bool) -> anyhow::Result<()> {
        anyhow::ensure!(self.checked.get("ok") == Some(&Value::Bool(true)), "records were lost or came out twice");
        anyhow::ensure!(self.needless.is_empty(), "started needlessly: {}", self.needless.join("; "));
        let p95_s = quantile(&self.resume_s(), 0.95);
        anyhow::ensure!(short || p95_s <= RESUME_P95_S, "95 of 100 resumed within {p95_s:.1} s, not {RESUME_P95_S} s");
        Ok(())
    }
}
