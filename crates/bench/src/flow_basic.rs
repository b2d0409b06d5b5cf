//! `flow-basic`: a flow through the example's two guests, on one node and from a device through an edge node to the cloud,
//! beside a plain loop over the same guests and batches in one thread, which is the limit.
//!
//! The records are durable at their source before the clock starts. A flow's time runs from its first stage's first commit
//! to the last arrival in its sinks; the first batch is not counted. One partition, so that one thread runs each guest.

use std::fs;
use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use arrow_array::RecordBatch;
use littoral_runtime::stage::{Stage, StageSettings};
use littoral_runtime::{Limits, Runtime, RuntimeOptions};
use serde_json::Value;

use crate::fabric::{Fabric, Spec, wait};
use crate::peers;
use crate::results::{Results, Series, load, paired_ratio, quantile};

/// How many records, unless `LITTORAL_BENCH_RECORDS` says otherwise (for a short form in CI).
const RECORDS: usize = 1_000_000;
/// How many rows guests get at once.
const BATCH: usize = 4_096;
/// How many pairs of runs, unless `LITTORAL_BENCH_PAIRS` says otherwise.
const PAIRS: usize = 5;
/// How many sensors the records are of.
const SENSORS: usize = 100;
/// The example's guests, in their order.
const GUESTS: [&str; 2] = ["clean", "score"];
/// What a guest may use; as the example's manifest has it.
fn limits() -> Limits {
    Limits { memory_bytes: 64 << 20, timeout: Duration::from_secs(1), ..Limits::default() }
}

/// One configuration of nodes.
struct Layout {
    key: &'static str,
    name: &'static str,
    nodes: &'static [Spec],
    /// Where the source, the two stages and the sinks are.
    tiers: [&'static str; 4],
}

const LAYOUTS: [Layout; 2] = [
    Layout {
        key: "flow_one_node_vs_loop",
        name: "one node",
        nodes: &[Spec { name: "cloud-1", tier: "cloud", connect: &[] }],
        tiers: ["cloud"; 4],
    },
    Layout {
        key: "flow_three_nodes_vs_loop",
        name: "device, edge, cloud",
        nodes: &[
            Spec { name: "cloud-1", tier: "cloud", connect: &[] },
            Spec { name: "edge-1", tier: "edge", connect: &["cloud-1"] },
            Spec { name: "device-1", tier: "device", connect: &["edge-1"] },
        ],
        tiers: ["device", "edge", "cloud", "cloud"],
    },
];

/// Records a second, and the latency of a batch in milliseconds, median and 95th percentile.
struct Sample {
    rate: f64,
    batch_ms: (f64, f64),
}

/// Runs the benchmark.
pub(crate) fn run() -> anyhow::Result<()> {
    let records = number("LITTORAL_BENCH_RECORDS", RECORDS)?;
    let pairs = number("LITTORAL_BENCH_PAIRS", PAIRS)?;
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let guests = root.join("examples/machine-health/target/wasm32-wasip2/release");
    let littoral = peers::littoral()?;
    let rows = rows(&root.join("examples/machine-health/data/machine_temperature_system_failure.csv"), records)?;
    let batches = batches(&rows)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut results = Results::begin("flow-basic", records < RECORDS);
    let mut series = vec![series("plain loop", "the same guests and batches in one thread, nothing durable")];
    series.extend(
        LAYOUTS.iter().map(|layout| self::series(layout.name, "release build, mutual TLS, ack=local, one partition")),
    );
    for (place, layout) in LAYOUTS.iter().enumerate() {
        let (mut ours, mut peer) = (Vec::new(), Vec::new());
        for pair in 0..pairs {
            // Alternating, so that what the machine does meanwhile falls on both.
            let (sample, limit) = if pair % 2 == 0 {
                let limit = runtime.block_on(plain_loop(&guests, &batches))?;
                (flow(layout, &littoral, &guests, &rows)?, limit)
            } else {
                let sample = flow(layout, &littoral, &guests, &rows)?;
                (sample, runtime.block_on(plain_loop(&guests, &batches))?)
            };
            eprintln!(
                "{}: {:.0} records/s, plain loop {:.0} ({} of {pairs})",
                layout.name,
                sample.rate,
                limit.rate,
                pair + 1
            );
            ours.push(sample.rate);
            peer.push(limit.rate);
            note(&mut series, 0, &limit);
            note(&mut series, place + 1, &sample);
        }
        results.ratios.insert(layout.key.to_owned(), paired_ratio(&ours, &peer));
    }
    results.load.1 = load();
    results.series = series;
    results.publish()
}

fn number(name: &str, default: usize) -> anyhow::Result<usize> {
    match std::env::var(name) {
        Ok(text) => text.parse().with_context(|| format!("{name} is no number: {text}")),
        Err(_) => Ok(default),
    }
}

fn series(name: &str, what: &str) -> Series {
    let configuration = format!("littoral {}, {what}, batches of {BATCH}", env!("CARGO_PKG_VERSION"));
    Series::new(name, configuration, "records/s")
}

fn note(series: &mut [Series], place: usize, sample: &Sample) {
    if let Some(series) = series.get_mut(place) {
        series.note(sample.rate, &[("batch_p50_ms", sample.batch_ms.0), ("batch_p95_ms", sample.batch_ms.1)]);
    }
}

type Row = (Option<String>, i64, String);

/// Rows as the example's sensors publish them, over many sensors.
fn rows(file: &Path, count: usize) -> anyhow::Result<Vec<Row>> {
    let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let lines: Vec<&str> = text.lines().skip(1).collect();
    let rows = (0..count).map(|number| {
        let (sensor, row) = (number % SENSORS, number / SENSORS);
        let line = lines.get(row % lines.len().max(1)).copied().unwrap_or_default();
        (Some(format!("machine-{sensor:03}")), 1_700_000_000_000_000 + number as i64, format!("{row},{line}"))
    });
    Ok(rows.collect())
}

fn batches(rows: &[Row]) -> anyhow::Result<Vec<RecordBatch>> {
    rows.chunks(BATCH).map(|rows| Ok(littoral_flow::batch::records(rows)?)).collect()
}

/// The limit: the guests one after the other, without anything around them.
async fn plain_loop(guests: &Path, batches: &[RecordBatch]) -> anyhow::Result<Sample> {
    let engine = Runtime::new(RuntimeOptions::default())?;
    let mut stages = Vec::new();
    for guest in GUESTS {
        let bytes =
            fs::read(guests.join(format!("{guest}.wasm"))).context("the guests are not built: `make guests`")?;
        let artifact = engine.load(bytes.into()).await?;
        let settings = StageSettings { limits: limits(), ..StageSettings::default() };
        stages.push((Stage::instantiate(&engine, &artifact, settings).await?, false));
    }
    let (mut scored, mut times) = (0, Vec::with_capacity(batches.len()));
    let begun = Instant::now();
    for batch in batches {
        let begun = Instant::now();
        let mut rows = batch.clone();
        for (stage, is_open) in &mut stages {
            if !*is_open {
                stage.open(rows.schema_ref()).await?;
                *is_open = true;
            }
            let output = stage.process(&rows, i64::MIN).await?;
            scored += output
                .outputs
                .iter()
                .filter(|(port, _)| port == "scored")
                .map(|(_, rows)| rows.num_rows())
                .sum::<usize>();
            match output.outputs.into_iter().find(|(port, _)| port == "main") {
                Some((_, main)) => rows = main,
                None => break,
            }
        }
        times.push(begun.elapsed().as_secs_f64() * 1_000.0);
    }
    let seconds = begun.elapsed().as_secs_f64();
    let records: usize = batches.iter().map(RecordBatch::num_rows).sum();
    anyhow::ensure!(scored == records, "the loop scored {scored} of {records} records");
    Ok(Sample { rate: records as f64 / seconds, batch_ms: (quantile(&times, 0.5), quantile(&times, 0.95)) })
}

/// The same as a flow on real nodes.
fn flow(layout: &Layout, littoral: &Path, guests: &Path, rows: &[Row]) -> anyhow::Result<Sample> {
    let fabric = Fabric::start(littoral, layout.nodes)?;
    let app = tempfile::tempdir()?;
    for guest in GUESTS {
        fs::copy(guests.join(format!("{guest}.wasm")), app.path().join(format!("{guest}.wasm")))?;
    }
    fs::write(app.path().join("littoral.toml"), manifest(layout, false))?;
    fabric.deploy(app.path())?;
    let source = layout.nodes.last().map_or("cloud-1", |node| node.name);
    publish(&fabric, source, app.path(), rows)?;
    fs::write(app.path().join("littoral.toml"), manifest(layout, true))?;
    fabric.deploy(app.path())?;
    let mut flows = Value::Null;
    let all = u64::try_from(rows.len())?;
    wait(
        || {
            flows = fabric.ask(&["get", "flows", "-o", "json"]).unwrap_or_default();
            each(&flows, "sinks")
                .any(|sink| sink.get("name") == Some(&Value::from("scores")) && at(sink, "/rows") >= Some(all as f64))
        },
        "the records did not come out",
    )?;
    let first_us = each(&flows, "stages").filter_map(|stage| at(stage, "/first_commit_us")).fold(f64::MAX, f64::min);
    let last_us = each(&flows, "sinks").filter_map(|sink| at(sink, "/last_commit_us")).fold(0.0, f64::max);
    let batch = |quantile: &str| each(&flows, "stages").filter_map(|stage| at(stage, quantile)).sum();
    let rate = (rows.len() - BATCH.min(rows.len())) as f64 / ((last_us - first_us) / 1e6).max(f64::MIN_POSITIVE);
    Ok(Sample { rate, batch_ms: (batch("/latency/p50_ms"), batch("/latency/p95_ms")) })
}

fn each<'v>(flows: &'v Value, part: &'v str) -> impl Iterator<Item = &'v Value> {
    flows.as_array().into_iter().flatten().filter_map(move |flow| flow.get(part)?.as_array()).flatten()
}

fn at(value: &Value, pointer: &str) -> Option<f64> {
    value.pointer(pointer)?.as_f64()
}

/// Makes the records durable at their source.
fn publish(fabric: &Fabric, node: &str, folder: &Path, rows: &[Row]) -> anyhow::Result<()> {
    let path = folder.join("records.ndjson");
    let mut file = BufWriter::new(fs::File::create(&path)?);
    for (key, time_us, value) in rows {
        serde_json::to_writer(&mut file, &serde_json::json!({ "key": key, "time_us": time_us, "value": value }))?;
        file.write_all(b"\n")?;
    }
    file.flush()?;
    let path = path.to_str().context("the file's name is not text")?;
    fabric.tell(node, &["stream", "publish", "bench/readings", "--ndjson", "--file", path]).map(drop)
}

/// The app, with or without the flow: the records are there before the flow is.
fn manifest(layout: &Layout, with_flow: bool) -> String {
    let [source, clean, score, sinks] = layout.tiers;
    let mut text = format!(
        "name = \"bench\"\nversion = \"1.0.0\"\n\n[streams.readings]\npartitions = 1\nack = \"local\"\nplacement = {{ tier = \"{source}\" }}\n"
    );
    for stream in ["scores", "alerts", "rejects"] {
        text +=
            &format!("\n[streams.{stream}]\npartitions = 1\nack = \"local\"\nplacement = {{ tier = \"{sinks}\" }}\n");
    }
    if with_flow {
        for (guest, tier) in GUESTS.iter().zip([clean, score]) {
            text +=
                &format!("\n[functions.{guest}]\ncomponent = \"{guest}.wasm\"\nplacement = {{ tier = \"{tier}\" }}\n");
        }
        text += "\n[flows.health]\nsource = \"readings\"\nstages = [\"clean\", \"score\"]\nsink = \"alerts\"\n\
                 outputs = { scored = \"scores\" }\ndead-letter = \"rejects\"\n";
    }
    text
}
