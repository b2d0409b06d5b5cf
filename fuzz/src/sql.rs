//! Statements of any text are refused with findings that lie in it, or make flows, whose stages take any records.
//!
//! Up to a NUL the input is statements, after it records, one a line.

use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch, StringArray, TimestampMicrosecondArray};
use littoral_model::manifest::{FINDINGS_MAX, Manifest, Sql, parse};
use littoral_sql::{Output, Plan, Rescaling, Stage, expand};

/// Reads statements, and runs what they make.
pub fn run(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (text, records) = text.split_once('\0').unwrap_or((text, "{}\n{\"a\":1,\"t\":\"x\"}\nno JSON"));
    let Ok(mut manifest) = parse("littoral.toml", "name = \"app\"\nversion = \"1\"\n") else { return };
    let Ok(name) = "flows".parse() else { return };
    manifest.sql.insert(name, Sql { text: text.to_owned() });
    let before: Manifest = manifest.clone();
    match expand(&mut manifest) {
        Ok(program) => {
            let rows = batch(records);
            for flow in program.flows.values() {
                process(&flow.plan, &rows);
            }
        }
        Err(mistakes) => {
            assert!(manifest == before, "a manifest with mistakes was changed");
            assert!(!mistakes.findings.is_empty() && mistakes.findings.len() <= FINDINGS_MAX);
            for finding in mistakes.findings.iter() {
                let span = &finding.span;
                assert!(span.start <= span.end && span.end <= text.len(), "{finding:?} in {} bytes", text.len());
                assert!(text.is_char_boundary(span.start) && text.is_char_boundary(span.end), "{finding:?}");
                assert!(!finding.message.is_empty());
            }
            assert!(!mistakes.render().is_empty());
        }
    }
}

/// Records as they are published from outside.
fn batch(records: &str) -> RecordBatch {
    let values: Vec<&str> = records.lines().take(64).collect();
    let times = (0..values.len() as i64).map(|second| second * 1_000_000);
    let columns: Vec<(&str, ArrayRef, bool)> = vec![
        ("key", Arc::new(StringArray::from_iter(values.iter().map(|value| value.get(..1)))), true),
        ("time", Arc::new(TimestampMicrosecondArray::from_iter_values(times).with_timezone("+00:00")), false),
        ("value", Arc::new(StringArray::from_iter_values(values)), false),
    ];
    RecordBatch::try_from_iter_with_nullable(columns).unwrap_or_else(|error| panic!("{error}"))
}

/// A stage takes what it opens; another one that is given its state goes on as it does.
fn process(plan: &Arc<Plan>, rows: &RecordBatch) {
    let (mut stage, mut other) = (Stage::new(Arc::clone(plan), 0), Stage::new(Arc::clone(plan), 0));
    if stage.open(rows.schema_ref()).is_err() || other.open(rows.schema_ref()).is_err() {
        return;
    }
    let Ok(output) = stage.process(rows) else { return };
    assert!(output.rejected.iter().all(|(row, _)| (*row as usize) < rows.num_rows()));
    let state = stage.snapshot(&output.dirty);
    let read: Vec<(u32, &[u8])> = state.iter().map(|(group, bytes)| (*group, bytes.as_slice())).collect();
    other.restore(&read).unwrap_or_else(|error| panic!("{error}"));
    assert!(other.snapshot(&output.dirty) == state, "the state is not what it was");
    match (stage.process(rows), other.process(rows)) {
        (Ok(one), Ok(two)) => {
            assert!(told(&one) == told(&two), "{one:?}\n{two:?}");
            assert!(stage.snapshot(&one.dirty) == other.snapshot(&two.dirty));
            hand_over(stage, plan);
        }
        (Err(one), Err(two)) => assert!(one == two),
        (one, two) => panic!("{one:?}\n{two:?}"),
    }
}

/// What a stage hands over another one takes, and hands over again as it was.
fn hand_over(mut stage: Stage, plan: &Arc<Plan>) {
    while stage.has_more() {
        if stage.go_on().is_err() {
            return;
        }
    }
    let only = Rescaling { from: 1, to: 1 };
    let all = |stage: &Stage| {
        let batches = stage.hand_over(only).unwrap_or_else(|error| panic!("{error}"));
        batches.map(|batch| batch.unwrap_or_else(|error| panic!("{error}")).1).collect::<Vec<_>>()
    };
    let (handed, mut other) = (all(&stage), Stage::new(Arc::clone(plan), 0));
    for rows in &handed {
        other.take_over(rows).unwrap_or_else(|error| panic!("{error}"));
    }
    assert!(all(&other).len() == handed.len() && !other.is_taking_over());
}

/// What came out, as it is written: what is no number is not equal to itself.
fn told(output: &Output) -> String {
    format!("{output:?}")
}
