//! Functions that a component exports, called over columns: row by row and in whole, with nulls and with faults.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow_array::{
    Array as _, ArrayRef, BooleanArray, Float64Array, Int64Array, StringArray, TimestampMicrosecondArray,
};
use arrow_schema::{DataType, TimeUnit};
use littoral_runtime_wasm::composition::interfaces;
use littoral_runtime_wasm::stage::StageSettings;
use littoral_runtime_wasm::user_function::{CallFailure, Callee, Outcome, Shape};
use littoral_runtime_wasm::{Limits, Wasm, WasmOptions};

/// With an instance that may compute for so long in a call.
async fn callee(cpu: Duration) -> Callee {
    let wasm = Wasm::new(WasmOptions { instances_max: Some(4), ..WasmOptions::default() }).unwrap();
    let artifact = wasm.load(support::test_guest("judge").into()).await.unwrap();
    assert!(artifact.is_exporter() && !artifact.is_stage() && !artifact.is_handler());
    let settings = StageSettings {
        limits: Limits { cpu: Some(cpu), timeout: LONG, ..Limits::default() },
        ..StageSettings::default()
    };
    Callee::new(&wasm, &artifact, settings).await.unwrap()
}

const LONG: Duration = Duration::from_secs(60);

fn whole(values: &[Option<i64>]) -> ArrayRef {
    Arc::new(Int64Array::from(values.to_vec()))
}

fn texts(values: &[&str]) -> ArrayRef {
    Arc::new(StringArray::from(values.to_vec()))
}

fn faults(outcome: &Outcome) -> BTreeMap<usize, &str> {
    outcome.faults.iter().map(|(row, reason)| (*row, reason.as_str())).collect()
}

#[tokio::test]
async fn a_function_of_values_is_called_for_each_row() {
    let mut callee = callee(LONG).await;
    let means: ArrayRef = Arc::new(Float64Array::from(vec![Some(50.0), None, Some(80.0)]));
    let scores = callee.call("detect", (&[means], 3), &DataType::Float64).await.unwrap();
    let expected: ArrayRef = Arc::new(Float64Array::from(vec![Some(0.0), None, Some(3.0)]));
    assert_eq!((&scores.values, scores.faults.len()), (&expected, 0), "null in is null out, without a call");
    // An option is called where there is no value, beside others that must be there.
    let scores: ArrayRef = Arc::new(Float64Array::from(vec![None, Some(2.0), Some(2.0), None]));
    let strict: ArrayRef = Arc::new(BooleanArray::from(vec![Some(true), Some(true), Some(false), None]));
    for name in ["grade", "acme:judge/verdicts@1.0.0#grade"] {
        let grades = callee.call(name, (&[scores.clone(), strict.clone()], 4), &DataType::Utf8).await.unwrap();
        let expected: ArrayRef = Arc::new(StringArray::from(vec![Some("unknown"), Some("bad"), None, None]));
        assert_eq!((&grades.values, grades.faults.len()), (&expected, 0));
    }
    let nothing = callee.call("detect", (&[new_doubles(0)], 0), &DataType::Float64).await.unwrap();
    assert_eq!(nothing.values.len(), 0);
}

fn new_doubles(rows: usize) -> ArrayRef {
    Arc::new(Float64Array::from(vec![1.0; rows]))
}

#[tokio::test]
async fn a_function_of_lists_is_given_whole_columns() {
    let mut callee = callee(LONG).await;
    let rows = 5_000;
    let values: ArrayRef =
        Arc::new((0..rows).map(|row| (row % 7 != 0).then_some(row as f64)).collect::<Float64Array>());
    // The last but two is no u32.
    let by = whole(&(0..rows).map(|row| Some(if row == rows - 3 { -1 } else { 2 })).collect::<Vec<_>>());
    let scaled = callee.call("scale", (&[values, by], rows as usize), &DataType::Float64).await.unwrap();
    let expected: ArrayRef = Arc::new(
        (0..rows).map(|row| (row % 7 != 0 && row != rows - 3).then_some(row as f64 * 2.0)).collect::<Float64Array>(),
    );
    assert_eq!(&scaled.values, &expected);
    assert_eq!(faults(&scaled), BTreeMap::from([(rows as usize - 3, "-1 is out of range of u32")]));
    let checked =
        callee.call("check", (&[whole(&[Some(1), None, Some(13), Some(0)])], 4), &DataType::Int64).await.unwrap();
    assert_eq!(&checked.values, &whole(&[Some(2), Some(-1), None, None]));
    assert_eq!(faults(&checked), BTreeMap::from([(2, "13 is not wanted")]));
    // Where values are missing from what it returns, the row that it happens on is found.
    let kept =
        callee.call("drop-odd", (&[whole(&[Some(2), Some(4), Some(5), Some(8)])], 4), &DataType::Int64).await.unwrap();
    assert_eq!(&kept.values, &whole(&[Some(2), Some(4), None, Some(8)]));
    assert_eq!(faults(&kept), BTreeMap::from([(2, "its answer is not valid: it has 0 values for 1 rows")]));
}

#[tokio::test]
async fn columns_of_doubles_are_handed_over_as_they_are() {
    let mut callee = callee(LONG).await;
    let rows = 5_000_usize;
    let square = |row: usize| match row {
        77 => Some(-1.0),
        4_000 => Some(f64::INFINITY),
        row => (row % 9 != 4).then_some((row * row + 1) as f64),
    };
    let squares: ArrayRef = Arc::new((0..rows).map(square).collect::<Float64Array>());
    let factors: ArrayRef = Arc::new((0..rows).map(|row| Some(row as f64)).collect::<Float64Array>());
    let root = |row: usize| square(row).filter(|_| row != 77 && row != 4_000).map(|square| square.sqrt() * row as f64);
    // Of a part of a column, too.
    for from in [0, 70, 1_001] {
        let count = rows - from;
        let columns = [squares.slice(from, count), factors.slice(from, count)];
        let outcome = callee.call("root", (&columns, count), &DataType::Float64).await.unwrap();
        let expected: ArrayRef = Arc::new((from..rows).map(root).collect::<Float64Array>());
        assert_eq!(&outcome.values, &expected);
        let failed: Vec<usize> = outcome.faults.keys().map(|row| row + from).collect();
        assert_eq!(failed, [77, 4_000].into_iter().filter(|row| *row >= from).collect::<Vec<_>>());
        let last = &outcome.faults[&(4_000 - from)];
        assert_eq!(last, "its answer is not valid: it has 0 values for 1 rows");
    }
}

#[tokio::test]
async fn a_function_whose_time_runs_out_again_and_again_is_called_over_fewer_rows() {
    let mut callee = callee(Duration::from_millis(50)).await;
    let spins = texts(&["spin"; 20]);
    let all = callee.call("misbehave", (std::slice::from_ref(&spins), 20), &DataType::Utf8).await;
    assert!(matches!(all, Err(CallFailure::TooLarge(_))), "{all:?}");
    let few = callee.call("misbehave", (&[spins.slice(0, 8)], 8), &DataType::Utf8).await.unwrap();
    assert_eq!((few.faults.len(), few.values.null_count()), (8, 8));
}

#[tokio::test]
async fn a_fault_is_of_its_row_and_the_next_one_has_another_instance() {
    let mut callee = callee(Duration::from_secs(3)).await;
    let how = texts(&["a", "trap", "b", "refuse", "spin", "c"]);
    let outcome = callee.call("misbehave", (&[how], 6), &DataType::Utf8).await.unwrap();
    let expected: ArrayRef = Arc::new(StringArray::from(vec![Some("A"), None, Some("B"), None, None, Some("C")]));
    assert_eq!(&outcome.values, &expected);
    let faults = faults(&outcome);
    assert_eq!(faults.keys().copied().collect::<Vec<_>>(), [1, 3, 4]);
    assert!(faults[&1].starts_with("it trapped: ") && faults[&1].contains("on purpose"), "{}", faults[&1]);
    assert_eq!(faults[&3], "it was told to");
    assert!(faults[&4].contains("raise `limits.cpu` in the manifest"), "{}", faults[&4]);
    // Texts that are too large together come again in parts; alone it is the row that fails.
    let large = texts(&["large", "a"]);
    let both = callee.call("misbehave", (std::slice::from_ref(&large), 2), &DataType::Utf8).await;
    assert!(matches!(both, Err(CallFailure::TooLarge(_))), "{both:?}");
    let alone = callee.call("misbehave", (&[large.slice(0, 1)], 1), &DataType::Utf8).await.unwrap();
    assert!(alone.values.is_null(0) && alone.faults[&0].contains("64 MiB are taken"), "{:?}", alone.faults);
}

#[tokio::test]
async fn what_columns_cannot_hold_is_refused_in_words() {
    let known = interfaces(&support::test_guest("judge")).unwrap();
    let shape = |export: &str| known.user_function(export).and_then(|(_, _, signature)| Shape::of(signature));
    let moment = DataType::Timestamp(TimeUnit::Microsecond, Some("+00:00".into()));
    let check = shape("check").unwrap();
    for ty in [&DataType::Int64, &moment, &DataType::Duration(TimeUnit::Microsecond)] {
        assert_eq!(check.refuses(std::slice::from_ref(ty), ty), None);
    }
    let refused = |export: &str, parameters: &[DataType], result: &DataType| {
        shape(export).unwrap().refuses(parameters, result).unwrap()
    };
    assert_eq!(refused("detect", &[DataType::Utf8], &DataType::Float64), "`mean` is f64, which takes double");
    assert_eq!(refused("detect", &[DataType::Float64], &DataType::Int64), "it returns f64, which is double");
    assert_eq!(refused("detect", &[], &DataType::Float64), "it takes 1 arguments, and is given 0");
    assert_eq!(
        refused("scale", &[DataType::Float64, moment.clone()], &DataType::Float64),
        "`by` is u32, which takes bigint"
    );
    assert!(shape("outline").unwrap_err().contains("it takes `of`, which is no bool, integer, float or string"));
    let unknown = shape("detekt").unwrap_err();
    assert!(unknown.contains("exports no function `detekt`; it exports `detect`"), "{unknown}");
    // Moments are their microseconds.
    let mut callee = callee(LONG).await;
    let moments: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![2, 3]).with_timezone("+00:00"));
    let outcome = callee.call("check", (&[moments], 2), &moment).await.unwrap();
    let expected: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![4, 6]).with_timezone("+00:00"));
    assert_eq!(&outcome.values, &expected);
    let wrong = callee.call("detect", (&[texts(&["a"])], 1), &DataType::Float64).await;
    assert!(matches!(wrong, Err(CallFailure::Unavailable(_))), "{wrong:?}");
}
