//! The guests of a stage: their artefacts, loaded, and what the manifest sets for them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use littoral_flow::chain::{Operator, Operators};
use littoral_flow::query::Query;
use littoral_model::id::FunctionName;
use littoral_runtime::stage::{Stage, StageError, StageSettings};
use littoral_runtime::user_function::Callee;
use littoral_runtime::{Artifact, LogSink, LogStream, Runtime};
use littoral_sql::{Partitions, Plan};

use crate::admin::types::LogStream as LineStream;
use crate::logs::Logs;

/// One function of a stage.
pub(crate) enum Guest {
    /// A component.
    Component(Component),
    /// A query in SQL, over which partition of its input, and the functions that it calls. Where the number of partitions by key is
    /// changed, its numbers are `known`.
    Query { plan: Arc<Plan>, partition: u32, known: Option<Partitions>, called: BTreeMap<FunctionName, Component> },
}

/// A component, and what the manifest sets for it.
pub(crate) struct Component {
    pub(crate) artifact: Arc<Artifact>,
    pub(crate) settings: Box<StageSettings>,
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
            Guest::Component(_) => None,
            Guest::Query { plan, .. } => plan.idle_after(),
        }
    }

    fn may_have_more(&self, place: usize, has_state: bool) -> bool {
        match self.guests.get(place) {
            // It may have a change to announce.
            Some(Guest::Query { plan, partition: 0, known: Some(_), .. }) if plan.keyed_partitions().is_some() => true,
            Some(Guest::Query { plan, .. }) => has_state && plan.may_have_more(),
            Some(Guest::Component(_)) | None => false,
        }
    }

    fn may_come_first(&self, place: usize) -> bool {
        matches!(self.guests.get(place), Some(Guest::Query { plan, known: Some(_), .. }) if plan.keyed_partitions().is_some())
    }

    async fn make(&self, place: usize) -> Result<Box<dyn Operator>, StageError> {
        match self.guests.get(place).ok_or(StageError::Gone)? {
            Guest::Component(Component { artifact, settings }) => {
                Ok(Box::new(Stage::instantiate(&self.runtime, artifact, (**settings).clone()).await?))
            }
            Guest::Query { plan, partition, known, called } => {
                let mut callees = BTreeMap::new();
                for (function, Component { artifact, settings }) in called {
                    let callee = Callee::new(&self.runtime, artifact, (**settings).clone()).await?;
                    callees.insert(function.clone(), callee);
                }
                Ok(Box::new(Query::new(Arc::clone(plan), *partition, *known, callees)))
            }
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
