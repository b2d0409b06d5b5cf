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
//! In two phases, each partition of the source keeps groups of its own, and what comes here is what they had taken in when their
//! window was over there: in place of the rows themselves, and of what was said of the same group before.
//!
//! State is kept by key group, the hash of the key; one more group holds the watermark, and one for each partition of the source
//! how far that is. Of large key groups what changed is written, beside them.

mod changes;
mod closing;
mod handover;
mod inputs;
mod results;
mod session;
mod state;
mod table;
mod window;

use std::collections::BTreeMap;
use std::hint::black_box;
use std::ops::Range;

use arrow_array::ArrayRef;
use arrow_schema::ArrowError;
use serde::{Deserialize, Serialize};

use crate::aggregate::Accumulator;
use crate::plan::{Grouping, Phase, Turn};
use changes::Changes;
use closing::{Dirty, Step, put_out_records};
pub(crate) use inputs::{Arrival, Inputs, parts_of};
use inputs::{Reader, Row, Said};
pub(crate) use results::Closed;
use session::{SUFFIX_BYTES, Session};
pub(crate) use state::{read_progress, written_progress};
use table::{Layout, PackedKey};
use window::Window;

/// Into how many parts the state of a partition is cut: a step writes the parts that changed.
pub(crate) const KEY_GROUPS: u32 = 128;
/// The part with the watermark.
pub(crate) const WATERMARK_GROUP: u32 = KEY_GROUPS;
/// The first of the parts that hold how far a partition of the source is, where there are several.
const PRODUCERS_FROM: u32 = KEY_GROUPS + 1;
/// The bytes of the number of the partition of the source behind an encoded key, where there are several.
const PRODUCER_BYTES: usize = 4;
/// The most groups that a partition keeps which rows may change; a row that would begin another is rejected. As many at most are
/// still to be put out. One takes some 100 bytes.
const GROUPS_MAX: usize = 1 << 20;
/// The most bytes of texts in the groups of a partition, in keys (which count twice) and in what `min` and `max` keep, and of
/// what aggregates keep of many values; a row that would add more is rejected. The same holds for those that are to be put out.
const TEXT_BYTES_MAX: usize = 64 << 20;
/// The most bytes of the texts of the groups that a batch of rows closes, or changes once more after that. One row cannot
/// close so many, for there are none.
const CLOSED_BYTES_MAX: usize = 256 << 20;
/// How many rows ahead groups are looked at.
const ROWS_AHEAD: usize = 32;

/// All groups of a partition.
#[derive(Debug, Default)]
pub(crate) struct Groups {
    layout: Layout,
    /// By their end.
    windows: BTreeMap<i64, Window>,
    /// How many groups rows may change, and the bytes of their texts.
    count: usize,
    text_bytes: usize,
    watermark_us: Option<i64>,
    /// Which closed window, by its end, and part of it is to be put out next; nothing if all are.
    next: Option<(i64, u32)>,
    /// The partitions of the source that have been heard of, where there are several.
    producers: BTreeMap<u32, Progress>,
    /// How far those were who have handed groups over, by the partition that had them: what they have put out is not put out again.
    handed_us: Vec<Option<i64>>,
    /// By encoded key, where windows are sessions.
    sessions: BTreeMap<Box<[u8]>, Vec<Session>>,
    changes: Changes,
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

/// How far something has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Progress {
    pub(crate) watermark_us: Option<i64>,
    /// Whether nothing has come for so long that it is not waited for.
    pub(crate) is_idle: bool,
}

/// A row, the ends of the windows that it is of, and in each its record, if its group was begun.
#[derive(Default)]
struct Place {
    ends: Vec<i64>,
    records: Vec<Option<usize>>,
    /// The last moment's window, where each moment has one.
    last: Option<(i64, i64)>,
}

impl Groups {
    /// No groups yet.
    pub(crate) fn new(grouping: &Grouping) -> Self {
        Self { layout: Layout::new(&grouping.aggregates), ..Self::default() }
    }

    /// Takes rows. Those that the filter does not pass are in no group, and move the watermark like all others.
    ///
    /// # Errors
    /// When the texts of the groups that they close are too large.
    pub(crate) fn take(
        &mut self,
        grouping: &Grouping,
        inputs: &Inputs,
        (columns, rows): (&[ArrayRef], usize),
        arrivals: impl Iterator<Item = Arrival>,
    ) -> Result<Taken, ArrowError> {
        let mut taken = Taken { rejected: inputs.faults.clone(), ..Taken::default() };
        let mut step = Step::new(grouping);
        let (reader, mut row, mut place, mut ahead) = (Reader::new(inputs), Row::default(), Place::default(), 0);
        for arrival in arrivals {
            if arrival.kept.is_some_and(|kept| kept >= ahead) {
                self.look_ahead(&place.ends, (inputs, columns, ahead..rows.min(ahead + ROWS_AHEAD)), grouping);
                ahead += ROWS_AHEAD;
            }
            let kept = arrival.kept.filter(|kept| !taken.rejected.contains_key(kept));
            let said = grouping.producers.zip(kept).and_then(|(count, kept)| Said::read(count, columns, kept));
            match (arrival.time_us, kept) {
                (_, Some(kept)) if grouping.producers.is_some() && said.is_none() => {
                    taken.rejected.insert(kept, "it is of no partition of the source".to_owned());
                }
                (Some(time_us), Some(kept)) => {
                    // Late is what its own partition is past.
                    let past = self.watermark_us.max(said.and_then(|said| said.watermark_us));
                    place.open(grouping, time_us, past);
                    if place.ends.is_empty() {
                        taken.late.push(u32::try_from(kept).unwrap_or(u32::MAX));
                    } else if let Err(reason) =
                        self.row(&mut step, (&reader, kept), (time_us, said), &mut row, &mut place)
                    {
                        taken.rejected.insert(kept, reason);
                    }
                }
                (None, Some(kept)) if said.is_none() => {
                    taken.rejected.insert(kept, "the moment of the row is null".to_owned());
                }
                // It says how far its partition is, and nothing else; or it does not count.
                (None, _) | (_, None) => {}
            }
            // The end of a window says nothing of what comes next.
            let moment = arrival.time_us.filter(|_| grouping.phase != Phase::Final);
            let reached = moment.map(|time_us| time_us.saturating_sub(grouping.delay_us));
            let reached = match grouping.producers {
                None => reached,
                Some(count) => said.and_then(|said| self.hear(count, said, reached, &mut step.dirty)),
            };
            if let Some(watermark_us) = reached.filter(|reached| self.watermark_us < Some(*reached)) {
                self.advance(&mut step, watermark_us);
            }
            if step.closing.bytes() > CLOSED_BYTES_MAX {
                let message = format!("the groups that {rows} rows close have more than 256 MiB");
                return Err(ArrowError::ComputeError(message));
            }
        }
        self.fill(&mut step);
        taken.closed = step.closing.finish();
        taken.dirty = self.parts_to_write(grouping, step.dirty);
        Ok(taken)
    }

    /// Notes how far a partition of the source is: before the row that says it, and behind that. Answers how far all are that are
    /// not idle, or where the last of them fell idle the furthest, if that may have changed and each has been heard of.
    fn hear(&mut self, count: u32, said: Said, reached: Option<i64>, dirty: &mut Dirty) -> Option<i64> {
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

    /// Looks at the groups that rows are likely of, without doing anything: a group that is far off in memory takes longer to come
    /// than all that is done with it, but many of them can come at a time.
    fn look_ahead(
        &self,
        ends: &[i64],
        (inputs, columns, rows): (&Inputs, &[ArrayRef], Range<usize>),
        grouping: &Grouping,
    ) {
        if grouping.window.turn == Turn::Sessions {
            return;
        }
        for window in ends.iter().filter_map(|end| self.windows.get(end)) {
            let mut records = [None; ROWS_AHEAD];
            for (record, row) in records.iter_mut().zip(rows.clone()) {
                let said = grouping.producers.and_then(|count| Said::read(count, columns, row));
                let hash = inputs.table_hash(row, said.map(|said| said.producer));
                *record = window.part(inputs.part(row)).and_then(|part| Some((part, part.guess(hash)?)));
            }
            let touched =
                records.iter().flatten().fold(0, |all, (part, record)| all ^ part.touch(&self.layout, *record));
            black_box(touched);
        }
    }

    /// Takes a row into its windows, if all of them can take it.
    fn row<'i>(
        &mut self,
        step: &mut Step<'_>,
        (reader, kept): (&Reader<'i>, usize),
        (time_us, said): (i64, Option<Said>),
        row: &mut Row<'i>,
        place: &mut Place,
    ) -> Result<(), String> {
        let grouping = step.closing.grouping;
        let producer = said.map(|said| said.producer);
        if grouping.window.turn == Turn::Sessions {
            reader.read(kept, None, row);
            let span = (time_us, time_us.saturating_add(grouping.window.size_us));
            let at = (producer.unwrap_or_default(), span);
            self.check_session(row, at)?;
            self.take_session(row, at);
        } else {
            reader.read(kept, producer, row);
            let taken_in = (grouping.phase == Phase::Final).then(|| self.layout.of_parts(&row.values)).transpose()?;
            let taken_in = taken_in.as_deref();
            self.check((row, taken_in), place)?;
            if self.next.is_some() && place.ends.iter().any(|end| self.is_closed(*end)) {
                // It changes what is to be put out as it was.
                while self.put_out(step) {}
            }
            self.take_row(step, (row, taken_in), place);
        }
        step.dirty.insert(row.part);
        Ok(())
    }

    /// How far rows have come whose windows are all put out, where they are closed.
    pub(crate) fn out_until(&self) -> Option<i64> {
        self.next.map(|(end_us, _)| end_us - 1).or(self.watermark_us)
    }

    /// Whether the watermark has reached the end of a window.
    fn is_closed(&self, end_us: i64) -> bool {
        self.watermark_us.is_some_and(|watermark| end_us <= watermark)
    }

    /// Whether all windows of a row, or of what rows have come to, can take it: it is taken by all or by none. Notes where its groups
    /// are.
    fn check(&self, (row, taken_in): (&Row<'_>, Option<&[Accumulator]>), place: &mut Place) -> Result<(), String> {
        let (mut begun, mut adding) = (0, 0);
        let of_taken_in: Option<usize> = taken_in.map(|of| of.iter().map(Accumulator::text_bytes).sum());
        place.records.clear();
        for end in &place.ends {
            let part = self.windows.get(end).and_then(|window| window.part(row.part));
            let found = part.and_then(|part| Some((part, part.find(&self.layout, &row.key)?)));
            match found {
                Some((part, record)) => match of_taken_in {
                    Some(bytes) => adding += bytes.saturating_sub(part.taken_bytes(&self.layout, record)),
                    None => adding += part.check(&self.layout, record, &row.values)?,
                },
                None => begun += 1,
            }
            place.records.push(found.map(|(_, record)| record));
        }
        if begun > 0 {
            adding += begun * (row.key_bytes(0) + of_taken_in.unwrap_or_else(|| self.layout.adds(&row.values)));
        }
        if self.count + begun > GROUPS_MAX {
            return Err(format!("{GROUPS_MAX} groups are open in this partition, which is the most"));
        }
        if begun > 0 && self.changes.is_wide(row.part) {
            return Err("the open groups of its key group, one of 128, have 10 MiB, which is the most".to_owned());
        }
        within_bounds(self.text_bytes + adding)
    }

    /// Takes a row, or what rows have come to, into its windows. Groups of those that were closed before are put out again.
    fn take_row(&mut self, step: &mut Step<'_>, (row, taken_in): (&Row<'_>, Option<&[Accumulator]>), place: &Place) {
        for (end_us, record) in place.ends.iter().zip(&place.records) {
            let is_closed = self.is_closed(*end_us);
            let Some(part) = self.windows.entry(*end_us).or_default().begin(row.part) else { continue };
            let before = part.text_bytes();
            let record = record.unwrap_or_else(|| {
                (self.count, step.begun) = (self.count + 1, step.begun + 1);
                part.begin(&self.layout, &row.key, row.key_bytes(0))
            });
            match taken_in {
                Some(taken_in) => part.replace(&self.layout, record, taken_in),
                None => part.take(&self.layout, record, &row.values),
            }
            part.note_changed(record);
            self.text_bytes = self.text_bytes - before + part.text_bytes();
            if is_closed {
                let common = common(step.closing.grouping, &row.encoded);
                let of_key = |producer: u32| {
                    let key = PackedKey::of(&[common, &producer.to_be_bytes()].concat());
                    part.find(&self.layout, &key)
                };
                let records = match step.closing.grouping.producers {
                    None => vec![record],
                    Some(_) => self.producers.keys().filter_map(|producer| of_key(*producer)).collect(),
                };
                put_out_records(&mut step.closing, (&self.layout, part), &records, *end_us);
            }
        }
    }
}

impl Place {
    /// Finds the windows of a moment that a row may still change where the watermark is `past`.
    fn open(&mut self, grouping: &Grouping, time_us: i64, past: Option<i64>) {
        let Grouping { window, lateness_us, phase, .. } = grouping;
        self.ends.clear();
        if *phase == Phase::Final {
            // It is of a window that ends then.
            let is_gone = past.is_some_and(|watermark| time_us.saturating_add(*lateness_us) <= watermark);
            self.ends.extend((!is_gone).then_some(time_us));
            return;
        }
        if window.turn != Turn::Slides || window.size_us != window.slide_us {
            self.ends.extend(window.open(time_us, past, *lateness_us).map(|(_, end)| end));
            return;
        }
        // Most rows are of the window that the one before is of.
        let is_last = |(start, end): &(i64, i64)| *start <= time_us && time_us < *end;
        self.last = self.last.filter(is_last).or_else(|| window.of(time_us).next());
        let is_gone = |end: &i64| past.is_some_and(|watermark| end.saturating_add(*lateness_us) <= watermark);
        self.ends.extend(self.last.map(|(_, end)| end).filter(|end| !is_gone(end)));
    }
}

/// Which of so many partitions the rows of a key group go to.
pub(crate) fn lane_of(key_group: u32, partitions: u32) -> u32 {
    key_group * partitions / KEY_GROUPS
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
