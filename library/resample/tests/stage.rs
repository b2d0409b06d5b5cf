//! Runs `resample` as a node would, and compares it with a plain computation.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use littoral_sdk::prelude::*;
use littoral_sdk::testing::{Harness, rows};
use resample::Resample;

const SECOND_US: i64 = 1_000_000;

fn input() -> Schema {
    Schema::new([
        Field::nullable("key", Type::Utf8),
        Field::new("time", Type::Timestamp),
        Field::nullable("value", Type::F64),
        Field::new("n", Type::S64),
    ])
}

fn batch(readings: &[(&str, i64, f64)]) -> Batch {
    rows(&input(), |out| {
        for (key, time_us, value) in readings {
            out.row(MAIN).utf8(key).timestamp(*time_us).f64(*value).s64(time_us / 1_000).end();
        }
    })
}

fn put_out(step: &littoral_sdk::output::Step) -> Vec<(String, i64, f64)> {
    let Some((_, batch)) = step.outputs.first() else { return Vec::new() };
    let (keys, times, values) =
        (batch.utf8("key").unwrap(), batch.timestamp("time").unwrap(), batch.f64("value").unwrap());
    (0..batch.rows())
        .map(|row| (keys.get(row).unwrap().to_owned(), times.get(row).unwrap(), values.get(row).unwrap()))
        .collect()
}

/// Readings of two keys at uneven moments, some far apart; pseudo-random, the same each time.
fn uneven(count: usize) -> Vec<(&'static str, i64, f64)> {
    let (mut seed, mut times) = (1_u64, [-3_500_000_i64, 250_000]);
    let mut next = move || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as i64
    };
    (0..count)
        .map(|number| {
            let of = number % 2;
            times[of] += if next() % 10 == 0 { 20_000_000 } else { 100_000 + next() % 4_000_000 };
            // Now and then a reading meets the grid.
            times[of] -= if next() % 4 == 0 { times[of].rem_euclid(SECOND_US) } else { 0 };
            (["a", "b"][of], times[of], (next() % 1_000) as f64 / 8.0)
        })
        .collect()
}

/// What is to come out of the readings of one key, instant by instant.
fn expected(readings: &[(i64, f64)], method: &str, max_gap_us: i64) -> Vec<(i64, f64)> {
    let (first, last) = (readings[0].0, readings[readings.len() - 1].0);
    let grid = (first / SECOND_US - 2..=last / SECOND_US + 2).map(|second| second * SECOND_US);
    let at = |instant: i64| {
        if let Some((_, value)) = readings.iter().find(|(time, _)| *time == instant) {
            return Some((instant, *value));
        }
        let before = readings.iter().rev().find(|(time, _)| *time < instant)?;
        let after = readings.iter().find(|(time, _)| *time > instant)?;
        if after.0 - before.0 > max_gap_us {
            return None;
        }
        let share = (instant - before.0) as f64 / (after.0 - before.0) as f64;
        Some((instant, if method == "last" { before.1 } else { before.1 * (1.0 - share) + after.1 * share }))
    };
    grid.filter_map(at).collect()
}

#[test]
fn what_comes_out_is_what_a_plain_computation_says() {
    let readings: Vec<_> = {
        let mut newest = std::collections::BTreeMap::new();
        // Moving a reading onto the grid may have put it before the last one.
        uneven(400)
            .into_iter()
            .filter(|(key, time, _)| newest.insert(*key, *time).is_none_or(|last| last < *time))
            .collect()
    };
    for method in ["last", "linear"] {
        let config = [("every", "1s"), ("max-gap", "10s"), ("method", method)];
        let mut stage = Harness::<Resample>::open(&input(), &config).unwrap();
        let mut found = Vec::new();
        for part in readings.chunks(7) {
            let step = stage.process(&batch(part), 0).unwrap();
            assert_eq!(step.rejected, []);
            found.extend(put_out(&step));
        }
        for key in ["a", "b"] {
            let of: Vec<_> =
                readings.iter().filter(|(of, _, _)| *of == key).map(|(_, time, value)| (*time, *value)).collect();
            let expected = expected(&of, method, 10 * SECOND_US);
            let found: Vec<_> =
                found.iter().filter(|(of, _, _)| of == key).map(|(_, time, value)| (*time, *value)).collect();
            assert!(expected.len() > 200, "{}", expected.len());
            assert_eq!(found.len(), expected.len());
            for (found, expected) in found.iter().zip(&expected) {
                assert_eq!(found.0, expected.0);
                assert!((found.1 - expected.1).abs() < 1e-9, "{found:?} {expected:?}");
            }
        }
    }
}

#[test]
fn a_reading_that_is_late_or_lacks_a_value_is_rejected() {
    let mut stage = Harness::<Resample>::open(&input(), &[("every", "1s")]).unwrap();
    let step = stage
        .process(&batch(&[("a", 1_500_000, 1.0), ("a", 1_500_000, 2.0), ("a", 0, 2.0), ("a", 2_500_000, 3.0)]), 0)
        .unwrap();
    let rejected: Vec<usize> = step.rejected.iter().map(|(row, _)| *row).collect();
    assert_eq!((rejected, put_out(&step)), (vec![1, 2], vec![("a".to_owned(), 2_000_000, 2.0)]));
    let step = stage
        .process(
            &rows(&input(), |out| {
                out.row(MAIN).utf8("a").timestamp(9_000_000).null().s64(0).end();
                out.row(MAIN).null().timestamp(9_000_000).f64(1.0).s64(0).end();
                out.row(MAIN).utf8("a").timestamp(i64::MAX).f64(1.0).s64(0).end();
            }),
            0,
        )
        .unwrap();
    assert_eq!(step.rejected.len(), 3);
    assert_eq!(step.outputs, []);
}

#[test]
fn whole_numbers_are_resampled_and_a_restored_stage_goes_on() {
    let config = [("every", "1s"), ("values", "value, n")];
    let mut first = Harness::<Resample>::open(&input(), &config).unwrap();
    first.process(&batch(&[("a", 500_000, 1.0)]), 0).unwrap();
    let dirty = first.take_dirty();
    let mut second = Harness::<Resample>::open(&input(), &config).unwrap();
    second.restore(&first.snapshot(&dirty)).unwrap();
    let step = second.process(&batch(&[("a", 1_500_000, 2.0)]), 0).unwrap();
    assert_eq!(put_out(&step), [("a".to_owned(), SECOND_US, 1.5)]);
    assert_eq!(step.outputs[0].1.f64("n").unwrap().get(0), Some(1_000.0));
}

#[test]
fn wrong_settings_say_what_is_expected() {
    let opened = |config: &[(&str, &str)]| Harness::<Resample>::open(&input(), config).err().unwrap().to_string();
    assert_eq!(opened(&[]), "the setting `every` is missing");
    assert!(opened(&[("every", "1s"), ("method", "cubic")]).contains("expected last or linear"));
    assert!(opened(&[("every", "1ms"), ("max-gap", "1h")]).contains("more than 10000 steps"));
    assert!(opened(&[("every", "1s"), ("values", "key")]).contains("expected numbers"));
}
