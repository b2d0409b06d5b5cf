//! The agent: what it remembers, and its one step.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use littoral_model::id::{AppId, FunctionName, NodeId, SiteId};
use littoral_model::work::{Assignment, WorkId};
use littoral_plan::PlacedWork;

use crate::command::Command;
use crate::demand::Demanded;
use crate::event::{Event, Intent};
use crate::keeper::Proposed;
use crate::members::Members;
use crate::partition::{Lease, is_serving_work};
use crate::workers::Run;

/// Whom an agent stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The node it acts for.
    pub node: NodeId,
    /// That node's site.
    pub home: SiteId,
    /// The site whose consensus group it takes part in; its home, or a site that borrowed its vote.
    pub group: SiteId,
    /// Spreads what many agents would otherwise do at the same moment.
    pub seed: u64,
}

/// One node's part in one site's group. See [`Agent::step`].
#[derive(Clone, Debug)]
pub struct Agent {
    pub(crate) settings: Settings,
    pub(crate) members: Members,
    pub(crate) leads: bool,
    pub(crate) assignments: Option<Arc<BTreeMap<WorkId, Assignment>>>,
    pub(crate) intent: Option<Arc<Intent>>,
    pub(crate) voters: BTreeSet<NodeId>,
    /// The voters that were asked for, and when.
    pub(crate) voters_asked: Option<(BTreeSet<NodeId>, u64)>,
    pub(crate) proposed: BTreeMap<WorkId, Proposed>,
    pub(crate) runs: BTreeMap<WorkId, Run>,
    pub(crate) functions: BTreeMap<(AppId, FunctionName), String>,
    pub(crate) has_announced: bool,
    /// The live ones of the nodes of apps that do not simply go on in a cut.
    pub(crate) live: BTreeSet<NodeId>,
    /// Since when most nodes of an app are out of reach.
    pub(crate) out_of_contact: BTreeMap<AppId, u64>,
    /// The apps that are stopped for that.
    pub(crate) halted: BTreeSet<AppId>,
    /// The leases of singletons, also those that are not held.
    pub(crate) leases: BTreeMap<AppId, Lease>,
    /// What callers here have asked for.
    pub(crate) demanded: Demanded,
    /// Whether something has changed that decides who serves which function.
    pub(crate) has_changed: bool,
}

impl Agent {
    /// An agent that knows nothing yet.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            members: Members::new(settings.node.clone(), settings.group.clone()),
            settings,
            leads: false,
            assignments: None,
            intent: None,
            voters: BTreeSet::new(),
            voters_asked: None,
            proposed: BTreeMap::new(),
            runs: BTreeMap::new(),
            functions: BTreeMap::new(),
            has_announced: false,
            live: BTreeSet::new(),
            out_of_contact: BTreeMap::new(),
            halted: BTreeSet::new(),
            leases: BTreeMap::new(),
            demanded: Demanded::default(),
            has_changed: false,
        }
    }

    /// Takes in one event and answers with what is to be done, in this order. `now_ms` is any clock that never goes
    /// back. Nothing is asked for twice while the first request may still have its effect.
    pub fn step(&mut self, now_ms: u64, event: Event) -> Vec<Command> {
        let mut commands = Vec::new();
        if self.is_known(&event) {
            return commands;
        }
        self.take_in(now_ms, event, &mut commands);
        self.watch_partitions(now_ms, &mut commands);
        self.run_works(now_ms, &mut commands);
        self.run_functions(&mut commands);
        self.announce_changes(&mut commands);
        if self.leads {
            self.keep(now_ms, &mut commands);
            self.choose_voters(now_ms, &mut commands);
        }
        commands
    }

    /// Whether something is due after a while, so that ticks must come often: a new try, a lease, the end of a contact.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        !self.proposed.is_empty()
            || self.voters_asked.is_some()
            || !self.leases.is_empty()
            || !self.out_of_contact.is_empty()
            || self.runs.values().any(Run::has_failed)
    }

    /// Whether an event says nothing new of the group: drivers ask it at every tick, which follows and is enough.
    fn is_known(&mut self, event: &Event) -> bool {
        match event {
            Event::Voters(voters) if *voters == self.voters => {
                self.voters_asked = None;
                true
            }
            Event::Leadership(leads) => *leads == self.leads,
            _ => false,
        }
    }

    fn take_in(&mut self, now_ms: u64, event: Event, commands: &mut Vec<Command>) {
        self.has_changed |= matches!(event, Event::Members(_) | Event::Assignments(_) | Event::Intent(_));
        match event {
            Event::Members(digests) => {
                let assignments = self.assignments.as_deref();
                let holders = assignments.into_iter().flat_map(BTreeMap::values).map(|assignment| &assignment.owner);
                self.members.update(now_ms, &digests, &holders.collect(), &self.voters);
                self.note_live(digests.keys());
            }
            Event::Assignments(assignments) => self.take_assignments(assignments),
            Event::Voters(voters) => {
                self.voters_asked = None;
                self.voters = voters;
            }
            Event::Leadership(leads) => {
                // What an earlier leader asked for is unknown to this one: it begins with a clean slate.
                if self.leads != leads {
                    self.leads = leads;
                    self.proposed.clear();
                    self.voters_asked = None;
                }
            }
            Event::Intent(intent) => {
                self.members.shut_out(Arc::clone(&intent.revoked));
                self.intent = Some(intent);
            }
            Event::WorkStarted { work, epoch } => self.work_started(now_ms, &work, epoch),
            Event::WorkFailed { work, epoch, reason } => self.work_failed(now_ms, work, epoch, reason, commands),
            Event::Renewed { app, asked_ms, assignment } => self.lease_renewed(app, asked_ms, &assignment, commands),
            Event::Demand(demands) => self.take_demand(now_ms, &demands, commands),
            Event::Tick => {}
        }
    }

    /// What intent says of a work; none if it is not deployed, or of an app that was deleted.
    pub(crate) fn placed(&self, work: &WorkId) -> Option<&PlacedWork> {
        self.intent.as_ref()?.apps.get(&work.app)?.work(work)
    }

    /// Whether intent says that a work is to be forgotten.
    pub(crate) fn is_retired(&self, work: &WorkId) -> bool {
        let Some(intent) = &self.intent else { return false };
        match intent.apps.get(&work.app) {
            Some(placement) if is_serving_work(work) => self.is_served_no_more(intent, placement, work),
            Some(placement) => placement.retired.contains(work) && placement.work(work).is_none(),
            None => intent.ended.contains(&work.app),
        }
    }
}
