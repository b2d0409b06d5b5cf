//! A text with statements, and where in it something stands.

use std::ops::Range;

use littoral_model::manifest::{Adding, Report};
use sqlparser::tokenizer::{Location, Span};

/// One text, with what is found wrong in it.
pub(crate) struct Source<'a> {
    text: &'a str,
    /// Where each character begins: the grammar counts characters, findings bytes.
    characters: Vec<u32>,
    /// Which character each line begins with.
    lines: Vec<usize>,
    report: Report<'a>,
}

impl<'a> Source<'a> {
    pub(crate) fn new(file: &'a str, text: &'a str) -> Self {
        let after_breaks = text.chars().enumerate().filter(|(_, c)| *c == '\n').map(|(place, _)| place + 1);
        let lines = std::iter::once(0).chain(after_breaks).collect();
        let characters = text.char_indices().map(|(place, _)| u32::try_from(place).unwrap_or(u32::MAX)).collect();
        Self { text, characters, lines, report: Report::new(file, text) }
    }

    pub(crate) fn text(&self) -> &'a str {
        self.text
    }

    /// The bytes from one place to another. Where the grammar knows no place, the beginning of the text.
    pub(crate) fn range(&self, span: Span) -> Range<usize> {
        let start = self.offset(span.start);
        start..self.offset(span.end).max(start)
    }

    fn offset(&self, location: Location) -> usize {
        let line = usize::try_from(location.line).unwrap_or(usize::MAX).saturating_sub(1);
        let Some(&start) = self.lines.get(line) else { return self.text.len() };
        let column = usize::try_from(location.column).unwrap_or(usize::MAX).saturating_sub(1);
        self.characters.get(start.saturating_add(column)).map_or(self.text.len(), |place| *place as usize)
    }

    pub(crate) fn add(&mut self, code: &str, at: Range<usize>, message: impl Into<String>) -> Adding<'_> {
        self.report.add(code, at, message)
    }

    pub(crate) fn is_fine(&self) -> bool {
        self.report.is_empty()
    }

    pub(crate) fn into_report(self) -> Report<'a> {
        self.report
    }
}
