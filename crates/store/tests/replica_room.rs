//! A work with a limit: what makes room, what waits for it, and what is turned down.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod replica_common;

use std::pin::pin;

use littoral_model::id::Epoch;
use littoral_model::wire::{FetchReply, PublishReply};
use littoral_model::work::WorkId;
use littoral_store::replica::{Ack, Retention, WorkConfig, Works};
use replica_common::*;

/// What the work may take of the disk.
const LIMIT: u64 = 64 << 10;
/// How long a record is.
const RECORD: usize = 4 << 10;

fn consumer() -> WorkId {
    "default/app/stage/f.0/0@hall".parse().unwrap()
}

fn limited(consumers: Vec<WorkId>) -> WorkConfig {
    let retention = Some(Retention::default());
    WorkConfig { ack: Ack::Local, retention, bytes_max: Some(LIMIT), consumers }
}

fn record(number: u64) -> String {
    format!("{number} {}", "x".repeat(RECORD))
}

/// Publishes from a number on until there is no room; the number of the first record that there was none for.
async fn fill(works: &Works, from: u64) -> u64 {
    for number in from.. {
        match in_time(works.publish(publication(&record(number), number))).await {
            PublishReply::Stored { .. } => {}
            PublishReply::Full(reason) => {
                assert!(reason.contains("has not read the oldest"), "{reason}");
                return number;
            }
            other => panic!("{other:?}"),
        }
    }
    unreachable!()
}

/// Reads as the consumer does that has everything before `committed`.
async fn read(works: &Works, committed: u64) -> FetchReply {
    let mut request = fetching(committed, 0);
    (request.consumer, request.committed.index) = (Some(consumer()), committed);
    in_time(works.fetch(request)).await
}

fn held_bytes(cluster: &Cluster) -> u64 {
    cluster.held("a").iter().map(|text| text.len() as u64).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_read_stays_and_publications_are_turned_down() {
    let cluster = Cluster::new(&["a"]).await;
    cluster.create("a", &["a"]).await;
    let works = cluster.works("a");
    works.configure(&work(), limited(vec![consumer()]));
    let refused = fill(&works, 1).await;
    assert!(refused > 10, "there is room for {refused}");
    assert!(held_bytes(&cluster) <= LIMIT);
    assert_eq!(fill(&works, refused).await, refused, "it stays so");
    let again = in_time(works.publish(publication(&record(refused - 1), refused - 1))).await;
    assert!(matches!(again, PublishReply::Stored { repeated: true, .. }), "what is stored is told so: {again:?}");
    assert_eq!(works.standings()[0].first, 1);
    assert!(matches!(read(&works, 1).await, FetchReply::Rows { .. }));
    // Half is read: there is room for as much, and no more.
    read(&works, 6).await;
    let again = fill(&works, refused).await;
    assert_eq!(again, refused + 5);
    let all: Vec<String> = (6..again).map(record).collect();
    let texts: Vec<String> = read_all(&works).await.into_iter().map(|(_, text)| text).collect();
    assert_eq!(texts, all);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_oldest_make_room_where_nobody_reads_also_across_restarts() {
    let mut cluster = Cluster::new(&["a"]).await;
    cluster.create("a", &["a"]).await;
    for life in 0..4 {
        let works = cluster.works("a");
        works.configure(&work(), limited(Vec::new()));
        in_time(works.lead(&work())).await.unwrap();
        for number in 10 * life + 1..=10 * life + 10 {
            publish(&works, &record(number), number).await;
            assert!(held_bytes(&cluster) <= LIMIT);
        }
        drop(works);
        cluster.stop("a");
        cluster.start("a").await;
        cluster.tell();
    }
    let held = cluster.held("a");
    assert!(held_bytes(&cluster) > LIMIT / 16 * 13, "only {} are held", held.len());
    assert_eq!(held.last(), Some(&record(40)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_node_appends_itself_waits_for_room() {
    let cluster = Cluster::new(&["a"]).await;
    cluster.create("a", &["a"]).await;
    let works = cluster.works("a");
    works.configure(&work(), WorkConfig { retention: None, ..limited(vec![consumer()]) });
    let refused = fill(&works, 1).await;
    let owned = in_time(works.lead(&work())).await.unwrap();
    assert_eq!(owned.epoch(), Epoch(1));
    let mut appending = pin!(owned.append(commit(&record(refused))));
    for _ in 0..3 {
        tokio::select! {
            biased;
            done = &mut appending => panic!("it did not wait: {done:?}"),
            reply = read(&works, 1) => assert!(matches!(reply, FetchReply::Rows { .. })),
        }
    }
    let (_, appended) = tokio::join!(read(&works, 4), in_time(appending));
    assert_eq!(in_time(appended.unwrap()).await, Ok(refused));
    // A limit that is raised is room, too.
    let more = WorkConfig { bytes_max: Some(2 * LIMIT), ..limited(vec![consumer()]) };
    let full = fill(&works, refused + 1).await;
    works.configure(&work(), more);
    assert!(fill(&works, full).await > full + 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_larger_than_the_limit_is_taken_alone() {
    let cluster = Cluster::new(&["a"]).await;
    cluster.create("a", &["a"]).await;
    let works = cluster.works("a");
    works.configure(&work(), limited(vec![consumer()]));
    let large = "l".repeat(2 * usize::try_from(LIMIT).unwrap());
    publish(&works, &large, 1).await;
    assert!(matches!(in_time(works.publish(publication("small", 2))).await, PublishReply::Full(_)));
    read(&works, 2).await;
    publish(&works, "small", 2).await;
}
