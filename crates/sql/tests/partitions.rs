//! Groups of rows that come from several partitions: what they come to depends on the rows of each partition and their order there,
//! not on how partitions are cut into batches, restarted, or heard of among one another.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::disallowed_methods, clippy::expect_used)]

mod common;

use arrow_array::RecordBatch;
use common::groups::{
    Came, Line, QUERY, SESSIONS, a_way, by_the_book, off, off_by_the_book, phases, record, run, run_over,
    sessions_by_the_book, statements, told, whole,
};
use common::{Running, Way, app, fine, lines, mistakes, process, records, stage_of};
use littoral_model::manifest::{Partitioning, Sink};
use littoral_sql::{Program, Stage, expand};
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn the_order_among_partitions_changes_no_result(
        sources in proptest::collection::vec(proptest::collection::vec((0u8..5, 0i64..90, -9i64..9), 1..50), 1..4),
        keyed in 2usize..=16,
        way in a_way(),
        phases in phases(),
    ) {
        let clauses = format!("PARTITIONS {keyed} LATE INTO too_late {phases}");
        let program = fine(&statements(sources.len() as u32, &clauses, QUERY));
        let one = run_over(&program, &sources, keyed, &whole(sources.len()));
        let other = Came { sent: one.sent, ..run_over(&program, &sources, keyed, &way) };
        prop_assert_eq!(&one, &other);
        let mut ours: Vec<String> = one.rows.concat();
        let mut book: Vec<(String, Option<f64>)> = by_the_book(&sources)
            .into_iter()
            .map(|(key, of)| { let off = off_by_the_book(&of); (told((key, of)), off) })
            .collect();
        ours.sort();
        book.sort_by(|(one, _), (other, _)| one.cmp(other));
        prop_assert_eq!(ours.len(), book.len());
        for (ours, (book, deviation)) in ours.iter().zip(&book) {
            prop_assert!(ours.starts_with(book), "{} {}", ours, book);
            let same = match (off(ours), deviation) {
                (Some(one), Some(other)) => (one - other).abs() < 1e-9,
                (one, other) => one.is_none() && other.is_none(),
            };
            prop_assert!(same, "{} {:?}", ours, deviation);
        }
        prop_assert_eq!(one.rejected, Vec::<String>::new());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn sessions_are_those_of_all_rows_whatever_the_order_among_partitions(
        sources in proptest::collection::vec(proptest::collection::vec((0u8..3, 0i64..4, -9i64..9), 1..50), 1..4),
        way in a_way(),
    ) {
        // Time goes on, mostly.
        let onward = |rows: &Vec<Line>| {
            let mut now = 0;
            rows.iter().map(|(m, step, v)| { now += step; (*m, if v % 5 == 0 { (now - 6).max(0) } else { now }, *v) }).collect()
        };
        let sources: Vec<Vec<Line>> = sources.iter().map(onward).collect();
        let count = sources.len();
        let program = fine(&statements(count as u32, "LATE INTO too_late", SESSIONS));
        let (one, other) = if count > 1 {
            (run(&program, &sources, &whole(count)), run(&program, &sources, &way))
        } else {
            (alone(&program, &sources[0], &whole(1)), alone(&program, &sources[0], &way))
        };
        let other = Came { sent: one.sent, ..other };
        prop_assert_eq!(&one, &other);
        let mut ours = one.rows.concat();
        ours.sort();
        let book = sessions_by_the_book(&sources);
        prop_assert_eq!(ours.len(), book.len(), "{:?} {:?}", ours, book);
        prop_assert!(ours.iter().zip(&book).all(|(ours, book)| ours.starts_with(book)), "{:?} {:?}", ours, book);
        prop_assert_eq!(one.rejected, Vec::<String>::new());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn two_phases_come_bit_for_bit_to_what_one_does(
        sources in proptest::collection::vec(proptest::collection::vec((0u8..5, 0i64..90, -9i64..9), 1..50), 1..4),
        window in prop::sample::select(vec![
            "TUMBLE(s, ts, INTERVAL '10 s')",
            "HOP(s, ts, INTERVAL '3 s', INTERVAL '10 s')",
            "CUMULATE(s, ts, INTERVAL '5 s', INTERVAL '15 s')",
        ]),
        keyed in 1usize..=16,
        way in a_way(),
    ) {
        let query = format!(
            "SELECT upper(m) AS m, v % 3 AS r, window_end AS w, count(*) AS n, count(v) FILTER (WHERE v > 2) AS big, sum(v) AS s, \
                 sum(v / 10.0) AS exact, avg(v / 7.0) AS mean, var_pop(v / 3.0) AS off, min(ts) AS first, max(m) AS last, \
                 bool_or(v > 7) AS any, min(CASE WHEN v > 5 THEN v END) AS least FROM {window} WHERE v <> 0 \
                 GROUP BY upper(m), v % 3, window_start, window_end HAVING count(*) > 1"
        );
        let came = ["ONE PHASE", "TWO PHASES"].map(|phases| {
            let clauses = format!("PARTITIONS {keyed} LATE INTO too_late AGGREGATE IN {phases}");
            run_over(&fine(&statements(sources.len() as u32, &clauses, &query)), &sources, keyed, &way)
        });
        let [one, two] = came.map(|came| Came { sent: 0, ..came });
        prop_assert_eq!(one, two);
    }
}

#[test]
fn in_two_phases_a_row_is_sent_for_each_group_of_each_partition() {
    let second = |at: i64| (0..1_000).map(move |number| ((number % 5) as u8, at, number));
    let rows: Vec<Line> = (0..10).flat_map(second).chain([(0, 12, 0)]).collect();
    let sources = [rows.clone(), rows];
    let sent = |phases: &str| {
        let came = run(&fine(&statements(2, phases, QUERY)), &sources, &whole(2));
        assert_eq!(came.rows.concat().len(), 5, "{came:?}");
        came.sent
    };
    assert!(sent("AGGREGATE IN ONE PHASE") >= 20_000);
    // Two partitions have five groups each, and tell two partitions how far they are.
    assert_eq!((sent(""), sent("AGGREGATE IN TWO PHASES")), (14, 14));
}

#[test]
fn rows_are_not_taken_for_what_rows_came_to() {
    // As where the node that spreads them is of a version that knows one phase, and the other one of one that has two.
    let query = "SELECT m, sum(v) AS s FROM TUMBLE(s, ts, INTERVAL '10 s') GROUP BY m, window_start";
    let [one, two] =
        ["ONE PHASE", "TWO PHASES"].map(|phases| fine(&statements(2, &format!("AGGREGATE IN {phases}"), query)));
    for (from, to) in [(&one, &two), (&two, &one)] {
        let rows =
            process(&mut stage_of(from, "f-by-key", 0), &records(&[&record(&(0, 1, 1)), &record(&(0, 30, 1))])).spread;
        let refused = stage_of(to, "f", rows[0].0).open(rows[0].1.schema_ref()).unwrap_err();
        assert!(refused.to_string().contains("declare the stream as it is"), "{refused}");
    }
}

#[test]
fn many_groups_of_a_first_phase_are_sent_step_by_step() {
    let query = "SELECT v, count(*) AS n, sum(v) AS s FROM TUMBLE(s, ts, INTERVAL '10 s') GROUP BY v, window_start";
    let rows: Vec<Line> = (0..30_000).map(|v| (0, 1, v)).collect();
    let ended = |mut rows: Vec<Line>| {
        rows.push((0, 30, 0));
        rows
    };
    let sources = [ended(rows.clone()), ended(rows)];
    for restarts in [false, true] {
        let way = Way { sizes: vec![30_000, 1], order: vec![0, 1], restarts };
        let came = run(&fine(&statements(2, "", query)), &sources, &way);
        let rows = came.rows.concat();
        assert_eq!((rows.len(), came.rejected.len()), (30_000, 0));
        assert!(rows.iter().all(|row| row.contains(r#""n":2"#)), "{:?}", rows.first());
        assert!((60_000..60_100).contains(&came.sent), "{}", came.sent);
    }
}

#[test]
fn what_a_step_puts_out_fits_into_an_entry_of_the_log_however_wide_its_rows_are() {
    let deviations: Vec<String> = (0..60).map(|plus| format!("stddev(v + {plus}) AS s{plus}")).collect();
    let query =
        format!("SELECT v, {} FROM TUMBLE(s, ts, INTERVAL '10 s') GROUP BY v, window_start", deviations.join(", "));
    let mut stage = stage_of(&fine(&statements(2, "", &query)), "f-by-key", 0);
    let ended = (0..12_000).map(|v| record(&(0, 1, v))).chain([record(&(0, 30, 0))]).collect::<Vec<_>>();
    let mut step = process(&mut stage, &records(&ended.iter().map(String::as_str).collect::<Vec<_>>()));
    let mut groups = 0;
    loop {
        let bytes: usize = step.spread.iter().map(|(_, rows)| rows.get_array_memory_size()).sum();
        assert!(bytes < 12 << 20, "{bytes}");
        groups += step.spread.iter().map(|(_, rows)| rows.num_rows()).sum::<usize>();
        if !stage.has_more() {
            break;
        }
        step = stage.go_on().unwrap();
    }
    assert!((12_000..12_100).contains(&groups), "{groups}");
}

#[test]
fn what_cannot_be_aggregated_in_two_phases_is_said() {
    let refused = |partitions: u32, clauses: &str, query: &str| {
        mistakes(&statements(partitions, &format!("{clauses} AGGREGATE IN TWO PHASES"), query))
    };
    assert!(refused(2, "", SESSIONS).contains("a session may go on in another partition"));
    assert!(refused(2, "IDLE AFTER '30 s'", QUERY).contains("IDLE AFTER"));
    let distinct = "SELECT count(DISTINCT v) AS d FROM TUMBLE(s, ts, INTERVAL '10 s') GROUP BY window_start";
    assert!(refused(2, "", distinct).contains("more of a group than a few values"));
    let hop = "SELECT count(*) AS n FROM HOP(s, ts, INTERVAL '1 s', INTERVAL '5 s') GROUP BY window_start";
    assert!(refused(2, "", hop).contains("more than 4 windows"));
    assert!(refused(1, "", QUERY).contains("several partitions"));
    let join = "SELECT a.m FROM s AS a JOIN s AS b ON a.m = b.m AND a.ts = b.ts";
    for query in ["SELECT m FROM s", join] {
        assert!(refused(2, "", query).contains("only windows are aggregated"), "{}", refused(2, "", query));
        assert!(mistakes(&statements(2, "AGGREGATE IN ONE PHASE", query)).contains("drop AGGREGATE"));
    }
    // Of queries that are united it may be said of one.
    let united = format!(
        "{} UNION ALL SELECT m, ts, v FROM s",
        "SELECT m, window_end AS ts, sum(v) AS v FROM TUMBLE(s, ts, INTERVAL '10 s') GROUP BY m, window_end"
    );
    let program = fine(&statements(2, "AGGREGATE IN ONE PHASE", &united));
    assert!(!program.flows[&"f-by-key".parse().unwrap()].plan.operators().join(" ").contains("partial"));
    let text = mistakes(&statements(2, "AGGREGATE IN THREE PHASES", QUERY));
    assert!(text.contains("ONE PHASE or TWO PHASES"), "{text}");
}

/// The same where there is one partition, and one stage.
fn alone(program: &Program, rows: &[Line], way: &Way) -> Came {
    let (mut left, mut sizes) = (rows, way.sizes.iter().cycle());
    let mut groups = Running::new(program, "f", 0, way.restarts);
    let mut came = Came { rows: vec![Vec::new()], late: vec![Vec::new()], ..Came::default() };
    while !left.is_empty() {
        let (now, rest) = left.split_at(left.len().min(*sizes.next().unwrap()));
        left = rest;
        let texts: Vec<String> = now.iter().map(record).collect();
        let output = groups.take(&records(&texts.iter().map(String::as_str).collect::<Vec<_>>()));
        came.rows[0].extend(lines(output.rows.as_ref()));
        came.late[0].extend(lines(output.late.as_ref()));
        came.rejected.extend(output.rejected.into_iter().map(|(_, reason)| reason));
    }
    came
}

#[test]
fn what_aggregates_keep_of_many_values_comes_together() {
    let query = "SELECT count(DISTINCT v) AS d, approx_count_distinct(v) AS a, approx_quantile(v, 0.5) AS q, every(v > 0) AS e, avg(v) AS mean \
                 FROM TUMBLE(s, ts, INTERVAL '10 s') GROUP BY window_start";
    let program = fine(&statements(2, "", query));
    let sources = [vec![(0, 1, 3), (0, 1, 4), (0, 30, 0)], vec![(0, 1, 4), (0, 2, 5), (0, 30, 0)]];
    assert_eq!(run(&program, &sources, &whole(2)).rows.concat(), [r#"{"d":3,"a":3,"q":4.015625,"e":true,"mean":4.0}"#]);
    let distinct = "SELECT DISTINCT v, window_end AS e FROM TUMBLE(s, ts, INTERVAL '10 s')";
    let mut rows = run(&fine(&statements(2, "", distinct)), &sources, &whole(2)).rows.concat();
    rows.sort();
    assert_eq!(rows, [3, 4, 5].map(|v| format!(r#"{{"v":{v},"e":"1970-01-01T00:00:10Z"}}"#)));
}

#[test]
fn values_of_each_type_come_over_as_they_are() {
    // An interval is no column of a result, but may be a key or an argument.
    let query = "SELECT m, v > 3 AS b, v / 2.0 AS x, v, ts AS at, count(*) AS n, min(ts) AS first FROM TUMBLE(s, ts, INTERVAL '10 s') \
                 GROUP BY m, v > 3, v / 2.0, v, ts - TIMESTAMP '1970-01-01 00:00:00', ts, window_start \
                 HAVING max(ts - TIMESTAMP '1970-01-01 00:00:00') > INTERVAL '0 s'";
    let lines = |partitions: u32| {
        let sources = vec![vec![(0, 1, 3), (0, 30, 0)]; partitions as usize];
        run(&fine(&statements(partitions, "", query)), &sources, &whole(partitions as usize)).rows.concat()
    };
    let program = fine(&statements(1, "", query));
    let one: Vec<String> = alone(&program, &[(0, 1, 3), (0, 30, 0)], &whole(1)).rows.concat();
    assert_eq!(lines(2), one.iter().map(|line| line.replace(r#""n":1"#, r#""n":2"#)).collect::<Vec<_>>());
    assert_eq!(one.len(), 1, "{one:?}");
}

#[test]
fn a_partition_that_comes_back_is_waited_for_by_all_groups() {
    let program = fine(&statements(2, "IDLE AFTER '30 s'", QUERY));
    let mut stage = stage_of(&program, "f-by-key", 1);
    let take = |stage: &mut Stage, line: Line| process(stage, &records(&[&record(&line)])).spread;
    let parts = |spread: Vec<(u32, RecordBatch)>| spread.into_iter().map(|(to, _)| to).collect::<Vec<_>>();
    // At first nobody knows of it, then both do.
    assert_eq!(parts(take(&mut stage, (0, 10, 1))), [0, 1]);
    assert_eq!(parts(take(&mut stage, (0, 10, 1))).len(), 1);
    let idle = stage.idle().unwrap();
    assert_eq!(parts(idle.spread), [0, 1]);
    let state = stage.snapshot(&idle.dirty);
    // One that goes on from there is as idle as it was.
    let mut stage = stage_of(&program, "f-by-key", 1);
    stage.restore(&state.iter().map(|(group, bytes)| (*group, bytes.as_slice())).collect::<Vec<_>>()).unwrap();
    assert_eq!(parts(stage.idle().unwrap().spread), [0_u32; 0]);
    // Its watermark does not move, and yet both are to hear that it is back.
    assert_eq!(parts(take(&mut stage, (0, 10, 1))), [0, 1]);
    assert_eq!(parts(take(&mut stage, (0, 10, 1))).len(), 1);
}

#[test]
fn what_comes_late_is_said_by_its_own_partition() {
    let program = fine(&statements(2, "LATE INTO too_late", QUERY));
    // The first partition is ahead: a row that is behind there is late, although the window is still open for the second.
    let sources = [vec![(0, 1, 1), (0, 30, 1), (0, 2, 4)], vec![(0, 3, 16), (0, 2, 32), (0, 30, 1)]];
    let came = run(&program, &sources, &whole(2));
    assert_eq!(came.late, [vec![r#"{"m":"m0","ts":"1970-01-01T00:00:02Z","v":4}"#.to_owned()], vec![]]);
    let rows = came.rows.concat();
    assert!(rows.len() == 1 && rows[0].contains(r#""n":3,"s":49"#), "{rows:?}");
    let program = fine(&statements(2, "", QUERY));
    assert_eq!(run(&program, &sources, &whole(2)).rejected, ["it came after its window was closed"]);
}

#[test]
fn a_partition_that_is_silent_is_waited_for() {
    let program = fine(&statements(2, "", QUERY));
    let rows = |last: Vec<Line>| [vec![(0, 1, 1), (1, 2, 1), (0, 80, 1)], last];
    assert_eq!(run(&program, &rows(vec![]), &whole(2)).rows.concat(), Vec::<String>::new());
    // Rows that the query passes over say how far it is, too.
    let filtered = fine(&statements(2, "", &QUERY.replace(" GROUP", " WHERE v < 9 GROUP")));
    assert_eq!(run(&filtered, &rows(vec![(0, 80, 9)]), &whole(2)).rows.concat().len(), 2);
}

#[test]
fn a_partition_that_is_idle_is_not_waited_for_until_it_says_something() {
    let program = fine(&statements(2, "IDLE AFTER '30 s'", QUERY));
    assert_eq!(program.flows[&"f-by-key".parse().unwrap()].plan.idle_after(), Some(std::time::Duration::from_secs(30)));
    let spread = |partition: u32, lines: &[Line]| {
        let texts: Vec<String> = lines.iter().map(record).collect();
        let mut stage = stage_of(&program, "f-by-key", partition);
        process(&mut stage, &records(&texts.iter().map(String::as_str).collect::<Vec<_>>())).spread
    };
    let idle = stage_of(&program, "f-by-key", 1).idle().unwrap().spread;
    let (one, two) = (spread(0, &[(0, 1, 1), (0, 30, 1), (0, 35, 1)]), spread(1, &[(0, 5, 1), (0, 31, 2), (0, 60, 1)]));
    let last = spread(0, &[(0, 60, 1)]);
    let (mut closed, mut rejected) = (Vec::new(), Vec::new());
    for restarts in [false, true] {
        let (mut rows, mut reasons) = (Vec::new(), Vec::new());
        for to in 0..2 {
            let mut groups = Running::new(&program, "f", to, restarts);
            for batch in [&one, &idle, &two, &last].into_iter().flatten().filter(|(partition, _)| *partition == to) {
                let output = groups.take(&batch.1);
                rows.extend(lines(output.rows.as_ref()));
                reasons.extend(output.rejected);
            }
        }
        assert!(closed.is_empty() || (&closed, &rejected) == (&rows, &reasons), "{rows:?} {reasons:?}");
        (closed, rejected) = (rows, reasons);
    }
    // The first window closes without the second partition; its row for that is late, and the one for the third is not.
    let (n, w) = (r#""n":1"#, r#""w":"1970-01-01T00:00:00Z""#);
    assert!(closed.len() == 2 && closed[0].contains(w) && closed[0].contains(n), "{closed:?}");
    assert!(closed[1].contains(r#""n":3,"s":4"#), "{closed:?}");
    assert_eq!(rejected, [(0, "it came after its window was closed".to_owned())]);
    let alone = mistakes(&statements(1, "IDLE AFTER '30 s'", QUERY));
    assert!(alone.contains("drop IDLE AFTER"), "{alone}");
}

#[test]
fn where_all_partitions_are_idle_the_furthest_of_them_says_which_windows_are_over() {
    let program = fine(&statements(2, "IDLE AFTER '30 s'", QUERY));
    let mut stages = [0, 1].map(|partition| stage_of(&program, "f-by-key", partition));
    let rows = [[(0, 1, 1), (0, 12, 1)], [(0, 2, 1), (0, 30, 1)]];
    let taken = [0, 1].map(|of| {
        process(&mut stages[of], &records(&rows[of].each_ref().map(record).each_ref().map(String::as_str))).spread
    });
    let idle = [0, 1].map(|of| stages[of].idle().unwrap().spread);
    for order in [[0, 1], [1, 0]] {
        let said = taken.iter().chain(order.map(|of| &idle[of])).flatten();
        let mut groups = [0, 1].map(|to| Running::new(&program, "f", to, true));
        let mut closed = Vec::new();
        for (to, batch) in said {
            closed.extend(lines(groups[*to as usize].take(batch).rows.as_ref()));
        }
        let ends = |text: &str| closed.iter().filter(|row| row.contains(text)).count();
        let (first, second) = (r#""w":"1970-01-01T00:00:00Z""#, r#""w":"1970-01-01T00:00:10Z""#);
        assert_eq!((ends(first), ends(second), closed.len()), (1, 1, 2), "{order:?} {closed:?}");
    }
}

#[test]
fn the_last_result_that_late_rows_change_is_the_same() {
    for phases in ["AGGREGATE IN ONE PHASE", "AGGREGATE IN TWO PHASES"] {
        last_results_are_the_same(phases);
    }
}

fn last_results_are_the_same(phases: &str) {
    let program = fine(&statements(2, &format!("ALLOW LATENESS '20 s' {phases}"), QUERY));
    let sources =
        [vec![(0, 1, 1), (0, 15, 1), (0, 3, 2), (0, 70, 0)], vec![(0, 2, 4), (0, 13, 1), (0, 4, 8), (0, 70, 0)]];
    let first = |order: Vec<usize>| {
        let came = run(&program, &sources, &Way { sizes: vec![1], order, restarts: true });
        came.rows.concat().into_iter().filter(|row| row.contains("T00:00:00Z")).collect::<Vec<_>>()
    };
    let (in_turn, after) = (first(vec![0, 1]), first(vec![0, 0, 0, 1]));
    assert!(in_turn.last() == after.last() && in_turn[in_turn.len() - 1].contains(r#""n":4,"s":15"#), "{in_turn:?}");
    assert!(in_turn.len() > 1 && in_turn[0] != in_turn[in_turn.len() - 1], "{in_turn:?}");
}

#[test]
fn a_sum_that_only_overflows_over_all_partitions_rejects_its_group() {
    let program =
        fine(&statements(2, "", "SELECT m, sum(v) AS s FROM TUMBLE(s, ts, INTERVAL '10 s') GROUP BY m, window_start"));
    let sources = [vec![(0, 1, i64::MAX), (1, 1, 1), (0, 30, 0)], vec![(0, 1, 1), (1, 1, 2), (0, 30, 0)]];
    let came = run(&program, &sources, &whole(2));
    assert_eq!(came.rows.concat(), [r#"{"m":"m1","s":3}"#]);
    assert!(came.failed.len() == 1 && came.failed[0].contains("the group (m0) of the window"), "{came:?}");
    assert!(came.failed[0].ends_with("bigint out of range in sum"), "{came:?}");
}

#[test]
fn a_flow_is_two_with_a_stream_between_where_its_source_has_several_partitions() {
    let mut manifest = app(&statements(40, "KEEP IN REGION 'eu' DEAD LETTER INTO bad LATE INTO too_late", QUERY));
    let program = expand(&mut manifest).unwrap();
    let flow = |name: &str| manifest.flows[&name.parse().unwrap()].clone();
    let (spread, group) = (flow("f-by-key"), flow("f"));
    assert_eq!((spread.source.as_str(), group.source.as_str()), ("s", "f-by-key"));
    assert_eq!(spread.sink, Some(Sink::Stream("f-by-key".parse().unwrap())));
    assert_eq!(group.sink, Some(Sink::Stream("f".parse().unwrap())));
    assert_eq!((spread.outputs.len(), group.outputs.len()), (1, 0));
    assert_eq!(spread.dead_letter, group.dead_letter);
    let between = &manifest.streams[&"f-by-key".parse().unwrap()];
    assert_eq!((between.partitions, between.placement.region.iter().count()), (Some(16), 1));
    let query = |name: &str| manifest.queries[&name.parse().unwrap()].partitioning;
    assert_eq!((query("f-by-key"), query("f")), (Partitioning::ByKey(40), Partitioning::Any));
    assert!(program.flows.values().all(|flow| flow.statement.as_str() == "f"));
    // With one partition it is one.
    let mut manifest = app(&statements(1, "", QUERY));
    expand(&mut manifest).unwrap();
    assert_eq!(manifest.flows.len(), 1);
    assert_eq!(manifest.queries[&"f".parse().unwrap()].partitioning, Partitioning::Single);
    // How many partitions the groups have is the flow's to say.
    for (of_source, keyed) in [(40, 3), (1, 5), (4, 1), (1, 1)] {
        let mut manifest = app(&statements(of_source, &format!("PARTITIONS {keyed}"), QUERY));
        let program = expand(&mut manifest).unwrap();
        assert_eq!(manifest.streams[&"f-by-key".parse().unwrap()].partitions, Some(keyed));
        let spread = &program.flows[&"f-by-key".parse().unwrap()].plan;
        assert_eq!(spread.partitioning(), Partitioning::ByKey(of_source));
        let told = spread.operators().join("; ");
        assert!(told.contains(&format!("spread by 1 keys over {keyed} partitions")), "{told}");
    }
    let taken = format!("CREATE STREAM f_by_key; {}", statements(2, "", QUERY));
    assert!(mistakes(&taken).contains("come together in a stream `f-by-key`"), "{}", mistakes(&taken));
}

#[test]
fn the_state_of_another_number_of_partitions_of_the_source_is_refused() {
    let mut before = stage_of(&fine(&statements(2, "", QUERY)), "f-by-key", 0);
    let output = process(&mut before, &records(&[&record(&(0, 1, 1))]));
    let state = before.snapshot(&output.dirty);
    let state: Vec<(u32, &[u8])> = state.iter().map(|(group, bytes)| (*group, bytes.as_slice())).collect();
    assert!(!state.is_empty());
    stage_of(&fine(&statements(2, "", QUERY)), "f-by-key", 0).restore(&state).unwrap();
    // That of the flow is changed while it runs.
    stage_of(&fine(&statements(2, "PARTITIONS 3", QUERY)), "f-by-key", 0).restore(&state).unwrap();
    let error = stage_of(&fine(&statements(3, "", QUERY)), "f-by-key", 0).restore(&state).unwrap_err();
    assert!(error.to_string().contains("give the flow another name"), "{error}");
}
