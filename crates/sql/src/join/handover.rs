//! Rows of a join that go from one partition to another, where their number changes.

use super::state::{PRODUCERS_FROM, PROGRESS_PART, read_rows};
use super::version::renumbered;
use super::{Joins, one_mut};
use crate::group::{KEY_GROUPS, Progress};
use crate::plan::Joining;

impl Joins {
    /// How far both sides are.
    pub(crate) fn watermarks_us(&self) -> Vec<Option<i64>> {
        self.sides.iter().map(|side| side.watermark_us).collect()
    }

    /// How far each partition of the sources is.
    pub(crate) fn producers(&self) -> Vec<(u32, Progress)> {
        self.producers.iter().map(|(producer, progress)| (*producer, *progress)).collect()
    }

    /// The parts of the state that rows of a key group are in.
    pub(crate) fn parts_of(&self, key_group: u32) -> impl Iterator<Item = u32> {
        self.parts.keys().copied().filter(move |part| part % KEY_GROUPS == key_group)
    }

    /// Forgets all, and says which parts of the state change by that.
    pub(crate) fn clear(&mut self) -> Vec<u32> {
        let producers = self.producers.keys().map(|producer| PRODUCERS_FROM + producer);
        let parts = self.parts.keys().copied().chain(producers).chain([PROGRESS_PART]).collect();
        *self = Self::default();
        parts
    }

    /// Adds the rows of a part. Those of one moment keep their order, and are before all that will come.
    pub(crate) fn take_piece(
        &mut self,
        joining: &Joining,
        (part, bytes): (u32, &[u8]),
        layout: u64,
        dirty: &mut Vec<u32>,
    ) -> Result<(), String> {
        if part >= PROGRESS_PART {
            return Err(format!("there are no rows in a part {part}"));
        }
        for (side, rows) in read_rows(joining, (part, bytes), layout)?.into_iter().enumerate() {
            for ((time_us, number), kept) in rows {
                self.insert(side, (time_us, renumbered(number, self.next)), kept);
                self.next += 1;
            }
        }
        dirty.extend([part, PROGRESS_PART]);
        Ok(())
    }

    /// Goes on from where those were of whom it has taken all, and says which parts of the state change by that. Of a side that was not
    /// equally far with all, for partitions fell idle and came back, the furthest counts.
    pub(crate) fn go_on_from(
        &mut self,
        producers: Vec<(u32, Progress)>,
        watermarks_us: &[Vec<Option<i64>>],
    ) -> Vec<u32> {
        self.producers = producers.into_iter().collect();
        for side in [0, 1] {
            let of_side = watermarks_us.iter().filter_map(|of| *of.get(side)?);
            one_mut(&mut self.sides, side).watermark_us = of_side.max();
        }
        let parts = self.producers.keys().map(|producer| PRODUCERS_FROM + producer);
        parts.chain([PROGRESS_PART]).collect()
    }
}
