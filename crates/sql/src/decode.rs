//! Makes the columns that a stream declares of the rows that arrive.
//!
//! Rows that a flow put out have these columns already. A record that was published from outside is a key, a time and a
//! text: the columns are the members of the JSON object in it, or, where the stream declares no others than `key`, `time`
//! and `value`, the record itself.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::cast::AsArray as _;
use arrow_array::types::{Float32Type, Int32Type};
use arrow_array::{Array as _, ArrayRef, Float64Array, Int64Array, RecordBatch};
use arrow_schema::{DataType, Schema, TimeUnit};

use crate::cast;
use crate::json;
use crate::types::{Column, Type, record_columns};
use crate::value::{Cell, ColumnBuilder, cell};

/// How the columns come about.
#[derive(Debug)]
pub(crate) enum Decoder {
    /// From the columns at these places.
    ByName(Vec<usize>),
    /// From the JSON text in `value`.
    Json,
}

/// The rows that could be read, column by column, and what is wrong with the others.
pub(crate) struct Decoded {
    pub(crate) columns: Vec<ArrayRef>,
    /// Row and reason, in the order of rows.
    pub(crate) faults: Vec<(usize, String)>,
}

impl Decoder {
    /// How to read the columns that count from rows of a schema; `is_record` where the stream declares no others than those of
    /// the record itself.
    ///
    /// # Errors
    /// When they lack a declared column, or have it with another type.
    pub(crate) fn new(declared: &[Column], is_record: bool, schema: &Schema) -> Result<Self, String> {
        let fields = schema.fields().iter().map(|field| (field.name().as_str(), type_of(field.data_type())));
        let are_records = fields.eq(record_columns().iter().map(|column| (column.name.as_str(), Some(column.ty))));
        if are_records && !is_record {
            return Ok(Self::Json);
        }
        let place = |column: &Column| {
            let (place, field) = schema.column_with_name(&column.name).ok_or_else(|| {
                let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
                format!("the rows have no column `{}`; they have {}", column.name, names.join(", "))
            })?;
            match type_of(field.data_type()) {
                Some(ty) if ty == column.ty => Ok(place),
                _ => Err(format!("the column `{}` is {}, declared as {}", column.name, field.data_type(), column.ty)),
            }
        };
        declared.iter().map(place).collect::<Result<_, _>>().map(Self::ByName)
    }

    pub(crate) fn decode(&self, declared: &[Column], rows: &RecordBatch) -> Decoded {
        match self {
            Self::ByName(places) => by_name(declared, places, rows),
            Self::Json => json(declared, rows),
        }
    }
}

/// The type of a column that a flow or a function put out, if queries know it.
pub(crate) fn type_of(arrow: &DataType) -> Option<Type> {
    Some(match arrow {
        DataType::Int32 | DataType::Int64 => Type::Bigint,
        DataType::Float32 | DataType::Float64 => Type::Double,
        DataType::Boolean => Type::Boolean,
        DataType::Utf8 => Type::Text,
        DataType::Timestamp(TimeUnit::Microsecond, _) => Type::Timestamp,
        DataType::Duration(TimeUnit::Microsecond) => Type::Interval,
        _ => return None,
    })
}

fn by_name(declared: &[Column], places: &[usize], rows: &RecordBatch) -> Decoded {
    let columns: Vec<ArrayRef> = places.iter().filter_map(|place| rows.columns().get(*place)).map(widened).collect();
    let mut faults = Vec::new();
    for (column, array) in
        declared.iter().zip(&columns).filter(|(column, array)| !column.nullable && array.null_count() > 0)
    {
        let missing = (0..array.len()).filter(|row| array.is_null(*row));
        faults.extend(missing.map(|row| (row, format!("column `{}` is null", column.name))));
    }
    faults.sort_by_key(|(row, _)| *row);
    faults.dedup_by_key(|(row, _)| *row);
    Decoded { columns, faults }
}

/// Numbers of 32 bits as ones of 64, and moments with the one zone that we know.
fn widened(array: &ArrayRef) -> ArrayRef {
    match array.data_type() {
        DataType::Int32 => {
            let narrow = array.as_primitive::<Int32Type>();
            Arc::new(Int64Array::from_iter(narrow.iter().map(|value| value.map(i64::from))))
        }
        DataType::Float32 => {
            let narrow = array.as_primitive::<Float32Type>();
            Arc::new(Float64Array::from_iter(narrow.iter().map(|value| value.map(f64::from))))
        }
        DataType::Timestamp(_, zone) if zone.as_deref() != Some(crate::types::UTC) => {
            let moments = array.as_primitive::<arrow_array::types::TimestampMicrosecondType>();
            Arc::new(moments.clone().with_timezone(crate::types::UTC))
        }
        _ => Arc::clone(array),
    }
}

/// Of each object the declared members; what else is in it is passed over.
fn json(declared: &[Column], rows: &RecordBatch) -> Decoded {
    let record = Record {
        value: rows.column_by_name("value"),
        key: rows.column_by_name("key"),
        time: rows.column_by_name("time"),
    };
    let names = declared.iter().enumerate().map(|(place, column)| (column.name.as_str(), place));
    let places: BTreeMap<&str, usize> = names.collect();
    let mut builders: Vec<ColumnBuilder> =
        declared.iter().map(|column| ColumnBuilder::new(column.ty, rows.num_rows())).collect();
    let mut found = vec![None; declared.len()];
    let mut faults = Vec::new();
    for row in 0..rows.num_rows() {
        found.fill(None);
        let mut fault = record.members(row, &places, &mut found).err();
        for ((column, builder), written) in declared.iter().zip(&mut builders).zip(&found) {
            let value = if fault.is_none() { record.value(row, column, *written) } else { Ok(None) };
            builder.push(value.unwrap_or_else(|reason| {
                fault = Some(reason);
                None
            }));
        }
        faults.extend(fault.map(|reason| (row, reason)));
    }
    Decoded { columns: builders.into_iter().map(ColumnBuilder::finish).collect(), faults }
}

/// The columns of records that are published from outside.
struct Record<'r> {
    key: Option<&'r ArrayRef>,
    time: Option<&'r ArrayRef>,
    value: Option<&'r ArrayRef>,
}

impl<'r> Record<'r> {
    /// The members of a row's object, as they are written.
    fn members(&self, row: usize, places: &BTreeMap<&str, usize>, found: &mut [Option<&'r str>]) -> Result<(), String> {
        let texts = self.value.and_then(|values| values.as_string_opt::<i32>()).filter(|texts| texts.is_valid(row));
        let text = texts.map(|texts| texts.value(row)).ok_or("the record has no value")?;
        match json::members(text, &|name| places.get(name).copied(), found) {
            Ok(true) => Ok(()),
            Ok(false) => Err(format!("the record is no JSON object: {}", cast::shown(text))),
            Err(error) => Err(format!("the record is no JSON: {error}")),
        }
    }

    /// The value of a column.
    fn value(&self, row: usize, column: &Column, written: Option<&'r str>) -> Result<Option<Cell<'r>>, String> {
        let value = match (written, column.name.as_str()) {
            // What every record has besides its value.
            (None, "key") => self.key.and_then(|keys| cell(keys, row)).filter(|cell| is_of(cell, column.ty)),
            (None, "time") => self.time.and_then(|times| cell(times, row)).filter(|cell| is_of(cell, column.ty)),
            (None | Some("null"), _) => None,
            (Some(written), _) => Some(typed(written, column)?),
        };
        if value.is_none() && !column.nullable {
            return Err(format!("column `{}` is missing", column.name));
        }
        Ok(value)
    }
}

fn is_of(cell: &Cell<'_>, ty: Type) -> bool {
    matches!((cell, ty), (Cell::Text(_), Type::Text) | (Cell::Timestamp(_), Type::Timestamp))
}

/// A member as a value of its column's type.
fn typed<'t>(written: &'t str, column: &Column) -> Result<Cell<'t>, String> {
    let is_number = written.starts_with(|c: char| c == '-' || c.is_ascii_digit());
    let cell = match column.ty {
        Type::Bigint if is_number => written.parse().ok().map(Cell::Bigint),
        Type::Double if is_number => written.parse().ok().filter(|value: &f64| value.is_finite()).map(Cell::Double),
        Type::Boolean => written.parse().ok().map(Cell::Boolean),
        Type::Text => json::string(written).map(Cell::Text),
        Type::Timestamp => json::string(written).and_then(|text| cast::timestamp(text.trim())).map(Cell::Timestamp),
        _ => None,
    };
    cell.ok_or_else(|| format!("column `{}` should be {}, and is {}", column.name, column.ty, cast::shown(written)))
}
