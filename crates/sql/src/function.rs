//! The functions that expressions may call, by name: texts, numbers, times.

mod math;
mod order;
mod text;
mod time;

pub(crate) use time::{FIELDS, INTERVAL_FIELDS, TRUNCATED_FIELDS, field_named};

use std::fmt;

use crate::types::Type;
use crate::value::Cell;

/// What a function does with the values of one row. What it answers is of its result's type.
pub(crate) type Call = fn(&[Option<Cell<'_>>]) -> Result<Option<Cell<'static>>, String>;

/// A function.
pub(crate) struct Function {
    pub(crate) name: &'static str,
    /// The types of its arguments.
    pub(crate) parameters: &'static [Type],
    /// The type of as many more arguments as one likes.
    pub(crate) rest: Option<Type>,
    pub(crate) result: Type,
    /// Whether it is null where one of its arguments is.
    pub(crate) is_strict: bool,
    pub(crate) call: Call,
}

impl PartialEq for Function {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

/// As it is called: plans are told apart by how they are written, and where its code lies differs from process to process.
impl fmt::Debug for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.signature())
    }
}

impl Function {
    const fn new(name: &'static str, parameters: &'static [Type], result: Type, call: Call) -> Self {
        Self { name, parameters, rest: None, result, is_strict: true, call }
    }

    /// The type of the argument at that place, if it takes one there.
    pub(crate) fn parameter(&self, place: usize) -> Option<Type> {
        self.parameters.get(place).copied().or(self.rest)
    }

    /// Whether it takes so many arguments.
    pub(crate) fn takes(&self, count: usize) -> bool {
        count == self.parameters.len() || (count > self.parameters.len() && self.rest.is_some())
    }

    /// How it is called.
    pub(crate) fn signature(&self) -> String {
        let mut parameters: Vec<String> = self.parameters.iter().map(ToString::to_string).collect();
        parameters.extend(self.rest.map(|ty| format!("{ty}...")));
        format!("{}({})", self.name, parameters.join(", "))
    }
}

/// All functions of all names; several of one name differ in their parameters.
pub(crate) fn all() -> impl Iterator<Item = &'static Function> + Clone {
    text::FUNCTIONS.iter().chain(math::FUNCTIONS).chain(time::FUNCTIONS).chain(order::FUNCTIONS)
}

/// The functions of that name.
pub(crate) fn named(name: &str) -> impl Iterator<Item = &'static Function> + Clone {
    all().filter(move |function| function.name == name)
}

/// An argument that is a whole number.
fn bigint(arguments: &[Option<Cell<'_>>], place: usize) -> i64 {
    match arguments.get(place) {
        Some(Some(Cell::Bigint(value) | Cell::Timestamp(value) | Cell::Interval(value))) => *value,
        _ => 0,
    }
}

/// An argument that is a number.
fn double(arguments: &[Option<Cell<'_>>], place: usize) -> f64 {
    match arguments.get(place) {
        Some(Some(Cell::Double(value))) => *value,
        _ => 0.0,
    }
}

/// An argument that is a text.
fn text<'a>(arguments: &'a [Option<Cell<'_>>], place: usize) -> &'a str {
    match arguments.get(place) {
        Some(Some(Cell::Text(text))) => text,
        _ => "",
    }
}
