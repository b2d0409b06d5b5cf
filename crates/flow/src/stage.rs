//! Runs one fused stage of a flow over one partition of its input.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow_array::RecordBatch;
use littoral_model::entry::{Commit, PORT_DEAD_LETTER, PortBatch, Position};
use littoral_model::id::Epoch;
use littoral_store::replica::{COMMIT_BYTES_MAX, Owned};
use tokio::time::Interval;

use crate::Ended;
use crate::batch::{self, BatchError, DeadLetter};
use crate::chain::{Chain, ChainError, ChainOutput, Operators, row_json};
use crate::committer::Committer;
use crate::pending::{BATCH_ROWS_MAX, Batch, Pending};
use crate::reader::{Input, Progress, Reader, Source};
use crate::stats::{FunctionStep, Stats, Step};

/// How often progress over entries without rows for us is committed, so that the owner can forget them.
pub(crate) const SKIP_EVERY: Duration = Duration::from_secs(1);
/// More than what is around a batch of rows, the state of a key group, or both together in an entry.
const PART_BYTES: usize = 1 << 10;
/// How much of a row that no guest could process is in its dead letter.
const DEAD_ROW_BYTES_MAX: usize = 4 << 20;

/// Everything a stage needs to run.
pub struct StageWork {
    /// The right to write its log.
    pub owned: Owned,
    /// What it reads.
    pub input: Input,
    /// Where that comes from.
    pub source: Arc<dyn Source>,
    /// Its guests.
    pub operators: Box<dyn Operators>,
    /// The position in the flow of the first guest.
    pub first: u32,
    /// How much event times may be out of order, in microseconds.
    pub lateness_us: i64,
    /// Where it reports.
    pub stats: Arc<Stats>,
}

/// Runs a stage until it ends; call it on the shard that is to run the guests.
pub async fn run(work: StageWork) -> Ended {
    match Running::start(work).await {
        Ok(running) => {
            running.stats.runs();
            running.run().await
        }
        Err(ended) => ended,
    }
}

struct Running {
    input: Input,
    reader: Reader,
    progress: Progress,
    pending: Pending,
    chain: Chain,
    committer: Committer,
    flush: Interval,
    stats: Arc<Stats>,
    /// How far the input is consumed.
    at: (Epoch, Position),
    /// Whether the guests have been told that nothing comes.
    is_idle: bool,
}

impl Running {
    async fn start(work: StageWork) -> Result<Self, Ended> {
        let restored = work.owned.restore().await?;
        let (epoch, from) = restored
            .inputs
            .iter()
            .find(|input| input.work == work.input.work)
            .map_or((Epoch(0), Position::START), |input| (input.epoch, input.position));
        let chain = Chain::new(work.operators, work.first, work.lateness_us, restored.watermark_us, restored.state);
        let reader = Reader::start(work.source, work.owned.work().clone(), work.input.clone(), from, epoch);
        let progress = reader.committed();
        let committer = Committer::new(work.owned, Arc::clone(&work.stats));
        let flush = tokio::time::interval(SKIP_EVERY);
        Ok(Self {
            input: work.input,
            reader,
            progress,
            pending: Pending::default(),
            chain,
            committer,
            flush,
            stats: work.stats,
            at: (epoch, from),
            is_idle: false,
        })
    }

    async fn run(mut self) -> Ended {
        loop {
            let ended = match self.turn().await {
                Ok(()) => continue,
                Err(ended) => ended,
            };
            if let Ended::Failed(reason) = &ended {
                self.stats.failed(reason);
            }
            return ended;
        }
    }

    /// Waits for rows, takes what has arrived, and processes one batch. Guests that have not put out all that they can go on with
    /// that while there are none.
    async fn turn(&mut self) -> Result<(), Ended> {
        if self.pending.rows() == 0 {
            match self.reader.try_next() {
                Some(received) => self.pending.push(received).map_err(bad_input)?,
                None if self.chain.has_more() => return self.go_on().await,
                None => self.wait().await?,
            }
        }
        while self.pending.rows() < BATCH_ROWS_MAX {
            let Some(received) = self.reader.try_next() else { break };
            self.pending.push(received).map_err(bad_input)?;
        }
        match self.pending.pop().map_err(bad_input)? {
            Some(batch) => self.process(&batch).await,
            None => Ok(()),
        }
    }

    async fn wait(&mut self) -> Result<(), Ended> {
        tokio::select! {
            received = self.reader.next() => match received {
                Some(received) => self.pending.push(received).map_err(bad_input),
                None => Err(Ended::Failed("the input's reader ended".to_owned())),
            },
            () = self.committer.fenced() => Err(Ended::Fenced),
            _ = self.flush.tick() => match self.pending.skipped() {
                Some(at) => {
                    self.at = at;
                    self.commit_at(Commit::default(), Step::default()).await
                }
                None => self.idle().await,
            },
        }
    }

    /// Tells the guests once that nothing has come for as long as they want to know.
    async fn idle(&mut self) -> Result<(), Ended> {
        let is_due = |after: Duration| !self.is_idle && self.reader.quiet() >= after;
        if !self.chain.idle_after().is_some_and(is_due) {
            return Ok(());
        }
        if let Some(received) = self.reader.try_next() {
            return self.pending.push(received).map_err(bad_input);
        }
        let output = self.chain.idle().await.map_err(|error| Ended::Failed(error.to_string()))?;
        let outputs = encode(&output, None).map_err(bad_input)?;
        self.chain.accept();
        self.is_idle = true;
        if outputs.is_empty() && output.state.is_empty() {
            return Ok(());
        }
        let commit = Commit { state: output.state, outputs, ..Commit::default() };
        self.commit_at(commit, Step::default()).await
    }

    /// Lets guests put out more, in a commit of its own.
    async fn go_on(&mut self) -> Result<(), Ended> {
        let begun = Instant::now();
        let output = self.chain.go_on().await.and_then(|output| fitting(output, None));
        let (output, outputs) = output.map_err(|error| Ended::Failed(error.to_string()))?;
        self.chain.accept();
        if outputs.is_empty() && output.state.is_empty() {
            return Ok(());
        }
        self.commit(Step { process: Some(begun.elapsed()), ..Step::default() }, (output, outputs)).await
    }

    async fn commit_at(&self, commit: Commit, step: Step) -> Result<(), Ended> {
        let (epoch, position) = self.at;
        self.committer.commit(commit, (&self.input.work, epoch, position), &self.progress, step).await
    }

    /// Processes a batch; where guests fail on it, or it comes to more than an entry of the log may have, halves it until the
    /// rows on which they fail stand alone. Those go to the dead-letter port with the reason, all others are processed as if
    /// nothing had been.
    async fn process(&mut self, batch: &Batch) -> Result<(), Ended> {
        let mut ranges = vec![(0, batch.rows.num_rows())];
        // The row before which all that could be put out was.
        let mut cleared = None;
        while let Some((start, count)) = ranges.pop() {
            let begun = Instant::now();
            let rows = batch.rows.slice(start, count);
            let outcome = self.chain.process(&rows).await.and_then(|output| fitting(output, batch.origin_us));
            let (output, outputs) = match outcome {
                Ok(fitting) => {
                    self.chain.accept();
                    fitting
                }
                // What guests have yet to put out may be what is too much.
                Err(ChainError::Rows { .. }) if count == 1 && cleared != Some(start) && self.chain.has_more() => {
                    while self.chain.has_more() {
                        self.go_on().await?;
                    }
                    cleared = Some(start);
                    ranges.push((start, count));
                    continue;
                }
                Err(ChainError::Rows { function, reason }) if count == 1 => {
                    tracing::warn!(%function, %reason, "a record goes to the dead-letter stream");
                    let output = poisoned(&rows, function, reason);
                    let outputs = encode(&output, batch.origin_us).map_err(bad_input)?;
                    (output, outputs)
                }
                Err(ChainError::Rows { function, reason }) => {
                    tracing::debug!(%function, %reason, rows = count, "a guest failed; looking for the record that did it");
                    ranges.push((start + count / 2, count - count / 2));
                    ranges.push((start, count / 2));
                    continue;
                }
                Err(error @ ChainError::Function { .. }) => return Err(Ended::Failed(error.to_string())),
            };
            self.at = (batch.epoch, batch.position_after(start + count));
            self.is_idle = false;
            let step = Step {
                rows_in: count as u64,
                bytes_in: (batch.bytes * count / batch.rows.num_rows().max(1)) as u64,
                process: Some(begun.elapsed()),
                origin_us: batch.origin_us,
                ..Step::default()
            };
            self.commit(step, (output, outputs)).await?;
        }
        Ok(())
    }

    /// Commits what a step came to.
    async fn commit(&self, step: Step, (output, outputs): (ChainOutput, Vec<PortBatch>)) -> Result<(), Ended> {
        let step = Step {
            rows_out: outputs.iter().map(|rows| (rows.port.clone(), u64::from(rows.rows))).collect(),
            rejected: output.rejected.len() as u64,
            functions: output.functions,
            ..step
        };
        let commit =
            Commit { state: output.state, outputs, watermark_us: self.chain.watermark_us(), ..Commit::default() };
        self.commit_at(commit, step).await
    }
}

fn poisoned(rows: &RecordBatch, stage: String, reason: String) -> ChainOutput {
    let mut row = row_json(rows, 0).unwrap_or_else(|| "null".to_owned());
    row.truncate(row.floor_char_boundary(DEAD_ROW_BYTES_MAX));
    let failed = FunctionStep { function: stage.clone(), rejected: 1, ..FunctionStep::default() };
    ChainOutput { functions: vec![failed], rejected: vec![DeadLetter { stage, reason, row }], ..ChainOutput::default() }
}

/// What a step came to, encoded, if it fits into an entry of the log.
fn fitting(output: ChainOutput, origin_us: Option<i64>) -> Result<(ChainOutput, Vec<PortBatch>), ChainError> {
    let function = || output.functions.last().map(|last| last.function.clone()).unwrap_or_default();
    let outputs = encode(&output, origin_us);
    let outputs = outputs.map_err(|error| ChainError::Function { function: function(), reason: error.to_string() })?;
    let rows: usize = outputs.iter().map(|rows| rows.arrow.len() + rows.port.len() + PART_BYTES).sum();
    let state: usize = output.state.iter().map(|(_, bytes)| bytes.len() + PART_BYTES).sum();
    if rows + state > COMMIT_BYTES_MAX - PART_BYTES {
        let reason =
            format!("it comes to {rows} bytes of rows and {state} of state; {COMMIT_BYTES_MAX} go into an entry");
        return Err(ChainError::Rows { function: function(), reason });
    }
    Ok((output, outputs))
}

fn encode(output: &ChainOutput, origin_us: Option<i64>) -> Result<Vec<PortBatch>, BatchError> {
    let mut encoded = Vec::with_capacity(output.ports.len() + 1);
    for (port, rows) in &output.ports {
        if rows.num_rows() > 0 {
            encoded.push(batch::encode(port, rows, origin_us)?);
        }
    }
    if !output.rejected.is_empty() {
        encoded.push(batch::encode(PORT_DEAD_LETTER, &batch::dead_letters(&output.rejected)?, origin_us)?);
    }
    Ok(encoded)
}

fn bad_input(error: BatchError) -> Ended {
    Ended::Failed(error.to_string())
}
