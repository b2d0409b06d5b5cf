//! Executes dataflow graphs: runs the fused stages of a flow over batches and commits each step.
//!
//! A unit of work that this node owns runs as one task. [`stage`] runs the guests of a stage on a data-plane shard;
//! [`ingest`] feeds a stream's partition from the stages that write to it. Both pull their input with a [`reader`]
//! and commit `{input positions, state delta, outputs}` as one entry of their own log (design decision 5), so that
//! either all of a step happened or none of it. [`chain`] holds the guests, and
//! the queries of flows in SQL beside them ([`query`]), [`batch`] the encoding of rows, [`stats`]
//! what is measured.

pub mod batch;
pub mod chain;
pub mod ingest;
pub mod query;
pub mod reader;
mod shedding;
pub mod stage;
pub mod stats;

mod align;
mod committer;
mod pending;

use littoral_store::replica::WriteError;

/// Why a running unit of work ended.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Ended {
    /// Another node owns the work now, or this node was told to stop. Nothing is wrong.
    #[error("the work has another owner now")]
    Fenced,
    /// It cannot run here; it may be tried again after a while.
    #[error("{0}")]
    Failed(String),
}

impl From<WriteError> for Ended {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Fenced { .. } => Self::Fenced,
            other => Self::Failed(other.to_string()),
        }
    }
}
