//! Publish and subscribe with credits.
//!
//! A subscriber's wishes travel in its hello. A publisher keeps one bounded queue per subscription and one task that
//! moves it, a batch per call, one call at a time: so messages stay in order, a repeat is dropped by its invocation id, and the
//! reply (how many found room) is the credit. A slow reader fills its own queue, then the publisher's, then makes
//! [`Topics::publish`] wait; nothing stands in the link.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use littoral_model::id::{InvocationId, NodeId};
use littoral_model::wire::{decode, encode};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::call::{Call, CallError, Method, Priority};
use crate::frame::{Deliver, Delivered, ReplyError, Wanted};
use crate::mesh::{MeshError, Message, SubscriptionEnd};
use crate::sync::{Lock, lock};

/// How long a publisher waits for a subscriber that takes nothing before it drops it. Longer than a link takes to fail
/// over, shorter than anybody likes to wait.
pub const PUBLISH_WAIT_MAX: Duration = Duration::from_secs(10);
/// The largest message of a topic: topics carry lines and notices, not files.
pub const MESSAGE_BYTES_MAX: usize = 1 << 20;
/// The most messages that wait for one subscription, on either side.
pub const CREDIT_MAX: usize = 1024;
/// The most subscriptions of one node; each costs every publisher a queue.
pub const SUBSCRIPTIONS_MAX: usize = 256;

/// Bytes of messages per delivery, so that a batch stays well below a call's bound and shares the link.
const BATCH_BYTES: usize = 256 << 10;
/// How long a delivery waits at the subscriber for room; the publisher then asks again.
const ROOM_WAIT: Duration = Duration::from_secs(2);
/// How long a publisher waits for the answer to a delivery.
const DELIVER_DEADLINE: Duration = Duration::from_secs(6);

/// How long a publisher pauses after a delivery that failed.
const RETRY_PAUSE: Duration = Duration::from_millis(50);
/// Why a delivery is refused whose subscription has ended.
const NO_SUBSCRIPTION: &str = "it has no such subscription";

/// Makes the calls that topics need.
#[async_trait]
pub(crate) trait Deliverer: Send + Sync + 'static {
    /// Makes one call, repeating it until its deadline.
    async fn deliver(&self, to: &NodeId, call: Call) -> Result<Bytes, CallError>;

    /// A new invocation id.
    fn invocation(&self) -> InvocationId;
}

/// A subscription of this node.
struct Inlet {
    topic: String,
    credit: u32,
    queue: mpsc::Sender<Result<Message, SubscriptionEnd>>,
}

/// A subscription of another node, as its publisher.
#[derive(Clone)]
struct Outlet {
    node: NodeId,
    id: u64,
    queue: mpsc::Sender<(Bytes, Priority)>,
    cancel: CancellationToken,
}

#[derive(Default)]
struct State {
    next: u64,
    inlets: HashMap<u64, Inlet>,
    /// By topic.
    outlets: HashMap<String, Vec<Outlet>>,
    /// Given up for being slow; forgotten when the subscriber no longer wants them.
    dropped: HashSet<(NodeId, u64)>,
}

/// What this node subscribes to and what others want of it.
pub(crate) struct Topics {
    me: NodeId,
    state: Lock<State>,
    cancel: CancellationToken,
}

impl Topics {
    pub(crate) fn new(me: NodeId, cancel: CancellationToken) -> Self {
        Self { me, state: Lock::default(), cancel }
    }

    /// Opens a subscription; its number and its messages.
    pub(crate) fn subscribe(
        &self,
        topic: &str,
        credit: usize,
    ) -> Result<(u64, mpsc::Receiver<Result<Message, SubscriptionEnd>>), MeshError> {
        let mut state = lock(&self.state);
        if state.inlets.len() >= SUBSCRIPTIONS_MAX {
            return Err(MeshError::Bound {
                what: "one more subscription".to_owned(),
                bound: SUBSCRIPTIONS_MAX,
                remedy: "end one first",
            });
        }
        let credit = credit.clamp(1, CREDIT_MAX);
        let (queue, messages) = mpsc::channel(credit);
        state.next += 1;
        let id = state.next;
        let credit = u32::try_from(credit).unwrap_or(u32::MAX);
        state.inlets.insert(id, Inlet { topic: topic.to_owned(), credit, queue });
        Ok((id, messages))
    }

    /// Ends a subscription of this node.
    pub(crate) fn unsubscribe(&self, id: u64) {
        lock(&self.state).inlets.remove(&id);
    }

    /// What this node wants, for its hello.
    pub(crate) fn wanted(&self) -> Vec<Wanted> {
        let state = lock(&self.state);
        let mut wanted: Vec<_> = state
            .inlets
            .iter()
            .map(|(id, inlet)| Wanted { id: *id, topic: inlet.topic.clone(), credit: inlet.credit })
            .collect();
        wanted.sort_by_key(|wanted| wanted.id);
        wanted
    }

    /// Takes note of what another node wants.
    pub(crate) fn want<D: Deliverer>(self: &Arc<Self>, node: &NodeId, wanted: &[Wanted], deliverer: &Arc<D>) {
        let wanted: HashMap<u64, &Wanted> =
            wanted.iter().take(SUBSCRIPTIONS_MAX).map(|wanted| (wanted.id, wanted)).collect();
        let mut state = lock(&self.state);
        state.dropped.retain(|(who, id)| who != node || wanted.contains_key(id));
        for outlets in state.outlets.values_mut() {
            outlets.retain(|outlet| {
                let keep = outlet.node != *node || wanted.contains_key(&outlet.id);
                if !keep {
                    outlet.cancel.cancel();
                }
                keep
            });
        }
        state.outlets.retain(|_, outlets| !outlets.is_empty());
        for wanted in wanted.values() {
            let known = state
                .outlets
                .get(&wanted.topic)
                .is_some_and(|outlets| outlets.iter().any(|o| o.node == *node && o.id == wanted.id));
            if known || state.dropped.contains(&(node.clone(), wanted.id)) {
                continue;
            }
            let credit = (wanted.credit as usize).clamp(1, CREDIT_MAX);
            let (queue, waiting) = mpsc::channel(credit);
            let outlet = Outlet { node: node.clone(), id: wanted.id, queue, cancel: self.cancel.child_token() };
            state.outlets.entry(wanted.topic.clone()).or_default().push(outlet.clone());
            tokio::spawn(Arc::clone(self).feed(outlet, waiting, Arc::clone(deliverer)));
        }
    }

    /// Forgets what a node wanted that is no longer there.
    pub(crate) fn gone(&self, node: &NodeId) {
        let mut state = lock(&self.state);
        state.dropped.retain(|(who, _)| who != node);
        for outlets in state.outlets.values_mut() {
            for outlet in outlets.iter().filter(|outlet| outlet.node == *node) {
                outlet.cancel.cancel();
            }
            outlets.retain(|outlet| outlet.node != *node);
        }
        state.outlets.retain(|_, outlets| !outlets.is_empty());
    }

    /// Ends everything.
    pub(crate) fn close(&self) {
        let mut state = lock(&self.state);
        state.inlets.clear();
        state.outlets.clear();
    }

    /// Puts a message into the queue of every subscription of the topic, waiting for room in each.
    pub(crate) async fn publish(&self, topic: &str, payload: Bytes, priority: Priority) -> Result<(), MeshError> {
        if payload.len() > MESSAGE_BYTES_MAX {
            return Err(MeshError::Bound {
                what: format!("a message of {} bytes", payload.len()),
                bound: MESSAGE_BYTES_MAX,
                remedy: "publish smaller messages, or send a call",
            });
        }
        let (outlets, own) = {
            let state = lock(&self.state);
            let own: Vec<_> = state
                .inlets
                .iter()
                .filter(|(_, inlet)| inlet.topic == topic)
                .map(|(id, inlet)| (*id, inlet.queue.clone()))
                .collect();
            (state.outlets.get(topic).cloned().unwrap_or_default(), own)
        };
        for (id, queue) in own {
            let message = Message { from: self.me.clone(), payload: payload.clone() };
            if timeout(PUBLISH_WAIT_MAX, queue.send(Ok(message))).await.is_err() {
                self.end_inlet(id, &self.me);
            }
        }
        for outlet in outlets {
            let sent = tokio::select! {
                sent = timeout(PUBLISH_WAIT_MAX, outlet.queue.send((payload.clone(), priority))) => sent.is_ok(),
                () = outlet.cancel.cancelled() => true,
            };
            if !sent {
                self.drop_slow(&outlet, topic);
            }
        }
        Ok(())
    }

    /// Gives up a subscription whose queue has not moved. Its feeding task ends and tells the subscriber.
    fn drop_slow(&self, outlet: &Outlet, topic: &str) {
        let mut state = lock(&self.state);
        let Some(outlets) = state.outlets.get_mut(topic) else { return };
        let before = outlets.len();
        outlets.retain(|other| other.node != outlet.node || other.id != outlet.id);
        if outlets.len() < before {
            tracing::warn!(node = %outlet.node, topic, "a subscriber took nothing for {PUBLISH_WAIT_MAX:?} and loses its subscription");
            state.dropped.insert((outlet.node.clone(), outlet.id));
            outlet.cancel.cancel();
        }
    }

    /// Moves an outlet's messages to its subscriber, until the outlet is cancelled.
    async fn feed<D: Deliverer>(
        self: Arc<Self>,
        outlet: Outlet,
        mut waiting: mpsc::Receiver<(Bytes, Priority)>,
        deliverer: Arc<D>,
    ) {
        let cancel = outlet.cancel.clone();
        let mut left: Vec<Bytes> = Vec::new();
        let mut priority = Priority::Data;
        'feed: loop {
            if left.is_empty() {
                let first = tokio::select! { first = waiting.recv() => first, () = cancel.cancelled() => None };
                let Some((message, urgency)) = first else { break };
                left.push(message);
                priority = urgency;
            }
            while left.len() < outlet.queue.max_capacity() && left.iter().map(Bytes::len).sum::<usize>() < BATCH_BYTES {
                let Ok((message, _)) = waiting.try_recv() else { break };
                left.push(message);
            }
            let delivery = Deliver { id: outlet.id, messages: left.clone(), dropped: false };
            // The same id until there is an answer: a delivery whose answer was lost must not be taken twice.
            let invocation = deliverer.invocation();
            let taken = loop {
                let sent = send(&*deliverer, &outlet.node, &delivery, priority, invocation);
                let sent = tokio::select! { sent = sent => sent, () = cancel.cancelled() => break 'feed };
                match sent {
                    Ok(taken) => break taken,
                    // It no longer knows the subscription: its next hello will not name it either.
                    Err(CallError::Refused { reason, .. }) if reason == NO_SUBSCRIPTION => break 'feed,
                    // It is away or busy; a node that is gone is cancelled by its leaving. Do not spin.
                    Err(_) => tokio::time::sleep(RETRY_PAUSE).await,
                }
            };
            left.drain(..taken.min(left.len()));
        }
        let was_dropped = lock(&self.state).dropped.contains(&(outlet.node.clone(), outlet.id));
        if was_dropped && !self.cancel.is_cancelled() {
            let end = Deliver { id: outlet.id, messages: Vec::new(), dropped: true };
            if let Err(error) = send(&*deliverer, &outlet.node, &end, Priority::Control, deliverer.invocation()).await {
                tracing::debug!(node = %outlet.node, %error, "a dropped subscriber could not be told");
            }
        }
    }

    /// Takes a delivery for a subscription of this node; waits a while for room.
    pub(crate) async fn take(&self, from: &NodeId, payload: &[u8]) -> Result<Bytes, ReplyError> {
        let delivery: Deliver = decode(payload).map_err(|error| ReplyError::Refused(error.to_string()))?;
        let unknown = || ReplyError::Refused(NO_SUBSCRIPTION.to_owned());
        if delivery.dropped {
            self.end_inlet(delivery.id, from);
            return encode(&Delivered { taken: 0 }).map_err(|error| ReplyError::Failed(error.to_string()));
        }
        let queue = lock(&self.state).inlets.get(&delivery.id).map(|inlet| inlet.queue.clone()).ok_or_else(unknown)?;
        let until = Instant::now() + ROOM_WAIT;
        let mut taken = 0;
        for payload in delivery.messages {
            let message = Message { from: from.clone(), payload };
            match timeout_at(until, queue.send(Ok(message))).await {
                Ok(Ok(())) => taken += 1,
                Ok(Err(_)) => return Err(unknown()),
                Err(_) => break,
            }
        }
        encode(&Delivered { taken }).map_err(|error| ReplyError::Failed(error.to_string()))
    }

    /// Tells the reader of a subscription, once it has read what is there, that a publisher has dropped it.
    fn end_inlet(&self, id: u64, from: &NodeId) {
        let Some(queue) = lock(&self.state).inlets.get(&id).map(|inlet| inlet.queue.clone()) else { return };
        let end = Err(SubscriptionEnd::TooSlow(from.clone()));
        // The queue is full, or was: the notice waits behind what the reader has yet to read, one per publisher.
        tokio::spawn(async move { queue.send(end).await });
    }
}

async fn send<D: Deliverer>(
    deliverer: &D,
    to: &NodeId,
    delivery: &Deliver,
    priority: Priority,
    invocation: InvocationId,
) -> Result<usize, CallError> {
    let payload = encode(delivery).map_err(|error| CallError::Failed(error.to_string()))?;
    let reply =
        deliverer.deliver(to, Call::new(Method::Deliver, payload, priority, DELIVER_DEADLINE, invocation)).await?;
    let delivered: Delivered = decode(&reply).map_err(|error| CallError::Failed(error.to_string()))?;
    Ok(delivered.taken as usize)
}
