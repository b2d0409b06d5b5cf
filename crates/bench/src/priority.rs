//! `priority`: what a job of low priority that takes the whole node does to calls of high priority. Short requests come at fixed times, a
//! fifth of what the node can answer, alone and beside the job, in alternating pairs: a job that is a process, and one that is a component.
//! The process' job is one long computation, called again and again; whatever is held still meanwhile, it must come to the right result.

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;

use crate::ceiling::spin;
use crate::client::{Connection, OpenLoop, Place, capacity};
use crate::container::server;
use crate::fabric::{self, Fabric, Spec};
use crate::guests::guest;
use crate::peers;
use crate::results::{Results, Series, load, quantile};

const NODE: &str = "cloud-1";
/// How many pairs.
const PAIRS: usize = 5;
/// How long each half of a pair takes.
const DURATION: Duration = Duration::from_secs(10);
/// The same in the short form.
const DURATION_SHORT: Duration = Duration::from_secs(4);
/// How long a job is at work before anything is measured.
const SETTLE: Duration = Duration::from_millis(1_500);
/// Which share of the node's capacity the calls of high priority ask for.
const SHARE: f64 = 0.2;
/// How many connections bring them.
const CONNECTIONS: u32 = 16;
/// How many calls of a job are under way: more than there are processors.
const JOBS: usize = 4;
/// As in `guests/server`.
const JOB_STEPS: u32 = 1_300_000_000;

const MANIFEST: &str = r#"name = "priority"
version = "1.0.0"

[functions.spike]
component = "neighbours.wasm"
priority = "high"

[functions.guest]
component = "neighbours.wasm"
priority = "low"
timeout = "60s"

[functions.process]
process = "server"
priority = "low"
timeout = "600s"

[[routes]]
path = "/spike/hello"
function = "spike"

[[routes]]
path = "/guest/busy"
function = "guest"

[[routes]]
path = "/job"
function = "process"
"#;

/// Runs the benchmark.
pub(crate) fn run(short: bool) -> anyhow::Result<()> {
    let mut results = Results::begin("priority", short);
    let fabric = Fabric::start(&peers::littoral()?, &[Spec { name: NODE, tier: "cloud", connect: &[] }])?;
    let app = tempfile::tempdir()?;
    fs::copy(guest("neighbours")?, app.path().join("neighbours.wasm"))?;
    fs::copy(server()?, app.path().join("server"))?;
    fs::write(app.path().join("littoral.toml"), MANIFEST)?;
    fabric.deploy(app.path())?;
    let outcome = measure(&fabric, short, &mut results);
    // It would outlive a node that is killed.
    fabric.tell(NODE, &["delete", "priority"])?;
    let run = fabric.data(NODE).join("containers/run");
    fabric::wait(|| fs::read_dir(&run).is_ok_and(|mut left| left.next().is_none()), "a process is left")?;
    outcome?;
    results.load.1 = load();
    results.publish()
}

fn measure(fabric: &Fabric, short: bool, results: &mut Results) -> anyhow::Result<()> {
    let place = Place::Tcp(fabric.http(NODE)?);
    let duration = if short { DURATION_SHORT } else { DURATION };
    let limit = capacity(&place, "/spike/hello", CONNECTIONS, Duration::from_secs(2))?;
    let path = "/spike/hello".to_owned();
    let spike = OpenLoop { place, path, requests_per_s: limit * SHARE, duration, connections: CONNECTIONS };
    let about = format!(
        "{}, one node, {:.0} requests/s of {limit:.0}, open loop over {CONNECTIONS} connections, {} s each",
        peers::version(&peers::littoral()?)?,
        spike.requests_per_s,
        duration.as_secs()
    );
    let right = format!("{}\n", spin(JOB_STEPS));
    for (kind, path, result) in [("process", "/job", Some(right.as_str())), ("guest", "/guest/busy", None)] {
        let mut alone = Series::new(format!("alone, before and after a {kind}"), &about, "p99_ms");
        let mut beside = Series::new(format!("beside a {kind} of low priority"), &about, "p99_ms");
        for pair in 0..PAIRS {
            for half in 0..2 {
                if (pair + half) % 2 == 0 {
                    note(&mut alone, &spike.run()?, 0);
                } else {
                    let (latencies, answers) = beside_job(&spike, path, result)?;
                    note(&mut beside, &latencies, answers);
                }
            }
            eprintln!("{kind}: pair {} of {PAIRS}", pair + 1);
        }
        results.ratios.insert(format!("priority_spike_p99_ratio_{kind}"), beside.compare(&alone, "p99_ms"));
        results.series.extend([alone, beside]);
    }
    Ok(())
}

fn note(series: &mut Series, latencies: &[f64], answers: u64) {
    let further = [("p50_ms", quantile(latencies, 0.5)), ("job_answers", answers as f64)];
    series.note(quantile(latencies, 0.99), &further);
}

/// The calls' latencies beside a job, and how often that has answered; each time with the right result if one is given.
fn beside_job(spike: &OpenLoop, path: &str, result: Option<&str>) -> anyhow::Result<(Vec<f64>, u64)> {
    let (stop, answers) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        let jobs: Vec<_> = (0..JOBS)
            .map(|_| {
                scope.spawn(|| {
                    let mut connection = Connection::open(&spike.place)?;
                    while !stop.load(Ordering::Relaxed) {
                        let (status, body) = connection.ask(path, Bytes::new())?;
                        let is_right = result.is_none_or(|result| body == result.as_bytes());
                        anyhow::ensure!(status.is_success() && is_right, "{path} was answered with {status}: {body:?}");
                        answers.fetch_add(1, Ordering::Relaxed);
                    }
                    anyhow::Ok(())
                })
            })
            .collect();
        thread::sleep(SETTLE);
        let latencies = spike.run();
        stop.store(true, Ordering::Relaxed);
        for job in jobs {
            job.join().ok().context("a thread of the load generator panicked")??;
        }
        Ok((latencies?, answers.load(Ordering::Relaxed)))
    })
}
