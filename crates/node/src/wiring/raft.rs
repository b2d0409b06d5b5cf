//! The messages of consensus groups, over the mesh.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use littoral_mesh::{Call, Mesh, Method, Priority};
use littoral_model::id::{NodeId, SiteId};
use littoral_model::wire;
use littoral_store::consensus::{RaftTransport, TransportError};

/// How long a voter may take to answer; elections start after one to two seconds.
const CONSENSUS_DEADLINE: Duration = Duration::from_secs(2);

/// Carries consensus messages; each names its group.
pub(crate) struct MeshRaft(pub(crate) Arc<dyn Mesh>);

#[async_trait]
impl RaftTransport for MeshRaft {
    async fn call(&self, to: &NodeId, group: &SiteId, message: Bytes) -> Result<Bytes, TransportError> {
        let payload = wire::encode(&(group, &message)).map_err(|error| TransportError(error.to_string()))?;
        let call = Call::new(Method::Consensus, payload, Priority::Control, CONSENSUS_DEADLINE, self.0.invocation());
        self.0.call(to, call).await.map_err(|error| TransportError(error.to_string()))
    }
}
