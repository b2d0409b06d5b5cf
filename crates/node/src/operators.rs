//! The guests of a stage: their artefacts, loaded, and what the manifest sets for them.

use std::sync::Arc;

use async_trait::async_trait;
use littoral_flow::chain::{Operator, Operators};
use littoral_runtime::stage::{Stage, StageError, StageSettings};
use littoral_runtime::{Artifact, LogSink, LogStream, Runtime};

use crate::admin::types::LogStream as LineStream;
use crate::logs::Logs;

/// One function of a stage.
pub(crate) struct Guest {
    pub(crate) artifact: Arc<Artifact>,
    pub(crate) settings: StageSettings,
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

    async fn make(&self, place: usize) -> Result<Box<dyn Operator>, StageError> {
        let guest = self.guests.get(place).ok_or(StageError::Gone)?;
        Ok(Box::new(Stage::instantiate(&self.runtime, &guest.artifact, guest.settings.clone()).await?))
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
