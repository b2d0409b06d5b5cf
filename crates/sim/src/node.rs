//! One simulated node: a real log, derived state, works, consensus groups and agents, on a disk that fails and a network
//! that is cut.
//!
//! What `node::core`, `groups`, `dispatch` and `announce` do, without what only a process has.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use littoral_model::condition::Condition;
use littoral_model::digest::NodeDigest;
use littoral_model::id::{Epoch, NodeId, SiteId, Tier};
use littoral_model::situation::Situation;
use littoral_model::wire::{InstallRequest, ReplicateReply, ReplicateRequest, VersionRange};
use littoral_model::work::{Assignment, KeeperAnswer, KeeperCommand, WorkId};
use littoral_store::consensus::{GroupOptions, RaftTransport, SiteGroup, TransportError, WORK_PREFIX};
use littoral_store::fake::{DerivedFile, FaultyDisk};
use littoral_store::log::Stepper;
use littoral_store::replica::{Keeper, KeeperError, PeerError, Peers, Works};
use littoral_store::{Log, LogOptions};
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;
use tokio::time::sleep;

use crate::driver;
use crate::history::{Event, History};
use crate::intent::Intents;
use crate::net::{Members, Net, Reply, Request, Service};
use crate::runner::Runner;

/// Small, so that segments roll and are given up within a run.
pub const LOG: LogOptions = LogOptions { segment_bytes: 256 << 10, cache_bytes: 64 << 10 };
/// What waits and nobody waits for is written after this long.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often intent is compared with that of the members.
const COMPARE_EVERY: Duration = Duration::from_secs(1);
/// Deadlines, as the node's `wiring` has them.
const CONSENSUS_DEADLINE: Duration = Duration::from_secs(2);
const REPLICATE_DEADLINE: Duration = Duration::from_secs(5);
const INSTALL_DEADLINE: Duration = Duration::from_secs(30);
const EXCHANGE_DEADLINE: Duration = Duration::from_secs(5);

/// What a machine is, whoever runs on it.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Its name, `site-number`.
    pub node: NodeId,
    /// What it is.
    pub tier: Tier,
    /// Where it is.
    pub site: SiteId,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Memory that work may use, in bytes.
    pub memory_bytes: u64,
    /// What a partition of a stream that is published to, or of a stage, may take of its disk; all of it where that is not said.
    pub work_bytes_max: Option<u64>,
}

/// What stays when a node is restarted.
#[derive(Debug)]
pub struct Machine {
    /// What it is.
    pub facts: Facts,
    /// How long its disk takes to sync, in microseconds.
    pub sync_us: AtomicU64,
    /// How far its wall clock is off, in microseconds.
    pub clock_off_us: AtomicI64,
}

impl Machine {
    /// What its wall clock says, in microseconds since 1970.
    pub fn wall_us(&self, history: &History) -> u64 {
        const BEGIN_US: u64 = 1_790_000_000_000_000;
        let off_us = self.clock_off_us.load(Ordering::Relaxed);
        (BEGIN_US + history.now_ms() * 1_000).saturating_add_signed(off_us)
    }
}

/// A node that runs.
pub struct Node {
    pub machine: Arc<Machine>,
    pub life: u64,
    pub net: Net,
    pub history: Arc<History>,
    pub log: Log,
    pub works: Arc<Works>,
    pub groups: Arc<Groups>,
    pub intent: Arc<Intents>,
    pub runner: Arc<Runner>,
    pub members: watch::Receiver<Arc<Members>>,
    /// The highest epoch of a work whose owner was answered here.
    answered: Mutex<BTreeMap<WorkId, Epoch>>,
    crashed: Arc<Notify>,
    tasks: Mutex<Vec<AbortHandle>>,
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node").field("node", &self.machine.facts.node).field("life", &self.life).finish_non_exhaustive()
    }
}

/// What a start needs beside the machine.
#[derive(Clone, Debug)]
pub struct Start {
    pub life: u64,
    /// Whether it is the first of its site, and new.
    pub founder: bool,
    /// How long it hears nothing before it wants to lead.
    pub election: (Duration, Duration),
}

impl Node {
    /// Starts a node on what its disk holds.
    ///
    /// # Errors
    /// When it cannot.
    pub async fn boot(
        machine: Arc<Machine>,
        start: Start,
        (disk, derived): (FaultyDisk, DerivedFile),
        net: Net,
        history: Arc<History>,
    ) -> Result<Arc<Self>, String> {
        let text = |error: littoral_store::StoreError| error.to_string();
        let node = machine.facts.node.clone();
        let (log, stepper) = Log::open_stepped(Arc::new(disk), LOG).map_err(text)?;
        let crashed = Arc::new(Notify::new());
        tokio::spawn(step(stepper, Arc::clone(&machine), net.clone(), Arc::clone(&crashed)));
        let derived = derived.open().map_err(text)?;
        let intent = Arc::new(Intents::open(node.clone(), log.clone())?);
        let port = Arc::new(Port { net: net.clone(), node: node.clone(), life: start.life });
        let groups = Arc::new(Groups {
            facts: machine.facts.clone(),
            start: start.clone(),
            log: log.clone(),
            port: Arc::clone(&port),
            running: Mutex::default(),
            opening: tokio::sync::Mutex::default(),
            driven_by: Mutex::new(Weak::new()),
        });
        let works = Works::new(node.clone(), log.clone(), derived, port, Arc::clone(&groups) as Arc<dyn Keeper>)
            .map_err(text)?;
        let life = start.life;
        let digest = digest(&machine.facts, life, intent.now().hash);
        let this = Arc::new_cyclic(|this: &Weak<Self>| {
            let service: Weak<dyn Service> = this.clone();
            let members = net.join(digest, life, service);
            let runner = Arc::new(Runner::new(this.clone()));
            let (answered, tasks, log) = (Mutex::default(), Mutex::default(), log.clone());
            let groups = Arc::clone(&groups);
            Self { machine, life, net, history, log, works, groups, intent, runner, members, answered, crashed, tasks }
        });
        this.history.note(Event::Booted { node, life });
        *lock(&groups.driven_by) = Arc::downgrade(&this);
        let site = this.machine.facts.site.clone();
        groups.open(&site).await?;
        for work in log.works() {
            let borrowed = work.strip_prefix(WORK_PREFIX).and_then(|name| SiteId::new(name).ok());
            if let Some(other) = borrowed {
                groups.open(&other).await?;
            }
        }
        this.adopt(tokio::spawn(compare(Arc::downgrade(&this))).abort_handle());
        Ok(this)
    }

    /// The name.
    pub fn id(&self) -> &NodeId {
        &self.machine.facts.node
    }

    /// Ends a task with this life of the node.
    pub fn adopt(&self, task: AbortHandle) {
        lock(&self.tasks).push(task);
    }

    /// Ends this life at once. The disk must have lost its power before.
    pub fn end(&self) {
        for task in lock(&self.tasks).drain(..) {
            task.abort();
        }
        self.runner.stop_all();
        self.works.stop();
        for group in self.groups.all() {
            tokio::spawn(async move { group.stop().await });
        }
        // Nothing comes of it any more, but everybody who waits for the disk is told.
        self.log.close().ok();
        self.crashed.notify_one();
    }

    /// Asks another node.
    ///
    /// # Errors
    /// When it did not answer.
    pub async fn ask(&self, to: &NodeId, request: Request, deadline: Duration) -> Result<Reply, String> {
        if to == self.id() {
            return self.handle(request).await;
        }
        self.net.call((self.id(), self.life), to, request, deadline).await
    }

    /// Who owns a work, as far as can be found out.
    pub async fn locate(&self, work: &WorkId) -> Option<Assignment> {
        if let Some(group) = self.groups.get(&work.site) {
            return group.assignments().borrow().get(work).cloned();
        }
        self.assignments(&work.site).await.into_iter().find(|assignment| assignment.work == *work)
    }

    /// The works of which the log holds something.
    pub fn held(&self) -> Vec<WorkId> {
        self.log.works().iter().filter_map(|work| work.parse().ok()).collect()
    }

    /// All works of a site, as the first of its nodes that answers knows them.
    pub async fn assignments(&self, site: &SiteId) -> Vec<Assignment> {
        if let Some(group) = self.groups.get(site) {
            return group.assignments().borrow().values().cloned().collect();
        }
        let members = self.members.borrow().clone();
        for (node, _) in members.iter().filter(|(_, digest)| digest.site == *site) {
            let asked = self.ask(node, Request::Assignments(site.clone()), Duration::from_millis(800)).await;
            if let Ok(Reply::Assignments(Some(known))) = asked {
                return known;
            }
        }
        Vec::new()
    }
}

#[async_trait]
impl Service for Node {
    async fn handle(&self, request: Request) -> Result<Reply, String> {
        match request {
            Request::Consensus(site, message) => self.groups.handle(&site, message).await.map(Reply::Consensus),
            Request::Replicate(request) => {
                let (work, owner, epoch) = (request.work.clone(), request.owner.clone(), request.epoch);
                let sent = !request.entries.is_empty();
                let reply = self.works.handle_replicate(request).await.map_err(|error| error.to_string())?;
                if let ReplicateReply::Stored { last } = &reply
                    && (sent || self.is_first_of(&work, epoch))
                {
                    self.note(Event::Took { replica: self.id().clone(), work, owner, epoch, last: *last });
                }
                Ok(Reply::Replicate(reply))
            }
            Request::Install(request) => {
                self.works.handle_install(request).await.map_err(|error| error.to_string())?;
                Ok(Reply::Install)
            }
            Request::Fetch(request) => Ok(Reply::Fetch(self.works.fetch(request).await)),
            Request::Publish(request) => Ok(Reply::Publish(self.works.publish(request).await)),
            Request::Assignments(site) => {
                let group = self.groups.get(&site);
                Ok(Reply::Assignments(group.map(|group| group.assignments().borrow().values().cloned().collect())))
            }
            Request::Intent(theirs) => self.intent.exchange(theirs).await.map(Reply::Intent),
        }
    }
}

impl Node {
    /// Whether an owner of this epoch is answered for the first time.
    fn is_first_of(&self, work: &WorkId, epoch: Epoch) -> bool {
        let mut answered = lock(&self.answered);
        let known = answered.entry(work.clone()).or_default();
        std::mem::replace(known, epoch.max(*known)) < epoch
    }

    /// Takes note of something, if this life has not ended.
    pub fn note(&self, event: Event) {
        if !lock(&self.tasks).is_empty() {
            self.history.note(event);
        }
    }
}

/// Writes the log whenever there is something to write: after what a sync takes, and not while the node is paused.
async fn step(mut stepper: Stepper, machine: Arc<Machine>, net: Net, crashed: Arc<Notify>) {
    let node = &machine.facts.node;
    loop {
        let writing = async {
            tokio::select! {
                () = stepper.wanted() => {}
                () = sleep(PATIENCE) => {}
            }
            net.awake(node).await;
            sleep(Duration::from_micros(machine.sync_us.load(Ordering::Relaxed))).await;
            net.awake(node).await;
        };
        tokio::select! {
            biased;
            () = crashed.notified() => break,
            () = writing => {}
        }
        if !stepper.step() {
            return;
        }
    }
    stepper.step();
}

/// Exchanges intent with a member that knows something else, one at a time.
async fn compare(node: Weak<Node>) {
    let mut last: Option<NodeId> = None;
    loop {
        sleep(COMPARE_EVERY).await;
        let Some(this) = node.upgrade() else { return };
        this.net.awake(this.id()).await;
        let own = this.intent.now().hash;
        this.net.announce(this.id(), this.life, |digest| digest.intent = own);
        let members = this.members.borrow().clone();
        let differs = |digest: &&Arc<NodeDigest>| digest.intent != own && digest.node != *this.id();
        let others: Vec<NodeId> = members.values().filter(differs).map(|digest| digest.node.clone()).collect();
        let after = others.iter().find(|node| last.as_ref().is_none_or(|last| *node > last));
        let Some(other) = after.or(others.first()) else { continue };
        last = Some(other.clone());
        let answer = this.ask(other, Request::Intent(this.intent.offer()), EXCHANGE_DEADLINE).await;
        if let Ok(Reply::Intent(answer)) = answer {
            this.intent.learn(answer).await.ok();
        }
    }
}

pub(crate) fn digest(facts: &Facts, life: u64, intent: u64) -> NodeDigest {
    NodeDigest {
        node: facts.node.clone(),
        tier: facts.tier,
        site: facts.site.clone(),
        labels: facts.labels.clone(),
        incarnation: life,
        sequence: 1,
        protocol: VersionRange::OURS,
        program: "sim".to_owned(),
        cores: 4,
        memory_bytes: facts.memory_bytes,
        works: 0,
        http: None,
        functions: Vec::new(),
        links: Vec::new(),
        intent,
        condition: Condition::default(),
        situation: Situation::default(),
    }
}

/// This life of a node on the network.
pub struct Port {
    net: Net,
    node: NodeId,
    life: u64,
}

impl Port {
    async fn ask(&self, to: &NodeId, request: Request, deadline: Duration) -> Result<Reply, String> {
        self.net.call((&self.node, self.life), to, request, deadline).await
    }
}

#[async_trait]
impl RaftTransport for Port {
    async fn call(&self, to: &NodeId, group: &SiteId, message: Bytes) -> Result<Bytes, TransportError> {
        match self.ask(to, Request::Consensus(group.clone(), message), CONSENSUS_DEADLINE).await {
            Ok(Reply::Consensus(answer)) => Ok(answer),
            Ok(_) => Err(TransportError("another answer than asked for".to_owned())),
            Err(error) => Err(TransportError(error)),
        }
    }
}

#[async_trait]
impl Peers for Port {
    async fn replicate(&self, to: &NodeId, request: ReplicateRequest) -> Result<ReplicateReply, PeerError> {
        match self.ask(to, Request::Replicate(request), REPLICATE_DEADLINE).await {
            Ok(Reply::Replicate(reply)) => Ok(reply),
            Ok(_) => Err(PeerError("another answer than asked for".to_owned())),
            Err(error) => Err(PeerError(error)),
        }
    }

    async fn install(&self, to: &NodeId, request: InstallRequest) -> Result<(), PeerError> {
        self.ask(to, Request::Install(request), INSTALL_DEADLINE).await.map(drop).map_err(PeerError)
    }
}

/// The consensus groups that a node takes part in.
pub struct Groups {
    facts: Facts,
    start: Start,
    log: Log,
    port: Arc<Port>,
    running: Mutex<BTreeMap<SiteId, Arc<SiteGroup>>>,
    opening: tokio::sync::Mutex<()>,
    driven_by: Mutex<Weak<Node>>,
}

impl Groups {
    /// A group that runs here.
    pub fn get(&self, site: &SiteId) -> Option<Arc<SiteGroup>> {
        lock(&self.running).get(site).cloned()
    }

    /// All groups that run here.
    pub fn all(&self) -> Vec<Arc<SiteGroup>> {
        lock(&self.running).values().cloned().collect()
    }

    async fn handle(&self, site: &SiteId, message: Bytes) -> Result<Bytes, String> {
        let group = match self.get(site) {
            Some(group) => group,
            None => self.open(site).await?,
        };
        group.handle(message).await.map_err(|error| error.to_string())
    }

    async fn open(&self, site: &SiteId) -> Result<Arc<SiteGroup>, String> {
        let _one = self.opening.lock().await;
        if let Some(group) = self.get(site) {
            return Ok(group);
        }
        let own = *site == self.facts.site;
        let options = GroupOptions {
            site: site.clone(),
            node: self.facts.node.clone(),
            initialize: own && self.start.founder,
            // A borrowed voter votes and never leads.
            elect: own,
            election: self.start.election,
        };
        let transport = Arc::clone(&self.port) as Arc<dyn RaftTransport>;
        let group = SiteGroup::start(options, self.log.clone(), transport).await.map_err(|error| error.to_string())?;
        lock(&self.running).insert(site.clone(), Arc::clone(&group));
        if let Some(node) = lock(&self.driven_by).upgrade() {
            driver::start(&node, Arc::clone(&group));
        }
        Ok(group)
    }

    async fn propose(&self, command: KeeperCommand, site: &SiteId) -> Result<KeeperAnswer, KeeperError> {
        let group = self.get(site).ok_or_else(|| KeeperError(format!("this node is not of the site {site}")))?;
        group.propose(command).await.map_err(|error| KeeperError(error.to_string()))
    }
}

#[async_trait]
impl Keeper for Groups {
    async fn resync(
        &self,
        work: &WorkId,
        epoch: Epoch,
        replicas: Vec<NodeId>,
        in_sync: Vec<NodeId>,
    ) -> Result<KeeperAnswer, KeeperError> {
        self.propose(KeeperCommand::Resync { work: work.clone(), epoch, replicas, in_sync }, &work.site).await
    }

    async fn hand_over(&self, work: &WorkId, epoch: Epoch, owner: NodeId) -> Result<KeeperAnswer, KeeperError> {
        let command = KeeperCommand::Move { work: work.clone(), epoch, owner, exclude_old: true };
        self.propose(command, &work.site).await
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
