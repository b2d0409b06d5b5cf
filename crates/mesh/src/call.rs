//! Calls: what one node asks of another, and how such a call can fail.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use littoral_model::id::InvocationId;
use littoral_model::wire::{PROTOCOL_VERSION_MIN, VersionRange};
use serde::{Deserialize, Serialize};

/// The largest payload of a call or a reply, in bytes: a [`littoral_model::wire`] message and some room for its frame.
pub const PAYLOAD_BYTES_MAX: usize = littoral_model::wire::MESSAGE_BYTES_MAX + 4096;

/// What is asked for; the payload's type follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Method {
    /// Answered by the mesh itself: is the node there, and how far is it?
    Ping = 0,
    /// Who owns a unit of work?
    Locate = 1,
    /// Rows of a work's log.
    Fetch = 2,
    /// Rows from outside into a stream.
    Publish = 3,
    /// Entries of a log for a replica.
    Replicate = 4,
    /// State for a replica that is too far behind.
    Install = 5,
    /// A message of a site's consensus group.
    Consensus = 6,
    /// A command for a site's keeper.
    Keeper = 7,
    /// Exchange of intent.
    Intent = 8,
    /// A piece of an artefact.
    Artifact = 9,
    /// A call of a function.
    Invoke = 10,
    /// Lines that a function has logged.
    Logs = 11,
    /// A request of the admin API for another node.
    Admin = 12,
    /// A call of a function by another one.
    Call = 13,
    /// What the node's functions have used.
    Usage = 14,
    /// A call of a function of an interface that another function of the app imports.
    Compose = 15,
    /// A scheduler's call for bids, and what it does with them.
    Bid = 20,
    /// What happened on the node.
    Events = 21,
    /// Asynchronous invocations, of the owner of their queue.
    Queue = 22,
    /// A stage's owner is to go on with other variants of its functions.
    Vary = 23,
    /// Answered by the mesh itself: digests and subscriptions are exchanged, versions negotiated.
    Hello = 32,
    /// Answered by the mesh itself: messages for a subscription.
    Deliver = 33,
}

impl Method {
    /// Every method.
    pub const ALL: [Self; 22] = [
        Self::Ping,
        Self::Locate,
        Self::Fetch,
        Self::Publish,
        Self::Replicate,
        Self::Install,
        Self::Consensus,
        Self::Keeper,
        Self::Intent,
        Self::Artifact,
        Self::Invoke,
        Self::Logs,
        Self::Admin,
        Self::Call,
        Self::Usage,
        Self::Compose,
        Self::Bid,
        Self::Events,
        Self::Queue,
        Self::Vary,
        Self::Hello,
        Self::Deliver,
    ];

    /// The method of a number on the wire.
    #[must_use]
    pub fn from_wire(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|method| *method as u8 == number)
    }

    /// Whether doing it twice does no more than doing it once. The receiver remembers its replies to the others.
    #[must_use]
    pub fn is_idempotent(self) -> bool {
        let repeats_harm = matches!(
            self,
            Self::Publish
                | Self::Keeper
                | Self::Invoke
                | Self::Admin
                | Self::Call
                | Self::Compose
                | Self::Vary
                | Self::Deliver
        );
        !repeats_harm
    }

    /// Its name, for logs and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ping => "ping",
            Self::Locate => "locate",
            Self::Fetch => "fetch",
            Self::Publish => "publish",
            Self::Replicate => "replicate",
            Self::Install => "install",
            Self::Consensus => "consensus",
            Self::Keeper => "keeper",
            Self::Intent => "intent",
            Self::Artifact => "artifact",
            Self::Invoke => "invoke",
            Self::Logs => "logs",
            Self::Admin => "admin",
            Self::Call => "call",
            Self::Usage => "usage",
            Self::Compose => "compose",
            Self::Bid => "bid",
            Self::Events => "events",
            Self::Queue => "queue",
            Self::Vary => "vary",
            Self::Hello => "hello",
            Self::Deliver => "deliver",
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What goes first when a link or a node is short of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Priority {
    /// What keeps the fabric together: consensus, assignments, membership.
    Control,
    /// What a user waits for: fetches, publications, invocations.
    Data,
    /// What nobody waits for: artefacts, states of replicas, old logs.
    Bulk,
}

impl Priority {
    /// Every priority, the most urgent first.
    pub const ALL: [Self; 3] = [Self::Control, Self::Data, Self::Bulk];
}

/// One request to another node.
#[derive(Clone, Debug)]
pub struct Call {
    /// What is asked for.
    pub method: Method,
    /// The request, at most [`PAYLOAD_BYTES_MAX`].
    pub payload: Bytes,
    /// How urgent it is.
    pub priority: Priority,
    /// How long the caller waits, retries included.
    pub deadline: Duration,
    /// Repeats of one call carry the same; see [`crate::Mesh::invocation`].
    pub invocation: InvocationId,
    /// The W3C trace context it belongs to (`traceparent`), if any.
    pub trace: Option<String>,
}

impl Call {
    /// A call that belongs to no trace.
    #[must_use]
    pub fn new(
        method: Method,
        payload: Bytes,
        priority: Priority,
        deadline: Duration,
        invocation: InvocationId,
    ) -> Self {
        Self { method, payload, priority, deadline, invocation, trace: None }
    }
}

/// A call as its receiver sees it.
#[derive(Clone, Debug)]
pub struct Incoming {
    /// What is asked for.
    pub method: Method,
    /// The request.
    pub payload: Bytes,
    /// How urgent it is.
    pub priority: Priority,
    /// How much of the caller's time was left on arrival; handling is stopped when it has passed.
    pub deadline: Duration,
    /// The same for repeats of one call.
    pub invocation: InvocationId,
    /// The W3C trace context it belongs to, if any.
    pub trace: Option<String>,
}

/// Why a call has no result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The node is a member but no answer came in time. The call may have taken effect: repeat it with the same
    /// invocation id to find out.
    #[error(
        "no answer to {method} from {node} within {waited_ms} ms; it may have taken effect: repeat it with the same invocation id"
    )]
    DeadlineExceeded {
        /// Who was asked.
        node: String,
        /// What was asked for.
        method: Method,
        /// How long the caller waited.
        waited_ms: u64,
    },
    /// The node is not a member now, or stopped being one meanwhile.
    #[error("{node} cannot be reached; see `littoral get nodes` for who can")]
    Unreachable {
        /// Who was asked.
        node: String,
    },
    /// The node did not start on it: it is busy, or does not know the method. It has had no effect.
    #[error("{node} refused the call: {reason}")]
    Refused {
        /// Who was asked.
        node: String,
        /// Why it refused.
        reason: String,
    },
    /// The two nodes speak no common protocol version.
    #[error("{node} speaks protocol versions {min} to {max}, this node {our_min} to {our_max}: upgrade the older of the two",
        min = theirs.min, max = theirs.max, our_min = PROTOCOL_VERSION_MIN, our_max = VersionRange::OURS.max)]
    Version {
        /// Who was asked.
        node: String,
        /// What it speaks.
        theirs: VersionRange,
    },
    /// The receiver's service handled it, and failed.
    #[error("{0}")]
    Failed(String),
    /// The request or the reply is larger than [`PAYLOAD_BYTES_MAX`].
    #[error("the message has {bytes} bytes; at most {PAYLOAD_BYTES_MAX} are taken: send less at once")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// This side of the mesh has been closed.
    #[error("the mesh is closed: this node is stopping")]
    Closed,
}
