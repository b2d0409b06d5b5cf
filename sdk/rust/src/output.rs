//! What a stage puts out: rows by port, rejected rows, a timer.

use crate::batch::{Batch, Bitmap, Column, Field, Schema, Type, Values};
use crate::{Error, Result};

/// The port that feeds the next stage or the sink.
pub const MAIN: &str = "main";

/// One of a stage's outputs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Its name.
    pub name: String,
    /// Its columns.
    pub schema: Schema,
}

impl Port {
    /// The port [`MAIN`] with these columns.
    pub fn main(fields: impl IntoIterator<Item = Field>) -> Self {
        Self::side(MAIN, fields)
    }

    /// A side output, which the manifest connects to a stream.
    pub fn side(name: impl Into<String>, fields: impl IntoIterator<Item = Field>) -> Self {
        Self { name: name.into(), schema: Schema::new(fields) }
    }
}

/// Takes what a stage puts out.
///
/// A mistake, as a value of the wrong type or a port that was not declared, makes the call fail with a text that names
/// it, once the stage returns.
///
/// ```
/// use littoral_sdk::prelude::*;
///
/// # let mut output = Output::new(vec![Port::main([Field::new("machine", Type::Utf8), Field::new("speed", Type::F64)])], 0);
/// # let out = &mut output;
/// out.row(MAIN).utf8("press").f64(1.5);
/// out.reject(7, "the speed is no number");
/// out.set_timer(out.watermark_us() + 1_000_000);
/// # assert!(output.finish().is_ok());
/// ```
#[derive(Debug)]
pub struct Output {
    ports: Vec<Rows>,
    rejected: Vec<(usize, String)>,
    timer_us: Option<i64>,
    watermark_us: i64,
    mistake: Option<Error>,
}

#[derive(Debug)]
struct Rows {
    port: Port,
    columns: Vec<Values>,
    /// For nullable columns, made when the first row without a value comes.
    validity: Vec<Option<Bitmap>>,
    rows: usize,
}

/// What one call put out.
#[derive(Debug, Default, PartialEq)]
pub struct Step {
    /// Rows by port, in the order of the declared ports, without those that got none.
    pub outputs: Vec<(String, Batch)>,
    /// Rejected rows and why.
    pub rejected: Vec<(usize, String)>,
    /// The timer that was set.
    pub timer_us: Option<i64>,
}

impl Output {
    /// An output with these ports, empty.
    #[must_use]
    pub fn new(ports: Vec<Port>, watermark_us: i64) -> Self {
        let ports = ports.into_iter().map(Rows::new).collect();
        Self { ports, rejected: Vec::new(), timer_us: None, watermark_us, mistake: None }
    }

    /// Up to what event time input is thought complete, in microseconds since 1970.
    #[must_use]
    pub fn watermark_us(&self) -> i64 {
        self.watermark_us
    }

    /// Begins a row on a port; give its values in the order of the port's columns.
    pub fn row(&mut self, port: &str) -> Row<'_> {
        let place = self.ports.iter().position(|rows| rows.port.name == port);
        if place.is_none() {
            note(&mut self.mistake, || format!("there is no port `{port}`; declare it in `ports`"));
        }
        let rows = place.and_then(|place| self.ports.get_mut(place));
        Row { rows, mistake: &mut self.mistake, column: 0 }
    }

    /// Puts out all rows of a port at once: its columns, whole, in their order and without a null. Where there are many rows it is quicker than
    /// one after the other; a call puts out the rows of a port in one way or in the other.
    pub fn columns(&mut self, port: &str, columns: Vec<Values>) {
        let Some(rows) = self.ports.iter_mut().find(|rows| rows.port.name == port) else {
            return note(&mut self.mistake, || format!("there is no port `{port}`; declare it in `ports`"));
        };
        let count = columns.first().map_or(0, Values::count);
        let declared = rows.port.schema.fields.iter().map(|field| field.kind);
        if rows.rows > 0 {
            note(&mut self.mistake, || {
                format!("port `{port}` has rows already; give its columns once, and no row beside them")
            });
        } else if !declared.eq(columns.iter().map(Values::kind)) {
            let given: Vec<Type> = columns.iter().map(Values::kind).collect();
            note(&mut self.mistake, || {
                format!("port `{port}` was given columns of {given:?}, which are not those that it declares")
            });
        } else if columns.iter().any(|column| column.count() != count) {
            note(&mut self.mistake, || {
                format!("port `{port}` was given columns that have not as many values as one another")
            });
        } else {
            (rows.columns, rows.rows) = (columns, count);
        }
    }

    /// Sends a row of the input to the flow's dead-letter stream.
    pub fn reject(&mut self, row: usize, reason: impl Into<String>) {
        self.rejected.push((row, reason.into()));
    }

    /// Asks for a call of [`Stage::on_timer`](crate::Stage::on_timer) once the watermark has reached this time, in
    /// microseconds since 1970, instead of any timer set before. A call that sets none ends the last one's timer.
    pub fn set_timer(&mut self, time_us: i64) {
        self.timer_us = Some(time_us);
    }

    /// A batch without rows.
    pub(crate) fn empty_batch(schema: &Schema) -> Batch {
        Rows::new(Port { name: MAIN.to_owned(), schema: schema.clone() }).finish().1
    }

    /// Ends the call.
    ///
    /// # Errors
    /// The first mistake that was made.
    pub fn finish(self) -> Result<Step> {
        if let Some(mistake) = self.mistake {
            return Err(mistake);
        }
        let outputs = self.ports.into_iter().filter(|rows| rows.rows > 0).map(Rows::finish).collect();
        Ok(Step { outputs, rejected: self.rejected, timer_us: self.timer_us })
    }
}

impl Rows {
    fn new(port: Port) -> Self {
        let columns: Vec<_> = port.schema.fields.iter().map(|field| Values::empty(field.kind)).collect();
        let validity = vec![None; columns.len()];
        Self { port, columns, validity, rows: 0 }
    }

    fn finish(self) -> (String, Batch) {
        let columns = self.columns.into_iter().zip(self.validity);
        let columns = columns.map(|(values, validity)| Column { values, validity }).collect();
        (self.port.name, Batch::new(self.port.schema, columns, self.rows))
    }
}

/// A row that is being put out; it ends when it is dropped.
#[derive(Debug)]
pub struct Row<'a> {
    rows: Option<&'a mut Rows>,
    mistake: &'a mut Option<Error>,
    column: usize,
}

macro_rules! values {
    ($($(#[$doc:meta])* $method:ident, $kind:ident, $value:ty, |$values:ident, $given:ident| $push:expr;)*) => {$(
        $(#[$doc])*
        #[inline]
        pub fn $method(mut self, $given: $value) -> Self {
            if let Some(Values::$kind($values)) = self.rows.as_mut().and_then(|rows| rows.columns.get_mut(self.column)) {
                $push;
                self.given();
            } else {
                self.wrong(Type::$kind);
            }
            self
        }
    )*};
}

impl Row<'_> {
    values! {
        /// The next value, an integer.
        s32, S32, i32, |values, value| values.push(value);
        /// The next value, an integer.
        s64, S64, i64, |values, value| values.push(value);
        /// The next value, a number.
        f32, F32, f32, |values, value| values.push(value);
        /// The next value, a number.
        f64, F64, f64, |values, value| values.push(value);
        /// The next value, a time in microseconds since 1970.
        timestamp, Timestamp, i64, |values, value| values.push(value);
        /// The next value, a truth.
        bool, Bool, bool, |values, value| values.push(value);
        /// The next value, a text.
        utf8, Utf8, &str, |values, value| values.push(value.as_bytes());
        /// The next value, bytes.
        binary, Binary, &[u8], |values, value| values.push(value);
    }

    /// No value, in a nullable column.
    pub fn null(mut self) -> Self {
        let place = self.column;
        let Some(rows) = self.rows.as_deref_mut() else { return self };
        let field = rows.port.schema.fields.get(place);
        if !field.is_some_and(|field| field.nullable) {
            let name = field.map_or("(none)", |field| field.name.as_str()).to_owned();
            note(self.mistake, || format!("the column `{name}` is not nullable; a row has no value for it"));
        }
        match rows.columns.get_mut(place) {
            Some(Values::Bool(values)) => values.push(false),
            Some(Values::S32(values)) => values.push(0),
            Some(Values::S64(values) | Values::Timestamp(values)) => values.push(0),
            Some(Values::F32(values)) => values.push(0.0),
            Some(Values::F64(values)) => values.push(0.0),
            Some(Values::Utf8(values) | Values::Binary(values)) => values.push(&[]),
            None => {}
        }
        let row = rows.rows;
        if let Some(validity) = rows.validity.get_mut(place) {
            let bitmap = validity.get_or_insert_with(|| all_valid(row));
            bitmap.set(row, false);
        }
        self.column += 1;
        self
    }

    /// Ends the row; so does dropping it.
    pub fn end(self) {}

    #[inline]
    fn given(&mut self) {
        if let Some(rows) = self.rows.as_deref_mut() {
            let row = rows.rows;
            if let Some(Some(bitmap)) = rows.validity.get_mut(self.column) {
                bitmap.set(row, true);
            }
        }
        self.column += 1;
    }

    #[cold]
    fn wrong(&mut self, given: Type) {
        // A missing port was noted when the row began.
        if let Some(rows) = self.rows.as_deref() {
            let port = &rows.port.name;
            match rows.port.schema.fields.get(self.column) {
                Some(field) => note(self.mistake, || {
                    format!("the column `{}` of port `{port}` is {:?}, and was given {given:?}", field.name, field.kind)
                }),
                None => note(self.mistake, || {
                    format!("port `{port}` has {} columns, and a row was given more values", rows.columns.len())
                }),
            }
        }
        self.column += 1;
    }
}

impl Drop for Row<'_> {
    fn drop(&mut self) {
        let Some(rows) = self.rows.as_deref_mut() else { return };
        if self.column < rows.columns.len() {
            let (port, given, expected) = (&rows.port.name, self.column, rows.columns.len());
            note(self.mistake, || format!("port `{port}` has {expected} columns, and a row was given {given} values"));
        }
        rows.rows += 1;
    }
}

fn note(mistake: &mut Option<Error>, text: impl FnOnce() -> String) {
    if mistake.is_none() {
        *mistake = Some(Error::new(text()));
    }
}

fn all_valid(rows: usize) -> Bitmap {
    let mut bitmap = Bitmap::default();
    (0..rows).for_each(|row| bitmap.set(row, true));
    bitmap
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn output() -> Output {
        Output::new(vec![Port::main([Field::new("machine", Type::S64), Field::new("score", Type::F64)])], 0)
    }

    #[test]
    fn columns_are_the_rows_that_they_would_be_one_by_one() {
        let (mut whole, mut single) = (output(), output());
        whole.columns(MAIN, vec![Values::S64(vec![1, 2]), Values::F64(vec![0.5, 1.5])]);
        single.row(MAIN).s64(1).f64(0.5).end();
        single.row(MAIN).s64(2).f64(1.5).end();
        assert_eq!(whole.finish().unwrap(), single.finish().unwrap());
    }

    #[test]
    fn columns_that_the_port_does_not_have_are_a_mistake() {
        let wrong = |columns| {
            let mut output = output();
            output.columns(MAIN, columns);
            output.finish().unwrap_err().to_string()
        };
        assert!(wrong(vec![Values::S64(vec![1])]).contains("not those that it declares"));
        assert!(wrong(vec![Values::F64(vec![1.0]), Values::F64(vec![1.0])]).contains("not those that it declares"));
        assert!(wrong(vec![Values::S64(vec![1]), Values::F64(vec![])]).contains("not as many values"));
        let mut twice = output();
        twice.row(MAIN).s64(1).f64(0.5).end();
        twice.columns(MAIN, vec![Values::S64(vec![2]), Values::F64(vec![1.5])]);
        assert!(twice.finish().unwrap_err().to_string().contains("rows already"));
    }
}
