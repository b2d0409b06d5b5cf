//! Runs `anomaly` as a node would.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use anomaly::Anomaly;
use littoral_sdk::prelude::*;
use littoral_sdk::testing::{Harness, rows};

const MINUTE_US: i64 = 60_000_000;

fn input() -> Schema {
    Schema::new([
        Field::new("hall", Type::S64),
        Field::nullable("machine", Type::Utf8),
        Field::new("at", Type::Timestamp),
        Field::nullable("heat", Type::F64),
    ])
}

const CONFIG: [(&str, &str); 4] = [("key", "hall, machine"), ("time", "at"), ("value", "heat"), ("learning", "30min")];

/// A value each minute of two machines around 20; of the second one it is 60 at minutes 100 and 101.
fn values(minutes: std::ops::Range<i64>) -> Batch {
    rows(&input(), |out| {
        for minute in minutes {
            for (hall, level) in [(1, 20.0), (2, if minute / 2 == 50 { 60.0 } else { 20.0 })] {
                let swing = [0.0, 1.0, 0.5, -1.0, -0.5][minute as usize % 5];
                out.row(MAIN).s64(hall).utf8("press").timestamp(minute * MINUTE_US).f64(level + swing).end();
            }
        }
    })
}

#[test]
fn only_what_is_unusual_for_its_key_is_an_anomaly() {
    let mut stage = Harness::<Anomaly>::open(&input(), &CONFIG).unwrap();
    let step = stage.process(&values(0..200), 0).unwrap();
    let batch = &step.outputs[0].1;
    assert_eq!(batch.rows(), 400);
    let (halls, times, scores) =
        (batch.s64("hall").unwrap(), batch.timestamp("at").unwrap(), batch.f64("score").unwrap());
    let anomalies = batch.bool("anomaly").unwrap();
    let found: Vec<(i64, i64)> = (0..400)
        .filter(|row| anomalies.get(*row).unwrap())
        .map(|row| (halls.get(row).unwrap(), times.get(row).unwrap() / MINUTE_US))
        .collect();
    assert_eq!(found, [(2, 100), (2, 101)]);
    assert!((0..400).all(|row| scores.get(row).is_some() == (times.get(row).unwrap() >= 30 * MINUTE_US)));
    assert_eq!(batch.f64("heat").unwrap().get(0), Some(20.0));
}

#[test]
fn a_restored_stage_goes_on_as_the_first_would_have() {
    let mut first = Harness::<Anomaly>::open(&input(), &CONFIG).unwrap();
    first.process(&values(0..100), 0).unwrap();
    let dirty = first.take_dirty();
    let mut second = Harness::<Anomaly>::open(&input(), &CONFIG).unwrap();
    second.restore(&first.snapshot(&dirty)).unwrap();
    assert_eq!(first.process(&values(100..140), 0).unwrap(), second.process(&values(100..140), 0).unwrap());
}

#[test]
fn a_row_without_a_value_is_rejected_and_wrong_settings_are_told() {
    let mut stage = Harness::<Anomaly>::open(&input(), &CONFIG).unwrap();
    let batch = rows(&input(), |out| {
        out.row(MAIN).s64(1).null().timestamp(0).f64(f64::NAN).end();
        out.row(MAIN).s64(1).null().timestamp(0).f64(1.0).end();
    });
    let step = stage.process(&batch, 0).unwrap();
    assert_eq!(step.rejected, [(0, "`heat` is missing or not finite".to_owned())]);
    assert_eq!(step.outputs[0].1.rows(), 1);
    let opened = |config: &[(&str, &str)]| Harness::<Anomaly>::open(&input(), config).err().unwrap().to_string();
    assert!(opened(&[]).contains("there is no column `key`"));
    assert!(opened(&[&CONFIG[..], &[("threshold", "-1")]].concat()).contains("expected a number above 0"));
}

#[test]
fn more_keys_than_a_partition_keeps_are_rejected() {
    const KEYS_MAX: usize = 32_768;
    let mut stage = Harness::<Anomaly>::open(&input(), &CONFIG).unwrap();
    let batch = |halls: std::ops::Range<i64>| {
        rows(&input(), |out| halls.for_each(|hall| out.row(MAIN).s64(hall).null().timestamp(0).f64(1.0).end()))
    };
    let step = stage.process(&batch(0..KEYS_MAX as i64 + 1), 0).unwrap();
    let rejected: Vec<usize> = step.rejected.iter().map(|(row, _)| *row).collect();
    assert_eq!((step.outputs[0].1.rows(), rejected), (KEYS_MAX, vec![KEYS_MAX]));
    // Those that are there go on.
    assert_eq!(stage.process(&batch(7..8), 0).unwrap().rejected, []);
    let dirty = stage.take_dirty();
    let saved: usize = stage.snapshot(&dirty).iter().map(|(_, bytes)| bytes.len()).sum();
    assert!(saved < 12 << 20, "all of it fits into a commit: {saved}");
}
