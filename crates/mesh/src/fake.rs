//! A network in memory, under tokio's clock (virtual in tests with `start_paused`): latency, lost messages under a seed,
//! cuts, hangs and crashes. It carries the same [`Mesh`] as Zenoh does. For tests only.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use littoral_model::digest::NodeDigest;
use littoral_model::id::{InvocationId, NodeId};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::time::{Instant, sleep};

use crate::agent::{Agent, Handle};
use crate::call::Priority;
use crate::carrier::{Carrier, Presence, Receiver, RouteId};
use crate::frame::{Envelope, ReplyError};
use crate::mesh::{Mesh, Service};
use crate::sync::{Lock, lock};

/// How long a cut goes unnoticed, as with a link's lease.
const LEASE: Duration = Duration::from_secs(2);

struct Station {
    incarnation: u64,
    route: RouteId,
    receiver: Option<Weak<dyn Receiver>>,
}

struct State {
    stations: BTreeMap<NodeId, Station>,
    cuts: HashMap<(NodeId, NodeId), Instant>,
    hung: HashSet<NodeId>,
    /// Who does not see whom, until that one declares itself anew.
    overlooked: HashSet<(NodeId, NodeId)>,
    /// Who finds nobody where whom is, until that one declares itself anew.
    unfound: HashSet<(NodeId, NodeId)>,
    latency: Duration,
    loss: f64,
    routes: RouteId,
    random: StdRng,
}

/// The network. Clones are the same network.
#[derive(Clone)]
pub struct Net(Arc<Lock<State>>);

fn pair(a: &NodeId, b: &NodeId) -> (NodeId, NodeId) {
    if a < b { (a.clone(), b.clone()) } else { (b.clone(), a.clone()) }
}

impl Net {
    /// A network without latency and loss, with its own random numbers.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Lock::new(State {
            stations: BTreeMap::new(),
            cuts: HashMap::new(),
            hung: HashSet::new(),
            overlooked: HashSet::new(),
            unfound: HashSet::new(),
            latency: Duration::ZERO,
            loss: 0.0,
            routes: 0,
            random: StdRng::seed_from_u64(seed),
        })))
    }

    /// Adds a node; one that was there under that name is crashed first. Must be called within a tokio runtime.
    #[must_use]
    pub fn join(&self, digest: NodeDigest, service: Arc<dyn Service>) -> Arc<dyn Mesh> {
        let me = digest.node.clone();
        self.crash(&me);
        let incarnation = digest.incarnation;
        let seed = lock(&self.0).random.random();
        let invocations = invocations(seed);
        let agent = Agent::new(digest, Port { net: self.clone(), me: me.clone() }, service, invocations);
        let as_receiver: Arc<dyn Receiver> = Arc::<Agent<Port>>::clone(&agent);
        {
            let mut state = lock(&self.0);
            state.routes += 1;
            let route = state.routes;
            state.stations.insert(me, Station { incarnation, route, receiver: Some(Arc::downgrade(&as_receiver)) });
        }
        tokio::spawn(Arc::clone(&agent).run());
        self.notify();
        Arc::new(Handle(agent))
    }

    /// Takes a node off at once: calls to it find nobody.
    pub fn crash(&self, node: &NodeId) {
        {
            let mut state = lock(&self.0);
            state.stations.remove(node);
            state.hung.remove(node);
        }
        self.notify();
    }

    /// Nothing passes between two nodes any more; they notice after a lease.
    pub fn cut(&self, a: &NodeId, b: &NodeId) {
        lock(&self.0).cuts.insert(pair(a, b), Instant::now());
        let net = self.clone();
        tokio::spawn(async move {
            sleep(LEASE).await;
            net.notify();
        });
    }

    /// Ends a cut.
    pub fn heal(&self, a: &NodeId, b: &NodeId) {
        lock(&self.0).cuts.remove(&pair(a, b));
        self.notify();
    }

    /// A node stays present but answers nothing, like a stopped process whose links are held by its machine.
    pub fn hang(&self, node: &NodeId) {
        lock(&self.0).hung.insert(node.clone());
    }

    /// Ends a hang.
    pub fn wake(&self, node: &NodeId) {
        lock(&self.0).hung.remove(node);
    }

    /// The network forgets to tell a node of another one, until that one declares itself anew.
    pub fn overlook(&self, by: &NodeId, node: &NodeId) {
        lock(&self.0).overlooked.insert((by.clone(), node.clone()));
        self.notify();
    }

    /// The network tells a node of another one as ever, but finds nobody there, until that one declares itself anew.
    pub fn lose_way(&self, from: &NodeId, to: &NodeId) {
        lock(&self.0).unfound.insert((from.clone(), to.clone()));
    }

    /// Sets the time that a message takes one way, between any two nodes.
    pub fn set_latency(&self, latency: Duration) {
        lock(&self.0).latency = latency;
    }

    /// Sets the share of messages that are lost; the caller is then told at once that there was nobody.
    pub fn set_loss(&self, loss: f64) {
        lock(&self.0).loss = loss.clamp(0.0, 1.0);
    }

    fn notify(&self) {
        let receivers: Vec<_> =
            lock(&self.0).stations.values().filter_map(|station| station.receiver.clone()).collect();
        for receiver in receivers.iter().filter_map(Weak::upgrade) {
            receiver.presence_changed();
        }
    }

    /// Moves a message one way. False when it is lost; never ends when the two are cut off or one of them hangs.
    async fn travel(&self, from: &NodeId, to: &NodeId) -> bool {
        let (latency, lost) = {
            let mut state = lock(&self.0);
            let loss = state.loss;
            (state.latency, loss > 0.0 && state.random.random_bool(loss))
        };
        if !latency.is_zero() {
            sleep(latency).await;
        }
        let stuck = {
            let state = lock(&self.0);
            state.cuts.contains_key(&pair(from, to)) || state.hung.contains(to) || state.hung.contains(from)
        };
        if stuck {
            std::future::pending::<()>().await;
        }
        !lost
    }
}

/// Invocation ids from a seed.
fn invocations(seed: u64) -> crate::agent::Invocations {
    let random = Lock::new(StdRng::seed_from_u64(seed));
    Box::new(move || InvocationId::from_parts(0, lock(&random).random()))
}

/// One node's access to the network.
struct Port {
    net: Net,
    me: NodeId,
}

#[async_trait]
impl Carrier for Port {
    fn presences(&self) -> Vec<Presence> {
        let state = lock(&self.net.0);
        let visible = |node: &NodeId| state.cuts.get(&pair(&self.me, node)).is_none_or(|since| since.elapsed() < LEASE);
        // One that was crashed or closed is off the network itself.
        if !state.stations.contains_key(&self.me) {
            return Vec::new();
        }
        state
            .stations
            .iter()
            .filter(|(node, _)| visible(node) && !state.overlooked.contains(&(self.me.clone(), (*node).clone())))
            .map(|(node, s)| Presence { node: node.clone(), incarnation: s.incarnation, route: s.route })
            .collect()
    }

    async fn request(
        &self,
        route: RouteId,
        envelope: &Envelope,
        payload: Bytes,
        _priority: Priority,
        _timeout: Duration,
    ) -> Option<Result<Bytes, ReplyError>> {
        let find = || {
            let state = lock(&self.net.0);
            let (node, station) = state.stations.iter().find(|(_, station)| station.route == route)?;
            state.stations.get(&self.me)?;
            if state.unfound.contains(&(self.me.clone(), node.clone())) {
                return None;
            }
            Some((node.clone(), station.receiver.as_ref()?.upgrade()?))
        };
        let (to, _) = find()?;
        if !self.net.travel(&self.me, &to).await {
            return None;
        }
        // It may have crashed meanwhile.
        let (_, receiver) = find()?;
        let envelope = envelope.clone();
        // In a task of its own: the receiver goes on when the caller gives up.
        let reply = tokio::spawn(receiver.receive(envelope, payload)).await.ok()?;
        if !self.net.travel(&to, &self.me).await {
            return None;
        }
        find()?;
        Some(reply)
    }

    fn is_neighbour(&self, _node: &NodeId) -> bool {
        true
    }

    async fn declare_anew(&self) {
        {
            let mut state = lock(&self.net.0);
            state.overlooked.retain(|(_, node)| *node != self.me);
            state.unfound.retain(|(_, node)| *node != self.me);
        }
        self.net.notify();
    }

    async fn close(&self) {
        self.net.crash(&self.me);
    }
}
