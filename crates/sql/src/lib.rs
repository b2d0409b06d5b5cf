//! Flows in SQL: `CREATE STREAM` and `CREATE FLOW … AS SELECT …`, checked and run over Arrow batches.
//!
//! [`expand`] reads the statements of an app (`[sql]` in its manifest), checks names and types (`statement`, `query`, `check`), and
//! adds their streams and flows to the manifest. What each flow's stage does is a [`Plan`]; a [`Stage`] runs it, with its
//! expressions evaluated over whole columns (`eval`), and groups in windows row by row (`group`), where the stream has several partitions
//! after a stage that spreads the rows by their keys (`shard`), and so are the pairs of two streams that are joined (`join`).
//! What a stage keeps of keys goes to partitions of another number while rows flow (`stage/rescale`).
//! Functions of the app that expressions call are computed elsewhere (`user_function`).
//! Semantics are PostgreSQL's where the standard leaves room; `docs/reference/sql.md` says where they differ.
//!
//! Nothing here reads a clock, waits or does I/O: the same rows in the same order come to the same results.

mod aggregate;
mod cast;
mod check;
mod decode;
mod dialect;
mod eval;
mod expr;
mod function;
mod group;
mod join;
mod json;
mod plan;
mod program;
mod query;
mod shard;
mod sketch;
mod source;
mod spread;
mod stage;
mod statement;
mod types;
mod user_function;
mod value;

pub use plan::Plan;
pub use program::{FlowPlan, Mistakes, Program, expand};
pub use stage::{Change, Notice, Output, PORT_LATE, Partitions, Rescaling, Stage, StageError};
pub use types::{Column, Type, record_columns};
pub use user_function::{Call, CallError, Called, Calling, Functions, UserFunction};
