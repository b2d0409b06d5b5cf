//! What every mesh must do, whatever carries it. Run on the fake under virtual time and on Zenoh over real sockets.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, dead_code, unreachable_pub)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use littoral_mesh::{Call, CallError, Incoming, Members, Mesh, Method, Priority, Service, SubscriptionEnd};
use littoral_model::digest::NodeDigest;
use littoral_model::id::{NodeId, SiteId, Tier};
use littoral_model::wire::VersionRange;
use tokio::sync::Notify;
use tokio::time::timeout;

/// How long anything in a test may take before it counts as failed; not a measurement.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A network to test on. All nodes are linked to the first one.
#[async_trait]
pub trait Fabric: Send {
    async fn start(&mut self, name: &str, incarnation: u64, service: Arc<dyn Service>) -> Arc<dyn Mesh>;
    async fn stop(&mut self, name: &str);
    fn cut(&mut self, name: &str);
    fn heal(&mut self, name: &str);
}

pub fn node(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

pub fn digest(name: &str, tier: Tier, incarnation: u64) -> NodeDigest {
    NodeDigest {
        node: node(name),
        tier,
        site: SiteId::new("hall").unwrap(),
        labels: BTreeMap::new(),
        incarnation,
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
        situation: littoral_model::situation::Situation::default(),
        condition: littoral_model::condition::Condition::default(),
    }
}

/// Answers `Fetch` with its payload, counts `Publish`, fails `Invoke`, never ends `Logs`, holds `Keeper` until told.
#[derive(Default)]
pub struct Echo {
    pub effects: AtomicUsize,
    pub gate: Notify,
}

#[async_trait]
impl Service for Echo {
    async fn handle(&self, from: NodeId, call: Incoming) -> Result<Bytes, String> {
        match call.method {
            Method::Publish => {
                let count = self.effects.fetch_add(1, Ordering::SeqCst) + 1;
                Ok(Bytes::from(format!("{from} {count}")))
            }
            Method::Keeper => {
                self.gate.notified().await;
                let count = self.effects.fetch_add(1, Ordering::SeqCst) + 1;
                Ok(Bytes::from(format!("{from} {count}")))
            }
            Method::Invoke => Err("it trapped".to_owned()),
            Method::Logs => std::future::pending().await,
            _ => Ok(call.payload),
        }
    }
}

pub fn call(mesh: &dyn Mesh, method: Method, payload: impl Into<Bytes>) -> Call {
    Call::new(method, payload.into(), Priority::Data, PATIENCE, mesh.invocation())
}

/// Waits until the members are so.
pub async fn members(mesh: &dyn Mesh, mut is_so: impl FnMut(&Members) -> bool) {
    let mut members = mesh.members();
    let outcome = timeout(PATIENCE, members.wait_for(|members| is_so(members))).await;
    assert!(outcome.is_ok(), "{} still sees {:?}", mesh.node(), members_of(mesh));
}

fn members_of(mesh: &dyn Mesh) -> Vec<NodeId> {
    mesh.members().borrow().keys().cloned().collect()
}

pub async fn sees(mesh: &dyn Mesh, name: &str) {
    let name = node(name);
    members(mesh, |members| members.contains_key(&name)).await;
}

pub async fn misses(mesh: &dyn Mesh, name: &str) {
    let name = node(name);
    members(mesh, |members| !members.contains_key(&name)).await;
}

/// Three nodes that see one another: `hub`, `a` and `b`.
pub async fn three(fabric: &mut dyn Fabric) -> ([Arc<dyn Mesh>; 3], [Arc<Echo>; 3]) {
    let services: [Arc<Echo>; 3] = Default::default();
    let mut nodes = Vec::new();
    for (name, service) in ["hub", "a", "b"].into_iter().zip(&services) {
        nodes.push(fabric.start(name, 1, Arc::<Echo>::clone(service)).await);
    }
    for mesh in &nodes {
        members(&**mesh, |members| members.len() == 3).await;
    }
    (nodes.try_into().ok().unwrap(), services)
}

pub async fn calls_are_answered_and_errors_are_told_apart(fabric: &mut dyn Fabric) {
    let ([hub, a, _b], _) = three(fabric).await;
    let reply = a.call(&node("b"), call(&*a, Method::Fetch, "rows")).await;
    assert_eq!(reply, Ok(Bytes::from("rows")));
    assert_eq!(a.call(&node("a"), call(&*a, Method::Fetch, "own")).await, Ok(Bytes::from("own")));
    assert_eq!(hub.call(&node("a"), call(&*hub, Method::Fetch, "")).await, Ok(Bytes::new()));

    let failed = a.call(&node("b"), call(&*a, Method::Invoke, "x")).await;
    assert_eq!(failed, Err(CallError::Failed("it trapped".to_owned())));

    let mut slow = call(&*a, Method::Logs, "");
    slow.deadline = Duration::from_millis(200);
    let late = a.call(&node("b"), slow).await;
    assert!(matches!(late, Err(CallError::DeadlineExceeded { waited_ms: 200, .. })), "{late:?}");

    let nobody = a.call(&node("nobody"), call(&*a, Method::Fetch, "")).await;
    assert_eq!(nobody, Err(CallError::Unreachable { node: "nobody".to_owned() }));

    let large = vec![0; littoral_mesh::PAYLOAD_BYTES_MAX + 1];
    let refused = a.call(&node("b"), call(&*a, Method::Fetch, large)).await;
    assert!(matches!(refused, Err(CallError::TooLarge { .. })));
}

pub async fn a_repeated_call_has_one_effect(fabric: &mut dyn Fabric) {
    let ([_hub, a, b], [_, _, service]) = three(fabric).await;
    let first = call(&*a, Method::Publish, "x");
    assert_eq!(a.call(&node("b"), first.clone()).await, Ok(Bytes::from("a 1")));
    assert_eq!(a.call(&node("b"), first).await, Ok(Bytes::from("a 1")), "the remembered reply");
    assert_eq!(a.call(&node("b"), call(&*a, Method::Publish, "x")).await, Ok(Bytes::from("a 2")));
    assert_eq!(b.call(&node("b"), call(&*b, Method::Publish, "x")).await, Ok(Bytes::from("b 3")));

    // A repeat while the first one runs joins it.
    let held = call(&*a, Method::Keeper, "y");
    let (to, other) = (node("b"), held.clone());
    let both = async { tokio::join!(a.call(&to, held), a.call(&to, other)) };
    service.gate.notify_one();
    let (one, two) = timeout(PATIENCE, both).await.unwrap();
    assert_eq!(one, Ok(Bytes::from("a 4")));
    assert_eq!(two, one);
    assert_eq!(service.effects.load(Ordering::SeqCst), 4);
}

pub async fn urgent_calls_pass_bulk_ones(fabric: &mut dyn Fabric) {
    let ([_hub, a, _b], _) = three(fabric).await;
    let flood: Vec<_> = (0..8)
        .map(|_| {
            let a = Arc::clone(&a);
            tokio::spawn(async move {
                let mut bulk = call(&*a, Method::Install, vec![7u8; 2 << 20]);
                bulk.priority = Priority::Bulk;
                a.call(&node("hub"), bulk).await.map(|reply| reply.len())
            })
        })
        .collect();
    for _ in 0..5 {
        let mut urgent = call(&*a, Method::Consensus, "vote");
        urgent.priority = Priority::Control;
        assert_eq!(a.call(&node("hub"), urgent).await, Ok(Bytes::from("vote")));
    }
    for bulk in flood {
        assert_eq!(bulk.await.unwrap(), Ok(2 << 20));
    }
}

pub async fn members_come_go_and_return(fabric: &mut dyn Fabric) {
    let ([hub, a, b], _) = three(fabric).await;
    b.close().await;
    assert_eq!(b.call(&node("a"), call(&*b, Method::Fetch, "")).await, Err(CallError::Closed));
    fabric.stop("b").await;
    misses(&*a, "b").await;
    misses(&*hub, "b").await;
    let gone = a.call(&node("b"), call(&*a, Method::Fetch, "")).await;
    assert_eq!(gone, Err(CallError::Unreachable { node: "b".to_owned() }));

    let b = fabric.start("b", 2, Arc::new(Echo::default())).await;
    members(&*a, |members| members.get(&node("b")).is_some_and(|digest| digest.incarnation == 2)).await;
    sees(&*b, "a").await;
    assert_eq!(a.call(&node("b"), call(&*a, Method::Fetch, "back")).await, Ok(Bytes::from("back")));

    fabric.cut("b");
    misses(&*a, "b").await;
    misses(&*b, "a").await;
    sees(&*a, "hub").await;
    fabric.heal("b");
    sees(&*a, "b").await;
    sees(&*b, "a").await;
    assert_eq!(b.call(&node("a"), call(&*b, Method::Fetch, "healed")).await, Ok(Bytes::from("healed")));
}

pub async fn messages_come_in_order_and_a_slow_reader_stalls_only_its_publisher(fabric: &mut dyn Fabric) {
    const MESSAGES: usize = 200;
    let ([hub, a, b], _) = three(fabric).await;
    let mut slow = b.subscribe("lines", 4).await.unwrap();
    let published = Arc::new(AtomicUsize::new(0));
    let publisher = {
        let (a, published) = (Arc::clone(&a), Arc::clone(&published));
        tokio::spawn(async move {
            for number in 0..MESSAGES {
                a.publish("lines", Bytes::from(number.to_string()), Priority::Data).await.unwrap();
                published.fetch_add(1, Ordering::SeqCst);
            }
        })
    };
    let mut got = vec![slow.next().await.unwrap()];
    // The link is free for others while the publisher waits for its reader.
    for _ in 0..20 {
        assert_eq!(a.call(&node("b"), call(&*a, Method::Fetch, "x")).await, Ok(Bytes::from("x")));
    }
    hub.publish("other", Bytes::from("nobody reads this"), Priority::Data).await.unwrap();
    // Read by one, and three queues of four and one in hand can hold the rest.
    assert!(published.load(Ordering::SeqCst) <= 1 + 3 * 4 + 1, "{published:?}");
    while got.len() < MESSAGES {
        got.push(timeout(PATIENCE, slow.next()).await.unwrap().unwrap());
    }
    for (number, message) in got.iter().enumerate() {
        assert_eq!((message.from.as_str(), message.payload.as_ref()), ("a", number.to_string().as_bytes()));
    }
    publisher.await.unwrap();
    drop(slow);

    // Own messages come too, and a publisher that comes later is heard.
    let mut own = a.subscribe("lines", 4).await.unwrap();
    a.publish("lines", Bytes::from("own"), Priority::Data).await.unwrap();
    assert_eq!(timeout(PATIENCE, own.next()).await.unwrap().unwrap().payload, "own");
    let late = fabric.start("late", 1, Arc::new(Echo::default())).await;
    sees(&*late, "a").await;
    late.publish("lines", Bytes::from("late"), Priority::Data).await.unwrap();
    assert_eq!(timeout(PATIENCE, own.next()).await.unwrap().unwrap().payload, "late");
    a.close().await;
    assert_eq!(timeout(PATIENCE, own.next()).await.unwrap(), Err(SubscriptionEnd::Closed));
}

pub async fn large_payloads_arrive_whole(fabric: &mut dyn Fabric) {
    let ([_hub, a, _b], _) = three(fabric).await;
    let payload: Bytes = (0..8 << 20).map(|at: usize| (at % 251) as u8).collect::<Vec<_>>().into();
    let reply = a.call(&node("b"), call(&*a, Method::Artifact, payload.clone())).await.unwrap();
    assert!(reply == payload);
    assert!(a.links().iter().any(|link| link.rtt_us > 0));
}

pub async fn digests_spread(fabric: &mut dyn Fabric) {
    let ([hub, a, b], _) = three(fabric).await;
    for works in [3, 4] {
        let mut changed = digest("a", Tier::Cloud, 99);
        changed.works = works;
        a.announce(changed).await.unwrap();
        for mesh in [&hub, &a, &b] {
            members(&**mesh, |members| {
                members.get(&node("a")).is_some_and(|digest| digest.works == works && digest.incarnation == 1)
            })
            .await;
        }
    }
    a.close().await;
    assert!(a.announce(digest("a", Tier::Edge, 1)).await.is_err());
}
