//! What a link between any two nodes would be like, measured or not.
//!
//! Nodes measure only their neighbours. For any other pair the median between the two sites is taken, else what the
//! network coordinates of both say if both are sure of theirs, else the shortest path over medians, else a conservative
//! figure by tier. A direct measurement that differs little from its
//! sites' median is taken for the median: such differences are noise of the measurement, and would otherwise decide
//! between two machines of one rack.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

use littoral_model::condition::Coordinate;
use littoral_model::digest::LinkReport;
use littoral_model::id::{NodeId, SiteId, Tier};
use serde::{Deserialize, Serialize};

use crate::coordinate::{estimate_us, is_known};
use crate::fabric::NodeView;

/// Two round trips that differ by less than this, in microseconds, are held for equal: it is the jitter of a scheduler.
const NOISE_US: u64 = 1_000;
/// Two round trips that differ by less than this share are held for equal: it is the jitter of a wide-area path.
const NOISE_PERCENT: u64 = 25;
/// The round trip between two nodes of one site of which nothing was measured, in microseconds.
const SITE_RTT_US: u64 = 1_000;
/// The rate between two nodes of one site of which nothing was measured, in bits per second.
const SITE_BANDWIDTH_BPS: u64 = 1_000_000_000;

/// A predicted link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkEstimate {
    /// Round-trip time, in microseconds.
    pub rtt_us: u64,
    /// Rate, in bits per second.
    pub bandwidth_bps: u64,
    /// Whether that was measured.
    pub is_rate_measured: bool,
    /// What the prediction rests on.
    pub basis: Basis,
}

/// What a predicted link rests on, from the best to the worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Basis {
    /// Both ends are one node.
    SameNode,
    /// The two have measured each other.
    Measured,
    /// Others of the two sites have measured each other.
    SiteMedian,
    /// The two nodes' network coordinates.
    Coordinates,
    /// The sum over sites in between.
    Path,
    /// Nothing: a conservative figure for the two tiers.
    Default,
}

/// What is known of all links. Nodes and sites are numbered, and looked up by name once for many pairs.
#[derive(Clone, Debug, Default)]
pub struct Links {
    nodes: BTreeMap<NodeId, usize>,
    direct: Vec<BTreeMap<usize, Sample>>,
    sites: BTreeMap<SiteId, usize>,
    medians: Vec<BTreeMap<usize, Sample>>,
    /// By site, worked out when one is asked for: nodes that know where they are need none.
    paths: Vec<OnceLock<Vec<Option<Sample>>>>,
    coordinates: BTreeMap<NodeId, Coordinate>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Sample {
    rtt_us: u64,
    bandwidth_bps: Option<u64>,
}

/// One end of links: how what is known of them is found, looked up once for many pairs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct End {
    node: Option<usize>,
    site: Option<usize>,
    coordinate: Option<Coordinate>,
}

impl Links {
    /// Takes in what nodes have reported: reporter and report.
    #[must_use]
    pub fn new<'a>(
        nodes: impl IntoIterator<Item = &'a NodeView>,
        reports: impl IntoIterator<Item = (NodeId, LinkReport)>,
    ) -> Self {
        let site_of: BTreeMap<&NodeId, &SiteId> = nodes.into_iter().map(|view| (&view.node, &view.site)).collect();
        let pairs = merge_directions(reports);
        let ends = pairs.keys().flat_map(|(a, b)| [a, b]);
        let nodes = numbered(ends.clone());
        let sites = numbered(ends.filter_map(|node| site_of.get(node).copied()));
        let site = |node: &NodeId| site_of.get(node).and_then(|site| sites.get(*site)).copied();
        let mut direct = vec![BTreeMap::new(); nodes.len()];
        let mut between: BTreeMap<(usize, usize), Vec<Sample>> = BTreeMap::new();
        for ((a, b), sample) in pairs {
            if let (Some(site_a), Some(site_b)) = (site(&a), site(&b)) {
                between.entry((site_a.min(site_b), site_a.max(site_b))).or_default().push(sample);
            }
            if let (Some(&a), Some(&b)) = (nodes.get(&a), nodes.get(&b)) {
                note(&mut direct, a, b, sample);
            }
        }
        let mut medians = vec![BTreeMap::new(); sites.len()];
        for ((a, b), samples) in between {
            note(&mut medians, a, b, median(samples));
        }
        let paths = vec![OnceLock::new(); sites.len()];
        Self { nodes, direct, sites, medians, paths, coordinates: BTreeMap::new() }
    }

    /// Takes in where nodes are in the network.
    #[must_use]
    pub fn located(mut self, coordinates: impl IntoIterator<Item = (NodeId, Coordinate)>) -> Self {
        self.coordinates.extend(coordinates);
        self
    }

    /// What the link between two nodes would be like.
    #[must_use]
    pub fn predict(&self, a: &NodeView, b: &NodeView) -> LinkEstimate {
        self.between((a, &self.end(a)), (b, &self.end(b)))
    }

    /// An end of links of a node, for [`Self::between`].
    pub(crate) fn end(&self, view: &NodeView) -> End {
        End {
            node: self.nodes.get(&view.node).copied(),
            site: self.sites.get(&view.site).copied(),
            coordinate: self.coordinates.get(&view.node).copied(),
        }
    }

    /// As [`Self::predict`], of two ends that were looked up before.
    pub(crate) fn between(&self, (view_a, a): (&NodeView, &End), (view_b, b): (&NodeView, &End)) -> LinkEstimate {
        if view_a.node == view_b.node {
            return LinkEstimate {
                rtt_us: 0,
                bandwidth_bps: u64::MAX,
                is_rate_measured: false,
                basis: Basis::SameNode,
            };
        }
        let fallback = default_between(view_a, view_b);
        let estimate = |sample: Sample, basis| LinkEstimate {
            rtt_us: sample.rtt_us,
            bandwidth_bps: sample.bandwidth_bps.unwrap_or(fallback.bandwidth_bps),
            is_rate_measured: sample.bandwidth_bps.is_some(),
            basis,
        };
        let sites = a.site.zip(b.site);
        let site_median = sites.and_then(|(a, b)| self.medians.get(a)?.get(&b).copied());
        if let Some(measured) = a.node.zip(b.node).and_then(|(a, b)| self.direct.get(a)?.get(&b).copied()) {
            let sample = match site_median {
                Some(median) if is_noise(measured.rtt_us, median.rtt_us) => {
                    Sample { rtt_us: median.rtt_us, bandwidth_bps: median.bandwidth_bps.or(measured.bandwidth_bps) }
                }
                _ => measured,
            };
            return estimate(sample, Basis::Measured);
        }
        if let Some(sample) = site_median {
            return estimate(sample, Basis::SiteMedian);
        }
        if let Some((a, b)) = a.coordinate.as_ref().zip(b.coordinate.as_ref()).filter(|(a, b)| is_known(a, b)) {
            return estimate(Sample { rtt_us: estimate_us(a, b), bandwidth_bps: None }, Basis::Coordinates);
        }
        match sites.filter(|(a, b)| a != b).and_then(|(a, b)| self.path(a, b)) {
            Some(sample) => estimate(sample, Basis::Path),
            None => fallback,
        }
    }

    fn path(&self, a: usize, b: usize) -> Option<Sample> {
        let paths = self.paths.get(a)?.get_or_init(|| shortest_paths(&self.medians, a));
        paths.get(b).copied().flatten()
    }
}

/// A number for each name.
fn numbered<'a, T: Clone + Ord + 'a>(names: impl Iterator<Item = &'a T>) -> BTreeMap<T, usize> {
    let names: BTreeSet<&T> = names.collect();
    names.into_iter().enumerate().map(|(number, name)| (name.clone(), number)).collect()
}

/// Notes a link at both of its ends.
fn note(links: &mut [BTreeMap<usize, Sample>], a: usize, b: usize, sample: Sample) {
    for (from, to) in [(a, b), (b, a)] {
        if let Some(links) = links.get_mut(from) {
            links.insert(to, sample);
        }
    }
}

fn is_noise(measured_us: u64, median_us: u64) -> bool {
    measured_us.abs_diff(median_us) <= NOISE_US.max(median_us.saturating_mul(NOISE_PERCENT) / 100)
}

/// Both ends measure a link: the mean of their round trips, the higher of their rates.
fn merge_directions(reports: impl IntoIterator<Item = (NodeId, LinkReport)>) -> BTreeMap<(NodeId, NodeId), Sample> {
    let mut pairs: BTreeMap<(NodeId, NodeId), (u64, u64, Option<u64>)> = BTreeMap::new();
    for (reporter, report) in reports {
        if reporter == report.peer {
            continue;
        }
        let key = if reporter <= report.peer { (reporter, report.peer) } else { (report.peer, reporter) };
        let (sum_us, count, bandwidth_bps) = pairs.entry(key).or_default();
        *sum_us = sum_us.saturating_add(report.rtt_us);
        *count += 1;
        *bandwidth_bps = (*bandwidth_bps).max(report.bandwidth_bps);
    }
    let merged = |(sum_us, count, bandwidth_bps): (u64, u64, Option<u64>)| Sample {
        rtt_us: sum_us.checked_div(count).unwrap_or(sum_us),
        bandwidth_bps,
    };
    pairs.into_iter().map(|(key, seen)| (key, merged(seen))).collect()
}

fn median(mut samples: Vec<Sample>) -> Sample {
    samples.sort_unstable();
    let middle = |values: &[u64]| -> Option<u64> {
        let upper = *values.get(values.len() / 2)?;
        let lower = *values.get(values.len().saturating_sub(1) / 2)?;
        Some(lower.midpoint(upper))
    };
    let rtts: Vec<u64> = samples.iter().map(|sample| sample.rtt_us).collect();
    let mut rates: Vec<u64> = samples.iter().filter_map(|sample| sample.bandwidth_bps).collect();
    rates.sort_unstable();
    Sample { rtt_us: middle(&rtts).unwrap_or_default(), bandwidth_bps: middle(&rates) }
}

/// Dijkstra over the medians between sites: round trips add up, the slowest link bounds the rate.
fn shortest_paths(sites: &[BTreeMap<usize, Sample>], from: usize) -> Vec<Option<Sample>> {
    let mut settled: Vec<Option<Sample>> = vec![None; sites.len()];
    let mut open: BTreeSet<(u64, usize, Option<u64>)> = BTreeSet::from([(0, from, None)]);
    while let Some((rtt_us, site, bandwidth_bps)) = open.pop_first() {
        let Some(slot) = settled.get_mut(site).filter(|slot| slot.is_none()) else { continue };
        *slot = Some(Sample { rtt_us, bandwidth_bps });
        for (next, link) in sites.get(site).into_iter().flatten() {
            let slowest = match (bandwidth_bps, link.bandwidth_bps) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
            if settled.get(*next).is_some_and(Option::is_none) {
                open.insert((rtt_us.saturating_add(link.rtt_us), *next, slowest));
            }
        }
    }
    settled
}

/// What to expect of a link of which nothing is known: the way of each end to the core of the network, added up. The
/// figures are on the high side of access networks, so that a guess never wins over a good measurement.
fn default_between(a: &NodeView, b: &NodeView) -> LinkEstimate {
    let assumed =
        |rtt_us, bandwidth_bps| LinkEstimate { rtt_us, bandwidth_bps, is_rate_measured: false, basis: Basis::Default };
    if a.site == b.site {
        return assumed(SITE_RTT_US, SITE_BANDWIDTH_BPS);
    }
    let (rtt_a, rate_a) = default_access(a.tier);
    let (rtt_b, rate_b) = default_access(b.tier);
    assumed(rtt_a + rtt_b, rate_a.min(rate_b))
}

/// Round trip to the core in microseconds, and rate in bits per second.
fn default_access(tier: Tier) -> (u64, u64) {
    match tier {
        Tier::Device => (20_000, 10_000_000),
        Tier::Edge => (20_000, 50_000_000),
        Tier::Region => (20_000, 1_000_000_000),
        Tier::Cloud => (40_000, 1_000_000_000),
    }
}
