//! The types that the consensus engine is given, and the messages of a group.

use std::collections::BTreeSet;
use std::fmt;
use std::io::Cursor;

use littoral_model::id::NodeId;
use openraft::EmptyNode;
use openraft::error::{InstallSnapshotError, RaftError};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse, VoteRequest,
    VoteResponse,
};
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::decide::{Outcome, Proposal};

openraft::declare_raft_types!(
    /// What the engine works on. An entry holds a batch of proposals, because each entry costs a disk sync.
    pub(crate) TypeConfig:
        D = Vec<Proposal>,
        R = Vec<Outcome>,
        NodeId = Voter,
        Node = EmptyNode,
        Entry = openraft::Entry<TypeConfig>,
        SnapshotData = Cursor<Vec<u8>>,
);

pub(crate) type Raft = openraft::Raft<TypeConfig>;
pub(crate) type RaftEntry = openraft::Entry<TypeConfig>;
pub(crate) type LogId = openraft::LogId<Voter>;
pub(crate) type Vote = openraft::Vote<Voter>;
pub(crate) type SnapshotMeta = openraft::SnapshotMeta<Voter, EmptyNode>;
pub(crate) type StoredMembership = openraft::StoredMembership<Voter, EmptyNode>;
pub(crate) type StorageError = openraft::StorageError<Voter>;

/// A node's name in a form that the engine can copy: it asks for ids that are `Copy`, and a name has at most 63 bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Voter {
    /// Filled up with zeros, which no name contains.
    bytes: [u8; littoral_model::id::NAME_BYTES_MAX],
}

impl Default for Voter {
    fn default() -> Self {
        Self { bytes: [0; littoral_model::id::NAME_BYTES_MAX] }
    }
}

impl Voter {
    fn text(&self) -> &str {
        let used = self.bytes.iter().position(|byte| *byte == 0).unwrap_or(self.bytes.len());
        self.bytes.get(..used).and_then(|bytes| std::str::from_utf8(bytes).ok()).unwrap_or_default()
    }

    fn from_text(text: &str) -> Self {
        let mut voter = Self::default();
        for (place, byte) in voter.bytes.iter_mut().zip(text.bytes()) {
            *place = byte;
        }
        voter
    }

    /// The node; none for the empty id that the engine uses as "nobody".
    pub(crate) fn node(&self) -> Option<NodeId> {
        NodeId::new(self.text()).ok()
    }
}

impl From<&NodeId> for Voter {
    fn from(node: &NodeId) -> Self {
        Self::from_text(node.as_str())
    }
}

impl fmt::Display for Voter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl fmt::Debug for Voter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl Serialize for Voter {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.text())
    }
}

impl<'de> Deserialize<'de> for Voter {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text.is_empty() || NodeId::new(&text).is_ok() {
            Ok(Self::from_text(&text))
        } else {
            Err(D::Error::custom(format!("`{text}` is no node's name")))
        }
    }
}

/// What a node asks another node of the group.
#[derive(Serialize, Deserialize)]
pub(crate) enum Request {
    Append(AppendEntriesRequest<TypeConfig>),
    Vote(VoteRequest<Voter>),
    Install(InstallSnapshotRequest<TypeConfig>),
    /// To the leader.
    Propose(Proposal),
    /// To anybody; who does not lead says who does.
    Join(NodeId),
    /// To anybody.
    Status,
}

/// The answers, in the order of [`Request`].
#[derive(Serialize, Deserialize)]
pub(crate) enum Reply {
    Append(AppendEntriesResponse<Voter>),
    Vote(VoteResponse<Voter>),
    Install(Box<Result<InstallSnapshotResponse<Voter>, RaftError<Voter, InstallSnapshotError>>>),
    Proposed(Outcome),
    Joined,
    Status(Status),
    /// Only the leader can do that; who it is, if known.
    NotLeader(Option<NodeId>),
    /// It cannot be done now, and why.
    Failed(String),
}

/// What a node knows of its group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Who leads, if anybody is known to.
    pub leader: Option<NodeId>,
    /// The leader's term.
    pub term: u64,
    /// Who votes.
    pub voters: BTreeSet<NodeId>,
    /// Who has a copy and no vote.
    pub learners: BTreeSet<NodeId>,
    /// The last entry of the group's log that this node has applied.
    pub applied: u64,
}
