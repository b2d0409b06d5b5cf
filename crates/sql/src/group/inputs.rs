//! What is known of rows before they are taken into groups.

use std::collections::BTreeMap;

use arrow_array::ArrayRef;
use arrow_buffer::BooleanBuffer;
use arrow_schema::ArrowError;

use super::KEY_GROUPS;
use super::table::PackedKey;
use crate::eval::Evaluator;
use crate::expr::Expr;
use crate::plan::hash;
use crate::shard::{PRODUCER, WATERMARK};
use crate::value::{Cell, cell};

/// A row as it arrived: its moment, and its place among the rows that the filter passed.
pub(crate) struct Arrival {
    pub(crate) time_us: Option<i64>,
    pub(crate) kept: Option<usize>,
}

/// What a row says of the partition of the source that it is of, where there are several.
#[derive(Clone, Copy)]
pub(super) struct Said {
    pub(super) producer: u32,
    /// How far that was before the row.
    pub(super) watermark_us: Option<i64>,
}

impl Said {
    pub(super) fn read(count: u32, columns: &[ArrayRef], row: usize) -> Option<Self> {
        let Some(Cell::Bigint(producer)) = cell(columns.get(PRODUCER)?, row) else { return None };
        let watermark_us = match cell(columns.get(WATERMARK)?, row) {
            Some(Cell::Timestamp(us)) => Some(us),
            _ => None,
        };
        let producer = u32::try_from(producer).ok().filter(|producer| *producer < count)?;
        Some(Self { producer, watermark_us })
    }
}

/// What is known of one row, in room that is used again for the next one.
#[derive(Default)]
pub(crate) struct Row<'i> {
    keys: Vec<Option<Cell<'i>>>,
    /// The keys encoded, equal for equal keys; with the partition of the source behind them, if there are several.
    pub(super) encoded: Vec<u8>,
    /// The same as tables look for it.
    pub(super) key: PackedKey,
    /// Which part of the state it is in.
    pub(crate) part: u32,
    /// What each aggregate takes of it.
    pub(super) values: Vec<Option<Cell<'i>>>,
}

impl Row<'_> {
    /// The bytes that its key takes in a table, so many of which stand behind the encoded one: as cells and encoded.
    pub(super) fn key_bytes(&self, suffix_bytes: usize) -> usize {
        self.encoded.len() + suffix_bytes + self.keys.iter().flatten().map(Cell::text_bytes).sum::<usize>()
    }
}

/// What is computed of the rows before they are taken.
pub(crate) struct Inputs {
    pub(crate) keys: Vec<ArrayRef>,
    pub(crate) arguments: Vec<Option<ArrayRef>>,
    filters: Vec<Option<BooleanBuffer>>,
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
    pub(super) fn read<'i>(&'i self, place: usize, producer: Option<u32>, row: &mut Row<'i>) {
        let mut key_hash = self.key(place, row);
        if let Some(producer) = producer {
            row.encoded.extend(producer.to_be_bytes());
            key_hash = hash(&row.encoded);
        }
        row.key.set(&row.encoded, key_hash);
        row.values.clear();
        row.values.extend((0..self.arguments.len()).map(|aggregate| self.argument(aggregate, place)));
    }

    /// Reads the key of a row, and which part of the state it is in.
    pub(crate) fn read_key<'i>(&'i self, place: usize, row: &mut Row<'i>) {
        self.key(place, row);
    }

    /// The same; answers the hash of the key.
    fn key<'i>(&'i self, place: usize, row: &mut Row<'i>) -> u64 {
        row.keys.clear();
        row.keys.extend(self.keys.iter().map(|key| cell(key, place).map(Cell::canonical)));
        row.encoded.clear();
        // Only what has no length cannot be encoded, and cells have one.
        row.encoded = postcard::to_extend(&row.keys, std::mem::take(&mut row.encoded)).unwrap_or_default();
        let hash = hash(&row.encoded);
        row.part = (hash % u64::from(KEY_GROUPS)) as u32;
        hash
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
