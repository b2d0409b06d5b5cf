//! Records that are made up: the same ones for the same seed, whoever makes them and whenever.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use littoral_flow::stats::now_us;
use littoral_model::manifest::{self, GeneratorField, GeneratorRange};
use serde_json::{Map, Value};
use tokio::time::{Instant, sleep_until};

use crate::{BATCH_BYTES, BATCH_RECORDS, Record, Source, Taken, Trouble, key_of};

/// The form of its position: the number of the next record, as text behind this.
const FORM: &str = "1 ";
/// How often records are made at most: with each commit come those that are due by then.
const PACE: Duration = Duration::from_millis(10);

/// Makes records up, at a rate. While it does not run it makes none, and makes up for none.
#[derive(Debug)]
pub(crate) struct Generator {
    settings: manifest::Generator,
    /// The number of the next record.
    next: u64,
    /// The number of the record that was the first to be made here, and when that was.
    since: (u64, Instant),
}

impl Generator {
    /// Goes on at a position.
    pub(crate) fn open(settings: &manifest::Generator, position: Option<&[u8]>) -> Result<Self, Trouble> {
        let next = position
            .map_or(Some(0), |position| std::str::from_utf8(position).ok()?.strip_prefix(FORM)?.parse::<u64>().ok());
        let next = next.ok_or_else(|| {
            Trouble("its position is not that of a generator: declare it under another name".to_owned())
        })?;
        Ok(Self { settings: settings.clone(), next, since: (next, Instant::now()) })
    }

    /// When a record is due.
    fn due(&self, number: u64) -> Instant {
        let (first, since) = self.since;
        since + Duration::from_secs(1).mul_f64((number - first) as f64 / f64::from(self.settings.rate))
    }

    fn is_over(&self) -> bool {
        self.settings.count.is_some_and(|count| self.next >= count)
    }
}

#[async_trait]
impl Source for Generator {
    async fn next(&mut self) -> Result<Taken, Trouble> {
        if self.is_over() {
            return std::future::pending().await;
        }
        sleep_until(self.due(self.next)).await;
        let (mut records, mut bytes) = (Vec::new(), 0);
        let (until, now_us) = (Instant::now() + PACE, now_us());
        while records.len() < BATCH_RECORDS && bytes < BATCH_BYTES && !self.is_over() && self.due(self.next) <= until {
            let record = record(&self.settings, self.next, now_us);
            bytes += record.value.len();
            records.push(record);
            self.next += 1;
        }
        Ok(Taken { records, position: Bytes::from(format!("{FORM}{}", self.next)), passed_over: None })
    }
}

/// A record by its number.
fn record(settings: &manifest::Generator, number: u64, time_us: i64) -> Record {
    let fields = settings.fields.iter().map(|(name, field)| {
        let drawn = draw(settings.seed, name, number);
        let value = match field {
            GeneratorField::Named(manifest::GeneratorValue::Sequence) => Value::from(number),
            GeneratorField::OneOf(texts) => Value::from(one_of(texts, drawn)),
            GeneratorField::Range(range) => Value::from(within(*range, drawn)),
        };
        (name.clone(), value)
    });
    let fields: Map<String, Value> = fields.collect();
    let key = settings.key.as_ref().and_then(|key| key_of(fields.get(key)));
    Record { key, time_us, value: Value::Object(fields).to_string() }
}

fn one_of(texts: &[String], drawn: u64) -> String {
    let place = drawn.checked_rem(texts.len() as u64).unwrap_or_default();
    usize::try_from(place).ok().and_then(|place| texts.get(place)).cloned().unwrap_or_default()
}

fn within(GeneratorRange { from, to }: GeneratorRange, drawn: u64) -> i64 {
    let width = to.abs_diff(from);
    let offset = width.checked_add(1).map_or(drawn, |count| drawn % count);
    from.wrapping_add_unsigned(offset)
}

/// A number that follows from the seed, the field and the record alone (SplitMix64, <https://doi.org/10.1145/2714064.2660195>).
fn draw(seed: u32, field: &str, number: u64) -> u64 {
    let start = u64::from(seed) << 32 | u64::from(crc32c::crc32c(field.as_bytes()));
    let mixed = start.wrapping_add(number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use std::collections::BTreeSet;

    use super::*;

    fn settings(seed: u32) -> manifest::Generator {
        let text = format!(
            "rate = 100000\nseed = {seed}\ncount = 3000\nkey = \"machine\"\n[fields]\nn = \"sequence\"\n\
             machine = [\"m1\", \"m2\"]\ntemperature = {{ from = -3, to = 5 }}\nany = {{ from = {}, to = {} }}\n",
            i64::MIN,
            i64::MAX
        );
        let app = format!(
            "name = \"a\"\nversion = \"1\"\n[streams.s]\n[sources.g]\nstream = \"s\"\n[sources.g.generator]\n{text}"
        );
        let app = app.replace("[fields]", "[sources.g.generator.fields]");
        let manifest = manifest::parse("littoral.toml", &app).unwrap();
        manifest.sources.values().next().unwrap().generator.clone().unwrap()
    }

    async fn all(seed: u32, stop: usize) -> Vec<Record> {
        let (mut records, mut position): (Vec<Record>, Option<Bytes>) = (Vec::new(), None);
        while records.len() < 3_000 {
            let mut generator = Generator::open(&settings(seed), position.as_deref()).unwrap();
            for _ in 0..stop {
                if records.len() == 3_000 {
                    break;
                }
                let taken = generator.next().await.unwrap();
                records.extend(taken.records);
                position = Some(taken.position);
            }
        }
        records.iter_mut().for_each(|record| record.time_us = 0);
        records
    }

    #[tokio::test]
    async fn the_records_follow_from_the_seed_whenever_it_is_started_anew() {
        let records = all(7, usize::MAX).await;
        assert_eq!(records, all(7, 1).await);
        assert_ne!(records, all(8, usize::MAX).await);
        let values: Vec<Value> = records.iter().map(|record| serde_json::from_str(&record.value).unwrap()).collect();
        let numbers: Vec<u64> = values.iter().map(|value| value["n"].as_u64().unwrap()).collect();
        assert_eq!(numbers, (0..3_000).collect::<Vec<u64>>());
        let temperatures: BTreeSet<i64> = values.iter().map(|value| value["temperature"].as_i64().unwrap()).collect();
        assert_eq!(temperatures, (-3..=5).collect());
        let keys: BTreeSet<&str> = records.iter().map(|record| record.key.as_deref().unwrap()).collect();
        assert_eq!(keys, BTreeSet::from(["m1", "m2"]));
        assert_eq!(
            Generator::open(&settings(7), Some(b"1 5")).unwrap().next,
            5,
            "what an older version has committed is read"
        );
        assert!(Generator::open(&settings(7), Some(b"2 5")).is_err());
    }
}
