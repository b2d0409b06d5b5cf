//! `smooth`: a stage of a flow that keeps a moving average of each sensor's readings.

use littoral_sdk::prelude::*;

/// How much of the average the latest reading makes up.
const WEIGHT: f64 = 0.2;

/// Reads numbers and puts out their moving average. What it keeps in `averages` is saved after each batch, and is there
/// again wherever the stage runs next.
#[derive(Debug)]
pub struct Smooth {
    averages: Keyed<Option<f64>>,
}

impl Stage for Smooth {
    fn open(input: &Schema, _config: &Config) -> Result<Self> {
        input.find("key", Type::Utf8)?;
        input.find("value", Type::Utf8)?;
        Ok(Self { averages: Keyed::new() })
    }

    fn ports(&self) -> Vec<Port> {
        vec![Port::main([
            Field::new("sensor", Type::Utf8),
            Field::new("time", Type::Timestamp),
            Field::new("value", Type::F64),
            Field::new("average", Type::F64),
        ])]
    }

    fn process(&mut self, batch: &Batch, out: &mut Output) -> Result<()> {
        let (keys, times, values) = (batch.utf8("key")?, batch.timestamp("time")?, batch.utf8("value")?);
        for row in 0..batch.rows() {
            let (Some(sensor), Some(time), Some(text)) = (keys.get(row), times.get(row), values.get(row)) else {
                out.reject(row, "the reading has no key");
                continue;
            };
            let Some(value) = text.trim().parse::<f64>().ok().filter(|value| value.is_finite()) else {
                out.reject(row, format!("`{text}` is not a number"));
                continue;
            };
            let average = self.averages.entry(sensor);
            let smoothed = average.map_or(value, |before| before + WEIGHT * (value - before));
            *average = Some(smoothed);
            out.row(MAIN).utf8(sensor).timestamp(time).f64(value).f64(smoothed);
        }
        Ok(())
    }

    fn state(&mut self) -> Vec<&mut dyn KeyGroups> {
        vec![&mut self.averages]
    }
}

littoral_sdk::stage!(Smooth);
