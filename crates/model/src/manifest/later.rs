//! What a manifest says of calling functions later: their queues, and what puts invocations into them by itself.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::types::Ack;
use crate::id::{FunctionName, StreamName};
use crate::unit::Time;

/// How a function is called asynchronously. Each accepted call is run at least once, unless it gets too old first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Later {
    /// How often a call is tried that the function answers with an error (408, 425, 5xx), before it is a dead letter. What
    /// does not reach the function, or is turned away with 429 or 503, does not count.
    #[schemars(range(min = 1, max = 1_000))]
    pub attempts: u32,
    /// How long after it was accepted a call is tried, before it is a dead letter.
    pub max_age: Time,
    /// The longest wait before the second try; it doubles with each further one, up to a minute. The wait is drawn between
    /// nothing and that.
    pub backoff: Time,
    /// How long a result is kept, and an idempotency key known, after the function has answered.
    pub keep_results: Time,
    /// How many calls of a queue run at once.
    #[schemars(range(min = 1, max = 256))]
    pub concurrency: u32,
    /// How far an idempotency key reaches: over the calls that are accepted in one `site`, which goes on inside a cut, or over
    /// all of the `app`, where a call is refused while the queue that its key belongs to cannot be reached.
    pub keys: KeyScope,
    /// When a call counts as accepted: on its owner's disk (`local`), or on two disks of the site (`site`). Left out: `site`
    /// where the site has two nodes or more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ack: Option<Ack>,
}

impl Default for Later {
    fn default() -> Self {
        Self {
            attempts: 10,
            max_age: Time::from_micros(86_400_000_000),
            backoff: Time::from_micros(1_000_000),
            keep_results: Time::from_micros(86_400_000_000),
            concurrency: 16,
            keys: KeyScope::Site,
            ack: None,
        }
    }
}

/// How far an idempotency key reaches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum KeyScope {
    /// Over the calls that are accepted in one site.
    #[default]
    Site,
    /// Over all calls of the app's function.
    App,
}

/// What calls a function by itself: a schedule or a stream. The function needs an `async` table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Trigger {
    /// The function that is called.
    pub function: FunctionName,
    /// When, in the five fields of cron: minute, hour, day of the month, month, day of the week.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<String>,
    /// The time that the schedule is meant in: `UTC`, or how far ahead of it, as `+02:00`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// The stream of which each record is a call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<StreamName>,
}
