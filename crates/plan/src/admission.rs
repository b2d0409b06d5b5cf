//! Whether a node, by itself, may hold or run something, and if not, why.
//!
//! The same code decides at first, when an app is placed, and later, when a node's digest has changed. What a node does
//! not say of itself satisfies no constraint that asks for it.

use std::collections::BTreeMap;

use littoral_model::digest::NodeDigest;
use littoral_model::id::{NodeId, SiteId, Tier};
use littoral_model::manifest::{Affinity, Scope};
use littoral_model::situation::{Position, Power, PowerSource, Situation};
use littoral_model::unit::Ratio;

use crate::spec::Constraints;

/// What is known of a node, as far as constraints are about it.
#[derive(Clone, Copy, Debug)]
pub struct NodeFacts<'a> {
    /// Its name.
    pub node: &'a NodeId,
    /// Its tier.
    pub tier: Tier,
    /// Its site.
    pub site: &'a SiteId,
    /// Its labels.
    pub labels: &'a BTreeMap<String, String>,
    /// Its region, its accelerators and what it would fail with; what else is in it is not looked at.
    pub situation: &'a Situation,
    /// Where it is, whether it moves and what powers it.
    pub now: Now,
}

/// What of a node's situation changes often, apart from the rest: many nodes have the same rest, which an agent that
/// remembers them keeps once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    position: Option<Position>,
    moving: bool,
    source: PowerSource,
    battery_percent: Option<u8>,
}

impl From<&Situation> for Now {
    fn from(situation: &Situation) -> Self {
        let Power { source, battery_percent, .. } = situation.power;
        Self { position: situation.position, moving: situation.moving, source, battery_percent }
    }
}

/// What of a node's situation changes seldom and matters for constraints.
#[must_use]
pub fn lasting(situation: &Situation) -> Situation {
    Situation {
        region: situation.region.clone(),
        accelerators: situation.accelerators.clone(),
        domains: situation.domains.clone(),
        ..Situation::default()
    }
}

impl<'a> From<&'a NodeDigest> for NodeFacts<'a> {
    fn from(digest: &'a NodeDigest) -> Self {
        let situation = &digest.situation;
        let (node, site, labels) = (&digest.node, &digest.site, &digest.labels);
        Self { node, tier: digest.tier, site, labels, situation, now: situation.into() }
    }
}

/// A constraint that a node does not satisfy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Violation {
    /// As `tier=edge`.
    pub constraint: String,
    /// As `is of tier device`.
    pub why: String,
}

impl Constraints {
    /// Whether a node satisfies it by itself. Nearness is a wish and left aside; what else runs where, too.
    #[must_use]
    pub fn admits(&self, node: NodeFacts<'_>) -> bool {
        self.violations(node).is_empty()
    }

    /// Whether a node may hold data that is under it: all but what is about power and movement, which pass.
    #[must_use]
    pub fn admits_data(&self, node: NodeFacts<'_>) -> bool {
        let lasting = Self { battery_above: None, mains_only: false, stationary: false, ..self.clone() };
        lasting.admits(node)
    }

    /// What a node does not satisfy by itself.
    #[must_use]
    pub fn violations(&self, node: NodeFacts<'_>) -> Vec<Violation> {
        let mut found = Vec::new();
        let mut violated = |constraint: String, why: String| found.push(Violation { constraint, why });
        if !self.tiers.is_empty() && !self.tiers.contains(&node.tier) {
            violated(one_of("tier", &self.tiers), format!("is of tier {}", node.tier));
        }
        if !self.nodes.is_empty() && !self.nodes.contains(node.node) {
            violated(one_of("node", &self.nodes), format!("is {}", node.node));
        }
        if !self.sites.is_empty() && !self.sites.contains(node.site) {
            violated(one_of("site", &self.sites), format!("is in site {}", node.site));
        }
        let situation = node.situation;
        match &situation.region {
            _ if self.regions.is_empty() => {}
            Some(region) if self.regions.contains(region) => {}
            Some(region) => violated(one_of("region", &self.regions), format!("is in region {region}")),
            None => violated(one_of("region", &self.regions), "states no region".to_owned()),
        }
        for (key, value) in &self.labels {
            let why = match node.labels.get(key) {
                Some(held) if held == value => continue,
                Some(held) => format!("has label {key}={held}"),
                None => format!("has no label {key}"),
            };
            violated(format!("label {key}={value}"), why);
        }
        for accelerator in self.accelerators.difference(&situation.accelerators) {
            violated(format!("accelerator {accelerator}"), format!("has no accelerator {accelerator}"));
        }
        for within in &self.within {
            let why = match node.now.position.map(|position| position.distance(within.position)) {
                Some(distance) if distance <= within.radius => continue,
                Some(distance) => format!("is {distance} away from there"),
                None => "states no position".to_owned(),
            };
            violated(format!("within {} of {}", within.radius, within.position), why);
        }
        if let Some((constraint, why)) = self.battery_above.and_then(|above| too_empty(above, node.now)) {
            violated(constraint, why);
        }
        if self.mains_only && node.now.source != PowerSource::Mains {
            violated("mains-only".to_owned(), power_is(node.now));
        }
        if self.stationary && node.now.moving {
            violated("stationary".to_owned(), "is moving".to_owned());
        }
        for domain in self.spread.iter().filter(|domain| !situation.domains.contains_key(domain)) {
            violated(format!("spread={domain}"), format!("does not state what it shares of {domain}"));
        }
        found
    }

    /// The constraints as text, one each.
    #[must_use]
    pub fn describe(&self) -> Vec<String> {
        let mut texts = Vec::new();
        if !self.tiers.is_empty() {
            texts.push(one_of("tier", &self.tiers));
        }
        if !self.sites.is_empty() {
            texts.push(one_of("site", &self.sites));
        }
        if !self.regions.is_empty() {
            texts.push(one_of("region", &self.regions));
        }
        texts.extend(self.labels.iter().map(|(key, value)| format!("label {key}={value}")));
        texts.extend(self.accelerators.iter().map(|accelerator| format!("accelerator {accelerator}")));
        texts.extend(self.within.iter().map(|within| format!("within {} of {}", within.radius, within.position)));
        texts.extend(self.battery_above.map(|above| format!("battery-above={above}")));
        texts.extend(self.mains_only.then(|| "mains-only".to_owned()));
        texts.extend(self.stationary.then(|| "stationary".to_owned()));
        texts.extend(self.affinity.iter().map(together));
        texts.extend(self.anti_affinity.iter().map(apart));
        texts.extend(self.spread.iter().map(|domain| format!("spread={domain}")));
        texts.extend(self.near.iter().map(|stream| format!("near={stream}")));
        texts
    }

    /// Whether two nodes may both have a copy or an instance: they share nothing that it is to be spread over.
    #[must_use]
    pub fn spreads(&self, one: &Situation, other: &Situation) -> bool {
        self.spread.iter().all(|domain| match (one.domains.get(domain), other.domains.get(domain)) {
            (Some(one), Some(other)) => one != other,
            _ => false,
        })
    }
}

/// An affinity as text.
pub(crate) fn together(affinity: &Affinity) -> String {
    let relation = if affinity.scope == Scope::Node { "on one node" } else { "in one site" };
    format!("affinity={} ({relation})", affinity.with)
}

/// An anti-affinity as text.
pub(crate) fn apart(affinity: &Affinity) -> String {
    let relation = if affinity.scope == Scope::Node { "on another node" } else { "in another site" };
    format!("anti-affinity={} ({relation})", affinity.with)
}

/// How many failure domains two nodes are known to share.
#[must_use]
pub fn shared_domains(one: &Situation, other: &Situation) -> usize {
    one.domains.iter().filter(|(domain, name)| other.domains.get(domain) == Some(name)).count()
}

/// A battery that is too empty: the constraint, and why.
fn too_empty(above: Ratio, now: Now) -> Option<(String, String)> {
    let why = match (now.source, now.battery_percent) {
        (PowerSource::Mains, _) => return None,
        (_, Some(percent)) if Ratio::from_percent(percent) > above => return None,
        (_, Some(percent)) => format!("has {percent}% left in its battery"),
        (PowerSource::Battery, None) => "does not say how full its battery is".to_owned(),
        (PowerSource::Unknown, None) => power_is(now),
    };
    Some((format!("battery-above={above}"), why))
}

fn power_is(now: Now) -> String {
    match now.source {
        PowerSource::Unknown => "does not say what powers it".to_owned(),
        PowerSource::Mains => "is on the mains".to_owned(),
        PowerSource::Battery => "is on its battery".to_owned(),
    }
}

fn one_of<T: ToString>(key: &str, values: impl IntoIterator<Item = T>) -> String {
    format!("{key}={}", values.into_iter().map(|value| value.to_string()).collect::<Vec<_>>().join("|"))
}
