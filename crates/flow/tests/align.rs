//! A fed partition while the number of partitions by key changes: what belongs behind the change waits for it, whatever comes first and
//! whoever starts anew.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::sync::Arc;

use arrow_array::cast::AsArray as _;
use arrow_array::{ArrayRef, BinaryArray, RecordBatch, UInt32Array};
use common::*;
use littoral_flow::batch;
use littoral_flow::ingest::{self, IngestWork};
use littoral_flow::stats::Stats;
use littoral_model::entry::{Commit, PORT_MAIN, Position, handover_port, partition_port};
use littoral_model::wire::{FetchReply, FetchRequest};
use littoral_model::work::WorkId;
use littoral_sql::Notice;
use littoral_store::replica::Owned;

/// What stands in a notice in the place of a part of the state: that the sender has switched, that it has handed over all.
const SWITCHED: u32 = u16::MAX as u32 - 1;
const LAST: u32 = u16::MAX as u32;

/// A notice of a change from two partitions to as many.
fn notice(generation: u32, sender: u32, part: u32) -> RecordBatch {
    let numbers = [("generation", generation), ("from", 2), ("to", 2), ("sender", sender), ("part", part)];
    let column = |(name, number)| -> (&str, ArrayRef) { (name, Arc::new(UInt32Array::from(vec![number]))) };
    let state: ArrayRef = Arc::new(BinaryArray::from(vec![&b""[..]]));
    RecordBatch::try_from_iter(numbers.map(column).into_iter().chain([("state", state)])).unwrap()
}

fn row(text: &str) -> RecordBatch {
    batch::records(&[(None, 1, text.to_owned())]).unwrap()
}

/// A work with what it has put out for partition 0.
struct Writer {
    id: WorkId,
    owned: Owned,
    port: String,
}

impl Writer {
    async fn new(node: &Node, name: &str, port: String) -> Self {
        let id = work(name);
        Self { owned: node.own(&id, 1).await, id, port }
    }

    async fn write(&self, all: &[RecordBatch]) {
        let outputs = all.iter().map(|rows| batch::encode(&self.port, rows, None).unwrap()).collect();
        self.owned.append(Commit { outputs, ..Commit::default() }).await.unwrap().await.unwrap();
    }
}

/// What is in a partition: rows by their text, notices by their sender.
async fn told(node: &Node, id: &WorkId, count: usize) -> Vec<String> {
    let (mut told, mut from) = (Vec::new(), Position::START);
    while told.len() < count {
        let (work, port, committed) = (id.clone(), PORT_MAIN.to_owned(), Position::default());
        let request = FetchRequest { work, port, consumer: None, from, committed, bytes_max: 1 << 20, wait_ms: 1_000 };
        let FetchReply::Rows { batches, next, .. } = node.works.fetch(request).await else { continue };
        from = next;
        for (_, rows) in batches {
            let rows = batch::decode(&rows).unwrap();
            match Notice::read(&rows) {
                Some(Notice { change, sender, is_last }) => {
                    let what = if is_last { "last" } else { "piece" };
                    told.push(format!("{what} {} {sender}", change.generation));
                }
                None => {
                    let values = rows.column_by_name("value").unwrap().as_string::<i32>().clone();
                    told.extend(values.iter().flatten().map(str::to_owned));
                }
            }
        }
    }
    told
}

#[tokio::test]
async fn rows_behind_a_change_wait_until_all_have_switched_and_handed_over() {
    let node = Node::start();
    let sink = work("stream/keyed");
    let mut spreads = Vec::new();
    let mut keyed = Vec::new();
    for number in 0..2 {
        spreads.push(Writer::new(&node, &format!("stage/spread-{number}.0"), partition_port(0)).await);
        keyed.push(Writer::new(&node, &format!("stage/keyed-{number}.0"), handover_port(0)).await);
    }
    let inputs = |all: &[Writer]| all.iter().map(|of| input(&of.id, &of.port)).collect::<Vec<_>>();
    let mut epoch = 0;
    let mut seen: Vec<String> = Vec::new();
    // Each is in one entry, and what it comes to; in between the partition starts anew.
    let one = |text: &str| row(text);
    let steps: [(&Writer, Vec<RecordBatch>, &[&str]); 9] = [
        (&spreads[0], vec![one("a1"), notice(1, 0, SWITCHED)], &["a1", "last 1 0"]),
        (&spreads[0], vec![one("a2"), one("a3")], &[]),
        // One has heard all sooner than this one, and hands over.
        (&keyed[1], vec![notice(1, 1, 3), notice(1, 1, LAST)], &[]),
        (&spreads[1], vec![one("b1")], &["b1"]),
        (&spreads[1], vec![notice(1, 1, SWITCHED), one("b2")], &["last 1 1", "piece 1 1", "last 1 1"]),
        // The next change comes before this one is done here.
        (&spreads[0], vec![notice(2, 0, SWITCHED)], &[]),
        (&keyed[1], vec![notice(2, 1, LAST)], &[]),
        (&keyed[0], vec![notice(1, 0, LAST)], &["last 1 0", "a2", "a3", "b2", "last 2 0"]),
        (&spreads[1], vec![notice(2, 1, SWITCHED)], &["last 2 1", "last 2 1"]),
    ];
    for (number, (writer, rows, came)) in steps.into_iter().enumerate() {
        writer.write(&rows).await;
        seen.extend(came.iter().map(ToString::to_string));
        // Twice: also who starts anew where nothing is to be taken takes nothing.
        for _ in 0..2 {
            epoch += 1;
            let owned = node.own(&sink, epoch).await;
            let (inputs, predecessors, stats) = (inputs(&spreads), inputs(&keyed), Arc::new(Stats::default()));
            let ingest = IngestWork { owned, inputs, predecessors, source: node.source(), stats };
            let task = tokio::spawn(ingest::run(ingest));
            let mut told = tokio::time::timeout(PATIENCE, told(&node, &sink, seen.len())).await.unwrap();
            // What waits for one another has no order among several.
            let begin = seen.len() - came.len();
            let mut expected = seen.clone();
            told[begin..].sort();
            expected[begin..].sort();
            assert_eq!(told, expected, "step {number}");
            task.abort();
        }
        seen = tokio::time::timeout(PATIENCE, self::told(&node, &sink, seen.len())).await.unwrap();
    }
    // Who does not know of changes takes nothing of it, and ends.
    let unaware = work("stream/unaware");
    let (owned, inputs_of, stats) = (node.own(&unaware, 1).await, inputs(&spreads[..1]), Arc::new(Stats::default()));
    let ingest = IngestWork { owned, inputs: inputs_of, predecessors: Vec::new(), source: node.source(), stats };
    let ended = tokio::time::timeout(PATIENCE, ingest::run(ingest)).await.unwrap();
    assert!(ended.to_string().contains("does not know of it yet"), "{ended}");
    // The first has not handed over for the second change: nothing else comes.
    spreads[1].write(&[row("b3")]).await;
    keyed[0].write(&[notice(2, 0, LAST)]).await;
    let owned = node.own(&sink, epoch + 1).await;
    let (inputs, predecessors, stats) = (inputs(&spreads), inputs(&keyed), Arc::new(Stats::default()));
    let task = tokio::spawn(ingest::run(IngestWork { owned, inputs, predecessors, source: node.source(), stats }));
    let told = tokio::time::timeout(PATIENCE, told(&node, &sink, seen.len() + 2)).await.unwrap();
    assert_eq!(told[seen.len()..], ["last 2 0", "b3"]);
    task.abort();
}
