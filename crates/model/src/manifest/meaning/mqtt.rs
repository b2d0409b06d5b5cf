//! What cannot be right of topics, whatever their shape: patterns that are none, streams that are not there, messages
//! that would belong to two streams.

use super::{Meaning, entries_of_any_kind, text};
use crate::topic::TopicPattern;

/// The most patterns of an app: each is compared with each, here and in every message's way.
const TOPICS_MAX: usize = 256;

impl Meaning<'_, '_, '_, '_> {
    pub(super) fn check_topics(&mut self) {
        let mut taking: Vec<TopicPattern> = Vec::new();
        let Some(topics) = super::table(self.root, "mqtt") else { return };
        if topics.len() > TOPICS_MAX
            && let Some(value) = self.root.get("mqtt")
        {
            let message = format!("there are {} patterns of topics", topics.len());
            self.report.add("out-of-range", value.span(), message).expected(format!("at most {TOPICS_MAX}"));
            return;
        }
        let keys = topics.iter().map(|(key, _)| key.span());
        for ((name, value), key) in entries_of_any_kind(self.root, "mqtt").zip(keys) {
            let table = value.get_ref().as_table();
            if let Some((stream, span)) = table.and_then(|table| text(table, "stream")) {
                self.stream(stream, span);
            }
            let pattern = match name.parse::<TopicPattern>() {
                Ok(pattern) => pattern,
                Err(error) => {
                    let expected = "a topic like \"sensors/7\", \"sensors/+\" or \"sensors/{key}\"";
                    self.report.add("invalid-topic", key, error.to_string()).expected(expected);
                    continue;
                }
            };
            let clients = table.and_then(|table| text(table, "clients"));
            if let (Some(("publish", span)), false) = (&clients, pattern.takes_messages()) {
                let message = format!("what is published to `{name}` is a record that has no such column");
                self.report
                    .add("contradiction", span.clone(), message)
                    .help("name no column but `{key}`, or say \"subscribe\"");
            }
            if let (Some(("publish", _)), Some(retain)) = (&clients, table.and_then(|table| table.get("retain"))) {
                let message = "nobody subscribes to topics that are for publishing only";
                self.report.add("contradiction", retain.span(), message).help("drop `retain`, or `clients`");
            }
            if clients.is_some_and(|(clients, _)| clients == "subscribe") || !pattern.takes_messages() {
                continue;
            }
            if let Some(other) = taking.iter().find(|other| other.filter().overlaps(pattern.filter())) {
                let message = format!("a message may match both `{name}` and `{}`", other.as_str());
                self.report
                    .add("ambiguous", key, message)
                    .help("let them differ in a level, or say `clients = \"subscribe\"` of one");
            }
            taking.push(pattern);
        }
    }
}
