//! What an agent remembers of other nodes: those of its group's site, dead ones among them, and a few of higher tiers
//! that might lend a vote.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use littoral_model::digest::NodeDigest;
use littoral_model::id::{NodeId, SiteId, Tier};
use littoral_plan::PlacedWork;

/// The most nodes of the site that are remembered; a micro data centre has fewer. In a larger site those that own work
/// are preferred, and only remembered nodes can be found dead.
const SITE_MAX: usize = 128;
/// The most nodes elsewhere that are remembered; one vote is borrowed at a time.
const PARENTS_MAX: usize = 8;
/// How long after the first list of members a node that was never on one is given to appear, in milliseconds: a fabric
/// that starts finds together within a few seconds, and moving work meanwhile would be needless.
const UNSEEN_GRACE_MS: u64 = 10_000;

/// The remembered nodes.
#[derive(Clone, Debug)]
pub(crate) struct Members {
    own: NodeId,
    group: SiteId,
    first_ms: Option<u64>,
    site: BTreeMap<NodeId, Member>,
    parents: BTreeMap<NodeId, Parent>,
    /// The site has more nodes than are remembered.
    overflows: bool,
}

/// A node of the site.
#[derive(Clone, Debug)]
struct Member {
    tier: Tier,
    /// One copy for all nodes that have the same: in most sites they do.
    labels: Arc<BTreeMap<String, String>>,
    memory_bytes: u64,
    down_since_ms: Option<u64>,
}

/// A node elsewhere: a live one of a higher tier, or one that votes.
#[derive(Clone, Debug)]
struct Parent {
    tier: Tier,
    down_since_ms: Option<u64>,
    /// The least round trip to it that a node of the site has measured.
    rtt_us: u64,
}

impl Members {
    pub(crate) fn new(own: NodeId, group: SiteId) -> Self {
        let (site, parents) = (BTreeMap::new(), BTreeMap::new());
        Self { own, group, first_ms: None, site, parents, overflows: false }
    }

    /// Takes in a list of the live nodes. `owners` are the nodes that own work of the site, `voters` those that vote.
    pub(crate) fn update(
        &mut self,
        now_ms: u64,
        digests: &BTreeMap<NodeId, NodeDigest>,
        owners: &BTreeSet<&NodeId>,
        voters: &BTreeSet<NodeId>,
    ) {
        self.first_ms.get_or_insert(now_ms);
        for (node, member) in &mut self.site {
            if !digests.contains_key(node) && *node != self.own {
                member.down_since_ms.get_or_insert(now_ms);
            }
        }
        let live: Vec<&NodeDigest> = digests.values().filter(|digest| digest.site == self.group).collect();
        for digest in &live {
            let same = self.site.values().map(|member| &member.labels).find(|labels| ***labels == digest.labels);
            let labels = same.cloned().unwrap_or_else(|| Arc::new(digest.labels.clone()));
            let (tier, memory_bytes) = (digest.tier, digest.memory_bytes);
            self.site.insert(digest.node.clone(), Member { tier, labels, memory_bytes, down_since_ms: None });
        }
        self.forget_some(owners);
        self.update_parents(now_ms, digests, &live, voters);
    }

    /// Keeps the number of remembered nodes bounded: those that own work stay first, then the live, then the recent.
    fn forget_some(&mut self, owners: &BTreeSet<&NodeId>) {
        self.overflows = self.site.len() > SITE_MAX;
        if !self.overflows {
            return;
        }
        let mut ranked: Vec<(bool, u64, NodeId)> = self
            .site
            .iter()
            .map(|(node, member)| {
                let down_ms = member.down_since_ms.map_or(0, |since_ms| u64::MAX - since_ms);
                (!owners.contains(node) && *node != self.own, down_ms, node.clone())
            })
            .collect();
        ranked.sort_unstable();
        for (_, _, node) in ranked.into_iter().skip(SITE_MAX) {
            self.site.remove(&node);
        }
    }

    fn update_parents(
        &mut self,
        now_ms: u64,
        digests: &BTreeMap<NodeId, NodeDigest>,
        live: &[&NodeDigest],
        voters: &BTreeSet<NodeId>,
    ) {
        let tier = self.site.values().map(|member| member.tier).max();
        let rtt_us = |node: &NodeId| {
            let links = live.iter().flat_map(|digest| &digest.links).filter(|link| link.peer == *node);
            links.map(|link| link.rtt_us).min().unwrap_or(u64::MAX)
        };
        let mut found: Vec<(bool, u64, Tier, &NodeId)> = digests
            .values()
            .filter(|digest| digest.site != self.group)
            .map(|digest| (!voters.contains(&digest.node), rtt_us(&digest.node), digest.tier, &digest.node))
            .filter(|(idle, _, parent_tier, _)| !idle || Some(*parent_tier) > tier)
            .collect();
        found.sort_unstable();
        let parents = found.into_iter().take(PARENTS_MAX);
        let mut parents: BTreeMap<NodeId, Parent> = parents
            .map(|(_, rtt_us, tier, node)| (node.clone(), Parent { tier, down_since_ms: None, rtt_us }))
            .collect();
        // A borrowed voter that is down is remembered, so that it is not replaced before its time.
        let before = std::mem::take(&mut self.parents).into_iter();
        for (node, mut parent) in before.filter(|(node, _)| voters.contains(node) && !digests.contains_key(node)) {
            parent.down_since_ms.get_or_insert(now_ms);
            parents.insert(node, parent);
        }
        self.parents = parents;
    }

    /// Whether a node of the site is alive.
    pub(crate) fn is_live(&self, node: &NodeId) -> bool {
        self.site.get(node).is_some_and(|member| member.down_since_ms.is_none())
    }

    /// Whether a live node of the site may own or copy a work.
    pub(crate) fn admits(&self, node: &NodeId, placed: &PlacedWork) -> bool {
        let member = self.site.get(node).filter(|member| member.down_since_ms.is_none());
        member.is_some_and(|member| {
            member.memory_bytes >= placed.memory_bytes
                && placed.requires.admits(member.tier, &self.group, &member.labels)
        })
    }

    /// The live nodes of the site.
    pub(crate) fn site_live(&self) -> impl Iterator<Item = &NodeId> {
        self.site.iter().filter(|(_, member)| member.down_since_ms.is_none()).map(|(node, _)| node)
    }

    /// Whether a node is of the site, as far as is remembered.
    pub(crate) fn is_of_site(&self, node: &NodeId) -> bool {
        self.site.contains_key(node)
    }

    /// Whether a node is known to be of another site.
    pub(crate) fn is_of_elsewhere(&self, node: &NodeId) -> bool {
        self.parents.contains_key(node)
    }

    /// Whether a node of the site is known to be dead; one never seen is so after a while.
    pub(crate) fn is_dead(&self, now_ms: u64, node: &NodeId) -> bool {
        if *node == self.own {
            return false;
        }
        match self.site.get(node) {
            Some(member) => member.down_since_ms.is_some(),
            None => !self.overflows && self.first_ms.is_some_and(|first| now_ms >= first + UNSEEN_GRACE_MS),
        }
    }

    /// For how long a node has been down, in milliseconds; 0 if it is not. One never seen counts from the beginning.
    pub(crate) fn down_ms(&self, now_ms: u64, node: &NodeId) -> u64 {
        let since_ms = match (self.site.get(node), self.parents.get(node)) {
            _ if *node == self.own => None,
            (Some(member), _) => member.down_since_ms,
            (None, Some(parent)) => parent.down_since_ms,
            (None, None) => self.first_ms,
        };
        since_ms.map_or(0, |since_ms| now_ms.saturating_sub(since_ms))
    }

    /// The live nodes of higher tiers elsewhere, the nearest first.
    pub(crate) fn parents(&self) -> Vec<&NodeId> {
        let live = self.parents.iter().filter(|(_, parent)| parent.down_since_ms.is_none());
        let mut ranked: Vec<_> = live.map(|(node, parent)| (parent.rtt_us, parent.tier, node)).collect();
        ranked.sort_unstable();
        ranked.into_iter().map(|(_, _, node)| node).collect()
    }
}
