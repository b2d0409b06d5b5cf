//! Components that answer HTTP requests: the world `wasi:http/proxy` 0.2, a fresh instance for each request.
//!
//! What a guest sees is what `wasmtime serve` 48 shows it, so that a component made for the one runs on the other.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use wasmtime::Store;
use wasmtime_wasi_http::WasiHttpView;
use wasmtime_wasi_http::p2::bindings::ProxyPre;
use wasmtime_wasi_http::p2::bindings::http::types::{ErrorCode, Scheme};
use wasmtime_wasi_http::p2::body::HyperOutgoingBody;

use crate::artifact::Artifact;
use crate::engine::Wasm;
use crate::fault::Fault;
use crate::host::{Host, Limits};
use crate::logs::{Discard, LogSink};
use crate::stage::within;

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

/// How to run a handler.
#[derive(Clone)]
pub struct HandlerSettings {
    /// What each request's instance may use; the timeout covers the request from its start to the end of its response.
    pub limits: Limits,
    /// Its environment variables.
    pub environment: Vec<(String, String)>,
    /// Where its output goes.
    pub logs: Arc<dyn LogSink>,
}

impl Default for HandlerSettings {
    fn default() -> Self {
        Self { limits: Limits::default(), environment: Vec::new(), logs: Arc::new(Discard) }
    }
}

/// Answers requests with a component.
pub struct Handler {
    wasm: Wasm,
    pre: ProxyPre<Host>,
    settings: HandlerSettings,
}

impl Handler {
    /// A handler of this component.
    ///
    /// # Errors
    /// When it exports no `wasi:http/incoming-handler`.
    pub fn new(wasm: &Wasm, artifact: &Artifact, settings: HandlerSettings) -> Result<Self, Fault> {
        let Some(pre) = artifact.handler() else {
            return Err(Fault::Protocol { reason: "it exports no `wasi:http/incoming-handler@0.2`".to_owned() });
        };
        Ok(Self { wasm: wasm.clone(), pre: pre.clone(), settings })
    }

    /// What each request's instance may use.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.settings.limits
    }

    /// Answers one request; the guest runs on the tokio runtime that polls this. It ends when it is done, when its time
    /// is up, or when the answer's body (before that, this future) is dropped unfinished.
    ///
    /// # Errors
    /// When the guest fails before it has begun its response. If it fails later, the body breaks off.
    pub async fn call(&self, request: Request<Body>) -> Result<Response<Body>, Fault> {
        let settings = &self.settings;
        let mut store = Host::store(self.wasm.engine(), settings.limits, &settings.environment, &settings.logs);
        let deadline = Host::begin(&mut store);
        let (sender, receiver) = oneshot::channel();
        let scheme = match request.uri().scheme_str() {
            Some("https") => Scheme::Https,
            _ => Scheme::Http,
        };
        let mut http = store.data_mut().http();
        let resources = http.new_incoming_request(scheme, request).and_then(|incoming| {
            let outparam = http.new_response_outparam(sender)?;
            Ok((incoming, outparam))
        });
        let (incoming, outparam) = match resources {
            Ok(resources) => resources,
            Err(error) => return Err(Fault::Input { reason: error.to_string() }),
        };
        let ticking = self.wasm.tick();
        let pre = self.pre.clone();
        let run = async move {
            let _ticking = ticking;
            run(store, deadline, &pre, incoming, outparam).await
        };
        let mut guest = Guest { task: tokio::spawn(run), released: false };
        match receiver.await {
            Ok(Ok(response)) => Ok(response.map(|body| guarded(body, guest))),
            Ok(Err(code)) => {
                Err(Fault::Rejected { reason: format!("the handler answered with the error {}", error_name(&code)) })
            }
            // The sender went with the guest, which ended without an answer.
            Err(_) => match (&mut guest.task).await {
                Ok(Ok(())) => Err(Fault::Protocol { reason: "it returned without setting a response".to_owned() }),
                Ok(Err(fault)) => Err(fault),
                Err(error) => Err(Fault::Trap { cause: error.to_string() }),
            },
        }
    }
}

impl std::fmt::Debug for Handler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handler").field("limits", &self.settings.limits).finish_non_exhaustive()
    }
}

type Incoming = wasmtime::component::Resource<wasmtime_wasi_http::p2::types::HostIncomingRequest>;
type Outparam = wasmtime::component::Resource<wasmtime_wasi_http::p2::types::HostResponseOutparam>;

async fn run(
    mut store: Store<Host>,
    deadline: Instant,
    pre: &ProxyPre<Host>,
    incoming: Incoming,
    outparam: Outparam,
) -> Result<(), Fault> {
    let outcome = within(deadline, async {
        let proxy = pre.instantiate_async(&mut store).await?;
        proxy.wasi_http_incoming_handler().call_handle(&mut store, incoming, outparam).await
    });
    let outcome = outcome.await;
    outcome.map_err(|error| {
        let fault = Fault::new(&error, store.data());
        store.data().report(&fault.to_string());
        fault
    })
}

fn error_name(code: &ErrorCode) -> String {
    match code {
        ErrorCode::InternalError(Some(reason)) => format!("internal-error: {reason}"),
        other => format!("{other:?}"),
    }
}

/// A guest's task, which ends with this.
struct Guest {
    task: JoinHandle<Result<(), Fault>>,
    released: bool,
}

impl Drop for Guest {
    fn drop(&mut self) {
        if !self.released {
            self.task.abort();
        }
    }
}

/// An empty body is never polled, so its guest is let go at once.
fn guarded(body: HyperOutgoingBody, mut guest: Guest) -> Body {
    guest.released = body.is_end_stream();
    GuestBody { body, guest }.boxed_unsync()
}

/// A response's body, which keeps its guest alive; once it is complete, the guest may go on to its end alone.
struct GuestBody {
    body: HyperOutgoingBody,
    guest: Guest,
}

impl http_body::Body for GuestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match Pin::new(&mut self.body).poll_frame(context) {
            Poll::Ready(None) => {
                self.guest.released = true;
                Poll::Ready(None)
            }
            Poll::Ready(Some(frame)) => {
                self.guest.released |= self.body.is_end_stream();
                Poll::Ready(Some(frame.map_err(|error| BodyError::Broken(error.to_string()))))
            }
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
