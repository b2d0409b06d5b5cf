//! Asynchronous invocations: what a queue's owner keeps of each, and what others ask of it.
//!
//! A queue is a unit of work (see [`crate::work`]); its log's entries change the records of invocations, each in a key
//! group of its own (see [`crate::entry::Commit::state`]). A record is stored as a [`Stored`], whose variants are the versions of
//! its format.

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::id::{AppId, AppName, FunctionName, InvocationId, SiteId, TenantId};
use crate::wire::{self, WireError};
use crate::work::{Assignment, WorkId, WorkKind};

/// The largest body of a request that is kept, in bytes.
pub const BODY_BYTES_MAX: usize = 1 << 20;
/// The longest idempotency key, in bytes.
pub const KEY_BYTES_MAX: usize = 256;
/// The most that the headers of a request or an answer may have together, in bytes.
pub const HEADERS_BYTES_MAX: usize = 32 << 10;

/// The name of an invocation anywhere in the fabric; written `tenant.app.function.site.partition.id`, which says where its
/// queue is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct InvocationName {
    /// Its queue.
    pub queue: WorkId,
    /// Which of the queue.
    pub id: InvocationId,
}

impl fmt::Display for InvocationName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let WorkId { app, name, partition, site, .. } = &self.queue;
        write!(f, "{}.{}.{name}.{site}.{partition}.{}", app.tenant, app.app, self.id)
    }
}

/// A text that does not name an invocation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` names no invocation; expected tenant.app.function.site.partition.id, as `littoral call --async` prints it"
)]
pub struct InvalidInvocation(pub String);

impl FromStr for InvocationName {
    type Err = InvalidInvocation;

    fn from_str(text: &str) -> Result<Self, InvalidInvocation> {
        let invalid = || InvalidInvocation(text.to_owned());
        let parts: Vec<&str> = text.split('.').collect();
        let [tenant, app, function, site, partition, id] = parts.as_slice() else { return Err(invalid()) };
        let tenant = TenantId::new(tenant).map_err(|_| invalid())?;
        let app = AppName::new(app).map_err(|_| invalid())?;
        let function = FunctionName::new(function).map_err(|_| invalid())?;
        let site = SiteId::new(site).map_err(|_| invalid())?;
        let partition = partition.parse().map_err(|_| invalid())?;
        let id = InvocationId(id.parse().map_err(|_| invalid())?);
        let app = AppId { tenant, app };
        let queue = WorkId { app, kind: WorkKind::Queue, name: function.to_string(), partition, site };
        Ok(Self { queue, id })
    }
}

impl TryFrom<String> for InvocationName {
    type Error = InvalidInvocation;
    fn try_from(text: String) -> Result<Self, InvalidInvocation> {
        text.parse()
    }
}

impl From<InvocationName> for String {
    fn from(name: InvocationName) -> String {
        name.to_string()
    }
}

/// The HTTP request that a function is called with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// The method.
    pub method: String,
    /// Path and query.
    pub uri: String,
    /// The headers that are handed on.
    pub headers: Vec<(String, Bytes)>,
    /// The body, at most [`BODY_BYTES_MAX`].
    pub body: Bytes,
}

impl Request {
    /// Tells requests apart that have the same idempotency key by mistake (64-bit FNV-1a over method, path and body).
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        let parts = [self.method.as_bytes(), b" ", self.uri.as_bytes(), b" ", &self.body];
        let fold = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        parts.iter().flat_map(|part| part.iter()).fold(0xcbf2_9ce4_8422_2325, fold)
    }

    /// About how much memory it takes, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.uri.len() + headers_bytes(&self.headers) + self.body.len()
    }
}

/// What a function answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The headers.
    pub headers: Vec<(String, Bytes)>,
    /// The body; none if it was not kept: it was too large, or room was needed for newer ones.
    pub body: Option<Bytes>,
}

impl Answer {
    /// About how much memory it takes, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        headers_bytes(&self.headers) + self.body.as_ref().map_or(0, Bytes::len)
    }
}

/// How many bytes headers have.
#[must_use]
pub fn headers_bytes(headers: &[(String, Bytes)]) -> usize {
    headers.iter().map(|(name, value)| name.len() + value.len()).sum()
}

/// Where an invocation stands. Times are in microseconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// It is to be run, again if it was tried before.
    Pending {
        /// Not before.
        due_us: i64,
    },
    /// The function has answered.
    Done {
        /// When.
        at_us: i64,
        /// What.
        answer: Answer,
    },
    /// It was given up.
    Dead {
        /// When.
        at_us: i64,
    },
}

/// What a [`State`] is, without what belongs to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StateKind {
    /// [`State::Pending`].
    Pending,
    /// [`State::Done`].
    Done,
    /// [`State::Dead`].
    Dead,
}

impl State {
    /// Which it is.
    #[must_use]
    pub fn kind(&self) -> StateKind {
        match self {
            Self::Pending { .. } => StateKind::Pending,
            Self::Done { .. } => StateKind::Done,
            Self::Dead { .. } => StateKind::Dead,
        }
    }
}

/// One invocation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Which.
    pub id: InvocationId,
    /// The client's key: the same one stands for the same invocation for as long as the record is kept.
    pub key: Option<String>,
    /// [`Request::fingerprint`] of its request.
    pub fingerprint: u64,
    /// When it was accepted, in microseconds since 1970.
    pub accepted_us: i64,
    /// What the function is called with; none once it has answered.
    pub request: Option<Request>,
    /// Where it stands.
    pub state: State,
    /// How often the function has answered with an error that is worth another try.
    pub attempts: u32,
    /// How often no answer came: none of its instances could be reached, or it did not finish.
    pub unanswered: u32,
    /// Why the last try failed.
    pub error: Option<String>,
}

/// A record as it is stored: a variant for each version of the format.
#[allow(clippy::large_enum_variant, reason = "made to be encoded, and taken apart when decoded")]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stored {
    /// An invocation.
    V1(Record),
    /// What the queue remembers of its schedules: the name of a trigger, and its last tick that was taken in, in
    /// microseconds since 1970.
    TicksV1(Vec<(String, i64)>),
}

impl Stored {
    /// Encodes it.
    ///
    /// # Errors
    /// When it is larger than a message may be.
    pub fn encode(&self) -> Result<Bytes, WireError> {
        wire::encode(self)
    }

    /// Decodes it.
    ///
    /// # Errors
    /// When it is not what this program writes.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        wire::decode(bytes)
    }
}

/// What is asked of a queue's owner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueRequest {
    /// Which queue.
    pub queue: WorkId,
    /// What.
    pub ask: QueueAsk,
}

/// What can be asked of a queue's owner. Each may be repeated and does no more than once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum QueueAsk {
    /// Accept an invocation.
    Add {
        /// Its id, drawn by who asks: a repeat is known by it.
        id: InvocationId,
        /// The client's key.
        key: Option<String>,
        /// What the function is to be called with.
        request: Request,
    },
    /// How an invocation stands; answered once it is done or dead, or after `wait_ms`.
    Show {
        /// Which.
        id: InvocationId,
        /// How long to wait, in milliseconds.
        wait_ms: u32,
    },
    /// All invocations, the latest first, without bodies.
    List {
        /// At most so many.
        limit: u32,
    },
    /// Run one that is dead once more, with all its attempts before it.
    Retry {
        /// Which.
        id: InvocationId,
    },
    /// Forget one, whatever its state.
    Drop {
        /// Which.
        id: InvocationId,
    },
    /// The invocations that stand so, the latest first, without bodies; answered as [`QueueAsk::List`]. Of an older owner no
    /// answer comes.
    ListOf {
        /// How.
        state: StateKind,
        /// At most so many.
        limit: u32,
    },
}

/// What a queue's owner answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum QueueReply {
    /// It is durable.
    Accepted {
        /// The invocation; another one's id if the key was known.
        id: InvocationId,
        /// Whether it had been accepted before.
        repeated: bool,
    },
    /// There is no room: try again later.
    Full(String),
    /// The key belongs to another request.
    KeyTaken,
    /// The invocation; none if it is not known (any more).
    Shown(Option<Record>),
    /// The invocations, their requests and answers without bodies.
    Listed(Vec<Record>),
    /// What [`QueueAsk::Retry`] and [`QueueAsk::Drop`] found: whether there is such an invocation, in such a state.
    Changed(bool),
    /// The asked node does not own the queue; who may.
    NotOwner(Option<Assignment>),
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_where_the_queue_is() {
        let text = "default.shop.resize.hall-7.2.01ARZ3NDEKTSV4RRFFQ69G5FAV";
        let name: InvocationName = text.parse().unwrap();
        assert_eq!(name.queue.to_string(), "default/shop/queue/resize/2@hall-7");
        assert_eq!(name.to_string(), text);
        for wrong in [
            "",
            "a.b.c",
            "default.shop.resize.hall-7.2.nonsense",
            "default.SHOP.resize.hall-7.2.01ARZ3NDEKTSV4RRFFQ69G5FAV",
        ] {
            assert!(wrong.parse::<InvocationName>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_fingerprint_tells_requests_apart() {
        let request = |body: &'static str| Request {
            method: "POST".to_owned(),
            uri: "/a".to_owned(),
            headers: Vec::new(),
            body: body.into(),
        };
        assert_eq!(request("x").fingerprint(), request("x").fingerprint());
        assert_ne!(request("x").fingerprint(), request("y").fingerprint());
    }
}
