//! Feeds a stream's partition from the stages that write to it.
//!
//! The rows are copied as they are, undecoded: one commit holds the input's new position and the rows, so that a row
//! is in the stream exactly once whatever fails between the two nodes. Where the number of partitions by key changes, notices are among the
//! rows, and say in which order the rows of several writers are taken in (`align`).

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{FuturesUnordered, StreamExt};
use littoral_model::entry::{Commit, PORT_MAIN, PortBatch, Position};
use littoral_model::id::Epoch;
use littoral_sql::Notice;
use littoral_store::replica::Owned;
use tokio::time::Interval;

use crate::Ended;
use crate::align::{self, Alignment, Writer};
use crate::batch;
use crate::committer::Committer;
use crate::reader::{Input, Part, Reader, Received, Source};
use crate::stage::SKIP_EVERY;
use crate::stats::{Stats, Step};

/// Everything a fed partition needs.
pub struct IngestWork {
    /// The right to write its log.
    pub owned: Owned,
    /// What writes to it.
    pub inputs: Vec<Input>,
    /// What hands key groups over to it; nothing if the number of partitions by key does not change.
    pub predecessors: Vec<Input>,
    /// Where that comes from.
    pub source: Arc<dyn Source>,
    /// Where it reports.
    pub stats: Arc<Stats>,
}

/// The most bytes of a notice that one who spreads rows has switched: a row of numbers.
const NOTICE_BYTES_MAX: usize = 2 << 10;

struct Lane {
    input: Input,
    writer: Writer,
    reader: Reader,
    /// What was read and is not taken yet.
    rest: Option<Unread>,
    /// For which change that is handed over.
    generation: u32,
    /// Progress over entries without rows for us that is not committed yet.
    skipped: Option<(Epoch, Position)>,
}

struct Ingest {
    lanes: Vec<Lane>,
    /// Where the number of partitions by key changes.
    alignment: Option<Alignment>,
    committer: Committer,
    flush: Interval,
}

/// Feeds a partition until it has another owner.
pub async fn run(work: IngestWork) -> Ended {
    let mut ingest = match Ingest::start(work).await {
        Ok(ingest) => ingest,
        Err(ended) => return ended,
    };
    loop {
        match ingest.turn().await {
            Ok(()) => {}
            Err(ended) => return ended,
        }
    }
}

impl Ingest {
    async fn start(work: IngestWork) -> Result<Self, Ended> {
        let restored = work.owned.restore().await?;
        let id = work.owned.work().clone();
        let alignment = if work.predecessors.is_empty() {
            None
        } else {
            let alignment = Alignment::restore(id.partition, work.inputs.len(), &restored.state);
            Some(alignment.map_err(Ended::Failed)?)
        };
        let spread = work.inputs.into_iter().map(|input| (input, Writer::Spreads));
        let all = spread.chain(work.predecessors.into_iter().map(|input| (input, Writer::HandsOver)));
        let lane = |(input, writer): (Input, Writer)| {
            let known = restored.inputs.iter().find(|known| known.work == input.work);
            let (epoch, from) = known.map_or((Epoch(0), Position::START), |known| (known.epoch, known.position));
            let reader = Reader::start(Arc::clone(&work.source), id.clone(), input.clone(), from, epoch);
            Lane { input, writer, reader, rest: None, generation: 0, skipped: None }
        };
        let lanes = all.map(lane).collect();
        let committer = Committer::new(work.owned, Arc::clone(&work.stats));
        Ok(Self { lanes, alignment, committer, flush: tokio::time::interval(SKIP_EVERY) })
    }

    async fn turn(&mut self) -> Result<(), Ended> {
        let alignment = &self.alignment;
        let is_held = |lane: &Lane| {
            alignment.as_ref().is_some_and(|alignment| match lane.writer {
                Writer::Spreads => alignment.holds(&lane.input.work),
                Writer::HandsOver => lane.rest.is_some() && alignment.holds_handover(lane.generation),
            })
        };
        if let Some(place) = self.lanes.iter().position(|lane| lane.rest.is_some() && !is_held(lane)) {
            let rest = self.lanes.get_mut(place).and_then(|lane| lane.rest.take());
            return self.take(place, rest).await;
        }
        let arrived = {
            let asked = self.lanes.iter_mut().enumerate().filter(|(_, lane)| lane.rest.is_none() && !is_held(lane));
            let mut next: FuturesUnordered<_> =
                asked.map(|(place, lane)| async move { (place, lane.reader.next().await) }).collect();
            tokio::select! {
                Some(arrived) = next.next() => Some(arrived),
                () = self.committer.fenced() => return Err(Ended::Fenced),
                _ = self.flush.tick() => None,
            }
        };
        match arrived {
            Some((_, None)) => Err(Ended::Failed("an input's reader ended".to_owned())),
            Some((place, received)) => self.take(place, received.map(Unread::new)).await,
            None => self.flush_skipped().await,
        }
    }

    /// Takes what one of the writers has written, as far as it may be taken now.
    async fn take(&mut self, place: usize, unread: Option<Unread>) -> Result<(), Ended> {
        let (Some(lane), Some(mut unread)) = (self.lanes.get_mut(place), unread) else { return Ok(()) };
        if unread.parts.is_empty() {
            lane.skipped = Some((unread.epoch, unread.next));
            return Ok(());
        }
        let notice = if lane.input.port == PORT_MAIN { None } else { unread.first_notice(lane.writer)? };
        let Some((at, notice)) = notice else { return lane.commit(unread, None, &self.committer).await };
        // Who hands over to it is not known here yet: the placement that says it is on its way.
        let Some(alignment) = &mut self.alignment else { return Err(Ended::Failed(Notice::UNKNOWN.to_owned())) };
        let generation = notice.change.generation;
        if lane.writer == Writer::HandsOver && alignment.holds_handover(generation) {
            (lane.rest, lane.generation) = (Some(unread), generation);
            return Ok(());
        }
        lane.rest = unread.split_behind(at + 1);
        alignment.take(lane.writer, &lane.input.work, &notice).map_err(Ended::Failed)?;
        lane.commit(unread, Some(alignment.snapshot()), &self.committer).await
    }

    async fn flush_skipped(&mut self) -> Result<(), Ended> {
        for lane in &mut self.lanes {
            if let Some((epoch, position)) = lane.skipped.take() {
                let input = (&lane.input.work, epoch, position);
                let progress = lane.reader.committed();
                self.committer.commit(Commit::default(), input, &progress, Step::default()).await?;
            }
        }
        Ok(())
    }
}

impl Lane {
    /// Commits what was read, with how far the partition is with a change, if that is another one now.
    async fn commit(&mut self, unread: Unread, alignment: Option<Bytes>, committer: &Committer) -> Result<(), Ended> {
        self.skipped = None;
        let mut outputs = Vec::with_capacity(unread.parts.len());
        let mut step = Step::default();
        for part in unread.parts {
            let rows = without_first(part.rows, part.skip)?;
            step.rows_in += u64::from(rows.rows);
            step.bytes_in += rows.arrow.len() as u64;
            step.origin_us = [step.origin_us, rows.origin_us].into_iter().flatten().min();
            outputs.push(rows);
        }
        step.rows_out = vec![(PORT_MAIN.to_owned(), step.rows_in)];
        let state = alignment.into_iter().map(|kept| (align::STATE, kept)).collect();
        let commit = Commit { outputs, state, ..Commit::default() };
        let progress = self.reader.committed();
        committer.commit(commit, (&self.input.work, unread.epoch, unread.next), &progress, step).await
    }
}

/// What was read of a writer, as far as it is not taken.
struct Unread {
    epoch: Epoch,
    parts: VecDeque<Part>,
    /// Where the next ones begin.
    next: Position,
}

impl Unread {
    fn new(received: Received) -> Self {
        let (epoch, next) = (received.epoch, received.next);
        Self { epoch, parts: received.into_parts().collect(), next }
    }

    /// The first notice, and its place: what spreads rows says in a row alone that it has switched, and what hands over says nothing
    /// else than notices.
    fn first_notice(&self, writer: Writer) -> Result<Option<(usize, Notice)>, Ended> {
        for (place, Part { rows, .. }) in self.parts.iter().enumerate() {
            if writer == Writer::Spreads && (rows.rows != 1 || rows.arrow.len() > NOTICE_BYTES_MAX) {
                continue;
            }
            let rows = batch::decode(rows).map_err(|error| Ended::Failed(error.to_string()))?;
            if let Some(notice) = Notice::read(&rows) {
                return Ok(Some((place, notice)));
            }
        }
        Ok(None)
    }

    /// Cuts it behind so many parts; what is behind them, if there is anything.
    fn split_behind(&mut self, parts: usize) -> Option<Self> {
        let behind = self.parts.split_off(parts.min(self.parts.len()));
        let next = self.parts.back().filter(|_| !behind.is_empty()).map(Part::end)?;
        Some(Self { epoch: self.epoch, parts: behind, next: std::mem::replace(&mut self.next, next) })
    }
}

/// The rows on the stream's own port, less those that an earlier commit already took.
fn without_first(rows: PortBatch, skip: u32) -> Result<PortBatch, Ended> {
    if skip == 0 {
        return Ok(PortBatch { port: PORT_MAIN.to_owned(), ..rows });
    }
    let failed = |error: batch::BatchError| Ended::Failed(error.to_string());
    let decoded = batch::decode(&rows).map_err(failed)?;
    let skip = (skip as usize).min(decoded.num_rows());
    batch::encode(PORT_MAIN, &decoded.slice(skip, decoded.num_rows() - skip), rows.origin_us).map_err(failed)
}
