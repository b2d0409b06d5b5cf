//! Drives the agents: feeds each the events of its consensus group and carries out what it commands.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use littoral_control::partition::is_serving_work;
use littoral_control::{Agent, Command, Event, Settings};
use littoral_mesh::{Members, Mesh};
use littoral_model::id::{AppId, FunctionName, NodeId, SiteId};
use littoral_model::work::{Assignment, KeeperAnswer, WorkId};
use littoral_store::consensus::{Removed, SiteGroup};
use littoral_store::replica::Works;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::admin::events::EventKind;
use crate::events::Events;
use crate::functions::Functions;
use crate::functions::demand::Demands;
use crate::gate::{Gate, now_ms};
use crate::intent::{Apps, IntentStore};
use crate::logs::Logs;
use crate::runner::{Held, Runner};
use crate::sync::lock;

/// How often an agent is told that time has passed, while something is due after a while.
const TICK: Duration = Duration::from_millis(300);
/// How often otherwise.
const QUIET_TICK: Duration = Duration::from_secs(1);
/// How long to wait before asking again to be taken into the site's group.
const JOIN_RETRY: Duration = Duration::from_secs(1);
/// How many events of running work may wait for the agent.
const EVENTS_MAX: usize = 1_024;

/// What agents say of this node, for its digest: how much work it runs for each group, and its functions.
#[derive(Debug, Default)]
pub(crate) struct Announced {
    works: Mutex<BTreeMap<SiteId, u32>>,
    functions: Mutex<Vec<String>>,
    pub(crate) changed: Notify,
}

impl Announced {
    /// How much work this node runs.
    pub(crate) fn works(&self) -> u32 {
        lock(&self.works).values().sum()
    }

    /// The functions that it serves.
    pub(crate) fn functions(&self) -> Vec<String> {
        lock(&self.functions).clone()
    }
}

/// What all drivers of a node share.
pub(crate) struct Drivers {
    pub(crate) node: NodeId,
    pub(crate) home: SiteId,
    pub(crate) mesh: Arc<dyn Mesh>,
    pub(crate) works: Arc<Works>,
    pub(crate) intent: Arc<IntentStore>,
    pub(crate) runner: Arc<Runner>,
    pub(crate) functions: Arc<Functions>,
    pub(crate) logs: Arc<Logs>,
    pub(crate) announced: Announced,
    pub(crate) gate: Arc<Gate>,
    pub(crate) events: Arc<Events>,
}

impl Drivers {
    /// Drives the agent of one group until the node stops.
    pub(crate) async fn drive(self: Arc<Self>, group: Arc<SiteGroup>, stop: CancellationToken) {
        let (sender, events) = mpsc::channel(EVENTS_MAX);
        let settings = Settings {
            node: self.node.clone(),
            home: self.home.clone(),
            group: group.site().clone(),
            seed: seed(&self.node),
        };
        if *group.site() == self.home {
            tokio::spawn(Arc::clone(&self).take_part(Arc::clone(&group), stop.clone()));
        }
        let driver = Driver {
            members: self.mesh.members(),
            assignments: group.assignments(),
            apps: self.intent.watch(),
            demands: self.functions.demands(),
            agent: Agent::new(settings),
            held: BTreeMap::new(),
            removed: Arc::default(),
            changing_voters: Arc::default(),
            shared: self,
            group,
            sender,
            events,
        };
        driver.run(stop).await;
    }

    /// Has this node taken into its site's group, if it is not in it.
    async fn take_part(self: Arc<Self>, group: Arc<SiteGroup>, stop: CancellationToken) {
        loop {
            let status = group.status();
            if status.voters.contains(&self.node) || status.learners.contains(&self.node) {
                return;
            }
            let members = self.mesh.members().borrow().clone();
            let neighbours = members.values().filter(|digest| digest.site == self.home && digest.node != self.node);
            for neighbour in neighbours {
                match group.join(&neighbour.node).await {
                    Ok(()) => break,
                    Err(error) => {
                        tracing::debug!(asked = %neighbour.node, %error, "not taken into the site's group yet")
                    }
                }
            }
            tokio::select! {
                () = tokio::time::sleep(JOIN_RETRY) => {}
                () = stop.cancelled() => return,
            }
        }
    }
}

/// Spreads what nodes do at the same moment.
fn seed(node: &NodeId) -> u64 {
    node.as_str()
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// One agent and its sources of events.
struct Driver {
    shared: Arc<Drivers>,
    group: Arc<SiteGroup>,
    agent: Agent,
    members: watch::Receiver<Arc<Members>>,
    assignments: watch::Receiver<Arc<BTreeMap<WorkId, Assignment>>>,
    apps: watch::Receiver<Arc<Apps>>,
    demands: watch::Receiver<Demands>,
    sender: mpsc::Sender<Event>,
    events: mpsc::Receiver<Event>,
    /// The assignments that the log was told of.
    held: BTreeMap<WorkId, Assignment>,
    /// The removed works of which nothing is left here.
    removed: Arc<Removed>,
    /// One change of voters at a time.
    changing_voters: Arc<tokio::sync::Mutex<()>>,
}

impl Driver {
    async fn run(mut self, stop: CancellationToken) {
        let mut tick = Instant::now();
        self.take_assignments().await;
        self.take_intent();
        self.take_members();
        self.take_status();
        let mut status = Box::pin(self.group.status_changes());
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = &mut status => {
                    status = Box::pin(self.group.status_changes());
                    self.take_status();
                }
                changed = self.assignments.changed() => match changed {
                    Ok(()) => self.take_assignments().await,
                    Err(_) => return,
                },
                Ok(()) = self.apps.changed() => self.take_intent(),
                Ok(()) = self.members.changed() => self.take_members(),
                Ok(()) = self.demands.changed() => {
                    let demands = self.demands.borrow_and_update().clone();
                    self.step(Event::Demand(demands));
                }
                Some(event) = self.events.recv() => self.step(event),
                () = sleep_until(tick) => {
                    // Leadership is never believed for longer than a tick.
                    self.take_status();
                    self.step(Event::Tick);
                    tick = Instant::now() + QUIET_TICK;
                }
            }
            if self.agent.is_waiting() {
                tick = tick.min(Instant::now() + TICK);
            }
        }
    }

    fn take_status(&mut self) {
        self.step(Event::Voters(self.group.status().voters));
        self.step(Event::Leadership(self.group.leads()));
    }

    fn take_members(&mut self) {
        let members = self.members.borrow_and_update().clone();
        self.step(Event::Members(members));
    }

    fn take_intent(&mut self) {
        let apps = self.apps.borrow_and_update().clone();
        self.step(Event::Intent(Arc::clone(&apps.intent)));
        self.take_members();
        self.shared.runner.reconsider();
        self.prepare();
        self.shared.functions.reconsider();
    }

    /// Makes ready for what this node may have to run.
    fn prepare(&self) {
        let held = self.held.values().filter_map(|held| match held.owner == self.shared.node {
            true => Some((&held.work, Held::Owned)),
            false => held.replicas.contains(&self.shared.node).then_some((&held.work, Held::Copied)),
        });
        self.shared.runner.prepare(held);
    }

    /// Tells the log what the keeper decided, then the agent.
    async fn take_assignments(&mut self) {
        let assignments = self.assignments.borrow_and_update().clone();
        let removed = self.group.removed();
        if !Arc::ptr_eq(&removed, &self.removed) {
            // What is left of work that was removed is not to be taken for that of work made anew.
            self.forget(self.shared.works.left_over(&removed), &removed).await;
            self.removed = Arc::clone(&removed);
        }
        for assignment in assignments.values() {
            let concerns = assignment.replicas.contains(&self.shared.node) || assignment.owner == self.shared.node;
            let known = self.held.get(&assignment.work);
            // A singleton has no log.
            let has_log = !is_serving_work(&assignment.work);
            if known != Some(assignment) && has_log && (concerns || known.is_some()) {
                self.shared.works.assigned(assignment.clone());
                self.held.insert(assignment.work.clone(), assignment.clone());
            }
        }
        let gone: Vec<WorkId> = self.held.keys().filter(|work| !assignments.contains_key(work)).cloned().collect();
        self.step(Event::Assignments(assignments));
        self.prepare();
        self.forget(gone, &removed).await;
    }

    /// Drops what is held of works that were removed.
    async fn forget(&mut self, works: Vec<WorkId>, removed: &Removed) {
        for work in works {
            self.held.remove(&work);
            if let Err(error) = self.shared.works.removed(&work, removed.get(&work).copied()).await {
                tracing::warn!(%work, %error, "a work that was removed could not be forgotten; its disk space stays taken");
            }
        }
    }

    fn step(&mut self, event: Event) {
        let now_ms = now_ms();
        let commands = self.agent.step(now_ms, event);
        let started: BTreeSet<WorkId> = commands.iter().filter_map(started).cloned().collect();
        for command in commands {
            // What is started with other functions goes on until they are at hand.
            let goes_on = matches!(&command, Command::StopWork { work } if started.contains(work));
            if !goes_on {
                self.carry_out(now_ms, command);
            }
        }
    }

    /// Takes note of something that was done about a function.
    fn note(&self, app: AppId, function: &FunctionName, kind: EventKind, text: String) {
        let (events, subject) = (Arc::clone(&self.shared.events), format!("function {function}"));
        tokio::spawn(async move { events.note(&app.app, subject, kind, text).await });
    }

    fn carry_out(&mut self, now_ms: u64, command: Command) {
        let shared = &self.shared;
        match command {
            Command::SetVoters(voters) => {
                let (group, changing) = (Arc::clone(&self.group), Arc::clone(&self.changing_voters));
                tokio::spawn(async move {
                    // The agent asks again if it still wants them after the change under way.
                    let Ok(_one) = changing.try_lock() else { return };
                    if let Err(error) = group.set_voters(voters).await {
                        tracing::info!(site = %group.site(), %error, "the voters could not be changed yet");
                    }
                });
            }
            Command::Propose(command) => {
                let group = Arc::clone(&self.group);
                tokio::spawn(async move {
                    if let Err(error) = group.decide(command).await {
                        tracing::info!(site = %group.site(), %error, "the keeper did not decide");
                    }
                });
            }
            Command::StartWork { work, epoch } => {
                tracing::info!(%work, %epoch, "this node runs");
                shared.runner.start(work, epoch, self.sender.clone());
            }
            Command::StopWork { work } => shared.runner.stop(&work),
            Command::StartFunction { app, function, artifact } => shared.functions.start(app, function, artifact),
            Command::StopFunction { app, function } => shared.functions.stop(&app, &function),
            Command::Bring { app, function, demand } => {
                let text = shared.functions.bring(&app, &function, demand);
                self.note(app, &function, EventKind::Action, text);
            }
            Command::LetGo { app, function } => {
                shared.functions.let_go(&app, &function);
                let text = "its callers here hardly ask for it any more: it is not kept here for them".to_owned();
                self.note(app, &function, EventKind::Action, text);
            }
            Command::Announce { works, functions } => {
                let announced = &shared.announced;
                let site = self.group.site().clone();
                lock(&announced.works).insert(site, works);
                if *self.group.site() == shared.home {
                    *lock(&announced.functions) = functions;
                }
                announced.changed.notify_one();
            }
            Command::Halt { app, reason } => {
                tracing::warn!(%app, reason, "the app is stopped on this node");
                shared.logs.system(Some(app.app.as_str()), None, &format!("stopped on this node: {reason}"));
                shared.gate.halt(app, reason);
            }
            Command::Admit { app } => {
                tracing::info!(%app, "the app goes on on this node");
                shared.gate.admit(app);
            }
            Command::Lease { app, from_ms, until_ms } => shared.gate.lease(app, from_ms, until_ms),
            Command::Renew { app, asked_ms, renewal } => {
                let (group, sender) = (Arc::clone(&self.group), self.sender.clone());
                tokio::spawn(async move {
                    // Who is cut off has no answer, and asks again before its lease ends.
                    if let Ok(KeeperAnswer::Applied(Some(assignment))) = group.propose(renewal).await {
                        sender.send(Event::Renewed { app, asked_ms, assignment }).await.ok();
                    }
                });
            }
            Command::ReportFailure { work, attempts, retry_at_ms, reason } => {
                let wait_ms = retry_at_ms.saturating_sub(now_ms);
                tracing::warn!(%work, attempts, wait_ms, reason, "work failed and is to be started again");
                let text =
                    format!("{work} failed ({attempts} times in a row): {reason}; it is started again in {wait_ms} ms");
                shared.logs.system(Some(work.app.app.as_str()), None, &text);
            }
        }
    }
}

/// Which work a command starts.
fn started(command: &Command) -> Option<&WorkId> {
    match command {
        Command::StartWork { work, .. } => Some(work),
        _ => None,
    }
}
