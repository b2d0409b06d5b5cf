//! Who is waited for: replicas that fall silent, come back, are far behind, or have lost their disk.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod replica_common;

use littoral_model::entry::Position;
use littoral_model::id::Epoch;
use littoral_model::wire::{FetchReply, FetchRequest};
use littoral_store::replica::{Ack, WorkConfig};
use replica_common::*;

async fn write(cluster: &Cluster, owner: &str, texts: impl IntoIterator<Item = String>) {
    let owned = in_time(cluster.works(owner).lead(&work())).await.unwrap();
    for text in texts {
        in_time(owned.append(commit(&text)).await.unwrap()).await.unwrap();
    }
}

fn numbers(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_replica_is_left_out_and_taken_in_again() {
    let cluster = Cluster::new(&["a", "b"]).await;
    cluster.create("a", &["a", "b"]).await;
    cluster.in_sync(&["a", "b"]).await;
    cluster.net.cut("a", "b");
    // Waits until the keeper agrees that b does not count, then is committed.
    write(&cluster, "a", numbers(0..5)).await;
    cluster.in_sync(&["a"]).await;
    cluster.net.heal();
    cluster.in_sync(&["a", "b"]).await;
    assert_eq!(cluster.held("b"), numbers(0..5));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_keeper_nothing_is_acknowledged_that_a_replica_lacks() {
    let cluster = Cluster::new(&["a", "b"]).await;
    cluster.create("a", &["a", "b"]).await;
    cluster.in_sync(&["a", "b"]).await;
    let owned = in_time(cluster.works("a").lead(&work())).await.unwrap();
    cluster.net.take_away("a");
    let mut committing = owned.append(commit("late")).await.unwrap();
    let silence = std::time::Duration::from_millis(2_500);
    assert!(tokio::time::timeout(silence, &mut committing).await.is_err());
    cluster.net.heal();
    assert_eq!(in_time(committing).await.unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_is_far_behind_gets_the_state() {
    let mut cluster = Cluster::new(&["a", "b"]).await;
    cluster.create("a", &["a", "b"]).await;
    cluster.in_sync(&["a", "b"]).await;
    cluster.works("a").configure(&work(), WorkConfig { ack: Ack::Site, ..WorkConfig::default() });
    cluster.stop("b");
    for sequence in 1..=20 {
        publish(&cluster.works("a"), &format!("p{sequence}"), sequence).await;
    }
    let works = cluster.works("a");
    eventually("a forgets what is applied", || works.standings()[0].first == 21).await;
    publish(&works, "last", 21).await;
    cluster.start("b").await;
    cluster.tell();
    cluster.in_sync(&["a", "b"]).await;
    let standing = cluster.works("b").standings().remove(0);
    assert_eq!((standing.last, standing.applied >= 20), (21, true));
    // What it got in place of the entries is whole.
    cluster.give_to("b", true).await;
    assert!(publish(&cluster.works("b"), "last", 21).await.1);
    assert!(publish(&cluster.works("b"), "p20", 20).await.1);
    assert_eq!(publish(&cluster.works("b"), "new", 22).await, (22, false));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_gets_the_state_gets_what_readers_still_want_too() {
    let mut cluster = Cluster::new(&["a", "b"]).await;
    cluster.create("a", &["a", "b"]).await;
    cluster.in_sync(&["a", "b"]).await;
    let reader: littoral_model::work::WorkId = "default/app/stage/count.0/0@cloud".parse().unwrap();
    let config = WorkConfig { ack: Ack::Site, consumers: vec![reader.clone()], ..WorkConfig::default() };
    cluster.works("a").configure(&work(), config);
    cluster.stop("b");
    for sequence in 1..=20 {
        publish(&cluster.works("a"), &format!("p{sequence}"), sequence).await;
    }
    // The reader has the first 17 safe, and then falls silent.
    let works = cluster.works("a");
    let committed = Position { index: 18, row: 0 };
    let request = FetchRequest { consumer: Some(reader), committed, ..fetching(18, 0) };
    assert!(matches!(in_time(works.fetch(request)).await, FetchReply::Rows { .. }));
    eventually("a forgets what the reader has", || works.standings()[0].first == 18).await;
    eventually("a has applied the rest", || works.standings()[0].applied == 20).await;
    cluster.start("b").await;
    cluster.tell();
    cluster.in_sync(&["a", "b"]).await;
    assert_eq!(cluster.held("b"), ["p18", "p19", "p20"]);
    cluster.stop("a");
    cluster.give_to("b", true).await;
    assert!(publish(&cluster.works("b"), "p20", 20).await.1, "nor is anything taken twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_local_acknowledgement_nobody_is_waited_for_but_copies_are_made() {
    let cluster = Cluster::new(&["a", "b"]).await;
    cluster.create("a", &["a", "b"]).await;
    cluster.in_sync(&["a", "b"]).await;
    cluster.works("a").configure(&work(), WorkConfig { ack: Ack::Local, ..WorkConfig::default() });
    cluster.net.take_away("a");
    write(&cluster, "a", numbers(0..5)).await;
    assert_eq!(cluster.held("b"), Vec::<String>::new());
    cluster.net.heal();
    eventually("b has a copy", || cluster.held("b") == numbers(0..5)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_that_lost_its_disk_hands_over_before_it_writes_anything() {
    let mut cluster = Cluster::new(&["a", "b"]).await;
    cluster.create("a", &["a", "b"]).await;
    cluster.in_sync(&["a", "b"]).await;
    write(&cluster, "a", numbers(0..5)).await;
    cluster.wipe("a");
    cluster.start("a").await;
    // It is still the owner as far as the keeper knows, and begins with an empty log.
    cluster.tell();
    // It may lead for a moment, before it hears of those that have more; nothing that it writes then counts.
    if let Ok(owned) = in_time(cluster.works("a").lead(&work())).await {
        in_time(owned.lost()).await;
    }
    let mut seen = cluster.group.assignments();
    in_time(seen.wait_for(|all| all[&work()].owner == id("b"))).await.unwrap();
    cluster.tell();
    write(&cluster, "b", numbers(5..8)).await;
    cluster.in_sync(&["a", "b"]).await;
    assert_eq!((cluster.held("a"), cluster.held("b")), (numbers(0..8), numbers(0..8)));
    assert_eq!(cluster.assignment().epoch, Epoch(2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_that_lost_its_disk_hands_over_to_one_in_sync_whoever_told_it() {
    let mut cluster = Cluster::new(&["a", "b", "c"]).await;
    cluster.create("a", &["a", "b", "c"]).await;
    cluster.in_sync(&["a", "b", "c"]).await;
    write(&cluster, "a", numbers(0..3)).await;
    cluster.net.cut("a", "c");
    write(&cluster, "a", numbers(3..5)).await;
    cluster.in_sync(&["a", "b"]).await;
    // Only c, which does not have all, can tell that a had more.
    cluster.net.heal();
    cluster.net.cut("a", "b");
    cluster.wipe("a");
    cluster.start("a").await;
    cluster.tell();
    let mut seen = cluster.group.assignments();
    in_time(seen.wait_for(|all| all[&work()].owner == id("b"))).await.unwrap();
    cluster.net.heal();
    cluster.tell();
    write(&cluster, "b", numbers(5..8)).await;
    cluster.in_sync(&["a", "b", "c"]).await;
    assert_eq!(cluster.held("c"), numbers(0..8));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_remembers_whom_it_answered_after_a_restart() {
    let mut cluster = Cluster::new(&["a", "b", "c"]).await;
    cluster.create("a", &["a", "b", "c"]).await;
    cluster.in_sync(&["a", "b", "c"]).await;
    let old = in_time(cluster.works("a").lead(&work())).await.unwrap();
    in_time(old.append(commit("one")).await.unwrap()).await.unwrap();
    cluster.net.take_away("a");
    cluster.give_to("b", true).await;
    in_time(cluster.works("b").lead(&work())).await.unwrap();
    cluster.in_sync(&["b", "c"]).await;
    // c restarts and hears of nothing but the old owner, with whose log it agrees.
    cluster.stop("c");
    cluster.start("c").await;
    cluster.stop("b");
    cluster.net.heal();
    // Its right may have ended before, or ends by this.
    if let Ok(late) = old.append(commit("late")).await {
        assert!(in_time(late).await.is_err());
    }
    assert_eq!(cluster.held("c"), ["one"]);
}
