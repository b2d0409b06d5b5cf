//! Tests of [`super`] on a real disk.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::path::Path;

use super::*;
use crate::log::LogOptions;

fn app() -> AppId {
    AppId { tenant: "default".parse().unwrap(), app: "shop".parse().unwrap() }
}

fn bucket() -> BucketName {
    "carts".parse().unwrap()
}

fn open(folder: &Path) -> (Log, Buckets) {
    let log = Log::open(&folder.join("log"), LogOptions::small()).unwrap();
    let (derived, _) = Derived::open_or_discard(&folder.join("derived")).unwrap();
    (log.clone(), Buckets::new(log, derived))
}

fn set(key: &str, value: &str) -> (String, Option<Bytes>) {
    (key.to_owned(), Some(Bytes::copy_from_slice(value.as_bytes())))
}

async fn text(buckets: &Buckets, key: &str) -> Option<String> {
    let values = buckets.get(&app(), &bucket(), vec![key.to_owned()]).await.unwrap();
    values[0].as_ref().map(|value| String::from_utf8(value.to_vec()).unwrap())
}

#[tokio::test]
async fn values_are_changed_read_listed_and_there_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let (_, buckets) = open(folder.path());
    assert_eq!(text(&buckets, "a").await, None);
    buckets.change(&app(), &bucket(), vec![set("a", "1"), set("b", "2"), set("a", "3")]).await.unwrap();
    buckets.change(&app(), &bucket(), vec![("b".to_owned(), None), set("c", "4")]).await.unwrap();
    assert_eq!(buckets.increment(&app(), &bucket(), "n".to_owned(), 40).await.unwrap(), 40);
    for _ in 0..2 {
        assert_eq!(buckets.keys(&app(), &bucket(), 0).await.unwrap().keys, ["a", "c", "n"]);
    }
    assert_eq!(buckets.increment(&app(), &bucket(), "n".to_owned(), 2).await.unwrap(), 42);
    drop(buckets);
    let (_, buckets) = open(folder.path());
    assert_eq!(text(&buckets, "a").await.as_deref(), Some("3"));
    assert_eq!(text(&buckets, "b").await, None);
    assert_eq!(text(&buckets, "n").await.as_deref(), Some("42"));
    let other = buckets.keys(&app(), &"other".parse().unwrap(), 0).await.unwrap();
    assert_eq!(other, Keys::default(), "buckets do not share keys");
}

#[tokio::test]
async fn the_derived_state_can_be_lost_after_the_log_was_written_anew() {
    let folder = tempfile::tempdir().unwrap();
    let (log, buckets) = open(folder.path());
    let large = "x".repeat(64 << 10);
    for round in 0..60 {
        buckets.change(&app(), &bucket(), vec![set(&format!("k{}", round % 3), &large)]).await.unwrap();
        buckets.increment(&app(), &bucket(), "n".to_owned(), 1).await.unwrap();
    }
    let head = log.head("~bucket/default/shop/carts").unwrap();
    assert!(head.first > 1, "4 MiB of entries for 192 KiB of values were never written anew");
    drop((log, buckets));
    Derived::discard(&folder.path().join("derived")).unwrap();
    let (_, buckets) = open(folder.path());
    assert_eq!(text(&buckets, "n").await.as_deref(), Some("60"));
    assert_eq!(text(&buckets, "k2").await, Some(large));
    assert_eq!(buckets.increment(&app(), &bucket(), "n".to_owned(), 1).await.unwrap(), 61);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn increments_at_the_same_time_are_all_counted() {
    let folder = tempfile::tempdir().unwrap();
    let (_, buckets) = open(folder.path());
    let buckets = Arc::new(buckets);
    let adding = (0..8).map(|_| {
        let buckets = Arc::clone(&buckets);
        tokio::spawn(async move {
            for _ in 0..25 {
                buckets.increment(&app(), &bucket(), "n".to_owned(), 1).await.unwrap();
            }
        })
    });
    for adding in adding.collect::<Vec<_>>() {
        adding.await.unwrap();
    }
    assert_eq!(text(&buckets, "n").await.as_deref(), Some("200"));
}

#[tokio::test]
async fn what_does_not_fit_or_is_no_number_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (_, buckets) = open(folder.path());
    let refused = buckets.increment(&app(), &bucket(), "n".to_owned(), u64::MAX).await.unwrap();
    assert_eq!(refused, u64::MAX);
    let error = buckets.increment(&app(), &bucket(), "n".to_owned(), 1).await.unwrap_err();
    assert!(matches!(error, BucketError::Overflow { .. }), "{error}");
    buckets.change(&app(), &bucket(), vec![set("n", "many")]).await.unwrap();
    let error = buckets.increment(&app(), &bucket(), "n".to_owned(), 1).await.unwrap_err();
    assert!(matches!(error, BucketError::NotANumber { .. }), "{error}");
    for part in 0..BUCKET_KEYS_MAX / 10_000 {
        let keys = (0..10_000).map(|key| set(&format!("{part}-{key}"), ""));
        let filled = buckets.change(&app(), &bucket(), keys.collect()).await;
        // One key is there already.
        assert_eq!(filled.is_err(), part == 9, "{filled:?}");
    }
    assert_eq!(text(&buckets, "n").await.as_deref(), Some("many"));
    let first = buckets.keys(&app(), &bucket(), 0).await.unwrap();
    assert_eq!((first.keys.len(), first.next), (KEYS_LISTED_MAX, Some(KEYS_LISTED_MAX as u64)));
    let last = buckets.keys(&app(), &bucket(), 90_000).await.unwrap();
    assert_eq!((last.keys, last.next), (vec!["n".to_owned()], None));
}

#[tokio::test]
async fn what_is_forgotten_stays_so_and_can_begin_anew() {
    let folder = tempfile::tempdir().unwrap();
    let (_, buckets) = open(folder.path());
    let other = AppId { tenant: "default".parse().unwrap(), app: "shop-2".parse().unwrap() };
    for app in [&app(), &other] {
        buckets.change(app, &bucket(), vec![set("a", "1")]).await.unwrap();
        buckets.keys(app, &bucket(), 0).await.unwrap();
    }
    assert_eq!(buckets.apps().into_iter().collect::<Vec<_>>(), ["default/shop", "default/shop-2"]);
    let used = buckets.bucket(&app(), &bucket()).await.unwrap();
    buckets.forget(&app()).await.unwrap();
    let error = used.change(vec![set("late", "1")]).await.unwrap_err();
    assert_eq!(error, BucketError::Forgotten);
    drop(used);
    assert_eq!(text(&buckets, "a").await, None);
    buckets.change(&app(), &bucket(), vec![set("b", "2")]).await.unwrap();
    drop(buckets);
    let (_, buckets) = open(folder.path());
    assert_eq!((text(&buckets, "a").await, text(&buckets, "b").await.as_deref()), (None, Some("2")));
    assert_eq!(buckets.keys(&other, &bucket(), 0).await.unwrap().keys, ["a"]);
}

#[test]
fn entries_of_version_1_are_read() {
    let changes: Changes = vec![set("a", "1"), ("b".to_owned(), None)];
    let bytes = [1, 2, 1, b'a', 1, 1, b'1', 1, b'b', 0];
    // Version 2 changed other messages only.
    let mut written = bytes;
    written[0] = littoral_model::wire::PROTOCOL_VERSION;
    assert_eq!(littoral_model::wire::encode(&changes).unwrap(), written.as_slice());
    assert_eq!(littoral_model::wire::decode::<Changes>(&bytes).unwrap(), changes);
}
