//! What a manifest says of topics of MQTT: which of them are a stream's records.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::id::StreamName;
use crate::topic::TopicPattern;

/// Topics that are a stream's records: what clients publish there is appended to the stream, and who subscribes gets what
/// is appended to it, by whomever.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Topic {
    /// The stream.
    pub stream: StreamName,
    /// What clients may do there; if left out, both, where the pattern allows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clients: Option<TopicUse>,
    /// Whether who subscribes gets the last record of each topic first.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub retain: bool,
}

/// What clients may do with topics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TopicUse {
    /// To publish to them.
    Publish,
    /// To subscribe to them.
    Subscribe,
}

impl Topic {
    /// Whether clients may publish to its topics.
    #[must_use]
    pub fn takes_messages(&self, pattern: &TopicPattern) -> bool {
        self.clients != Some(TopicUse::Subscribe) && pattern.takes_messages()
    }

    /// Whether clients may subscribe to its topics.
    #[must_use]
    pub fn gives_messages(&self) -> bool {
        self.clients != Some(TopicUse::Publish)
    }
}
