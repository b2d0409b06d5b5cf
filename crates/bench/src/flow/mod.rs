//! `flow`: what a stage of a flow does on one core, beside the limit: DuckDB on one thread over the same rows in one batch, in memory, and for a
//! component the same function compiled into this program.
//!
//! Ours is the stage as a node runs it, in this process, over batches of 4,096 typed rows in the order of their time: a filter with a
//! projection; a windowed aggregate over a million keys; a join with what was valid of 100,000 machines at each row's moment, which is
//! two stages; a component that judges each row by those before it, given whole batches and rows one by one. Nothing is read from a stream or committed: `flow-basic` measures what that costs. The results are compared with DuckDB's.
//!
//! Then batches arrive at fixed times, at half of the rate that was reached, and each one's time from when it was due to when it was done is taken.

mod component;
mod duckdb;
mod query;

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use arrow_array::{ArrayRef, Float64Array, Int64Array, RecordBatch, TimestampMicrosecondArray};

use crate::results::{Results, Series, load, quantile};
use component::Component;
use duckdb::DuckDb;
use query::Queries;

/// How many rows; and in the short form.
const ROWS: usize = 4_000_000;
const ROWS_SHORT: usize = 2_000_000;
/// How many keys: each is in each window.
const KEYS: usize = 1_000_000;
/// How many rows a stage gets at once.
const BATCH: usize = 4_096;
/// How many pairs of runs; and in the short form.
const PAIRS: usize = 5;
const PAIRS_SHORT: usize = 2;
/// Of how many rows each is a batch of its own: calls of a component take microseconds.
const ROWS_ONE_BY_ONE: usize = 100_000;
/// Of the first window.
const BEGIN_US: i64 = 1_699_999_980_000_000;
/// How long all rows take by their own times: two windows.
const SPAN_US: i64 = 2 * 60_000_000;
const UNIT: &str = "rows/s";
/// The query that joins rows with what was valid at their moments.
const JOIN: &str = "join";

/// What a run came to, for comparing.
#[derive(Clone, Copy, Debug, Default)]
struct Came {
    rows: usize,
    /// Of a column of the result.
    sum: f64,
}

/// One run.
struct Run {
    seconds: f64,
    came: Came,
}

/// Runs the benchmark.
pub(crate) fn run(short: bool) -> anyhow::Result<()> {
    let mut results = Results::begin("flow", short);
    let (count, pairs) = if short { (ROWS_SHORT, PAIRS_SHORT) } else { (ROWS, PAIRS) };
    let batches = batches(count)?;
    let mut peer = DuckDb::start(count, KEYS)?;
    let queries = Queries::new()?;
    let queries_by_key =
        [("filter", "flow_filter_vs_batch"), ("window", "flow_window_vs_batch"), (JOIN, "flow_join_vs_batch")];
    for (name, key) in queries_by_key {
        let stages = if name == JOIN { "two stages, no row waits" } else { "one stage" };
        let about = format!("littoral {}, {stages}, on one thread, batches of {BATCH}", env!("CARGO_PKG_VERSION"));
        let mut ours = Series::new(name, about, UNIT);
        let mut theirs = Series::new(
            format!("{name}: duckdb"),
            format!("DuckDB {}, one thread, one batch in memory", peer.version),
            UNIT,
        );
        for pair in 0..pairs {
            // Alternating, so that what the machine does meanwhile falls on both.
            let first = if pair % 2 == 1 { Some(peer.run(name)?) } else { None };
            let run = queries.run(name, &batches)?;
            let limit = first.map_or_else(|| peer.run(name), Ok)?;
            compare(name, run.came, limit.came)?;
            eprintln!(
                "{name}: {:.0} rows/s, DuckDB {:.0} ({} of {pairs})",
                count as f64 / run.seconds,
                count as f64 / limit.seconds,
                pair + 1
            );
            ours.note(count as f64 / run.seconds, &[]);
            theirs.note(count as f64 / limit.seconds, &[]);
        }
        let rate = crate::results::median(&ours.samples);
        let mut pipeline = queries.pipeline(name, &batches)?;
        let latencies = at_half(rate, &batches, |batch| pipeline.process(batch, &mut Came::default()))?;
        ours.note_further("half_rate_p50_ms", quantile(&latencies, 0.5));
        ours.note_further("half_rate_p99_ms", quantile(&latencies, 0.99));
        if name == "window" {
            let (bytes, ms) = queries.state(name, &batches)?;
            ours.note_further("state_bytes_a_batch", bytes);
            ours.note_further("state_ms_a_batch", ms);
        }
        results.ratios.insert(key.to_owned(), ours.compare(&theirs, UNIT));
        results.series.extend([ours, theirs]);
    }
    component(&batches, pairs, &mut results)?;
    results.load.1 = load();
    results.publish()
}

/// A component by batch and by row, beside the same function without one.
fn component(batches: &[RecordBatch], pairs: usize, results: &mut Results) -> anyhow::Result<()> {
    let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
    let few = rows.min(ROWS_ONE_BY_ONE);
    let single: Vec<RecordBatch> =
        (0..few).filter_map(|row| Some(batches.get(row / BATCH)?.slice(row % BATCH, 1))).collect();
    let about = format!("littoral {}, a component in Rust", env!("CARGO_PKG_VERSION"));
    let mut native = Series::new("component: native", "the same function in this program, over the same batches", UNIT);
    let mut by_batch = Series::new("component: by batch", format!("{about}, batches of {BATCH}"), UNIT);
    let mut by_row = Series::new("component: by row", format!("{about}, a call a row"), UNIT);
    let component = Component::load()?;
    for pair in 0..pairs {
        let first = if pair % 2 == 1 { Some(component.run(batches)?) } else { None };
        let limit = component::native(batches)?;
        let run = first.map_or_else(|| component.run(batches), Ok)?;
        compare("component", run.came, limit.came)?;
        native.note(rows as f64 / limit.seconds, &[]);
        by_batch.note(rows as f64 / run.seconds, &[]);
        by_row.note(few as f64 / component.run(&single)?.seconds, &[]);
    }
    let rate = crate::results::median(&by_batch.samples);
    let latencies = at_half(rate, batches, component.stage(batches)?)?;
    by_batch.note_further("half_rate_p50_ms", quantile(&latencies, 0.5));
    by_batch.note_further("half_rate_p99_ms", quantile(&latencies, 0.99));
    results.ratios.insert("flow_wasm_batch_vs_native".to_owned(), by_batch.compare(&native, UNIT));
    results.ratios.insert("flow_wasm_row_vs_native".to_owned(), by_row.compare(&native, UNIT));
    results.series.extend([by_batch, by_row, native]);
    Ok(())
}

/// Fails where two did not come to the same.
fn compare(name: &str, ours: Came, theirs: Came) -> anyhow::Result<()> {
    // Sums of doubles depend on the order in which they are taken.
    let close = (ours.sum - theirs.sum).abs() <= 1e-9 * theirs.sum.abs();
    anyhow::ensure!(ours.rows == theirs.rows && close, "{name}: ours came to {ours:?}, the peer to {theirs:?}");
    Ok(())
}

/// The latencies in milliseconds of batches that arrive at half of a rate, each from when it was due, whatever became of those before it.
fn at_half(
    rows_per_s: f64,
    batches: &[RecordBatch],
    mut process: impl FnMut(&RecordBatch) -> anyhow::Result<()>,
) -> anyhow::Result<Vec<f64>> {
    let interval = Duration::from_secs_f64(2.0 * BATCH as f64 / rows_per_s);
    let mut latencies = Vec::with_capacity(batches.len());
    let mut due = Instant::now();
    for batch in batches {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        process(batch)?;
        latencies.push(due.elapsed().as_secs_f64() * 1e3);
        due += interval;
    }
    Ok(latencies)
}

/// The rows, in batches; `duckdb.py` makes the same. Keys come in an order that no cache likes, each once in `KEYS` rows.
fn batches(count: usize) -> anyhow::Result<Vec<RecordBatch>> {
    let numbers: Vec<i64> = (0..i64::try_from(count)?).collect();
    let (keys, all) = (KEYS as i64, count as i64);
    let batch = |numbers: &[i64]| {
        let of = |each: &dyn Fn(i64) -> i64| numbers.iter().map(|number| each(*number)).collect::<Vec<_>>();
        let times = of(&|number| BEGIN_US + number * SPAN_US / all);
        let temperatures = numbers.iter().map(|number| ((number * 7_919) % 10_007) as f64 / 100.0);
        let columns: [(&str, ArrayRef); 3] = [
            ("machine", Arc::new(Int64Array::from(of(&|number| (number * 611_953) % keys)))),
            ("ts", Arc::new(TimestampMicrosecondArray::from(times).with_timezone("+00:00"))),
            ("temperature", Arc::new(Float64Array::from_iter_values(temperatures))),
        ];
        Ok(RecordBatch::try_from_iter(columns)?)
    };
    numbers.chunks(BATCH).map(batch).collect()
}
