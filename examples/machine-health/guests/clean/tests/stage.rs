//! Runs `clean` as a node would.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use clean::Clean;
use littoral_sdk::prelude::*;
use littoral_sdk::testing::{Harness, rows};

fn input() -> Schema {
    Schema::new([
        Field::nullable("key", Type::Utf8),
        Field::new("time", Type::Timestamp),
        Field::new("value", Type::Utf8),
    ])
}

fn records(records: &[(&str, String)]) -> Batch {
    rows(&input(), |out| {
        for (place, (key, value)) in records.iter().enumerate() {
            out.row(MAIN).utf8(key).timestamp(place as i64).utf8(value);
        }
    })
}

/// Readings of a sensor every five minutes, from one slot to another.
fn readings(sensor: &'static str, slots: std::ops::Range<i64>) -> Vec<(&'static str, String)> {
    slots
        .map(|slot| (sensor, format!("{slot},2013-12-02 {:02}:{:02}:00,{}", slot / 12, slot % 12 * 5, 70 + slot)))
        .collect()
}

/// What was put out, as (sensor, seq, value).
fn put_out(stage: &mut Harness<Clean>, batch: &Batch) -> Vec<(String, Option<i64>, f64)> {
    let step = stage.process(batch, 0).unwrap();
    let Some((port, batch)) = step.outputs.first() else { return Vec::new() };
    assert_eq!(port, MAIN);
    let (sensors, seqs) = (batch.utf8("sensor").unwrap(), batch.s64("seq").unwrap());
    let (values, filled) = (batch.f64("value").unwrap(), batch.bool("filled").unwrap());
    (0..batch.rows())
        .map(|row| {
            assert_eq!(filled.get(row).unwrap(), seqs.get(row).is_none());
            (sensors.get(row).unwrap().to_owned(), seqs.get(row), values.get(row).unwrap())
        })
        .collect()
}

#[test]
fn each_reading_comes_out_once_with_its_number() {
    let mut stage = Harness::<Clean>::open(&input(), &[]).unwrap();
    let batch = records(&[readings("a", 0..10), readings("b", 5..15)].concat());
    let out = put_out(&mut stage, &batch);
    let expected = (0..10).map(|slot| ("a", slot)).chain((5..15).map(|slot| ("b", slot)));
    let expected: Vec<_> = expected.map(|(key, slot)| (key.to_owned(), Some(slot), 70.0 + slot as f64)).collect();
    assert_eq!(out, expected);
}

#[test]
fn malformed_rows_are_rejected_and_the_others_go_on() {
    let mut stage = Harness::<Clean>::open(&input(), &[]).unwrap();
    let batch = rows(&input(), |out| {
        for value in ["0,2013-12-02 21:15:00,1", "1,2013-12-02 21:20:00", "", "2,2013-12-02 21:25:00,2"] {
            out.row(MAIN).utf8("a").timestamp(0).utf8(value);
        }
        out.row(MAIN).null().timestamp(0).utf8("3,2013-12-02 21:30:00,3");
    });
    let step = stage.process(&batch, 0).unwrap();
    assert_eq!(step.outputs[0].1.rows(), 2);
    assert_eq!(step.rejected.iter().map(|(row, _)| *row).collect::<Vec<_>>(), [1, 2, 4]);
    assert_eq!(step.rejected[0].1, "expected 3 fields, seq,timestamp,value; found 2");
}

#[test]
fn gaps_are_filled_after_a_restore_as_before() {
    let mut first = Harness::<Clean>::open(&input(), &[]).unwrap();
    put_out(&mut first, &records(&readings("a", 0..10)));
    let dirty = first.take_dirty();
    assert_eq!(dirty.len(), 1);
    let mut second = Harness::<Clean>::open(&input(), &[]).unwrap();
    second.restore(&first.snapshot(&dirty)).unwrap();
    let gap = records(&readings("a", 12..13));
    let expected = [(None, 80.0), (None, 81.0), (Some(12), 82.0)].map(|(seq, value)| ("a".to_owned(), seq, value));
    assert_eq!(put_out(&mut first, &gap), expected);
    assert_eq!(put_out(&mut second, &gap), expected);
}

#[test]
fn input_without_its_columns_is_refused() {
    let error = Harness::<Clean>::open(&Schema::new([Field::new("key", Type::Utf8)]), &[]).err().unwrap();
    assert!(error.to_string().contains("time"), "{error}");
}
