//! Pure decisions: where code runs and where data lives, and why.
//!
//! [`compile`] takes a snapshot of the fabric, what an app needs and who holds its work now, and answers with a
//! [`Placement`] that carries its reasons, or with a [`Refusal`] that names the constraints that cannot be met and the
//! nearest miss of each. Nothing is applied here: `control` turns a placement into commands.
//!
//! How the parts meet: [`fabric`] and [`links`] are the snapshot, [`spec`] is what is asked for, [`placement`] and
//! [`refusal`] are the answers. Inside, `board` holds what is taken so far, `kept` finds the work that stays where it
//! is, `chain` finds the cheapest way through the stages of a flow, and `compile` puts them together. [`repair`] picks
//! a successor for work whose owner is dead.
//!
//! No I/O, no clock, no randomness: equal inputs give equal answers on every node.

mod board;
mod chain;
mod compile;
mod explain;
pub mod fabric;
mod flows;
mod kept;
pub mod links;
pub mod placement;
pub mod reason;
pub mod refusal;
pub mod render;
pub mod repair;
pub mod spec;
mod streams;

pub use compile::compile;
pub use fabric::{Fabric, NodeView};
pub use links::{Basis, LinkEstimate, Links};
pub use placement::{FlowPrediction, Hop, PlacedFunction, PlacedWork, Placement, Role, Source, StageFunction, Step};
pub use reason::Reason;
pub use refusal::{NearestMiss, Refusal, Unplaceable};
pub use spec::{Ack, AppSpec, Constraints, FlowSpec, FunctionSpec, Interface, Sink, StreamSpec};

/// The most nodes that hold a work's log: one may die and another be repaired while a third serves.
pub const REPLICAS_MAX: usize = 3;
/// The most nodes that serve one HTTP function: any node forwards to them, so more would only cost memory.
pub const INSTANCES_MAX: usize = 16;
