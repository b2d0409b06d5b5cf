//! Statements of any text are refused with findings that lie in it, or make flows, whose stages take any records.
//!
//! Up to a NUL the input is statements, after it records, one a line.

use std::sync::Arc;

use arrow_array::{ArrayRef, BinaryArray, RecordBatch, StringArray, TimestampMicrosecondArray, UInt32Array};
use littoral_model::manifest::{FINDINGS_MAX, Manifest, Sql, parse};
use littoral_sql::{Change, Output, Partitions, Plan, Stage, expand};

/// More partitions than a source has here.
const PRODUCERS_MAX: u32 = 1 << 10;

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
    let known = Some(Partitions { first: 1, most: 1 });
    let [mut stage, mut other] = [(); 2].map(|()| Stage::new(Arc::clone(plan), 0).changing(known));
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
            hand_over(stage);
        }
        (Err(one), Err(two)) => assert!(one == two),
        (one, two) => panic!("{one:?}\n{two:?}"),
    }
}

/// What a stage hands over it takes again, and hands over again as it was.
fn hand_over(mut stage: Stage) {
    while stage.has_more() {
        if stage.go_on().is_err() {
            return;
        }
    }
    let Some(handed) = change(&mut stage, 1) else { return };
    let again = change(&mut stage, 2).unwrap_or_else(|| panic!("it hands over once only"));
    assert!(again == handed);
}

/// Has a stage with key groups change from one partition to one: how many batches it hands over; nothing if it has none.
fn change(stage: &mut Stage, generation: u32) -> Option<usize> {
    (0..PRODUCERS_MAX).find(|sender| {
        let _ = stage.process(&switched(generation, *sender));
        stage.comes_first()
    })?;
    let mut handed = Vec::new();
    while stage.comes_first() {
        let output = stage.go_on().unwrap_or_else(|error| panic!("{error}"));
        handed.extend(output.handed.into_iter().map(|(_, rows)| rows));
    }
    for rows in &handed {
        assert!(stage.rescaling().is_waited_for);
        stage.process(rows).unwrap_or_else(|error| panic!("{error}"));
    }
    let now = stage.rescaling();
    assert!(now.done == Some(Change { generation, from: 1, to: 1 }) && !now.is_waited_for);
    while stage.has_more() {
        stage.go_on().unwrap_or_else(|error| panic!("{error}"));
    }
    Some(handed.len())
}

/// The notice of one who spreads rows that it has switched.
fn switched(generation: u32, sender: u32) -> RecordBatch {
    let numbers =
        [("generation", generation), ("from", 1), ("to", 1), ("sender", sender), ("part", u32::from(u16::MAX) - 1)];
    let column = |(name, number)| -> (&str, ArrayRef) { (name, Arc::new(UInt32Array::from(vec![number]))) };
    let state: ArrayRef = Arc::new(BinaryArray::from(vec![&b""[..]]));
    RecordBatch::try_from_iter(numbers.map(column).into_iter().chain([("state", state)]))
        .unwrap_or_else(|error| panic!("{error}"))
}

/// What came out, as it is written: what is no number is not equal to itself.
fn told(output: &Output) -> String {
    format!("{output:?}")
}
