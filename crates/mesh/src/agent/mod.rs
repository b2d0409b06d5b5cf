//! One node's end of the mesh, over any [`Carrier`]: membership, calls, and what the mesh's own methods do.
//!
//! Membership is level-triggered. The carrier says who is present; the agent says hello to whoever is present and has not
//! exchanged digests yet, or has not seen our latest; it pings members and drops one that has been silent for
//! [`SILENCE_MAX`] although its link may still look alive. Nothing depends on an event that could be missed.

mod greet;
mod handle;
mod outbound;
mod redeclare;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use littoral_model::digest::NodeDigest;
use littoral_model::id::{InvocationId, NodeId};
use littoral_model::wire::VersionRange;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

pub(crate) use self::handle::Handle;
pub use self::outbound::ABSENT_WAIT;
use self::redeclare::Redeclaring;
use crate::carrier::{Carrier, Presence, RouteId};
use crate::inbox::Inbox;
use crate::measure::Link;
use crate::mesh::{Members, Service};
use crate::sync::{Lock, lock};
use crate::topics::Topics;

/// A member that leaves calls unanswered for so long, and is not heard otherwise, is down. With two pings a second
/// its site notices a hung node within about three seconds, and one that is merely slow for two it does not;
/// neighbours notice it a second later, others when they next call it.
pub const SILENCE_MAX: Duration = Duration::from_millis(2500);
/// How often members of the same site are pinged that are not heard otherwise.
const PING_PERIOD: Duration = Duration::from_millis(500);

/// How soon the agent looks at everything again at the earliest, besides when it is told that something changed: what falls
/// due meanwhile is done together.
const LOOK_PAUSE: Duration = Duration::from_millis(250);
/// How late it looks again although nothing falls due.
const LOOK_MAX: Duration = Duration::from_secs(2);
/// Pauses between hellos to a node that does not answer.
const HELLO_PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));
/// How long a hello or ping waits for its answer.
const HELLO_TIMEOUT: Duration = Duration::from_secs(2);
/// The most nodes of which something is kept.
const PEERS_MAX: usize = 4096;

/// What the agent knows of another node.
struct Peer {
    incarnation: u64,
    /// The ways to it, the best first.
    routes: Vec<RouteId>,
    /// The ways as the carrier last named them.
    offered: Vec<RouteId>,
    digest: Option<Arc<NodeDigest>>,
    /// Its sequence as its last pong told; above the digest's when there is a newer digest.
    told: u64,
    /// The sequence of our hello that it has.
    knows: u64,
    heard: Instant,
    /// Since when it leaves calls unanswered, if it was not heard since.
    doubted: Option<Instant>,
    silent: bool,
    /// Since when the carrier does not tell of it although it is heard, or when that one was last told so.
    unseen: Option<Instant>,
    /// Since when the network finds nobody who answers there although the carrier tells of it, or when that one was last told so.
    unreached: Option<Instant>,
    refused: Option<VersionRange>,
    busy: bool,
    next: Instant,
    pinged: Instant,
    pause: Duration,
    link: Link,
}

impl Peer {
    fn new(now: Instant) -> Self {
        Self {
            incarnation: 0,
            routes: Vec::new(),
            offered: Vec::new(),
            digest: None,
            told: 0,
            knows: 0,
            heard: now,
            doubted: None,
            silent: false,
            unseen: None,
            unreached: None,
            refused: None,
            busy: false,
            next: now,
            pinged: now,
            pause: HELLO_PAUSE.0,
            link: Link::default(),
        }
    }

    fn member(&self) -> Option<&Arc<NodeDigest>> {
        let digest = self.digest.as_ref()?;
        let present = !self.routes.is_empty() && digest.incarnation == self.incarnation;
        (present && !self.silent && self.refused.is_none()).then_some(digest)
    }

    /// Notes a sign of life.
    fn hear(&mut self, now: Instant) {
        self.heard = now;
        self.doubted = None;
    }

    /// Notes that a call that was sent then was not answered.
    fn doubt(&mut self, sent: Instant) {
        // What was heard after it was sent says no more than that it was there then.
        self.doubted.get_or_insert(self.heard.max(sent));
    }

    /// Notes that what was sent then by the first way was not answered: another may lead there.
    fn miss(&mut self, sent: Instant) {
        self.doubt(sent);
        if !self.routes.is_empty() {
            self.routes.rotate_left(1);
        }
    }
}

/// Makes invocation ids and incarnations: the time and random bits, injected so that the fake is repeatable.
pub(crate) type Invocations = Box<dyn Fn() -> InvocationId + Send + Sync>;

pub(crate) struct Agent<C> {
    me: NodeId,
    carrier: C,
    inbox: Arc<Inbox>,
    topics: Arc<Topics>,
    ours: Lock<Arc<NodeDigest>>,
    peers: Lock<HashMap<NodeId, Peer>>,
    /// The nodes that are shut out, and whether it was said that one still tries.
    refused: Lock<HashMap<NodeId, bool>>,
    members: watch::Sender<Arc<Members>>,
    /// Bumped when routes change, so that calls on a lost route move on.
    routes: watch::Sender<u64>,
    wake: Notify,
    redeclaring: Lock<Redeclaring>,
    invocations: Invocations,
    cancel: CancellationToken,
}

impl<C: Carrier> Agent<C> {
    /// Makes the agent; [`Agent::run`] must be spawned, and the carrier told to hand it what arrives.
    pub(crate) fn new(
        digest: NodeDigest,
        carrier: C,
        service: Arc<dyn Service>,
        invocations: Invocations,
    ) -> Arc<Self> {
        let cancel = CancellationToken::new();
        let me = digest.node.clone();
        let members = Arc::new(BTreeMap::from([(me.clone(), Arc::new(digest.clone()))]));
        Arc::new(Self {
            carrier,
            inbox: Arc::new(Inbox::new(service)),
            topics: Arc::new(Topics::new(me.clone(), cancel.child_token())),
            ours: Lock::new(Arc::new(NodeDigest { sequence: 1, ..digest })),
            peers: Lock::default(),
            refused: Lock::default(),
            members: watch::Sender::new(members),
            routes: watch::Sender::new(0),
            wake: Notify::new(),
            redeclaring: Lock::default(),
            invocations,
            cancel,
            me,
        })
    }

    /// Keeps membership until the mesh is closed.
    pub(crate) async fn run(self: Arc<Self>) {
        let mut look = Instant::now();
        loop {
            tokio::select! {
                () = sleep_until(look) => {}
                () = self.wake.notified() => {}
                () = self.cancel.cancelled() => return,
            }
            self.reconcile();
            let next = self.talk();
            let now = Instant::now();
            look = next.clamp(now + LOOK_PAUSE, now + LOOK_MAX);
        }
    }

    /// Brings the peers in line with who is present, and the members in line with the peers.
    fn reconcile(&self) {
        let now = Instant::now();
        let mut present: HashMap<NodeId, Vec<Presence>> = HashMap::new();
        let refused = lock(&self.refused).clone();
        for presence in self.carrier.presences() {
            if presence.node != self.me && !refused.contains_key(&presence.node) {
                present.entry(presence.node.clone()).or_default().push(presence);
            }
        }
        let mut gone = Vec::new();
        let mut routes_changed = false;
        let mut peers = lock(&self.peers);
        for (node, presences) in &present {
            if peers.len() >= PEERS_MAX && !peers.contains_key(node) {
                tracing::warn!(%node, "more than {PEERS_MAX} nodes are present: this one is ignored");
                continue;
            }
            let peer = peers.entry(node.clone()).or_insert_with(|| Peer::new(now));
            routes_changed |= arrive(peer, presences, now);
        }
        for (node, peer) in &mut *peers {
            if !present.contains_key(node) && !peer.routes.is_empty() {
                peer.routes.clear();
                peer.offered.clear();
                peer.unseen = Some(now);
                peer.knows = 0;
                routes_changed = true;
            }
            let doubted = peer.doubted.is_some_and(|since| now.duration_since(since) > SILENCE_MAX);
            if doubted && peer.member().is_some() {
                tracing::warn!(%node, "silent for {SILENCE_MAX:?} though its link is up: it counts as down");
                peer.silent = true;
                peer.next = now;
            }
        }
        let mut members = BTreeMap::from([(self.me.clone(), lock(&self.ours).clone())]);
        members.extend(peers.iter().filter_map(|(node, peer)| Some((node.clone(), Arc::clone(peer.member()?)))));
        // Nodes that left long ago are forgotten, so that names that come and go do not pile up.
        peers.retain(|_, peer| !peer.routes.is_empty() || now.duration_since(peer.heard) < Duration::from_secs(600));
        drop(peers);
        self.members.send_if_modified(|current| {
            gone.extend(current.keys().filter(|node| !members.contains_key(*node)).cloned());
            let joined = members.keys().filter(|node| !current.contains_key(*node)).count();
            let changed = **current != members;
            if !gone.is_empty() || joined > 0 {
                tracing::info!(members = members.len(), joined, left = ?gone, "the membership has changed");
            }
            if changed {
                *current = Arc::new(members);
            }
            changed
        });
        for node in gone {
            self.topics.gone(&node);
            // Should it be back already, a new hello brings its wishes again.
            if let Some(peer) = lock(&self.peers).get_mut(&node) {
                peer.knows = 0;
            }
        }
        if routes_changed {
            self.routes.send_modify(|generation| *generation += 1);
        }
    }
}

/// Notes how a present node is present now; whether its ways have changed.
fn arrive(peer: &mut Peer, presences: &[Presence], now: Instant) -> bool {
    let incarnation = presences.iter().map(|presence| presence.incarnation).max().unwrap_or(0);
    let newest = || presences.iter().filter(|presence| presence.incarnation == incarnation);
    if incarnation != peer.incarnation || peer.routes.is_empty() {
        if incarnation != peer.incarnation {
            peer.knows = 0;
            peer.told = 0;
            peer.refused = None;
        }
        peer.incarnation = incarnation;
        peer.hear(now);
        peer.silent = false;
        peer.unseen = None;
        peer.unreached = None;
        peer.pause = HELLO_PAUSE.0;
        peer.next = now;
    }
    // The order is the carrier's, until a way fails and is put last; a new offer starts afresh.
    let offered: Vec<RouteId> = newest().map(|presence| presence.route).collect();
    let changed = offered != peer.offered;
    if changed {
        peer.routes.clone_from(&offered);
        peer.offered = offered;
    }
    changed
}
