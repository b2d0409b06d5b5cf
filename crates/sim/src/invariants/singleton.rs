//! A quorum singleton is never served twice: at no moment may two nodes answer for it. After a heal one does.

use std::collections::BTreeMap;

use littoral_model::id::{AppId, NodeId};

use super::Evidence;
use crate::history::Event;

pub(super) fn check(evidence: &Evidence) -> Result<(), String> {
    let mut leases: BTreeMap<(&AppId, &NodeId), (u64, u64)> = BTreeMap::new();
    let end_ms = evidence.events.last().map_or(0, |(at_ms, _)| *at_ms);
    for (at_ms, event) in &evidence.events {
        match event {
            Event::Crashed { node } => leases.retain(|(_, holder), _| *holder != node),
            Event::Leased { node, app, from_ms, until_ms } => {
                // What was so before is past, and was compared then.
                let lease = (*from_ms.max(at_ms), *until_ms);
                leases.insert((app, node), lease);
                let other = leases.iter().find(|((of, holder), (from, until))| {
                    of == &app && holder != &node && lease.0.max(*from) < lease.1.min(*until)
                });
                if let Some(((_, holder), (from, until))) = other {
                    return Err(format!(
                        "{app} is served by {node} from {} ms until {} ms and by {holder} from {from} ms until {until} ms",
                        lease.0, lease.1
                    ));
                }
            }
            _ => {}
        }
    }
    let deployed = evidence.intents.values().flat_map(|intent| intent.apps.keys());
    for app in deployed.filter(|app| crate::apps::is_singleton(app)) {
        if !leases.iter().any(|((of, _), (from, until))| *of == app && *from <= end_ms && end_ms < *until) {
            return Err(format!("nobody serves {app} at the end"));
        }
    }
    Ok(())
}
