//! The last lines that functions and the node itself have logged, and those to come.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;

use bytes::Bytes;
use littoral_model::id::NodeId;
use littoral_model::wire;
use serde::{Deserialize, Serialize};

use crate::admin::types::{LogLine, LogStream};
use crate::sync::lock;

/// How many lines a node remembers; with [`LINE_BYTES_MAX`] this bounds the memory.
const LINES_MAX: usize = 2_000;
/// Longer lines are cut.
const LINE_BYTES_MAX: usize = 4_096;
/// How many lines one answer carries; with [`LINE_BYTES_MAX`] it fits into a message.
const ANSWER_LINES_MAX: usize = 1_000;

/// Asks for lines of one app, or of all.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct LogQuery {
    /// Of which app.
    pub(crate) app: Option<String>,
    /// Lines from this number on; without one the last `count`.
    pub(crate) from: Option<u64>,
    /// How many at most.
    pub(crate) count: usize,
}

/// Lines, and the number of the next one to come.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct LogAnswer {
    pub(crate) lines: Vec<LogLine>,
    pub(crate) next: u64,
}

/// The log lines of one node.
#[derive(Debug)]
pub(crate) struct Logs {
    node: NodeId,
    lines: Mutex<Lines>,
}

#[derive(Debug, Default)]
struct Lines {
    /// By their numbers.
    held: VecDeque<(u64, LogLine)>,
    /// How many are held of each app.
    by_app: BTreeMap<Option<String>, usize>,
    /// The number of the next line.
    next: u64,
}

impl Lines {
    /// Takes a line in. The oldest goes of the app that has most: one that writes without end takes nobody else's place.
    fn push(&mut self, line: LogLine) {
        *self.by_app.entry(line.app.clone()).or_default() += 1;
        self.held.push_back((self.next, line));
        self.next += 1;
        if self.held.len() <= LINES_MAX {
            return;
        }
        let most = self.by_app.iter().max_by_key(|(_, count)| **count).map(|(app, _)| app.clone());
        let oldest = self.held.iter().position(|(_, line)| Some(&line.app) == most.as_ref());
        if let Some((_, gone)) = oldest.and_then(|oldest| self.held.remove(oldest))
            && let Some(count) = self.by_app.get_mut(&gone.app)
        {
            *count -= 1;
            if *count == 0 {
                self.by_app.remove(&gone.app);
            }
        }
    }
}

impl Logs {
    pub(crate) fn new(node: NodeId) -> Self {
        Self { node, lines: Mutex::default() }
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
        lock(&self.lines).push(line);
    }

    /// The lines that are asked for, oldest first.
    pub(crate) fn find(&self, query: &LogQuery) -> LogAnswer {
        let lines = lock(&self.lines);
        let count = query.count.min(ANSWER_LINES_MAX);
        let wanted = |line: &LogLine| query.app.is_none() || line.app == query.app;
        let Some(from) = query.from else {
            let newest = lines.held.iter().rev().map(|(_, line)| line).filter(|line| wanted(line));
            let mut found: Vec<LogLine> = newest.take(count).cloned().collect();
            found.reverse();
            return LogAnswer { lines: found, next: lines.next };
        };
        let mut answer = LogAnswer { lines: Vec::new(), next: lines.next };
        for (number, line) in lines.held.iter().filter(|(number, _)| *number >= from) {
            if answer.lines.len() >= count {
                answer.next = *number;
                break;
            }
            answer.lines.extend(Some(line).filter(|line| wanted(line)).cloned());
        }
        answer
    }

    /// Answers another node's [`littoral_mesh::Method::Logs`].
    pub(crate) fn answer(&self, payload: &[u8]) -> Result<Bytes, String> {
        let query: LogQuery = wire::decode(payload).map_err(|error| error.to_string())?;
        wire::encode(&self.find(&query)).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    #[test]
    fn an_app_that_writes_without_end_takes_no_place_of_another() {
        let logs = Logs::new(NodeId::new("edge-1").unwrap());
        for number in 0..20 {
            logs.function("quiet", "f", LogStream::Stdout, &number.to_string());
        }
        for number in 0..3 * LINES_MAX {
            logs.function("loud", "f", LogStream::Stdout, &number.to_string());
        }
        let query = |app: &str| LogQuery { app: Some(app.to_owned()), from: None, count: ANSWER_LINES_MAX };
        assert_eq!(logs.find(&query("quiet")).lines.len(), 20);
        assert_eq!(logs.find(&query("loud")).lines.last().unwrap().text, (3 * LINES_MAX - 1).to_string());
    }

    #[test]
    fn lines_are_bounded_and_told_apart() {
        let logs = Logs::new(NodeId::new("edge-1").unwrap());
        for number in 0..LINES_MAX + 10 {
            logs.function("a", "f", LogStream::Stdout, &number.to_string());
        }
        logs.system(Some("b"), None, &"x".repeat(LINE_BYTES_MAX * 2));
        let query = |app: Option<&str>, from, count| LogQuery { app: app.map(str::to_owned), from, count };
        let texts = |answer: &LogAnswer| answer.lines.iter().map(|line| line.text.clone()).collect::<Vec<_>>();
        let last = logs.find(&query(Some("a"), None, 3));
        assert_eq!(texts(&last), ["2007", "2008", "2009"]);
        assert_eq!(logs.find(&query(None, None, 1)).lines[0].text.len(), LINE_BYTES_MAX);
        // Who follows goes on where it was, and does not see a line twice.
        logs.function("a", "f", LogStream::Stdout, "new");
        let news = logs.find(&query(Some("a"), Some(last.next), 10));
        assert_eq!(texts(&news), ["new"]);
        assert!(logs.find(&query(Some("a"), Some(news.next), 10)).lines.is_empty());
        // Who lagged too far goes on with what is left.
        assert_eq!(texts(&logs.find(&query(Some("a"), Some(0), 1))), ["12"]);
    }
}
