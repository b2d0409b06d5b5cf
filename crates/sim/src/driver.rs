//! Feeds the real agents what `node::driver` feeds them, and carries out what they command.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use littoral_control::partition::is_serving_work;
use littoral_control::{Agent, Command, Event, Settings};
use littoral_model::work::{Assignment, KeeperAnswer, WorkId};
use littoral_store::consensus::{Removed, SiteGroup};
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;

use crate::history;
use crate::intent::Known;
use crate::net::Members;
use crate::node::Node;

/// How often an agent is told that time has passed.
const TICK: Duration = Duration::from_millis(300);
/// How long to wait before asking again to be taken into the site's group.
const JOIN_RETRY: Duration = Duration::from_secs(1);
/// How many events of running work may wait for the agent.
const EVENTS_MAX: usize = 1_024;

/// Drives the agent of one group as long as the node lives.
pub(crate) fn start(node: &Arc<Node>, group: Arc<SiteGroup>) {
    let facts = &node.machine.facts;
    if *group.site() == facts.site {
        node.adopt(tokio::spawn(take_part(Arc::downgrade(node), Arc::clone(&group))).abort_handle());
    }
    let (sender, events) = mpsc::channel(EVENTS_MAX);
    let seed = facts.node.as_str().bytes().fold(0, |hash: u64, byte| hash.wrapping_mul(31) + u64::from(byte));
    let settings = Settings { node: facts.node.clone(), home: facts.site.clone(), group: group.site().clone(), seed };
    let driver = Driver {
        members: node.members.clone(),
        assignments: group.assignments(),
        known: node.intent.watch(),
        agent: Agent::new(settings),
        held: BTreeMap::new(),
        removed: Arc::default(),
        changing_voters: Arc::default(),
        node: Arc::downgrade(node),
        group,
        sender,
        events,
    };
    node.adopt(tokio::spawn(driver.run()).abort_handle());
}

/// Has this node taken into its site's group, if it is not in it.
async fn take_part(node: Weak<Node>, group: Arc<SiteGroup>) {
    while let Some(this) = node.upgrade() {
        this.net.awake(this.id()).await;
        let status = group.status();
        if status.voters.contains(this.id()) || status.learners.contains(this.id()) {
            return;
        }
        let members = this.members.borrow().clone();
        let site = &this.machine.facts.site;
        for neighbour in members.values().filter(|digest| digest.site == *site && digest.node != *this.id()) {
            if group.join(&neighbour.node).await.is_ok() {
                break;
            }
        }
        drop(this);
        sleep(JOIN_RETRY).await;
    }
}

struct Driver {
    node: Weak<Node>,
    group: Arc<SiteGroup>,
    agent: Agent,
    members: watch::Receiver<Arc<Members>>,
    assignments: watch::Receiver<Arc<BTreeMap<WorkId, Assignment>>>,
    known: watch::Receiver<Known>,
    sender: mpsc::Sender<Event>,
    events: mpsc::Receiver<Event>,
    held: BTreeMap<WorkId, Assignment>,
    removed: Arc<Removed>,
    changing_voters: Arc<tokio::sync::Mutex<()>>,
}

impl Driver {
    async fn run(mut self) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        let Some(this) = self.node.upgrade() else { return };
        self.take_assignments(&this).await;
        self.take_intent(&this);
        self.take_members(&this);
        self.take_status(&this);
        drop(this);
        let mut status = Box::pin(self.group.status_changes());
        loop {
            let what = tokio::select! {
                () = &mut status => {
                    status = Box::pin(self.group.status_changes());
                    What::Status
                }
                Ok(()) = self.assignments.changed() => What::Assignments,
                Ok(()) = self.known.changed() => What::Intent,
                Ok(()) = self.members.changed() => What::Members,
                Some(event) = self.events.recv() => What::Event(event),
                _ = tick.tick() => What::Tick,
            };
            let Some(this) = self.node.upgrade() else { return };
            this.net.awake(this.id()).await;
            match what {
                What::Status => self.take_status(&this),
                What::Assignments => self.take_assignments(&this).await,
                What::Intent => self.take_intent(&this),
                What::Members => self.take_members(&this),
                What::Event(event) => self.step(&this, event),
                What::Tick => {
                    self.take_status(&this);
                    self.step(&this, Event::Tick);
                }
            }
        }
    }

    fn take_status(&mut self, this: &Arc<Node>) {
        self.step(this, Event::Voters(self.group.status().voters));
        self.step(this, Event::Leadership(self.group.leads()));
    }

    fn take_members(&mut self, this: &Arc<Node>) {
        let members = self.members.borrow_and_update().clone();
        self.step(this, Event::Members(members));
    }

    fn take_intent(&mut self, this: &Arc<Node>) {
        let known = self.known.borrow_and_update().clone();
        let node = this.id().clone();
        if *self.group.site() == this.machine.facts.site {
            for app in known.intent.apps.keys() {
                this.note(history::Event::Deployed { node: node.clone(), app: app.clone() });
            }
            for app in &known.intent.ended {
                this.note(history::Event::Deleted { node: node.clone(), app: app.clone() });
            }
        }
        self.step(this, Event::Intent(known.intent));
        self.take_members(this);
        this.runner.reconsider();
    }

    /// Tells the log what the keeper decided, then the agent.
    async fn take_assignments(&mut self, this: &Arc<Node>) {
        let assignments = self.assignments.borrow_and_update().clone();
        let removed = self.group.removed();
        if !Arc::ptr_eq(&removed, &self.removed) {
            // What is left of work that was removed is not to be taken for that of work made anew.
            self.forget(this, this.works.left_over(&removed), &removed).await;
            self.removed = Arc::clone(&removed);
        }
        for assignment in assignments.values() {
            let concerns = assignment.replicas.contains(this.id()) || assignment.owner == *this.id();
            let known = self.held.get(&assignment.work);
            // A singleton has no log.
            let has_log = !is_serving_work(&assignment.work);
            if known != Some(assignment) && has_log && (concerns || known.is_some()) {
                let (node, decided) = (this.id().clone(), assignment.clone());
                this.note(history::Event::Assigned { node, assignment: decided });
                this.works.assigned(assignment.clone());
                self.held.insert(assignment.work.clone(), assignment.clone());
            }
        }
        let gone: Vec<WorkId> = self.held.keys().filter(|work| !assignments.contains_key(work)).cloned().collect();
        self.step(this, Event::Assignments(assignments));
        self.forget(this, gone, &removed).await;
    }

    async fn forget(&mut self, this: &Arc<Node>, works: Vec<WorkId>, removed: &Removed) {
        for work in works {
            let ended = removed.get(&work).copied();
            let heard = self.held.remove(&work).map(|assignment| assignment.epoch);
            if this.works.removed(&work, ended).await.is_ok()
                && let Some(epoch) = ended.or(heard)
            {
                this.note(history::Event::Removed { node: this.id().clone(), work, epoch });
            }
        }
    }

    fn step(&mut self, this: &Arc<Node>, event: Event) {
        let now_ms = this.history.now_ms();
        for command in self.agent.step(now_ms, event) {
            self.carry_out(this, command);
        }
    }

    fn carry_out(&self, this: &Arc<Node>, command: Command) {
        let node = this.id().clone();
        match command {
            Command::SetVoters(voters) => {
                let (group, changing) = (Arc::clone(&self.group), Arc::clone(&self.changing_voters));
                let task = tokio::spawn(async move {
                    let Ok(_one) = changing.try_lock() else { return };
                    group.set_voters(voters).await.ok();
                });
                this.adopt(task.abort_handle());
            }
            Command::Propose(command) => {
                this.history.mix(&(node.as_str(), &command));
                let group = Arc::clone(&self.group);
                this.adopt(tokio::spawn(async move { drop(group.decide(command).await) }).abort_handle());
            }
            Command::StartWork { work, epoch } => {
                this.note(history::Event::Started { node, work: work.clone(), epoch });
                this.runner.start(work, epoch, self.sender.clone());
            }
            Command::StopWork { work } => {
                this.note(history::Event::Stopped { node, work: work.clone() });
                this.runner.stop(&work);
            }
            Command::StartFunction { app, function, .. } => {
                this.note(history::Event::Serving { node, app, function: function.to_string() });
            }
            Command::Announce { works, functions } => {
                this.net.announce(&node, this.life, |digest| (digest.works, digest.functions) = (works, functions));
            }
            Command::Lease { app, from_ms, until_ms } => {
                this.note(history::Event::Leased { node, app, from_ms, until_ms });
            }
            Command::Renew { app, asked_ms, renewal } => {
                let (group, sender) = (Arc::clone(&self.group), self.sender.clone());
                let task = tokio::spawn(async move {
                    if let Ok(KeeperAnswer::Applied(Some(assignment))) = group.propose(renewal).await {
                        sender.send(Event::Renewed { app, asked_ms, assignment }).await.ok();
                    }
                });
                this.adopt(task.abort_handle());
            }
            Command::StopFunction { .. }
            | Command::Halt { .. }
            | Command::Admit { .. }
            | Command::Bring { .. }
            | Command::LetGo { .. } => {}
            failure @ Command::ReportFailure { .. } => this.history.mix(&(node.as_str(), failure)),
        }
    }
}

enum What {
    Status,
    Assignments,
    Intent,
    Members,
    Event(Event),
    Tick,
}
