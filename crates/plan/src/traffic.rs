//! The rates of links that flows were promised: what one flow was promised is not promised to another.
//!
//! A stream may state the `rate` at which each of its partitions is published to. A flow takes that much of every link on its
//! way, or what its stages are expected to leave of it. What leads from one site to another is one link, whichever of
//! their nodes are its ends: they share the uplink.

use std::collections::BTreeMap;

use littoral_model::entry::PORT_MAIN;
use littoral_model::id::{FlowName, FunctionName, NodeId};

use crate::placement::{Placement, Role};
use crate::spec::{AppSpec, SAME_PERMILLE};

/// How much of the bytes of a flow's source is left behind its stages, in thousandths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Share(u64);

impl Share {
    /// Nothing was left out.
    pub(crate) const ALL: Self = Self(SAME_PERMILLE as u64);
    /// What would be more than that is not told apart.
    const MOST: u64 = 1_000_000;

    /// What is left behind one more stage, which puts out so many bytes for a thousand that it takes in.
    pub(crate) fn behind(self, output_permille: u32) -> Self {
        Self((self.0 * u64::from(output_permille) / Self::ALL.0).clamp(1, Self::MOST))
    }

    /// That much of an amount.
    pub(crate) fn of(self, amount: u64) -> u64 {
        amount.saturating_mul(self.0) / Self::ALL.0
    }
}

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
    pub(crate) fn rate_bps(&self, flow: &FlowName) -> Option<u64> {
        self.streams.get(&self.flows.get(flow)?.source)?.rate_bps
    }

    /// What is expected to be left of that behind one of the flow's stages, or before all of them.
    #[must_use]
    pub fn rate_behind_bps(&self, flow: &FlowName, stage: Option<&FunctionName>) -> Option<u64> {
        let output_permille =
            |name: &FunctionName| self.functions.get(name).map_or(SAME_PERMILLE, |f| f.output_permille);
        let stages = &self.flows.get(flow)?.stages;
        Some(rate_behind_bps(self.rate_bps(flow)?, stages, stage, output_permille))
    }
}

/// What is expected to be left of the rate of a flow's source behind one of its stages, or before all of them, given how many bytes each
/// puts out for a thousand that it takes in.
pub fn rate_behind_bps(
    rate_bps: u64,
    stages: &[FunctionName],
    stage: Option<&FunctionName>,
    output_permille: impl Fn(&FunctionName) -> u32,
) -> u64 {
    let passed = stage.and_then(|stage| stages.iter().position(|name| name == stage)).map_or(0, |at| at + 1);
    let share = stages.iter().take(passed).fold(Share::ALL, |share, name| share.behind(output_permille(name)));
    share.of(rate_bps)
}

/// What the flows of an app send from node to node, in bits per second, given what each sends behind a stage, or behind its source.
pub fn traffic(
    placement: &Placement,
    rate_bps: impl Fn(&FlowName, Option<&FunctionName>) -> Option<u64>,
) -> Vec<Traffic> {
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
            let stage = writer.and_then(|writer| match &writer.role {
                Role::Stage { functions, .. } => functions.last().map(|stage| &stage.function),
                _ => None,
            });
            if let (Some(writer), Some(bps)) = (writer, rate_bps(flow, stage)) {
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
