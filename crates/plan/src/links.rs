//! What a link between any two nodes would be like, measured or not.
//!
//! Nodes measure only their neighbours. For any other pair the median between the two sites is taken, else the
//! shortest path over medians, else a conservative figure by tier. A direct measurement that differs little from its
//! sites' median is taken for the median: such differences are noise of the measurement, and would otherwise decide
//! between two machines of one rack.

use std::collections::{BTreeMap, BTreeSet};

use littoral_model::digest::LinkReport;
use littoral_model::id::{NodeId, SiteId, Tier};
use serde::{Deserialize, Serialize};

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
    /// The sum over sites in between.
    Path,
    /// Nothing: a conservative figure for the two tiers.
    Default,
}

/// What is known of all links.
#[derive(Clone, Debug, Default)]
pub struct Links {
    direct: BTreeMap<NodeId, BTreeMap<NodeId, Sample>>,
    sites: Sites,
    paths: Sites,
}

type Sites = BTreeMap<SiteId, BTreeMap<SiteId, Sample>>;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Sample {
    rtt_us: u64,
    bandwidth_bps: Option<u64>,
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
        let mut direct: BTreeMap<NodeId, BTreeMap<NodeId, Sample>> = BTreeMap::new();
        let mut between: BTreeMap<(SiteId, SiteId), Vec<Sample>> = BTreeMap::new();
        for ((a, b), sample) in pairs {
            if let (Some(&site_a), Some(&site_b)) = (site_of.get(&a), site_of.get(&b)) {
                let key = if site_a <= site_b { (site_a, site_b) } else { (site_b, site_a) };
                between.entry((key.0.clone(), key.1.clone())).or_default().push(sample);
            }
            direct.entry(a.clone()).or_default().insert(b.clone(), sample);
            direct.entry(b).or_default().insert(a, sample);
        }
        let mut sites = Sites::new();
        for ((a, b), samples) in between {
            let sample = median(samples);
            sites.entry(a.clone()).or_default().insert(b.clone(), sample);
            sites.entry(b).or_default().insert(a, sample);
        }
        let paths = sites.keys().map(|site| (site.clone(), shortest_paths(&sites, site))).collect();
        Self { direct, sites, paths }
    }

    /// What the link between two nodes would be like.
    #[must_use]
    pub fn predict(&self, a: &NodeView, b: &NodeView) -> LinkEstimate {
        if a.node == b.node {
            return LinkEstimate { rtt_us: 0, bandwidth_bps: u64::MAX, basis: Basis::SameNode };
        }
        let fallback = default_between(a, b);
        let estimate = |sample: Sample, basis| LinkEstimate {
            rtt_us: sample.rtt_us,
            bandwidth_bps: sample.bandwidth_bps.unwrap_or(fallback.bandwidth_bps),
            basis,
        };
        let site_median = look_up(&self.sites, &a.site, &b.site);
        if let Some(measured) = self.direct.get(&a.node).and_then(|peers| peers.get(&b.node)).copied() {
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
        match look_up(&self.paths, &a.site, &b.site) {
            Some(sample) if a.site != b.site => estimate(sample, Basis::Path),
            _ => fallback,
        }
    }
}

fn look_up(sites: &Sites, a: &SiteId, b: &SiteId) -> Option<Sample> {
    sites.get(a).and_then(|others| others.get(b)).copied()
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
fn shortest_paths(sites: &Sites, from: &SiteId) -> BTreeMap<SiteId, Sample> {
    let mut settled: BTreeMap<SiteId, Sample> = BTreeMap::new();
    let mut open: BTreeSet<(u64, SiteId, Option<u64>)> = BTreeSet::from([(0, from.clone(), None)]);
    while let Some((rtt_us, site, bandwidth_bps)) = open.pop_first() {
        if settled.contains_key(&site) {
            continue;
        }
        for (next, link) in sites.get(&site).into_iter().flatten().filter(|(next, _)| !settled.contains_key(*next)) {
            let slowest = match (bandwidth_bps, link.bandwidth_bps) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
            open.insert((rtt_us.saturating_add(link.rtt_us), next.clone(), slowest));
        }
        settled.insert(site, Sample { rtt_us, bandwidth_bps });
    }
    settled
}

/// What to expect of a link of which nothing is known: the way of each end to the core of the network, added up. The
/// figures are on the high side of access networks, so that a guess never wins over a good measurement.
fn default_between(a: &NodeView, b: &NodeView) -> LinkEstimate {
    if a.site == b.site {
        return LinkEstimate { rtt_us: SITE_RTT_US, bandwidth_bps: SITE_BANDWIDTH_BPS, basis: Basis::Default };
    }
    let (rtt_a, rate_a) = default_access(a.tier);
    let (rtt_b, rate_b) = default_access(b.tier);
    LinkEstimate { rtt_us: rtt_a + rtt_b, bandwidth_bps: rate_a.min(rate_b), basis: Basis::Default }
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
