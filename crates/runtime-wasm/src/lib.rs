//! Runs WebAssembly components with Wasmtime; the only crate that names it.
//!
//! [`Wasm`] holds the engine and turns component bytes into an [`Artifact`], compiled once per digest and kept on disk
//! (`cache`, `compiler`). A [`stage::Stage`] is an instance of our own world `littoral:flow/stage`, a
//! [`handler::Handler`] answers requests with a fresh instance of a `wasi:http` 0.2 component each. Both run on the
//! thread that calls them, give way each millisecond (`ticker`), and end in a [`Fault`] when they overstep a limit.
//!
//! A guest has no files, no sockets and no outgoing requests. All of WASI is linked, because the standard libraries of
//! most languages import it whether it is used or not; a call that reaches outside is answered with an error.

pub mod handler;
pub mod stage;

mod artifact;
mod cache;
mod compiler;
mod engine;
mod fault;
mod host;
mod logs;
mod native;
mod ticker;

pub use artifact::{Artifact, LoadError};
pub use engine::{StartError, Wasm, WasmOptions};
pub use fault::Fault;
pub use host::Limits;
pub use logs::{Discard, LogSink, LogStream};
