//! The state of a join: its rows by key group and time, how far each partition of the sources is, and how far the sides are.
//!
//! Rows are cut by time, too, so that a step writes those that came of late, not all that are kept. A part that rows are taken out of is
//! written anew only once it is empty; which of the rows in it still count is said by how far their side has ended.

use serde::{Deserialize, Serialize};

use super::{At, Joins, Kept, Key, one, one_mut, version};
use crate::group::{KEY_GROUPS, Progress};
use crate::plan::{Joining, Pairing, hash};

/// The version of what a snapshot is written in.
const STATE_VERSION: u8 = 1;
/// Into how many parts each key group is cut; one after the other is used, again and again.
const SLOTS: i64 = 64;
/// The same of the rows of a join with versions; behind them are the parts of versions.
pub(super) const SLOTS_OF_ROWS: i64 = SLOTS / 2;
/// How many of these an interval has.
const SLOTS_OF_INTERVAL: i64 = 16;
/// The least time that one of them stands for.
const SLOT_US_MIN: i64 = 1_000_000;
/// The part that says how far the sides are.
pub(super) const PROGRESS_PART: u32 = SLOTS as u32 * KEY_GROUPS;
/// The first of the parts that say how far a partition of the sources is.
pub(super) const PRODUCERS_FROM: u32 = PROGRESS_PART + 1;

/// A row as it is written: its key, its values, and whether there was a pair of it.
type Written<'k> = (At, &'k [u8], &'k [u8], bool);
/// The same as it is read.
type ReadBack = (At, Vec<u8>, Vec<u8>, bool);

/// How far both sides are.
#[derive(Serialize, Deserialize)]
struct Sides {
    watermark_us: [Option<i64>; 2],
    ended: [Option<At>; 2],
    next: u64,
}

/// The part of the state that a row of an encoded key is in.
pub(super) fn part_of(joining: &Joining, key: &[u8], time_us: i64) -> u32 {
    let group = (hash(key) % u64::from(KEY_GROUPS)) as u32;
    let (length_us, slots) = match joining.pairing {
        Pairing::Within { low_us, high_us } => (high_us.saturating_sub(low_us), SLOTS),
        Pairing::Version => (0, SLOTS_OF_ROWS),
    };
    let slot = time_us.div_euclid((length_us / SLOTS_OF_INTERVAL).max(SLOT_US_MIN)).rem_euclid(slots);
    slot as u32 * KEY_GROUPS + group
}

impl Joins {
    /// One part of the state; nothing if there is nothing in it.
    pub(crate) fn snapshot(&self, part: u32, layout: u64) -> Vec<u8> {
        if let Some(producer) = part.checked_sub(PRODUCERS_FROM) {
            let told = self.producers.get(&producer).map(|of| (of.watermark_us, of.is_idle));
            return told.map_or_else(Vec::new, |told| written(layout, &told));
        }
        if part == PROGRESS_PART {
            let [left, right] = &self.sides;
            let watermark_us = [left.watermark_us, right.watermark_us];
            return written(layout, &Sides { watermark_us, ended: [left.ended, right.ended], next: self.next });
        }
        let Some(of_part) = self.parts.get(&part) else { return Vec::new() };
        let rows = [0, 1].map(|side| {
            let kept = |at: &At| Some((*at, one(&self.sides, side).rows.get(at)?));
            let rows = one(&of_part.sides, side).iter().filter_map(kept);
            rows.map(|(at, of)| (at, &of.key[..], &of.values[..], of.is_matched)).collect::<Vec<Written<'_>>>()
        });
        written(layout, &rows)
    }

    /// Gives a part of the state back.
    pub(crate) fn restore(
        &mut self,
        joining: &Joining,
        (part, bytes): (u32, &[u8]),
        layout: u64,
    ) -> Result<(), String> {
        if let Some(producer) = part.checked_sub(PRODUCERS_FROM) {
            if let Some((watermark_us, is_idle)) = read(layout, bytes)? {
                self.producers.insert(producer, Progress { watermark_us, is_idle });
            }
            return Ok(());
        }
        if part == PROGRESS_PART {
            let Some(Sides { watermark_us, ended, next }) = read(layout, bytes)? else { return Ok(()) };
            self.next = next;
            for (side, (watermark_us, ended)) in watermark_us.into_iter().zip(ended).enumerate() {
                let own = one_mut(&mut self.sides, side);
                (own.watermark_us, own.ended) = (watermark_us, ended);
                self.forget(side);
            }
            return Ok(());
        }
        for side in [0, 1] {
            let replaced = self.parts.get(&part).map(|of_part| one(&of_part.sides, side).clone()).unwrap_or_default();
            for at in replaced {
                self.remove(side, at);
            }
        }
        for (side, rows) in read_rows(joining, (part, bytes), layout)?.into_iter().enumerate() {
            rows.into_iter().for_each(|(at, kept)| self.insert(side, at, kept));
            self.forget(side);
        }
        Ok(())
    }

    /// Takes out the rows of a side that had ended when they were written.
    fn forget(&mut self, side: usize) {
        let own = one(&self.sides, side);
        let Some(ended) = own.ended else { return };
        let over: Vec<At> = own.rows.range(..=ended).map(|(at, _)| *at).collect();
        for at in over {
            self.remove(side, at);
        }
    }
}

/// The rows of both sides that are written in a part of the state.
pub(super) fn read_rows(
    joining: &Joining,
    (part, bytes): (u32, &[u8]),
    layout: u64,
) -> Result<[Vec<(At, Kept)>; 2], String> {
    let written: [Vec<ReadBack>; 2] = read(layout, bytes)?.unwrap_or_default();
    let mut all = [Vec::new(), Vec::new()];
    for (side, rows) in written.into_iter().enumerate() {
        for (at, key, values, is_matched) in rows {
            let valid_us = if joining.is_version(side) { version::valid_of(&values)? } else { at.0 };
            let kept = Kept { key: Key::from_vec(key), values: values.into(), valid_us, part, is_matched };
            one_mut(&mut all, side).push((at, kept));
        }
    }
    Ok(all)
}

fn written<T: Serialize>(layout: u64, state: &T) -> Vec<u8> {
    let mut bytes = vec![STATE_VERSION];
    // What is in memory has a length, and can be encoded.
    bytes.extend(postcard::to_stdvec(&(layout, state)).unwrap_or_default());
    bytes
}

fn read<T: for<'de> Deserialize<'de>>(layout: u64, bytes: &[u8]) -> Result<Option<T>, String> {
    let Some((version, bytes)) = bytes.split_first() else { return Ok(None) };
    if *version != STATE_VERSION {
        return Err(format!("the state is of format {version}; upgrade this node"));
    }
    let unread = |error: postcard::Error| format!("the state cannot be read: {error}");
    let (of, bytes) = postcard::take_from_bytes::<u64>(bytes).map_err(unread)?;
    if of != layout {
        return Err("the state is of a query that joins other streams, over another number of partitions, or by other keys, columns or moments; give the flow another name".to_owned());
    }
    postcard::from_bytes(bytes).map(Some).map_err(unread)
}
