//! Feeds a stream's partition from the stages that write to it.
//!
//! The rows are copied as they are, undecoded: one commit holds the input's new position and the rows, so that a row
//! is in the stream exactly once whatever fails between the two nodes.

use std::sync::Arc;

use futures::stream::{FuturesUnordered, StreamExt};
use littoral_model::entry::{Commit, PORT_MAIN, PortBatch, Position};
use littoral_model::id::Epoch;
use littoral_store::replica::Owned;
use tokio::time::Interval;

use crate::Ended;
use crate::batch;
use crate::committer::Committer;
use crate::reader::{Input, Reader, Received, Source};
use crate::stage::SKIP_EVERY;
use crate::stats::{Stats, Step};

/// Everything a fed partition needs.
pub struct IngestWork {
    /// The right to write its log.
    pub owned: Owned,
    /// What writes to it.
    pub inputs: Vec<Input>,
    /// Where that comes from.
    pub source: Arc<dyn Source>,
    /// Where it reports.
    pub stats: Arc<Stats>,
}

struct Lane {
    input: Input,
    reader: Reader,
    /// Progress over entries without rows for us that is not committed yet.
    skipped: Option<(Epoch, Position)>,
}

/// Feeds a partition until it has another owner.
pub async fn run(work: IngestWork) -> Ended {
    let restored = match work.owned.restore().await {
        Ok(restored) => restored,
        Err(error) => return error.into(),
    };
    let mut lanes: Vec<Lane> = Vec::with_capacity(work.inputs.len());
    for input in work.inputs {
        let known = restored.inputs.iter().find(|known| known.work == input.work);
        let (epoch, from) = known.map_or((Epoch(0), Position::START), |known| (known.epoch, known.position));
        let reader = Reader::start(Arc::clone(&work.source), work.owned.work().clone(), input.clone(), from, epoch);
        lanes.push(Lane { input, reader, skipped: None });
    }
    let mut committer = Committer::new(work.owned, Arc::clone(&work.stats));
    let mut flush = tokio::time::interval(SKIP_EVERY);
    loop {
        match turn(&mut lanes, &mut committer, &mut flush).await {
            Ok(()) => {}
            Err(ended) => return ended,
        }
    }
}

async fn turn(lanes: &mut [Lane], committer: &mut Committer, flush: &mut Interval) -> Result<(), Ended> {
    let arrived = {
        let mut next: FuturesUnordered<_> = lanes
            .iter_mut()
            .enumerate()
            .map(|(place, lane)| async move { (place, lane.reader.next().await) })
            .collect();
        tokio::select! {
            Some(arrived) = next.next() => Some(arrived),
            () = committer.fenced() => return Err(Ended::Fenced),
            _ = flush.tick() => None,
        }
    };
    let Some((place, received)) = arrived else {
        return flush_skipped(lanes, committer).await;
    };
    let received = received.ok_or_else(|| Ended::Failed("an input's reader ended".to_owned()))?;
    match lanes.get_mut(place) {
        Some(lane) => take(lane, received, committer).await,
        None => Ok(()),
    }
}

async fn take(lane: &mut Lane, received: Received, committer: &Committer) -> Result<(), Ended> {
    if received.batches.is_empty() {
        lane.skipped = Some((received.epoch, received.next));
        return Ok(());
    }
    lane.skipped = None;
    let mut outputs = Vec::with_capacity(received.batches.len());
    let mut step = Step::default();
    for (index, rows) in received.batches {
        let skip = if index == received.from.index { received.from.row } else { 0 };
        let rows = without_first(rows, skip)?;
        step.rows_in += u64::from(rows.rows);
        step.bytes_in += rows.arrow.len() as u64;
        step.origin_us = [step.origin_us, rows.origin_us].into_iter().flatten().min();
        outputs.push(rows);
    }
    step.rows_out = vec![(PORT_MAIN.to_owned(), step.rows_in)];
    let commit = Commit { outputs, ..Commit::default() };
    committer.commit(commit, (&lane.input.work, received.epoch, received.next), &lane.reader.committed(), step).await
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

async fn flush_skipped(lanes: &mut [Lane], committer: &Committer) -> Result<(), Ended> {
    for lane in lanes {
        if let Some((epoch, position)) = lane.skipped.take() {
            let input = (&lane.input.work, epoch, position);
            committer.commit(Commit::default(), input, &lane.reader.committed(), Step::default()).await?;
        }
    }
    Ok(())
}
