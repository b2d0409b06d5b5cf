//! Another number of partitions by key, while rows flow: the key groups go to where their rows go from then on.
//!
//! What is said of it travels in rows, as everything between stages does, told apart by their columns ([`Notice`]):
//!
//! 1. The first partition of the stage that keeps groups *announces* the change to all that spread rows to it. It does so when the query
//!    asks for another number than there is and the change before is done here.
//! 2. Each of these tells all partitions that it has *switched*: what it sends behind that goes where it belongs with the new number.
//! 3. A partition that has heard that of all hands its key groups over, in pieces, and says to each last how far it was.
//! 4. Who takes over takes the pieces of all, in whatever order, and no rows before it has heard the last of each.
//!
//! That no row is lost, doubled or late by this is up to who brings the rows (crate `flow`, `ingest`): behind the notice of one that has
//! switched nothing of it may come before all have switched and all is handed over. Where that does not hold a stage notices, and refuses.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::iter;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::UInt32Type;
use arrow_array::{ArrayRef, BinaryArray, RecordBatch, UInt32Array};
use arrow_schema::{ArrowError, DataType, Field, Schema};
use serde::{Deserialize, Serialize};

use super::{Output, Stage, StageError};
use crate::group::{KEY_GROUPS, Progress, lane_of};
use crate::plan::{Plan, Shape};

/// The version of what the last piece says, of what is kept of changes, and of how key groups are cut into batches: whoever goes on with
/// handing over, also after an upgrade, cuts them as they were cut.
const VERSION: u8 = 1;
/// The part of the state with what is kept of changes. No other part has this number.
pub(super) const RESCALING: u32 = u16::MAX as u32;
/// What stands where a piece has the number of its part of the state: that it is the last one, that who sends has switched, that a change
/// is announced.
const LAST: u32 = RESCALING;
const SWITCHED: u32 = RESCALING - 1;
const ANNOUNCED: u32 = RESCALING - 2;
/// The bytes of pieces from which on a batch of them takes no more. A piece of its own has at most as many, or one group; of a join
/// a part, with 4 MiB.
const BATCH_BYTES: usize = 1 << 20;
/// The bytes of batches from which on a step hands over no more, so that they fit into a commit.
const STEP_BYTES: usize = 4 << 20;
/// The columns of the rows.
const COLUMNS: [&str; 6] = ["generation", "from", "to", "sender", "part", "state"];

/// A change of the number of partitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Which one it is, from 1.
    pub generation: u32,
    /// How many there were.
    pub from: u32,
    /// How many there are from then on.
    pub to: u32,
}

/// The numbers of partitions of a flow where that number is changed while it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Partitions {
    /// How many there were before the first change.
    pub first: u32,
    /// How many there are of streams and stages, also such as have nothing any more.
    pub most: u32,
}

/// What rows say of a change; all rows of a batch are of one sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Of which change.
    pub change: Change,
    /// Which partition says it: of those that spread rows, or of the groups.
    pub sender: u32,
    /// Whether nothing comes of the sender behind these rows that belongs before the end of the change.
    pub is_last: bool,
}

impl Notice {
    /// Why one cannot be taken whose placement does not say yet that the number may change.
    pub const UNKNOWN: &str =
        "the number of partitions by key changes, and this node does not know of it yet; it goes on once it does";

    /// Whether rows of these columns say something of a change.
    #[must_use]
    pub fn is_of(schema: &Schema) -> bool {
        let fields = schema.fields();
        fields.len() == COLUMNS.len() && fields.iter().zip(COLUMNS).all(|(field, name)| field.name() == name)
    }

    /// What rows say, if they say something of a change.
    #[must_use]
    pub fn read(rows: &RecordBatch) -> Option<Self> {
        if !Self::is_of(rows.schema_ref()) {
            return None;
        }
        let last = Piece::read(rows, rows.num_rows().checked_sub(1)?)?;
        Some(Self { change: last.change, sender: last.sender, is_last: last.part >= SWITCHED })
    }
}

/// How far a stage is with changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rescaling {
    /// The last one that is done, if any is.
    pub done: Option<Change>,
    /// Whether rows wait for one.
    pub is_waited_for: bool,
    /// Of the first partition: how many there are, if none is under way or to be announced.
    pub settled: Option<u32>,
}

/// What a stage knows of changes.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// The numbers of partitions that its placement knows; nothing if there can be no change.
    known: Option<Partitions>,
    kept: Kept,
    /// What is left to hand over, once that was begun.
    outgoing: Option<VecDeque<(u32, RecordBatch)>>,
}

/// What is kept of changes for somebody who goes on after it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    /// The last one that is done here.
    done: Option<Change>,
    /// The last one that was announced from here.
    announced: Option<Change>,
    /// The most partitions that there ever were.
    most: u32,
    /// How far those were who have handed over the last time, by their partitions; of windows.
    handed_us: Vec<Option<i64>>,
    under_way: Option<(Change, Phase)>,
}

/// How far a partition is with a change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Phase {
    /// These of those that spread rows have switched.
    Switching(BTreeSet<u32>),
    /// All have, and so many batches are handed over.
    HandingOver(u32),
    /// Those who are done with handing over, and how far they were.
    TakingOver { done: BTreeMap<u32, Vec<Option<i64>>>, producers: Vec<(u32, Progress)> },
}

/// How far a partition was that has handed over all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Last {
    /// One watermark, of joins one for each side.
    watermarks_us: Vec<Option<i64>>,
    /// What it has heard of the partitions of the source.
    producers: Vec<(u32, Progress)>,
}

/// A piece that is to be handed over.
struct Outgoing {
    to: u32,
    part: u32,
    state: Vec<u8>,
}

/// A row.
struct Piece<'p> {
    change: Change,
    sender: u32,
    part: u32,
    state: &'p [u8],
}

impl Plan {
    /// Over how many partitions the rows that it reads are spread by their keys, if they are.
    #[must_use]
    pub fn keyed_partitions(&self) -> Option<u32> {
        self.keyed_partitions
    }
}

impl Stage {
    /// The same, of a flow whose number of partitions by key is changed while it runs.
    #[must_use]
    pub fn changing(mut self, known: Option<Partitions>) -> Self {
        self.changes.known = known;
        self
    }

    /// How far it is with changes of the number of partitions.
    #[must_use]
    pub fn rescaling(&self) -> Rescaling {
        let Kept { done, under_way, .. } = &self.changes.kept;
        let waits = |(_, phase): &(Change, Phase)| !matches!(phase, Phase::Switching(_));
        let is_settled = self.changes.known.is_some() && self.is_settled() && self.to_announce().is_none();
        let settled = Some(self.announced_number()).filter(|_| is_settled && self.partition == 0).flatten();
        Rescaling { done: *done, is_waited_for: under_way.as_ref().is_some_and(waits), settled }
    }

    /// Whether what it is to [go on](Self::go_on) with comes before any further rows.
    #[must_use]
    pub fn comes_first(&self) -> bool {
        matches!(self.changes.kept.under_way, Some((_, Phase::HandingOver(_))))
    }

    /// Over how many partitions it spreads rows now.
    pub(super) fn spreads_over(&self, said: u32) -> u32 {
        self.changes.kept.done.map(|change| change.to).or(self.changes.known.map(|known| known.first)).unwrap_or(said)
    }

    /// Refuses rows while others hand over, or it does itself, and where there is nobody to take what it spreads.
    pub(super) fn refuse_rows(&self) -> Result<(), StageError> {
        if let (Some(known), Some(done)) = (self.changes.known, self.changes.kept.done)
            && done.to > known.most
        {
            return Err(StageError::State(format!(
                "rows are spread over {} partitions by key, and what is deployed knows of {}, for it was deployed where that was not known: deploy it again",
                done.to, known.most
            )));
        }
        match &self.changes.kept.under_way {
            Some((_, Phase::HandingOver(_) | Phase::TakingOver { .. })) => {
                Err(StageError::State("rows came before all was handed over".to_owned()))
            }
            _ => Ok(()),
        }
    }

    /// Takes what is said of a change.
    pub(super) fn take_notices(&mut self, rows: &RecordBatch) -> Result<Output, StageError> {
        let most = self.changes.known.map_or(0, |known| known.most);
        let mut output = Output { dirty: vec![RESCALING], ..Output::default() };
        for row in 0..rows.num_rows() {
            let piece =
                Piece::read(rows, row).ok_or_else(|| StageError::State("a notice cannot be read".to_owned()))?;
            if piece.change.from.max(piece.change.to) > most {
                // Nobody would keep what it hands over, or spreads, for those who take it.
                return Err(StageError::State(Notice::UNKNOWN.to_owned()));
            }
            match piece.part {
                ANNOUNCED => self.switch(piece.change, &mut output)?,
                SWITCHED => self.note_switched(piece.sender, piece.change, &mut output).map_err(StageError::State)?,
                _ => self.take_piece(&piece, &mut output).map_err(StageError::State)?,
            }
        }
        output.dirty.sort_unstable();
        output.dirty.dedup();
        Ok(output)
    }

    /// Whether it has something of a change to put out.
    pub(super) fn has_of_changes(&self) -> bool {
        self.comes_first() || self.to_announce().is_some()
    }

    /// Puts some of that out; nothing if there is nothing.
    pub(super) fn go_on_with_changes(&mut self) -> Result<Option<Output>, StageError> {
        if let Some(change) = self.to_announce() {
            self.changes.kept.announced = Some(change);
            let announced = batch((change, self.partition), &[Outgoing { to: 0, part: ANNOUNCED, state: Vec::new() }])?;
            return Ok(Some(Output { announced: Some(announced), dirty: vec![RESCALING], ..Output::default() }));
        }
        let closes = matches!(self.plan.shape, Shape::Group(_)) && self.groups.has_more();
        match &self.changes.kept.under_way {
            // Groups that are handed over are those of open windows, and closed ones that late rows may change.
            Some((change, Phase::HandingOver(batches))) if !closes => Ok(Some(self.hand_over(*change, *batches)?)),
            _ => Ok(None),
        }
    }

    /// What is kept of changes for somebody who goes on after it.
    pub(super) fn changes_snapshot(&self) -> Vec<u8> {
        let kept = &self.changes.kept;
        if *kept == Kept::default() { Vec::new() } else { written(self.plan.state_layout, kept) }
    }

    /// Goes on from there.
    pub(super) fn restore_changes(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.changes.outgoing = None;
        self.changes.kept = if bytes.is_empty() { Kept::default() } else { read(self.plan.state_layout, bytes)? };
        if let Shape::Group(_) = self.plan.shape {
            self.groups.handed_at(self.changes.kept.handed_us.clone());
        }
        Ok(())
    }

    /// The change that is to be announced. One after the other: what is done here, each does in its turn.
    fn to_announce(&self) -> Option<Change> {
        let (known, to) = (self.changes.known?, self.plan.keyed_partitions?);
        let (from, generation) = (self.announced_number()?, self.changes.kept.announced.map_or(0, |of| of.generation));
        let may = self.partition == 0 && self.is_settled() && from.max(to) <= known.most;
        (may && from != to).then_some(Change { generation: generation + 1, from, to })
    }

    /// The number that was announced last, or is the first one.
    fn announced_number(&self) -> Option<u32> {
        self.changes.kept.announced.map(|of| of.to).or(self.changes.known.map(|known| known.first))
    }

    /// Whether all that was announced is done here.
    fn is_settled(&self) -> bool {
        let Kept { done, announced, under_way, .. } = &self.changes.kept;
        announced.is_none_or(|announced| *done == Some(announced)) && under_way.is_none()
    }

    /// Spreads rows over another number of partitions from now on, and tells all that there ever were.
    fn switch(&mut self, change: Change, output: &mut Output) -> Result<(), StageError> {
        let Shape::Shard(sharding) = &self.plan.shape else {
            return Err(StageError::State("it spreads no rows".to_owned()));
        };
        let (sender, from) = (sharding.first + self.partition, self.spreads_over(sharding.partitions));
        let kept = &mut self.changes.kept;
        let next = kept.done.map_or(1, |done| done.generation + 1);
        if change.generation != next || change.from != from {
            return Err(StageError::State(format!(
                "change {} from {} partitions to {} is announced, and {from} have change {next} before them; give the flow another name",
                change.generation, change.from, change.to
            )));
        }
        kept.most = kept.most.max(change.from).max(change.to);
        kept.done = Some(change);
        let told = [Outgoing { to: 0, part: SWITCHED, state: Vec::new() }];
        for to in 0..kept.most {
            output.spread.push((to, batch((change, sender), &told)?));
        }
        Ok(())
    }

    /// Notes that one of those that spread rows has switched.
    fn note_switched(&mut self, sender: u32, change: Change, output: &mut Output) -> Result<(), String> {
        let producers = match &self.plan.shape {
            Shape::Group(grouping) => grouping.producers.unwrap_or_default(),
            Shape::Join(joining) => joining.producers(),
            Shape::Shard(_) | Shape::Project(_) => 0,
        };
        let Kept { done, under_way, .. } = &mut self.changes.kept;
        let is_next = done.is_none_or(|done| done.generation < change.generation);
        let (ours, phase) = under_way.get_or_insert_with(|| (change, Phase::Switching(BTreeSet::new())));
        match phase {
            Phase::Switching(switched) if is_next && *ours == change && sender < producers => {
                if !switched.insert(sender) {
                    return Err(format!("partition {sender} of the source has switched twice"));
                }
                if switched.len() as u64 == u64::from(producers) {
                    *phase = Phase::HandingOver(0);
                    if self.partition >= change.from {
                        self.begin_to_take_over(change, output);
                    }
                }
                Ok(())
            }
            _ => Err(format!(
                "partition {sender} of the source switches to {} partitions in change {}, and change {} is under way",
                change.to, change.generation, ours.generation
            )),
        }
    }

    /// Hands over more, behind as many batches as were handed over. What it is does not depend on who begins anew.
    fn hand_over(&mut self, change: Change, batches: u32) -> Result<Output, ArrowError> {
        let mut outgoing = match self.changes.outgoing.take() {
            Some(outgoing) => outgoing,
            None => self.outgoing(change).skip(batches as usize).collect::<Result<VecDeque<_>, ArrowError>>()?,
        };
        let mut output = Output { dirty: vec![RESCALING], ..Output::default() };
        let (mut bytes, mut now, mut last) = (0, batches, None);
        while let Some((to, rows)) = outgoing.pop_front_if(|(to, _)| bytes < STEP_BYTES && last != Some(*to)) {
            bytes += rows.get_array_memory_size();
            (now, last) = (now + 1, Some(to));
            output.handed.push((to, rows));
        }
        if outgoing.is_empty() {
            self.begin_to_take_over(change, &mut output);
        } else {
            self.changes.kept.under_way = Some((change, Phase::HandingOver(now)));
            self.changes.outgoing = Some(outgoing);
        }
        Ok(output)
    }

    /// All that this partition hands over, batch after batch, each with the partition that it is for.
    fn outgoing(&self, change: Change) -> impl Iterator<Item = Result<(u32, RecordBatch), ArrowError>> + '_ {
        let last = written(self.plan.state_layout, &self.last());
        let of_one = move |to: u32| {
            let groups = (0..KEY_GROUPS).filter(move |group| lane_of(*group, change.to) == to);
            let pieces = groups.flat_map(|group| self.pieces(group));
            pieces.chain([(LAST, last.clone())]).map(move |(part, state)| Outgoing { to, part, state })
        };
        let (mut pieces, sender) = ((0..change.to).flat_map(of_one).peekable(), self.partition);
        iter::from_fn(move || {
            let first = pieces.next()?;
            let to = first.to;
            let (mut bytes, mut all) = (first.state.len(), vec![first]);
            while let Some(piece) = pieces.next_if(|piece| piece.to == to && bytes < BATCH_BYTES) {
                bytes += piece.state.len();
                all.push(piece);
            }
            Some(batch((change, sender), &all).map(|rows| (to, rows)))
        })
    }

    /// A key group in pieces, each with the part of the state that it is of, in an order that what they are says.
    fn pieces(&self, key_group: u32) -> Vec<(u32, Vec<u8>)> {
        let layout = self.plan.state_layout;
        match &self.plan.shape {
            Shape::Group(grouping) => {
                let pieces = self.groups.pieces(grouping, key_group, layout, BATCH_BYTES);
                pieces.into_iter().map(|state| (key_group, state)).collect()
            }
            Shape::Join(_) => {
                let parts = self.joins.parts_of(key_group);
                parts.map(|part| (part, self.joins.snapshot(part, layout))).collect()
            }
            Shape::Shard(_) | Shape::Project(_) => Vec::new(),
        }
    }

    fn last(&self) -> Last {
        let (watermarks_us, producers) = match &self.plan.shape {
            Shape::Group(_) => (vec![self.groups.watermark_us()], self.groups.producers()),
            Shape::Join(_) => (self.joins.watermarks_us(), self.joins.producers()),
            Shape::Shard(_) | Shape::Project(_) => (Vec::new(), Vec::new()),
        };
        Last { watermarks_us, producers }
    }

    /// Forgets its key groups, which are others' now, and takes over what is handed to it, if it is one of those that go on.
    fn begin_to_take_over(&mut self, change: Change, output: &mut Output) {
        let forgotten = match &self.plan.shape {
            Shape::Group(grouping) => self.groups.clear(grouping),
            Shape::Join(_) => self.joins.clear(),
            Shape::Shard(_) | Shape::Project(_) => Vec::new(),
        };
        output.dirty.extend(forgotten);
        let kept = &mut self.changes.kept;
        kept.handed_us.clear();
        if self.partition < change.to {
            let phase = Phase::TakingOver { done: BTreeMap::new(), producers: Vec::new() };
            kept.under_way = Some((change, phase));
        } else {
            (kept.done, kept.under_way) = (Some(change), None);
        }
    }

    fn take_piece(&mut self, piece: &Piece<'_>, output: &mut Output) -> Result<(), String> {
        let Piece { change, sender, part, state } = *piece;
        let layout = self.plan.state_layout;
        let (done, producers) = match &mut self.changes.kept.under_way {
            Some((ours, Phase::TakingOver { done, producers })) if *ours == change => (done, producers),
            _ => {
                return Err(format!(
                    "partition {sender} hands over for change {}, which is not under way",
                    change.generation
                ));
            }
        };
        if sender >= change.from || done.contains_key(&sender) {
            return Err(format!("partition {sender} of {} hands over, and has done so already", change.from));
        }
        if part == LAST {
            let last: Last = read(layout, state)?;
            if !done.is_empty() && *producers != last.producers {
                return Err("those who hand over have not heard the same of the partitions of the source".to_owned());
            }
            *producers = last.producers;
            done.insert(sender, last.watermarks_us);
            if done.len() as u64 == u64::from(change.from) {
                let (done, producers) = (std::mem::take(done), std::mem::take(producers));
                self.go_on_taken(change, done, producers, output);
            }
            return Ok(());
        }
        match &self.plan.shape {
            Shape::Group(grouping) => self.groups.take_piece(grouping, (part, state), layout, &mut output.dirty),
            Shape::Join(joining) => self.joins.take_piece(joining, (part, state), layout, &mut output.dirty),
            Shape::Shard(_) | Shape::Project(_) => Err("this stage keeps no key groups".to_owned()),
        }
    }

    /// Goes on from where those were who have handed over.
    fn go_on_taken(
        &mut self,
        change: Change,
        done: BTreeMap<u32, Vec<Option<i64>>>,
        producers: Vec<(u32, Progress)>,
        output: &mut Output,
    ) {
        let watermarks_us: Vec<Vec<Option<i64>>> = done.into_values().collect();
        let is_group = matches!(self.plan.shape, Shape::Group(_));
        let of_windows: Vec<Option<i64>> = watermarks_us.iter().filter(|_| is_group).flatten().copied().collect();
        output.dirty.extend(match &self.plan.shape {
            Shape::Group(grouping) => self.groups.go_on_from(grouping, producers, of_windows.clone()),
            Shape::Join(_) => self.joins.go_on_from(producers, &watermarks_us),
            Shape::Shard(_) | Shape::Project(_) => Vec::new(),
        });
        let kept = &mut self.changes.kept;
        (kept.done, kept.under_way, kept.handed_us) = (Some(change), None, of_windows);
    }
}

impl<'p> Piece<'p> {
    fn read(rows: &'p RecordBatch, row: usize) -> Option<Self> {
        let [generation, from, to, sender, part, state] = COLUMNS.map(|name| rows.column_by_name(name));
        let number = |column: Option<&ArrayRef>| Some(column?.as_primitive_opt::<UInt32Type>()?.value(row));
        let change = Change { generation: number(generation)?, from: number(from)?, to: number(to)? };
        let state = state?.as_binary_opt::<i32>()?.value(row);
        Some(Self { change, sender: number(sender)?, part: number(part)?, state })
    }
}

/// Pieces of one sender as rows.
fn batch((change, sender): (Change, u32), pieces: &[Outgoing]) -> Result<RecordBatch, ArrowError> {
    let same = |number: u32| -> ArrayRef { Arc::new(UInt32Array::from(vec![number; pieces.len()])) };
    let parts: ArrayRef = Arc::new(UInt32Array::from_iter_values(pieces.iter().map(|piece| piece.part)));
    let states: ArrayRef = Arc::new(BinaryArray::from_iter_values(pieces.iter().map(|piece| &piece.state)));
    let types = [const { DataType::UInt32 }; 5].into_iter().chain([DataType::Binary]);
    let schema =
        Schema::new(COLUMNS.iter().zip(types).map(|(name, ty)| Field::new(*name, ty, false)).collect::<Vec<_>>());
    let numbers = [change.generation, change.from, change.to, sender].map(same);
    RecordBatch::try_new(Arc::new(schema), numbers.into_iter().chain([parts, states]).collect())
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
