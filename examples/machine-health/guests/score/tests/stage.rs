//! Runs `score` as a node would.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use littoral_sdk::prelude::*;
use littoral_sdk::testing::{Harness, rows};
use score::{SCORED, Score};

const HOUR_US: i64 = 3_600_000_000;

fn input() -> Schema {
    Schema::new([
        Field::new("sensor", Type::Utf8),
        Field::nullable("seq", Type::S64),
        Field::new("time", Type::Timestamp),
        Field::new("value", Type::F64),
        Field::new("filled", Type::Bool),
        Field::new("published", Type::Timestamp),
    ])
}

/// Readings of two sensors each hour: around 100, and 50 from hour 400 on at the second one.
fn readings(hours: std::ops::Range<i64>) -> Batch {
    rows(&input(), |out| {
        for hour in hours {
            let swing = if hour % 2 == 0 { 2.0 } else { -2.0 };
            for (sensor, level) in [("a", 100.0), ("b", if hour < 400 { 100.0 } else { 50.0 })] {
                out.row(MAIN)
                    .utf8(sensor)
                    .s64(hour)
                    .timestamp(hour * HOUR_US)
                    .f64(level + swing)
                    .bool(false)
                    .timestamp(0);
            }
        }
    })
}

#[test]
fn every_reading_is_scored_and_only_alarms_cross() {
    let mut stage = Harness::<Score>::open(&input(), &[]).unwrap();
    let step = stage.process(&readings(0..410), 0).unwrap();
    let port = |name: &str| step.outputs.iter().find(|(port, _)| port == name).map(|(_, batch)| batch).unwrap();
    let (alerts, scored) = (port(MAIN), port(SCORED));
    assert_eq!(scored.rows(), 820);
    let sensors = alerts.utf8("sensor").unwrap();
    assert!((1..=10).contains(&alerts.rows()), "{}", alerts.rows());
    assert!((0..alerts.rows()).all(|row| sensors.get(row) == Some("b")));
    let reason = alerts.utf8("reason").unwrap().get(0).unwrap();
    assert!(
        reason.starts_with("the recent average (6 h) is ") && reason.contains(" below the normal 100.0 "),
        "{reason}"
    );
}

#[test]
fn filled_rows_are_not_put_out() {
    let mut stage = Harness::<Score>::open(&input(), &[]).unwrap();
    let filled = rows(&input(), |out| {
        out.row(MAIN).utf8("a").null().timestamp(0).f64(1.0).bool(true).timestamp(0);
    });
    let step = stage.process(&filled, 0).unwrap();
    assert_eq!((step.outputs, step.rejected), (vec![], vec![]));
    assert_eq!(stage.take_dirty().len(), 1);
}

#[test]
fn a_restored_stage_goes_on_as_the_first_would_have() {
    let mut first = Harness::<Score>::open(&input(), &[]).unwrap();
    first.process(&readings(0..405), 0).unwrap();
    let dirty = first.take_dirty();
    let mut second = Harness::<Score>::open(&input(), &[]).unwrap();
    second.restore(&first.snapshot(&dirty)).unwrap();
    let more = readings(405..450);
    assert_eq!(first.process(&more, 0).unwrap(), second.process(&more, 0).unwrap());
}

#[test]
fn input_that_clean_does_not_put_out_is_refused() {
    let error = Harness::<Score>::open(&Schema::new([Field::new("sensor", Type::Utf8)]), &[]).err().unwrap();
    assert!(error.to_string().contains("seq"), "{error}");
}
