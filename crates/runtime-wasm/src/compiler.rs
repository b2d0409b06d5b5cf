//! Compiles components, one after the other, on a thread of the lowest priority, so that a deployment does not slow
//! down what is being served.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use wasmtime::Engine;
use wasmtime::component::Component;

use crate::artifact::LoadError;
use crate::cache::Cache;

/// How many components may wait; a caller beyond that waits to be let in.
const QUEUE_MAX: usize = 16;
/// The lowest priority there is.
const NICE: i32 = 19;

/// The way to the compiling thread; it ends when this is dropped and the last component is done.
pub(crate) struct Compiler(mpsc::Sender<Job>);

struct Job {
    engine: Engine,
    bytes: Bytes,
    /// The name in the cache.
    name: String,
    done: oneshot::Sender<Result<Component, LoadError>>,
}

impl Compiler {
    /// Starts the thread.
    pub(crate) fn start(cache: Option<Arc<Cache>>) -> std::io::Result<Self> {
        let (sender, mut jobs) = mpsc::channel::<Job>(QUEUE_MAX);
        std::thread::Builder::new().name("wasm-compile".to_owned()).spawn(move || {
            if let Err(error) = rustix::process::setpriority_process(None, NICE) {
                tracing::debug!(%error, "the compiling thread runs at ordinary priority");
            }
            while let Some(job) = jobs.blocking_recv() {
                // Whoever asked may have gone; the next who asks finds it in the cache.
                let _ = job.done.send(compile(&job.engine, cache.as_deref(), &job.bytes, &job.name));
            }
        })?;
        Ok(Self(sender))
    }

    /// Compiles a component and keeps it in the cache.
    pub(crate) async fn compile(&self, engine: Engine, bytes: Bytes, name: String) -> Result<Component, LoadError> {
        let (done, outcome) = oneshot::channel();
        self.0.send(Job { engine, bytes, name, done }).await.map_err(|_| LoadError::Stopped)?;
        outcome.await.map_err(|_| LoadError::Stopped)?
    }
}

fn compile(engine: &Engine, cache: Option<&Cache>, bytes: &[u8], name: &str) -> Result<Component, LoadError> {
    let component = Component::from_binary(engine, bytes).map_err(|error| LoadError::Invalid(format!("{error:#}")))?;
    let Some(cache) = cache else { return Ok(component) };
    let kept = match component.serialize() {
        Ok(code) => cache.write(name, &code).map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    if let Err(reason) = kept {
        tracing::warn!(%reason, "a compiled component could not be kept; it will be compiled again after a restart");
    }
    Ok(component)
}
