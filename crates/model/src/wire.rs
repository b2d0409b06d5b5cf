//! What nodes say to one another, and how it is encoded.
//!
//! A message is one byte of protocol version followed by the [postcard] encoding of its type. Peers speak the highest
//! version that both know; a node knows the current one and the one before it.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::entry::{Entry, PortBatch, Position, ProducerSequence};
use crate::id::{Epoch, NodeId};
use crate::work::{Assignment, WorkId};

/// The version of the protocol that this program speaks best.
///
/// 2: a digest has a [`situation`](crate::situation::Situation) and a [`condition`](crate::condition::Condition). All other messages are as in 1.
pub const PROTOCOL_VERSION: u8 = 2;
/// The oldest version that this program still speaks: the one before.
pub const PROTOCOL_VERSION_MIN: u8 = 1;
/// The largest message, in bytes; larger ones are refused before they are decoded.
pub const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// The protocol versions that a node speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionRange {
    /// The oldest.
    pub min: u8,
    /// The newest.
    pub max: u8,
}

impl VersionRange {
    /// What this program speaks.
    pub const OURS: Self = Self { min: PROTOCOL_VERSION_MIN, max: PROTOCOL_VERSION };

    /// The highest version that both speak, if there is one.
    #[must_use]
    pub fn common(self, other: Self) -> Option<u8> {
        let version = self.max.min(other.max);
        (version >= self.min && version >= other.min).then_some(version)
    }
}

/// A message that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Empty, or cut off, or not of the expected type.
    #[error("the message is not a valid {kind}: {reason}")]
    Malformed {
        /// The expected type.
        kind: &'static str,
        /// What the decoder says.
        reason: String,
    },
    /// Of a version that this program does not speak.
    #[error("the message is of protocol version {version}; this node speaks {min} to {max}: upgrade the older of the two", min = PROTOCOL_VERSION_MIN, max = PROTOCOL_VERSION)]
    Version {
        /// Its version.
        version: u8,
    },
    /// Larger than [`MESSAGE_BYTES_MAX`].
    #[error("the message has {bytes} bytes; at most {MESSAGE_BYTES_MAX} are taken: send less at once")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
}

/// Encodes a message in the current version.
///
/// # Errors
/// When it is larger than [`MESSAGE_BYTES_MAX`].
pub fn encode<T: Serialize>(message: &T) -> Result<Bytes, WireError> {
    let buffer = postcard::to_extend(message, vec![PROTOCOL_VERSION])
        .map_err(|error| WireError::Malformed { kind: std::any::type_name::<T>(), reason: error.to_string() })?;
    if buffer.len() > MESSAGE_BYTES_MAX {
        return Err(WireError::TooLarge { bytes: buffer.len() });
    }
    Ok(Bytes::from(buffer))
}

/// Decodes a message of any version that this program speaks; it may borrow from the bytes.
///
/// # Errors
/// When it is too large, of an unknown version, or malformed.
pub fn decode<'b, T: Deserialize<'b>>(bytes: &'b [u8]) -> Result<T, WireError> {
    let kind = std::any::type_name::<T>();
    if bytes.len() > MESSAGE_BYTES_MAX {
        return Err(WireError::TooLarge { bytes: bytes.len() });
    }
    let (&version, body) =
        bytes.split_first().ok_or(WireError::Malformed { kind, reason: "it is empty".to_owned() })?;
    if !(PROTOCOL_VERSION_MIN..=PROTOCOL_VERSION).contains(&version) {
        return Err(WireError::Version { version });
    }
    let malformed = |reason: String| WireError::Malformed { kind, reason };
    let (message, rest) = postcard::take_from_bytes(body).map_err(|error| malformed(error.to_string()))?;
    if rest.is_empty() { Ok(message) } else { Err(malformed(format!("{} bytes follow it", rest.len()))) }
}

/// Asks the owner of a work for entries. The owner waits up to `wait_ms` for the first one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FetchRequest {
    /// Whose log.
    pub work: WorkId,
    /// Which port's rows.
    pub port: String,
    /// Who asks: a unit of work, or a name for a tail that keeps no place.
    pub consumer: Option<WorkId>,
    /// From where.
    pub from: Position,
    /// Everything before this the consumer has safe; the owner may forget it.
    pub committed: Position,
    /// Stop after about this many bytes of rows.
    pub bytes_max: u32,
    /// How long to wait for a first entry, in milliseconds.
    pub wait_ms: u32,
}

/// Rows of a work's log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FetchReply {
    /// Committed rows from the asked position on; entries without rows on the port are skipped.
    Rows {
        /// The owner's epoch; refuse a reply with a lower one than seen before.
        epoch: Epoch,
        /// Entry index and rows.
        batches: Vec<(u64, PortBatch)>,
        /// Where to go on.
        next: Position,
        /// The owner's low watermark of event time, microseconds since 1970.
        watermark_us: Option<i64>,
    },
    /// The asked node does not own the work; who may.
    NotOwner(Option<Assignment>),
    /// The asked position has been forgotten; the first that is still held.
    Trimmed(Position),
}

/// Appends rows from outside to a stream's partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishRequest {
    /// The partition.
    pub work: WorkId,
    /// The rows.
    pub batch: PortBatch,
    /// For dropping repeats.
    pub producer: Option<ProducerSequence>,
}

/// What became of a publication.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PublishReply {
    /// Durable as the stream's `ack` asks.
    Stored {
        /// The entry's index.
        index: u64,
        /// Whether it had been stored before.
        repeated: bool,
    },
    /// The asked node does not own the partition; who may.
    NotOwner(Option<Assignment>),
    /// Refused, and why.
    Refused(String),
    /// Not stored because there is no room, and why; there will be. A node that does not know this answer takes it for none.
    Full(String),
}

/// Copies entries from a work's owner to a replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicateRequest {
    /// Whose log.
    pub work: WorkId,
    /// The sending owner.
    pub owner: NodeId,
    /// Its epoch; a replica that knows a higher one refuses.
    pub epoch: Epoch,
    /// Index and epoch of the entry before the first sent one; index 0 for none.
    pub previous: (u64, Epoch),
    /// The entries, in order; none to probe.
    pub entries: Vec<Entry>,
    /// Everything up to this index is committed.
    pub committed: u64,
    /// Everything below this index may be forgotten.
    pub trim_below: u64,
    /// The last index that the owner has on its own disk; it sends nothing above that.
    pub last: u64,
}

/// A replica's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReplicateReply {
    /// Everything up to this index is on the replica's disk.
    Stored {
        /// The last index held.
        last: u64,
    },
    /// The entry before is missing or differs: send from here.
    Mismatch {
        /// The index to send from.
        from: u64,
    },
    /// The sender was replaced by an owner of this epoch.
    Fenced {
        /// The higher epoch.
        epoch: Epoch,
    },
    /// The replica holds entries of the sender's own epoch that the sender does not have: the sender has lost its disk
    /// and must not go on as owner.
    Ahead {
        /// The last index held.
        last: u64,
    },
}

/// Brings a replica to a state from which the owner's log still reaches on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstallRequest {
    /// Whose state.
    pub work: WorkId,
    /// The sending owner's epoch.
    pub epoch: Epoch,
    /// Index and epoch of the entry before the first that follows. The state covers it, and perhaps some that follow.
    pub last: (u64, Epoch),
    /// The derived state: key and value.
    pub state: Vec<(Bytes, Bytes)>,
}
