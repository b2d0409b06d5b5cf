//! Groups and joins whose number of partitions changes: the key groups go from the old ones to the new ones, and what comes out is what
//! comes of a run that nobody disturbs.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::disallowed_methods, clippy::expect_used)]

mod common;

use std::collections::VecDeque;
use std::sync::Arc;

use arrow_array::{Array, ArrayRef, RecordBatch, UInt32Array};
use common::groups::{self, Line, QUERY, SESSIONS, by_the_book, sessions_by_the_book, told};
use common::{Running, Way, fine, lines, process, sides, stage_of};
use littoral_sql::{Output, Program, Rescaling, Stage};
use proptest::prelude::*;

/// A partition of a source: which flow spreads it, its number there, and its rows, in parts between which partitions change.
struct Source {
    flow: &'static str,
    partition: u32,
    parts: Vec<Vec<Line>>,
}

/// What came of a run.
#[derive(Debug, Default, PartialEq)]
struct Came {
    rows: Vec<String>,
    late: Vec<String>,
    rejected: Vec<String>,
}

impl Came {
    fn take(&mut self, output: &Output) {
        self.rows.extend(lines(output.rows.as_ref()));
        self.late.extend(lines(output.late.as_ref()));
        self.rejected.extend(output.rejected.iter().map(|(_, reason)| reason.clone()));
        self.rejected.extend(output.failed.iter().cloned());
    }

    fn sorted(mut self) -> Self {
        self.rows.sort();
        self.late.sort();
        self
    }
}

/// Takes what is first in one of several queues, in the order of the way, until all are empty.
fn drain<T>(mut queues: Vec<VecDeque<T>>, way: &Way, mut take: impl FnMut(T)) {
    let mut order = way.order.iter().cycle().zip(0..);
    while queues.iter().any(|queue| !queue.is_empty()) {
        let (next, turn) = order.next().unwrap();
        let count = queues.len();
        // In the end it is each one's turn.
        queues[(next + turn / way.order.len()) % count].pop_front().into_iter().for_each(&mut take);
    }
}

/// Runs a flow with so many partitions of its keys, one number after the other: a program for each, and a part of the rows of each source.
fn run(programs: &[(usize, Program)], sources: &[Source], way: &Way) -> Came {
    let mut came = Came::default();
    let mut spreads: Vec<Running<'_>> = Vec::new();
    let mut keyed: Vec<Running<'_>> = Vec::new();
    for (turn, (count, program)) in programs.iter().enumerate() {
        let rescaling = Rescaling { from: keyed.len() as u32, to: *count as u32 };
        let fresh = sources.iter().map(|of| Running::new(program, of.flow, of.partition, way.restarts)).collect();
        let old = std::mem::replace(&mut spreads, fresh);
        for (old, new) in old.iter().zip(&mut spreads) {
            old.hand_over(rescaling).iter().for_each(|(_, rows)| drop(new.take_over(rows)));
        }
        let fresh = (0..*count as u32).map(|partition| Running::new(program, "f", partition, way.restarts)).collect();
        let old = std::mem::replace(&mut keyed, fresh);
        let handed: Vec<VecDeque<_>> = old.iter().map(|old| old.hand_over(rescaling).into()).collect();
        drain(handed, way, |(to, rows)| came.take(&keyed[to as usize].take_over(&rows)));
        let mut queues: Vec<Vec<VecDeque<RecordBatch>>> = vec![vec![VecDeque::new(); sources.len()]; *count];
        for (place, source) in sources.iter().enumerate() {
            let (mut left, mut sizes) = (source.parts[turn].as_slice(), way.sizes.iter().cycle());
            while !left.is_empty() {
                let (now, rest) = left.split_at(left.len().min(*sizes.next().unwrap()));
                left = rest;
                let output = spreads[place].take(&sides::batch(now));
                came.take(&output);
                output.spread.into_iter().for_each(|(to, rows)| queues[to as usize][place].push_back(rows));
            }
        }
        for (keyed, queues) in keyed.iter_mut().zip(queues) {
            drain(queues, way, |rows| came.take(&keyed.take(&rows)));
            while keyed.has_more() {
                came.take(&keyed.go_on());
            }
        }
    }
    came.sorted()
}

/// Cuts the rows of a partition at the places that are said, in hundredths of them.
fn cut(rows: &[Line], cuts: &[usize]) -> Vec<Vec<Line>> {
    let mut places: Vec<usize> = cuts.iter().map(|cut| rows.len() * cut / 100).collect();
    places.sort_unstable();
    let ends = places.iter().copied().chain([rows.len()]);
    let begins = [0].into_iter().chain(places.iter().copied());
    begins.zip(ends).map(|(begin, end)| rows[begin..end].to_vec()).collect()
}

fn sources(flow: &'static str, all: &[Vec<Line>], cuts: &[Vec<usize>]) -> Vec<Source> {
    let source = |(partition, rows): (usize, &Vec<Line>)| {
        let parts = cut(rows, &cuts[partition % cuts.len()]);
        Source { flow, partition: partition as u32, parts }
    };
    all.iter().enumerate().map(source).collect()
}

/// Through three numbers of partitions, at places of its own for each partition of the sources.
fn rescalings() -> impl Strategy<Value = (Vec<usize>, Vec<Vec<usize>>)> {
    let cuts = proptest::collection::vec(proptest::collection::vec(0usize..=100, 2), 1..5);
    (proptest::collection::vec(1usize..=16, 3), cuts)
}

fn windows(count: usize, clauses: &str, query: &str, numbers: &[usize]) -> Vec<(usize, Program)> {
    let of = |number: &usize| {
        let clauses = format!("PARTITIONS {number} {clauses}");
        (*number, fine(&groups::statements(count as u32, &clauses, query)))
    };
    numbers.iter().map(of).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn windows_go_on_in_other_partitions(
        all in proptest::collection::vec(proptest::collection::vec((0u8..3, 0i64..90, -9i64..9), 1..50), 2..4),
        (numbers, cuts) in rescalings(),
        way in sides::a_way(),
    ) {
        let programs = windows(all.len(), "LATE INTO too_late", QUERY, &numbers);
        let came = run(&programs, &sources("f-by-key", &all, &cuts), &way);
        prop_assert_eq!(&came.rejected, &Vec::<String>::new());
        let undisturbed = run(&programs[..1], &sources("f-by-key", &all, &[vec![]]), &sides::whole());
        prop_assert_eq!(&came, &undisturbed);
        let mut book: Vec<String> = by_the_book(&all).into_iter().map(told).collect();
        book.sort();
        prop_assert_eq!(came.rows.len(), book.len());
        prop_assert!(came.rows.iter().zip(&book).all(|(ours, book)| ours.starts_with(book)), "{:?} {:?}", came.rows, book);
    }

    #[test]
    fn sessions_go_on_in_other_partitions(
        all in sides::onward(2..4),
        (numbers, cuts) in rescalings(),
        way in sides::a_way(),
    ) {
        let all: Vec<Vec<Line>> = all.iter().map(|rows| rows.iter().map(|(m, at, v)| (m % 3, *at, *v)).collect()).collect();
        let programs = windows(all.len(), "LATE INTO too_late", SESSIONS, &numbers);
        let came = run(&programs, &sources("f-by-key", &all, &cuts), &way);
        prop_assert_eq!(&came.rejected, &Vec::<String>::new());
        prop_assert_eq!(&came, &run(&programs[..1], &sources("f-by-key", &all, &[vec![]]), &sides::whole()));
        let book = sessions_by_the_book(&all);
        prop_assert_eq!(came.rows.len(), book.len());
        prop_assert!(came.rows.iter().zip(&book).all(|(ours, book)| ours.starts_with(book)), "{:?} {:?}", came.rows, book);
    }

    #[test]
    fn the_last_result_that_late_rows_change_is_the_same_in_other_partitions(
        all in proptest::collection::vec(proptest::collection::vec((0u8..3, 0i64..60, -9i64..9), 1..50), 2..4),
        (numbers, cuts) in rescalings(),
        way in sides::a_way(),
    ) {
        // All are past all windows in the end.
        let ended = |rows: &Vec<Line>| rows.iter().copied().chain([(0, 200, 0)]).collect();
        let all: Vec<Vec<Line>> = all.iter().map(ended).collect();
        let query = "SELECT m, window_start AS w, count(*) AS n FROM TUMBLE(s, ts, INTERVAL '10 s') GROUP BY m, window_start";
        let programs = windows(all.len(), "ALLOW LATENESS '15 s' LATE INTO too_late", query, &numbers);
        let came = run(&programs, &sources("f-by-key", &all, &cuts), &way);
        prop_assert_eq!(&came.rejected, &Vec::<String>::new());
        let undisturbed = run(&programs[..1], &sources("f-by-key", &all, &[vec![]]), &sides::whole());
        // Rows are counted: the last result of a group has the most.
        let last = |rows: &[String]| {
            let of = |row: &String| {
                let (group, count) = row.split_once(r#","n":"#).unwrap();
                (group.to_owned(), count.trim_end_matches('}').parse::<u64>().unwrap())
            };
            let mut all: Vec<_> = rows.iter().map(of).collect();
            all.sort();
            all.into_iter().collect::<std::collections::BTreeMap<_, _>>()
        };
        prop_assert_eq!(last(&came.rows), last(&undisturbed.rows));
        prop_assert_eq!(came.late, undisturbed.late);
    }

    #[test]
    fn joins_go_on_in_other_partitions(
        left in sides::onward(1..4),
        right in sides::onward(1..4),
        on in prop::sample::select(vec![
            "JOIN r AS b ON a.m = b.m AND b.ts BETWEEN a.ts - INTERVAL '9 s' AND a.ts + INTERVAL '4 s'",
            "FULL JOIN r AS b ON a.m = b.m AND a.v + b.v <> 3 AND b.ts BETWEEN a.ts - INTERVAL '9 s' AND a.ts + INTERVAL '4 s'",
            "LEFT JOIN r FOR SYSTEM_TIME AS OF a.ts AS b ON a.m = b.m",
        ]),
        (numbers, cuts) in rescalings(),
        way in sides::a_way(),
    ) {
        let query = format!("SELECT a.m AS am, a.ts AS at, a.v AS av, b.m AS bm, b.ts AS bt, b.v AS bv FROM l AS a {on}");
        let of = |number: &usize| {
            let clauses = format!("PARTITIONS {number} LATE INTO too_late");
            (*number, fine(&sides::statements([left.len(), right.len()], &clauses, &query)))
        };
        let programs: Vec<(usize, Program)> = numbers.iter().map(of).collect();
        let both = |cuts: &[Vec<usize>]| {
            let mut both = sources("f-left", &left, cuts);
            both.extend(sources("f-right", &right, cuts));
            both
        };
        let came = run(&programs, &both(&cuts), &way);
        prop_assert_eq!(&came.rejected, &Vec::<String>::new());
        prop_assert_eq!(&came, &run(&programs[..1], &both(&[vec![]]), &sides::whole()));
    }
}

/// The stages of two old partitions that have heard of both of the source, up to there.
fn old(programs: &[(usize, Program)], seconds: i64) -> Vec<Stage> {
    let mut keyed: Vec<Stage> = (0..2).map(|partition| stage_of(&programs[0].1, "f", partition)).collect();
    for partition in 0..2 {
        let mut spread = stage_of(&programs[0].1, "f-by-key", partition);
        let rows: Vec<Line> = (0..seconds).map(|second| ((second % 5) as u8, second, 1)).collect();
        for (to, rows) in process(&mut spread, &sides::batch(&rows)).spread {
            process(&mut keyed[to as usize], &rows);
        }
    }
    keyed
}

fn handed(stage: &Stage, to: u32) -> Vec<(u32, RecordBatch)> {
    stage.hand_over(Rescaling { from: 2, to }).unwrap().map(Result::unwrap).collect()
}

#[test]
fn rows_wait_until_all_is_handed_over_also_for_who_goes_on_from_the_state() {
    let programs = windows(2, "", QUERY, &[2, 1]);
    let old = old(&programs, 9);
    let mut new = stage_of(&programs[1].1, "f", 0);
    let rows = process(&mut stage_of(&programs[1].1, "f-by-key", 0), &sides::batch(&[(0, 9, 1)])).spread.remove(0).1;
    let first = handed(&old[0], 1);
    let mut dirty = Vec::new();
    for (_, rows) in &first {
        dirty.extend(new.take_over(rows).unwrap().dirty);
    }
    assert!(new.is_taking_over() && !new.has_more());
    let error = {
        new.open(rows.schema_ref()).unwrap();
        new.process(&rows).unwrap_err()
    };
    assert!(error.to_string().contains("before all was handed over"), "{error}");
    // What is said twice is not taken twice.
    assert!(new.take_over(&first[0].1).unwrap_err().to_string().contains("has done so already"));
    let state = new.snapshot(&dirty);
    let mut again = stage_of(&programs[1].1, "f", 0);
    again.restore(&state.iter().map(|(part, bytes)| (*part, bytes.as_slice())).collect::<Vec<_>>()).unwrap();
    assert!(again.is_taking_over());
    assert!(again.hand_over(Rescaling { from: 1, to: 2 }).is_err());
    handed(&old[1], 1).iter().for_each(|(_, rows)| drop(again.take_over(rows).unwrap()));
    assert!(!again.is_taking_over());
    // What it has is not taken again, whoever hands it over.
    assert!(again.take_over(&first[0].1).unwrap_err().to_string().contains("already"));
    process(&mut again, &rows);
}

#[test]
fn who_has_not_heard_the_same_of_the_source_is_not_taken_over_from() {
    let programs = windows(2, "", QUERY, &[2, 1]);
    let (one, other) = (old(&programs, 9), old(&programs, 8));
    let mut new = stage_of(&programs[1].1, "f", 0);
    handed(&one[0], 1).iter().for_each(|(_, rows)| drop(new.take_over(rows).unwrap()));
    let outcome = handed(&other[1], 1).iter().try_for_each(|(_, rows)| new.take_over(rows).map(drop));
    assert!(outcome.unwrap_err().to_string().contains("have not heard the same"));
}

#[test]
fn another_query_takes_nothing_over() {
    let programs = windows(2, "", QUERY, &[2, 1]);
    let other = windows(2, "", SESSIONS, &[1]);
    let rows = &handed(&old(&programs, 9)[0], 1)[0].1;
    let error = stage_of(&other[0].1, "f", 0).take_over(rows).unwrap_err();
    assert!(error.to_string().contains("give the flow another name"), "{error}");
    let plain = fine("CREATE STREAM s; CREATE FLOW f AS SELECT key FROM s");
    assert!(stage_of(&plain, "f", 0).take_over(rows).is_err());
    assert!(stage_of(&programs[1].1, "f", 0).take_over(&sides::batch(&[(0, 1, 1)])).is_err());
    // Nor does one take what no partition can have.
    let numbers: ArrayRef = Arc::new(UInt32Array::from(vec![128; rows.num_rows()]));
    let schema = rows.schema();
    let columns = schema.fields().iter().zip(rows.columns());
    let columns = columns.map(|(of, column)| (of.name(), if of.name() == "part" { &numbers } else { column }.clone()));
    let rows = RecordBatch::try_from_iter(columns).unwrap();
    let error = stage_of(&programs[1].1, "f", 0).take_over(&rows).unwrap_err();
    assert!(error.to_string().contains("no key group 128"), "{error}");
}

#[test]
fn what_is_to_be_put_out_is_so_before_groups_are_handed_over() {
    let query = "SELECT v, count(*) AS n FROM TUMBLE(s, ts, INTERVAL '10 s') GROUP BY v, window_start";
    let programs = windows(2, "", query, &[1, 2]);
    let mut keyed = stage_of(&programs[0].1, "f", 0);
    let mut spreads = [0, 1].map(|partition| stage_of(&programs[0].1, "f-by-key", partition));
    let mut take = |of: usize, rows: &[Line]| {
        let spread = process(&mut spreads[of], &sides::batch(rows)).spread;
        spread.iter().map(|(_, rows)| lines(process(&mut keyed, rows).rows.as_ref()).len()).sum::<usize>()
    };
    let many: Vec<Line> = (0..10_000).map(|v| (0, 1, v)).collect();
    assert_eq!(take(0, &many) + take(0, &[(0, 30, 1)]), 0);
    let first = take(1, &[(0, 30, 1)]);
    assert!(keyed.has_more() && first < 10_000, "{first}");
    let rescaling = Rescaling { from: 1, to: 2 };
    assert!(keyed.hand_over(rescaling).err().unwrap().to_string().contains("go on first"));
    let mut all = first;
    while keyed.has_more() {
        all += lines(keyed.go_on().unwrap().rows.as_ref()).len();
    }
    assert_eq!(all, 10_000);
    assert!(keyed.hand_over(rescaling).is_ok());
}

#[test]
fn a_large_key_group_is_handed_over_in_pieces_that_fit_into_commits() {
    let query = "SELECT x, count(*) AS n FROM HOP(s, ts, INTERVAL '1 s', INTERVAL '500 s') GROUP BY x, window_start";
    let text = |number: u32| {
        format!(
            "CREATE STREAM s (x text, ts timestamp, WATERMARK FOR ts AS ts) PARTITIONS 2; CREATE FLOW f PARTITIONS {number} AS {query}"
        )
    };
    let (one, two) = (fine(&text(1)), fine(&text(2)));
    let mut keyed = stage_of(&one, "f", 0);
    let long = "x".repeat(10_000);
    let record = |x: &str, second: u32| format!(r#"{{"x":"{x}","ts":"1970-01-01T00:00:{second:02}Z"}}"#);
    for partition in 0..2 {
        let rows = common::records(&[&record(&long, 1), &record("", 2)]);
        for (_, rows) in process(&mut stage_of(&one, "f-by-key", partition), &rows).spread {
            process(&mut keyed, &rows);
        }
    }
    while keyed.has_more() {
        keyed.go_on().unwrap();
    }
    let batches: Vec<(u32, RecordBatch)> =
        keyed.hand_over(Rescaling { from: 1, to: 2 }).unwrap().map(Result::unwrap).collect();
    let bytes = |(_, rows): &(u32, RecordBatch)| {
        rows.columns().iter().map(|column| column.to_data().get_slice_memory_size().unwrap()).sum::<usize>()
    };
    let bytes: Vec<usize> = batches.iter().map(bytes).collect();
    assert!(bytes.iter().sum::<usize>() > 8 << 20 && bytes.iter().all(|bytes| *bytes < 3 << 20), "{bytes:?}");
    // All of it is there, and comes together again.
    let mut new = [0, 1].map(|partition| stage_of(&two, "f", partition));
    batches.iter().for_each(|(to, rows)| drop(new[*to as usize].take_over(rows).unwrap()));
    let mut again = stage_of(&one, "f", 0);
    for (_, rows) in new.iter().flat_map(|stage| handed(stage, 1)) {
        again.take_over(&rows).unwrap();
    }
    let parts: Vec<u32> = (0..=u32::from(u16::MAX)).collect();
    let kept = |stage: &Stage| stage.snapshot(&parts).into_iter().filter(|(_, state)| !state.is_empty()).collect();
    let (before, after): (Vec<_>, Vec<_>) = (kept(&keyed), kept(&again));
    assert!(before.len() > 4 && before == after);
}

#[test]
fn who_was_furthest_says_which_windows_are_over() {
    // The first partition of the source falls idle, and comes back: one of the groups' partitions hears that of it before the second
    // has gone on, another one after that, and closes windows which the first does not.
    let query =
        "SELECT m, window_start AS w, count(*) AS n FROM TUMBLE(s, ts, INTERVAL '10 s') GROUP BY m, window_start";
    let programs = windows(2, "IDLE AFTER '30 s'", query, &[2, 1]);
    let mut spreads = [0, 1].map(|partition| stage_of(&programs[0].1, "f-by-key", partition));
    let spread = |stage: &mut Stage, rows: &[Line]| process(stage, &sides::batch(rows)).spread;
    let lane = |m: u8| {
        let rows = spread(&mut stage_of(&programs[0].1, "f-by-key", 0), &[(m, 1, 1)]);
        rows.iter().find(|(_, rows)| !lines(Some(rows))[0].contains(r#""moment":null"#)).unwrap().0
    };
    let behind = (0..9).map(lane).collect::<Vec<_>>();
    let key = behind.iter().position(|lane| *lane == 1).unwrap() as u8;
    let first = spread(&mut spreads[0], &[(key, 1, 1)]);
    let second = spread(&mut spreads[1], &[(key, 1, 1)]);
    let idle = spreads[0].idle().unwrap().spread;
    let back = spread(&mut spreads[0], &[(key, 50, 1)]);
    let on = spread(&mut spreads[1], &[(key, 100, 1)]);
    let mut keyed = [0, 1].map(|partition| stage_of(&programs[0].1, "f", partition));
    let orders = [[&first, &second, &idle, &on, &back], [&first, &second, &idle, &back, &on]];
    let mut rows = Vec::new();
    for (partition, order) in (0..).zip(orders) {
        for (_, batch) in order.iter().flat_map(|of| of.iter()).filter(|(to, _)| *to == partition) {
            rows.extend(lines(process(&mut keyed[partition as usize], batch).rows.as_ref()));
        }
    }
    // Only the window of the first rows is over for the one that has any.
    assert_eq!(rows.len(), 1, "{rows:?}");
    let mut new = stage_of(&programs[1].1, "f", 0);
    for old in &keyed {
        handed(old, 1).iter().for_each(|(_, rows)| drop(new.take_over(rows).unwrap()));
    }
    assert!(new.has_more());
    while new.has_more() {
        rows.extend(lines(new.go_on().unwrap().rows.as_ref()));
    }
    assert_eq!(rows.len(), 2, "{rows:?}");
    assert!(rows[1].contains("T00:00:50Z"), "{rows:?}");
}
