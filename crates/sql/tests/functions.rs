//! Queries over what functions of the app make of a stream.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::expect_used
)]

mod common;

use std::sync::Arc;

use arrow_array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray};
use common::{lines, process, stage};
use littoral_model::manifest::{Manifest, Sink, Sql};
use littoral_sql::{Program, expand};

const STREAMS: &str = "CREATE STREAM readings PARTITIONS 2 ON TIER edge;\n";
const QUERY: &str = "SELECT machine, score * 2 AS twice FROM score(clean_up(readings)) AS judged (machine text, score double) WHERE judged.score > 1";

fn app(text: &str) -> Manifest {
    let manifest = "name = \"app\"\nversion = \"1\"\n[functions.clean-up]\ncomponent = \"clean.wasm\"\n[functions.score]\ncomponent = \"score.wasm\"\n";
    let mut manifest = littoral_model::manifest::parse("littoral.toml", manifest).unwrap();
    manifest.sql.insert("flows".parse().unwrap(), Sql { text: format!("{STREAMS}{text}") });
    manifest
}

fn expanded(text: &str) -> (Manifest, Program) {
    let mut manifest = app(text);
    let program = expand(&mut manifest).unwrap_or_else(|mistakes| panic!("{}", mistakes.render()));
    (manifest, program)
}

fn mistakes(text: &str) -> String {
    expand(&mut app(text)).unwrap_err().render()
}

#[test]
fn rows_go_through_the_functions_and_then_through_the_query() {
    let flow = format!("CREATE FLOW alerts WITHIN '1 s' PORT scored INTO scores PORT odd INTO odds AS {QUERY}");
    let (manifest, program) = expanded(&flow);
    let flow = &manifest.flows[&"alerts".parse().unwrap()];
    let stages: Vec<&str> = flow.stages.iter().map(|stage| stage.as_str()).collect();
    assert_eq!((flow.source.as_str(), stages), ("readings", vec!["clean-up", "score", "alerts"]));
    let outputs: Vec<(&str, &str)> = flow.outputs.iter().map(|(port, to)| (port.as_str(), to.as_str())).collect();
    assert_eq!(outputs, [("odd", "odds"), ("scored", "scores")]);
    assert!(manifest.streams.contains_key(&"scores".parse().unwrap()));
    // What functions put out beside is not looked at.
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("beside", Arc::new(Int64Array::from(vec![1, 2]))),
        ("score", Arc::new(Float64Array::from(vec![0.5, 1.5]))),
        ("machine", Arc::new(StringArray::from(vec!["a", "b"]))),
    ];
    let output = process(&mut stage(&program, "alerts"), &RecordBatch::try_from_iter(columns).unwrap());
    assert_eq!(lines(output.rows.as_ref()), [r#"{"machine":"b","twice":3.0}"#]);
    let columns: Vec<(&str, ArrayRef)> = vec![("machine", Arc::new(StringArray::from(vec!["a"])))];
    let rows = RecordBatch::try_from_iter(columns).unwrap();
    let refused = stage(&program, "alerts").open(rows.schema_ref()).unwrap_err();
    assert!(refused.to_string().contains("no column `score`"), "{refused}");
}

#[test]
fn the_example_is_one_flow_to_the_alerts() {
    let manifest = include_str!("../../../examples/machine-health/littoral.toml");
    let mut manifest = littoral_model::manifest::parse("littoral.toml", manifest).unwrap();
    let text = include_str!("../../../examples/machine-health/alerts.sql").to_owned();
    manifest.sql.insert("alerts".parse().unwrap(), Sql { text });
    expand(&mut manifest).unwrap_or_else(|mistakes| panic!("{}", mistakes.render()));
    let flow = &manifest.flows[&"alerts".parse().unwrap()];
    assert_eq!(flow.sink, Some(Sink::Stream("alerts".parse().unwrap())));
    assert_eq!(flow.slo.map(|slo| slo.as_micros()), Some(500_000));
    assert_eq!((manifest.flows.len(), flow.outputs.len(), flow.dead_letter.is_some()), (1, 1, true));
    assert!(!flow.shed);
}

#[test]
fn a_flow_that_may_shed_says_so_behind_its_objective() {
    let text = |objective: &str| format!("CREATE STREAM s (k text);\nCREATE FLOW f {objective} AS SELECT k FROM s;");
    let mut manifest = common::app(&text("WITHIN '1 s' AT P95 OR SHED PREFER edge"));
    expand(&mut manifest).unwrap();
    assert!(manifest.flows[&"f".parse().unwrap()].shed);
    let error = common::mistakes(&text("WITHIN '1 s' OR LATE"));
    assert!(error.contains("SHED"), "{error}");
}

#[test]
fn a_result_is_read_by_other_flows_and_a_port_once_its_columns_are_declared() {
    let flow = format!(
        "CREATE FLOW alerts PORT scored INTO scores AS {QUERY}; CREATE FLOW again AS SELECT twice FROM alerts;"
    );
    let reader = "CREATE FLOW high AS SELECT score FROM scores WHERE score > 3";
    let (manifest, _) = expanded(&format!("{flow} CREATE STREAM scores (score double); {reader}"));
    assert_eq!(manifest.flows.len(), 3);
    for declared in ["", "CREATE STREAM scores RETAIN '1 d';"] {
        let said = mistakes(&format!("{flow} {declared} {reader}"));
        assert!(said.contains("the columns of `scores` are not known"), "{said}");
        assert!(said.contains("CREATE STREAM scores ("), "{said}");
    }
}

#[test]
fn what_is_wrong_with_a_call_is_said_where_it_stands() {
    let of = |from: &str| mistakes(&format!("CREATE FLOW f AS SELECT machine FROM {from}"));
    let columns = "AS t (machine text)";
    for (from, said) in [
        ("scor(readings) AS t (machine text)".to_owned(), "did you mean `score`?"),
        ("tumbel(readings, ts, INTERVAL '1 s')".to_owned(), "did you mean `tumble`?"),
        (format!("score(clean(readings)) {columns}"), "there is no table function `clean`"),
        (format!("score(readings, 3) {columns}"), "`score` is given the rows of a stream, and nothing beside"),
        (format!("score(clean_up(readings, 3)) {columns}"), "`clean-up` is given the rows of a stream"),
        (format!("score(redings) {columns}"), "did you mean `readings`?"),
        ("score(readings)".to_owned(), "what columns `score` puts out is not known here"),
        ("score(readings) AS t (machine)".to_owned(), "the column `machine` has no type"),
        ("score(readings) AS t (machine uuid)".to_owned(), "no column has the type `uuid`"),
        ("score(readings) AS t (machine interval)".to_owned(), "no column has the type `interval`"),
        ("score(readings) AS t (machine text, machine text)".to_owned(), "two columns `machine`"),
        ("TUMBLE(score(readings), ts, INTERVAL '1 s')".to_owned(), "make a flow of what functions put out"),
        ("readings AS t (machine text)".to_owned(), "a flow cannot read this"),
    ] {
        let errors = of(&from);
        assert!(errors.contains(said), "{from}: {errors}");
    }
    let flow = |clauses: &str, query: &str| mistakes(&format!("CREATE FLOW f {clauses} AS {query}"));
    assert!(flow("PORT a INTO b", "SELECT value FROM readings").contains("only functions have ports"));
    assert!(flow("PORT a INTO b PORT a INTO c", QUERY).contains("the port `a` goes into two streams"));
    assert!(flow("PORT a", QUERY).contains("INTO"));
    assert!(flow("LATE INTO b", QUERY).contains("without a window nothing comes too late"));
}
