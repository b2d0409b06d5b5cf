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

use crate::aggregate::Accumulator;
use crate::cast::{shown, text_of, timestamp_text};
use crate::eval::Evaluator;
use crate::plan::{Grouping, Window, hash};
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

/// The end of a window and the encoded key.
type GroupKey = (i64, Vec<u8>);

/// All groups of a partition.
#[derive(Debug, Default)]
pub(crate) struct Groups {
    parts: BTreeMap<u32, BTreeMap<GroupKey, Group>>,
    /// The ends of the windows that have groups.
    ends: BTreeSet<i64>,
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

/// What one key group's state is written as.
#[derive(Serialize, Deserialize)]
struct Part {
    layout: u64,
    groups: Vec<(GroupKey, Group)>,
    watermark_us: Option<i64>,
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

    /// The key of a row, and its encoding, which is equal for equal keys.
    fn key(&self, row: usize) -> (Vec<Option<Cell<'static>>>, Vec<u8>) {
        let canonical = |cell: Cell<'_>| match cell {
            Cell::Double(value) if value.is_nan() => Cell::Double(f64::NAN),
            // Both zeros are one.
            Cell::Double(value) => Cell::Double(value + 0.0),
            cell => cell.into_owned(),
        };
        let keys: Vec<Option<Cell<'static>>> = self.keys.iter().map(|key| cell(key, row).map(canonical)).collect();
        // Only what has no length cannot be encoded, and cells have one.
        let encoded = postcard::to_stdvec(&keys).unwrap_or_default();
        (keys, encoded)
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
        let (mut counted, mut bytes) = (0, 0);
        for arrival in arrivals {
            let kept = arrival.kept.filter(|kept| !taken.rejected.contains_key(kept));
            match (arrival.time_us, kept) {
                (Some(time_us), Some(kept)) => {
                    self.row(grouping, &inputs, (kept, time_us), arrival.row, &mut taken, &mut dirty);
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

    /// Takes one row into its windows.
    fn row(
        &mut self,
        grouping: &Grouping,
        inputs: &Inputs,
        (row, time_us): (usize, i64),
        arrived: usize,
        taken: &mut Taken,
        dirty: &mut BTreeSet<u32>,
    ) {
        let is_gone =
            |end: i64| self.watermark_us.is_some_and(|watermark| end.saturating_add(grouping.lateness_us) <= watermark);
        let windows: Vec<(i64, i64)> = windows(grouping.window, time_us).filter(|(_, end)| !is_gone(*end)).collect();
        if windows.is_empty() {
            taken.late.push(u32::try_from(row).unwrap_or(u32::MAX));
            return;
        }
        let (keys, encoded) = inputs.key(row);
        let part = (hash(&encoded) % u64::from(KEY_GROUPS)) as u32;
        let values: Vec<Option<Cell<'_>>> =
            (0..grouping.aggregates.len()).map(|place| inputs.argument(place, row)).collect();
        let place = |end: i64| (end, encoded.clone());
        let groups = self.parts.entry(part).or_default();
        // A row is taken by all its windows or by none.
        let known = windows.iter().filter_map(|(_, end)| groups.get(&place(*end)));
        let mut begun = windows.len();
        let mut adding = 0;
        for group in known {
            begun -= 1;
            adding += adds(group.accumulators.iter().zip(&values));
            let checks = group.accumulators.iter().zip(&values);
            let failed = checks.filter_map(|(accumulator, value)| accumulator.check(value.as_ref()?).err()).next();
            if let Some(reason) = failed {
                taken.rejected.insert(row, reason);
                return;
            }
        }
        if self.count + begun > GROUPS_MAX {
            taken.rejected.insert(row, format!("{GROUPS_MAX} groups are open in this partition, which is the most"));
            return;
        }
        let fresh: Vec<Accumulator> = grouping.aggregates.iter().map(crate::aggregate::Aggregate::begin).collect();
        adding += begun * (key_bytes(&keys, &encoded) + adds(fresh.iter().zip(&values)));
        if self.text_bytes + adding > TEXT_BYTES_MAX {
            let message = "the texts in the open groups of this partition have 64 MiB, which is the most";
            taken.rejected.insert(row, message.to_owned());
            return;
        }
        self.count += begun;
        dirty.insert(part);
        for (start_us, end_us) in windows {
            self.ends.insert(end_us);
            let group = groups.entry(place(end_us)).or_insert_with(|| {
                self.text_bytes += key_bytes(&keys, &encoded);
                Group { keys: keys.clone(), accumulators: fresh.clone() }
            });
            for (accumulator, value) in group.accumulators.iter_mut().zip(&values) {
                if let Some(value) = value {
                    self.text_bytes -= accumulator.text_bytes();
                    accumulator.take(value);
                    self.text_bytes += accumulator.text_bytes();
                }
            }
            if self.watermark_us.is_some_and(|watermark| end_us <= watermark) {
                taken.closed.push(group.closed(arrived, (start_us, end_us)));
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
        for end in self.ends.range(from..=watermark) {
            let start = end.saturating_sub(grouping.window.size_us);
            for group in
                self.parts.values().flat_map(|part| part.range((*end, Vec::new())..(end.saturating_add(1), Vec::new())))
            {
                taken.closed.push(group.1.closed(row, (start, *end)));
            }
        }
        let gone = watermark.saturating_sub(grouping.lateness_us);
        while let Some(end) = self.ends.first().copied().filter(|end| *end <= gone) {
            self.ends.remove(&end);
            for (number, part) in &mut self.parts {
                let kept = part.split_off(&(end.saturating_add(1), Vec::new()));
                let forgotten = std::mem::replace(part, kept);
                self.count -= forgotten.len();
                self.text_bytes -= text_bytes(&forgotten);
                if !forgotten.is_empty() {
                    dirty.insert(*number);
                }
            }
        }
    }

    /// The state of a key group; nothing if it has none.
    pub(crate) fn snapshot(&self, part: u32, layout: u64) -> Vec<u8> {
        let watermark_us = if part == WATERMARK_GROUP { self.watermark_us } else { None };
        let groups: Vec<(GroupKey, Group)> =
            self.parts.get(&part).into_iter().flatten().map(|(key, group)| (key.clone(), group.clone())).collect();
        if groups.is_empty() && watermark_us.is_none() {
            return Vec::new();
        }
        let mut bytes = vec![STATE_VERSION];
        // What is in memory has a length, and can be encoded.
        bytes.extend(postcard::to_stdvec(&Part { layout, groups, watermark_us }).unwrap_or_default());
        bytes
    }

    /// Gives the state of a key group back.
    pub(crate) fn restore(&mut self, part: u32, bytes: &[u8], layout: u64) -> Result<(), String> {
        let Some((version, bytes)) = bytes.split_first() else { return Ok(()) };
        if *version != STATE_VERSION {
            return Err(format!("the state is of format {version}; upgrade this node"));
        }
        let state: Part = postcard::from_bytes(bytes).map_err(|error| format!("the state cannot be read: {error}"))?;
        if state.layout != layout {
            return Err(
                "the state is of a query with another source, or other windows, keys or aggregates; give the flow another name".to_owned()
            );
        }
        self.watermark_us = self.watermark_us.max(state.watermark_us);
        self.ends.extend(state.groups.iter().map(|((end, _), _)| *end));
        let groups: BTreeMap<GroupKey, Group> = state.groups.into_iter().collect();
        self.count += groups.len();
        self.text_bytes += text_bytes(&groups);
        if let Some(replaced) = self.parts.insert(part, groups) {
            self.count -= replaced.len();
            self.text_bytes -= text_bytes(&replaced);
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

/// The bytes of the texts of groups.
fn text_bytes(groups: &BTreeMap<GroupKey, Group>) -> usize {
    let of_group = |((_, encoded), group): (&GroupKey, &Group)| {
        key_bytes(&group.keys, encoded) + group.accumulators.iter().map(Accumulator::text_bytes).sum::<usize>()
    };
    groups.iter().map(of_group).sum()
}

/// The bytes that a group's key takes, as cells and encoded.
fn key_bytes(keys: &[Option<Cell<'_>>], encoded: &[u8]) -> usize {
    encoded.len() + keys.iter().flatten().map(Cell::text_bytes).sum::<usize>()
}

/// The most bytes that values add to what accumulators keep.
fn adds<'a>(of: impl Iterator<Item = (&'a Accumulator, &'a Option<Cell<'a>>)>) -> usize {
    of.filter_map(|(accumulator, value)| accumulator.keeps().then_some(value.as_ref()?.text_bytes())).sum()
}

/// The windows that a moment is in, the earliest first.
fn windows(window: Window, time_us: i64) -> impl Iterator<Item = (i64, i64)> {
    let Window { size_us, slide_us } = window;
    let last = time_us.saturating_sub(time_us.rem_euclid(slide_us));
    let count = (size_us - 1) / slide_us;
    let starts = (0..=count).rev().map(move |back| last.saturating_sub(back.saturating_mul(slide_us)));
    starts.map(move |start| (start, start.saturating_add(size_us))).filter(move |(_, end)| time_us < *end)
}
