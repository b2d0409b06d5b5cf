//! Rows as they come in: a schema and typed columns.

use crate::{Error, Result};

/// The type of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// True or false.
    Bool,
    /// A 32-bit integer.
    S32,
    /// A 64-bit integer.
    S64,
    /// A 32-bit floating-point number.
    F32,
    /// A 64-bit floating-point number.
    F64,
    /// Microseconds since 1970-01-01 00:00 UTC.
    Timestamp,
    /// Text.
    Utf8,
    /// Bytes.
    Binary,
}

/// A column's name and type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// Its name.
    pub name: String,
    /// Its type.
    pub kind: Type,
    /// Whether rows may lack a value.
    pub nullable: bool,
}

impl Field {
    /// A column in which every row has a value.
    pub fn new(name: impl Into<String>, kind: Type) -> Self {
        Self { name: name.into(), kind, nullable: false }
    }

    /// A column in which rows may lack a value.
    pub fn nullable(name: impl Into<String>, kind: Type) -> Self {
        Self { name: name.into(), kind, nullable: true }
    }
}

/// The columns of a batch, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Schema {
    /// The columns.
    pub fields: Vec<Field>,
}

impl Schema {
    /// A schema of these columns.
    pub fn new(fields: impl IntoIterator<Item = Field>) -> Self {
        Self { fields: fields.into_iter().collect() }
    }

    /// The place of the column of this name and type.
    ///
    /// # Errors
    /// When there is none, with the columns that there are.
    pub fn find(&self, name: &str, kind: Type) -> Result<usize> {
        match self.fields.iter().position(|field| field.name == name) {
            Some(place) if self.fields.get(place).is_some_and(|field| field.kind == kind) => Ok(place),
            Some(place) => {
                let found = self.fields.get(place).map(|field| field.kind);
                Err(Error::new(format!("the column `{name}` is {found:?}, expected {kind:?}")))
            }
            None => {
                let names: Vec<_> = self.fields.iter().map(|field| field.name.as_str()).collect();
                Err(Error::new(format!("there is no column `{name}`; the input has {}", names.join(", "))))
            }
        }
    }
}

/// Values of any length: one more offset than there are rows, starting with 0.
#[derive(Clone, Debug, PartialEq)]
pub struct Variable {
    /// Where each row begins, and where the last one ends.
    pub offsets: Vec<u32>,
    /// The rows, one after the other.
    pub bytes: Vec<u8>,
}

impl Default for Variable {
    fn default() -> Self {
        Self { offsets: vec![0], bytes: Vec::new() }
    }
}

impl Variable {
    pub(crate) fn push(&mut self, value: &[u8]) {
        self.bytes.extend_from_slice(value);
        // A batch beyond 4 GiB cannot be: a 32-bit guest has no room for it.
        self.offsets.push(u32::try_from(self.bytes.len()).unwrap_or(u32::MAX));
    }

    fn get(&self, row: usize) -> Option<&[u8]> {
        let start = *self.offsets.get(row)? as usize;
        let end = *self.offsets.get(row + 1)? as usize;
        self.bytes.get(start..end)
    }
}

/// The values of a column.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    /// [`Type::Bool`].
    Bool(Vec<bool>),
    /// [`Type::S32`].
    S32(Vec<i32>),
    /// [`Type::S64`].
    S64(Vec<i64>),
    /// [`Type::F32`].
    F32(Vec<f32>),
    /// [`Type::F64`].
    F64(Vec<f64>),
    /// [`Type::Timestamp`].
    Timestamp(Vec<i64>),
    /// [`Type::Utf8`].
    Utf8(Variable),
    /// [`Type::Binary`].
    Binary(Variable),
}

impl Values {
    /// Of which type they are.
    pub(crate) fn kind(&self) -> Type {
        match self {
            Self::Bool(_) => Type::Bool,
            Self::S32(_) => Type::S32,
            Self::S64(_) => Type::S64,
            Self::F32(_) => Type::F32,
            Self::F64(_) => Type::F64,
            Self::Timestamp(_) => Type::Timestamp,
            Self::Utf8(_) => Type::Utf8,
            Self::Binary(_) => Type::Binary,
        }
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        match self {
            Self::Bool(values) => values.len(),
            Self::S32(values) => values.len(),
            Self::S64(values) | Self::Timestamp(values) => values.len(),
            Self::F32(values) => values.len(),
            Self::F64(values) => values.len(),
            Self::Utf8(values) | Self::Binary(values) => values.offsets.len().saturating_sub(1),
        }
    }

    pub(crate) fn empty(kind: Type) -> Self {
        match kind {
            Type::Bool => Self::Bool(Vec::new()),
            Type::S32 => Self::S32(Vec::new()),
            Type::S64 => Self::S64(Vec::new()),
            Type::F32 => Self::F32(Vec::new()),
            Type::F64 => Self::F64(Vec::new()),
            Type::Timestamp => Self::Timestamp(Vec::new()),
            Type::Utf8 => Self::Utf8(Variable::default()),
            Type::Binary => Self::Binary(Variable::default()),
        }
    }
}

/// Which rows have a value: a bit for each, the lowest of each byte first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bitmap(pub Vec<u8>);

impl Bitmap {
    /// Whether the row has a value.
    #[must_use]
    pub fn get(&self, row: usize) -> bool {
        self.0.get(row / 8).is_some_and(|byte| byte >> (row % 8) & 1 == 1)
    }

    pub(crate) fn set(&mut self, row: usize, valid: bool) {
        if self.0.len() <= row / 8 {
            self.0.resize(row / 8 + 1, 0);
        }
        if let Some(byte) = self.0.get_mut(row / 8) {
            *byte |= u8::from(valid) << (row % 8);
        }
    }
}

/// One column of a batch.
#[derive(Clone, Debug, PartialEq)]
pub struct Column {
    /// Its values; where a row has none, anything.
    pub values: Values,
    /// Which rows have a value; absent if all do.
    pub validity: Option<Bitmap>,
}

/// Rows as typed columns.
///
/// ```
/// use littoral_sdk::prelude::*;
/// use littoral_sdk::testing::rows;
///
/// let schema = Schema::new([Field::new("machine", Type::Utf8), Field::nullable("speed", Type::F64)]);
/// let batch = rows(&schema, |out| {
///     out.row(MAIN).utf8("press").f64(1.5);
///     out.row(MAIN).utf8("lathe").null();
/// });
/// assert_eq!(batch.utf8("machine")?.get(1), Some("lathe"));
/// assert_eq!(batch.f64("speed")?.get(0), Some(1.5));
/// assert_eq!(batch.f64("speed")?.get(1), None);
/// # Ok::<(), Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    schema: Schema,
    columns: Vec<Column>,
    rows: usize,
}

macro_rules! numbers {
    ($($(#[$doc:meta])* $method:ident, $kind:ident, $number:ty;)*) => {$(
        $(#[$doc])*
        ///
        /// # Errors
        /// When there is no such column, or it has another type.
        pub fn $method(&self, name: &str) -> Result<Numbers<'_, $number>> {
            let column = self.column(name, Type::$kind)?;
            match &column.values {
                Values::$kind(values) => Ok(Numbers { values, validity: column.validity.as_ref() }),
                _ => Err(damaged(name)),
            }
        }
    )*};
}

impl Batch {
    /// A batch of these columns.
    #[must_use]
    pub fn new(schema: Schema, columns: Vec<Column>, rows: usize) -> Self {
        Self { schema, columns, rows }
    }

    /// How many rows.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The columns' names and types.
    #[must_use]
    pub fn schema(&self) -> &Schema {
        &self.schema
    }

    numbers! {
        /// A column of integers.
        s32, S32, i32;
        /// A column of integers.
        s64, S64, i64;
        /// A column of numbers.
        f32, F32, f32;
        /// A column of numbers.
        f64, F64, f64;
        /// A column of times, in microseconds since 1970.
        timestamp, Timestamp, i64;
        /// A column of truths.
        bool, Bool, bool;
    }

    /// A column of texts.
    ///
    /// # Errors
    /// When there is no such column, or it has another type.
    pub fn utf8(&self, name: &str) -> Result<Texts<'_>> {
        let column = self.column(name, Type::Utf8)?;
        let Values::Utf8(values) = &column.values else { return Err(damaged(name)) };
        // Checked once for all rows, which is far quicker than row by row.
        let text = std::str::from_utf8(&values.bytes).map_err(|_| damaged(name))?;
        Ok(Texts { text, offsets: &values.offsets, validity: column.validity.as_ref() })
    }

    /// A column of bytes.
    ///
    /// # Errors
    /// When there is no such column, or it has another type.
    pub fn binary(&self, name: &str) -> Result<Binaries<'_>> {
        let column = self.column(name, Type::Binary)?;
        match &column.values {
            Values::Binary(values) => Ok(Binaries { values, validity: column.validity.as_ref() }),
            _ => Err(damaged(name)),
        }
    }

    #[cfg(target_arch = "wasm32")]
    pub(crate) fn into_columns(self) -> Vec<Column> {
        self.columns
    }

    fn column(&self, name: &str, kind: Type) -> Result<&Column> {
        let place = self.schema.find(name, kind)?;
        self.columns.get(place).ok_or_else(|| damaged(name))
    }
}

fn damaged(name: &str) -> Error {
    Error::new(format!("the column `{name}` is not what the schema says; this is an error of the host"))
}

/// A column of values of one size.
#[derive(Clone, Copy, Debug)]
pub struct Numbers<'a, T> {
    values: &'a [T],
    validity: Option<&'a Bitmap>,
}

impl<'a, T: Copy> Numbers<'a, T> {
    /// The value of a row, if it has one.
    #[must_use]
    pub fn get(&self, row: usize) -> Option<T> {
        if self.validity.is_some_and(|validity| !validity.get(row)) {
            return None;
        }
        self.values.get(row).copied()
    }

    /// All values; those of rows without one are anything.
    #[must_use]
    pub fn values(&self) -> &'a [T] {
        self.values
    }
}

/// A column of texts.
#[derive(Clone, Copy, Debug)]
pub struct Texts<'a> {
    text: &'a str,
    offsets: &'a [u32],
    validity: Option<&'a Bitmap>,
}

impl<'a> Texts<'a> {
    /// The text of a row, if it has one.
    #[must_use]
    pub fn get(&self, row: usize) -> Option<&'a str> {
        if self.validity.is_some_and(|validity| !validity.get(row)) {
            return None;
        }
        let (start, end) = (*self.offsets.get(row)?, *self.offsets.get(row + 1)?);
        self.text.get(start as usize..end as usize)
    }
}

/// A column of bytes.
#[derive(Clone, Copy, Debug)]
pub struct Binaries<'a> {
    values: &'a Variable,
    validity: Option<&'a Bitmap>,
}

impl<'a> Binaries<'a> {
    /// The bytes of a row, if it has some.
    #[must_use]
    pub fn get(&self, row: usize) -> Option<&'a [u8]> {
        if self.validity.is_some_and(|validity| !validity.get(row)) {
            return None;
        }
        self.values.get(row)
    }
}
