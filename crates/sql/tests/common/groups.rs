//! A stream `s` of several partitions, and a flow `f` that groups its rows: what they are, runs over them, and what has to come of them.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::{BTreeMap, VecDeque};

use arrow_array::RecordBatch;
use littoral_sql::Program;
use proptest::prelude::*;

use super::{Running, Way, lines, records};

pub const QUERY: &str = "SELECT m, window_start AS w, count(*) AS n, sum(v) AS s, count(*) FILTER (WHERE v > 5) AS big, max(v) AS top, \
                     sum(v / 10.0) AS exact, stddev(v) AS off FROM TUMBLE(s, ts, INTERVAL '10 s') GROUP BY m, window_start";

pub fn statements(partitions: u32, clauses: &str, query: &str) -> String {
    format!(
        "CREATE STREAM s (m text, ts timestamp, v bigint, WATERMARK FOR ts AS ts - INTERVAL '2 seconds') PARTITIONS {partitions}; \
         CREATE FLOW f {clauses} AS {query}"
    )
}

/// In one phase or in two.
pub fn phases() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["AGGREGATE IN ONE PHASE", "AGGREGATE IN TWO PHASES"])
}

/// A row: key, second, value.
pub type Line = (u8, i64, i64);

pub fn record((m, second, v): &Line) -> String {
    format!(r#"{{"m":"m{m}","ts":"1970-01-01T00:{:02}:{:02}Z","v":{v}}}"#, second / 60, second % 60)
}

/// What came of a run.
#[derive(Debug, Default, PartialEq)]
pub struct Came {
    /// By partition of the groups, in order.
    pub rows: Vec<Vec<String>>,
    /// By partition of the source, in order.
    pub late: Vec<Vec<String>>,
    pub rejected: Vec<String>,
    pub failed: Vec<String>,
    /// How many rows the partitions of the source sent to those of the groups.
    pub sent: usize,
}

/// Runs both stages, with as many partitions of the groups as of the source.
pub fn run(program: &Program, sources: &[Vec<Line>], way: &Way) -> Came {
    run_over(program, sources, sources.len(), way)
}

/// The same with so many partitions of the groups.
pub fn run_over(program: &Program, sources: &[Vec<Line>], keyed: usize, way: &Way) -> Came {
    let mut came = Came { rows: vec![Vec::new(); keyed], ..Came::default() };
    let mut queues: Vec<Vec<VecDeque<RecordBatch>>> = vec![vec![VecDeque::new(); sources.len()]; keyed];
    for (partition, rows) in sources.iter().enumerate() {
        let mut spread = Running::new(program, "f-by-key", partition as u32, way.restarts);
        let (mut left, mut sizes, mut late) = (rows.as_slice(), way.sizes.iter().cycle(), Vec::new());
        while !left.is_empty() {
            let (now, rest) = left.split_at(left.len().min(*sizes.next().unwrap()));
            left = rest;
            let texts: Vec<String> = now.iter().map(record).collect();
            let output = spread.take(&records(&texts.iter().map(String::as_str).collect::<Vec<_>>()));
            late.extend(lines(output.late.as_ref()));
            came.rejected.extend(output.rejected.into_iter().map(|(_, reason)| reason));
            let mut sent = output.spread;
            while spread.has_more() {
                sent.extend(spread.go_on().spread);
            }
            for (to, rows) in sent {
                came.sent += rows.num_rows();
                queues[to as usize][partition].push_back(rows);
            }
        }
        came.late.push(late);
    }
    for (to, mut queues) in queues.into_iter().enumerate() {
        let mut groups = Running::new(program, "f", to as u32, way.restarts);
        let mut order = way.order.iter().cycle();
        while queues.iter().any(|queue| !queue.is_empty()) {
            let Some(rows) = queues[order.next().unwrap() % sources.len()].pop_front() else { continue };
            let output = groups.take(&rows);
            came.rows[to].extend(lines(output.rows.as_ref()));
            came.rejected.extend(output.rejected.into_iter().map(|(_, reason)| reason));
            came.failed.extend(output.failed);
        }
        while groups.has_more() {
            came.rows[to].extend(lines(groups.go_on().rows.as_ref()));
        }
    }
    came
}

pub fn whole(partitions: usize) -> Way {
    Way { sizes: vec![usize::MAX], order: (0..partitions).collect(), restarts: false }
}

/// By the book: of each partition the rows that are not late for it; what the last watermarks of all passed.
pub fn by_the_book(sources: &[Vec<Line>]) -> BTreeMap<(i64, u8), Vec<Vec<i64>>> {
    let mut groups: BTreeMap<(i64, u8), Vec<Vec<i64>>> = BTreeMap::new();
    let mut least = i64::MAX;
    for (partition, rows) in sources.iter().enumerate() {
        let mut watermark = i64::MIN;
        for (m, second, v) in rows {
            let start = second.div_euclid(10) * 10;
            if start + 10 > watermark {
                let group = groups.entry((start, *m)).or_insert_with(|| vec![Vec::new(); sources.len()]);
                group[partition].push(*v);
            }
            watermark = watermark.max(second - 2);
        }
        least = least.min(watermark);
    }
    groups.retain(|(start, _), _| start + 10 <= least);
    groups
}

pub fn told(((start, m), of): ((i64, u8), Vec<Vec<i64>>)) -> String {
    let all = || of.iter().flatten().copied();
    let (n, s) = (all().count(), all().sum::<i64>());
    // What each partition amounts to, one after the other.
    let parts =
        of.iter().filter(|part| !part.is_empty()).map(|part| part.iter().fold(0.0, |sum, v| sum + *v as f64 / 10.0));
    let exact = parts.reduce(|sum, part| sum + part).unwrap();
    let (big, top) = (all().filter(|v| *v > 5).count(), all().max().unwrap());
    let w = format!("1970-01-01T00:{:02}:{:02}Z", start / 60, start % 60);
    format!(r#"{{"m":"m{m}","w":"{w}","n":{n},"s":{s},"big":{big},"top":{top},"exact":{exact:?},"#)
}

/// The deviation of a group's values as it is put out, for they are computed in another order by the book.
pub fn off(line: &str) -> Option<f64> {
    serde_json::from_str::<serde_json::Value>(line).unwrap()["off"].as_f64()
}

pub fn off_by_the_book(of: &[Vec<i64>]) -> Option<f64> {
    let all: Vec<f64> = of.iter().flatten().map(|v| *v as f64).collect();
    let mean = all.iter().sum::<f64>() / all.len() as f64;
    let squares: f64 = all.iter().map(|v| (v - mean) * (v - mean)).sum();
    (all.len() > 1).then(|| (squares / (all.len() - 1) as f64).sqrt())
}

pub fn a_way() -> impl Strategy<Value = Way> {
    let order = proptest::collection::vec(0usize..3, 0..12).prop_map(|order| [order, vec![0, 1, 2]].concat());
    let sizes = proptest::collection::vec(1usize..20, 1..5);
    (sizes, order, any::<bool>()).prop_map(|(sizes, order, restarts)| Way { sizes, order, restarts })
}

pub const SESSIONS: &str = "SELECT m, window_start AS w, window_end AS e, count(*) AS n, sum(v) AS s, sum(v / 10.0) AS exact \
                        FROM SESSION(s, ts, INTERVAL '7 s') GROUP BY m, window_start, window_end";

/// By the book: of each partition the rows that are not behind its watermark, by key in the order of time, parted where there is a gap.
pub fn sessions_by_the_book(sources: &[Vec<Line>]) -> Vec<String> {
    let mut keys: BTreeMap<u8, Vec<(i64, i64)>> = BTreeMap::new();
    let mut least = i64::MAX;
    for rows in sources {
        let mut watermark = i64::MIN;
        for (m, second, v) in rows {
            if *second >= watermark {
                keys.entry(*m).or_default().push((*second, *v));
            }
            watermark = watermark.max(second - 2);
        }
        least = least.min(watermark);
    }
    let mut told = Vec::new();
    for (m, mut rows) in keys {
        rows.sort_unstable();
        for session in rows.chunk_by(|(one, _), (next, _)| next - one < 7) {
            let (start, end) = (session[0].0, session[session.len() - 1].0 + 7);
            if end <= least {
                let moment = |second: i64| format!("1970-01-01T00:{:02}:{:02}Z", second / 60, second % 60);
                let (n, s) = (session.len(), session.iter().map(|(_, v)| v).sum::<i64>());
                told.push(format!(r#"{{"m":"m{m}","w":"{}","e":"{}","n":{n},"s":{s},"#, moment(start), moment(end)));
            }
        }
    }
    told.sort();
    told
}
