//! One agent as a pure state machine.
//!
//! An [`Agent`] stands for one node in one site's consensus group. The node feeds it [`Event`]s with the time and
//! carries out the [`Command`]s that it answers with; the simulator does the same without any node. A node has an agent
//! for its own site, and one more for each other site that has borrowed its vote: a leader of a site's group need not
//! be of the site.
//!
//! What an agent does, each in a module: it starts and stops the work that its node owns and the functions placed on it
//! (`workers`); while its node leads the group it gives the work of dead owners to live ones, keeps the sets of replicas
//! whole, and creates and removes work as intent says (`keeper`), and chooses who votes (`voters`). `members` is what it
//! remembers of other nodes, a bounded sample; `admitted` tells who may have what as their digests change. `partition` stops
//! apps that must not go on in a cut, and keeps leases; [`demand`] brings functions to where they are called. Beside the agent stand [`edits`], which merges what is wanted,
//! [`leases`], what a node has offered to schedulers, [`slo`], which watches objectives, [`fidelity`], which says when a stage goes on with cheaper variants of its functions and when with better ones, [`settle`], what a node says
//! of a situation that flaps, [`queue`], which holds the asynchronous invocations of a function, [`admission`], which
//! refuses requests that could not meet their deadlines, [`scaling`], which says how many instances a
//! function is to have, [`rollout`], which sends a new version back that is worse than the one before, [`variants`], which says
//! whether a component or a container answers for a function that is both, and [`yielding`], which holds still what is in the way of functions of higher priority.
//!
//! No I/O, no clock, no randomness but from a seed: equal events give equal commands.

pub mod admission;
mod admitted;
mod agent;
mod command;
pub mod demand;
pub mod edits;
mod event;
pub mod fidelity;
mod keeper;
pub mod leases;
mod members;
pub mod partition;
pub mod queue;
pub mod rollout;
pub mod scaling;
pub mod settle;
pub mod slo;
pub mod variants;
mod voters;
mod workers;
pub mod yielding;

pub use agent::{Agent, Settings};
pub use command::Command;
pub use event::{Event, Intent};
