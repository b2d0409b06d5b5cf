//! No constraint is violated: whoever is made owner or replica of a work, or serves a function, is admitted by its
//! placement, at first and after every change.

use littoral_model::id::NodeId;
use littoral_model::situation::Situation;
use littoral_plan::{Constraints, NodeFacts};

use super::Evidence;
use crate::history::Event;
use crate::node::Facts;

pub(super) fn check(evidence: &Evidence) -> Result<(), String> {
    let placements: Vec<_> = evidence.intents.values().flat_map(|intent| intent.apps.values()).collect();
    let requires = |work| placements.iter().find_map(|placement| placement.work(work)).map(|placed| &placed.requires);
    for (at_ms, event) in &evidence.events {
        match event {
            Event::Assigned { assignment, .. } => {
                let Some(requires) = requires(&assignment.work) else { continue };
                let holders = assignment.replicas.iter().chain([&assignment.owner]);
                if let Some(node) = holders.into_iter().find(|node| !admits(evidence, node, requires)) {
                    return Err(format!(
                        "at {at_ms} ms {} was given to {node}, which its constraints forbid",
                        assignment.work
                    ));
                }
            }
            Event::Serving { node, app, function } => {
                let spec = evidence.specs.iter().find(|spec| spec.app == *app);
                let function = spec.and_then(|spec| spec.functions.iter().find(|(name, _)| name.as_str() == function));
                let Some((name, function)) = function else { continue };
                if !admits(evidence, node, &function.placement) {
                    return Err(format!("at {at_ms} ms {node} serves {app}/{name}, which its constraints forbid"));
                }
            }
            _ => {}
        }
    }
    Ok(())
}

fn admits(evidence: &Evidence, node: &NodeId, requires: &Constraints) -> bool {
    let situation = Situation::default();
    evidence.machines.get(node).is_none_or(|Facts { tier, site, labels, .. }| {
        requires.admits(NodeFacts { node, tier: *tier, site, labels, situation: &situation, now: (&situation).into() })
    })
}
