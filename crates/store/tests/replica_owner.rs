//! Works on several nodes: copying, committing, giving away, fencing, dropping repeats, reading.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod replica_common;

use bytes::Bytes;
use littoral_model::entry::{Commit, InputPosition, Position};
use littoral_model::id::Epoch;
use littoral_model::wire::{FetchReply, PublishReply, ReplicateReply, ReplicateRequest};
use littoral_model::work::KeeperCommand;
use littoral_store::replica::{Ack, WorkConfig, WriteError};
use replica_common::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lone_owner_commits_and_goes_on_after_a_restart() {
    let mut cluster = Cluster::new(&["a"]).await;
    cluster.create("a", &["a"]).await;
    let owned = in_time(cluster.works("a").lead(&work())).await.unwrap();
    let mut committing = Vec::new();
    for number in 0..100 {
        committing.push(owned.append(commit(&number.to_string())).await.unwrap());
    }
    for (number, committing) in committing.into_iter().enumerate() {
        assert_eq!(in_time(committing).await.unwrap(), number as u64 + 1);
    }
    drop(owned);
    cluster.stop("a");
    cluster.start("a").await;
    cluster.tell();
    let owned = in_time(cluster.works("a").lead(&work())).await.unwrap();
    assert_eq!((owned.epoch(), owned.committed()), (Epoch(1), 100));
    assert_eq!(read_all(&cluster.works("a")).await.len(), 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_takes_over_with_all_that_was_acknowledged_and_the_old_owner_is_fenced() {
    let cluster = Cluster::new(&["a", "b"]).await;
    cluster.create("a", &["a", "b"]).await;
    cluster.in_sync(&["a", "b"]).await;
    let old = in_time(cluster.works("a").lead(&work())).await.unwrap();
    for number in 0..20 {
        in_time(old.append(commit(&format!("kept {number}"))).await.unwrap()).await.unwrap();
    }
    // The owner is paused: it hears nothing, and what it writes reaches nobody.
    cluster.net.take_away("a");
    let late = old.append(commit("late")).await.unwrap();
    cluster.give_to("b", true).await;
    let new = in_time(cluster.works("b").lead(&work())).await.unwrap();
    in_time(new.append(commit("after")).await.unwrap()).await.unwrap();
    assert_eq!(new.epoch(), Epoch(2));
    // It wakes, and is refused by the replica that it needs, before it hears from the keeper.
    cluster.net.heal();
    assert!(matches!(in_time(late).await, Err(WriteError::Fenced { .. })));
    in_time(old.lost()).await;
    assert!(old.append(commit("later")).await.is_err());
    cluster.tell();
    let texts: Vec<String> = read_all(&cluster.works("b")).await.into_iter().map(|(_, text)| text).collect();
    let expected: Vec<String> = (0..20).map(|number| format!("kept {number}")).chain(["after".to_owned()]).collect();
    assert_eq!(texts, expected);
    // As a replica its tail is replaced, and it becomes in sync again.
    cluster.in_sync(&["a", "b"]).await;
    assert_eq!(cluster.held("a"), expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn state_inputs_and_watermark_move_with_the_work() {
    let cluster = Cluster::new(&["a", "b"]).await;
    cluster.create("a", &["a", "b"]).await;
    cluster.in_sync(&["a", "b"]).await;
    let owned = in_time(cluster.works("a").lead(&work())).await.unwrap();
    let input = |index| InputPosition { work: work(), epoch: Epoch(3), position: Position { index, row: 1 } };
    let step = |index: u64, state: Vec<(u32, Bytes)>| Commit {
        inputs: vec![input(index)],
        state,
        watermark_us: Some(index as i64),
        ..Commit::default()
    };
    let one = owned.append(step(5, vec![(1, Bytes::from_static(b"x")), (2, Bytes::from_static(b"y"))])).await.unwrap();
    let two = owned.append(step(9, vec![(2, Bytes::new()), (7, Bytes::from_static(b"z"))])).await.unwrap();
    in_time(one).await.unwrap();
    in_time(two).await.unwrap();
    cluster.give_to("b", false).await;
    let restored = in_time(in_time(cluster.works("b").lead(&work())).await.unwrap().restore()).await.unwrap();
    assert_eq!(restored.state, [(1, Bytes::from_static(b"x")), (7, Bytes::from_static(b"z"))]);
    assert_eq!((restored.inputs, restored.watermark_us), (vec![input(9)], Some(9)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_publication_is_stored_once_also_by_the_next_owner() {
    let cluster = Cluster::new(&["a", "b"]).await;
    cluster.create("a", &["a", "b"]).await;
    cluster.in_sync(&["a", "b"]).await;
    assert_eq!(publish(&cluster.works("a"), "one", 1).await, (1, false));
    assert_eq!(publish(&cluster.works("a"), "two", 2).await, (2, false));
    assert_eq!(publish(&cluster.works("a"), "two", 2).await, (2, true));
    // Once it is part of the derived state of the next owner, once it is not.
    eventually("b applies", || cluster.works("b").standings()[0].applied == 2).await;
    assert_eq!(publish(&cluster.works("a"), "three", 3).await, (3, false));
    cluster.give_to("b", true).await;
    assert_eq!(publish(&cluster.works("b"), "three", 3).await, (3, true));
    assert!(publish(&cluster.works("b"), "two", 2).await.1);
    assert_eq!(publish(&cluster.works("b"), "four", 4).await, (4, false));
    let mut stale = publication("five", 5);
    stale.producer.as_mut().unwrap().epoch = 0;
    assert!(matches!(in_time(cluster.works("b").publish(stale)).await, PublishReply::Refused(_)));
    assert!(
        matches!(in_time(cluster.works("a").publish(publication("six", 6))).await, PublishReply::NotOwner(Some(known)) if known.owner == id("b"))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_waits_for_rows_on_its_port_and_passes_over_others() {
    let cluster = Cluster::new(&["a"]).await;
    cluster.create("a", &["a"]).await;
    let works = cluster.works("a");
    let owned = in_time(works.lead(&work())).await.unwrap();
    let mut other = commit("other");
    other.outputs[0].port = "alerts".to_owned();
    let waiting = tokio::spawn({
        let works = cluster.works("a");
        async move { works.fetch(fetching(1, 30_000)).await }
    });
    in_time(owned.append(other).await.unwrap()).await.unwrap();
    in_time(owned.append(commit("mine")).await.unwrap()).await.unwrap();
    let FetchReply::Rows { epoch, batches, next, .. } = in_time(waiting).await.unwrap() else { panic!("no rows") };
    assert_eq!((epoch, batches, next), (Epoch(1), vec![(2, rows("mine"))], Position { index: 3, row: 0 }));
    // Nothing on the port: the place moves all the same.
    let mut request = fetching(2, 0);
    request.port = "alerts".to_owned();
    let FetchReply::Rows { batches, next, .. } = in_time(works.fetch(request)).await else { panic!("no rows") };
    assert_eq!((batches, next), (vec![], Position { index: 3, row: 0 }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_all_consumers_have_is_forgotten_and_the_rest_is_kept() {
    let cluster = Cluster::new(&["a"]).await;
    cluster.create("a", &["a"]).await;
    let works = cluster.works("a");
    let consumer = |number: u32| format!("default/app/stage/f.0/{number}@hall").parse().unwrap();
    let consumers = vec![consumer(1), consumer(2)];
    let config = WorkConfig { ack: Ack::Site, consumers, ..WorkConfig::default() };
    works.configure(&work(), config);
    let owned = in_time(works.lead(&work())).await.unwrap();
    for number in 0..10 {
        in_time(owned.append(commit(&number.to_string())).await.unwrap()).await.unwrap();
    }
    let read = |number, committed| {
        let mut request = fetching(committed, 0);
        (request.consumer, request.committed.index) = (Some(consumer(number)), committed);
        works.fetch(request)
    };
    in_time(read(1, 8)).await;
    eventually("all is applied", || works.standings()[0].applied == 10).await;
    assert_eq!(works.standings()[0].first, 1);
    in_time(read(2, 5)).await;
    eventually("four entries go", || works.standings()[0].first == 5).await;
    assert_eq!(in_time(works.fetch(fetching(2, 0))).await, FetchReply::Trimmed(Position { index: 5, row: 0 }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_work_is_gone_and_can_be_made_anew() {
    let cluster = Cluster::new(&["a"]).await;
    cluster.create("a", &["a"]).await;
    let works = cluster.works("a");
    let owned = in_time(works.lead(&work())).await.unwrap();
    in_time(owned.append(commit("old")).await.unwrap()).await.unwrap();
    cluster.group.propose(KeeperCommand::Remove { work: work() }).await.unwrap();
    in_time(works.removed(&work(), Some(Epoch(1)))).await.unwrap();
    assert!(owned.append(commit("late")).await.is_err());
    cluster.create("a", &["a"]).await;
    let owned = in_time(works.lead(&work())).await.unwrap();
    assert_eq!((owned.epoch(), in_time(owned.append(commit("new")).await.unwrap()).await), (Epoch(2), Ok(1)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_that_has_not_heard_of_the_removal_is_refused_for_good() {
    let mut cluster = Cluster::new(&["a", "b"]).await;
    cluster.create("a", &["a", "b"]).await;
    cluster.in_sync(&["a", "b"]).await;
    let owned = in_time(cluster.works("a").lead(&work())).await.unwrap();
    in_time(owned.append(commit("old")).await.unwrap()).await.unwrap();
    cluster.group.propose(KeeperCommand::Remove { work: work() }).await.unwrap();
    let removed = cluster.group.removed();
    assert_eq!(removed.get(&work()), Some(&Epoch(1)));
    // However often it hears of it.
    in_time(cluster.works("b").removed(&work(), Some(Epoch(1)))).await.unwrap();
    in_time(cluster.works("b").removed(&work(), Some(Epoch(1)))).await.unwrap();
    // Its right may have ended before, or ends by this.
    let late = match owned.append(commit("late")).await {
        Ok(late) => in_time(late).await.map(drop),
        Err(error) => Err(error),
    };
    assert!(matches!(late, Err(WriteError::Fenced { .. })));
    assert!(cluster.held("b").is_empty());
    cluster.stop("b");
    cluster.start("b").await;
    let old = ReplicateRequest {
        work: work(),
        owner: id("a"),
        epoch: Epoch(1),
        previous: (0, Epoch(0)),
        entries: Vec::new(),
        committed: 0,
        trim_below: 0,
        last: 0,
    };
    let reply = in_time(cluster.works("b").handle_replicate(old)).await.unwrap();
    assert_eq!(reply, ReplicateReply::Fenced { epoch: Epoch(2) });
    // A node that did not run when it was removed finds what is left of it.
    drop(owned);
    cluster.stop("a");
    cluster.start("a").await;
    assert_eq!(cluster.works("a").left_over(&removed), [work()]);
    in_time(cluster.works("a").removed(&work(), Some(Epoch(1)))).await.unwrap();
    assert!(cluster.works("a").left_over(&removed).is_empty() && cluster.held("a").is_empty());
    cluster.create("a", &["a", "b"]).await;
    let owned = in_time(cluster.works("a").lead(&work())).await.unwrap();
    assert_eq!((owned.epoch(), in_time(owned.append(commit("new")).await.unwrap()).await), (Epoch(2), Ok(1)));
    cluster.in_sync(&["a", "b"]).await;
    assert_eq!(cluster.held("b"), ["new"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_starts_anew_under_the_same_epoch_sees_all_and_ends_its_predecessor() {
    let cluster = Cluster::new(&["a", "b"]).await;
    cluster.create("a", &["a", "b"]).await;
    cluster.in_sync(&["a", "b"]).await;
    let old = in_time(cluster.works("a").lead(&work())).await.unwrap();
    // On their way: the replica does not answer.
    cluster.net.take_away("b");
    let on_their_way = [old.append(commit("1")).await.unwrap(), old.append(commit("2")).await.unwrap()];
    let new = in_time(cluster.works("a").lead(&work())).await.unwrap();
    assert_eq!(new.epoch(), old.epoch());
    assert!(matches!(old.append(commit("3")).await, Err(WriteError::Fenced { .. })));
    let restoring = tokio::spawn({
        let new = new.clone();
        async move { new.restore().await.map(|_| new.committed()) }
    });
    tokio::task::yield_now().await;
    assert!(!restoring.is_finished(), "it waits for what is on its way");
    cluster.net.heal();
    for (committing, index) in on_their_way.into_iter().zip(1..) {
        assert_eq!(in_time(committing).await.unwrap(), index);
    }
    assert_eq!(in_time(restoring).await.unwrap().unwrap(), 2);
    assert_eq!(in_time(new.append(commit("3")).await.unwrap()).await.unwrap(), 3);
    assert!(matches!(old.restore().await, Err(WriteError::Fenced { .. })));
}
