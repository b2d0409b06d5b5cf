//! Functions of the app in expressions: where they may stand, which rows they are given, and what becomes of those on which they fail.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::expect_used
)]

mod common;

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use arrow_array::cast::AsArray as _;
use arrow_array::types::Int64Type;
use arrow_array::{ArrayRef, Int64Array};
use common::{lines, records, stage};
use littoral_model::manifest::{Manifest, Sql};
use littoral_sql::{Call, CallError, Called, Calling, Functions, Output, Program, Stage, StageError, expand};

const DECLARED: &str = "\
CREATE STREAM readings (machine text, ts timestamp, a bigint, b bigint);
CREATE FUNCTION judge (value bigint) RETURNS bigint;
CREATE FUNCTION add_up (one bigint, other bigint) RETURNS bigint LANGUAGE wasm AS 'judge', 'add';
CREATE FUNCTION seven () RETURNS bigint AS 'judge';
";

fn manifest(text: &str) -> Manifest {
    let manifest = "name = \"app\"\nversion = \"1\"\n[functions.judge]\ncomponent = \"judge.wasm\"\n[functions.page]\ncomponent = \"page.wasm\"\n[functions.box]\nimage = \"box\"\n[functions.late]\ncomponent = \"late.wasm\"\nasync = {}\n[[routes]]\npath = \"/\"\nfunction = \"page\"\n";
    let mut manifest = littoral_model::manifest::parse("littoral.toml", manifest).unwrap();
    manifest.sql.insert("flows".parse().unwrap(), Sql { text: text.to_owned() });
    manifest
}

fn program(text: &str) -> Program {
    let text = format!("{DECLARED}{text}");
    expand(&mut manifest(&text)).unwrap_or_else(|mistakes| panic!("{}", mistakes.render()))
}

fn mistakes(text: &str) -> String {
    expand(&mut manifest(text)).unwrap_err().render()
}

/// Calls are of whole numbers: `judge` takes ten times its value and fails on 13, `add_up` adds, missing values as nothing, `seven` is
/// that. Says what it was called with.
#[derive(Default)]
struct Fake {
    called: Vec<String>,
    /// Whether an answer takes its time.
    is_late: bool,
    error: Option<CallError>,
}

impl Functions for Fake {
    fn call<'a>(&'a mut self, call: &'a Call) -> Calling<'a> {
        let values: Vec<Vec<Option<i64>>> =
            call.arguments.iter().map(|column| column.as_primitive::<Int64Type>().iter().collect()).collect();
        let rows = |row: usize| values.iter().map(|column| column[row]).collect::<Vec<_>>();
        let rows: Vec<Vec<Option<i64>>> = (0..call.rows).map(rows).collect();
        self.called.push(format!("{} {}", call.function.export, told(&rows)));
        let mut faults = BTreeMap::new();
        let mut of = |(row, values): (usize, Vec<Option<i64>>)| match call.function.name.as_str() {
            "judge" if values[0] == Some(13) => {
                faults.insert(row, "13 is not wanted".to_owned());
                None
            }
            "judge" => values[0].map(|value| value * 10),
            "add_up" => Some(values.into_iter().flatten().sum()),
            _ => Some(7),
        };
        let values: ArrayRef = Arc::new(rows.into_iter().enumerate().map(&mut of).collect::<Int64Array>());
        let outcome = self.error.clone().map_or(Ok(Called { values, faults }), Err);
        let mut is_late = self.is_late;
        Box::pin(std::future::poll_fn(move |_| {
            if std::mem::take(&mut is_late) { Poll::Pending } else { Poll::Ready(outcome.clone()) }
        }))
    }
}

fn told(rows: &[Vec<Option<i64>>]) -> String {
    let value = |value: &Option<i64>| value.map_or("null".to_owned(), |value| value.to_string());
    let row = |row: &Vec<Option<i64>>| row.iter().map(value).collect::<Vec<_>>().join("+");
    rows.iter().map(row).collect::<Vec<_>>().join(" ")
}

/// Runs what waits for nothing but the fake.
fn now<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(outcome) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return outcome;
        }
    }
}

/// Records with these values of `a` and `b`.
fn values(of: &[(Option<i64>, Option<i64>)]) -> arrow_array::RecordBatch {
    let text = |value: &Option<i64>| value.map_or("null".to_owned(), |value| value.to_string());
    let record = |(second, (a, b)): (usize, &(Option<i64>, Option<i64>))| {
        format!(r#"{{"machine":"m","ts":"1970-01-01T00:00:{second:02}Z","a":{},"b":{}}}"#, text(a), text(b))
    };
    let texts: Vec<String> = of.iter().enumerate().map(record).collect();
    records(&texts.iter().map(String::as_str).collect::<Vec<_>>())
}

fn try_process(stage: &mut Stage, fake: &mut Fake, rows: &arrow_array::RecordBatch) -> Result<Output, StageError> {
    stage.open(rows.schema_ref()).unwrap();
    now(stage.process_with(rows, fake))
}

fn run(query: &str, of: &[(Option<i64>, Option<i64>)]) -> (Output, Vec<String>) {
    let program = program(&format!("CREATE FLOW f AS {query}"));
    let mut outcomes = [false, true].map(|is_late| {
        let mut fake = Fake { is_late, ..Fake::default() };
        let output = try_process(&mut stage(&program, "f"), &mut fake, &values(of)).unwrap();
        (output, fake.called)
    });
    assert_eq!(outcomes[0].1, outcomes[1].1, "an answer that takes its time is like any other");
    outcomes.swap(0, 1);
    let [first, _] = outcomes;
    first
}

fn rejected(output: &Output) -> Vec<(u32, &str)> {
    output.rejected.iter().map(|(row, reason)| (*row, reason.as_str())).collect()
}

const SIX: [(Option<i64>, Option<i64>); 6] =
    [(Some(1), Some(1)), (None, Some(2)), (Some(13), Some(0)), (Some(4), Some(4)), (Some(5), None), (Some(6), Some(0))];

#[test]
fn a_call_is_given_its_columns_whole_and_fails_by_rows() {
    let (output, called) = run("SELECT b, judge(a) AS score FROM readings", &SIX);
    assert_eq!(called, ["judge 1 null 13 4 5 6"]);
    assert_eq!(
        lines(output.rows.as_ref()),
        [
            r#"{"b":1,"score":10}"#,
            r#"{"b":2,"score":null}"#,
            r#"{"b":4,"score":40}"#,
            r#"{"b":null,"score":50}"#,
            r#"{"b":0,"score":60}"#
        ]
    );
    assert_eq!(rejected(&output), [(2, "judge: 13 is not wanted")]);
}

#[test]
fn calls_stand_within_one_another_and_are_made_once_each() {
    let (output, called) =
        run("SELECT add_up(judge(a), judge(b)) + seven() AS score FROM readings WHERE judge(a) >= 0", &SIX);
    // What failed once, and what the condition does not pass, no other function is given.
    let expected = ["judge 1 null 13 4 5 6", "judge 1 4 5 6", "judge 1 4 null 0", "add 10+10 40+40 50+null 60+0"];
    assert_eq!(&called[..4], expected);
    assert_eq!(called.len(), 5);
    assert_eq!(
        lines(output.rows.as_ref()),
        [r#"{"score":27}"#, r#"{"score":87}"#, r#"{"score":57}"#, r#"{"score":67}"#]
    );
    assert_eq!(rejected(&output), [(2, "judge: 13 is not wanted")]);
}

#[test]
fn a_function_is_given_only_rows_that_count() {
    for (expr, wanted) in [
        ("CASE WHEN b > 0 THEN judge(a) ELSE -1 END", "judge 1 null 4"),
        ("CASE WHEN b / b > 0 THEN judge(a) END", "judge 1 null 4"),
        ("coalesce(b, judge(a))", "judge 5"),
        ("CASE WHEN b > 1 AND judge(a) > 0 THEN 1 END", "judge null 4 5"),
        ("CASE WHEN b > 1 OR judge(a) > 0 THEN 1 END", "judge 1 13 5 6"),
        ("1 / b + judge(a)", "judge 1 null 4 5"),
    ] {
        let (_, called) = run(&format!("SELECT {expr} AS x FROM readings"), &SIX);
        assert_eq!(called, [wanted], "{expr}");
    }
    let (output, called) = run("SELECT CASE WHEN a > 100 THEN judge(a) END AS x FROM readings", &SIX);
    assert_eq!((called.len(), lines(output.rows.as_ref()).len()), (0, 6));
}

#[test]
fn windows_call_functions_of_rows_and_of_groups() {
    let windows = |select: &str, rest: &str| {
        format!(
            "SELECT {select} FROM TUMBLE(readings, ts, INTERVAL '3 seconds') {rest} GROUP BY window_start, window_end"
        )
    };
    let having = "HAVING judge(max(a)) > 0";
    let query = format!("{} {having}", windows("window_end, judge(sum(a)) AS score", ""));
    let (output, called) =
        run(&query, &[SIX[0], SIX[1], SIX[3], (Some(13), None), (None, None), (None, None), (Some(1), None)]);
    // HAVING fails on the group of 13, and SELECT is not computed of it.
    assert_eq!(called, ["judge 4 13", "judge 5"]);
    assert_eq!(lines(output.rows.as_ref()), [r#"{"window_end":"1970-01-01T00:00:03Z","score":50}"#]);
    assert_eq!(output.failed.len(), 1);
    assert!(
        output.failed[0].contains("1970-01-01 00:00:03") && output.failed[0].ends_with("judge: 13 is not wanted"),
        "{}",
        output.failed[0]
    );
    let of_rows = windows("window_end, sum(judge(a)) FILTER (WHERE b > 1) AS total", "WHERE seven() > a");
    let (output, called) = run(&of_rows, &[SIX[0], SIX[1], SIX[3], SIX[2], SIX[5]]);
    assert_eq!(called[1..], ["judge 4".to_owned()], "of all rows that are left one passes the filter");
    assert_eq!(lines(output.rows.as_ref()), [r#"{"window_end":"1970-01-01T00:00:03Z","total":40}"#]);
}

#[test]
fn what_comes_out_does_not_depend_on_batches() {
    // Every third row ends a window, and 13 is among rows and among sums.
    let of: Vec<_> = (0..40_i64).map(|row| ((row % 7 != 3).then_some(row * 5 % 17), Some(row % 4))).collect();
    for query in [
        "SELECT ts, add_up(judge(a), b) AS x FROM readings WHERE b > 0 AND judge(b) > 10 OR judge(a) > 40",
        "SELECT window_end, judge(sum(a)) AS x, max(judge(b)) AS y FROM TUMBLE(readings, ts, INTERVAL '3 seconds') \
         WHERE judge(a) IS NOT NULL GROUP BY window_end HAVING judge(min(a)) < 100",
        "SELECT window_end, judge(b + 10) AS k, count(*) AS n FROM HOP(readings, ts, INTERVAL '2 seconds', INTERVAL '4 seconds') \
         GROUP BY judge(b + 10), window_end",
    ] {
        let program = program(&format!("CREATE FLOW f AS {query}"));
        let came = |size: usize| {
            let (mut stage, mut rows, mut failed) = (stage(&program, "f"), Vec::new(), Vec::new());
            let all = values(&of);
            for from in (0..of.len()).step_by(size) {
                let batch = all.slice(from, size.min(of.len() - from));
                let output = try_process(&mut stage, &mut Fake::default(), &batch).unwrap();
                rows.extend(lines(output.rows.as_ref()));
                failed.extend(
                    output.rejected.into_iter().map(|(row, reason)| format!("{} {reason}", from + row as usize)),
                );
                failed.extend(output.failed);
            }
            failed.sort();
            (rows, failed)
        };
        let whole = came(of.len());
        assert!(whole.0.len() > 5 && !whole.1.is_empty(), "{query}: {whole:?}");
        for size in [1, 3, 7, 16] {
            assert_eq!(came(size), whole, "{query} in batches of {size}");
        }
    }
}

#[test]
fn over_several_partitions_rows_and_groups_are_judged_where_they_are() {
    let text = "CREATE STREAM many (machine text, ts timestamp, a bigint) PARTITIONS 2; \
                CREATE FLOW g AS SELECT judge(sum(judge(a))) AS score FROM TUMBLE(many, ts, INTERVAL '3 seconds') GROUP BY window_end";
    let program = program(text);
    let names = |flow: &str| {
        let functions = program.flows[&flow.parse().unwrap()].plan.functions();
        functions.iter().map(|function| function.signature()).collect::<Vec<_>>()
    };
    assert_eq!(
        (names("g-by-key"), names("g")),
        (vec!["judge(value bigint)".to_owned()], vec!["judge(value bigint)".to_owned()])
    );
    let mut fake = Fake::default();
    let output = try_process(&mut stage(&program, "g-by-key"), &mut fake, &values(&[SIX[0], SIX[2]])).unwrap();
    assert_eq!(fake.called, ["judge 1 13"]);
    assert_eq!(rejected(&output), [(1, "judge: 13 is not wanted")]);
}

#[test]
fn what_cannot_be_called_is_no_matter_of_rows() {
    let program = program("CREATE FLOW f AS SELECT judge(a) AS score FROM readings");
    let plan = &program.flows[&"f".parse().unwrap()].plan;
    assert!(
        plan.operators().contains(&"call judge(value bigint) of function judge".to_owned()),
        "{:?}",
        plan.operators()
    );
    for (error, said) in [
        (CallError::Unavailable("it is not there".to_owned()), StageError::Function("it is not there".to_owned())),
        (CallError::TooLarge("too much".to_owned()), StageError::Arrow("too much".to_owned())),
    ] {
        let mut fake = Fake { error: Some(error), ..Fake::default() };
        let failed = try_process(&mut stage(&program, "f"), &mut fake, &values(&SIX)).unwrap_err();
        assert_eq!(failed, said);
    }
    let mut alone = stage(&program, "f");
    alone.open(values(&SIX).schema_ref()).unwrap();
    assert!(matches!(alone.process(&values(&SIX)), Err(StageError::Function(_))));
}

#[test]
fn what_a_flow_calls_is_in_the_manifest_and_in_its_fingerprint() {
    let flow = "CREATE FLOW f AS SELECT add_up(a, b) AS score, judge(a) AS j FROM readings";
    let expanded = |text: &str| {
        let mut manifest = manifest(text);
        expand(&mut manifest).unwrap_or_else(|mistakes| panic!("{}", mistakes.render()));
        manifest
    };
    let manifest = expanded(&format!("{DECLARED}{flow}"));
    let query = &manifest.queries[&"f".parse().unwrap()];
    assert_eq!(query.functions, ["judge".parse().unwrap()]);
    assert_eq!(manifest.called, std::collections::BTreeSet::from(["judge".parse().unwrap()]));
    let other = expanded(&format!("{}{flow}", DECLARED.replace("'judge', 'add'", "'judge', 'plus'")));
    assert_ne!(other.queries[&"f".parse().unwrap()].fingerprint, query.fingerprint);
}

#[test]
fn pairs_are_asked_functions_in_select_and_where() {
    let query = "SELECT l.a, r.b, judge(l.a + r.b) AS x FROM readings AS l JOIN readings AS r \
                 ON l.machine = r.machine AND r.ts BETWEEN l.ts AND l.ts + INTERVAL '1 second' WHERE judge(l.a) + r.b > 20";
    let program = program(&format!("CREATE FLOW f AS {query}"));
    let came = [false, true].map(|is_late| {
        let mut fake = Fake { is_late, ..Fake::default() };
        let (mut rows, mut failed) = (Vec::new(), Vec::new());
        let mut join = stage(&program, "f");
        for side in ["f-left", "f-right"] {
            let rows_of = values(&[(Some(2), Some(1)), (Some(3), Some(10)), (Some(1), Some(12)), (Some(13), Some(0))]);
            let spread = try_process(&mut stage(&program, side), &mut fake, &rows_of).unwrap().spread;
            for (_, batch) in spread {
                let output = try_process(&mut join, &mut fake, &batch).unwrap();
                rows.extend(lines(output.rows.as_ref()));
                failed.extend(output.rejected.into_iter().map(|(_, reason)| reason));
            }
        }
        (rows, failed, fake.called)
    });
    assert_eq!(came[0], came[1], "an answer that takes its time is like any other");
    let (rows, failed, called) = &came[0];
    // `judge` is ten times as much, and does not want 13.
    assert_eq!(rows, &[r#"{"a":2,"b":1,"x":30}"#, r#"{"a":2,"b":10,"x":120}"#, r#"{"a":3,"b":12,"x":150}"#]);
    let reason = |left: u8, right: u8| {
        format!(
            "the pair of its key of 1970-01-01 00:00:0{left} and 1970-01-01 00:00:0{right}: judge: 13 is not wanted"
        )
    };
    assert_eq!(failed, &[reason(1, 1), reason(2, 2), reason(3, 3)]);
    // What WHERE does not pass is not asked in SELECT.
    assert_eq!(called, &["judge 2 2 3 3 1 1 13", "judge 3 12 13 15 13"]);
}

#[test]
fn what_is_wrong_with_a_declaration_or_a_call_is_said_where_it_stands() {
    for (statement, said) in [
        ("CREATE FUNCTION judge value bigint RETURNS bigint", "expected `(` and what it takes"),
        ("CREATE FUNCTION judge (value) RETURNS bigint", "expected a type"),
        ("CREATE FUNCTION judge (value uuid) RETURNS bigint", "there is no type `uuid`"),
        ("CREATE FUNCTION judge (value bigint value bigint) RETURNS bigint", "expected `,` or `)`"),
        ("CREATE FUNCTION judge (value bigint, value text) RETURNS bigint", "two parameters `value`"),
        ("CREATE FUNCTION judge (value bigint)", "expected RETURNS and a type"),
        ("CREATE FUNCTION judge (value bigint) RETURNS bigint LANGUAGE c", "expected wasm"),
        ("CREATE FUNCTION judge (value bigint) RETURNS bigint STRICT", "expected LANGUAGE wasm, AS or `;`"),
        ("CREATE FUNCTION judge (value bigint) RETURNS bigint AS judge", "the name of a function of the app"),
        ("CREATE FUNCTION juge (value bigint) RETURNS bigint", "did you mean `judge`?"),
        ("CREATE FUNCTION abs (value bigint) RETURNS bigint AS 'judge'", "there is a function `abs` already"),
        ("CREATE FUNCTION sum (value bigint) RETURNS bigint AS 'judge'", "there is a function `sum` already"),
        ("CREATE FUNCTION now () RETURNS timestamp AS 'judge'", "there is a function `now` already"),
        (
            "CREATE FUNCTION f () RETURNS bigint AS 'judge'; CREATE FUNCTION f () RETURNS text AS 'judge'",
            "there is a function `f` already",
        ),
        ("CREATE FUNCTION f () RETURNS bigint AS 'box'", "`box` is no component"),
        ("CREATE FUNCTION f () RETURNS bigint AS 'page'", "give its component a second name"),
        ("CREATE FUNCTION f () RETURNS bigint AS 'late'", "function late answers calls of others"),
        ("CREATE FUNCTON f () RETURNS bigint", "did you mean `function`?"),
    ] {
        let errors = mistakes(statement);
        assert!(errors.contains(said) && errors.contains("--> flows.sql:1:"), "{statement}: {errors}");
    }
    let of = |query: &str| mistakes(&format!("{DECLARED}CREATE FLOW f AS {query}"));
    for (expr, said) in [
        ("judges(a)", "did you mean `judge`?"),
        ("judge()", "`judge` takes 1 arguments"),
        ("judge(a, b)", "expected judge(value bigint)"),
        ("judge(machine)", "this is text"),
        ("judge(1.5)", "expected bigint"),
        ("judge(DISTINCT a)", "DISTINCT or ORDER BY in a function that is no aggregate"),
        ("judge(sum(a))", "has no aggregates"),
        ("page(a)", "say what the app's function takes and returns: CREATE FUNCTION page (x double) RETURNS double"),
    ] {
        let errors = of(&format!("SELECT {expr} AS x FROM readings"));
        assert!(errors.contains(said) && errors.contains("--> flows.sql:5:"), "{expr}: {errors}");
    }
    let join = "SELECT r.a FROM readings AS r JOIN readings AS s ON r.machine = s.machine AND judge(r.a) < s.a AND r.ts = s.ts";
    assert!(of(join).contains("say it in WHERE"), "{}", of(join));
    // What is wrong with a declaration is not said again of its calls.
    let errors = mistakes(
        "CREATE STREAM s (a bigint); CREATE FUNCTION judge (a uuid) RETURNS bigint; CREATE FLOW f AS SELECT judge(a) AS x FROM s",
    );
    assert_eq!(errors.matches("error[").count(), 1, "{errors}");
}
