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
//! remembers of other nodes, a bounded sample.
//!
//! No I/O, no clock, no randomness but from a seed: equal events give equal commands.

mod agent;
mod command;
mod event;
mod keeper;
mod members;
mod voters;
mod workers;

pub use agent::{Agent, Settings};
pub use command::Command;
pub use event::{Event, Intent};
