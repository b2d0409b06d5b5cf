//! What is taken so far: nodes, links, load and memory while a placement is being made, and what things cost.

use std::collections::BTreeMap;

use littoral_model::id::NodeId;
use littoral_model::work::Assignment;

use crate::REPLICAS_MAX;
use crate::fabric::{Fabric, NodeView};
use crate::links::{Basis, LinkEstimate};
use crate::refusal::{NearestMiss, Unplaceable};
use crate::spec::{Ack, Constraints};

/// What a commit takes at the 95th percentile, in microseconds: an fdatasync of a slow day, shared by a group.
const COMMIT_US: u64 = 2_000;
/// How long a record waits at the 95th percentile for each other unit of work that shares a core, in microseconds: a
/// small batch of the other's.
const QUEUE_US: u64 = 1_000;
/// The bytes that cross a link for a record and its framing.
const RECORD_BYTES: u64 = 512;

/// Nodes, links, load and memory.
#[derive(Debug)]
pub(crate) struct Board {
    views: Vec<NodeView>,
    index: BTreeMap<NodeId, usize>,
    links: Vec<LinkEstimate>,
    load: Vec<u32>,
    free_bytes: Vec<u64>,
}

/// What is asked of a node.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ask<'a> {
    pub(crate) placement: &'a Constraints,
    pub(crate) memory_bytes: u64,
    pub(crate) ack: Option<Ack>,
}

/// A constraint that a node does not satisfy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Violation {
    /// As `tier=edge`.
    pub(crate) constraint: String,
    /// As `is of tier device`.
    pub(crate) why: String,
}

impl Board {
    /// Takes in the fabric. Owners of existing work that it does not know are taken for dead nodes of the work's site.
    pub(crate) fn new(fabric: &Fabric, existing: &[Assignment]) -> Self {
        let mut known = fabric.nodes.clone();
        for assignment in existing {
            known.entry(assignment.owner.clone()).or_insert_with(|| unknown(assignment));
        }
        let views: Vec<NodeView> = known.into_values().collect();
        let links =
            views.iter().flat_map(|a| views.iter().map(|b| fabric.links.predict(a, b)).collect::<Vec<_>>()).collect();
        Self {
            index: views.iter().enumerate().map(|(spot, view)| (view.node.clone(), spot)).collect(),
            links,
            load: views.iter().map(|view| view.works).collect(),
            free_bytes: views.iter().map(|v| v.memory_bytes.saturating_sub(v.memory_promised_bytes)).collect(),
            views,
        }
    }

    pub(crate) fn spot(&self, node: &NodeId) -> Option<usize> {
        self.index.get(node).copied()
    }

    pub(crate) fn view(&self, spot: usize) -> Option<&NodeView> {
        self.views.get(spot)
    }

    pub(crate) fn is_alive(&self, spot: usize) -> bool {
        self.view(spot).is_some_and(|view| view.alive)
    }

    pub(crate) fn live_spots(&self) -> impl Iterator<Item = usize> {
        (0..self.views.len()).filter(|spot| self.is_alive(*spot))
    }

    pub(crate) fn load(&self, spot: usize) -> u32 {
        self.load.get(spot).copied().unwrap_or_default()
    }

    pub(crate) fn free_bytes(&self, spot: usize) -> u64 {
        self.free_bytes.get(spot).copied().unwrap_or_default()
    }

    /// One more unit of work on a node.
    pub(crate) fn add_work(&mut self, spot: usize) {
        if let Some(load) = self.load.get_mut(spot) {
            *load = load.saturating_add(1);
        }
    }

    /// Takes memory of a node; false, and nothing taken, if it has too little.
    pub(crate) fn take_memory(&mut self, spot: usize, bytes: u64) -> bool {
        let Some(free) = self.free_bytes.get_mut(spot) else { return false };
        let Some(rest) = free.checked_sub(bytes) else { return false };
        *free = rest;
        true
    }

    pub(crate) fn link(&self, from: usize, to: usize) -> LinkEstimate {
        let unknown = LinkEstimate { rtt_us: u64::from(u32::MAX), bandwidth_bps: 1, basis: Basis::Default };
        self.links.get(from.saturating_mul(self.views.len()).saturating_add(to)).copied().unwrap_or(unknown)
    }

    /// What a hop costs a record at the 95th percentile. Readers poll and the poll waits at the owner; a record that
    /// comes just after an answer has left waits until that answer is there and the next poll is back, and then
    /// travels itself: one and a half round trips.
    pub(crate) fn hop_us(&self, from: usize, to: usize) -> u64 {
        let link = self.link(from, to);
        if link.basis == Basis::SameNode {
            return 0;
        }
        let transfer_us = (RECORD_BYTES * 8 * 1_000_000).checked_div(link.bandwidth_bps).unwrap_or_default();
        (link.rtt_us.saturating_mul(3) / 2).saturating_add(transfer_us)
    }

    /// What a commit costs: the disk, and with `ack = site` the way to the farthest replica and back.
    pub(crate) fn commit_us(&self, spot: usize, ack: Ack, requires: &Constraints) -> u64 {
        let replicas = match ack {
            Ack::Local => Vec::new(),
            Ack::Site => self.peers(spot, requires).filter(|peer| self.is_alive(*peer)).collect(),
        };
        let farthest_us = replicas.into_iter().map(|peer| self.link(spot, peer).rtt_us).max().unwrap_or_default();
        COMMIT_US.saturating_add(farthest_us)
    }

    /// How long a record waits for the other work of a node.
    pub(crate) fn queue_us(&self, spot: usize) -> u64 {
        let cores = self.view(spot).map_or(1, |view| view.cores.max(1));
        (u64::from(self.load(spot)) * QUEUE_US).checked_div(u64::from(cores)).unwrap_or_default()
    }

    /// The live nodes that satisfy what is asked, nearness left aside, in the order of their names.
    pub(crate) fn candidates(&self, ask: Ask<'_>) -> Vec<usize> {
        self.live_spots().filter(|spot| self.violations(*spot, ask).is_empty()).collect()
    }

    /// Of `options` those nearest to an anchor, with all others of the nearest one's site.
    pub(crate) fn nearest(&self, options: Vec<usize>, anchors: &[usize]) -> Vec<usize> {
        let distance_us = |spot: usize| anchors.iter().map(|anchor| self.link(spot, *anchor).rtt_us).min();
        let Some((least_us, nearest)) = options.iter().filter_map(|spot| Some((distance_us(*spot)?, *spot))).min()
        else {
            return options;
        };
        let site = self.view(nearest).map(|view| &view.site);
        let is_near = |spot: &usize| {
            distance_us(*spot).is_some_and(|us| us <= least_us) || self.view(*spot).map(|view| &view.site) == site
        };
        options.into_iter().filter(is_near).collect()
    }

    /// What a node does not satisfy, nearness left aside.
    pub(crate) fn violations(&self, spot: usize, ask: Ask<'_>) -> Vec<Violation> {
        let Some(view) = self.view(spot) else { return Vec::new() };
        let mut violations = violations(view, ask.placement);
        let free_bytes = self.free_bytes(spot);
        if ask.memory_bytes > free_bytes {
            violations.push(Violation {
                constraint: format!("memory={}", Mebibytes(ask.memory_bytes)),
                why: format!("has {} free", Mebibytes(free_bytes)),
            });
        }
        if ask.ack == Some(Ack::Site) && self.peers(spot, ask.placement).next().is_none() {
            violations.push(Violation {
                constraint: "ack=site (two nodes of one site)".to_owned(),
                why: format!("has no second such node in its site {}", view.site),
            });
        }
        violations
    }

    /// When an entry counts as committed if its owner is there: as declared, else on two disks where there are two.
    pub(crate) fn effective_ack(&self, spot: usize, declared: Option<Ack>, requires: &Constraints) -> Ack {
        declared.unwrap_or_else(|| if self.peers(spot, requires).next().is_some() { Ack::Site } else { Ack::Local })
    }

    /// Who is to hold a new work's log: its owner, and live nodes of the site that may own it, least loaded first.
    pub(crate) fn replicas(&self, spot: usize, ack: Ack, requires: &Constraints) -> Vec<NodeId> {
        let mut peers: Vec<usize> = match ack {
            Ack::Local => Vec::new(),
            Ack::Site => self.peers(spot, requires).filter(|peer| self.is_alive(*peer)).collect(),
        };
        peers.sort_by_key(|peer| (self.load(*peer), *peer));
        let nodes = std::iter::once(spot).chain(peers).take(REPLICAS_MAX);
        nodes.filter_map(|spot| self.view(spot)).map(|view| view.node.clone()).collect()
    }

    /// The other nodes of a node's site, dead ones among them, that satisfy the constraints.
    fn peers<'a>(&'a self, spot: usize, requires: &'a Constraints) -> impl Iterator<Item = usize> + 'a {
        let site = self.view(spot).map(|view| &view.site);
        let is_peer = move |(peer, view): &(usize, &NodeView)| {
            *peer != spot && Some(&view.site) == site && requires.admits(view.tier, &view.site, &view.labels)
        };
        self.views.iter().enumerate().filter(is_peer).map(|(peer, _)| peer)
    }

    /// The finding for something that no live node satisfies.
    pub(crate) fn unplaceable(&self, what: String, ask: Ask<'_>) -> Unplaceable {
        let alive: Vec<(usize, Vec<Violation>)> =
            self.live_spots().map(|spot| (spot, self.violations(spot, ask))).collect();
        let nearest = alive.iter().min_by_key(|(spot, violations)| (violations.len(), *spot));
        let everywhere: Vec<&str> = nearest
            .iter()
            .flat_map(|(_, violations)| violations)
            .map(|violation| violation.constraint.as_str())
            .filter(|constraint| alive.iter().all(|(_, vs)| vs.iter().any(|v| v.constraint == *constraint)))
            .collect();
        let constraint = if everywhere.is_empty() { describe(ask).join(" and ") } else { everywhere.join(" and ") };
        let nearest_miss = nearest.and_then(|(spot, violations)| {
            let why = violations.iter().map(|violation| violation.why.as_str()).collect::<Vec<_>>().join(" and ");
            Some(NearestMiss { node: self.view(*spot)?.node.clone(), why })
        });
        Unplaceable { what, constraint, nearest_miss }
    }
}

/// What a node does not satisfy of tiers, sites and labels.
fn violations(view: &NodeView, placement: &Constraints) -> Vec<Violation> {
    let mut violations = Vec::new();
    if !placement.tiers.is_empty() && !placement.tiers.contains(&view.tier) {
        let why = format!("is of tier {}", view.tier);
        violations.push(Violation { constraint: one_of("tier", &placement.tiers), why });
    }
    if !placement.sites.is_empty() && !placement.sites.contains(&view.site) {
        let why = format!("is in site {}", view.site);
        violations.push(Violation { constraint: one_of("site", &placement.sites), why });
    }
    for (key, value) in &placement.labels {
        let why = match view.labels.get(key) {
            Some(held) if held == value => continue,
            Some(held) => format!("has label {key}={held}"),
            None => format!("has no label {key}"),
        };
        violations.push(Violation { constraint: format!("label {key}={value}"), why });
    }
    violations
}

/// The constraints as text, one each.
pub(crate) fn describe(ask: Ask<'_>) -> Vec<String> {
    let placement = ask.placement;
    let mut texts = Vec::new();
    if !placement.tiers.is_empty() {
        texts.push(one_of("tier", &placement.tiers));
    }
    if !placement.sites.is_empty() {
        texts.push(one_of("site", &placement.sites));
    }
    texts.extend(placement.labels.iter().map(|(key, value)| format!("label {key}={value}")));
    if let Some(stream) = &placement.near {
        texts.push(format!("near={stream}"));
    }
    if ask.memory_bytes > 0 {
        texts.push(format!("memory={}", Mebibytes(ask.memory_bytes)));
    }
    if let Some(ack) = ask.ack {
        texts.push(format!("ack={ack}"));
    }
    texts
}

fn one_of<T: ToString>(key: &str, values: impl IntoIterator<Item = T>) -> String {
    format!("{key}={}", values.into_iter().map(|value| value.to_string()).collect::<Vec<_>>().join("|"))
}

/// What is assumed of an owner that the fabric does not know: it is gone, and its site is the work's.
fn unknown(assignment: &Assignment) -> NodeView {
    NodeView {
        node: assignment.owner.clone(),
        tier: littoral_model::id::Tier::Device,
        site: assignment.work.site.clone(),
        labels: BTreeMap::new(),
        cores: 1,
        memory_bytes: 0,
        memory_promised_bytes: 0,
        works: 0,
        alive: false,
    }
}

/// Bytes, shown as mebibytes where they are whole ones.
struct Mebibytes(u64);

impl std::fmt::Display for Mebibytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0.is_multiple_of(1 << 20) { write!(f, "{}MiB", self.0 >> 20) } else { write!(f, "{}B", self.0) }
    }
}
