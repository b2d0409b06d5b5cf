//! Pure decisions: where code runs and where data lives, and why.
//!
//! [`compile`] takes a snapshot of the fabric, what an app needs and who holds its work now, and answers with a
//! [`Placement`] that carries its reasons, or with a [`Refusal`] that names the constraints that cannot be met and the
//! nearest miss of each. Nothing is applied here: `control` turns a placement into commands.
//!
//! How the parts meet: [`fabric`] and [`links`] are the snapshot, [`spec`] is what is asked for, [`placement`] and
//! [`refusal`] are the answers. Inside, `board` holds what is taken so far, `kept` finds the work that stays where it
//! is, `chain` finds the best way through the stages of a flow, `relations` keeps together and apart what must be, and
//! `compile` puts them together. [`sample`] picks whom a scheduler considers, [`admission`] says whether a node satisfies
//! constraints, [`objective`] what a choice costs, [`instances`] who serves an HTTP function as things change; [`repair`]
//! picks a successor for work whose owner is dead or may not have it any more. [`route`] picks the instances that answer a
//! request, [`nearest`] the entry points of a client; [`profile`] predicts how long functions take, [`coordinate`] round
//! trips that nobody has measured. [`announce`] says when a node tells the others of itself.
//!
//! No I/O, no clock, no randomness: equal inputs give equal answers on every node.

pub mod admission;
pub mod announce;
mod board;
mod chain;
mod compile;
mod connectors;
pub mod coordinate;
mod explain;
pub mod fabric;
mod flows;
pub mod instances;
mod kept;
pub mod links;
pub mod nearest;
pub mod objective;
pub mod placement;
pub mod profile;
mod queues;
pub mod reason;
pub mod refusal;
mod relations;
pub mod render;
pub mod repair;
pub mod route;
pub mod sample;
pub mod sketch;
pub mod spec;
mod streams;
mod traffic;

pub use admission::{NodeFacts, Now, Violation};
pub use compile::compile;
pub use fabric::{Fabric, NodeView};
pub use instances::{Candidate, Serving};
pub use links::{Basis, LinkEstimate, Links};
pub use objective::{Objective, Weighed};
pub use placement::{
    FlowPrediction, Hop, PlacedFunction, PlacedWork, Placement, Rescaling, Role, Source, StageFunction, Step,
};
pub use reason::Reason;
pub use refusal::{NearestMiss, Refusal, Unplaceable};
pub use spec::{
    Ack, AppSpec, ConnectorSpec, Constraints, Direction, FlowSpec, FunctionSpec, Interface, PartitionsBefore,
    QueueSpec, SAME_PERMILLE, Sink, StreamSpec,
};
pub use traffic::{Traffic, rate_behind_bps, traffic};

/// The most nodes that hold a work's log: one may die and another be repaired while a third serves.
pub const REPLICAS_MAX: usize = 3;
/// The most nodes that serve one HTTP function: any node forwards to them, so more would only cost memory.
pub const INSTANCES_MAX: usize = 16;
