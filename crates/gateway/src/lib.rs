//! The ways in: HTTP here, MQTT in [`mqtt`].
//!
//! HTTP: connections on the data-plane shards, each request handed to what the [`Router`] says.
//!
//! Every shard accepts; a connection is served where fewest are, and stays there: the same thread parses a request and
//! runs the guest that answers it. [`Settings`] bound everything that a client decides. Where a path leads is not
//! known here: whoever starts the [`Gateway`] supplies the router.

pub mod mqtt;

mod body;
mod connection;
mod router;
mod server;
mod settings;
mod stall;

pub use connection::{ClientAddress, error_response};
pub use littoral_runtime::http::{Body, BodyError, full};
pub use router::{Responder, Router, Target, single};
pub use server::{BindError, Drained, Gateway};
pub use settings::Settings;
