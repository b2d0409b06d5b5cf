//! What the mesh needs of a network: to see who is present, and to move one request to one node.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use littoral_model::id::NodeId;

use crate::call::Priority;
use crate::frame::{Envelope, ReplyError};
use crate::mesh::Handling;

/// A way to a present node; the carrier's own number for it, never used twice.
pub(crate) type RouteId = u64;

/// A node that the network can reach, by one way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Presence {
    /// Who.
    pub node: NodeId,
    /// Which start of it.
    pub incarnation: u64,
    /// Which way.
    pub route: RouteId,
}

/// One node's access to a network.
#[async_trait]
pub(crate) trait Carrier: Send + Sync + 'static {
    /// Who is present now, by which ways, the best first. [`Receiver::presence_changed`] is called when this changes.
    fn presences(&self) -> Vec<Presence>;

    /// Moves a request and its reply. `None` when the network says that there was nobody to answer; it may be wrong.
    /// Does not end by itself while there is hope: the caller bounds it.
    async fn request(
        &self,
        route: RouteId,
        envelope: &Envelope,
        payload: Bytes,
        priority: Priority,
        timeout: Duration,
    ) -> Option<Result<Bytes, ReplyError>>;

    /// Whether a node is linked directly, so that its link is worth measuring.
    fn is_neighbour(&self, node: &NodeId) -> bool;

    /// Tells the network once more that this node is there: somebody whom it reaches was not told, or the network has lost it.
    /// The ways of those who know stay as they are.
    async fn declare_anew(&self);

    /// Has nothing more to do with a node that was shut out, as far as that is the carrier's to decide.
    fn refuse(&self, _node: &NodeId) {}

    /// Leaves the network.
    async fn close(&self);
}

/// What a carrier hands arriving requests to.
#[async_trait]
pub(crate) trait Receiver: Send + Sync + 'static {
    /// To be called when [`Carrier::presences`] has changed.
    fn presence_changed(&self);

    /// Handles a request; the result is the reply.
    async fn receive(self: Arc<Self>, envelope: Envelope, payload: Bytes) -> Result<Bytes, ReplyError>;

    /// Runs the handling of a request on the threads made for its method, if there are such; else gives it back.
    fn run(&self, method: u8, handling: Handling) -> Option<Handling>;
}
