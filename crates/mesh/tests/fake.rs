//! The contract on the fake, under virtual time, and what only a fake can show.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod contract;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use contract::{Echo, Fabric, call, digest, members, misses, node, sees, three};
use littoral_mesh::fake::Net;
use littoral_mesh::{CallError, Mesh, Method, Priority, SILENCE_MAX, Service, SubscriptionEnd};
use littoral_model::id::Tier;
use littoral_model::wire::VersionRange;
use tokio::time::Instant;

struct Fake {
    net: Net,
    names: Vec<String>,
}

impl Fake {
    fn new() -> Self {
        let net = Net::new(1);
        net.set_latency(Duration::from_millis(1));
        Self { net, names: Vec::new() }
    }
}

#[async_trait]
impl Fabric for Fake {
    async fn start(&mut self, name: &str, incarnation: u64, service: Arc<dyn Service>) -> Arc<dyn Mesh> {
        self.names.push(name.to_owned());
        self.net.join(digest(name, Tier::Edge, incarnation), service)
    }

    async fn stop(&mut self, name: &str) {
        self.net.crash(&node(name));
    }

    fn cut(&mut self, name: &str) {
        for other in self.names.iter().filter(|other| *other != name) {
            self.net.cut(&node(name), &node(other));
        }
    }

    fn heal(&mut self, name: &str) {
        for other in &self.names {
            self.net.heal(&node(name), &node(other));
        }
    }
}

macro_rules! contract {
    ($($name:ident)*) => {$(
        #[tokio::test(start_paused = true)]
        async fn $name() {
            contract::$name(&mut Fake::new()).await;
        }
    )*};
}

contract! {
    calls_are_answered_and_errors_are_told_apart
    a_repeated_call_has_one_effect
    urgent_calls_pass_bulk_ones
    members_come_go_and_return
    messages_come_in_order_and_a_slow_reader_stalls_only_its_publisher
    large_payloads_arrive_whole
    digests_spread
}

#[tokio::test(start_paused = true)]
async fn a_hung_node_is_down_within_three_seconds_and_comes_back() {
    let mut fake = Fake::new();
    let ([_hub, a, b], _) = three(&mut fake).await;
    fake.net.hang(&node("b"));
    let since = Instant::now();
    let waiting = a.call(&node("b"), call(&*a, Method::Fetch, "x")).await;
    assert_eq!(waiting, Err(CallError::Unreachable { node: "b".to_owned() }));
    misses(&*a, "b").await;
    misses(&*b, "a").await;
    let noticed = since.elapsed();
    assert!(noticed >= SILENCE_MAX - Duration::from_secs(1) && noticed < Duration::from_secs(4), "{noticed:?}");
    fake.net.wake(&node("b"));
    sees(&*a, "b").await;
    sees(&*b, "a").await;
}

#[tokio::test(start_paused = true)]
async fn a_node_that_the_network_forgot_to_tell_of_is_told_of_again() {
    let mut fake = Fake::new();
    let ([hub, a, b], _) = three(&mut fake).await;
    // As after a pause: all see one another again, but for one who is not told of another.
    fake.net.overlook(&node("a"), &node("b"));
    misses(&*a, "b").await;
    let disturbed = hub.members();
    sees(&*b, "a").await;
    sees(&*a, "b").await;
    assert!(disturbed.borrow().contains_key(&node("b")));
    let reply = a.call(&node("b"), call(&*a, Method::Fetch, "x")).await;
    assert_eq!(reply, Ok(Bytes::from("x")));
    // Those who saw it all the while were not disturbed, and it is so again the next time.
    sees(&*hub, "b").await;
    fake.net.overlook(&node("hub"), &node("b"));
    fake.net.overlook(&node("a"), &node("b"));
    misses(&*hub, "b").await;
    sees(&*hub, "b").await;
    sees(&*a, "b").await;
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_seen_and_heard_but_not_reached_is_reached_again() {
    let mut fake = Fake::new();
    let ([hub, a, b], _) = three(&mut fake).await;
    for from in [&a, &hub] {
        // What answers its calls is lost on the way there, what tells of it is not.
        fake.net.lose_way(from.node(), b.node());
        let reply = from.call(b.node(), call(&**from, Method::Fetch, "x")).await;
        assert_eq!(reply, Ok(Bytes::from("x")));
    }
    // Also where nobody calls.
    fake.net.lose_way(a.node(), b.node());
    tokio::time::sleep(Duration::from_secs(30)).await;
    let mut soon = call(&*a, Method::Fetch, "x");
    soon.deadline = Duration::from_secs(1);
    assert_eq!(a.call(b.node(), soon).await, Ok(Bytes::from("x")));
}

#[tokio::test(start_paused = true)]
async fn a_silent_member_leaves_within_three_seconds_of_virtual_time() {
    let mut fake = Fake::new();
    let ([_hub, a, _b], _) = three(&mut fake).await;
    fake.net.hang(&node("b"));
    let since = Instant::now();
    misses(&*a, "b").await;
    assert!(since.elapsed() < Duration::from_secs(3), "{:?}", since.elapsed());
}

#[tokio::test(start_paused = true)]
async fn lost_messages_are_repeated_and_take_effect_once() {
    let mut fake = Fake::new();
    let ([_hub, a, _b], [_, _, service]) = three(&mut fake).await;
    fake.net.set_loss(0.3);
    for expected in 1..=100 {
        let reply = a.call(&node("b"), call(&*a, Method::Publish, "x")).await.unwrap();
        assert_eq!(reply, Bytes::from(format!("a {expected}")));
    }
    assert_eq!(service.effects.load(Ordering::SeqCst), 100);
}

#[tokio::test(start_paused = true)]
async fn lost_messages_of_a_topic_are_repeated_in_order() {
    let mut fake = Fake::new();
    let ([_hub, a, b], _) = three(&mut fake).await;
    let mut reader = b.subscribe("lines", 16).await.unwrap();
    fake.net.set_loss(0.3);
    let publisher = tokio::spawn(async move {
        for number in 0..300 {
            a.publish("lines", Bytes::from(number.to_string()), Priority::Data).await.unwrap();
        }
        a
    });
    for number in 0..300 {
        assert_eq!(reader.next().await.unwrap().payload, Bytes::from(number.to_string()));
    }
    publisher.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_takes_nothing_is_dropped_and_told() {
    let mut fake = Fake::new();
    let ([_hub, a, b], _) = three(&mut fake).await;
    let mut reader = b.subscribe("lines", 2).await.unwrap();
    for number in 0..50 {
        a.publish("lines", Bytes::from(number.to_string()), Priority::Data).await.unwrap();
    }
    let mut got = 0;
    let end = loop {
        match reader.next().await {
            Ok(message) => assert_eq!(message.payload, Bytes::from(got.to_string())),
            Err(end) => break end,
        }
        got += 1;
    };
    assert_eq!(end, SubscriptionEnd::TooSlow(node("a")));
    assert!((2..50).contains(&got), "{got}");
    // It can subscribe again.
    let mut again = b.subscribe("lines", 2).await.unwrap();
    a.publish("lines", Bytes::from("again"), Priority::Data).await.unwrap();
    assert_eq!(again.next().await.unwrap().payload, "again");
}

#[tokio::test(start_paused = true)]
async fn a_node_of_another_protocol_is_refused_and_told() {
    let mut fake = Fake::new();
    let hub = fake.start("hub", 1, Arc::new(Echo::default())).await;
    let mut future = digest("future", Tier::Edge, 1);
    future.protocol = VersionRange { min: 8, max: 9 };
    let future = fake.net.join(future, Arc::new(Echo::default()));
    let other = fake.start("other", 1, Arc::new(Echo::default())).await;
    sees(&*hub, "other").await;
    sees(&*other, "hub").await;
    let mut refused = None;
    for _ in 0..100 {
        match hub.call(&node("future"), call(&*hub, Method::Fetch, "")).await {
            Err(CallError::Version { theirs, .. }) => {
                refused = Some(theirs);
                break;
            }
            other => assert!(matches!(other, Err(CallError::Unreachable { .. })), "{other:?}"),
        }
    }
    assert_eq!(refused, Some(VersionRange { min: 8, max: 9 }));
    members(&*hub, |members| members.len() == 2).await;
    let theirs = future.call(&node("hub"), call(&*future, Method::Fetch, "")).await;
    assert!(matches!(theirs, Err(CallError::Version { theirs, .. }) if theirs == VersionRange::OURS), "{theirs:?}");
}

#[tokio::test(start_paused = true)]
async fn a_wiped_node_that_counts_its_starts_anew_is_a_member_again() {
    let mut fake = Fake::new();
    let hub = fake.start("hub", 5, Arc::new(Echo::default())).await;
    let _first = fake.start("a", 7, Arc::new(Echo::default())).await;
    sees(&*hub, "a").await;
    fake.stop("a").await;
    misses(&*hub, "a").await;
    let again = fake.start("a", 1, Arc::new(Echo::default())).await;
    members(&*hub, |members| members.get(&node("a")).is_some_and(|digest| digest.incarnation == 1)).await;
    sees(&*again, "hub").await;
}
