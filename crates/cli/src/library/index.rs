//! The index of a library, `library.toml`: its operators, what each takes and puts out, and what it may be told.

use std::collections::BTreeMap;
use std::path::{Component, Path};

use anyhow::Context as _;
use littoral_model::id::check_name;
use littoral_model::library::Version;
use littoral_model::manifest::MANIFEST_BYTES_MAX;
use littoral_model::oci::OciReference;
use littoral_model::unit::{Size, Time};
use serde::{Deserialize, Serialize};

use crate::failure::hinted;

/// The index's name in a library's folder.
pub(crate) const INDEX: &str = "library.toml";
/// The format of indexes that this program reads.
const FORMAT: u32 = 1;
/// The most operators of an index.
const OPERATORS_MAX: usize = 1_024;

/// The index of a library.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Index {
    /// The format that it is written in.
    format: u32,
    /// The command that builds all components that are files, run in the library's folder.
    #[serde(default)]
    pub(crate) build: Option<String>,
    /// The operators, in any order; one may be there in several versions.
    #[serde(default, rename = "operator")]
    pub(crate) operators: Vec<Operator>,
}

/// An operator.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Operator {
    /// By what apps call it.
    pub(crate) name: String,
    /// Of several that an app would take the highest one is.
    pub(crate) version: Version,
    /// What it does, in a sentence.
    pub(crate) description: String,
    /// The component: a file from the library's folder, or `oci://HOST/REPOSITORY@sha256:DIGEST`.
    pub(crate) component: String,
    /// The columns that it needs, one text each.
    #[serde(default)]
    pub(crate) input: Vec<String>,
    /// The columns that it puts out, by port, one text each.
    pub(crate) ports: BTreeMap<String, Vec<String>>,
    /// What it may be told in `config`, by name.
    #[serde(default)]
    pub(crate) parameters: BTreeMap<String, Parameter>,
}

/// What an operator may be told.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Parameter {
    /// Which values it has.
    #[serde(rename = "type")]
    pub(crate) kind: Kind,
    /// What it means.
    pub(crate) description: String,
    /// What it is where an app does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) default: Option<String>,
    /// Whether an app must say it.
    #[serde(default)]
    pub(crate) required: bool,
    /// The choices, of which it is one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) choices: Vec<String>,
}

/// Which values a parameter has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    /// Any.
    Text,
    /// One of the choices.
    Choice,
    /// Names of columns, separated by commas.
    Columns,
    /// A number that is finite.
    Number,
    /// A whole number.
    Whole,
    /// A number of bytes with its unit.
    Size,
    /// A length of time with its unit.
    Time,
}

impl Kind {
    /// As the index has it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Choice => "choice",
            Self::Columns => "columns",
            Self::Number => "number",
            Self::Whole => "whole",
            Self::Size => "size",
            Self::Time => "time",
        }
    }
}

impl Parameter {
    /// What was expected, if the value is none of this parameter.
    pub(crate) fn expected(&self, value: &str) -> Option<String> {
        let (is_fine, expected) = match self.kind {
            Kind::Text => (true, "a text".to_owned()),
            Kind::Choice => {
                (self.choices.iter().any(|choice| choice == value), format!("one of {}", self.choices.join(", ")))
            }
            Kind::Columns => (
                value.split(',').all(|name| !name.trim().is_empty()),
                "names of columns, separated by commas".to_owned(),
            ),
            Kind::Number => (value.parse().is_ok_and(f64::is_finite), "a number".to_owned()),
            Kind::Whole => (value.parse::<i64>().is_ok(), "a whole number".to_owned()),
            Kind::Size => (value.parse::<Size>().is_ok(), "a size, as `4MiB`".to_owned()),
            Kind::Time => (value.parse::<Time>().is_ok(), "a time, as `500ms` or `1h`".to_owned()),
        };
        (!is_fine).then_some(expected)
    }
}

impl Index {
    /// Reads an index.
    ///
    /// # Errors
    /// When it cannot be read, or is none.
    pub(crate) fn read(file: &Path) -> anyhow::Result<Self> {
        let unreadable = || format!("cannot read {}", file.display());
        let size = std::fs::metadata(file).with_context(unreadable)?.len();
        anyhow::ensure!(size <= MANIFEST_BYTES_MAX as u64, "{} has more than 1 MiB: it is no index", file.display());
        let text = std::fs::read_to_string(file).with_context(unreadable)?;
        Self::parse(&text).map_err(|error| {
            hinted(format!("{}: {error}", file.display()), "mend it; docs/how-to/share-operators.md has an example")
        })
    }

    fn parse(text: &str) -> anyhow::Result<Self> {
        // What another version of this program wrote is to say that, and not which of its keys is new.
        let format = toml::from_str::<toml::Table>(text)?.get("format").and_then(toml::Value::as_integer);
        if format.is_some_and(|format| format != i64::from(FORMAT)) {
            anyhow::bail!("it has another format than {FORMAT}: upgrade littoral");
        }
        let index: Self = toml::from_str(text)?;
        anyhow::ensure!(index.format == FORMAT, "it has another format than {FORMAT}: upgrade littoral");
        anyhow::ensure!(index.operators.len() <= OPERATORS_MAX, "it has more than {OPERATORS_MAX} operators");
        for (place, operator) in index.operators.iter().enumerate() {
            operator.check().with_context(|| format!("operator {}", operator.name))?;
            let same = |other: &Operator| (&other.name, other.version) == (&operator.name, operator.version);
            anyhow::ensure!(
                !index.operators.iter().take(place).any(same),
                "operator {} {} stands twice",
                operator.name,
                operator.version
            );
        }
        Ok(index)
    }
}

impl Operator {
    /// The reference of its component, if it is in a registry.
    pub(crate) fn registry(&self) -> Option<OciReference> {
        OciReference::is_meant(&self.component).then(|| self.component.parse().ok()).flatten()
    }

    fn check(&self) -> anyhow::Result<()> {
        check_name(&self.name)?;
        if OciReference::is_meant(&self.component) {
            let reference: OciReference = self.component.parse()?;
            anyhow::ensure!(
                reference.digest.is_some(),
                "`{reference}` has no digest: take what `littoral push` prints"
            );
        } else {
            let is_inside = Path::new(&self.component).components().all(|part| matches!(part, Component::Normal(_)));
            anyhow::ensure!(is_inside && !self.component.is_empty(), "`{}` is no path in the library", self.component);
        }
        for (name, parameter) in &self.parameters {
            anyhow::ensure!(
                (parameter.kind == Kind::Choice) != parameter.choices.is_empty(),
                "parameter {name}: `choices` belongs to the type `choice`, and to no other"
            );
            anyhow::ensure!(
                !(parameter.required && parameter.default.is_some()),
                "parameter {name}: what is required has no default"
            );
            if let Some(default) = &parameter.default
                && let Some(expected) = parameter.expected(default)
            {
                anyhow::bail!("parameter {name}: the default is `{default}`, expected {expected}");
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const GOOD: &str = "format = 1\n[[operator]]\nname = \"a\"\nversion = \"1.0.0\"\ndescription = \"d\"\ncomponent = \"a.wasm\"\nports.main = [\"*\"]\n";

    #[test]
    fn an_index_with_a_mistake_says_which() {
        assert_eq!(Index::parse(GOOD).unwrap().operators.len(), 1);
        for (from, to, said) in [
            ("format = 1", "format = 2", "another format than 1"),
            ("format = 1\n", "", "missing field `format`"),
            ("1.0.0", "1.0", "expected three numbers"),
            ("\"a\"\n", "\"A\"\n", "operator A"),
            ("a.wasm", "../a.wasm", "no path in the library"),
            ("a.wasm", "oci://r.example/a:1", "has no digest"),
            ("description", "descripton", "unknown field"),
            ("ports.main", "parameters.p = { type = \"choice\", description = \"\" }\nports.main", "`choices` belongs"),
            (
                "ports.main",
                "parameters.p = { type = \"time\", description = \"\", default = \"1\" }\nports.main",
                "expected a time",
            ),
            (
                "ports.main",
                "parameters.p = { type = \"text\", description = \"\", default = \"1\", required = true }\nports.main",
                "no default",
            ),
        ] {
            let error = Index::parse(&GOOD.replace(from, to)).unwrap_err();
            assert!(format!("{error:#}").contains(said), "{error:#}");
        }
        let twice = format!("{GOOD}{}", GOOD.trim_start_matches("format = 1\n"));
        assert!(Index::parse(&twice).unwrap_err().to_string().contains("stands twice"));
    }

    #[test]
    fn the_library_of_this_repository_is_well_formed() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../library").join(INDEX);
        let index = Index::read(&file).unwrap();
        let mut names: Vec<&str> = index.operators.iter().map(|operator| operator.name.as_str()).collect();
        names.sort_unstable();
        assert_eq!(names, ["anomaly", "decode", "deduplicate", "nearest", "resample"]);
    }
}
