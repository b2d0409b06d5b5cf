//! The topology of a continuum: which node connects to which, and how the links between them are.

use std::time::Duration;

use littoral_mesh::shaper::LinkShape;
use littoral_model::id::{NodeId, SiteId, Tier};
use littoral_model::manifest::{Dev, DevLink, DevNode};

use crate::failure::Usage;

/// One node connects to another one.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Dial {
    pub(super) from: NodeId,
    pub(super) to: NodeId,
    /// None for a link that is left as it is.
    pub(super) shape: Option<LinkShape>,
}

/// The nodes in the order in which they are started, and who connects to whom.
#[derive(Clone, Debug)]
pub(super) struct Topology {
    pub(super) nodes: Vec<DevNode>,
    pub(super) dials: Vec<Dial>,
}

impl Topology {
    /// The topology of a manifest; without one, a single node.
    ///
    /// # Errors
    /// When a device would have nobody to connect to.
    pub(super) fn new(dev: Option<&Dev>) -> anyhow::Result<Self> {
        let mut nodes = dev.map(|dev| dev.nodes.clone()).unwrap_or_default();
        if nodes.is_empty() {
            nodes.push(single()?);
        }
        // Outer nodes connect to inner ones, so that these are there first.
        nodes.sort_by_key(|node| std::cmp::Reverse(node.tier));
        let links = dev.map(|dev| dev.links.as_slice()).unwrap_or_default();
        let mut dials = Vec::new();
        for (place, from) in nodes.iter().enumerate() {
            dials.extend(nodes.iter().take(place).filter_map(|to| dial(from, to, links)));
            if from.tier == Tier::Device && !dials.iter().any(|dial| dial.from == from.name) {
                return Err(Usage::new(format!("the device {} is linked to no other node", from.name))
                    .hint("add a link with its name, site or tier to `dev.links` in littoral.toml")
                    .into());
            }
        }
        Ok(Self { nodes, dials })
    }

    /// The nodes that a name stands for: a node's, a site's or a tier's.
    pub(super) fn named(&self, name: &str) -> Vec<NodeId> {
        self.nodes.iter().filter(|node| likeness(node, name) > 0).map(|node| node.name.clone()).collect()
    }

    pub(super) fn tier(&self, name: &NodeId) -> Option<Tier> {
        self.nodes.iter().find(|node| node.name == *name).map(|node| node.tier)
    }
}

fn single() -> anyhow::Result<DevNode> {
    let (name, site) = (NodeId::new("node-1")?, SiteId::new("dev")?);
    Ok(DevNode { name, tier: Tier::Edge, site, region: None, labels: std::collections::BTreeMap::new() })
}

/// How a node connects to an earlier one, if it does.
fn dial(from: &DevNode, to: &DevNode, links: &[DevLink]) -> Option<Dial> {
    if to.tier == Tier::Device {
        return None;
    }
    let (from_name, to_name) = (from.name.clone(), to.name.clone());
    let best =
        links.iter().filter_map(|link| Some((matches(link, from, to)?, link))).max_by_key(|(likeness, _)| *likeness);
    let shape = match best {
        Some((_, link)) => Some(shape(link)),
        None if from.site == to.site || links.is_empty() => None,
        None => return None,
    };
    Some(Dial { from: from_name, to: to_name, shape })
}

/// How closely a link names a pair of nodes; none if it does not.
fn matches(link: &DevLink, a: &DevNode, b: &DevNode) -> Option<u32> {
    let [one, other] = &link.between;
    let pair = |x: &str, y: &str| {
        let (x, y) = (likeness(a, x), likeness(b, y));
        (x > 0 && y > 0).then_some(x + y)
    };
    // A tier's link to itself is meant between sites.
    let close = pair(one, other).max(pair(other, one))?;
    (a.site != b.site || close > 2).then_some(close)
}

/// How closely a name means a node: as itself, by its site, by its tier, or not at all.
fn likeness(node: &DevNode, name: &str) -> u32 {
    if node.name.as_str() == name {
        4
    } else if node.site.as_str() == name {
        2
    } else {
        u32::from(node.tier.as_str() == name)
    }
}

fn shape(link: &DevLink) -> LinkShape {
    LinkShape {
        rtt: Duration::from(link.round_trip),
        bandwidth_bps: link.bandwidth.map(u64::from),
        loss: link.loss.map_or(0.0, f64::from),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const MANIFEST: &str = r#"
name = "a"
version = "1"
[dev]
nodes = [
    { name = "d1", tier = "device", site = "m1" },
    { name = "e1", tier = "edge", site = "hall" },
    { name = "e2", tier = "edge", site = "hall" },
    { name = "c1", tier = "cloud", site = "cloud" },
]
links = [
    { between = ["device", "edge"], round-trip = "3ms" },
    { between = ["edge", "cloud"], round-trip = "40ms", bandwidth = "50Mbit/s" },
    { between = ["e2", "cloud"], round-trip = "80ms", loss = "1%" },
]
"#;

    fn topology(text: &str) -> anyhow::Result<Topology> {
        let manifest = littoral_model::manifest::parse("m", text).unwrap();
        Topology::new(manifest.dev.as_ref())
    }

    #[test]
    fn outer_nodes_connect_to_inner_ones_over_the_closest_link() {
        let topology = topology(MANIFEST).unwrap();
        let shown: Vec<String> = topology
            .dials
            .iter()
            .map(|dial| {
                format!("{}>{} {:?}", dial.from, dial.to, dial.shape.as_ref().map(|shape| shape.rtt.as_millis()))
            })
            .collect();
        assert_eq!(shown, ["e1>c1 Some(40)", "e2>c1 Some(80)", "e2>e1 None", "d1>e1 Some(3)", "d1>e2 Some(3)"]);
        assert_eq!(topology.named("hall").len(), 2);
    }

    #[test]
    fn a_device_without_a_link_is_an_error() {
        let error = topology(&MANIFEST.replace("\"device\", \"edge\"", "\"device\", \"device\"")).unwrap_err();
        assert!(error.to_string().contains("d1"), "{error}");
    }

    #[test]
    fn without_a_topology_there_is_one_node() {
        let topology = Topology::new(None).unwrap();
        assert_eq!(topology.nodes.len(), 1);
        assert!(topology.dials.is_empty());
    }
}
