//! The last lines that functions and the node itself have logged, and those to come.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use littoral_model::id::NodeId;
use tokio::sync::broadcast;

use crate::admin::types::{LogLine, LogStream};

/// How many lines a node remembers; with [`LINE_BYTES_MAX`] this bounds the memory.
const LINES_MAX: usize = 2_000;
/// Longer lines are cut.
const LINE_BYTES_MAX: usize = 4_096;
/// How many lines a follower may lag before it loses some.
const FOLLOW_LAG_MAX: usize = 1_024;

/// The log lines of one node.
#[derive(Debug)]
pub(crate) struct Logs {
    node: NodeId,
    lines: Mutex<VecDeque<LogLine>>,
    news: broadcast::Sender<LogLine>,
}

impl Logs {
    pub(crate) fn new(node: NodeId) -> Self {
        Self { node, lines: Mutex::new(VecDeque::new()), news: broadcast::Sender::new(FOLLOW_LAG_MAX) }
    }

    /// Takes a line of a function.
    pub(crate) fn function(&self, app: &str, function: &str, stream: LogStream, text: &str) {
        self.push(Some(app), Some(function), stream, text);
    }

    /// Takes a line of the node about an app.
    pub(crate) fn system(&self, app: Option<&str>, function: Option<&str>, text: &str) {
        self.push(app, function, LogStream::System, text);
    }

    fn push(&self, app: Option<&str>, function: Option<&str>, stream: LogStream, text: &str) {
        let cut = text.floor_char_boundary(LINE_BYTES_MAX);
        let line = LogLine {
            time_us: littoral_flow::stats::now_us(),
            node: self.node.to_string(),
            app: app.map(str::to_owned),
            function: function.map(str::to_owned),
            stream,
            text: text.get(..cut).unwrap_or_default().to_owned(),
        };
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() >= LINES_MAX {
            lines.pop_front();
        }
        lines.push_back(line.clone());
        // Nobody following is fine.
        let _ = self.news.send(line);
    }

    /// The last lines, of one app or of all, and the lines to come after them.
    pub(crate) fn last(&self, app: Option<&str>, count: usize) -> (Vec<LogLine>, broadcast::Receiver<LogLine>) {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let mut found: Vec<LogLine> =
            lines.iter().rev().filter(|line| app.is_none() || line.app.as_deref() == app).take(count).cloned().collect();
        found.reverse();
        (found, self.news.subscribe())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_bounded_and_told_apart() {
        let logs = Logs::new(NodeId::new("edge-1").unwrap());
        for number in 0..LINES_MAX + 10 {
            logs.function("a", "f", LogStream::Stdout, &number.to_string());
        }
        logs.system(Some("b"), None, &"x".repeat(LINE_BYTES_MAX * 2));
        let (lines, _) = logs.last(Some("a"), 3);
        assert_eq!(lines.iter().map(|line| line.text.as_str()).collect::<Vec<_>>(), ["2007", "2008", "2009"]);
        let (lines, _) = logs.last(None, usize::MAX);
        assert_eq!(lines.len(), LINES_MAX);
        assert_eq!(lines.last().unwrap().text.len(), LINE_BYTES_MAX);
    }
}
