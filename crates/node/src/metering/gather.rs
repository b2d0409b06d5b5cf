//! Asks the nodes for what they have used.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use littoral_mesh::{Mesh, Method, Priority};
use littoral_model::id::NodeId;
use serde::{Deserialize, Serialize};

use super::Metering;
use crate::admin::types::AdminError;
use crate::admin::usage::{ChainReport, NodeUsage};
use crate::wiring::ask;

/// How long a node may take to answer: it may have to read what it has kept for months.
const ANSWER_DEADLINE: Duration = Duration::from_secs(10);

/// What is asked of a node.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum UsageRequest {
    /// What was used since a time, microseconds since 1970.
    Used { since_us: i64 },
    /// A check of its chain.
    Check,
}

/// What it answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum UsageAnswer {
    Used(NodeUsage),
    Checked(ChainReport),
}

impl Metering {
    /// Answers a request, another node's or one from here. Reads the disk on a thread of its own.
    pub(crate) async fn answer(self: &Arc<Self>, request: UsageRequest) -> Result<UsageAnswer, String> {
        let this = Arc::clone(self);
        let answered = tokio::task::spawn_blocking(move || match request {
            UsageRequest::Used { since_us } => this.used(since_us).map(UsageAnswer::Used),
            UsageRequest::Check => this.check().map(UsageAnswer::Checked),
        });
        answered.await.map_err(|error| error.to_string())?.map_err(|error| format!("{error:#}"))
    }
}

/// Asks this node and others.
pub(crate) struct UsageReader {
    pub(crate) mesh: Arc<dyn Mesh>,
    pub(crate) metering: Arc<Metering>,
}

impl UsageReader {
    /// The answers of a node, or of all live ones; and why others did not answer.
    ///
    /// # Errors
    /// When the node is not there.
    pub(crate) async fn ask(
        &self,
        request: UsageRequest,
        only: Option<&NodeId>,
    ) -> Result<(Vec<UsageAnswer>, Vec<String>), AdminError> {
        let members = self.mesh.members().borrow().clone();
        if let Some(node) = only.filter(|node| !members.contains_key(*node)) {
            return Err(AdminError::not_found(format!("there is no live node {node}"))
                .hint("`littoral get nodes` lists those there are"));
        }
        let asked = members.keys().filter(|node| only.is_none_or(|only| only == *node)).map(|node| async move {
            let answer = if node == self.mesh.node() {
                self.metering.answer(request).await
            } else {
                let answer: Result<Result<UsageAnswer, String>, _> =
                    ask(&self.mesh, node, Method::Usage, Priority::Control, ANSWER_DEADLINE, &request).await;
                answer.map_err(|error| error.to_string()).and_then(|answer| answer)
            };
            answer.map_err(|reason| format!("{node}: {reason}"))
        });
        let (mut answers, mut missing) = (Vec::new(), Vec::new());
        for answer in join_all(asked).await {
            match answer {
                Ok(answer) => answers.push(answer),
                Err(reason) => missing.push(reason),
            }
        }
        Ok((answers, missing))
    }
}
