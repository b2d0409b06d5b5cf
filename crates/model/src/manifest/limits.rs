//! What an instance of a function may use besides `memory` and `timeout`: the one table of these limits, their ranges
//! and what holds where a manifest says nothing.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::unit::{Cpus, Size, Time};

/// The largest body of a request that any function takes: what goes to a function on another node is one message.
pub const REQUEST_BYTES_MAX: u64 = 8 << 20;
/// The largest body of a response that may be allowed; longer ones belong into a stream.
pub const RESPONSE_BYTES_MAX: u64 = 4 << 30;
/// The most elements of a table that may be allowed: what a slot of the pool of instances has room for.
pub const TABLE_ELEMENTS_MAX: u32 = 32 << 10;
/// How many processors an instance may be limited to, in thousandths: the kernel counts no less than a millisecond in each
/// tenth of a second, and no machine has more.
pub(super) const CPUS_MILLIS: std::ops::RangeInclusive<u64> = 10..=1_000_000;
/// How many requests of an HTTP function one node answers at once where nothing else is said.
pub const CONCURRENCY_DEFAULT: u32 = 256;

/// What an instance may use besides its memory and the time of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Limits {
    /// How much CPU time one call may use; its `timeout` if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Time>,
    /// How many processors' time an instance of an image or of a program may use, 10m to 1000; all there is if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus: Option<Cpus>,
    /// How many requests of an HTTP function one node answers at once; more are answered with 503.
    #[schemars(range(min = 1, max = 10_000))]
    pub concurrency: u32,
    /// The longest body of a request to it, 1B to 8MiB; longer ones are answered with 413.
    pub request: Size,
    /// The longest body of its response, 1B to 4GiB; a longer one breaks off.
    pub response: Size,
    /// How many lines a second it may log for ever, after a burst of ten seconds' worth; more are dropped.
    #[schemars(range(min = 1, max = 100_000))]
    pub log_rate: u32,
    /// How many elements each of its tables may have.
    #[schemars(range(min = 1, max = 32_768))]
    pub table_elements: u32,
    /// How many core modules its component may be made of.
    #[schemars(range(min = 1, max = 1_000))]
    pub core_instances: u32,
}

impl Default for Limits {
    /// 256 requests at once, which half fill the pool of instances of a small server; the longest requests that there
    /// are; 64 MiB of response, which a client can still hold in memory; 100 lines a second, more than anybody reads;
    /// tables as large as there is room for; a hundred core modules, where compilers make four or five.
    fn default() -> Self {
        Self {
            cpu: None,
            cpus: None,
            concurrency: CONCURRENCY_DEFAULT,
            request: Size::from_bytes(REQUEST_BYTES_MAX),
            response: Size::from_bytes(64 << 20),
            log_rate: 100,
            table_elements: TABLE_ELEMENTS_MAX,
            core_instances: 100,
        }
    }
}

impl Limits {
    /// Whether a manifest need not mention them.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}
