//! The log on a real disk: places, reading, forgetting, restarting, giving up segments.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use bytes::Bytes;
use futures::executor::block_on;
use littoral_model::entry::Entry;
use littoral_model::id::Epoch;
use littoral_store::{Head, Log, LogOptions, StoreError};

const WORK: &str = "default/app/stream/readings/0@hall-7";

fn tiny() -> LogOptions {
    LogOptions { segment_bytes: 4096, cache_bytes: 512 }
}

fn bytes(text: impl ToString) -> Bytes {
    Bytes::from(text.to_string())
}

fn append(log: &Log, work: &str, epoch: u64, payload: impl ToString) -> u64 {
    let append = block_on(log.append_wait(work, Epoch(epoch), vec![bytes(payload)])).unwrap();
    let index = append.first;
    block_on(append.durable()).unwrap();
    index
}

fn texts(entries: &[Entry]) -> Vec<String> {
    entries.iter().map(|entry| String::from_utf8(entry.payload.to_vec()).unwrap()).collect()
}

#[test]
fn entries_get_their_places_at_once_and_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path(), LogOptions::small()).unwrap();
    assert_eq!(log.head(WORK), None);
    let first = log.append(WORK, Epoch(1), vec![bytes("a"), bytes("b")]).unwrap();
    let second = log.append(WORK, Epoch(2), vec![bytes("c")]).unwrap();
    assert_eq!((first.first, first.last, second.first, second.last), (1, 2, 3, 3));
    assert_eq!(texts(&log.read(WORK, 1, 1000).unwrap()), ["a", "b", "c"]);
    block_on(second.durable()).unwrap();
    let head = Head { first: 1, next: 4, last_epoch: Epoch(2), durable: 3 };
    assert_eq!(log.head(WORK), Some(head));
    drop(log);
    let log = Log::open(dir.path(), LogOptions::small()).unwrap();
    assert_eq!(log.head(WORK), Some(head));
    assert_eq!(texts(&log.read(WORK, 2, 1000).unwrap()), ["b", "c"]);
    assert_eq!(log.epoch_at(WORK, 0), Some(Epoch(0)));
    assert_eq!((log.epoch_at(WORK, 2), log.epoch_at(WORK, 3)), (Some(Epoch(1)), Some(Epoch(2))));
    assert_eq!(log.epoch_at(WORK, 4), None);
}

#[test]
fn reading_stops_at_the_bound_but_gives_one_entry_at_least() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path(), tiny()).unwrap();
    for number in 0..100 {
        append(&log, WORK, 1, format!("{number:0>300}"));
    }
    // From disk, across segments, and from memory.
    for from in [1, 50, 98] {
        let entries = log.read(WORK, from, 900).unwrap();
        assert_eq!(entries.iter().map(|entry| entry.index).collect::<Vec<_>>(), [from, from + 1, from + 2]);
        assert_eq!(texts(&entries)[0], format!("{:0>300}", from - 1));
        assert_eq!(log.read(WORK, from, 0).unwrap().len(), 1);
    }
    assert_eq!(log.read(WORK, 1, usize::MAX).unwrap().len(), 100);
    assert!(log.read(WORK, 101, 900).unwrap().is_empty());
    assert!(log.read("nobody", 1, 900).unwrap().is_empty());
}

#[test]
fn writers_of_a_lower_epoch_and_entries_out_of_order_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path(), LogOptions::small()).unwrap();
    append(&log, WORK, 5, "a");
    let fenced = log.append(WORK, Epoch(4), vec![bytes("b")]).unwrap_err();
    assert_eq!(fenced, StoreError::Fenced { work: WORK.to_owned(), epoch: Epoch(4), last: Epoch(5) });
    let entry = |index, epoch| Entry { index, epoch: Epoch(epoch), payload: bytes("x") };
    let gap = log.append_at(WORK, vec![entry(3, 5)]).unwrap_err();
    assert_eq!(gap, StoreError::OutOfOrder { work: WORK.to_owned(), expected: 2, got: 3 });
    assert!(matches!(log.append_at(WORK, vec![entry(2, 5), entry(4, 5)]), Err(StoreError::OutOfOrder { .. })));
    assert!(matches!(log.append_at(WORK, vec![entry(2, 6), entry(3, 5)]), Err(StoreError::Fenced { .. })));
    let large = Bytes::from(vec![0; 1 << 20]);
    assert!(matches!(log.append(WORK, Epoch(5), vec![large]), Err(StoreError::TooLarge { .. })));
    assert!(matches!(log.append("", Epoch(5), vec![bytes("x")]), Err(StoreError::InvalidWork { .. })));
    block_on(log.append_at(WORK, vec![entry(2, 5), entry(3, 6)]).unwrap().durable()).unwrap();
    assert_eq!(log.head(WORK).unwrap().durable, 3);
}

#[test]
fn what_is_forgotten_stays_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path(), tiny()).unwrap();
    for epoch in 1..=9 {
        append(&log, WORK, epoch, epoch);
        append(&log, "~intent", 1, epoch);
    }
    block_on(log.truncate(WORK, 8).unwrap().durable()).unwrap();
    log.trim(WORK, 4).unwrap();
    block_on(log.reset("~raft/hall-7", 40, Epoch(3)).unwrap().durable()).unwrap();
    block_on(log.drop_work("~intent").unwrap().durable()).unwrap();
    let check = |log: &Log| {
        assert_eq!(log.head(WORK), Some(Head { first: 4, next: 8, last_epoch: Epoch(7), durable: 7 }));
        assert_eq!(texts(&log.read(WORK, 4, 1000).unwrap()), ["4", "5", "6", "7"]);
        assert_eq!(log.epoch_at(WORK, 3), Some(Epoch(3)));
        assert_eq!(log.epoch_at(WORK, 2), None);
        let trimmed = log.read(WORK, 3, 1000).unwrap_err();
        assert_eq!(trimmed, StoreError::Trimmed { work: WORK.to_owned(), first: 4 });
        assert!(matches!(log.truncate(WORK, 3), Err(StoreError::Trimmed { .. })));
        assert_eq!(log.head("~raft/hall-7"), Some(Head { first: 40, next: 40, last_epoch: Epoch(3), durable: 39 }));
        assert_eq!(log.epoch_at("~raft/hall-7", 39), Some(Epoch(3)));
        assert_eq!(log.head("~intent"), None);
        let mut works = log.works();
        works.sort();
        assert_eq!(works, [WORK, "~raft/hall-7"]);
    };
    check(&log);
    log.close().unwrap();
    assert_eq!(log.append(WORK, Epoch(9), vec![bytes("x")]).unwrap_err(), StoreError::Closed);
    drop(log);
    let log = Log::open(dir.path(), tiny()).unwrap();
    check(&log);
    assert_eq!(append(&log, WORK, 9, "new"), 8);
    assert_eq!(append(&log, "~raft/hall-7", 3, "new"), 40);
    assert_eq!(append(&log, "~intent", 1, "new"), 1);
}

#[test]
fn a_directory_belongs_to_one_log() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path(), LogOptions::small()).unwrap();
    let error = Log::open(dir.path(), LogOptions::small()).unwrap_err();
    assert_eq!(error, StoreError::Locked { dir: dir.path().to_owned() });
    drop(log);
    Log::open(dir.path(), LogOptions::small()).unwrap();
}

#[test]
fn old_segments_are_given_up_although_a_few_entries_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path(), tiny()).unwrap();
    // Some that are held for ever, at the beginning and in between, and one that has nothing but its place.
    block_on(log.reset("~empty", 77, Epoch(7)).unwrap().durable()).unwrap();
    append(&log, "~intent", 3, "held");
    for number in 1..=2000_u64 {
        let index = append(&log, WORK, 1, format!("{number:0>200}"));
        assert_eq!(index, number);
        if number % 500 == 0 {
            append(&log, "~intent", 4, format!("held {number}"));
        }
        if number > 20 {
            log.trim(WORK, number - 20).unwrap();
        }
    }
    let check = |log: &Log| {
        let held = log.read("~intent", 1, 1000).unwrap();
        assert_eq!(texts(&held), ["held", "held 500", "held 1000", "held 1500", "held 2000"]);
        assert_eq!(held[0].epoch, Epoch(3));
        assert_eq!(log.epoch_at("~intent", 2), Some(Epoch(4)));
        assert_eq!(log.read(WORK, 1990, usize::MAX).unwrap().len(), 11);
        assert_eq!(log.head("~empty").unwrap().next, 77);
    };
    check(&log);
    // Closed, so that no segment is given up between the two counts.
    log.close().unwrap();
    let stats = log.stats();
    assert!(stats.segments <= 10, "{stats:?}");
    assert_eq!(stats.segments + 2, std::fs::read_dir(dir.path()).unwrap().count(), "beside them a spare and a lock");
    assert_eq!(stats.appends, 2005);
    drop(log);
    check(&Log::open(dir.path(), tiny()).unwrap());
}

#[test]
fn many_writers_share_syncs() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path(), LogOptions::small()).unwrap();
    let writers: Vec<_> = (0..8)
        .map(|writer| {
            let log = log.clone();
            std::thread::spawn(move || {
                let work = format!("~writer/{writer}");
                let appends: Vec<_> = (0..200)
                    .map(|number| block_on(log.append_wait(&work, Epoch(1), vec![bytes(number)])).unwrap())
                    .collect();
                for append in appends {
                    block_on(append.durable()).unwrap();
                }
            })
        })
        .collect();
    for writer in writers {
        writer.join().unwrap();
    }
    let stats = log.stats();
    assert_eq!(stats.appends, 1600);
    assert!(stats.syncs < 1600, "{stats:?}");
    drop(log);
    let log = Log::open(dir.path(), LogOptions::small()).unwrap();
    for writer in 0..8 {
        let entries = log.read(&format!("~writer/{writer}"), 1, usize::MAX).unwrap();
        assert_eq!(texts(&entries), (0..200).map(|number| number.to_string()).collect::<Vec<_>>());
    }
}
