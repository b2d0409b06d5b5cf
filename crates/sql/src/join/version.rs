//! Rows of one stream with the version of another that was valid at them: of the rows with the same key, the last that is not later.
//!
//! A row of the left side waits until the watermark of the right one is behind it: then all versions that it may be of have come. So
//! which one it is does not depend on how partitions come among one another. Of each key the last version is kept for as long as there
//! is the flow, and those before it until no row can come, or waits, that is older than the one after.
//!
//! A version that comes late, when the watermark of its partition is behind it, is valid from that watermark on: that is decided by
//! its own partition, and no row of then or later has been put out. It does not take the place of one that says a later moment.

use super::state::SLOTS_OF_ROWS;
use super::{At, Joins, Key, Row, Step};
use crate::group::KEY_GROUPS;
use crate::plan::{Joining, Pairing, hash};
use crate::value::Cell;

/// Of two versions of a moment the later one of its partition counts, of those of several partitions that of the last: this many bits of
/// a version's number are the order in which rows came, enough for half a year of a million a second.
const NUMBER_BITS: u32 = 44;

impl Joining {
    /// Whether the rows of a side are versions.
    pub(super) fn is_version(&self, side: usize) -> bool {
        self.pairing == Pairing::Version && side == 1
    }
}

/// The number of a row that was another one's in another partition: it keeps the partition of a version.
pub(super) fn renumbered(number: u64, next: u64) -> u64 {
    number >> NUMBER_BITS << NUMBER_BITS | next
}

/// The part of the state that the versions of an encoded key are in: behind those of rows that wait, with which they do not change.
pub(super) fn part_of(key: &[u8]) -> u32 {
    let parts = SLOTS_OF_ROWS as u32 * KEY_GROUPS;
    parts + (hash(key) % u64::from(parts)) as u32
}

/// From when on a version is valid, which stands behind its values.
pub(super) fn valid_of(values: &[u8]) -> Result<i64, String> {
    let values: Vec<Option<Cell<'_>>> =
        postcard::from_bytes(values).map_err(|error| format!("a version cannot be read: {error}"))?;
    match values.last() {
        Some(Some(Cell::Timestamp(us))) => Ok(*us),
        _ => Err("a version does not say from when on it is valid".to_owned()),
    }
}

impl Joins {
    /// Keeps a version of a partition.
    pub(super) fn version(&mut self, row: Row, producer: u32, step: &mut Step) -> Result<(), String> {
        let Row { at: (time_us, number), kept, is_comparable, .. } = row;
        if !is_comparable {
            return Ok(());
        }
        // What is out of date takes no room.
        self.outdate(&kept.key, step);
        self.check(&kept)?;
        self.next += 1;
        step.dirty.insert(kept.part);
        let key = kept.key.clone();
        self.insert(1, (time_us, u64::from(producer) << NUMBER_BITS | number), kept);
        self.outdate(&key, step);
        Ok(())
    }

    /// The version of a key that was valid at a moment.
    pub(super) fn valid(&self, key: &Key, time_us: i64) -> Option<At> {
        let [_, versions] = &self.sides;
        let known = versions.keys.get(key)?.range(..=(time_us, u64::MAX)).rev();
        known.copied().find(|at| versions.rows.get(at).is_some_and(|version| version.valid_us <= time_us))
    }

    /// Lets go of the versions of a key that no row can be of any more: of those that are older than all rows that wait or may
    /// come, all but the last.
    pub(super) fn outdate(&mut self, key: &Key, step: &mut Step) {
        let [rows, versions] = &self.sides;
        let Some(of_key) = versions.keys.get(key).filter(|of_key| of_key.len() > 1) else { return };
        let Some(watermark_us) = rows.watermark_us else { return };
        let first_us = rows.rows.keys().next().map_or(watermark_us, |first| first.0.min(watermark_us));
        let Some(last) = self.valid(key, first_us) else { return };
        for at in of_key.range(..last).copied().collect::<Vec<At>>() {
            let Some(kept) = self.remove(1, at) else { continue };
            step.dirty.insert(kept.part);
            let [_, versions] = &mut self.sides;
            versions.gone.insert(at, kept);
        }
    }
}
