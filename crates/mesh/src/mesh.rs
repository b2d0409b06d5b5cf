//! The mesh as the other crates see it.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use littoral_model::digest::{LinkReport, NodeDigest};
use littoral_model::id::{InvocationId, NodeId};
use tokio::sync::{mpsc, watch};

use crate::call::{Call, CallError, Incoming, Method, Priority};

/// The live nodes, oneself among them, and what each says of itself.
pub type Members = BTreeMap<NodeId, Arc<NodeDigest>>;

/// One node's end of the mesh.
#[async_trait]
pub trait Mesh: Send + Sync + 'static {
    /// This node.
    fn node(&self) -> &NodeId;

    /// A new invocation id.
    fn invocation(&self) -> InvocationId;

    /// Asks a node for something; a call to oneself goes straight to the service. While there is no answer the call is
    /// repeated with the same invocation id until its deadline.
    ///
    /// # Errors
    /// See [`CallError`]: only `Refused` and `Version` mean for certain that it had no effect.
    async fn call(&self, to: &NodeId, call: Call) -> Result<Bytes, CallError>;

    /// The live nodes. A dead or hung one leaves within three seconds and comes back by itself.
    fn members(&self) -> watch::Receiver<Arc<Members>>;

    /// Tells the others what this node says of itself from now on. What cannot change while a node runs (name, tier, site,
    /// incarnation, protocol) stays, and the mesh counts the sequence.
    ///
    /// # Errors
    /// When the mesh is closed.
    async fn announce(&self, digest: NodeDigest) -> Result<(), MeshError>;

    /// Sends a message to every live subscriber of a topic, in the order of the calls. Waits while the slowest has no
    /// room; one that has had none for [`crate::PUBLISH_WAIT_MAX`] loses its subscription and is told so.
    ///
    /// # Errors
    /// When the message is too large or the mesh is closed.
    async fn publish(&self, topic: &str, payload: Bytes, priority: Priority) -> Result<(), MeshError>;

    /// Asks every node, present and future, for the messages it publishes on a topic. Up to `credit` messages wait here
    /// for their reader, and up to twice as many at each publisher.
    ///
    /// # Errors
    /// When there are too many subscriptions or the mesh is closed.
    async fn subscribe(&self, topic: &str, credit: usize) -> Result<Subscription, MeshError>;

    /// Shuts a node out for good: it is no member, nothing it asks is answered, and nothing is asked of it.
    fn refuse(&self, node: &NodeId);

    /// What was measured of the links to other nodes.
    fn links(&self) -> Vec<LinkReport>;

    /// Leaves the mesh: others see it at once. Calls in flight fail with [`CallError::Closed`].
    async fn close(&self);
}

/// The handling of a call, its reply included.
pub type Handling = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What answers calls from other nodes. Calls run at the same time, in no order.
#[async_trait]
pub trait Service: Send + Sync + 'static {
    /// Does what is asked. It is dropped where it awaits when the call's deadline passes.
    async fn handle(&self, from: NodeId, call: Incoming) -> Result<Bytes, String>;

    /// Runs the handling of a call of that method on threads of the service's own, where what is called for runs anyway,
    /// so that it needs no hop between threads. What is given back runs on the runtime that the mesh was opened on.
    fn run(&self, _method: Method, handling: Handling) -> Option<Handling> {
        Some(handling)
    }
}

/// A message of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Who published it.
    pub from: NodeId,
    /// What was published.
    pub payload: Bytes,
}

/// Why no more messages come from a publisher, though the subscription goes on for the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SubscriptionEnd {
    /// Messages of this publisher were dropped, for this side was too slow for it. Subscribe again to go on with it.
    TooSlow(NodeId),
    /// The mesh was closed.
    Closed,
}

/// The messages of a topic, as they come. Dropping it ends the subscription.
#[derive(Debug)]
pub struct Subscription {
    pub(crate) messages: mpsc::Receiver<Result<Message, SubscriptionEnd>>,
    /// Ends the subscription at the other nodes when dropped.
    pub(crate) _guard: SubscriptionGuard,
}

/// Calls back when a subscription is dropped.
pub(crate) struct SubscriptionGuard(pub(crate) Option<Box<dyn FnOnce() + Send + Sync>>);

impl std::fmt::Debug for SubscriptionGuard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SubscriptionGuard")
    }
}

impl Drop for SubscriptionGuard {
    fn drop(&mut self) {
        if let Some(end) = self.0.take() {
            end();
        }
    }
}

impl Subscription {
    /// The next message.
    ///
    /// # Errors
    /// [`SubscriptionEnd::TooSlow`] tells of a gap in one publisher's messages, others still come;
    /// [`SubscriptionEnd::Closed`] is the end.
    pub async fn next(&mut self) -> Result<Message, SubscriptionEnd> {
        self.messages.recv().await.unwrap_or(Err(SubscriptionEnd::Closed))
    }
}

/// Why the mesh cannot be opened or used.
#[derive(Debug, thiserror::Error)]
pub enum MeshError {
    /// It cannot listen, or its settings are wrong.
    #[error("the mesh cannot be opened: {reason}")]
    Open {
        /// What is wrong and what to do.
        reason: String,
    },
    /// It has been closed.
    #[error("the mesh is closed: this node is stopping")]
    Closed,
    /// A bound was hit.
    #[error("{what} is more than the bound of {bound}: {remedy}")]
    Bound {
        /// What was too much.
        what: String,
        /// The bound.
        bound: usize,
        /// What to do.
        remedy: &'static str,
    },
    /// The mesh itself failed.
    #[error("the mesh failed: {0}")]
    Failed(String),
}
