//! The derived state: all or nothing, repeats skipped, a damaged file built anew.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::os::unix::fs::FileExt;

use bytes::Bytes;
use littoral_model::id::Epoch;
use littoral_store::{Applied, Derived, StoreError};

fn applied(work: &str, index: u64, changes: &[(&str, Option<&str>)]) -> Applied {
    let bytes = |text: &str| Bytes::from(text.to_owned());
    let changes = changes.iter().map(|(key, value)| (bytes(key), value.map(bytes))).collect();
    Applied { work: work.to_owned(), index, epoch: Epoch(2), changes }
}

fn rows(rows: &[(&str, &str)]) -> Vec<(Bytes, Bytes)> {
    rows.iter().map(|(key, value)| (Bytes::from((*key).to_owned()), Bytes::from((*value).to_owned()))).collect()
}

#[test]
fn changes_are_applied_once_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    let derived = Derived::open(dir.path()).unwrap();
    assert_eq!(derived.applied("a").unwrap(), 0);
    let batch = [
        applied("a", 3, &[("x", Some("1")), ("y", Some("2"))]),
        applied("ab", 1, &[("x", Some("other"))]),
        applied("a", 4, &[("y", None), ("z", Some("3"))]),
        applied("a", 4, &[("x", Some("a repeat"))]),
    ];
    derived.apply(&batch).unwrap();
    derived.apply(&batch).unwrap();
    drop(derived);
    let derived = Derived::open(dir.path()).unwrap();
    assert_eq!(derived.load_at("a").unwrap(), ((4, Epoch(2)), rows(&[("x", "1"), ("z", "3")])));
    assert_eq!(derived.get("a", b"z").unwrap().unwrap(), "3");
    assert_eq!(derived.get("a", b"y").unwrap(), None);
    assert_eq!(derived.applied_at("ab").unwrap(), Some((1, Epoch(2))));
    assert_eq!(derived.works().unwrap(), ["a", "ab"]);
    derived.install("a", 10, Epoch(5), &rows(&[("new", "n")])).unwrap();
    assert_eq!(derived.load_at("a").unwrap(), ((10, Epoch(5)), rows(&[("new", "n")])));
    derived.drop_work("a").unwrap();
    assert_eq!(derived.load("a").unwrap(), []);
    assert_eq!(derived.load("ab").unwrap(), rows(&[("x", "other")]));
    assert_eq!(derived.works().unwrap(), ["ab"]);
}

#[test]
fn a_damaged_file_is_told_and_can_be_built_anew() {
    // At the beginning, within the pages, cut off, and something else altogether.
    let damages: [fn(&std::fs::File); 4] = [
        |file| file.write_all_at(&[0xff; 64], 0).unwrap(),
        |file| file.write_all_at(&[0xff; 1 << 16], 4096).unwrap(),
        |file| file.set_len(5000).unwrap(),
        |file| {
            file.set_len(0).unwrap();
            file.write_all_at(b"not a database at all", 0).unwrap();
        },
    ];
    for (number, damage) in damages.into_iter().enumerate() {
        let dir = tempfile::tempdir().unwrap();
        let derived = Derived::open(dir.path()).unwrap();
        derived.apply(&[applied("a", 1, &[("x", Some("1"))])]).unwrap();
        drop(derived);
        let path = dir.path().join("derived.redb");
        damage(&std::fs::File::options().write(true).open(&path).unwrap());
        let error = Derived::open(dir.path()).map(|derived| derived.load_at("a")).unwrap_err();
        assert!(matches!(error, StoreError::DerivedCorrupt { .. }), "damage {number}: {error}");
        let (derived, discarded) = Derived::open_or_discard(dir.path()).unwrap();
        assert!(discarded);
        assert_eq!(derived.applied("a").unwrap(), 0);
        derived.apply(&[applied("a", 1, &[("x", Some("1"))])]).unwrap();
        assert_eq!(derived.load("a").unwrap(), rows(&[("x", "1")]));
    }
}

#[test]
fn only_one_opens_it() {
    let dir = tempfile::tempdir().unwrap();
    let derived = Derived::open(dir.path()).unwrap();
    assert!(matches!(Derived::open(dir.path()).unwrap_err(), StoreError::Locked { .. }));
    drop(derived);
    let (_, discarded) = Derived::open_or_discard(dir.path()).unwrap();
    assert!(!discarded);
}
