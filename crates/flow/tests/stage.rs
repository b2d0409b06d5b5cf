//! Stages and fed partitions over real logs: each row exactly once, whatever ends in between.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use common::*;
use littoral_flow::Ended;
use littoral_flow::ingest::{self, IngestWork};
use littoral_flow::stage::{self, StageWork};
use littoral_flow::stats::{Stats, now_us};
use littoral_model::entry::{COUNTED_AS_SHED, PORT_DEAD_LETTER, PORT_MAIN};
use littoral_model::work::WorkId;
use littoral_store::LogOptions;
use tokio::task::{JoinHandle, LocalSet};

const SOURCE: &str = "stream/in";
const STAGE: &str = "stage/flow.0";
const SINK: &str = "stream/out";

async fn start(node: &Node, epoch: u64, guests: Guests, stats: &Arc<Stats>) -> JoinHandle<Ended> {
    start_shedding(node, epoch, guests, stats, None).await
}

/// The same where rows are passed over that are older than so much.
async fn start_shedding(
    node: &Node,
    epoch: u64,
    guests: Guests,
    stats: &Arc<Stats>,
    shed_after: Option<Duration>,
) -> JoinHandle<Ended> {
    let owned = node.own(&work(STAGE), epoch).await;
    let (input, source, operators) = (input(&work(SOURCE), PORT_MAIN), node.source(), Box::new(guests));
    let stats = Arc::clone(stats);
    tokio::task::spawn_local(stage::run(StageWork {
        owned,
        input,
        changes: None,
        source,
        operators,
        first: 0,
        lateness_us: 0,
        shed_after,
        stats,
    }))
}

/// Waits until so many rows are counted: they are once they are committed, which those that read them may see before.
async fn counted(stats: &Stats, rows: u64) {
    let counted = async {
        while stats.snapshot().rows_in < rows {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, counted).await.unwrap();
}

fn values(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|number| format!("v{number}")).collect()
}

/// The value before the count, and the count.
fn parts(texts: &[String]) -> Vec<(String, u64)> {
    texts
        .iter()
        .map(|text| text.trim_end().split_once('#').unwrap())
        .map(|(value, seen)| (value.to_owned(), seen.parse().unwrap()))
        .collect()
}

#[tokio::test]
async fn each_row_counts_once_however_often_the_stage_starts_anew() {
    LocalSet::new()
        .run_until(async {
            let node = Node::start();
            let source = work(SOURCE);
            let _source = node.own(&source, 1).await;
            let stats = Arc::new(Stats::default());
            for round in 0..5 {
                for part in 0..20 {
                    let from = round * 200 + part * 10;
                    node.publish(&source, &values(from..from + 10)).await;
                }
                let task = start(&node, round as u64 + 1, Guests::new(&["count"]), &stats).await;
                // Some of the round is out, and maybe not all of it, when the stage is torn away.
                node.texts(&work(STAGE), PORT_MAIN, "value", round * 200 + 50).await;
                task.abort();
            }
            let _last = start(&node, 6, Guests::new(&["count"]), &stats).await;
            let texts = node.texts(&work(STAGE), PORT_MAIN, "value", 1_000).await;
            let expected: Vec<_> = values(0..1_000).into_iter().zip(1..).collect();
            assert_eq!(parts(&texts), expected, "in order, none twice, and the state counts each once");
        })
        .await;
}

#[tokio::test]
async fn rows_that_are_too_old_are_passed_over_once_and_counted() {
    const HOUR: Duration = Duration::from_secs(3_600);
    LocalSet::new()
        .run_until(async {
            let node = Node::start();
            let source = work(SOURCE);
            let _source = node.own(&source, 1).await;
            let fresh_us = now_us() + HOUR.as_micros() as i64;
            node.publish(&source, &values(0..10)).await;
            node.publish_at(&source, &values(10..20), fresh_us).await;
            node.publish(&source, &values(20..30)).await;
            node.publish_at(&source, &values(30..35), fresh_us).await;
            let stats = Arc::new(Stats::default());
            let task = start_shedding(&node, 1, Guests::new(&["count"]), &stats, Some(HOUR)).await;
            let taken: Vec<_> = values(10..20).into_iter().chain(values(30..35)).zip(1..).collect();
            assert_eq!(parts(&node.texts(&work(STAGE), PORT_MAIN, "value", 15).await), taken);
            counted(&stats, 15).await;
            task.abort();
            // Whoever goes on does so behind what was passed over, and takes what it is told to.
            node.publish(&source, &values(35..40)).await;
            let next = Arc::new(Stats::default());
            next.goes_on_from(&stats);
            let _task = start(&node, 2, Guests::new(&["count"]), &next).await;
            let all: Vec<_> = taken.into_iter().chain(values(35..40).into_iter().zip(16..)).collect();
            assert_eq!(parts(&node.texts(&work(STAGE), PORT_MAIN, "value", 20).await), all);
            assert_eq!(next.snapshot().rows_out.get(COUNTED_AS_SHED), Some(&20));
        })
        .await;
}

#[tokio::test]
async fn poisoned_and_rejected_rows_go_to_the_dead_letters_and_the_rest_goes_on() {
    LocalSet::new()
        .run_until(async {
            let node = Node::start();
            let source = work(SOURCE);
            let _source = node.own(&source, 1).await;
            let mut rows = values(0..64);
            rows[10] = "poison 10".to_owned();
            rows[11] = "bad 11".to_owned();
            rows[40] = "poison 40".to_owned();
            node.publish(&source, &rows).await;
            let (guests, stats) = (Guests::new(&["count"]), Arc::new(Stats::default()));
            let batches = Arc::clone(&guests.batches);
            let task = start(&node, 1, guests, &stats).await;
            let texts = node.texts(&work(STAGE), PORT_MAIN, "value", 61).await;
            let good = rows.iter().filter(|row| row.starts_with('v')).cloned();
            assert_eq!(parts(&texts), good.zip(1..).collect::<Vec<_>>(), "as if the poisoned had never been");
            let dead = node.texts(&work(STAGE), PORT_DEAD_LETTER, "row", 3).await;
            for (row, text) in dead.iter().zip(["poison 10", "bad 11", "poison 40"]) {
                assert!(row.contains(text), "{row}");
            }
            let reasons = node.texts(&work(STAGE), PORT_DEAD_LETTER, "reason", 3).await;
            assert!(reasons[0].contains("poisoned"), "{}", reasons[0]);
            assert!(batches.load(Ordering::SeqCst) > 2, "it searched for them");
            counted(&stats, 64).await;
            let snapshot = stats.snapshot();
            assert_eq!((snapshot.rows_in, snapshot.rejected), (64, 3));
            assert_eq!(snapshot.functions["count"].rejected, 3);
            task.abort();
        })
        .await;
}

#[tokio::test]
async fn what_comes_to_more_than_an_entry_is_divided_and_a_row_that_does_so_alone_is_a_dead_letter() {
    LocalSet::new()
        .run_until(async {
            let node = Node::with(LogOptions::default());
            let source = work(SOURCE);
            let _source = node.own(&source, 1).await;
            let rows = ["a", "large 5", "large 5", "large 13", "large 5", "b"].map(str::to_owned);
            node.publish(&source, &rows).await;
            let _stage = start(&node, 1, Guests::new(&["count"]), &Arc::new(Stats::default())).await;
            let texts = node.texts(&work(STAGE), PORT_MAIN, "value", 5).await;
            let expected = [("a", 1), ("large 5", 2), ("large 5", 3), ("large 5", 4), ("b", 5)];
            assert_eq!(parts(&texts), expected.map(|(value, seen)| (value.to_owned(), seen)));
            let reasons = node.texts(&work(STAGE), PORT_DEAD_LETTER, "reason", 1).await;
            assert!(reasons[0].contains("go into an entry"), "{reasons:?}");
        })
        .await;
}

#[tokio::test]
async fn fused_guests_keep_their_states_apart() {
    LocalSet::new()
        .run_until(async {
            let node = Node::start();
            let source = work(SOURCE);
            let _source = node.own(&source, 1).await;
            let stats = Arc::new(Stats::default());
            node.publish(&source, &values(0..3)).await;
            let first = start(&node, 1, Guests::new(&["one", "two"]), &stats).await;
            node.texts(&work(STAGE), PORT_MAIN, "value", 3).await;
            first.abort();
            // The first counts four rows more, of which the second sees three.
            node.publish(&source, &["bad".to_owned()]).await;
            node.publish(&source, &values(3..6)).await;
            let _second = start(&node, 2, Guests::new(&["one", "two"]), &stats).await;
            let texts = node.texts(&work(STAGE), PORT_MAIN, "value", 6).await;
            assert_eq!(texts, ["v0#1#1", "v1#2#2", "v2#3#3", "v3#4#4", "v4#5#5", "v5#6#6"]);
        })
        .await;
}

#[tokio::test]
async fn a_guest_keeps_its_state_when_its_columns_change_within_a_step() {
    LocalSet::new()
        .run_until(async {
            let node = Node::start();
            let source = work(SOURCE);
            let _source = node.own(&source, 1).await;
            node.publish(&source, &["a", "wide b", "wide c", "d"].map(str::to_owned)).await;
            let _stage = start(&node, 1, Guests::new(&["one", "two"]), &Arc::new(Stats::default())).await;
            let texts = node.texts(&work(STAGE), PORT_MAIN, "value", 4).await;
            assert_eq!(texts, ["a#1#1", "wide b#2#2", "wide c#3#3", "d#4#4"]);
        })
        .await;
}

#[tokio::test]
async fn a_guest_is_told_once_that_nothing_comes_also_before_the_first_row() {
    LocalSet::new()
        .run_until(async {
            let node = Node::start();
            let source = work(SOURCE);
            let _source = node.own(&source, 1).await;
            let guests = || Guests { idle_after: Some(Duration::from_millis(1)), ..Guests::new(&["count"]) };
            let stage = start(&node, 1, guests(), &Arc::new(Stats::default())).await;
            assert_eq!(node.texts(&work(STAGE), PORT_MAIN, "value", 1).await, ["nothing comes"]);
            for part in 0..2 {
                node.publish(&source, &values(part..part + 1)).await;
                node.texts(&work(STAGE), PORT_MAIN, "value", 3 + 2 * part).await;
            }
            stage.abort();
            // What it had counted it still has, and says again that nothing comes.
            let _stage = start(&node, 2, guests(), &Arc::new(Stats::default())).await;
            node.texts(&work(STAGE), PORT_MAIN, "value", 6).await;
            node.publish(&source, &values(2..3)).await;
            let texts = node.texts(&work(STAGE), PORT_MAIN, "value", 7).await;
            let idle = "nothing comes";
            assert_eq!(texts, [idle, "v0#1", idle, "v1#2", idle, idle, "v2#3"]);
        })
        .await;
}

#[tokio::test]
async fn a_guest_goes_on_without_rows_and_from_where_it_was() {
    LocalSet::new()
        .run_until(async {
            let node = Node::start();
            let source = work(SOURCE);
            let _source = node.own(&source, 1).await;
            node.publish(&source, &["a".to_owned(), "later 300".to_owned()]).await;
            let (guests, stats) = (|| Guests::new(&["one", "two"]), Arc::new(Stats::default()));
            for epoch in 1..4 {
                let stage = start(&node, epoch, guests(), &stats).await;
                node.texts(&work(STAGE), PORT_MAIN, "value", 2 + 50 * epoch as usize).await;
                stage.abort();
            }
            // Each of them once, and through the guest behind it.
            let _stage = start(&node, 4, guests(), &stats).await;
            let texts = node.texts(&work(STAGE), PORT_MAIN, "value", 302).await;
            let left = (0..300).rev().zip(3..).map(|(left, seen)| format!("{left} left#{seen}"));
            let expected: Vec<String> =
                ["a#1#1".to_owned(), "later 300#2#2".to_owned()].into_iter().chain(left).collect();
            assert_eq!(texts, expected);
        })
        .await;
}

#[tokio::test]
async fn a_guest_that_cannot_be_made_ends_the_stage_with_the_reason() {
    LocalSet::new()
        .run_until(async {
            let node = Node::start();
            let source = work(SOURCE);
            let _source = node.own(&source, 1).await;
            node.publish(&source, &values(0..1)).await;
            let stats = Arc::new(Stats::default());
            let task = start(&node, 1, Guests { broken: true, ..Guests::new(&["count"]) }, &stats).await;
            let ended = tokio::time::timeout(PATIENCE, task).await.unwrap().unwrap();
            assert!(matches!(&ended, Ended::Failed(reason) if reason.contains("count cannot run")), "{ended}");
            assert!(stats.snapshot().last_error.is_some());
        })
        .await;
}

#[tokio::test]
async fn what_cannot_be_called_now_ends_the_stage_and_rejects_no_row() {
    LocalSet::new()
        .run_until(async {
            let node = Node::start();
            let source = work(SOURCE);
            let _source = node.own(&source, 1).await;
            let mut rows = values(0..8);
            rows[5] = "wanting".to_owned();
            node.publish(&source, &rows).await;
            let stats = Arc::new(Stats::default());
            let lacking = Guests { lacks: true, ..Guests::new(&["count"]) };
            let task = start(&node, 1, lacking, &stats).await;
            let ended = tokio::time::timeout(PATIENCE, task).await.unwrap().unwrap();
            let is_told =
                |reason: &str| reason.contains("count cannot run") && reason.contains("what it calls is not there");
            assert!(matches!(&ended, Ended::Failed(reason) if is_told(reason)), "{ended}");
            let _next = start(&node, 2, Guests::new(&["count"]), &stats).await;
            let texts = node.texts(&work(STAGE), PORT_MAIN, "value", 8).await;
            assert_eq!(parts(&texts), rows.into_iter().zip(1..).collect::<Vec<_>>());
        })
        .await;
}

#[tokio::test]
async fn a_replaced_stage_ends() {
    LocalSet::new()
        .run_until(async {
            let node = Node::start();
            let _source = node.own(&work(SOURCE), 1).await;
            let stats = Arc::new(Stats::default());
            let task = start(&node, 1, Guests::new(&["count"]), &stats).await;
            let _newer = node.own(&work(STAGE), 2).await;
            let ended = tokio::time::timeout(PATIENCE, task).await.unwrap().unwrap();
            assert!(matches!(ended, Ended::Fenced), "{ended}");
        })
        .await;
}

#[tokio::test]
async fn a_fed_partition_has_each_row_once_and_takes_publications_too() {
    let node = Node::start();
    let (source, sink): (WorkId, WorkId) = (work(SOURCE), work(SINK));
    let _source = node.own(&source, 1).await;
    for round in 0..4 {
        for part in 0..10 {
            let from = round * 50 + part * 5;
            node.publish(&source, &values(from..from + 5)).await;
        }
        let owned = node.own(&sink, round as u64 + 1).await;
        let (inputs, stats) = (vec![input(&source, PORT_MAIN)], Arc::new(Stats::default()));
        let task = tokio::spawn(ingest::run(IngestWork {
            owned,
            inputs,
            predecessors: Vec::new(),
            source: node.source(),
            stats,
        }));
        node.texts(&sink, PORT_MAIN, "value", round * 50 + 20).await;
        task.abort();
    }
    let owned = node.own(&sink, 9).await;
    let (inputs, stats) = (vec![input(&source, PORT_MAIN)], Arc::new(Stats::default()));
    let task =
        tokio::spawn(ingest::run(IngestWork { owned, inputs, predecessors: Vec::new(), source: node.source(), stats }));
    let texts = node.texts(&sink, PORT_MAIN, "value", 200).await;
    assert_eq!(texts, values(0..200));
    node.publish(&sink, &["from outside".to_owned()]).await;
    assert_eq!(node.texts(&sink, PORT_MAIN, "value", 201).await[200], "from outside");
    task.abort();
}
