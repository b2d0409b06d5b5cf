//! Nothing deleted comes back: a node that has learned of a deletion knows the app as deployed never again, and at the
//! end nothing of it is kept or runs anywhere, or is left on a disk.

use std::collections::BTreeSet;

use littoral_model::id::{AppId, NodeId};

use super::Evidence;
use crate::history::Event;

pub(super) fn check(evidence: &Evidence) -> Result<(), String> {
    let mut gone: BTreeSet<(&NodeId, &AppId)> = BTreeSet::new();
    for (at_ms, event) in &evidence.events {
        match event {
            Event::LostDisk { node } => gone.retain(|(knower, _)| *knower != node),
            Event::Deleted { node, app } => drop(gone.insert((node, app))),
            Event::Deployed { node, app } | Event::Serving { node, app, .. } if gone.contains(&(node, app)) => {
                return Err(format!("at {at_ms} ms {app}, which {node} knew to be deleted, was back there"));
            }
            Event::Started { node, work, .. } if gone.contains(&(node, &work.app)) => {
                return Err(format!("at {at_ms} ms {node} started {work}, whose app it knew to be deleted"));
            }
            _ => {}
        }
    }
    let apps: BTreeSet<&AppId> = gone.into_iter().map(|(_, app)| app).collect();
    if let Some(assignment) = evidence.assignments().find(|assignment| apps.contains(&assignment.work.app)) {
        return Err(format!("{} is still kept, and its app was deleted", assignment.work));
    }
    let held = evidence.held.iter().flat_map(|(node, works)| works.iter().map(move |work| (node, work)));
    if let Some((node, work)) = held.into_iter().find(|(_, work)| apps.contains(&work.app)) {
        return Err(format!("{node} still has records of {work}, whose app was deleted"));
    }
    let running = evidence.running.iter().flat_map(|(node, works)| works.keys().map(move |work| (node, work)));
    for (node, work) in running {
        if apps.contains(&work.app) {
            return Err(format!("{node} still runs {work}, whose app was deleted"));
        }
    }
    Ok(())
}
