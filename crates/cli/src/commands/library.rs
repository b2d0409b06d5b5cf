//! `littoral library`: what operators there are.

use std::path::Path;
use std::process::ExitCode;

use littoral_model::library::{InvalidLibrary, LibraryReference};
use littoral_model::manifest::nearest;
use serde::Serialize;

use crate::args::LibraryCommand;
use crate::failure::Usage;
use crate::library::{Found, Libraries, Operator, Parameter};
use crate::output::{self, Table, Tabular};

/// What to do where there are others.
const LIST_HINT: &str = "`littoral library ls` lists all that there are";

/// An operator, and where it comes from.
#[derive(Serialize)]
struct Listed {
    #[serde(flatten)]
    operator: Operator,
    /// The folder of its library.
    library: String,
}

impl From<Found<'_>> for Listed {
    fn from(found: Found<'_>) -> Self {
        Self { operator: found.operator.clone(), library: found.library.folder.display().to_string() }
    }
}

/// Several of them; one is shown with everything that is said of it.
impl Tabular for Vec<Listed> {
    fn table(&self, wide: bool) -> String {
        let head = ["OPERATOR", "VERSION", "WHAT IT DOES", "LIBRARY", "COMPONENT"];
        let mut table = Table::new(head.get(..if wide { 5 } else { 3 }).unwrap_or(&head));
        for Listed { operator, library } in self {
            let more = if wide { vec![library.clone(), operator.component.clone()] } else { Vec::new() };
            let front = [operator.name.clone(), operator.version.to_string(), operator.description.clone()];
            table.row(front.into_iter().chain(more));
        }
        table.render()
    }
}

impl Tabular for Listed {
    fn table(&self, _wide: bool) -> String {
        let Operator { name, version, description, component, input, ports, parameters } = &self.operator;
        let mut text = format!("{name} {version}: {description}\n\n");
        text.push_str(&format!("component = \"library:{name}@{version}\"\n\n"));
        let mut table = Table::new(&["COLUMNS", ""]);
        table.row(["needs".to_owned(), input.join("\n")]);
        for (port, columns) in ports {
            table.row([format!("puts out on {port}"), columns.join("\n")]);
        }
        text.push_str(&table.render());
        if !parameters.is_empty() {
            let mut table = Table::new(&["PARAMETER", "TYPE", "DEFAULT", "MEANING"]);
            for (name, parameter) in parameters {
                table.row([name.clone(), kind(parameter), default(parameter), parameter.description.clone()]);
            }
            text.push_str(&format!("\n{}", table.render()));
        }
        text.push_str(&format!("\nin {}: {component}\n", self.library));
        text
    }
}

fn kind(parameter: &Parameter) -> String {
    if parameter.choices.is_empty() { parameter.kind.name().to_owned() } else { parameter.choices.join(" | ") }
}

fn default(parameter: &Parameter) -> String {
    match &parameter.default {
        Some(default) => default.clone(),
        None if parameter.required => "required".to_owned(),
        None => "-".to_owned(),
    }
}

/// Lists operators, or shows one.
pub(super) fn run(command: &LibraryCommand) -> anyhow::Result<ExitCode> {
    let text = match command {
        LibraryCommand::Ls { words, app, output } => output::render(&listed(app, words)?, *output)?,
        LibraryCommand::Show { operator, app, output } => output::render(&shown(app, operator)?, *output)?,
    };
    output::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn listed(app: &Path, words: &[String]) -> anyhow::Result<Vec<Listed>> {
    let libraries = Libraries::of(app)?;
    let has = |found: &Found<'_>, word: &String| {
        let text = format!("{} {}", found.operator.name, found.operator.description).to_lowercase();
        text.contains(&word.to_lowercase())
    };
    let meant = libraries.all().filter(|found| words.iter().all(|word| has(found, word)));
    let listed: Vec<Listed> = meant.map(Listed::from).collect();
    if listed.is_empty() {
        let hint = if libraries.all().next().is_none() { Libraries::HINT } else { LIST_HINT };
        return Err(Usage::new("there is no such operator").hint(hint).into());
    }
    Ok(listed)
}

fn shown(app: &Path, name: &str) -> anyhow::Result<Listed> {
    let libraries = Libraries::of(app)?;
    let found = if name.contains('@') {
        let reference: LibraryReference =
            name.parse().map_err(|error: InvalidLibrary| Usage::new(error.to_string()))?;
        libraries.find(&reference)
    } else {
        libraries.newest(|operator| operator.name == name)
    };
    found.map(Listed::from).ok_or_else(|| {
        let named = name.split_once('@').map_or(name, |(name, _)| name);
        let near = nearest(named, libraries.all().map(|found| found.operator.name.as_str()));
        let hint = match near.filter(|near| *near != named) {
            Some(near) => format!("did you mean `{near}`?"),
            None => LIST_HINT.to_owned(),
        };
        Usage::new(format!("there is no operator `{name}`")).hint(hint).into()
    })
}
