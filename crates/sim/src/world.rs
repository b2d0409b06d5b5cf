//! The whole fabric: machines, who runs on them, and what users do.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use littoral_model::digest::NodeDigest;
use littoral_model::id::{AppId, NodeId, SiteId, Tier};
use littoral_model::work::Assignment;
use littoral_plan::{AppSpec, Fabric, Placement, traffic};
use littoral_store::fake::{DerivedFile, FaultyDisk};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::history::{Event, History};
use crate::net::{Net, Request};
use crate::node::{Facts, Machine, Node, Start};

/// How long a sync takes on a healthy disk.
pub const SYNC_US: u64 = 800;
/// How long a node may take to learn of a deployment from who made it.
const SPREAD_DEADLINE: Duration = Duration::from_secs(2);

/// The fabric.
pub struct World {
    /// What happened.
    pub history: Arc<History>,
    /// The network.
    pub net: Net,
    /// The machines, running or not.
    pub machines: BTreeMap<NodeId, Arc<Machine>>,
    /// All chance of this run.
    pub random: Mutex<StdRng>,
    disks: Mutex<BTreeMap<NodeId, Disks>>,
    nodes: Mutex<BTreeMap<NodeId, Arc<Node>>>,
    /// What apps are made of, for booking their memory.
    specs: Mutex<BTreeMap<AppId, AppSpec>>,
}

struct Disks {
    log: FaultyDisk,
    derived: DerivedFile,
    life: u64,
    /// Whether it is the one that the machine was built with.
    first: bool,
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("World").field("machines", &self.machines.len()).finish_non_exhaustive()
    }
}

impl World {
    /// The machines, switched off: a cloud of three, an edge site of two or three, and a device.
    #[must_use]
    pub fn new(seed: u64, trace: bool) -> Arc<Self> {
        let mut random = StdRng::seed_from_u64(seed);
        let halls = random.random_range(2..=3);
        let sites = [("cloud", Tier::Cloud, 3), ("hall", Tier::Edge, halls), ("field", Tier::Device, 1)];
        Self::of(seed, random, trace, &sites, None)
    }

    /// So many machines at each site, switched off.
    #[must_use]
    pub fn with(seed: u64, trace: bool, sites: &[(&str, Tier, u32)], work_bytes_max: u64) -> Arc<Self> {
        Self::of(seed, StdRng::seed_from_u64(seed), trace, sites, Some(work_bytes_max))
    }

    fn of(
        seed: u64,
        mut random: StdRng,
        trace: bool,
        sites: &[(&str, Tier, u32)],
        work_bytes_max: Option<u64>,
    ) -> Arc<Self> {
        let history = Arc::new(History::new(trace));
        let mut machines = BTreeMap::new();
        for (site, tier, count) in sites {
            for number in 1..=*count {
                // The third of a site is of another make.
                let cpu = if number < 3 { "fast" } else { "slow" };
                let facts = Facts {
                    node: NodeId::new(format!("{site}-{number}")).unwrap(),
                    tier: *tier,
                    site: SiteId::new(*site).unwrap(),
                    labels: BTreeMap::from([("cpu".to_owned(), cpu.to_owned())]),
                    memory_bytes: crate::apps::MACHINE_BYTES,
                    work_bytes_max,
                };
                let (sync_us, clock_off_us) = (AtomicU64::new(SYNC_US), AtomicI64::new(0));
                machines.insert(facts.node.clone(), Arc::new(Machine { facts, sync_us, clock_off_us }));
            }
        }
        let disk = |at: usize| Disks {
            log: FaultyDisk::new(seed.wrapping_add(at as u64)),
            derived: DerivedFile::default(),
            life: 0,
            first: true,
        };
        let disks = machines.keys().enumerate().map(|(at, node)| (node.clone(), disk(at))).collect();
        Arc::new(Self {
            net: Net::new(random.random(), Arc::clone(&history)),
            history,
            machines,
            random: Mutex::new(random),
            disks: Mutex::new(disks),
            nodes: Mutex::default(),
            specs: Mutex::default(),
        })
    }

    /// A random number below `below`.
    pub fn below(&self, below: u64) -> u64 {
        lock(&self.random).random_range(0..below.max(1))
    }

    /// The nodes that run.
    pub fn nodes(&self) -> BTreeMap<NodeId, Arc<Node>> {
        lock(&self.nodes).clone()
    }

    /// One that runs.
    pub fn node(&self, node: &NodeId) -> Option<Arc<Node>> {
        lock(&self.nodes).get(node).cloned()
    }

    /// Starts a machine's node on what its disk holds.
    ///
    /// # Errors
    /// When it cannot start.
    pub async fn boot(&self, node: &NodeId) -> Result<(), String> {
        let machine = self.machines.get(node).ok_or("there is no such machine")?;
        let (disks, start) = {
            let mut disks = lock(&self.disks);
            let disk = disks.get_mut(node).ok_or("there is no such machine")?;
            disk.life += 1;
            let election_ms = 1_500 + self.below(500);
            let election = (Duration::from_millis(election_ms), Duration::from_millis(election_ms + 1));
            let founder = disk.first && disk.life == 1 && node.as_str().ends_with("-1");
            ((disk.log.clone(), disk.derived.clone()), Start { life: disk.life, founder, election })
        };
        let net = self.net.clone();
        let booted = Node::boot(Arc::clone(machine), start, disks, net, Arc::clone(&self.history)).await?;
        lock(&self.nodes).insert(node.clone(), booted);
        Ok(())
    }

    /// Takes the power from a machine: what was not synced is lost, in part or whole.
    pub fn crash(&self, node: &NodeId, quietly: bool) {
        let Some(running) = lock(&self.nodes).remove(node) else { return };
        self.net.leave(node, quietly);
        if let Some(disk) = lock(&self.disks).get_mut(node) {
            (disk.log, disk.derived) = (disk.log.crash(), disk.derived.crash());
        }
        running.end();
        self.history.note(Event::Crashed { node: node.clone() });
    }

    /// Ends a node as its user does: what waits for the disk is written.
    pub async fn stop(&self, node: &NodeId) {
        let Some(running) = lock(&self.nodes).remove(node) else { return };
        self.net.leave(node, false);
        running.end();
        // Longer than what is left to be written takes.
        tokio::time::sleep(Duration::from_millis(100)).await;
        self.history.note(Event::Act(format!("{node} was stopped")));
    }

    /// The disk with a machine's log.
    pub fn log_disk(&self, node: &NodeId) -> Option<FaultyDisk> {
        lock(&self.disks).get(node).map(|disks| disks.log.clone())
    }

    /// Puts an empty disk into a machine that does not run.
    pub fn lose_disk(&self, node: &NodeId) {
        let seed = self.below(u64::MAX);
        if let Some(disk) = lock(&self.disks).get_mut(node) {
            (disk.log, disk.derived, disk.first) = (FaultyDisk::new(seed), DerivedFile::default(), false);
        }
        self.history.note(Event::LostDisk { node: node.clone() });
    }

    /// Has a node place an app and make it wanted, as `littoral deploy` does.
    ///
    /// # Errors
    /// When it cannot be placed, or the node ended meanwhile.
    pub async fn deploy(&self, at: &Arc<Node>, spec: &AppSpec) -> Result<Arc<Placement>, String> {
        lock(&self.specs).insert(spec.app.clone(), spec.clone());
        let live = at.members.borrow().clone();
        let dead: Vec<NodeDigest> = self
            .machines
            .values()
            .filter(|m| !live.contains_key(&m.facts.node))
            .map(|m| crate::node::digest(&m.facts, 0, 0))
            .collect();
        let mut fabric = Fabric::from_digests(live.values().map(AsRef::as_ref), &dead);
        self.book_other_apps(at, &mut fabric, &spec.app);
        let mut existing: Vec<Assignment> = Vec::new();
        let mut sites: Vec<&SiteId> = self.machines.values().map(|machine| &machine.facts.site).collect();
        sites.dedup();
        for site in sites {
            existing.extend(at.assignments(site).await.into_iter().filter(|held| held.work.app == spec.app));
        }
        let placement = littoral_plan::compile(spec, &fabric, &existing).map_err(|refusal| refusal.to_string())?;
        let wall_us = at.machine.wall_us(&self.history);
        at.intent.set(spec.app.clone(), Some(placement.clone()), wall_us).await?;
        self.spread(at, &spec.app).await;
        Ok(Arc::new(placement))
    }

    /// Has a node make an app unwanted, as `littoral delete` does.
    ///
    /// # Errors
    /// When the node ended meanwhile.
    pub async fn delete(&self, at: &Arc<Node>, app: &AppId) -> Result<(), String> {
        at.intent.set(app.clone(), None, at.machine.wall_us(&self.history)).await?;
        self.spread(at, app).await;
        Ok(())
    }

    /// What other apps were promised is not to be had; as the node has it.
    fn book_other_apps(&self, at: &Arc<Node>, fabric: &mut Fabric, app: &AppId) {
        let known = at.intent.now().intent;
        let specs = lock(&self.specs);
        for (_, placement) in known.apps.iter().filter(|(other, _)| *other != app) {
            let spec = specs.get(&placement.app);
            fabric.promised.extend(traffic(placement, |flow, stage| spec?.rate_behind_bps(flow, stage)));
            for (node, bytes) in promised(placement, spec) {
                if let Some(view) = fabric.nodes.get_mut(&node) {
                    view.memory_promised_bytes += bytes;
                }
            }
        }
    }

    async fn spread(&self, at: &Arc<Node>, app: &AppId) {
        let members = at.members.borrow().clone();
        let offer = at.intent.offer_with(app);
        let told = members.keys().filter(|node| *node != at.id()).map(|node| {
            let offer = offer.clone();
            async move { at.ask(node, Request::Intent(offer), SPREAD_DEADLINE).await.ok() }
        });
        futures::future::join_all(told).await;
    }

    /// What an app is made of.
    pub fn spec(&self, app: &AppId) -> Option<AppSpec> {
        lock(&self.specs).get(app).cloned()
    }
}

/// The memory that a placement promises of each node, in bytes.
pub fn promised(placement: &Placement, spec: Option<&AppSpec>) -> Vec<(NodeId, u64)> {
    let works = placement
        .works
        .iter()
        .flat_map(|placed| placed.replicas.iter().map(|node| (node.clone(), placed.memory_bytes)));
    let memory =
        |function| spec.and_then(|spec| spec.functions.get(function)).map_or(0, |function| function.memory_bytes);
    let instances = placement.instances.iter().map(|instance| (instance.node.clone(), memory(&instance.function)));
    works.chain(instances).collect()
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
