//! Groups of rows in windows on event time.
//!
//! Rows are taken one after the other, and each may close windows: what comes out is a function of the order of the rows
//! alone, not of how they were cut into batches, so that a run that is continued after a failure comes to what an
//! undisturbed one comes to. The watermark is the latest moment seen less what the stream allows to be out of order; a
//! window is closed, and its groups put out, when the watermark reaches its end.
//!
//! State is kept by key group, the hash of the key; one more group holds the watermark.

use std::collections::{BTreeMap, BTreeSet};

use arrow_array::ArrayRef;
use arrow_schema::ArrowError;
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use crate::aggregate::{Accumulator, Aggregate};
use crate::cast::{shown, text_of, timestamp_text};
use crate::eval::Evaluator;
use crate::plan::{Grouping, hash};
use crate::value::{Cell, cell};

/// Into how many parts the state of a partition is cut: a step writes the parts that changed.
pub(crate) const KEY_GROUPS: u32 = 128;
/// The part with the watermark.
const WATERMARK_GROUP: u32 = KEY_GROUPS;
/// The most groups that a partition keeps; a row that would begin another is rejected. One takes some 200 bytes.
const GROUPS_MAX: usize = 1 << 20;
/// The most bytes of texts in the groups of a partition, in keys (which are there twice) and in what `min` and `max` keep; a
/// row that would add more is rejected.
const TEXT_BYTES_MAX: usize = 64 << 20;
/// The most bytes of the texts of the groups that a batch of rows closes, or changes once more after that. One row cannot
/// close so many, for there are none.
const CLOSED_BYTES_MAX: usize = 256 << 20;
/// The version of what a snapshot is written in.
const STATE_VERSION: u8 = 1;

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

/// What is known of one row, in room that is used again for the next one.
#[derive(Default)]
struct Row<'i> {
    /// Its place among the rows that the filter passed.
    place: usize,
    keys: Vec<Option<Cell<'i>>>,
    /// The keys encoded, equal for equal keys.
    encoded: Vec<u8>,
    /// Which part of the state it is in.
    part: u32,
    /// What each aggregate takes of it.
    values: Vec<Option<Cell<'i>>>,
}

/// What is computed of the rows before they are taken.
struct Inputs {
    keys: Vec<ArrayRef>,
    arguments: Vec<Option<ArrayRef>>,
    filters: Vec<Option<arrow_buffer::BooleanBuffer>>,
    faults: BTreeMap<usize, String>,
}

impl Inputs {
    fn new(grouping: &Grouping, columns: &[ArrayRef], rows: usize) -> Result<Self, ArrowError> {
        let mut evaluator = Evaluator::new(columns, rows);
        let keys = grouping.keys.iter().map(|(key, _)| evaluator.column(key)).collect::<Result<_, _>>()?;
        let (mut arguments, mut filters) = (Vec::new(), Vec::new());
        for aggregate in &grouping.aggregates {
            let filter = aggregate.filter.as_ref().map(|filter| evaluator.holds(filter)).transpose()?;
            // The argument counts where the filter passes.
            let argument = aggregate.argument.as_ref().map(|argument| evaluator.column_where(argument, &filter));
            arguments.push(argument.transpose()?);
            filters.push(filter);
        }
        Ok(Self { keys, arguments, filters, faults: evaluator.faults })
    }

    /// Reads a row.
    fn read<'i>(&'i self, place: usize, row: &mut Row<'i>) {
        let canonical = |cell: Cell<'i>| match cell {
            Cell::Double(value) if value.is_nan() => Cell::Double(f64::NAN),
            // Both zeros are one.
            Cell::Double(value) => Cell::Double(value + 0.0),
            cell => cell,
        };
        row.place = place;
        row.keys.clear();
        row.keys.extend(self.keys.iter().map(|key| cell(key, place).map(canonical)));
        row.encoded.clear();
        // Only what has no length cannot be encoded, and cells have one.
        row.encoded = postcard::to_extend(&row.keys, std::mem::take(&mut row.encoded)).unwrap_or_default();
        row.part = (hash(&row.encoded) % u64::from(KEY_GROUPS)) as u32;
        row.values.clear();
        row.values.extend((0..self.arguments.len()).map(|aggregate| self.argument(aggregate, place)));
    }

    /// What the aggregate at a place takes of a row.
    fn argument(&self, place: usize, row: usize) -> Option<Cell<'_>> {
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
        let inputs = Inputs::new(grouping, columns, rows)?;
        let mut taken = Taken { rejected: inputs.faults.clone(), ..Taken::default() };
        let mut dirty = BTreeSet::new();
        let (mut counted, mut bytes, mut row) = (0, 0, Row::default());
        for arrival in arrivals {
            let kept = arrival.kept.filter(|kept| !taken.rejected.contains_key(kept));
            match (arrival.time_us, kept) {
                (Some(time_us), Some(kept)) if self.is_late(grouping, time_us) => {
                    taken.late.push(u32::try_from(kept).unwrap_or(u32::MAX));
                }
                (Some(time_us), Some(kept)) => {
                    inputs.read(kept, &mut row);
                    match self.check(grouping, &row, time_us) {
                        Ok(()) => {
                            dirty.insert(row.part);
                            self.row(grouping, &row, time_us, arrival.row, &mut taken.closed);
                        }
                        Err(reason) => {
                            taken.rejected.insert(kept, reason);
                        }
                    }
                }
                (None, Some(kept)) => {
                    taken.rejected.insert(kept, "the moment of the row is null".to_owned());
                }
                (_, None) => {}
            }
            if let Some(time_us) = arrival.time_us {
                self.advance(grouping, (arrival.row, time_us), &mut taken, &mut dirty);
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

    /// The windows of a moment that a row may still change.
    fn open_windows(&self, grouping: &Grouping, time_us: i64) -> impl Iterator<Item = (i64, i64)> + use<> {
        let (watermark_us, lateness_us) = (self.watermark_us, grouping.lateness_us);
        let is_gone =
            move |end: i64| watermark_us.is_some_and(|watermark| end.saturating_add(lateness_us) <= watermark);
        grouping.window.of(time_us).filter(move |(_, end)| !is_gone(*end))
    }

    fn is_late(&self, grouping: &Grouping, time_us: i64) -> bool {
        self.open_windows(grouping, time_us).next().is_none()
    }

    /// Whether all windows of a row can take it: it is taken by all or by none.
    fn check(&self, grouping: &Grouping, row: &Row<'_>, time_us: i64) -> Result<(), String> {
        let (mut begun, mut adding) = (0, 0);
        for (_, end) in self.open_windows(grouping, time_us) {
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
        if self.text_bytes + adding > TEXT_BYTES_MAX {
            return Err("the texts in the open groups of this partition have 64 MiB, which is the most".to_owned());
        }
        Ok(())
    }

    /// Takes one row into its windows. Those that were closed before are put out again.
    fn row(&mut self, grouping: &Grouping, row: &Row<'_>, time_us: i64, arrived: usize, closed: &mut Vec<Closed>) {
        for (start_us, end_us) in self.open_windows(grouping, time_us) {
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
                closed.push(group.closed(arrived, (start_us, end_us)));
            }
        }
    }

    /// Moves the watermark on, puts out the groups of the windows that it has reached the end of, and forgets those that no row
    /// can change any more.
    fn advance(
        &mut self,
        grouping: &Grouping,
        (row, time_us): (usize, i64),
        taken: &mut Taken,
        dirty: &mut BTreeSet<u32>,
    ) {
        let watermark = time_us.saturating_sub(grouping.delay_us);
        let before = self.watermark_us;
        if before.is_some_and(|before| before >= watermark) {
            return;
        }
        self.watermark_us = Some(watermark);
        dirty.insert(WATERMARK_GROUP);
        let from = before.map_or(i64::MIN, |before| before.saturating_add(1));
        for (end, parts) in self.windows.range(from..=watermark) {
            let start = grouping.window.start_of(*end);
            let groups = parts.values().flat_map(BTreeMap::values);
            taken.closed.extend(groups.map(|group| group.closed(row, (start, *end))));
        }
        let gone = watermark.saturating_sub(grouping.lateness_us);
        while let Some(window) = self.windows.first_entry().filter(|window| *window.key() <= gone) {
            for (number, part) in window.remove() {
                self.count -= part.len();
                self.text_bytes -= text_bytes(&part);
                dirty.insert(number);
            }
        }
    }

    /// The state of a key group; nothing if it has none.
    pub(crate) fn snapshot(&self, part: u32, layout: u64) -> Vec<u8> {
        let watermark_us = if part == WATERMARK_GROUP { self.watermark_us } else { None };
        let parts = self.windows.iter().filter_map(|(end, parts)| Some((*end, parts.get(&part)?)));
        let groups =
            parts.flat_map(|(end, part)| part.iter().map(move |(key, group)| ((end, &**key), group))).collect();
        let state = Writing { layout, groups, watermark_us };
        if state.groups.is_empty() && watermark_us.is_none() {
            return Vec::new();
        }
        let mut bytes = vec![STATE_VERSION];
        // What is in memory has a length, and can be encoded.
        bytes.extend(postcard::to_stdvec(&state).unwrap_or_default());
        bytes
    }

    /// Gives the state of a key group back.
    pub(crate) fn restore(&mut self, part: u32, bytes: &[u8], layout: u64) -> Result<(), String> {
        let Some((version, bytes)) = bytes.split_first() else { return Ok(()) };
        if *version != STATE_VERSION {
            return Err(format!("the state is of format {version}; upgrade this node"));
        }
        let state: Read = postcard::from_bytes(bytes).map_err(|error| format!("the state cannot be read: {error}"))?;
        if state.layout != layout {
            return Err(
                "the state is of a query with another source, or other windows, keys or aggregates; give the flow another name".to_owned()
            );
        }
        self.watermark_us = self.watermark_us.max(state.watermark_us);
        for replaced in self.windows.values_mut().filter_map(|parts| parts.remove(&part)) {
            self.count -= replaced.len();
            self.text_bytes -= text_bytes(&replaced);
        }
        for ((end, key), group) in state.groups {
            self.count += 1;
            self.text_bytes += group_bytes(&key, &group);
            self.windows.entry(end).or_default().entry(part).or_default().insert(Key::from_slice(&key), group);
        }
        Ok(())
    }
}

impl Group {
    fn closed(&self, row: usize, (start_us, end_us): (i64, i64)) -> Closed {
        let results = self.accumulators.iter().map(Accumulator::result).collect();
        Closed { row, keys: self.keys.clone(), start_us, end_us, results }
    }
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
    of.filter_map(|(accumulator, value)| accumulator.keeps().then_some(value.as_ref()?.text_bytes())).sum()
}
