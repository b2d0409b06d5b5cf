//! What a node is told when it is made and when it starts.
//!
//! These are parsed and checked values; where they come from (flags, environment, a test) is the caller's business.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use littoral_model::condition::Network;
use littoral_model::id::{NodeId, SiteId, Tier};
use littoral_runtime::CompilerProcess;
use littoral_runtime::container::HostProcess;

/// How to run a node.
///
/// A node keeps on its disk what it was told when it joined: name, tier, site, labels and addresses that are left out
/// here are those of its last start.
#[derive(Clone, Debug, Default)]
pub struct NodeSettings {
    /// Its data directory; made by [`init`](InitSettings) or by the first start with `join`.
    pub data: PathBuf,
    /// Its name.
    pub name: Option<NodeId>,
    /// Its tier.
    pub tier: Option<Tier>,
    /// Its site.
    pub site: Option<SiteId>,
    /// Its labels, for placement.
    pub labels: BTreeMap<String, String>,
    /// The token to join a fabric with; needed on the first start only.
    pub join: Option<String>,
    /// Where to listen for other nodes.
    pub listen: Vec<SocketAddr>,
    /// Nodes to connect to, `host:port`, besides those that the token and the disk name.
    pub connect: Vec<String>,
    /// Where to serve HTTP: functions and routes of apps.
    pub http: Option<SocketAddr>,
    /// Where to listen for clients of MQTT; who may connect is in `mqtt.toml` in `data`.
    pub mqtt: Option<SocketAddr>,
    /// Where to serve the admin API with mutual TLS, besides the Unix socket in the data directory.
    pub admin_listen: Option<SocketAddr>,
    /// Where to admit joining nodes; only on a node that holds the root's delegation.
    pub join_listen: Option<SocketAddr>,
    /// Addresses under which other nodes reach this one, `host:port`, where they differ from `listen`.
    pub advertise: Vec<String>,
    /// The networks whose clients are near to this node; for `/.well-known/littoral/nearest`.
    pub clients: Vec<Network>,
    /// Folders and devices of this machine that functions may be granted. It can reach no others but its own.
    pub offer: Vec<PathBuf>,
    /// The file that states the node's situation, read anew when it changes; `situation.toml` in `data` if none is given.
    pub situation: Option<PathBuf>,
    /// What compiles components; this process, if there is nothing else.
    pub compiler: Option<CompilerProcess>,
    /// What makes containers and processes; none on a machine that runs neither.
    pub containers: Option<Arc<HostProcess>>,
    /// Whether containers end with the node; else they serve on, and its next process takes them up.
    pub ends_containers: bool,
    /// How often what functions use is written down; each minute if none is given, each second at the most.
    pub usage_period: Option<Duration>,
}

/// How to make a fabric: its root of trust and its first node.
#[derive(Clone, Debug)]
pub struct InitSettings {
    /// The first node's data directory; must be empty or absent.
    pub data: PathBuf,
    /// The first node's name.
    pub name: NodeId,
    /// The first node's tier.
    pub tier: Tier,
    /// The first node's site.
    pub site: SiteId,
    /// Where the first node will listen for other nodes.
    pub listen: Vec<SocketAddr>,
    /// Where the first node will serve HTTP.
    pub http: Option<SocketAddr>,
    /// Where the first node will admit joining nodes.
    pub join_listen: Option<SocketAddr>,
    /// Addresses under which others reach the first node, `host:port`, where they differ from `listen`.
    pub advertise: Vec<String>,
}

/// What making a fabric gave.
#[derive(Clone, Debug)]
pub struct InitOutcome {
    /// A token with which one node may join; a secret. None where only the running node can tell where to join, because
    /// the kernel is to choose the port.
    pub token: Option<String>,
    /// When the token ends, seconds since 1970.
    pub token_expires_s: Option<u64>,
    /// The hash of the root certificate, by which a fabric is known.
    pub root_fingerprint: String,
    /// The directory with the credentials of the fabric's administrator.
    pub admin_credentials: PathBuf,
}
