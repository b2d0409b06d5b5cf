//! Runs WebAssembly components with Wasmtime; the only crate that names it.
//!
//! [`Wasm`] holds the engine and turns component bytes into an [`Artifact`], compiled once per digest and kept on disk
//! (`cache`, `compiler`). A [`stage::Stage`] is an instance of our own world `littoral:flow/stage`, a
//! [`handler::Handler`] answers requests with components of `wasi:http` 0.2 and 0.3, and with those of our own typed
//! world, and plain functions of a component are called over columns ([`user_function`]). All run on the thread that calls them, give way each millisecond (`ticker`, `turns`), and end in a [`Fault`]
//! when they overstep one of their [`Limits`]. What they use is measured ([`Usage`], `meter`).
//!
//! All of WASI is linked, because the standard libraries of most languages import it whether it is used or not; what
//! reaches outside is denied unless it is granted (`access`, `egress`). What they are given of a fabric is in [`fabric`].

pub mod command;
pub mod composition;
pub mod fabric;
pub mod handler;
pub mod preview1;
pub mod stage;
pub mod user_function;

mod access;
mod artifact;
mod cache;
mod compiler;
mod egress;
mod engine;
mod fault;
mod host;
mod limits;
mod logs;
mod meter;
mod native;
mod ticker;
mod turns;

pub use access::{Access, Denied, Directory};
pub use artifact::{Artifact, LoadError};
pub use compiler::{CompileFailure, CompilerProcess, compile_here};
pub use engine::{StartError, Wasm, WasmOptions};
pub use fault::Fault;
pub use limits::{CONCURRENCY_DEFAULT, Limits};
pub use littoral_model::grant::Peer;
pub use logs::{Discard, GuestOutput, LogSink, LogStream};
pub use meter::{Usage, UsageTotals};
