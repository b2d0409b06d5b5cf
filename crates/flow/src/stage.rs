//! Runs one fused stage of a flow over one partition of its input.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow_array::RecordBatch;
use littoral_model::entry::{Commit, InputPosition, PORT_DEAD_LETTER, PortBatch, Position};
use littoral_model::id::Epoch;
use littoral_model::work::WorkId;
use littoral_sql::{Change, Notice};
use littoral_store::replica::{COMMIT_BYTES_MAX, Owned};
use tokio::time::Interval;

use crate::Ended;
use crate::batch::{self, BatchError, DeadLetter};
use crate::chain::{Chain, ChainError, ChainOutput, Operators, row_json};
use crate::committer::Committer;
use crate::pending::{BATCH_ROWS_MAX, Batch, Pending};
use crate::reader::{Input, Progress, Reader, Received, Source};
use crate::shedding::Shedding;
use crate::stats::{FunctionStep, Stats, Step, now_us};

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
    /// Where changes of the number of partitions are announced, if it spreads rows by their keys and that number is changed.
    pub changes: Option<Input>,
    /// Where that comes from.
    pub source: Arc<dyn Source>,
    /// Its guests.
    pub operators: Box<dyn Operators>,
    /// The position in the flow of the first guest.
    pub first: u32,
    /// How much event times may be out of order, in microseconds.
    pub lateness_us: i64,
    /// How old rows may be when they are taken, if older ones are passed over.
    pub shed_after: Option<Duration>,
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

/// One of the logs that a stage reads.
struct Lane {
    input: Input,
    reader: Reader,
    progress: Progress,
    /// How far it is consumed.
    at: (Epoch, Position),
}

impl Lane {
    fn start(work: &Restored<'_>, source: &Arc<dyn Source>, input: Input) -> Self {
        let known = work.inputs.iter().find(|known| known.work == input.work);
        let at = known.map_or((Epoch(0), Position::START), |known| (known.epoch, known.position));
        let reader = Reader::start(Arc::clone(source), work.id.clone(), input.clone(), at.1, at.0);
        let progress = reader.committed();
        Self { input, reader, progress, at }
    }
}

/// What a stage goes on from.
struct Restored<'r> {
    id: &'r WorkId,
    inputs: &'r [InputPosition],
}

struct Running {
    lane: Lane,
    changes: Option<Lane>,
    pending: Pending,
    chain: Chain,
    committer: Committer,
    flush: Interval,
    shedding: Option<Shedding>,
    /// How many rows were passed over since the last commit that moved the position on.
    shed: u64,
    stats: Arc<Stats>,
    /// Since when rows wait for another number of partitions, and the last change that is done.
    waited_since: Option<Instant>,
    rescaled: Option<Change>,
    /// Whether the guests have been told that nothing comes.
    is_idle: bool,
}

impl Running {
    async fn start(work: StageWork) -> Result<Self, Ended> {
        let restored = work.owned.restore().await?;
        let from = Restored { id: work.owned.work(), inputs: &restored.inputs };
        let lane = Lane::start(&from, &work.source, work.input);
        let changes = work.changes.map(|changes| Lane::start(&from, &work.source, changes));
        let chain = Chain::new(work.operators, work.first, work.lateness_us, restored.watermark_us, restored.state);
        let committer = Committer::new(work.owned, Arc::clone(&work.stats));
        let flush = tokio::time::interval(SKIP_EVERY);
        Ok(Self {
            lane,
            changes,
            pending: Pending::default(),
            chain,
            committer,
            flush,
            shedding: work.shed_after.map(Shedding::new),
            shed: 0,
            stats: work.stats,
            waited_since: None,
            rescaled: None,
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
        if let Some(received) = self.changes.as_mut().and_then(|lane| lane.reader.try_next()) {
            self.change(received).await?;
        }
        if self.chain.comes_first() {
            return self.go_on().await;
        }
        if self.pending.rows() == 0 {
            match self.lane.reader.try_next() {
                Some(received) => self.pending.push(received).map_err(bad_input)?,
                None if self.chain.has_more() => return self.go_on().await,
                None => self.wait().await?,
            }
        }
        while self.pending.rows() < BATCH_ROWS_MAX {
            let Some(received) = self.lane.reader.try_next() else { break };
            self.pending.push(received).map_err(bad_input)?;
        }
        let rows_max = self.shed();
        match self.pending.pop(rows_max).map_err(bad_input)? {
            Some(batch) => self.process(&batch).await,
            None => Ok(()),
        }
    }

    /// Passes over rows that are too old, if that is to be: the input goes on behind them with the next commit. How many rows are to be
    /// taken at once: others are not to become too old meanwhile.
    fn shed(&mut self) -> usize {
        let Some(shedding) = &self.shedding else { return BATCH_ROWS_MAX };
        self.shed += self.pending.shed(now_us().saturating_sub(shedding.after_us())) as u64;
        shedding.rows_max()
    }

    async fn wait(&mut self) -> Result<(), Ended> {
        let changes = async {
            match &mut self.changes {
                Some(lane) => lane.reader.next().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            received = self.lane.reader.next() => self.pending.push(received.ok_or_else(ended)?).map_err(bad_input),
            received = changes => self.change(received.ok_or_else(ended)?).await,
            () = self.committer.fenced() => Err(Ended::Fenced),
            _ = self.flush.tick() => match self.pending.skipped() {
                Some(at) => {
                    self.lane.at = at;
                    let step = Step { shed: std::mem::take(&mut self.shed), ..Step::default() };
                    self.commit_at(Commit::default(), step).await
                }
                None => self.idle().await,
            },
        }
    }

    /// Takes what is announced of another number of partitions.
    async fn change(&mut self, received: Received) -> Result<(), Ended> {
        let mut pending = Pending::default();
        pending.push(received).map_err(bad_input)?;
        if let Some(at) = pending.skipped() {
            return self.commit_change(Commit::default(), at).await;
        }
        while let Some(batch) = pending.pop(BATCH_ROWS_MAX).map_err(bad_input)? {
            for row in 0..batch.rows.num_rows() {
                let output =
                    self.chain.process(&batch.rows.slice(row, 1)).await.and_then(|output| fitting(output, None));
                let (output, outputs) = output.map_err(|error| Ended::Failed(error.to_string()))?;
                self.chain.accept();
                self.note_change();
                let commit = Commit { state: output.state, outputs, ..Commit::default() };
                self.commit_change(commit, (batch.epoch, batch.position_after(row + 1))).await?;
            }
        }
        Ok(())
    }

    async fn commit_change(&mut self, commit: Commit, at: (Epoch, Position)) -> Result<(), Ended> {
        let Some(lane) = &mut self.changes else { return Ok(()) };
        lane.at = at;
        self.committer.commit(commit, (&lane.input.work, at.0, at.1), &lane.progress, Step::default()).await
    }

    /// Tells how far the guests are with another number of partitions.
    fn note_change(&mut self) {
        let Some(now) = self.chain.rescaling() else { return };
        self.stats.settled(now.settled);
        if now.is_waited_for {
            self.waited_since.get_or_insert_with(Instant::now);
        }
        if let Some(done) = now.done.filter(|done| self.rescaled != Some(*done)) {
            self.rescaled = Some(done);
            self.stats.rescaled(done, self.waited_since.take().map(|since| since.elapsed()));
        }
    }

    /// Tells the guests once that nothing has come for as long as they want to know.
    async fn idle(&mut self) -> Result<(), Ended> {
        let is_due = |after: Duration| !self.is_idle && self.lane.reader.quiet() >= after;
        if !self.chain.idle_after().is_some_and(is_due) {
            return Ok(());
        }
        if let Some(received) = self.lane.reader.try_next() {
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
        self.note_change();
        if outputs.is_empty() && output.state.is_empty() {
            return Ok(());
        }
        self.commit(Step { process: Some(begun.elapsed()), ..Step::default() }, (output, outputs)).await
    }

    async fn commit_at(&self, commit: Commit, step: Step) -> Result<(), Ended> {
        let Lane { input, progress, at: (epoch, position), .. } = &self.lane;
        self.committer.commit(commit, (&input.work, *epoch, *position), progress, step).await
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
                    if Notice::is_of(rows.schema_ref()) {
                        self.note_change();
                    }
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
                Err(ChainError::Rows { function, reason }) if Notice::is_of(rows.schema_ref()) && count == 1 => {
                    return Err(Ended::Failed(format!("{function} cannot change its number of partitions: {reason}")));
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
            self.lane.at = (batch.epoch, batch.position_after(start + count));
            self.is_idle = false;
            let step = Step {
                rows_in: count as u64,
                bytes_in: (batch.bytes * count / batch.rows.num_rows().max(1)) as u64,
                process: Some(begun.elapsed()),
                origin_us: batch.origin_us,
                shed: std::mem::take(&mut self.shed),
                ..Step::default()
            };
            self.commit(step, (output, outputs)).await?;
            self.shedding.iter_mut().for_each(|shedding| shedding.measured(count, begun.elapsed()));
        }
        Ok(())
    }

    /// Commits what a step came to.
    async fn commit(&self, step: Step, (output, outputs): (ChainOutput, Vec<PortBatch>)) -> Result<(), Ended> {
        let step = Step {
            rows_out: outputs.iter().map(|rows| (rows.port.clone(), u64::from(rows.rows))).collect(),
            bytes_out: outputs.iter().map(|rows| (rows.port.clone(), rows.arrow.len() as u64)).collect(),
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

fn ended() -> Ended {
    Ended::Failed("an input's reader ended".to_owned())
}

fn bad_input(error: BatchError) -> Ended {
    Ended::Failed(error.to_string())
}
