//! The fabric as one node sees it at one moment.

use std::collections::BTreeMap;

use littoral_model::digest::{LinkReport, NodeDigest};
use littoral_model::id::{NodeId, SiteId, Tier};
use littoral_model::situation::Situation;
use serde::{Deserialize, Serialize};

use crate::admission::NodeFacts;
use crate::links::Links;
use crate::traffic::Traffic;

/// What placement needs to know of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeView {
    /// Which node.
    pub node: NodeId,
    /// Its tier.
    pub tier: Tier,
    /// Its site.
    pub site: SiteId,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Where it is, what powers it, what it costs and what it would fail with.
    #[serde(default)]
    pub situation: Situation,
    /// Cores that functions may use.
    pub cores: u32,
    /// Memory that functions may use, in bytes.
    pub memory_bytes: u64,
    /// How much of it is promised to other apps, in bytes.
    pub memory_promised_bytes: u64,
    /// Units of work it owns now.
    pub works: u32,
    /// Whether it is a member now.
    pub alive: bool,
}

impl NodeView {
    /// What a digest says of its node; nothing is promised to other apps.
    #[must_use]
    pub fn from_digest(digest: &NodeDigest, alive: bool) -> Self {
        Self {
            node: digest.node.clone(),
            tier: digest.tier,
            site: digest.site.clone(),
            labels: digest.labels.clone(),
            situation: digest.situation.clone(),
            cores: digest.cores,
            memory_bytes: digest.memory_bytes,
            memory_promised_bytes: 0,
            works: digest.works,
            alive,
        }
    }
}

impl NodeView {
    /// What decides whether it may hold something.
    #[must_use]
    pub fn facts(&self) -> NodeFacts<'_> {
        let situation = &self.situation;
        let (node, site, labels) = (&self.node, &self.site, &self.labels);
        NodeFacts { node, tier: self.tier, site, labels, situation, now: situation.into() }
    }
}

/// The nodes and links that placement chooses from.
#[derive(Clone, Debug, Default)]
pub struct Fabric {
    /// The known nodes, dead ones among them.
    pub nodes: BTreeMap<NodeId, NodeView>,
    /// What is known of the links between them.
    pub links: Links,
    /// What flows of other apps were promised of the links.
    pub promised: Vec<Traffic>,
}

impl Fabric {
    /// A fabric of `nodes` with the links that `reports` (reporter and report) have measured.
    #[must_use]
    pub fn new(
        nodes: impl IntoIterator<Item = NodeView>,
        reports: impl IntoIterator<Item = (NodeId, LinkReport)>,
    ) -> Self {
        let nodes: BTreeMap<NodeId, NodeView> = nodes.into_iter().map(|view| (view.node.clone(), view)).collect();
        let links = Links::new(nodes.values(), reports);
        Self { nodes, links, promised: Vec::new() }
    }

    /// The fabric that the digests of live nodes, and the last known digests of dead ones, describe.
    #[must_use]
    pub fn from_digests<'a>(
        live: impl IntoIterator<Item = &'a NodeDigest>,
        dead: impl IntoIterator<Item = &'a NodeDigest>,
    ) -> Self {
        let mut views = Vec::new();
        let mut reports = Vec::new();
        let mut coordinates = Vec::new();
        let known = dead.into_iter().map(|digest| (digest, false)).chain(live.into_iter().map(|d| (d, true)));
        for (digest, alive) in known {
            views.push(NodeView::from_digest(digest, alive));
            coordinates.extend(digest.condition.coordinate.map(|coordinate| (digest.node.clone(), coordinate)));
            reports.extend(digest.links.iter().map(|link| (digest.node.clone(), link.clone())));
        }
        let Self { nodes, links, promised } = Self::new(views, reports);
        Self { nodes, links: links.located(coordinates), promised }
    }
}
