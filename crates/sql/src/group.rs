//! Groups of rows in windows on event time.
//!
//! Rows are taken one after the other, and each may close windows: what comes out is a function of the order of the rows
//! alone, not of how they were cut into batches, so that a run that is continued after a failure comes to what an
//! undisturbed one comes to. The watermark is the latest moment seen less what the stream allows to be out of order; a
//! window is closed, and its groups put out, when the watermark reaches its end.
//!
//! Where the rows are of several partitions of the source, spread by their keys (`shard`), each says which partition it is of and
//! how far that one was. Whether a row is late is then said by its own partition alone, and the watermark is the least of all
//! partitions: what is not late has arrived when a window is closed. What the rows of each partition amount to is kept apart
//! until then, so that a sum does not depend on the order in which partitions were heard of.
//!
//! State is kept by key group, the hash of the key; one more group holds the watermark, and one for each partition of the source
//! how far that is.

mod session;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use arrow_array::ArrayRef;
use arrow_schema::ArrowError;
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use crate::aggregate::{Accumulator, Aggregate};
use crate::cast::{shown, text_of, timestamp_text};
use crate::eval::Evaluator;
use crate::expr::Expr;
use crate::plan::{Grouping, Turn, hash};
use crate::shard::{PRODUCER, WATERMARK};
use crate::value::{Cell, cell};
use session::{SUFFIX_BYTES, Session};

/// Into how many parts the state of a partition is cut: a step writes the parts that changed.
pub(crate) const KEY_GROUPS: u32 = 128;
/// The part with the watermark.
pub(crate) const WATERMARK_GROUP: u32 = KEY_GROUPS;
/// The first of the parts that hold how far a partition of the source is, where there are several.
const PRODUCERS_FROM: u32 = KEY_GROUPS + 1;
/// The bytes of the number of the partition of the source behind an encoded key, where there are several.
const PRODUCER_BYTES: usize = 4;
/// The most groups that a partition keeps; a row that would begin another is rejected. One takes some 200 bytes.
const GROUPS_MAX: usize = 1 << 20;
/// The most bytes of texts in the groups of a partition, in keys (which are there twice) and in what `min` and `max` keep, and of
/// what aggregates keep of many values; a row that would add more is rejected.
const TEXT_BYTES_MAX: usize = 64 << 20;
/// The most bytes of the texts of the groups that a batch of rows closes, or changes once more after that. One row cannot
/// close so many, for there are none.
const CLOSED_BYTES_MAX: usize = 256 << 20;
/// The version of what a snapshot is written in.
const STATE_VERSION: u8 = 1;
/// The same of something that is idle.
const STATE_VERSION_IDLE: u8 = 2;

/// An encoded key. Most are short, and lie where they are looked for: to follow a pointer for each that is passed by takes longer than all else.
type Key = SmallVec<[u8; KEY_BYTES_INLINE]>;
/// The bytes of a key of two numbers, or of a short text.
const KEY_BYTES_INLINE: usize = 24;
/// The groups of a window that are in one part of the state.
type Part = BTreeMap<Key, Group>;

/// All groups of a partition.
#[derive(Debug, Default)]
pub(crate) struct Groups {
    /// By the end of their window, then by part.
    windows: BTreeMap<i64, BTreeMap<u32, Part>>,
    count: usize,
    /// The bytes of their texts.
    text_bytes: usize,
    watermark_us: Option<i64>,
    /// The partitions of the source that have been heard of, where there are several.
    producers: BTreeMap<u32, Progress>,
    /// By encoded key, where windows are sessions.
    sessions: BTreeMap<Box<[u8]>, Vec<Session>>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Group {
    keys: Vec<Option<Cell<'static>>>,
    accumulators: Vec<Accumulator>,
}

/// A group whose window closed, or changed after that.
#[derive(Debug)]
pub(crate) struct Closed {
    /// The row that closed it, by where it was as it arrived.
    pub(crate) row: usize,
    pub(crate) keys: Vec<Option<Cell<'static>>>,
    pub(crate) start_us: i64,
    pub(crate) end_us: i64,
    pub(crate) results: Vec<Option<Cell<'static>>>,
    /// Why it comes to nothing, if so.
    pub(crate) fault: Option<String>,
}

impl Closed {
    fn text_bytes(&self) -> usize {
        self.keys.iter().chain(&self.results).flatten().map(Cell::text_bytes).sum()
    }

    /// Which group failed, and why: the row that closed its window says nothing of it.
    pub(crate) fn told(&self, reason: &str) -> String {
        let told = |key: &Option<Cell<'_>>| key.as_ref().map_or_else(|| "null".to_owned(), |key| shown(&text_of(key)));
        let keys: Vec<String> = self.keys.iter().map(told).collect();
        let (start, end) = (timestamp_text(self.start_us), timestamp_text(self.end_us));
        format!("the group ({}) of the window from {start} to {end}, which this row closed: {reason}", keys.join(", "))
    }
}

/// A row as it arrived: where it was, its moment, and its place among the rows that the filter passed.
pub(crate) struct Arrival {
    pub(crate) row: usize,
    pub(crate) time_us: Option<i64>,
    pub(crate) kept: Option<usize>,
}

/// What rows did; places are among those that the filter passed.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    pub(crate) closed: Vec<Closed>,
    /// The rows that came too late.
    pub(crate) late: Vec<u32>,
    pub(crate) rejected: BTreeMap<usize, String>,
    pub(crate) dirty: Vec<u32>,
}

/// What one key group's state is written as: groups by the end of their window and encoded key.
#[derive(Serialize)]
struct Writing<'g> {
    layout: u64,
    groups: Vec<((i64, &'g [u8]), &'g Group)>,
    watermark_us: Option<i64>,
}

/// The same as it is read.
#[derive(Deserialize)]
struct Read {
    layout: u64,
    groups: Vec<((i64, Vec<u8>), Group)>,
    watermark_us: Option<i64>,
}

/// What a row says of the partition of the source that it is of, where there are several.
#[derive(Clone, Copy)]
struct Said {
    producer: u32,
    /// How far that was before the row.
    watermark_us: Option<i64>,
}

impl Said {
    fn read(count: u32, columns: &[ArrayRef], row: usize) -> Option<Self> {
        let Some(Cell::Bigint(producer)) = cell(columns.get(PRODUCER)?, row) else { return None };
        let watermark_us = match cell(columns.get(WATERMARK)?, row) {
            Some(Cell::Timestamp(us)) => Some(us),
            _ => None,
        };
        let producer = u32::try_from(producer).ok().filter(|producer| *producer < count)?;
        Some(Self { producer, watermark_us })
    }
}

/// How far something has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    pub(crate) watermark_us: Option<i64>,
    /// Whether nothing has come for so long that it is not waited for.
    pub(crate) is_idle: bool,
}

/// What is known of one row, in room that is used again for the next one.
#[derive(Default)]
pub(crate) struct Row<'i> {
    /// Its place among the rows that the filter passed.
    place: usize,
    keys: Vec<Option<Cell<'i>>>,
    /// The keys encoded, equal for equal keys.
    encoded: Vec<u8>,
    /// Which part of the state it is in.
    pub(crate) part: u32,
    /// What each aggregate takes of it.
    values: Vec<Option<Cell<'i>>>,
}

/// What is computed of the rows before they are taken.
pub(crate) struct Inputs {
    pub(crate) keys: Vec<ArrayRef>,
    pub(crate) arguments: Vec<Option<ArrayRef>>,
    filters: Vec<Option<arrow_buffer::BooleanBuffer>>,
    pub(crate) faults: BTreeMap<usize, String>,
}

impl Inputs {
    /// Of each argument of an aggregate its expression, if it has one, and which rows it takes, if not all.
    pub(crate) fn new<'e>(
        keys: impl Iterator<Item = &'e Expr>,
        of_aggregates: impl Iterator<Item = (Option<&'e Expr>, Option<&'e Expr>)>,
        columns: &[ArrayRef],
        rows: usize,
    ) -> Result<Self, ArrowError> {
        let mut evaluator = Evaluator::new(columns, rows);
        let keys = keys.map(|key| evaluator.column(key)).collect::<Result<_, _>>()?;
        let (mut arguments, mut filters) = (Vec::new(), Vec::new());
        for (argument, filter) in of_aggregates {
            let filter = filter.map(|filter| evaluator.holds(filter)).transpose()?;
            // The argument counts where the filter passes.
            let argument = argument.map(|argument| evaluator.column_where(argument, &filter));
            arguments.push(argument.transpose()?);
            filters.push(filter);
        }
        Ok(Self { keys, arguments, filters, faults: evaluator.faults })
    }

    /// Reads a row, of that partition of the source if there are several.
    fn read<'i>(&'i self, place: usize, producer: Option<u32>, row: &mut Row<'i>) {
        self.read_key(place, row);
        row.encoded.extend(producer.into_iter().flat_map(u32::to_be_bytes));
        row.values.clear();
        row.values.extend((0..self.arguments.len()).map(|aggregate| self.argument(aggregate, place)));
    }

    /// Reads the key of a row, and which part of the state it is in.
    pub(crate) fn read_key<'i>(&'i self, place: usize, row: &mut Row<'i>) {
        row.place = place;
        row.keys.clear();
        row.keys.extend(self.keys.iter().map(|key| cell(key, place).map(Cell::canonical)));
        row.encoded.clear();
        // Only what has no length cannot be encoded, and cells have one.
        row.encoded = postcard::to_extend(&row.keys, std::mem::take(&mut row.encoded)).unwrap_or_default();
        row.part = (hash(&row.encoded) % u64::from(KEY_GROUPS)) as u32;
    }

    /// Whether the aggregate at a place takes all rows.
    pub(crate) fn takes_all(&self, place: usize) -> bool {
        self.filters.get(place).is_none_or(Option::is_none)
    }

    /// What the aggregate at a place takes of a row.
    pub(crate) fn argument(&self, place: usize, row: usize) -> Option<Cell<'_>> {
        let passes = self.filters.get(place).and_then(Option::as_ref).is_none_or(|filter| filter.value(row));
        if !passes {
            return None;
        }
        match self.arguments.get(place) {
            // A row is counted whatever is in it.
            Some(None) => Some(Cell::Boolean(true)),
            Some(Some(array)) => cell(array, row),
            None => None,
        }
    }
}

impl Groups {
    /// Takes rows. Those that the filter does not pass are in no group, and move the watermark like all others.
    ///
    /// # Errors
    /// When Arrow cannot hold what is computed of them.
    pub(crate) fn take(
        &mut self,
        grouping: &Grouping,
        (columns, rows): (&[ArrayRef], usize),
        arrivals: impl Iterator<Item = Arrival>,
    ) -> Result<Taken, ArrowError> {
        let of_aggregates = grouping.aggregates.iter().map(|of| (of.argument.as_ref(), of.filter.as_ref()));
        let inputs = Inputs::new(grouping.keys.iter().map(|(key, _)| key), of_aggregates, columns, rows)?;
        let mut taken = Taken { rejected: inputs.faults.clone(), ..Taken::default() };
        let mut dirty = BTreeSet::new();
        let (mut counted, mut bytes, mut row) = (0, 0, Row::default());
        for arrival in arrivals {
            let kept = arrival.kept.filter(|kept| !taken.rejected.contains_key(kept));
            let said = grouping.producers.zip(kept).and_then(|(count, kept)| Said::read(count, columns, kept));
            // Late is what its own partition is past.
            let past = self.watermark_us.max(said.and_then(|said| said.watermark_us));
            match (arrival.time_us, kept) {
                (_, Some(kept)) if grouping.producers.is_some() && said.is_none() => {
                    taken.rejected.insert(kept, "it is of no partition of the source".to_owned());
                }
                (Some(time_us), Some(kept)) if open_windows(grouping, time_us, past).next().is_none() => {
                    taken.late.push(u32::try_from(kept).unwrap_or(u32::MAX));
                }
                (Some(time_us), Some(kept)) => {
                    let producer = said.map(|said| said.producer);
                    let done = if grouping.window.turn == Turn::Sessions {
                        inputs.read(kept, None, &mut row);
                        let span = (time_us, time_us.saturating_add(grouping.window.size_us));
                        let at = (producer.unwrap_or_default(), span);
                        self.check_session(grouping, &row, at).map(|()| self.take_session(grouping, &row, at))
                    } else {
                        inputs.read(kept, producer, &mut row);
                        let at = (time_us, past);
                        let taken = &mut taken.closed;
                        self.check(grouping, &row, at).map(|()| self.row(grouping, &row, at, arrival.row, taken))
                    };
                    match done {
                        Ok(()) => {
                            dirty.insert(row.part);
                        }
                        Err(reason) => {
                            taken.rejected.insert(kept, reason);
                        }
                    }
                }
                (None, Some(kept)) if said.is_none() => {
                    taken.rejected.insert(kept, "the moment of the row is null".to_owned());
                }
                // It says how far its partition is, and nothing else; or it does not count.
                (None, _) | (_, None) => {}
            }
            let reached = arrival.time_us.map(|time_us| time_us.saturating_sub(grouping.delay_us));
            let reached = match grouping.producers {
                None => reached,
                Some(count) => said.and_then(|said| self.hear(count, said, reached, &mut dirty)),
            };
            if let Some(watermark_us) = reached {
                self.advance(grouping, (arrival.row, watermark_us), &mut taken, &mut dirty);
            }
            bytes += taken.closed.iter().skip(counted).map(Closed::text_bytes).sum::<usize>();
            counted = taken.closed.len();
            if bytes > CLOSED_BYTES_MAX {
                let message = format!("the texts of the groups that {rows} rows close have more than 256 MiB");
                return Err(ArrowError::ComputeError(message));
            }
        }
        taken.dirty = dirty.into_iter().collect();
        Ok(taken)
    }

    /// Notes how far a partition of the source is: before the row that says it, and behind that. Answers how far all are that are
    /// not idle, or where the last of them fell idle the furthest, if that may have changed and each has been heard of.
    fn hear(&mut self, count: u32, said: Said, reached: Option<i64>, dirty: &mut BTreeSet<u32>) -> Option<i64> {
        let reached = said.watermark_us.max(reached);
        let before = self.producers.get(&said.producer).copied();
        let watermark_us = before.and_then(|before| before.watermark_us).max(reached);
        let now = Progress { watermark_us, is_idle: reached.is_none() };
        if before == Some(now) {
            return None;
        }
        self.producers.insert(said.producer, now);
        dirty.insert(PRODUCERS_FROM + said.producer);
        // One that was ahead of the least does not make that another.
        let was_ahead = before.is_some_and(|before| !before.is_idle && before.watermark_us > self.watermark_us);
        if was_ahead || self.producers.len() < count as usize {
            return None;
        }
        let awaited = self.producers.values().filter(|of| !of.is_idle).filter_map(|of| of.watermark_us);
        awaited.min().or_else(|| self.producers.values().filter_map(|of| of.watermark_us).max())
    }

    /// Whether all windows of a row can take it: it is taken by all or by none.
    fn check(&self, grouping: &Grouping, row: &Row<'_>, (time_us, past): (i64, Option<i64>)) -> Result<(), String> {
        let (mut begun, mut adding) = (0, 0);
        for (_, end) in open_windows(grouping, time_us, past) {
            let part = self.windows.get(&end).and_then(|parts| parts.get(&row.part));
            let Some(group) = part.and_then(|part| part.get(row.encoded.as_slice())) else {
                begun += 1;
                continue;
            };
            for (accumulator, value) in group.accumulators.iter().zip(&row.values) {
                value.as_ref().map_or(Ok(()), |value| accumulator.check(value))?;
            }
            adding += adds(group.accumulators.iter().zip(&row.values));
        }
        if begun > 0 {
            let fresh = begin(grouping);
            adding += begun * (key_bytes(&row.keys, &row.encoded) + adds(fresh.iter().zip(&row.values)));
        }
        if self.count + begun > GROUPS_MAX {
            return Err(format!("{GROUPS_MAX} groups are open in this partition, which is the most"));
        }
        within_bounds(self.text_bytes + adding)
    }

    /// Takes one row into its windows. Those that were closed before are put out again.
    fn row(
        &mut self,
        grouping: &Grouping,
        row: &Row<'_>,
        (time_us, past): (i64, Option<i64>),
        arrived: usize,
        closed: &mut Vec<Closed>,
    ) {
        for (_, end_us) in open_windows(grouping, time_us, past) {
            let part = self.windows.entry(end_us).or_default().entry(row.part).or_default();
            let group = part.entry(Key::from_slice(&row.encoded)).or_insert_with(|| {
                self.count += 1;
                self.text_bytes += key_bytes(&row.keys, &row.encoded);
                let keys = row.keys.iter().cloned().map(|key| key.map(Cell::into_owned)).collect();
                Group { keys, accumulators: begin(grouping) }
            });
            for (accumulator, value) in group.accumulators.iter_mut().zip(&row.values) {
                if let Some(value) = value {
                    self.text_bytes -= accumulator.text_bytes();
                    accumulator.take(value);
                    self.text_bytes += accumulator.text_bytes();
                }
            }
            if self.watermark_us.is_some_and(|watermark| end_us <= watermark) {
                let key = common(grouping, &row.encoded);
                let of_key = part.range::<[u8], _>((Bound::Included(key), Bound::Unbounded));
                let of_key = of_key.take_while(|(other, _)| common(grouping, other) == key);
                put_out(grouping, of_key, arrived, end_us, closed);
            }
        }
    }

    /// Moves the watermark on, puts out the groups of the windows that it has reached the end of, and forgets those that no row
    /// can change any more.
    fn advance(
        &mut self,
        grouping: &Grouping,
        (row, watermark): (usize, i64),
        taken: &mut Taken,
        dirty: &mut BTreeSet<u32>,
    ) {
        let before = self.watermark_us;
        if before.is_some_and(|before| before >= watermark) {
            return;
        }
        self.watermark_us = Some(watermark);
        dirty.insert(WATERMARK_GROUP);
        let from = before.map_or(i64::MIN, |before| before.saturating_add(1));
        for (end, parts) in self.windows.range(from..=watermark) {
            for part in parts.values() {
                put_out(grouping, part.iter(), row, *end, &mut taken.closed);
            }
        }
        let gone = watermark.saturating_sub(grouping.lateness_us);
        while let Some(window) = self.windows.first_entry().filter(|window| *window.key() <= gone) {
            let (end_us, parts) = window.remove_entry();
            for (number, part) in parts {
                self.count -= part.len();
                self.text_bytes -= text_bytes(&part);
                dirty.insert(number);
                if grouping.window.turn == Turn::Sessions {
                    part.keys().for_each(|key| self.forget_sessions(key, end_us));
                }
            }
        }
    }

    /// The state of a key group; nothing if it has none.
    pub(crate) fn snapshot(&self, part: u32, layout: u64) -> Vec<u8> {
        if let Some(producer) = part.checked_sub(PRODUCERS_FROM) {
            return self.producers.get(&producer).map_or_else(Vec::new, |of| written_progress(layout, *of));
        }
        let watermark_us = self.watermark_us.filter(|_| part == WATERMARK_GROUP);
        let parts = self.windows.iter().filter_map(|(end, parts)| Some((*end, parts.get(&part)?)));
        let groups: Vec<_> =
            parts.flat_map(|(end, part)| part.iter().map(move |(key, group)| ((end, &**key), group))).collect();
        if groups.is_empty() && watermark_us.is_none() {
            return Vec::new();
        }
        written(layout, groups, Progress { watermark_us, is_idle: false })
    }

    /// Gives the state of a key group back.
    pub(crate) fn restore(&mut self, part: u32, bytes: &[u8], (layout, turn): (u64, Turn)) -> Result<(), String> {
        let Some((progress, groups)) = read(layout, bytes)? else { return Ok(()) };
        match part.checked_sub(PRODUCERS_FROM) {
            Some(producer) => {
                // Formerly one that was idle was written without a watermark.
                let is_idle = progress.is_idle || progress.watermark_us.is_none();
                self.producers.insert(producer, Progress { is_idle, ..progress });
            }
            None => self.watermark_us = self.watermark_us.max(progress.watermark_us),
        }
        let replaced = self.windows.iter_mut().filter_map(|(end, parts)| Some((*end, parts.remove(&part)?)));
        for (end, replaced) in replaced.collect::<Vec<_>>() {
            self.count -= replaced.len();
            self.text_bytes -= text_bytes(&replaced);
            if turn == Turn::Sessions {
                replaced.keys().for_each(|key| self.forget_sessions(key, end));
            }
        }
        for ((end, key), group) in groups {
            if turn == Turn::Sessions {
                self.note_session(&key, end);
            }
            self.count += 1;
            self.text_bytes += group_bytes(&key, &group);
            self.windows.entry(end).or_default().entry(part).or_default().insert(Key::from_slice(&key), group);
        }
        Ok(())
    }
}

/// The windows of a moment that a row may still change where the watermark is `past`.
fn open_windows(grouping: &Grouping, time_us: i64, past: Option<i64>) -> impl Iterator<Item = (i64, i64)> + use<> {
    grouping.window.open(time_us, past, grouping.lateness_us)
}

/// Whether texts of so many bytes may be kept.
fn within_bounds(text_bytes: usize) -> Result<(), String> {
    if text_bytes > TEXT_BYTES_MAX {
        return Err("the texts in the open groups of this partition have 64 MiB, which is the most".to_owned());
    }
    Ok(())
}

/// What of an encoded key the rows of all partitions of the source have in common.
fn common<'k>(grouping: &Grouping, encoded: &'k [u8]) -> &'k [u8] {
    let suffix = match (grouping.window.turn, grouping.producers) {
        (Turn::Sessions, _) => SUFFIX_BYTES,
        (_, Some(_)) => PRODUCER_BYTES,
        (_, None) => return encoded,
    };
    encoded.len().checked_sub(suffix).and_then(|end| encoded.get(..end)).unwrap_or(encoded)
}

/// Puts out groups of a window, in the order of their keys: of each key what the rows of all partitions of the source come to.
fn put_out<'g>(
    grouping: &Grouping,
    groups: impl Iterator<Item = (&'g Key, &'g Group)>,
    row: usize,
    end_us: i64,
    closed: &mut Vec<Closed>,
) {
    let start_of = |key: &[u8]| match grouping.window.turn {
        Turn::Sessions => session::start_of(key).unwrap_or(end_us),
        Turn::Slides | Turn::Grows => grouping.window.start_of(end_us),
    };
    let mut groups = groups.peekable();
    while let Some((key, group)) = groups.next() {
        let (mut accumulators, mut fault) = (Cow::Borrowed(&group.accumulators), None);
        let mut start_us = start_of(key);
        while let Some((of, other)) = groups.next_if(|(other, _)| common(grouping, key) == common(grouping, other)) {
            start_us = start_us.min(start_of(of));
            for (one, other) in accumulators.to_mut().iter_mut().zip(&other.accumulators) {
                fault = fault.or(one.merge(other).err());
            }
        }
        let results = accumulators.iter().map(Accumulator::result).collect();
        closed.push(Closed { row, keys: group.keys.clone(), start_us, end_us, results, fault });
    }
}

/// The state of a key group with nothing else.
pub(crate) fn written_progress(layout: u64, progress: Progress) -> Vec<u8> {
    written(layout, Vec::new(), progress)
}

fn written(layout: u64, groups: Vec<((i64, &[u8]), &Group)>, progress: Progress) -> Vec<u8> {
    let Progress { watermark_us, is_idle } = progress;
    let mut bytes = vec![if is_idle { STATE_VERSION_IDLE } else { STATE_VERSION }];
    // What is in memory has a length, and can be encoded.
    bytes.extend(postcard::to_stdvec(&Writing { layout, groups, watermark_us }).unwrap_or_default());
    bytes
}

/// What a key group's state says of how far something has come; nothing if it has no state.
pub(crate) fn read_progress(layout: u64, bytes: &[u8]) -> Result<Option<Progress>, String> {
    Ok(read(layout, bytes)?.map(|(progress, _)| progress))
}

/// What was written: how far it has come, and groups by the end of their window and encoded key.
type ReadBack = (Progress, Vec<((i64, Vec<u8>), Group)>);

fn read(layout: u64, bytes: &[u8]) -> Result<Option<ReadBack>, String> {
    let Some((version, bytes)) = bytes.split_first() else { return Ok(None) };
    let is_idle = match *version {
        STATE_VERSION => false,
        STATE_VERSION_IDLE => true,
        newer => return Err(format!("the state is of format {newer}; upgrade this node")),
    };
    let state: Read = postcard::from_bytes(bytes).map_err(|error| format!("the state cannot be read: {error}"))?;
    if state.layout != layout {
        return Err(
            "the state is of a query with another source, or other windows, keys or aggregates; give the flow another name".to_owned()
        );
    }
    Ok(Some((Progress { watermark_us: state.watermark_us, is_idle }, state.groups)))
}

/// What the aggregates of a group begin with.
fn begin(grouping: &Grouping) -> Vec<Accumulator> {
    grouping.aggregates.iter().map(Aggregate::begin).collect()
}

/// The bytes of the texts of groups.
fn text_bytes(part: &Part) -> usize {
    part.iter().map(|(key, group)| group_bytes(key, group)).sum()
}

fn group_bytes(encoded: &[u8], group: &Group) -> usize {
    key_bytes(&group.keys, encoded) + group.accumulators.iter().map(Accumulator::text_bytes).sum::<usize>()
}

/// The bytes that a group's key takes, as cells and encoded.
fn key_bytes(keys: &[Option<Cell<'_>>], encoded: &[u8]) -> usize {
    encoded.len() + keys.iter().flatten().map(Cell::text_bytes).sum::<usize>()
}

/// The most bytes that values add to what accumulators keep.
fn adds<'a>(of: impl Iterator<Item = (&'a Accumulator, &'a Option<Cell<'a>>)>) -> usize {
    of.filter_map(|(accumulator, value)| Some(accumulator.adds(value.as_ref()?))).sum()
}
