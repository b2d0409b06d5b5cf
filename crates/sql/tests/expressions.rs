//! What expressions come to, and which rows they fail on, by hand. `tests/sqlite.rs` compares many more with an engine.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::disallowed_methods, clippy::expect_used)]

mod common;

use common::{fine, lines, process, records, stage};

const STREAM: &str =
    "CREATE STREAM s (a bigint, b bigint, x double, y double, t text, u text, p boolean, ts timestamp);\n";
const ROW: &str = r#"{"a":7,"b":-2,"x":2.5,"y":-0.5,"t":"Hélène","u":null,"p":true,"ts":"2024-02-29T13:45:30.25Z"}"#;

/// What an expression comes to over [`ROW`], as JSON, or why it fails.
fn value(expression: &str) -> String {
    let program = fine(&format!("{STREAM}CREATE FLOW f AS SELECT {expression} AS v FROM s"));
    let output = process(&mut stage(&program, "f"), &records(&[ROW]));
    match output.rejected.first() {
        Some((_, reason)) => reason.clone(),
        None => lines(output.rows.as_ref())[0].strip_prefix("{\"v\":").unwrap().strip_suffix('}').unwrap().to_owned(),
    }
}

fn all(cases: &[(&str, &str)]) {
    for (expression, expected) in cases {
        assert_eq!(value(expression), *expected, "{expression}");
    }
}

#[test]
fn arithmetic_fails_where_it_leaves_its_numbers() {
    all(&[
        ("a + b * 2", "3"),
        ("a / b", "-3"),
        ("a % b", "1"),
        ("-a / 2", "-3"),
        ("a / 2.0", "3.5"),
        ("x + a", "9.5"),
        ("-(-9223372036854775808)", "bigint out of range"),
        ("9223372036854775807 + a", "bigint out of range"),
        ("a / (b + 2)", "division by zero"),
        ("x / (y + 0.5)", "division by zero"),
        ("x * 1e308 * 10", "value out of range: overflow"),
        ("a % 0", "division by zero"),
        ("(-9223372036854775808) % -1", "0"),
    ]);
}

#[test]
fn null_is_neither_true_nor_false() {
    all(&[
        ("u IS NULL", "true"),
        ("u = 'x'", "null"),
        ("NOT (u = 'x')", "null"),
        ("u = 'x' AND false", "false"),
        ("u = 'x' OR true", "true"),
        ("u = 'x' OR p", "true"),
        ("(u = 'x') IS NOT TRUE", "true"),
        ("(u = 'x') IS UNKNOWN", "true"),
        ("u IS DISTINCT FROM t", "true"),
        ("u IS NOT DISTINCT FROM NULL", "true"),
        ("a IN (1, NULL)", "null"),
        ("a IN (7, NULL)", "true"),
        ("a NOT IN (1, 2)", "true"),
        ("a BETWEEN b AND 7", "true"),
        ("coalesce(u, t, 'z')", "\"Hélène\""),
        ("nullif(a, 7)", "null"),
        ("nullif(a, b)", "7"),
        ("greatest(a, NULL, b)", "7"),
        ("least(x, a)", "2.5"),
        ("t || u", "null"),
        ("concat(t, u, '!')", "\"Hélène!\""),
    ]);
}

#[test]
fn what_does_not_count_does_not_fail() {
    all(&[
        ("CASE WHEN b + 2 <> 0 THEN a / (b + 2) ELSE -1 END", "-1"),
        ("CASE a WHEN 7 THEN 'seven' WHEN 1 / 0 THEN 'never' END", "\"seven\""),
        ("coalesce(a, 1 / 0)", "7"),
        ("b <> -2 AND a / (b + 2) > 0", "false"),
        ("b = -2 OR a / (b + 2) > 0", "true"),
        ("CASE WHEN p THEN 1 / 0 END", "division by zero"),
        ("CASE WHEN u IS NULL THEN NULL ELSE CAST(u AS bigint) END", "null"),
    ]);
}

#[test]
fn casts_are_those_of_postgresql() {
    all(&[
        ("CAST(x AS bigint)", "2"),
        ("CAST(3.5 AS bigint)", "4"),
        ("' 42 '::bigint", "42"),
        ("t::bigint", "invalid input syntax for type bigint: \"Hélène\""),
        ("1e19::bigint", "bigint out of range"),
        ("'yes'::boolean", "true"),
        ("p::text", "\"true\""),
        ("1e20::text", "\"1e+20\""),
        ("0.1::text", "\"0.1\""),
        ("ts::text", "\"2024-02-29 13:45:30.25\""),
        ("'2024-03-01'::timestamp > ts", "true"),
        ("ts = '2024-02-29 14:45:30.25+01'", "true"),
        ("'NaN'::double = 'NaN'::double", "true"),
        ("'NaN'::double > 1e308", "true"),
    ]);
}

#[test]
fn texts_are_of_characters() {
    all(&[
        ("length(t)", "6"),
        ("octet_length(t)", "8"),
        ("upper(t)", "\"HÉLÈNE\""),
        ("substring(t FROM 2 FOR 3)", "\"élè\""),
        ("substr(t, -1, 4)", "\"Hé\""),
        ("left(t, -2)", "\"Hélè\""),
        ("right(t, 2)", "\"ne\""),
        ("position('ne' IN t)", "5"),
        ("trim('  x ')", "\"x\""),
        ("trim(LEADING 'x' FROM 'xxyx')", "\"yx\""),
        ("lpad('5', 3, '0')", "\"005\""),
        ("split_part('a,b,c', ',', -1)", "\"c\""),
        ("t LIKE 'H_l%'", "true"),
        ("t NOT LIKE '%x%'", "true"),
        ("t ILIKE 'hé%'", "true"),
        ("'{\"k\": 5}' ->> 'k'", "\"5\""),
        ("'{\"id\":12345678901234567890123}' ->> 'id'", "\"12345678901234567890123\""),
        ("'{\"k\":1.10}' ->> 'k'", "\"1.10\""),
        ("'{\"k\":{\"l\": 1.10}}' ->> 'k' ->> 'l'", "\"1.10\""),
        ("'{\"k\":\"a\\u0062\"}' ->> 'k'", "\"ab\""),
        ("'{\"k\":null}' ->> 'k'", "null"),
        ("'[1]' ->> 'k'", "null"),
        ("repeat('x', 2000000)", "the text has more than 1 MiB"),
    ]);
}

#[test]
fn moments_and_lengths_of_time() {
    all(&[
        ("EXTRACT(YEAR FROM ts)", "2024.0"),
        ("EXTRACT(DOW FROM ts)", "4.0"),
        ("EXTRACT(SECOND FROM ts)", "30.25"),
        ("EXTRACT(EPOCH FROM INTERVAL '1 day 00:00:01.5')", "86401.5"),
        ("date_trunc('month', ts)", "\"2024-02-01T00:00:00Z\""),
        ("date_trunc('week', ts)", "\"2024-02-26T00:00:00Z\""),
        ("date_trunc('weeks', ts)", "\"2024-02-26T00:00:00Z\""),
        ("date_trunc('w', ts)", "\"2024-02-26T00:00:00Z\""),
        ("date_trunc('Months', ts)", "\"2024-02-01T00:00:00Z\""),
        ("date_trunc('ms', ts)", "\"2024-02-29T13:45:30.250Z\""),
        ("date_part('mins', ts)", "45.0"),
        ("date_part(lower('DAYS'), ts)", "29.0"),
        ("EXTRACT(HOURS FROM ts - TIMESTAMP '2024-02-28')", "37.0"),
        ("date_trunc('hour', ts)", "\"2024-02-29T13:00:00Z\""),
        ("ts + INTERVAL '1 day'", "\"2024-03-01T13:45:30.250Z\""),
        ("ts - a * INTERVAL '1 hour'", "\"2024-02-29T06:45:30.250Z\""),
        ("ts - TIMESTAMP '2024-02-29' > INTERVAL '13 hours'", "true"),
        ("to_timestamp(1.5)", "\"1970-01-01T00:00:01.500Z\""),
    ]);
}

#[test]
fn numbers() {
    all(&[
        ("abs(b)", "2"),
        ("abs(y)", "0.5"),
        ("round(x)", "2.0"),
        ("round(-2.345, 2)", "-2.35"),
        ("ceil(y)", "-0.0"),
        ("floor(x)", "2.0"),
        ("sqrt(y)", "cannot take square root of a negative number"),
        ("power(2, 10)", "1024.0"),
        ("ln(0)", "cannot take logarithm of zero"),
        ("mod(a, 4)", "3"),
        ("sign(y)", "-1.0"),
    ]);
}

#[test]
fn a_row_that_fails_is_rejected_and_the_others_are_not() {
    let program = fine(&format!("{STREAM}CREATE FLOW f AS SELECT a, 10 / a AS q FROM s WHERE b > 0"));
    let rows = records(&[
        r#"{"a":5,"b":1}"#,
        r#"{"a":0,"b":1}"#,
        r#"{"a":0,"b":0}"#,
        "no JSON",
        r#"{"a":"five","b":1}"#,
        r#"{"a":2,"b":1}"#,
        r#"[1]"#,
    ]);
    let output = process(&mut stage(&program, "f"), &rows);
    assert_eq!(lines(output.rows.as_ref()), [r#"{"a":5,"q":2}"#, r#"{"a":2,"q":5}"#]);
    let rejected: Vec<String> = output.rejected.iter().map(|(row, reason)| format!("{row}: {reason}")).collect();
    insta::assert_snapshot!(rejected.join("\n"), @r#"
    1: division by zero
    3: the record is no JSON: expected ident at line 1 column 2
    4: column `a` should be bigint, and is "five"
    6: the record is no JSON object: [1]
    "#);
}

#[test]
fn a_stream_that_declares_no_columns_has_those_of_records() {
    let text = "CREATE STREAM raw; CREATE FLOW f AS SELECT key, split_part(value, ',', 2)::double AS v FROM raw \
                WHERE time > '1970-01-01 00:00:00'";
    let output = process(&mut stage(&fine(text), "f"), &records(&["a,1.5", "b,2.5", "c,x"]));
    assert_eq!(lines(output.rows.as_ref()), [r#"{"key":"k","v":2.5}"#]);
    assert_eq!(output.rejected, [(2, "invalid input syntax for type double: \"x\"".to_owned())]);
}

#[test]
fn columns_with_names_of_the_record_and_other_types_are_those_of_its_object() {
    let text =
        "CREATE STREAM s (time timestamp, value double); CREATE FLOW f AS SELECT time, value * 2 AS twice FROM s";
    let program = fine(text);
    let output = process(&mut stage(&program, "f"), &records(&[r#"{"value":3.5}"#, "3.5"]));
    assert_eq!(lines(output.rows.as_ref()), [r#"{"time":"1970-01-01T00:00:00Z","twice":7.0}"#]);
    assert_eq!(output.rejected, [(1, "the record is no JSON object: 3.5".to_owned())]);
    // What a flow put out is no record, whatever its columns are called.
    let text =
        format!("{text}; CREATE FLOW g AS SELECT 'k' AS key, time, value FROM s; CREATE FLOW h AS SELECT value FROM g");
    let program = fine(&text);
    let between = process(&mut stage(&program, "g"), &records(&[r#"{"value":3.5}"#])).rows.unwrap();
    assert_eq!(lines(process(&mut stage(&program, "h"), &between).rows.as_ref()), [r#"{"value":3.5}"#]);
}

#[test]
fn a_batch_whose_texts_are_too_large_is_refused_as_a_whole() {
    let constant = format!("'{}'", "x".repeat(100_000));
    for large in ["length(repeat(t, 1000000))", &constant, &format!("CASE WHEN p IS NULL THEN {constant} ELSE t END")] {
        let program = fine(&format!("{STREAM}CREATE FLOW f AS SELECT {large} AS v FROM s"));
        let mut stage = stage(&program, "f");
        let of = |rows: usize| records(&vec![r#"{"t":"x"}"#; rows]);
        assert_eq!(process(&mut stage, &of(60)).rows.unwrap().num_rows(), 60);
        let error = stage.process(&of(4_096)).unwrap_err();
        assert_eq!(error.to_string(), "Compute error: the texts of 4096 rows have more than 64 MiB");
    }
}

#[test]
fn of_records_only_what_a_query_uses_is_read() {
    let stream = "CREATE STREAM s (a bigint, t text, value text, n bigint NOT NULL, x double, ts timestamp);";
    let rows = [
        r#"{"a":"no number","n":1,"x":0.1,"ts":5,"value":"v","other":[{"x":2}]}"#,
        r#"{"x":1}"#,
        r#"{"n":1,"x":"1"}"#,
        r#"{"n":2.0,"x":1}"#,
        r#"{"n":3,"x":1e2,"x":-1E-2}"#,
        r#"{"n":4,"x":1e999}"#,
        r#"{"n":5,"other":}"#,
    ];
    let program = fine(&format!(
        "{stream} CREATE FLOW f AS SELECT value AS v, x FROM s; CREATE FLOW g AS SELECT 1 AS one FROM s"
    ));
    assert_eq!(program.flows[&"f".parse().unwrap()].plan.operators()[0], "decode value text, n bigint, x double");
    let output = process(&mut stage(&program, "f"), &records(&rows));
    assert_eq!(lines(output.rows.as_ref()), [r#"{"v":"v","x":0.1}"#, r#"{"v":null,"x":-0.01}"#]);
    let rejected: Vec<String> = output.rejected.iter().map(|(row, reason)| format!("{row}: {reason}")).collect();
    insta::assert_snapshot!(rejected.join("\n"), @r#"
    1: column `n` is missing
    2: column `x` should be double, and is "1"
    3: column `n` should be bigint, and is 2.0
    5: column `x` should be double, and is 1e999
    6: the record is no JSON: expected value at line 1 column 16
    "#);
    let output = process(&mut stage(&program, "g"), &records(&rows));
    assert_eq!(output.rows.unwrap().num_rows(), 4);
    // Late rows are passed on with all that they have.
    let late =
        "CREATE FLOW f LATE INTO l AS SELECT count(*) AS n FROM TUMBLE(s, ts, INTERVAL '1 s') GROUP BY window_start";
    let output = process(
        &mut stage(&fine(&format!("{stream}{late}")), "f"),
        &records(&[r#"{"n":1,"ts":"2024-01-01"}"#, r#"{"n":2,"a":3,"t":"x","ts":"2023-01-01"}"#]),
    );
    assert_eq!(
        lines(output.late.as_ref()),
        [r#"{"a":3,"t":"x","value":null,"n":2,"x":null,"ts":"2023-01-01T00:00:00Z"}"#]
    );
}

#[test]
fn a_flow_reads_what_another_one_puts_out() {
    let text = format!(
        "CREATE FLOW second AS SELECT double_a + 1 AS v FROM \"first\"; {STREAM} CREATE FLOW first AS SELECT a * 2 AS double_a FROM s"
    );
    let program = fine(&text);
    let first = process(&mut stage(&program, "first"), &records(&[r#"{"a":5}"#]));
    let second = process(&mut stage(&program, "second"), &first.rows.unwrap());
    assert_eq!(lines(second.rows.as_ref()), [r#"{"v":11}"#]);
}

#[test]
fn rows_with_other_columns_than_declared_are_refused() {
    let program = fine(&format!(
        "{STREAM}CREATE FLOW f AS SELECT a FROM s; CREATE FLOW g AS SELECT t FROM f2; CREATE STREAM f2 (t text, a bigint)"
    ));
    let rows = process(&mut stage(&program, "f"), &records(&[r#"{"a":5}"#])).rows.unwrap();
    let error = stage(&program, "g").open(rows.schema_ref()).unwrap_err().to_string();
    assert_eq!(
        error,
        "the rows have no column `t`; they have a; declare the stream as it is, or change the flow before it"
    );
}
