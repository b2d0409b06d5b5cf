//! The composition root: feeds events to `control`, carries out its commands, and offers the admin API.

pub mod admin;
pub mod run_component;
pub mod settings;

pub use settings::{InitOutcome, InitSettings, NodeSettings};
