//! What the leader of a group does: it keeps every unit of work of its site owned by a live node and copied enough.
//!
//! Nothing moves while its owner lives and may have it: a node that returns is a replica again and gets no work back, so
//! that a node whose situation flaps loses its work once. What its owner may not have any more goes to a node of the
//! in-sync set that may; where there is none, it waits where it is, and does not run (see `workers`). The in-sync set is
//! left to the owner, who alone knows it.

use std::collections::BTreeMap;
use std::sync::Arc;

use littoral_model::id::NodeId;
use littoral_model::work::{Assignment, KeeperCommand, WorkId};
use littoral_plan::{Ack, PlacedWork, REPLICAS_MAX};

use crate::agent::Agent;
use crate::command::Command;
use crate::partition::{Policy, serving_work};

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
        let singletons = intent.apps.iter().filter(|(app, _)| intent.policies.get(*app) == Some(&Policy::Singleton));
        for (app, placement) in singletons {
            if let Some(command) = self.keep_singleton(app, placement) {
                self.propose(now_ms, &serving_work(app, &group), command, commands);
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
        let is_dead = self.members.is_dead(now_ms, &assignment.owner);
        let is_barred = placed
            .is_some_and(|placed| self.members.is_live(&assignment.owner) && !self.may_own(&assignment.owner, placed));
        if is_dead || (is_barred && pending.is_none()) {
            let carries = |node: &NodeId| {
                let may = placed.map_or(self.members.is_live(node), |placed| self.may_own(node, placed));
                may.then(|| load.owned(node))
            };
            if let Some(owner) = littoral_plan::repair::successor(assignment, carries) {
                load.add(&owner);
                let (work, epoch) = (work.clone(), assignment.epoch);
                return Some(KeeperCommand::Move { work, epoch, owner, exclude_old: is_dead });
            }
            if is_dead {
                return None;
            }
        }
        if pending.is_some() {
            return None;
        }
        let replicas = self.replicas_wanted(now_ms, assignment, placed?, load)?;
        Some(KeeperCommand::Replicas { work: work.clone(), epoch: assignment.epoch, replicas })
    }

    /// The replicas that a work should have, if others than it has: a node more where it has too few, and another one in
    /// place of a replica that has been down for long. One that is shut out leaves also where nobody takes its place.
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
        let is_lost =
            |node: &&NodeId| **node != assignment.owner && self.members.down_ms(now_ms, node) >= REPLACE_AFTER_MS;
        let mut replicas = assignment.replicas.clone();
        let is_gone = |node: &&NodeId| **node != assignment.owner && self.members.is_shut_out(node);
        let leaving = replicas.iter().find(is_gone);
        let leaving = leaving.or_else(|| replicas.iter().find(|node| self.is_unfit(node, assignment, placed)));
        let leaving = match leaving {
            None if replicas.len() >= REPLICAS_MAX => Some(replicas.iter().find(is_lost)?),
            leaving => leaving,
        };
        let leaving = leaving.cloned();
        replicas.retain(|node| Some(node) != leaving.as_ref());
        match (self.spare(assignment, placed, &replicas, load), &leaving) {
            (Some(spare), _) => replicas.push(spare),
            // A second copy is worth more than a battery, and less than where data may be.
            (None, Some(leaving)) if !self.members.is_live(leaving) && !is_gone(&leaving) => return None,
            (None, Some(leaving)) if replicas.len() < 2 && self.members.admits_data(leaving, placed) => return None,
            (None, _) => {}
        }
        while replicas.len() < REPLICAS_MAX
            && let Some(spare) = self.spare(assignment, placed, &replicas, load)
        {
            replicas.push(spare);
        }
        (replicas != assignment.replicas).then_some(replicas)
    }

    /// Whether a live replica may not have its copy any more: by itself, or because it shares with one before it what
    /// copies must not share.
    fn is_unfit(&self, node: &NodeId, assignment: &Assignment, placed: &PlacedWork) -> bool {
        let mut before = assignment.replicas.iter().take_while(|other| *other != node);
        *node != assignment.owner
            && self.members.is_live(node)
            && (!self.members.admits(node, placed)
                || !self.members.spreads(&assignment.owner, node, placed)
                || !before.all(|other| self.members.spreads(other, node, placed)))
    }

    /// A live node of the site that may have a copy and has none: of those that share the fewest failure domains with
    /// the ones that have, the one with the fewest copies.
    fn spare(&self, assignment: &Assignment, placed: &PlacedWork, replicas: &[NodeId], load: &Load) -> Option<NodeId> {
        let may = |node: &&NodeId| {
            !assignment.replicas.contains(node)
                && !replicas.contains(node)
                && self.members.admits(node, placed)
                && replicas.iter().all(|other| self.members.spreads(other, node, placed))
        };
        let shared =
            |node: &NodeId| -> usize { replicas.iter().map(|other| self.members.shared_domains(other, node)).sum() };
        let spares = self.members.site_live().filter(may);
        spares.min_by_key(|node| (shared(node), load.copies(node), *node)).cloned()
    }

    /// Assigns work that has no owner yet as the placement says; where the placed owner is dead, or may not have it any
    /// more, to the least loaded node that may own it. Nothing is lost: it has no records yet.
    fn create(&self, now_ms: u64, placed: &PlacedWork, load: &mut Load) -> Option<KeeperCommand> {
        if self.proposed.contains_key(&placed.work) {
            return None;
        }
        let is_live = self.members.is_live(&placed.owner);
        let owner = if is_live && self.may_own(&placed.owner, placed) {
            placed.owner.clone()
        } else if is_live || self.members.is_dead(now_ms, &placed.owner) {
            let admitted = self.members.site_live().filter(|node| self.may_own(node, placed));
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
