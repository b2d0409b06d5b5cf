//! Calls to other nodes: repeated by one way or another until their deadline.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use littoral_model::id::{InvocationId, NodeId};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::Agent;
use crate::call::{Call, CallError};
use crate::carrier::{Carrier, RouteId};
use crate::frame::{Envelope, ReplyError};
use crate::mesh::Members;
use crate::sync::lock;
use crate::topics::Deliverer;

/// How long a call to a node that is not a member waits for it to become one: about a reconnection's time.
pub const ABSENT_WAIT: Duration = Duration::from_secs(1);
/// Pauses between attempts of a call.
const CALL_PAUSE: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(250));

impl<C: Carrier> Agent<C> {
    pub(super) fn envelope(&self, call: &Call, left: Duration) -> Envelope {
        Envelope {
            from: self.me.clone(),
            method: call.method as u8,
            priority: call.priority,
            deadline_ms: u32::try_from(left.as_millis()).unwrap_or(u32::MAX).max(1),
            invocation: call.invocation,
            trace: call.trace.clone(),
        }
    }

    /// The way for an attempt of a call, if the node is a member.
    fn route(&self, to: &NodeId, attempt: usize) -> Result<Option<RouteId>, CallError> {
        let peers = lock(&self.peers);
        let Some(peer) = peers.get(to) else { return Ok(None) };
        if let Some(theirs) = peer.refused {
            return Err(CallError::Version { node: to.to_string(), theirs });
        }
        if peer.member().is_none() {
            return Ok(None);
        }
        Ok(peer.routes.get(attempt % peer.routes.len().max(1)).copied())
    }

    pub(super) async fn call_remote(&self, to: &NodeId, call: Call) -> Result<Bytes, CallError> {
        let started = Instant::now();
        let late = || ReplyError::Late.into_call_error(to, &call);
        let mut absent_since = None;
        let mut pause = CALL_PAUSE.0;
        let mut attempt = 0;
        let mut changes = self.routes.subscribe();
        let mut members = self.members.subscribe();
        loop {
            let left = call.deadline.saturating_sub(started.elapsed());
            if left.is_zero() {
                return Err(if absent_since.is_some() { unreachable_node(to) } else { late() });
            }
            changes.borrow_and_update();
            members.borrow_and_update();
            match self.route(to, attempt)? {
                Some(route) => {
                    absent_since = None;
                    let begun = Instant::now();
                    let envelope = self.envelope(&call, left);
                    let request = self.carrier.request(route, &envelope, call.payload.clone(), call.priority, left);
                    let reply = tokio::select! {
                        reply = timeout(left, request) => reply.map_err(|_| {
                            // It may be slow, or hang: a ping finds out.
                            if let Some(peer) = lock(&self.peers).get_mut(to) {
                                peer.doubt(begun);
                            }
                            self.wake.notify_one();
                            late()
                        })?,
                        () = self.route_lost(to, route, &mut changes, &mut members) => None,
                    };
                    if let Some(reply) = reply {
                        self.note(to, begun.elapsed(), call.payload.len() + reply.as_ref().map_or(0, Bytes::len));
                        return reply.map_err(|error| error.into_call_error(to, &call));
                    }
                    self.miss(to);
                    attempt += 1;
                    tracing::debug!(node = %to, method = %call.method, attempt, "no answer; trying again");
                }
                None => {
                    let since = *absent_since.get_or_insert_with(Instant::now);
                    if since.elapsed() >= ABSENT_WAIT {
                        return Err(unreachable_node(to));
                    }
                }
            }
            tokio::select! {
                () = sleep(pause.min(left)) => pause = (pause * 2).min(CALL_PAUSE.1),
                _ = members.changed() => {}
            }
        }
    }

    /// Ends when the node is no longer a member, or no longer by this way.
    async fn route_lost(
        &self,
        to: &NodeId,
        route: RouteId,
        changes: &mut watch::Receiver<u64>,
        members: &mut watch::Receiver<Arc<Members>>,
    ) {
        loop {
            let holds = lock(&self.peers).get(to).is_some_and(|p| p.member().is_some() && p.routes.contains(&route));
            if !holds {
                return;
            }
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                changed = members.changed() => if changed.is_err() { return },
            }
        }
    }

    /// Perhaps the network finds nobody where it is said to be: pings find out.
    fn miss(&self, node: &NodeId) {
        if let Some(peer) = lock(&self.peers).get_mut(node)
            && peer.unreached.is_none()
        {
            peer.unreached = Some(Instant::now());
            self.wake.notify_one();
        }
    }

    /// Any answer is a sign of life, and a large one a measure of the link.
    fn note(&self, node: &NodeId, took: Duration, bytes: usize) {
        if let Some(peer) = lock(&self.peers).get_mut(node) {
            let now = Instant::now();
            peer.hear(now);
            peer.link.transfer(now, bytes, took);
        }
    }
}

#[async_trait]
impl<C: Carrier> Deliverer for Agent<C> {
    async fn deliver(&self, to: &NodeId, call: Call) -> Result<Bytes, CallError> {
        self.call_remote(to, call).await
    }

    fn invocation(&self) -> InvocationId {
        (self.invocations)()
    }
}

fn unreachable_node(to: &NodeId) -> CallError {
    CallError::Unreachable { node: to.to_string() }
}
