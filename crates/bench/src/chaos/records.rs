//! The flows under way: who publishes, when each record was published, and when it came out.
//!
//! A producer publishes a few records at a time and goes on with the next when they are acknowledged; until then it
//! repeats them, under the same number, at one node of its site after the other, so that a repeat is dropped. What it has
//! published is written down for the checker. Watchers follow the sinks at every node near them and note when the
//! first record of each publication is seen first; what they miss, the checker finds.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::Method;
use serde::Deserialize;
use tokio::sync::watch;

use super::nodes::{Nodes, ROLES};
use super::schedule::{Disturbance, Kind};
use super::wire;
use crate::client::Place;

/// How often a producer publishes.
const EVERY: Duration = Duration::from_millis(200);
/// How many records it publishes at once, each of another sensor.
const RECORDS: u64 = 10;
/// How long a producer waits for an acknowledgement before it asks another node of its site.
const PATIENCE: Duration = Duration::from_secs(2);
/// The pause before it does.
const PAUSE: Duration = Duration::from_millis(100);
/// How many records of the past of each partition a watcher begins with.
const LOOK_BACK: u64 = 100;
/// How long a node may take to begin an answer to a watcher.
const ANSWER: Duration = Duration::from_secs(5);

/// Who publishes to what, and where it comes out.
pub(super) struct Producer {
    pub(super) name: String,
    /// The app, named as its hall.
    app: &'static str,
    stream: &'static str,
    /// The nodes at which it publishes: a device, or all of a hall.
    pub(super) nodes: Vec<usize>,
}

impl Producer {
    /// Whether its records can come out during a disturbance: not when they are of the struck device, whose disk alone has
    /// them, nor when the cut is between them and their sink.
    pub(super) fn survives(&self, disturbance: Disturbance) -> bool {
        let Some(struck) = ROLES.get(disturbance.slot) else { return true };
        let is_of_device = self.stream == "readings";
        if is_of_device && self.nodes == [disturbance.slot] {
            return false;
        }
        let is_cut_off = struck.site == self.app || struck.site == "cloud";
        is_of_device || disturbance.kind != Kind::Cut || !is_cut_off
    }
}

/// All producers: each device to its hall, and two of each hall to the cloud, so that both partitions have records.
pub(super) fn producers() -> Vec<Producer> {
    let mut found = Vec::new();
    for (number, role) in ROLES.iter().enumerate() {
        let Some(hall) = role.hall.filter(|_| role.tier == "device") else { continue };
        found.push(Producer { name: role.name.to_owned(), app: hall, stream: "readings", nodes: vec![number] });
    }
    for hall in super::apps::HALLS {
        let of_hall = ROLES.iter().enumerate().filter(|(_, role)| role.site == hall);
        let nodes: Vec<usize> = of_hall.map(|(number, _)| number).collect();
        found.push(Producer { name: hall.to_owned(), app: hall, stream: "orders", nodes });
    }
    found
}

/// When a publication was begun, and when its first record was seen to come out.
type Times = (Instant, Option<Instant>);

/// What was published and seen, by producer.
#[derive(Default)]
pub(super) struct Ledger {
    times: Mutex<BTreeMap<String, Vec<Times>>>,
}

impl Ledger {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Vec<Times>>> {
        self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// After how long the first of what was published since a moment came out, if it did.
    pub(super) fn resumed(&self, producer: &str, since: Instant) -> Option<Duration> {
        let times = self.lock();
        let later = times.get(producer)?.iter().rev().take_while(|(begun, _)| *begun >= since);
        later.filter_map(|(_, seen)| *seen).min().map(|seen| seen - since)
    }

    /// How many publications have not been seen to come out.
    pub(super) fn outstanding(&self) -> usize {
        self.lock().values().flatten().filter(|(_, seen)| seen.is_none()).count()
    }

    /// How many records were published.
    pub(super) fn published(&self) -> u64 {
        self.lock().values().map(|times| times.len() as u64 * RECORDS).sum()
    }

    fn begun(&self, producer: &str) -> u64 {
        let mut times = self.lock();
        let times = times.entry(producer.to_owned()).or_default();
        times.push((Instant::now(), None));
        times.len() as u64
    }

    fn seen(&self, sensor: &str, seq: u64) {
        let Some((producer, _)) = sensor.rsplit_once('/') else { return };
        let mut times = self.lock();
        let publication = usize::try_from(seq.saturating_sub(1) / RECORDS).ok();
        let entry = times.get_mut(producer).zip(publication).and_then(|(times, number)| times.get_mut(number));
        if let Some((_, seen)) = entry {
            seen.get_or_insert_with(Instant::now);
        }
    }
}

/// Publishes until told to stop, and then to the last acknowledgement.
pub(super) async fn publish(
    producer: Arc<Producer>,
    places: Vec<Place>,
    ledger: Arc<Ledger>,
    folder: PathBuf,
    stop: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let mut file = BufWriter::new(File::create(folder.join(format!("{}.ndjson", producer.name)))?);
    let mut turns = places.iter().cycle();
    let Some(mut place) = turns.next() else { return Ok(()) };
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    while !*stop.borrow() {
        ticks.tick().await;
        let number = ledger.begun(&producer.name);
        let body = records(&producer.name, number)?;
        let path = format!(
            "/v1/apps/{}/streams/{}/records?producer={}&epoch=1&sequence={number}",
            producer.app, producer.stream, producer.name
        );
        while !is_stored(place, &path, body.clone()).await {
            place = turns.next().unwrap_or(place);
            tokio::time::sleep(PAUSE).await;
        }
        file.write_all(&body)?;
    }
    Ok(file.flush()?)
}

async fn is_stored(place: &Place, path: &str, body: Bytes) -> bool {
    wire::ask(place, Method::POST, path, body, PATIENCE).await.is_ok_and(|(status, _)| status.is_success())
}

/// The records of a publication as the example reads them, each with a number that its producer gives once.
fn records(producer: &str, publication: u64) -> anyhow::Result<Bytes> {
    let mut body = Vec::new();
    for record in 0..RECORDS {
        let (seq, minute) = ((publication - 1) * RECORDS + record + 1, publication % 60);
        let value = format!("{seq},2014-01-01 00:{minute:02}:00,{}", 70 + record);
        serde_json::to_writer(
            &mut body,
            &serde_json::json!({ "key": format!("{producer}/{record}"), "value": value }),
        )?;
        body.push(b'\n');
    }
    Ok(body.into())
}

/// Begins to follow every sink, at each node where it may be.
pub(super) fn watch_sinks(nodes: &Nodes, ledger: &Arc<Ledger>) {
    for app in super::apps::HALLS {
        for (number, role) in ROLES.iter().enumerate() {
            let sink = if role.site == app {
                "scores"
            } else if role.site == "cloud" {
                "ledger"
            } else {
                continue;
            };
            tokio::spawn(follow(nodes.admin(number), app, sink, Arc::clone(ledger)));
        }
    }
}

/// Follows a sink at a node, whatever becomes of it.
async fn follow(place: Place, app: &'static str, sink: &'static str, ledger: Arc<Ledger>) {
    let path = format!("/v1/apps/{app}/streams/{sink}/records?last={LOOK_BACK}&follow=true");
    loop {
        if let Ok(Ok(response)) =
            tokio::time::timeout(ANSWER, wire::open(&place, Method::GET, &path, Bytes::new())).await
        {
            let mut body = response.into_body();
            let mut lines = BytesMut::new();
            while let Some(Ok(frame)) = body.frame().await {
                lines.extend_from_slice(frame.data_ref().map_or(&[], |data| data));
                while let Some(end) = lines.iter().position(|byte| *byte == b'\n') {
                    note(&lines.split_to(end + 1), &ledger);
                }
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// What a sink's row says of the record that it comes from.
#[derive(Deserialize)]
struct Row {
    sensor: String,
    seq: u64,
}

fn note(line: &[u8], ledger: &Ledger) {
    if let Ok(row) = serde_json::from_slice::<Row>(line) {
        ledger.seen(&row.sensor, row.seq);
    }
}

/// Writes all that is in the sinks into a folder; the files.
pub(super) fn dump(nodes: &Nodes, folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for app in super::apps::HALLS {
        for sink in ["scores", "ledger"] {
            let rows = nodes.tell(&["stream", "tail", &format!("{app}/{sink}"), "--from", "start"])?;
            let file = folder.join(format!("{app}-{sink}.ndjson"));
            std::fs::write(&file, rows)?;
            files.push(file);
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_published_before_a_moment_does_not_count_as_resumed() {
        let ledger = Ledger::default();
        assert_eq!(ledger.begun("d"), 1);
        let since = Instant::now();
        ledger.seen("d/3", RECORDS);
        assert_eq!(ledger.resumed("d", since), None);
        assert_eq!(ledger.begun("d"), 2);
        assert_eq!((ledger.resumed("d", since), ledger.outstanding()), (None, 1));
        ledger.seen("d/0", RECORDS + 1);
        assert!(ledger.resumed("d", since).is_some());
        assert_eq!((ledger.outstanding(), ledger.published()), (0, 2 * RECORDS));
    }

    #[test]
    fn records_are_numbered_once() {
        let all: Vec<u8> = [1, 2].iter().flat_map(|publication| records("d", *publication).unwrap()).collect();
        let all = String::from_utf8(all).unwrap();
        let numbers: Vec<&str> =
            all.lines().filter_map(|line| line.split_once("\"value\":\"")?.1.split(',').next()).collect();
        assert_eq!(numbers.len(), 20);
        assert_eq!((numbers[0], numbers[19]), ("1", "20"));
    }

    #[test]
    fn a_cut_stops_what_crosses_it_and_nothing_else() {
        let cut = |node: &str| Disturbance { kind: Kind::Cut, slot: super::super::nodes::slot_of(node).unwrap() };
        let surviving = |node: &str| {
            let producers = producers().into_iter().filter(|producer| producer.survives(cut(node)));
            producers.map(|producer| producer.name).collect::<Vec<_>>()
        };
        assert_eq!(surviving("edge-a1"), ["device-a1", "device-a2", "device-b1", "hall-b"]);
        assert_eq!(surviving("cloud-1"), ["device-a1", "device-a2", "device-b1"]);
        assert_eq!(surviving("device-a1"), ["device-a2", "device-b1", "hall-a", "hall-b"]);
        assert_eq!(surviving("region-1").len(), 5);
    }
}
