//! Sends rows to the groups of their keys where the source has several partitions, and the groups, too.
//!
//! Each partition of the source runs this by itself. Of a row it sends the key, what the aggregates take, its moment, and how far
//! the partition was before it; rows that are late for their own partition go no further. The partitions of the groups that a
//! batch says too little of are told how far it has come by a row without a moment; one without a watermark, too, says that the
//! partition is idle.
//!
//! In two phases it sends what the rows of each group come to when their window is over instead, and how far it is where that says
//! of a further window that it is.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::{ArrayRef, Int64Array, RecordBatch, UInt32Array, new_null_array};
use arrow_schema::{ArrowError, SchemaRef};
use arrow_select::concat::concat_batches;
use arrow_select::take::take;

use crate::group::{
    Arrival, Closed, Inputs, Progress, WATERMARK_GROUP, lane_of, parts_of, read_progress, written_progress,
};
use crate::plan::{Grouping, Sharding};
use crate::types::{Column, Type};
use crate::value::{Cell, column, integers};

/// The column with the partition of the source that a row is of.
pub(crate) const PRODUCER: usize = 0;
/// The column with the watermark of that partition before the row.
pub(crate) const WATERMARK: usize = 1;
/// The column with the moment of the row; null where the row only says how far its partition is.
pub(crate) const MOMENT: usize = 2;
/// The first column of the key; those of arguments follow.
pub(crate) const KEYS: usize = 3;
/// The part of the state with how far the partitions of the groups were told that it is, where rows are aggregated in two phases: then
/// those of groups have theirs. Groups of a first phase have no partitions of a source, whose parts begin here.
pub(crate) const TOLD_GROUP: u32 = WATERMARK_GROUP + 1;

/// The columns of rows on their way to groups.
pub(crate) fn columns(keys: impl Iterator<Item = Type>, arguments: impl Iterator<Item = Type>) -> Vec<Column> {
    named("moment", keys, ("argument", arguments))
}

/// The columns of what rows of groups came to in a first phase: by names of their own, so that neither is taken for the other where a
/// node of another version is at the other end.
pub(crate) fn columns_of_partials(keys: impl Iterator<Item = Type>, parts: impl Iterator<Item = Type>) -> Vec<Column> {
    named("window_end", keys, ("part", parts))
}

fn named(
    moment: &str,
    keys: impl Iterator<Item = Type>,
    (value, values): (&str, impl Iterator<Item = Type>),
) -> Vec<Column> {
    let own = [("partition", Type::Bigint), ("watermark", Type::Timestamp), (moment, Type::Timestamp)]
        .map(|(name, ty)| Column::new(name, ty));
    let keys = (1..).zip(keys).map(|(number, ty)| Column::new(&format!("key_{number}"), ty));
    let values = (1..).zip(values).map(|(number, ty)| Column::new(&format!("{value}_{number}"), ty));
    own.into_iter().chain(keys).chain(values).collect()
}

/// One partition of the source, as far as it was sent on. It is idle once the partitions of the groups were told so, until they
/// are told that it is back.
#[derive(Debug, Default)]
pub(crate) struct Shards(Progress);

/// What rows came to; places are among those that the filter passed.
#[derive(Debug, Default)]
pub(crate) struct Sharded {
    /// By partition of the groups.
    pub(crate) parts: Vec<(u32, RecordBatch)>,
    /// The rows that came too late.
    pub(crate) late: Vec<u32>,
    pub(crate) rejected: BTreeMap<usize, String>,
    pub(crate) dirty: Vec<u32>,
}

/// What goes to one partition of the groups.
struct Lane {
    /// The places of the rows; none for a row that only says how far the source is.
    rows: Vec<Option<u32>>,
    /// How far the source was before each.
    watermarks: Vec<Option<i64>>,
    /// How far it is as far as is surely known there; nothing if nothing surely is.
    told: Option<Option<i64>>,
}

impl Shards {
    /// Takes rows of a partition of the source, which go over so many partitions of the groups. Those that the filter does not pass are not sent, and move the watermark like all
    /// others.
    ///
    /// # Errors
    /// When Arrow cannot hold what is computed of them.
    pub(crate) fn take(
        &mut self,
        (sharding, schema): (&Sharding, &SchemaRef),
        (partition, over): (u32, u32),
        (columns, inputs): (&[ArrayRef], &Inputs),
        arrivals: impl Iterator<Item = Arrival>,
    ) -> Result<Sharded, ArrowError> {
        let mut sharded = Sharded { rejected: inputs.faults.clone(), ..Sharded::default() };
        let before = self.0;
        let told = (!before.is_idle).then_some(before.watermark_us);
        let lane = |_| Lane { rows: Vec::new(), watermarks: Vec::new(), told };
        let mut lanes: Vec<Lane> = (0..over).map(lane).collect();
        let mut has_any = false;
        for arrival in arrivals {
            let kept = arrival.kept.filter(|kept| !sharded.rejected.contains_key(kept));
            let mut sent = None;
            match (arrival.time_us, kept.map(|kept| (kept, u32::try_from(kept).unwrap_or(u32::MAX)))) {
                (Some(time_us), Some((kept, place))) => {
                    if sharding.is_late(time_us, self.0.watermark_us) {
                        sharded.late.push(place);
                    } else {
                        sent = lanes.get_mut(lane_of(inputs.part(kept), over) as usize);
                        sent.iter_mut().for_each(|lane| lane.push(Some(place), self.0.watermark_us));
                    }
                }
                (None, Some((kept, _))) => {
                    sharded.rejected.insert(kept, "the moment of the row is null".to_owned());
                }
                (_, None) => {}
            }
            let reached = arrival.time_us.map(|time_us| time_us.saturating_sub(sharding.delay_us));
            self.0.watermark_us = self.0.watermark_us.max(reached);
            sent.into_iter().for_each(|lane| lane.told = Some(self.0.watermark_us));
            has_any = true;
        }
        let watermark_us = self.0.watermark_us;
        for (to, mut lane) in (0..).zip(lanes) {
            if has_any && watermark_us.is_some() && lane.told != Some(watermark_us) {
                lane.push(None, watermark_us);
            }
            if !lane.rows.is_empty() {
                let moments = columns.get(sharding.time);
                sharded.parts.push((to, lane.batch((sharding, schema), sharding.first + partition, inputs, moments)?));
            }
        }
        self.0.is_idle &= !has_any || watermark_us.is_none();
        if self.0 != before {
            sharded.dirty.push(WATERMARK_GROUP);
        }
        Ok(sharded)
    }

    /// Sends what the rows of groups came to, which say what they are of a first phase, to those that have the groups. All windows that
    /// were closed by then are put out, but for those that are not over `until` then.
    ///
    /// # Errors
    /// When Arrow cannot hold it.
    pub(crate) fn send(
        &mut self,
        (sharding, partial, schema): (&Sharding, &Grouping, &SchemaRef),
        (partition, over): (u32, u32),
        closed: &[Closed],
        until: Option<i64>,
    ) -> Result<Sharded, ArrowError> {
        let mut sharded = Sharded::default();
        let producer = sharding.first + partition;
        let mut lanes: Vec<Vec<RecordBatch>> = (0..over).map(|_| Vec::new()).collect();
        for piece in closed {
            let Some((keys, ends, parts)) = piece.divided(partial.keys.len()) else { continue };
            let mut places: Vec<Vec<u32>> = (0..over).map(|_| Vec::new()).collect();
            for (place, part) in (0..).zip(parts_of(keys, piece.count)) {
                places.get_mut(lane_of(part, over) as usize).into_iter().for_each(|lane| lane.push(place));
            }
            // All that is said is of windows that end later, but for those that late rows change once more.
            let before = self.0.watermark_us.or_else(|| integers(ends).first().map(|end| end - 1));
            for (lane, places) in lanes.iter_mut().zip(places).filter(|(_, places)| !places.is_empty()) {
                let columns = std::iter::once(ends).chain(keys).chain(parts);
                lane.push(rows_of(schema, (producer, before), &UInt32Array::from(places), columns)?);
            }
        }
        let told =
            until.filter(|until| self.0.watermark_us.is_none_or(|told| partial.window.ends_between(told, *until)));
        if told.is_some() {
            self.0.watermark_us = told;
            sharded.dirty.push(TOLD_GROUP);
        }
        for (to, mut lane) in (0..).zip(lanes) {
            if told.is_some() {
                lane.push(mark(schema, producer, told)?);
            }
            if !lane.is_empty() {
                sharded.parts.push((to, concat_batches(schema, &lane)?));
            }
        }
        Ok(sharded)
    }

    /// What tells all partitions of the groups that this one of the source is idle, unless they were told.
    pub(crate) fn idle(
        &mut self,
        (sharding, schema): (&Sharding, &SchemaRef),
        (partition, over): (u32, u32),
    ) -> Result<Sharded, ArrowError> {
        if std::mem::replace(&mut self.0.is_idle, true) {
            return Ok(Sharded::default());
        }
        let rows = mark(schema, sharding.first + partition, None)?;
        let parts = (0..over).map(|partition| (partition, rows.clone())).collect();
        Ok(Sharded { parts, dirty: vec![WATERMARK_GROUP], ..Sharded::default() })
    }

    /// The state of a key group; nothing if it has none.
    pub(crate) fn snapshot(&self, part: u32, layout: u64) -> Vec<u8> {
        if part == WATERMARK_GROUP || part == TOLD_GROUP { written_progress(layout, self.0) } else { Vec::new() }
    }

    /// Gives the state of a key group back.
    pub(crate) fn restore(&mut self, bytes: &[u8], layout: u64) -> Result<(), String> {
        self.0 = read_progress(layout, bytes)?.unwrap_or(self.0);
        Ok(())
    }
}

impl Lane {
    fn push(&mut self, row: Option<u32>, watermark_us: Option<i64>) {
        self.rows.push(row);
        self.watermarks.push(watermark_us);
    }

    fn batch(
        self,
        (sharding, schema): (&Sharding, &SchemaRef),
        producer: u32,
        inputs: &Inputs,
        moments: Option<&ArrayRef>,
    ) -> Result<RecordBatch, ArrowError> {
        let count = self.rows.len();
        let watermarks = self.watermarks.into_iter().map(|us| us.map(Cell::Timestamp));
        let places = UInt32Array::from(self.rows);
        let mut columns: Vec<ArrayRef> = vec![producers(producer, count), column(Type::Timestamp, watermarks)];
        for taken in moments.into_iter().chain(&inputs.keys) {
            columns.push(take(taken, &places, None)?);
        }
        for (at, argument) in sharding.arguments.iter().enumerate() {
            match inputs.arguments.get(at).and_then(Option::as_ref).filter(|_| inputs.takes_all(at)) {
                Some(array) => columns.push(take(array, &places, None)?),
                None => {
                    let places: Vec<Option<u32>> = places.iter().collect();
                    let cells = places.into_iter().map(|place| inputs.argument(at, place? as usize));
                    columns.push(column(argument.ty, cells));
                }
            }
        }
        RecordBatch::try_new(Arc::clone(schema), columns)
    }
}

/// Some rows of columns from the moment on, with their partition and how far that was before them.
fn rows_of<'c>(
    schema: &SchemaRef,
    (producer, watermark_us): (u32, Option<i64>),
    places: &UInt32Array,
    columns: impl Iterator<Item = &'c ArrayRef>,
) -> Result<RecordBatch, ArrowError> {
    let watermarks = std::iter::repeat_n(watermark_us.map(Cell::Timestamp), places.len());
    let mut taken: Vec<ArrayRef> = vec![producers(producer, places.len()), column(Type::Timestamp, watermarks)];
    for of in columns {
        taken.push(take(of, places, None)?);
    }
    RecordBatch::try_new(Arc::clone(schema), taken)
}

/// A row that only says how far its partition is; without a watermark, that it is idle.
fn mark(schema: &SchemaRef, producer: u32, watermark_us: Option<i64>) -> Result<RecordBatch, ArrowError> {
    let watermark = column(Type::Timestamp, std::iter::once(watermark_us.map(Cell::Timestamp)));
    let nothing = schema.fields().iter().skip(MOMENT).map(|field| new_null_array(field.data_type(), 1));
    let columns = [producers(producer, 1), watermark].into_iter().chain(nothing).collect();
    RecordBatch::try_new(Arc::clone(schema), columns)
}

fn producers(producer: u32, count: usize) -> ArrayRef {
    Arc::new(Int64Array::from(vec![i64::from(producer); count]))
}
