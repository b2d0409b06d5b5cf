//! What the state of groups is written as, a key group at a time.

use serde::{Deserialize, Serialize};

use super::table::PackedKey;
use super::{Groups, PRODUCERS_FROM, Progress, WATERMARK_GROUP, common};
use crate::aggregate::Accumulator;
use crate::plan::{Grouping, Turn};
use crate::value::Cell;

/// The version of what a snapshot is written in.
const STATE_VERSION: u8 = 1;
/// The same of something that is idle.
const STATE_VERSION_IDLE: u8 = 2;
/// The same where groups of closed windows are still to be put out.
const STATE_VERSION_UNFINISHED: u8 = 3;

/// What one key group's state says.
#[derive(Debug, Default)]
pub(super) struct State {
    progress: Progress,
    /// Which window, by its end, and part of it is to be put out next, if its watermark says that it is closed.
    next: Option<(i64, u32)>,
    /// By the end of their window and encoded key.
    pub(super) groups: Vec<((i64, Vec<u8>), Group)>,
}

/// A group as it is written.
#[derive(Debug, Deserialize)]
pub(super) struct Group {
    keys: Vec<Option<Cell<'static>>>,
    accumulators: Vec<Accumulator>,
}

/// What is written, behind its version.
#[derive(Deserialize)]
struct Written {
    layout: u64,
    groups: Vec<((i64, Vec<u8>), Group)>,
    watermark_us: Option<i64>,
}

/// A state that is being written.
#[derive(Default)]
pub(super) struct Writer(Vec<u8>);

impl Writer {
    /// Begins a state of so many groups.
    fn begin(layout: u64, progress: Progress, next: Option<(i64, u32)>, groups: usize) -> Self {
        let version = match (progress.is_idle, next) {
            (_, Some(_)) => STATE_VERSION_UNFINISHED,
            (true, None) => STATE_VERSION_IDLE,
            (false, None) => STATE_VERSION,
        };
        let mut writer = Self(vec![version]);
        next.into_iter().for_each(|next| writer.push(&next));
        writer.push(&layout);
        writer.push(&groups);
        writer
    }

    /// A group: the end of its window, its encoded key, that without what tells groups of one key apart, and its accumulators.
    pub(super) fn group<A: Serialize>(
        &mut self,
        end_us: i64,
        (encoded, common): (&[u8], &[u8]),
        accumulators: impl ExactSizeIterator<Item = A>,
    ) {
        self.push(&(end_us, encoded));
        // A key is a list of cells, encoded.
        self.0.extend_from_slice(common);
        self.push(&accumulators.len());
        accumulators.for_each(|accumulator| self.push(&accumulator));
    }

    /// What is written so far as so many groups of a key group.
    pub(super) fn piece(self, layout: u64, groups: usize) -> Vec<u8> {
        let mut whole = Self::begin(layout, Progress::default(), None, groups);
        whole.0.extend(self.0);
        whole.end(Progress::default())
    }

    /// How many bytes are written.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Takes what is written from there on.
    pub(super) fn split_off(&mut self, at: usize) -> Self {
        Self(self.0.split_off(at))
    }

    /// The whole state.
    fn end(mut self, progress: Progress) -> Vec<u8> {
        self.push(&progress.watermark_us);
        self.0
    }

    fn push(&mut self, value: &impl Serialize) {
        // What is in memory has a length, and can be encoded.
        self.0 = postcard::to_extend(value, std::mem::take(&mut self.0)).unwrap_or_default();
    }
}

impl Groups {
    /// The state of a key group; nothing if it has none.
    pub(crate) fn snapshot(&self, grouping: &Grouping, part: u32, layout: u64) -> Vec<u8> {
        if let Some(producer) = part.checked_sub(PRODUCERS_FROM) {
            return self.producers.get(&producer).map_or_else(Vec::new, |of| written_progress(layout, *of));
        }
        let (watermark_us, next) = if part == WATERMARK_GROUP { (self.watermark_us, self.next) } else { (None, None) };
        let tables: Vec<_> = self.windows.iter().filter_map(|(end, window)| Some((*end, window.part(part)?))).collect();
        let count = tables.iter().map(|(_, table)| table.len()).sum();
        if count == 0 && watermark_us.is_none() {
            return Vec::new();
        }
        let progress = Progress { watermark_us, is_idle: false };
        let (mut writer, mut key) = (Writer::begin(layout, progress, next, count), Vec::new());
        for (end_us, table) in tables {
            for record in table.records(&self.layout) {
                table.read_key(&self.layout, record, &mut key);
                let accumulators = table.accumulators(&self.layout, record);
                writer.group(end_us, (&key, common(grouping, &key)), accumulators);
            }
        }
        writer.end(progress)
    }

    /// Gives the state of key groups back.
    pub(crate) fn restore(&mut self, grouping: &Grouping, parts: &[(u32, &[u8])], layout: u64) -> Result<(), String> {
        for (part, bytes) in parts {
            if let Some(state) = read(layout, bytes)? {
                self.restore_part(grouping, *part, state);
            }
        }
        self.count_again(grouping);
        Ok(())
    }

    /// Counts the groups that rows may change: those of what is over do not count.
    pub(super) fn count_again(&mut self, grouping: &Grouping) {
        let gone = self.watermark_us.map(|watermark| watermark.saturating_sub(grouping.lateness_us));
        (self.count, self.text_bytes) = (0, 0);
        for (end, window) in &mut self.windows {
            window.is_over = Some(*end) <= gone;
            if !window.is_over {
                self.count += window.len();
                self.text_bytes += window.text_bytes();
            }
        }
    }

    fn restore_part(&mut self, grouping: &Grouping, part: u32, State { progress, next, groups }: State) {
        match part.checked_sub(PRODUCERS_FROM) {
            Some(producer) => {
                // Formerly one that was idle was written without a watermark.
                let is_idle = progress.is_idle || progress.watermark_us.is_none();
                self.producers.insert(producer, Progress { is_idle, ..progress });
            }
            None => self.watermark_us = self.watermark_us.max(progress.watermark_us),
        }
        if part == WATERMARK_GROUP {
            self.next = next;
        }
        let is_session = grouping.window.turn == Turn::Sessions;
        let replaced = self.windows.iter_mut().filter_map(|(end, window)| Some((*end, window.remove(part)?)));
        for (end, table) in replaced.collect::<Vec<_>>() {
            if is_session {
                self.forget_sessions(&table, end);
            }
        }
        self.insert_groups(grouping, part, groups);
        self.windows.retain(|_, window| !window.is_empty());
    }

    /// Puts groups into a key group that have taken in something.
    pub(super) fn insert_groups(&mut self, grouping: &Grouping, part: u32, groups: Vec<((i64, Vec<u8>), Group)>) {
        let is_session = grouping.window.turn == Turn::Sessions;
        for ((end, encoded), Group { keys, accumulators }) in groups {
            if is_session {
                self.note_session(&encoded, end);
            }
            let bytes = encoded.len() + keys.iter().flatten().map(Cell::text_bytes).sum::<usize>();
            if let Some(table) = self.windows.entry(end).or_default().begin(part) {
                table.insert(&self.layout, &PackedKey::of(&encoded), bytes, accumulators);
            }
        }
    }
}

/// The state of a key group with nothing but how far something has come.
pub(crate) fn written_progress(layout: u64, progress: Progress) -> Vec<u8> {
    Writer::begin(layout, progress, None, 0).end(progress)
}

/// What a key group's state says of how far something has come; nothing if it has no state.
pub(crate) fn read_progress(layout: u64, bytes: &[u8]) -> Result<Option<Progress>, String> {
    Ok(read(layout, bytes)?.map(|state| state.progress))
}

/// What was written; nothing if it has no state.
pub(super) fn read(layout: u64, bytes: &[u8]) -> Result<Option<State>, String> {
    let Some((version, bytes)) = bytes.split_first() else { return Ok(None) };
    let unreadable = |error| format!("the state cannot be read: {error}");
    let (next, bytes) = match *version {
        STATE_VERSION | STATE_VERSION_IDLE => (None, bytes),
        STATE_VERSION_UNFINISHED => {
            let (next, bytes) = postcard::take_from_bytes(bytes).map_err(unreadable)?;
            (Some(next), bytes)
        }
        newer => return Err(format!("the state is of format {newer}; upgrade this node")),
    };
    let written: Written = postcard::from_bytes(bytes).map_err(unreadable)?;
    if written.layout != layout {
        return Err(
            "the state is of a query with another source, another number of partitions, or other windows, keys or aggregates, or in two phases where it is one now or the other way round (AGGREGATE IN ONE PHASE); give the flow another name".to_owned()
        );
    }
    let progress = Progress { watermark_us: written.watermark_us, is_idle: *version == STATE_VERSION_IDLE };
    Ok(Some(State { progress, next, groups: written.groups }))
}
