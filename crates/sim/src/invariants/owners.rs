//! No work has two owners under one epoch: not in what keepers decide, and not in whose writes are accepted. No place in
//! a log is given twice.

use std::collections::{BTreeMap, BTreeSet};

use littoral_model::id::{Epoch, NodeId};
use littoral_model::work::WorkId;

use super::Evidence;
use crate::history::Event;

pub(super) fn check(evidence: &Evidence) -> Result<(), String> {
    let ended: BTreeSet<_> = evidence.intents.values().flat_map(|intent| &intent.ended).collect();
    let mut owners: BTreeMap<(&WorkId, Epoch), &NodeId> = BTreeMap::new();
    let mut places: BTreeMap<(&WorkId, u64), &String> = BTreeMap::new();
    for (at_ms, event) in &evidence.events {
        let (work, epoch, owner) = match event {
            Event::Assigned { assignment, .. } => (&assignment.work, assignment.epoch, &assignment.owner),
            Event::Took { work, epoch, owner, .. } => (work, *epoch, owner),
            Event::Committed { node, work, epoch, .. } | Event::Started { node, work, epoch } => (work, *epoch, node),
            // Work that is made anew after its app was deleted begins at its beginning.
            Event::Acknowledged { work, .. } if ended.contains(&work.app) => continue,
            Event::Acknowledged { work, index, text } => {
                let before = places.insert((work, *index), text).filter(|before| *before != text);
                if let Some(before) = before {
                    return Err(format!(
                        "entry {index} of {work} was acknowledged as {before} and, at {at_ms} ms, as {text}"
                    ));
                }
                continue;
            }
            _ => continue,
        };
        let first = owners.entry((work, epoch)).or_insert(owner);
        if *first != owner {
            return Err(format!("{work} has two owners under epoch {epoch}: {first}, and at {at_ms} ms {owner}"));
        }
    }
    Ok(())
}
