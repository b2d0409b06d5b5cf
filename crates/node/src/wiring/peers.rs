//! `store`'s replication, over the mesh.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use littoral_mesh::{Mesh, Method, Priority};
use littoral_model::id::NodeId;
use littoral_model::wire::{InstallRequest, ReplicateReply, ReplicateRequest};
use littoral_store::replica::{PeerError, Peers};

use super::ask;

/// How long a replica may take to store a batch; a slower one is dropped from the in-sync set long before.
const REPLICATE_DEADLINE: Duration = Duration::from_secs(5);
/// How long a replica may take to store a whole state.
const INSTALL_DEADLINE: Duration = Duration::from_secs(30);

/// The replicas of this node's works.
pub(crate) struct MeshPeers(pub(crate) Arc<dyn Mesh>);

#[async_trait]
impl Peers for MeshPeers {
    async fn replicate(&self, to: &NodeId, request: ReplicateRequest) -> Result<ReplicateReply, PeerError> {
        ask(&self.0, to, Method::Replicate, Priority::Data, REPLICATE_DEADLINE, &request)
            .await
            .map_err(|error| PeerError(error.to_string()))
    }

    async fn install(&self, to: &NodeId, request: InstallRequest) -> Result<(), PeerError> {
        let stored: Result<(), String> = ask(&self.0, to, Method::Install, Priority::Bulk, INSTALL_DEADLINE, &request)
            .await
            .map_err(|error| PeerError(error.to_string()))?;
        stored.map_err(PeerError)
    }

    fn is_down(&self, node: &NodeId) -> bool {
        !self.0.members().borrow().contains_key(node)
    }
}
