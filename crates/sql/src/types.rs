//! The types of values, and how Arrow carries them.

use std::fmt;

use arrow_schema::{DataType, Field, TimeUnit};
use serde::{Deserialize, Serialize};

/// Universal time, as an offset: Arrow knows names of zones only with a database of all of them.
pub(crate) const UTC: &str = "+00:00";

/// The type of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Type {
    /// A whole number of 64 bits.
    Bigint,
    /// A binary floating-point number of 64 bits.
    Double,
    /// True or false.
    Boolean,
    /// Unicode text.
    Text,
    /// A moment, in microseconds since 1970, universal time.
    Timestamp,
    /// A length of time, in microseconds.
    Interval,
}

/// The names under which types are known; the first of a type is its own.
const NAMES: [(&str, Type); 21] = [
    ("bigint", Type::Bigint),
    ("int8", Type::Bigint),
    ("integer", Type::Bigint),
    ("int", Type::Bigint),
    ("int4", Type::Bigint),
    ("smallint", Type::Bigint),
    ("double precision", Type::Double),
    ("double", Type::Double),
    ("float8", Type::Double),
    ("float", Type::Double),
    ("real", Type::Double),
    ("boolean", Type::Boolean),
    ("bool", Type::Boolean),
    ("text", Type::Text),
    ("varchar", Type::Text),
    ("string", Type::Text),
    ("timestamp", Type::Timestamp),
    ("timestamptz", Type::Timestamp),
    ("timestamp with time zone", Type::Timestamp),
    ("timestamp without time zone", Type::Timestamp),
    ("interval", Type::Interval),
];

impl Type {
    /// The type that is written so, in any case.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        let name = name.to_lowercase();
        NAMES.iter().find(|(known, _)| *known == name).map(|(_, ty)| *ty)
    }

    /// What types can be called.
    pub(crate) fn names() -> impl Iterator<Item = &'static str> + Clone {
        NAMES.iter().map(|(name, _)| *name)
    }

    /// The Arrow type of its values.
    #[must_use]
    pub fn arrow(self) -> DataType {
        match self {
            Self::Bigint => DataType::Int64,
            Self::Double => DataType::Float64,
            Self::Boolean => DataType::Boolean,
            Self::Text => DataType::Utf8,
            Self::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, Some(UTC.into())),
            Self::Interval => DataType::Duration(TimeUnit::Microsecond),
        }
    }

    /// About how many bytes a value takes; of texts, what names and identifiers have.
    pub(crate) fn usual_bytes(self) -> u64 {
        match self {
            Self::Boolean => 1,
            Self::Bigint | Self::Double | Self::Timestamp | Self::Interval => 8,
            Self::Text => 24,
        }
    }

    /// Whether it is a number.
    pub(crate) fn is_number(self) -> bool {
        matches!(self, Self::Bigint | Self::Double)
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bigint => "bigint",
            Self::Double => "double",
            Self::Boolean => "boolean",
            Self::Text => "text",
            Self::Timestamp => "timestamp",
            Self::Interval => "interval",
        })
    }
}

/// A column of a stream.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// The type of its values.
    #[serde(rename = "type")]
    pub ty: Type,
    /// Whether a value may be missing.
    pub nullable: bool,
}

impl Column {
    pub(crate) fn new(name: &str, ty: Type) -> Self {
        Self { name: name.to_owned(), ty, nullable: true }
    }

    pub(crate) fn field(&self) -> Field {
        Field::new(&self.name, self.ty.arrow(), self.nullable)
    }
}

/// Whether a stream has no columns but those of the record itself.
pub(crate) fn are_of_record(columns: &[Column]) -> bool {
    let record = record_columns();
    let is_of_record = |column: &Column| record.iter().any(|known| known.name == column.name && known.ty == column.ty);
    columns.iter().all(is_of_record)
}

/// The columns of the rows that go to a dead-letter stream: what failed, why, and the row as JSON.
pub(crate) fn dead_letter_columns() -> Vec<Column> {
    ["stage", "reason", "row"].map(|name| Column { nullable: false, ..Column::new(name, Type::Text) }).to_vec()
}

/// The columns of a stream whose records are published from outside and that declares none: the record as it is.
#[must_use]
pub fn record_columns() -> Vec<Column> {
    vec![
        Column::new("key", Type::Text),
        Column { nullable: false, ..Column::new("time", Type::Timestamp) },
        Column { nullable: false, ..Column::new("value", Type::Text) },
    ]
}
