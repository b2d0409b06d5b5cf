//! What groups come to that are put out, column by column.

use std::collections::BTreeMap;

use arrow_array::{Array as _, ArrayRef};

use super::table::{Layout, Table};
use crate::cast::{shown, text_of, timestamp_text};
use crate::plan::{Grouping, Phase};
use crate::types::Type;
use crate::value::{Cell, ColumnBuilder, cell, integers, read_cells};

/// How many groups' results are computed at once.
const RESULTS_AT_ONCE: usize = 4_096;
/// About what a cell takes in its column, with its text besides.
const CELL_BYTES: usize = 8;

/// Groups that are put out: their keys, the begin and the end of the window, what the aggregates come to, or [have taken
/// in](crate::aggregate::Aggregate::parts) in a first phase.
#[derive(Debug)]
pub(crate) struct Closed {
    pub(crate) columns: Vec<ArrayRef>,
    pub(crate) count: usize,
    /// Those that come to nothing, and why.
    pub(crate) faults: BTreeMap<usize, String>,
}

impl Closed {
    /// The same in two, if that is possible.
    pub(crate) fn halves(&self) -> Option<[Self; 2]> {
        let middle = self.count / 2;
        let part = |from: usize, count: usize| Self {
            columns: self.columns.iter().map(|column| column.slice(from, count)).collect(),
            count,
            faults: self.faults.range(from..from + count).map(|(at, fault)| (at - from, fault.clone())).collect(),
        };
        (middle > 0).then(|| [part(0, middle), part(middle, self.count - middle)])
    }

    /// Which group failed, and why.
    pub(crate) fn told(&self, grouping: &Grouping, group: usize, reason: &str) -> String {
        let (keys, windows) = self.columns.split_at_checked(grouping.keys.len()).unwrap_or_default();
        let told = |key: Option<Cell<'_>>| key.map_or_else(|| "null".to_owned(), |key| shown(&text_of(&key)));
        let keys: Vec<String> = keys.iter().map(|key| told(cell(key, group))).collect();
        let moment = |column: &ArrayRef| timestamp_text(integers(column).get(group).copied().unwrap_or_default());
        let moments: Vec<String> = windows.iter().take(2).map(moment).collect();
        format!("the group ({}) of the window from {}: {reason}", keys.join(", "), moments.join(" to "))
    }
}

/// Groups that are being put out.
pub(super) struct Closing<'g> {
    pub(super) grouping: &'g Grouping,
    /// Those of the last piece.
    columns: Vec<ColumnBuilder>,
    last: usize,
    faults: BTreeMap<usize, String>,
    pieces: Vec<Closed>,
    count: usize,
    /// What one takes without its texts.
    group_bytes: usize,
    text_bytes: usize,
}

impl<'g> Closing<'g> {
    pub(super) fn new(grouping: &'g Grouping) -> Self {
        Self {
            grouping,
            columns: Vec::new(),
            last: 0,
            faults: BTreeMap::new(),
            pieces: Vec::new(),
            count: 0,
            group_bytes: types(grouping).count() * CELL_BYTES,
            text_bytes: 0,
        }
    }

    /// How many groups there are.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// About how many bytes they have.
    pub(super) fn bytes(&self) -> usize {
        self.text_bytes + self.count * self.group_bytes
    }

    /// Puts out groups of a window, each of which is one record; of all of them a column after the other.
    pub(super) fn push_records(
        &mut self,
        (layout, table): (&Layout, &Table),
        records: &[usize],
        (start_us, end_us): (i64, i64),
    ) {
        let (mut left, mut encoded) = (records, Vec::new());
        while !left.is_empty() {
            self.begin(left.len());
            let (now, later) = left.split_at(left.len().min(RESULTS_AT_ONCE - self.last));
            let (keys, others) = self.columns.split_at_mut_checked(self.grouping.keys.len()).unwrap_or_default();
            for record in now {
                table.read_key(layout, *record, &mut encoded);
                for (cell, column) in cells(&encoded).zip(&mut *keys) {
                    self.text_bytes += cell.as_ref().map_or(0, Cell::text_bytes);
                    column.push(cell);
                }
            }
            let (moments, aggregates) = others.split_at_mut_checked(2).unwrap_or_default();
            for (column, us) in moments.iter_mut().zip([start_us, end_us]) {
                now.iter().for_each(|_| column.push(Some(Cell::Timestamp(us))));
            }
            let mut push = |column: &mut ColumnBuilder, cell: Option<Cell<'_>>| {
                self.text_bytes += cell.as_ref().map_or(0, Cell::text_bytes);
                column.push(cell);
            };
            if self.grouping.phase == Phase::Partial {
                for record in now {
                    let parts = table.accumulators(layout, *record).flat_map(|of| of.parts());
                    aggregates.iter_mut().zip(parts).for_each(|(column, part)| push(column, part));
                }
            } else {
                for (place, column) in aggregates.iter_mut().enumerate() {
                    table.results_of(layout, place, now).for_each(|cell| push(column, cell));
                }
            }
            self.end(now.len());
            left = later;
        }
    }

    /// Puts a group out, with its encoded key, the begin and the end of its window, and why it comes to nothing, if so.
    pub(super) fn push(
        &mut self,
        key: &[u8],
        (start_us, end_us): (i64, i64),
        results: impl Iterator<Item = Option<Cell<'static>>>,
        fault: Option<String>,
    ) {
        self.begin(1);
        let keys = cells(key);
        let moments = [start_us, end_us].map(|us| Some(Cell::Timestamp(us)));
        let mut columns = self.columns.iter_mut();
        // The columns first: what there is of the other goes on.
        for (cell, column) in keys.map(|key| (key, columns.next())) {
            self.text_bytes += cell.as_ref().map_or(0, Cell::text_bytes);
            if let Some(column) = column {
                column.push(cell);
            }
        }
        for (cell, column) in moments.into_iter().chain(results).zip(columns) {
            self.text_bytes += cell.as_ref().map_or(0, Cell::text_bytes);
            column.push(cell);
        }
        self.faults.extend(fault.map(|fault| (self.last, fault)));
        self.end(1);
    }

    /// Begins a piece, if there is none, of so many groups as far as is known.
    fn begin(&mut self, groups: usize) {
        if self.columns.is_empty() {
            let groups = groups.min(RESULTS_AT_ONCE);
            self.columns = types(self.grouping).map(|ty| ColumnBuilder::new(ty, groups)).collect();
        }
    }

    /// So many groups are in all columns.
    fn end(&mut self, groups: usize) {
        self.last += groups;
        self.count += groups;
        if self.last >= RESULTS_AT_ONCE {
            self.cut();
        }
    }

    /// Ends a piece.
    fn cut(&mut self) {
        let columns = std::mem::take(&mut self.columns).into_iter().map(ColumnBuilder::finish).collect();
        let (count, faults) = (std::mem::take(&mut self.last), std::mem::take(&mut self.faults));
        if count > 0 {
            self.pieces.push(Closed { columns, count, faults });
        }
    }

    /// All of them, some at a time.
    pub(super) fn finish(mut self) -> Vec<Closed> {
        self.cut();
        self.pieces
    }
}

impl Closed {
    /// The columns of the keys, that with the end of the window, and those of the aggregates.
    pub(crate) fn divided(&self, keys: usize) -> Option<(&[ArrayRef], &ArrayRef, &[ArrayRef])> {
        let (keys, others) = self.columns.split_at_checked(keys)?;
        match others {
            [_, end, aggregates @ ..] => Some((keys, end, aggregates)),
            _ => None,
        }
    }
}

/// The cells of an encoded key.
fn cells(encoded: &[u8]) -> impl Iterator<Item = Option<Cell<'_>>> {
    // What is encoded in memory can be read.
    read_cells(encoded).into_iter().flatten().map(Result::unwrap_or_default)
}

/// The types of the columns of groups.
fn types(grouping: &Grouping) -> impl Iterator<Item = Type> {
    let keys = grouping.keys.iter().map(|(_, ty)| *ty);
    let aggregates = grouping.aggregates.iter().flat_map(|aggregate| match grouping.phase {
        Phase::Partial => aggregate.parts().unwrap_or_default(),
        Phase::Single | Phase::Final => vec![aggregate.result()],
    });
    keys.chain([Type::Timestamp; 2]).chain(aggregates)
}
