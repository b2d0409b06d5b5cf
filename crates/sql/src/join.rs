//! Pairs of rows of two streams, with equal keys and moments that are no further apart than an interval; or of rows of one stream with
//! the version of the other that was valid at them (`version`).
//!
//! The rows of both come in one stream, spread by their keys (`shard`): each says which partition of which side it is of, and how far
//! that was before it. A row makes pairs with the rows of the other side that are kept, and is kept itself until no other can come
//! that it would make one with: until the watermark of the other side, the least of all of its partitions, is behind the row's
//! interval. What is late has been left out by its own partition (`shard`), and so each pair is made once, whichever row came first, and
//! which ones there are does not depend on how partitions come among one another. A row of an outer side of which there was no pair
//! comes out alone when its interval is over.
//!
//! Rows are taken one after the other; only what is computed of pairs is computed for a batch at once, of which the next row
//! depends on nothing. State is kept by key group and time (`state`).

mod handover;
mod pairs;
mod state;
mod version;

use std::collections::{BTreeMap, BTreeSet};

use arrow_array::{ArrayRef, RecordBatch};
use arrow_schema::SchemaRef;
use smallvec::SmallVec;

use crate::group::{Arrival, Progress};
use crate::plan::{Joining, Pairing};
use crate::shard::{KEYS, PRODUCER, WATERMARK};
use crate::stage::StageError;
use crate::user_function::Functions;
use crate::value::{Cell, cell};
use pairs::Found;
use state::{PRODUCERS_FROM, PROGRESS_PART, part_of};

/// The most rows that a partition keeps of both sides; a row beyond is rejected. One takes some 300 bytes beside its values.
const ROWS_MAX: usize = 1 << 20;
/// The bytes of a row in the state beside its key and its values: its moment and number, the lengths, and whether there was a pair.
const WRITTEN_BYTES: usize = 32;
/// The most bytes of the rows that a partition keeps.
const BYTES_MAX: usize = 64 << 20;
/// The most of those in one part of the state, which is written as a whole: beside what comes of a row it fits into a commit.
const PART_BYTES_MAX: usize = 4 << 20;
/// The most pairs of a batch of rows; one row cannot make so many, nor end the intervals of so many.
const FOUND_MAX: usize = 2 * ROWS_MAX;
/// The most rows of a side, and the most bytes of theirs, whose intervals are ended at once, so that what comes out fits into a
/// commit; the others follow.
const ENDED_MAX: usize = 8_192;
const ENDED_BYTES_MAX: usize = 2 << 20;

/// An encoded key.
type Key = SmallVec<[u8; 24]>;
/// A kept row: its moment, and its number among all rows of the partition, by the order in which they came.
type At = (i64, u64);

/// Both sides of a join in one partition.
#[derive(Debug, Default)]
pub(crate) struct Joins {
    sides: [Side; 2],
    /// The partitions of the sources that have been heard of; those of the right side are numbered behind those of the left one.
    producers: BTreeMap<u32, Progress>,
    /// The parts of the state, of both sides.
    parts: BTreeMap<u32, Part>,
    /// What is kept of both sides.
    count: usize,
    bytes: usize,
    /// The number of the next row.
    next: u64,
}

/// One side.
#[derive(Debug, Default)]
struct Side {
    rows: BTreeMap<At, Kept>,
    /// By encoded key.
    keys: BTreeMap<Key, BTreeSet<At>>,
    /// Rows of the batch, or kept before it, that are not kept any more: pairs of the batch may be of them.
    gone: BTreeMap<At, Kept>,
    watermark_us: Option<i64>,
    /// The last row whose interval is over.
    ended: Option<At>,
}

#[derive(Debug)]
struct Kept {
    /// Its encoded key.
    key: Key,
    /// Its values, encoded; those of a version with from when on it is valid behind them.
    values: Box<[u8]>,
    /// From when on it is valid: a version that comes late is so from the watermark on. Nothing else asks.
    valid_us: i64,
    part: u32,
    /// Whether there was a pair of it; only of outer sides.
    is_matched: bool,
}

impl Kept {
    fn bytes(&self) -> usize {
        self.key.len() + self.values.len() + WRITTEN_BYTES
    }
}

/// The rows of both sides in one part of the state.
#[derive(Debug, Default)]
struct Part {
    sides: [BTreeSet<At>; 2],
    bytes: usize,
}

/// What rows came to; places are among those that the filter passed.
#[derive(Debug, Default)]
pub(crate) struct Joined {
    pub(crate) rows: Option<RecordBatch>,
    pub(crate) rejected: BTreeMap<usize, String>,
    /// Pairs, or rows alone, on which something failed: the row that came last of them as it arrived, and why.
    pub(crate) failed: Vec<(usize, String)>,
    pub(crate) dirty: Vec<u32>,
}

/// What a batch has come to so far.
#[derive(Default)]
struct Step {
    found: Vec<Found>,
    dirty: BTreeSet<u32>,
}

/// A row as it came, before it is kept.
struct Row {
    /// 0 for the left side, 1 for the right one.
    side: usize,
    at: At,
    kept: Kept,
    /// Whether the key has no null, so that it can be equal to another.
    is_comparable: bool,
}

impl Joining {
    fn side_of(&self, producer: u32) -> usize {
        usize::from(producer >= one(&self.sides, 0).producers)
    }

    pub(crate) fn producers(&self) -> u32 {
        self.sides.iter().map(|side| side.producers).sum()
    }

    /// The moments of the other side that a row of a moment can make pairs with.
    fn partners(&self, side: usize, time_us: i64) -> (i64, i64) {
        match (self.pairing, side) {
            (Pairing::Within { low_us, high_us }, 0) => {
                (time_us.saturating_add(low_us), time_us.saturating_add(high_us))
            }
            (Pairing::Within { low_us, high_us }, _) => {
                (time_us.saturating_sub(high_us), time_us.saturating_sub(low_us))
            }
            (Pairing::Version, 0) => (i64::MIN, time_us),
            (Pairing::Version, _) => (time_us, i64::MAX),
        }
    }

    fn is_outer(&self, side: usize) -> bool {
        one(&self.sides, side).is_outer
    }
}

/// One of both sides: 0 for the left one, 1 for the right one.
pub(crate) fn one<T>([left, right]: &[T; 2], side: usize) -> &T {
    if side == 0 { left } else { right }
}

/// The same to be changed.
pub(crate) fn one_mut<T>([left, right]: &mut [T; 2], side: usize) -> &mut T {
    if side == 0 { left } else { right }
}

/// The partition of the sources that a row is of, and how far that was before it.
fn said(joining: &Joining, columns: &[ArrayRef], place: usize) -> Option<(u32, Option<i64>)> {
    let Some(Cell::Bigint(producer)) = cell(columns.get(PRODUCER)?, place) else { return None };
    let watermark_us = match cell(columns.get(WATERMARK)?, place) {
        Some(Cell::Timestamp(us)) => Some(us),
        _ => None,
    };
    let producer = u32::try_from(producer).ok().filter(|producer| *producer < joining.producers())?;
    Some((producer, watermark_us))
}

impl Joins {
    /// Takes rows of the stream between.
    ///
    /// # Errors
    /// When there are more pairs than a batch may have, or Arrow cannot hold what is computed of them, or a function cannot be called.
    pub(crate) async fn take(
        &mut self,
        (joining, result): (&Joining, &SchemaRef),
        (columns, rows): (&[ArrayRef], usize),
        arrivals: impl Iterator<Item = Arrival>,
        functions: &mut dyn Functions,
    ) -> Result<Joined, StageError> {
        let (mut joined, mut step) = (Joined::default(), Step::default());
        for (at, arrival) in arrivals.enumerate() {
            let Some(place) = arrival.kept else { continue };
            let Some((producer, watermark_us)) = said(joining, columns, place) else {
                joined.rejected.insert(place, "it is of no partition of the sources".to_owned());
                continue;
            };
            let side = joining.side_of(producer);
            let delay_us = one(&joining.sides, side).delay_us;
            let reached = arrival.time_us.map(|time_us| time_us.saturating_sub(delay_us)).max(watermark_us);
            self.hear(joining, (producer, reached), &mut step.dirty);
            // What comes out alone does so before the pairs of the row that ends it: they are later.
            self.end(joining, at, &mut step);
            step.dirty.insert(PROGRESS_PART);
            if let Some(time_us) = arrival.time_us {
                let valid_us = time_us.max(watermark_us.unwrap_or(time_us));
                let row = self.read(joining, columns, (place, side), (time_us, valid_us));
                let taken = if joining.is_version(side) {
                    self.version(row, producer, &mut step)
                } else {
                    self.row(joining, row, at, &mut step)
                };
                if let Err(reason) = taken {
                    joined.rejected.insert(place, reason);
                }
            }
            if step.found.len() > FOUND_MAX {
                return Err(StageError::Arrow(format!("{rows} rows make more than {FOUND_MAX} pairs")));
            }
        }
        self.finish((joining, result), step, joined, functions).await
    }

    /// Whether rows whose interval is over are still to be put out.
    pub(crate) fn has_more(&self, joining: &Joining) -> bool {
        [0, 1].into_iter().any(|side| self.over(joining, side).is_some())
    }

    /// Puts out some of them.
    ///
    /// # Errors
    /// As those of [`take`](Self::take).
    pub(crate) async fn go_on(
        &mut self,
        (joining, result): (&Joining, &SchemaRef),
        functions: &mut dyn Functions,
    ) -> Result<Joined, StageError> {
        let mut step = Step::default();
        self.end(joining, 0, &mut step);
        step.dirty.insert(PROGRESS_PART);
        self.finish((joining, result), step, Joined::default(), functions).await
    }

    async fn finish(
        &mut self,
        to: (&Joining, &SchemaRef),
        mut step: Step,
        mut joined: Joined,
        functions: &mut dyn Functions,
    ) -> Result<Joined, StageError> {
        self.put_out(to, &mut step, &mut joined, functions).await?;
        self.sides.iter_mut().for_each(|side| side.gone.clear());
        joined.dirty = step.dirty.into_iter().collect();
        Ok(joined)
    }

    fn read(
        &self,
        joining: &Joining,
        columns: &[ArrayRef],
        (place, side): (usize, usize),
        (time_us, valid_us): (i64, i64),
    ) -> Row {
        let at_place = |column: usize| columns.get(column).and_then(|column| cell(column, place));
        let key = (KEYS..KEYS + joining.keys).map(|column| at_place(column).map(Cell::canonical));
        let key: Vec<Option<Cell<'_>>> = key.collect();
        let is_comparable = key.iter().all(Option::is_some);
        let values = one(&joining.sides, side).columns.iter().map(|(column, _)| at_place(*column));
        let valid = joining.is_version(side).then_some(Some(Cell::Timestamp(valid_us)));
        let values: Vec<Option<Cell<'_>>> = values.chain(valid).collect();
        // Only what has no length cannot be encoded, and cells have one.
        let key = postcard::to_stdvec(&key).unwrap_or_default();
        let values = postcard::to_stdvec(&values).unwrap_or_default();
        let part = if joining.is_version(side) { version::part_of(&key) } else { part_of(joining, &key, time_us) };
        let kept = Kept { key: Key::from_vec(key), values: values.into(), valid_us, part, is_matched: false };
        Row { side, at: (time_us, self.next), kept, is_comparable }
    }

    /// Finds the pairs of a row, and keeps it for those that will come. It is taken as a whole or not at all.
    fn row(&mut self, joining: &Joining, row: Row, arrived: usize, step: &mut Step) -> Result<(), String> {
        let Row { side, at, kept, is_comparable } = row;
        let other = one(&self.sides, 1 - side);
        if one(&self.sides, side).watermark_us.is_some_and(|watermark_us| at.0 < watermark_us) {
            return Err("it is older than the watermark, which went on while its partition was idle".to_owned());
        }
        let (low, high) = joining.partners(side, at.0);
        let is_over = other.watermark_us.is_some_and(|watermark_us| high < watermark_us);
        // What comes out when it is over does not come before those that wait to.
        let comes_out = joining.is_outer(side) || joining.pairing == Pairing::Version;
        let is_over = is_over && !(comes_out && self.over(joining, side).is_some_and(|first| first < at));
        let is_kept = !is_over && (is_comparable || joining.is_outer(side));
        if is_kept {
            self.check(&kept)?;
        }
        if is_comparable && joining.pairing != Pairing::Version {
            let partners = other.keys.get(&kept.key).into_iter().flat_map(|of| of.range((low, 0)..=(high, u64::MAX)));
            step.found.extend(partners.map(|partner| Found::pair(arrived, side, at, *partner)));
        }
        self.next += 1;
        if is_kept {
            step.dirty.insert(kept.part);
            self.insert(side, at, kept);
            return Ok(());
        }
        self.leave(joining, (side, at, kept), (arrived, is_over), step);
        Ok(())
    }

    /// Lets a row go that is not kept any more. Where its interval is over it comes out alone, or with the version that was valid. Says
    /// how many bytes come out.
    fn leave(
        &mut self,
        joining: &Joining,
        (side, at, kept): (usize, At, Kept),
        (arrived, is_over): (usize, bool),
        step: &mut Step,
    ) -> usize {
        let mut bytes = kept.bytes();
        if is_over && joining.pairing == Pairing::Version {
            if let Some(version) = self.valid(&kept.key, at.0) {
                bytes += one(&self.sides, 1).rows.get(&version).map_or(0, Kept::bytes);
                step.found.push(Found::pair(arrived, side, at, version));
            }
            self.outdate(&kept.key, step);
        }
        if is_over && joining.is_outer(side) && !kept.is_matched {
            step.found.push(Found::alone(arrived, side, at));
        }
        one_mut(&mut self.sides, side).gone.insert(at, kept);
        bytes
    }

    /// Whether a row can be kept beside those that are.
    fn check(&self, kept: &Kept) -> Result<(), String> {
        let of_part = self.parts.get(&kept.part).map_or(0, |part| part.bytes);
        if self.count >= ROWS_MAX {
            return Err(format!("{ROWS_MAX} rows wait for others in this partition, which is the most"));
        }
        if self.bytes + kept.bytes() > BYTES_MAX {
            return Err("the rows that wait for others in this partition have 64 MiB, which is the most".to_owned());
        }
        if of_part + kept.bytes() > PART_BYTES_MAX {
            return Err(
                "the rows of its key group and time that wait for others have 4 MiB, which is the most".to_owned()
            );
        }
        Ok(())
    }

    fn insert(&mut self, side: usize, at: At, kept: Kept) {
        self.count += 1;
        self.bytes += kept.bytes();
        let part = self.parts.entry(kept.part).or_default();
        part.bytes += kept.bytes();
        one_mut(&mut part.sides, side).insert(at);
        let own = one_mut(&mut self.sides, side);
        own.keys.entry(kept.key.clone()).or_default().insert(at);
        own.rows.insert(at, kept);
    }

    fn remove(&mut self, side: usize, at: At) -> Option<Kept> {
        let own = one_mut(&mut self.sides, side);
        let kept = own.rows.remove(&at)?;
        if let Some(of_key) = own.keys.get_mut(&kept.key) {
            of_key.remove(&at);
            if of_key.is_empty() {
                own.keys.remove(&kept.key);
            }
        }
        self.count -= 1;
        self.bytes -= kept.bytes();
        if let Some(part) = self.parts.get_mut(&kept.part) {
            part.bytes -= kept.bytes();
            one_mut(&mut part.sides, side).remove(&at);
            if part.sides.iter().all(BTreeSet::is_empty) {
                self.parts.remove(&kept.part);
            }
        }
        Some(kept)
    }

    /// Notes how far a partition of the sources is, and how far with it its side, and a side that is idle.
    fn hear(&mut self, joining: &Joining, (producer, reached): (u32, Option<i64>), dirty: &mut BTreeSet<u32>) {
        let before = self.producers.get(&producer).copied();
        let watermark_us = before.and_then(|before| before.watermark_us).max(reached);
        let now = Progress { watermark_us, is_idle: reached.is_none() };
        if before == Some(now) {
            return;
        }
        self.producers.insert(producer, now);
        dirty.insert(PRODUCERS_FROM + producer);
        // One that was ahead of the least does not make that another.
        let own = one(&self.sides, joining.side_of(producer)).watermark_us;
        if before.is_some_and(|before| !before.is_idle && before.watermark_us > own) {
            return;
        }
        for side in [0, 1] {
            let reached = self.reached(joining, side);
            let own = one_mut(&mut self.sides, side);
            own.watermark_us = own.watermark_us.max(reached);
        }
    }

    /// How far a side is, if each of its partitions has been heard of: the least of those that are not idle. Where all are, as far as the
    /// other side is, and where that is idle, too, the furthest of all.
    fn reached(&self, joining: &Joining, side: usize) -> Option<i64> {
        let left = one(&joining.sides, 0).producers;
        let of = |side: usize| match side {
            0 => self.producers.range(..left),
            _ => self.producers.range(left..),
        };
        if of(side).count() < one(&joining.sides, side).producers as usize {
            return None;
        }
        let awaited = |side: usize| of(side).filter(|(_, of)| !of.is_idle).filter_map(|(_, of)| of.watermark_us).min();
        awaited(side).or_else(|| {
            let all_heard = self.producers.len() == joining.producers() as usize;
            let furthest = || self.producers.values().filter_map(|of| of.watermark_us).max();
            if all_heard { awaited(1 - side).or_else(furthest) } else { None }
        })
    }

    /// The first row of a side whose interval the watermark of the other side has passed.
    fn over(&self, joining: &Joining, side: usize) -> Option<At> {
        let watermark_us = one(&self.sides, 1 - side).watermark_us?;
        let first = one(&self.sides, side).rows.keys().next()?;
        (joining.partners(side, first.0).1 < watermark_us).then_some(*first)
    }

    /// Ends the intervals of the rows that the watermark of the other side has passed.
    fn end(&mut self, joining: &Joining, arrived: usize, step: &mut Step) {
        for side in [0, 1] {
            let (mut count, mut bytes) = (0, 0);
            while count < ENDED_MAX && bytes < ENDED_BYTES_MAX {
                let Some(at) = self.over(joining, side) else { break };
                let Some(kept) = self.remove(side, at) else { break };
                // What is left of a part is not written anew: how far a side has ended says which of its rows count.
                if !self.parts.contains_key(&kept.part) {
                    step.dirty.insert(kept.part);
                }
                one_mut(&mut self.sides, side).ended = Some(at);
                count += 1;
                bytes += self.leave(joining, (side, at, kept), (arrived, true), step);
            }
        }
    }
}
