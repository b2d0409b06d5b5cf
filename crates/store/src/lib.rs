//! Everything durable on a node: its one log, the state derived from it, and the copies kept on other nodes.
//!
//! * [`log`] is the only commit point (design decision 5): every unit of work of the node, its intent and its consensus
//!   groups append to one checksummed, group-committed, segmented log.
//! * [`derived`] holds, in redb, what follows from committed entries, with the position up to which it was applied.
//!   It can be thrown away and built anew.
//! * [`buckets`] are keyed values that stay on this node.
//! * [`replica`] copies the logs of works from their owners to their replicas, and fences off owners of the past.
//! * [`consensus`] is the keeper that says who owns what: a small group of nodes of each site.
//! * [`usage`] keeps what functions have used, a record a minute, each with the hash of the one before.
//! * [`disk`] is the little that the log asks of a file system; [`fake`] is one that fails on purpose, for tests.

mod blocking;
pub mod buckets;
pub mod consensus;
pub mod derived;
pub mod disk;
mod error;
pub mod fake;
pub mod log;
pub mod replica;
pub mod usage;

pub use derived::{Applied, Derived};
pub use error::StoreError;
pub use log::{Append, Head, Log, LogOptions, LogStats, Stepper};
