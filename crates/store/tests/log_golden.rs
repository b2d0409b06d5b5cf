//! A data directory of each format version is kept and must stay readable. `LITTORAL_BLESS=1` writes it anew: only
//! for a new format version, beside the old one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures::executor::block_on;
use littoral_model::id::Epoch;
use littoral_store::{Head, Log, LogOptions};

const STREAM: &str = "default/health/stream/readings/0@hall-7";
const STAGE: &str = "default/health/stage/health.0/0@hall-7";

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/log-v1")
}

fn options() -> LogOptions {
    LogOptions { segment_bytes: 4096, cache_bytes: 0 }
}

fn text(number: u64) -> Bytes {
    Bytes::from(format!("record {number} {}", "-".repeat(number as usize * 10)))
}

fn write(dir: &Path) {
    let log = Log::open(dir, options()).unwrap();
    let now = |append: littoral_store::Append| block_on(append.durable()).unwrap();
    now(log.append(STAGE, Epoch(4), vec![Bytes::from_static(b"one"), Bytes::from_static(b"two")]).unwrap());
    now(log.truncate(STAGE, 2).unwrap());
    for number in 1..=40 {
        now(log.append(STREAM, Epoch(1 + number / 10), vec![text(number)]).unwrap());
    }
    log.trim(STREAM, 20).unwrap();
    now(log.reset("~raft/hall-7", 100, Epoch(6)).unwrap());
    now(log.append("~intent", Epoch(0), vec![Bytes::new()]).unwrap());
    now(log.drop_work("~intent").unwrap());
    log.close().unwrap();
}

#[test]
fn a_directory_of_version_1_is_read() {
    let kept = golden();
    if std::env::var_os("LITTORAL_BLESS").is_some() {
        let _ = std::fs::remove_dir_all(&kept);
        write(&kept);
        for name in ["spare.tmp", "lock"] {
            std::fs::remove_file(kept.join(name)).unwrap();
        }
    }
    let dir = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(&kept).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), dir.path().join(file.file_name())).unwrap();
    }
    let log = Log::open(dir.path(), options()).unwrap();
    assert_eq!(log.head(STREAM), Some(Head { first: 20, next: 41, last_epoch: Epoch(5), durable: 40 }));
    for entry in log.read(STREAM, 20, usize::MAX).unwrap() {
        assert_eq!((entry.payload, entry.epoch), (text(entry.index), Epoch(1 + entry.index / 10)));
    }
    assert_eq!(log.epoch_at(STREAM, 19), Some(Epoch(2)));
    assert_eq!(log.head(STAGE), Some(Head { first: 1, next: 2, last_epoch: Epoch(4), durable: 1 }));
    assert_eq!(log.read(STAGE, 1, 10).unwrap()[0].payload, "one");
    assert_eq!(log.head("~raft/hall-7").unwrap().next, 100);
    assert_eq!(log.head("~intent"), None);
    block_on(log.append(STREAM, Epoch(5), vec![text(41)]).unwrap().durable()).unwrap();
}
