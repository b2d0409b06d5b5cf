//! Values of a batch's rows: a column, or one value for all rows.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::sync::Arc;

use arrow_array::builder::{BooleanBuilder, Float64Builder, Int64Builder, StringBuilder};
use arrow_array::cast::AsArray as _;
use arrow_array::types::{DurationMicrosecondType, Float64Type, Int64Type, TimestampMicrosecondType};
use arrow_array::{
    Array, ArrayRef, BooleanArray, Datum, DurationMicrosecondArray, Float64Array, Int64Array, StringArray,
    TimestampMicrosecondArray, UInt32Array, new_null_array,
};
use arrow_buffer::{NullBuffer, ScalarBuffer};
use arrow_schema::{ArrowError, DataType, TimeUnit};
use serde::{Deserialize, Serialize};

use crate::expr::Literal;
use crate::types::{Type, UTC};

/// The most bytes of the texts that an expression makes of the rows of a batch. A batch that would have more is refused,
/// and comes again in halves: what a step holds at once is bounded, and no column reaches the 2 GiB of Arrow's.
const COLUMN_BYTES_MAX: usize = 64 << 20;

/// Refuses texts that are too large for one batch.
pub(crate) fn bounded(bytes: usize, rows: usize) -> Result<(), ArrowError> {
    if bytes > COLUMN_BYTES_MAX && rows > 1 {
        return Err(ArrowError::ComputeError(format!("the texts of {rows} rows have more than 64 MiB")));
    }
    Ok(())
}

/// The values of an expression.
#[derive(Clone, Debug)]
pub(crate) struct Value {
    pub(crate) array: ArrayRef,
    /// Whether the array has one value, which is every row's.
    pub(crate) is_scalar: bool,
}

impl Datum for Value {
    fn get(&self) -> (&dyn Array, bool) {
        (self.array.as_ref(), self.is_scalar)
    }
}

impl Value {
    pub(crate) fn column(array: ArrayRef) -> Self {
        Self { array, is_scalar: false }
    }

    pub(crate) fn literal(literal: &Literal, ty: Type) -> Self {
        let array: ArrayRef = match literal {
            Literal::Null => new_null_array(&ty.arrow(), 1),
            Literal::Bigint(value) => Arc::new(Int64Array::from(vec![*value])),
            Literal::Double(value) => Arc::new(Float64Array::from(vec![*value])),
            Literal::Boolean(value) => Arc::new(BooleanArray::from(vec![*value])),
            Literal::Text(value) => Arc::new(StringArray::from(vec![value.as_str()])),
            Literal::Timestamp(value) => micros(Type::Timestamp, vec![*value].into(), None),
            Literal::Interval(value) => micros(Type::Interval, vec![*value].into(), None),
        };
        Self { array, is_scalar: true }
    }

    /// Where the value of a row is.
    pub(crate) fn at(&self, row: usize) -> usize {
        if self.is_scalar { 0 } else { row }
    }

    pub(crate) fn is_null(&self, row: usize) -> bool {
        self.array.is_null(self.at(row))
    }

    /// A column of so many rows.
    ///
    /// # Errors
    /// When its texts are too large for one batch.
    pub(crate) fn expand(&self, rows: usize) -> Result<ArrayRef, ArrowError> {
        if !self.is_scalar {
            return Ok(Arc::clone(&self.array));
        }
        if self.array.is_null(0) {
            return Ok(new_null_array(self.array.data_type(), rows));
        }
        bounded(self.text_bytes() * rows, rows)?;
        arrow_select::take::take(self.array.as_ref(), &UInt32Array::from(vec![0; rows]), None)
    }

    /// The bytes of the texts in it.
    pub(crate) fn text_bytes(&self) -> usize {
        // Of a part of a column, only those in it.
        let offsets = self.array.as_string_opt::<i32>().map(StringArray::value_offsets).unwrap_or_default();
        let (first, last) = (offsets.first().copied().unwrap_or_default(), offsets.last().copied().unwrap_or_default());
        usize::try_from(last - first).unwrap_or_default()
    }

    pub(crate) fn booleans(&self) -> &BooleanArray {
        self.array.as_boolean()
    }

    pub(crate) fn doubles(&self) -> &[f64] {
        self.array.as_primitive::<Float64Type>().values()
    }

    pub(crate) fn integers(&self) -> &[i64] {
        integers(&self.array)
    }

    /// One row's value.
    pub(crate) fn cell(&self, row: usize) -> Option<Cell<'_>> {
        cell(&self.array, self.at(row))
    }
}

/// The whole numbers behind a column of them, of moments or of lengths of time.
pub(crate) fn integers(array: &ArrayRef) -> &[i64] {
    match array.data_type() {
        DataType::Timestamp(TimeUnit::Microsecond, _) => array.as_primitive::<TimestampMicrosecondType>().values(),
        DataType::Duration(TimeUnit::Microsecond) => array.as_primitive::<DurationMicrosecondType>().values(),
        _ => array.as_primitive::<Int64Type>().values(),
    }
}

/// A column of whole numbers, of moments or of lengths of time.
pub(crate) fn micros(ty: Type, values: ScalarBuffer<i64>, nulls: Option<NullBuffer>) -> ArrayRef {
    match ty {
        Type::Timestamp => Arc::new(TimestampMicrosecondArray::new(values, nulls).with_timezone(UTC)),
        Type::Interval => Arc::new(DurationMicrosecondArray::new(values, nulls)),
        _ => Arc::new(Int64Array::new(values, nulls)),
    }
}

/// The rows of which both operands are known.
pub(crate) fn known(left: &Value, right: &Value, rows: usize) -> Option<NullBuffer> {
    let of = |value: &Value| match value.is_scalar {
        true => value.array.is_null(0).then(|| NullBuffer::new_null(rows)),
        false => value.array.logical_nulls(),
    };
    NullBuffer::union(of(left).as_ref(), of(right).as_ref())
}

/// One value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Cell<'a> {
    Bigint(i64),
    Double(f64),
    Boolean(bool),
    Text(Cow<'a, str>),
    /// Microseconds since 1970.
    Timestamp(i64),
    /// Microseconds.
    Interval(i64),
}

impl Cell<'_> {
    /// The one that stands for all that are the same: both zeros are one, and so is whatever is no number.
    pub(crate) fn canonical(self) -> Self {
        match self {
            Self::Double(value) if value.is_nan() => Self::Double(f64::NAN),
            Self::Double(value) => Self::Double(value + 0.0),
            cell => cell,
        }
    }

    pub(crate) fn into_owned(self) -> Cell<'static> {
        match self {
            Self::Text(text) => Cell::Text(Cow::Owned(text.into_owned())),
            Self::Bigint(value) => Cell::Bigint(value),
            Self::Double(value) => Cell::Double(value),
            Self::Boolean(value) => Cell::Boolean(value),
            Self::Timestamp(value) => Cell::Timestamp(value),
            Self::Interval(value) => Cell::Interval(value),
        }
    }
}

/// A column whose values are read one by one.
pub(crate) struct Cells<'a> {
    values: Values<'a>,
    nulls: Option<&'a NullBuffer>,
}

enum Values<'a> {
    Whole(Type, &'a [i64]),
    Double(&'a [f64]),
    Boolean(&'a BooleanArray),
    Text(&'a StringArray),
}

impl<'a> Cells<'a> {
    pub(crate) fn of(array: &'a ArrayRef) -> Self {
        let values = match array.data_type() {
            DataType::Float64 => Values::Double(array.as_primitive::<Float64Type>().values()),
            DataType::Boolean => Values::Boolean(array.as_boolean()),
            DataType::Utf8 => Values::Text(array.as_string()),
            DataType::Timestamp(..) => Values::Whole(Type::Timestamp, integers(array)),
            DataType::Duration(_) => Values::Whole(Type::Interval, integers(array)),
            _ => Values::Whole(Type::Bigint, integers(array)),
        };
        Self { values, nulls: array.nulls().filter(|nulls| nulls.null_count() > 0) }
    }

    /// The value at a place that the column has.
    #[inline]
    pub(crate) fn cell(&self, place: usize) -> Option<Cell<'a>> {
        if self.nulls.is_some_and(|nulls| nulls.is_null(place)) {
            return None;
        }
        match &self.values {
            Values::Double(values) => values.get(place).copied().map(Cell::Double),
            Values::Boolean(values) => Some(Cell::Boolean(values.value(place))),
            Values::Text(values) => Some(Cell::Text(Cow::Borrowed(values.value(place)))),
            Values::Whole(Type::Timestamp, values) => values.get(place).copied().map(Cell::Timestamp),
            Values::Whole(Type::Interval, values) => values.get(place).copied().map(Cell::Interval),
            Values::Whole(_, values) => values.get(place).copied().map(Cell::Bigint),
        }
    }
}

/// Writes a list of cells as it is kept in states, and as [`read_cells`] reads it: as postcard does.
#[inline]
pub(crate) fn write_cells<'c>(cells: impl ExactSizeIterator<Item = Option<Cell<'c>>>, written: &mut Vec<u8>) {
    write_number(cells.len() as u64, written);
    for cell in cells {
        let Some(cell) = cell else {
            written.push(0);
            continue;
        };
        let mut whole = |kind, value: i64| {
            written.extend([1, kind]);
            write_number((value << 1 ^ value >> 63).cast_unsigned(), written);
        };
        match cell {
            Cell::Bigint(value) => whole(0, value),
            Cell::Timestamp(value) => whole(4, value),
            Cell::Interval(value) => whole(5, value),
            Cell::Boolean(value) => written.extend([1, 2, u8::from(value)]),
            Cell::Double(value) => {
                written.extend([1, 1]);
                written.extend(value.to_le_bytes());
            }
            Cell::Text(text) => {
                written.extend([1, 3]);
                write_number(text.len() as u64, written);
                written.extend(text.as_bytes());
            }
        }
    }
}

/// Seven bits a byte, the lowest first.
fn write_number(mut number: u64, written: &mut Vec<u8>) {
    while number > 0x7f {
        written.push(number as u8 | 0x80);
        number >>= 7;
    }
    written.push(number as u8);
}

/// A cell as it is written, where it is.
#[derive(Deserialize)]
enum Written<'a> {
    Bigint(i64),
    Double(f64),
    Boolean(bool),
    Text(&'a str),
    Timestamp(i64),
    Interval(i64),
}

/// The cells of an encoded list of them.
///
/// # Errors
/// When it is none.
pub(crate) fn read_cells(encoded: &[u8]) -> postcard::Result<impl Iterator<Item = postcard::Result<Option<Cell<'_>>>>> {
    let (count, mut left) = postcard::take_from_bytes::<usize>(encoded)?;
    Ok((0..count).map(move |_| {
        let (written, rest) = postcard::take_from_bytes::<Option<Written<'_>>>(left)?;
        left = rest;
        Ok(written.map(|written| match written {
            Written::Bigint(value) => Cell::Bigint(value),
            Written::Double(value) => Cell::Double(value),
            Written::Boolean(value) => Cell::Boolean(value),
            Written::Text(text) => Cell::Text(Cow::Borrowed(text)),
            Written::Timestamp(value) => Cell::Timestamp(value),
            Written::Interval(value) => Cell::Interval(value),
        }))
    }))
}

/// The value at a place of a column.
pub(crate) fn cell(array: &ArrayRef, place: usize) -> Option<Cell<'_>> {
    if place >= array.len() || array.is_null(place) {
        return None;
    }
    match array.data_type() {
        DataType::Float64 => Some(Cell::Double(array.as_primitive::<Float64Type>().value(place))),
        DataType::Boolean => Some(Cell::Boolean(array.as_boolean().value(place))),
        DataType::Utf8 => Some(Cell::Text(Cow::Borrowed(array.as_string::<i32>().value(place)))),
        DataType::Timestamp(..) => integers(array).get(place).copied().map(Cell::Timestamp),
        DataType::Duration(_) => integers(array).get(place).copied().map(Cell::Interval),
        _ => integers(array).get(place).copied().map(Cell::Bigint),
    }
}

impl Cell<'_> {
    /// How long it is, if it is a text.
    pub(crate) fn text_bytes(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            _ => 0,
        }
    }
}

/// A column of cells, which are all of that type.
pub(crate) fn column<'c>(ty: Type, cells: impl ExactSizeIterator<Item = Option<Cell<'c>>>) -> ArrayRef {
    let mut builder = ColumnBuilder::new(ty, cells.len());
    cells.for_each(|cell| builder.push(cell));
    builder.finish()
}

/// A column that is being made, of cells of one type.
pub(crate) enum ColumnBuilder {
    Whole(Type, Int64Builder),
    Double(Float64Builder),
    Boolean(BooleanBuilder),
    Text(StringBuilder),
}

impl ColumnBuilder {
    /// For so many rows.
    pub(crate) fn new(ty: Type, rows: usize) -> Self {
        match ty {
            Type::Text => Self::Text(StringBuilder::with_capacity(rows, rows * 8)),
            Type::Boolean => Self::Boolean(BooleanBuilder::with_capacity(rows)),
            Type::Double => Self::Double(Float64Builder::with_capacity(rows)),
            Type::Bigint | Type::Timestamp | Type::Interval => Self::Whole(ty, Int64Builder::with_capacity(rows)),
        }
    }

    #[inline]
    pub(crate) fn push(&mut self, cell: Option<Cell<'_>>) {
        match (self, cell) {
            (Self::Whole(_, builder), Some(Cell::Bigint(value) | Cell::Timestamp(value) | Cell::Interval(value))) => {
                builder.append_value(value);
            }
            (Self::Double(builder), Some(Cell::Double(value))) => builder.append_value(value),
            (Self::Boolean(builder), Some(Cell::Boolean(value))) => builder.append_value(value),
            (Self::Text(builder), Some(Cell::Text(text))) => builder.append_value(text),
            (Self::Whole(_, builder), _) => builder.append_null(),
            (Self::Double(builder), _) => builder.append_null(),
            (Self::Boolean(builder), _) => builder.append_null(),
            (Self::Text(builder), _) => builder.append_null(),
        }
    }

    pub(crate) fn finish(self) -> ArrayRef {
        match self {
            Self::Whole(ty, mut builder) => {
                let (_, values, nulls) = builder.finish().into_parts();
                micros(ty, values, nulls)
            }
            Self::Double(mut builder) => Arc::new(builder.finish()),
            Self::Boolean(mut builder) => Arc::new(builder.finish()),
            Self::Text(mut builder) => Arc::new(builder.finish()),
        }
    }
}

/// The order of two values of one type.
pub(crate) fn compare(left: &Cell<'_>, right: &Cell<'_>) -> Ordering {
    match (left, right) {
        (Cell::Double(left), Cell::Double(right)) => match (left.is_nan(), right.is_nan()) {
            (false, false) => left.partial_cmp(right).unwrap_or(Ordering::Equal),
            (one, other) => one.cmp(&other),
        },
        (Cell::Boolean(left), Cell::Boolean(right)) => left.cmp(right),
        (Cell::Text(left), Cell::Text(right)) => left.cmp(right),
        (Cell::Bigint(left), Cell::Bigint(right))
        | (Cell::Timestamp(left), Cell::Timestamp(right))
        | (Cell::Interval(left), Cell::Interval(right)) => left.cmp(right),
        _ => Ordering::Equal,
    }
}

impl From<Cell<'static>> for Literal {
    fn from(cell: Cell<'static>) -> Self {
        match cell {
            Cell::Bigint(value) => Self::Bigint(value),
            Cell::Double(value) => Self::Double(value),
            Cell::Boolean(value) => Self::Boolean(value),
            Cell::Text(text) => Self::Text(text.into_owned()),
            Cell::Timestamp(value) => Self::Timestamp(value),
            Cell::Interval(value) => Self::Interval(value),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn any_cell() -> impl Strategy<Value = Option<Cell<'static>>> {
        prop_oneof![
            Just(None),
            any::<i64>().prop_map(|value| Some(Cell::Bigint(value))),
            (-200_i64..200).prop_map(|value| Some(Cell::Bigint(value))),
            any::<f64>().prop_map(|value| Some(Cell::Double(value))),
            any::<bool>().prop_map(|value| Some(Cell::Boolean(value))),
            "\\PC{0,200}".prop_map(|text| Some(Cell::Text(text.into()))),
            any::<i64>().prop_map(|value| Some(Cell::Timestamp(value))),
            any::<i64>().prop_map(|value| Some(Cell::Interval(value))),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn cells_are_written_as_ever_and_read_back(cells in proptest::collection::vec(any_cell(), 0..4)) {
            let mut written = Vec::new();
            write_cells(cells.iter().cloned(), &mut written);
            prop_assert_eq!(&written, &postcard::to_stdvec(&cells).unwrap());
            let read: Vec<_> = read_cells(&written).unwrap().map(Result::unwrap).collect();
            prop_assert_eq!(format!("{read:?}"), format!("{cells:?}"));
        }
    }
}
