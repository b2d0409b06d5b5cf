//! Runs `decode` as a node would.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use decode::Decode;
use littoral_sdk::prelude::*;
use littoral_sdk::testing::{Harness, rows};

const COLUMNS: &str = "machine text not null, n bigint, heat double, ok boolean, ts timestamp";

fn input() -> Schema {
    Schema::new([
        Field::nullable("key", Type::Utf8),
        Field::new("time", Type::Timestamp),
        Field::nullable("value", Type::Utf8),
    ])
}

fn records(values: &[&str]) -> Batch {
    rows(&input(), |out| {
        for (row, value) in (0_i64..).zip(values) {
            out.row(MAIN).utf8("k").timestamp(row).utf8(value).end();
        }
    })
}

/// What comes out, a text for each row, and why rows were rejected.
fn decoded(config: &[(&str, &str)], values: &[&str]) -> (Vec<String>, Vec<(usize, String)>) {
    let mut stage = Harness::<Decode>::open(&input(), config).unwrap();
    let step = stage.process(&records(values), 0).unwrap();
    let Some((_, batch)) = step.outputs.into_iter().next() else { return (Vec::new(), step.rejected) };
    let names: Vec<&str> = batch.schema().fields.iter().map(|field| field.name.as_str()).collect();
    assert_eq!(names, ["key", "time", "machine", "n", "heat", "ok", "ts"]);
    let told = |row| {
        format!(
            "{:?} {} {} {:?} {:?} {:?} {:?}",
            batch.utf8("key").unwrap().get(row).unwrap(),
            batch.timestamp("time").unwrap().get(row).unwrap(),
            batch.utf8("machine").unwrap().get(row).unwrap(),
            batch.s64("n").unwrap().get(row),
            batch.f64("heat").unwrap().get(row),
            batch.bool("ok").unwrap().get(row),
            batch.timestamp("ts").unwrap().get(row),
        )
    };
    ((0..batch.rows()).map(told).collect(), step.rejected)
}

#[test]
fn json_becomes_columns() {
    let (found, rejected) = decoded(
        &[("columns", COLUMNS)],
        &[
            r#"{"machine": "press", "n": 7, "heat": 21, "ok": true, "ts": "1970-01-01T00:00:01Z", "more": []}"#,
            r#"{"machine": "lathe", "n": null}"#,
            r#"{"n": 1}"#,
            r#"{"machine": "press", "n": 1.5}"#,
            "[1]",
            "{",
        ],
    );
    assert_eq!(
        found,
        ["\"k\" 0 press Some(7) Some(21.0) Some(true) Some(1000000)", "\"k\" 1 lathe None None None None"]
    );
    let reasons: Vec<(usize, &str)> = rejected.iter().map(|(row, reason)| (*row, reason.as_str())).collect();
    assert_eq!(
        reasons[..3],
        [(2, "`machine` is missing"), (3, "`n` is 1.5, expected bigint"), (4, "it is no JSON object")]
    );
    assert!(reasons[3].1.starts_with("it is no JSON: EOF"), "{reasons:?}");
}

#[test]
fn csv_becomes_columns() {
    let config = [("columns", COLUMNS), ("format", "csv"), ("separator", ";")];
    let (found, rejected) =
        decoded(&config, &["press;7;2.5;false;1970-01-01 00:00:01", "\"a;b\";;;;", "x;1", ";1;1;true;", "x;y;;;"]);
    assert_eq!(found, ["\"k\" 0 press Some(7) Some(2.5) Some(false) Some(1000000)", "\"k\" 1 a;b None None None None"]);
    let reasons: Vec<&str> = rejected.iter().map(|(_, reason)| reason.as_str()).collect();
    assert_eq!(reasons, ["expected 5 fields, found 2", "`machine` is missing", "`n` is `y`, expected bigint"]);
}

#[test]
fn wrong_settings_say_what_is_expected() {
    let opened = |config: &[(&str, &str)]| Harness::<Decode>::open(&input(), config).err().unwrap().to_string();
    assert_eq!(opened(&[]), "the setting `columns` is missing");
    assert!(opened(&[("columns", "a number")]).contains("expected one of boolean, bigint, double, text, timestamp"));
    assert!(opened(&[("columns", "a")]).contains("expected a name, a type"));
    assert!(opened(&[("columns", "key text")]).contains("has a column `key` already"));
    assert!(opened(&[("columns", "a text"), ("format", "xml")]).contains("expected json or csv"));
    assert!(opened(&[("columns", "a text"), ("from", "body")]).contains("there is no column `body`"));
}
