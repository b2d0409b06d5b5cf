//! Healthy work is not restarted by a heal: what ran at its owner when the last fault ended goes on there, if the owner
//! had been well for a while and nobody had reason to replace it. After a cut beside which nothing was wrong, nothing starts
//! or stops at all.

use std::collections::BTreeMap;

use littoral_model::id::{Epoch, NodeId};
use littoral_model::work::WorkId;

use super::Evidence;
use crate::history::Event;

/// For how long nothing may have happened to the node's site for its work to count as healthy: what was proposed
/// because of an earlier fault is decided by then.
const WELL_MS: u64 = 8_000;

pub(super) fn check(evidence: &Evidence) -> Result<(), String> {
    let mut running: BTreeMap<(&NodeId, &WorkId), Epoch> = BTreeMap::new();
    let mut troubled: BTreeMap<&str, u64> = BTreeMap::new();
    let heal_ms = evidence.healed_ms;
    for (at_ms, event) in &evidence.events {
        if let Event::Started { node, work, .. } | Event::Stopped { node, work } = event
            && evidence.is_clean
            && *at_ms >= heal_ms
        {
            let verb = if matches!(event, Event::Started { .. }) { "started" } else { "stopped" };
            return Err(format!("at {at_ms} ms, after a cut that harmed nobody, {work} was {verb} on {node}"));
        }
        match event {
            Event::Act(what) => {
                for site in ["cloud", "hall", "field"].into_iter().filter(|site| what.contains(&format!("{site}-"))) {
                    troubled.insert(site, *at_ms);
                }
            }
            Event::Crashed { node } => running.retain(|(on, _), _| *on != node),
            Event::Started { node, work, epoch } => {
                let before = running.insert((node, work), *epoch);
                let was_well = troubled.get(work.site.as_str()).is_none_or(|since| since + WELL_MS < heal_ms);
                if *at_ms > heal_ms && was_well && before == Some(*epoch) {
                    return Err(format!("at {at_ms} ms, after the heal, {work} was started again on {node}"));
                }
            }
            Event::Stopped { node, work } => {
                let ran = running.remove(&(node, work)).is_some();
                let was_well = troubled.get(work.site.as_str()).is_none_or(|since| since + WELL_MS < heal_ms);
                let deleted = evidence.intents.values().any(|intent| intent.ended.contains(&work.app));
                if *at_ms > heal_ms && was_well && ran && !deleted {
                    return Err(format!("at {at_ms} ms, after the heal, {work} was stopped on {node}"));
                }
            }
            _ => {}
        }
    }
    Ok(())
}
