//! Groups that go from one partition to another, where their number changes.

use super::closing::{Dirty, Step};
use super::state::{Writer, read};
use super::{Groups, KEY_GROUPS, PRODUCERS_FROM, Progress, WATERMARK_GROUP, common};
use crate::plan::Grouping;

impl Groups {
    /// How far all partitions of the source are.
    pub(crate) fn watermark_us(&self) -> Option<i64> {
        self.watermark_us
    }

    /// How far each of them is.
    pub(crate) fn producers(&self) -> Vec<(u32, Progress)> {
        self.producers.iter().map(|(producer, progress)| (*producer, *progress)).collect()
    }

    /// The groups of a key group in pieces of so many bytes at most, or of one group.
    pub(crate) fn pieces(&self, grouping: &Grouping, part: u32, layout: u64, bytes_max: usize) -> Vec<Vec<u8>> {
        let (mut pieces, mut groups, mut count, mut key) = (Vec::new(), Writer::default(), 0, Vec::new());
        let tables = self.windows.iter().filter_map(|(end, window)| Some((*end, window.part(part)?)));
        for (end_us, table) in tables {
            // Whoever begins anew cuts the same pieces.
            for record in table.sorted(&self.layout) {
                let before = groups.len();
                table.read_key(&self.layout, record, &mut key);
                groups.group(end_us, (&key, common(grouping, &key)), table.accumulators(&self.layout, record));
                if count > 0 && groups.len() > bytes_max {
                    let begun = groups.split_off(before);
                    pieces.push(std::mem::replace(&mut groups, begun).piece(layout, count));
                    count = 0;
                }
                count += 1;
            }
        }
        if count > 0 {
            pieces.push(groups.piece(layout, count));
        }
        pieces
    }

    /// Forgets all, and says which parts of the state change by that.
    pub(crate) fn clear(&mut self, grouping: &Grouping) -> Vec<u32> {
        let producers = self.producers.keys().map(|producer| PRODUCERS_FROM + producer);
        let parts = producers.chain(0..=WATERMARK_GROUP).chain(self.changes.parts()).collect();
        *self = Self::new(grouping);
        parts
    }

    /// Adds the groups of a piece.
    pub(crate) fn take_piece(
        &mut self,
        grouping: &Grouping,
        (part, bytes): (u32, &[u8]),
        layout: u64,
        dirty: &mut Vec<u32>,
    ) -> Result<(), String> {
        if part >= KEY_GROUPS {
            return Err(format!("there is no key group {part}"));
        }
        if let Some(state) = read(layout, bytes)? {
            self.insert_groups(grouping, part, state.groups);
            let mut written = Dirty::default();
            self.write_whole(part, &mut written);
            dirty.extend(written.into_parts());
        }
        Ok(())
    }

    /// Goes on from the state of one who has taken over: how far those were who handed over, by their partitions.
    pub(crate) fn handed_at(&mut self, watermarks_us: Vec<Option<i64>>) {
        self.handed_us = watermarks_us;
    }

    /// Goes on from where those were of whom it has taken all, and says which parts of the state change by that. The one that was
    /// furthest says which windows are over: partitions that fall idle and come back can have made one think so and not another.
    pub(crate) fn go_on_from(
        &mut self,
        grouping: &Grouping,
        producers: Vec<(u32, Progress)>,
        watermarks_us: Vec<Option<i64>>,
    ) -> Vec<u32> {
        self.producers = producers.into_iter().collect();
        self.watermark_us = watermarks_us.iter().min().copied().flatten();
        let furthest = watermarks_us.iter().max().copied().flatten();
        self.handed_us = watermarks_us;
        self.count_again(grouping);
        let mut step = Step::new(grouping);
        if let Some(furthest) = furthest.filter(|of| self.watermark_us < Some(*of)) {
            self.advance(&mut step, furthest);
        }
        step.dirty.insert(WATERMARK_GROUP);
        self.producers.keys().for_each(|producer| step.dirty.insert(PRODUCERS_FROM + producer));
        self.parts_to_write(grouping, step.dirty)
    }
}
