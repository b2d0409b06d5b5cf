//! Works under seeded chance: cuts, pauses, restarts and moves, while a producer publishes. Nothing acknowledged is
//! lost, nothing is stored twice, and all copies have one order.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod replica_common;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use littoral_model::wire::PublishReply;
use littoral_store::replica::Works;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use replica_common::*;

const NODES: [&str; 3] = ["a", "b", "c"];
const STEPS: usize = 100;

type Acknowledged = Arc<Mutex<BTreeMap<u64, String>>>;
type Doors = Arc<Mutex<Vec<Arc<Works>>>>;

/// Publishes one record after the other, each until somebody acknowledges it.
async fn produce(doors: Doors, done: Arc<AtomicBool>, acknowledged: Acknowledged) -> u64 {
    let mut sequence = 0;
    while !done.load(Ordering::Acquire) {
        sequence += 1;
        let text = format!("r{sequence}");
        'tries: for turn in 0.. {
            let works = {
                let doors = doors.lock().unwrap();
                doors.get(turn % doors.len().max(1)).cloned()
            };
            let Some(works) = works else {
                // A node is being restarted.
                tokio::time::sleep(Duration::from_millis(2)).await;
                continue;
            };
            // Gives up on one that hangs, without knowing what became of it.
            let asked = tokio::time::timeout(Duration::from_millis(400), works.publish(publication(&text, sequence)));
            match asked.await {
                Ok(PublishReply::Stored { index, .. }) => {
                    let before = acknowledged.lock().unwrap().insert(index, text.clone());
                    assert_eq!(before, None, "two records were acknowledged with index {index}");
                    break 'tries;
                }
                Ok(_) => tokio::time::sleep(Duration::from_millis(2)).await,
                Err(_) => {}
            }
        }
    }
    sequence
}

async fn trouble(cluster: &mut Cluster, doors: &Doors, random: &mut StdRng) {
    let node = NODES[random.random_range(0..NODES.len())];
    match random.random_range(0..7) {
        0 => cluster.net.cut(node, NODES[random.random_range(0..NODES.len())]),
        1 => cluster.net.take_away(node),
        2 | 3 => {
            cluster.net.heal();
            cluster.tell();
        }
        4 => {
            drop(cluster.give_to(node, random.random_bool(0.5)).await);
        }
        5 => {
            doors.lock().unwrap().clear();
            cluster.stop(node);
            cluster.start(node).await;
            cluster.tell();
        }
        _ => cluster.tell(),
    }
    *doors.lock().unwrap() = cluster.nodes.values().map(|node| Arc::clone(&node.works)).collect();
    tokio::time::sleep(Duration::from_millis(random.random_range(0..200))).await;
}

async fn run(seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut cluster = Cluster::new(&NODES).await;
    cluster.create("a", &NODES).await;
    let doors: Doors = Arc::new(Mutex::new(cluster.nodes.values().map(|node| Arc::clone(&node.works)).collect()));
    let (done, acknowledged) = (Arc::new(AtomicBool::new(false)), Acknowledged::default());
    let producer = tokio::spawn(produce(Arc::clone(&doors), Arc::clone(&done), Arc::clone(&acknowledged)));
    for _ in 0..STEPS {
        trouble(&mut cluster, &doors, &mut random).await;
        assert!(!producer.is_finished(), "seed {seed}: the producer failed");
    }
    cluster.net.heal();
    cluster.tell();
    cluster.in_sync(&NODES).await;
    done.store(true, Ordering::Release);
    let published = in_time(producer).await.unwrap();
    let owner = cluster.assignment().owner;
    let stored: BTreeMap<u64, String> = read_all(&cluster.works(owner.as_str())).await.into_iter().collect();
    let acknowledged = acknowledged.lock().unwrap().clone();
    for (index, text) in &acknowledged {
        assert_eq!(stored.get(index), Some(text), "seed {seed}: acknowledged at {index}");
    }
    let texts: Vec<&String> = stored.values().collect();
    let expected: Vec<String> = (1..=published).map(|number| format!("r{number}")).collect();
    assert_eq!(texts, expected.iter().collect::<Vec<_>>(), "seed {seed}: each once, in order");
    for node in NODES {
        eventually("the copies are equal", || cluster.held(node) == expected).await;
    }
}

async fn seeded(seed: u64) {
    let seed = std::env::var("LITTORAL_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(seed);
    println!("seed {seed} (LITTORAL_SEED={seed} repeats it)");
    run(seed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_1() {
    seeded(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_2() {
    seeded(2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_3() {
    seeded(3).await;
}
