//! What a node tells the others of itself.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::id::{NodeId, SiteId, Tier};
use crate::wire::VersionRange;

/// A node's short public description of itself, announced when it changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
