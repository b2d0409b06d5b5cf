//! What an app does while parts of the fabric are cut off from one another, as its manifest says.
//!
//! By default it goes on everywhere. *Stop after a while*: a node is in contact with an app as long as it reaches most of
//! the nodes that the app is placed on, itself among them; of two halves the one with the first of all their names. Where
//! that has not been so for as long as the manifest says, the app's functions and stages stop, and they go on when it is
//! so again.
//!
//! *Singleton*: of the nodes of one site that it is placed on, one serves its functions. The site's keeper says which, by
//! the assignment of [`serving_work`]; the owner holds a lease that it has the keeper renew by a decision of its own,
//! which takes a majority of the site's voters. The lease counts from before the renewal was asked for, on the owner's own
//! clock, and a new owner waits for longer than a lease lasts after it has heard that it is one. So two never serve at
//! once, whatever was cut, and whoever was paused finds its lease gone when it wakes (Gray and Cheriton, "Leases", 1989).

use std::collections::BTreeSet;

use littoral_model::id::{AppId, Epoch, NodeId, SiteId};
use littoral_model::work::{Assignment, KeeperCommand, WorkId, WorkKind};
use littoral_plan::Placement;

use crate::agent::Agent;
use crate::command::Command;
use crate::event::Intent;

/// How long a new owner waits before it serves, in milliseconds: longer than [`HOLD_MS`] by what two clocks may differ in
/// that time, ten in a hundred.
pub const LEASE_MS: u64 = 5_000;
/// How long a renewal is good for, from when it was asked for, in milliseconds.
pub const HOLD_MS: u64 = 4_500;
/// How often a lease is renewed, in milliseconds; four may fail in a row.
const RENEW_EVERY_MS: u64 = 1_000;
/// The name of the work whose owner serves a singleton; no flow's or stream's.
const SERVING: &str = "~serving";

/// What an app does in a cut, other than to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Stop when most of its nodes have been out of reach for so long, in milliseconds.
    StopAfter(u64),
    /// Be served by one node at a time, with a majority of its site.
    Singleton,
}

/// The work whose owner alone serves a singleton of a site.
#[must_use]
pub fn serving_work(app: &AppId, site: &SiteId) -> WorkId {
    WorkId { app: app.clone(), kind: WorkKind::Stage, name: SERVING.to_owned(), partition: 0, site: site.clone() }
}

/// Whether a work is that of a singleton: it has no log, and nothing is run for it.
#[must_use]
pub fn is_serving_work(work: &WorkId) -> bool {
    work.name == SERVING
}

/// The right to serve a singleton.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lease {
    /// Under which epoch this node owns it; 0 if it does not.
    epoch: Epoch,
    from_ms: u64,
    until_ms: u64,
    asked_ms: Option<u64>,
}

impl Agent {
    /// Stops what is out of contact, lets go on what is in contact again, and keeps leases.
    pub(crate) fn watch_partitions(&mut self, now_ms: u64, commands: &mut Vec<Command>) {
        let Some(intent) = self.intent.clone() else { return };
        if self.settings.home != self.settings.group {
            return;
        }
        let policy = |app: &AppId| intent.policies.get(app);
        let (lost, halted, leases) = (&mut self.out_of_contact, &mut self.halted, &mut self.leases);
        lost.retain(|app, _| matches!(policy(app), Some(Policy::StopAfter(_))));
        let mut free: Vec<AppId> =
            leases.keys().filter(|app| policy(app) != Some(&Policy::Singleton)).cloned().collect();
        leases.retain(|app, _| policy(app) == Some(&Policy::Singleton));
        free.extend(halted.iter().filter(|app| !lost.contains_key(*app)).cloned());
        halted.retain(|app| lost.contains_key(app));
        commands.extend(free.into_iter().map(|app| Command::Admit { app }));
        for (app, placement) in &intent.apps {
            match policy(app) {
                None => {}
                Some(Policy::StopAfter(after_ms)) => self.watch_contact(now_ms, app, placement, *after_ms, commands),
                Some(Policy::Singleton) => self.keep_lease(now_ms, app, placement, commands),
            }
        }
        // Who stops or goes on serves other functions than before.
        self.has_changed |=
            commands.iter().any(|command| matches!(command, Command::Halt { .. } | Command::Admit { .. }));
    }

    fn watch_contact(
        &mut self,
        now_ms: u64,
        app: &AppId,
        placement: &Placement,
        after_ms: u64,
        commands: &mut Vec<Command>,
    ) {
        let nodes = nodes_of(placement);
        let reached = nodes.iter().filter(|node| self.live.contains(*node)).count();
        let first_is_reached = nodes.first().is_some_and(|node| self.live.contains(node));
        if 2 * reached > nodes.len() || (2 * reached == nodes.len() && (first_is_reached || nodes.is_empty())) {
            self.out_of_contact.remove(app);
            if self.halted.remove(app) {
                commands.push(Command::Admit { app: app.clone() });
            }
            return;
        }
        let since_ms = *self.out_of_contact.entry(app.clone()).or_insert(now_ms);
        if now_ms.saturating_sub(since_ms) >= after_ms && self.halted.insert(app.clone()) {
            let (count, seconds) = (nodes.len(), after_ms / 1_000);
            let reason = format!(
                "it stopped after {seconds} s in which this node reached {reached} of the {count} nodes that it is placed on \
                 (`partition` in its manifest); it goes on when most of them are reached again"
            );
            commands.push(Command::Halt { app: app.clone(), reason });
        }
    }

    fn keep_lease(&mut self, now_ms: u64, app: &AppId, placement: &Placement, commands: &mut Vec<Command>) {
        let work = serving_work(app, &self.settings.group);
        let assignment = self.assignments.as_ref().and_then(|assignments| assignments.get(&work));
        let owned = assignment.filter(|assignment| assignment.owner == self.settings.node).cloned();
        let epoch = owned.as_ref().map_or(Epoch(0), |assignment| assignment.epoch);
        if self.leases.get(app).is_none_or(|lease| lease.epoch != epoch) {
            let lease = Lease { epoch, from_ms: now_ms.saturating_add(LEASE_MS), ..Lease::default() };
            self.leases.insert(app.clone(), lease);
            self.has_announced = false;
            commands.push(Command::Lease { app: app.clone(), from_ms: lease.from_ms, until_ms: 0 });
        }
        let Some(assignment) = owned else { return };
        let mut replicas = self.candidates(placement);
        replicas.insert(self.settings.node.clone());
        let Some(lease) = self.leases.get_mut(app) else { return };
        if lease.asked_ms.is_none_or(|asked_ms| now_ms >= asked_ms + RENEW_EVERY_MS) {
            lease.asked_ms = Some(now_ms);
            let replicas: Vec<NodeId> = replicas.into_iter().collect();
            let in_sync = replicas.clone();
            let renewal = KeeperCommand::Resync { work, epoch: assignment.epoch, replicas, in_sync };
            commands.push(Command::Renew { app: app.clone(), asked_ms: now_ms, renewal });
        }
    }

    /// Takes in that the keeper has decided on a renewal, and what the assignment was then.
    pub(crate) fn lease_renewed(
        &mut self,
        app: AppId,
        asked_ms: u64,
        assignment: &Assignment,
        commands: &mut Vec<Command>,
    ) {
        let Some(lease) = self.leases.get_mut(&app) else { return };
        if assignment.owner == self.settings.node && assignment.epoch == lease.epoch {
            lease.until_ms = lease.until_ms.max(asked_ms.saturating_add(HOLD_MS));
            commands.push(Command::Lease { app, from_ms: lease.from_ms, until_ms: lease.until_ms });
        }
    }

    /// Whether others are to ask this node for the functions of an app.
    pub(crate) fn may_serve(&self, app: &AppId) -> bool {
        let policy = self.intent.as_ref().and_then(|intent| intent.policies.get(app));
        policy != Some(&Policy::Singleton) || self.leases.get(app).is_some_and(|lease| lease.epoch > Epoch(0))
    }

    /// What the leader proposes for a singleton: an owner where it has none, another one where its owner serves it no more.
    pub(crate) fn keep_singleton(&self, app: &AppId, placement: &Placement) -> Option<KeeperCommand> {
        let assignments = self.assignments.as_ref()?;
        // The site of the first of its nodes is the one.
        placement.instances.iter().map(|instance| &instance.node).min().filter(|node| self.members.is_of_site(node))?;
        let work = serving_work(app, &self.settings.group);
        if self.proposed.contains_key(&work) {
            return None;
        }
        let candidates = self.candidates(placement);
        let mut live = candidates.iter().filter(|node| self.members.is_live(node));
        let Some(assignment) = assignments.get(&work) else {
            let owner = live.next()?.clone();
            return Some(KeeperCommand::Create { work, owner, replicas: candidates.into_iter().collect() });
        };
        if candidates.contains(&assignment.owner) {
            return None;
        }
        let owner = live.find(|node| assignment.in_sync.contains(node))?.clone();
        Some(KeeperCommand::Move { work, epoch: assignment.epoch, owner, exclude_old: true })
    }

    /// Whether a singleton's assignment is to be forgotten: its app is none any more, or is known to be served elsewhere. That
    /// its placement counts it as retired says nothing: those of older versions do, whenever the app is deployed again.
    pub(crate) fn is_served_no_more(&self, intent: &Intent, placement: &Placement, work: &WorkId) -> bool {
        let first = placement.instances.iter().map(|instance| &instance.node).min();
        let is_elsewhere = |node| self.members.site_of(node).is_some_and(|site| *site != work.site);
        intent.policies.get(&work.app) != Some(&Policy::Singleton) || first.is_none_or(is_elsewhere)
    }

    /// The nodes of the site that may serve a singleton.
    fn candidates(&self, placement: &Placement) -> BTreeSet<NodeId> {
        let nodes = placement.instances.iter().map(|instance| &instance.node);
        nodes.filter(|node| self.members.is_of_site(node)).cloned().collect()
    }

    /// Remembers which of the nodes of apps with a policy are live.
    pub(crate) fn note_live<'a>(&mut self, live: impl Iterator<Item = &'a NodeId>) {
        let intent = self.intent.as_ref();
        let placed = intent.into_iter().flat_map(|intent| {
            let watched = intent.apps.iter().filter(|(app, _)| intent.policies.contains_key(*app));
            watched.flat_map(|(_, placement)| nodes_of(placement))
        });
        let placed: BTreeSet<NodeId> = placed.cloned().collect();
        self.live = live.filter(|node| placed.contains(*node)).cloned().collect();
        if placed.contains(&self.settings.node) {
            self.live.insert(self.settings.node.clone());
        }
    }
}

/// The nodes that an app is placed on.
fn nodes_of(placement: &Placement) -> BTreeSet<&NodeId> {
    let works = placement.works.iter().flat_map(|placed| placed.replicas.iter().chain([&placed.owner]));
    works.chain(placement.instances.iter().map(|instance| &instance.node)).collect()
}
