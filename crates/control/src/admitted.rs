//! Who may have what, as things change: whether a node's latest digest, and what runs elsewhere, still satisfy the
//! constraints of a work or of a function.
//!
//! Every agent decides for its own node from the digests that it sees; only giving a work another owner is the keeper's.
//! A level that flaps is settled where it is measured (see [`crate::settle`]), so that all see the same, settled figure.

use littoral_model::id::{AppId, NodeId, SiteId};
use littoral_model::manifest::{Affinity, Scope};
use littoral_plan::{PlacedWork, Placement, Role, Serving};

use crate::agent::Agent;

impl Agent {
    /// Whether a live node of the site may own or go on owning a work.
    pub(crate) fn may_own(&self, node: &NodeId, placed: &PlacedWork) -> bool {
        let is_there = |affinity: &Affinity| {
            let mut there = self.located(&placed.work.app, &affinity.with, &mut Vec::new()).into_iter();
            there.any(|(other, site)| match affinity.scope {
                Scope::Node => other == *node,
                Scope::Site => site == placed.work.site,
            })
        };
        // What is fused with it goes where it goes.
        let of_others = |affinity: &&Affinity| !holds(placed, &affinity.with);
        self.members.admits(node, placed)
            && placed.requires.affinity.iter().filter(of_others).all(is_there)
            && !placed.requires.anti_affinity.iter().filter(of_others).any(is_there)
    }

    /// Whether this node is known to be no longer allowed to run a work that it owns.
    pub(crate) fn is_barred(&self, placed: &PlacedWork) -> bool {
        let own = &self.settings.node;
        self.members.is_live(own) && !self.may_own(own, placed)
    }

    /// The nodes that are to serve a function, as far as this agent sees. `asked` are the functions on whose account it
    /// is asked, which need not be asked again.
    pub(crate) fn serving<'a>(&'a self, app: &AppId, serving: &'a Serving, asked: &mut Vec<String>) -> Vec<&'a NodeId> {
        asked.push(serving.function.to_string());
        let mut known = Vec::new();
        for name in serving.related() {
            // Two that are bound to each other: the one that was asked for first decides.
            let there = (!asked.iter().any(|one| one == name)).then(|| self.located(app, name, asked));
            known.push((name.to_owned(), there));
        }
        let free = known.iter().filter(|(_, there)| there.is_none()).map(|(name, _)| name.as_str());
        let free: Vec<&str> = free.collect();
        let mut bound = serving.clone();
        bound.requires.affinity.retain(|affinity| !free.contains(&affinity.with.as_str()));
        bound.requires.anti_affinity.retain(|affinity| !free.contains(&affinity.with.as_str()));
        bound.nodes(self.members.live(), |name| {
            known.iter().find(|(known, _)| known == name).and_then(|(_, there)| there.clone()).unwrap_or_default()
        })
    }

    /// Whether this node may serve a function in addition to those that are to.
    pub(crate) fn may_serve_also(&self, app: &AppId, serving: &Serving) -> bool {
        let own = &self.settings.node;
        let mut first: Vec<NodeId> = self.serving(app, serving, &mut Vec::new()).into_iter().cloned().collect();
        first.push(own.clone());
        let wanted = u32::try_from(first.len()).unwrap_or(u32::MAX);
        let also = Serving { first, wanted, ..serving.clone() };
        self.serving(app, &also, &mut Vec::new()).contains(&own)
    }

    /// Where a function or a stream of an app is: the owners of its works, of those elsewhere the first ones; the nodes
    /// that serve it.
    fn located(&self, app: &AppId, name: &str, asked: &mut Vec<String>) -> Vec<(NodeId, SiteId)> {
        let Some(placement) = self.intent.as_ref().and_then(|intent| intent.apps.get(app)) else { return Vec::new() };
        let works = placement.works.iter().filter(|placed| holds(placed, name));
        let mut there: Vec<(NodeId, SiteId)> = works
            .map(|placed| {
                let held = self.assignments.as_ref().and_then(|assignments| assignments.get(&placed.work));
                (held.map_or(&placed.owner, |held| &held.owner).clone(), placed.work.site.clone())
            })
            .collect();
        if let Some(serving) = serving_of(placement, name) {
            let nodes = self.serving(app, serving, asked).into_iter();
            there.extend(nodes.filter_map(|node| Some((node.clone(), self.members.site_of(node)?.clone()))));
        }
        there
    }
}

/// Whether a work is a partition of that stream, or runs that function.
fn holds(placed: &PlacedWork, name: &str) -> bool {
    match &placed.role {
        Role::StreamPartition { stream, .. } => stream.as_str() == name,
        Role::Queue { .. } | Role::Source { .. } | Role::Sink { .. } => false,
        Role::Stage { functions, .. } => functions.iter().any(|stage| stage.function.as_str() == name),
    }
}

fn serving_of<'a>(placement: &'a Placement, name: &str) -> Option<&'a Serving> {
    placement.serving.iter().find(|serving| serving.function.as_str() == name)
}
