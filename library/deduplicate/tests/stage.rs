//! Runs `deduplicate` as a node would, and compares it with a plain computation.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use deduplicate::Deduplicate;
use littoral_sdk::prelude::*;
use littoral_sdk::testing::{Harness, rows};

const SECOND_US: i64 = 1_000_000;

fn input() -> Schema {
    Schema::new([
        Field::nullable("camera", Type::Utf8),
        Field::new("person", Type::S64),
        Field::new("at", Type::Timestamp),
        Field::new("n", Type::S64),
    ])
}

const CONFIG: [(&str, &str); 3] = [("key", "camera, person"), ("time", "at"), ("within", "10s")];

type Row = (&'static str, i64, i64, i64);

/// Sightings of some persons by two cameras, out of order by up to eight seconds; pseudo-random, the same each time.
fn sightings(count: i64) -> Vec<Row> {
    let mut seed = 7_u64;
    let mut next = move || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as i64
    };
    (0..count)
        .map(|n| {
            let at = n * 200_000 - if next() % 3 == 0 { next() % (8 * SECOND_US) } else { 0 };
            (["left", "right"][(next() % 2) as usize], next() % 30, at, n)
        })
        .collect()
}

fn batch(of: &[Row]) -> Batch {
    rows(&input(), |out| {
        of.iter()
            .for_each(|(camera, person, at, n)| out.row(MAIN).utf8(camera).s64(*person).timestamp(*at).s64(*n).end());
    })
}

fn numbers(step: &littoral_sdk::output::Step) -> Vec<i64> {
    let Some((_, batch)) = step.outputs.first() else { return Vec::new() };
    (0..batch.rows()).map(|row| batch.s64("n").unwrap().get(row).unwrap()).collect()
}

/// The numbers of the rows that pass, by looking at all that passed before.
fn expected(of: &[Row]) -> Vec<i64> {
    let mut passed: Vec<Row> = Vec::new();
    for row in of {
        let last = passed.iter().filter(|known| (known.0, known.1) == (row.0, row.1)).map(|known| known.2).max();
        if last.is_none_or(|last| (last - row.2).abs() >= 10 * SECOND_US) {
            passed.push(*row);
        }
    }
    passed.into_iter().map(|row| row.3).collect()
}

#[test]
fn what_passes_is_what_a_plain_computation_says_also_after_a_restart() {
    let all = sightings(3_000);
    let expected = expected(&all);
    assert!(expected.len() > 300 && expected.len() < 2_500, "{}", expected.len());
    let mut stage = Harness::<Deduplicate>::open(&input(), &CONFIG).unwrap();
    let (mut found, mut saved) = (Vec::new(), std::collections::BTreeMap::new());
    for part in all.chunks(64) {
        found.extend(numbers(&stage.process(&batch(part), 0).unwrap()));
        let dirty = stage.take_dirty();
        saved.extend(stage.snapshot(&dirty));
        // As after a crash: all that is known is what was saved.
        stage = Harness::<Deduplicate>::open(&input(), &CONFIG).unwrap();
        let groups: Vec<(u32, Vec<u8>)> = saved.clone().into_iter().collect();
        stage.restore(&groups).unwrap();
    }
    assert_eq!(found, expected);
}

#[test]
fn memory_is_bounded_and_the_oldest_keys_are_forgotten_first() {
    let config = [("key", "person"), ("time", "at"), ("within", "1d"), ("memory", "64KiB")];
    let mut stage = Harness::<Deduplicate>::open(&input(), &config).unwrap();
    let many: Vec<Row> = (0..20_000).map(|n| ("left", n, n, n)).collect();
    assert_eq!(numbers(&stage.process(&batch(&many), 0).unwrap()).len(), many.len());
    let saved: usize = stage.snapshot(&(0..64).collect::<Vec<_>>()).iter().map(|(_, bytes)| bytes.len()).sum();
    assert!(saved < 64 << 10, "{saved}");
    let newest = stage.process(&batch(&[("left", 19_999, 20_000, 1), ("left", 0, 20_000, 2)]), 0).unwrap();
    assert_eq!(numbers(&newest), [2], "the newest is known, the oldest is not");
}

#[test]
fn old_keys_are_forgotten_by_time() {
    let mut stage =
        Harness::<Deduplicate>::open(&input(), &[("key", "camera"), ("time", "at"), ("within", "1s")]).unwrap();
    let many: Vec<Row> = (0..1_000).map(|n| ("left", n, n * SECOND_US, n)).collect();
    assert_eq!(numbers(&stage.process(&batch(&many), 0).unwrap()).len(), 1_000);
    let saved: usize = stage.snapshot(&(0..64).collect::<Vec<_>>()).iter().map(|(_, bytes)| bytes.len()).sum();
    assert!(saved < 64, "{saved}");
}

#[test]
fn damaged_state_and_wrong_settings_are_told() {
    let mut stage = Harness::<Deduplicate>::open(&input(), &CONFIG).unwrap();
    stage.process(&batch(&[("left", 1, 0, 0)]), 0).unwrap();
    let dirty = stage.take_dirty();
    let saved = stage.snapshot(&dirty);
    let (group, bytes) = saved[0].clone();
    for end in 0..bytes.len() {
        // The host's own length in front is cut, too.
        assert!(stage.restore(&[(group, bytes[..end].to_vec())]).is_err() || end == 0, "cut at {end}");
    }
    assert!(stage.restore(&[((group + 1) % 64, bytes)]).is_err());
    let opened = |config: &[(&str, &str)]| Harness::<Deduplicate>::open(&input(), config).err().unwrap().to_string();
    assert!(opened(&[]).contains("there is no column `key`"));
    assert!(opened(&[&CONFIG[..], &[("memory", "1B")]].concat()).contains("expected 64KiB to 8MiB"));
    assert!(opened(&[("key", "person"), ("time", "n")]).contains("expected Timestamp"));
}
