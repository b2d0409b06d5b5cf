//! Pulls the rows of one input from whoever owns it, ahead of their use.
//!
//! A reader asks with a long poll from its position on, so that rows arrive one link delay after they are committed,
//! and tells the owner up to where its own work has committed, so that the owner can forget. It refuses rows of an
//! owner with a lower epoch than it has seen: that owner was replaced and does not know it yet.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use littoral_model::entry::{PortBatch, Position};
use littoral_model::id::Epoch;
use littoral_model::wire::{FetchReply, FetchRequest};
use littoral_model::work::WorkId;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// How long an owner waits for rows before it answers without; also how late it learns of our progress when idle.
const WAIT_MS: u32 = 1_000;
/// About how many bytes one answer carries: enough to fill a 50 Mbit/s link over 100 ms.
const FETCH_BYTES: u32 = 1 << 20;
/// How many answers wait for the task; with [`FETCH_BYTES`] this bounds the memory of one input.
const AHEAD: usize = 4;
/// The pause after a first failure; it doubles up to [`BACKOFF_MAX`].
const BACKOFF_MIN: Duration = Duration::from_millis(20);
/// The longest pause between two tries.
const BACKOFF_MAX: Duration = Duration::from_millis(250);

/// Where entries come from: the node finds the owner, here or over the mesh.
#[async_trait]
pub trait Source: Send + Sync + 'static {
    /// Asks the owner of `request.work`.
    ///
    /// # Errors
    /// When nobody answers; the reader tries again.
    async fn fetch(&self, request: FetchRequest) -> Result<FetchReply, SourceError>;
}

/// Why an owner could not be asked.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct SourceError(pub String);

/// One input of a unit of work.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Input {
    /// Whose log is read.
    pub work: WorkId,
    /// Which port of it.
    pub port: String,
}

/// Rows that arrived, in order and without gaps.
#[derive(Debug)]
pub struct Received {
    /// The owner's epoch.
    pub epoch: Epoch,
    /// Where these rows began.
    pub from: Position,
    /// Entry index and rows, of an entry all that it has on the port: also those before `from.row`.
    pub batches: Vec<(u64, PortBatch)>,
    /// Where the next ones begin.
    pub next: Position,
}

/// Rows of one batch of an entry.
#[derive(Debug)]
pub struct Part {
    /// Which entry.
    pub index: u64,
    /// How many rows of the entry are before the batch.
    pub row: u32,
    /// How many of its own first rows were read before.
    pub skip: u32,
    /// Whether it is the last batch of its entry.
    pub ends_entry: bool,
    /// The batch, whole.
    pub rows: PortBatch,
}

impl Part {
    /// The place behind it.
    #[must_use]
    pub fn end(&self) -> Position {
        match self.ends_entry {
            true => Position { index: self.index + 1, row: 0 },
            false => Position { index: self.index, row: self.row.saturating_add(self.rows.rows) },
        }
    }
}

impl Received {
    /// The batches and where they are; an entry comes whole, in as many batches as it has. Those that were read before are left out.
    pub fn into_parts(self) -> impl Iterator<Item = Part> {
        let (from, mut batches, mut next) = (self.from, self.batches.into_iter().peekable(), Position::START);
        std::iter::from_fn(move || {
            let (index, rows) = batches.next()?;
            let row = if next.index == index { next.row } else { 0 };
            next = Position { index, row: row.saturating_add(rows.rows) };
            let read = if index == from.index { from.row } else { 0 };
            let skip = read.saturating_sub(row).min(rows.rows);
            let ends_entry = batches.peek().is_none_or(|(next, _)| *next != index);
            Some(Part { index, row, skip, ends_entry, rows })
        })
        .filter(|part| part.skip < part.rows.rows)
    }
}

/// A running reader; it ends when dropped.
#[derive(Debug)]
pub struct Reader {
    received: mpsc::Receiver<Received>,
    committed: Arc<Mutex<Position>>,
    quiet: Arc<Mutex<Duration>>,
    task: JoinHandle<()>,
}

impl Reader {
    /// Starts to read `input` for `consumer`, from a committed position on.
    pub fn start(source: Arc<dyn Source>, consumer: WorkId, input: Input, from: Position, epoch: Epoch) -> Self {
        let (sender, received) = mpsc::channel(AHEAD);
        let committed = Arc::new(Mutex::new(from));
        let quiet = Arc::new(Mutex::new(Duration::ZERO));
        let told = (Arc::clone(&committed), Arc::clone(&quiet));
        let pull = Pull { source, consumer, input, from, epoch, committed: told.0, quiet: told.1, sender };
        Self { received, committed, quiet, task: tokio::spawn(pull.run()) }
    }

    /// For how long the input's owner has said, whenever it was asked, that there is nothing more. What has arrived is not counted.
    pub fn quiet(&self) -> Duration {
        *self.quiet.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next rows; waits for them. `None` only after the reader was stopped from inside, which does not happen.
    pub async fn next(&mut self) -> Option<Received> {
        self.received.recv().await
    }

    /// Rows that have arrived already, without waiting.
    pub fn try_next(&mut self) -> Option<Received> {
        self.received.try_recv().ok()
    }

    /// The handle by which the consumer tells how far it has committed.
    pub fn committed(&self) -> Progress {
        Progress(Arc::clone(&self.committed))
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Tells a reader how far its consumer has committed.
#[derive(Debug, Clone)]
pub struct Progress(Arc<Mutex<Position>>);

impl Progress {
    /// Everything before `position` is safe.
    pub fn reached(&self, position: Position) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = position;
    }
}

struct Pull {
    source: Arc<dyn Source>,
    consumer: WorkId,
    input: Input,
    from: Position,
    epoch: Epoch,
    committed: Arc<Mutex<Position>>,
    quiet: Arc<Mutex<Duration>>,
    sender: mpsc::Sender<Received>,
}

impl Pull {
    async fn run(mut self) {
        let mut backoff = BACKOFF_MIN;
        // Since when there is nothing.
        let mut since = Instant::now();
        loop {
            let request = self.request();
            match self.source.fetch(request).await {
                Ok(FetchReply::Rows { epoch, batches, next, .. }) if epoch >= self.epoch => {
                    backoff = BACKOFF_MIN;
                    self.epoch = epoch;
                    if next == self.from {
                        self.is_quiet(since.elapsed());
                        continue;
                    }
                    if !batches.is_empty() {
                        since = Instant::now();
                    }
                    self.is_quiet(since.elapsed());
                    let received = Received { epoch, from: self.from, batches, next };
                    self.from = next;
                    if self.sender.send(received).await.is_err() {
                        return;
                    }
                    continue;
                }
                Ok(FetchReply::Trimmed(first)) if first > self.from => {
                    // Only retention gets ahead of a registered consumer; a new one starts at what is still held.
                    tracing::warn!(consumer = %self.consumer, input = %self.input.work, from = self.from.index,
                        first = first.index, "entries were forgotten before they were read; going on with the first held");
                    self.from = first;
                    continue;
                }
                Ok(FetchReply::Rows { epoch, .. }) => {
                    tracing::warn!(input = %self.input.work, %epoch, seen = %self.epoch, "refused rows of a replaced owner");
                }
                Ok(other) => {
                    tracing::debug!(input = %self.input.work, ?other, "the input has no owner to read from yet")
                }
                Err(error) => tracing::debug!(input = %self.input.work, %error, "the input's owner does not answer"),
            }
            // What it has in the meantime is not known.
            self.is_quiet(Duration::ZERO);
            tokio::time::sleep(backoff).await;
            since = Instant::now();
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
    }

    fn is_quiet(&self, quiet: Duration) {
        *self.quiet.lock().unwrap_or_else(PoisonError::into_inner) = quiet;
    }

    fn request(&self) -> FetchRequest {
        FetchRequest {
            work: self.input.work.clone(),
            port: self.input.port.clone(),
            consumer: Some(self.consumer.clone()),
            from: self.from,
            committed: *self.committed.lock().unwrap_or_else(PoisonError::into_inner),
            bytes_max: FETCH_BYTES,
            wait_ms: WAIT_MS,
        }
    }
}
