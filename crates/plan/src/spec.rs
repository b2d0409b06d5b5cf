//! What an app asks for, as far as placement is concerned. The node fills it from the manifest.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use littoral_model::id::{AppId, FlowName, FunctionName, SiteId, StreamName, Tier};
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
}

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
    /// What a record costs it, in microseconds, declared or measured; none for a conservative guess.
    pub execution_us: Option<u64>,
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
pub struct Constraints {
    /// One of these tiers.
    pub tiers: BTreeSet<Tier>,
    /// One of these sites.
    pub sites: BTreeSet<SiteId>,
    /// All of these labels.
    pub labels: BTreeMap<String, String>,
    /// As near as possible to the partitions of this stream: the nearest node of those that satisfy the rest, or
    /// another one of its site.
    pub near: Option<StreamName>,
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
        self.tiers.is_empty() && self.sites.is_empty() && self.labels.is_empty() && self.near.is_none()
    }

    /// Whether a node of that tier and site with those labels satisfies it; nearness is a wish and left aside.
    #[must_use]
    pub fn admits(&self, tier: Tier, site: &SiteId, labels: &BTreeMap<String, String>) -> bool {
        (self.tiers.is_empty() || self.tiers.contains(&tier))
            && (self.sites.is_empty() || self.sites.contains(site))
            && self.labels.iter().all(|(key, value)| labels.get(key) == Some(value))
    }

    /// What satisfies both. Where the two exclude each other, nothing satisfies the result.
    #[must_use]
    pub fn and(&self, other: &Self) -> Option<Self> {
        let tiers = intersect(&self.tiers, &other.tiers)?;
        let sites = intersect(&self.sites, &other.sites)?;
        let mut labels = self.labels.clone();
        for (key, value) in &other.labels {
            if labels.insert(key.clone(), value.clone()).is_some_and(|old| old != *value) {
                return None;
            }
        }
        Some(Self { tiers, sites, labels, near: self.near.clone().or_else(|| other.near.clone()) })
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
