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
    let lanes = work.inputs.iter().map(|input| Lane::start(&work, input, &restored.inputs)).collect();
    let (opened, backoff) = (None, Backoff::default());
    let mut running = Running {
        owned: work.owned,
        sink: work.sink,
        machine: work.machine,
        stats: work.stats,
        known,
        lanes,
        opened,
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
    /// What has arrived behind the rows that are written first.
    held: Option<Received>,
}

impl Lane {
    fn start(work: &SinkWork, input: &Input, restored: &[InputPosition]) -> Self {
        let known = restored.iter().find(|known| known.work == input.work);
        let (epoch, from) = known.map_or((Epoch(0), Position::START), |known| (known.epoch, known.position));
        let reader = Reader::start(Arc::clone(&work.source), work.owned.work().clone(), input.clone(), from, epoch);
        Self { input: input.clone(), reader, held: None }
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
    lanes: Vec<Lane>,
    opened: Option<Box<dyn Sink>>,
    backoff: Backoff,
}

impl Running {
    /// Commits what the sink begins with before anything is written: what an earlier life of it has left is told from its own by that.
    async fn settle(&mut self) -> Result<(), Ended> {
        if self.known.is_some() {
            return Ok(());
        }
        let known = self.hand_on(&[]).await.known;
        let state = vec![(KNOWN, known.clone())];
        self.owned.append(Commit { state, ..Commit::default() }).await?.await?;
        self.known = Some(known);
        Ok(())
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
        self.carry(&parts, step).await
    }

    /// Takes what has arrived, hands it on until the sink has it, and commits that.
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
        self.carry(&parts, step).await
    }

    fn parts(&self, arrived: Vec<(usize, Received)>) -> Result<(Vec<Part>, Step), Ended> {
        let (mut parts, mut step) = (Vec::with_capacity(arrived.len()), Step::default());
        for (place, received) in arrived {
            let Some(lane) = self.lanes.get(place) else { continue };
            parts.push(part(lane, received, &mut step).map_err(|trouble| Ended::Failed(trouble.to_string()))?);
        }
        Ok((parts, step))
    }

    /// Hands rows on until the sink has them, and commits that.
    async fn carry(&mut self, parts: &[Part], mut step: Step) -> Result<(), Ended> {
        let has_rows = parts.iter().any(|part| !part.rows.is_empty());
        let flushed = if has_rows { Some(self.hand_on(parts).await) } else { None };
        if let Some((rejected, why)) = flushed.as_ref().and_then(|flushed| flushed.passed_over.as_ref()) {
            step.rejected = *rejected;
            tracing::warn!(work = %self.owned.work(), rejected, "rows were passed over that the sink never takes: {why}");
        }
        let known = flushed.map(|flushed| flushed.known);
        let inputs =
            parts.iter().map(|part| InputPosition { work: part.work.clone(), epoch: part.epoch, position: part.next });
        // With them, the plan is carried out.
        let state = known.iter().flat_map(|known| [(KNOWN, known.clone()), (PLAN, Bytes::new())]).collect();
        self.owned.append(Commit { inputs: inputs.collect(), state, ..Commit::default() }).await?.await?;
        for part in parts {
            if let Some(lane) = self.lanes.iter().find(|lane| lane.input.work == part.work) {
                lane.reader.committed().reached(part.next);
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

    /// Waits for rows with the sink kept alive. None if that came to trouble: it is opened anew then, so that what is the matter is told
    /// although there is nothing to write.
    async fn tending(&mut self) -> Result<Option<Vec<(usize, Received)>>, Ended> {
        let trouble = tokio::select! {
            arrived = arrived(&mut self.lanes) => return arrived.map(Some),
            trouble = tend(&mut self.opened) => trouble,
        };
        self.opened = None;
        self.backoff.wait(&self.stats, &trouble).await;
        self.hand_on(&[]).await;
        Ok(None)
    }

    /// Hands rows to the sink until it has them safely, however long that takes.
    async fn hand_on(&mut self, parts: &[Part]) -> Flushed {
        loop {
            match self.try_hand_on(parts).await {
                Ok(flushed) => {
                    self.backoff.over(&self.stats);
                    return flushed;
                }
                Err(trouble) => {
                    tracing::debug!(work = %self.owned.work(), %trouble, "the sink takes nothing");
                    // What it has of them is not known any more.
                    self.opened = None;
                    self.backoff.wait(&self.stats, &trouble).await;
                }
            }
        }
    }

    async fn try_hand_on(&mut self, parts: &[Part]) -> Result<Flushed, Trouble> {
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
        sink.flush().await
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
        step.rows_in += decoded.lines.lines().count() as u64;
        rows.push(decoded);
    }
    let Received { epoch, from, next, .. } = received;
    Ok(Part { work: lane.input.work.clone(), epoch, from, next, rows })
}

fn decoded(batch: &PortBatch, skip: usize) -> Result<Rows, batch::BatchError> {
    let rows = batch::decode(batch)?;
    let skip = skip.min(rows.num_rows());
    let rows = rows.slice(skip, rows.num_rows() - skip);
    let columns = rows.schema_ref().fields().iter().map(|field| field.name().clone()).collect();
    let is_record = rows.schema() == batch::record_schema();
    Ok(Rows { columns, lines: batch::to_json_lines(&rows)?, is_record })
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
