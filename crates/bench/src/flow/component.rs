//! The component `judge`, and its function without one.

use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use arrow_array::cast::AsArray as _;
use arrow_array::types::Float64Type;
use arrow_array::{ArrayRef, Float64Array, RecordBatch};
use littoral_runtime::stage::{Stage, StageSettings};
use littoral_runtime::{Artifact, Runtime, RuntimeOptions};

use super::{Came, Run};
use crate::guests::guest;

#[path = "../../guests/judge/src/spread.rs"]
mod spread;

/// The component, compiled.
pub(super) struct Component {
    threads: tokio::runtime::Runtime,
    engine: Runtime,
    artifact: Arc<Artifact>,
}

impl Component {
    pub(super) fn load() -> anyhow::Result<Self> {
        let threads = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let engine = Runtime::new(RuntimeOptions::default())?;
        let artifact = threads.block_on(engine.load(std::fs::read(guest("judge")?)?.into()))?;
        Ok(Self { threads, engine, artifact })
    }

    fn open(&self, batches: &[RecordBatch]) -> anyhow::Result<Stage> {
        self.threads.block_on(async {
            let mut stage = Stage::instantiate(&self.engine, &self.artifact, StageSettings::default()).await?;
            stage.open(batches.first().context("there are no rows")?.schema_ref()).await?;
            Ok(stage)
        })
    }

    /// Has it judge all rows.
    pub(super) fn run(&self, batches: &[RecordBatch]) -> anyhow::Result<Run> {
        let mut stage = self.open(batches)?;
        let mut came = Came { rows: 0, sum: 0.0 };
        let begun = Instant::now();
        self.threads.block_on(async {
            for batch in batches {
                let output = stage.process(batch, i64::MIN).await?;
                for (_, rows) in &output.outputs {
                    came.rows += rows.num_rows();
                    came.sum += sum(rows)?;
                }
            }
            anyhow::Ok(())
        })?;
        Ok(Run { seconds: begun.elapsed().as_secs_f64(), came })
    }

    /// One that takes batches.
    pub(super) fn stage<'s>(
        &'s self,
        batches: &[RecordBatch],
    ) -> anyhow::Result<impl FnMut(&RecordBatch) -> anyhow::Result<()> + use<'s>> {
        let mut stage = self.open(batches)?;
        Ok(move |batch: &RecordBatch| Ok(self.threads.block_on(stage.process(batch, i64::MIN)).map(drop)?))
    }
}

/// The same without a component.
pub(super) fn native(batches: &[RecordBatch]) -> anyhow::Result<Run> {
    let mut usual = spread::Spread::default();
    let mut came = Came { rows: 0, sum: 0.0 };
    let begun = Instant::now();
    for batch in batches {
        let temperatures =
            batch.column_by_name("temperature").context("no temperatures")?.as_primitive::<Float64Type>();
        let scores = Float64Array::from_iter_values(temperatures.values().iter().map(|value| usual.judge(*value)));
        let machines = batch.column_by_name("machine").context("no machines")?;
        let columns: [(&str, ArrayRef); 2] = [("machine", Arc::clone(machines)), ("score", Arc::new(scores))];
        let rows = RecordBatch::try_from_iter(columns)?;
        came.rows += rows.num_rows();
        came.sum += sum(&rows)?;
    }
    Ok(Run { seconds: begun.elapsed().as_secs_f64(), came })
}

fn sum(rows: &RecordBatch) -> anyhow::Result<f64> {
    let scores = rows.column_by_name("score").context("no scores")?;
    Ok(scores.as_primitive::<Float64Type>().values().iter().sum())
}
