//! Key groups on their way from the partitions of a stage to those of the same stage where it has another number of them.
//!
//! What is kept of them travels in rows, as everything between stages does. Each partition hands its key groups over in pieces, to the
//! partition that their rows go to from then on, and says to each last how far it was. Who takes over takes the pieces of all in
//! whatever order, and no rows before that: it goes on once it has heard the last of each.
//!
//! That no row is lost, doubled or late by this is up to who does it: each partition of the source has sent the last of its rows as
//! before, and has told all how far it was then, before anything is handed over; and what it sends after that goes to those who take
//! over, behind what they take. Where that does not hold they notice, for the old partitions do not agree on how far the source was.

use std::collections::BTreeMap;
use std::iter;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::UInt32Type;
use arrow_array::{ArrayRef, BinaryArray, RecordBatch, UInt32Array};
use arrow_schema::{ArrowError, DataType, Field, Schema};
use serde::{Deserialize, Serialize};

use super::{Output, Stage, StageError};
use crate::group::{KEY_GROUPS, Progress, lane_of};
use crate::plan::Shape;

/// The version of what the last piece says, and of what is kept while a partition takes over.
const VERSION: u8 = 1;
/// What stands where a piece has the number of its part of the state, if it is the last one; and the part of the state that says who has
/// handed over what. No other part has this number.
pub(super) const LAST: u32 = u16::MAX as u32;
/// The bytes of pieces from which on a batch of them takes no more. A piece of its own has at most as many, or one group; of a join
/// a part, with 4 MiB: it fits into a commit.
const BATCH_BYTES: usize = 1 << 20;
/// The columns of the rows.
const COLUMNS: [&str; 4] = ["predecessor", "predecessors", "part", "state"];

/// From which number of partitions to which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rescaling {
    /// How many there were.
    pub from: u32,
    /// How many there are to be.
    pub to: u32,
}

/// How far a partition was that has handed over all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Last {
    /// One watermark, of joins one for each side.
    watermarks_us: Vec<Option<i64>>,
    /// What it has heard of the partitions of the source.
    producers: Vec<(u32, Progress)>,
}

/// What a partition that takes over has heard so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Taking {
    /// How many partitions hand over.
    predecessors: u32,
    /// How far each was that is done.
    done: BTreeMap<u32, Vec<Option<i64>>>,
    /// What all of these have heard of the partitions of the source.
    producers: Vec<(u32, Progress)>,
}

/// A piece that is to be handed over.
struct Outgoing {
    to: u32,
    part: u32,
    state: Vec<u8>,
}

/// A row of those that are handed over.
struct Piece<'p> {
    predecessor: u32,
    predecessors: u32,
    part: u32,
    state: &'p [u8],
}

impl Stage {
    /// What this partition hands over, batch after batch, each with the number of the partition that it is for. The first stage of a flow,
    /// which spreads the rows, hands over to itself. Nothing changes by this: who is interrupted goes on behind as many batches as
    /// were committed.
    ///
    /// # Errors
    /// When groups of closed windows [are still to be put out](Stage::has_more), or it is taking over itself.
    pub fn hand_over(
        &self,
        rescaling: Rescaling,
    ) -> Result<impl Iterator<Item = Result<(u32, RecordBatch), StageError>> + '_, StageError> {
        if self.taking.is_some() {
            return Err(unfinished("it has not taken over all that is handed over to it"));
        }
        if matches!(self.plan.shape, Shape::Group(_)) && self.has_more() {
            return Err(unfinished("groups of closed windows are still to be put out; have it go on first"));
        }
        let layout = self.plan.handed_layout;
        let last = written(layout, &self.last());
        // What spreads rows goes on in the same partition.
        let (predecessors, to) = match &self.plan.shape {
            Shape::Shard(_) => ((0, 1), self.partition..self.partition + 1),
            _ => ((self.partition, rescaling.from), 0..rescaling.to),
        };
        let lasts = to.map(move |to| Outgoing { to, part: LAST, state: last.clone() });
        let mut pieces = self.pieces(layout, rescaling.to).chain(lasts).peekable();
        Ok(iter::from_fn(move || {
            let first = pieces.next()?;
            let to = first.to;
            let (mut bytes, mut all) = (first.state.len(), vec![first]);
            while let Some(piece) = pieces.next_if(|piece| piece.to == to && bytes < BATCH_BYTES) {
                bytes += piece.state.len();
                all.push(piece);
            }
            Some(batch(predecessors, &all).map(|rows| (to, rows)).map_err(StageError::from))
        }))
    }

    /// Takes over what others hand over. When it has all, there may be [more](Stage::has_more) to put out.
    ///
    /// # Errors
    /// When it is not for this stage, or those who hand over do not agree on how far the source was. The stage is then to be made anew
    /// from the state of before.
    pub fn take_over(&mut self, rows: &RecordBatch) -> Result<Output, StageError> {
        let mut output = Output { dirty: vec![LAST], ..Output::default() };
        for row in 0..rows.num_rows() {
            let piece =
                Piece::read(rows, row).ok_or_else(|| StageError::Input("these rows hand nothing over".into()))?;
            self.take_piece(&piece, &mut output).map_err(StageError::State)?;
        }
        let is_all = |taking: &Taking| taking.done.len() >= taking.predecessors as usize;
        if self.taking.as_ref().is_some_and(is_all) {
            output.dirty.extend(self.go_on_taken());
        }
        output.dirty.sort_unstable();
        output.dirty.dedup();
        Ok(output)
    }

    /// Whether others have begun to hand over to it, and not all of them are done.
    #[must_use]
    pub fn is_taking_over(&self) -> bool {
        self.taking.is_some()
    }

    /// Refuses rows while others hand over.
    pub(super) fn refuse_rows(&self) -> Result<(), StageError> {
        if self.taking.is_some() { Err(unfinished("rows came before all was handed over")) } else { Ok(()) }
    }

    /// What is kept of this for somebody who goes on after it.
    pub(super) fn taking_snapshot(&self) -> Vec<u8> {
        self.taking.as_ref().map_or_else(Vec::new, |taking| written(self.plan.handed_layout, taking))
    }

    /// Goes on from there.
    pub(super) fn restore_taking(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.taking = if bytes.is_empty() { None } else { Some(read(self.plan.handed_layout, bytes)?) };
        Ok(())
    }

    /// The key groups in pieces. Those for one partition are behind one another.
    fn pieces(&self, layout: u64, partitions: u32) -> Box<dyn Iterator<Item = Outgoing> + '_> {
        let all = 0..KEY_GROUPS;
        match &self.plan.shape {
            Shape::Group(grouping) => Box::new(all.flat_map(move |part| {
                let pieces = self.groups.pieces(grouping, part, layout, BATCH_BYTES);
                pieces.into_iter().map(move |state| Outgoing { to: lane_of(part, partitions), part, state })
            })),
            Shape::Join(_) => Box::new(all.flat_map(move |key_group| {
                let to = lane_of(key_group, partitions);
                let parts = self.joins.parts_of(key_group);
                parts.map(move |part| Outgoing { to, part, state: self.joins.snapshot(part, layout) })
            })),
            Shape::Shard(_) | Shape::Project(_) => Box::new(iter::empty()),
        }
    }

    fn last(&self) -> Last {
        let (watermarks_us, producers) = match &self.plan.shape {
            Shape::Shard(_) => {
                let own = Some(self.shards.progress()).filter(|progress| *progress != Progress::default());
                (Vec::new(), own.map(|progress| (self.partition, progress)).into_iter().collect())
            }
            Shape::Group(_) => (vec![self.groups.watermark_us()], self.groups.producers()),
            Shape::Join(_) => (self.joins.watermarks_us(), self.joins.producers()),
            Shape::Project(_) => (Vec::new(), Vec::new()),
        };
        Last { watermarks_us, producers }
    }

    fn take_piece(&mut self, piece: &Piece<'_>, output: &mut Output) -> Result<(), String> {
        let Piece { predecessor, predecessors, part, state } = *piece;
        let layout = self.plan.handed_layout;
        if self.taking.is_none() && !self.last().producers.is_empty() {
            return Err("it has taken rows, or all that was handed over, already".to_owned());
        }
        let taking = self.taking.get_or_insert_with(|| Taking { predecessors, ..Taking::default() });
        if taking.predecessors != predecessors || predecessor >= predecessors || taking.done.contains_key(&predecessor)
        {
            return Err(format!(
                "partition {predecessor} of {predecessors} hands over, and has done so already, or others do"
            ));
        }
        if part == LAST {
            let last: Last = read(layout, state)?;
            if !taking.done.is_empty() && taking.producers != last.producers {
                return Err("those who hand over have not heard the same of the partitions of the source".to_owned());
            }
            taking.producers = last.producers;
            taking.done.insert(predecessor, last.watermarks_us);
            return Ok(());
        }
        match &self.plan.shape {
            Shape::Group(grouping) => self.groups.take_piece(grouping, (part, state), layout, &mut output.dirty),
            Shape::Join(joining) => self.joins.take_piece(joining, (part, state), layout, &mut output.dirty),
            Shape::Shard(_) | Shape::Project(_) => Err("this stage keeps no key groups".to_owned()),
        }
    }

    /// Goes on from where those were who have handed over, and says which parts of the state change by that.
    fn go_on_taken(&mut self) -> Vec<u32> {
        let Taking { done, producers, .. } = self.taking.take().unwrap_or_default();
        let watermarks_us: Vec<Vec<Option<i64>>> = done.into_values().collect();
        match &self.plan.shape {
            Shape::Shard(_) => self.shards.go_on_from(&producers, self.partition),
            Shape::Group(grouping) => {
                self.groups.go_on_from(grouping, producers, watermarks_us.iter().flatten().copied())
            }
            Shape::Join(_) => self.joins.go_on_from(producers, &watermarks_us),
            Shape::Project(_) => Vec::new(),
        }
    }
}

impl<'p> Piece<'p> {
    fn read(rows: &'p RecordBatch, row: usize) -> Option<Self> {
        let [predecessor, predecessors, part, state] = COLUMNS.map(|name| rows.column_by_name(name));
        let number = |column: Option<&ArrayRef>| Some(column?.as_primitive_opt::<UInt32Type>()?.value(row));
        let state = state?.as_binary_opt::<i32>()?.value(row);
        Some(Self {
            predecessor: number(predecessor)?,
            predecessors: number(predecessors)?,
            part: number(part)?,
            state,
        })
    }
}

/// Pieces of one who hands over as rows.
fn batch((predecessor, predecessors): (u32, u32), pieces: &[Outgoing]) -> Result<RecordBatch, ArrowError> {
    let same = |number: u32| -> ArrayRef { Arc::new(UInt32Array::from(vec![number; pieces.len()])) };
    let parts: ArrayRef = Arc::new(UInt32Array::from_iter_values(pieces.iter().map(|piece| piece.part)));
    let states: ArrayRef = Arc::new(BinaryArray::from_iter_values(pieces.iter().map(|piece| &piece.state)));
    let fields = COLUMNS.iter().zip([DataType::UInt32, DataType::UInt32, DataType::UInt32, DataType::Binary]);
    let schema = Schema::new(fields.map(|(name, ty)| Field::new(*name, ty, false)).collect::<Vec<_>>());
    RecordBatch::try_new(Arc::new(schema), vec![same(predecessor), same(predecessors), parts, states])
}

fn unfinished(what: &str) -> StageError {
    StageError::State(what.to_owned())
}

fn written<T: Serialize>(layout: u64, value: &T) -> Vec<u8> {
    let mut bytes = vec![VERSION];
    // What is in memory has a length, and can be encoded.
    bytes.extend(postcard::to_stdvec(&(layout, value)).unwrap_or_default());
    bytes
}

fn read<T: for<'de> Deserialize<'de>>(layout: u64, bytes: &[u8]) -> Result<T, String> {
    let unreadable = |error: postcard::Error| format!("what is handed over cannot be read: {error}");
    match bytes.split_first() {
        Some((&VERSION, bytes)) => {
            let (of, bytes) = postcard::take_from_bytes::<u64>(bytes).map_err(unreadable)?;
            if of != layout {
                return Err("what is handed over is of another query; give the flow another name".to_owned());
            }
            postcard::from_bytes(bytes).map_err(unreadable)
        }
        Some((newer, _)) => Err(format!("what is handed over is of format {newer}; upgrade this node")),
        None => Err("what is handed over is empty".to_owned()),
    }
}
