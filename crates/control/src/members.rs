//! What an agent remembers of other nodes: those of its group's site, dead ones among them, and a few of higher tiers
//! that might lend a vote.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use littoral_model::digest::NodeDigest;
use littoral_model::id::{NodeId, SiteId, Tier};
use littoral_model::situation::Situation;
use littoral_plan::admission::{lasting, shared_domains};
use littoral_plan::{Candidate, NodeFacts, Now, PlacedWork};

/// The most nodes of the site that are remembered; a micro data centre has fewer. In a larger site those that own work
/// are preferred, and only remembered nodes can be found dead.
const SITE_MAX: usize = 128;
/// The most nodes elsewhere that are remembered; one vote is borrowed at a time.
const PARENTS_MAX: usize = 8;
/// The most live nodes elsewhere that are remembered for deciding who serves a function. Where there are more, those
/// beyond count for nothing, so that a function may have an instance too many, and never one too few.
const ELSEWHERE_MAX: usize = 128;
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
    /// Live nodes of other sites, which may serve the functions that this one may.
    elsewhere: BTreeMap<NodeId, (SiteId, Member)>,
    /// The site has more nodes than are remembered.
    overflows: bool,
    /// The nodes that are shut out.
    revoked: Arc<BTreeSet<NodeId>>,
}

/// A node of the site.
#[derive(Clone, Debug)]
struct Member {
    tier: Tier,
    /// One copy for all nodes that have the same: in most sites they do.
    labels: Arc<BTreeMap<String, String>>,
    /// What of its situation lasts; as for the labels.
    situation: Arc<Situation>,
    now: Now,
    memory_bytes: u64,
    down_since_ms: Option<u64>,
}

impl Member {
    /// What a digest says, sharing what a known node has, too.
    fn new<'a>(digest: &NodeDigest, known: impl Iterator<Item = &'a Member> + Clone) -> Self {
        let labels = known.clone().map(|member| &member.labels).find(|labels| ***labels == digest.labels);
        let lasting = lasting(&digest.situation);
        let situation = known.map(|member| &member.situation).find(|situation| ***situation == lasting);
        Self {
            tier: digest.tier,
            labels: labels.cloned().unwrap_or_else(|| Arc::new(digest.labels.clone())),
            situation: situation.cloned().unwrap_or_else(|| Arc::new(lasting)),
            now: Now::from(&digest.situation),
            memory_bytes: digest.memory_bytes,
            down_since_ms: None,
        }
    }

    fn facts<'a>(&'a self, node: &'a NodeId, site: &'a SiteId) -> NodeFacts<'a> {
        NodeFacts { node, tier: self.tier, site, labels: &self.labels, situation: &self.situation, now: self.now }
    }
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
        let (site, parents, elsewhere) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let revoked = Arc::default();
        Self { own, group, first_ms: None, site, parents, elsewhere, overflows: false, revoked }
    }

    /// Takes in which nodes are shut out.
    pub(crate) fn shut_out(&mut self, revoked: Arc<BTreeSet<NodeId>>) {
        self.revoked = revoked;
    }

    /// Takes in a list of the live nodes. `owners` are the nodes that own work of the site, `voters` those that vote.
    pub(crate) fn update(
        &mut self,
        now_ms: u64,
        digests: &BTreeMap<NodeId, Arc<NodeDigest>>,
        owners: &BTreeSet<&NodeId>,
        voters: &BTreeSet<NodeId>,
    ) {
        self.first_ms.get_or_insert(now_ms);
        // A node that says it is of another site has been made anew there.
        let group = &self.group;
        self.site.retain(|node, _| digests.get(node).is_none_or(|digest| digest.site == *group));
        for (node, member) in &mut self.site {
            if !digests.contains_key(node) && *node != self.own {
                member.down_since_ms.get_or_insert(now_ms);
            }
        }
        let live: Vec<&NodeDigest> =
            digests.values().map(AsRef::as_ref).filter(|digest| digest.site == self.group).collect();
        for digest in &live {
            let member = Member::new(digest, self.site.values());
            self.site.insert(digest.node.clone(), member);
        }
        self.forget_some(owners);
        self.update_parents(now_ms, digests, &live, voters);
        self.elsewhere.clear();
        for digest in digests.values().filter(|digest| digest.site != self.group).take(ELSEWHERE_MAX) {
            let known = self.site.values().chain(self.elsewhere.values().map(|(_, member)| member));
            let member = Member::new(digest, known);
            self.elsewhere.insert(digest.node.clone(), (digest.site.clone(), member));
        }
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
        digests: &BTreeMap<NodeId, Arc<NodeDigest>>,
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

    /// Whether a node is shut out: it never returns.
    pub(crate) fn is_shut_out(&self, node: &NodeId) -> bool {
        self.revoked.contains(node)
    }

    /// Whether a node of the site is alive.
    pub(crate) fn is_live(&self, node: &NodeId) -> bool {
        self.site.get(node).is_some_and(|member| member.down_since_ms.is_none())
    }

    /// Whether a live node of the site may by itself own or copy a work.
    pub(crate) fn admits(&self, node: &NodeId, placed: &PlacedWork) -> bool {
        self.live_member(node).is_some_and(|member| {
            member.memory_bytes >= placed.memory_bytes && placed.requires.admits(member.facts(node, &self.group))
        })
    }

    /// Whether a live node of the site may by itself hold a work's records, be its power and movement what they are.
    pub(crate) fn admits_data(&self, node: &NodeId, placed: &PlacedWork) -> bool {
        self.live_member(node).is_some_and(|member| placed.requires.admits_data(member.facts(node, &self.group)))
    }

    /// Whether two nodes of the site may both hold a work's records. What is not known is not held against them.
    pub(crate) fn spreads(&self, one: &NodeId, other: &NodeId, placed: &PlacedWork) -> bool {
        match (self.site.get(one), self.site.get(other)) {
            (Some(one), Some(other)) => placed.requires.spreads(&one.situation, &other.situation),
            _ => true,
        }
    }

    /// How many failure domains two nodes of the site share.
    pub(crate) fn shared_domains(&self, one: &NodeId, other: &NodeId) -> usize {
        match (self.site.get(one), self.site.get(other)) {
            (Some(one), Some(other)) => shared_domains(&one.situation, &other.situation),
            _ => 0,
        }
    }

    fn live_member(&self, node: &NodeId) -> Option<&Member> {
        self.site.get(node).filter(|member| member.down_since_ms.is_none())
    }

    /// The live nodes that are remembered, of all sites.
    pub(crate) fn live(&self) -> impl Iterator<Item = Candidate<'_>> {
        let near = self.site.iter().filter(|(_, member)| member.down_since_ms.is_none());
        let near = near.map(|(node, member)| (node, &self.group, member));
        let far = self.elsewhere.iter().map(|(node, (site, member))| (node, site, member));
        near.chain(far).map(|(node, site, member)| Candidate {
            node,
            facts: member.facts(node, site),
            memory_bytes: member.memory_bytes,
        })
    }

    /// The site of a live node that is remembered.
    pub(crate) fn site_of(&self, node: &NodeId) -> Option<&SiteId> {
        let far = self.elsewhere.get(node).map(|(site, _)| site);
        self.live_member(node).map(|_| &self.group).or(far)
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

    /// For how long a node has been down, in milliseconds; 0 if it is not. One never seen counts from the beginning, one
    /// that is shut out for ever.
    pub(crate) fn down_ms(&self, now_ms: u64, node: &NodeId) -> u64 {
        if self.is_shut_out(node) {
            return u64::MAX;
        }
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
