//! Our queries, and their stages.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use arrow_array::cast::AsArray as _;
use arrow_array::types::Float64Type;
use arrow_array::{ArrayRef, Float64Array, Int64Array, RecordBatch, TimestampMicrosecondArray};
use littoral_model::manifest::{Sql, parse};
use littoral_sql::{Output, Program, Stage, expand};

use super::{BATCH, BEGIN_US, Came, JOIN, Run, SPAN_US};

/// Records are texts; the stages that are measured read what `readings` makes of them.
const FLOWS: &str = "
CREATE STREAM records (machine bigint NOT NULL, ts timestamp NOT NULL, temperature double NOT NULL);
CREATE FLOW readings AS SELECT machine, ts, temperature FROM records;
CREATE FLOW filter AS
  SELECT machine, ts, temperature * 1.8 + 32.0 AS fahrenheit FROM readings WHERE temperature > 60.0 AND machine % 10 < 5;
CREATE FLOW window AS
  SELECT machine, window_start AS minute, count(*) AS n, avg(temperature) AS mean, max(temperature) AS highest
  FROM TUMBLE(readings, ts, INTERVAL '1 minute') GROUP BY machine, window_start, window_end;
CREATE STREAM settings (machine bigint NOT NULL, ts timestamp NOT NULL, threshold double NOT NULL);
CREATE FLOW thresholds AS SELECT machine, ts, threshold FROM settings;
CREATE FLOW join AS
  SELECT readings.machine, readings.ts, temperature - threshold AS excess
  FROM readings JOIN thresholds FOR SYSTEM_TIME AS OF readings.ts ON readings.machine % 100000 = thresholds.machine;
";
/// How many machines have thresholds, and how many each has: one a minute.
const THRESHOLDS: (i64, i64) = (100_000, 2);
/// The columns of the results that are added up.
const SUMMED: [&str; 3] = ["fahrenheit", "highest", "excess"];

/// The flows, ready to run.
pub(super) struct Queries(Program);

impl Queries {
    pub(super) fn new() -> anyhow::Result<Self> {
        let mut manifest =
            parse("littoral.toml", "name = \"bench\"\nversion = \"1.0.0\"\n").map_err(|error| anyhow!("{error}"))?;
        manifest.sql.insert("flows".parse()?, Sql { text: FLOWS.to_owned() });
        expand(&mut manifest).map(Self).map_err(|mistakes| anyhow!("{}", mistakes.render()))
    }

    fn open(&self, flow: &str, batches: &[RecordBatch]) -> anyhow::Result<Stage> {
        let mut stage = self.stage(flow)?;
        stage.open(batches.first().context("there are no rows")?.schema_ref())?;
        Ok(stage)
    }

    fn stage(&self, flow: &str) -> anyhow::Result<Stage> {
        let plan = &self.0.flows.get(&flow.parse()?).context("there is no such flow")?.plan;
        Ok(Stage::new(Arc::clone(plan), 0))
    }

    /// Runs a flow over all rows, and one more that closes the last window. What rows are joined with is there before.
    pub(super) fn run(&self, flow: &str, batches: &[RecordBatch]) -> anyhow::Result<Run> {
        let mut pipeline = self.pipeline(flow, batches)?;
        let last = last()?;
        let mut came = Came::default();
        let begun = Instant::now();
        for batch in batches.iter().chain((flow != JOIN).then_some(&last)) {
            pipeline.process(batch, &mut came)?;
        }
        while pipeline.last.has_more() {
            add(&mut came, &pipeline.last.go_on()?)?;
        }
        Ok(Run { seconds: begun.elapsed().as_secs_f64(), came })
    }

    /// The stages of a flow, ready for rows.
    pub(super) fn pipeline(&self, flow: &str, batches: &[RecordBatch]) -> anyhow::Result<Pipeline> {
        if flow != JOIN {
            return Ok(Pipeline { first: None, last: self.open(flow, batches)? });
        }
        let versions = thresholds()?;
        let mut knowing = Pipeline { first: Some(self.stage("join-right")?), last: self.stage(JOIN)? };
        for at in (0..versions.num_rows()).step_by(BATCH) {
            let rows = versions.slice(at, BATCH.min(versions.num_rows() - at));
            knowing.first.iter_mut().try_for_each(|first| first.open(rows.schema_ref()))?;
            knowing.process(&rows, &mut Came::default())?;
        }
        Ok(Pipeline { first: Some(self.open("join-left", batches)?), ..knowing })
    }

    /// What a commit writes of the state of a flow that has seen most keys, and how long it takes to write that down: bytes and
    /// milliseconds for a batch.
    pub(super) fn state(&self, flow: &str, batches: &[RecordBatch]) -> anyhow::Result<(f64, f64)> {
        let mut stage = self.open(flow, batches)?;
        // Half of the rows are those of the first window.
        let first = batches.get(..batches.len() / 2).unwrap_or_default();
        let measured = first.len() / 4;
        let (mut bytes, mut elapsed) = (0, Duration::ZERO);
        for (left, batch) in (1..=first.len()).rev().zip(first) {
            let dirty = stage.process(batch)?.dirty;
            let begun = Instant::now();
            let state = stage.snapshot(&dirty);
            if left <= measured {
                elapsed += begun.elapsed();
                bytes += state.iter().map(|(_, bytes)| bytes.len()).sum::<usize>();
            }
        }
        anyhow::ensure!(bytes > 0, "there is no state");
        Ok((bytes as f64 / measured as f64, elapsed.as_secs_f64() * 1e3 / measured as f64))
    }
}

/// The stages that rows come through: one, or one that sends them on by their keys and one that has them then.
pub(super) struct Pipeline {
    first: Option<Stage>,
    last: Stage,
}

impl Pipeline {
    pub(super) fn process(&mut self, batch: &RecordBatch, came: &mut Came) -> anyhow::Result<()> {
        let Some(first) = &mut self.first else { return add(came, &self.last.process(batch)?) };
        for (_, sent) in &first.process(batch)?.spread {
            self.last.open(sent.schema_ref())?;
            add(came, &self.last.process(sent)?)?;
        }
        Ok(())
    }
}

/// What rows are joined with; `duckdb.py` makes the same. The last is later than all rows: none waits for others.
fn thresholds() -> anyhow::Result<RecordBatch> {
    let (machines, each) = THRESHOLDS;
    let of = |version: i64, machine: i64| {
        (machine, BEGIN_US + version * SPAN_US / each, ((machine * 31 + version * 17) % 1_009) as f64 / 10.0)
    };
    let all = (0..each).flat_map(|version| (0..machines).map(move |machine| of(version, machine)));
    let all: Vec<(i64, i64, f64)> = all.chain([(-1, BEGIN_US + 2 * SPAN_US, 0.0)]).collect();
    let columns: [(&str, ArrayRef); 3] = [
        ("machine", Arc::new(Int64Array::from_iter_values(all.iter().map(|(machine, ..)| *machine)))),
        (
            "ts",
            Arc::new(
                TimestampMicrosecondArray::from_iter_values(all.iter().map(|(_, ts, _)| *ts)).with_timezone("+00:00"),
            ),
        ),
        ("threshold", Arc::new(Float64Array::from_iter_values(all.iter().map(|(.., threshold)| *threshold)))),
    ];
    Ok(RecordBatch::try_from_iter(columns)?)
}

/// A row whose moment is after all windows, and which no filter passes.
fn last() -> anyhow::Result<RecordBatch> {
    let columns: [(&str, ArrayRef); 3] = [
        ("machine", Arc::new(Int64Array::from(vec![0]))),
        ("ts", Arc::new(TimestampMicrosecondArray::from(vec![BEGIN_US + SPAN_US]).with_timezone("+00:00"))),
        ("temperature", Arc::new(Float64Array::from(vec![0.0]))),
    ];
    Ok(RecordBatch::try_from_iter(columns)?)
}

fn add(came: &mut Came, output: &Output) -> anyhow::Result<()> {
    anyhow::ensure!(output.rejected.is_empty(), "rows were rejected: {:?}", output.rejected.first());
    anyhow::ensure!(output.failed.is_empty(), "groups failed: {:?}", output.failed.first());
    if let Some(rows) = &output.rows {
        came.rows += rows.num_rows();
        let summed = SUMMED.iter().find_map(|name| rows.column_by_name(name)).context("the column is missing")?;
        came.sum += summed.as_primitive::<Float64Type>().values().iter().sum::<f64>();
    }
    Ok(())
}
