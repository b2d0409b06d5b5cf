//! Reads the records of streams for those who look at them: whoever owns the partitions, oldest first, and on as new
//! ones come.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream;
use littoral_flow::batch;
use littoral_flow::reader::Source;
use littoral_model::entry::{PORT_MAIN, PortBatch, Position};
use littoral_model::wire::{FetchReply, FetchRequest};
use littoral_model::work::WorkId;
use serde_json::{Map, Value};
use tokio::time::Instant;

use crate::admin::operations::{Answers, TailStart};
use crate::admin::types::{AdminError, TailRow};

/// How long an owner waits for new rows before it answers without.
const WAIT_MS: u32 = 1_000;
/// About how many bytes one answer carries.
const FETCH_BYTES: u32 = 1 << 20;
/// How long an owner may be unreachable before a tail that does not follow gives up.
const GIVE_UP: Duration = Duration::from_secs(15);
/// The pause before an owner is looked for again.
const PAUSE: Duration = Duration::from_millis(200);
/// The most records of the past that are looked for from the end.
pub(crate) const LAST_MAX: u64 = 100_000;

/// Reads partitions; one after the other, or, to follow, all at once.
pub(crate) fn tail(
    source: Arc<dyn Source>,
    partitions: Vec<WorkId>,
    start: TailStart,
    follow: bool,
) -> Answers<TailRow> {
    let tails = partitions.into_iter().map(move |work| partition(Arc::clone(&source), work, start, follow));
    if follow {
        return Box::pin(stream::select_all(tails));
    }
    Box::pin(stream::iter(tails).flatten())
}

/// The rows of one partition.
fn partition(source: Arc<dyn Source>, work: WorkId, start: TailStart, follow: bool) -> Answers<TailRow> {
    let first = Place::Unknown(start);
    let reading = Reading { source, work, follow, place: first, rows: VecDeque::new(), done: false };
    Box::pin(stream::unfold(reading, |mut reading| async move {
        loop {
            if let Some(row) = reading.rows.pop_front() {
                return Some((Ok(row), reading));
            }
            if reading.done {
                return None;
            }
            if let Err(error) = reading.more().await {
                reading.done = true;
                return Some((Err(error), reading));
            }
        }
    }))
}

/// Where a reading is.
enum Place {
    /// It has yet to find its beginning.
    Unknown(TailStart),
    At(Position),
}

struct Reading {
    source: Arc<dyn Source>,
    work: WorkId,
    follow: bool,
    place: Place,
    rows: VecDeque<TailRow>,
    done: bool,
}

impl Reading {
    /// Fetches the next rows.
    async fn more(&mut self) -> Result<(), AdminError> {
        let from = match &self.place {
            Place::At(from) => *from,
            Place::Unknown(TailStart::Start) => Position::START,
            Place::Unknown(TailStart::End) => Position::END,
            Place::Unknown(TailStart::Last(count)) => {
                let count = *count;
                return self.last(count.min(LAST_MAX)).await;
            }
        };
        let (batches, next) = self.fetch(from, if self.follow { WAIT_MS } else { 0 }).await?;
        // Without rows nothing is left that is committed.
        self.done = batches.is_empty() && !self.follow;
        for (index, rows) in &batches {
            self.rows.extend(decode(&self.work, *index, rows)?);
        }
        self.place = Place::At(next);
        Ok(())
    }

    /// Takes the last `count` rows, going back further until there are as many: not every entry has rows.
    async fn last(&mut self, count: u64) -> Result<(), AdminError> {
        let (_, end) = self.fetch(Position::END, 0).await?;
        let mut back = count.max(1);
        loop {
            let start = Position { index: end.index.saturating_sub(back).max(1), row: 0 };
            let (mut rows, mut from) = (VecDeque::new(), start);
            while from < end {
                let (batches, next) = self.fetch(from, 0).await?;
                if next <= from {
                    break;
                }
                for (index, batch) in &batches {
                    rows.extend(decode(&self.work, *index, batch)?);
                    while rows.len() as u64 > count {
                        rows.pop_front();
                    }
                }
                from = next;
            }
            if rows.len() as u64 >= count || start.index <= 1 {
                self.rows = rows;
                self.place = Place::At(from);
                self.done = !self.follow;
                return Ok(());
            }
            back = back.saturating_mul(4);
        }
    }

    /// Asks the owner, whoever it is by now; what was forgotten is passed over.
    async fn fetch(&self, mut from: Position, wait_ms: u32) -> Result<(Vec<(u64, PortBatch)>, Position), AdminError> {
        let deadline = Instant::now() + GIVE_UP;
        loop {
            let request = FetchRequest {
                work: self.work.clone(),
                port: PORT_MAIN.to_owned(),
                consumer: None,
                from,
                committed: Position::default(),
                bytes_max: FETCH_BYTES,
                wait_ms,
            };
            let reason = match self.source.fetch(request).await {
                Ok(FetchReply::Rows { batches, next, .. }) => return Ok((batches, next)),
                Ok(FetchReply::Trimmed(first)) => {
                    from = first;
                    continue;
                }
                Ok(FetchReply::NotOwner(_)) => "the partition is moving to another owner".to_owned(),
                Err(error) => error.to_string(),
            };
            // Who follows waits for as long as it takes.
            if !self.follow && Instant::now() >= deadline {
                return Err(AdminError::unavailable(format!("{}: {reason}", self.work)).hint("try again"));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Rows as JSON objects, each with its place.
fn decode(work: &WorkId, index: u64, rows: &PortBatch) -> Result<Vec<TailRow>, AdminError> {
    let unreadable = |reason: String| AdminError::internal(format!("entry {index} of {work} cannot be read: {reason}"));
    let decoded = batch::decode(rows).map_err(|error| unreadable(error.to_string()))?;
    let lines = batch::to_json_lines(&decoded).map_err(|error| unreadable(error.to_string()))?;
    let mut found = Vec::with_capacity(decoded.num_rows());
    for line in lines.lines() {
        let mut row: Map<String, Value> = serde_json::from_str(line).map_err(|error| unreadable(error.to_string()))?;
        row.insert("_partition".to_owned(), Value::from(work.partition));
        row.insert("_index".to_owned(), Value::from(index));
        found.push(TailRow(row));
    }
    Ok(found)
}
