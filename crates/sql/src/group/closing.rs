//! Closes windows, and puts out what is closed, step by step: only when is decided by the steps, not what, nor in which order. For
//! that no row may change what is still to be put out.

use std::collections::BTreeSet;
use std::ops::Bound;

use super::results::Closing;
use super::table::{Layout, Table};
use super::{GROUPS_MAX, Groups, KEY_GROUPS, TEXT_BYTES_MAX, Taken, WATERMARK_GROUP, common, lane_of, session};
use crate::plan::{Grouping, Turn};

/// How many groups of closed windows a step puts out, with all of a part that the last of them is in, and at least as many as it
/// begins, so that what is closed is out before as much is closed again; fewer of groups that are so wide that they come to more bytes.
const STEP_GROUPS: usize = 4_096;
/// The bytes with which a step has put out enough: with those of a part they fit into an entry of the log.
const STEP_BYTES: usize = 4 << 20;
/// The bytes of the state of the parts that it changes thereby, where those are written as a whole, with all of their sessions.
const STEP_STATE_BYTES: usize = 4 << 20;

/// What a step puts out, which parts of the state it changes, and how many groups it begins.
pub(super) struct Step<'g> {
    pub(super) closing: Closing<'g>,
    pub(super) dirty: Dirty,
    pub(super) begun: usize,
    /// The bytes of the state of the parts in which groups were let go of.
    state_bytes: usize,
}

impl<'g> Step<'g> {
    pub(super) fn new(grouping: &'g Grouping) -> Self {
        Self { closing: Closing::new(grouping), dirty: Dirty::default(), begun: 0, state_bytes: 0 }
    }

    /// Whether it has put out enough for now.
    fn is_full(&self) -> bool {
        self.closing.count() >= STEP_GROUPS.max(self.begun)
            || self.closing.bytes() >= STEP_BYTES
            || self.state_bytes >= STEP_STATE_BYTES
    }
}

/// The parts of the state that changed.
#[derive(Default)]
pub(super) struct Dirty {
    /// A bit for each key group.
    key_groups: u128,
    others: BTreeSet<u32>,
}

impl Dirty {
    pub(super) fn insert(&mut self, part: u32) {
        match 1_u128.checked_shl(part) {
            Some(bit) => self.key_groups |= bit,
            None => _ = self.others.insert(part),
        }
    }

    /// The key groups, a bit for each, and the others.
    pub(super) fn split(self) -> (u128, Self) {
        (self.key_groups, Self { key_groups: 0, others: self.others })
    }

    pub(super) fn into_parts(self) -> Vec<u32> {
        let key_groups = (0..KEY_GROUPS).filter(|part| self.key_groups >> part & 1 == 1);
        key_groups.chain(self.others).collect()
    }
}

impl Groups {
    /// Whether groups of closed windows are still to be put out. Taking rows does so, too.
    pub(crate) fn has_more(&self) -> bool {
        self.next.is_some()
    }

    /// Puts out some of the groups of closed windows.
    pub(crate) fn go_on(&mut self, grouping: &Grouping) -> Taken {
        let mut step = Step::new(grouping);
        self.fill(&mut step);
        let dirty = self.parts_to_write(grouping, step.dirty);
        Taken { closed: step.closing.finish(), dirty, ..Taken::default() }
    }

    /// Puts out groups of closed windows until a step has put out enough.
    pub(super) fn fill(&mut self, step: &mut Step<'_>) {
        while !step.is_full() && self.put_out(step) {}
    }

    /// Moves the watermark on, closes the windows that it has reached the end of, and forgets those that no row can change any
    /// more, once they are put out.
    pub(super) fn advance(&mut self, step: &mut Step<'_>, watermark: i64) {
        let gone = watermark.saturating_sub(step.closing.grouping.lateness_us);
        let is_still = self.windows.first_key_value().is_none_or(|(end, _)| *end > watermark);
        if !is_still && self.next.is_some() {
            let over = self.windows.range(..=gone).map(|(_, window)| window);
            let (count, bytes) = over.fold((0, 0), |(count, bytes), of| (count + of.len(), bytes + of.text_bytes()));
            if count > GROUPS_MAX || bytes > TEXT_BYTES_MAX {
                while self.put_out(step) {}
            }
        }
        let from = self.watermark_us.replace(watermark).map_or(Bound::Unbounded, Bound::Excluded);
        step.dirty.insert(WATERMARK_GROUP);
        if is_still {
            return;
        }
        let closed = || self.windows.range((from, Bound::Included(watermark))).next();
        self.next = self.next.or_else(|| self.closed_from(*closed()?.0, 0));
        // What was put out of a window before it was over.
        let next = self.next.unwrap_or((i64::MAX, 0));
        let over = self.windows.range_mut(..=gone).filter(|(_, window)| !window.is_over);
        let mut done = Vec::new();
        for (end, window) in over {
            window.is_over = true;
            self.count -= window.len();
            self.text_bytes -= window.text_bytes();
            let is_done = |part: &u32| (*end, *part) < next;
            done.extend(window.parts(0).filter(is_done).map(|part| (*end, part)));
        }
        done.into_iter().for_each(|(end, part)| self.forget(step, end, part));
    }

    /// Lets go of the groups of a window in a part.
    fn forget(&mut self, step: &mut Step<'_>, end_us: i64, part: u32) {
        let Some(window) = self.windows.get_mut(&end_us) else { return };
        let Some(table) = window.remove(part) else { return };
        if window.is_empty() {
            self.windows.remove(&end_us);
        }
        step.dirty.insert(part);
        if step.closing.grouping.window.turn == Turn::Sessions {
            self.forget_sessions(&table, end_us);
            let left = self.windows.values().filter_map(|window| window.part(part));
            step.state_bytes += left.map(|table| table.bytes(&self.layout)).sum::<usize>();
        } else {
            self.note_gone(end_us, part);
        }
    }

    /// The first closed window, and part of it, that there is from one on.
    fn closed_from(&self, end_us: i64, part: u32) -> Option<(i64, u32)> {
        let closed = self.windows.range(end_us..=self.watermark_us?.max(end_us));
        let mut parts = closed.filter_map(|(end, window)| {
            let from = if *end == end_us { part } else { 0 };
            window.parts(from).next().map(|part| (*end, part))
        });
        parts.next()
    }

    /// Whether whoever handed the groups of a window in a part over had put them out.
    fn is_out(&self, end_us: i64, part: u32) -> bool {
        let count = u32::try_from(self.handed_us.len()).unwrap_or(u32::MAX);
        count > 0 && self.handed_us.get(lane_of(part, count) as usize).is_some_and(|of| *of >= Some(end_us))
    }

    /// Puts out the groups of a closed window in a part: those of one window after the other, in the order of their parts, then of
    /// their keys. Answers whether there were any.
    pub(super) fn put_out(&mut self, step: &mut Step<'_>) -> bool {
        let Some((end_us, part)) = self.next else { return false };
        let window = self.windows.get(&end_us);
        if let Some(table) = window.and_then(|window| window.part(part)).filter(|_| !self.is_out(end_us, part)) {
            put_out_records(&mut step.closing, (&self.layout, table), &table.sorted(&self.layout), end_us);
        }
        let is_over = window.is_some_and(|window| window.is_over);
        self.next = self.closed_from(end_us, part + 1);
        step.dirty.insert(WATERMARK_GROUP);
        if is_over {
            self.forget(step, end_us, part);
        }
        true
    }
}

/// Puts out groups of a window, which are in the order of their keys: of each key what the rows of all partitions of the source
/// come to.
pub(super) fn put_out_records(
    closing: &mut Closing<'_>,
    (layout, table): (&Layout, &Table),
    records: &[usize],
    end_us: i64,
) {
    let grouping = closing.grouping;
    let start_of = |key: &[u8]| match grouping.window.turn {
        Turn::Sessions => session::start_of(key).unwrap_or(end_us),
        Turn::Slides | Turn::Grows => grouping.window.start_of(end_us),
    };
    if grouping.producers.is_none() && grouping.window.turn != Turn::Sessions {
        return closing.push_records((layout, table), records, (grouping.window.start_of(end_us), end_us));
    }
    let (mut key, mut other) = (Vec::new(), Vec::new());
    let mut records = records.iter().copied().peekable();
    while let Some(record) = records.next() {
        table.read_key(layout, record, &mut key);
        let mut start_us = start_of(&key);
        let (mut accumulators, mut fault) = (table.accumulators(layout, record).collect::<Vec<_>>(), None);
        while let Some(record) = records.next_if(|record| {
            table.read_key(layout, *record, &mut other);
            common(grouping, &key) == common(grouping, &other)
        }) {
            start_us = start_us.min(start_of(&other));
            for (one, other) in accumulators.iter_mut().zip(table.accumulators(layout, record)) {
                fault = fault.or(one.to_mut().merge(&other).err());
            }
        }
        let results = accumulators.iter().map(|accumulator| accumulator.result());
        closing.push(common(grouping, &key), (start_us, end_us), results, fault);
    }
}
