//! Rows that arrived and wait to be processed, cut into batches of a good size.

use std::collections::VecDeque;

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use littoral_model::entry::Position;
use littoral_model::id::Epoch;
use littoral_sql::Notice;

use crate::batch::{self, BatchError};
use crate::reader::{self, Received};

/// The most rows that guests get at once: large enough that the call costs little, small enough to bound latency.
pub(crate) const BATCH_ROWS_MAX: usize = 4_096;

/// The rows of one input between its reader and the guests.
#[derive(Default)]
pub(crate) struct Pending {
    parts: VecDeque<Part>,
    rows: usize,
    epoch: Epoch,
    /// Where the input goes on after everything that is pending.
    next: Option<Position>,
}

struct Part {
    index: u64,
    row: u32,
    rows: RecordBatch,
    bytes: usize,
    origin_us: Option<i64>,
    /// Whether these are the last rows of their entry, which may have others before and behind them.
    ends_entry: bool,
}

/// A batch for the guests, and where each of its rows came from.
pub(crate) struct Batch {
    pub(crate) rows: RecordBatch,
    pub(crate) epoch: Epoch,
    pub(crate) bytes: usize,
    pub(crate) origin_us: Option<i64>,
    /// For each piece: how many rows it has, where it begins, and whether it ends its entry.
    pieces: Vec<(usize, Position, bool)>,
    /// Where the input goes on after the last row.
    next: Position,
}

impl Batch {
    /// The input's position after the first `count` rows.
    pub(crate) fn position_after(&self, count: usize) -> Position {
        if count >= self.rows.num_rows() {
            return self.next;
        }
        let mut left = count;
        for &(rows, start, _) in &self.pieces {
            if left < rows {
                return Position { index: start.index, row: start.row + u32::try_from(left).unwrap_or(u32::MAX) };
            }
            left -= rows;
        }
        self.next
    }
}

impl Pending {
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// Takes what a reader delivered.
    pub(crate) fn push(&mut self, received: Received) -> Result<(), BatchError> {
        self.epoch = received.epoch;
        let next = received.next;
        for reader::Part { index, row, skip, ends_entry, rows: port_batch } in received.into_parts() {
            let rows = batch::decode(&port_batch)?;
            let skipped = (skip as usize).min(rows.num_rows());
            let rows = rows.slice(skipped, rows.num_rows() - skipped);
            self.rows += rows.num_rows();
            let (bytes, origin_us) = (port_batch.arrow.len(), port_batch.origin_us);
            self.parts.push_back(Part { index, row: row + skip, rows, bytes, origin_us, ends_entry });
        }
        self.next = Some(next);
        Ok(())
    }

    /// The position up to which there is nothing to process, if that is all there is.
    pub(crate) fn skipped(&mut self) -> Option<(Epoch, Position)> {
        if self.parts.is_empty() { self.next.take().map(|next| (self.epoch, next)) } else { None }
    }

    /// Passes over the rows that were published before a moment: how many those are. Notices stay, and so does what does not say when it
    /// was published.
    pub(crate) fn shed(&mut self, before_us: i64) -> usize {
        let rows = self.rows;
        self.parts.retain(|part| {
            let is_old = part.origin_us.is_some_and(|at_us| at_us < before_us) && !Notice::is_of(&part.rows.schema());
            self.rows -= if is_old { part.rows.num_rows() } else { 0 };
            !is_old
        });
        rows - self.rows
    }

    /// Cuts the next batch: as many rows of one schema as are here, up to a number, of which [`BATCH_ROWS_MAX`] is the most. Notices come
    /// as they were written, for there may be something to do between two.
    pub(crate) fn pop(&mut self, rows_max: usize) -> Result<Option<Batch>, BatchError> {
        let Some(schema) = self.parts.front().map(|part| part.rows.schema()) else {
            return Ok(None);
        };
        let is_notice = Notice::is_of(&schema);
        let mut taken = Vec::new();
        let mut count = 0;
        while count < rows_max && (taken.is_empty() || !is_notice) {
            let Some(part) = self.parts.pop_front_if(|part| part.rows.schema() == schema) else { break };
            let (head, rest) = split(part, rows_max - count);
            count += head.rows.num_rows();
            taken.push(head);
            if let Some(rest) = rest {
                self.parts.push_front(rest);
            }
        }
        self.rows -= count;
        let next = if self.parts.is_empty() { self.next.take() } else { None };
        let next = next.unwrap_or_else(|| taken.last().map_or(Position::START, after));
        join(&schema, taken, self.epoch, next).map(Some)
    }
}

fn after(part: &Part) -> Position {
    if part.ends_entry {
        Position { index: part.index + 1, row: 0 }
    } else {
        Position { index: part.index, row: part.row + u32::try_from(part.rows.num_rows()).unwrap_or(u32::MAX) }
    }
}

fn split(part: Part, room: usize) -> (Part, Option<Part>) {
    let rows = part.rows.num_rows();
    if rows <= room {
        return (part, None);
    }
    let rest = Part {
        index: part.index,
        row: part.row + u32::try_from(room).unwrap_or(u32::MAX),
        rows: part.rows.slice(room, rows - room),
        bytes: part.bytes * (rows - room) / rows,
        origin_us: part.origin_us,
        ends_entry: part.ends_entry,
    };
    let head = Part { rows: part.rows.slice(0, room), bytes: part.bytes * room / rows, ends_entry: false, ..part };
    (head, Some(rest))
}

fn join(schema: &SchemaRef, parts: Vec<Part>, epoch: Epoch, next: Position) -> Result<Batch, BatchError> {
    let pieces = parts
        .iter()
        .map(|part| (part.rows.num_rows(), Position { index: part.index, row: part.row }, part.ends_entry))
        .collect();
    let bytes = parts.iter().map(|part| part.bytes).sum();
    let origin_us = parts.iter().filter_map(|part| part.origin_us).min();
    let rows = match <[Part; 1]>::try_from(parts) {
        Ok([part]) => part.rows,
        Err(parts) => arrow_select::concat::concat_batches(schema, parts.iter().map(|part| &part.rows))?,
    };
    Ok(Batch { rows, epoch, bytes, origin_us, pieces, next })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::cast::AsArray as _;
    use arrow_array::{ArrayRef, UInt32Array};

    use super::*;
    use crate::batch::{encode, records};

    fn values(rows: &RecordBatch) -> Vec<String> {
        let values = rows.column_by_name("value").unwrap().as_string::<i32>();
        values.iter().map(|value| value.unwrap().to_owned()).collect()
    }

    fn received(from: Position, sizes: &[(u64, usize)], next: u64) -> Received {
        let batches = sizes
            .iter()
            .map(|&(index, size)| {
                let rows: Vec<_> = (0..size).map(|row| (None, 0, format!("{index}.{row}"))).collect();
                (index, encode("main", &records(&rows).unwrap(), Some(index as i64)).unwrap())
            })
            .collect();
        Received { epoch: Epoch(1), from, batches, next: Position { index: next, row: 0 } }
    }

    #[test]
    fn small_entries_are_joined_and_rows_know_where_they_came_from() {
        let mut pending = Pending::default();
        pending.push(received(Position::START, &[(1, 2), (3, 3)], 6)).unwrap();
        let batch = pending.pop(BATCH_ROWS_MAX).unwrap().unwrap();
        assert_eq!(batch.rows.num_rows(), 5);
        assert_eq!(batch.origin_us, Some(1));
        assert_eq!(batch.position_after(1), Position { index: 1, row: 1 });
        assert_eq!(batch.position_after(2), Position { index: 3, row: 0 });
        assert_eq!(batch.position_after(4), Position { index: 3, row: 2 });
        assert_eq!(batch.position_after(5), Position { index: 6, row: 0 });
        assert!(pending.pop(BATCH_ROWS_MAX).unwrap().is_none());
    }

    #[test]
    fn what_is_too_old_is_passed_over_and_the_input_goes_on_behind_it() {
        let mut pending = Pending::default();
        // Entries are published at the moment that is their index.
        pending.push(received(Position::START, &[(1, 2), (3, 3), (5, 1)], 6)).unwrap();
        assert_eq!((pending.shed(1), pending.rows()), (0, 6));
        assert_eq!((pending.shed(4), pending.rows()), (5, 1));
        assert!(pending.skipped().is_none());
        let batch = pending.pop(BATCH_ROWS_MAX).unwrap().unwrap();
        assert_eq!((batch.rows.num_rows(), batch.position_after(0).index, batch.position_after(1).index), (1, 5, 6));
        pending.push(received(Position { index: 6, row: 0 }, &[(6, 2)], 7)).unwrap();
        assert_eq!(pending.shed(7), 2);
        assert_eq!(pending.skipped().map(|(_, next)| next.index), Some(7));
    }

    #[test]
    fn a_large_entry_is_cut_and_goes_on_in_its_middle() {
        let mut pending = Pending::default();
        pending.push(received(Position::START, &[(1, BATCH_ROWS_MAX + 7)], 2)).unwrap();
        let first = pending.pop(BATCH_ROWS_MAX).unwrap().unwrap();
        assert_eq!(first.position_after(usize::MAX), Position { index: 1, row: BATCH_ROWS_MAX as u32 });
        let second = pending.pop(BATCH_ROWS_MAX).unwrap().unwrap();
        assert_eq!(second.rows.num_rows(), 7);
        assert_eq!(second.position_after(3), Position { index: 1, row: BATCH_ROWS_MAX as u32 + 3 });
        assert_eq!(second.position_after(7), Position { index: 2, row: 0 });
    }

    #[test]
    fn an_entry_of_several_batches_goes_on_where_it_was_left() {
        let entry = [(3, 5), (3, 4), (3, 2), (7, 1)];
        let all: Vec<String> = ["3.0", "3.1", "3.2", "3.3", "3.4", "3.0", "3.1", "3.2", "3.3", "3.0", "3.1", "7.0"]
            .map(str::to_owned)
            .into();
        for done in 0..=all.len() {
            let mut pending = Pending::default();
            pending.push(received(Position::START, &entry, 8)).unwrap();
            let at = pending.pop(BATCH_ROWS_MAX).unwrap().unwrap().position_after(done);
            let expected = match done {
                11 => Position { index: 7, row: 0 },
                12 => Position { index: 8, row: 0 },
                row => Position { index: if row == 0 { 3 } else { at.index }, row: row as u32 },
            };
            assert_eq!(at, expected);
            let mut again = Pending::default();
            let left: Vec<(u64, usize)> = entry.iter().copied().filter(|(index, _)| *index >= at.index).collect();
            again.push(received(at, &left, 8)).unwrap();
            let rows = again.pop(BATCH_ROWS_MAX).unwrap().map_or_else(Vec::new, |batch| values(&batch.rows));
            assert_eq!(rows, all[done..]);
        }
    }

    #[test]
    fn notices_are_not_joined() {
        let columns = ["generation", "from", "to", "sender", "part", "state"];
        let none: ArrayRef = Arc::new(UInt32Array::from(vec![0]));
        let notice = RecordBatch::try_from_iter(columns.map(|name| (name, Arc::clone(&none)))).unwrap();
        let batches = [1, 1, 2].map(|index| (index, encode("main", &notice, None).unwrap())).into();
        let (epoch, next) = (Epoch(1), Position { index: 3, row: 0 });
        let mut pending = Pending::default();
        pending.push(Received { epoch, from: Position::START, batches, next }).unwrap();
        let mut pop =
            || pending.pop(BATCH_ROWS_MAX).unwrap().map(|batch| (batch.rows.num_rows(), batch.position_after(1)));
        assert_eq!(pop(), Some((1, Position { index: 1, row: 1 })));
        assert_eq!(pop(), Some((1, Position { index: 2, row: 0 })));
        assert_eq!((pop(), pop()), (Some((1, next)), None));
    }

    #[test]
    fn rows_done_before_a_restart_are_not_seen_again() {
        let mut pending = Pending::default();
        pending.push(received(Position { index: 1, row: 2 }, &[(1, 5)], 2)).unwrap();
        let batch = pending.pop(BATCH_ROWS_MAX).unwrap().unwrap();
        assert_eq!(batch.rows.num_rows(), 3);
        assert_eq!(batch.position_after(1), Position { index: 1, row: 3 });
    }

    #[test]
    fn entries_without_rows_still_advance() {
        let mut pending = Pending::default();
        pending.push(received(Position::START, &[], 9)).unwrap();
        assert_eq!(pending.skipped(), Some((Epoch(1), Position { index: 9, row: 0 })));
        assert_eq!(pending.skipped(), None);
    }
}
