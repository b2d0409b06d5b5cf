//! Runs functions: the threads they run on, and one shape for whatever runs them.
//!
//! [`shards`] are the data-plane threads, one per core: the thread that accepts a connection or owns a stage's
//! partition also runs the guest, unless that has a low priority: then it runs in the [`Background`]. [`latency`] is what is measured of them. [`stage`] and [`http`] are instances of the two worlds, and a [`pool`] has those of a function that come and go; [`interfaces`] are what other functions call. A function is a
//! WebAssembly component, and [`Runtime`] is the engine, or runs in a [`container`].
//!
//! ```no_run
//! # async fn example(bytes: bytes::Bytes) -> Result<(), Box<dyn std::error::Error>> {
//! use littoral_runtime::http::{HttpFunction, HttpSettings};
//! use littoral_runtime::{Runtime, RuntimeOptions};
//!
//! let runtime = Runtime::new(RuntimeOptions { cache_dir: Some("/var/cache/littoral".into()), ..Default::default() })?;
//! let artifact = runtime.load(bytes).await?;
//! let function = HttpFunction::new(&runtime, &artifact, HttpSettings::default())?;
//! # Ok(())
//! # }
//! ```

mod background;
mod bodies;
pub mod container;
pub mod http;
pub mod interfaces;
pub mod latency;
mod linger;
pub mod pool;
pub mod shards;

pub use littoral_runtime_wasm::{command, composition, fabric, preview1, user_function};

/// Instances of the world `littoral:flow/stage`.
pub mod stage {
    pub use littoral_runtime_wasm::stage::{Port, Rejection, Stage, StageError, StageOutput, StageSettings};
}

pub use background::Background;
pub use littoral_runtime_wasm::{
    Access, Artifact, CompileFailure, CompilerProcess, Denied, Directory, Discard, Fault, GuestOutput, Limits,
    LoadError, LogSink, LogStream, StartError, Usage, UsageTotals, Wasm as Runtime, WasmOptions as RuntimeOptions,
    compile_here,
};
pub use shards::Shards;
