//! What only the sessions themselves can show.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::pin::pin;
use std::task::{Context, Waker};
use std::time::Duration;

use littoral_model::id::SiteId;
use littoral_model::wire::VersionRange;
use tokio::sync::watch;
use tokio::time::timeout;

use super::*;
use crate::call::{Call, Incoming, Method};
use crate::identity::Root;
use crate::mesh::Handling;
use crate::sync::{Lock, lock};

const PATIENCE: Duration = Duration::from_secs(60);

/// Answers each request with its payload, and notes whom its sessions see whenever that changes.
struct Station {
    lines: Arc<Lines>,
    seen: Lock<Vec<Vec<RouteId>>>,
    changes: watch::Sender<u64>,
}

#[async_trait]
impl Receiver for Station {
    fn presence_changed(&self) {
        lock(&self.seen).push(self.routes());
        self.changes.send_modify(|changes| *changes += 1);
    }

    async fn receive(self: Arc<Self>, _: Envelope, payload: Bytes) -> Result<Bytes, ReplyError> {
        Ok(payload)
    }

    fn run(&self, _: u8, handling: Handling) -> Option<Handling> {
        Some(handling)
    }
}

impl Station {
    fn routes(&self) -> Vec<RouteId> {
        self.lines.presences().into_iter().map(|presence| presence.route).collect()
    }

    async fn until(&self, is_so: impl Fn(&[RouteId]) -> bool) {
        let mut changes = self.changes.subscribe();
        let changed = changes.wait_for(|_| is_so(&self.routes()));
        timeout(PATIENCE, changed).await.expect("it is never so").unwrap();
    }

    /// Whether another node answers by a way.
    async fn asks(&self, route: RouteId) -> bool {
        let call = Call::new(Method::Ping, Bytes::from_static(b"x"), Priority::Control, PATIENCE, invocation());
        let envelope = Envelope {
            from: NodeId::new("a").unwrap(),
            method: call.method as u8,
            priority: call.priority,
            deadline_ms: 1000,
            invocation: call.invocation,
            trace: None,
        };
        let asked = self.lines.request(route, &envelope, call.payload, Priority::Control, PATIENCE);
        timeout(PATIENCE, asked).await.expect("nobody says anything") == Some(Ok(Bytes::from_static(b"x")))
    }
}

fn digest(node: &NodeId) -> NodeDigest {
    NodeDigest {
        node: node.clone(),
        tier: Tier::Edge,
        site: SiteId::new("hall").unwrap(),
        labels: BTreeMap::new(),
        incarnation: 1,
        sequence: 0,
        protocol: VersionRange::OURS,
        program: "test".to_owned(),
        cores: 1,
        memory_bytes: 1,
        works: 0,
        http: None,
        functions: Vec::new(),
        links: Vec::new(),
        intent: 0,
        situation: Default::default(),
        condition: Default::default(),
    }
}

/// A node's sessions, and where they listen.
async fn station(root: &Root, name: &str, connect: &[String]) -> (Arc<Station>, SocketAddr) {
    let sessions = Sessions::new(root, name);
    let lines = Arc::clone(&sessions.lines);
    let station = Arc::new(Station { lines, seen: Lock::default(), changes: watch::Sender::new(0) });
    let receiver: Arc<dyn Receiver> = Arc::clone(&station) as _;
    let listening = sessions.open(&receiver, connect).await;
    (station, listening)
}

/// A whole node but for its direct lines, its sessions, and where they listen.
async fn whole(root: &Root, name: &str, connect: &[String]) -> (Arc<dyn Mesh>, Arc<Lines>, SocketAddr) {
    let sessions = Sessions::new(root, name);
    let lines = Arc::clone(&sessions.lines);
    let carrier = ZenohCarrier { lines: Arc::clone(&lines), cancel: CancellationToken::new() };
    let agent = Agent::new(sessions.digest.clone(), carrier, Arc::new(Echo), Box::new(invocation));
    let receiver: Arc<dyn Receiver> = Arc::<Agent<ZenohCarrier>>::clone(&agent);
    let listening = sessions.open(&receiver, connect).await;
    tokio::spawn(Arc::clone(&agent).run());
    (Arc::new(Handle(agent)), lines, listening)
}

/// Answers each call with its payload.
struct Echo;

#[async_trait]
impl Service for Echo {
    async fn handle(&self, _: NodeId, call: Incoming) -> Result<Bytes, String> {
        Ok(call.payload)
    }
}

/// Sessions that are to be opened.
struct Sessions {
    settings: Settings,
    digest: NodeDigest,
    direct: Arc<Direct>,
    lines: Arc<Lines>,
}

impl Sessions {
    fn new(root: &Root, name: &str) -> Self {
        let identity = root.identity(&NodeId::new(name).unwrap(), &[]).unwrap();
        let fabric = identity.fabric().unwrap();
        let digest = digest(&identity.node);
        let keys = NodeKeys::new(&fabric, &TenantId::default_tenant(), &digest);
        let cancel = CancellationToken::new();
        let threads = Arc::new(Own(tokio::runtime::Handle::current()));
        let direct = Arc::new(Direct::new(identity.node.clone(), fabric.clone(), threads, cancel.clone()));
        let lines = Arc::new(Lines::new(keys, Arc::clone(&direct), cancel));
        let trusted_pem = identity.root_pem.clone();
        Self { settings: Settings { fabric, identity, trusted_pem, device: false }, digest, direct, lines }
    }

    async fn open(self, receiver: &Arc<dyn Receiver>, connect: &[String]) -> SocketAddr {
        self.lines.attach(&Arc::downgrade(receiver));
        let listen = ["127.0.0.1:0".parse().unwrap()];
        let apart = direct::listen();
        let listening = open_router(&self.lines, &self.settings, &listen, &apart.setting(), connect).await.unwrap();
        tokio::spawn(direct::accept(self.direct, apart));
        tokio::spawn(Arc::clone(&self.lines).watch_neighbours());
        listening[0]
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_declares_itself_anew_is_seen_all_the_while() {
    let root = Root::create().unwrap();
    let (hub, address) = station(&root, "hub", &[]).await;
    let (a, _) = station(&root, "a", &[address.to_string()]).await;
    let (b, _) = station(&root, "b", &[address.to_string()]).await;
    a.until(|routes| routes.len() == 2).await;
    let is_b = |presence: &Presence| presence.node.as_str() == "b";
    let before = a.lines.presences().into_iter().find(is_b).unwrap();
    for _ in 0..3 {
        lock(&a.seen).clear();
        let key = a.lines.call_key(before.route);
        b.lines.declare_anew().await;
        let told = async {
            while a.lines.call_key(before.route) == key {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, told).await.expect("nobody tells");
        // Its way is the same, so that calls under way are not begun again.
        let seen = lock(&a.seen).clone();
        assert!(seen.iter().all(|routes| routes.contains(&before.route)), "{seen:?}");
        assert_eq!(a.lines.presences().into_iter().find(is_b), Some(before.clone()));
        assert!(a.asks(before.route).await);
    }
    // Its session is the same, so that its neighbour knows the link to it.
    let b = NodeId::new("b").unwrap();
    hub.until(|_| hub.lines.is_neighbour(&b)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn declaring_anew_holds_nobody_up_and_is_done_once_at_a_time() {
    let root = Root::create().unwrap();
    let (hub, _) = station(&root, "hub", &[]).await;
    let (release, released) = std::sync::mpsc::sync_channel::<()>(1);
    let (holds, held) = tokio::sync::oneshot::channel();
    let lines = Arc::clone(&hub.lines);
    let holding = std::thread::spawn(move || {
        lines.hold_up(|| {
            holds.send(()).unwrap();
            let _ = released.recv_timeout(PATIENCE);
        });
    });
    held.await.unwrap();
    let (mut first, mut second) = (pin!(hub.lines.declare_anew()), pin!(hub.lines.declare_anew()));
    let mut context = Context::from_waker(Waker::noop());
    assert!(first.as_mut().poll(&mut context).is_pending(), "the task is held up");
    assert!(second.as_mut().poll(&mut context).is_ready(), "one is under way");
    release.send(()).unwrap();
    timeout(PATIENCE, first).await.expect("it is never done");
    holding.join().unwrap();
    assert_eq!(hub.lines.times(0), Some(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_calls_the_network_has_lost_is_called_again() {
    let root = Root::create().unwrap();
    let (_hub, _, address) = whole(&root, "hub", &[]).await;
    let (a, _, _) = whole(&root, "a", &[address.to_string()]).await;
    let (b, lines, _) = whole(&root, "b", &[address.to_string()]).await;
    for (mesh, other) in [(&a, &b), (&b, &a)] {
        let mut members = mesh.members();
        let sees = members.wait_for(|members| members.contains_key(other.node()));
        timeout(PATIENCE, sees).await.expect("it is not seen").unwrap();
    }
    lines.lose_calls(0).unwrap();
    let call = Call::new(Method::Fetch, Bytes::from_static(b"x"), Priority::Data, PATIENCE, a.invocation());
    assert_eq!(a.call(b.node(), call).await, Ok(Bytes::from_static(b"x")));
    assert!(lines.times(0) > Some(0), "it was called by another way");
}
