//! The shapes of what the admin API says about events.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What kind of event it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum EventKind {
    /// An objective will be violated if things go on as they do.
    Threatened,
    /// An objective is violated.
    Violated,
    /// Something is done about it.
    Action,
    /// Nothing can be done about it, or what was done did not help.
    Helpless,
    /// An objective holds again, or has held for so long that a stage goes on with better variants of its functions.
    Restored,
}

impl std::fmt::Display for EventKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Threatened => "threatened",
            Self::Violated => "violated",
            Self::Action => "action",
            Self::Helpless => "helpless",
            Self::Restored => "restored",
        })
    }
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EventRow {
    /// When, in microseconds since 1970, by the clock of the node.
    pub time_us: i64,
    /// Which node noted it.
    pub node: String,
    /// Which app it concerns.
    pub app: String,
    /// What of it, as `flow health`.
    pub subject: String,
    /// What kind of event.
    pub kind: EventKind,
    /// What happened, with the measurement that it rests on.
    pub text: String,
    /// What was moved or varied, where that is what was done.
    #[serde(default)]
    pub moved: Option<Moved>,
}

/// A unit of work that was moved, or went on where it was with other variants of its functions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Moved {
    /// Which.
    pub work: String,
    /// Which node had it.
    pub from: String,
    /// Which node has it since; the same one if it did not move.
    pub to: String,
    /// What 95 of 100 records took before, end to end, in microseconds.
    pub p95_us: u64,
}

/// What happened on all nodes, the oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EventsReport {
    /// The events.
    pub events: Vec<EventRow>,
    /// Live nodes that did not answer.
    pub missing: Vec<String>,
}
