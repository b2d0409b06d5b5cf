//! The mesh between nodes: identity, membership, calls, publish and subscribe with back-pressure, and links that are
//! measured and, in `dev` and tests, shaped.
//!
//! [`Mesh`] is what the other crates use. [`ZenohMesh`] carries it over Zenoh with mutual TLS; [`fake::Net`] carries it
//! in memory under virtual time. Both share everything above a carrier that moves one request to one node: the agent
//! keeps membership and repeats calls, the inbox runs incoming calls within bounds and drops repeats, topics keep
//! publications in order and slow subscribers from harming anybody.
//!
//! A node gets in with an [`identity::Identity`] that the fabric's [`identity::Root`] signed, through [`join`] and a
//! one-time [`token::Token`].

pub mod admin;
mod agent;
mod call;
mod carrier;
pub mod fake;
pub mod frame;
pub mod identity;
mod inbox;
pub mod join;
mod measure;
mod mesh;
mod probe;
pub mod revocation;
pub mod shaper;
mod sync;
pub mod tenant;
mod threads;
pub mod token;
mod topics;
mod zenoh_mesh;

pub use agent::{ABSENT_WAIT, SILENCE_MAX};
pub use call::{Call, CallError, Incoming, Method, PAYLOAD_BYTES_MAX, Priority};
pub use mesh::{Handling, Members, Mesh, MeshError, Message, Service, Subscription, SubscriptionEnd};
pub use probe::{LinkError, probe};
pub use threads::{Reading, Threads};
pub use topics::{CREDIT_MAX, MESSAGE_BYTES_MAX, PUBLISH_WAIT_MAX, SUBSCRIPTIONS_MAX};
pub use zenoh_mesh::{DirectLines, MeshOptions, ZenohMesh, share_threads};
