//! What is taken so far: nodes, links, load and memory while a placement is being made, and what things cost.

use std::collections::BTreeMap;

use littoral_model::id::NodeId;
use littoral_model::manifest::Scope;
use littoral_model::work::Assignment;

use crate::REPLICAS_MAX;
use crate::admission::{Violation, shared_domains};
use crate::fabric::{Fabric, NodeView};
use crate::links::{Basis, End, LinkEstimate, Links};
use crate::objective::Terms;
use crate::refusal::{NearestMiss, Unplaceable};
use crate::spec::{Ack, Constraints};
use crate::traffic::{LinkKey, Promised, Share};

/// What a commit takes at the 95th percentile, in microseconds: an fdatasync of a slow day, shared by a group.
const COMMIT_US: u64 = 2_000;
/// How long a record waits at the 95th percentile for each other unit of work that shares a core, in microseconds: a
/// small batch of the other's.
const QUEUE_US: u64 = 1_000;
/// The bytes that cross a link for a record and its framing.
const RECORD_BYTES: u64 = 512;

/// Nodes, links, load and memory.
#[derive(Debug)]
pub(crate) struct Board<'a> {
    views: Vec<NodeView>,
    index: BTreeMap<NodeId, usize>,
    links: &'a Links,
    ends: Vec<End>,
    /// By spot, which of `sites` and which region, as a number.
    places: Vec<(usize, usize)>,
    /// The spots of each site.
    sites: Vec<Vec<usize>>,
    load: Vec<u32>,
    free_bytes: Vec<u64>,
    promised: Promised,
}

/// What is asked of a node.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ask<'a> {
    pub(crate) placement: &'a Constraints,
    pub(crate) memory_bytes: u64,
    pub(crate) ack: Option<Ack>,
    /// Whether it is new work with a log, of which there are to be copies.
    pub(crate) has_copies: bool,
}

impl<'a> Board<'a> {
    /// Takes in the fabric. Owners of existing work that it does not know are taken for dead nodes of the work's site.
    pub(crate) fn new(fabric: &'a Fabric, existing: &[Assignment]) -> Self {
        let mut known = fabric.nodes.clone();
        for assignment in existing {
            known.entry(assignment.owner.clone()).or_insert_with(|| unknown(assignment));
        }
        let views: Vec<NodeView> = known.into_values().collect();
        let sites = Numbers::of(views.iter().map(|view| &view.site));
        let regions = Numbers::of(views.iter().map(|view| &view.situation.region));
        let places: Vec<_> = views.iter().map(|v| (sites.get(&v.site), regions.get(&v.situation.region))).collect();
        let mut spots = vec![Vec::new(); sites.0.len()];
        for (spot, (site, _)) in places.iter().enumerate() {
            spots.get_mut(*site).into_iter().for_each(|spots: &mut Vec<usize>| spots.push(spot));
        }
        let mut board = Self {
            index: views.iter().enumerate().map(|(spot, view)| (view.node.clone(), spot)).collect(),
            links: &fabric.links,
            ends: views.iter().map(|view| fabric.links.end(view)).collect(),
            sites: spots,
            places,
            load: views.iter().map(|view| view.works).collect(),
            free_bytes: views.iter().map(|v| v.memory_bytes.saturating_sub(v.memory_promised_bytes)).collect(),
            promised: Promised::default(),
            views,
        };
        for traffic in &fabric.promised {
            if let (Some(from), Some(to)) = (board.spot(&traffic.from), board.spot(&traffic.to)) {
                board.promise(from, to, traffic.bps);
            }
        }
        board
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
        let end = |spot| self.view(spot).zip(self.ends.get(spot));
        let rtt_us = u64::from(u32::MAX);
        let unknown = LinkEstimate { rtt_us, bandwidth_bps: 1, is_rate_measured: false, basis: Basis::Default };
        end(from).zip(end(to)).map_or(unknown, |(from, to)| self.links.between(from, to))
    }

    /// Takes so much of a link, in bits per second.
    pub(crate) fn promise(&mut self, from: usize, to: usize, bps: u64) {
        if from != to {
            self.promised.promise(self.link_key(from, to), bps);
        }
    }

    /// What is left of a link, in bits per second, if its rate was measured.
    pub(crate) fn spare_bps(&self, from: usize, to: usize) -> Option<u64> {
        let link = self.link(from, to);
        let promised = self.promised.of(self.link_key(from, to));
        link.is_rate_measured.then(|| link.bandwidth_bps.saturating_sub(promised))
    }

    fn link_key(&self, from: usize, to: usize) -> LinkKey {
        let ordered = |a: usize, b: usize| (a.min(b), a.max(b));
        match self.site(from).zip(self.site(to)) {
            Some((one, other)) if one != other => {
                let (one, other) = ordered(one, other);
                LinkKey::Sites(one, other)
            }
            _ => {
                let (one, other) = ordered(from, to);
                LinkKey::Nodes(one, other)
            }
        }
    }

    /// What a hop costs a record at the 95th percentile. Readers poll and the poll waits at the owner; a record that
    /// comes just after an answer has left waits until that answer is there and the next poll is back, and then
    /// travels itself: one and a half round trips.
    pub(crate) fn hop_us(&self, from: usize, to: usize, share: Share) -> u64 {
        let link = self.link(from, to);
        if link.basis == Basis::SameNode {
            return 0;
        }
        let transfer_us = (share.of(RECORD_BYTES * 8 * 1_000_000)).checked_div(link.bandwidth_bps).unwrap_or_default();
        (link.rtt_us.saturating_mul(3) / 2).saturating_add(transfer_us)
    }

    /// What a hop costs, with what counts besides time.
    pub(crate) fn hop(&self, from: usize, to: usize) -> Terms {
        self.hop_of(from, to, Share::ALL)
    }

    /// The same of a record of which only so much is left.
    pub(crate) fn hop_of(&self, from: usize, to: usize, share: Share) -> Terms {
        let (site, region) = self
            .places
            .get(from)
            .zip(self.places.get(to))
            .map_or((false, false), |(from, to)| (from.0 == to.0, from.1 == to.1));
        let mut link = Terms::link(from == to, site, region);
        link.locality_us = share.of(link.locality_us);
        Terms::latency(self.hop_us(from, to, share)).and(link)
    }

    /// What it costs besides time to use a core of a node for so long per record.
    pub(crate) fn execution(&self, spot: usize, execution_us: u64) -> Terms {
        self.view(spot).map(|view| Terms::execution(view, execution_us)).unwrap_or_default()
    }

    /// Whether two nodes are one, or of one site.
    pub(crate) fn together(&self, scope: Scope, one: usize, other: usize) -> bool {
        match scope {
            Scope::Node => one == other,
            Scope::Site => self.site(one) == self.site(other),
        }
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
        let is_near = |spot: &usize| {
            distance_us(*spot).is_some_and(|us| us <= least_us) || self.site(*spot) == self.site(nearest)
        };
        options.into_iter().filter(is_near).collect()
    }

    /// What a node does not satisfy, nearness left aside.
    pub(crate) fn violations(&self, spot: usize, ask: Ask<'_>) -> Vec<Violation> {
        let Some(view) = self.view(spot) else { return Vec::new() };
        let mut violations = ask.placement.violations(view.facts());
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
        } else if ask.has_copies && !ask.placement.spread.is_empty() && self.peers(spot, ask.placement).next().is_none()
        {
            let spread: Vec<String> = ask.placement.spread.iter().map(ToString::to_string).collect();
            violations.push(Violation {
                constraint: format!("spread={} (two nodes of one site)", spread.join("|")),
                why: format!("has no second such node in its site {} that shares none of these with it", view.site),
            });
        }
        violations
    }

    /// When an entry counts as committed if its owner is there: as declared, else on two disks where there are two.
    pub(crate) fn effective_ack(&self, spot: usize, declared: Option<Ack>, requires: &Constraints) -> Ack {
        declared.unwrap_or_else(|| if self.peers(spot, requires).next().is_some() { Ack::Site } else { Ack::Local })
    }

    /// Who is to hold a new work's log: its owner, and live nodes of the site that may own it: first those that share no
    /// failure domain with the ones before, then the least loaded.
    pub(crate) fn replicas(&self, spot: usize, ack: Ack, requires: &Constraints) -> Vec<NodeId> {
        let mut peers: Vec<usize> = match ack {
            Ack::Local => Vec::new(),
            Ack::Site => self.peers(spot, requires).filter(|peer| self.is_alive(*peer)).collect(),
        };
        let mut chosen: Vec<&NodeView> = self.view(spot).into_iter().collect();
        while chosen.len() < REPLICAS_MAX {
            let may = |view: &NodeView| chosen.iter().all(|one| requires.spreads(&one.situation, &view.situation));
            let shared = |view: &NodeView| -> usize {
                chosen.iter().map(|one| shared_domains(&one.situation, &view.situation)).sum()
            };
            let options = peers.iter().filter_map(|peer| Some((*peer, self.view(*peer).filter(|view| may(view))?)));
            let next = options.min_by_key(|(peer, view)| (shared(view), self.load(*peer), *peer));
            let Some((peer, view)) = next else { break };
            peers.retain(|other| *other != peer);
            chosen.push(view);
        }
        chosen.into_iter().map(|view| view.node.clone()).collect()
    }

    /// The other nodes of a node's site, dead ones among them, that satisfy the constraints and may have a copy of what
    /// it has.
    fn peers<'b>(&'b self, spot: usize, requires: &'b Constraints) -> impl Iterator<Item = usize> + 'b {
        let own = self.view(spot);
        let is_peer = move |peer: &usize| {
            let view = self.view(*peer);
            *peer != spot
                && own.zip(view).is_some_and(|(own, view)| requires.spreads(&own.situation, &view.situation))
                && view.is_some_and(|view| requires.admits(view.facts()))
        };
        let members = self.site(spot).and_then(|site| self.sites.get(site));
        members.into_iter().flatten().copied().filter(is_peer)
    }

    fn site(&self, spot: usize) -> Option<usize> {
        self.places.get(spot).map(|(site, _)| *site)
    }

    /// The finding for something that no live node satisfies.
    /// `more` are violations of what else runs where.
    pub(crate) fn unplaceable(
        &self,
        what: String,
        ask: Ask<'_>,
        more: impl Fn(usize) -> Vec<Violation>,
    ) -> Unplaceable {
        let all = |spot| self.violations(spot, ask).into_iter().chain(more(spot)).collect();
        let alive: Vec<(usize, Vec<Violation>)> = self.live_spots().map(|spot| (spot, all(spot))).collect();
        let nearest = alive.iter().min_by_key(|(spot, violations)| (violations.len(), *spot));
        let everywhere: Vec<&str> = nearest
            .iter()
            .flat_map(|(_, violations)| violations)
            .map(|violation| violation.constraint.as_str())
            .filter(|constraint| alive.iter().all(|(_, vs)| vs.iter().any(|v| v.constraint == *constraint)))
            .collect();
        let constraint = if everywhere.is_empty() {
            let mut all = describe(ask);
            let of_others = nearest.iter().flat_map(|(_, violations)| violations).map(|v| &v.constraint);
            let of_others: Vec<String> = of_others.filter(|constraint| !all.contains(constraint)).cloned().collect();
            all.extend(of_others);
            all.join(" and ")
        } else {
            everywhere.join(" and ")
        };
        let nearest_miss = nearest.and_then(|(spot, violations)| {
            let why = violations.iter().map(|violation| violation.why.as_str()).collect::<Vec<_>>().join(" and ");
            Some(NearestMiss { node: self.view(*spot)?.node.clone(), why })
        });
        Unplaceable { what, constraint, nearest_miss }
    }
}

/// A number for each different value.
struct Numbers<'v, T>(BTreeMap<&'v T, usize>);

impl<'v, T: Ord> Numbers<'v, T> {
    fn of(values: impl Iterator<Item = &'v T>) -> Self {
        let mut numbers = BTreeMap::new();
        for value in values {
            let next = numbers.len();
            numbers.entry(value).or_insert(next);
        }
        Self(numbers)
    }

    fn get(&self, value: &T) -> usize {
        self.0.get(value).copied().unwrap_or(usize::MAX)
    }
}

/// The constraints as text, one each.
pub(crate) fn describe(ask: Ask<'_>) -> Vec<String> {
    let mut texts = ask.placement.describe();
    if ask.memory_bytes > 0 {
        texts.push(format!("memory={}", Mebibytes(ask.memory_bytes)));
    }
    if let Some(ack) = ask.ack {
        texts.push(format!("ack={ack}"));
    }
    texts
}

/// What is assumed of an owner that the fabric does not know: it is gone, and its site is the work's.
fn unknown(assignment: &Assignment) -> NodeView {
    NodeView {
        node: assignment.owner.clone(),
        tier: littoral_model::id::Tier::Device,
        site: assignment.work.site.clone(),
        labels: BTreeMap::new(),
        situation: littoral_model::situation::Situation::default(),
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
