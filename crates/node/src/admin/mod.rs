//! The admin API: what people and programs ask of a node, as JSON over HTTP.
//!
//! [`operations`] states what can be asked (a trait that the node implements), [`types`] the shapes of questions and
//! answers, [`router`] maps HTTP onto them, [`serve`] listens on a Unix socket (same user only) and, when asked to, on
//! TCP with mutual TLS ([`remote`]) for those who hold an administrator's credential. [`openapi`] describes it all; the document is checked
//! in at `docs/reference/admin-api.openapi.json` and tested against the routes and types.

pub mod error;
pub mod events;
pub mod exchange;
mod extract;
mod handlers;
pub mod openapi;
pub mod operations;
pub mod queue;
pub mod remote;
pub mod router;
pub mod serve;
pub mod types;
pub mod usage;

#[cfg(test)]
mod tests;
