//! The composition root: feeds events to `control`, carries out its commands, and offers the admin API.
//!
//! [`run`] is a node's life, in `node`; `core` opens what it stands on, `services` what it does. What other nodes ask comes in through `dispatch`, what people ask
//! through [`admin`] and `operations`, HTTP from outside through `ingress`. `driver` feeds the agents and carries out
//! what they command: `runner` runs units of work, `functions` serves HTTP functions. `intent` is what is deployed.

pub mod admin;
mod announce;
mod artifacts;
mod buckets;
pub mod composition;
mod confine;
mod core;
mod data_dir;
mod directory;
mod dispatch;
mod driver;
mod exports;
mod functions;
mod groups;
mod guests;
mod health;
mod ingress;
mod init;
mod intent;
mod log_reader;
mod logs;
mod metering;
mod nearest;
mod node;
mod operations;
mod operators;
mod plan_report;
mod publish;
pub mod registry;
mod report;
pub mod run_component;
mod runner;
mod services;
pub mod settings;
pub mod signing;
mod spec;
mod status;
mod tail;
mod telemetry;
mod token_book;
mod wiring;

pub use confine::{Confinement, confine};
pub use data_dir::{Addresses, DataDir};
pub use init::init;
pub use littoral_runtime::{CompilerProcess, compile_here};
pub use node::run;
pub use settings::{InitOutcome, InitSettings, NodeSettings};
