//! An edge site that is cut off from the cloud for days: its node is restarted and loses its power again and again, records
//! are published all the time, many times as many as their stream may keep, and whoever reads them is in the cloud.
//!
//! What must come of it: the disk never takes more than the works' limits say; who publishes is told when there is no room;
//! and after the cut the cloud gets exactly what was acknowledged, each record once, in the order of each partition.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use littoral_model::entry::{PORT_MAIN, PortBatch, ProducerSequence};
use littoral_model::id::{NodeId, Tier};
use littoral_model::wire::{PublishReply, PublishRequest};
use littoral_model::work::WorkId;
use littoral_plan::{Placement, Role};
use tokio::time::{Instant, sleep};

use crate::apps::{self, COLLECTED};
use crate::history::Event;
use crate::net::{Reply, Request};
use crate::node::LOG;
use crate::world::{World, lock};

/// How often the node is restarted during the cut.
pub const RESTARTS: u64 = 20;
/// What each work may take of the disk.
const WORK_BYTES_MAX: u64 = 2 << 20;
/// Where one work goes on and another one waits, their segments are half of entries that were given up before the log copies the others:
/// it may take twice what it holds.
const SPARSE: u64 = 2;
/// What a segment loses at its ends, with the small works beside, as a part of it.
const LOST_FRACTION: u64 = 32;
/// The segments that are there beside those that are full: the one that is written, the spare one, and two that are about to be
/// deleted.
const SEGMENTS_BESIDE: u64 = 4;
/// How often the disk is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// How often a record is published to each partition, and how long it is.
const EVERY: Duration = Duration::from_secs(5);
const RECORD_BYTES: (u64, u64) = (500, 3_500);
/// How long whoever publishes waits when there is no room, and when there was no answer.
const NO_ROOM_PAUSE: Duration = Duration::from_secs(30);
const NO_ANSWER_PAUSE: Duration = Duration::from_millis(200);
const ANSWER_DEADLINE: Duration = Duration::from_secs(3);

/// How long the fabric may take to form, and the app to run.
const FORMING: Duration = Duration::from_secs(6);
const CALM: Duration = Duration::from_secs(20);
/// How long a node that was stopped stays away.
const AWAY: Duration = Duration::from_secs(5);
/// How many records of each partition must be acknowledged after the cut, and how long that and their arrival may take.
const MORE_RECORDS: u64 = 50;
const ARRIVED: Duration = Duration::from_secs(3_600);

/// What came of a seed.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Equal for two runs in which the same happened at the same time.
    pub hash: u64,
    /// What did not hold.
    pub violations: Vec<String>,
    /// How many records were acknowledged.
    pub acknowledged: u64,
    /// How many publications were turned down because there was no room.
    pub turned_down: u64,
    /// How many of the restarts were power cuts.
    pub power_cuts: u64,
    /// The most that the disk took, and what it may, in bytes.
    pub disk_bytes: (u64, u64),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (most, allowed) = self.disk_bytes;
        let Self { hash, acknowledged, turned_down, power_cuts, .. } = self;
        write!(
            f,
            "{hash:016x}, {acknowledged} acknowledged, {turned_down} turned down, {power_cuts} power cuts, {most} of {allowed} bytes of the disk"
        )
    }
}

/// What those who publish saw of one partition.
#[derive(Debug, Default)]
struct Seen {
    acknowledged: u64,
    turned_down: u64,
    /// Something that is no answer to a publication that was in order.
    odd: Vec<String>,
}

/// One run.
struct Run {
    world: Arc<World>,
    edge: NodeId,
    stop: AtomicBool,
    seen: Mutex<BTreeMap<WorkId, Seen>>,
    disk_bytes_most: Mutex<u64>,
}

/// Runs a seed with a cut of so many hours. To be called on a runtime of one thread whose clock is paused.
pub async fn run(seed: u64, hours: u64, trace: bool) -> Outcome {
    let world = World::with(seed, trace, &[("cloud", Tier::Cloud, 1), ("hall", Tier::Edge, 1)], WORK_BYTES_MAX);
    // What waits for the cloud is the stream where the stage runs there, else what the stage puts out, and then the stream.
    let stage = if seed.is_multiple_of(2) { Tier::Cloud } else { Tier::Edge };
    let streams = u64::from(COLLECTED) * WORK_BYTES_MAX;
    let bytes_max = if stage == Tier::Edge { SPARSE * 2 * streams } else { streams };
    let allowed = bytes_max + bytes_max / LOST_FRACTION + SEGMENTS_BESIDE * u64::from(LOG.segment_bytes);
    let run = Arc::new(Run {
        world,
        edge: NodeId::new("hall-1").unwrap(),
        stop: AtomicBool::new(false),
        seen: Mutex::default(),
        disk_bytes_most: Mutex::default(),
    });
    let mut outcome = Outcome::default();
    if let Err(violation) = run.play(stage, Duration::from_secs(hours * 3_600), &mut outcome).await {
        outcome.violations.push(violation);
    }
    let seen = lock(&run.seen);
    outcome.hash = run.world.history.hash();
    outcome.acknowledged = seen.values().map(|seen| seen.acknowledged).sum();
    outcome.turned_down = seen.values().map(|seen| seen.turned_down).sum();
    outcome.violations.extend(seen.values().flat_map(|seen| seen.odd.clone()));
    outcome.disk_bytes = (*lock(&run.disk_bytes_most), allowed);
    if outcome.disk_bytes.0 > allowed {
        outcome.violations.push(format!("the disk took {} bytes; {allowed} are allowed", outcome.disk_bytes.0));
    }
    if let Some((work, _)) = seen.iter().find(|(_, seen)| seen.turned_down == 0) {
        outcome.violations.push(format!("nothing was turned down at {work}, which had no room"));
    }
    outcome
}

impl Run {
    async fn play(self: &Arc<Self>, stage: Tier, cut: Duration, outcome: &mut Outcome) -> Result<(), String> {
        for node in self.world.machines.keys() {
            self.world.boot(node).await?;
        }
        sleep(FORMING).await;
        let cloud = self.cloud()?;
        let placement = self.world.deploy(&cloud, &apps::collecting(stage)).await?;
        tokio::spawn(Arc::clone(self).watch_disk());
        let partitions: Vec<WorkId> = partitions(&placement, "events").cloned().collect();
        for work in &partitions {
            tokio::spawn(Arc::clone(self).produce(work.clone()));
        }
        sleep(CALM).await;
        self.cut(true);
        self.restarts(cut, outcome).await?;
        self.cut(false);
        let before = self.acknowledged();
        let deadline = Instant::now() + ARRIVED;
        let more = |work: &WorkId| self.acknowledged().get(work) >= before.get(work).map(|n| n + MORE_RECORDS).as_ref();
        while !partitions.iter().all(more) {
            if Instant::now() > deadline {
                return Err(format!("publishing does not go on: {before:?}, then {:?}", self.acknowledged()));
            }
            sleep(LOOK).await;
        }
        self.stop.store(true, Ordering::Relaxed);
        // What is under way by now is answered.
        sleep(NO_ROOM_PAUSE + ANSWER_DEADLINE).await;
        self.judge(&placement, deadline).await
    }

    fn cloud(&self) -> Result<Arc<crate::node::Node>, String> {
        let cloud = self.world.nodes().into_values().find(|node| *node.id() != self.edge);
        cloud.ok_or_else(|| "the cloud does not run".to_owned())
    }

    fn acknowledged(&self) -> BTreeMap<WorkId, u64> {
        lock(&self.seen).iter().map(|(work, seen)| (work.clone(), seen.acknowledged)).collect()
    }

    /// Cuts the edge off from everybody, or mends that.
    fn cut(&self, is_cut: bool) {
        for other in self.world.machines.keys().filter(|node| **node != self.edge) {
            self.world.net.cut(&self.edge, other, is_cut);
            self.world.net.cut(other, &self.edge, is_cut);
        }
        self.world.history.note(Event::Act(format!("{} is cut off: {is_cut}", self.edge)));
    }

    /// Restarts the edge's node at random moments of the cut.
    async fn restarts(&self, cut: Duration, outcome: &mut Outcome) -> Result<(), String> {
        let end = Instant::now() + cut;
        let span_ms = u64::try_from(cut.as_millis()).unwrap_or(u64::MAX);
        let at: BTreeSet<u64> = (0..RESTARTS).map(|_| self.world.below(span_ms)).collect();
        let begun = Instant::now();
        for at_ms in at {
            tokio::time::sleep_until(begun + Duration::from_millis(at_ms)).await;
            match self.world.below(3) {
                0 => self.world.stop(&self.edge).await,
                1 => {
                    self.world.crash(&self.edge, true);
                    outcome.power_cuts += 1;
                }
                _ => {
                    // In the middle of one of the next writes.
                    if let Some(disk) = self.world.log_disk(&self.edge) {
                        disk.crash_after(self.world.below(40));
                    }
                    sleep(AWAY).await;
                    self.world.crash(&self.edge, true);
                    outcome.power_cuts += 1;
                }
            }
            sleep(AWAY.mul_f64(self.world.below(1_000) as f64 / 1_000.0)).await;
            self.world.boot(&self.edge).await?;
        }
        tokio::time::sleep_until(end).await;
        Ok(())
    }

    /// Takes note of the most that the disk takes.
    async fn watch_disk(self: Arc<Self>) {
        loop {
            let used = self.world.log_disk(&self.edge).map_or(0, |disk| disk.used());
            {
                let mut most = lock(&self.disk_bytes_most);
                *most = used.max(*most);
            }
            sleep(LOOK).await;
        }
    }

    /// Publishes records to a partition, one after the other, each until it is acknowledged.
    async fn produce(self: Arc<Self>, work: WorkId) {
        let mut sequence = 0;
        while !self.stop.load(Ordering::Relaxed) {
            sequence += 1;
            let request = self.record(&work, sequence);
            while !self.publish(&work, &request).await {
                if self.stop.load(Ordering::Relaxed) {
                    return;
                }
            }
            sleep(EVERY.mul_f64(0.5 + self.world.below(1_000) as f64 / 1_000.0)).await;
        }
    }

    fn record(&self, work: &WorkId, sequence: u64) -> PublishRequest {
        let (least, most) = RECORD_BYTES;
        let filling = usize::try_from(least + self.world.below(most - least)).unwrap_or_default();
        let producer = ProducerSequence { producer: work.to_string(), epoch: 1, sequence };
        let arrow = Bytes::from(format!("{work}#{sequence} {}", "x".repeat(filling)));
        let batch = PortBatch { port: PORT_MAIN.to_owned(), rows: 1, origin_us: None, arrow };
        PublishRequest { work: work.clone(), batch, producer: Some(producer) }
    }

    /// Publishes once; whether it was acknowledged. Waits if not.
    async fn publish(&self, work: &WorkId, request: &PublishRequest) -> bool {
        let answer = self.world.net.ask(&self.edge, Request::Publish(request.clone()), ANSWER_DEADLINE).await;
        let pause = {
            let mut seen = lock(&self.seen);
            let seen = seen.entry(work.clone()).or_default();
            match answer {
                Ok(Reply::Publish(PublishReply::Stored { .. })) => {
                    seen.acknowledged += 1;
                    return true;
                }
                Ok(Reply::Publish(PublishReply::Full(_))) => {
                    seen.turned_down += 1;
                    NO_ROOM_PAUSE
                }
                // While it starts, or its disk has lost its power.
                Ok(Reply::Publish(PublishReply::NotOwner(_) | PublishReply::Refused(_))) | Err(_) => NO_ANSWER_PAUSE,
                Ok(other) => {
                    seen.odd.push(format!("{work} answered {other:?}"));
                    NO_ANSWER_PAUSE
                }
            }
        };
        sleep(pause.mul_f64(0.5 + self.world.below(1_000) as f64 / 1_000.0)).await;
        false
    }

    /// Whether the cloud has exactly what was acknowledged, once all of it had the time to arrive.
    async fn judge(&self, placement: &Placement, deadline: Instant) -> Result<(), String> {
        let sink = partitions(placement, "alerts").next().ok_or("there is no sink")?.clone();
        let acknowledged = self.acknowledged();
        loop {
            let arrived = crate::invariants::read(&self.cloud()?, &sink).await;
            let judged = compare(&acknowledged, arrived.iter().map(|(_, text)| text.as_str()));
            if judged.is_ok() || Instant::now() > deadline {
                return judged;
            }
            sleep(NO_ROOM_PAUSE).await;
        }
    }
}

/// The partitions of a stream.
fn partitions<'a>(placement: &'a Placement, name: &'a str) -> impl Iterator<Item = &'a WorkId> {
    let of_stream = move |role: &Role| matches!(role, Role::StreamPartition { stream, .. } if stream.as_str() == name);
    placement.works.iter().filter(move |placed| of_stream(&placed.role)).map(|placed| &placed.work)
}

/// Whether what arrived of each partition are the records that were acknowledged, in their order. Of each one more may be
/// there: the one whose answer nobody waited for in the end.
fn compare<'a>(acknowledged: &BTreeMap<WorkId, u64>, arrived: impl Iterator<Item = &'a str>) -> Result<(), String> {
    let mut last: BTreeMap<&str, u64> = BTreeMap::new();
    for text in arrived {
        let named = text.split(' ').next().and_then(|name| name.rsplit_once('#'));
        let parsed = named.and_then(|(work, number)| Some((work, number.parse::<u64>().ok()?)));
        let Some((work, number)) = parsed else { return Err(format!("{text} arrived, which nobody published")) };
        let last = last.entry(work).or_default();
        if number != *last + 1 {
            return Err(format!("{work}: record {number} arrived after record {last}"));
        }
        *last = number;
    }
    for (work, count) in acknowledged {
        let arrived = last.get(work.to_string().as_str()).copied().unwrap_or_default();
        if arrived != *count && arrived != count + 1 {
            return Err(format!("{work}: {count} records were acknowledged and {arrived} arrived"));
        }
    }
    Ok(())
}
