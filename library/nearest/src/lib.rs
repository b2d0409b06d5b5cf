//! `nearest@1`: the nearest of known references for each row, by columns of numbers or by position.
//!
//! Input: the columns that the head of `references` names, and any others. Output: each row as it is, once for each of the `count` nearest
//! references, and behind it `nearest`, the reference's label, `distance`, and `rank`, from 1. A row that lacks a number is rejected. No
//! state.

mod references;

use littoral_sdk::prelude::*;
use operator::{Columns, Measured, Settings, fields_beside};

use references::{Metric, References};

/// The most references that are put out for a row.
const COUNT_MAX: usize = 64;

/// Finds the nearest references.
#[derive(Debug)]
pub struct Nearest {
    references: References,
    count: usize,
    input: Vec<Field>,
    output: Vec<Field>,
}

impl Stage for Nearest {
    fn open(input: &Schema, config: &Config) -> Result<Self> {
        let settings = Settings(config);
        let metric = match settings.text("metric", "euclidean") {
            "euclidean" => Metric::Euclidean,
            "great-circle" => Metric::GreatCircle,
            other => {
                return Err(Error::new(format!(
                    "the setting `metric` is `{other}`: expected euclidean or great-circle"
                )));
            }
        };
        let references = References::parse(settings.required("references")?, metric)?;
        references.columns.iter().try_for_each(|name| Measured::check(input, name))?;
        let added =
            [Field::new("nearest", Type::Utf8), Field::new("distance", Type::F64), Field::new("rank", Type::S64)];
        let output = fields_beside(&input.fields, added)?;
        Ok(Self { references, count: settings.whole("count", 1, 1..=COUNT_MAX)?, input: input.fields.clone(), output })
    }

    fn ports(&self) -> Vec<Port> {
        vec![Port::main(self.output.clone())]
    }

    fn process(&mut self, batch: &Batch, out: &mut Output) -> Result<()> {
        let columns = Columns::of(batch, &self.input)?;
        let measured = self.references.columns.iter().map(|name| Measured::of(batch, name));
        let measured: Vec<Measured<'_>> = measured.collect::<Result<_>>()?;
        for row in 0..batch.rows() {
            let coordinates: Option<Vec<f64>> = measured.iter().map(|column| column.get(row)).collect();
            let Some(coordinates) = coordinates else {
                out.reject(row, format!("one of {} is missing or not finite", self.references.columns.join(", ")));
                continue;
            };
            for (rank, (label, distance)) in (1..).zip(self.references.nearest(&coordinates, self.count)) {
                columns.put(row, out.row(MAIN)).utf8(label).f64(distance).s64(rank).end();
            }
        }
        Ok(())
    }
}

littoral_sdk::stage!(Nearest);
