//! What the leader of a group does: it keeps every unit of work of its site owned by a live node and copied enough.
//!
//! Nothing moves while its owner lives: a node that returns is a replica again and gets no work back. The in-sync set is
//! left to the owner, who alone knows it.

use std::collections::BTreeMap;
use std::sync::Arc;

use littoral_model::id::NodeId;
use littoral_model::work::{Assignment, KeeperCommand, WorkId};
use littoral_plan::{Ack, PlacedWork, REPLICAS_MAX};

use crate::agent::Agent;
use crate::command::Command;

/// How long a proposal may take to show in the assignments before it is made again, in milliseconds: twice the longest
/// election.
const PROPOSE_RETRY_MS: u64 = 4_000;
/// The most proposals under way; a site's consensus log takes that many in one batch.
const PROPOSALS_MAX: usize = 128;
/// How long a replica may be down before another node takes its place, in milliseconds. Copying a whole log costs more
/// than waiting for a restart.
const REPLACE_AFTER_MS: u64 = 5 * 60_000;

/// A proposal under way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Proposed {
    at_ms: u64,
    /// A dead owner waits for nothing but an earlier proposal to replace it.
    is_move: bool,
}

impl Agent {
    /// Takes in new assignments; proposals for work that has changed have had their effect.
    pub(crate) fn take_assignments(&mut self, assignments: Arc<BTreeMap<WorkId, Assignment>>) {
        let before = self.assignments.take();
        // Owners change the in-sync set all the time; that tells nothing of what was proposed here.
        let same = |work: &WorkId| {
            let old = before.as_ref().and_then(|before| before.get(work)).map(|a| (a.epoch, &a.replicas));
            old == assignments.get(work).map(|a| (a.epoch, &a.replicas))
        };
        self.proposed.retain(|work, _| same(work));
        self.assignments = Some(assignments);
    }

    /// Proposes what is missing. Does nothing before members, assignments and intent are known.
    pub(crate) fn keep(&mut self, now_ms: u64, commands: &mut Vec<Command>) {
        let (Some(assignments), Some(intent)) = (self.assignments.clone(), self.intent.clone()) else { return };
        self.proposed.retain(|_, proposed| now_ms < proposed.at_ms + PROPOSE_RETRY_MS);
        let mut load = Load::of(&assignments);
        let group = self.settings.group.clone();
        for assignment in assignments.values().filter(|assignment| assignment.work.site == group) {
            if let Some(command) = self.mend(now_ms, assignment, &mut load) {
                self.propose(now_ms, &assignment.work, command, commands);
            }
        }
        let placed = intent.apps.values().flat_map(|placement| &placement.works);
        let missing = placed.filter(|placed| placed.work.site == group && !assignments.contains_key(&placed.work));
        for placed in missing {
            if let Some(command) = self.create(now_ms, placed, &mut load) {
                self.propose(now_ms, &placed.work, command, commands);
            }
        }
    }

    fn propose(&mut self, now_ms: u64, work: &WorkId, command: KeeperCommand, commands: &mut Vec<Command>) {
        if self.proposed.len() < PROPOSALS_MAX {
            let is_move = matches!(command, KeeperCommand::Move { .. });
            self.proposed.insert(work.clone(), Proposed { at_ms: now_ms, is_move });
            commands.push(Command::Propose(command));
        }
    }

    /// What an assignment lacks.
    fn mend(&self, now_ms: u64, assignment: &Assignment, load: &mut Load) -> Option<KeeperCommand> {
        let work = &assignment.work;
        let pending = self.proposed.get(work);
        if pending.is_some_and(|pending| pending.is_move) {
            return None;
        }
        if self.is_retired(work) && pending.is_none() {
            return Some(KeeperCommand::Remove { work: work.clone() });
        }
        let placed = self.placed(work);
        if self.members.is_dead(now_ms, &assignment.owner) {
            let carries = |node: &NodeId| {
                let may = placed.map_or(self.members.is_live(node), |placed| self.members.admits(node, placed));
                may.then(|| load.owned(node))
            };
            let owner = littoral_plan::repair::successor(assignment, carries)?;
            load.add(&owner);
            return Some(KeeperCommand::Move { work: work.clone(), epoch: assignment.epoch, owner, exclude_old: true });
        }
        if pending.is_some() {
            return None;
        }
        let replicas = self.replicas_wanted(now_ms, assignment, placed?, load)?;
        Some(KeeperCommand::Replicas { work: work.clone(), epoch: assignment.epoch, replicas })
    }

    /// The replicas that a work should have, if others than it has: a node more where it has too few, and another one in
    /// place of a replica that has been down for long.
    fn replicas_wanted(
        &self,
        now_ms: u64,
        assignment: &Assignment,
        placed: &PlacedWork,
        load: &Load,
    ) -> Option<Vec<NodeId>> {
        if placed.ack == Ack::Local {
            return None;
        }
        let mut spares: Vec<(u32, &NodeId)> = self
            .members
            .site_live()
            .filter(|node| !assignment.replicas.contains(node) && self.members.admits(node, placed))
            .map(|node| (load.copies(node), node))
            .collect();
        spares.sort_unstable();
        let mut spares = spares.into_iter().map(|(_, node)| node.clone());
        let is_lost =
            |node: &&NodeId| **node != assignment.owner && self.members.down_ms(now_ms, node) >= REPLACE_AFTER_MS;
        let mut replicas = assignment.replicas.clone();
        if replicas.len() >= REPLICAS_MAX {
            let lost = assignment.replicas.iter().find(is_lost)?;
            let spare = spares.next()?;
            replicas.retain(|node| node != lost);
            replicas.push(spare);
            return Some(replicas);
        }
        replicas.extend(spares.take(REPLICAS_MAX.saturating_sub(assignment.replicas.len())));
        (replicas != assignment.replicas).then_some(replicas)
    }

    /// Assigns work that has no owner yet as the placement says; where the placed owner is dead, to the least loaded
    /// node that may own it. Nothing is lost: it has no records yet.
    fn create(&self, now_ms: u64, placed: &PlacedWork, load: &mut Load) -> Option<KeeperCommand> {
        if self.proposed.contains_key(&placed.work) {
            return None;
        }
        let owner = if self.members.is_live(&placed.owner) {
            placed.owner.clone()
        } else if self.members.is_dead(now_ms, &placed.owner) {
            let admitted = self.members.site_live().filter(|node| self.members.admits(node, placed));
            admitted.map(|node| (load.owned(node), node)).min()?.1.clone()
        } else {
            return None;
        };
        load.add(&owner);
        let others = placed.replicas.iter().filter(|node| **node != owner && self.members.is_live(node));
        let replicas = std::iter::once(&owner).chain(others).cloned().collect();
        Some(KeeperCommand::Create { work: placed.work.clone(), owner, replicas })
    }
}

/// How much work of the site each node owns and holds copies of.
struct Load {
    owned: BTreeMap<NodeId, u32>,
    copies: BTreeMap<NodeId, u32>,
}

impl Load {
    fn of(assignments: &BTreeMap<WorkId, Assignment>) -> Self {
        let mut load = Self { owned: BTreeMap::new(), copies: BTreeMap::new() };
        for assignment in assignments.values() {
            load.add(&assignment.owner);
            for replica in &assignment.replicas {
                *load.copies.entry(replica.clone()).or_default() += 1;
            }
        }
        load
    }

    fn add(&mut self, node: &NodeId) {
        *self.owned.entry(node.clone()).or_default() += 1;
    }

    fn owned(&self, node: &NodeId) -> u32 {
        self.owned.get(node).copied().unwrap_or_default()
    }

    fn copies(&self, node: &NodeId) -> u32 {
        self.copies.get(node).copied().unwrap_or_default()
    }
}
