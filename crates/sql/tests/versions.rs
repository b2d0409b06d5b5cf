//! Joins with versions: each row comes with the row of the other stream that was valid at its moment, whatever comes first, in whatever
//! batches, and however often a stage goes on from its state.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::expect_used)]

mod common;

use common::sides::{Line, a_way, batch, in_time, in_turn, onward, run, statements, told, whole};
use common::{Running, fine, lines, mistakes, process, stage_of};
use proptest::prelude::*;

fn query(kind: &str) -> String {
    format!(
        "SELECT a.m AS am, a.ts AS at, a.v AS av, b.m AS bm, b.ts AS bt, b.v AS bv FROM l AS a \
         {kind} JOIN r FOR SYSTEM_TIME AS OF a.ts AS b ON a.m = b.m AND a.v + b.v <> 3 AND b.v > -8 \
         WHERE a.v IS DISTINCT FROM b.v"
    )
}

/// From when on each row of the right side is valid, and the order in which one takes the place of another.
fn versions(partitions: &[Vec<Line>]) -> Vec<(i64, (i64, usize, usize), Line)> {
    let mut versions = Vec::new();
    for (partition, rows) in partitions.iter().enumerate() {
        let mut watermark = i64::MIN;
        for (number, line) in rows.iter().enumerate() {
            versions.push((line.1.max(watermark), (line.1, partition, number), *line));
            watermark = watermark.max(line.1 - 3);
        }
    }
    versions
}

/// By the book: of each left row the last version among all.
fn by_the_book([left, right]: [&[Vec<Line>]; 2], kind: &str) -> Vec<String> {
    let (rows, _) = in_time(left, 2);
    let (_, least) = in_time(right, 3);
    let versions = versions(right);
    let mut came = Vec::new();
    for a in rows.iter().filter(|a| a.1 < least) {
        let valid = versions.iter().filter(|(from, _, b)| *from <= a.1 && b.0 == a.0 && a.0 != 3);
        let last = valid.max_by_key(|(_, order, _)| *order).map(|(_, _, b)| b);
        match last.filter(|b| a.2 + b.2 != 3 && b.2 > -8) {
            Some(b) if a.2 != b.2 => came.push(told(Some(a), Some(b))),
            None if kind == "LEFT" => came.push(told(Some(a), None)),
            _ => {}
        }
    }
    came.sort();
    came
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn each_row_comes_with_the_version_of_its_moment_whatever_comes_first(
        left in onward(1..4),
        right in onward(1..4),
        kind in prop::sample::select(vec!["INNER", "LEFT"]),
        way in a_way(),
    ) {
        let sources = [left.as_slice(), right.as_slice()];
        let program = fine(&statements([left.len(), right.len()], "LATE INTO too_late", &query(kind)));
        let one = run(&program, sources, &way).sorted();
        prop_assert_eq!(&one.rows, &by_the_book(sources, kind));
        prop_assert_eq!(&one, &run(&program, sources, &whole()).sorted());
        prop_assert_eq!(&one.rejected, &Vec::<String>::new());
    }
}

const AT: &str = "SELECT a.v AS a, b.v AS b FROM l AS a LEFT JOIN r FOR SYSTEM_TIME AS OF a.ts AS b ON a.m = b.m";

#[test]
fn a_row_waits_until_no_earlier_version_can_come() {
    let program = fine(&statements([1, 1], "", AT));
    // The watermark of versions is 3 s behind: at 13 one of 10 could still come.
    let begin = [('r', (0, 5, 50)), ('l', (0, 10, 1)), ('l', (1, 10, 2)), ('r', (0, 10, 100)), ('r', (1, 13, 130))];
    assert_eq!(in_turn(&program, &begin).rows, Vec::<String>::new());
    let came = in_turn(&program, &[&begin[..], &[('r', (2, 14, 0)), ('l', (0, 9, 3))]].concat());
    assert_eq!(came.rows, [r#"{"a":1,"b":100}"#, r#"{"a":2,"b":null}"#, r#"{"a":3,"b":50}"#]);
}

#[test]
fn a_version_that_comes_late_is_valid_from_then_on_unless_a_later_one_is_known() {
    let program = fine(&statements([1, 1], "", AT));
    let rows = [
        ('r', (1, 20, 200)),
        // The watermark is at 17: these two are late.
        ('r', (0, 4, 40)),
        ('r', (1, 5, 50)),
        ('l', (0, 16, 1)),
        ('l', (0, 18, 2)),
        ('l', (1, 18, 3)),
        ('l', (1, 21, 4)),
        ('r', (2, 40, 0)),
    ];
    let came = in_turn(&program, &rows);
    assert_eq!(came.rejected, Vec::<String>::new());
    let expected = [r#"{"a":1,"b":null}"#, r#"{"a":2,"b":40}"#, r#"{"a":3,"b":50}"#, r#"{"a":4,"b":200}"#];
    assert_eq!(came.rows, expected);
}

#[test]
fn only_versions_that_a_row_may_still_be_of_are_kept() {
    let program = fine(&statements([1, 1], "", AT));
    let (mut left, mut right) = (stage_of(&program, "f-left", 0), stage_of(&program, "f-right", 0));
    let mut join = Running::new(&program, "f", 0, true);
    let mut versions = |join: &mut Running<'_>, is_left: bool, row: Line| {
        let stage = if is_left { &mut left } else { &mut right };
        process(stage, &batch(&[row])).spread.iter().for_each(|(_, rows)| drop(join.take(rows)));
        join.state.values().map(Vec::len).sum::<usize>()
    };
    for second in 0..200 {
        versions(&mut join, true, (0, second, second));
        versions(&mut join, false, (0, second, second));
    }
    let few = versions(&mut join, true, (0, 200, 0));
    for second in 201..600 {
        versions(&mut join, true, (0, second, second));
        versions(&mut join, false, (0, second, second));
    }
    let more = versions(&mut join, true, (0, 600, 0));
    assert!(more < few * 2 && few < 1_000, "{few} {more}");
}

#[test]
fn thousands_of_rows_that_waited_come_out_without_further_rows() {
    let program = fine(&statements([1, 1], "", AT));
    let many: Vec<Line> = (0..20_000).map(|v| (0, 10, v)).collect();
    let mut join = Running::new(&program, "f", 0, true);
    let mut came = Vec::new();
    for (flow, rows) in [("f-right", vec![(0, 1, 7)]), ("f-left", many), ("f-right", vec![(0, 40, 8)])] {
        for (_, rows) in process(&mut stage_of(&program, flow, 0), &batch(&rows)).spread {
            came.extend(lines(join.take(&rows).rows.as_ref()));
        }
    }
    assert!(came.len() < 10_000 && join.has_more(), "{}", came.len());
    while join.has_more() {
        came.extend(lines(join.go_on().rows.as_ref()));
    }
    let expected: Vec<String> = (0..20_000).map(|v| format!(r#"{{"a":{v},"b":7}}"#)).collect();
    assert_eq!(came, expected);
}

#[test]
fn rows_that_come_do_not_overtake_those_that_wait_to_come_out() {
    let program = fine(&statements([1, 1], "", AT));
    let taken = |flow: &str, rows: &[Line]| process(&mut stage_of(&program, flow, 0), &batch(rows)).spread;
    let many: Vec<Line> = (0..20_000).map(|v| (0, 10, v)).collect();
    let mut join = Running::new(&program, "f", 0, true);
    let mut came = Vec::new();
    for (_, rows) in
        [taken("f-left", &many), taken("f-right", &[(0, 40, 8)]), taken("f-left", &[(0, 12, 20_000)])].concat()
    {
        came.extend(lines(join.take(&rows).rows.as_ref()));
    }
    while join.has_more() {
        came.extend(lines(join.go_on().rows.as_ref()));
    }
    let expected: Vec<String> = (0..=20_000).map(|v| format!(r#"{{"a":{v},"b":null}}"#)).collect();
    assert_eq!(came, expected);
}

#[test]
fn what_comes_out_at_once_is_bounded_by_what_versions_have_too() {
    let query = "SELECT a.v AS a, b.m || b.m AS b FROM l AS a JOIN r FOR SYSTEM_TIME AS OF a.ts AS b ON a.m = b.m";
    let program = fine(&statements([1, 1], "", query));
    let long = "k".repeat(100_000);
    let record = |second: i64, v: i64| format!(r#"{{"m":"{long}","ts":"1970-01-01T00:00:{second:02}Z","v":{v}}}"#);
    let taken = |flow: &str, rows: &[String]| {
        let rows = common::records(&rows.iter().map(String::as_str).collect::<Vec<_>>());
        process(&mut stage_of(&program, flow, 0), &rows).spread
    };
    let many: Vec<String> = (0..30).map(|v| record(10, v)).collect();
    let mut join = Running::new(&program, "f", 0, false);
    let mut came = Vec::new();
    for (_, rows) in
        [taken("f-right", &[record(5, 0)]), taken("f-left", &many), taken("f-right", &[record(40, 0)])].concat()
    {
        came.extend(join.take(&rows).rows.map(|rows| rows.num_rows()));
    }
    while join.has_more() {
        came.extend(join.go_on().rows.map(|rows| rows.num_rows()));
    }
    // Rows and versions have 100 kB each, and 2 MiB come out at once.
    assert!(came.iter().all(|rows| *rows <= 11) && came.iter().sum::<usize>() == 30, "{came:?}");
}

#[test]
fn late_rows_are_those_of_the_stream_that_is_read_whatever_versions_have() {
    let text =
        statements([1, 1], "LATE INTO too_late", AT).replace("STREAM r (m text,", "STREAM r (m text, more text,");
    let rows = [('l', (0, 30, 1)), ('l', (0, 20, 2)), ('r', (0, 50, 3)), ('r', (0, 5, 4))];
    let came = in_turn(&fine(&text), &rows);
    assert_eq!(came.late, [r#"{"m":"m0","ts":"1970-01-01T00:00:20Z","v":2}"#]);
    assert_eq!((came.rows, came.rejected), (vec![r#"{"a":1,"b":null}"#.to_owned()], vec![]));
}

#[test]
fn which_version_was_valid_says_on_alone() {
    let query = |kind: &str, rest: &str| {
        format!(
            "SELECT a.v AS a, b.v AS b FROM l AS a {kind} JOIN r FOR SYSTEM_TIME AS OF a.ts AS b ON a.m = b.m {rest}"
        )
    };
    let rows = [('r', (0, 5, 1)), ('r', (0, 6, 2)), ('l', (0, 10, 1)), ('r', (0, 50, 0))];
    let came = |query: &str| in_turn(&fine(&statements([1, 1], "", query)), &rows).rows;
    for kind in ["", "LEFT"] {
        assert_eq!(came(&query(kind, "WHERE a.v = b.v")), Vec::<String>::new(), "{kind}");
        assert_eq!(came(&query(kind, "AND a.v = b.v")), [r#"{"a":1,"b":1}"#], "{kind}");
    }
}

#[test]
fn versions_are_not_waited_for_where_there_are_none_for_long_and_count_when_they_come() {
    let program = fine(&statements([1, 1], "IDLE AFTER '30 s'", AT));
    let taken = |flow: &str, rows: &[Line]| process(&mut stage_of(&program, flow, 0), &batch(rows)).spread;
    let first = taken("f-right", &[(0, 1, 10)]);
    let left = taken("f-left", &[(0, 10, 1), (0, 40, 2)]);
    let idle = stage_of(&program, "f-right", 0).idle().unwrap().spread;
    // The rows went on to 38 meanwhile.
    let second = taken("f-right", &[(0, 30, 20)]);
    let later = taken("f-left", &[(0, 60, 3), (0, 90, 4)]);
    let mut join = Running::new(&program, "f", 0, true);
    let (mut rows, mut rejected) = (Vec::new(), 0);
    for (_, batch) in first.iter().chain(&left).chain(&idle).chain(&second).chain(&idle).chain(&later) {
        let output = join.take(batch);
        rows.extend(lines(output.rows.as_ref()));
        rejected += output.rejected.len();
    }
    assert_eq!(rows, [r#"{"a":1,"b":10}"#, r#"{"a":2,"b":20}"#, r#"{"a":3,"b":20}"#]);
    assert_eq!(rejected, 0);
}

#[test]
fn moments_of_versions_are_no_watermark_of_the_result() {
    let behind = |column: &str| {
        let join = format!("SELECT {column} AS ts FROM l AS a JOIN r FOR SYSTEM_TIME AS OF a.ts AS b ON a.m = b.m");
        let windows =
            "CREATE FLOW n AS SELECT window_end, count(*) AS n FROM TUMBLE(f, ts, INTERVAL '1 s') GROUP BY window_end";
        let program = fine(&format!("{}; {windows}", statements([1, 1], "", &join)));
        program.flows[&"n".parse().unwrap()].plan.operators().join("\n")
    };
    assert!(behind("a.ts").contains("watermark 3 s behind"), "{}", behind("a.ts"));
    assert!(behind("b.ts").contains("watermark 0 s behind"), "{}", behind("b.ts"));
}

#[test]
fn mistakes_say_how_to_write_it() {
    let of = |from: &str| mistakes(&statements([1, 1], "", &format!("SELECT a.v FROM {from}")));
    for (from, said) in [
        ("l AS a JOIN r FOR SYSTEM_TIME AS OF b.ts AS b ON a.m = b.m", "expected `a.ts`"),
        ("l AS a JOIN r FOR SYSTEM_TIME AS OF a.ts - INTERVAL '1 s' AS b ON a.m = b.m", "expected `a.ts`"),
        ("l AS a JOIN r FOR SYSTEM_TIME AS OF a.v AS b ON a.m = b.m", "timestamp"),
        ("l AS a JOIN r FOR SYSTEM_TIME AS OF a.tz AS b ON a.m = b.m", "there is no column `tz`"),
        ("l AS a JOIN r FOR SYSTEM_TIME AS OF a.ts AS b ON a.v > b.v", "add to ON what is equal, as a.m = b.m"),
        ("l AS a RIGHT JOIN r FOR SYSTEM_TIME AS OF a.ts AS b ON a.m = b.m", "JOIN or LEFT JOIN"),
        ("l FOR SYSTEM_TIME AS OF b.ts AS a JOIN r AS b ON a.m = b.m", "FROM r JOIN l FOR SYSTEM_TIME AS OF"),
        ("l FOR SYSTEM_TIME AS OF a.ts AS a", "JOIN l FOR SYSTEM_TIME AS OF that stream's moment"),
    ] {
        let told = of(from);
        assert!(told.contains(said), "{from}: {told}");
    }
    let unclear = "CREATE STREAM w (m text, one timestamp, other timestamp); ";
    let query = "SELECT a.v FROM l AS a JOIN w FOR SYSTEM_TIME AS OF a.ts AS b ON a.m = b.m";
    let told = mistakes(&format!("{unclear}{}", statements([1, 1], "", query)));
    assert!(told.contains("WATERMARK FOR ts AS ts"), "{told}");
}
