//! Components that are ready to run: compiled, linked, and known by their digest.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use bytes::Bytes;
use wasmparser::{CanonicalFunction, CanonicalOption, Parser, Payload};
use wasmtime::Engine;
use wasmtime::component::{Component, Linker};
use wasmtime_wasi_http::p2::bindings as p2;
use wasmtime_wasi_http::p3::bindings as p3;

use crate::compiler;
use crate::composition::{self, Exports, Interfaces, Linking};
use crate::engine::{Concurrency, Wasm};
use crate::fabric::bindings::typed::TypedPre;
use crate::host::Host;
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
    /// It imports an interface of another function, and nothing says of which.
    #[error("it imports `{0}` from another function: deploy it in an app with a function that exports it")]
    Unlinked(String),
    /// It exports nothing that can be called.
    #[error(
        "it exports none of `wasi:http/incoming-handler@0.2`, `wasi:http/handler@0.3`, `wasi:cli/run`, `littoral:flow/processor@0.1` and `littoral:fabric/handler@0.1`, no interface for other functions, and no function for expressions ({0})"
    )]
    World(String),
    /// The engine is shutting down.
    #[error("the WebAssembly engine was stopped")]
    Stopped,
}

/// A component that is ready to run.
pub struct Artifact {
    digest: String,
    concurrency: Concurrency,
    stage: Option<StagePre<Host>>,
    handler: Option<HandlerPre>,
    command: Option<CommandPre>,
    exports: Option<Exports>,
    /// Set while its imports of other functions' interfaces are not linked; then it can do nothing else than be linked.
    unlinked: Option<Unlinked>,
    /// What it was linked from.
    _origin: Option<Arc<Artifact>>,
}

/// A component that imports what only other functions of its app export.
struct Unlinked {
    component: Component,
    interfaces: Interfaces,
}

/// A command, ready to be instantiated.
pub(crate) enum CommandPre {
    /// Of `wasi:cli` 0.2.
    Sequential(wasmtime_wasi::p2::bindings::CommandPre<Host>),
    /// Of `wasi:cli` 0.3.
    Concurrent(wasmtime_wasi::p3::bindings::CommandPre<Host>),
}

/// A component that answers requests, ready to be instantiated.
pub(crate) enum HandlerPre {
    /// By `wasi:http/incoming-handler` 0.2.
    Fresh(p2::ProxyPre<Host>),
    /// By `wasi:http/handler` 0.3.
    Reused(p3::ServicePre<Host>),
    /// By `littoral:fabric/handler`.
    Typed(TypedPre<Host>),
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

    /// Whether it answers requests, of HTTP or without.
    #[must_use]
    pub fn is_handler(&self) -> bool {
        self.handler.is_some()
    }

    /// Whether it is a command, to be run once.
    #[must_use]
    pub fn is_command(&self) -> bool {
        self.command.is_some()
    }

    /// Whether it exports interfaces for other functions.
    #[must_use]
    pub fn is_exporter(&self) -> bool {
        self.exports.as_ref().is_some_and(Exports::has_interfaces)
    }

    /// The interfaces that it imports from other functions, if these are not linked yet: see [`Artifact::linked`].
    #[must_use]
    pub fn lacks(&self) -> Vec<&str> {
        let lacking = self.unlinked.iter().flat_map(|unlinked| &unlinked.interfaces.imports);
        lacking.filter(|(_, interface)| !interface.functions.is_empty()).map(|(name, _)| name.as_str()).collect()
    }

    /// The same component with its imports linked. It is compiled once, however many functions it is linked for.
    ///
    /// # Errors
    /// When `linking` does not say whose an import is, or the component cannot be used otherwise.
    pub fn linked(self: &Arc<Self>, wasm: &Wasm, linking: &Linking) -> Result<Arc<Self>, LoadError> {
        let Some(Unlinked { component, interfaces }) = &self.unlinked else { return Ok(Arc::clone(self)) };
        let mut linker = wasm.flavor(self.concurrency).linker.clone();
        composition::link(&mut linker, interfaces, linking)?;
        let linked = Self::link(self.digest.clone(), self.concurrency, component, &linker, interfaces)?;
        // Held, so that who loads the same component again finds it in memory.
        Ok(Arc::new(Self { _origin: Some(Arc::clone(self)), ..linked }))
    }

    /// What it exports of its own, if anything.
    pub(crate) fn exports(&self) -> Option<&Exports> {
        self.exports.as_ref()
    }

    pub(crate) fn command(&self) -> Option<&CommandPre> {
        self.command.as_ref()
    }

    pub(crate) fn stage(&self) -> Option<&StagePre<Host>> {
        self.stage.as_ref()
    }

    pub(crate) fn handler(&self) -> Option<&HandlerPre> {
        self.handler.as_ref()
    }

    pub(crate) fn concurrency(&self) -> Concurrency {
        self.concurrency
    }

    /// Links what needs nothing of other functions; what does is kept for [`Artifact::linked`].
    fn new(
        wasm: &Wasm,
        digest: String,
        concurrency: Concurrency,
        component: Component,
        interfaces: Interfaces,
    ) -> Result<Self, LoadError> {
        if interfaces.imports.values().all(|interface| interface.functions.is_empty()) {
            return Self::link(digest, concurrency, &component, &wasm.flavor(concurrency).linker, &interfaces);
        }
        let unlinked = Some(Unlinked { component, interfaces });
        let (stage, handler, command, exports) = (None, None, None, None);
        Ok(Self { digest, concurrency, stage, handler, command, exports, unlinked, _origin: None })
    }

    fn link(
        digest: String,
        concurrency: Concurrency,
        component: &Component,
        linker: &Linker<Host>,
        interfaces: &Interfaces,
    ) -> Result<Self, LoadError> {
        let pre = linker.instantiate_pre(component).map_err(|error| LoadError::Import(format!("{error:#}")))?;
        let exports = Exports::new(interfaces, component, &pre);
        let stage = StagePre::new(pre.clone());
        let typed = TypedPre::new(pre.clone()).ok();
        let fresh = p2::ProxyPre::new(pre.clone());
        let sequential_command = wasmtime_wasi::p2::bindings::CommandPre::new(pre.clone()).ok();
        let (reused, concurrent_command) = match concurrency {
            Concurrency::Sequential => (None, None),
            Concurrency::Concurrent => {
                (p3::ServicePre::new(pre.clone()).ok(), wasmtime_wasi::p3::bindings::CommandPre::new(pre).ok())
            }
        };
        let command = concurrent_command.map(CommandPre::Concurrent);
        let command = command.or_else(|| sequential_command.map(CommandPre::Sequential));
        if let (Err(stage), Err(fresh), None, None, None, None) = (&stage, &fresh, &reused, &typed, &command, &exports)
        {
            return Err(LoadError::World(format!("{fresh}; {stage}")));
        }
        let handler = reused.map(HandlerPre::Reused).or_else(|| fresh.ok().map(HandlerPre::Fresh));
        let handler = handler.or_else(|| typed.map(HandlerPre::Typed));
        Ok(Self { digest, concurrency, stage: stage.ok(), handler, command, exports, unlinked: None, _origin: None })
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
        let examined = bytes.clone();
        let examine = move || Ok((concurrency_of(&examined)?, composition::interfaces(&examined)?));
        let examined = tokio::task::spawn_blocking(examine).await.map_err(|_| LoadError::Stopped)?;
        let (concurrency, interfaces) = examined?;
        let flavor = wasm.flavor(concurrency);
        let name = format!("{digest}-{}", flavor.recipe.compatibility);
        let component = match from_cache(wasm, flavor.engine.clone(), name.clone()).await {
            Some(component) => component,
            None => wasm.compiler().compile(flavor, bytes, name).await?,
        };
        let artifact = Arc::new(Artifact::new(wasm, digest, concurrency, component, interfaces)?);
        *slot = Arc::downgrade(&artifact);
        Ok(artifact)
    }

    /// What is in use already.
    pub(crate) fn held(&self, digest: &str) -> Option<Arc<Artifact>> {
        let slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        slots.get(digest)?.try_lock().ok()?.upgrade()
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

/// Whether a component uses the concurrency of WASI 0.3: it imports or exports one of its interfaces, or lifts or lowers
/// a function asynchronously.
fn concurrency_of(component: &[u8]) -> Result<Concurrency, LoadError> {
    let invalid = |error: wasmparser::BinaryReaderError| LoadError::Invalid(error.to_string());
    let of_wasi_03 = |name: &str| name.starts_with("wasi:") && name.contains("@0.3.");
    let is_async = |options: &[CanonicalOption]| options.contains(&CanonicalOption::Async);
    for payload in Parser::new(0).parse_all(component) {
        let uses_it = match payload.map_err(invalid)? {
            Payload::ComponentImportSection(imports) => {
                let mut imports = imports.into_iter().filter_map(Result::ok);
                imports.any(|import| of_wasi_03(import.name.name))
            }
            Payload::ComponentExportSection(exports) => {
                let mut exports = exports.into_iter().filter_map(Result::ok);
                exports.any(|export| of_wasi_03(export.name.name))
            }
            Payload::ComponentCanonicalSection(functions) => {
                functions.into_iter().filter_map(Result::ok).any(|function| match function {
                    CanonicalFunction::Lift { options, .. } | CanonicalFunction::Lower { options, .. } => {
                        is_async(&options)
                    }
                    _ => false,
                })
            }
            _ => false,
        };
        if uses_it {
            return Ok(Concurrency::Concurrent);
        }
    }
    Ok(Concurrency::Sequential)
}

async fn from_cache(wasm: &Wasm, engine: Engine, name: String) -> Option<Component> {
    let cache = Arc::clone(wasm.cache()?);
    let load = move || compiler::load(&engine, &cache, &name);
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
