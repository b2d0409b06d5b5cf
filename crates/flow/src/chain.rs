//! The guests of a fused stage, one after the other, with the state they had after the last step that succeeded.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use arrow_array::RecordBatch;
use arrow_schema::{Schema, SchemaRef};
use async_trait::async_trait;
use bytes::Bytes;
use littoral_model::entry::{PORT_DEAD_LETTER, PORT_MAIN};
use littoral_runtime::stage::{Stage, StageError, StageOutput};
use littoral_sql::{Notice, Rescaling};

use crate::batch::{self, DeadLetter};
use crate::stats::FunctionStep;

/// Key groups of one function in a commit's state: the function's position in the flow is above these bits.
const GROUP_BITS: u32 = 16;
/// The most timers that one watermark may fire in a row, so that a guest that always sets another cannot spin.
const TIMERS_MAX: usize = 1_000;

/// One guest, bound to the shard that made it.
#[async_trait(?Send)]
pub trait Operator {
    /// Tells the guest the columns of its input.
    async fn open(&mut self, schema: &Schema) -> Result<(), StageError>;
    /// Processes rows.
    async fn process(&mut self, rows: &RecordBatch, watermark_us: i64) -> Result<StageOutput, StageError>;
    /// Fires a timer that the guest asked for.
    async fn on_timer(&mut self, time_us: i64) -> Result<StageOutput, StageError>;
    /// Tells a guest that asks for it that nothing has come [for so long](Operators::idle_after); it may not have been opened.
    async fn on_idle(&mut self) -> Result<StageOutput, StageError> {
        Ok(StageOutput::default())
    }
    /// Whether it has not put out all that it can, and is to [go on](Self::go_on) with it.
    fn has_more(&self) -> bool {
        false
    }
    /// Whether what it is to [go on](Self::go_on) with comes before any further rows.
    fn comes_first(&self) -> bool {
        false
    }
    /// How far it is with changes of the number of its partitions.
    fn rescaling(&self) -> Rescaling {
        Rescaling::default()
    }
    /// Puts out more of what it can, as [`process`](Self::process) does, too; it may not have been opened.
    async fn go_on(&mut self) -> Result<StageOutput, StageError> {
        Ok(StageOutput::default())
    }
    /// The state of key groups.
    async fn snapshot(&mut self, groups: &[u32]) -> Result<Vec<(u32, Bytes)>, StageError>;
    /// Gives the state of key groups back.
    async fn restore(&mut self, groups: Vec<(u32, Bytes)>) -> Result<(), StageError>;
}

#[async_trait(?Send)]
impl Operator for Stage {
    async fn open(&mut self, schema: &Schema) -> Result<(), StageError> {
        Stage::open(self, schema).await.map(drop)
    }
    async fn process(&mut self, rows: &RecordBatch, watermark_us: i64) -> Result<StageOutput, StageError> {
        Stage::process(self, rows, watermark_us).await
    }
    async fn on_timer(&mut self, time_us: i64) -> Result<StageOutput, StageError> {
        Stage::on_timer(self, time_us).await
    }
    async fn snapshot(&mut self, groups: &[u32]) -> Result<Vec<(u32, Bytes)>, StageError> {
        Stage::snapshot(self, groups).await
    }
    async fn restore(&mut self, groups: Vec<(u32, Bytes)>) -> Result<(), StageError> {
        Stage::restore(self, groups).await
    }
}

/// Makes the guests of a chain; called again after one of them trapped.
#[async_trait(?Send)]
pub trait Operators: Send {
    /// The functions' names, in order.
    fn names(&self) -> &[String];
    /// Makes a fresh instance of the function at `place`, from 0.
    async fn make(&self, place: usize) -> Result<Box<dyn Operator>, StageError>;
    /// Whether the function at `place` is one that may [have more](Operator::has_more) to put out where it goes on from a state, and
    /// where there is none yet.
    fn may_have_more(&self, _place: usize, _has_state: bool) -> bool {
        false
    }
    /// Whether that of the function at `place` may [come first](Operator::comes_first).
    fn may_come_first(&self, _place: usize) -> bool {
        false
    }
    /// After how long without rows the first of them is to be told; never if none.
    fn idle_after(&self) -> Option<Duration> {
        None
    }
}

/// What one step of a chain did.
#[derive(Debug, Default)]
pub struct ChainOutput {
    /// Rows by port; several batches of one port keep their order.
    pub ports: Vec<(String, RecordBatch)>,
    /// Rows that a guest rejected.
    pub rejected: Vec<DeadLetter>,
    /// The state that changed.
    pub state: Vec<(u32, Bytes)>,
    /// What each guest did; in their order.
    pub functions: Vec<FunctionStep>,
}

/// Why a step failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ChainError {
    /// The guest failed on these rows; other rows may be fine.
    #[error("{function}: {reason}")]
    Rows {
        /// The function.
        function: String,
        /// What happened.
        reason: String,
    },
    /// The guest cannot run at all: it refuses the input's columns or its own state, or cannot be made.
    #[error("{function} cannot run: {reason}")]
    Function {
        /// The function.
        function: String,
        /// What happened.
        reason: String,
    },
}

/// The guests of one fused stage.
pub struct Chain {
    operators: Box<dyn Operators>,
    /// The position in the flow of the first function.
    first: u32,
    slots: Vec<Slot>,
    /// Event times may be this much out of order.
    lateness_us: i64,
    /// What the last step changed, until it is accepted.
    done: Option<Done>,
}

#[derive(Default)]
struct Slot {
    operator: Option<Box<dyn Operator>>,
    schema: Option<SchemaRef>,
    /// State by key group, as of the last step that succeeded.
    state: BTreeMap<u32, Bytes>,
    watermark_us: Option<i64>,
    timer_us: Option<i64>,
}

/// What a step changed, by guest.
struct Done {
    deltas: Vec<Vec<(u32, Bytes)>>,
    watermarks: Vec<Option<i64>>,
    timers: Vec<Option<i64>>,
}

#[derive(Default)]
struct Step {
    output: ChainOutput,
    dirty: Vec<BTreeSet<u32>>,
    /// What guests said of their state whom others have replaced since.
    replaced: Vec<BTreeMap<u32, Bytes>>,
    watermarks: Vec<Option<i64>>,
    timers: Vec<Option<i64>>,
}

impl Chain {
    /// A chain whose first function stands at `first` in its flow, with the state of an earlier run.
    #[must_use]
    pub fn new(
        operators: Box<dyn Operators>,
        first: u32,
        lateness_us: i64,
        watermark_us: Option<i64>,
        state: Vec<(u32, Bytes)>,
    ) -> Self {
        let mut slots: Vec<Slot> = operators.names().iter().map(|_| Slot::default()).collect();
        for (group, bytes) in state {
            let place = ((group >> GROUP_BITS) as usize).checked_sub(first as usize);
            if let Some(slot) = place.and_then(|place| slots.get_mut(place)) {
                slot.state.insert(group & ((1 << GROUP_BITS) - 1), bytes);
            }
        }
        for slot in &mut slots {
            slot.watermark_us = watermark_us;
        }
        Self { operators, first, slots, lateness_us, done: None }
    }

    /// The watermark of what the chain puts out.
    #[must_use]
    pub fn watermark_us(&self) -> Option<i64> {
        self.slots.last().and_then(|slot| slot.watermark_us)
    }

    /// Processes rows through every guest. On an error, and if the step is not accepted before the next one, nothing has
    /// changed: the guests are made anew, with the state they had before, when they are next needed.
    ///
    /// # Errors
    /// Tells a guest that failed on the rows from one that cannot run.
    pub async fn process(&mut self, rows: &RecordBatch) -> Result<ChainOutput, ChainError> {
        if self.done.take().is_some() {
            self.forget();
        }
        let outcome = self.step(rows).await;
        if outcome.is_err() {
            self.forget();
        }
        outcome
    }

    /// After how long without rows [`idle`](Self::idle) is to be called.
    pub(crate) fn idle_after(&self) -> Option<Duration> {
        self.operators.idle_after()
    }

    /// Tells the first guest that nothing has come for a while. What it puts out on its main port no other guest sees.
    ///
    /// # Errors
    /// As those of [`process`](Self::process).
    pub(crate) async fn idle(&mut self) -> Result<ChainOutput, ChainError> {
        if self.done.take().is_some() {
            self.forget();
        }
        let mut step = self.begin();
        let outcome = self.tell_idle(&mut step).await;
        if outcome.is_err() {
            self.forget();
        }
        outcome?;
        self.finish(step).await
    }

    /// The guest at `place`. Where it was not there it is made, with its state, and opened once its columns are known.
    async fn awake(&mut self, place: usize) -> Result<Option<&mut Box<dyn Operator>>, ChainError> {
        let name = self.name(place);
        let Some(slot) = self.slots.get_mut(place) else { return Ok(None) };
        let cannot = |error: &StageError| ChainError::Function { function: name.clone(), reason: error.to_string() };
        if slot.operator.is_none() {
            let mut operator = self.operators.make(place).await.map_err(|error| cannot(&error))?;
            if !slot.state.is_empty() {
                operator.restore(slot.state.clone().into_iter().collect()).await.map_err(|error| cannot(&error))?;
            }
            slot.operator = Some(operator);
        }
        Ok(slot.operator.as_mut())
    }

    async fn tell_idle(&mut self, step: &mut Step) -> Result<(), ChainError> {
        let name = self.name(0);
        let Some(operator) = self.awake(0).await? else { return Ok(()) };
        let cannot = |error: &StageError| ChainError::Function { function: name.clone(), reason: error.to_string() };
        let output = operator.on_idle().await.map_err(|error| cannot(&error))?;
        let mut main = Vec::new();
        take(0, &name, None, output, step, &mut main)?;
        step.output.ports.extend(main.into_iter().map(|rows| (PORT_MAIN.to_owned(), rows)));
        Ok(())
    }

    /// The first guest that has not put out all that it can, as far as is known.
    fn unfinished(&self) -> Option<usize> {
        // What a guest has that was not accepted says nothing.
        let is_accepted = self.done.is_none();
        self.slots.iter().enumerate().position(|(place, slot)| match slot.operator.as_ref().filter(|_| is_accepted) {
            Some(operator) => operator.has_more(),
            None => self.operators.may_have_more(place, !slot.state.is_empty()),
        })
    }

    /// Whether a guest may have to [go on](Self::go_on) before it gets further rows.
    pub(crate) fn comes_first(&self) -> bool {
        let is_accepted = self.done.is_none();
        self.slots.iter().enumerate().any(|(place, slot)| match slot.operator.as_ref().filter(|_| is_accepted) {
            Some(operator) => operator.comes_first(),
            None => !slot.state.is_empty() && self.operators.may_come_first(place),
        })
    }

    /// How far the guest with key groups is with changes of the number of its partitions; nothing while it is not there.
    pub(crate) fn rescaling(&self) -> Option<Rescaling> {
        let is_accepted = self.done.is_none();
        let mut told = self.slots.iter().filter_map(|slot| slot.operator.as_ref().filter(|_| is_accepted));
        told.next().map(|operator| operator.rescaling())
    }

    /// Whether a guest may not have put out all that it can, so that [`go_on`](Self::go_on) is to be called where there are no rows.
    pub(crate) fn has_more(&self) -> bool {
        self.unfinished().is_some()
    }

    /// Lets a guest put out more of what it can, for those after it to process.
    ///
    /// # Errors
    /// As those of [`process`](Self::process).
    pub(crate) async fn go_on(&mut self) -> Result<ChainOutput, ChainError> {
        if self.done.take().is_some() {
            self.forget();
        }
        let outcome = self.more().await;
        if outcome.is_err() {
            self.forget();
        }
        outcome
    }

    async fn more(&mut self) -> Result<ChainOutput, ChainError> {
        let (mut step, mut next) = (self.begin(), Vec::new());
        let Some(place) = self.unfinished() else { return self.finish(step).await };
        let (begun, name) = (Instant::now(), self.name(place));
        // Of one that was not there it is known now.
        if let Some(operator) = self.awake(place).await?.filter(|operator| operator.has_more()) {
            let output = operator.go_on().await.map_err(|error| rows_error(&name, &error))?;
            take(place, &name, None, output, &mut step, &mut next)?;
        }
        if let Some(function) = step.output.functions.get_mut(place) {
            function.process = begun.elapsed();
        }
        self.through(place + 1, next, &mut step).await?;
        self.finish(step).await
    }

    /// Takes the last step as done.
    pub fn accept(&mut self) {
        let Some(Done { deltas, watermarks, timers }) = self.done.take() else { return };
        let changed = deltas.into_iter().zip(watermarks.into_iter().zip(timers));
        for (slot, (delta, (watermark_us, timer_us))) in self.slots.iter_mut().zip(changed) {
            slot.watermark_us = watermark_us;
            slot.timer_us = timer_us;
            for (group, bytes) in delta {
                if bytes.is_empty() {
                    slot.state.remove(&group);
                } else {
                    slot.state.insert(group, bytes);
                }
            }
        }
    }

    fn forget(&mut self) {
        for slot in &mut self.slots {
            slot.operator = None;
            slot.schema = None;
        }
    }

    /// A step in which nothing has happened yet.
    fn begin(&self) -> Step {
        let functions = self.operators.names().iter();
        let functions = functions.map(|name| FunctionStep { function: name.clone(), ..FunctionStep::default() });
        Step {
            output: ChainOutput { functions: functions.collect(), ..ChainOutput::default() },
            dirty: vec![BTreeSet::new(); self.slots.len()],
            replaced: vec![BTreeMap::new(); self.slots.len()],
            watermarks: self.slots.iter().map(|slot| slot.watermark_us).collect(),
            timers: self.slots.iter().map(|slot| slot.timer_us).collect(),
        }
    }

    async fn step(&mut self, rows: &RecordBatch) -> Result<ChainOutput, ChainError> {
        let mut step = self.begin();
        self.through(0, vec![rows.clone()], &mut step).await?;
        self.finish(step).await
    }

    /// Rows through all guests from one on, and out.
    async fn through(&mut self, from: usize, rows: Vec<RecordBatch>, step: &mut Step) -> Result<(), ChainError> {
        let mut current = rows;
        for place in from..self.slots.len() {
            let begun = Instant::now();
            let mut next = Vec::new();
            for rows in &current {
                self.one(place, rows, step, &mut next).await?;
            }
            if let Some(function) = step.output.functions.get_mut(place) {
                function.rows = current.iter().map(|rows| rows.num_rows() as u64).sum();
                function.process = begun.elapsed();
            }
            current = next;
        }
        step.output.ports.extend(current.into_iter().map(|rows| (PORT_MAIN.to_owned(), rows)));
        Ok(())
    }

    /// One guest, one batch, and the timers that the batch makes due.
    async fn one(
        &mut self,
        place: usize,
        rows: &RecordBatch,
        step: &mut Step,
        next: &mut Vec<RecordBatch>,
    ) -> Result<(), ChainError> {
        if Notice::is_of(rows.schema_ref()) {
            self.awake(place).await?;
        } else {
            self.ready(place, rows.schema_ref(), step).await?;
        }
        let seen = batch::time_max_us(rows).map(|time| time - self.lateness_us);
        let Some(watermark) = step.watermarks.get_mut(place) else { return Ok(()) };
        *watermark = (*watermark).max(seen);
        let watermark_us = watermark.unwrap_or(i64::MIN);
        let name = self.name(place);
        let Some(operator) = self.slots.get_mut(place).and_then(|slot| slot.operator.as_mut()) else { return Ok(()) };
        let output = operator.process(rows, watermark_us).await.map_err(|error| rows_error(&name, &error))?;
        let mut due = take(place, &name, Some(rows), output, step, next)?;
        for _ in 0..TIMERS_MAX {
            let Some(time_us) = due.filter(|time_us| *time_us <= watermark_us) else { break };
            let output = operator.on_timer(time_us).await.map_err(|error| rows_error(&name, &error))?;
            due = take(place, &name, None, output, step, next)?;
        }
        Ok(())
    }

    /// Makes and opens the guest at `place` if it is not yet, or if the columns changed. What the one before has changed in this step
    /// the next one has.
    async fn ready(&mut self, place: usize, schema: &SchemaRef, step: &mut Step) -> Result<(), ChainError> {
        let name = self.name(place);
        let Some(slot) = self.slots.get_mut(place) else { return Ok(()) };
        if slot.operator.is_some() && slot.schema.as_ref() == Some(schema) {
            return Ok(());
        }
        let cannot = |error: &StageError| ChainError::Function { function: name.clone(), reason: error.to_string() };
        if let Some(operator) = slot.operator.as_mut().filter(|_| slot.schema.is_none()) {
            // It was made before its columns were known.
            operator.open(schema).await.map_err(|error| cannot(&error))?;
            slot.schema = Some(schema.clone());
            return Ok(());
        }
        let mut state = slot.state.clone();
        if let (Some(dirty), Some(replaced)) = (step.dirty.get_mut(place), step.replaced.get_mut(place)) {
            let dirty: Vec<u32> = std::mem::take(dirty).into_iter().collect();
            if let Some(before) = slot.operator.as_mut().filter(|_| !dirty.is_empty()) {
                replaced.extend(before.snapshot(&dirty).await.map_err(|error| rows_error(&name, &error))?);
            }
            state.extend(replaced.iter().map(|(group, bytes)| (*group, bytes.clone())));
        }
        let mut operator = self.operators.make(place).await.map_err(|error| cannot(&error))?;
        operator.open(schema).await.map_err(|error| cannot(&error))?;
        if !state.is_empty() {
            operator.restore(state.into_iter().collect()).await.map_err(|error| cannot(&error))?;
        }
        slot.operator = Some(operator);
        slot.schema = Some(schema.clone());
        Ok(())
    }

    /// Collects the changed state.
    async fn finish(&mut self, mut step: Step) -> Result<ChainOutput, ChainError> {
        let mut deltas = Vec::with_capacity(self.slots.len());
        for (place, (dirty, mut delta)) in step.dirty.iter().zip(std::mem::take(&mut step.replaced)).enumerate() {
            let name = self.name(place);
            let groups: Vec<u32> = dirty.iter().copied().collect();
            let operator = self.slots.get_mut(place).and_then(|slot| slot.operator.as_mut());
            if let Some(operator) = operator.filter(|_| !groups.is_empty()) {
                delta.extend(operator.snapshot(&groups).await.map_err(|error| rows_error(&name, &error))?);
            }
            deltas.push(delta.into_iter().collect::<Vec<_>>());
        }
        for (position, delta) in (self.first..).zip(&deltas) {
            let of_flow = |(group, bytes): &(u32, Bytes)| (position << GROUP_BITS | group, bytes.clone());
            step.output.state.extend(delta.iter().map(of_flow));
        }
        self.done = Some(Done { deltas, watermarks: step.watermarks, timers: step.timers });
        Ok(step.output)
    }

    fn name(&self, place: usize) -> String {
        self.operators.names().get(place).cloned().unwrap_or_default()
    }
}

fn rows_error(function: &str, error: &StageError) -> ChainError {
    let (function, reason) = (function.to_owned(), error.to_string());
    match error {
        // What a query calls cannot be had now; other rows would fare no better.
        StageError::Unready { .. } => ChainError::Function { function, reason },
        _ => ChainError::Rows { function, reason },
    }
}

/// Sorts one guest's output into the step; returns the timer that it now waits for.
fn take(
    place: usize,
    name: &str,
    input: Option<&RecordBatch>,
    output: StageOutput,
    step: &mut Step,
    next: &mut Vec<RecordBatch>,
) -> Result<Option<i64>, ChainError> {
    for (port, rows) in output.outputs {
        if rows.num_rows() == 0 {
            continue;
        }
        if port == PORT_MAIN {
            next.push(rows);
        } else if port == PORT_DEAD_LETTER {
            let reason = format!("it put rows on the port `{PORT_DEAD_LETTER}`, which is for rejected rows");
            return Err(ChainError::Function { function: name.to_owned(), reason });
        } else {
            step.output.ports.push((port, rows));
        }
    }
    if let Some(function) = step.output.functions.get_mut(place) {
        function.rejected += output.rejected.len() as u64;
    }
    for rejection in output.rejected {
        let row = input.and_then(|rows| row_json(rows, rejection.row as usize)).unwrap_or_else(|| "null".to_owned());
        step.output.rejected.push(DeadLetter { stage: name.to_owned(), reason: rejection.reason, row });
    }
    if let Some(dirty) = step.dirty.get_mut(place) {
        dirty.extend(output.dirty);
    }
    if let Some(timer) = step.timers.get_mut(place) {
        *timer = output.timer_us;
    }
    Ok(output.timer_us)
}

/// One row as JSON, if it exists and JSON can carry it.
pub(crate) fn row_json(rows: &RecordBatch, row: usize) -> Option<String> {
    if row >= rows.num_rows() {
        return None;
    }
    let lines = batch::to_json_lines(&rows.slice(row, 1)).ok()?;
    Some(lines.trim_end().to_owned())
}
