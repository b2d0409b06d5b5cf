//! `idle`: what a node costs when nothing happens: twelve nodes of all tiers in eleven sites with ten apps deployed, each
//! called once. Memory, CPU time and the bytes in which the nodes tell one another of themselves, of the worst node.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::Bytes;

use crate::client::{Connection, Place};
use crate::fabric::{Fabric, Spec};
use crate::guests::guest;
use crate::peers;
use crate::process::{cpu_time, memory_mb};
use crate::results::{Results, Series, load};

const fn node(name: &'static str, tier: &'static str, connect: &'static [&'static str]) -> Spec {
    Spec { name, tier, connect }
}

/// A cloud, two regions, five edges, four devices.
const NODES: [Spec; 12] = [
    node("cloud-1", "cloud", &[]),
    node("region-1", "region", &["cloud-1"]),
    node("region-2", "region", &["cloud-1"]),
    node("edge-1", "edge", &["region-1"]),
    node("edge-2", "edge", &["region-1"]),
    node("edge-3", "edge", &["region-1"]),
    node("edge-4", "edge", &["region-2"]),
    node("edge-5", "edge", &["region-2"]),
    node("device-1", "device", &["edge-1"]),
    node("device-2", "device", &["edge-2"]),
    node("device-3", "device", &["edge-4"]),
    node("device-4", "device", &["edge-5"]),
];
const APPS: usize = 10;
/// How long the nodes are left alone before anything is measured.
const SETTLE: Duration = Duration::from_secs(30);
/// For how long is measured.
const MEASURE: Duration = Duration::from_secs(120);
/// Both in the short form.
const SHORT: Duration = Duration::from_secs(10);
/// What a node counts of what it tells others of itself.
const DIGEST_BYTES: &str = "littoral_mesh_digest_bytes_total";

/// Runs the benchmark.
pub(crate) fn run(short: bool) -> anyhow::Result<()> {
    let mut results = Results::begin("idle", short);
    let fabric = Fabric::start(&peers::littoral()?, &NODES)?;
    deploy(&fabric)?;
    let (settle, measure) = if short { (SHORT, SHORT) } else { (SETTLE, MEASURE) };
    std::thread::sleep(settle);
    let before = observe(&fabric)?;
    let begun = Instant::now();
    std::thread::sleep(measure);
    let after = observe(&fabric)?;
    let seconds = begun.elapsed().as_secs_f64();
    let about = format!("{}, twelve nodes, {APPS} apps", peers::version(&peers::littoral()?)?);
    let mut series = Series::new("a node", about, "rss_mb");
    let mut worst = [0.0_f64; 3];
    for (name, then) in &before {
        let now = after.get(name).context("a node has ended")?;
        let core_percent = (now.cpu.saturating_sub(then.cpu)).as_secs_f64() / seconds * 100.0;
        let digest_bytes_per_s = (now.digest_bytes - then.digest_bytes) / seconds;
        println!("{name:10} {:6.1} MB  {core_percent:5.2} %  {digest_bytes_per_s:7.1} B/s", now.rss_mb);
        series.note(now.rss_mb, &[("core_percent", core_percent), ("digest_bytes_per_s", digest_bytes_per_s)]);
        for (worst, seen) in worst.iter_mut().zip([now.rss_mb, core_percent, digest_bytes_per_s]) {
            *worst = worst.max(seen);
        }
    }
    results.series.push(series);
    for (name, worst) in ["idle_rss_mb", "idle_core_percent", "digest_bytes_per_s"].into_iter().zip(worst) {
        results.ratios.insert(name.to_owned(), worst);
    }
    results.load.1 = load();
    results.publish()
}

/// What is seen of a node.
struct Observation {
    rss_mb: f64,
    cpu: Duration,
    digest_bytes: f64,
}

fn observe(fabric: &Fabric) -> anyhow::Result<BTreeMap<&'static str, Observation>> {
    let mut seen = BTreeMap::new();
    for Spec { name, .. } in &NODES {
        let process = fabric.process(name)?;
        let [rss_mb, ..] = memory_mb(process)?;
        let (_, metrics) = Connection::open(&Place::Tcp(fabric.http(name)?))?.ask("/metrics", Bytes::new())?;
        let metrics = String::from_utf8(metrics.to_vec())?;
        let counted = metrics.lines().find_map(|line| line.strip_prefix(DIGEST_BYTES)?.trim().parse().ok());
        let digest_bytes = counted.with_context(|| format!("{name} does not count {DIGEST_BYTES}"))?;
        seen.insert(*name, Observation { rss_mb, cpu: cpu_time(process)?, digest_bytes });
    }
    Ok(seen)
}

/// Apps of a function each, on one tier after the other, called once.
fn deploy(fabric: &Fabric) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    fs::copy(guest("echo")?, folder.path().join("echo.wasm"))?;
    for (app, tier) in (0..APPS).zip(["edge", "cloud", "region", "device"].into_iter().cycle()) {
        let manifest = format!(
            "name = \"app-{app}\"\nversion = \"1.0.0\"\n\n[functions.echo]\ncomponent = \"echo.wasm\"\nmemory = \"8MiB\"\n\
             placement = {{ tier = \"{tier}\" }}\n\n[[routes]]\npath = \"/app-{app}\"\nfunction = \"echo\"\n"
        );
        fs::write(folder.path().join("littoral.toml"), manifest)?;
        fabric.deploy(folder.path())?;
        // A connection of its own: a deployment may take longer than one is kept that nobody uses.
        let mut connection = Connection::open(&Place::Tcp(fabric.http("cloud-1")?))?;
        let (status, answer) = connection.ask(&format!("/app-{app}"), Bytes::from_static(b"hello"))?;
        anyhow::ensure!(status.is_success(), "app-{app} answered {status}: {}", String::from_utf8_lossy(&answer));
    }
    Ok(())
}
