//! Our queries, and their stages.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, anyhow};
use arrow_array::cast::AsArray as _;
use arrow_array::types::Float64Type;
use arrow_array::{ArrayRef, Float64Array, Int64Array, RecordBatch, TimestampMicrosecondArray};
use littoral_model::manifest::{Sql, parse};
use littoral_sql::{Output, Program, Stage, expand};

use super::{BEGIN_US, Came, Run, SPAN_US};

/// Records are texts; the stages that are measured read what `readings` makes of them.
const FLOWS: &str = "
CREATE STREAM records (machine bigint NOT NULL, ts timestamp NOT NULL, temperature double NOT NULL);
CREATE FLOW readings AS SELECT machine, ts, temperature FROM records;
CREATE FLOW filter AS
  SELECT machine, ts, temperature * 1.8 + 32.0 AS fahrenheit FROM readings WHERE temperature > 60.0 AND machine % 10 < 5;
CREATE FLOW window AS
  SELECT machine, window_start AS minute, count(*) AS n, avg(temperature) AS mean, max(temperature) AS highest
  FROM TUMBLE(readings, ts, INTERVAL '1 minute') GROUP BY machine, window_start, window_end;
";
/// The columns of the results that are added up.
const SUMMED: [&str; 2] = ["fahrenheit", "highest"];

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
        let plan = &self.0.flows.get(&flow.parse()?).context("there is no such flow")?.plan;
        let mut stage = Stage::new(Arc::clone(plan), 0);
        stage.open(batches.first().context("there are no rows")?.schema_ref())?;
        Ok(stage)
    }

    /// Runs a flow over all rows, and one more that closes the last window.
    pub(super) fn run(&self, flow: &str, batches: &[RecordBatch]) -> anyhow::Result<Run> {
        let mut stage = self.open(flow, batches)?;
        let last = last()?;
        let mut came = Came { rows: 0, sum: 0.0 };
        let begun = Instant::now();
        for batch in batches.iter().chain([&last]) {
            add(&mut came, &stage.process(batch)?)?;
        }
        while stage.has_more() {
            add(&mut came, &stage.go_on()?)?;
        }
        Ok(Run { seconds: begun.elapsed().as_secs_f64(), came })
    }

    /// A flow that takes batches.
    pub(super) fn stage(
        &self,
        flow: &str,
        batches: &[RecordBatch],
    ) -> anyhow::Result<impl FnMut(&RecordBatch) -> anyhow::Result<()> + use<>> {
        let mut stage = self.open(flow, batches)?;
        Ok(move |batch: &RecordBatch| Ok(stage.process(batch).map(drop)?))
    }

    /// How long it takes to write down the state of a flow that has seen all keys: a commit writes the part of it that changed.
    pub(super) fn state_ms(&self, flow: &str, batches: &[RecordBatch]) -> anyhow::Result<f64> {
        let mut stage = self.open(flow, batches)?;
        let mut dirty = std::collections::BTreeSet::new();
        // Half of the rows are those of the first window.
        for batch in batches.iter().take(batches.len() / 2) {
            dirty.extend(stage.process(batch)?.dirty);
        }
        let dirty: Vec<u32> = dirty.into_iter().collect();
        let begun = Instant::now();
        let state = stage.snapshot(&dirty);
        let elapsed = begun.elapsed();
        anyhow::ensure!(state.iter().any(|(_, bytes)| !bytes.is_empty()), "there is no state");
        Ok(elapsed.as_secs_f64() * 1e3)
    }
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
