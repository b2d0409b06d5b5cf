//! What the TOML parser cannot read: says so once, and keeps what can be read apart from what cannot.
//!
//! The parser goes on after an error, but a bracket that is not closed makes it take all that follows for a part of one
//! value. So what stays open is blanked out, and the rest is read again; and what is found wrong in, or because of, lines
//! that cannot be read is not said a second time.

use std::ops::Range;

use toml::de::DeTable;

use super::finding::{FINDINGS_MAX, Finding, Report};

/// The most values that are found open: each means to read the text once more.
const OPEN_MAX: usize = 8;

/// The parts of a text that cannot be read.
pub(super) struct Broken<'t> {
    text: &'t str,
    parts: Vec<Range<usize>>,
}

/// Reports what is no TOML in a text. Gives a text of the same length in which what stays open is blank.
pub(super) fn syntax<'t>(text: &'t str, report: &mut Report<'_>) -> (String, Broken<'t>) {
    let (mut readable, mut broken) = (text.to_owned(), Broken { text, parts: Vec::new() });
    for _ in 0..OPEN_MAX {
        let errors = errors(&readable);
        let open = errors.iter().find_map(|error| Some((left_open(&readable, error.0.start)?, error)));
        let Some((open, (span, message))) = open else { break };
        let begins = text.get(..open.start).unwrap_or_default().matches('\n').count() + 1;
        let help = format!("or close what begins in line {begins}");
        report.add("syntax", span.clone(), message).help(help);
        let blank = |c: char| if c == '\n' { "\n".to_owned() } else { " ".repeat(c.len_utf8()) };
        let blanks: String = readable.get(open.clone()).unwrap_or_default().chars().map(blank).collect();
        readable.replace_range(open.clone(), &blanks);
        broken.parts.push(open);
    }
    for (span, message) in errors(&readable) {
        broken.add_line(span.start);
        report.add("syntax", span, message);
    }
    (readable, broken)
}

/// The first errors of a text, in its order.
fn errors(text: &str) -> Vec<(Range<usize>, String)> {
    let (_, errors) = DeTable::parse_recoverable(text);
    let mut errors: Vec<_> =
        errors.iter().map(|error| (error.span().unwrap_or(0..0), error.message().to_owned())).collect();
    errors.sort_by_key(|(span, _)| span.start);
    errors.truncate(FINDINGS_MAX);
    errors
}

/// The lines before an error which, going by the look of the line that it is at, should have ended there.
fn left_open(text: &str, error: usize) -> Option<Range<usize>> {
    let before = text.get(..error)?;
    let end = line_start(text, error);
    let is_first_in_line = before.get(end..)?.trim().is_empty();
    if !is_first_in_line || !begins_something(text.get(end..)?.lines().next()?) {
        return None;
    }
    let mut start = end;
    while start > 0 {
        start = line_start(text, start - 1);
        if begins_something(text.get(start..end)?.lines().next()?) {
            return Some(start..end);
        }
    }
    None
}

/// Whether a line looks like `key =`, `[table]` or `[[table]]`.
fn begins_something(line: &str) -> bool {
    let is_key = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    let line = line.trim();
    let rest = line.trim_start_matches(is_key);
    let has_key = rest.len() < line.len() && rest.trim_start().starts_with('=');
    has_key || is_header(line)
}

/// Whether a line begins a table, closed or not. Lists do not begin so, for their texts have quotes.
fn is_header(line: &str) -> bool {
    let name = line.trim().trim_start_matches('[');
    line.trim().starts_with('[') && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
}

fn line_start(text: &str, place: usize) -> usize {
    text.get(..place).and_then(|before| before.rfind('\n')).map_or(0, |newline| newline + 1)
}

impl Broken<'_> {
    /// The line of an error cannot be read; nor, if it was to begin a table, can one know what the following lines are a
    /// part of; nor anything if the text ends in the midst of something.
    fn add_line(&mut self, error: usize) {
        let start = line_start(self.text, error);
        let line = self.text.get(start..).and_then(|rest| rest.lines().next()).unwrap_or_default();
        let end = if is_header(line) { self.next_header(start) } else { start + line.len() };
        let is_at_end = error >= self.text.trim_end().len();
        self.parts.push(if is_at_end { 0..self.text.len() } else { start..end });
    }

    /// Where the next table begins after the line that begins at a place.
    fn next_header(&self, start: usize) -> usize {
        let mut place = start;
        for (number, line) in self.text.get(start..).unwrap_or_default().split_inclusive('\n').enumerate() {
            if number > 0 && is_header(line) {
                return place;
            }
            place += line.len();
        }
        place
    }

    /// Whether a finding follows from what cannot be read, so that it says nothing new.
    pub(super) fn explains(&self, finding: &Finding) -> bool {
        let meets =
            |range: &Range<usize>| self.parts.iter().any(|part| part.start < range.end && range.start < part.end);
        let place = finding.span.start;
        match finding.code.as_str() {
            "syntax" => false,
            // The key may be in what cannot be read of its table.
            "missing-key" => {
                let start = line_start(self.text, place);
                meets(&(start..self.next_header(start).max(start + 1)))
            }
            // Its declaration may be there.
            "unknown-name" => {
                let name = self.text.get(finding.span.clone()).unwrap_or_default().trim_matches(['"', '\'']);
                let may_declare =
                    |part: &Range<usize>| self.text.get(part.clone()).is_some_and(|part| part.contains(name));
                meets(&(place..place + 1)) || self.parts.iter().any(may_declare)
            }
            _ => meets(&(place..place + 1)),
        }
    }
}
