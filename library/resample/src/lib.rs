//! `resample@1`: puts the readings of each key on a regular grid of event time.
//!
//! Input: a key (text), a moment, and one or more columns of numbers; other columns are left out. Output: for each instant of the grid
//! between two readings of a key that follow one another, and for one that a reading meets, a row with that instant and the values there:
//! those of the last reading at or before it, or those on the line between both. The grid is the multiples of `every` since 1970.
//!
//! A reading that is not newer than the one before it of its key, or lacks a value, is rejected. Over gaps longer than `max-gap` nothing
//! is put out. State: one reading for each key, of which a
//! partition has 32,768 at most; rows of further ones are rejected.

use littoral_sdk::prelude::*;
use operator::{Measured, Moments, Settings, entry};

/// The most rows that one reading leads to.
const ROWS_MAX: i64 = 10_000;
/// The most columns of numbers: what is kept for a key is to be small.
const VALUES_MAX: usize = 16;
/// How many steps of the grid a gap may have that is filled, where nothing is said.
const STEPS_DEFAULT: i64 = 100;

/// What the values are between two readings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Method {
    Last,
    Linear,
}

/// A reading.
#[derive(Clone, Debug, Default, PartialEq)]
struct Reading {
    time_us: i64,
    values: Vec<f64>,
}
littoral_sdk::impl_state!(Reading { time_us, values });

/// Resamples readings.
#[derive(Debug)]
pub struct Resample {
    key: String,
    time: String,
    values: Vec<String>,
    every_us: i64,
    max_gap_us: i64,
    method: Method,
    last: Keyed<Reading>,
}

impl Stage for Resample {
    fn open(input: &Schema, config: &Config) -> Result<Self> {
        let settings = Settings(config);
        let (key, time) = (settings.text("key", "key").to_owned(), settings.text("time", "time").to_owned());
        input.find(&key, Type::Utf8)?;
        input.find(&time, Type::Timestamp)?;
        let values = settings.names("values", "value")?;
        if values.len() > VALUES_MAX {
            return Err(Error::new(format!(
                "the setting `values` has {} columns: expected at most {VALUES_MAX}",
                values.len()
            )));
        }
        values.iter().try_for_each(|name| Measured::check(input, name))?;
        settings.required("every")?;
        let every_us = settings.time_us("every", "")?;
        let max_gap_us = match config.get("max-gap") {
            Some(_) => settings.time_us("max-gap", "")?,
            None => every_us.saturating_mul(STEPS_DEFAULT),
        };
        if max_gap_us / every_us > ROWS_MAX {
            return Err(Error::new(format!("a gap of `max-gap` has more than {ROWS_MAX} steps of `every`")));
        }
        let method = match settings.text("method", "linear") {
            "last" => Method::Last,
            "linear" => Method::Linear,
            other => return Err(Error::new(format!("the setting `method` is `{other}`: expected last or linear"))),
        };
        Ok(Self { key, time, values, every_us, max_gap_us, method, last: Keyed::new() })
    }

    fn ports(&self) -> Vec<Port> {
        let front = [Field::new(&self.key, Type::Utf8), Field::new(&self.time, Type::Timestamp)];
        vec![Port::main(front.into_iter().chain(self.values.iter().map(|name| Field::new(name, Type::F64))))]
    }

    fn process(&mut self, batch: &Batch, out: &mut Output) -> Result<()> {
        let (keys, time) = (batch.utf8(&self.key)?, self.time.clone());
        let times = Moments::of(batch, &time)?;
        let columns: Vec<Measured<'_>> =
            self.values.iter().map(|name| Measured::of(batch, name)).collect::<Result<_>>()?;
        for row in 0..batch.rows() {
            let Some(key) = keys.get(row) else {
                out.reject(row, format!("`{}` is missing", self.key));
                continue;
            };
            let values: Option<Vec<f64>> = columns.iter().map(|column| column.get(row)).collect();
            let taken = match (times.get(row), values) {
                (Ok(time_us), Some(values)) => self.take(key, Reading { time_us, values }, out),
                (Ok(_), None) => Err(Error::new(format!("one of {} is missing or not finite", self.values.join(", ")))),
                (Err(error), _) => Err(error),
            };
            if let Err(error) = taken {
                out.reject(row, error.to_string());
            }
        }
        Ok(())
    }

    fn state(&mut self) -> Vec<&mut dyn KeyGroups> {
        vec![&mut self.last]
    }
}

littoral_sdk::stage!(Resample);

impl Resample {
    /// Puts out what is between the last reading of the key and this one.
    fn take(&mut self, key: &str, now: Reading, out: &mut Output) -> Result<()> {
        let last = entry(&mut self.last, key)?;
        // A new key has no values yet.
        let before = (!last.values.is_empty()).then_some(&*last);
        if before.is_some_and(|before| now.time_us <= before.time_us) {
            return Err(Error::new("it is not newer than the reading before it of its key"));
        }
        let near = before.filter(|before| now.time_us - before.time_us <= self.max_gap_us);
        let after_us = near.map_or(now.time_us - 1, |before| before.time_us);
        let mut instant_us = (after_us.div_euclid(self.every_us) + 1) * self.every_us;
        while instant_us <= now.time_us {
            let row = out.row(MAIN).utf8(key).timestamp(instant_us);
            let at = |place: usize, value: f64| match near.and_then(|before| Some((before, before.values.get(place)?)))
            {
                Some((before, from)) if instant_us < now.time_us => match self.method {
                    Method::Last => *from,
                    Method::Linear => {
                        let share = (instant_us - before.time_us) as f64 / (now.time_us - before.time_us) as f64;
                        from + (value - from) * share
                    }
                },
                _ => value,
            };
            now.values.iter().enumerate().fold(row, |row, (place, value)| row.f64(at(place, *value))).end();
            instant_us += self.every_us;
        }
        *last = now;
        Ok(())
    }
}
