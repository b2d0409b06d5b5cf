//! `decode@1`: reads a text as JSON or CSV, into columns.
//!
//! Input: any columns, of which one (`from`) is a text. Output: the others as they are, and behind them the columns that `columns` declares.
//! A text that cannot be read so is rejected with what is wrong with it. No state.

mod csv;
mod moment;
mod shape;

use littoral_sdk::output::Row;
use littoral_sdk::prelude::*;
use operator::{Columns, Settings, fields_beside};
use serde_json::Value;

use shape::{Column, Kind, declared};

/// The longest text that is read, in bytes.
const TEXT_BYTES_MAX: usize = 1 << 20;

/// How texts are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    /// An object with a member for each column.
    Json,
    /// Fields in the order of the columns, between separators.
    Csv(char),
}

/// A value that was read.
#[derive(Clone, Debug, PartialEq)]
enum Cell {
    Null,
    Bool(bool),
    S64(i64),
    F64(f64),
    Timestamp(i64),
    Text(String),
}

/// Reads texts into columns.
#[derive(Debug)]
pub struct Decode {
    from: String,
    format: Format,
    columns: Vec<Column>,
    /// The columns of the input that are handed on.
    others: Vec<Field>,
    output: Vec<Field>,
}

impl Stage for Decode {
    fn open(input: &Schema, config: &Config) -> Result<Self> {
        let settings = Settings(config);
        let from = settings.text("from", "value").to_owned();
        input.find(&from, Type::Utf8)?;
        let format = match settings.text("format", "json") {
            "json" => Format::Json,
            "csv" => Format::Csv(separator(settings.text("separator", ","))?),
            other => return Err(Error::new(format!("the setting `format` is `{other}`: expected json or csv"))),
        };
        let columns = declared(settings.required("columns")?)?;
        let others: Vec<Field> = input.fields.iter().filter(|field| field.name != from).cloned().collect();
        let output = fields_beside(&others, columns.iter().map(Column::field))?;
        Ok(Self { from, format, columns, others, output })
    }

    fn ports(&self) -> Vec<Port> {
        vec![Port::main(self.output.clone())]
    }

    fn process(&mut self, batch: &Batch, out: &mut Output) -> Result<()> {
        let (texts, others) = (batch.utf8(&self.from)?, Columns::of(batch, &self.others)?);
        for row in 0..batch.rows() {
            match self.read(texts.get(row).unwrap_or_default()) {
                Ok(cells) => cells.iter().fold(others.put(row, out.row(MAIN)), put).end(),
                Err(error) => out.reject(row, error.to_string()),
            }
        }
        Ok(())
    }
}

littoral_sdk::stage!(Decode);

impl Decode {
    /// The values of a text, a cell for each column.
    fn read(&self, text: &str) -> Result<Vec<Cell>> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(Error::new(format!("the text has {} bytes; expected at most {TEXT_BYTES_MAX}", text.len())));
        }
        match self.format {
            Format::Json => {
                let Value::Object(members) =
                    serde_json::from_str(text).map_err(|error| Error::new(format!("it is no JSON: {error}")))?
                else {
                    return Err(Error::new("it is no JSON object"));
                };
                self.columns.iter().map(|column| column.of_json(members.get(&column.name))).collect()
            }
            Format::Csv(separator) => {
                let fields = csv::fields(text, separator)?;
                if fields.len() != self.columns.len() {
                    return Err(Error::new(format!("expected {} fields, found {}", self.columns.len(), fields.len())));
                }
                self.columns.iter().zip(&fields).map(|(column, field)| column.of_text(field)).collect()
            }
        }
    }
}

fn separator(text: &str) -> Result<char> {
    let mut characters = text.chars();
    match (characters.next(), characters.next()) {
        (Some(separator), None) if separator != '"' => Ok(separator),
        _ => Err(Error::new(format!("the setting `separator` is `{text}`: expected one character that is no quote"))),
    }
}

fn put<'r>(row: Row<'r>, cell: &Cell) -> Row<'r> {
    match cell {
        Cell::Null => row.null(),
        Cell::Bool(value) => row.bool(*value),
        Cell::S64(value) => row.s64(*value),
        Cell::F64(value) => row.f64(*value),
        Cell::Timestamp(value) => row.timestamp(*value),
        Cell::Text(value) => row.utf8(value),
    }
}

impl Column {
    fn of_json(&self, value: Option<&Value>) -> Result<Cell> {
        let wrong = || {
            let shown: String = value.map(ToString::to_string).unwrap_or_default().chars().take(40).collect();
            Error::new(format!("`{}` is {shown}, expected {}", self.name, self.kind.name()))
        };
        let cell = match (self.kind, value) {
            (_, None | Some(Value::Null)) => return self.none(),
            (Kind::Boolean, Some(Value::Bool(value))) => Some(Cell::Bool(*value)),
            (Kind::Bigint, Some(Value::Number(number))) => number.as_i64().map(Cell::S64),
            (Kind::Double, Some(Value::Number(number))) => {
                number.as_f64().filter(|number| number.is_finite()).map(Cell::F64)
            }
            (Kind::Text, Some(Value::String(text))) => Some(Cell::Text(text.clone())),
            (Kind::Timestamp, Some(Value::String(text))) => moment::parse(text).map(Cell::Timestamp),
            _ => None,
        };
        cell.ok_or_else(wrong)
    }

    /// A field of CSV; an empty one has no value, unless it is in quotes.
    fn of_text(&self, field: &csv::Field) -> Result<Cell> {
        let text = field.text.as_str();
        if text.is_empty() && !field.is_quoted {
            return self.none();
        }
        let cell = match self.kind {
            Kind::Boolean => text.parse().ok().map(Cell::Bool),
            Kind::Bigint => text.parse().ok().map(Cell::S64),
            Kind::Double => text.parse().ok().filter(|number: &f64| number.is_finite()).map(Cell::F64),
            Kind::Text => Some(Cell::Text(text.to_owned())),
            Kind::Timestamp => moment::parse(text).map(Cell::Timestamp),
        };
        cell.ok_or_else(|| {
            let shown: String = text.chars().take(40).collect();
            Error::new(format!("`{}` is `{shown}`, expected {}", self.name, self.kind.name()))
        })
    }

    fn none(&self) -> Result<Cell> {
        if self.is_nullable {
            return Ok(Cell::Null);
        }
        Err(Error::new(format!("`{}` is missing", self.name)))
    }
}
