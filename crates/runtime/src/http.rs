//! Functions that answer HTTP requests.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Instant;

use ::http::header::{CONTENT_TYPE, RETRY_AFTER};
use ::http::{HeaderValue, Request, Response, StatusCode};
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use http_body_util::{BodyExt, Full};
use littoral_runtime_wasm::handler::{Handler, HandlerSettings};
use littoral_runtime_wasm::{Access, Artifact, Discard, Fault, Limits, LogSink};
use metrics::{Counter, Histogram};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

pub use littoral_runtime_wasm::handler::{Body, BodyError};

use crate::latency::{Latency, Quantiles};

use crate::Runtime;

/// How many requests of one function run at once unless its settings say otherwise.
pub const CONCURRENCY_DEFAULT: usize = 256;

/// How to run a function.
#[derive(Clone)]
pub struct HttpSettings {
    /// Its name in metrics and messages, `tenant/app/function`.
    pub name: String,
    /// What each request may use; the timeout covers a request from its start to the end of its response.
    pub limits: Limits,
    /// How many requests may run at once; more are answered with 503.
    pub concurrency_max: usize,
    /// Environment variables.
    pub environment: Vec<(String, String)>,
    /// What it may reach.
    pub access: Arc<Access>,
    /// Where its output goes.
    pub logs: Arc<dyn LogSink>,
}

impl Default for HttpSettings {
    fn default() -> Self {
        Self {
            name: "function".to_owned(),
            limits: Limits::default(),
            concurrency_max: CONCURRENCY_DEFAULT,
            environment: Vec::new(),
            access: Arc::default(),
            logs: Arc::new(Discard),
        }
    }
}

/// A function that answers HTTP requests, each with a fresh instance on the thread that calls.
#[derive(Debug)]
pub struct HttpFunction {
    name: String,
    handler: Handler,
    running: Arc<Semaphore>,
    answered: Counter,
    failed: Counter,
    duration: Histogram,
    seen: Mutex<Seen>,
}

/// What was measured of a function.
#[derive(Debug, Default)]
struct Seen {
    errors: u64,
    latency: Latency,
    last_error: Option<String>,
}

/// What was measured of a function since it was started.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HttpStats {
    /// How many calls failed, those without room among them.
    pub errors: u64,
    /// How long calls took until their response began.
    pub latency: Quantiles,
    /// What the last failure said.
    pub last_error: Option<String>,
}

impl HttpStats {
    /// Both together: counts add up, and of the latencies those of the slower are shown.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        let slower = if self.latency.p95_us >= other.latency.p95_us { self.latency } else { other.latency };
        let latency = Quantiles { count: self.latency.count + other.latency.count, ..slower };
        Self { errors: self.errors + other.errors, latency, last_error: self.last_error.or(other.last_error) }
    }
}

impl HttpFunction {
    /// A function of this component.
    ///
    /// # Errors
    /// When the component does not answer HTTP requests.
    pub fn new(runtime: &Runtime, artifact: &Arc<Artifact>, settings: HttpSettings) -> Result<Self, Fault> {
        let HttpSettings { name, limits, concurrency_max, environment, access, logs } = settings;
        let handler = Handler::new(
            runtime,
            artifact,
            HandlerSettings { limits, environment, access, logs, ..HandlerSettings::default() },
        )?;
        let labels = |outcome: &'static str| [("function", name.clone()), ("outcome", outcome.to_owned())];
        Ok(Self {
            handler,
            running: Arc::new(Semaphore::new(concurrency_max.min(Semaphore::MAX_PERMITS))),
            answered: metrics::counter!("littoral_function_calls_total", &labels("answered")),
            failed: metrics::counter!("littoral_function_calls_total", &labels("failed")),
            duration: metrics::histogram!("littoral_function_seconds", "function" => name.clone()),
            seen: Mutex::default(),
            name,
        })
    }

    /// The name in its settings.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What was measured so far.
    #[must_use]
    pub fn stats(&self) -> HttpStats {
        let seen = self.seen();
        HttpStats { errors: seen.errors, latency: seen.latency.quantiles(), last_error: seen.last_error.clone() }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note_failure(&self, fault: &Fault) {
        self.failed.increment(1);
        let mut seen = self.seen();
        seen.errors += 1;
        seen.last_error = Some(fault.to_string());
    }

    /// Answers a request. Whatever goes wrong becomes a response with a readable cause: 504 if its time ran out, 503 if
    /// there is no room, else 500. If it goes wrong after the response began, the body breaks off.
    pub async fn call(&self, request: Request<Body>) -> Response<Body> {
        let Ok(permit) = Arc::clone(&self.running).try_acquire_owned() else {
            self.note_failure(&Fault::Busy);
            return fault_response(&self.name, &Fault::Busy);
        };
        let begun = Instant::now();
        let outcome = self.handler.call(request).await;
        let elapsed = begun.elapsed();
        self.duration.record(elapsed.as_secs_f64());
        self.seen().latency.record(elapsed, 1);
        match outcome {
            Ok(response) => {
                self.answered.increment(1);
                response.map(|body| Held { body, _permit: permit }.boxed_unsync())
            }
            Err(fault) => {
                self.note_failure(&fault);
                tracing::warn!(function = %self.name, %fault, "a function failed");
                fault_response(&self.name, &fault)
            }
        }
    }
}

/// A response that tells the client what went wrong: `{"error": kind, "function": name, "message": text}`.
#[must_use]
pub fn fault_response(function: &str, fault: &Fault) -> Response<Body> {
    let (status, kind) = match fault {
        Fault::Trap { .. } => (StatusCode::INTERNAL_SERVER_ERROR, "trap"),
        Fault::Timeout { .. } => (StatusCode::GATEWAY_TIMEOUT, "timeout"),
        Fault::Memory { .. } => (StatusCode::INTERNAL_SERVER_ERROR, "memory"),
        Fault::Rejected { .. } => (StatusCode::INTERNAL_SERVER_ERROR, "rejected"),
        Fault::Setup { .. } => (StatusCode::INTERNAL_SERVER_ERROR, "setup"),
        Fault::Protocol { .. } | Fault::Gone => (StatusCode::INTERNAL_SERVER_ERROR, "protocol"),
        Fault::Input { .. } => (StatusCode::BAD_REQUEST, "input"),
        Fault::Composed { is_late: false, .. } => (StatusCode::BAD_GATEWAY, "composed"),
        Fault::Composed { is_late: true, .. } => (StatusCode::GATEWAY_TIMEOUT, "timeout"),
        Fault::Busy => (StatusCode::SERVICE_UNAVAILABLE, "busy"),
    };
    let body = serde_json::json!({ "error": kind, "function": function, "message": fault.to_string() });
    let mut response = Response::new(full(format!("{body}\n")));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if status == StatusCode::SERVICE_UNAVAILABLE {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

/// A body that is known whole.
#[must_use]
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A body that counts as a running request until it is done.
struct Held {
    body: Body,
    _permit: OwnedSemaphorePermit,
}

impl http_body::Body for Held {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
