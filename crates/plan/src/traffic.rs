//! The rates of links that flows were promised: what one flow was promised is not promised to another.
//!
//! A stream may state the `rate` at which each of its partitions is published to. A flow takes that much of every link on its
//! way, its stages taken to put out as much as they take in. What leads from one site to another is one link, whichever of
//! their nodes are its ends: they share the uplink.

use std::collections::BTreeMap;

use littoral_model::entry::PORT_MAIN;
use littoral_model::id::{FlowName, NodeId};

use crate::placement::{Placement, Role};
use crate::spec::AppSpec;

/// What flows send from one node to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Traffic {
    /// Where it comes from.
    pub from: NodeId,
    /// Where it goes.
    pub to: NodeId,
    /// How much, in bits per second.
    pub bps: u64,
}

impl AppSpec {
    /// The rate of a flow's source, in bits per second, if it is stated.
    #[must_use]
    pub fn rate_bps(&self, flow: &FlowName) -> Option<u64> {
        self.streams.get(&self.flows.get(flow)?.source)?.rate_bps
    }
}

/// What the flows of an app send from node to node, given the rates of their sources, in bits per second.
pub fn traffic(placement: &Placement, rate_bps: impl Fn(&FlowName) -> Option<u64>) -> Vec<Traffic> {
    let mut sent = Vec::new();
    for placed in &placement.works {
        // What is said of changes of partitions is little, and seldom.
        let rows = placed.role.inputs().filter(|source| source.port.starts_with(PORT_MAIN));
        for source in rows {
            let writer = placement.work(&source.work).filter(|writer| writer.owner != placed.owner);
            let flow = match (&placed.role, writer.map(|writer| &writer.role)) {
                (Role::Stage { flow, .. }, _) | (Role::StreamPartition { .. }, Some(Role::Stage { flow, .. })) => flow,
                _ => continue,
            };
            if let (Some(writer), Some(bps)) = (writer, rate_bps(flow)) {
                sent.push(Traffic { from: writer.owner.clone(), to: placed.owner.clone(), bps });
            }
        }
    }
    sent
}

/// A link: two nodes of one site, or two sites.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum LinkKey {
    Nodes(usize, usize),
    Sites(usize, usize),
}

/// What is promised of each link, in bits per second.
#[derive(Clone, Debug, Default)]
pub(crate) struct Promised(BTreeMap<LinkKey, u64>);

impl Promised {
    pub(crate) fn promise(&mut self, link: LinkKey, bps: u64) {
        let promised = self.0.entry(link).or_default();
        *promised = promised.saturating_add(bps);
    }

    pub(crate) fn of(&self, link: LinkKey) -> u64 {
        self.0.get(&link).copied().unwrap_or_default()
    }
}
