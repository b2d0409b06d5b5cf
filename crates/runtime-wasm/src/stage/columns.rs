//! Arrow batches as the typed columns of `littoral:flow`, and back.
//!
//! Towards the guest, buffers are borrowed where Arrow lays them out as the interface does: numbers always, offsets
//! unless a slice does not begin at zero, validity unless a slice begins within a byte. Truths are bits in Arrow and
//! bytes in the interface, so they are unpacked. From the guest, vectors become buffers without a copy, after every
//! property that Arrow relies on was checked: a guest must not be able to make the host read out of bounds.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, Float64Type, Int32Type, Int64Type, TimestampMicrosecondType};
use arrow_array::{
    Array, ArrayRef, BinaryArray, BooleanArray, Float32Array, Float64Array, Int32Array, Int64Array, RecordBatch,
    RecordBatchOptions, StringArray, TimestampMicrosecondArray,
};
use arrow_buffer::{BooleanBuffer, Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow_schema::{DataType, Field, Schema, SchemaRef, TimeUnit};

use super::bindings::littoral::flow::types::{
    BatchParam, BatchResult, ColumnParam, ColumnResult, ColumnTypeParam, ColumnTypeResult, FieldParam, SchemaParam,
    SchemaResult, ValuesParam, ValuesResult, VariableParam, VariableResult,
};

/// The time zone of every timestamp that crosses.
const UTC: &str = "+00:00";

/// Describes the columns of an Arrow schema to a guest.
///
/// # Errors
/// Names the first column whose type guests do not take.
pub(super) fn fields(schema: &Schema) -> Result<Vec<FieldParam<'_>>, String> {
    let fields = schema.fields().iter().map(|field| {
        Ok(FieldParam { name: field.name(), column_type: type_in(field)?, nullable: field.is_nullable() })
    });
    fields.collect()
}

/// The schema of these columns.
pub(super) fn schema<'a>(fields: &'a [FieldParam<'a>]) -> SchemaParam<'a> {
    SchemaParam { fields }
}

fn type_in(field: &Field) -> Result<ColumnTypeParam<'static>, String> {
    Ok(match field.data_type() {
        DataType::Boolean => ColumnTypeParam::Boolean,
        DataType::Int32 => ColumnTypeParam::Int32,
        DataType::Int64 => ColumnTypeParam::Int64,
        DataType::Float32 => ColumnTypeParam::Float32,
        DataType::Float64 => ColumnTypeParam::Float64,
        DataType::Timestamp(TimeUnit::Microsecond, _) => ColumnTypeParam::Timestamp,
        DataType::Utf8 => ColumnTypeParam::Utf8,
        DataType::Binary => ColumnTypeParam::Binary,
        other => {
            return Err(format!(
                "the column `{}` is {other}; guests take Boolean, Int32, Int64, Float32, Float64, Timestamp(µs), Utf8 and Binary",
                field.name()
            ));
        }
    })
}

/// What a batch needs beside Arrow's own buffers while a guest reads it.
pub(super) struct Borrowed<'a> {
    columns: Vec<Parts<'a>>,
    rows: u32,
}

struct Parts<'a> {
    values: Part<'a>,
    validity: Option<Buffer>,
}

enum Part<'a> {
    Boolean(Vec<bool>),
    Int32(&'a [i32]),
    Int64(&'a [i64]),
    Float32(&'a [f32]),
    Float64(&'a [f64]),
    Timestamp(&'a [i64]),
    Utf8(Offsets<'a>, &'a [u8]),
    Binary(Offsets<'a>, &'a [u8]),
}

enum Offsets<'a> {
    Borrowed(&'a [u32]),
    Rebased(Vec<u32>),
}

impl<'a> Borrowed<'a> {
    /// Prepares a batch.
    ///
    /// # Errors
    /// Names the first column whose type guests do not take.
    pub(super) fn new(batch: &'a RecordBatch) -> Result<Self, String> {
        let rows =
            u32::try_from(batch.num_rows()).map_err(|_| "the batch has more than 4,294,967,295 rows".to_owned())?;
        let columns = batch.schema_ref().fields().iter().zip(batch.columns()).map(|(field, column)| {
            let validity = column.nulls().filter(|nulls| nulls.null_count() > 0);
            Ok(Parts { values: values_in(field, column)?, validity: validity.map(|nulls| nulls.inner().sliced()) })
        });
        Ok(Self { columns: columns.collect::<Result<_, String>>()?, rows })
    }

    /// The columns as the interface has them.
    pub(super) fn columns(&self) -> Vec<ColumnParam<'_>> {
        let bytes = self.rows.div_ceil(8) as usize;
        let columns = self.columns.iter().map(|column| ColumnParam {
            values: column.values.param(),
            // A buffer may be longer than its bits.
            validity: column.validity.as_ref().map(|bits| bits.as_slice().get(..bytes).unwrap_or(bits.as_slice())),
        });
        columns.collect()
    }

    /// The batch of these columns.
    pub(super) fn batch<'b>(&self, columns: &'b [ColumnParam<'b>]) -> BatchParam<'b> {
        BatchParam { columns, rows: self.rows }
    }
}

impl Part<'_> {
    fn param(&self) -> ValuesParam<'_> {
        match self {
            Self::Boolean(values) => ValuesParam::Boolean(values),
            Self::Int32(values) => ValuesParam::Int32(values),
            Self::Int64(values) => ValuesParam::Int64(values),
            Self::Float32(values) => ValuesParam::Float32(values),
            Self::Float64(values) => ValuesParam::Float64(values),
            Self::Timestamp(values) => ValuesParam::Timestamp(values),
            Self::Utf8(offsets, bytes) => ValuesParam::Utf8(VariableParam { offsets: offsets.as_slice(), bytes }),
            Self::Binary(offsets, bytes) => ValuesParam::Binary(VariableParam { offsets: offsets.as_slice(), bytes }),
        }
    }
}

impl Offsets<'_> {
    fn as_slice(&self) -> &[u32] {
        match self {
            Self::Borrowed(offsets) => offsets,
            Self::Rebased(offsets) => offsets,
        }
    }
}

fn values_in<'a>(field: &Field, column: &'a ArrayRef) -> Result<Part<'a>, String> {
    let column: &'a dyn Array = column.as_ref();
    Ok(match type_in(field)? {
        ColumnTypeParam::Boolean => Part::Boolean(column.as_boolean().values().iter().collect()),
        ColumnTypeParam::Int32 => Part::Int32(column.as_primitive::<Int32Type>().values()),
        ColumnTypeParam::Int64 => Part::Int64(column.as_primitive::<Int64Type>().values()),
        ColumnTypeParam::Float32 => Part::Float32(column.as_primitive::<Float32Type>().values()),
        ColumnTypeParam::Float64 => Part::Float64(column.as_primitive::<Float64Type>().values()),
        ColumnTypeParam::Timestamp => Part::Timestamp(column.as_primitive::<TimestampMicrosecondType>().values()),
        ColumnTypeParam::Utf8 => {
            let texts = column.as_string::<i32>();
            let (offsets, bytes) = variable_in(texts.offsets(), texts.value_data());
            Part::Utf8(offsets, bytes)
        }
        ColumnTypeParam::Binary => {
            let values = column.as_binary::<i32>();
            let (offsets, bytes) = variable_in(values.offsets(), values.value_data());
            Part::Binary(offsets, bytes)
        }
        ColumnTypeParam::Tensor(_) => return Err(format!("the column `{}` is a tensor", field.name())),
    })
}

fn variable_in<'a>(offsets: &'a OffsetBuffer<i32>, bytes: &'a [u8]) -> (Offsets<'a>, &'a [u8]) {
    let (first, last) = (offsets.first().copied().unwrap_or(0), offsets.last().copied().unwrap_or(0));
    // Arrow's offsets are not negative and in bounds; the alternatives cannot happen.
    let used = bytes.get(first as usize..last as usize).unwrap_or_default();
    if first == 0 {
        (Offsets::Borrowed(offsets.inner().inner().typed_data::<u32>()), used)
    } else {
        (Offsets::Rebased(offsets.iter().map(|offset| (offset - first) as u32).collect()), used)
    }
}

/// The Arrow schema that a guest declares.
///
/// # Errors
/// Names the first column whose type this host does not take.
pub(super) fn schema_out(schema: SchemaResult) -> Result<SchemaRef, String> {
    let fields = schema.fields.into_iter().map(|field| {
        let data_type = match field.column_type {
            ColumnTypeResult::Boolean => DataType::Boolean,
            ColumnTypeResult::Int32 => DataType::Int32,
            ColumnTypeResult::Int64 => DataType::Int64,
            ColumnTypeResult::Float32 => DataType::Float32,
            ColumnTypeResult::Float64 => DataType::Float64,
            ColumnTypeResult::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, Some(UTC.into())),
            ColumnTypeResult::Utf8 => DataType::Utf8,
            ColumnTypeResult::Binary => DataType::Binary,
            ColumnTypeResult::Tensor(_) => {
                return Err(format!("the column `{}` is a tensor, which is reserved", field.name));
            }
        };
        Ok(Field::new(field.name, data_type, field.nullable))
    });
    Ok(Arc::new(Schema::new(fields.collect::<Result<Vec<_>, String>>()?)))
}

/// Takes over a guest's batch.
///
/// # Errors
/// Says how it contradicts itself or the schema that the guest declared.
pub(super) fn batch_out(schema: &SchemaRef, batch: BatchResult) -> Result<RecordBatch, String> {
    let rows = batch.rows as usize;
    if batch.columns.len() != schema.fields().len() {
        return Err(format!("a batch has {} columns, its schema {}", batch.columns.len(), schema.fields().len()));
    }
    let columns = schema.fields().iter().zip(batch.columns);
    let columns = columns.map(|(field, column)| {
        column_out(field, column, rows).map_err(|reason| format!("the column `{}` {reason}", field.name()))
    });
    let columns = columns.collect::<Result<Vec<_>, String>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options).map_err(|error| error.to_string())
}

fn column_out(field: &Field, column: ColumnResult, rows: usize) -> Result<ArrayRef, String> {
    let nulls = column.validity.map(|bits| nulls_out(bits, rows)).transpose()?;
    let length = |found: usize| {
        if found == rows { Ok(()) } else { Err(format!("has {found} values, the batch {rows} rows")) }
    };
    Ok(match (field.data_type(), column.values) {
        (DataType::Boolean, ValuesResult::Boolean(values)) => {
            length(values.len())?;
            Arc::new(BooleanArray::new(values.into(), nulls))
        }
        (DataType::Int32, ValuesResult::Int32(values)) => {
            length(values.len())?;
            Arc::new(Int32Array::new(values.into(), nulls))
        }
        (DataType::Int64, ValuesResult::Int64(values)) => {
            length(values.len())?;
            Arc::new(Int64Array::new(values.into(), nulls))
        }
        (DataType::Float32, ValuesResult::Float32(values)) => {
            length(values.len())?;
            Arc::new(Float32Array::new(values.into(), nulls))
        }
        (DataType::Float64, ValuesResult::Float64(values)) => {
            length(values.len())?;
            Arc::new(Float64Array::new(values.into(), nulls))
        }
        (DataType::Timestamp(..), ValuesResult::Timestamp(values)) => {
            length(values.len())?;
            Arc::new(TimestampMicrosecondArray::new(values.into(), nulls).with_timezone(UTC))
        }
        (DataType::Utf8, ValuesResult::Utf8(values)) => {
            let (offsets, bytes) = variable_out(values, rows)?;
            Arc::new(StringArray::try_new(offsets, bytes, nulls).map_err(|error| format!("is no text: {error}"))?)
        }
        (DataType::Binary, ValuesResult::Binary(values)) => {
            let (offsets, bytes) = variable_out(values, rows)?;
            Arc::new(BinaryArray::try_new(offsets, bytes, nulls).map_err(|error| format!("is damaged: {error}"))?)
        }
        (declared, _) => return Err(format!("was declared as {declared} and has values of another type")),
    })
}

fn nulls_out(bits: Vec<u8>, rows: usize) -> Result<NullBuffer, String> {
    if bits.len() < rows.div_ceil(8) {
        return Err(format!("has {} bytes of validity for {rows} rows", bits.len()));
    }
    Ok(NullBuffer::new(BooleanBuffer::new(Buffer::from_vec(bits), 0, rows)))
}

fn variable_out(values: VariableResult, rows: usize) -> Result<(OffsetBuffer<i32>, Buffer), String> {
    let VariableResult { offsets, bytes } = values;
    if offsets.len() != rows + 1 {
        return Err(format!("has {} offsets, the batch {rows} rows", offsets.len()));
    }
    if !offsets.is_sorted() || offsets.first() != Some(&0) {
        return Err("has offsets that do not rise from 0".to_owned());
    }
    let last = offsets.last().copied().unwrap_or(0);
    if last as usize > bytes.len() || i32::try_from(last).is_err() {
        return Err(format!("has offsets up to {last}, beyond its {} bytes or 2 GiB", bytes.len()));
    }
    // All offsets are below 2^31, where both types have the same bits.
    let offsets = ScalarBuffer::<i32>::new(Buffer::from_vec(offsets), 0, rows + 1);
    Ok((OffsetBuffer::new(offsets), Buffer::from_vec(bytes)))
}

#[cfg(test)]
#[path = "columns_tests.rs"]
mod tests;
