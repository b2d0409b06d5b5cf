//! What accompanies a call on the wire, and the messages that the mesh's own methods carry.
//!
//! Everything is a [`littoral_model::wire`] message (a version byte, then postcard), except the answer to a version that
//! is not spoken: three bytes that no version will ever change, so that any two programs can tell who must upgrade.

use bytes::Bytes;
use littoral_model::digest::NodeDigest;
use littoral_model::id::{InvocationId, NodeId};
use littoral_model::wire::{VersionRange, WireError, decode, encode};
use serde::{Deserialize, Serialize};

use crate::call::{Call, CallError, Method, Priority};

/// First byte of the answer to a message of a version that is not spoken; no protocol version has this number.
const VERSION_MARK: u8 = 0xff;

/// What accompanies the payload of a call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// Who calls.
    pub from: NodeId,
    /// The number of the [`Method`].
    pub method: u8,
    /// How urgent it is.
    pub priority: Priority,
    /// How much of the caller's time is left, in milliseconds.
    pub deadline_ms: u32,
    /// The same for repeats of one call.
    pub invocation: InvocationId,
    /// The W3C trace context, if any.
    pub trace: Option<String>,
}

impl Envelope {
    /// As bytes.
    ///
    /// # Errors
    /// When it is larger than any message may be.
    pub fn encode(&self) -> Result<Bytes, WireError> {
        encode(self)
    }

    /// From bytes.
    ///
    /// # Errors
    /// When they are of a version that is not spoken, or malformed.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        decode(bytes)
    }
}

/// Why a receiver has no reply.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReplyError {
    /// It did not start on the call.
    Refused(String),
    /// Its service failed.
    Failed(String),
    /// The reply is too large; its size.
    TooLarge(u64),
    /// It was stopped at the call's deadline; whether it took effect is not known.
    Late,
    /// It does not speak the caller's version; what it speaks. Never encoded as such, see [`ReplyError::encode`].
    Version(VersionRange),
    /// It hears the caller's pings, but its network has not told it for a while that the caller is there, or finds nobody there.
    Unseen,
}

impl ReplyError {
    /// As bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        if let Self::Version(range) = self {
            return Bytes::copy_from_slice(&[VERSION_MARK, range.min, range.max]);
        }
        encode(self).unwrap_or_else(|_| Bytes::from_static(&[]))
    }

    /// From bytes; what cannot be read becomes [`ReplyError::Failed`] and says so.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Self {
        if let [VERSION_MARK, min, max] = *bytes {
            return Self::Version(VersionRange { min, max });
        }
        decode(bytes).unwrap_or_else(|error| Self::Failed(format!("the answer cannot be read: {error}")))
    }

    /// As the caller sees it.
    pub(crate) fn into_call_error(self, node: &NodeId, call: &Call) -> CallError {
        let node = node.to_string();
        match self {
            Self::Refused(reason) => CallError::Refused { node, reason },
            Self::Failed(reason) => CallError::Failed(reason),
            Self::TooLarge(bytes) => CallError::TooLarge { bytes: usize::try_from(bytes).unwrap_or(usize::MAX) },
            Self::Late => CallError::DeadlineExceeded {
                node,
                method: call.method,
                waited_ms: u64::try_from(call.deadline.as_millis()).unwrap_or(u64::MAX),
            },
            Self::Version(theirs) => CallError::Version { node, theirs },
            Self::Unseen => CallError::Refused { node, reason: "it does not see or reach this node".to_owned() },
        }
    }
}

/// A subscription as a publisher knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    /// The subscriber's number for it.
    pub id: u64,
    /// What it wants.
    pub topic: String,
    /// How many messages may wait for it at a publisher.
    pub credit: u32,
}

/// What two nodes tell each other of themselves ([`Method::Hello`], request and reply).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The digest, with the incarnation and the sequence number that order hellos.
    pub digest: NodeDigest,
    /// All it has subscribed to.
    pub wanted: Vec<Wanted>,
}

/// The reply to a [`Method::Ping`]: which hello the node would send now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pong {
    /// Of the digest.
    pub incarnation: u64,
    /// Of the digest.
    pub sequence: u64,
}

/// Messages for a subscription ([`Method::Deliver`]).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deliver {
    /// The subscriber's number.
    pub id: u64,
    /// The messages, in order.
    pub messages: Vec<Bytes>,
    /// Set when the publisher has given the subscription up for being too slow.
    pub dropped: bool,
}

/// The reply: how many of the messages were taken, from the first on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivered {
    /// That many.
    pub taken: u32,
}

/// The method that an envelope names.
pub(crate) fn method_of(envelope: &Envelope) -> Result<Method, ReplyError> {
    Method::from_wire(envelope.method)
        .ok_or_else(|| ReplyError::Refused(format!("it knows no method {}; upgrade it", envelope.method)))
}
