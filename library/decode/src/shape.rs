//! The columns that texts are read into, declared as in SQL.

use littoral_sdk::prelude::*;

/// The most columns.
const COLUMNS_MAX: usize = 256;

/// The type of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Boolean,
    Bigint,
    Double,
    Text,
    Timestamp,
}

/// All types, with the names that they have in SQL.
const KINDS: [(&str, Kind); 5] = [
    ("boolean", Kind::Boolean),
    ("bigint", Kind::Bigint),
    ("double", Kind::Double),
    ("text", Kind::Text),
    ("timestamp", Kind::Timestamp),
];

impl Kind {
    /// Its name in SQL.
    pub(crate) fn name(self) -> &'static str {
        KINDS.iter().find(|(_, kind)| *kind == self).map_or("", |(name, _)| name)
    }
}

/// A column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Column {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) is_nullable: bool,
}

impl Column {
    /// The column as rows have it.
    pub(crate) fn field(&self) -> Field {
        let kind = match self.kind {
            Kind::Boolean => Type::Bool,
            Kind::Bigint => Type::S64,
            Kind::Double => Type::F64,
            Kind::Text => Type::Utf8,
            Kind::Timestamp => Type::Timestamp,
        };
        Field { name: self.name.clone(), kind, nullable: self.is_nullable }
    }
}

/// Reads `machine text not null, temperature double`.
///
/// # Errors
/// When a column is not so written.
pub(crate) fn declared(text: &str) -> Result<Vec<Column>> {
    let columns: Vec<Column> = text.split(',').map(column).collect::<Result<_>>()?;
    if columns.len() > COLUMNS_MAX {
        return Err(Error::new(format!("the setting `columns` has {}; expected at most {COLUMNS_MAX}", columns.len())));
    }
    Ok(columns)
}

fn column(text: &str) -> Result<Column> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let (name, kind, is_nullable) = match *words {
        [name, kind] => (name, kind, true),
        [name, kind, not, null] if not.eq_ignore_ascii_case("not") && null.eq_ignore_ascii_case("null") => {
            (name, kind, false)
        }
        _ => {
            return Err(Error::new(format!(
                "the setting `columns` has `{}`: expected a name, a type, and `not null` where a value may not be missing",
                text.trim()
            )));
        }
    };
    let known = KINDS.iter().find(|(known, _)| known.eq_ignore_ascii_case(kind));
    let (_, kind) = known.ok_or_else(|| {
        let names: Vec<&str> = KINDS.iter().map(|(name, _)| *name).collect();
        Error::new(format!("the setting `columns` has the type `{kind}`: expected one of {}", names.join(", ")))
    })?;
    Ok(Column { name: name.to_owned(), kind: *kind, is_nullable })
}
