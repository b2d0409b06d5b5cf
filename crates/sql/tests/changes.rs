//! The state of windows with many groups: what is written of it, and that whoever goes on from it comes to the same.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::disallowed_methods, clippy::expect_used)]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::{ArrayRef, Int64Array, RecordBatch, TimestampMicrosecondArray};
use common::{fine, lines, process, stage};
use littoral_sql::{Program, Stage};
use proptest::prelude::*;

const SOURCE: &str =
    "CREATE STREAM s (k bigint, ts timestamp, v bigint, WATERMARK FOR ts AS ts - INTERVAL '1 second');\n";
/// The first part with changes.
const CHANGES_FROM: u32 = 1 << 15;

fn flow(clauses: &str, windows: &str) -> Program {
    let aggregates = "sum(v) AS s, count(*) AS n, max(CAST(v AS text)) AS m, avg(v) AS a";
    let groups = format!("FROM {windows} GROUP BY k, window_start, window_end");
    fine(&format!("{SOURCE}CREATE FLOW f {clauses} AS SELECT k, window_end AS w, {aggregates} {groups}"))
}

/// Rows of so many keys in no order, a thousand a second from a number on.
fn rows(keys: i64, from: i64, count: i64) -> RecordBatch {
    let numbers = || from..from + count;
    let key = |number: i64| number.wrapping_mul(7_919) % keys;
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("k", Arc::new(numbers().map(key).collect::<Int64Array>())),
        ("ts", Arc::new(TimestampMicrosecondArray::from_iter_values(numbers().map(|number| number * 1_000)))),
        ("v", Arc::new(numbers().map(|number| number % 97).collect::<Int64Array>())),
    ];
    RecordBatch::try_from_iter(columns).unwrap()
}

fn restored(program: &Program, state: &BTreeMap<u32, Vec<u8>>) -> Stage {
    let mut stage = stage(program, "f");
    let state: Vec<(u32, &[u8])> = state.iter().map(|(part, bytes)| (*part, bytes.as_slice())).collect();
    stage.restore(&state).unwrap();
    stage
}

/// What a run came to.
#[derive(Default)]
struct Run {
    out: Vec<String>,
    /// The bytes of state that were written with each batch.
    written: Vec<usize>,
    state: BTreeMap<u32, Vec<u8>>,
}

impl Run {
    fn write(&mut self, stage: &mut Stage, dirty: &[u32]) {
        let parts = stage.snapshot(dirty);
        self.written.push(parts.iter().map(|(_, bytes)| bytes.len()).sum());
        for (part, bytes) in parts {
            if bytes.is_empty() {
                self.state.remove(&part)
            } else {
                self.state.insert(part, bytes)
            };
        }
    }

    fn changes(&self) -> usize {
        self.state.keys().filter(|part| **part >= CHANGES_FROM).count()
    }
}

/// Processes rows in batches of those sizes; the stage is made anew from its state after the batches that `restarts` says.
fn run(program: &Program, (keys, rows_in_all): (i64, i64), sizes: &[i64], restarts: &[bool]) -> Run {
    let (mut run, mut stage, mut from) = (Run::default(), stage(program, "f"), 0);
    let mut ways = sizes.iter().copied().cycle().zip(restarts.iter().copied().cycle());
    while from < rows_in_all {
        let (size, restart) = ways.next().unwrap();
        let output = process(&mut stage, &rows(keys, from, size));
        run.out.extend(lines(output.rows.as_ref()));
        run.write(&mut stage, &output.dirty);
        while stage.has_more() {
            let output = stage.go_on().unwrap();
            run.out.extend(lines(output.rows.as_ref()));
            run.write(&mut stage, &output.dirty);
        }
        if restart {
            stage = restored(program, &run.state);
        }
        from += size;
    }
    run
}

#[test]
fn of_many_groups_a_step_writes_those_that_changed() {
    let program = flow("", "TUMBLE(s, ts, INTERVAL '10 minutes')");
    let run = run(&program, (20_000, 200_000), &[100], &[false]);
    assert!(run.out.is_empty());
    let whole: usize = run.state.iter().filter(|(part, _)| **part < CHANGES_FROM).map(|(_, bytes)| bytes.len()).sum();
    let rest: usize = run.state.iter().filter(|(part, _)| **part >= CHANGES_FROM).map(|(_, bytes)| bytes.len()).sum();
    assert!(whole > 800_000, "{whole} bytes of key groups");
    // What is needed to go on is bounded.
    assert!(rest < whole + (256 << 10), "{rest} bytes of changes, {whole} of key groups");
    assert!(run.changes() > 1, "what changed was not written by itself");
    // A hundred rows change 5 KiB of a MiB in all key groups. Half of them were begun when there were few.
    let later = &run.written[1_000..];
    let (mean, most) = (later.iter().sum::<usize>() / later.len(), later.iter().max().unwrap());
    assert!(mean < 60_000, "{mean} bytes are written for a hundred rows");
    assert!(*most < 300_000, "{most} bytes are written for a hundred rows");
}

#[test]
fn when_windows_are_over_little_is_left() {
    let program = flow("", "TUMBLE(s, ts, INTERVAL '30 seconds')");
    let mut run = run(&program, (20_000, 90_000), &[500], &[false]);
    let mut stage = restored(&program, &run.state);
    for from in (10_000_000..10_400_000).step_by(10_000) {
        let output = process(&mut stage, &rows(9, from, 1));
        run.write(&mut stage, &output.dirty);
        while stage.has_more() {
            let output = stage.go_on().unwrap();
            run.write(&mut stage, &output.dirty);
        }
    }
    let left: usize = run.state.values().map(Vec::len).sum();
    assert!(left < 512 << 10, "{left} bytes in {} parts", run.state.len());
    assert_eq!(restored(&program, &run.state).has_more(), stage.has_more());
}

#[test]
fn who_goes_on_from_the_state_again_and_again_leaves_a_bounded_number_of_parts() {
    let program = flow("", "TUMBLE(s, ts, INTERVAL '10 minutes')");
    let mut run = run(&program, (3_000, 6_000), &[6_000], &[false]);
    for from in 6_000..8_300 {
        let mut stage = restored(&program, &run.state);
        let output = process(&mut stage, &rows(3_000, from, 1));
        run.write(&mut stage, &output.dirty);
    }
    // Each leaves one with a group; from 2,048 on a key group is written whole each time.
    assert!(run.changes() > 1 && run.changes() < 2_048 + 128, "{} parts", run.changes());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn restarts_and_batches_change_nothing(
        keys in prop_oneof![Just(100_i64), Just(3_000)],
        sizes in proptest::collection::vec(prop_oneof![1_i64..40, 100_i64..2_000], 2..12),
        restarts in proptest::collection::vec(any::<bool>(), 1..9),
        windows in prop_oneof![
            Just("TUMBLE(s, ts, INTERVAL '9 seconds')"),
            Just("HOP(s, ts, INTERVAL '3 seconds', INTERVAL '9 seconds')"),
        ],
        clauses in prop_oneof![Just(""), Just("ALLOW LATENESS '5 seconds'")],
    ) {
        let program = flow(clauses, windows);
        let mean = sizes.iter().sum::<i64>() / sizes.len() as i64;
        // No more than some hundred batches.
        let rows_in_all = (mean * 200).min(20_000);
        let plain = run(&program, (keys, rows_in_all), &[rows_in_all], &[false]);
        let ours = run(&program, (keys, rows_in_all), &sizes, &restarts);
        // The last batch may have rows behind those of the other run.
        let common = plain.out.len().min(ours.out.len());
        prop_assert_eq!(&plain.out[..common], &ours.out[..common]);
        prop_assert!(ours.out.len() >= plain.out.len());
    }
}
