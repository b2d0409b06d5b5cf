//! `clean`: reads sensors' rows, rejects malformed ones, and resamples each sensor to its regular grid.
//!
//! Input: published records, `key` (the sensor), `time` (when it was published) and `value` (the row as text). Every
//! well-formed row comes out exactly once, with its sensor and its number; rows that fill a gap have no number and are
//! marked. State: one [`grid::Grid`] per sensor.

mod grid;
mod row;

use grid::{Grid, Point};
use littoral_sdk::prelude::*;

/// Reads, checks and resamples rows.
#[derive(Debug)]
pub struct Clean {
    grids: Keyed<Grid>,
}

impl Stage for Clean {
    fn open(input: &Schema, _config: &Config) -> Result<Self> {
        input.find("key", Type::Utf8)?;
        input.find("time", Type::Timestamp)?;
        input.find("value", Type::Utf8)?;
        Ok(Self { grids: Keyed::new() })
    }

    fn ports(&self) -> Vec<Port> {
        vec![Port::main([
            Field::new("sensor", Type::Utf8),
            Field::nullable("seq", Type::S64),
            Field::new("time", Type::Timestamp),
            Field::new("value", Type::F64),
            Field::new("filled", Type::Bool),
            Field::new("published", Type::Timestamp),
        ])]
    }

    fn process(&mut self, batch: &Batch, out: &mut Output) -> Result<()> {
        let (keys, times, values) = (batch.utf8("key")?, batch.timestamp("time")?, batch.utf8("value")?);
        for row in 0..batch.rows() {
            let (Some(sensor), Some(published)) = (keys.get(row).filter(|key| !key.is_empty()), times.get(row)) else {
                out.reject(row, "the record has no key, so its sensor is not known");
                continue;
            };
            let reading = match row::parse(values.get(row).unwrap_or_default()) {
                Ok(reading) => reading,
                Err(malformed) => {
                    out.reject(row, malformed.to_string());
                    continue;
                }
            };
            let point = Point { time_us: reading.time_us, value: reading.value };
            let slot_us = self.grids.entry(sensor).place(point, |filled| {
                out.row(MAIN)
                    .utf8(sensor)
                    .null()
                    .timestamp(filled.time_us)
                    .f64(filled.value)
                    .bool(true)
                    .timestamp(published);
            });
            out.row(MAIN)
                .utf8(sensor)
                .s64(reading.seq)
                .timestamp(slot_us)
                .f64(reading.value)
                .bool(false)
                .timestamp(published);
        }
        Ok(())
    }

    fn state(&mut self) -> Vec<&mut dyn KeyGroups> {
        vec![&mut self.grids]
    }
}

littoral_sdk::stage!(Clean);
