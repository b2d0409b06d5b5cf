//! Who votes in a site's group: three nodes of the site; two nodes of the site and one that a higher tier lends; or one
//! alone.
//!
//! Never two: either one's death would stop the group, where with one voter only that one's does. Voters change when
//! that brings the group closer to this, and not because one is down for a moment.

use std::collections::BTreeSet;

use littoral_model::id::NodeId;

use crate::agent::Agent;
use crate::command::Command;
use crate::members::Members;

/// How many voters a group has where it can: one may die.
const VOTERS: usize = 3;
/// How long a voter may be down before another node takes its place, in milliseconds: longer than a machine takes to
/// restart and than most cuts last.
const REPLACE_AFTER_MS: u64 = 5 * 60_000;
/// How long a change of voters may take before it is asked for again, in milliseconds.
const RETRY_MS: u64 = 5_000;

impl Agent {
    pub(crate) fn choose_voters(&mut self, now_ms: u64, commands: &mut Vec<Command>) {
        let wanted = choose(now_ms, &self.voters, &self.members);
        if wanted == self.voters {
            return;
        }
        let is_asked = self
            .voters_asked
            .as_ref()
            .is_some_and(|(asked, at_ms)| *asked == wanted && now_ms < at_ms.saturating_add(RETRY_MS));
        if !is_asked {
            self.voters_asked = Some((wanted.clone(), now_ms));
            commands.push(Command::SetVoters(wanted));
        }
    }
}

/// The voters that a group should have, given those it has. None known means that nothing may be changed.
fn choose(now_ms: u64, current: &BTreeSet<NodeId>, members: &Members) -> BTreeSet<NodeId> {
    if current.is_empty() {
        return BTreeSet::new();
    }
    let mut voters = current.clone();
    let mut spares: Vec<NodeId> = members.site_live().filter(|node| !current.contains(*node)).cloned().collect();
    spares.reverse();
    let parents = members.parents();
    let is_lost = |node: &NodeId| members.down_ms(now_ms, node) >= REPLACE_AFTER_MS;
    let is_borrowed = |node: &NodeId| !members.is_of_site(node) && (members.is_of_elsewhere(node) || is_lost(node));
    // First what is lost, then what is borrowed makes room for a live node of the site.
    let leaving = current.iter().filter(|node| is_lost(node));
    let leaving = leaving.chain(current.iter().filter(|node| is_borrowed(node) && !is_lost(node)));
    for node in leaving {
        let borrowable = is_borrowed(node) && is_lost(node);
        let parent = || parents.iter().find(|parent| !current.contains(**parent)).map(|node| (*node).clone());
        if let Some(next) = spares.pop().or_else(|| if borrowable { parent() } else { None }) {
            voters.remove(node);
            voters.insert(next);
        }
    }
    while voters.len() < VOTERS
        && let Some(spare) = spares.pop()
    {
        voters.insert(spare);
    }
    if voters.len() + 1 == VOTERS
        && let Some(parent) = parents.iter().find(|parent| !voters.contains(**parent))
    {
        voters.insert((*parent).clone());
    }
    if current.len() == 1 && voters.len() < VOTERS && voters.is_superset(current) { current.clone() } else { voters }
}
