//! The network between simulated nodes, in virtual time.
//!
//! It keeps the mesh's promises and no others: a call is answered, or fails when its deadline passes; it may have been
//! carried out all the same. Each direction of a link can be cut. A node sees those whose words reach it; that one is
//! gone it notices after a lease. What is sent to a paused node waits for it, as in the buffers of its system.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use littoral_model::digest::NodeDigest;
use littoral_model::id::{NodeId, SiteId};
use littoral_model::wire::{
    FetchReply, FetchRequest, InstallRequest, PublishReply, PublishRequest, ReplicateReply, ReplicateRequest,
};
use littoral_model::work::Assignment;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use crate::history::History;
use crate::intent::Exchange;

/// How long silence goes unnoticed: the lease of a link.
const LEASE: Duration = Duration::from_secs(2);
/// How often nodes look who is there.
const LOOK: Duration = Duration::from_millis(250);
/// How long a call waits for a node that is not there.
const ABSENT_WAIT: Duration = Duration::from_secs(1);
/// The round trip is twice this: within a site, and between two.
const NEAR: Duration = Duration::from_micros(300);
const FAR: Duration = Duration::from_millis(20);

/// What one node asks of another.
#[derive(Clone, Debug)]
pub enum Request {
    /// For the consensus group of a site.
    Consensus(SiteId, Bytes),
    /// For a replica.
    Replicate(ReplicateRequest),
    /// For a replica that is far behind.
    Install(InstallRequest),
    /// For the owner of a work.
    Fetch(FetchRequest),
    /// For the owner of a stream's partition.
    Publish(PublishRequest),
    /// All that is known of a site's work.
    Assignments(SiteId),
    /// What is deployed.
    Intent(Exchange),
}

/// The answers, in the order of [`Request`].
#[derive(Clone, Debug)]
pub enum Reply {
    /// Of the consensus group.
    Consensus(Bytes),
    /// Of the replica.
    Replicate(ReplicateReply),
    /// The state is installed.
    Install,
    /// Of the owner.
    Fetch(FetchReply),
    /// Of the owner.
    Publish(PublishReply),
    /// None where the node does not know the site's group.
    Assignments(Option<Vec<Assignment>>),
    /// What the asking node lacks.
    Intent(Exchange),
}

/// What answers on a node.
#[async_trait]
pub trait Service: Send + Sync + 'static {
    /// Answers, or says why not.
    async fn handle(&self, request: Request) -> Result<Reply, String>;
}

/// The live nodes as one of them sees them.
pub type Members = BTreeMap<NodeId, Arc<NodeDigest>>;

struct Station {
    life: u64,
    service: Weak<dyn Service>,
    digest: Arc<NodeDigest>,
    members: watch::Sender<Arc<Members>>,
}

/// What is wrong with a node's surroundings; stays when it is restarted.
#[derive(Debug)]
struct Health {
    paused: watch::Sender<bool>,
    paused_at: Instant,
    slow: Duration,
}

struct State {
    stations: BTreeMap<NodeId, Station>,
    /// Those that went without a word are still seen until then.
    ghosts: BTreeMap<NodeId, (Instant, Arc<NodeDigest>)>,
    health: BTreeMap<NodeId, Health>,
    /// From, to, and since when.
    cuts: BTreeMap<(NodeId, NodeId), Instant>,
    random: StdRng,
}

/// The network; clones are the same one.
#[derive(Clone)]
pub struct Net {
    state: Arc<Mutex<State>>,
    history: Arc<History>,
}

impl Net {
    /// A network without nodes; equal seeds give equal delays.
    #[must_use]
    pub fn new(seed: u64, history: Arc<History>) -> Self {
        let state = State {
            stations: BTreeMap::new(),
            ghosts: BTreeMap::new(),
            health: BTreeMap::new(),
            cuts: BTreeMap::new(),
            random: StdRng::seed_from_u64(seed),
        };
        let net = Self { state: Arc::new(Mutex::new(state)), history };
        let looking = net.clone();
        tokio::spawn(async move {
            loop {
                sleep(LOOK).await;
                looking.look();
            }
        });
        net
    }

    /// Adds a node in this life of it.
    pub fn join(&self, digest: NodeDigest, life: u64, service: Weak<dyn Service>) -> watch::Receiver<Arc<Members>> {
        let mut state = self.lock();
        let node = digest.node.clone();
        let digest = Arc::new(digest);
        let own = Arc::new(BTreeMap::from([(node.clone(), Arc::clone(&digest))]));
        let (members, seen) = watch::channel(own);
        state.ghosts.remove(&node);
        state.stations.insert(node, Station { life, service, digest, members });
        seen
    }

    /// Takes a node off. `quietly` as by a power cut: others notice after a lease; else as by a kill, at once.
    pub fn leave(&self, node: &NodeId, quietly: bool) {
        let mut state = self.lock();
        if let Some(station) = state.stations.remove(node)
            && quietly
        {
            state.ghosts.insert(node.clone(), (Instant::now() + LEASE, station.digest));
        }
    }

    /// Changes what a node says of itself.
    pub fn announce(&self, node: &NodeId, life: u64, change: impl FnOnce(&mut NodeDigest)) {
        if let Some(station) = self.lock().stations.get_mut(node).filter(|station| station.life == life) {
            let mut digest = NodeDigest::clone(&station.digest);
            change(&mut digest);
            if digest != *station.digest {
                digest.sequence += 1;
                station.digest = Arc::new(digest);
            }
        }
    }

    /// Cuts one direction of a link, or mends it.
    pub fn cut(&self, from: &NodeId, to: &NodeId, is_cut: bool) {
        let mut state = self.lock();
        let key = (from.clone(), to.clone());
        if is_cut {
            state.cuts.entry(key).or_insert_with(Instant::now);
        } else {
            state.cuts.remove(&key);
        }
    }

    /// Stops a node where it is, or lets it go on.
    pub fn pause(&self, node: &NodeId, is_paused: bool) {
        let mut state = self.lock();
        let health = state.health(node);
        health.paused_at = Instant::now();
        health.paused.send_replace(is_paused);
    }

    /// Delays everything that a node sends and receives.
    pub fn slow(&self, node: &NodeId, by: Duration) {
        self.lock().health(node).slow = by;
    }

    /// Mends everything.
    pub fn heal(&self) {
        let mut state = self.lock();
        state.cuts.clear();
        for health in state.health.values_mut() {
            health.slow = Duration::ZERO;
            health.paused.send_replace(false);
        }
    }

    /// Whether a node is stopped.
    #[must_use]
    pub fn is_paused(&self, node: &NodeId) -> bool {
        *self.lock().health(node).paused.borrow()
    }

    /// Whether words go from one node to another.
    #[must_use]
    pub fn is_open(&self, from: &NodeId, to: &NodeId) -> bool {
        !self.lock().cuts.contains_key(&(from.clone(), to.clone()))
    }

    /// Waits until a node is not paused.
    pub async fn awake(&self, node: &NodeId) {
        let mut paused = self.lock().health(node).paused.subscribe();
        paused.wait_for(|paused| !paused).await.ok();
    }

    /// Asks a node, as another one in a life of its.
    ///
    /// # Errors
    /// When there was no answer by the deadline, or the node said why not.
    pub async fn call(
        &self,
        (from, life): (&NodeId, u64),
        to: &NodeId,
        request: Request,
        deadline: Duration,
    ) -> Result<Reply, String> {
        let asking = async {
            if !self.sees(from, life, to) {
                sleep(ABSENT_WAIT).await;
                if !self.sees(from, life, to) {
                    return Err(format!("{to} cannot be reached"));
                }
            }
            self.travel(from, to, &request).await;
            let (there, service) = self.find(to).ok_or("nobody is there")?;
            if !self.lives(from, life) {
                return Err("this node is no more".to_owned());
            }
            // In a task of its own: the other goes on when this one gives up.
            let reply = tokio::spawn(async move { service.handle(request).await }).await;
            self.awake(to).await;
            let reply = reply.map_err(|_| "it ended by a bug".to_owned())?;
            self.travel(to, from, &()).await;
            // A node that ended meanwhile says nothing.
            if !self.lives(to, there) {
                std::future::pending::<()>().await;
            }
            reply
        };
        timeout(deadline, asking).await.unwrap_or_else(|_| Err("no answer in time".to_owned()))
    }

    /// Asks a node from outside of the fabric, as a client beside it.
    ///
    /// # Errors
    /// As for [`Net::call`].
    pub async fn ask(&self, to: &NodeId, request: Request, deadline: Duration) -> Result<Reply, String> {
        let asking = async {
            sleep(NEAR).await;
            self.awake(to).await;
            let (life, service) = self.find(to).ok_or("nobody is there")?;
            let reply = tokio::spawn(async move { service.handle(request).await }).await;
            self.awake(to).await;
            if !self.lives(to, life) {
                std::future::pending::<()>().await;
            }
            reply.map_err(|_| "it ended by a bug".to_owned())?
        };
        timeout(deadline, asking).await.unwrap_or_else(|_| Err("no answer in time".to_owned()))
    }

    fn sees(&self, from: &NodeId, life: u64, to: &NodeId) -> bool {
        let state = self.lock();
        let station = state.stations.get(from).filter(|station| station.life == life);
        station.is_some_and(|station| station.members.borrow().contains_key(to))
    }

    fn lives(&self, node: &NodeId, life: u64) -> bool {
        self.lock().stations.get(node).is_some_and(|station| station.life == life)
    }

    fn find(&self, node: &NodeId) -> Option<(u64, Arc<dyn Service>)> {
        let state = self.lock();
        let station = state.stations.get(node)?;
        Some((station.life, station.service.upgrade()?))
    }

    /// One way; never ends where the way is cut.
    async fn travel(&self, from: &NodeId, to: &NodeId, what: &impl Kind) {
        self.awake(from).await;
        let delay = {
            let mut state = self.lock();
            let far = site(from) != site(to);
            let base = if far { FAR } else { NEAR };
            let jitter = base.mul_f64(state.random.random_range(0.0..0.5));
            base + jitter + state.health(from).slow + state.health(to).slow
        };
        sleep(delay).await;
        self.awake(to).await;
        if !self.is_open(from, to) {
            std::future::pending::<()>().await;
        }
        self.history.mix_message(from, to, what.kind());
    }

    /// Tells every node that is awake whom it sees.
    fn look(&self) {
        let mut state = self.lock();
        let now = Instant::now();
        state.ghosts.retain(|_, (until, _)| *until > now);
        let paused = |state: &State, node: &NodeId| {
            let health = state.health.get(node)?;
            health.paused.borrow().then_some(health.paused_at)
        };
        for (me, station) in &state.stations {
            if paused(&state, me).is_some() {
                continue;
            }
            let seen = |node: &NodeId| {
                let silent_since = [state.cuts.get(&(node.clone(), me.clone())).copied(), paused(&state, node)];
                node == me || silent_since.into_iter().flatten().all(|since| now - since < LEASE)
            };
            let alive = state.stations.iter().map(|(node, station)| (node, &station.digest));
            let ghosts = state.ghosts.iter().map(|(node, (_, digest))| (node, digest));
            let members: Members = alive
                .chain(ghosts)
                .filter(|(node, _)| seen(node))
                .map(|(node, digest)| (node.clone(), Arc::clone(digest)))
                .collect();
            station.members.send_if_modified(|known| {
                let same = known.len() == members.len()
                    && known.values().zip(members.values()).all(|(one, other)| Arc::ptr_eq(one, other));
                if !same {
                    *known = Arc::new(members);
                }
                !same
            });
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn health(&mut self, node: &NodeId) -> &mut Health {
        self.health.entry(node.clone()).or_insert_with(|| Health {
            paused: watch::Sender::new(false),
            paused_at: Instant::now(),
            slow: Duration::ZERO,
        })
    }
}

/// A node's site, by its name: everything before the last dash.
fn site(node: &NodeId) -> &str {
    node.as_str().rsplit_once('-').map_or("", |(site, _)| site)
}

/// What the trace calls a message.
trait Kind {
    fn kind(&self) -> &'static str;
}

impl Kind for () {
    fn kind(&self) -> &'static str {
        "reply"
    }
}

impl Kind for Request {
    fn kind(&self) -> &'static str {
        match self {
            Self::Consensus(..) => "consensus",
            Self::Replicate(_) => "replicate",
            Self::Install(_) => "install",
            Self::Fetch(_) => "fetch",
            Self::Publish(_) => "publish",
            Self::Assignments(_) => "assignments",
            Self::Intent(_) => "intent",
        }
    }
}
