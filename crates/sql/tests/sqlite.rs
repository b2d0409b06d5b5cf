//! The same queries over the same rows, here and in SQLite: results must be the same up to the differences that
//! docs/reference/sql.md lists. What fails on a row here (it is rejected) SQLite answers with null or another type; such rows are left out, and
//! only those whose reason is one of these differences.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::disallowed_methods, clippy::expect_used)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};

use common::{fine, lines, process, records, stage};
use littoral_sql::{Output, Program};
use serde_json::{Value, json};

/// Where SQLite answers otherwise than with an error.
const DIFFERENCES: [&str; 4] = [
    "division by zero",
    "bigint out of range",
    "value out of range: overflow",
    "cannot take square root of a negative number",
];

/// What is selected, and which rows; each also as SQLite writes it where that is not the same.
struct Query {
    ours: String,
    theirs: String,
}

fn same(value: &str, condition: &str) -> Query {
    pair(value, value, condition)
}

fn pair(ours: &str, theirs: &str, condition: &str) -> Query {
    let of = |value: &str| format!("SELECT id, {value} AS v FROM s WHERE {condition}");
    Query { ours: of(ours), theirs: of(theirs) }
}

/// The rows: id, a, b, x, y, t, u, ts in microseconds.
fn rows() -> Vec<Vec<Value>> {
    let mut random = Random(42);
    let texts = ["", "a", "ab", "abc", "Abc", "b%", "x_y", "  pad ", "zebra", "12"];
    let integers = [0, 1, -1, 2, 7, -7, 100, 12_345, i64::MAX, i64::MIN];
    let doubles = [0.0, 1.0, -1.0, 0.5, -2.25, 3.75, 1e10, -1e-3, 1e300, 123.456];
    (0..60)
        .map(|id| {
            let mut or_null = |value: Value| if random.below(6) == 0 { Value::Null } else { value };
            let mut pick = Random(id as u64 + 1);
            vec![
                json!(id),
                or_null(json!(integers[pick.below(10)])),
                or_null(json!(integers[pick.below(8)])),
                or_null(json!(doubles[pick.below(10)])),
                or_null(json!(doubles[pick.below(10)])),
                or_null(json!(texts[pick.below(10)])),
                or_null(json!(texts[pick.below(10)])),
                json!(id * 3_000_000),
            ]
        })
        .collect()
}

/// A small generator of our own, so that the queries stay the same whatever crate is upgraded (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        self.0 ^= self.0 >> 29;
        self.0 ^= self.0 << 17;
        self.0 ^= self.0 >> 31;
        (self.0 % end as u64) as usize
    }
}

/// Expressions of a type, in the part of the language that both read alike.
fn expression(random: &mut Random, ty: char, depth: usize) -> String {
    let leaf = depth == 0 || random.below(5) == 0;
    let mut of = |ty: char| expression(random, ty, depth.saturating_sub(1));
    if leaf {
        let choices: &[&str] = match ty {
            'i' => &["a", "b", "id", "3", "0", "-2", "length(t)"],
            'd' => &["x", "y", "0.5", "-1.25", "2.0"],
            't' => &["t", "u", "'abc'", "''", "'b%'"],
            _ => &["a > b", "t IS NULL", "x < 1.0", "a IN (1, 2, 7)", "t LIKE 'a%'", "u = 'abc'"],
        };
        let choice = of_list(random, choices);
        return choice.to_owned();
    }
    let (one, two, three) = (of(ty), of(ty), of('b'));
    match ty {
        'i' => {
            let (t, d) = (expression(random, 't', 1), expression(random, 'i', 1));
            match random.below(9) {
                0 => format!("({one} + {two})"),
                1 => format!("({one} - {two})"),
                2 => format!("({one} * {two})"),
                3 => format!("({one} / {two})"),
                4 => format!("({one} % {two})"),
                5 => format!("CASE WHEN {three} THEN {one} ELSE {two} END"),
                6 => format!("coalesce({one}, {two})"),
                7 => format!("nullif({one}, {d})"),
                _ => format!("length({t})"),
            }
        }
        'd' => match random.below(7) {
            0 => format!("({one} + {two})"),
            1 => format!("({one} - {two})"),
            2 => format!("({one} * {two})"),
            3 => format!("({one} / {two})"),
            4 => format!("CASE WHEN {three} THEN {one} END"),
            5 => format!("coalesce({one}, {two})"),
            _ => format!("abs({one})"),
        },
        't' => match random.below(6) {
            0 => format!("({one} || {two})"),
            1 => format!("upper({one})"),
            2 => format!("replace({one}, 'a', {two})"),
            3 => format!("CASE WHEN {three} THEN {one} ELSE {two} END"),
            4 => format!("coalesce({one}, {two})"),
            _ => format!("substr({one}, 2, 3)"),
        },
        _ => {
            let kind = ['i', 'd', 't'][random.below(3)];
            let (left, right) = (expression(random, kind, depth - 1), expression(random, kind, depth - 1));
            let operator = ["=", "<>", "<", "<=", ">", ">="][random.below(6)];
            match random.below(8) {
                0 => format!("({one} AND {two})"),
                1 => format!("({one} OR {two})"),
                2 => format!("(NOT {one})"),
                3 => format!("({left} IS NULL)"),
                4 => format!("({left} IS NOT NULL)"),
                5 => format!("({left} BETWEEN {right} AND {left})"),
                6 => format!("({left} IN ({right}, {left}))"),
                _ => format!("({left} {operator} {right})"),
            }
        }
    }
}

fn of_list<'c>(random: &mut Random, choices: &[&'c str]) -> &'c str {
    choices[random.below(choices.len())]
}

/// What these come to here: by id the value, and the ids of rows that failed.
fn ours(query: &str, values: &[String]) -> (BTreeMap<i64, Value>, BTreeMap<i64, String>) {
    let text = format!(
        "CREATE STREAM s (id bigint, a bigint, b bigint, x double, y double, t text, u text, ts timestamp); CREATE FLOW f AS {query}"
    );
    let values: Vec<&str> = values.iter().map(String::as_str).collect();
    let program = fine(&text);
    let output = if program.flows.len() > 1 {
        joined(&program, &values)
    } else {
        process(&mut stage(&program, "f"), &records(&values))
    };
    let rows = lines(output.rows.as_ref()).into_iter().map(|line| {
        let row: Value = serde_json::from_str(&line).unwrap();
        (row["id"].as_i64().unwrap(), row["v"].clone())
    });
    (rows.collect(), output.rejected.into_iter().map(|(row, reason)| (i64::from(row), reason)).collect())
}

/// What the rows come to, joined with themselves.
fn joined(program: &Program, values: &[&str]) -> Output {
    let spread = |flow| process(&mut stage(program, flow), &records(values)).spread.remove(0).1;
    let rows = [spread("f-left"), spread("f-right")];
    process(&mut stage(program, "f"), &arrow_select::concat::concat_batches(rows[0].schema_ref(), &rows).unwrap())
}

fn sqlite(rows: &[Vec<Value>], queries: &[String]) -> Vec<Value> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/sqlite.py");
    let mut python = Command::new("python3").arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let asked = json!({ "rows": rows, "queries": queries }).to_string();
    let mut stdin = python.stdin.take().unwrap();
    let writer = std::thread::spawn(move || stdin.write_all(asked.as_bytes()).unwrap());
    let output = python.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(output.status.success());
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    println!("SQLite {}", answer["version"].as_str().unwrap());
    answer["results"].as_array().unwrap().clone()
}

/// Whether two answers are the same: truths are numbers to SQLite, and sums of doubles may differ in their last digits.
fn agree(ours: &Value, theirs: &Value) -> bool {
    match (ours, theirs) {
        (Value::Bool(ours), Value::Number(theirs)) => theirs.as_i64() == Some(i64::from(*ours)),
        (Value::Number(one), Value::Number(other)) => {
            let (one, other) = (one.as_f64().unwrap(), other.as_f64().unwrap());
            one == other || (one - other).abs() <= 1e-12 * one.abs().max(other.abs())
        }
        _ => ours == theirs,
    }
}

/// Compares queries; answers how many rows were compared and how many were left out. Of simple ones, SQLite has null or a
/// number with decimals where a row is rejected here, and nothing if it failed in the condition.
fn compare(queries: &[Query], are_simple: bool) -> (usize, usize) {
    let rows = rows();
    let names = ["id", "a", "b", "x", "y", "t", "u"];
    let values: Vec<String> = rows
        .iter()
        .map(|row| {
            let mut object: serde_json::Map<String, Value> =
                names.iter().zip(row).map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
            let seconds = row[7].as_i64().unwrap() / 1_000_000;
            object.insert("ts".to_owned(), json!(format!("1970-01-01T00:{:02}:{:02}Z", seconds / 60, seconds % 60)));
            Value::Object(object).to_string()
        })
        .collect();
    let theirs: Vec<String> = queries.iter().map(|query| query.theirs.clone()).collect();
    let answers = sqlite(&rows, &theirs);
    let (mut compared, mut left_out, mut wrong) = (0, 0, String::new());
    for (query, answer) in queries.iter().zip(answers) {
        let Some(answer) = answer["rows"].as_array() else {
            // SQLite itself refuses some integers that overflow.
            assert!(answer["error"].as_str().unwrap().contains("overflow"), "{}: {answer}", query.theirs);
            continue;
        };
        let (ours, failed) = ours(&query.ours, &values);
        let known = failed.values().find(|reason| !DIFFERENCES.iter().any(|known| reason.contains(known)));
        assert!(known.is_none(), "{}: {known:?}", query.ours);
        let theirs: BTreeMap<i64, Value> =
            answer.iter().map(|row| (row[0].as_i64().unwrap(), row[1].clone())).collect();
        let ids: BTreeSet<i64> = ours.keys().chain(theirs.keys()).copied().collect();
        for id in ids {
            if let Some(reason) = failed.get(&id) {
                let is_infinite = |theirs: &Value| theirs.as_str().is_some_and(|theirs| theirs.ends_with("inf"));
                let is_other =
                    theirs.get(&id).is_none_or(|theirs| theirs.is_null() || theirs.is_f64() || is_infinite(theirs));
                assert!(is_other || !are_simple, "{} at {id}: {reason}, SQLite {:?}", query.ours, theirs.get(&id));
                left_out += 1;
                continue;
            }
            compared += 1;
            let agreed = ours.get(&id).zip(theirs.get(&id)).is_some_and(|(ours, theirs)| agree(ours, theirs));
            if !agreed {
                writeln!(wrong, "{} at {id}: {:?}, SQLite {:?}", query.ours, ours.get(&id), theirs.get(&id)).unwrap();
                break;
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    (compared, left_out)
}

#[test]
fn written_queries_come_to_what_they_come_to_in_sqlite() {
    let values = [
        "a",
        "b",
        "x",
        "t",
        "a + b",
        "a - b",
        "a * b",
        "a / b",
        "a % b",
        "-a",
        "+b",
        "x + y",
        "x - y",
        "x * y",
        "x / y",
        "-x",
        "a + x",
        "a * 2.5",
        "x / a",
        "a = b",
        "a <> b",
        "a < b",
        "a <= b",
        "a > b",
        "a >= b",
        "x = y",
        "x < y",
        "x >= y",
        "t = u",
        "t < u",
        "t >= u",
        "a IS NULL",
        "a IS NOT NULL",
        "t IS NULL",
        "a IS DISTINCT FROM b",
        "t IS NOT DISTINCT FROM u",
        "x IS DISTINCT FROM y",
        "a BETWEEN b AND 100",
        "a NOT BETWEEN 0 AND 10",
        "x BETWEEN -1 AND 1",
        "t BETWEEN 'a' AND 'b'",
        "a IN (1, 2, 7)",
        "a NOT IN (1, 2, 7)",
        "a IN (1, NULL)",
        "t IN ('abc', u)",
        "x IN (0.5, 1)",
        "t LIKE 'a%'",
        "t LIKE '%b_'",
        "t NOT LIKE 'A%'",
        "t LIKE ''",
        "t LIKE u",
        "t || u",
        "t || '-' || a",
        "upper(t)",
        "lower(t)",
        "length(t)",
        "length(t || u)",
        "trim(t)",
        "ltrim(t)",
        "rtrim(t)",
        "replace(t, 'b', 'xx')",
        "replace(t, '', 'x')",
        "substr(t, 2)",
        "substr(t, 1, 2)",
        "substr(t, 2, 0)",
        "coalesce(a, b)",
        "coalesce(a, b, 0)",
        "coalesce(t, u, 'none')",
        "coalesce(x, a)",
        "nullif(a, b)",
        "nullif(t, 'abc')",
        "nullif(x, y)",
        "CASE WHEN a > b THEN 'more' WHEN a < b THEN 'less' ELSE 'same' END",
        "CASE a WHEN 1 THEN 'one' WHEN 7 THEN 'seven' END",
        "CASE WHEN t IS NULL THEN 0 ELSE length(t) END",
        "CASE WHEN b <> 0 THEN a % b END",
        "CASE t WHEN u THEN 1 ELSE 2 END",
        "abs(b)",
        "abs(x)",
        "CAST(b AS text)",
        "CAST(a AS double precision)",
        "a > b AND x > y",
        "a > b OR x > y",
        "NOT (a > b)",
        "(a > b) IS TRUE",
        "(a > b) IS NOT TRUE",
        "(a > b) IS FALSE",
        "(t = u) IS NOT FALSE",
        "(a > b) = (x > y)",
        "a > 0 AND t IS NULL OR b < 0",
        "NOT (a > b AND x > y)",
        "a + b * 2 - id",
        "(a + b) * 2",
        "a - -b",
        "id % 7 / 2",
        "id * id",
        "a = 7 OR NULL",
        "a = 7 AND NULL",
        "NOT NULL",
        "NULL = NULL",
        "NULL IS NULL",
        "1 < 2",
        "'a' < 'b'",
        "0.1 + 0.2",
    ];
    let conditions = ["true", "a > b", "t LIKE '%b%' OR u IS NULL", "x > 0 AND NOT (y > 1)"];
    let mut queries: Vec<Query> = Vec::new();
    for (place, value) in values.iter().enumerate() {
        queries.push(same(value, "true"));
        queries.push(same(value, conditions[1 + place % 3]));
    }
    for (ours, theirs) in [
        ("strpos(t, 'b')", "instr(t, 'b')"),
        ("position('b' IN t)", "instr(t, 'b')"),
        ("concat(t, u)", "coalesce(t, '') || coalesce(u, '')"),
        ("greatest(a, b)", "max(coalesce(a, b), coalesce(b, a))"),
        ("least(x, y)", "min(coalesce(x, y), coalesce(y, x))"),
        ("left(t, 2)", "substr(t, 1, 2)"),
        ("starts_with(t, 'a')", "t LIKE 'a%'"),
        ("EXTRACT(EPOCH FROM ts)", "ts / 1000000.0"),
        ("EXTRACT(MINUTE FROM ts)", "CAST(strftime('%M', ts / 1000000, 'unixepoch') AS real)"),
        ("sqrt(abs(x))", "sqrt(abs(x))"),
        ("power(y, 2)", "y * y"),
        ("floor(x)", "floor(x)"),
        ("ceil(y)", "ceil(y)"),
        ("sign(x)", "sign(x)"),
    ] {
        queries.push(pair(ours, theirs, "true"));
    }
    let (compared, left_out) = compare(&queries, true);
    println!("{} written queries: {compared} rows the same, {left_out} rejected here", queries.len());
    assert!(queries.len() >= 200 && compared > 5_000 && left_out < compared / 10);
}

#[test]
fn generated_queries_come_to_what_they_come_to_in_sqlite() {
    let mut random = Random(7);
    let queries: Vec<Query> = (0..1_000)
        .map(|number| {
            let value = expression(&mut random, ['i', 'd', 't', 'b'][number % 4], 3);
            let condition = expression(&mut random, 'b', 2);
            same(&value, &condition)
        })
        .collect();
    let (compared, left_out) = compare(&queries, false);
    println!("{} generated queries: {compared} rows the same, {left_out} rejected here", queries.len());
    assert!(compared > 10_000 && left_out < compared / 10);
}

#[test]
fn windows_come_to_what_groups_come_to_in_sqlite() {
    let query = |aggregate: &str, condition: &str, having: &str| Query {
        // The group of the least row stands for the window.
        ours: format!(
            "SELECT min(id) AS id, {aggregate} AS v FROM TUMBLE(s, ts, INTERVAL '30 s') WHERE {condition} \
             GROUP BY t, window_start, window_end {having}"
        ),
        theirs: format!(
            "SELECT min(id), {aggregate} FROM s WHERE {condition} GROUP BY t, ts / 30000000 \
             HAVING ts / 30000000 < 5 {}",
            having.replace("HAVING", "AND")
        ),
    };
    let aggregates = [
        "count(*)",
        "count(a)",
        "sum(b)",
        "sum(x)",
        "avg(b)",
        "avg(y)",
        "min(a)",
        "max(u)",
        "min(x)",
        "max(b) - min(b)",
        "sum(b) FILTER (WHERE b > 0)",
        "count(*) * 2 + max(id)",
        "coalesce(sum(x), 0)",
        "count(DISTINCT a)",
        "count(DISTINCT x) + count(DISTINCT u) FILTER (WHERE u <> '')",
        "max(DISTINCT b)",
    ];
    let mut queries = Vec::new();
    for aggregate in aggregates {
        // The last window is closed by no row, in SQLite left out by the condition; values that overflow a sum are left out.
        queries.push(query(aggregate, "abs(coalesce(b, 0)) < 100000", ""));
        queries.push(query(aggregate, "abs(coalesce(b, 0)) < 100000 AND x IS NOT NULL", "HAVING count(*) > 1"));
    }
    let (compared, _) = compare(&queries, false);
    println!("{} windowed queries: {compared} groups the same", queries.len());
    assert!(compared > 300);
}

#[test]
fn joins_come_to_what_they_come_to_in_sqlite() {
    let query = |kind: &str, on: &str, value: &str, condition: &str| {
        let of = |on: &str, near: &str, condition: &str| {
            format!(
                "SELECT coalesce(a.id, 99) * 100 + coalesce(b.id, 99) AS id, {value} AS v FROM s AS a {kind} JOIN s AS b ON {on} \
                 AND b.ts BETWEEN {near} WHERE {condition}"
            )
        };
        Query {
            ours: of(on, "a.ts - INTERVAL '30 s' AND a.ts + INTERVAL '9 s'", condition),
            // The last row is of second 177: what is alone comes out if its interval is over then.
            theirs: of(
                on,
                "a.ts - 30000000 AND a.ts + 9000000",
                &format!(
                    "({condition}) AND (b.id IS NOT NULL OR a.ts < 168000000) AND (a.id IS NOT NULL OR b.ts < 147000000)"
                ),
            ),
        }
    };
    let mut queries = Vec::new();
    for kind in ["", "LEFT", "RIGHT", "FULL"] {
        for on in [
            "a.t = b.t",
            "a.t = b.u AND a.x <> b.y",
            "b.a = a.a AND a.id <> b.id AND b.x > 0",
            "a.b = b.b AND a.y > 0.5",
        ] {
            for value in ["a.t || b.u", "coalesce(b.y, a.x)", "a.id - b.id", "b.t IS NULL"] {
                queries.push(query(kind, on, value, "true"));
                queries.push(query(kind, on, value, "a.x IS NOT NULL AND (b.t IS NULL OR a.id > b.id)"));
            }
        }
    }
    let (compared, left_out) = compare(&queries, true);
    println!("{} joins: {compared} pairs the same", queries.len());
    assert!(compared > 5_000 && left_out == 0, "{compared} {left_out}");
}
