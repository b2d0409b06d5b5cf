//! The whole fabric under seeds, in virtual time.
//!
//! A seed decides everything: how many machines there are, what fails and when, how long each message takes. The real
//! agents (`control`), the real planner (`plan`), and the real log, replication and consensus (`store`) run on disks
//! that lose what was not synced (`store::fake`) and on a network that is cut (`net`), in one thread under tokio's
//! paused clock. `node`, `driver` and `runner` put them together as the crate `node` does; `fault` makes trouble, `load`
//! publishes, `history` takes note, and each file of [`invariants`] judges one promise.
//!
//! Run seeds with `make seeds`; docs/how-to/replay-a-seed.md says what to do with one that fails.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    reason = "a program for tests: names are literals here, and what goes wrong is to end the seed"
)]

pub mod apps;
mod driver;
pub mod entropy;
pub mod fault;
pub mod history;
mod intent;
pub mod invariants;
mod load;
pub mod net;
pub mod node;
pub mod offline;
mod runner;
pub mod scenario;
pub mod world;
