//! The composition root: feeds events to `control`, carries out its commands, and offers the admin API.
//!
//! [`run`] is a node's life, in `node`; `core` opens what it stands on, `services` what it does. What other nodes ask comes in through `dispatch`, what people ask
//! through [`admin`] and `operations`, HTTP from outside through `ingress`. `driver` feeds the agents and carries out
//! what they command: `runner` runs units of work, `functions` serves HTTP functions. `intent` is what is deployed.

pub mod admin;
mod announce;
mod artifacts;
mod auction;
mod buckets;
pub mod composition;
mod condition;
mod confine;
mod core;
mod data_dir;
mod directory;
mod dispatch;
mod driver;
mod events;
mod exports;
mod fidelity;
mod footprint;
mod functions;
mod gate;
mod gathered;
mod groups;
mod guests;
mod health;
mod ingress;
mod init;
mod intent;
mod keeping;
mod log_reader;
mod logs;
mod metering;
mod moving;
mod mqtt;
mod nearest;
mod node;
mod operations;
mod operators;
mod plan_report;
mod publish;
mod queue;
pub mod registry;
mod report;
mod routes;
mod routing;
pub mod run_component;
mod runner;
mod services;
pub mod settings;
pub mod signing;
mod sites;
mod spec;
mod status;
mod stream_route;
mod surveyor;
mod sync;
mod tail;
mod telemetry;
mod token_book;
mod wiring;

pub use confine::{Confinement, confine};
pub use data_dir::{Addresses, CONTAINERS, DataDir};
pub use init::init;
pub use littoral_runtime::container::image::layout::{Layout, pack};
pub use littoral_runtime::container::{
    Abilities, ContainerProgram, HostProcess, OciRuntime, Unable, check_program, run_host, run_shim,
};
pub use littoral_runtime::{CompilerProcess, compile_here};
pub use node::run;
pub use settings::{InitOutcome, InitSettings, NodeSettings};
