//! Intent converges within 30 s of a heal: all nodes know the same to be deployed, and it runs, each work on its one
//! owner.

use std::collections::BTreeSet;

use littoral_model::work::WorkId;

use super::Evidence;

pub(super) fn check(evidence: &Evidence) -> Result<(), String> {
    let mut intents = evidence.intents.iter();
    let Some((first, intent)) = intents.next() else { return Err("no node runs".to_owned()) };
    if let Some((other, _)) = intents.find(|(_, other)| *other != intent) {
        return Err(format!("{first} and {other} know different apps to be deployed"));
    }
    if let Some((site, _)) = evidence.keepers.iter().find(|(_, keeper)| keeper.is_none()) {
        return Err(format!("the group of {site} has no leader"));
    }
    let wanted: BTreeSet<&WorkId> =
        intent.apps.values().flat_map(|placement| &placement.works).map(|placed| &placed.work).collect();
    let kept: BTreeSet<&WorkId> = evidence.assignments().map(|assignment| &assignment.work).collect();
    if let Some(work) = wanted.symmetric_difference(&kept).next() {
        return Err(format!(
            "{work} is {}",
            if kept.contains(work) { "kept and not wanted" } else { "wanted and not kept" }
        ));
    }
    for assignment in evidence.assignments() {
        for (node, running) in &evidence.running {
            let runs = running.get(&assignment.work);
            let should = (*node == assignment.owner).then_some(&assignment.epoch);
            if runs != should {
                return Err(format!("{node} runs {} under {runs:?} and should under {should:?}", assignment.work));
            }
        }
    }
    Ok(())
}
