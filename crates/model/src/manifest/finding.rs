//! What is wrong in a manifest, where, and what to do about it.

use std::fmt::{self, Write as _};
use std::ops::Range;

use serde::{Deserialize, Serialize};

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What kind of mistake, as `unknown-key`; stays the same between versions.
    pub code: String,
    /// What is wrong.
    pub message: String,
    /// What was expected there.
    pub expected: Option<String>,
    /// What was probably meant.
    pub suggestion: Option<String>,
    /// The file.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// The column, from 1, in characters.
    pub column: usize,
    /// The bytes of the text that are meant.
    pub span: Range<usize>,
}

/// Everything that is wrong, in the order of the text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Findings(Vec<Finding>);

impl Findings {
    pub(super) fn new(mut findings: Vec<Finding>) -> Self {
        findings.sort_by(|a, b| a.span.start.cmp(&b.span.start).then_with(|| a.code.cmp(&b.code)));
        findings.dedup();
        Self(findings)
    }

    /// Each of them.
    pub fn iter(&self) -> std::slice::Iter<'_, Finding> {
        self.0.iter()
    }

    /// All of them for people, each with its line of the text.
    #[must_use]
    pub fn render(&self, text: &str) -> String {
        let mut out = String::new();
        for finding in &self.0 {
            finding.render(text, &mut out);
            out.push('\n');
        }
        out
    }
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, finding) in self.0.iter().enumerate() {
            let separator = if place == 0 { "" } else { "; " };
            write!(f, "{separator}{}:{}:{}: {}", finding.file, finding.line, finding.column, finding.message)?;
        }
        Ok(())
    }
}

impl std::error::Error for Findings {}

impl Finding {
    fn render(&self, text: &str, out: &mut String) {
        let line = text.lines().nth(self.line.saturating_sub(1)).unwrap_or_default();
        let number = self.line.to_string();
        let margin = " ".repeat(number.len());
        let before: String = line.chars().take(self.column.saturating_sub(1)).map(|c| if c == '\t' { c } else { ' ' }).collect();
        let meant = text.get(self.span.clone()).unwrap_or_default();
        let width = meant.lines().next().unwrap_or_default().chars().count().max(1);
        let marks = "^".repeat(width.min(line.chars().count().saturating_sub(before.chars().count()).max(1)));
        let expected = self.expected.as_ref().map(|expected| format!(" expected {expected}")).unwrap_or_default();
        // Writing to a String cannot fail.
        _ = writeln!(out, "error[{}]: {}", self.code, self.message);
        _ = writeln!(out, "{margin}--> {}:{}:{}", self.file, self.line, self.column);
        _ = writeln!(out, "{margin} |\n{number} | {line}\n{margin} | {before}{marks}{expected}");
        if let Some(suggestion) = &self.suggestion {
            _ = writeln!(out, "{margin} = help: {suggestion}");
        }
    }
}

/// Collects findings for one text.
pub(super) struct Report<'a> {
    file: &'a str,
    text: &'a str,
    findings: Vec<Finding>,
}

impl<'a> Report<'a> {
    pub(super) fn new(file: &'a str, text: &'a str) -> Self {
        Self { file, text, findings: Vec::new() }
    }

    /// Adds a finding; what was expected and what was meant can be added to what is returned.
    pub(super) fn add(&mut self, code: &str, span: Range<usize>, message: impl Into<String>) -> Adding<'_> {
        let start = span.start.min(self.text.len());
        let before = self.text.get(..start).unwrap_or(self.text);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        self.findings.push(Finding {
            code: code.to_owned(),
            message: message.into(),
            expected: None,
            suggestion: None,
            file: self.file.to_owned(),
            line,
            column,
            span,
        });
        Adding(self.findings.last_mut())
    }

    pub(super) fn into_findings(self) -> Vec<Finding> {
        self.findings
    }

    pub(super) fn is_empty(&self) -> bool {
        self.findings.is_empty()
    }
}

/// A finding that is being made.
pub(super) struct Adding<'a>(Option<&'a mut Finding>);

impl Adding<'_> {
    /// Says what was expected.
    pub(super) fn expected(mut self, expected: impl Into<String>) -> Self {
        if let Some(finding) = &mut self.0 {
            finding.expected = Some(expected.into());
        }
        self
    }

    /// Says what to do.
    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        if let Some(finding) = &mut self.0 {
            finding.suggestion = Some(help.into());
        }
        self
    }

    /// Says which of the known names is nearest, if one is near at all.
    pub(super) fn nearest<'n>(self, given: &str, known: impl IntoIterator<Item = &'n str>) -> Self {
        match nearest(given, known) {
            Some(near) => self.help(format!("did you mean `{near}`?")),
            None => self,
        }
    }
}

/// The known name that is most like the given one, if it is much like it.
fn nearest<'n>(given: &str, known: impl IntoIterator<Item = &'n str>) -> Option<&'n str> {
    let likeness = |name: &str| strsim::jaro_winkler(&given.to_ascii_lowercase(), &name.to_ascii_lowercase());
    let ranked = known.into_iter().map(|name| (likeness(name), name)).filter(|(likeness, _)| *likeness > 0.75);
    ranked.max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, name)| name)
}
