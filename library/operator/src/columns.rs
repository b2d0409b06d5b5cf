//! Columns of any type: handed on row by row, or put together as a key.

use littoral_sdk::batch::{Binaries, Numbers, Texts};
use littoral_sdk::output::Row;
use littoral_sdk::prelude::*;

/// The longest key of a row, in bytes: what is kept for a key is to be small.
const KEY_BYTES_MAX: usize = 128;

/// The most keys that an operator keeps something for: with keys of the longest, and a few numbers for each, all of it fits into a commit.
const KEYS_MAX: usize = 32_768;

/// One column of a batch.
#[derive(Debug)]
enum Cells<'a> {
    Bool(Numbers<'a, bool>),
    S32(Numbers<'a, i32>),
    S64(Numbers<'a, i64>),
    F32(Numbers<'a, f32>),
    F64(Numbers<'a, f64>),
    Timestamp(Numbers<'a, i64>),
    Utf8(Texts<'a>),
    Binary(Binaries<'a>),
}

impl<'a> Cells<'a> {
    fn of(batch: &'a Batch, field: &Field) -> Result<Self> {
        let name = &field.name;
        Ok(match field.kind {
            Type::Bool => Self::Bool(batch.bool(name)?),
            Type::S32 => Self::S32(batch.s32(name)?),
            Type::S64 => Self::S64(batch.s64(name)?),
            Type::F32 => Self::F32(batch.f32(name)?),
            Type::F64 => Self::F64(batch.f64(name)?),
            Type::Timestamp => Self::Timestamp(batch.timestamp(name)?),
            Type::Utf8 => Self::Utf8(batch.utf8(name)?),
            Type::Binary => Self::Binary(batch.binary(name)?),
        })
    }

    fn put<'r>(&self, row: usize, out: Row<'r>) -> Row<'r> {
        match self {
            Self::Bool(cells) => match cells.get(row) {
                Some(value) => out.bool(value),
                None => out.null(),
            },
            Self::S32(cells) => match cells.get(row) {
                Some(value) => out.s32(value),
                None => out.null(),
            },
            Self::S64(cells) => match cells.get(row) {
                Some(value) => out.s64(value),
                None => out.null(),
            },
            Self::F32(cells) => match cells.get(row) {
                Some(value) => out.f32(value),
                None => out.null(),
            },
            Self::F64(cells) => match cells.get(row) {
                Some(value) => out.f64(value),
                None => out.null(),
            },
            Self::Timestamp(cells) => match cells.get(row) {
                Some(value) => out.timestamp(value),
                None => out.null(),
            },
            Self::Utf8(cells) => match cells.get(row) {
                Some(value) => out.utf8(value),
                None => out.null(),
            },
            Self::Binary(cells) => match cells.get(row) {
                Some(value) => out.binary(value),
                None => out.null(),
            },
        }
    }

    /// Appends the value so that no two lists of values give the same text.
    fn tell(&self, row: usize, key: &mut String) {
        let told = match self {
            Self::Bool(cells) => cells.get(row).map(|value| value.to_string()),
            Self::S32(cells) => cells.get(row).map(|value| value.to_string()),
            Self::S64(cells) | Self::Timestamp(cells) => cells.get(row).map(|value| value.to_string()),
            Self::F32(cells) => cells.get(row).map(|value| value.to_string()),
            Self::F64(cells) => cells.get(row).map(|value| value.to_string()),
            Self::Utf8(cells) => cells.get(row).map(str::to_owned),
            Self::Binary(cells) => cells.get(row).map(|bytes| bytes.iter().map(|byte| format!("{byte:02x}")).collect()),
        };
        match told {
            Some(told) => key.push_str(&format!("{}:{told}", told.len())),
            None => key.push('-'),
        }
    }
}

/// Columns of a batch that are handed on as they are.
#[derive(Debug)]
pub struct Columns<'a>(Vec<Cells<'a>>);

impl<'a> Columns<'a> {
    /// These columns of a batch, all of it if they are those of its schema.
    ///
    /// # Errors
    /// When the batch lacks one.
    pub fn of(batch: &'a Batch, fields: &[Field]) -> Result<Self> {
        Ok(Self(fields.iter().map(|field| Cells::of(batch, field)).collect::<Result<_>>()?))
    }

    /// Puts the values of a row out, in the order of the columns.
    #[must_use]
    pub fn put<'r>(&self, row: usize, out: Row<'r>) -> Row<'r> {
        self.0.iter().fold(out, |out, cells| cells.put(row, out))
    }
}

/// The columns by which rows belong together.
#[derive(Debug)]
pub struct Keys<'a>(Columns<'a>);

impl<'a> Keys<'a> {
    /// Whether there are these columns.
    ///
    /// # Errors
    /// When the schema lacks one.
    pub fn check(schema: &Schema, names: &[String]) -> Result<()> {
        names.iter().try_for_each(|name| field(schema, name).map(drop))
    }

    /// These columns of a batch.
    ///
    /// # Errors
    /// When the batch lacks one.
    pub fn of(batch: &'a Batch, names: &[String]) -> Result<Self> {
        let fields: Vec<Field> = names.iter().map(|name| field(batch.schema(), name)).collect::<Result<_>>()?;
        Ok(Self(Columns::of(batch, &fields)?))
    }

    /// The key of a row: one text for all columns.
    ///
    /// # Errors
    /// When it is longer than what is kept.
    pub fn get(&self, row: usize) -> Result<String> {
        let mut key = String::new();
        self.0.0.iter().for_each(|cells| cells.tell(row, &mut key));
        check_key(&key)?;
        Ok(key)
    }
}

/// A column of numbers, of whichever type, read as `f64`.
#[derive(Debug)]
pub struct Measured<'a>(Cells<'a>);

impl<'a> Measured<'a> {
    /// Whether a column can be read so.
    ///
    /// # Errors
    /// When the schema lacks it, or it has no numbers.
    pub fn check(schema: &Schema, name: &str) -> Result<()> {
        match field(schema, name)?.kind {
            Type::S32 | Type::S64 | Type::F32 | Type::F64 => Ok(()),
            other => Err(Error::new(format!("the column `{name}` is {other:?}, expected numbers"))),
        }
    }

    /// A column of a batch.
    ///
    /// # Errors
    /// When the batch lacks it.
    pub fn of(batch: &'a Batch, name: &str) -> Result<Self> {
        Ok(Self(Cells::of(batch, &field(batch.schema(), name)?)?))
    }

    /// The value of a row, if it has one and it is finite.
    #[must_use]
    pub fn get(&self, row: usize) -> Option<f64> {
        let value = match &self.0 {
            Cells::S32(cells) => cells.get(row).map(f64::from),
            // Beyond 2^53 the nearest one.
            Cells::S64(cells) => cells.get(row).map(|value| value as f64),
            Cells::F32(cells) => cells.get(row).map(f64::from),
            Cells::F64(cells) => cells.get(row),
            Cells::Bool(_) | Cells::Timestamp(_) | Cells::Utf8(_) | Cells::Binary(_) => None,
        };
        value.filter(|value| value.is_finite())
    }
}

/// The columns of the input and further ones behind them, which must not have the same names.
///
/// # Errors
/// When a name stands twice.
pub fn fields_beside(input: &[Field], added: impl IntoIterator<Item = Field>) -> Result<Vec<Field>> {
    let mut fields = input.to_vec();
    for field in added {
        if fields.iter().any(|known| known.name == field.name) {
            return Err(Error::new(format!(
                "the input has a column `{}` already, which this operator adds",
                field.name
            )));
        }
        fields.push(field);
    }
    Ok(fields)
}

/// The state of a key, the default if it is new and there is room for it.
///
/// # Errors
/// When the key is too long, or there are as many as are kept.
pub fn entry<'s, S: Default>(states: &'s mut Keyed<S>, key: &str) -> Result<&'s mut S> {
    check_key(key)?;
    if states.len() >= KEYS_MAX && states.get(key).is_none() {
        return Err(Error::new(format!(
            "there are {KEYS_MAX} other keys already, as many as a partition has; use more partitions"
        )));
    }
    Ok(states.entry(key))
}

fn check_key(key: &str) -> Result<()> {
    if key.len() > KEY_BYTES_MAX {
        return Err(Error::new(format!("the key has {} bytes; expected at most {KEY_BYTES_MAX}", key.len())));
    }
    Ok(())
}

fn field(schema: &Schema, name: &str) -> Result<Field> {
    schema.fields.iter().find(|field| field.name == name).cloned().ok_or_else(|| {
        let names: Vec<_> = schema.fields.iter().map(|field| field.name.as_str()).collect();
        Error::new(format!("there is no column `{name}`; the input has {}", names.join(", ")))
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use littoral_sdk::testing::rows;

    use super::*;

    #[test]
    fn keys_of_different_rows_differ() {
        let schema = Schema::new([Field::nullable("a", Type::Utf8), Field::nullable("b", Type::Utf8)]);
        let texts =
            [(Some("x"), Some("y")), (Some("xy"), Some("")), (None, Some("xy")), (Some("-"), Some("xy")), (None, None)];
        let batch = rows(&schema, |out| {
            for (a, b) in texts {
                let row = out.row(MAIN);
                let row = if let Some(a) = a { row.utf8(a) } else { row.null() };
                if let Some(b) = b { row.utf8(b) } else { row.null() }.end();
            }
        });
        let keys = Keys::of(&batch, &["a".to_owned(), "b".to_owned()]).unwrap();
        let told: std::collections::BTreeSet<String> = (0..texts.len()).map(|row| keys.get(row).unwrap()).collect();
        assert_eq!(told.len(), texts.len(), "{told:?}");
        assert!(Keys::of(&batch, &["c".to_owned()]).unwrap_err().to_string().contains("the input has a, b"));
    }

    #[test]
    fn columns_of_every_type_are_handed_on() {
        let kinds = [Type::Bool, Type::S32, Type::S64, Type::F32, Type::F64, Type::Timestamp, Type::Utf8, Type::Binary];
        let schema =
            Schema::new(kinds.iter().enumerate().map(|(place, kind)| Field::nullable(format!("c{place}"), *kind)));
        let batch = rows(&schema, |out| {
            out.row(MAIN).bool(true).s32(-1).s64(2).f32(0.5).f64(1.5).timestamp(7).utf8("é").binary(&[0, 255]).end();
            kinds.iter().fold(out.row(MAIN), |row, _| row.null()).end();
        });
        let columns = Columns::of(&batch, &schema.fields).unwrap();
        let copied = rows(&schema, |out| (0..2).for_each(|row| columns.put(row, out.row(MAIN)).end()));
        assert_eq!(copied, batch);
    }
}
