//! No write is accepted from an old epoch: a replica that has answered an owner takes nothing from an
//! earlier one, and one that has dropped a removed work nothing from any that it had until then; not even after a restart,
//! as long as it has its disk.

use std::collections::BTreeMap;

use littoral_model::id::{Epoch, NodeId};
use littoral_model::work::WorkId;

use super::Evidence;
use crate::history::Event;

pub(super) fn check(evidence: &Evidence) -> Result<(), String> {
    let mut highest: BTreeMap<(&NodeId, &WorkId), Epoch> = BTreeMap::new();
    for (at_ms, event) in &evidence.events {
        match event {
            Event::LostDisk { node } => highest.retain(|(replica, _), _| *replica != node),
            Event::Removed { node, work, epoch } => {
                let known = highest.entry((node, work)).or_default();
                *known = epoch.next().max(*known);
            }
            Event::Took { replica, work, owner, epoch, .. } => {
                let known = highest.entry((replica, work)).or_default();
                if epoch < known {
                    return Err(format!(
                        "at {at_ms} ms {replica} took entries of {work} from {owner}, whose epoch {epoch} is below {known}"
                    ));
                }
                *known = *epoch;
            }
            _ => {}
        }
    }
    Ok(())
}
