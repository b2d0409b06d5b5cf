//! No memory is promised twice: what all placements together promise of a node is at most what it has.

use std::collections::BTreeMap;

use super::Evidence;
use crate::world::promised;

pub(super) fn check(evidence: &Evidence) -> Result<(), String> {
    for (knower, intent) in &evidence.intents {
        let mut bytes: BTreeMap<_, u64> = BTreeMap::new();
        for placement in intent.apps.values() {
            let spec = evidence.specs.iter().find(|spec| spec.app == placement.app);
            for (node, more) in promised(placement, spec) {
                *bytes.entry(node).or_default() += more;
            }
        }
        for (node, promised) in bytes {
            let has = evidence.machines.get(&node).map_or(0, |facts| facts.memory_bytes);
            if promised > has {
                return Err(format!("as {knower} knows it, {promised} bytes of {node} are promised, and it has {has}"));
            }
        }
    }
    Ok(())
}
