//! What an app asks for, as far as placement is concerned. The node fills it from the manifest.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use littoral_model::id::{
    AcceleratorName, AppId, ConnectorName, FlowName, FunctionName, NodeId, RegionId, SiteId, StreamName, Tier,
};
use littoral_model::manifest::{self, Affinity, Objectives, Partitioning, Within};
use littoral_model::situation::FailureDomain;
use littoral_model::unit::Ratio;
use serde::{Deserialize, Serialize};

/// What an app asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppSpec {
    /// Whose app.
    pub app: AppId,
    /// Its functions.
    pub functions: BTreeMap<FunctionName, FunctionSpec>,
    /// Its streams.
    pub streams: BTreeMap<StreamName, StreamSpec>,
    /// Its flows.
    pub flows: BTreeMap<FlowName, FlowSpec>,
    /// The queues of its functions that are called asynchronously.
    #[serde(default)]
    pub queues: BTreeMap<FunctionName, QueueSpec>,
    /// Its sources and sinks.
    #[serde(default)]
    pub connectors: Vec<ConnectorSpec>,
    /// What is weighed where several nodes would do.
    pub objectives: Objectives,
}

/// The bytes that stages put out for a thousand that they take in, where nothing is known of them.
pub const SAME_PERMILLE: u32 = 1_000;

/// What a function needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionSpec {
    /// The digest of its artefact.
    pub artifact: String,
    /// How it is called.
    pub interface: Interface,
    /// The memory that one instance may take, in bytes.
    pub memory_bytes: u64,
    /// Where it may run.
    pub placement: Constraints,
    /// What 95 of 100 executions take no longer than, in microseconds, as measured; none for a conservative guess.
    pub execution_us: Option<u64>,
    /// What it asks of the partitions of its input.
    pub partitioning: Partitioning,
    /// How many bytes it is expected to put out for a thousand that it takes in; a thousand where nothing is known.
    #[serde(default = "same")]
    pub output_permille: u32,
}

/// As much comes out as goes in.
fn same() -> u32 {
    SAME_PERMILLE
}

/// What the queue of a function needs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueSpec {
    /// When an invocation counts as accepted; none for `site` where the site has two nodes or more.
    pub ack: Option<Ack>,
    /// The streams whose records call the function.
    pub streams: BTreeSet<StreamName>,
}

/// What a source or a sink needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectorSpec {
    /// Its name; a source and a sink may have the same.
    pub name: ConnectorName,
    /// Whether records come in by it, or go out.
    pub direction: Direction,
    /// The stream that it feeds or reads.
    pub stream: StreamName,
    /// Where it may run.
    pub placement: Constraints,
}

/// Whether records come into the fabric, or leave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// By a source.
    In,
    /// By a sink.
    Out,
}

/// How a function is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Interface {
    /// As a stage of a flow.
    Stage,
    /// With HTTP requests.
    Http,
}

/// Where something may be placed. What is empty does not constrain.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct Constraints {
    /// One of these tiers.
    pub tiers: BTreeSet<Tier>,
    /// One of these nodes.
    pub nodes: BTreeSet<NodeId>,
    /// One of these sites.
    pub sites: BTreeSet<SiteId>,
    /// All of these labels.
    pub labels: BTreeMap<String, String>,
    /// As near as possible to the partitions of this stream: the nearest node of those that satisfy the rest, or
    /// another one of its site.
    pub near: Option<StreamName>,
    /// One of these regions.
    pub regions: BTreeSet<RegionId>,
    /// All of these accelerators.
    pub accelerators: BTreeSet<AcceleratorName>,
    /// In all of these circles.
    pub within: BTreeSet<Within>,
    /// Not on a battery that is as empty as this.
    pub battery_above: Option<Ratio>,
    /// Only on the mains.
    pub mains_only: bool,
    /// Not on a node that moves.
    pub stationary: bool,
    /// Together with these, which are functions or streams of the app.
    pub affinity: BTreeSet<Affinity>,
    /// Apart from these.
    pub anti_affinity: BTreeSet<Affinity>,
    /// Copies and instances share none of these.
    pub spread: BTreeSet<FailureDomain>,
    /// On this tier, if a node of it satisfies the rest.
    pub prefer: Option<Tier>,
}

impl Constraints {
    /// No constraint.
    #[must_use]
    pub fn any() -> Self {
        Self::default()
    }

    /// Only nodes of this tier.
    #[must_use]
    pub fn tier(tier: Tier) -> Self {
        Self { tiers: BTreeSet::from([tier]), ..Self::default() }
    }

    /// Whether every node satisfies it.
    #[must_use]
    pub fn is_any(&self) -> bool {
        *self == Self::default()
    }

    /// What satisfies both. Where the two exclude each other, nothing satisfies the result.
    #[must_use]
    pub fn and(&self, other: &Self) -> Option<Self> {
        let mut labels = self.labels.clone();
        for (key, value) in &other.labels {
            if labels.insert(key.clone(), value.clone()).is_some_and(|old| old != *value) {
                return None;
            }
        }
        Some(Self {
            tiers: intersect(&self.tiers, &other.tiers)?,
            nodes: intersect(&self.nodes, &other.nodes)?,
            sites: intersect(&self.sites, &other.sites)?,
            labels,
            near: self.near.clone().or_else(|| other.near.clone()),
            regions: intersect(&self.regions, &other.regions)?,
            accelerators: &self.accelerators | &other.accelerators,
            within: &self.within | &other.within,
            battery_above: self.battery_above.max(other.battery_above),
            mains_only: self.mains_only || other.mains_only,
            stationary: self.stationary || other.stationary,
            affinity: &self.affinity | &other.affinity,
            anti_affinity: &self.anti_affinity | &other.anti_affinity,
            spread: &self.spread | &other.spread,
            prefer: self.prefer.or(other.prefer),
        })
    }
}

impl From<&manifest::Placement> for Constraints {
    fn from(placement: &manifest::Placement) -> Self {
        Self {
            // Only sources and sinks name nodes, and not as a part of their placement.
            nodes: BTreeSet::new(),
            tiers: placement.tier.iter().copied().collect(),
            sites: placement.site.iter().cloned().collect(),
            labels: placement.labels.clone(),
            near: placement.near.clone(),
            regions: placement.region.iter().cloned().collect(),
            accelerators: placement.accelerators.iter().cloned().collect(),
            within: placement.within.into_iter().collect(),
            battery_above: placement.battery_above,
            mains_only: placement.mains_only,
            stationary: placement.stationary,
            affinity: placement.affinity.iter().cloned().collect(),
            anti_affinity: placement.anti_affinity.iter().cloned().collect(),
            spread: placement.spread.iter().copied().collect(),
            prefer: placement.prefer,
        }
    }
}

/// An empty set stands for everything; none if the two have nothing in common.
fn intersect<T: Ord + Clone>(a: &BTreeSet<T>, b: &BTreeSet<T>) -> Option<BTreeSet<T>> {
    if a.is_empty() || b.is_empty() {
        return Some(a.union(b).cloned().collect());
    }
    let both: BTreeSet<T> = a.intersection(b).cloned().collect();
    (!both.is_empty()).then_some(both)
}

/// What a stream needs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamSpec {
    /// How many partitions. None stands for one per live matching node if the stream is written from outside and
    /// placed on devices, else for one. Partitions that exist are never taken away.
    pub partitions: Option<u32>,
    /// Where it may lie.
    pub placement: Constraints,
    /// When a record counts as stored; none for `site` where the site has two nodes or more that may hold it.
    pub ack: Option<Ack>,
    /// How much is published to each partition, in bits per second; none if that is not stated.
    #[serde(default)]
    pub rate_bps: Option<u64>,
    /// How many partitions it had before, where that number is changed, or was. Only whoever plans needs it.
    #[serde(skip)]
    pub before: Option<PartitionsBefore>,
}

/// How many partitions a stream has had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionsBefore {
    /// At first.
    pub first: u32,
    /// At most, also where they are not laid yet.
    pub most: u32,
}

/// When a record counts as stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ack {
    /// When it is on its owner's disk.
    Local,
    /// When it is on two disks of the site.
    Site,
}

impl fmt::Display for Ack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Local => "local",
            Self::Site => "site",
        })
    }
}

/// A dataflow from a stream through stages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowSpec {
    /// The stream it reads.
    pub source: StreamName,
    /// Its functions, in order; at least one.
    pub stages: Vec<FunctionName>,
    /// Where the last stage's main output goes; none if only side outputs matter.
    pub sink: Option<Sink>,
    /// Where the rows of other ports go, whichever stage puts them out: port and stream.
    pub outputs: BTreeMap<String, StreamName>,
    /// Where rejected rows go.
    pub dead_letter: Option<StreamName>,
    /// The objective for the time from the source to the sink, at the 95th percentile, in microseconds.
    pub slo_us: Option<u64>,
}

/// Where a flow ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sink {
    /// In a stream.
    Stream(StreamName),
    /// In a function, which runs as the flow's last stage.
    Function(FunctionName),
}
