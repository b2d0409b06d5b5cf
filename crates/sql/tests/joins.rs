//! Joins: which pairs there are, and which rows come out alone, is what all rows that are not late come to, whatever comes first, in
//! whatever batches, and however often a stage goes on from its state.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::disallowed_methods, clippy::expect_used)]

mod common;

use std::collections::VecDeque;

use arrow_array::RecordBatch;
use common::{Running, Way, app, fine, lines, mistakes, process, records, stage_of};
use littoral_model::manifest::{Partitioning, Sink};
use littoral_sql::{Program, expand};
use proptest::prelude::*;

/// A row: key (none for 3), second, value.
type Line = (u8, i64, i64);

fn record((m, second, v): &Line) -> String {
    let m = if *m == 3 { "null".to_owned() } else { format!(r#""m{m}""#) };
    format!(r#"{{"m":{m},"ts":"1970-01-01T00:{:02}:{:02}Z","v":{v}}}"#, second / 60, second % 60)
}

const STREAMS: &str = "m text, ts timestamp, v bigint, WATERMARK FOR ts AS ts - INTERVAL";

/// Two streams of so many partitions, and a flow `f`.
fn statements(partitions: [usize; 2], clauses: &str, query: &str) -> String {
    let [left, right] = partitions;
    format!(
        "CREATE STREAM l ({STREAMS} '2 seconds') PARTITIONS {left}; CREATE STREAM r ({STREAMS} '3 seconds') PARTITIONS {right}; \
         CREATE FLOW f {clauses} AS {query}"
    )
}

/// What came of a run.
#[derive(Debug, Default, PartialEq)]
struct Came {
    rows: Vec<String>,
    late: Vec<String>,
    rejected: Vec<String>,
}

impl Came {
    fn sorted(mut self) -> Self {
        self.rows.sort();
        self
    }
}

fn batch(rows: &[Line]) -> RecordBatch {
    let texts: Vec<String> = rows.iter().map(record).collect();
    records(&texts.iter().map(String::as_str).collect::<Vec<_>>())
}

/// Runs all three flows; what is sent to the partitions of the join is heard of in the order of the way.
fn run(program: &Program, sources: [&[Vec<Line>]; 2], way: &Way) -> Came {
    let [left, right] = sources;
    let producers = left.len() + right.len();
    let keyed = left.len().max(right.len());
    let mut came = Came::default();
    let mut queues: Vec<Vec<VecDeque<RecordBatch>>> = vec![vec![VecDeque::new(); producers]; keyed];
    for (name, partitions, first) in [("f-left", left, 0), ("f-right", right, left.len())] {
        for (partition, rows) in partitions.iter().enumerate() {
            let mut spread = Running::new(program, name, partition as u32, way.restarts);
            let (mut rest, mut sizes) = (rows.as_slice(), way.sizes.iter().cycle());
            while !rest.is_empty() {
                let (now, after) = rest.split_at(rest.len().min(*sizes.next().unwrap()));
                rest = after;
                let output = spread.take(&batch(now));
                came.late.extend(lines(output.late.as_ref()));
                came.rejected.extend(output.rejected.into_iter().map(|(_, reason)| reason));
                for (to, rows) in output.spread {
                    queues[to as usize][first + partition].push_back(rows);
                }
            }
        }
    }
    for (to, mut queues) in queues.into_iter().enumerate() {
        let mut join = Running::new(program, "f", to as u32, way.restarts);
        let mut order = way.order.iter().cycle();
        while queues.iter().any(|queue| !queue.is_empty()) {
            let Some(rows) = queues[order.next().unwrap() % producers].pop_front() else { continue };
            let output = join.take(&rows);
            came.rows.extend(lines(output.rows.as_ref()));
            came.rejected.extend(output.rejected.into_iter().map(|(_, reason)| reason));
        }
    }
    came
}

fn whole() -> Way {
    Way { sizes: vec![usize::MAX], order: (0..8).collect(), restarts: false }
}

/// The rows of partitions that are not late, and the least watermark of all.
fn in_time(sources: &[Vec<Line>], delay: i64) -> (Vec<Line>, i64) {
    let (mut rows, mut least) = (Vec::new(), i64::MAX);
    for of in sources {
        let mut watermark = i64::MIN;
        for line in of {
            if line.1 >= watermark {
                rows.push(*line);
            }
            watermark = watermark.max(line.1 - delay);
        }
        least = least.min(watermark);
    }
    (rows, least)
}

/// How many rows are late whose values are no less.
fn late(sources: &[Vec<Line>], delay: i64, least: i64) -> usize {
    let in_time: Vec<Line> = sources.iter().flat_map(|of| in_time(std::slice::from_ref(of), delay).0).collect();
    let count = |rows: &mut dyn Iterator<Item = &Line>| rows.filter(|(_, _, v)| *v >= least).count();
    count(&mut sources.iter().flatten()) - count(&mut in_time.iter())
}

fn told(left: Option<&Line>, right: Option<&Line>) -> String {
    let side = |of: Option<&Line>, names: [&str; 3]| {
        let [m, t, v] = names;
        let Some((key, second, value)) = of else { return format!(r#""{m}":null,"{t}":null,"{v}":null"#) };
        let key = if *key == 3 { "null".to_owned() } else { format!(r#""m{key}""#) };
        format!(r#""{m}":{key},"{t}":"1970-01-01T00:{:02}:{:02}Z","{v}":{value}"#, second / 60, second % 60)
    };
    format!("{{{},{}}}", side(left, ["am", "at", "av"]), side(right, ["bm", "bt", "bv"]))
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

fn a_way() -> impl Strategy<Value = Way> {
    let order = proptest::collection::vec(0usize..6, 0..20).prop_map(|order| [order, (0..6).collect()].concat());
    let sizes = proptest::collection::vec(1usize..20, 1..5);
    (sizes, order, any::<bool>()).prop_map(|(sizes, order, restarts)| Way { sizes, order, restarts })
}

/// Rows whose time goes on, mostly.
fn onward(partitions: std::ops::Range<usize>) -> impl Strategy<Value = Vec<Vec<Line>>> {
    let rows = proptest::collection::vec((0u8..4, 0i64..5, -9i64..9), 1..40);
    proptest::collection::vec(rows, partitions).prop_map(|sources| {
        let onward = |rows: Vec<Line>| {
            let mut now = 0;
            let row = |(m, step, v): Line| {
                now += step;
                (m, if v % 4 == 0 { (now - 6).max(0) } else { now }, v)
            };
            rows.into_iter().map(row).collect()
        };
        sources.into_iter().map(onward).collect()
    })
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
        way in a_way(),
    ) {
        let bounds = (low, low + length);
        let sources = [left.as_slice(), right.as_slice()];
        let program = fine(&statements([left.len(), right.len()], "LATE INTO too_late", &query(kind, bounds)));
        let one = run(&program, sources, &way).sorted();
        prop_assert_eq!(&one.rows, &by_the_book(sources, kind, bounds));
        prop_assert_eq!(&one, &run(&program, sources, &whole()).sorted());
        prop_assert_eq!(&one.rejected, &Vec::<String>::new());
        // What does not count is not late either: rows of the right side, unless they come out alone.
        let least = if ["RIGHT", "FULL"].contains(&kind) { -9 } else { -7 };
        prop_assert_eq!(one.late.len(), late(&left, 2, -9) + late(&right, 3, least));
    }
}
