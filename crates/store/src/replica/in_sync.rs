//! Which replicas an owner waits for, and its agreement with the keeper on that.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use littoral_model::id::NodeId;
use littoral_model::work::{Assignment, KeeperAnswer};
use tokio::time::Instant;

use super::follower::sleep_until;
use super::owner::{Inner, Lost, Ownership};

/// How long to wait after a keeper that did not decide or refused, at first and at most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

impl Ownership {
    /// Keeps the keeper's in-sync set true, until the ownership ends. The first request changes nothing: it finds out
    /// whether this node still is the owner, and who is in sync, because what it was told of that may be old.
    pub(super) async fn keep_in_sync(self: &std::sync::Arc<Self>) {
        let mut pause = PAUSE.0;
        while !self.is_lost() {
            let wanted = self.wanted();
            let Some((replicas, in_sync)) = wanted else {
                let ends = self.probation_ends();
                tokio::select! {
                    () = self.reconsider.notified() => {}
                    () = sleep_until(ends) => {}
                }
                continue;
            };
            let members = in_sync.iter().cloned().collect();
            let asking = self.shared.keeper.resync(&self.id, self.epoch, replicas, members);
            let answer = tokio::select! {
                answer = asking => answer,
                () = self.lost() => return,
            };
            let agreed = match answer {
                Ok(KeeperAnswer::Applied(Some(assignment))) => self.decided(assignment),
                Ok(KeeperAnswer::Refused(Some(assignment))) => {
                    let asked_only = !self.inner().confirmed;
                    self.decided(assignment) && asked_only
                }
                Ok(KeeperAnswer::Applied(None) | KeeperAnswer::Refused(None)) => return self.end(Lost::Stopped),
                Err(error) => {
                    tracing::warn!(work = %self.name, %error, "the keeper did not decide on the in-sync replicas");
                    false
                }
            };
            if agreed {
                pause = PAUSE.0;
                continue;
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(PAUSE.1),
                () = self.lost() => return,
            }
        }
    }

    /// The sets to ask for, if they are not what the keeper is known to have. Who is asked for is waited for from now on.
    fn wanted(&self) -> Option<(Vec<NodeId>, BTreeSet<NodeId>)> {
        let mut inner = self.inner();
        if !inner.confirmed {
            return Some(Default::default());
        }
        let wanted = desired(&inner, &self.shared.node);
        if inner.asked.is_empty() && wanted == inner.in_sync {
            return None;
        }
        let mut replicas = inner.replicas.clone();
        replicas.extend(wanted.iter().filter(|node| !inner.replicas.contains(node)).cloned());
        inner.asked.extend(wanted.iter().cloned());
        Some((replicas, wanted))
    }

    /// Takes over what the keeper says. Whether this node is still the owner.
    fn decided(self: &std::sync::Arc<Self>, assignment: Assignment) -> bool {
        if assignment.epoch > self.epoch {
            self.end(Lost::Fenced(assignment.epoch));
            return false;
        }
        if assignment.epoch < self.epoch || assignment.owner != self.shared.node {
            tracing::error!(work = %self.name, epoch = %self.epoch, ?assignment, "the keeper answered with an old state");
            return false;
        }
        {
            let mut inner = self.inner();
            inner.in_sync = assignment.in_sync.into_iter().collect();
            inner.asked.clear();
            inner.confirmed = true;
            self.advance(&mut inner);
        }
        let news = self.inner().replicas != assignment.replicas;
        if news {
            self.set_replicas(&assignment.replicas);
        }
        true
    }

    /// Asks the keeper to give the work to a node that has a whole copy, until it decides. The one that had more than
    /// this node need not have all that counts: if the keeper refuses it, one that is in sync has.
    pub(super) async fn hand_over(&self, mut holder: NodeId) {
        let mut pause = PAUSE.0;
        while !self.shared.stopped.load(Ordering::Acquire) {
            match self.shared.keeper.hand_over(&self.id, self.epoch, holder.clone()).await {
                Ok(KeeperAnswer::Refused(Some(known)))
                    if known.epoch == self.epoch && known.in_sync.iter().any(|node| *node != self.shared.node) =>
                {
                    let others = known.in_sync.into_iter().find(|node| *node != self.shared.node);
                    tracing::info!(work = %self.name, %holder, ?others, "the keeper refuses; another has all that counts");
                    holder = others.unwrap_or(holder);
                }
                Ok(answer) => {
                    tracing::info!(work = %self.name, %holder, ?answer, "handed over");
                    return;
                }
                Err(error) => tracing::warn!(work = %self.name, %holder, %error, "the keeper did not decide"),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE.1);
        }
    }

    /// A replica has everything up to an index on its disk.
    pub(super) fn has_stored(&self, node: &NodeId, last: u64) {
        let mut inner = self.inner();
        let Some(follower) = inner.followers.get_mut(node) else { return };
        follower.matched = follower.matched.max(last);
        let matched = follower.matched;
        if matched >= inner.committed
            && let Some(follower) = inner.followers.get_mut(node)
        {
            follower.silent = false;
        }
        self.advance(&mut inner);
        if !inner.in_sync.contains(node) {
            self.reconsider.notify_one();
        }
    }

    /// A replica does not have the entries from an index on. One that had them has lost its disk.
    pub(super) fn lacks_from(&self, node: &NodeId, from: u64) {
        let mut inner = self.inner();
        let Some(follower) = inner.followers.get_mut(node) else { return };
        if follower.matched >= from {
            tracing::warn!(work = %self.name, %node, from, had = follower.matched, "a replica has lost entries; it is sent them again");
            follower.matched = from - 1;
            follower.silent = true;
            self.reconsider.notify_one();
        }
    }

    /// A replica does not answer while entries wait for it.
    pub(super) fn is_silent(&self, node: &NodeId) {
        let mut inner = self.inner();
        let Some(follower) = inner.followers.get_mut(node) else { return };
        if !follower.silent {
            follower.falls_silent(Instant::now());
            let probation = follower.probation();
            tracing::warn!(work = %self.name, %node, ?probation, "a replica is silent");
            self.reconsider.notify_one();
        }
    }

    /// When the next replica that is on probation is to be reconsidered.
    fn probation_ends(&self) -> Option<Instant> {
        let now = Instant::now();
        let inner = self.inner();
        let waiting = inner.followers.values().filter(|follower| !follower.silent && !follower.is_trusted(now));
        waiting.filter_map(|follower| Some(follower.fell_silent? + follower.probation())).min()
    }

    pub(super) fn matched(&self, node: &NodeId) -> u64 {
        self.inner().followers.get(node).map_or(0, |follower| follower.matched)
    }
}

/// Who should be in sync: the owner, the replicas that are and answer, and those that have all that is committed and have
/// answered long enough.
fn desired(inner: &Inner, owner: &NodeId) -> BTreeSet<NodeId> {
    let now = Instant::now();
    let belongs = |node: &&NodeId| {
        let Some(follower) = inner.followers.get(*node) else { return *node == owner };
        follower.is_trusted(now) && (inner.in_sync.contains(*node) || follower.matched >= inner.committed)
    };
    let known = inner.replicas.iter().filter(belongs).cloned();
    known.chain([owner.clone()]).collect()
}
