//! Makes the columns that a stream declares of the rows that arrive.
//!
//! Rows that a flow put out have these columns already. A record that was published from outside is a key, a time and a
//! text: the columns are the members of the JSON object in it, or, where the stream declares no others than `key`, `time`
//! and `value`, the record itself.

use std::sync::Arc;

use arrow_array::cast::AsArray as _;
use arrow_array::types::{Float32Type, Int32Type};
use arrow_array::{Array as _, ArrayRef, Float64Array, Int64Array, RecordBatch};
use arrow_schema::{DataType, Schema, TimeUnit};
use serde_json::Value as Json;

use crate::cast;
use crate::types::{Column, Type, record_columns};
use crate::value::{Cell, cell, column};

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
    /// How to read rows of a schema.
    ///
    /// # Errors
    /// When they lack a declared column, or have it with another type.
    pub(crate) fn new(declared: &[Column], schema: &Schema) -> Result<Self, String> {
        let record = record_columns();
        let fields = schema.fields().iter().map(|field| (field.name().as_str(), type_of(field.data_type())));
        let is_record = fields.eq(record.iter().map(|column| (column.name.as_str(), Some(column.ty))));
        let is_of_record =
            |column: &Column| record.iter().any(|known| known.name == column.name && known.ty == column.ty);
        if is_record && !declared.iter().all(is_of_record) {
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

fn json(declared: &[Column], rows: &RecordBatch) -> Decoded {
    let count = rows.num_rows();
    let mut cells: Vec<Vec<Option<Cell<'static>>>> = declared.iter().map(|_| Vec::with_capacity(count)).collect();
    let mut faults = Vec::new();
    for row in 0..count {
        match object(declared, rows, row) {
            Ok(members) => cells.iter_mut().zip(members).for_each(|(column, cell)| column.push(cell)),
            Err(reason) => {
                faults.push((row, reason));
                cells.iter_mut().for_each(|column| column.push(None));
            }
        }
    }
    let columns = declared.iter().zip(cells).map(|(declared, cells)| column(declared.ty, cells.into_iter())).collect();
    Decoded { columns, faults }
}

/// The declared members of a record's object.
fn object(declared: &[Column], rows: &RecordBatch, row: usize) -> Result<Vec<Option<Cell<'static>>>, String> {
    let of_record = |name: &str| rows.column_by_name(name).and_then(|array| cell(array, row));
    let Some(Cell::Text(text)) = of_record("value") else { return Err("the record has no value".to_owned()) };
    let parsed: Json = serde_json::from_str(&text).map_err(|error| format!("the record is no JSON: {error}"))?;
    let Json::Object(object) = parsed else {
        return Err(format!("the record is no JSON object: {}", cast::shown(&text)));
    };
    let member = |column: &Column| {
        let found = match object.get(&column.name) {
            // What every record has besides its value.
            None if matches!(column.name.as_str(), "key" | "time") => {
                of_record(&column.name).map(Cell::into_owned).filter(|cell| is_of(cell, column.ty))
            }
            None | Some(Json::Null) => None,
            Some(value) => Some(typed(value, column)?),
        };
        if found.is_none() && !column.nullable {
            return Err(format!("column `{}` is missing", column.name));
        }
        Ok(found)
    };
    declared.iter().map(member).collect()
}

fn is_of(cell: &Cell<'_>, ty: Type) -> bool {
    matches!((cell, ty), (Cell::Text(_), Type::Text) | (Cell::Timestamp(_), Type::Timestamp))
}

/// A member as a value of its column's type.
fn typed(value: &Json, column: &Column) -> Result<Cell<'static>, String> {
    let cell = match (value, column.ty) {
        (Json::Number(number), Type::Bigint) => number.as_i64().map(Cell::Bigint),
        (Json::Number(number), Type::Double) => number.as_f64().filter(|value| value.is_finite()).map(Cell::Double),
        (Json::Bool(value), Type::Boolean) => Some(Cell::Boolean(*value)),
        (Json::String(text), Type::Text) => Some(Cell::Text(text.clone().into())),
        (Json::String(text), Type::Timestamp) => cast::timestamp(text.trim()).map(Cell::Timestamp),
        _ => None,
    };
    cell.ok_or_else(|| {
        format!("column `{}` should be {}, and is {}", column.name, column.ty, cast::shown(&value.to_string()))
    })
}
