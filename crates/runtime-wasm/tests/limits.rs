//! Limits that only hand-written components overstep: tables and core instances. And CPU time of commands and stages.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::sync::Arc;
use std::time::Duration;

use arrow_array::{ArrayRef, RecordBatch, StringArray};
use littoral_runtime_wasm::command::{self, CommandSettings};
use littoral_runtime_wasm::stage::{Stage, StageSettings};
use littoral_runtime_wasm::{Discard, Fault, Limits, Usage, Wasm, WasmOptions, preview1};

/// A command whose `run` is this, with more core modules beside it.
fn component(run: &str, beside: usize) -> Vec<u8> {
    let more: String = (0..beside).map(|number| format!("(core instance $n{number} (instantiate $empty))")).collect();
    let text = format!(
        r#"(component
          (core module $empty)
          (core module $m (table $t 1 funcref) (func (export "run") (result i32) {run} (i32.const 0)))
          {more}
          (core instance $i (instantiate $m))
          (func $run (result (result)) (canon lift (core func $i "run")))
          (instance $e (export "run" (func $run)))
          (export "wasi:cli/run@0.2.0" (instance $e)))"#
    );
    wat::parse_str(text).unwrap()
}

fn settings(limits: Limits) -> CommandSettings {
    CommandSettings {
        limits,
        arguments: vec!["test".to_owned()],
        environment: Vec::new(),
        access: Arc::default(),
        logs: Arc::new(Discard),
    }
}

async fn run(component: Vec<u8>, limits: Limits) -> Result<i32, Fault> {
    let wasm = Wasm::new(WasmOptions { instances_max: Some(8), ..WasmOptions::default() }).unwrap();
    let artifact = wasm.load(component.into()).await.unwrap();
    command::run(&wasm, &artifact, &settings(limits)).await
}

const SPIN: &str = "(loop $again (br $again))";

#[tokio::test]
async fn elements_of_a_table() {
    let grow = "(if (i32.eq (table.grow $t (ref.null func) (i32.const 500)) (i32.const -1)) (then unreachable))";
    let limits = |table_elements| Limits { table_elements, ..Limits::default() };
    assert_eq!(run(component(grow, 0), limits(501)).await, Ok(0));
    let fault = run(component(grow, 0), limits(500)).await.unwrap_err();
    assert!(matches!(fault, Fault::Limit { limit: 500, .. }), "{fault}");
    let text = fault.to_string();
    assert!(text.contains("more than 500 elements in a table") && text.contains("`limits.table-elements`"), "{text}");
}

#[tokio::test]
async fn core_instances() {
    let limits = |core_instances| Limits { core_instances, ..Limits::default() };
    assert_eq!(run(component("", 5), limits(6)).await, Ok(0));
    let fault = run(component("", 5), limits(5)).await.unwrap_err();
    assert!(matches!(fault, Fault::Limit { limit: 5, .. }), "{fault}");
    let text = fault.to_string();
    assert!(text.contains("more than 5 core instances") && text.contains("`limits.core-instances`"), "{text}");
}

#[tokio::test]
async fn cpu_time_of_a_command() {
    let cpu = Duration::from_millis(30);
    let limits = Limits { cpu: Some(cpu), timeout: Duration::from_secs(600), ..Limits::default() };
    assert_eq!(run(component(SPIN, 0), limits).await, Err(Fault::Cpu { limit: cpu }));
    let wasm = Wasm::new(WasmOptions { instances_max: Some(8), ..WasmOptions::default() }).unwrap();
    let module = wat::parse_str(format!(r#"(module (memory (export "memory") 1) (func (export "_start") {SPIN}))"#));
    let ran = preview1::run(&wasm, &module.unwrap(), &settings(limits)).await;
    assert_eq!(ran, Err(Fault::Cpu { limit: cpu }));
}

#[tokio::test]
async fn a_stage_is_metered_and_its_cpu_time_limited() {
    let wasm = Wasm::new(WasmOptions { instances_max: Some(8), ..WasmOptions::default() }).unwrap();
    let artifact = wasm.load(support::sdk_example("faulty_stage").into()).await.unwrap();
    let usage = Arc::<Usage>::default();
    let cpu = Duration::from_millis(30);
    let limits = Limits { cpu: Some(cpu), timeout: Duration::from_secs(600), ..Limits::default() };
    let settings = StageSettings { limits, usage: Arc::clone(&usage), ..StageSettings::default() };
    let mut stage = Stage::instantiate(&wasm, &artifact, settings).await.unwrap();
    let values: ArrayRef = Arc::new(StringArray::from(vec!["fine"; 1_000]));
    let batch = |values| RecordBatch::try_from_iter([("value", values)]).unwrap();
    let fine = batch(values);
    stage.open(&fine.schema()).await.unwrap();
    stage.process(&fine, 0).await.unwrap();
    let used = usage.now();
    assert_eq!(used.invocations, 1);
    // 1,000 values of four bytes and their offsets.
    assert_eq!(used.bytes_in, 4_000 + 1_001 * 4);
    assert!(used.cpu_ns > 0 && used.memory_byte_us > 0, "{used:?}");
    let spin = batch(Arc::new(StringArray::from(vec!["spin"])) as ArrayRef);
    assert_eq!(stage.process(&spin, 0).await, Err(Fault::Cpu { limit: cpu }));
    assert!(usage.now().cpu_ns - used.cpu_ns >= 30_000_000);
}
