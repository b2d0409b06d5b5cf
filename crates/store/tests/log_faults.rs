//! The log on a disk that is full, fails, or forgets.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures::executor::block_on;
use littoral_model::id::Epoch;
use littoral_store::fake::FaultyDisk;
use littoral_store::{Log, LogOptions, StoreError};

const WORK: &str = "default/app/stream/readings/0@hall-7";
const SEGMENT: &str = "0000000001.log";

fn open(disk: &FaultyDisk) -> Result<Log, StoreError> {
    Log::open_on(Arc::new(disk.clone()), LogOptions { segment_bytes: 4096, cache_bytes: 0 })
}

fn append(log: &Log, text: &str) -> Result<(), StoreError> {
    block_on(log.append(WORK, Epoch(1), vec![Bytes::from(text.to_owned())])?.durable())
}

fn all(log: &Log) -> Result<Vec<String>, StoreError> {
    let first = log.head(WORK).map_or(1, |head| head.first);
    let entries = log.read(WORK, first, usize::MAX)?;
    Ok(entries.into_iter().map(|entry| String::from_utf8(entry.payload.to_vec()).unwrap()).collect())
}

#[test]
fn a_full_disk_refuses_loses_nothing_and_goes_on_when_there_is_space() {
    let disk = FaultyDisk::new(1);
    disk.set_capacity(4 * 4096);
    let log = open(&disk).unwrap();
    let mut written = Vec::new();
    let refused = loop {
        let text = format!("{:0>400}", written.len());
        match append(&log, &text) {
            Ok(()) => written.push(text),
            Err(error) => break error,
        }
    };
    assert_eq!(refused, StoreError::Full { dir: "/faulty/".into(), needed: 4096 });
    assert!(log.stats().full);
    assert_eq!(all(&log).unwrap(), written);
    // A node starts on a full disk.
    drop(log);
    let disk = disk.crash();
    let log = open(&disk).unwrap();
    assert_eq!(all(&log).unwrap(), written);
    assert!(matches!(append(&log, "x"), Err(StoreError::Full { .. })));
    // Forgetting makes space, although that, too, has to be written.
    log.trim(WORK, written.len() as u64).unwrap();
    block_on(async {
        let payload = Bytes::from_static(b"more");
        log.append_wait(WORK, Epoch(1), vec![payload]).await.unwrap().durable().await.unwrap();
    });
    assert_eq!(all(&log).unwrap(), [written.last().unwrap().as_str(), "more"]);
    // So does someone else who frees some.
    while append(&log, &"y".repeat(400)).is_ok() {}
    disk.set_capacity(u64::MAX);
    let last = block_on(log.append_wait(WORK, Epoch(1), vec![Bytes::from_static(b"last")])).unwrap();
    block_on(last.durable()).unwrap();
    drop(log);
    let found = all(&open(&disk.crash()).unwrap()).unwrap();
    assert_eq!(found.last().unwrap(), "last");
}

#[test]
fn after_a_failed_sync_the_segment_is_sealed_and_nothing_is_lost() {
    for write in [false, true] {
        let disk = FaultyDisk::new(2);
        let log = open(&disk).unwrap();
        append(&log, "before").unwrap();
        if write {
            disk.fail_writes(1);
        } else {
            disk.fail_syncs(1);
        }
        append(&log, "during").unwrap();
        append(&log, "after").unwrap();
        assert!(!disk.content("0000000002.log").is_empty());
        drop(log);
        assert_eq!(all(&open(&disk.crash()).unwrap()).unwrap(), ["before", "during", "after"]);
    }
}

#[test]
fn after_a_second_failure_the_log_says_so_and_keeps_what_it_acknowledged() {
    let disk = FaultyDisk::new(3);
    let log = open(&disk).unwrap();
    append(&log, "before").unwrap();
    disk.fail_syncs(2);
    let failed = append(&log, "during").unwrap_err();
    assert!(matches!(failed, StoreError::Failed { .. }), "{failed}");
    assert!(matches!(append(&log, "after"), Err(StoreError::Failed { .. })));
    assert!(matches!(log.trim(WORK, 2), Err(StoreError::Failed { .. })));
    assert!(matches!(log.close(), Err(StoreError::Failed { .. })));
    assert!(log.stats().failed.is_some());
    assert_eq!(all(&log).unwrap()[0], "before", "reading goes on");
    drop(log);
    assert_eq!(all(&open(&disk.crash()).unwrap()).unwrap()[0], "before");
}

#[test]
fn a_flipped_bit_is_reported_or_harmless_wherever_it_is() {
    let texts: Vec<String> = (0..6).map(|number| format!("{number} {}", "z".repeat(number * 31))).collect();
    let make = || {
        let disk = FaultyDisk::new(4);
        let log = open(&disk).unwrap();
        for text in &texts {
            append(&log, text).unwrap();
        }
        log.trim(WORK, 2).unwrap();
        log.close().unwrap();
        disk
    };
    let length = make().content(SEGMENT).iter().rposition(|byte| *byte != 0).unwrap() + 64;
    let mut reported = 0;
    for byte in 0..length {
        let disk = make();
        disk.flip(SEGMENT, byte, (byte % 8) as u8);
        match open(&disk) {
            Ok(log) => assert_eq!(all(&log).unwrap(), texts[1..], "byte {byte}"),
            Err(StoreError::Corrupt { file, offset, .. }) => {
                assert_eq!(file, Path::new("/faulty").join(SEGMENT));
                assert!(offset <= byte as u64);
                reported += 1;
            }
            Err(StoreError::Version { .. }) => reported += 1,
            Err(error) => panic!("byte {byte}: {error}"),
        }
    }
    assert!(reported > length / 2, "{reported} of {length}");
}

#[test]
fn a_bit_that_flips_while_the_log_is_open_is_found_when_read() {
    let disk = FaultyDisk::new(5);
    let log = open(&disk).unwrap();
    for text in ["one", "two", "three"] {
        append(&log, text).unwrap();
    }
    let at = disk.content(SEGMENT).windows(3).position(|window| window == b"two").unwrap();
    disk.flip(SEGMENT, at, 3);
    let error = log.read(WORK, 2, 1).unwrap_err();
    let StoreError::Corrupt { file, offset, .. } = error else { panic!("{error}") };
    assert_eq!((file.as_path(), offset), (Path::new("/faulty/0000000001.log"), at as u64 - 40));
    assert_eq!(log.read(WORK, 3, 1).unwrap()[0].payload, "three");
}

#[test]
fn a_segment_that_is_gone_is_reported() {
    let disk = FaultyDisk::new(6);
    let log = open(&disk).unwrap();
    for _ in 0..40 {
        append(&log, &"w".repeat(500)).unwrap();
    }
    drop(log);
    littoral_store::disk::Disk::remove(&disk, "0000000002.log").unwrap();
    let error = open(&disk).unwrap_err();
    assert!(error.to_string().contains("0000000002.log, is missing"), "{error}");
    let disk = FaultyDisk::new(7);
    let log = open(&disk).unwrap();
    for _ in 0..40 {
        append(&log, &"w".repeat(500)).unwrap();
    }
    drop(log);
    littoral_store::disk::Disk::remove(&disk, SEGMENT).unwrap();
    let error = open(&disk).unwrap_err();
    assert!(error.to_string().contains("entry 1 of default/app/stream/readings/0@hall-7 is missing"), "{error}");
}

#[test]
fn a_newer_format_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    drop(Log::open(dir.path(), LogOptions::small()).unwrap());
    let path = dir.path().join(SEGMENT);
    let mut content = std::fs::read(&path).unwrap();
    content[8] = 9;
    let crc = crc32c::crc32c(&content[..16]);
    content[16..20].copy_from_slice(&crc.to_le_bytes());
    std::fs::write(&path, content).unwrap();
    let error = Log::open(dir.path(), LogOptions::small()).unwrap_err();
    assert_eq!(error, StoreError::Version { file: path, version: 9, max: 1 });
}

#[test]
fn too_much_that_waits_is_refused_until_it_is_written() {
    let disk = FaultyDisk::new(8);
    let log = open(&disk).unwrap();
    let payload = Bytes::from(vec![b'v'; 700]);
    let mut appends = Vec::new();
    let mut refused = 0;
    for _ in 0..1000 {
        match log.append(WORK, Epoch(1), vec![payload.clone()]) {
            Ok(append) => appends.push(append),
            Err(StoreError::Busy { waiting }) => {
                assert!(waiting > 0);
                refused += 1;
                let append = block_on(log.append_wait(WORK, Epoch(1), vec![payload.clone()])).unwrap();
                appends.push(append);
            }
            Err(error) => panic!("{error}"),
        }
        assert!(log.stats().backlog_bytes < 4096);
    }
    assert!(refused > 0);
    for append in appends {
        block_on(append.durable()).unwrap();
    }
    assert_eq!(log.stats().backlog_bytes, 0);
    assert_eq!(log.head(WORK).unwrap().durable, 1000);
}
