//! The guests of a stage: their artefacts, loaded, and what the manifest sets for them.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use littoral_flow::chain::{Operator, Operators};
use littoral_flow::query::Query;
use littoral_runtime::stage::{Stage, StageError, StageSettings};
use littoral_runtime::{Artifact, LogSink, LogStream, Runtime};
use littoral_sql::Plan;

use crate::admin::types::LogStream as LineStream;
use crate::logs::Logs;

/// One function of a stage.
pub(crate) enum Guest {
    /// A component.
    Component { artifact: Arc<Artifact>, settings: Box<StageSettings> },
    /// A query in SQL, and over which partition of its input.
    Query(Arc<Plan>, u32),
}

/// The functions of a stage.
pub(crate) struct Guests {
    pub(crate) runtime: Runtime,
    pub(crate) names: Vec<String>,
    pub(crate) guests: Vec<Guest>,
}

#[async_trait(?Send)]
impl Operators for Guests {
    fn names(&self) -> &[String] {
        &self.names
    }

    fn idle_after(&self) -> Option<Duration> {
        match self.guests.first()? {
            Guest::Component { .. } => None,
            Guest::Query(plan, _) => plan.idle_after(),
        }
    }

    fn may_have_more(&self, place: usize) -> bool {
        matches!(self.guests.get(place), Some(Guest::Query(plan, _)) if plan.may_have_more())
    }

    async fn make(&self, place: usize) -> Result<Box<dyn Operator>, StageError> {
        match self.guests.get(place).ok_or(StageError::Gone)? {
            Guest::Component { artifact, settings } => {
                Ok(Box::new(Stage::instantiate(&self.runtime, artifact, (**settings).clone()).await?))
            }
            Guest::Query(plan, partition) => Ok(Box::new(Query::new(Arc::clone(plan), *partition))),
        }
    }
}

/// Takes what a function writes into the node's log lines.
pub(crate) struct FunctionLog {
    pub(crate) logs: Arc<Logs>,
    pub(crate) app: String,
    pub(crate) function: String,
}

impl LogSink for FunctionLog {
    fn line(&self, stream: LogStream, text: &str) {
        let stream = match stream {
            LogStream::Stdout => LineStream::Stdout,
            LogStream::Stderr => LineStream::Stderr,
        };
        self.logs.function(&self.app, &self.function, stream, text);
    }
}
