//! Components that are ready to run: compiled, linked, and known by their digest.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use bytes::Bytes;
use wasmtime::component::Component;
use wasmtime_wasi_http::p2::bindings::ProxyPre;

use crate::engine::Wasm;
use crate::host::Host;
use crate::native;
use crate::stage::bindings::StagePre;

/// The most that a component may have in bytes: interpreters with a language's library have some forty megabytes.
pub(crate) const COMPONENT_BYTES_MAX: usize = 64 << 20;
/// Past so many digests, those that nothing uses any more are forgotten.
const DIGESTS_KEPT: usize = 1_024;

/// Why a component cannot be run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// Too large.
    #[error("the component has {0} bytes; at most {COMPONENT_BYTES_MAX} are run: strip debug information from it")]
    TooLarge(usize),
    /// Not a component.
    #[error("it is no valid WebAssembly component: {0}")]
    Invalid(String),
    /// It imports what this node does not offer.
    #[error("it needs an interface that this node does not offer: {0}")]
    Import(String),
    /// It exports nothing that can be called.
    #[error("it exports neither `wasi:http/incoming-handler@0.2` nor `littoral:flow/processor@0.1` ({0})")]
    World(String),
    /// The engine is shutting down.
    #[error("the WebAssembly engine was stopped")]
    Stopped,
}

/// A component that is ready to run.
pub struct Artifact {
    digest: String,
    stage: Option<StagePre<Host>>,
    handler: Option<ProxyPre<Host>>,
}

impl Artifact {
    /// The SHA-256 of the component, as 64 lower-case hexadecimal digits.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Whether it is a stage of a flow.
    #[must_use]
    pub fn is_stage(&self) -> bool {
        self.stage.is_some()
    }

    /// Whether it answers HTTP requests.
    #[must_use]
    pub fn is_handler(&self) -> bool {
        self.handler.is_some()
    }

    pub(crate) fn stage(&self) -> Option<&StagePre<Host>> {
        self.stage.as_ref()
    }

    pub(crate) fn handler(&self) -> Option<&ProxyPre<Host>> {
        self.handler.as_ref()
    }

    fn link(wasm: &Wasm, digest: String, component: &Component) -> Result<Self, LoadError> {
        let pre = wasm.linker().instantiate_pre(component).map_err(|error| LoadError::Import(format!("{error:#}")))?;
        let stage = StagePre::new(pre.clone());
        let handler = ProxyPre::new(pre);
        if let (Err(stage), Err(handler)) = (&stage, &handler) {
            return Err(LoadError::World(format!("{handler}; {stage}")));
        }
        Ok(Self { digest, stage: stage.ok(), handler: handler.ok() })
    }
}

impl std::fmt::Debug for Artifact {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Artifact").field("digest", &self.digest).finish_non_exhaustive()
    }
}

/// The artefacts in use, so that each is compiled and held once.
#[derive(Default)]
pub(crate) struct Artifacts(Mutex<HashMap<String, Arc<Slot>>>);

/// Locked while the artefact is being made.
type Slot = tokio::sync::Mutex<Weak<Artifact>>;

impl Artifacts {
    pub(crate) async fn load(&self, wasm: &Wasm, bytes: Bytes) -> Result<Arc<Artifact>, LoadError> {
        if bytes.len() > COMPONENT_BYTES_MAX {
            return Err(LoadError::TooLarge(bytes.len()));
        }
        let digest = sha256(&bytes);
        let slot = self.slot(&digest);
        let mut slot = slot.lock().await;
        if let Some(artifact) = slot.upgrade() {
            return Ok(artifact);
        }
        let name = format!("{digest}-{}", wasm.compatibility());
        let component = match from_cache(wasm, name.clone()).await {
            Some(component) => component,
            None => wasm.compiler().compile(bytes, name).await?,
        };
        let artifact = Arc::new(Artifact::link(wasm, digest, &component)?);
        *slot = Arc::downgrade(&artifact);
        Ok(artifact)
    }

    fn slot(&self, digest: &str) -> Arc<Slot> {
        let mut slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if slots.len() >= DIGESTS_KEPT {
            let unused = |slot: &Arc<Slot>| slot.try_lock().is_ok_and(|artifact| artifact.strong_count() == 0);
            slots.retain(|_, slot| Arc::strong_count(slot) > 1 || !unused(slot));
        }
        Arc::clone(slots.entry(digest.to_owned()).or_default())
    }
}

async fn from_cache(wasm: &Wasm, name: String) -> Option<Component> {
    let cache = Arc::clone(wasm.cache()?);
    let engine = wasm.engine().clone();
    let load = move || {
        let code = cache.read(&name)?;
        match native::deserialize(&engine, &code) {
            Ok(component) => Some(component),
            Err(error) => {
                tracing::warn!(%error, name, "a file of the artefact cache was refused; compiling anew");
                None
            }
        }
    };
    tokio::task::spawn_blocking(load).await.ok().flatten()
}

fn sha256(bytes: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    digest.as_ref().iter().fold(String::with_capacity(64), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
