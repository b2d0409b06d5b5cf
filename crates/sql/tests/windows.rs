//! Windows on event time: what they come to, what is late, and that neither batches nor restarts change a result.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::disallowed_methods, clippy::expect_used)]

mod common;

use std::collections::BTreeMap;

use common::{fine, lines, process, records, stage};
use littoral_sql::{Program, Stage};
use proptest::prelude::*;

const STREAM: &str =
    "CREATE STREAM s (m text, ts timestamp, v bigint, WATERMARK FOR ts AS ts - INTERVAL '2 seconds');\n";

fn flow(clauses: &str, query: &str) -> Program {
    fine(&format!("{STREAM}CREATE FLOW f {clauses} AS {query}"))
}

/// A record of machine `m` at a second, with a value.
fn record(m: &str, second: i64, v: i64) -> String {
    format!(r#"{{"m":"{m}","ts":"1970-01-01T00:{:02}:{:02}Z","v":{v}}}"#, second / 60, second % 60)
}

fn run(stage: &mut Stage, rows: &[String]) -> (Vec<String>, Vec<String>) {
    let rows: Vec<&str> = rows.iter().map(String::as_str).collect();
    let output = process(stage, &records(&rows));
    let rejected = output.rejected.iter().map(|(row, reason)| format!("{row}: {reason}"));
    (lines(output.rows.as_ref()), rejected.chain(lines(output.late.as_ref())).collect())
}

const SUMS: &str = "SELECT m, window_start AS w, sum(v) AS s, count(*) AS n FROM TUMBLE(s, ts, INTERVAL '10 seconds') \
                    GROUP BY m, window_start, window_end";

#[test]
fn a_window_is_closed_when_the_watermark_reaches_its_end() {
    let mut stage = stage(&flow("", SUMS), "f");
    let rows = [record("a", 1, 1), record("b", 9, 2), record("a", 10, 4), record("a", 8, 8), record("a", 11, 16)];
    assert_eq!(run(&mut stage, &rows), (vec![], vec![]));
    let (mut closed, rejected) = run(&mut stage, &[record("b", 12, 32), record("a", 3, 64)]);
    closed.sort();
    assert_eq!(
        closed,
        [r#"{"m":"a","w":"1970-01-01T00:00:00Z","s":9,"n":2}"#, r#"{"m":"b","w":"1970-01-01T00:00:00Z","s":2,"n":1}"#]
    );
    assert_eq!(rejected, ["1: it came after its window was closed"]);
}

#[test]
fn what_comes_late_changes_a_result_as_long_as_that_is_allowed() {
    let mut stage = stage(&flow("LATE INTO too_late ALLOW LATENESS '5 seconds'", SUMS), "f");
    let (closed, _) = run(&mut stage, &[record("a", 1, 1), record("a", 12, 0), record("a", 2, 2)]);
    assert_eq!(
        closed,
        [r#"{"m":"a","w":"1970-01-01T00:00:00Z","s":1,"n":1}"#, r#"{"m":"a","w":"1970-01-01T00:00:00Z","s":3,"n":2}"#]
    );
    let (closed, late) = run(&mut stage, &[record("a", 17, 0), record("a", 3, 4)]);
    assert!(closed.is_empty(), "{closed:?}");
    assert_eq!(late, [r#"{"m":"a","ts":"1970-01-01T00:00:03Z","v":4}"#]);
}

#[test]
fn hopping_windows_overlap() {
    let query = "SELECT window_end AS e, avg(v) AS mean, min(v) AS least, max(m) AS last FROM HOP(s, ts, INTERVAL '5 s', INTERVAL '10 s') \
                 GROUP BY window_start, window_end HAVING count(*) > 1";
    let (closed, _) = run(
        &mut stage(&flow("", query), "f"),
        &[record("a", 1, 1), record("b", 6, 2), record("c", 11, 6), record("d", 60, 0)],
    );
    assert_eq!(
        closed,
        [
            r#"{"e":"1970-01-01T00:00:10Z","mean":1.5,"least":1,"last":"b"}"#,
            r#"{"e":"1970-01-01T00:00:15Z","mean":4.0,"least":2,"last":"c"}"#
        ]
    );
}

#[test]
fn cumulative_windows_grow_to_their_length() {
    let query = "SELECT window_start AS s, window_end AS e, sum(v) AS sum \
                 FROM CUMULATE(s, ts, INTERVAL '10 s', INTERVAL '30 s') GROUP BY window_start, window_end";
    let rows =
        [record("a", 1, 1), record("a", 12, 10), record("a", 29, 100), record("a", 30, 1000), record("a", 90, 0)];
    let (closed, rejected) = run(&mut stage(&flow("", query), "f"), &rows);
    let row = |start: u32, end: &str, sum: u32| {
        format!(r#"{{"s":"1970-01-01T00:00:{start:02}Z","e":"1970-01-01T00:{end}Z","sum":{sum}}}"#)
    };
    let expected = [
        row(0, "00:10", 1),
        row(0, "00:20", 11),
        row(0, "00:30", 111),
        row(30, "00:40", 1000),
        row(30, "00:50", 1000),
        row(30, "01:00", 1000),
    ];
    assert_eq!((closed, rejected), (expected.to_vec(), vec![]));
}

#[test]
fn spreads_and_conditions_of_groups() {
    let query = "SELECT stddev(v) AS s, stddev_pop(v) AS sp, variance(v) AS v, var_pop(v) AS vp, every(v > 1) AS e, bool_or(v > 8) AS o \
                 FROM TUMBLE(s, ts, INTERVAL '10 s') GROUP BY window_start";
    let values = [2, 4, 4, 4, 5, 5, 7, 9].map(|value| record("a", 1, value));
    let one = record("a", 21, 1);
    let (closed, _) = run(&mut stage(&flow("", query), "f"), &[&values[..], &[one, record("a", 60, 0)]].concat());
    let of = |row: &str| -> serde_json::Value { serde_json::from_str(row).unwrap() };
    let many = of(&closed[0]);
    let is = |name: &str, wanted: f64| (many[name].as_f64().unwrap() - wanted).abs() < 1e-12;
    assert!(is("sp", 2.0) && is("vp", 4.0) && is("v", 32.0 / 7.0) && is("s", (32.0_f64 / 7.0).sqrt()), "{many}");
    assert_eq!((&many["e"], &many["o"]), (&true.into(), &true.into()));
    assert_eq!(closed[1], r#"{"s":null,"sp":0.0,"v":null,"vp":0.0,"e":false,"o":false}"#);
}

#[test]
fn what_is_distinct_is_there_once_in_each_window() {
    let query = "SELECT DISTINCT m, v % 2 AS odd, window_end AS e, 7 AS seven FROM TUMBLE(s, ts, INTERVAL '10 s')";
    let seconds = [(1, 1), (2, 3), (3, 2), (12, 5), (13, 5), (40, 0)];
    let rows: Vec<String> = seconds.iter().map(|(second, v)| record("a", *second, *v)).collect();
    let (mut closed, rejected) = run(&mut stage(&flow("", query), "f"), &rows);
    closed.sort();
    let row = |odd: u8, end: u8| format!(r#"{{"m":"a","odd":{odd},"e":"1970-01-01T00:00:{end}Z","seven":7}}"#);
    assert_eq!((closed, rejected), (vec![row(0, 10), row(1, 10), row(1, 20)], vec![]));
}

#[test]
fn what_is_approximate_is_near_and_what_it_keeps_is_bounded() {
    let query = "SELECT approx_count_distinct(v) AS n, approx_quantile(v, 0.5) AS p50, approx_quantile(v, 0.99) AS p99, \
                 approx_quantile(v, 0.5) FILTER (WHERE m = 'b') AS none FROM TUMBLE(s, ts, INTERVAL '10 s') GROUP BY window_end";
    let rows: Vec<String> = (0..4_000).map(|v| record("a", 1, v % 2_000)).chain([record("a", 60, 0)]).collect();
    let (closed, _) = run(&mut stage(&flow("", query), "f"), &rows);
    let row: serde_json::Value = serde_json::from_str(&closed[0]).unwrap();
    let is_near = |name: &str, wanted: f64, error: f64| (row[name].as_f64().unwrap() - wanted).abs() <= wanted * error;
    assert!(is_near("n", 2_000.0, 0.06) && is_near("p50", 999.0, 0.004) && is_near("p99", 1_979.0, 0.004), "{row}");
    assert!(row["none"].is_null(), "{row}");
    // Distinct texts of 1 MB each.
    let query = "SELECT count(DISTINCT repeat(m, 500000)) AS n FROM TUMBLE(s, ts, INTERVAL '10 s') GROUP BY window_end";
    let mut running = stage(&flow("", query), "f");
    let mut rejected = 0;
    for second in 0..80 {
        rejected += run(&mut running, &[record(&format!("{:02}", second % 70), 1, 0)]).1.len();
    }
    // 67 of the 70 fit, and those that come again add nothing.
    assert_eq!(rejected, 3);
    assert_eq!(run(&mut running, &[record("a", 60, 0)]).0, [r#"{"n":67}"#]);
}

#[test]
fn aggregates_pass_over_nulls_and_what_their_filter_refuses() {
    let query = "SELECT count(v) AS n, sum(v) FILTER (WHERE v > 1) AS big, sum(v) AS none FROM TUMBLE(s, ts, INTERVAL '10 s') \
                 WHERE m = 'a' GROUP BY window_start, window_end";
    let nothing = r#"{"m":"a","ts":"1970-01-01T00:00:02Z"}"#.to_owned();
    let (closed, _) = run(&mut stage(&flow("", query), "f"), &[record("a", 1, 1), nothing, record("a", 30, 9)]);
    assert_eq!(closed, [r#"{"n":1,"big":null,"none":1}"#]);
}

#[test]
fn a_sum_that_overflows_rejects_the_row_and_keeps_the_rest() {
    let mut stage = stage(&flow("", SUMS), "f");
    let (_, rejected) = run(&mut stage, &[record("a", 1, i64::MAX), record("a", 1, 1), record("a", 1, -1)]);
    assert_eq!(rejected, ["1: bigint out of range in sum"]);
    let (closed, _) = run(&mut stage, &[record("a", 60, 0)]);
    assert_eq!(closed, [format!(r#"{{"m":"a","w":"1970-01-01T00:00:00Z","s":{},"n":2}}"#, i64::MAX - 1)]);
}

#[test]
fn each_group_that_fails_is_told_of() {
    let query = "SELECT m, 10 / sum(v + v) AS q FROM TUMBLE(s, ts, INTERVAL '10 s') GROUP BY m, window_start";
    let nobody = r#"{"ts":"1970-01-01T00:00:02Z","v":0}"#.to_owned();
    // The row that closes the window fails, too: its value overflows.
    let rows = [record("a", 1, 0), record("b", 1, 5), nobody, record("c", 60, i64::MAX)];
    let rows: Vec<&str> = rows.iter().map(String::as_str).collect();
    let mut output = process(&mut stage(&flow("", query), "f"), &records(&rows));
    assert_eq!(lines(output.rows.as_ref()), [r#"{"m":"b","q":1}"#]);
    assert_eq!(output.rejected, [(3, "bigint out of range".to_owned())]);
    let of = |key: &str| {
        format!("the group ({key}) of the window from 1970-01-01 00:00:00 to 1970-01-01 00:00:10: division by zero")
    };
    output.failed.sort();
    assert_eq!(output.failed, [of("a"), of("null")]);
}

#[test]
fn an_argument_counts_where_its_filter_passes() {
    let query = "SELECT sum(10 / v) FILTER (WHERE v <> 0) AS s, count(*) AS n FROM TUMBLE(s, ts, INTERVAL '10 s') \
                 GROUP BY window_start";
    let rows = [record("a", 1, 0), record("b", 1, 5), record("c", 60, 1)];
    let (closed, rejected) = run(&mut stage(&flow("", query), "f"), &rows);
    assert_eq!((closed, rejected), (vec![r#"{"s":2,"n":2}"#.to_owned()], vec![]));
}

#[test]
fn a_sum_of_doubles_that_overflows_rejects_the_row() {
    for aggregate in ["sum", "avg"] {
        let query =
            format!("SELECT {aggregate}(v * 1.6e308) AS s FROM TUMBLE(s, ts, INTERVAL '10 s') GROUP BY window_start");
        let rows = [record("a", 1, 1), record("b", 1, 1), record("c", 60, 1)];
        let (closed, rejected) = run(&mut stage(&flow("", &query), "f"), &rows);
        assert_eq!(rejected, ["1: value out of range: overflow in sum"]);
        assert_eq!(closed, [r#"{"s":1.6e308}"#]);
    }
}

#[test]
fn the_texts_of_open_groups_are_bounded() {
    let large = |aggregate: &str, key: &str| {
        format!(
            "SELECT count(*) AS n, length({aggregate}) AS l FROM TUMBLE(s, ts, INTERVAL '10 s') GROUP BY {key}, window_start"
        )
    };
    for (query, taken) in [
        // A key of 1 MB is there twice, a greatest text of so much once.
        (large("max('')", "m || repeat('x', 999998)"), 33),
        (large("max(repeat(m, 500000))", "v"), 67),
        // Whatever is greater takes the place of what was there.
        (large("max(repeat(m, 500000))", "m = ''"), 100),
    ] {
        let program = flow("", &query);
        let mut running = stage(&program, "f");
        let mut rejected = 0;
        for second in 0..100 {
            let (_, refused) = run(&mut running, &[record(&format!("{second:02}"), 1, second)]);
            rejected += refused.len();
            let reason = "0: the texts in the open groups of this partition have 64 MiB, which is the most";
            assert!(refused.iter().all(|refused| refused == reason), "{refused:?}");
        }
        assert_eq!(rejected, 100 - taken, "{query}");
        // What is restored counts as before, and what is closed no longer.
        let state = snapshot(&mut running);
        let state: Vec<(u32, &[u8])> = state.iter().map(|(group, bytes)| (*group, bytes.as_slice())).collect();
        let mut again = stage(&program, "f");
        again.restore(&state).unwrap();
        for stage in [&mut running, &mut again] {
            let (_, refused) = run(stage, &[record("zz", 2, 100)]);
            assert_eq!(refused.len(), usize::from(taken < 100), "{query}");
            let (closed, _) = run(stage, &[record("zz", 60, 100), record("zz", 61, 100)]);
            assert!(!closed.is_empty());
            let (_, refused) = run(stage, &[record("zz", 62, 101)]);
            assert!(refused.is_empty(), "{refused:?}");
        }
    }
}

#[test]
fn the_state_of_another_query_is_refused() {
    let mut before = stage(&flow("", SUMS), "f");
    run(&mut before, &[record("a", 1, 1)]);
    let state = snapshot(&mut before);
    let state: Vec<(u32, &[u8])> = state.iter().map(|(group, bytes)| (*group, bytes.as_slice())).collect();
    // Another projection goes on with the same groups.
    let same = SUMS.replace("count(*) AS n", "count(*) * 2 AS twice");
    stage(&flow("", &same), "f").restore(&state).unwrap();
    // So does a stream with another column, wherever it stands.
    let wider = STREAM.replace("m text, ", "before bigint, m text, extra double, ");
    stage(&fine(&format!("{wider}CREATE FLOW f AS {SUMS}")), "f").restore(&state).unwrap();
    let program = format!("{STREAM}CREATE FLOW f AS {SUMS}");
    for other in [
        program.replace("sum(v)", "sum(v + 1)"),
        program.replace("(s, ts,", "(t, ts,").replace("STREAM s (", "STREAM t ("),
        program.replace("v bigint", "w bigint").replace("sum(v)", "sum(w)"),
        program.replace("v bigint", "v double"),
        program
            .replace("(s, ts,", "(s, at,")
            .replace("m text, ts timestamp", "m text, at timestamp")
            .replace("FOR ts AS ts", "FOR at AS at"),
    ] {
        let error = stage(&fine(&other), "f").restore(&state).unwrap_err();
        assert!(error.to_string().contains("give the flow another name"), "{other}: {error}");
    }
}

/// What the first version wrote of two rows. Another text here means that running flows refuse the state that they have:
/// write a new version of the format instead.
const FIRST_STATE: [&str; 3] = [
    "18:019985b4a1a0c580fdf0010180dac409050101030161010103016102010102000200",
    "95:019985b4a1a0c580fdf0010180dac40905010103016201010301620201010a000200",
    "128:019985b4a1a0c580fdf001000100",
];

#[test]
fn state_of_the_first_version_is_gone_on_with() {
    let rows = [record("a", 1, 1), record("b", 2, 5)];
    let mut before = stage(&flow("", SUMS), "f");
    run(&mut before, &rows);
    let written: Vec<String> =
        snapshot(&mut before).iter().map(|(group, bytes)| format!("{group}:{}", hex(bytes))).collect();
    assert_eq!(written, FIRST_STATE);
    let read: Vec<(u32, Vec<u8>)> = FIRST_STATE.iter().map(|line| part(line)).collect();
    let read: Vec<(u32, &[u8])> = read.iter().map(|(group, bytes)| (*group, bytes.as_slice())).collect();
    let mut restored = stage(&flow("", SUMS), "f");
    restored.restore(&read).unwrap();
    let (mut closed, _) = run(&mut restored, &[record("a", 3, 2), record("c", 12, 0)]);
    closed.sort();
    assert_eq!(
        closed,
        [r#"{"m":"a","w":"1970-01-01T00:00:00Z","s":3,"n":2}"#, r#"{"m":"b","w":"1970-01-01T00:00:00Z","s":5,"n":1}"#]
    );
}

/// A part of a state, as it is written here.
fn part(line: &str) -> (u32, Vec<u8>) {
    let (group, hex) = line.split_once(':').unwrap();
    let bytes = (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap());
    (group.parse().unwrap(), bytes.collect())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn snapshot(stage: &mut Stage) -> Vec<(u32, Vec<u8>)> {
    let all: Vec<u32> = (0..=128).collect();
    stage.snapshot(&all).into_iter().filter(|(_, bytes)| !bytes.is_empty()).collect()
}

/// What the rows come to, in batches, after each of which the stage may be made anew from its changed state.
fn in_batches(program: &Program, rows: &[String], sizes: &[usize], restart: bool) -> (Vec<String>, usize) {
    let mut running = stage(program, "f");
    let mut state: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
    let (mut out, mut refused, mut from) = (Vec::new(), 0, 0);
    let mut sizes = sizes.iter().copied().cycle();
    while from < rows.len() {
        let to = (from + sizes.next().unwrap()).min(rows.len());
        let batch: Vec<&str> = rows[from..to].iter().map(String::as_str).collect();
        let output = process(&mut running, &records(&batch));
        out.extend(lines(output.rows.as_ref()));
        refused += output.rejected.len();
        state.extend(running.snapshot(&output.dirty));
        if restart {
            running = stage(program, "f");
            let state: Vec<(u32, &[u8])> = state.iter().map(|(group, bytes)| (*group, bytes.as_slice())).collect();
            running.restore(&state).unwrap();
        }
        from = to;
    }
    (out, refused)
}

/// The same by the book: every group of every window that the last watermark passed, from the rows that were not late.
fn by_the_book(rows: &[(u8, i64, i64)], size: i64, slide: i64) -> BTreeMap<(i64, u8), (i64, i64)> {
    let mut groups: BTreeMap<(i64, u8), (i64, i64)> = BTreeMap::new();
    let mut watermark = i64::MIN;
    for (m, second, v) in rows {
        for start in (-size..=*second).filter(|start| start % slide == 0 && *second < start + size) {
            if start + size > watermark {
                let group = groups.entry((start, *m)).or_default();
                *group = (group.0 + v, group.1 + 1);
            }
        }
        watermark = watermark.max(second - 2);
    }
    groups.retain(|(start, _), _| start + size <= watermark);
    groups
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn neither_batches_nor_restarts_change_a_result(
        rows in proptest::collection::vec((0u8..4, 0i64..120, -9i64..9), 1..80),
        sizes in proptest::collection::vec(1usize..20, 1..5),
        hops in any::<bool>(),
    ) {
        let (call, size, slide) = match hops {
            true => ("HOP(s, ts, INTERVAL '4 s', INTERVAL '10 s')", 10, 4),
            false => ("TUMBLE(s, ts, INTERVAL '10 s')", 10, 10),
        };
        let query = SUMS.replace("TUMBLE(s, ts, INTERVAL '10 seconds')", call);
        let program = flow("", &query);
        let texts: Vec<String> = rows.iter().map(|(m, second, v)| record(&m.to_string(), *second, *v)).collect();
        let whole = in_batches(&program, &texts, &[texts.len()], false);
        prop_assert_eq!(&whole, &in_batches(&program, &texts, &sizes, true));
        let mut book: Vec<String> = by_the_book(&rows, size, slide)
            .into_iter()
            .map(|((start, m), (s, n))| {
                // Windows that begin before 1970 do so in its last minute.
                let (minute, second) = (start.rem_euclid(3_600) / 60, start.rem_euclid(60));
                let hour = if start < 0 { "1969-12-31T23" } else { "1970-01-01T00" };
                format!(r#"{{"m":"{m}","w":"{hour}:{minute:02}:{second:02}Z","s":{s},"n":{n}}}"#)
            })
            .collect();
        let mut ours = whole.0;
        book.sort();
        ours.sort();
        prop_assert_eq!(ours, book);
    }
}

/// The rows of so many keys at a second, in an order that is not theirs.
fn many(keys: i64, second: i64) -> impl Iterator<Item = String> {
    (0..keys).map(move |key| record(&format!("m{}", key * 7_919 % keys), second, key))
}

/// What a stage comes to in batches of a size, put out further so often between two of them, made anew after each step if it is to be.
fn in_steps(program: &Program, rows: &[String], size: usize, further: usize, restarts: bool) -> Vec<String> {
    let mut running = stage(program, "f");
    let (mut state, mut out, mut has_waited) = (BTreeMap::new(), Vec::new(), false);
    let mut step = |running: &mut Stage, rows: Option<&[String]>| {
        let output = match rows {
            Some(rows) => process(running, &records(&rows.iter().map(String::as_str).collect::<Vec<_>>())),
            None => running.go_on().unwrap(),
        };
        assert_eq!((output.rejected, output.failed), (vec![], vec![]));
        // All parts that many keys are in have some groups.
        let count = output.rows.as_ref().map_or(0, |rows| rows.num_rows());
        assert!(count < 4_096 + 4_096 / 8, "{count}");
        out.extend(lines(output.rows.as_ref()));
        state.extend(running.snapshot(&output.dirty));
        has_waited |= running.has_more();
        if restarts {
            let state: Vec<(u32, &[u8])> =
                state.iter().map(|(group, bytes): (&u32, &Vec<u8>)| (*group, bytes.as_slice())).collect();
            *running = stage(program, "f");
            running.restore(&state).unwrap();
        }
        running.has_more()
    };
    for rows in rows.chunks(size) {
        step(&mut running, Some(rows));
        for _ in 0..further {
            step(&mut running, None);
        }
    }
    while step(&mut running, None) {}
    assert!(has_waited, "there was nothing to put out later");
    out
}

#[test]
fn a_window_of_many_groups_is_put_out_step_by_step_however_the_steps_are_cut() {
    let keys = 9_000;
    // Each of the windows is closed while the one before is still being put out, if the steps are large.
    let rows: Vec<String> =
        many(keys, 1).chain(many(keys, 12)).chain([record("z", 24, 0), record("z", 40, 0)]).collect();
    let program = flow("", SUMS);
    let one = in_steps(&program, &rows, 4_000, 0, false);
    for (size, further, restarts) in [(4_000, 1, true), (1_500, 0, true), (1_500, 3, false)] {
        let other = in_steps(&program, &rows, size, further, restarts);
        assert!(one == other, "batches of {size}, {further} steps between them");
    }
    assert_eq!(one.len(), 2 * keys as usize + 1);
    let mut keyed: Vec<&String> = one.iter().collect();
    keyed.sort();
    keyed.dedup();
    assert_eq!(keyed.len(), one.len());
}

#[test]
fn a_late_row_changes_nothing_that_is_to_be_put_out() {
    let program = flow("ALLOW LATENESS '5 seconds'", SUMS);
    let closed = || {
        let mut running = stage(&program, "f");
        assert!(run(&mut running, &many(9_000, 1).collect::<Vec<_>>()).0.is_empty());
        let (out, _) = run(&mut running, &[record("z", 12, 0)]);
        assert!(running.has_more() && out.len() < 5_000, "{} rows", out.len());
        (running, out)
    };
    let late = [record("m17", 2, 1_000_000)];
    let (mut running, mut out) = closed();
    while running.has_more() {
        out.extend(lines(running.go_on().unwrap().rows.as_ref()));
    }
    assert_eq!(out.len(), 9_000);
    let (again, _) = run(&mut running, &late);
    assert!(again.len() == 1 && again[0].contains(r#""n":2"#), "{again:?}");
    out.extend(again);
    // The same where the late row comes before all is out, and to one that went on from the state.
    let (mut running, mut other) = closed();
    let state = snapshot(&mut running);
    let state: Vec<(u32, &[u8])> = state.iter().map(|(group, bytes)| (*group, bytes.as_slice())).collect();
    let mut running = stage(&program, "f");
    running.restore(&state).unwrap();
    other.extend(run(&mut running, &late).0);
    assert!(!running.has_more());
    assert!(out == other, "{} and {} rows", out.len(), other.len());
}

#[test]
fn a_result_is_as_much_out_of_order_as_what_it_is_selected_from() {
    let gathered = "CREATE FLOW gathered AS SELECT v, ts AS moment, m FROM s WHERE v < 9; \
                    CREATE FLOW f AS SELECT sum(v) AS v FROM TUMBLE(gathered, moment, INTERVAL '10 s') GROUP BY window_start";
    let program = fine(&format!("{STREAM}{gathered}"));
    let rows = [record("a", 1, 1), record("a", 11, 0), record("a", 9, 2), record("a", 12, 0)];
    let rows: Vec<&str> = rows.iter().map(String::as_str).collect();
    let output = process(&mut stage(&program, "f"), &gather(&program, &rows));
    assert_eq!((lines(output.rows.as_ref()), output.rejected), (vec![r#"{"v":3}"#.to_owned()], vec![]));
    // One that is declared counts, as for any stream.
    let declared = "CREATE STREAM gathered (v bigint, moment timestamp, m text, WATERMARK FOR moment AS moment);";
    let program = fine(&format!("{STREAM}{declared}{gathered}"));
    let output = process(&mut stage(&program, "f"), &gather(&program, &rows));
    assert_eq!(output.rejected, [(2, "it came after its window was closed".to_owned())]);
}

/// What the flow of that name makes of rows.
fn gather(program: &Program, rows: &[&str]) -> arrow_array::RecordBatch {
    process(&mut stage(program, "gathered"), &records(rows)).rows.unwrap()
}
