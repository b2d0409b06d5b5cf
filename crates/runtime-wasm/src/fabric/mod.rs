//! What a fabric gives its functions: their context, calls of one another, publications, buckets, configuration.
//!
//! A guest sees it as `littoral:fabric` (`host`), `wasi:keyvalue` (`keyvalue`), `wasi:config` and `wasi:logging`
//! (`settings`). Whoever runs functions supplies what lies beyond the instance as a [`Fabric`], and says with each call
//! in which [`Invocation`] it happens. What the manifest does not grant never reaches the fabric (`grants`).

pub(crate) mod bindings;
pub(crate) mod devices;
pub(crate) mod keyvalue;

mod grants;
mod host;
mod invocation;
mod settings;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderValue;
pub use littoral_model::composition::CALL_DEPTH_MAX;
use littoral_model::id::{AppId, BucketName, FunctionName, NodeId, SiteId, StreamName, Tier};

pub use devices::Device;
pub(crate) use host::add_to_linker;
pub use invocation::Invocation;
pub(crate) use invocation::Present;

/// The most bytes that one function hands to another, or gets from it; it fits into a message between nodes.
pub const PAYLOAD_BYTES_MAX: usize = 4 << 20;
/// The longest media type.
pub(crate) const CONTENT_TYPE_BYTES_MAX: usize = 256;
/// The most records in one publication.
pub(crate) const MESSAGES_MAX: usize = 1_000;
/// The most bytes of keys and values in one publication.
pub(crate) const MESSAGES_BYTES_MAX: usize = 4 << 20;
/// The longest key of a record, and the longest value.
pub(crate) const MESSAGE_KEY_BYTES_MAX: usize = 1 << 10;
pub(crate) const MESSAGE_VALUE_BYTES_MAX: usize = 1 << 20;

/// What lies around an instance: its configuration, and its fabric if it has one.
#[derive(Clone, Default)]
pub struct Surroundings {
    /// What `wasi:config` shows, secrets among it.
    pub config: Vec<(String, String)>,
    /// None under `littoral run`.
    pub attached: Option<Attached>,
}

/// A fabric, and a function's place in it.
#[derive(Clone)]
pub struct Attached {
    /// Whose function it is, and where it runs.
    pub place: Place,
    /// The fabric.
    pub fabric: Arc<dyn Fabric>,
}

/// Whose function an instance is, and where it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its app.
    pub app: AppId,
    /// Its name.
    pub function: FunctionName,
    /// Its node.
    pub node: NodeId,
    /// The node's tier.
    pub tier: Tier,
    /// The node's site.
    pub site: SiteId,
}

/// What is handed to a function, and what it answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Payload {
    /// The media type; empty if nothing is known.
    pub content_type: String,
    /// At most [`PAYLOAD_BYTES_MAX`].
    pub body: Bytes,
}

/// One function's call of another.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// Which one is called.
    pub function: FunctionName,
    /// With what.
    pub request: Payload,
    /// How long it may take, the way there and back included.
    pub within: Duration,
    /// How many calls lead to the called function; from 1.
    pub depth: u32,
    /// The trace it belongs to.
    pub traceparent: HeaderValue,
}

/// A record to publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Records with the same key keep their order.
    pub key: Option<String>,
    /// What is published.
    pub value: String,
    /// Its event time in microseconds since 1970.
    pub time_us: Option<i64>,
}

/// Why a call has no answer, for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The app has no such function.
    #[error("{0}")]
    NotFound(String),
    /// It has not run.
    #[error("{0}")]
    Unavailable(String),
    /// It may have run.
    #[error("{0}")]
    TimedOut(String),
    /// It failed, or answered with an error.
    #[error("{0}")]
    Failed(String),
}

/// Why records were not published, for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// The app has no such stream.
    #[error("{0}")]
    NotFound(String),
    /// They cannot be stored.
    #[error("{0}")]
    Invalid(String),
    /// Whether they were stored is not known.
    #[error("{0}")]
    Unavailable(String),
}

/// Why a bucket does not do what it is asked, for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BucketError(pub String);

/// Some keys of a bucket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keys {
    /// In their order.
    pub keys: Vec<String>,
    /// How many keys to skip for the next ones, if there are more.
    pub next: Option<u64>,
}

/// Keys with their new values; none removes the key.
pub type Changes = Vec<(String, Option<Bytes>)>;

/// What functions need of the fabric they run in. Grants are checked before it is asked.
#[wasmtime_wasi::async_trait]
pub trait Fabric: Send + Sync {
    /// Calls another function of the same app.
    ///
    /// # Errors
    /// See [`CallError`].
    async fn call(&self, from: &Place, call: Outgoing) -> Result<Payload, CallError>;

    /// Appends records to a stream of the app; answers how many are stored.
    ///
    /// # Errors
    /// See [`PublishError`].
    async fn publish(&self, from: &Place, stream: &StreamName, messages: Vec<Message>) -> Result<u64, PublishError>;

    /// The values of keys of a bucket, in their order.
    ///
    /// # Errors
    /// When the disk fails.
    async fn get(
        &self,
        from: &Place,
        bucket: &BucketName,
        keys: Vec<String>,
    ) -> Result<Vec<Option<Bytes>>, BucketError>;

    /// Changes a bucket, all or nothing, and returns once that is durable.
    ///
    /// # Errors
    /// When a bound would be passed, or the disk fails.
    async fn change(&self, from: &Place, bucket: &BucketName, changes: Changes) -> Result<(), BucketError>;

    /// Adds to a decimal number in a bucket, which is 0 at first; answers the sum once it is durable.
    ///
    /// # Errors
    /// When the value is no such number, the sum has more than 64 bits, or as for [`change`](Self::change).
    async fn increment(&self, from: &Place, bucket: &BucketName, key: String, delta: u64) -> Result<u64, BucketError>;

    /// Some keys of a bucket, after skipping others.
    ///
    /// # Errors
    /// When the disk fails.
    async fn keys(&self, from: &Place, bucket: &BucketName, skip: u64) -> Result<Keys, BucketError>;
}

impl std::fmt::Debug for Surroundings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The configuration may hold secrets.
        let place = self.attached.as_ref().map(|attached| &attached.place);
        f.debug_struct("Surroundings").field("place", &place).finish_non_exhaustive()
    }
}
