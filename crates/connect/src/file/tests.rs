//! What files do while they are followed and written: they are moved away, cut off, begun in the middle of a record; and what is not
//! committed is written once more.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch, UInt32Array};
use async_trait::async_trait;
use bytes::Bytes;
use littoral_model::entry::Position;
use littoral_model::grant::Peer;
use littoral_model::id::Epoch;
use littoral_model::manifest::{self, FileFormat};
use littoral_model::unit::Size;
use rustix::fs::{Mode, OFlags};

use super::{FileSink, FileSource};
use crate::{Machine, Part, Rows, Sink as _, Source as _, Taken, Trouble};

struct Offering;

#[async_trait]
impl Machine for Offering {
    fn folder(&self, path: &Path) -> Result<OwnedFd, Trouble> {
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open(path, flags, Mode::empty()).map_err(|error| Trouble(error.to_string()))
    }

    async fn addresses(&self, _: &[Peer], host: &str, _: u16) -> Result<Vec<SocketAddr>, Trouble> {
        Err(Trouble(format!("{host} is not offered")))
    }

    async fn secret(&self, name: &str) -> Result<String, Trouble> {
        Err(Trouble(format!("{name} is not offered")))
    }
}

pub(super) fn offering() -> Arc<dyn Machine> {
    Arc::new(Offering)
}

async fn source(path: &Path, format: FileFormat, position: Option<&[u8]>) -> FileSource {
    let settings = manifest::FileSource { path: path.to_str().unwrap().to_owned(), format, key: None };
    FileSource::open(&settings, &offering(), position).await.unwrap()
}

/// What comes next that is not nothing.
async fn next(source: &mut FileSource) -> Taken {
    loop {
        let taken = source.next().await.unwrap();
        if !taken.is_empty() {
            return taken;
        }
    }
}

pub(super) fn values(taken: &Taken) -> Vec<&str> {
    taken.records.iter().map(|record| record.value.as_str()).collect()
}

#[tokio::test]
async fn another_file_of_that_name_is_known_by_how_it_begins() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("in");
    std::fs::write(&path, "1\n2\n\n3").unwrap();
    let mut first = source(&path, FileFormat::JsonLines, None).await;
    let taken = next(&mut first).await;
    assert_eq!(values(&taken), ["1", "2"]);
    // What an older version has committed is read.
    let position = r#"{"version":1,"offset":5,"head":5,"checksum":2951774855,"is_skipping":false}"#;
    assert_eq!(taken.position, position);
    std::fs::write(&path, "1\n2\n\n34\n").unwrap();
    assert_eq!(values(&next(&mut first).await), ["34"]);
    let again = async |position: &Bytes| source(&path, FileFormat::JsonLines, Some(position)).await;
    assert_eq!(values(&next(&mut again(&taken.position).await).await), ["34"], "what was not committed is read again");
    std::fs::write(&path, "9\n8\n\n34\n").unwrap();
    assert_eq!(values(&next(&mut again(&taken.position).await).await), ["9", "8", "34"], "it is another file");
    std::fs::write(&path, "1\n").unwrap();
    assert_eq!(values(&next(&mut again(&taken.position).await).await), ["1"], "it was cut off");
    let settings = manifest::FileSource { path: "/in".to_owned(), format: FileFormat::Csv, key: None };
    assert!(FileSource::open(&settings, &offering(), Some(b"{\"version\":9}")).await.is_err());
}

#[tokio::test]
async fn a_record_that_is_too_long_is_passed_over_also_if_its_reader_starts_anew_within_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("in");
    std::fs::write(&path, format!("1\n{}\n2\n", "x".repeat(5 << 19))).unwrap();
    let (mut position, mut seen, mut passed_over) = (None::<Bytes>, Vec::new(), 0);
    while seen.len() < 2 {
        let taken = next(&mut source(&path, FileFormat::JsonLines, position.as_deref()).await).await;
        passed_over += taken.passed_over.as_ref().map_or(0, |(count, _)| *count);
        seen.extend(values(&taken).into_iter().map(str::to_owned));
        position = Some(taken.position);
    }
    assert_eq!((seen, passed_over), (vec!["1".to_owned(), "2".to_owned()], 1));
}

#[tokio::test]
async fn a_csv_file_keeps_its_columns_when_its_reader_starts_anew() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("in");
    std::fs::write(&path, "\u{feff}a,b\n1,\"x\ny\"\n").unwrap();
    let taken = next(&mut source(&path, FileFormat::Csv, None).await).await;
    assert_eq!(values(&taken), [r#"{"a":1,"b":"x\ny"}"#]);
    std::fs::write(&path, "\u{feff}a,b\n1,\"x\ny\"\n2,z\n").unwrap();
    let more = next(&mut source(&path, FileFormat::Csv, Some(&taken.position)).await).await;
    assert_eq!(values(&more), [r#"{"a":2,"b":"z"}"#]);
}

#[tokio::test]
async fn a_file_that_was_cut_off_and_has_grown_since_is_read_from_its_start() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("in");
    std::fs::write(&path, "1\n2\n").unwrap();
    let mut following = source(&path, FileFormat::JsonLines, None).await;
    assert_eq!(values(&next(&mut following).await), ["1", "2"]);
    // The same file, longer than what was read of it.
    std::fs::write(&path, "3\n4\n5\n6\n").unwrap();
    assert_eq!(values(&next(&mut following).await), ["3", "4", "5", "6"]);
}

#[tokio::test]
async fn a_csv_file_that_ends_within_quotes_is_left_when_another_takes_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("in");
    std::fs::write(&path, "a,b\n1,\"x\n").unwrap();
    let mut following = source(&path, FileFormat::Csv, None).await;
    following.next().await.unwrap();
    std::fs::rename(&path, folder.path().join("moved")).unwrap();
    std::fs::write(&path, "a,b\n,\n").unwrap();
    assert_eq!(values(&next(&mut following).await), [r#"{"a":null,"b":null}"#], "and a row of nothing is a row");
}

#[tokio::test]
async fn a_file_that_is_not_there_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("in");
    let mut following = source(&path, FileFormat::JsonLines, None).await;
    assert!(following.next().await.unwrap_err().0.contains("in is not there"));
    std::fs::write(&path, "1\n").unwrap();
    assert_eq!(values(&next(&mut following).await), ["1"]);
}

#[tokio::test]
async fn a_quote_too_many_costs_the_line_that_it_is_in() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("in");
    let rows = (0..100_000).map(|number| format!("{number},longer text\n")).collect::<String>();
    std::fs::write(&path, format!("a,b\n1,\"x\n{rows}")).unwrap();
    let mut following = source(&path, FileFormat::Csv, None).await;
    let (mut seen, mut passed_over) = (0, 0);
    while seen < 100_000 {
        let taken = next(&mut following).await;
        passed_over += taken.passed_over.as_ref().map_or(0, |(count, _)| *count);
        for value in values(&taken) {
            assert_eq!(value, format!("{{\"a\":{seen},\"b\":\"longer text\"}}"));
            seen += 1;
        }
    }
    assert_eq!(passed_over, 1);
}

fn part(numbers: std::ops::Range<u32>) -> Part {
    let column: ArrayRef = Arc::new(UInt32Array::from_iter_values(numbers));
    let rows = vec![Rows(RecordBatch::try_from_iter([("n", column)]).unwrap())];
    let work = "default/a/stream/s/0@hall".parse().unwrap();
    Part { work, epoch: Epoch(1), from: Position::START, next: Position::START, rows }
}

async fn sink(folder: &Path, committed: Option<&[u8]>) -> Result<FileSink, Trouble> {
    sink_of("plant", folder, committed).await
}

async fn sink_of(app: &str, folder: &Path, committed: Option<&[u8]>) -> Result<FileSink, Trouble> {
    sink_with(app, folder, FileFormat::JsonLines, committed).await
}

async fn sink_with(
    app: &str,
    folder: &Path,
    format: FileFormat,
    committed: Option<&[u8]>,
) -> Result<FileSink, Trouble> {
    let path = folder.to_str().unwrap().to_owned();
    let settings = manifest::FileSink { path, format, rotate: Size::from_bytes(1 << 10), rotate_every: None };
    let work = format!("default/{app}/sink/out/0@hall").parse().unwrap();
    FileSink::open(&work, &settings, &offering(), committed).await
}

/// All rows of the files, in order, and how many files are whole.
fn written(folder: &Path) -> (Vec<u32>, usize) {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.file_name().unwrap().to_str().unwrap().starts_with("out-"));
    files.sort();
    let whole = files.iter().filter(|path| path.extension().unwrap() == "jsonl").count();
    let texts = files.iter().map(|path| std::fs::read_to_string(path).unwrap()).collect::<String>();
    let number = |line: &str| line.trim_start_matches("{\"n\":").trim_end_matches('}').parse().unwrap();
    (texts.lines().map(number).collect(), whole)
}

#[tokio::test]
async fn what_was_not_committed_is_written_once_more_and_stands_there_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut first = sink(folder.path(), None).await.unwrap();
    let begun = first.flush().await.unwrap().known;
    // What an older version has committed is read.
    let begun_before = Bytes::from_static(br#"{"version":1,"number":1,"length":0,"columns":[]}"#);
    let mut said: serde_json::Value = serde_json::from_slice(&begun).unwrap();
    assert_eq!(said.as_object_mut().unwrap().remove("path").unwrap(), folder.path().to_str().unwrap());
    assert_eq!(said, serde_json::from_slice::<serde_json::Value>(&begun_before).unwrap());
    first.write(&part(0..200)).await.unwrap();
    let committed = first.flush().await.unwrap().known;
    assert_eq!(written(folder.path()), ((0..200).collect(), 0), "no file is whole before a commit says so");
    assert!(sink(folder.path(), Some(&begun)).await.unwrap_err().0.contains("another sink of that name"));
    drop(first);

    // Killed before the commit: all of it comes again.
    let mut again = sink(folder.path(), Some(&begun_before)).await.unwrap();
    assert_eq!(written(folder.path()), (vec![], 0));
    again.write(&part(0..200)).await.unwrap();
    again.flush().await.unwrap();
    again.write(&part(200..300)).await.unwrap();
    again.flush().await.unwrap();
    drop(again);

    // Killed between two commits, before the whole files were named.
    let mut last = sink(folder.path(), Some(&committed)).await.unwrap();
    let (rows, whole) = written(folder.path());
    assert!(rows == (0..200).collect::<Vec<_>>() && whole == 1, "{whole} {rows:?}");
    last.write(&part(200..300)).await.unwrap();
    last.flush().await.unwrap();
    last.committed().await.unwrap();
    let (rows, whole) = written(folder.path());
    assert!(rows == (0..300).collect::<Vec<_>>() && whole == 2, "{whole} {rows:?}");
    drop(last);

    // That of another app is not let in, and changes nothing.
    assert!(sink_of("other", folder.path(), Some(&begun)).await.unwrap_err().0.contains("are of default/plant/sink"));
    assert_eq!(written(folder.path()).0, (0..300).collect::<Vec<_>>());

    // Another life of it keeps what is there, and so does one that knows of files in another folder.
    let elsewhere = r#"{"version":1,"number":1,"length":4000,"columns":[]}"#;
    drop(sink(folder.path(), Some(elsewhere.as_bytes())).await.unwrap());
    assert_eq!(written(folder.path()).0, (0..300).collect::<Vec<_>>());
    let mut other = sink(folder.path(), None).await.unwrap();
    other.write(&part(300..301)).await.unwrap();
    other.flush().await.unwrap();
    assert_eq!(written(folder.path()).0, (0..301).collect::<Vec<_>>());
    assert!(sink(folder.path(), Some(b"{}")).await.is_err());
}

#[tokio::test]
async fn another_format_closes_what_was_written_in_the_one_before() {
    let folder = tempfile::tempdir().unwrap();
    let mut first = sink(folder.path(), None).await.unwrap();
    first.flush().await.unwrap();
    first.write(&part(0..120)).await.unwrap();
    let committed = first.flush().await.unwrap().known;
    // These are not committed, and go on in a file of their own.
    first.write(&part(120..240)).await.unwrap();
    first.flush().await.unwrap();
    drop(first);
    let mut other = sink_with("plant", folder.path(), FileFormat::Csv, Some(&committed)).await.unwrap();
    assert_eq!(written(folder.path()), ((0..120).collect(), 2));
    other.write(&part(120..121)).await.unwrap();
    other.flush().await.unwrap();
    assert_eq!(std::fs::read_to_string(folder.path().join("out-00000003.csv.open")).unwrap(), "n\n120\n");
}

#[tokio::test]
async fn another_folder_closes_what_was_written_in_the_one_before() {
    let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut first = sink(folder.path(), None).await.unwrap();
    first.write(&part(0..50)).await.unwrap();
    let committed = first.flush().await.unwrap().known;
    first.write(&part(50..60)).await.unwrap();
    first.flush().await.unwrap();
    drop(first);
    // Twice, as if it were killed before it has committed something there.
    for _ in 0..2 {
        drop(sink(other.path(), Some(&committed)).await.unwrap());
        assert_eq!(written(folder.path()), ((0..50).collect(), 1), "what is not committed is not in it");
    }
    let mut next = sink(other.path(), Some(&committed)).await.unwrap();
    next.write(&part(50..60)).await.unwrap();
    next.flush().await.unwrap();
    assert_eq!(written(other.path()), ((50..60).collect(), 0));
    assert_eq!(std::fs::read_dir(other.path()).unwrap().count(), 2, "one file and the lock");
    // One that is gone keeps nobody waiting.
    let gone = folder.path().to_owned();
    drop(folder);
    assert!(!gone.exists());
    drop(next);
    sink(other.path(), Some(&committed)).await.unwrap();
}
