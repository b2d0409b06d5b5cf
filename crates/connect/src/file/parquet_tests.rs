//! Parquet files: whole or nothing when they are written, row by row and never stuck when they are read.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::BTreeSet;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arrow_array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use littoral_model::entry::Position;
use littoral_model::id::Epoch;
use littoral_model::manifest::{self, FileFormat};
use littoral_model::unit::{Size, Time};
use parquet::file::reader::{FileReader as _, SerializedFileReader};
use parquet::record::Field;
use serde_json::Value;
use tokio::time::Instant;

use super::tests::{offering, values};
use super::{FileSink, ParquetSource};
use crate::{Part, Rows, Sink as _, Source as _, Taken, Trouble};

/// What DuckDB 2.0.0 writes: `COPY (SELECT i AS n, 'm' || (i % 2) AS machine, …) TO … (FORMAT parquet)`.
const FOREIGN: &[u8] = include_bytes!("../../../../tests/golden/foreign/duckdb-2.0.0.parquet");

async fn sink(folder: &Path, rotate: u64, committed: Option<&[u8]>) -> FileSink {
    let settings = manifest::FileSink {
        path: folder.to_str().unwrap().to_owned(),
        format: FileFormat::Parquet,
        rotate: Size::from_bytes(rotate),
        rotate_every: Some(Time::from_micros(5_000_000)),
    };
    let work = "default/plant/sink/out/0@hall".parse().unwrap();
    FileSink::open(&work, &settings, &offering(), committed).await.unwrap()
}

/// Rows whose numbers, texts and moments follow from one another; each seventh has no text.
fn rows(numbers: std::ops::Range<i64>) -> RecordBatch {
    let text = |number: i64| (number % 7 != 0).then(|| format!("text {number}"));
    let moments = TimestampMicrosecondArray::from_iter_values(numbers.clone()).with_timezone("+00:00");
    let columns: [(&str, ArrayRef); 4] = [
        ("n", Arc::new(Int64Array::from_iter_values(numbers.clone()))),
        ("text", Arc::new(numbers.clone().map(text).collect::<StringArray>())),
        ("moment", Arc::new(moments)),
        ("half", Arc::new(Float64Array::from_iter_values(numbers.map(|number| number as f64 / 2.0)))),
    ];
    RecordBatch::try_from_iter(columns).unwrap()
}

fn part(rows: RecordBatch) -> Part {
    let work = "default/a/stream/s/0@hall".parse().unwrap();
    Part { work, epoch: Epoch(1), from: Position::START, next: Position::START, rows: vec![Rows(rows)] }
}

/// The names of the files, but for the hidden ones.
fn names(folder: &Path) -> Vec<String> {
    let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| !name.starts_with('.')).collect::<BTreeSet<_>>().into_iter().collect()
}

/// The rows of a file as the crate's reader of rows tells them, which does not go over Arrow.
fn written(path: &Path) -> Vec<Value> {
    let reader = SerializedFileReader::new(File::open(path).unwrap()).unwrap();
    let value = |field: &Field| match field {
        Field::Null => Value::Null,
        Field::Long(number) => Value::from(*number),
        Field::Double(number) => Value::from(*number),
        Field::Str(text) => Value::from(text.as_str()),
        Field::TimestampMicros(moment) => Value::from(moment.to_string()),
        other => unreachable!("{other}"),
    };
    let rows = reader.get_row_iter(None).unwrap().map(Result::unwrap);
    rows.map(|row| row.get_column_iter().map(|(name, field)| (name.clone(), value(field))).collect()).collect()
}

fn told(number: i64) -> Value {
    let text = (number % 7 != 0).then(|| format!("text {number}"));
    let moment = number.to_string();
    serde_json::json!({ "n": number, "text": text, "moment": moment, "half": number as f64 / 2.0 })
}

fn all(range: std::ops::Range<i64>) -> Vec<Value> {
    range.map(told).collect()
}

#[tokio::test]
async fn a_file_is_whole_or_is_written_anew() {
    let folder = tempfile::tempdir().unwrap();
    let mut first = sink(folder.path(), 1 << 30, None).await;
    assert_eq!(first.waits_until(), None, "nothing waits yet");
    let begun = first.flush().await.unwrap().known;
    let at = |known: &[u8]| serde_json::from_slice::<Value>(known).unwrap();
    assert_eq!((&at(&begun)["number"], &at(&begun)["length"]), (&Value::from(1), &Value::from(0)));
    let before = Instant::now();
    first.write(&part(rows(0..1_000))).await.unwrap();
    let due = first.waits_until().unwrap();
    assert!(due >= before + Duration::from_secs(5), "it is written to for as long as was said");
    first.write(&part(rows(1_000..2_000))).await.unwrap();
    assert_eq!(first.waits_until(), Some(due), "and not for longer because of what comes");
    drop(first);

    // Killed while it was open: nothing of it was committed, so that all comes again.
    let mut again = sink(folder.path(), 1 << 30, Some(&begun)).await;
    assert_eq!(names(folder.path()), ["out-00000001.parquet.open"]);
    assert_eq!(std::fs::metadata(folder.path().join("out-00000001.parquet.open")).unwrap().len(), 0);
    again.write(&part(rows(0..1_500))).await.unwrap();
    let committed = again.flush().await.unwrap().known;
    assert_eq!((&at(&committed)["number"], &at(&committed)["length"]), (&Value::from(2), &Value::from(0)));
    drop(again);

    // Killed before the commit: what is whole is not known, and is written once more.
    let mut last = sink(folder.path(), 1 << 30, Some(&begun)).await;
    assert_eq!(names(folder.path()), ["out-00000001.parquet.open"]);
    last.write(&part(rows(0..2_000))).await.unwrap();
    last.flush().await.unwrap();
    assert_eq!(names(folder.path()), ["out-00000001.parquet.open", "out-00000002.parquet.open"]);
    drop(last);

    // Killed after the commit, before it got its name.
    drop(sink(folder.path(), 1 << 30, Some(&committed)).await);
    assert_eq!(names(folder.path()), ["out-00000001.parquet", "out-00000002.parquet.open"]);
    let rows = written(&folder.path().join("out-00000001.parquet"));
    assert!(rows == all(0..2_000));
}

#[tokio::test]
async fn a_file_ends_at_its_size_and_where_the_columns_change() {
    let folder = tempfile::tempdir().unwrap();
    let mut sink = sink(folder.path(), 4 << 10, None).await;
    sink.write(&part(rows(0..50))).await.unwrap();
    assert!(sink.waits_until().is_some());
    sink.write(&part(rows(50..2_000))).await.unwrap();
    assert_eq!(sink.waits_until(), None, "it is full");
    sink.flush().await.unwrap();
    sink.committed().await.unwrap();
    sink.write(&part(rows(2_000..2_001))).await.unwrap();
    let other = RecordBatch::try_from_iter([("m", Arc::new(Int64Array::from(vec![1])) as ArrayRef)]).unwrap();
    sink.write(&part(other)).await.unwrap();
    assert_eq!(sink.waits_until(), None, "the one before is whole and not committed");
    sink.flush().await.unwrap();
    sink.committed().await.unwrap();
    let file = |number: u32| written(&folder.path().join(format!("out-{number:08}.parquet")));
    assert!(file(1) == all(0..2_000));
    assert_eq!(file(2), all(2_000..2_001));
    assert_eq!(file(3), [serde_json::json!({ "m": 1 })]);
    assert_eq!(names(folder.path())[3], "out-00000004.parquet.open");
}

async fn source(path: &Path, position: Option<&[u8]>) -> Result<ParquetSource, Trouble> {
    let key = Some("machine".to_owned());
    let settings = manifest::FileSource { path: path.to_str().unwrap().to_owned(), format: FileFormat::Parquet, key };
    ParquetSource::open(&settings, &offering(), position).await
}

/// What comes next that is not nothing.
async fn next(source: &mut ParquetSource) -> Taken {
    loop {
        let taken = source.next().await.unwrap();
        if !taken.is_empty() {
            return taken;
        }
    }
}

fn numbers(taken: &Taken) -> Vec<i64> {
    let number = |value: &&str| serde_json::from_str::<Value>(value).unwrap()["n"].as_i64().unwrap();
    values(taken).iter().map(number).collect()
}

/// Writes a file as a sink of ours does, under a name.
async fn file(folder: &Path, name: &str, batches: &[RecordBatch]) {
    let aside = tempfile::tempdir().unwrap();
    let mut sink = sink(aside.path(), 1 << 30, None).await;
    for rows in batches {
        sink.write(&part(rows.clone())).await.unwrap();
    }
    sink.flush().await.unwrap();
    sink.committed().await.unwrap();
    std::fs::rename(aside.path().join("out-00000001.parquet"), folder.join(name)).unwrap();
}

/// Makes a file one that nobody has written to for long.
fn age(path: &Path) {
    let file = File::options().write(true).open(path).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(3_600)).unwrap();
}

#[tokio::test]
async fn each_row_of_files_in_the_order_of_their_names_comes_once_wherever_one_starts_anew() {
    let folder = tempfile::tempdir().unwrap();
    // Large enough for several row groups and many commits.
    let wide = |range: std::ops::Range<i64>| {
        let text: StringArray = range.clone().map(|n| Some(format!("{n}-{}", "x".repeat(900)))).collect();
        let columns: [(&str, ArrayRef); 2] =
            [("n", Arc::new(Int64Array::from_iter_values(range))), ("text", Arc::new(text))];
        RecordBatch::try_from_iter(columns).unwrap()
    };
    let batches: Vec<RecordBatch> = (0..20).map(|place| wide(place * 1_000..(place + 1) * 1_000)).collect();
    file(folder.path(), "b.parquet", &batches).await;
    file(folder.path(), "a.parquet", &[rows(-3..0)]).await;
    file(folder.path(), "c.parquet", &[rows(20_000..20_002)]).await;
    for other in [".d.parquet", "_e.parquet", "f.csv", "g.parquet.open"] {
        std::fs::write(folder.path().join(other), "none of ours").unwrap();
    }
    std::fs::create_dir(folder.path().join("h.parquet")).unwrap();
    let mut whole = Vec::new();
    let mut reading = source(folder.path(), None).await.unwrap();
    let mut restarted = Vec::new();
    let mut position = None;
    while whole.len() < 20_005 {
        let taken = next(&mut reading).await;
        assert_eq!(taken.passed_over, None);
        whole.extend(numbers(&taken));
    }
    while restarted.len() < 20_005 {
        let mut reading = source(folder.path(), position.as_deref()).await.unwrap();
        let taken = next(&mut reading).await;
        restarted.extend(numbers(&taken));
        position = Some(taken.position);
    }
    assert!(whole == (-3..20_002).collect::<Vec<_>>(), "rows are missing, doubled or out of order");
    assert!(restarted == whole, "rows are missing, doubled or out of order where it starts anew");

    // One file alone, by its name.
    let mut alone = source(&folder.path().join("c.parquet"), None).await.unwrap();
    assert_eq!(numbers(&next(&mut alone).await), [20_000, 20_001]);
    assert!(source(&folder.path().join("none"), None).await.is_err());
    assert!(source(folder.path(), Some(b"{\"version\":9}")).await.is_err());
}

#[tokio::test]
async fn types_that_another_program_writes_are_told_as_json() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.parquet"), FOREIGN).unwrap();
    let mut reading = source(folder.path(), None).await.unwrap();
    let taken = next(&mut reading).await;
    assert_eq!(
        taken.records.iter().map(|record| record.key.as_deref()).collect::<Vec<_>>(),
        [Some("m0"), Some("m1"), Some("m0")]
    );
    assert_eq!(
        values(&taken)[1],
        "{\"n\":1,\"machine\":\"m1\",\"temperature\":null,\"price\":1.2500,\"local\":\"2024-02-29T12:00:01.500\",\
         \"moment\":\"2024-02-29T10:00:00.500Z\",\"day\":\"2024-02-29\",\"flag\":true,\"list\":[1,null,2],\
         \"pair\":{\"a\":1,\"b\":\"x\"},\"map\":{\"k\":1},\"bytes\":\"6162\",\"nothing\":null,\"most\":18446744073709551615}"
    );
}

#[tokio::test]
async fn a_file_that_is_not_whole_is_waited_for_and_then_passed_over() {
    let folder = tempfile::tempdir().unwrap();
    file(folder.path(), "b.parquet", &[rows(0..3)]).await;
    let cut = folder.path().join("a.parquet");
    std::fs::write(&cut, &FOREIGN[..1_000]).unwrap();
    let mut reading = source(folder.path(), None).await.unwrap();
    let said = reading.next().await.unwrap_err().0;
    assert!(said.contains("a.parquet: it does not end as a whole Parquet file"), "{said}");
    std::fs::write(&cut, FOREIGN).unwrap();
    let taken = next(&mut reading).await;
    assert_eq!((numbers(&taken), taken.passed_over), (vec![0, 1, 2], None), "it was whole in the end");

    std::fs::write(&cut, &FOREIGN[..1_000]).unwrap();
    age(&cut);
    let mut reading = source(folder.path(), None).await.unwrap();
    let taken = next(&mut reading).await;
    let (count, why) = taken.passed_over.clone().unwrap();
    assert!(count == 1 && taken.records.is_empty() && why.starts_with("a.parquet: "), "{why}");
    // Also when it starts anew behind that.
    let mut reading = source(folder.path(), Some(&taken.position)).await.unwrap();
    let taken = next(&mut reading).await;
    assert_eq!((numbers(&taken), taken.passed_over), (vec![0, 1, 2], None));
}

#[tokio::test]
async fn whatever_bytes_are_damaged_the_next_file_is_read() {
    let folder = tempfile::tempdir().unwrap();
    file(folder.path(), "b.parquet", &[rows(0..3)]).await;
    let damaged = folder.path().join("a.parquet");
    for place in 0..FOREIGN.len() {
        let mut bytes = FOREIGN.to_vec();
        bytes[place] ^= 0xff;
        std::fs::write(&damaged, &bytes).unwrap();
        age(&damaged);
        let mut reading = source(folder.path(), None).await.unwrap();
        // What is decoded of it may be wrong: pages have no checksums that must be there.
        loop {
            let taken = next(&mut reading).await;
            let at: Value = serde_json::from_slice(&taken.position).unwrap();
            if at["file"] == "b.parquet" {
                assert_eq!(numbers(&taken), [0, 1, 2], "byte {place}");
                break;
            }
        }
    }
}

#[tokio::test]
async fn a_file_that_says_that_it_has_thousands_of_millions_of_row_groups_is_passed_over() {
    let folder = tempfile::tempdir().unwrap();
    // Three rows, and a list of one structure: the row group.
    let groups = FOREIGN.windows(4).position(|bytes| bytes == [0x16, 0x06, 0x19, 0x1c]).unwrap();
    let (before, behind) = FOREIGN.split_at(groups + 3);
    let mut bytes = [before, &[0xfc, 0xff, 0xff, 0xff, 0xff, 0x07], &behind[1..]].concat();
    let length = bytes.len() - 8;
    let described = u32::from_le_bytes(bytes[length..length + 4].try_into().unwrap()) + 5;
    bytes[length..length + 4].copy_from_slice(&described.to_le_bytes());
    let path = folder.path().join("a.parquet");
    std::fs::write(&path, bytes).unwrap();
    age(&path);
    let (_, why) = next(&mut source(folder.path(), None).await.unwrap()).await.passed_over.unwrap();
    assert_eq!(why, "a.parquet: the description of what it has is none");
}

#[tokio::test]
async fn files_that_come_late_or_go_or_are_others_are_told_or_begun_anew() {
    let folder = tempfile::tempdir().unwrap();
    let rows_of = |from: i64| [rows(from..from + 5_000)];
    file(folder.path(), "b.parquet", &rows_of(0)).await;
    let mut reading = source(folder.path(), None).await.unwrap();
    let taken = next(&mut reading).await;
    assert_eq!(numbers(&taken).last(), Some(&4_095));
    let within = taken.position;
    assert_eq!(numbers(&next(&mut reading).await).last(), Some(&4_999));

    // Another file of that name, while nobody read the one before to its end.
    file(folder.path(), "b.parquet", &rows_of(7_000)).await;
    let mut again = source(folder.path(), Some(&within)).await.unwrap();
    assert_eq!(numbers(&next(&mut again).await).first(), Some(&7_000));

    std::fs::remove_file(folder.path().join("b.parquet")).unwrap();
    file(folder.path(), "c.parquet", &rows_of(10_000)).await;
    let mut again = source(folder.path(), Some(&within)).await.unwrap();
    let (_, why) = next(&mut again).await.passed_over.unwrap();
    assert_eq!(why, "b.parquet is gone, and only 4096 of its rows were read");
    assert_eq!(numbers(&next(&mut again).await).first(), Some(&10_000));
    assert_eq!(numbers(&next(&mut again).await).last(), Some(&14_999));

    file(folder.path(), "a.parquet", &rows_of(20_000)).await;
    let (count, why) = next(&mut again).await.passed_over.unwrap();
    assert_eq!(
        (count, why.as_str()),
        (1, "a file came whose name is before c.parquet, which is read; give it a later name")
    );
}
