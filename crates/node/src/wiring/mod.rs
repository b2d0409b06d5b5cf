//! What each crate needs from elsewhere, supplied: one file for each trait.

mod exporters;
mod fabric;
mod keeper;
mod machine;
mod peers;
mod raft;
mod source;
mod threads;
mod topics;

pub(crate) use exporters::AppExporters;
pub(crate) use fabric::NodeFabric;
pub(crate) use keeper::MeshKeeper;
pub(crate) use machine::AppMachine;
pub(crate) use peers::MeshPeers;
pub(crate) use raft::MeshRaft;
pub(crate) use source::MeshSource;
pub(crate) use threads::MeshThreads;
pub(crate) use topics::AppTopics;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use littoral_mesh::{Call, CallError, Mesh, Method, Priority};
use littoral_model::id::NodeId;
use littoral_model::wire;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// One typed request to another node.
pub(crate) async fn ask<Q: Serialize, A: DeserializeOwned>(
    mesh: &Arc<dyn Mesh>,
    to: &NodeId,
    method: Method,
    priority: Priority,
    deadline: Duration,
    request: &Q,
) -> Result<A, CallError> {
    let payload = wire::encode(request).map_err(|error| CallError::Failed(error.to_string()))?;
    let reply = mesh.call(to, Call::new(method, payload, priority, deadline, mesh.invocation())).await?;
    wire::decode(&reply).map_err(|error| CallError::Failed(error.to_string()))
}

/// A request decoded, answered, and the answer encoded.
pub(crate) async fn answer<Q, A, F>(payload: &Bytes, handle: impl FnOnce(Q) -> F) -> Result<Bytes, String>
where
    Q: DeserializeOwned,
    A: Serialize,
    F: Future<Output = A>,
{
    let request: Q = wire::decode(payload).map_err(|error| error.to_string())?;
    wire::encode(&handle(request).await).map_err(|error| error.to_string())
}
