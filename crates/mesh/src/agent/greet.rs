//! What nodes say to one another of themselves: hellos, pings, and the answers to both.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use littoral_model::digest::NodeDigest;
use littoral_model::id::NodeId;
use littoral_model::wire::{VersionRange, WireError, decode, encode};
use tokio::time::{Instant, timeout};

use super::{Agent, HELLO_PAUSE, HELLO_TIMEOUT, LOOK_MAX, LOOK_PAUSE, PEERS_MAX, PING_PERIOD, Peer, SILENCE_MAX};
use crate::call::{Call, Incoming, Method, Priority};
use crate::carrier::{Carrier, Receiver, RouteId};
use crate::frame::{Envelope, Hello, Pong, ReplyError, method_of};
use crate::mesh::Handling;
use crate::sync::lock;

/// Pause before a node that speaks no common version is tried again: only an upgrade helps it.
const VERSION_PAUSE: Duration = Duration::from_secs(10);
/// How often one of the members is pinged at most that are neither neighbours nor of the same site; that which was heard
/// longest ago. What watching them costs does not grow with the fabric. The end of a link is known by its lease, and one that
/// leaves calls unanswered is watched as if it were near.
const FAR_PERIOD: Duration = Duration::from_secs(2);
/// How many times its turn a far member may be heard without a ping, before it is pinged all the same: for the round trip.
const FAR_MEASURE_TURNS: u32 = 3;
/// How often a neighbour of another site is pinged that is not heard otherwise; its site watches it closer.
const NEIGHBOUR_PERIOD: Duration = Duration::from_secs(1);
/// How old the last round trip to a near member may be, before it is measured although its own pings tell that it is there.
const MEASURE_PERIOD: Duration = Duration::from_secs(5);

/// Somebody who is to get a hello or a ping.
struct Due {
    node: NodeId,
    route: RouteId,
    hello: bool,
}

/// What a request of the mesh's own comes to.
enum Asked {
    Answered(Result<Bytes, ReplyError>),
    /// The network finds nobody there.
    Nobody,
    /// There is no answer in time.
    Late,
}

/// A member that is neither a neighbour nor of the same site.
struct Far {
    node: NodeId,
    heard: Instant,
    pinged: Instant,
    /// Whether a ping is on its way.
    busy: bool,
}

impl<C: Carrier> Agent<C> {
    /// Says hello to whoever needs it and pings the others; when that is to be done again.
    pub(super) fn talk(self: &Arc<Self>) -> Instant {
        let (due, next) = self.due(Instant::now());
        for Due { node, route, hello } in due {
            let agent = Arc::clone(self);
            tokio::spawn(async move {
                if hello {
                    agent.say_hello(&node, route).await;
                } else {
                    agent.ping(&node, route).await;
                }
            });
        }
        next
    }

    /// Who is to hear of this node now, and when somebody is next; they count as busy until they have answered.
    fn due(&self, now: Instant) -> (Vec<Due>, Instant) {
        let ours = lock(&self.ours).clone();
        let mut due = Vec::new();
        let mut next = now + LOOK_MAX;
        let mut far = Vec::new();
        let mut far_pinged: Option<Instant> = None;
        let mut peers = lock(&self.peers);
        for (node, peer) in &mut *peers {
            let Some(&route) = peer.routes.first() else { continue };
            let known = peer.member().filter(|digest| peer.told <= digest.sequence);
            let hello = known.is_none() || peer.knows < ours.sequence;
            let in_site = known.is_some_and(|digest| digest.site == ours.site);
            if let Some(since) = peer.doubted.filter(|_| peer.member().is_some()) {
                next = next.min(since + SILENCE_MAX + Duration::from_millis(1));
            }
            let watched = peer.doubted.is_some() || peer.unreached.is_some();
            if !hello && !watched && !in_site && !self.carrier.is_neighbour(node) {
                far_pinged = far_pinged.max(Some(peer.pinged));
                far.push(Far { node: node.clone(), heard: peer.heard, pinged: peer.pinged, busy: peer.busy });
                continue;
            }
            let is_close = in_site || watched;
            let period = if is_close { PING_PERIOD } else { NEIGHBOUR_PERIOD };
            // Where the network finds nobody, what is heard does not tell that it finds somebody again.
            let heard = peer.unreached.is_none() && now < peer.heard + period && now < peer.pinged + MEASURE_PERIOD;
            if !peer.busy && now >= peer.next {
                if heard && !hello {
                    peer.next = peer.heard + period;
                } else {
                    peer.busy = true;
                    peer.next = now + if hello { peer.pause } else { period };
                    due.push(Due { node: node.clone(), route, hello });
                }
            }
            // Pings of several neighbours go together. Of two nodes that last heard one another at the same moment, one is
            // later, so that not both ping.
            let patience = if self.me < *node { LOOK_PAUSE / 2 } else { LOOK_PAUSE };
            next = next.min(if is_close || hello { peer.next } else { peer.next + patience });
        }
        let turn = far_pinged.map_or(now, |pinged| pinged + FAR_PERIOD);
        if let Some((time, node)) = next_far(far) {
            if now < time.max(turn) {
                next = next.min(time.max(turn));
            } else if let Some(peer) = peers.get_mut(&node)
                && let Some(&route) = peer.routes.first()
            {
                peer.busy = true;
                next = next.min(now + FAR_PERIOD);
                due.push(Due { node, route, hello: false });
            }
        }
        (due, next)
    }

    fn hello(&self) -> Hello {
        Hello { digest: NodeDigest::clone(&lock(&self.ours)), wanted: self.topics.wanted() }
    }

    async fn say_hello(self: &Arc<Self>, node: &NodeId, route: RouteId) {
        let hello = self.hello();
        let sequence = hello.digest.sequence;
        let sent = Instant::now();
        let reply = match encode(&hello) {
            Ok(payload) => {
                count(&payload);
                self.ask(route, Method::Hello, payload).await
            }
            Err(error) => Asked::Answered(Err(ReplyError::Failed(error.to_string()))),
        };
        let now = Instant::now();
        let mut theirs = None;
        {
            let mut peers = lock(&self.peers);
            let Some(peer) = peers.get_mut(node) else { return };
            peer.busy = false;
            peer.reached(&reply, now);
            match reply {
                Asked::Answered(Ok(bytes)) => match decode::<Hello>(&bytes) {
                    Ok(hello) => {
                        peer.pause = HELLO_PAUSE.0;
                        peer.next = now;
                        peer.knows = peer.knows.max(sequence);
                        peer.link.round_trip(now - sent);
                        theirs = Some(hello);
                    }
                    Err(error) => tracing::warn!(%node, %error, "its hello cannot be read"),
                },
                Asked::Answered(Err(ReplyError::Version(range))) => refuse(node, peer, range, now),
                Asked::Answered(Err(error)) => {
                    tracing::debug!(%node, ?error, "it did not answer our hello");
                    peer.pause = (peer.pause * 2).min(HELLO_PAUSE.1);
                }
                Asked::Nobody | Asked::Late => {
                    peer.pause = (peer.pause * 2).min(HELLO_PAUSE.1);
                    peer.miss(sent);
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
            peer.hear(now);
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
            // Whoever sees it as a member finds its wishes.
            self.topics.want(node, &hello.wanted, self);
            peer.told = peer.told.max(hello.digest.sequence);
            peer.digest = Some(Arc::new(hello.digest));
        }
        None
    }

    async fn ping(self: &Arc<Self>, node: &NodeId, route: RouteId) {
        let sent = Instant::now();
        if let Some(peer) = lock(&self.peers).get_mut(node) {
            peer.pinged = sent;
        }
        let reply = self.ask(route, Method::Ping, Bytes::new()).await;
        let now = Instant::now();
        if matches!(reply, Asked::Answered(Err(ReplyError::Unseen))) {
            self.declare_anew(node, now);
        }
        let mut peers = lock(&self.peers);
        let Some(peer) = peers.get_mut(node) else { return };
        peer.busy = false;
        peer.reached(&reply, now);
        match reply {
            Asked::Answered(Ok(bytes)) => {
                peer.hear(now);
                peer.link.round_trip(now - sent);
                if let Ok(pong) = decode::<Pong>(&bytes)
                    && pong.incarnation == peer.incarnation
                {
                    peer.told = peer.told.max(pong.sequence);
                    if peer.digest.as_ref().is_none_or(|digest| digest.sequence < peer.told) {
                        self.wake.notify_one();
                    }
                }
            }
            Asked::Answered(Err(_)) => peer.hear(now),
            Asked::Nobody | Asked::Late => {
                peer.miss(sent);
                self.wake.notify_one();
            }
        }
    }

    /// Notes that a node was heard.
    fn hear(&self, node: &NodeId) {
        if let Some(peer) = lock(&self.peers).get_mut(node) {
            peer.hear(Instant::now());
        }
    }

    /// One request of the mesh's own, without retries.
    async fn ask(&self, route: RouteId, method: Method, payload: Bytes) -> Asked {
        let call = Call::new(method, payload, Priority::Control, HELLO_TIMEOUT, (self.invocations)());
        let envelope = self.envelope(&call, HELLO_TIMEOUT);
        let request = self.carrier.request(route, &envelope, call.payload, Priority::Control, HELLO_TIMEOUT);
        match timeout(HELLO_TIMEOUT, request).await {
            Ok(Some(reply)) => Asked::Answered(reply),
            Ok(None) => Asked::Nobody,
            Err(_) => Asked::Late,
        }
    }
}

impl Peer {
    /// Notes whether the network has found somebody there.
    fn reached(&mut self, asked: &Asked, now: Instant) {
        match asked {
            Asked::Nobody => _ = self.unreached.get_or_insert(now),
            // Somebody may be there who is slow.
            Asked::Answered(_) | Asked::Late => self.unreached = None,
        }
    }
}

#[async_trait]
impl<C: Carrier> Receiver for Agent<C> {
    fn presence_changed(&self) {
        self.wake.notify_one();
    }

    async fn receive(self: Arc<Self>, envelope: Envelope, payload: Bytes) -> Result<Bytes, ReplyError> {
        let method = method_of(&envelope)?;
        if let Some(said) = lock(&self.refused).get_mut(&envelope.from) {
            if !std::mem::replace(said, true) {
                tracing::warn!(node = %envelope.from, "a node that was revoked still asks; nothing is answered");
            }
            return Err(ReplyError::Refused(format!("{} was revoked", envelope.from)));
        }
        self.hear(&envelope.from);
        let failed = |error: WireError| ReplyError::Failed(error.to_string());
        match method {
            Method::Ping if self.tells_unseen(&envelope.from) => Err(ReplyError::Unseen),
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
                encode(&self.hello()).inspect(count).map_err(failed)
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

    fn run(&self, method: u8, handling: Handling) -> Option<Handling> {
        match Method::from_wire(method) {
            Some(method) => self.inbox.service().run(method, handling),
            None => Some(handling),
        }
    }
}

/// Which of the far members is to be pinged next, and when: so that each is heard of within as many turns as there are far
/// members. Those that ping this node or say hello to it need none of their own.
fn next_far(mut far: Vec<Far>) -> Option<(Instant, NodeId)> {
    let turns = u32::try_from(far.len()).unwrap_or(u32::MAX);
    let measured = FAR_PERIOD.saturating_mul(turns).saturating_mul(FAR_MEASURE_TURNS);
    for member in &mut far {
        member.heard = member.heard.min(member.pinged + measured);
    }
    far.sort_unstable_by_key(|member| member.heard);
    // There is one ping a turn: that of the second must begin a turn before its time, that of the third two, and so on.
    let times = (1..=turns).rev().zip(&far).map(|(turns, member)| member.heard + FAR_PERIOD.saturating_mul(turns));
    let time = times.min()?;
    far.into_iter().find(|member| !member.busy).map(|member| (time, member.node))
}

/// Counts what this node tells others of itself.
fn count(hello: &Bytes) {
    metrics::counter!("littoral_mesh_digest_bytes_total").increment(hello.len() as u64);
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
    peer.hear(now);
    peer.next = now + VERSION_PAUSE;
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    /// The far members `a`, `b`, ... of which each was heard so many seconds ago, and all pinged just now.
    fn far(now: Instant, ago_s: &[u64]) -> Vec<Far> {
        let names = ('a'..).map(|name| NodeId::new(name.to_string()).unwrap());
        let heard = ago_s.iter().map(|ago_s| now - Duration::from_secs(*ago_s));
        names.zip(heard).map(|(node, heard)| Far { node, heard, pinged: now, busy: false }).collect()
    }

    #[test]
    fn each_far_member_is_heard_of_within_as_many_turns_as_there_are() {
        let now = Instant::now() + Duration::from_secs(3_600);
        let next = |far: Vec<Far>| next_far(far).map(|(time, node)| (time, node.to_string())).unwrap();
        assert!(next_far(Vec::new()).is_none());
        // Nobody else pings: one a turn, the one that was heard longest ago.
        assert_eq!(next(far(now, &[4, 8, 2, 6])), (now, "b".to_owned()));
        // One has just been heard by itself: the turn is saved.
        assert_eq!(next(far(now, &[4, 0, 2, 6])), (now + FAR_PERIOD, "d".to_owned()));
        // All at once: the last is heard of in time only if the first is pinged after one turn.
        assert_eq!(next(far(now, &[0, 0, 0])).0, now + FAR_PERIOD);
    }

    #[test]
    fn a_far_member_that_is_heard_is_measured_all_the_same_and_one_that_is_asked_not_asked_again() {
        let now = Instant::now() + Duration::from_secs(3_600);
        let mut members = far(now, &[0, 0]);
        members[1].pinged = now - FAR_PERIOD * 2 * (FAR_MEASURE_TURNS + 1);
        let (time, node) = next_far(members).unwrap();
        assert_eq!((time, node.as_str()), (now, "b"));
        let mut members = far(now, &[6, 4]);
        members[0].busy = true;
        assert_eq!(next_far(members).unwrap().1.as_str(), "b");
    }
}
