//! Two streams `l` and `r` that a flow `f` joins: their rows, and runs over them.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::VecDeque;

use arrow_array::RecordBatch;
use littoral_sql::Program;
use proptest::prelude::*;

use super::{Running, Way, lines, records};

/// A row: key (none for 3), second, value.
pub type Line = (u8, i64, i64);

fn record((m, second, v): &Line) -> String {
    let m = if *m == 3 { "null".to_owned() } else { format!(r#""m{m}""#) };
    format!(r#"{{"m":{m},"ts":"1970-01-01T00:{:02}:{:02}Z","v":{v}}}"#, second / 60, second % 60)
}

/// The columns of a stream, up to how much its moments may be out of order.
pub const COLUMNS: &str = "m text, ts timestamp, v bigint, WATERMARK FOR ts AS ts - INTERVAL";

/// Two streams of so many partitions, and a flow `f`.
pub fn statements(partitions: [usize; 2], clauses: &str, query: &str) -> String {
    let [left, right] = partitions;
    format!(
        "CREATE STREAM l ({COLUMNS} '2 seconds') PARTITIONS {left}; CREATE STREAM r ({COLUMNS} '3 seconds') PARTITIONS {right}; \
         CREATE FLOW f {clauses} AS {query}"
    )
}

/// What came of a run.
#[derive(Debug, Default, PartialEq)]
pub struct Came {
    pub rows: Vec<String>,
    pub late: Vec<String>,
    pub rejected: Vec<String>,
}

impl Came {
    pub fn sorted(mut self) -> Self {
        self.rows.sort();
        self
    }
}

/// Rows as they are published.
pub fn batch(rows: &[Line]) -> RecordBatch {
    let texts: Vec<String> = rows.iter().map(record).collect();
    records(&texts.iter().map(String::as_str).collect::<Vec<_>>())
}

/// Runs all three flows; what is sent to the partitions of the join is heard of in the order of the way.
pub fn run(program: &Program, sources: [&[Vec<Line>]; 2], way: &Way) -> Came {
    let [left, right] = sources;
    run_over(program, sources, left.len().max(right.len()), way)
}

/// The same where the join has so many partitions.
pub fn run_over(program: &Program, sources: [&[Vec<Line>]; 2], keyed: usize, way: &Way) -> Came {
    let [left, right] = sources;
    let producers = left.len() + right.len();
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

/// All at once.
pub fn whole() -> Way {
    Way { sizes: vec![usize::MAX], order: (0..8).collect(), restarts: false }
}

/// The rows of partitions that are not late, and the least watermark of all.
pub fn in_time(sources: &[Vec<Line>], delay: i64) -> (Vec<Line>, i64) {
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

/// A pair, or a row alone, as a result tells it.
pub fn told(left: Option<&Line>, right: Option<&Line>) -> String {
    let side = |of: Option<&Line>, names: [&str; 3]| {
        let [m, t, v] = names;
        let Some((key, second, value)) = of else { return format!(r#""{m}":null,"{t}":null,"{v}":null"#) };
        let key = if *key == 3 { "null".to_owned() } else { format!(r#""m{key}""#) };
        format!(r#""{m}":{key},"{t}":"1970-01-01T00:{:02}:{:02}Z","{v}":{value}"#, second / 60, second % 60)
    };
    format!("{{{},{}}}", side(left, ["am", "at", "av"]), side(right, ["bm", "bt", "bv"]))
}

/// Any way.
pub fn a_way() -> impl Strategy<Value = Way> {
    let order = proptest::collection::vec(0usize..6, 0..20).prop_map(|order| [order, (0..6).collect()].concat());
    let sizes = proptest::collection::vec(1usize..20, 1..5);
    (sizes, order, any::<bool>()).prop_map(|(sizes, order, restarts)| Way { sizes, order, restarts })
}

/// Rows whose time goes on, mostly.
pub fn onward(partitions: std::ops::Range<usize>) -> impl Strategy<Value = Vec<Vec<Line>>> {
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

/// Rows of one partition each, with one row a batch, taken in the order given: `l` of the left side, `r` of the right one.
pub fn in_turn(program: &Program, rows: &[(char, Line)]) -> Came {
    let mut sides = [("f-left", 'l'), ("f-right", 'r')].map(|(flow, of)| (Running::new(program, flow, 0, true), of));
    let mut join = Running::new(program, "f", 0, true);
    let mut came = Came::default();
    for (side, row) in rows {
        let (spread, _) = sides.iter_mut().find(|(_, of)| of == side).unwrap();
        let output = spread.take(&batch(&[*row]));
        came.late.extend(lines(output.late.as_ref()));
        came.rejected.extend(output.rejected.into_iter().map(|(_, reason)| reason));
        for (_, rows) in output.spread {
            let output = join.take(&rows);
            came.rows.extend(lines(output.rows.as_ref()));
            came.rejected.extend(output.rejected.into_iter().map(|(_, reason)| reason));
        }
    }
    came
}
