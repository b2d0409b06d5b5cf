//! Whether there are the operators that an app names, and whether they understand what it tells them.

use std::collections::BTreeMap;
use std::ops::Range;

use littoral_model::id::FunctionName;
use littoral_model::library::LibraryReference;
use littoral_model::manifest::{Findings, Report};
use toml::de::{DeTable, DeValue};

use super::{Found, Libraries, Operator};

/// What a setting begins with that only nodes know.
const SECRET_PREFIX: &str = "secret:";

/// Looks at each function of the app that is an operator.
///
/// # Errors
/// Everything that is wrong, each with its line.
pub(super) fn check(
    libraries: &Libraries,
    file: &str,
    text: &str,
    references: &[(&FunctionName, LibraryReference)],
    found: &BTreeMap<FunctionName, Found<'_>>,
) -> Result<(), Findings> {
    let mut report = Report::new(file, text);
    // It was read before; what is not found in it has no place.
    let (root, _) = DeTable::parse_recoverable(text);
    let functions = root.get_ref().get("functions").and_then(|functions| functions.get_ref().as_table());
    for (name, reference) in references {
        let function = functions.and_then(|functions| functions.get(name.as_str()));
        let place = function.map_or(0..0, |function| function.span());
        let table = function.and_then(|function| function.get_ref().as_table());
        match found.get(*name) {
            None => missing(libraries, reference, at(table, "component").unwrap_or(place), &mut report),
            Some(found) => {
                let config = table.and_then(|table| table.get("config")).and_then(|config| config.get_ref().as_table());
                settings(found.operator, config, place, &mut report);
            }
        }
    }
    if report.is_empty() { Ok(()) } else { Err(Findings::new(report.into_findings())) }
}

/// There is no such operator: another version of it, one of a similar name, or no library at all.
fn missing(libraries: &Libraries, reference: &LibraryReference, place: Range<usize>, report: &mut Report<'_>) {
    let versions: Vec<String> = libraries
        .all()
        .filter(|found| found.operator.name == reference.name)
        .map(|found| found.operator.version.to_string())
        .collect();
    let adding = report.add("unknown-name", place, format!("no library has an operator `{reference}`"));
    if !versions.is_empty() {
        adding.expected(format!("a version that begins one of {}", versions.join(", ")));
        return;
    }
    let mut names: Vec<&str> = libraries.all().map(|found| found.operator.name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    if names.is_empty() {
        adding.help(Libraries::HINT);
        return;
    }
    adding
        .one_of(names.iter().copied())
        .help("`littoral library ls` lists them, and where they are looked for")
        .nearest(&reference.name, names);
}

/// What an operator is told: all that is required, nothing that it does not know, and values of the right types.
fn settings(operator: &Operator, config: Option<&DeTable<'_>>, place: Range<usize>, report: &mut Report<'_>) {
    let known = || operator.parameters.keys().map(String::as_str);
    for (key, value) in config.into_iter().flatten() {
        let name = key.get_ref().as_ref();
        let Some(parameter) = operator.parameters.get(name) else {
            let message = format!("operator {} has no parameter `{name}`", operator.name);
            report.add("unknown-key", key.span(), message).one_of(known()).nearest(name, known());
            continue;
        };
        let DeValue::String(text) = value.get_ref() else { continue };
        if text.starts_with(SECRET_PREFIX) {
            continue;
        }
        if let Some(expected) = parameter.expected(text) {
            let message = format!("`{name}` of operator {} cannot be this", operator.name);
            report.add("invalid", value.span(), message).expected(expected);
        }
    }
    for (name, parameter) in operator.parameters.iter().filter(|(_, parameter)| parameter.required) {
        if config.is_none_or(|config| !config.contains_key(name.as_str())) {
            let message = format!("operator {} needs `{name}` in `config`", operator.name);
            report.add("missing-key", place.clone(), message).help(format!("{name}: {}", parameter.description));
        }
    }
}

fn at(table: Option<&DeTable<'_>>, key: &str) -> Option<Range<usize>> {
    table?.get(key).map(|value| value.span())
}
