//! The keeper of this node's works: the consensus group of its site.

use std::sync::Arc;

use async_trait::async_trait;
use littoral_model::id::{Epoch, NodeId};
use littoral_model::work::{KeeperAnswer, KeeperCommand, WorkId};
use littoral_store::replica::{Keeper, KeeperError};

use crate::groups::Groups;

/// Asks the group of the work's site.
pub(crate) struct MeshKeeper(pub(crate) Arc<Groups>);

#[async_trait]
impl Keeper for MeshKeeper {
    async fn resync(
        &self,
        work: &WorkId,
        epoch: Epoch,
        replicas: Vec<NodeId>,
        in_sync: Vec<NodeId>,
    ) -> Result<KeeperAnswer, KeeperError> {
        let command = KeeperCommand::Resync { work: work.clone(), epoch, replicas, in_sync };
        self.0.propose(command).await.map_err(KeeperError)
    }

    async fn hand_over(&self, work: &WorkId, epoch: Epoch, owner: NodeId) -> Result<KeeperAnswer, KeeperError> {
        let command = KeeperCommand::Move { work: work.clone(), epoch, owner, exclude_old: true };
        self.0.propose(command).await.map_err(KeeperError)
    }
}
