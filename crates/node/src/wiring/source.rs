//! The inputs of this node's works: read here or over the mesh, from whoever owns them now.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use littoral_flow::reader::{Source, SourceError};
use littoral_mesh::{Mesh, Method, Priority};
use littoral_model::wire::{FetchReply, FetchRequest};
use littoral_store::replica::Works;

use super::ask;
use crate::directory::Directory;

/// What the link may take on top of the owner's own wait; a megabyte over 5 Mbit/s.
const LINK_ALLOWANCE: Duration = Duration::from_secs(3);

/// Reads works wherever they are.
pub(crate) struct MeshSource {
    pub(crate) mesh: Arc<dyn Mesh>,
    pub(crate) works: Arc<Works>,
    pub(crate) directory: Arc<Directory>,
}

#[async_trait]
impl Source for MeshSource {
    async fn fetch(&self, request: FetchRequest) -> Result<FetchReply, SourceError> {
        let owner = self.directory.owner(&request.work).await.ok_or_else(|| {
            SourceError(format!("nobody at {} knows the owner of {}", request.work.site, request.work))
        })?;
        if owner == *self.mesh.node() {
            return Ok(self.works.fetch(request).await);
        }
        if !self.mesh.members().borrow().contains_key(&owner) {
            // A call would wait for it to return, while the work may have another owner by now.
            self.directory.forget(&request.work);
            return Err(SourceError(format!("{owner}, which owns {}, is not reachable", request.work)));
        }
        let deadline = Duration::from_millis(u64::from(request.wait_ms)) + LINK_ALLOWANCE;
        let reply = ask(&self.mesh, &owner, Method::Fetch, Priority::Data, deadline, &request).await;
        match reply {
            Ok(FetchReply::NotOwner(hint)) => {
                self.directory.forget(&request.work);
                if let Some(assignment) = &hint {
                    self.directory.learn(assignment);
                }
                Ok(FetchReply::NotOwner(hint))
            }
            Ok(reply) => Ok(reply),
            Err(error) => {
                self.directory.forget(&request.work);
                Err(SourceError(error.to_string()))
            }
        }
    }
}
