//! What a keeper decides: the state of a consensus group, and how commands change it. Pure.
//!
//! What holds at any time: the epoch of a work never falls, not even when it is removed and made anew; its owner is in
//! sync; who is in sync is a replica; only who was in sync becomes owner (except of new work).

use std::collections::{BTreeMap, BTreeSet};

use littoral_model::id::{Epoch, NodeId};
use littoral_model::work::{Assignment, KeeperAnswer, KeeperCommand, WorkId};
use serde::{Deserialize, Serialize};

/// How many removed works are remembered with their epoch, so that new work of the same name goes on above it and nothing
/// of before is taken for its own. Those removed longest ago are forgotten first; by then nobody has an append of theirs under way.
const REMOVED_MAX: usize = 4_096;
/// How many nodes' proposals are told apart from their repeats. A site has far fewer nodes that live.
const SESSIONS_MAX: usize = 256;

/// The state of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Keeping {
    /// Every work of the site.
    pub(crate) assignments: BTreeMap<WorkId, Assignment>,
    /// Works that were removed: their epoch, and when (in commands applied).
    removed: BTreeMap<WorkId, (Epoch, u64)>,
    sessions: BTreeMap<NodeId, Session>,
    /// How many commands were applied.
    applied: u64,
}

/// A command with what tells it from its repeats.
///
/// A proposer that gives up on a proposal names it with all later ones, as long as it is not below `floor`: once one of
/// those is applied, the given-up one, which may still be under way, never will be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Proposal {
    /// Who proposes.
    pub(crate) node: NodeId,
    /// Raised each time the proposer starts.
    pub(crate) incarnation: u64,
    /// Rises with each proposal.
    pub(crate) sequence: u64,
    /// No proposal below this one is wanted any more.
    pub(crate) floor: u64,
    /// Neither are these.
    pub(crate) given_up: BTreeSet<u64>,
    /// What is proposed.
    pub(crate) command: KeeperCommand,
}

/// What became of a [`Proposal`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Outcome {
    /// It was decided.
    Decided(KeeperAnswer),
    /// It was given up, or the proposer started anew since; the incarnation now known.
    Stale(u64),
}

/// The proposals of a node that may still be repeated.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Session {
    incarnation: u64,
    floor: u64,
    /// None for those that were given up.
    answers: BTreeMap<u64, Option<KeeperAnswer>>,
    used: u64,
}

impl Keeping {
    /// Applies a proposal once, however often it comes.
    pub(crate) fn propose(&mut self, proposal: Proposal) -> Outcome {
        self.applied += 1;
        let applied = self.applied;
        let known = self.sessions.get(&proposal.node).map_or(0, |session| session.incarnation);
        if proposal.incarnation < known {
            return Outcome::Stale(known);
        }
        if !self.sessions.contains_key(&proposal.node) && self.sessions.len() >= SESSIONS_MAX {
            let oldest = self.sessions.iter().min_by_key(|(_, session)| session.used).map(|(node, _)| node.clone());
            oldest.map(|node| self.sessions.remove(&node));
        }
        let session = self.sessions.entry(proposal.node.clone()).or_default();
        if proposal.incarnation > session.incarnation {
            *session = Session { incarnation: proposal.incarnation, ..Session::default() };
        }
        session.used = applied;
        if proposal.floor > session.floor {
            session.floor = proposal.floor;
            session.answers = session.answers.split_off(&proposal.floor);
        }
        if proposal.sequence < session.floor {
            return Outcome::Stale(session.incarnation);
        }
        for sequence in proposal.given_up {
            session.answers.entry(sequence).or_insert(None);
        }
        match session.answers.get(&proposal.sequence) {
            Some(Some(answer)) => return Outcome::Decided(answer.clone()),
            Some(None) => return Outcome::Stale(session.incarnation),
            None => {}
        }
        let answer = apply(self, proposal.command);
        if let Some(session) = self.sessions.get_mut(&proposal.node) {
            session.answers.insert(proposal.sequence, Some(answer.clone()));
        }
        Outcome::Decided(answer)
    }

    /// The works that were removed, also those made anew since, with the epochs that they ended at.
    pub(crate) fn removed(&self) -> impl Iterator<Item = (&WorkId, &Epoch)> {
        self.removed.iter().map(|(work, (epoch, _))| (work, epoch))
    }

    fn remember_removed(&mut self, work: WorkId, epoch: Epoch) {
        self.removed.insert(work, (epoch, self.applied));
        if self.removed.len() > REMOVED_MAX {
            let oldest = self.removed.iter().min_by_key(|(_, (_, when))| *when).map(|(work, _)| work.clone());
            oldest.map(|work| self.removed.remove(&work));
        }
    }
}

/// Applies a command.
pub(crate) fn apply(keeping: &mut Keeping, command: KeeperCommand) -> KeeperAnswer {
    match command {
        KeeperCommand::Create { work, owner, replicas } => create(keeping, work, owner, replicas),
        KeeperCommand::Remove { work } => {
            if let Some(assignment) = keeping.assignments.remove(&work) {
                keeping.remember_removed(work, assignment.epoch);
            }
            KeeperAnswer::Applied(None)
        }
        KeeperCommand::Move { work, epoch, owner, exclude_old } => change(keeping, &work, epoch, |assignment| {
            if !assignment.in_sync.contains(&owner) {
                return false;
            }
            if exclude_old && owner != assignment.owner {
                assignment.in_sync.retain(|node| *node != assignment.owner);
            }
            assignment.owner = owner;
            assignment.epoch = assignment.epoch.next();
            true
        }),
        KeeperCommand::Resync { work, epoch, replicas, in_sync } => change(keeping, &work, epoch, |assignment| {
            let (replicas, in_sync) = (distinct(replicas), distinct(in_sync));
            let sound = in_sync.contains(&assignment.owner) && in_sync.iter().all(|node| replicas.contains(node));
            if sound {
                (assignment.replicas, assignment.in_sync) = (replicas, in_sync);
            }
            sound
        }),
        KeeperCommand::Replicas { work, epoch, replicas } => change(keeping, &work, epoch, |assignment| {
            let replicas = distinct(replicas);
            let sound = replicas.contains(&assignment.owner);
            if sound {
                assignment.in_sync.retain(|node| replicas.contains(node));
                assignment.replicas = replicas;
            }
            sound
        }),
    }
}

fn create(keeping: &mut Keeping, work: WorkId, owner: NodeId, mut replicas: Vec<NodeId>) -> KeeperAnswer {
    if let Some(present) = keeping.assignments.get(&work) {
        return KeeperAnswer::Applied(Some(present.clone()));
    }
    replicas.insert(0, owner.clone());
    let epoch = keeping.removed.get(&work).map_or(Epoch(0), |(epoch, _)| *epoch).next();
    let replicas = distinct(replicas);
    let assignment = Assignment { work: work.clone(), in_sync: vec![owner.clone()], owner, epoch, replicas };
    keeping.assignments.insert(work, assignment.clone());
    KeeperAnswer::Applied(Some(assignment))
}

/// Changes an assignment if the proposer knew its epoch and the change is allowed.
fn change(
    keeping: &mut Keeping,
    work: &WorkId,
    epoch: Epoch,
    body: impl FnOnce(&mut Assignment) -> bool,
) -> KeeperAnswer {
    let Some(assignment) = keeping.assignments.get_mut(work) else { return KeeperAnswer::Refused(None) };
    if assignment.epoch == epoch && body(assignment) {
        KeeperAnswer::Applied(Some(assignment.clone()))
    } else {
        KeeperAnswer::Refused(Some(assignment.clone()))
    }
}

/// The nodes in their order, each once.
fn distinct(nodes: Vec<NodeId>) -> Vec<NodeId> {
    let mut kept: Vec<NodeId> = Vec::with_capacity(nodes.len());
    for node in nodes {
        if !kept.contains(&node) {
            kept.push(node);
        }
    }
    kept
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
