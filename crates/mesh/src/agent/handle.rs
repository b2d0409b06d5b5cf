//! The agent as its users see it: the [`Mesh`] trait.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use littoral_model::digest::{LinkReport, NodeDigest};
use littoral_model::id::{InvocationId, NodeId};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::{Agent, HELLO_TIMEOUT};
use crate::call::{Call, CallError, PAYLOAD_BYTES_MAX, Priority};
use crate::carrier::{Carrier, Receiver as _};
use crate::mesh::{Members, Mesh, MeshError, Subscription, SubscriptionGuard};
use crate::sync::lock;

/// What is handed to users: the agent, stopped when the last of them lets go.
pub(crate) struct Handle<C: Carrier>(pub(crate) Arc<Agent<C>>);

impl<C: Carrier> Drop for Handle<C> {
    fn drop(&mut self) {
        self.0.cancel.cancel();
    }
}

#[async_trait]
impl<C: Carrier> Mesh for Handle<C> {
    fn node(&self) -> &NodeId {
        &self.0.me
    }

    fn invocation(&self) -> InvocationId {
        (self.0.invocations)()
    }

    async fn call(&self, to: &NodeId, call: Call) -> Result<Bytes, CallError> {
        if call.payload.len() > PAYLOAD_BYTES_MAX {
            return Err(CallError::TooLarge { bytes: call.payload.len() });
        }
        if *to == self.0.me {
            let envelope = self.0.envelope(&call, call.deadline);
            let reply = Arc::clone(&self.0).receive(envelope, call.payload.clone()).await;
            return reply.map_err(|error| error.into_call_error(to, &call));
        }
        tokio::select! {
            reply = self.0.call_remote(to, call) => reply,
            () = self.0.cancel.cancelled() => Err(CallError::Closed),
        }
    }

    fn members(&self) -> watch::Receiver<Arc<Members>> {
        self.0.members.subscribe()
    }

    async fn announce(&self, digest: NodeDigest) -> Result<(), MeshError> {
        if self.0.cancel.is_cancelled() {
            return Err(MeshError::Closed);
        }
        {
            let mut ours = lock(&self.0.ours);
            *ours = Arc::new(NodeDigest {
                node: ours.node.clone(),
                tier: ours.tier,
                site: ours.site.clone(),
                incarnation: ours.incarnation,
                protocol: ours.protocol,
                sequence: ours.sequence + 1,
                ..digest
            });
        }
        self.0.wake.notify_one();
        Ok(())
    }

    async fn publish(&self, topic: &str, payload: Bytes, priority: Priority) -> Result<(), MeshError> {
        tokio::select! {
            done = self.0.topics.publish(topic, payload, priority) => done,
            () = self.0.cancel.cancelled() => Err(MeshError::Closed),
        }
    }

    async fn subscribe(&self, topic: &str, credit: usize) -> Result<Subscription, MeshError> {
        if self.0.cancel.is_cancelled() {
            return Err(MeshError::Closed);
        }
        let (id, messages) = self.0.topics.subscribe(topic, credit)?;
        let sequence = self.0.bump();
        let agent = Arc::downgrade(&self.0);
        let guard = SubscriptionGuard(Some(Box::new(move || {
            if let Some(agent) = agent.upgrade() {
                agent.topics.unsubscribe(id);
                agent.bump();
            }
        })));
        self.0.known_by_all(sequence).await;
        Ok(Subscription { messages, _guard: guard })
    }

    fn refuse(&self, node: &NodeId) {
        if *node != self.0.me && lock(&self.0.refused).insert(node.clone(), false).is_none() {
            self.0.carrier.refuse(node);
            self.0.wake.notify_one();
        }
    }

    fn links(&self) -> Vec<LinkReport> {
        let now = Instant::now();
        let peers = lock(&self.0.peers);
        let mut links: Vec<_> = peers
            .iter()
            .filter(|(_, peer)| peer.member().is_some())
            .filter_map(|(node, peer)| peer.link.report(node.clone(), now))
            .collect();
        links.sort_by(|a, b| a.peer.cmp(&b.peer));
        links
    }

    async fn close(&self) {
        self.0.cancel.cancel();
        self.0.topics.close();
        self.0.carrier.close().await;
    }
}

impl<C: Carrier> Agent<C> {
    /// Makes everybody due for a new hello; its sequence.
    fn bump(&self) -> u64 {
        let sequence = {
            let mut ours = lock(&self.ours);
            let ours = Arc::make_mut(&mut ours);
            ours.sequence += 1;
            ours.sequence
        };
        self.wake.notify_one();
        sequence
    }

    /// Waits until every member has our hello of that sequence, but not longer than for one round of hellos: whoever is
    /// late gets it with the next.
    async fn known_by_all(&self, sequence: u64) {
        let all = async {
            loop {
                let known = lock(&self.peers).values().all(|peer| peer.member().is_none() || peer.knows >= sequence);
                if known {
                    return;
                }
                sleep(Duration::from_millis(5)).await;
            }
        };
        if timeout(HELLO_TIMEOUT, all).await.is_err() {
            tracing::debug!("a subscription is not known by every node yet");
        }
    }
}
