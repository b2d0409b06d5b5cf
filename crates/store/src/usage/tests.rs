//! The chain of usage records: torn, altered, foreign, too long, on disks that fail.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use super::*;
use crate::disk::RealDisk;
use crate::fake::FaultyDisk;

const SMALL: UsageLogOptions = UsageLogOptions { file_bytes: 600, files_max: 3 };

fn open(disk: &FaultyDisk, options: UsageLogOptions) -> UsageLog {
    UsageLog::open(Arc::new(disk.clone()), options).unwrap()
}

fn record(minute: i64) -> UsageRecord {
    let row =
        UsageRow { tenant: "default".into(), app: "a".into(), function: "f".into(), cpu_us: 7, ..UsageRow::default() };
    let (from_us, until_us) = (minute * 60_000_000, (minute + 1) * 60_000_000);
    UsageRecord { node: "n".into(), from_us, until_us, rows: vec![row], host_cpu_us: 3, ..UsageRecord::default() }
}

fn append(log: &UsageLog, minutes: std::ops::Range<i64>) {
    minutes.for_each(|minute| {
        log.append(record(minute)).unwrap();
    });
}

fn minutes(log: &UsageLog) -> Vec<i64> {
    log.read(0).unwrap().iter().map(|record| record.from_us / 60_000_000).collect()
}

#[test]
fn what_was_appended_is_read_in_order_also_after_a_new_start() {
    let folder = tempfile::tempdir().unwrap();
    let open = || UsageLog::open(Arc::new(RealDisk::open(folder.path()).unwrap()), UsageLogOptions::default()).unwrap();
    append(&open(), 0..5);
    let log = open();
    append(&log, 5..7);
    assert_eq!(minutes(&log), [0, 1, 2, 3, 4, 5, 6]);
    let last = log.read(6 * 60_000_000).unwrap();
    assert_eq!(last, [UsageRecord { sequence: 7, ..record(6) }]);
    let checked = log.check().unwrap();
    assert_eq!((checked.records, checked.first, checked.last, checked.problems), (7, Some(1), Some(7), Vec::new()));
}

#[test]
fn the_oldest_are_dropped_and_the_rest_is_still_a_chain() {
    let disk = FaultyDisk::new(1);
    let log = open(&disk, SMALL);
    append(&log, 0..50);
    assert!(disk.used() <= 3 * 600, "{} bytes", disk.used());
    let checked = log.check().unwrap();
    assert_eq!((checked.last, &checked.problems), (Some(50), &Vec::new()));
    assert_eq!(checked.first, Some(50 - checked.records + 1));
    assert!(checked.records >= 6, "{checked:?}");
    let kept = minutes(&open(&disk.reopen(), SMALL));
    assert_eq!(kept.len() as u64, checked.records);
    assert_eq!(kept.last(), Some(&49));
}

#[test]
fn a_torn_tail_is_cut_off_wherever_it_was_torn() {
    let whole = FaultyDisk::new(1);
    let log = open(&whole, UsageLogOptions::default());
    append(&log, 0..2);
    let end_of_two = whole.content(&name(1)).len();
    append(&log, 2..3);
    let bytes = whole.content(&name(1));
    for length in 0..bytes.len() {
        let disk = FaultyDisk::new(1);
        let file = disk.create(&name(1)).unwrap();
        write_all_at(file.as_ref(), &mut [std::io::IoSlice::new(&bytes[..length])], 0).unwrap();
        let log = open(&disk, UsageLogOptions::default());
        if length >= end_of_two {
            assert_eq!(minutes(&log), [0, 1], "{length} bytes");
        }
        append(&log, 9..10);
        assert_eq!(minutes(&log).last(), Some(&9), "{length} bytes");
        assert_eq!(log.check().unwrap().problems, Vec::<String>::new(), "{length} bytes");
    }
}

#[test]
fn each_flipped_bit_is_found_and_the_record_named() {
    let disk = FaultyDisk::new(1);
    append(&open(&disk, UsageLogOptions::default()), 0..3);
    let bytes = disk.content(&name(1));
    let (_, begin) = Header::decode(&bytes).unwrap();
    let starts: Vec<usize> = format::frames(&bytes, begin).0.iter().map(|found| found.at).collect();
    for byte in 0..bytes.len() {
        let disk = FaultyDisk::new(1);
        append(&open(&disk, UsageLogOptions::default()), 0..3);
        disk.flip(&name(1), byte, 3);
        if (8..12).contains(&byte) {
            // Another version is not read at all.
            assert!(matches!(UsageLog::open(Arc::new(disk), SMALL), Err(StoreError::Version { .. })), "byte {byte}");
            continue;
        }
        let log = open(&disk, UsageLogOptions::default());
        append(&log, 3..4);
        let problems = log.check().unwrap().problems;
        let damaged = starts.iter().filter(|start| **start <= byte).count();
        let wanted = if damaged == 0 { "cannot be read".to_owned() } else { format!("record {damaged} ") };
        assert!(problems.iter().any(|problem| problem.contains(&wanted)), "byte {byte}: {problems:?}, not {wanted}");
        assert_eq!(minutes(&log).last(), Some(&3), "byte {byte}");
    }
}

#[test]
fn a_record_that_was_rewritten_with_right_checksums_is_found_by_the_hash_in_the_next() {
    let disk = FaultyDisk::new(1);
    let log = open(&disk, UsageLogOptions::default());
    append(&log, 0..3);
    let bytes = disk.content(&name(1));
    let (_, begin) = Header::decode(&bytes).unwrap();
    let second = &format::frames(&bytes, begin).0[1];
    let (record, previous) = second.record.clone().unwrap();
    let cheaper = UsageRecord { rows: vec![UsageRow { cpu_us: 1, ..record.rows[0].clone() }], ..record };
    let (frame, _) = format::encode(&cheaper, &previous).unwrap();
    let file = disk.open(&name(1)).unwrap();
    write_all_at(file.as_ref(), &mut [std::io::IoSlice::new(&frame)], second.at as u64).unwrap();
    let problems = log.check().unwrap().problems;
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].starts_with("record 2 was altered"), "{problems:?}");
}

#[test]
fn a_file_of_another_chain_is_told() {
    let (disk, other) = (FaultyDisk::new(1), FaultyDisk::new(2));
    append(&open(&disk, SMALL), 0..10);
    append(&open(&other, SMALL), 100..110);
    let foreign = other.content(&name(2));
    assert!(!foreign.is_empty());
    let file = disk.create(&name(2)).unwrap();
    write_all_at(file.as_ref(), &mut [std::io::IoSlice::new(&foreign)], 0).unwrap();
    let problems = open(&disk, SMALL).check().unwrap().problems;
    assert!(problems.iter().any(|problem| problem.contains("usage-00000002 does not follow record")), "{problems:?}");
}

#[test]
fn after_a_failed_write_the_chain_goes_on_in_a_new_file() {
    let disk = FaultyDisk::new(1);
    let log = open(&disk, UsageLogOptions::default());
    append(&log, 0..2);
    disk.fail_syncs(1);
    assert!(log.append(record(2)).is_err());
    append(&log, 3..4);
    assert_eq!(minutes(&log), [0, 1, 3]);
    assert_eq!(log.check().unwrap().problems, Vec::<String>::new());
    let after_crash = open(&disk.crash(), UsageLogOptions::default());
    assert_eq!(minutes(&after_crash), [0, 1, 3], "what was acknowledged is kept");
    assert_eq!(after_crash.check().unwrap().problems, Vec::<String>::new());
}
