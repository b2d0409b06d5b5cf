//! Runs a sink: hands it the rows of a stream's partitions, and commits how far it has come once they are safe outside.
//!
//! Rows that it does not take stay in the stream's log, which forgets nothing that a sink has not committed. Nothing is kept
//! here but what has arrived ahead.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::select_all;
use littoral_flow::reader::{Input, Reader, Received, Source};
use littoral_flow::stats::{Stats, Step};
use littoral_flow::{Ended, batch};
use littoral_model::entry::{Commit, InputPosition, PortBatch, Position};
use littoral_model::id::Epoch;
use littoral_model::manifest::SinkConnector;
use littoral_model::work::WorkId;
use littoral_store::replica::Owned;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::{BATCH_BYTES, Flushed, Machine, Part, Rows, Sink, Trouble, is_planned, open_sink};

/// The key group of the log that has what the sink must know.
const KNOWN: u32 = 0;
/// The key group that has which rows are being written together.
const PLAN: u32 = 1;
/// The version of the form of plans.
const PLAN_VERSION: u32 = 1;

/// Everything that a running sink needs.
pub struct SinkWork {
    /// The right to write its log.
    pub owned: Owned,
    /// What is to be written.
    pub sink: SinkConnector,
    /// The partitions of the stream that it reads.
    pub inputs: Vec<Input>,
    /// Where they come from.
    pub source: Arc<dyn Source>,
    /// The machine that it is written on.
    pub machine: Arc<dyn Machine>,
    /// Where it reports.
    pub stats: Arc<Stats>,
}

/// Runs a sink until it has another owner.
pub async fn run(work: SinkWork) -> Ended {
    let lost = work.owned.clone();
    tokio::select! {
        ended = drain(work) => ended,
        () = lost.lost() => Ended::Fenced,
    }
}

async fn drain(work: SinkWork) -> Ended {
    let restored = match work.owned.restore().await {
        Ok(restored) => restored,
        Err(error) => return error.into(),
    };
    let state = |wanted| restored.state.iter().find(|(group, _)| *group == wanted).map(|(_, bytes)| bytes.clone());
    let known = state(KNOWN);
    let planned = match state(PLAN).map(|plan| Plan::decode(&plan)).transpose() {
        Ok(planned) => planned,
        Err(trouble) => return Ended::Failed(trouble.to_string()),
    };
    let lane = |input: &Input| {
        let known = restored.inputs.iter().find(|known| known.work == input.work);
        let committed = known.map_or((Epoch(0), Position::START), |known| (known.epoch, known.position));
        Lane::start(&work.source, work.owned.work(), input.clone(), committed)
    };
    let lanes = work.inputs.iter().map(lane).collect();
    let (opened, waiting, backoff) = (None, None, Backoff::default());
    let mut running = Running {
        owned: work.owned,
        sink: work.sink,
        machine: work.machine,
        source: work.source,
        stats: work.stats,
        known,
        lanes,
        opened,
        waiting,
        backoff,
    };
    running.stats.runs();
    if let Err(ended) = running.settle().await {
        return ended;
    }
    if let Some(plan) = planned
        && let Err(ended) = running.resume(plan).await
    {
        return ended;
    }
    loop {
        if let Err(ended) = running.turn().await {
            return ended;
        }
    }
}

/// Which rows are being written together: up to where of each partition.
#[derive(Debug, Serialize, Deserialize)]
struct Plan {
    version: u32,
    parts: Vec<(WorkId, Position)>,
}

impl Plan {
    fn decode(bytes: &[u8]) -> Result<Self, Trouble> {
        let plan = serde_json::from_slice::<Self>(bytes).ok().filter(|plan| plan.version == PLAN_VERSION);
        plan.ok_or_else(|| Trouble("what it was writing is in a form that this version does not know".to_owned()))
    }
}

/// One partition of the stream.
struct Lane {
    input: Input,
    reader: Reader,
    /// Up to where its rows are committed, and under which epoch they came.
    committed: (Epoch, Position),
    /// What has arrived behind the rows that are written first.
    held: Option<Received>,
}

impl Lane {
    fn start(source: &Arc<dyn Source>, sink: &WorkId, input: Input, committed: (Epoch, Position)) -> Self {
        let (epoch, from) = committed;
        let reader = Reader::start(Arc::clone(source), sink.clone(), input.clone(), from, epoch);
        Self { input, reader, committed, held: None }
    }

    async fn next(&mut self) -> Option<Received> {
        match self.held.take() {
            Some(held) => Some(held),
            None => self.reader.next().await,
        }
    }

    fn try_next(&mut self) -> Option<Received> {
        self.held.take().or_else(|| self.reader.try_next())
    }

    /// What there is up to a place, however it arrives.
    async fn upto(&mut self, end: Position) -> Option<Received> {
        let mut all = self.next().await?;
        while all.next < end {
            let Received { epoch, batches, next, .. } = self.next().await?;
            (all.epoch, all.next) = (epoch, next);
            all.batches.extend(batches);
        }
        let behind = all.batches.iter().position(|(index, _)| *index >= end.index).unwrap_or(all.batches.len());
        let batches = all.batches.split_off(behind);
        if all.next > end {
            self.held = Some(Received { epoch: all.epoch, from: end, batches, next: all.next });
            all.next = end;
        }
        Some(all)
    }
}

struct Running {
    owned: Owned,
    sink: SinkConnector,
    machine: Arc<dyn Machine>,
    stats: Arc<Stats>,
    /// What was committed of the sink.
    known: Option<Bytes>,
    source: Arc<dyn Source>,
    lanes: Vec<Lane>,
    opened: Option<Box<dyn Sink>>,
    /// What the sink was given and has not made safe.
    waiting: Option<Waiting>,
    backoff: Backoff,
}

/// Rows that are written and wait to be made safe together with what follows them.
#[derive(Default)]
struct Waiting {
    /// Up to where of each partition.
    inputs: Vec<InputPosition>,
    step: Step,
}

impl Waiting {
    fn add(&mut self, parts: &[Part], step: &Step) {
        for Part { work, epoch, next, .. } in parts {
            self.inputs.retain(|input| input.work != *work);
            self.inputs.push(InputPosition { work: work.clone(), epoch: *epoch, position: *next });
        }
        self.step.rows_in += step.rows_in;
        self.step.bytes_in += step.bytes_in;
        self.step.origin_us = [self.step.origin_us, step.origin_us].into_iter().flatten().min();
    }
}

/// What became of rows that a sink was given.
enum Handed {
    Safe(Flushed),
    /// They wait there for what comes.
    Waits,
    /// What was waiting before them is lost with what was open.
    Lost,
}

impl Running {
    /// Commits what the sink begins with before anything is written: what an earlier life of it has left is told from its own by that.
    async fn settle(&mut self) -> Result<(), Ended> {
        if self.known.is_some() {
            return Ok(());
        }
        self.carry(&[], Step::default(), true).await
    }

    /// Writes what was being written when an owner ended, the very same rows together.
    async fn resume(&mut self, plan: Plan) -> Result<(), Ended> {
        let mut arrived = Vec::with_capacity(plan.parts.len());
        for (work, end) in plan.parts {
            let lane = self.lanes.iter_mut().enumerate().find(|(_, lane)| lane.input.work == work);
            let Some((place, lane)) = lane else { continue };
            let received = lane.upto(end).await.ok_or_else(ended_early)?;
            arrived.push((place, received));
        }
        let (parts, step) = self.parts(arrived)?;
        let has_rows = parts.iter().any(|part| !part.rows.is_empty());
        self.carry(&parts, step, has_rows).await
    }

    /// Takes what has arrived, hands it on until the sink has it, and commits that once it is safe.
    async fn turn(&mut self) -> Result<(), Ended> {
        let Some(arrived) = self.tending().await? else { return Ok(()) };
        let (parts, step) = self.parts(arrived)?;
        let has_rows = parts.iter().any(|part| !part.rows.is_empty());
        if has_rows && is_planned(&self.sink) {
            let parts = parts.iter().map(|part| (part.work.clone(), part.next)).collect();
            let plan = serde_json::to_vec(&Plan { version: PLAN_VERSION, parts });
            let plan = plan.map_err(|error| Ended::Failed(error.to_string()))?;
            let state = vec![(PLAN, Bytes::from(plan))];
            self.owned.append(Commit { state, ..Commit::default() }).await?.await?;
        }
        self.carry(&parts, step, has_rows).await
    }

    fn parts(&self, arrived: Vec<(usize, Received)>) -> Result<(Vec<Part>, Step), Ended> {
        let (mut parts, mut step) = (Vec::with_capacity(arrived.len()), Step::default());
        for (place, received) in arrived {
            let Some(lane) = self.lanes.get(place) else { continue };
            parts.push(part(lane, received, &mut step).map_err(|trouble| Ended::Failed(trouble.to_string()))?);
        }
        Ok((parts, step))
    }

    /// Hands rows on until the sink has them, or only asks it whether it has, and commits what is safe.
    async fn carry(&mut self, parts: &[Part], step: Step, is_asked: bool) -> Result<(), Ended> {
        let handed = match is_asked {
            true => Some(self.hand_on(parts).await),
            false => None,
        };
        if let Some(Handed::Lost) = handed {
            self.rewind();
            return Ok(());
        }
        let is_waiting = self.waiting.is_some();
        self.waiting.get_or_insert_default().add(parts, &step);
        match handed {
            Some(Handed::Safe(flushed)) => self.commit(Some(flushed)).await,
            None if !is_waiting => self.commit(None).await,
            _ => Ok(()),
        }
    }

    /// Commits what was waiting, and what the sink must know of it.
    async fn commit(&mut self, flushed: Option<Flushed>) -> Result<(), Ended> {
        let Waiting { inputs, mut step } = self.waiting.take().unwrap_or_default();
        if let Some((rejected, why)) = flushed.as_ref().and_then(|flushed| flushed.passed_over.as_ref()) {
            step.rejected = *rejected;
            tracing::warn!(work = %self.owned.work(), rejected, "rows were passed over that the sink never takes: {why}");
        }
        let known = flushed.map(|flushed| flushed.known);
        // With them, the plan is carried out.
        let state = known.iter().flat_map(|known| [(KNOWN, known.clone()), (PLAN, Bytes::new())]).collect();
        self.owned.append(Commit { inputs: inputs.clone(), state, ..Commit::default() }).await?.await?;
        for InputPosition { work, epoch, position } in inputs {
            if let Some(lane) = self.lanes.iter_mut().find(|lane| lane.input.work == work) {
                lane.committed = (epoch, position);
                lane.reader.committed().reached(position);
            }
        }
        self.stats.committed(&step);
        let Some(known) = known else { return Ok(()) };
        self.known = Some(known);
        if let Some(opened) = &mut self.opened
            && let Err(trouble) = opened.committed().await
        {
            self.opened = None;
            self.backoff.wait(&self.stats, &trouble).await;
        }
        Ok(())
    }

    /// Reads anew what was given to the sink and is not committed.
    fn rewind(&mut self) {
        self.waiting = None;
        for lane in &mut self.lanes {
            *lane = Lane::start(&self.source, self.owned.work(), lane.input.clone(), lane.committed);
        }
    }

    /// Waits for rows with the sink kept alive. None if there are none to be handed on: what waited there is due, or the sink came to trouble
    /// and was opened anew, so that what is the matter is told although there is nothing to write.
    async fn tending(&mut self) -> Result<Option<Vec<(usize, Received)>>, Ended> {
        let due = self.opened.as_ref().and_then(|sink| sink.waits_until());
        let trouble = tokio::select! {
            biased;
            () = at(due) => None,
            trouble = tend(&mut self.opened) => Some(trouble),
            arrived = arrived(&mut self.lanes) => return arrived.map(Some),
        };
        if let Some(trouble) = trouble {
            self.failed(&trouble).await;
        }
        self.carry(&[], Step::default(), true).await.map(|()| None)
    }

    /// What the sink has of rows that are not safe is not known any more.
    async fn failed(&mut self, trouble: &Trouble) {
        tracing::debug!(work = %self.owned.work(), %trouble, "the sink takes nothing");
        self.opened = None;
        self.backoff.wait(&self.stats, trouble).await;
    }

    /// Hands rows to the sink until it has them, however long that takes, unless others were waiting there.
    async fn hand_on(&mut self, parts: &[Part]) -> Handed {
        loop {
            // It was closed since.
            if self.opened.is_none() && self.waiting.is_some() {
                return Handed::Lost;
            }
            match self.try_hand_on(parts).await {
                Ok(handed) => {
                    self.backoff.over(&self.stats);
                    return handed;
                }
                Err(trouble) => self.failed(&trouble).await,
            }
        }
    }

    async fn try_hand_on(&mut self, parts: &[Part]) -> Result<Handed, Trouble> {
        let sink = match &mut self.opened {
            Some(sink) => sink,
            closed => {
                let work = self.owned.work();
                closed.insert(open_sink(work, &self.sink, &self.machine, self.known.as_deref()).await?)
            }
        };
        for part in parts {
            sink.write(part).await?;
        }
        match sink.waits_until() {
            Some(due) if Instant::now() < due => Ok(Handed::Waits),
            _ => sink.flush().await.map(Handed::Safe),
        }
    }
}

/// Waits until a moment; for ever if there is none.
async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// Keeps an open sink alive.
async fn tend(opened: &mut Option<Box<dyn Sink>>) -> Trouble {
    match opened {
        Some(sink) => sink.tend().await,
        None => std::future::pending().await,
    }
}

/// What the partitions have, of each as much as was sent at once, up to a bound; waits for the first.
async fn arrived(lanes: &mut [Lane]) -> Result<Vec<(usize, Received)>, Ended> {
    if lanes.is_empty() {
        return Err(Ended::Failed("its stream has no partition yet".to_owned()));
    }
    // Each is the first in turn: one that always has something would keep the others waiting.
    lanes.rotate_left(1);
    let next = lanes.iter_mut().map(|lane| Box::pin(lane.next()));
    let (first, place, _) = select_all(next).await;
    let first = first.ok_or_else(ended_early)?;
    let mut bytes = bytes_of(&first);
    let mut arrived = vec![(place, first)];
    for (other, lane) in lanes.iter_mut().enumerate().filter(|(other, _)| *other != place) {
        if bytes >= BATCH_BYTES {
            break;
        }
        if let Some(received) = lane.try_next() {
            bytes += bytes_of(&received);
            arrived.push((other, received));
        }
    }
    Ok(arrived)
}

fn ended_early() -> Ended {
    Ended::Failed("an input's reader ended".to_owned())
}

fn bytes_of(received: &Received) -> usize {
    received.batches.iter().map(|(_, rows)| rows.arrow.len()).sum()
}

/// What has arrived of a partition, decoded.
fn part(lane: &Lane, received: Received, step: &mut Step) -> Result<Part, Trouble> {
    let mut rows = Vec::with_capacity(received.batches.len());
    for (index, batch) in &received.batches {
        let skip = if *index == received.from.index { received.from.row } else { 0 };
        step.bytes_in += batch.arrow.len() as u64;
        step.origin_us = [step.origin_us, batch.origin_us].into_iter().flatten().min();
        let decoded = decoded(batch, skip as usize).map_err(|error| {
            Trouble(format!("entry {index} of {} cannot be read ({error}); it may be damaged", lane.input.work))
        })?;
        step.rows_in += decoded.0.num_rows() as u64;
        rows.push(decoded);
    }
    let Received { epoch, from, next, .. } = received;
    Ok(Part { work: lane.input.work.clone(), epoch, from, next, rows })
}

fn decoded(batch: &PortBatch, skip: usize) -> Result<Rows, batch::BatchError> {
    let rows = batch::decode(batch)?;
    let skip = skip.min(rows.num_rows());
    Ok(Rows(rows.slice(skip, rows.num_rows() - skip)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_plan_of_an_older_version_is_read_and_of_a_newer_one_refused() {
        let text = r#"{"version":1,"parts":[["default/a/stream/s/0@hall",{"index":7,"row":0}]]}"#;
        let plan = Plan::decode(text.as_bytes()).unwrap();
        let work = "default/a/stream/s/0@hall".parse().unwrap();
        assert_eq!(plan.parts, [(work, Position { index: 7, row: 0 })]);
        assert!(Plan::decode(text.replace("\"version\":1", "\"version\":2").as_bytes()).is_err());
    }
}
