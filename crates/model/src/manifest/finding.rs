//! What is wrong in a manifest, where, and what to do about it.

use std::fmt::{self, Write as _};
use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::id::NAME_BYTES_MAX;

/// The most findings that are kept: nobody reads more at once, and what is wrong in a hostile text must not take more
/// memory than the text.
pub const FINDINGS_MAX: usize = 100;
/// The most characters of a message: what a text calls something may be as long as the text.
const MESSAGE_CHARS_MAX: usize = 400;
/// The most names that are listed as what was expected.
const NAMES_MAX: usize = 12;
/// The most characters of a line that are shown; of a longer one, those around what is meant.
const LINE_CHARS_MAX: usize = 200;
/// How many characters of a longer line are shown before what is meant.
const BEFORE_CHARS: usize = 40;

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
    /// What was found in one text or in several, sorted.
    #[must_use]
    pub fn new(mut findings: Vec<Finding>) -> Self {
        findings.sort_by(|a, b| (&a.file, a.span.start, &a.code).cmp(&(&b.file, b.span.start, &b.code)));
        findings.dedup();
        Self(findings)
    }

    /// Each of them.
    pub fn iter(&self) -> std::slice::Iter<'_, Finding> {
        self.0.iter()
    }

    /// How many there are, at most [`FINDINGS_MAX`].
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing is wrong; never so in what [`parse`](super::parse) gives.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of them for people, each with its line of the text.
    #[must_use]
    pub fn render(&self, text: &str) -> String {
        let mut out = String::new();
        for finding in &self.0 {
            finding.render(text, &mut out);
            out.push('\n');
        }
        if self.0.len() >= FINDINGS_MAX {
            // Writing to a String cannot fail.
            _ = writeln!(out, "only the first {FINDINGS_MAX} findings are shown; mend these and look again");
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
    /// Writes it for people, with its line of the text.
    pub fn render(&self, text: &str, out: &mut String) {
        let line = text.lines().nth(self.line.saturating_sub(1)).unwrap_or_default();
        let number = self.line.to_string();
        let margin = " ".repeat(number.len());
        let column = self.column.saturating_sub(1);
        let is_long = line.chars().nth(LINE_CHARS_MAX).is_some();
        let skipped = if is_long { column.saturating_sub(BEFORE_CHARS) } else { 0 };
        let line: String = line.chars().skip(skipped).take(LINE_CHARS_MAX).collect();
        let before: String = line.chars().take(column - skipped).map(|c| if c == '\t' { c } else { ' ' }).collect();
        let meant = text.get(self.span.clone()).unwrap_or_default();
        let width = meant.lines().next().unwrap_or_default().chars().take(LINE_CHARS_MAX).count();
        let room = line.chars().count().saturating_sub(before.chars().count());
        let marks = "^".repeat(width.min(room).max(1));
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
#[derive(Debug)]
pub struct Report<'a> {
    file: &'a str,
    text: &'a str,
    findings: Vec<Finding>,
}

impl<'a> Report<'a> {
    /// Nothing found yet in a text; `file` is its name in findings.
    #[must_use]
    pub fn new(file: &'a str, text: &'a str) -> Self {
        Self { file, text, findings: Vec::new() }
    }

    /// Adds a finding; what was expected and what was meant can be added to what is returned.
    pub fn add(&mut self, code: &str, span: Range<usize>, message: impl Into<String>) -> Adding<'_> {
        if self.findings.len() >= FINDINGS_MAX {
            return Adding(None);
        }
        let start = span.start.min(self.text.len());
        let before = self.text.get(..start).unwrap_or(self.text);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        self.findings.push(Finding {
            code: code.to_owned(),
            message: shortened(message.into()),
            expected: None,
            suggestion: None,
            file: self.file.to_owned(),
            line,
            column,
            span,
        });
        Adding(self.findings.last_mut())
    }

    /// What was found.
    #[must_use]
    pub fn into_findings(self) -> Vec<Finding> {
        self.findings
    }

    /// Whether nothing was found.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.findings.is_empty()
    }
}

/// A finding that is being made.
#[derive(Debug)]
pub struct Adding<'a>(Option<&'a mut Finding>);

impl Adding<'_> {
    /// Says what was expected.
    pub fn expected(mut self, expected: impl Into<String>) -> Self {
        if let Some(finding) = &mut self.0 {
            finding.expected = Some(shortened(expected.into()));
        }
        self
    }

    /// Says what to do.
    pub fn help(mut self, help: impl Into<String>) -> Self {
        if let Some(finding) = &mut self.0 {
            finding.suggestion = Some(shortened(help.into()));
        }
        self
    }

    /// Says that it should be one of the known names.
    pub fn one_of<'n>(self, known: impl IntoIterator<Item = &'n str>) -> Self {
        if self.0.is_none() {
            return self;
        }
        let mut known = known.into_iter();
        let first: Vec<&str> = known.by_ref().take(NAMES_MAX).collect();
        match (first.as_slice(), known.count()) {
            ([], _) => self.help("there is none yet: declare it"),
            ([only], _) => self.expected(format!("`{only}`")),
            (several, 0) => self.expected(format!("one of {}", several.join(", "))),
            (several, more) => self.expected(format!("one of {} and {more} more", several.join(", "))),
        }
    }

    /// Says which of the known names is nearest, if one is near at all.
    pub fn nearest<'n>(self, given: &str, known: impl IntoIterator<Item = &'n str>) -> Self {
        if self.0.is_none() {
            return self;
        }
        match nearest(given, known) {
            Some(near) => self.help(format!("did you mean `{near}`?")),
            None => self,
        }
    }
}

/// The known name that is most like the given one, if it is much like it.
pub fn nearest<'n>(given: &str, known: impl IntoIterator<Item = &'n str>) -> Option<&'n str> {
    // Comparing takes time with the product of both lengths.
    if given.len() > 2 * NAME_BYTES_MAX {
        return None;
    }
    let likeness = |name: &str| strsim::jaro_winkler(&given.to_ascii_lowercase(), &name.to_ascii_lowercase());
    let ranked = known.into_iter().map(|name| (likeness(name), name)).filter(|(likeness, _)| *likeness > 0.75);
    ranked.max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, name)| name)
}

/// A text, cut where it is longer than a person reads.
fn shortened(text: String) -> String {
    match text.char_indices().nth(MESSAGE_CHARS_MAX) {
        Some((end, _)) => format!("{}...", text.get(..end).unwrap_or_default()),
        None => text,
    }
}
