//! What a node tells the others of itself.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Error as _, SeqAccess, Visitor};
use serde::ser::SerializeStruct as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::condition::Condition;
use crate::id::{NodeId, SiteId, Tier};
use crate::situation::Situation;
use crate::wire::VersionRange;

/// A node's short public description of itself, announced when it changes.
///
/// On the wire its fields stand in this order. Those that a later protocol version added stand at the end, and only if
/// `protocol` says that the node speaks that version: so the digests of older nodes stay readable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeDigest {
    /// Whom it describes.
    pub node: NodeId,
    /// Its tier.
    pub tier: Tier,
    /// Its site.
    pub site: SiteId,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// How often the node has started; tells a restart from a reconnection.
    pub incarnation: u64,
    /// Rises with each announcement of one incarnation.
    pub sequence: u64,
    /// The protocol versions it speaks.
    pub protocol: VersionRange,
    /// The version of its program, for people.
    pub program: String,
    /// Cores that functions may use.
    pub cores: u32,
    /// Memory that functions may use, in bytes.
    pub memory_bytes: u64,
    /// Units of work it owns now; a measure of load.
    pub works: u32,
    /// Where its HTTP ingress listens, `host:port`.
    pub http: Option<String>,
    /// The functions it serves, `tenant/app/function`.
    pub functions: Vec<String>,
    /// What it has measured of its links: peer, round-trip time in microseconds, bandwidth in bits per second.
    pub links: Vec<LinkReport>,
    /// A hash of the intent it holds; differs from ours when one of us lacks something.
    pub intent: u64,
    /// Where it is, what powers it, what it costs and what it would fail with. Since protocol 2; nothing of an older node.
    pub situation: Situation,
    /// How it is: its place in the network, its load, what it serves and holds. Since protocol 2.
    pub condition: Condition,
}

/// How many fields a digest had in protocol 1.
const FIELDS_V1: usize = 15;
/// The protocol that brought `situation` and `condition`.
const SITUATION_SINCE: u8 = 2;

impl Serialize for NodeDigest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut state = serializer.serialize_struct("NodeDigest", FIELDS_V1 + 2)?;
        state.serialize_field("node", &self.node)?;
        state.serialize_field("tier", &self.tier)?;
        state.serialize_field("site", &self.site)?;
        state.serialize_field("labels", &self.labels)?;
        state.serialize_field("incarnation", &self.incarnation)?;
        state.serialize_field("sequence", &self.sequence)?;
        state.serialize_field("protocol", &self.protocol)?;
        state.serialize_field("program", &self.program)?;
        state.serialize_field("cores", &self.cores)?;
        state.serialize_field("memory_bytes", &self.memory_bytes)?;
        state.serialize_field("works", &self.works)?;
        state.serialize_field("http", &self.http)?;
        state.serialize_field("functions", &self.functions)?;
        state.serialize_field("links", &self.links)?;
        state.serialize_field("intent", &self.intent)?;
        if self.protocol.max >= SITUATION_SINCE {
            state.serialize_field("situation", &self.situation)?;
            state.serialize_field("condition", &self.condition)?;
        }
        state.end()
    }
}

impl<'de> Deserialize<'de> for NodeDigest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_tuple(FIELDS_V1 + 2, Fields)
    }
}

/// Reads the fields in their order.
struct Fields;

impl<'de> Visitor<'de> for Fields {
    type Value = NodeDigest;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the fields of a digest")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut fields: A) -> Result<NodeDigest, A::Error> {
        fn next<'de, T: Deserialize<'de>, A: SeqAccess<'de>>(fields: &mut A) -> Result<T, A::Error> {
            fields.next_element()?.ok_or_else(|| A::Error::custom("a digest lacks a field"))
        }
        let mut digest = NodeDigest {
            node: next(&mut fields)?,
            tier: next(&mut fields)?,
            site: next(&mut fields)?,
            labels: next(&mut fields)?,
            incarnation: next(&mut fields)?,
            sequence: next(&mut fields)?,
            protocol: next(&mut fields)?,
            program: next(&mut fields)?,
            cores: next(&mut fields)?,
            memory_bytes: next(&mut fields)?,
            works: next(&mut fields)?,
            http: next(&mut fields)?,
            functions: next(&mut fields)?,
            links: next(&mut fields)?,
            intent: next(&mut fields)?,
            situation: Situation::default(),
            condition: Condition::default(),
        };
        if digest.protocol.max >= SITUATION_SINCE {
            digest.situation = next(&mut fields)?;
            digest.condition = next(&mut fields)?;
        }
        Ok(digest)
    }
}

/// One measured link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkReport {
    /// The node at the other end.
    pub peer: NodeId,
    /// Smoothed round-trip time, in microseconds.
    pub rtt_us: u64,
    /// The highest rate seen of late, in bits per second; none before enough was sent.
    pub bandwidth_bps: Option<u64>,
}
