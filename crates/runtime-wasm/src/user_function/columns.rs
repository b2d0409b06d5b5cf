//! Values of Arrow columns as values of the component model, and back.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::cast::AsArray as _;
use arrow_array::types::{DurationMicrosecondType, Float64Type, Int64Type, TimestampMicrosecondType};
use arrow_array::{
    Array as _, ArrayRef, BooleanArray, DurationMicrosecondArray, Float64Array, Int64Array, StringArray,
    TimestampMicrosecondArray,
};
use arrow_buffer::NullBuffer;
use arrow_schema::{DataType, TimeUnit};
use wasmtime::component::Val;

use super::{Outcome, Taken};
use crate::composition::Primitive;

/// The most bytes of the texts that calls over several rows may come to.
const TEXT_BYTES_MAX: usize = 64 << 20;

/// What SQL calls the columns that hold such values.
pub(super) fn sql_types(primitive: Primitive) -> &'static str {
    match primitive {
        Primitive::Bool => "boolean",
        Primitive::F32 | Primitive::F64 => "double",
        Primitive::S64 => "bigint, timestamp or interval",
        Primitive::Char | Primitive::String => "text",
        _ => "bigint",
    }
}

/// Whether a column of a type may hold such values: of moments and lengths of time the microseconds.
pub(super) fn accepts(primitive: Primitive, ty: &DataType) -> bool {
    match ty {
        DataType::Boolean => primitive == Primitive::Bool,
        DataType::Float64 => matches!(primitive, Primitive::F32 | Primitive::F64),
        DataType::Utf8 => primitive == Primitive::String,
        DataType::Timestamp(TimeUnit::Microsecond, _) | DataType::Duration(TimeUnit::Microsecond) => {
            primitive == Primitive::S64
        }
        DataType::Int64 => !matches!(
            primitive,
            Primitive::Bool | Primitive::F32 | Primitive::F64 | Primitive::Char | Primitive::String
        ),
        _ => false,
    }
}

/// A column that a function is given.
pub(super) struct Input<'a> {
    values: Values<'a>,
    nulls: Option<&'a NullBuffer>,
}

enum Values<'a> {
    Whole(&'a [i64]),
    Double(&'a [f64]),
    Boolean(&'a BooleanArray),
    Text(&'a StringArray),
}

impl<'a> Input<'a> {
    /// A column of one of the types that [`accepts`] knows.
    pub(super) fn of(array: &'a ArrayRef) -> Self {
        let values = match array.data_type() {
            DataType::Float64 => Values::Double(array.as_primitive::<Float64Type>().values()),
            DataType::Boolean => Values::Boolean(array.as_boolean()),
            DataType::Utf8 => Values::Text(array.as_string()),
            DataType::Timestamp(..) => Values::Whole(array.as_primitive::<TimestampMicrosecondType>().values()),
            DataType::Duration(_) => Values::Whole(array.as_primitive::<DurationMicrosecondType>().values()),
            _ => Values::Whole(array.as_primitive::<Int64Type>().values()),
        };
        Self { values, nulls: array.nulls().filter(|nulls| nulls.null_count() > 0) }
    }

    pub(super) fn is_null(&self, row: usize) -> bool {
        self.nulls.is_some_and(|nulls| nulls.is_null(row))
    }

    /// The doubles of rows, each of which has one; all of them as they lie in memory.
    pub(super) fn doubles(&self, rows: &[usize]) -> Option<Cow<'a, [f64]>> {
        let Values::Double(values) = self.values else { return None };
        if let (Some(first), Some(last)) = (rows.first(), rows.last())
            && last - first + 1 == rows.len()
        {
            return values.get(*first..=*last).map(Cow::Borrowed);
        }
        Some(rows.iter().filter_map(|row| values.get(*row).copied()).collect())
    }

    /// Why there is no such value of a row, if there is none.
    pub(super) fn out_of_range(&self, row: usize, primitive: Primitive) -> Option<String> {
        if self.is_null(row) {
            return None;
        }
        let is_fine = match (&self.values, primitive) {
            (Values::Whole(values), _) => whole(values.get(row).copied().unwrap_or_default(), primitive).is_some(),
            (Values::Double(values), Primitive::F32) => {
                let value = values.get(row).copied().unwrap_or_default();
                !value.is_finite() || (value as f32).is_finite()
            }
            _ => true,
        };
        let told = match &self.values {
            Values::Whole(values) => values.get(row).map(ToString::to_string),
            Values::Double(values) => values.get(row).map(ToString::to_string),
            Values::Boolean(_) | Values::Text(_) => None,
        };
        (!is_fine).then(|| format!("{} is out of range of {}", told.unwrap_or_default(), primitive.as_str()))
    }

    /// The value of a row that is [in range](Self::out_of_range).
    pub(super) fn value(&self, row: usize, taken: &Taken) -> Val {
        if taken.is_option {
            let is_there = !self.is_null(row);
            return Val::Option(is_there.then(|| Box::new(self.present(row, taken.primitive))));
        }
        self.present(row, taken.primitive)
    }

    fn present(&self, row: usize, primitive: Primitive) -> Val {
        match &self.values {
            Values::Whole(values) => {
                let value = values.get(row).copied().unwrap_or_default();
                whole(value, primitive).unwrap_or(Val::S64(value))
            }
            Values::Double(values) => {
                let value = values.get(row).copied().unwrap_or_default();
                if primitive == Primitive::F32 { Val::Float32(value as f32) } else { Val::Float64(value) }
            }
            Values::Boolean(values) => Val::Bool(values.value(row)),
            Values::Text(values) => Val::String(values.value(row).to_owned()),
        }
    }
}

/// A whole number as one of a type, if that has it.
fn whole(value: i64, primitive: Primitive) -> Option<Val> {
    Some(match primitive {
        Primitive::S8 => Val::S8(value.try_into().ok()?),
        Primitive::U8 => Val::U8(value.try_into().ok()?),
        Primitive::S16 => Val::S16(value.try_into().ok()?),
        Primitive::U16 => Val::U16(value.try_into().ok()?),
        Primitive::S32 => Val::S32(value.try_into().ok()?),
        Primitive::U32 => Val::U32(value.try_into().ok()?),
        Primitive::U64 => Val::U64(value.try_into().ok()?),
        _ => Val::S64(value),
    })
}

/// A column that is filled with what a function returns.
pub(super) struct Filled {
    ty: DataType,
    values: Returns,
    faults: BTreeMap<usize, String>,
    rows: usize,
    text_bytes: usize,
}

enum Returns {
    Whole(Vec<Option<i64>>),
    Double(Vec<Option<f64>>),
    Boolean(Vec<Option<bool>>),
    Text(Vec<Option<String>>),
}

impl Filled {
    pub(super) fn new(ty: &DataType, rows: usize) -> Self {
        let values = match ty {
            DataType::Float64 => Returns::Double(vec![None; rows]),
            DataType::Boolean => Returns::Boolean(vec![None; rows]),
            DataType::Utf8 => Returns::Text(vec![None; rows]),
            _ => Returns::Whole(vec![None; rows]),
        };
        Self { ty: ty.clone(), values, faults: BTreeMap::new(), rows, text_bytes: 0 }
    }

    /// Notes why there is no value of a row.
    pub(super) fn fail(&mut self, row: usize, reason: String) {
        self.faults.insert(row, reason);
    }

    /// Takes what was returned for a row.
    pub(super) fn put(&mut self, row: usize, returned: Result<Option<Val>, String>) {
        let put = returned.and_then(|value| value.map_or(Ok(()), |value| self.value(row, value)));
        if let Err(reason) = put {
            self.fail(row, reason);
        }
    }

    /// Takes the doubles that were returned for rows.
    pub(super) fn put_doubles(&mut self, rows: &[usize], returned: Vec<f64>) {
        if let Returns::Double(values) = &mut self.values {
            rows.iter().zip(returned).for_each(|(row, value)| set(values, *row, value));
        }
    }

    fn value(&mut self, row: usize, value: Val) -> Result<(), String> {
        match (&mut self.values, value) {
            (Returns::Double(values), Val::Float64(value)) => set(values, row, value),
            (Returns::Double(values), Val::Float32(value)) => set(values, row, f64::from(value)),
            (Returns::Boolean(values), Val::Bool(value)) => set(values, row, value),
            (Returns::Text(values), Val::String(value)) => {
                self.text_bytes += value.len();
                // What is too large is not kept: nothing comes of it.
                if self.text_bytes <= TEXT_BYTES_MAX {
                    set(values, row, value);
                } else if self.rows == 1 {
                    return Err(format!("it returned a text of {} bytes; 64 MiB are taken", value.len()));
                }
            }
            (Returns::Whole(values), value) => set(values, row, number(value)?),
            _ => return Err("its answer is not valid: it is of another type".to_owned()),
        }
        Ok(())
    }

    /// The column.
    ///
    /// # Errors
    /// When the texts of several rows are too large together.
    pub(super) fn finish(self) -> Result<Outcome, String> {
        if self.text_bytes > TEXT_BYTES_MAX && self.rows > 1 {
            return Err(format!("the texts of {} rows have more than 64 MiB", self.rows));
        }
        let values: ArrayRef = match (self.values, &self.ty) {
            (Returns::Double(values), _) => Arc::new(Float64Array::from(values)),
            (Returns::Boolean(values), _) => Arc::new(BooleanArray::from(values)),
            (Returns::Text(values), _) => Arc::new(StringArray::from(values)),
            (Returns::Whole(values), DataType::Timestamp(_, zone)) => {
                Arc::new(TimestampMicrosecondArray::from(values).with_timezone_opt(zone.clone()))
            }
            (Returns::Whole(values), DataType::Duration(_)) => Arc::new(DurationMicrosecondArray::from(values)),
            (Returns::Whole(values), _) => Arc::new(Int64Array::from(values)),
        };
        Ok(Outcome { values, faults: self.faults })
    }
}

fn set<T>(values: &mut [Option<T>], row: usize, value: T) {
    if let Some(of_row) = values.get_mut(row) {
        *of_row = Some(value);
    }
}

/// A whole number of any type.
fn number(value: Val) -> Result<i64, String> {
    Ok(match value {
        Val::S8(value) => value.into(),
        Val::U8(value) => value.into(),
        Val::S16(value) => value.into(),
        Val::U16(value) => value.into(),
        Val::S32(value) => value.into(),
        Val::U32(value) => value.into(),
        Val::S64(value) => value,
        Val::U64(value) => {
            i64::try_from(value).map_err(|_| format!("it returned {value}, which is out of range of bigint"))?
        }
        _ => return Err("its answer is not valid: it is no whole number".to_owned()),
    })
}
