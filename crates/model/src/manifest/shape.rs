//! Compares a manifest with its JSON Schema: keys, types, units, names, ranges.

use std::ops::Range;

use serde_json::{Map, Value};
use toml::Spanned;
use toml::de::{DeInteger, DeTable, DeValue};

use super::finding::Report;
use crate::grant::{Peer, PeerError};
use crate::id::{self, InvalidName};
use crate::situation::{Position, PositionError};
use crate::unit::{Bandwidth, Cpus, Distance, Ratio, Size, Time, UnitError, UnitProblem};

/// Compares tables and values with the parts of one schema.
pub(super) struct Shape<'s, 'r, 'a> {
    pub(super) definitions: &'s Map<String, Value>,
    pub(super) report: &'r mut Report<'a>,
}

impl<'s> Shape<'s, '_, '_> {
    /// Compares a table, which `what` names in findings, as `function clean`.
    pub(super) fn table(&mut self, table: &DeTable<'_>, span: Range<usize>, schema: &'s Value, what: &str) {
        let schema = self.resolve(schema);
        let properties = schema.get("properties").and_then(Value::as_object);
        for (key, value) in table {
            let name = key.get_ref().as_ref();
            if let Some(property) = properties.and_then(|properties| properties.get(name)) {
                self.value(value, property, &format!("`{name}`"));
            } else if let Some(entry) = entries(schema) {
                self.entry_name(key, schema);
                self.value(value, entry, &format!("`{name}`"));
            } else {
                let known = properties.into_iter().flat_map(Map::keys).map(String::as_str);
                let message = format!("{what} has no key `{name}`");
                self.report.add("unknown-key", key.span(), message).one_of(known.clone()).nearest(name, known);
            }
        }
        let required = schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
        for name in required.filter(|name| !table.contains_key(*name)) {
            let property = properties.and_then(|properties| properties.get(name));
            let expected = property.map(|property| expectation(self.resolve(property))).unwrap_or_default();
            let message = format!("{what} lacks the key `{name}`");
            self.report.add("missing-key", span.clone(), message).expected(format!("`{name}`, {expected}"));
        }
    }

    /// A name that the author chose: of a function, a stream, a label.
    fn entry_name(&mut self, key: &Spanned<toml::de::DeString<'_>>, schema: &Value) {
        let is_name = schema.get("patternProperties").is_some()
            || schema.get("propertyNames").and_then(|names| names.get("format")) == Some(&Value::from("name"));
        if is_name && let Err(error) = id::check_name(key.get_ref()) {
            self.report.add("invalid-name", key.span(), error.to_string());
        }
    }

    fn value(&mut self, value: &Spanned<DeValue<'_>>, schema: &'s Value, what: &str) {
        let schema = self.resolve(schema);
        let constants = constants(schema);
        if !constants.is_empty() {
            return self.one_of(value, &constants, what);
        }
        if let Some(choices) = schema.get("anyOf").and_then(Value::as_array) {
            return self.any_of(value, choices, what);
        }
        if !fits(value.get_ref(), schema) {
            return self.wrong_type(value, &[schema], what);
        }
        match value.get_ref() {
            DeValue::Table(table) => self.table(table, value.span(), schema, what),
            DeValue::Array(array) => self.array(array, value.span(), schema, what),
            DeValue::String(text) => self.text(text, value.span(), &[schema], what),
            DeValue::Integer(number) => self.range(value.span(), number, schema, what),
            _ => {}
        }
    }

    fn any_of(&mut self, value: &Spanned<DeValue<'_>>, choices: &'s [Value], what: &str) {
        let choices = choices.iter().map(|choice| self.resolve(choice)).filter(|choice| !is_null(choice));
        let choices: Vec<&'s Value> = choices.collect();
        let fitting: Vec<&'s Value> = choices.iter().copied().filter(|choice| fits(value.get_ref(), choice)).collect();
        match (fitting.as_slice(), value.get_ref()) {
            ([], _) => self.wrong_type(value, &choices, what),
            ([one], _) => self.value(value, one, what),
            (several, DeValue::String(text)) => self.text(text, value.span(), several, what),
            ([first, ..], _) => self.value(value, first, what),
        }
    }

    /// Compares a text with schemas, one of which it must fit.
    fn text(&mut self, text: &str, span: Range<usize>, schemas: &[&Value], what: &str) {
        let formats = schemas.iter().map(|schema| schema.get("format").and_then(Value::as_str).unwrap_or_default());
        let Ok(problems) =
            formats.map(|format| check_format(format, text).err().ok_or(())).collect::<Result<Vec<_>, _>>()
        else {
            return;
        };
        // Where one of several kinds of quantity is wanted, the one whose unit was recognised was meant.
        let meant = problems.iter().find(|problem| !matches!(problem, Problem::Unit(UnitProblem::UnknownUnit { .. })));
        let expected: Vec<String> = schemas.iter().map(|schema| expectation(schema)).collect();
        let expected = expected.join(" or ");
        match meant.or(problems.first()) {
            None => {}
            Some(Problem::Name(error)) => {
                self.report.add("invalid-name", span, format!("{what}: {error}")).expected(expected);
            }
            Some(Problem::Peer(error)) => {
                let message = format!("{what} cannot be `{text}`: {}", error.problem);
                self.report.add("invalid-peer", span, message).expected(expected);
            }
            Some(Problem::Position(error)) => {
                let message = format!("{what} cannot be `{text}`: {}", error.problem);
                self.report.add("invalid-position", span, message).expected(expected);
            }
            Some(Problem::Unit(UnitProblem::UnknownUnit { unit, .. })) => {
                let nearest = problems.iter().filter_map(|problem| match problem {
                    Problem::Unit(UnitProblem::UnknownUnit { nearest, .. }) => Some(*nearest),
                    _ => None,
                });
                let message = format!("{what} cannot be `{text}`: there is no unit `{unit}`");
                self.report.add("invalid-unit", span, message).expected(expected).nearest(unit, nearest);
            }
            Some(Problem::Unit(problem)) => {
                let message = format!("{what} cannot be `{text}`: {problem}");
                self.report.add("invalid-unit", span, message).expected(expected);
            }
        }
    }

    fn one_of(&mut self, value: &Spanned<DeValue<'_>>, known: &[&str], what: &str) {
        match value.get_ref() {
            DeValue::String(text) if known.contains(&text.as_ref()) => {}
            DeValue::String(text) => {
                let (message, known) = (format!("{what} cannot be `{text}`"), known.iter().copied());
                self.report.add("unknown-value", value.span(), message).one_of(known.clone()).nearest(text, known);
            }
            other => {
                let message = format!("{what} is {}", kind_of(other));
                self.report.add("wrong-type", value.span(), message).one_of(known.iter().copied());
            }
        }
    }

    fn array(&mut self, array: &[Spanned<DeValue<'_>>], span: Range<usize>, schema: &'s Value, what: &str) {
        let bound = |name: &str| schema.get(name).and_then(Value::as_u64).and_then(|bound| usize::try_from(bound).ok());
        let (min, max) = (bound("minItems").unwrap_or(0), bound("maxItems").unwrap_or(usize::MAX));
        if array.len() < min || array.len() > max {
            let message = format!("{what} has {} items", array.len());
            let expected = if min == max { format!("{min} items") } else { format!("{min} to {max} items") };
            self.report.add("wrong-length", span, message).expected(expected);
        }
        let Some(items) = schema.get("items") else { return };
        for item in array {
            self.value(item, items, &format!("an item of {what}"));
        }
    }

    fn range(&mut self, span: Range<usize>, number: &DeInteger<'_>, schema: &Value, what: &str) {
        let (min, max) = limits(schema);
        let value = i64::from_str_radix(number.as_str(), number.radix());
        if !value.is_ok_and(|value| (min..=max).contains(&value)) {
            let message = format!("{what} cannot be {number}");
            self.report.add("out-of-range", span, message).expected(whole_number(schema));
        }
    }

    fn wrong_type(&mut self, value: &Spanned<DeValue<'_>>, expected: &[&Value], what: &str) {
        let expected: Vec<String> = expected.iter().map(|schema| expectation(schema)).collect();
        let message = format!("{what} is {}", kind_of(value.get_ref()));
        self.report.add("wrong-type", value.span(), message).expected(expected.join(" or "));
    }

    fn resolve(&self, schema: &'s Value) -> &'s Value {
        let name = schema.get("$ref").and_then(Value::as_str).and_then(|path| path.strip_prefix("#/$defs/"));
        name.and_then(|name| self.definitions.get(name)).unwrap_or(schema)
    }
}

/// The schema of a table's entries, where the author chooses their names.
fn entries(schema: &Value) -> Option<&Value> {
    let by_pattern =
        schema.get("patternProperties").and_then(Value::as_object).and_then(|patterns| patterns.values().next());
    by_pattern.or_else(|| schema.get("additionalProperties").filter(|entries| entries.is_object()))
}

fn is_null(schema: &Value) -> bool {
    schema.get("type").and_then(Value::as_str) == Some("null")
}

/// The texts between which a schema lets one choose, if it does; schemars writes those with a description of each as
/// `oneOf`.
fn constants(schema: &Value) -> Vec<&str> {
    let list = |key: &str| schema.get(key).and_then(Value::as_array).into_iter().flatten();
    let described = list("oneOf").filter_map(|choice| choice.get("const")?.as_str());
    list("enum").filter_map(Value::as_str).chain(described).collect()
}

/// The least and the greatest whole number that a schema admits.
fn limits(schema: &Value) -> (i64, i64) {
    let bound = |name: &str, default| schema.get(name).and_then(Value::as_i64).unwrap_or(default);
    (bound("minimum", i64::MIN), bound("maximum", i64::MAX))
}

/// Whether a value is of a type that the schema admits.
fn fits(value: &DeValue<'_>, schema: &Value) -> bool {
    let kind = match value {
        DeValue::String(_) => "string",
        DeValue::Integer(_) => "integer",
        DeValue::Float(_) => "number",
        DeValue::Boolean(_) => "boolean",
        DeValue::Array(_) => "array",
        DeValue::Table(_) => "object",
        DeValue::Datetime(_) => "datetime",
    };
    match schema.get("type") {
        None => constants(schema).is_empty() || kind == "string",
        Some(Value::Array(types)) => types.iter().any(|admitted| admitted == kind),
        Some(admitted) => admitted == kind,
    }
}

fn kind_of(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// What a schema wants, in words.
fn expectation(schema: &Value) -> String {
    let constants = constants(schema);
    if !constants.is_empty() {
        return format!("one of {}", constants.join(", "));
    }
    let example = schema.get("examples").and_then(|examples| examples.get(0)).and_then(Value::as_str);
    if let (Some(format), Some(example)) = (schema.get("format").and_then(Value::as_str), example) {
        return format!("a {format} like \"{example}\"");
    }
    if schema.get("format").and_then(Value::as_str) == Some("name") {
        return "a name of a-z, 0-9 and -".to_owned();
    }
    let types = match schema.get("type") {
        Some(Value::Array(types)) => types.iter().filter_map(Value::as_str).find(|kind| *kind != "null"),
        Some(Value::String(kind)) => Some(kind.as_str()),
        _ => None,
    };
    let words = match types {
        Some("string") => "a text",
        Some("integer") => return whole_number(schema),
        Some("number") => "a number",
        Some("boolean") => "true or false",
        Some("array") => "a list",
        Some("object") => "a table",
        _ => "another value",
    };
    words.to_owned()
}

fn whole_number(schema: &Value) -> String {
    let (min, max) = limits(schema);
    format!("a whole number from {min} to {max}")
}

/// Why a text is not of a format.
enum Problem {
    Name(InvalidName),
    Unit(UnitProblem),
    Peer(PeerError),
    Position(PositionError),
}

/// Checks a text against a format of ours.
fn check_format(format: &str, text: &str) -> Result<(), Problem> {
    let unit = |checked: Result<(), UnitError>| checked.map_err(|error| Problem::Unit(error.problem));
    match format {
        "name" => id::check_name(text).map_err(Problem::Name),
        "time" => unit(text.parse::<Time>().map(drop)),
        "size" => unit(text.parse::<Size>().map(drop)),
        "bandwidth" => unit(text.parse::<Bandwidth>().map(drop)),
        "peer" => text.parse::<Peer>().map(drop).map_err(Problem::Peer),
        "distance" => unit(text.parse::<Distance>().map(drop)),
        "position" => text.parse::<Position>().map(drop).map_err(Problem::Position),
        "cpu-quantity" => unit(text.parse::<Cpus>().map(drop)),
        "ratio" => unit(text.parse::<Ratio>().map(drop)),
        _ => Ok(()),
    }
}
