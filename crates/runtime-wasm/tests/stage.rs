//! Stages made with the SDK, run on the engine.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int64Type};
use arrow_array::{RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow_schema::{DataType, Field, Schema, TimeUnit};
use littoral_runtime_wasm::stage::{Rejection, Stage, StageSettings};
use littoral_runtime_wasm::{Fault, Limits, LogSink, LogStream, Wasm, WasmOptions};

fn records(rows: &[(Option<&str>, i64, &str)]) -> RecordBatch {
    let schema = Schema::new(vec![
        Field::new("key", DataType::Utf8, true),
        Field::new("time", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), false),
        Field::new("value", DataType::Utf8, false),
    ]);
    let keys: StringArray = rows.iter().map(|row| row.0).collect();
    let times = TimestampMicrosecondArray::from_iter_values(rows.iter().map(|row| row.1)).with_timezone("UTC");
    let values = StringArray::from_iter_values(rows.iter().map(|row| row.2));
    RecordBatch::try_new(Arc::new(schema), vec![Arc::new(keys), Arc::new(times), Arc::new(values)]).unwrap()
}

fn values(values: &[&str]) -> RecordBatch {
    records(&values.iter().map(|value| (None, 0, *value)).collect::<Vec<_>>())
}

#[derive(Default)]
struct Kept(Mutex<Vec<String>>);

impl LogSink for Kept {
    fn line(&self, _stream: LogStream, text: &str) {
        self.0.lock().unwrap().push(text.to_owned());
    }
}

async fn stage(wasm: &Wasm, example: &str, settings: StageSettings) -> Stage {
    let artifact = wasm.load(support::sdk_example(example).into()).await.unwrap();
    assert!(artifact.is_stage() && !artifact.is_handler());
    let mut stage = Stage::instantiate(wasm, &artifact, settings).await.unwrap();
    stage.open(&records(&[]).schema()).await.unwrap();
    stage
}

#[tokio::test]
async fn rows_state_timers_and_rejections() {
    let wasm = Wasm::new(WasmOptions::default()).unwrap();
    let settings = StageSettings { config: vec![("IDLE_US".to_owned(), "50".to_owned())], ..StageSettings::default() };
    let mut first = stage(&wasm, "count", settings.clone()).await;
    let batch = records(&[(Some("a"), 10, "1.5"), (None, 11, "2"), (Some("b"), 12, "x"), (Some("a"), 13, "2.5")]);
    let step = first.process(&batch, 5).await.unwrap();
    let (port, rows) = &step.outputs[0];
    assert_eq!((port.as_str(), rows.num_rows(), step.timer_us), ("main", 2, Some(63)));
    assert_eq!(rows.column(2).as_primitive::<Int64Type>().values(), &[1, 2]);
    assert_eq!(rows.column(3).as_primitive::<Float64Type>().values(), &[1.5, 4.0]);
    let rejection = |row, reason: &str| Rejection { row, reason: reason.to_owned() };
    assert_eq!(step.rejected, [rejection(1, "the key is missing"), rejection(2, "`x` is no number")]);
    assert_eq!(step.dirty.len(), 1);

    let state = first.snapshot(&step.dirty).await.unwrap();
    let mut second = stage(&wasm, "count", settings).await;
    second.restore(state.clone()).await.unwrap();
    let step = second.process(&records(&[(Some("a"), 20, "1")]), 5).await.unwrap();
    assert_eq!(step.outputs[0].1.column(2).as_primitive::<Int64Type>().values(), &[3], "goes on where the first was");
    let fired = second.on_timer(63).await.unwrap();
    assert_eq!(fired.outputs[0].0, "idle");
    assert_eq!(fired.outputs[0].1.column(0).as_string::<i32>().value(0), "a");

    let (group, mut bytes) = (state[0].0, state[0].1.to_vec());
    bytes.pop();
    let refused = second.restore(vec![(group, bytes.into())]).await;
    assert!(matches!(&refused, Err(Fault::Rejected { reason }) if reason.contains("cut short")), "{refused:?}");
    second.process(&records(&[(Some("a"), 20, "1")]), 5).await.expect("a refusal does not end the instance");
}

#[tokio::test]
async fn a_stage_says_what_it_cannot_work_with() {
    let wasm = Wasm::new(WasmOptions::default()).unwrap();
    let artifact = wasm.load(support::sdk_example("count").into()).await.unwrap();
    let mut stage = Stage::instantiate(&wasm, &artifact, StageSettings::default()).await.unwrap();
    let refused = stage.open(&Schema::new(vec![Field::new("id", DataType::Int64, false)])).await;
    assert_eq!(refused, Err(Fault::Rejected { reason: "there is no column `key`; the input has id".to_owned() }));
    let unknown = stage.open(&Schema::new(vec![Field::new("id", DataType::UInt64, false)])).await;
    assert!(matches!(unknown, Err(Fault::Input { .. })), "{unknown:?}");
}

#[tokio::test]
async fn every_fault_is_told_and_ends_only_its_instance() {
    let wasm = Wasm::new(WasmOptions::default()).unwrap();
    let limits = Limits { memory_bytes: 16 << 20, timeout: Duration::from_secs(1), ..Limits::default() };
    let settings = StageSettings { limits, ..StageSettings::default() };
    let mut neighbour = stage(&wasm, "faulty_stage", settings.clone()).await;
    for (value, expected) in [
        ("trap", "told to trap"),
        ("spin", "longer than 1s"),
        ("grow", "more memory than 16777216 bytes"),
        ("recurse", "nested too deeply"),
    ] {
        let mut stage = stage(&wasm, "faulty_stage", settings.clone()).await;
        let fault = stage.process(&values(&["fine", value]), 0).await.unwrap_err();
        assert!(fault.to_string().contains(expected), "{value}: {fault}");
        assert_eq!(stage.process(&values(&["fine"]), 0).await, Err(Fault::Gone));
        let fine = neighbour.process(&values(&["fine"]), 0).await.unwrap();
        assert_eq!(fine.outputs[0].1.column(0).as_string::<i32>().value(0), "fine");
    }
    let mut stage = stage(&wasm, "faulty_stage", settings).await;
    let failed = stage.process(&values(&["fail"]), 0).await;
    assert_eq!(failed, Err(Fault::Rejected { reason: "told to fail".to_owned() }));
    let reached = stage.process(&values(&["reach"]), 0).await.unwrap();
    assert_eq!(reached.outputs[0].1.column(0).as_string::<i32>().value(0), "file false, network false");
}

#[tokio::test]
async fn what_a_guest_says_is_kept_but_not_all_of_it() {
    let wasm = Wasm::new(WasmOptions::default()).unwrap();
    let kept = Arc::new(Kept::default());
    let settings = StageSettings { logs: kept.clone(), ..StageSettings::default() };
    let mut stage = stage(&wasm, "faulty_stage", settings).await;
    stage.process(&values(&["talk"]), 0).await.unwrap();
    let lines = kept.0.lock().unwrap();
    assert_eq!(lines[0], "line 0");
    assert!(lines.len() < 10_000 && lines.last().unwrap().contains("dropped"), "{} lines", lines.len());
}

#[tokio::test]
async fn a_spinning_guest_gives_way_on_its_thread() {
    let wasm = Wasm::new(WasmOptions::default()).unwrap();
    let settings = StageSettings {
        limits: Limits { timeout: Duration::from_secs(60), ..Limits::default() },
        ..StageSettings::default()
    };
    let mut stage = stage(&wasm, "faulty_stage", settings).await;
    let batch = values(&["spin"]);
    // Both are on this one thread: without giving way, the second would never be polled.
    tokio::select! {
        biased;
        outcome = stage.process(&batch, 0) => panic!("a spinning guest ended: {outcome:?}"),
        () = async { for _ in 0..20 { tokio::task::yield_now().await } } => {}
    }
    assert_eq!(stage.process(&values(&["fine"]), 0).await, Err(Fault::Gone), "it was left half way");
}

#[tokio::test]
async fn a_full_pool_is_told_apart() {
    let wasm = Wasm::new(WasmOptions { instances_max: Some(1), ..WasmOptions::default() }).unwrap();
    let artifact = wasm.load(support::sdk_example("count").into()).await.unwrap();
    let first = Stage::instantiate(&wasm, &artifact, StageSettings::default()).await.unwrap();
    let second = Stage::instantiate(&wasm, &artifact, StageSettings::default()).await;
    assert_eq!(second.err(), Some(Fault::Busy));
    drop(first);
    assert!(Stage::instantiate(&wasm, &artifact, StageSettings::default()).await.is_ok());
}

/// Not an assertion about time: prints what a call costs, for `cargo test -- --nocapture --ignored`.
#[tokio::test]
#[ignore = "measures"]
async fn cost_of_a_call() {
    let wasm = Wasm::new(WasmOptions::default()).unwrap();
    let names: Vec<String> = (0..4096).map(|row| format!("{row}")).collect();
    let texts: Vec<_> = names.iter().map(|name| (Some("sensor-1"), 0, name.as_str())).collect();
    for (example, rows) in [("count", &texts), ("faulty_stage", &texts)] {
        let mut stage = stage(&wasm, example, StageSettings::default()).await;
        for count in [1, 4096] {
            let batch = records(&rows[..count]);
            for _ in 0..200 {
                stage.process(&batch, 0).await.unwrap();
            }
            let begun = Instant::now();
            for _ in 0..500 {
                stage.process(&batch, 0).await.unwrap();
            }
            println!("{example}, {count} rows: {:?} a call", begun.elapsed() / 500);
        }
    }
    let artifact = wasm.load(support::sdk_example("count").into()).await.unwrap();
    let begun = Instant::now();
    for _ in 0..500 {
        Stage::instantiate(&wasm, &artifact, StageSettings::default()).await.unwrap();
    }
    println!("an instance: {:?}", begun.elapsed() / 500);
}
