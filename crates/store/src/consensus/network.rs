//! The engine's messages, over whatever carries them.

use std::sync::Arc;

use bytes::Bytes;
use littoral_model::id::{NodeId, SiteId};
use littoral_model::wire;
use openraft::error::{InstallSnapshotError, NetworkError, RPCError, RaftError, RemoteError, Unreachable};
use openraft::network::{RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse, VoteRequest,
    VoteResponse,
};
use openraft::{AnyError, EmptyNode};

use super::types::{Reply, Request, TypeConfig, Voter};
use super::{RaftTransport, TransportError};

type Failure<E = openraft::error::Infallible> = RPCError<Voter, EmptyNode, RaftError<Voter, E>>;

/// Asks other nodes of a group.
#[derive(Clone)]
pub(crate) struct Network {
    pub(crate) site: SiteId,
    pub(crate) transport: Arc<dyn RaftTransport>,
}

impl Network {
    /// One question, one answer.
    pub(crate) async fn ask(&self, to: &NodeId, request: &Request) -> Result<Reply, TransportError> {
        let message: Bytes = wire::encode(request).map_err(|error| TransportError(error.to_string()))?;
        let reply = self.transport.call(to, &self.site, message).await?;
        wire::decode(&reply).map_err(|error| TransportError(error.to_string()))
    }
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Connection;

    async fn new_client(&mut self, target: Voter, _node: &EmptyNode) -> Connection {
        Connection { network: self.clone(), target }
    }
}

/// One other node.
pub(crate) struct Connection {
    network: Network,
    target: Voter,
}

impl Connection {
    async fn ask<E: std::error::Error>(&self, request: &Request) -> Result<Reply, Failure<E>> {
        let node = self.target.node().ok_or_else(|| unreachable_node("the id is empty"))?;
        let reply = self.network.ask(&node, request).await.map_err(|error| Unreachable::new(&error))?;
        match reply {
            Reply::Failed(reason) => Err(unreachable_node(&reason)),
            reply => Ok(reply),
        }
    }
}

fn unreachable_node<E: std::error::Error>(reason: &str) -> Failure<E> {
    Unreachable::new(&AnyError::error(reason)).into()
}

fn unexpected<E: std::error::Error>() -> Failure<E> {
    NetworkError::new(&AnyError::error("the answer is of another kind than the question")).into()
}

impl RaftNetwork<TypeConfig> for Connection {
    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<Voter>, Failure> {
        match self.ask(&Request::Append(rpc)).await? {
            Reply::Append(response) => Ok(response),
            _ => Err(unexpected()),
        }
    }

    async fn install_snapshot(
        &mut self,
        rpc: InstallSnapshotRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<InstallSnapshotResponse<Voter>, Failure<InstallSnapshotError>> {
        match self.ask(&Request::Install(rpc)).await? {
            Reply::Install(response) => (*response).map_err(|error| RemoteError::new(self.target, error).into()),
            _ => Err(unexpected()),
        }
    }

    async fn vote(&mut self, rpc: VoteRequest<Voter>, _option: RPCOption) -> Result<VoteResponse<Voter>, Failure> {
        match self.ask(&Request::Vote(rpc)).await? {
            Reply::Vote(response) => Ok(response),
            _ => Err(unexpected()),
        }
    }
}
