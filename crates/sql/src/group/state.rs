//! What the state of groups is written as, a key group at a time.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::changes::CHANGES_FROM;
use super::table::{PackedKey, Table};
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
/// The same of a key group beside which there are parts with changes.
const STATE_VERSION_COVERING: u8 = 4;
/// The version of what changed of key groups.
const STATE_VERSION_CHANGES: u8 = 5;

/// What one key group's state says.
#[derive(Debug, Default)]
pub(super) struct State {
    progress: Progress,
    /// Which window, by its end, and part of it is to be put out next, if its watermark says that it is closed.
    next: Option<(i64, u32)>,
    /// Up to which part with changes it has what these say.
    covered: u64,
    pub(super) groups: Vec<KeyedGroup>,
}

/// A group by the end of its window and its encoded key.
type KeyedGroup = ((i64, Vec<u8>), Group);

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
    groups: Vec<KeyedGroup>,
    watermark_us: Option<i64>,
}

/// What is written of changes, behind its version.
#[derive(Deserialize)]
struct WrittenChanges {
    layout: u64,
    number: u64,
    /// The windows, by their end, whose groups in a key group are gone.
    gone: Vec<(i64, u32)>,
    /// By key group.
    groups: Vec<(u32, Vec<KeyedGroup>)>,
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

    /// Begins the state of a key group of so many groups, which has what parts with changes up to one say.
    fn begin_covering(layout: u64, covered: u64, groups: usize) -> Self {
        let mut writer = Self(vec![STATE_VERSION_COVERING]);
        writer.push(&covered);
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
    /// The state of a key group, or what changed of them; nothing if there is none. What has grown enough of changes is left as it is
    /// from then on.
    pub(crate) fn snapshot(&mut self, grouping: &Grouping, part: u32, layout: u64) -> Vec<u8> {
        if part >= CHANGES_FROM {
            return self.snapshot_changes(grouping, part, layout);
        }
        if let Some(producer) = part.checked_sub(PRODUCERS_FROM) {
            return self.producers.get(&producer).map_or_else(Vec::new, |of| written_progress(layout, *of));
        }
        let (watermark_us, next) = if part == WATERMARK_GROUP { (self.watermark_us, self.next) } else { (None, None) };
        let tables: Vec<_> = self.windows.iter().filter_map(|(end, window)| Some((*end, window.part(part)?))).collect();
        let (count, covered) = (tables.iter().map(|(_, table)| table.len()).sum(), self.changes.covered(part));
        if count == 0 && watermark_us.is_none() && covered.is_none() {
            return Vec::new();
        }
        let progress = Progress { watermark_us, is_idle: false };
        let mut writer = match covered {
            Some(covered) => Writer::begin_covering(layout, covered, count),
            None => Writer::begin(layout, progress, next, count),
        };
        for (end_us, table) in tables {
            self.write(grouping, &mut writer, (end_us, table), table.records(&self.layout));
        }
        writer.end(progress)
    }

    /// What changed of key groups, if the part is the one that this is written into.
    fn snapshot_changes(&mut self, grouping: &Grouping, part: u32, layout: u64) -> Vec<u8> {
        let key_groups: Vec<u32> = self.changes.key_groups().collect();
        if key_groups.is_empty() || !self.changes.is_open(part) {
            return Vec::new();
        }
        let mut writer = Writer(vec![STATE_VERSION_CHANGES]);
        writer.push(&layout);
        writer.push(&self.changes.number());
        writer.push(&self.changes.gone());
        writer.push(&key_groups.len());
        for part in key_groups {
            let tables = || self.windows.iter().filter_map(|(end, window)| Some((*end, window.part(part)?)));
            writer.push(&(part, tables().map(|(_, table)| table.changed().len()).sum::<usize>()));
            for (end_us, table) in tables() {
                self.write(grouping, &mut writer, (end_us, table), table.changed());
            }
        }
        self.written_changes(writer.len());
        writer.0
    }

    /// Writes groups of a window.
    fn write(
        &self,
        grouping: &Grouping,
        writer: &mut Writer,
        (end_us, table): (i64, &Table),
        records: impl Iterator<Item = usize>,
    ) {
        let mut key = Vec::new();
        for record in records {
            table.read_key(&self.layout, record, &mut key);
            writer.group(end_us, (&key, common(grouping, &key)), table.accumulators(&self.layout, record));
        }
    }

    /// Gives the state of key groups back.
    pub(crate) fn restore(&mut self, grouping: &Grouping, parts: &[(u32, &[u8])], layout: u64) -> Result<(), String> {
        let mut changes = Vec::new();
        for (part, bytes) in parts {
            if *part >= CHANGES_FROM {
                changes.extend(read_changes(layout, bytes)?.map(|of| (of, bytes.len())));
            } else if let Some(state) = read(layout, bytes)? {
                self.restore_part(grouping, *part, state);
            }
        }
        changes.sort_unstable_by_key(|(of, _)| of.number);
        changes.into_iter().for_each(|(of, bytes)| self.restore_changes(of, bytes));
        self.windows.retain(|_, window| !window.is_empty());
        self.count_again(grouping);
        Ok(())
    }

    /// Gives back what changed of key groups that do not cover it.
    fn restore_changes(&mut self, WrittenChanges { number, gone, groups, .. }: WrittenChanges, bytes: usize) {
        let of: BTreeSet<u32> =
            gone.iter().map(|(_, part)| *part).chain(groups.iter().map(|(part, _)| *part)).collect();
        let of: BTreeSet<u32> = of.into_iter().filter(|part| self.changes.is_newer(number, *part)).collect();
        for (end, part) in gone.into_iter().filter(|(_, part)| of.contains(part)) {
            self.windows.get_mut(&end).and_then(|window| window.remove(part));
        }
        for (part, groups) in groups.into_iter().filter(|(part, _)| of.contains(part)) {
            for ((end, encoded), group) in groups {
                self.put(part, (end, &encoded), group);
            }
        }
        self.changes.restore_full(number, of.into_iter(), bytes);
    }

    /// Puts a group into a key group, or in place of what was there of it.
    fn put(&mut self, part: u32, (end, encoded): (i64, &[u8]), Group { keys, accumulators }: Group) {
        let bytes = encoded.len() + keys.iter().flatten().map(Cell::text_bytes).sum::<usize>();
        let (window, key) = (self.windows.entry(end).or_default(), PackedKey::of(encoded));
        let Some(table) = window.begin(part) else { return };
        match table.find(&self.layout, &key) {
            Some(record) => table.replace(&self.layout, record, &accumulators),
            None => table.insert(&self.layout, &key, bytes, accumulators),
        }
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

    fn restore_part(&mut self, grouping: &Grouping, part: u32, State { progress, next, covered, groups }: State) {
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
        self.changes.restore_covered(part, covered);
        self.insert_groups(grouping, part, groups);
    }

    /// Puts groups into a key group that have taken in something.
    pub(super) fn insert_groups(&mut self, grouping: &Grouping, part: u32, groups: Vec<((i64, Vec<u8>), Group)>) {
        let is_session = grouping.window.turn == Turn::Sessions;
        for ((end, encoded), group) in groups {
            if is_session {
                self.note_session(&encoded, end);
            }
            self.put(part, (end, &encoded), group);
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
    let (mut next, mut covered) = (None, 0);
    let bytes = match *version {
        STATE_VERSION | STATE_VERSION_IDLE => bytes,
        STATE_VERSION_UNFINISHED => {
            let (of, bytes) = postcard::take_from_bytes(bytes).map_err(unreadable)?;
            next = Some(of);
            bytes
        }
        STATE_VERSION_COVERING => {
            let (of, bytes) = postcard::take_from_bytes(bytes).map_err(unreadable)?;
            covered = of;
            bytes
        }
        newer => return Err(is_newer(newer)),
    };
    let written: Written = postcard::from_bytes(bytes).map_err(unreadable)?;
    is_of(layout, written.layout)?;
    let progress = Progress { watermark_us: written.watermark_us, is_idle: *version == STATE_VERSION_IDLE };
    Ok(Some(State { progress, next, covered, groups: written.groups }))
}

/// What was written of changes; nothing if that is nothing.
fn read_changes(layout: u64, bytes: &[u8]) -> Result<Option<WrittenChanges>, String> {
    let Some((version, bytes)) = bytes.split_first() else { return Ok(None) };
    if *version != STATE_VERSION_CHANGES {
        return Err(is_newer(*version));
    }
    let written: WrittenChanges = postcard::from_bytes(bytes).map_err(unreadable)?;
    is_of(layout, written.layout)?;
    Ok(Some(written))
}

fn unreadable(error: postcard::Error) -> String {
    format!("the state cannot be read: {error}")
}

fn is_newer(version: u8) -> String {
    format!("the state is of format {version}; upgrade this node")
}

/// Refuses state of another query.
fn is_of(layout: u64, written: u64) -> Result<(), String> {
    if written == layout {
        return Ok(());
    }
    Err("the state is of a query with another source, another number of partitions, or other windows, keys or aggregates, or in two phases where it is one now or the other way round (AGGREGATE IN ONE PHASE); give the flow another name".to_owned())
}
