//! What cannot be right of queues and triggers, whatever their shape: functions that answer no HTTP, triggers without a
//! source or without a queue.

use super::{Meaning, entries, list, table, text};
use toml::de::DeTable;

impl<'t> Meaning<'t, '_, '_, '_> {
    /// A function that is called asynchronously answers HTTP, and its times last.
    pub(super) fn later(&mut self, name: &str, function: &'t DeTable<'_>) {
        let Some(later) = table(function, "async") else { return };
        for key in ["max-age", "backoff", "keep-results"] {
            self.not_zero(later, key);
        }
        if let Some(flow) = self.stages().get(name)
            && let Some(value) = function.get("async")
        {
            let message = format!("function {name} is a stage of flow {flow} and cannot be called, at once or later");
            self.report
                .add("contradiction", value.span(), message)
                .help("drop `async`, or let the flow use another function");
        }
    }

    pub(super) fn check_triggers(&mut self) {
        for value in list(self.root, "triggers") {
            let Some(trigger) = value.get_ref().as_table() else { continue };
            if let Some((name, span)) = text(trigger, "function") {
                self.function(name, span.clone());
                let called = entries(self.root, "functions").find(|(function, _)| *function == name);
                if called.is_some_and(|(_, function)| !function.contains_key("async")) {
                    let message = format!("function {name} has no queue that a trigger could put calls into");
                    self.report.add("missing-key", span, message).expected(format!("`[functions.{name}.async]`"));
                }
            }
            if let Some((stream, span)) = text(trigger, "stream") {
                self.stream(stream, span);
            }
            if let Some((schedule, span)) = text(trigger, "schedule")
                && let Err(error) = schedule.parse::<crate::schedule::Schedule>()
            {
                self.report
                    .add("invalid-schedule", span, error.to_string())
                    .expected("five fields, as \"*/15 6-18 * * 1-5\"");
            }
            if let Some((zone, span)) = text(trigger, "zone") {
                if zone.parse::<crate::schedule::Zone>().is_err() {
                    let message = format!("`{zone}` is no distance from UTC");
                    self.report.add("invalid-zone", span.clone(), message).expected("\"UTC\" or one like \"+02:00\"");
                }
                if !trigger.contains_key("schedule") {
                    let message = "a trigger without a schedule needs no zone";
                    self.report.add("contradiction", span, message).help("drop `zone`");
                }
            }
            if trigger.contains_key("schedule") == trigger.contains_key("stream") {
                let message = "a trigger has exactly one of a schedule and a stream";
                self.report.add("trigger-source", value.span(), message).expected("`schedule` or `stream`");
            }
        }
    }
}
