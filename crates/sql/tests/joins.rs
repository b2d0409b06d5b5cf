//! Joins: which pairs there are, and which rows come out alone, is what all rows that are not late come to, whatever comes first, in
//! whatever batches, and however often a stage goes on from its state.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::disallowed_methods, clippy::expect_used)]

mod common;

use common::sides::{COLUMNS, Line, a_way, batch, in_time, in_turn, onward, run, run_over, statements, told, whole};
use common::{Running, app, fine, lines, mistakes, process, records, stage_of};
use littoral_model::manifest::{Partitioning, Sink};
use littoral_sql::{Program, expand};
use proptest::prelude::*;

/// How many rows are late whose values are no less.
fn late(sources: &[Vec<Line>], delay: i64, least: i64) -> usize {
    let in_time: Vec<Line> = sources.iter().flat_map(|of| in_time(std::slice::from_ref(of), delay).0).collect();
    let count = |rows: &mut dyn Iterator<Item = &Line>| rows.filter(|(_, _, v)| *v >= least).count();
    count(&mut sources.iter().flatten()) - count(&mut in_time.iter())
}

const SELECT: &str = "SELECT a.m AS am, a.ts AS at, a.v AS av, b.m AS bm, b.ts AS bt, b.v AS bv FROM l AS a";

/// By the book: each left row with each right row.
fn by_the_book(sources: [&[Vec<Line>]; 2], kind: &str, (low, high): (i64, i64)) -> Vec<String> {
    let (left, left_least) = in_time(sources[0], 2);
    let (right, right_least) = in_time(sources[1], 3);
    let joins = |a: &Line, b: &Line| {
        a.0 == b.0 && a.0 != 3 && (low..=high).contains(&(b.1 - a.1)) && a.2 + b.2 != 3 && b.2 > -8
    };
    let (of_left, of_right) = (["LEFT", "FULL"].contains(&kind), ["RIGHT", "FULL"].contains(&kind));
    // What WHERE leaves: rows alone have no value on one side.
    let is_wanted = |a: Option<&Line>, b: Option<&Line>| match (a, b) {
        (Some(a), Some(b)) => a.2 != b.2,
        _ => true,
    };
    let mut told_of = Vec::new();
    for a in &left {
        told_of.extend(right.iter().filter(|b| joins(a, b)).map(|b| (Some(a), Some(b))));
        if of_left && a.1 + high < right_least && !right.iter().any(|b| joins(a, b)) {
            told_of.push((Some(a), None));
        }
    }
    let alone = |b: &&Line| b.1 - low < left_least && !left.iter().any(|a| joins(a, b));
    told_of.extend(right.iter().filter(|_| of_right).filter(alone).map(|b| (None, Some(b))));
    let mut rows: Vec<String> =
        told_of.into_iter().filter(|(a, b)| is_wanted(*a, *b)).map(|(a, b)| told(a, b)).collect();
    rows.sort();
    rows
}

fn query(kind: &str, (low, high): (i64, i64)) -> String {
    format!(
        "{SELECT} {kind} JOIN r AS b ON a.m = b.m AND a.v + b.v <> 3 AND b.v > -8 \
         AND b.ts BETWEEN a.ts + INTERVAL '{low} s' AND a.ts + INTERVAL '{high} s' WHERE a.v IS DISTINCT FROM b.v"
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn pairs_are_those_of_all_rows_whatever_comes_first(
        left in onward(1..4),
        right in onward(1..4),
        kind in prop::sample::select(vec!["INNER", "LEFT", "RIGHT", "FULL"]),
        low in -12i64..4,
        length in 0i64..14,
        keyed in 1usize..6,
        way in a_way(),
    ) {
        let bounds = (low, low + length);
        let sources = [left.as_slice(), right.as_slice()];
        let clauses = format!("PARTITIONS {keyed} LATE INTO too_late");
        let program = fine(&statements([left.len(), right.len()], &clauses, &query(kind, bounds)));
        let one = run_over(&program, sources, keyed, &way).sorted();
        prop_assert_eq!(&one.rows, &by_the_book(sources, kind, bounds));
        prop_assert_eq!(&one, &run_over(&program, sources, keyed, &whole()).sorted());
        prop_assert_eq!(&one.rejected, &Vec::<String>::new());
        // What does not count is not late either: rows of the right side, unless they come out alone.
        let least = if ["RIGHT", "FULL"].contains(&kind) { -9 } else { -7 };
        prop_assert_eq!(one.late.len(), late(&left, 2, -9) + late(&right, 3, least));
    }
}

const NEAR: &str = "b.ts BETWEEN a.ts - INTERVAL '5 s' AND a.ts + INTERVAL '5 s'";

#[test]
fn a_row_alone_comes_out_when_its_interval_is_over_and_not_before() {
    let query = format!("SELECT a.v AS a, b.v AS b FROM l AS a LEFT JOIN r AS b ON a.m = b.m AND {NEAR}");
    let program = fine(&statements([1, 1], "", &query));
    // The watermark of the right side is 3 s behind: at 18 it is at the end of the interval, at 19 past it.
    let begin = [('l', (0, 10, 1)), ('l', (3, 10, 2)), ('r', (1, 18, 3))];
    assert_eq!(in_turn(&program, &begin).rows, Vec::<String>::new());
    let came = in_turn(&program, &[&begin[..], &[('r', (0, 15, 4)), ('r', (1, 19, 5))]].concat());
    assert_eq!(came.rows, [r#"{"a":1,"b":4}"#, r#"{"a":2,"b":null}"#]);
}

#[test]
fn intervals_are_read_in_whatever_form_they_are_written() {
    let row = |second: i64| ('r', (0, second, second));
    let rows: Vec<(char, Line)> = std::iter::once(('l', (0, 10, 0))).chain((8..=16).map(row)).collect();
    for (condition, expected) in [
        (NEAR, 8..=15),
        ("a.ts BETWEEN b.ts - INTERVAL '5 s' AND b.ts + INTERVAL '1 s'", 9..=15),
        ("a.ts = b.ts", 10..=10),
        ("b.ts >= a.ts AND b.ts < a.ts + INTERVAL '3 s'", 10..=12),
        ("a.ts >= b.ts - INTERVAL '2 seconds' AND a.ts <= b.ts + INTERVAL '1 seconds'", 9..=12),
        ("b.ts - a.ts BETWEEN INTERVAL '1 s' AND INTERVAL '2 s'", 11..=12),
        ("a.ts - b.ts > INTERVAL '-3 s' AND INTERVAL '0 s' > a.ts - b.ts AND b.ts < a.ts + INTERVAL '1 h'", 11..=12),
    ] {
        // Of inner joins ON and WHERE say the same.
        for clause in ["AND", "WHERE"] {
            let query = format!("SELECT b.v FROM l AS a JOIN r AS b ON a.m = b.m {clause} {condition}");
            let came = in_turn(&fine(&statements([1, 1], "", &query)), &rows);
            let expected: Vec<String> = expected.clone().map(|second| format!(r#"{{"v":{second}}}"#)).collect();
            assert_eq!(came.rows, expected, "{condition}");
        }
    }
}

#[test]
fn a_stream_is_joined_with_itself_by_expressions_of_other_types() {
    let query = "SELECT one.v, other.v AS w, other.* FROM l AS one JOIN l AS other \
                 ON one.v = other.v / 2.0 AND upper(one.m) = upper(other.m) AND other.ts = one.ts";
    let text = format!("CREATE STREAM l ({COLUMNS} '2 seconds'); CREATE FLOW f AS {query}");
    assert!(mistakes(&text).contains("the result has two columns `v`"), "{}", mistakes(&text));
    let program = fine(&text.replace("other.v AS w, other.*", "other.v AS w, other.m, upper(one.m) AS big"));
    let rows: Vec<Line> = vec![(0, 1, 3), (0, 1, 6), (0, 1, 7), (1, 1, 6), (0, 2, 6)];
    let sources = [rows];
    let came = run(&program, [&sources, &sources], &whole());
    assert_eq!(came.rows, [r#"{"v":3,"w":6,"m":"m0","big":"M0"}"#]);
}

#[test]
fn what_fails_on_a_pair_rejects_that_pair_alone() {
    let on = format!("a.m = b.m AND {NEAR} AND 10 / (a.v - b.v) > 0");
    let query = format!("SELECT a.v AS a, b.v AS b, 100 / b.v AS c FROM l AS a LEFT JOIN r AS b ON {on}");
    let program = fine(&statements([1, 1], "", &query));
    let rows =
        [('l', (0, 1, 4)), ('r', (0, 1, 4)), ('l', (0, 2, 9)), ('r', (0, 2, 0)), ('l', (1, 1, 7)), ('r', (1, 30, 0))];
    let came = in_turn(&program, &rows);
    // The first left row is not alone, for nobody knows: it fails with the first right row, and then what it comes to with the other.
    let expected = [r#"{"a":9,"b":4,"c":25}"#, r#"{"a":7,"b":null,"c":null}"#];
    assert_eq!(came.rows, expected);
    let reasons = [
        "the pair of its key of 1970-01-01 00:00:01 and 1970-01-01 00:00:01: division by zero",
        "the pair of its key of 1970-01-01 00:00:01 and 1970-01-01 00:00:02: division by zero",
        "the pair of its key of 1970-01-01 00:00:02 and 1970-01-01 00:00:02: division by zero",
    ];
    assert_eq!(came.rejected, reasons);
}

#[test]
fn a_guard_of_one_side_holds_for_what_the_other_computes() {
    let query = format!("SELECT a.v FROM l AS a JOIN r AS b ON a.m = b.m AND {NEAR} WHERE b.v > 0 AND 10 / a.v > 2");
    let rows = [('l', (0, 1, 0)), ('r', (0, 1, 0)), ('l', (0, 2, 3)), ('r', (0, 2, 1))];
    let came = in_turn(&fine(&statements([1, 1], "", &query)), &rows);
    // The row with zero fails where it makes a pair that counts, and nowhere else.
    assert_eq!(came.rows, [r#"{"v":3}"#]);
    assert_eq!(came.rejected.len(), 1, "{came:?}");
    let query = query.replace("b.v > 0 AND 10 / a.v > 2", "a.v <> 0 AND 10 / a.v > 2");
    let program = fine(&statements([1, 1], "", &query));
    let left = program.flows[&"f-left".parse().unwrap()].plan.operators();
    assert!(left.contains(&"filter".to_owned()), "{left:?}");
    assert_eq!(in_turn(&program, &rows).rejected, Vec::<String>::new());
}

#[test]
fn a_side_that_is_idle_is_not_waited_for_until_it_says_something() {
    let query = format!("SELECT a.v AS a, b.v AS b FROM l AS a LEFT JOIN r AS b ON a.m = b.m AND {NEAR}");
    let program = fine(&statements([1, 2], "IDLE AFTER '30 s'", &query));
    let idle = |partition| stage_of(&program, "f-right", partition).idle().unwrap().spread;
    let taken = |flow: &str, partition: u32, rows: &[Line]| {
        process(&mut stage_of(&program, flow, partition), &batch(rows)).spread
    };
    let left = taken("f-left", 0, &[(0, 10, 1), (0, 40, 2)]);
    let both = [idle(0), idle(1)];
    // The left side went on to 38 without it: so far is the right one, too.
    let late = taken("f-right", 1, &[(0, 30, 5), (0, 36, 6), (0, 39, 7)]);
    for restarts in [false, true] {
        let (mut rows, mut rejected) = (Vec::new(), Vec::new());
        let mut joins = [0, 1].map(|to| Running::new(&program, "f", to, restarts));
        for (to, batch) in left.iter().chain(both.iter().flatten()).chain(&late) {
            let output = joins[*to as usize].take(batch);
            rows.extend(lines(output.rows.as_ref()));
            rejected.extend(output.rejected.into_iter().map(|(_, reason)| reason));
        }
        assert_eq!(rows, [r#"{"a":1,"b":null}"#, r#"{"a":2,"b":7}"#]);
        assert_eq!(rejected, ["it is older than the watermark, which went on while its partition was idle"; 2]);
    }
}

#[test]
fn late_rows_go_to_their_stream_or_are_rejected() {
    let query = format!("SELECT a.v AS a, b.v AS b FROM l AS a JOIN r AS b ON a.m = b.m AND {NEAR}");
    let rows = [
        ('l', (0, 30, 1)),
        ('l', (0, 28, 2)),
        ('l', (0, 27, 3)),
        ('r', (0, 27, 4)),
        ('r', (0, 10, 5)),
        ('r', (0, 3, 6)),
    ];
    let came = in_turn(&fine(&statements([1, 1], "LATE INTO too_late", &query)), &rows);
    assert_eq!(came.rows, [r#"{"a":2,"b":4}"#, r#"{"a":1,"b":4}"#]);
    let late = |second: i64, v: i64| format!(r#"{{"m":"m0","ts":"1970-01-01T00:00:{second:02}Z","v":{v}}}"#);
    assert_eq!(came.late, [late(27, 3), late(10, 5), late(3, 6)]);
    let came = in_turn(&fine(&statements([1, 1], "", &query)), &rows);
    assert_eq!(came.rejected, ["it is older than the watermark of its partition"; 3]);
}

#[test]
fn what_is_kept_is_bounded_and_given_back() {
    let query = format!("SELECT a.v AS a, b.v AS b FROM l AS a JOIN r AS b ON a.m = b.m AND {NEAR}");
    let text = |m: &str, second: i64| {
        format!(r#"{{"m":"{m}","ts":"1970-01-01T00:{:02}:{:02}Z","v":1}}"#, second / 60, second % 60)
    };
    let program = fine(&statements([1, 1], "", &query));
    let (mut left, mut right) = (stage_of(&program, "f-left", 0), stage_of(&program, "f-right", 0));
    let mut join = Running::new(&program, "f", 0, false);
    let mut take = |join: &mut Running<'_>, is_left: bool, m: &str, second: i64| {
        let stage = if is_left { &mut left } else { &mut right };
        let sent = process(stage, &records(&[&text(m, second)])).spread;
        let outputs = sent.iter().map(|(_, rows)| join.take(rows)).collect::<Vec<_>>();
        let rows: Vec<String> = outputs.iter().flat_map(|output| lines(output.rows.as_ref())).collect();
        (
            rows.len(),
            outputs.into_iter().flat_map(|output| output.rejected).map(|(_, reason)| reason).collect::<Vec<_>>(),
        )
    };
    // The key is long: three rows of it fill their part of the state.
    let long = "k".repeat(1_300_000);
    for _ in 0..3 {
        assert_eq!(take(&mut join, true, &long, 10), (0, vec![]));
    }
    let full = "the rows of its key group and time that wait for others have 4 MiB, which is the most";
    assert_eq!(take(&mut join, true, &long, 10), (0, vec![full.to_owned()]));
    // Another time is another part; and a row that nobody will come for needs no room.
    assert_eq!(take(&mut join, true, &long, 12), (0, vec![]));
    assert_eq!(take(&mut join, false, &long, 14), (4, vec![]));
    let kept = |join: &Running<'_>| join.state.values().map(Vec::len).sum::<usize>();
    assert!(kept(&join) > 6_000_000, "{}", kept(&join));
    assert_eq!(take(&mut join, false, "m", 59), (0, vec![]));
    assert_eq!(take(&mut join, true, "m", 58), (1, vec![]));
    assert!(kept(&join) < 10_000, "{}", kept(&join));
}

#[test]
fn one_row_makes_thousands_of_pairs_and_ends_thousands_of_intervals() {
    let query =
        format!("SELECT a.v AS a, b.v AS b FROM l AS a LEFT JOIN r AS b ON a.m = b.m AND {NEAR} AND a.v >= 10000");
    let program = fine(&statements([1, 1], "", &query));
    let many: Vec<Line> = (0..20_000).map(|v| (0, 10, v)).collect();
    let mut left = stage_of(&program, "f-left", 0);
    let mut right = stage_of(&program, "f-right", 0);
    let mut join = Running::new(&program, "f", 0, true);
    let mut taken = |stage: &mut littoral_sql::Stage, rows: &[Line]| {
        let sent = process(stage, &batch(rows)).spread;
        sent.iter().flat_map(|(_, rows)| lines(join.take(rows).rows.as_ref())).collect::<Vec<_>>()
    };
    assert_eq!(taken(&mut left, &many), Vec::<String>::new());
    assert_eq!(taken(&mut right, &[(0, 12, 1)]).len(), 10_000);
    // What is over comes out in portions, so that it fits into commits, and all of it in the end.
    let (first, second) = (taken(&mut right, &[(0, 40, 2)]), taken(&mut right, &[(0, 41, 2)]));
    let mut alone = [first.clone(), second, taken(&mut right, &[(0, 42, 2)])].concat();
    assert!(first.len() < 10_000, "{}", first.len());
    alone.sort();
    alone.dedup();
    assert_eq!(alone.len(), 10_000);
}

#[test]
fn a_join_is_three_flows_with_a_stream_between() {
    let query = format!("SELECT a.v AS a, a.ts, b.v AS b FROM l AS a JOIN r AS b ON a.m = b.m AND {NEAR}");
    let clauses = "WITHIN '5 s' KEEP IN REGION 'eu' PREFER edge DEAD LETTER INTO bad LATE INTO too_late";
    let mut manifest = app(&statements([2, 20], clauses, &query));
    let program = expand(&mut manifest).unwrap();
    let flow = |name: &str| manifest.flows[&name.parse().unwrap()].clone();
    let names = ["f-left", "f-right", "f"];
    assert_eq!(names.map(|name| flow(name).source.to_string()), ["l", "r", "f-by-key"]);
    let sinks = ["f-by-key", "f-by-key", "f"].map(|name| Some(Sink::Stream(name.parse().unwrap())));
    assert_eq!(names.map(|name| flow(name).sink), sinks);
    assert_eq!(names.map(|name| flow(name).outputs.len()), [1, 1, 0]);
    assert!(names.iter().all(|name| flow(name).dead_letter.is_some() && flow(name).slo.is_some()));
    let between = &manifest.streams[&"f-by-key".parse().unwrap()];
    assert_eq!((between.partitions, between.placement.region.iter().count()), (Some(16), 1));
    let mut said = app(&statements([2, 20], "PARTITIONS 3", &query));
    expand(&mut said).unwrap();
    assert_eq!(said.streams[&"f-by-key".parse().unwrap()].partitions, Some(3));
    let query = |name: &str| manifest.queries[&name.parse().unwrap()].partitioning;
    assert_eq!(names.map(query), [Partitioning::ByKey(2), Partitioning::ByKey(20), Partitioning::Any]);
    assert!(program.flows.values().all(|flow| flow.statement.as_str() == "f"));
    let operators = |name: &str| program.flows[&name.parse().unwrap()].plan.operators().join("\n");
    insta::assert_snapshot!(names.map(operators).join("\n\n"), @r#"
    decode m text, ts timestamp, v bigint
    spread by 1 keys over 16 partitions, watermark 2 s behind
    project partition bigint, watermark timestamp, moment timestamp, key_1 text, argument_1 bigint

    decode m text, ts timestamp, v bigint
    spread by 1 keys over 16 partitions, watermark 3 s behind
    project partition bigint, watermark timestamp, moment timestamp, key_1 text, argument_1 bigint

    decode partition bigint, watermark timestamp, moment timestamp, key_1 text, argument_1 bigint
    inner join by 1 keys, the right row -5 s to 5 s after the left one, watermarks the least of 2 and of 20 partitions
    project a bigint, ts timestamp, b bigint
    "#);
}

#[test]
fn the_moments_of_a_result_are_as_far_out_of_order_as_the_interval_lets_them_be() {
    let behind = |column: &str| {
        let join = format!("SELECT {column} AS ts FROM l AS a JOIN r AS b ON a.m = b.m AND {NEAR}");
        let windows =
            "CREATE FLOW n AS SELECT window_end, count(*) AS n FROM TUMBLE(f, ts, INTERVAL '1 s') GROUP BY window_end";
        let program = fine(&format!("{}; {windows}", statements([1, 1], "", &join)));
        program.flows[&"n".parse().unwrap()].plan.operators().join("\n")
    };
    // The other side's delay and the length of the interval.
    assert!(behind("a.ts").contains("watermark 13 s behind"), "{}", behind("a.ts"));
    assert!(behind("b.ts").contains("watermark 12 s behind"), "{}", behind("b.ts"));
}

#[test]
fn the_state_of_another_join_is_refused() {
    let query = |select: &str, near: &str| format!("SELECT {select} FROM l AS a JOIN r AS b ON a.m = b.m AND {near}");
    let program = |partitions, query: &str| fine(&statements(partitions, "", query));
    let before = program([1, 1], &query("a.v", NEAR));
    let sent = process(&mut stage_of(&before, "f-left", 0), &batch(&[(0, 1, 1)])).spread;
    let mut join = Running::new(&before, "f", 0, false);
    join.take(&sent[0].1);
    let state: Vec<(u32, &[u8])> = join.state.iter().map(|(part, bytes)| (*part, bytes.as_slice())).collect();
    let restore = |program: &Program| stage_of(program, "f", 0).restore(&state);
    // What is computed of the same columns may change, and conditions of one side or of pairs.
    restore(&program([1, 1], &query("a.v + 1 AS v", &format!("{NEAR} AND b.v > 3 AND a.v > 3")))).unwrap();
    let far = NEAR.replace("5 s", "6 s");
    for (partitions, query) in [
        ([1, 1], query("a.v, b.v AS w", NEAR)),
        ([1, 1], query("a.v", &far)),
        ([1, 2], query("a.v", NEAR)),
        ([1, 1], query("a.v", NEAR).replace("a JOIN", "a LEFT JOIN")),
        ([1, 1], query("a.v", NEAR).replace("a.m = b.m", "upper(a.m) = upper(b.m)")),
    ] {
        let error = restore(&program(partitions, &query)).unwrap_err();
        assert!(error.to_string().contains("give the flow another name"), "{query}: {error}");
    }
}

#[test]
fn mistakes_say_how_to_write_it() {
    let of = |from: &str| mistakes(&statements([1, 1], "", &format!("SELECT a.v FROM {from}")));
    let near = format!("a.m = b.m AND {NEAR}");
    let told = [
        of("l AS a JOIN r AS b ON a.m = b.m"),
        of("l AS a JOIN r AS b ON a.m = b.m AND b.ts > a.ts"),
        of(&format!("l AS a JOIN r AS b ON {NEAR}")),
        of(&format!("l AS a JOIN r AS b ON {} AND m = 'x'", near)),
        of(&format!("l AS a JOIN r AS b ON {}", near.replace("b.ts B", "c.ts B"))),
        of(&format!("l AS a JOIN r AS b ON {}", near.replace("b.m", "b.n"))),
        of("l AS a JOIN r AS b ON a.m = b.m AND b.ts BETWEEN a.ts + INTERVAL '1 s' AND a.ts"),
        of("l AS a LEFT JOIN r AS b ON a.m = b.m WHERE b.ts = a.ts"),
        of(&format!("l AS a JOIN r AS b ON {near} GROUP BY a.v")),
        of(&format!("TUMBLE(l, ts, INTERVAL '1 s') AS a JOIN r AS b ON {near}")),
        of("l AS a JOIN r AS b USING (m)"),
        of("l AS a CROSS JOIN r AS b"),
        of("l AS a, r AS b"),
        of(&format!("l AS a JOIN r AS b ON {near} JOIN l AS c ON true")),
        of("l AS a JOIN l AS a ON true"),
    ];
    insta::assert_snapshot!(told.map(|told| told.lines().filter(|line| !line.contains("CREATE STREAM")).collect::<Vec<_>>().join("\n")).join("\n"), @r#"
    error[unbounded]: rows would be kept for ever, for nothing says how far apart the moments of both rows of a pair may be
     --> flows.sql:1:267
      |
    1 |  FLOW f  AS SELECT a.v FROM l AS a JOIN r AS b ON a.m = b.m
      |                                         ^^^^^^^^^^^^^^^^^^^
      = help: add to ON: AND b.ts BETWEEN a.ts - INTERVAL '5 seconds' AND a.ts + INTERVAL '5 seconds'

    error[unbounded]: rows would be kept for ever, for nothing says how much later a row of `b` may be than one of `a`
     --> flows.sql:1:267
      |
    1 |  FLOW f  AS SELECT a.v FROM l AS a JOIN r AS b ON a.m = b.m AND b.ts > a.ts
      |                                         ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
      = help: add to ON: AND b.ts BETWEEN a.ts - INTERVAL '5 seconds' AND a.ts + INTERVAL '5 seconds'

    error[unbounded]: rows come together by what is equal on both sides, and nothing is
     --> flows.sql:1:267
      |
    1 |  FLOW f  AS SELECT a.v FROM l AS a JOIN r AS b ON b.ts BETWEEN a.ts - INTERVAL '5 s' AND a.ts + INTERVAL '5 s'
      |                                         ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
      = help: add to ON what is equal, as a.m = b.m

    error[ambiguous]: both sides of the join have a column `m`
     --> flows.sql:1:356
      |
    1 | VAL '5 s' AND a.ts + INTERVAL '5 s' AND m = 'x'
      |                                         ^ expected `a.m` or `b.m`

    error[unknown-name]: the query reads no stream `c`
     --> flows.sql:1:291
      |
    1 | ROM l AS a JOIN r AS b ON a.m = b.m AND c.ts BETWEEN a.ts - INTERVAL '5 s' AND a.ts + INTERVAL '5 s'
      |                                         ^ expected `a` or `b`

    error[unknown-name]: there is no column `n`
     --> flows.sql:1:285
      |
    1 |  a.v FROM l AS a JOIN r AS b ON a.m = b.n AND b.ts BETWEEN a.ts - INTERVAL '5 s' AND a.ts + INTERVAL '5 s'
      |                                         ^ expected one of m, ts, v

    error[contradiction]: no two rows are within this interval
     --> flows.sql:1:267
      |
    1 |  FLOW f  AS SELECT a.v FROM l AS a JOIN r AS b ON a.m = b.m AND b.ts BETWEEN a.ts + INTERVAL '1 s' AND a.ts
      |                                         ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
      = help: let the first bound of b.ts be the lower one

    error[unbounded]: rows would be kept for ever, for nothing says how far apart the moments of both rows of a pair may be
     --> flows.sql:1:272
      |
    1 |  f  AS SELECT a.v FROM l AS a LEFT JOIN r AS b ON a.m = b.m WHERE b.ts = a.ts
      |                                         ^^^^^^^^^^^^^^^^^^^
      = help: add to ON: AND b.ts BETWEEN a.ts - INTERVAL '5 seconds' AND a.ts + INTERVAL '5 seconds'

    error[unsupported]: a flow cannot join and group in one
     --> flows.sql:1:361
      |
    1 | 5 s' AND a.ts + INTERVAL '5 s' GROUP BY a.v
      |                                         ^^^
      = help: make the join a flow of its own, and read its result

    error[unsupported]: a join reads streams themselves
     --> flows.sql:1:255
      |
    1 | NS 1; CREATE FLOW f  AS SELECT a.v FROM TUMBLE(l, ts, INTERVAL '1 s') AS a JOIN r AS b ON a.m = b.m AND b.ts BETWEEN a.ts - INTERVAL '5 s' AND a.ts + INTERVAL '5 s'
      |                                         ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
      = help: make what it reads there a flow of its own, and join its result

    error[unsupported]: a flow cannot have a join without ON
     --> flows.sql:1:267
      |
    1 |  FLOW f  AS SELECT a.v FROM l AS a JOIN r AS b USING (m)
      |                                         ^^^^^^^^^^^^^^^
      = help: say in ON what is equal, and how far the moments may be apart

    error[unsupported]: a flow cannot have this kind of join
     --> flows.sql:1:273
      |
    1 | f  AS SELECT a.v FROM l AS a CROSS JOIN r AS b
      |                                         ^^^^^^ expected JOIN, LEFT JOIN, RIGHT JOIN or FULL JOIN

    error[unsupported]: a flow cannot have a second stream after a comma
     --> flows.sql:1:263
      |
    1 | EATE FLOW f  AS SELECT a.v FROM l AS a, r AS b
      |                                         ^^^^^^
      = help: write JOIN and ON

    error[unsupported]: a flow cannot have a third stream
     --> flows.sql:1:357
      |
    1 | AL '5 s' AND a.ts + INTERVAL '5 s' JOIN l AS c ON true
      |                                         ^^^^^^^^^^^^^^
      = help: make the first join a flow of its own, and join its result

    error[duplicate]: both sides of the join are called `a`
     --> flows.sql:1:267
      |
    1 |  FLOW f  AS SELECT a.v FROM l AS a JOIN l AS a ON true
      |                                         ^^^^^^^^^^^^^^
      = help: call one of both something else: `l AS other`
    "#);
    let clause = |clause: &str, right: &str| {
        let text = statements([1, 1], clause, &format!("SELECT a.v FROM l AS a JOIN r AS b ON {near}"));
        mistakes(&text.replace("STREAM r (m text,", &format!("STREAM r (m text, {right}")))
    };
    assert!(clause("ALLOW LATENESS '1 s'", "").contains("drop ALLOW LATENESS"));
    assert!(clause("IDLE AFTER '0 s'", "").contains("say a longer time"));
    assert!(clause("LATE INTO late", "more text,").contains("drop LATE INTO"));
    let other = "CREATE STREAM w (m text, at timestamp, ts timestamp, WATERMARK FOR at AS at); CREATE STREAM d (m text, ts timestamp) ON TIER device; ";
    let of = |from: &str| {
        mistakes(&format!("{other}{}", statements([1, 1], "", &format!("SELECT a.m FROM {from} ON {near}"))))
    };
    assert!(of("l AS a JOIN w AS b").contains("the watermark of `b` is of `at`, not of `ts`"));
    assert!(of("l AS a JOIN d AS b").contains("a partition for each device"));
}
