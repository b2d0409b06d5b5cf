//! Runs the plan of a stage over batches of rows, and keeps its state.

mod rescale;

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::{ArrayRef, BooleanArray, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow_buffer::BooleanBuffer;
use arrow_schema::{ArrowError, Field, Schema, SchemaRef};
use arrow_select::filter::FilterBuilder;

use crate::decode::{Decoded, Decoder};
use crate::eval::Evaluator;
use crate::expr::Expr;
use crate::group::{Arrival, Closed, Groups, Inputs, Taken};
use crate::join::Joins;
use crate::plan::{Grouping, Lateness, Plan, Shape, Sharding};
use crate::shard::{self, Shards, TOLD_GROUP};
use crate::types::Column;
use crate::user_function::{Calls, Functions, NoFunctions, at_once, computed};
use crate::value::{Cell, cell};
pub use rescale::{Change, Notice, Partitions, Rescaling};
use rescale::{Changes, RESCALING};

/// The port of a stage's rows that came after their windows were closed.
pub const PORT_LATE: &str = "late";

/// The most bytes of the results of a batch of rows.
pub(crate) const RESULT_BYTES_MAX: usize = 256 << 20;

/// What a batch came to.
#[derive(Debug, Default)]
pub struct Output {
    /// The rows of the result, if there are any.
    pub rows: Option<RecordBatch>,
    /// Rows on their way to groups, by the partition of the sink that they are for.
    pub spread: Vec<(u32, RecordBatch)>,
    /// Rows of the input that came too late.
    pub late: Option<RecordBatch>,
    /// What failed: the place of the row in the batch, and why.
    pub rejected: Vec<(u32, String)>,
    /// The groups that failed as they were put out, and why.
    pub failed: Vec<String>,
    /// Key groups that are handed over, by the partition of this stage that they are for.
    pub handed: Vec<(u32, RecordBatch)>,
    /// What is announced to those that spread rows to it.
    pub announced: Option<RecordBatch>,
    /// The key groups whose state changed.
    pub dirty: Vec<u32>,
}

/// Why a stage cannot go on at all.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StageError {
    /// The rows are not those that the query was written for.
    #[error("{0}; declare the stream as it is, or change the flow before it")]
    Input(String),
    /// The state is not one that this query can go on with.
    #[error("{0}")]
    State(String),
    /// Arrow cannot hold the result.
    #[error("{0}")]
    Arrow(String),
    /// A function of the app that it calls cannot be called now, whatever the rows.
    #[error("{0}")]
    Function(String),
}

impl From<ArrowError> for StageError {
    fn from(error: ArrowError) -> Self {
        Self::Arrow(error.to_string())
    }
}

/// A stage that runs.
#[derive(Debug)]
pub struct Stage {
    plan: Arc<Plan>,
    /// Which partition of its input it reads.
    partition: u32,
    decoder: Option<Decoder>,
    groups: Groups,
    shards: Shards,
    joins: Joins,
    changes: Changes,
    result: SchemaRef,
}

impl Stage {
    /// A stage without state, which reads that partition of its input.
    #[must_use]
    pub fn new(plan: Arc<Plan>, partition: u32) -> Self {
        let result = schema(&plan.output);
        let groups = match &plan.shape {
            Shape::Group(grouping) => Groups::new(grouping),
            Shape::Shard(sharding) => sharding.partial.as_deref().map(Groups::new).unwrap_or_default(),
            Shape::Project(_) | Shape::Join(_) => Groups::default(),
        };
        let (shards, joins) = (Shards::default(), Joins::default());
        Self { plan, partition, decoder: None, groups, shards, joins, changes: Changes::default(), result }
    }

    /// Tells it the columns of its input; those of a [`Notice`] it knows.
    ///
    /// # Errors
    /// When they are not those that the stream declares.
    pub fn open(&mut self, input: &Schema) -> Result<(), StageError> {
        self.decoder = Some(Decoder::new(&self.plan.input, self.plan.is_record, input).map_err(StageError::Input)?);
        Ok(())
    }

    /// Processes rows of the columns that [`open`](Self::open) was told. Where they close windows of many groups, it does not put out
    /// all of them: see [`has_more`](Self::has_more).
    ///
    /// # Errors
    /// When the texts of the result are too large for one batch. The stage is then to be made anew from the state of before;
    /// fewer rows at once may do.
    pub fn process(&mut self, rows: &RecordBatch) -> Result<Output, StageError> {
        at_once(self.process_with(rows, &mut NoFunctions))
    }

    /// The same where the plan [calls functions](Plan::functions) of the app. If it is dropped half way, the stage is to be made anew.
    ///
    /// # Errors
    /// As those of [`process`](Self::process), and when a function cannot be called.
    pub async fn process_with(
        &mut self,
        rows: &RecordBatch,
        functions: &mut dyn Functions,
    ) -> Result<Output, StageError> {
        if Notice::is_of(rows.schema_ref()) {
            return self.take_notices(rows);
        }
        self.refuse_rows()?;
        let Some(decoder) = &self.decoder else { return Err(StageError::Input("it was not opened".to_owned())) };
        let plan = Arc::clone(&self.plan);
        let Decoded { columns, faults } = decoder.decode(&plan.input, rows);
        let mut rejected: BTreeMap<usize, String> = faults.into_iter().collect();
        let times = match &plan.shape {
            Shape::Group(grouping) => columns.get(grouping.time).cloned(),
            Shape::Shard(sharding) => columns.get(sharding.time).cloned(),
            Shape::Join(_) => columns.get(shard::MOMENT).cloned(),
            Shape::Project(_) => None,
        };
        let holds = match &plan.filter {
            None => None,
            Some(filter) => {
                let of = (columns.as_slice(), rows.num_rows());
                let (holds, faults) = computed(functions, |calls| passing(filter, of, &rejected, calls)).await?;
                rejected = faults;
                Some(holds)
            }
        };
        let kept = Kept::new(columns, rows.num_rows(), holds, &rejected)?;
        let (mut output, mut of_pairs) = (Output::default(), Vec::new());
        match &plan.shape {
            Shape::Project(exprs) => {
                let of = (kept.columns.as_slice(), kept.count());
                let (columns, good, faults) = computed(functions, |calls| projected(exprs, of, calls)).await?;
                rejected.extend(faults.into_iter().map(|(row, reason)| (kept.origin(row), reason)));
                output.rows = batch(&self.result, columns, kept.count(), good)?;
            }
            Shape::Group(grouping) => {
                let arrivals = arrivals(&kept, times.as_ref(), rows.num_rows());
                let taken = grouped(&mut self.groups, grouping, &kept, arrivals, functions).await?;
                rejected.extend(taken.rejected.into_iter().map(|(row, reason)| (kept.origin(row), reason)));
                (output.rows, output.failed) = results(grouping, &self.result, taken.closed, functions).await?;
                output.late = late(&plan, &kept, &taken.late, &mut rejected)?;
                output.dirty = taken.dirty;
            }
            Shape::Shard(sharding) if let Some(partial) = &sharding.partial => {
                let arrivals = arrivals(&kept, times.as_ref(), rows.num_rows());
                let mut taken = grouped(&mut self.groups, partial, &kept, arrivals, functions).await?;
                let of_rows = std::mem::take(&mut taken.rejected);
                rejected.extend(of_rows.into_iter().map(|(row, reason)| (kept.origin(row), reason)));
                let late = late(&plan, &kept, &std::mem::take(&mut taken.late), &mut rejected)?;
                output = Output { late, ..self.send((sharding, partial), taken)? };
            }
            Shape::Shard(sharding) => {
                let of = (kept.columns.as_slice(), kept.count());
                let inputs = computed(functions, |calls| Inputs::of_shards(sharding, of, calls)).await?;
                let arrivals = arrivals(&kept, times.as_ref(), rows.num_rows());
                let of = (kept.columns.as_slice(), &inputs);
                let lanes = (self.partition, self.spreads_over(sharding.partitions));
                let sharded = self.shards.take((sharding, &self.result), lanes, of, arrivals)?;
                rejected.extend(sharded.rejected.into_iter().map(|(row, reason)| (kept.origin(row), reason)));
                output.late = late(&plan, &kept, &sharded.late, &mut rejected)?;
                (output.spread, output.dirty) = (sharded.parts, sharded.dirty);
            }
            Shape::Join(joining) => {
                let arrivals = arrivals(&kept, times.as_ref(), rows.num_rows());
                let of = (kept.columns.as_slice(), kept.count());
                let joined = self.joins.take((joining, &self.result), of, arrivals, functions).await?;
                rejected.extend(joined.rejected.into_iter().map(|(row, reason)| (kept.origin(row), reason)));
                (output.rows, output.dirty, of_pairs) = (joined.rows, joined.dirty, joined.failed);
            }
        }
        let rejected = rejected.into_iter().chain(of_pairs);
        output.rejected = rejected.map(|(row, reason)| (u32::try_from(row).unwrap_or(u32::MAX), reason)).collect();
        output.rejected.sort_by_key(|(row, _)| *row);
        Ok(output)
    }

    /// Tells those that wait for rows of this partition that there are none for now. It need not have been opened.
    ///
    /// # Errors
    /// When Arrow cannot hold what is to be told.
    pub fn idle(&mut self) -> Result<Output, StageError> {
        let Shape::Shard(sharding) = &self.plan.shape else { return Ok(Output::default()) };
        if sharding.partial.is_some() {
            return Ok(Output::default());
        }
        let lanes = (self.partition, self.spreads_over(sharding.partitions));
        let told = self.shards.idle((sharding, &self.result), lanes)?;
        Ok(Output { spread: told.parts, dirty: told.dirty, ..Output::default() })
    }

    /// Whether groups of windows that are closed, or rows whose interval is over, are still to be put out: [`process`](Self::process)
    /// does some of it each time, and so does [`go_on`](Self::go_on). The state says so, too.
    #[must_use]
    pub fn has_more(&self) -> bool {
        if self.has_of_changes() {
            return true;
        }
        match &self.plan.shape {
            Shape::Group(_) => self.groups.has_more(),
            Shape::Shard(sharding) => sharding.partial.is_some() && self.groups.has_more(),
            Shape::Join(joining) => self.joins.has_more(joining),
            Shape::Project(_) => false,
        }
    }

    /// Puts out some of what [is still to be put out](Self::has_more). It need not have been opened.
    ///
    /// # Errors
    /// As those of [`process`](Self::process).
    pub fn go_on(&mut self) -> Result<Output, StageError> {
        at_once(self.go_on_with(&mut NoFunctions))
    }

    /// The same where the plan [calls functions](Plan::functions) of the app.
    ///
    /// # Errors
    /// As those of [`process_with`](Self::process_with).
    pub async fn go_on_with(&mut self, functions: &mut dyn Functions) -> Result<Output, StageError> {
        if let Some(output) = self.go_on_with_changes()? {
            return Ok(output);
        }
        let plan = Arc::clone(&self.plan);
        match &plan.shape {
            Shape::Group(grouping) => {
                let taken = self.groups.go_on(grouping);
                let (rows, failed) = results(grouping, &self.result, taken.closed, functions).await?;
                Ok(Output { rows, failed, dirty: taken.dirty, ..Output::default() })
            }
            Shape::Join(joining) => {
                let joined = self.joins.go_on((joining, &self.result), functions).await?;
                let failed = joined.failed.into_iter().map(|(_, reason)| reason).collect();
                Ok(Output { rows: joined.rows, failed, dirty: joined.dirty, ..Output::default() })
            }
            Shape::Shard(sharding) => match &sharding.partial {
                Some(partial) => {
                    self.refuse_rows()?;
                    let taken = self.groups.go_on(partial);
                    self.send((sharding, partial), taken)
                }
                None => Ok(Output::default()),
            },
            Shape::Project(_) => Ok(Output::default()),
        }
    }

    /// Sends what groups of a first phase came to that are put out.
    fn send(&mut self, (sharding, partial): (&Sharding, &Grouping), taken: Taken) -> Result<Output, StageError> {
        let lanes = (self.partition, self.spreads_over(sharding.partitions));
        let until = self.groups.out_until();
        let sent = self.shards.send((sharding, partial, &self.result), lanes, &taken.closed, until)?;
        let dirty = taken.dirty.into_iter().chain(sent.dirty).collect();
        Ok(Output { spread: sent.parts, dirty, ..Output::default() })
    }

    /// The state of what a step said is dirty, or of key groups; nothing for a group without state. It is to be kept, or the stage made
    /// anew: parts that become full by it are not given again.
    #[must_use]
    pub fn snapshot(&mut self, groups: &[u32]) -> Vec<(u32, Vec<u8>)> {
        let layout = self.plan.state_layout;
        let plan = Arc::clone(&self.plan);
        let mut state = |group: u32| match &plan.shape {
            _ if group == RESCALING => self.changes_snapshot(),
            Shape::Shard(sharding) => match &sharding.partial {
                Some(partial) if group != TOLD_GROUP => self.groups.snapshot(partial, group, layout),
                _ => self.shards.snapshot(group, layout),
            },
            Shape::Group(grouping) => self.groups.snapshot(grouping, group, layout),
            Shape::Join(_) => self.joins.snapshot(group, layout),
            Shape::Project(_) => Vec::new(),
        };
        groups.iter().map(|group| (*group, state(*group))).collect()
    }

    /// Gives the state of key groups back.
    ///
    /// # Errors
    /// When it is the state of another query.
    pub fn restore(&mut self, groups: &[(u32, &[u8])]) -> Result<(), StageError> {
        let layout = self.plan.state_layout;
        let (of_changes, groups): (Vec<_>, Vec<_>) = groups.iter().copied().partition(|(part, _)| *part == RESCALING);
        let groups = groups.as_slice();
        let restored = match &self.plan.shape {
            Shape::Shard(sharding) => {
                let is_of_groups = |part: &(u32, &[u8])| sharding.partial.is_some() && part.0 != TOLD_GROUP;
                let (of_groups, of_shards): (Vec<_>, Vec<_>) = groups.iter().copied().partition(is_of_groups);
                let told = of_shards.iter().try_for_each(|(_, bytes)| self.shards.restore(bytes, layout));
                let partial = sharding.partial.as_ref();
                told.and_then(|()| partial.map_or(Ok(()), |of| self.groups.restore(of, &of_groups, layout)))
            }
            Shape::Group(grouping) => self.groups.restore(grouping, groups, layout),
            Shape::Join(joining) => groups.iter().try_for_each(|part| self.joins.restore(joining, *part, layout)),
            Shape::Project(_) => Ok(()),
        };
        let restored = restored.and_then(|()| of_changes.iter().try_for_each(|(_, bytes)| self.restore_changes(bytes)));
        restored.map_err(StageError::State)
    }
}

/// The rows that count, and where each was in its batch.
struct Kept {
    columns: Vec<ArrayRef>,
    /// Which rows of the batch they are; none if all.
    mask: Option<BooleanBuffer>,
    /// Where each was, once somebody asks.
    origins: OnceCell<Vec<usize>>,
    count: usize,
}

impl Kept {
    /// Leaves out the rows that could not be read and those that the filter does not pass.
    fn new(
        columns: Vec<ArrayRef>,
        count: usize,
        holds: Option<BooleanBuffer>,
        rejected: &BTreeMap<usize, String>,
    ) -> Result<Self, ArrowError> {
        if holds.is_none() && rejected.is_empty() {
            return Ok(Self { columns, mask: None, origins: OnceCell::new(), count });
        }
        let keeps = |row| holds.as_ref().is_none_or(|holds| holds.value(row)) && !rejected.contains_key(&row);
        let mask = BooleanArray::new(BooleanBuffer::collect_bool(count, keeps), None);
        let columns = filtered(&columns, &mask)?;
        Ok(Self { columns, count: mask.true_count(), mask: Some(mask.values().clone()), origins: OnceCell::new() })
    }

    fn count(&self) -> usize {
        self.count
    }

    fn origin(&self, row: usize) -> usize {
        let Some(mask) = &self.mask else { return row };
        self.origins.get_or_init(|| mask.set_indices().collect()).get(row).copied().unwrap_or(row)
    }
}

/// The rows for which a condition holds, and those that are rejected: as before, or because it failed.
fn passing(
    condition: &Expr,
    (columns, rows): (&[ArrayRef], usize),
    rejected: &BTreeMap<usize, String>,
    calls: &mut Calls,
) -> Result<(BooleanBuffer, BTreeMap<usize, String>), ArrowError> {
    let mut evaluator = Evaluator::new(columns, rows).calling(calls);
    evaluator.faults.clone_from(rejected);
    let holds = evaluator.holds(condition)?;
    Ok((holds, evaluator.faults))
}

/// Of each column the rows that a mask keeps. How it does that is found out once for all of them.
pub(crate) fn filtered(columns: &[ArrayRef], mask: &BooleanArray) -> Result<Vec<ArrayRef>, ArrowError> {
    let filter = FilterBuilder::new(mask);
    let filter = if columns.len() > 1 { filter.optimize() } else { filter }.build();
    columns.iter().map(|column| filter.filter(column)).collect()
}

/// All rows, with their moments, and which of them count.
fn arrivals(kept: &Kept, times: Option<&ArrayRef>, rows: usize) -> impl Iterator<Item = Arrival> {
    let mut places = (0..kept.count()).map(|place| (kept.origin(place), place)).peekable();
    (0..rows).map(move |row| {
        let kept = places.next_if(|(origin, _)| *origin == row).map(|(_, place)| place);
        let time_us = times.and_then(|times| match cell(times, row) {
            Some(Cell::Timestamp(us)) => Some(us),
            _ => None,
        });
        Arrival { time_us, kept }
    })
}

/// Takes rows into groups.
async fn grouped(
    groups: &mut Groups,
    grouping: &Grouping,
    kept: &Kept,
    arrivals: impl Iterator<Item = Arrival>,
    functions: &mut dyn Functions,
) -> Result<Taken, StageError> {
    let of = (kept.columns.as_slice(), kept.count());
    let inputs = computed(functions, |calls| Inputs::of_groups(grouping, of, calls)).await?;
    Ok(groups.take(grouping, &inputs, of, arrivals)?)
}

/// The columns of the result, which of its rows are good, if not all are, and why the others are not.
pub(crate) type Projected = (Vec<ArrayRef>, Option<BooleanArray>, BTreeMap<usize, String>);

/// Computes expressions over rows.
pub(crate) fn projected(
    exprs: &[Expr],
    (columns, rows): (&[ArrayRef], usize),
    calls: &mut Calls,
) -> Result<Projected, ArrowError> {
    let mut evaluator = Evaluator::new(columns, rows).calling(calls);
    let columns = exprs.iter().map(|expr| evaluator.column(expr)).collect::<Result<Vec<_>, _>>()?;
    let faults = evaluator.faults;
    let is_good = |row| !faults.contains_key(&row);
    let good = (!faults.is_empty()).then(|| BooleanArray::new(BooleanBuffer::collect_bool(rows, is_good), None));
    Ok((columns, good, faults))
}

/// What the groups came to that are put out, and why others failed. One row may close more of them than fit a batch: some at a
/// time, fewer where their texts are large.
async fn results(
    grouping: &Grouping,
    result: &SchemaRef,
    closed: Vec<Closed>,
    functions: &mut dyn Functions,
) -> Result<(Option<RecordBatch>, Vec<String>), StageError> {
    let (mut done, mut failed, mut bytes) = (Vec::new(), Vec::new(), 0);
    let mut left = closed;
    left.reverse();
    while let Some(part) = left.pop() {
        match computed(functions, |calls| results_of(grouping, result, &part, calls)).await {
            Ok((rows, faults)) => {
                bytes += rows.as_ref().map_or(0, RecordBatch::get_array_memory_size);
                done.extend(rows);
                failed.extend(faults);
            }
            Err(error @ StageError::Function(_)) => return Err(error),
            Err(error) => {
                let [first, second] = part.halves().ok_or(error)?;
                left.extend([second, first]);
            }
        }
        if bytes > RESULT_BYTES_MAX {
            return Err(StageError::Arrow("the results of groups have more than 256 MiB".to_owned()));
        }
    }
    match done.as_slice() {
        [] => Ok((None, failed)),
        [_] => Ok((done.pop(), failed)),
        parts => Ok((Some(arrow_select::concat::concat_batches(result, parts)?), failed)),
    }
}

fn results_of(
    grouping: &Grouping,
    result: &SchemaRef,
    closed: &Closed,
    calls: &mut Calls,
) -> Result<(Option<RecordBatch>, Vec<String>), ArrowError> {
    let mut evaluator = Evaluator::new(&closed.columns, closed.count).calling(calls);
    evaluator.faults.clone_from(&closed.faults);
    let holds = grouping.having.as_ref().map(|having| evaluator.holds(having)).transpose()?;
    let mut faults = evaluator.faults;
    if holds.is_none() && faults.is_empty() {
        let (projected, good, failed) = projected(&grouping.project, (&closed.columns, closed.count), calls)?;
        let told = failed.into_iter().map(|(group, reason)| closed.told(grouping, group, &reason));
        return Ok((batch(result, projected, closed.count, good)?, told.collect()));
    }
    // What HAVING does not pass is not computed either.
    let passes = |group| holds.as_ref().is_none_or(|holds| holds.value(group)) && !faults.contains_key(&group);
    let passed = BooleanArray::new(BooleanBuffer::collect_bool(closed.count, passes), None);
    let passing: Vec<usize> = passed.values().set_indices().collect();
    let columns = filtered(&closed.columns, &passed)?;
    let (projected, good, failed) = projected(&grouping.project, (&columns, passing.len()), calls)?;
    faults.extend(failed.into_iter().filter_map(|(row, reason)| Some((*passing.get(row)?, reason))));
    let told = faults.into_iter().map(|(group, reason)| closed.told(grouping, group, &reason));
    Ok((batch(result, projected, passing.len(), good)?, told.collect()))
}

/// The rows that came too late, if there is a stream for them; else they are rejected.
fn late(
    plan: &Plan,
    kept: &Kept,
    rows: &[u32],
    rejected: &mut BTreeMap<usize, String>,
) -> Result<Option<RecordBatch>, ArrowError> {
    if rows.is_empty() {
        return Ok(None);
    }
    if !plan.has_late_port {
        let reason = match &plan.shape {
            Shape::Shard(sharding) if sharding.lateness == Lateness::Older => {
                "it is older than the watermark of its partition"
            }
            _ => "it came after its window was closed",
        };
        rejected.extend(rows.iter().map(|row| (kept.origin(*row as usize), reason.to_owned())));
        return Ok(None);
    }
    let places = UInt32Array::from(rows.to_vec());
    let columns = kept.columns.iter().map(|column| arrow_select::take::take(column, &places, None));
    batch(&schema(&plan.input), columns.collect::<Result<_, _>>()?, rows.len(), None)
}

/// The rows that are good, if there are any.
pub(crate) fn batch(
    schema: &SchemaRef,
    columns: Vec<ArrayRef>,
    count: usize,
    good: Option<BooleanArray>,
) -> Result<Option<RecordBatch>, ArrowError> {
    let options = RecordBatchOptions::new().with_row_count(Some(count));
    // A row that is left out may have a null where the column has none: it is taken out first.
    let (columns, options) = match &good {
        None => (columns, options),
        Some(good) => (filtered(&columns, good)?, RecordBatchOptions::new().with_row_count(Some(good.true_count()))),
    };
    let rows = RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)?;
    Ok((rows.num_rows() > 0).then_some(rows))
}

fn schema(columns: &[Column]) -> SchemaRef {
    Arc::new(Schema::new(columns.iter().map(Column::field).collect::<Vec<Field>>()))
}
