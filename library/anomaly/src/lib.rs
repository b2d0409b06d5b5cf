//! `anomaly@1`: says how unusual each value is for its key, by an exponentially weighted mean and deviation.
//!
//! Input: a moment, a column of numbers, columns of the key, and any others. Output: every row as it is, and behind it `score`, by how many
//! deviations the value lies from the mean (null while the key is learnt), and `anomaly`, whether that is as many as `threshold` or more.
//! State: five numbers for each key, of which a partition has 32,768 at most; rows of further ones are rejected.

mod detector;

use littoral_sdk::prelude::*;
use operator::{Columns, Keys, Measured, Moments, Settings, entry, fields_beside};

use detector::{Detector, Rules};

/// Judges values.
#[derive(Debug)]
pub struct Anomaly {
    key: Vec<String>,
    time: String,
    value: String,
    rules: Rules,
    input: Vec<Field>,
    output: Vec<Field>,
    detectors: Keyed<Detector>,
}

impl Stage for Anomaly {
    fn open(input: &Schema, config: &Config) -> Result<Self> {
        let settings = Settings(config);
        let key = settings.names("key", "key")?;
        Keys::check(input, &key)?;
        let (time, value) = (settings.text("time", "time").to_owned(), settings.text("value", "value").to_owned());
        input.find(&time, Type::Timestamp)?;
        Measured::check(input, &value)?;
        let half_life = settings.text("half-life", "1h");
        let rules = Rules {
            half_life_us: settings.time_us("half-life", "1h")?,
            learning_us: settings.time_us("learning", half_life)?,
            threshold: settings.positive("threshold", 4.0)?,
            deviation_min: settings.positive("deviation-min", 1e-6)?,
        };
        let added = [Field::nullable("score", Type::F64), Field::new("anomaly", Type::Bool)];
        let output = fields_beside(&input.fields, added)?;
        Ok(Self { key, time, value, rules, input: input.fields.clone(), output, detectors: Keyed::new() })
    }

    fn ports(&self) -> Vec<Port> {
        vec![Port::main(self.output.clone())]
    }

    fn process(&mut self, batch: &Batch, out: &mut Output) -> Result<()> {
        let (keys, columns) = (Keys::of(batch, &self.key)?, Columns::of(batch, &self.input)?);
        let (times, values) = (Moments::of(batch, &self.time)?, Measured::of(batch, &self.value)?);
        for row in 0..batch.rows() {
            let missing = || Error::new(format!("`{}` is missing or not finite", self.value));
            let read = || Ok((keys.get(row)?, times.get(row)?, values.get(row).ok_or_else(missing)?));
            let judged: Result<Option<f64>> = read().and_then(|(key, time_us, value)| {
                Ok(entry(&mut self.detectors, &key)?.observe(&self.rules, time_us, value))
            });
            let score = match judged {
                Ok(score) => score,
                Err(error) => {
                    out.reject(row, error.to_string());
                    continue;
                }
            };
            let is_anomaly = score.is_some_and(|score| score.abs() >= self.rules.threshold);
            let put = columns.put(row, out.row(MAIN));
            match score {
                Some(score) => put.f64(score),
                None => put.null(),
            }
            .bool(is_anomaly)
            .end();
        }
        Ok(())
    }

    fn state(&mut self) -> Vec<&mut dyn KeyGroups> {
        vec![&mut self.detectors]
    }
}

littoral_sdk::stage!(Anomaly);
