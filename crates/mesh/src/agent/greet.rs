//! What nodes say to one another of themselves: hellos, pings, and the answers to both.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use littoral_model::id::NodeId;
use littoral_model::wire::{VersionRange, WireError, decode, encode};
use tokio::time::{Instant, timeout};

use super::{Agent, HELLO_PAUSE, HELLO_TIMEOUT, PEERS_MAX, PING_PERIOD, Peer};
use crate::call::{Call, Incoming, Method, Priority};
use crate::carrier::{Carrier, Receiver, RouteId};
use crate::frame::{Envelope, Hello, Pong, ReplyError, method_of};
use crate::sync::lock;

/// Pause before a node that speaks no common version is tried again: only an upgrade helps it.
const VERSION_PAUSE: Duration = Duration::from_secs(10);
/// The most members that are pinged though they are neither neighbours nor of the same site.
const FAR_PINGS_MAX: usize = 32;

impl<C: Carrier> Agent<C> {
    /// Says hello to whoever needs it and pings the others.
    pub(super) fn talk(self: &Arc<Self>) {
        let now = Instant::now();
        let ours = lock(&self.ours).clone();
        let mut far = 0;
        let mut due = Vec::new();
        for (node, peer) in &mut *lock(&self.peers) {
            let Some(&route) = peer.routes.first() else { continue };
            if peer.busy || now < peer.next {
                continue;
            }
            let known = peer.member().filter(|digest| peer.told <= digest.sequence);
            let hello = known.is_none() || peer.knows < ours.sequence;
            if let (false, Some(digest)) = (hello, known) {
                let near = digest.site == ours.site || self.carrier.is_neighbour(node);
                far += usize::from(!near);
                if !near && far > FAR_PINGS_MAX {
                    // Not watched by pings: the link's lease alone tells of its end.
                    peer.heard = now;
                    peer.next = now + PING_PERIOD;
                    continue;
                }
            }
            peer.busy = true;
            peer.next = now + if hello { peer.pause } else { PING_PERIOD };
            due.push((node.clone(), route, hello));
        }
        for (node, route, hello) in due {
            let agent = Arc::clone(self);
            tokio::spawn(async move {
                if hello {
                    agent.say_hello(&node, route).await;
                } else {
                    agent.ping(&node, route).await;
                }
            });
        }
    }

    fn hello(&self) -> Hello {
        Hello { digest: lock(&self.ours).clone(), wanted: self.topics.wanted() }
    }

    async fn say_hello(self: &Arc<Self>, node: &NodeId, route: RouteId) {
        let hello = self.hello();
        let sequence = hello.digest.sequence;
        let sent = Instant::now();
        let reply = match encode(&hello) {
            Ok(payload) => self.ask(route, Method::Hello, payload).await,
            Err(error) => Some(Err(ReplyError::Failed(error.to_string()))),
        };
        let now = Instant::now();
        let mut theirs = None;
        {
            let mut peers = lock(&self.peers);
            let Some(peer) = peers.get_mut(node) else { return };
            peer.busy = false;
            match reply {
                Some(Ok(bytes)) => match decode::<Hello>(&bytes) {
                    Ok(hello) => {
                        peer.pause = HELLO_PAUSE.0;
                        peer.next = now;
                        peer.knows = peer.knows.max(sequence);
                        peer.link.round_trip(now - sent);
                        theirs = Some(hello);
                    }
                    Err(error) => tracing::warn!(%node, %error, "its hello cannot be read"),
                },
                Some(Err(ReplyError::Version(range))) => refuse(node, peer, range, now),
                Some(Err(error)) => {
                    tracing::debug!(%node, ?error, "it did not answer our hello");
                    peer.pause = (peer.pause * 2).min(HELLO_PAUSE.1);
                }
                None => {
                    peer.pause = (peer.pause * 2).min(HELLO_PAUSE.1);
                    // Another way may lead there.
                    put_last(&mut peer.routes);
                }
            }
        }
        if let Some(hello) = theirs {
            // An answer that names a version range with nothing in common is noted in there.
            self.heard_hello(node, hello);
        }
        self.wake.notify_one();
    }

    /// Takes in what another node says of itself. An error names what we speak.
    fn heard_hello(self: &Arc<Self>, node: &NodeId, hello: Hello) -> Option<VersionRange> {
        let now = Instant::now();
        let ours = lock(&self.ours).protocol;
        {
            let mut peers = lock(&self.peers);
            if peers.len() >= PEERS_MAX && !peers.contains_key(node) {
                return None;
            }
            let peer = peers.entry(node.clone()).or_insert_with(|| Peer::new(now));
            if ours.common(hello.digest.protocol).is_none() {
                refuse(node, peer, hello.digest.protocol, now);
                return Some(ours);
            }
            peer.refused = None;
            peer.heard = now;
            peer.silent = false;
            let current = peer.digest.as_ref().is_none_or(|old| {
                if hello.digest.incarnation == old.incarnation {
                    hello.digest.sequence >= old.sequence
                } else {
                    // Who is present decides: a node whose disk was wiped counts its starts from the beginning.
                    hello.digest.incarnation == peer.incarnation || hello.digest.incarnation > old.incarnation
                }
            });
            if !current {
                return None;
            }
            peer.told = peer.told.max(hello.digest.sequence);
            peer.digest = Some(Arc::new(hello.digest));
        }
        self.topics.want(node, &hello.wanted, self);
        None
    }

    async fn ping(self: &Arc<Self>, node: &NodeId, route: RouteId) {
        let sent = Instant::now();
        let reply = self.ask(route, Method::Ping, Bytes::new()).await;
        let now = Instant::now();
        let mut peers = lock(&self.peers);
        let Some(peer) = peers.get_mut(node) else { return };
        peer.busy = false;
        match reply {
            Some(Ok(bytes)) => {
                peer.heard = now;
                peer.link.round_trip(now - sent);
                if let Ok(pong) = decode::<Pong>(&bytes)
                    && pong.incarnation == peer.incarnation
                {
                    peer.told = peer.told.max(pong.sequence);
                }
            }
            Some(Err(_)) => peer.heard = now,
            None => put_last(&mut peer.routes),
        }
    }

    /// One request of the mesh's own, without retries.
    async fn ask(&self, route: RouteId, method: Method, payload: Bytes) -> Option<Result<Bytes, ReplyError>> {
        let call = Call::new(method, payload, Priority::Control, HELLO_TIMEOUT, (self.invocations)());
        let envelope = self.envelope(&call, HELLO_TIMEOUT);
        let request = self.carrier.request(route, &envelope, call.payload, Priority::Control, HELLO_TIMEOUT);
        timeout(HELLO_TIMEOUT, request).await.ok().flatten()
    }
}

#[async_trait]
impl<C: Carrier> Receiver for Agent<C> {
    fn presence_changed(&self) {
        self.wake.notify_one();
    }

    async fn receive(self: Arc<Self>, envelope: Envelope, payload: Bytes) -> Result<Bytes, ReplyError> {
        let method = method_of(&envelope)?;
        if let Some(peer) = lock(&self.peers).get_mut(&envelope.from) {
            peer.heard = Instant::now();
        }
        let failed = |error: WireError| ReplyError::Failed(error.to_string());
        match method {
            Method::Ping => {
                let ours = lock(&self.ours);
                encode(&Pong { incarnation: ours.incarnation, sequence: ours.sequence }).map_err(failed)
            }
            Method::Hello => {
                let hello: Hello = decode(&payload).map_err(failed)?;
                if hello.digest.node != envelope.from {
                    return Err(ReplyError::Refused("its hello names another node".to_owned()));
                }
                if let Some(ours) = self.heard_hello(&envelope.from, hello) {
                    return Err(ReplyError::Version(ours));
                }
                self.wake.notify_one();
                encode(&self.hello()).map_err(failed)
            }
            Method::Deliver => {
                let topics = Arc::clone(&self.topics);
                let from = envelope.from.clone();
                // Outside the lanes: a delivery waits for its reader, one at a time per publisher and subscription.
                let work = async move { topics.take(&from, &payload).await };
                self.inbox.once((envelope.from, envelope.invocation), work).await
            }
            _ => {
                let call = Incoming {
                    method,
                    payload,
                    priority: envelope.priority,
                    deadline: Duration::from_millis(u64::from(envelope.deadline_ms)),
                    invocation: envelope.invocation,
                    trace: envelope.trace,
                };
                self.inbox.serve(envelope.from, call).await
            }
        }
    }
}

/// Puts the way that failed behind the others.
fn put_last(routes: &mut [RouteId]) {
    if !routes.is_empty() {
        routes.rotate_left(1);
    }
}

/// Notes that a node speaks no version of ours, and says once who must be upgraded.
fn refuse(node: &NodeId, peer: &mut Peer, theirs: VersionRange, now: Instant) {
    if peer.refused != Some(theirs) {
        let older = if theirs.max < VersionRange::OURS.min { node.as_str() } else { "this node" };
        tracing::warn!(
            %node,
            "it speaks protocol versions {} to {}, this node {} to {}: upgrade {older}",
            theirs.min, theirs.max, VersionRange::OURS.min, VersionRange::OURS.max,
        );
    }
    peer.refused = Some(theirs);
    peer.heard = now;
    peer.next = now + VERSION_PAUSE;
}
