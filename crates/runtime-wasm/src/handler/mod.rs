//! Components that answer HTTP requests: `wasi:http/proxy` 0.2, a fresh instance for each request (`fresh`, made by
//! `instances`), and
//! `wasi:http/service` 0.3, whose instances answer several (`reused`). And those of our own that are called without HTTP
//! (`typed`), which answer requests all the same.
//!
//! What a guest sees is what `wasmtime serve` 48 shows it, so that a component made for the one runs on the other.

mod fresh;
mod instances;
mod reused;
mod typed;

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;

use self::fresh::Fresh;
use self::instances::Instances;
use self::reused::Reused;
use self::typed::Typed;
use crate::access::Access;
use crate::artifact::{Artifact, HandlerPre};
use crate::engine::Wasm;
use crate::fabric::Surroundings;
use crate::fault::Fault;
use crate::host::Setup;
use crate::limits::Limits;
use crate::logs::{Discard, LogSink};
use crate::meter::{Meter, Usage};

/// A body of a request or a response, streaming.
pub type Body = UnsyncBoxBody<Bytes, BodyError>;

/// Why a body broke off.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// It is longer than it may be.
    #[error("the body has more than {limit_bytes} bytes")]
    TooLarge {
        /// How long it may be.
        limit_bytes: u64,
    },
    /// The other side went away, or the guest failed.
    #[error("the body broke off: {0}")]
    Broken(String),
}

impl From<BodyError> for wasmtime_wasi_http::Error {
    fn from(error: BodyError) -> Self {
        match error {
            BodyError::TooLarge { limit_bytes } => Self::HttpRequestBodySize(Some(limit_bytes)),
            BodyError::Broken(_) => Self::InternalError(Some(error.to_string())),
        }
    }
}

/// How long an instance of a component of WASI 0.3 may serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reuse {
    /// How many requests it answers before a fresh one takes its place.
    pub requests_max: usize,
    /// How many it answers at once.
    pub concurrency_max: usize,
    /// How long it waits for another one.
    pub idle: Duration,
}

impl Default for Reuse {
    /// 1,000 requests, so that what an instance leaks stays small and what it costs to make one vanishes; 16 at once, which
    /// share its memory limit; a second, which spans the gaps of steady traffic.
    fn default() -> Self {
        Self { requests_max: 1_000, concurrency_max: 16, idle: Duration::from_secs(1) }
    }
}

/// How to run a handler.
#[derive(Clone)]
pub struct HandlerSettings {
    /// What each instance may use; the timeout covers a request from its start to the end of its response.
    pub limits: Limits,
    /// How long an instance serves, if the component is of WASI 0.3.
    pub reuse: Reuse,
    /// Its environment variables.
    pub environment: Vec<(String, String)>,
    /// What it may reach.
    pub access: Arc<Access>,
    /// What lies around it.
    pub surroundings: Arc<Surroundings>,
    /// Where its output goes.
    pub logs: Arc<dyn LogSink>,
    /// Where what its instances use is counted: CPU time and memory. Calls and bytes are counted by who calls.
    pub usage: Arc<Usage>,
}

impl HandlerSettings {
    fn setup<'a>(&'a self, meter: &'a Meter) -> Setup<'a> {
        Setup {
            limits: self.limits,
            meter,
            command: None,
            environment: &self.environment,
            access: &self.access,
            surroundings: &self.surroundings,
            logs: &self.logs,
        }
    }
}

impl Default for HandlerSettings {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            reuse: Reuse::default(),
            environment: Vec::new(),
            access: Arc::default(),
            surroundings: Arc::default(),
            logs: Arc::new(Discard),
            usage: Arc::default(),
        }
    }
}

/// An extension of a request: what is let go of only when its guest has ended, which may go on when its response is
/// complete. For components of WASI 0.2; an instance of 0.3 goes on for other requests anyway.
#[derive(Clone)]
pub struct Held(pub Arc<dyn Any + Send + Sync>);

/// Answers requests with a component.
pub struct Handler {
    limits: Limits,
    /// Held, so that who loads the same component again finds it in memory.
    _artifact: Arc<Artifact>,
    by: By,
}

enum By {
    Fresh(Fresh),
    Reused(Reused),
    Typed(Typed),
}

impl Handler {
    /// A handler of this component.
    ///
    /// # Errors
    /// When it exports none of `wasi:http/incoming-handler` 0.2, `wasi:http/handler` 0.3 and `littoral:fabric/handler`.
    pub fn new(wasm: &Wasm, artifact: &Arc<Artifact>, settings: HandlerSettings) -> Result<Self, Fault> {
        let limits = settings.limits;
        let by = match artifact.handler() {
            None => {
                let reason = "it exports none of `wasi:http/incoming-handler@0.2`, `wasi:http/handler@0.3` and \
                              `littoral:fabric/handler@0.1`";
                return Err(Fault::Protocol { reason: reason.to_owned() });
            }
            Some(HandlerPre::Fresh(pre)) => {
                By::Fresh(Fresh::new(Instances::new(wasm.clone(), artifact.concurrency(), pre.clone(), settings)))
            }
            Some(HandlerPre::Reused(pre)) => By::Reused(Reused::new(wasm.clone(), pre.clone(), settings)),
            Some(HandlerPre::Typed(pre)) => {
                By::Typed(Typed::new(Instances::new(wasm.clone(), artifact.concurrency(), pre.clone(), settings)))
            }
        };
        Ok(Self { limits, _artifact: Arc::clone(artifact), by })
    }

    /// What each instance may use.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Answers one request; the guest runs on the tokio runtime that polls this. It ends when it is done, when its time
    /// is up, or when the answer's body (before that, this future) is dropped unfinished.
    ///
    /// # Errors
    /// When the guest fails before it has begun its response. If it fails later, the body breaks off.
    pub async fn call(&self, request: Request<Body>) -> Result<Response<Body>, Fault> {
        match &self.by {
            By::Fresh(fresh) => fresh.call(request).await,
            By::Reused(reused) => reused.call(request).await,
            By::Typed(typed) => typed.call(request).await,
        }
    }
}

impl std::fmt::Debug for Handler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handler").field("limits", &self.limits).finish_non_exhaustive()
    }
}
