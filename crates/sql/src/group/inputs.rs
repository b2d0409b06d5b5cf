//! What is known of rows before they are taken into groups.

use std::collections::BTreeMap;

use arrow_array::ArrayRef;
use arrow_buffer::BooleanBuffer;
use arrow_schema::ArrowError;

use super::KEY_GROUPS;
use super::table::PackedKey;
use crate::eval::Evaluator;
use crate::expr::Expr;
use crate::plan::{Grouping, Phase, Sharding, hash, hash_on};
use crate::shard::{KEYS, PRODUCER, WATERMARK};
use crate::user_function::Calls;
use crate::value::{Cell, Cells, cell, write_cells};

/// The bytes of the encoded key of two numbers, or of a short text.
const KEY_BYTES: usize = 24;

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
pub(super) struct Row<'i> {
    /// The key encoded, equal for equal keys; with the partition of the source behind it, if there are several.
    pub(super) encoded: Vec<u8>,
    /// The same as tables look for it.
    pub(super) key: PackedKey,
    /// The bytes of the texts in the key.
    text_bytes: usize,
    /// Which part of the state it is in.
    pub(super) part: u32,
    /// What each aggregate takes of it; where rows of partitions were aggregated already, what says all that each has taken in.
    pub(super) values: Vec<Option<Cell<'i>>>,
}

impl Row<'_> {
    /// The bytes that its key takes in a table, so many of which stand behind the encoded one: as cells and encoded.
    pub(super) fn key_bytes(&self, suffix_bytes: usize) -> usize {
        self.encoded.len() + suffix_bytes + self.text_bytes
    }
}

/// The keys of rows.
struct Keys {
    /// One behind the other.
    encoded: Vec<u8>,
    rows: Vec<Key>,
}

struct Key {
    /// Where behind it the next one begins.
    end: usize,
    hash: u64,
    text_bytes: usize,
}

impl Keys {
    fn new(columns: &[ArrayRef], rows: usize) -> Self {
        let columns: Vec<Cells<'_>> = columns.iter().map(Cells::of).collect();
        let mut keys = Self { encoded: Vec::with_capacity(rows * KEY_BYTES), rows: Vec::with_capacity(rows) };
        for row in 0..rows {
            let (from, mut text_bytes) = (keys.encoded.len(), 0);
            let cells = columns.iter().map(|column| column.cell(row).map(Cell::canonical));
            let cells = cells.inspect(|cell| text_bytes += cell.as_ref().map_or(0, Cell::text_bytes));
            write_cells(cells, &mut keys.encoded);
            let hash = hash(keys.encoded.get(from..).unwrap_or_default());
            keys.rows.push(Key { end: keys.encoded.len(), hash, text_bytes });
        }
        keys
    }

    fn encoded(&self, row: usize) -> &[u8] {
        let end_of = |row: usize| self.rows.get(row).map_or(0, |key| key.end);
        self.encoded.get(row.checked_sub(1).map_or(0, end_of)..end_of(row)).unwrap_or_default()
    }
}

/// Which part of the state a key with a hash is in.
fn part_of(hash: u64) -> u32 {
    (hash % u64::from(KEY_GROUPS)) as u32
}

/// Which part of the state each of the keys in these columns is in.
pub(crate) fn parts_of(keys: &[ArrayRef], rows: usize) -> impl Iterator<Item = u32> {
    Keys::new(keys, rows).rows.into_iter().map(|key| part_of(key.hash))
}

/// What is computed of the rows before they are taken.
pub(crate) struct Inputs {
    pub(crate) keys: Vec<ArrayRef>,
    encoded: Keys,
    pub(crate) arguments: Vec<Option<ArrayRef>>,
    filters: Vec<Option<BooleanBuffer>>,
    pub(crate) faults: BTreeMap<usize, String>,
}

impl Inputs {
    /// Of rows that are grouped.
    pub(crate) fn of_groups(
        grouping: &Grouping,
        rows: (&[ArrayRef], usize),
        calls: &mut Calls,
    ) -> Result<Self, ArrowError> {
        let keys = grouping.keys.iter().map(|(key, _)| key);
        if grouping.phase == Phase::Final {
            let parts: Vec<Expr> = (KEYS + grouping.keys.len()..rows.0.len()).map(Expr::Column).collect();
            return Self::new(keys, parts.iter().map(|part| (Some(part), None)), rows, calls);
        }
        let of_aggregates = grouping.aggregates.iter().map(|of| (of.argument.as_ref(), of.filter.as_ref()));
        Self::new(keys, of_aggregates, rows, calls)
    }

    /// Of rows on their way to groups.
    pub(crate) fn of_shards(
        sharding: &Sharding,
        rows: (&[ArrayRef], usize),
        calls: &mut Calls,
    ) -> Result<Self, ArrowError> {
        let arguments = sharding.arguments.iter().map(|of| (of.value.as_ref(), of.filter.as_ref()));
        Self::new(sharding.keys.iter(), arguments, rows, calls)
    }

    /// Of each argument of an aggregate its expression, if it has one, and which rows it takes, if not all.
    fn new<'e>(
        keys: impl Iterator<Item = &'e Expr>,
        of_aggregates: impl Iterator<Item = (Option<&'e Expr>, Option<&'e Expr>)>,
        (columns, rows): (&[ArrayRef], usize),
        calls: &mut Calls,
    ) -> Result<Self, ArrowError> {
        let mut evaluator = Evaluator::new(columns, rows).calling(calls);
        let keys: Vec<ArrayRef> = keys.map(|key| evaluator.column(key)).collect::<Result<_, _>>()?;
        let (mut arguments, mut filters) = (Vec::new(), Vec::new());
        for (argument, filter) in of_aggregates {
            let filter = filter.map(|filter| evaluator.holds(filter)).transpose()?;
            // The argument counts where the filter passes.
            let argument = argument.map(|argument| evaluator.column_where(argument, &filter));
            arguments.push(argument.transpose()?);
            filters.push(filter);
        }
        let encoded = Keys::new(&keys, rows);
        Ok(Self { keys, encoded, arguments, filters, faults: evaluator.faults })
    }

    /// Which part of the state the key of a row is in.
    pub(crate) fn part(&self, row: usize) -> u32 {
        part_of(self.hash(row))
    }

    fn hash(&self, row: usize) -> u64 {
        self.encoded.rows.get(row).map_or(0, |key| key.hash)
    }

    /// The hash by which tables look for the key of a row, of that partition of the source if there are several.
    pub(super) fn table_hash(&self, row: usize, producer: Option<u32>) -> u64 {
        producer.map_or(self.hash(row), |producer| hash_on(self.hash(row), &producer.to_be_bytes()))
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

/// Reads rows one by one.
pub(super) struct Reader<'i> {
    inputs: &'i Inputs,
    /// Of each aggregate what it takes, nothing if that is the row itself, and which rows, if not all.
    arguments: Vec<(Option<Cells<'i>>, Option<&'i BooleanBuffer>)>,
}

impl<'i> Reader<'i> {
    pub(super) fn new(inputs: &'i Inputs) -> Self {
        let arguments = inputs.arguments.iter().map(|argument| argument.as_ref().map(Cells::of));
        let filters = inputs.filters.iter().map(Option::as_ref);
        Self { inputs, arguments: arguments.zip(filters).collect() }
    }

    /// Reads a row, of that partition of the source if its key is to say so.
    pub(super) fn read(&self, place: usize, producer: Option<u32>, row: &mut Row<'i>) {
        row.encoded.clear();
        row.encoded.extend_from_slice(self.inputs.encoded.encoded(place));
        row.encoded.extend(producer.into_iter().flat_map(u32::to_be_bytes));
        row.key.set(&row.encoded, self.inputs.table_hash(place, producer));
        row.text_bytes = self.inputs.encoded.rows.get(place).map_or(0, |key| key.text_bytes);
        row.part = self.inputs.part(place);
        row.values.clear();
        row.values.extend(self.arguments.iter().map(|(argument, filter)| {
            let passes = filter.is_none_or(|filter| filter.value(place));
            // A row is counted whatever is in it.
            passes.then(|| argument.as_ref().map_or(Some(Cell::Boolean(true)), |of| of.cell(place)))?
        }));
    }
}
