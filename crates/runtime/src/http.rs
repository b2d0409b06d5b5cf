//! Functions that answer HTTP requests.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use ::http::header::{CONTENT_TYPE, RETRY_AFTER};
use ::http::{HeaderValue, Request, Response, StatusCode};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use littoral_runtime_wasm::fabric::Surroundings;
use littoral_runtime_wasm::handler::{Handler, HandlerSettings};
use littoral_runtime_wasm::{Access, Artifact, CONCURRENCY_DEFAULT, Discard, Fault, Limits, LogSink, LogStream, Usage};
use metrics::{Counter, Histogram};
use tokio::sync::Semaphore;

pub use littoral_runtime_wasm::handler::{Body, BodyError};

use crate::Runtime;
use crate::bodies;
use crate::latency::{Latency, Quantiles};

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
    /// What lies around it.
    pub surroundings: Arc<Surroundings>,
    /// Where its output goes.
    pub logs: Arc<dyn LogSink>,
    /// Where what it uses is counted.
    pub usage: Arc<Usage>,
}

impl Default for HttpSettings {
    fn default() -> Self {
        Self {
            name: "function".to_owned(),
            limits: Limits::default(),
            concurrency_max: CONCURRENCY_DEFAULT as usize,
            environment: Vec::new(),
            access: Arc::default(),
            surroundings: Arc::default(),
            logs: Arc::new(Discard),
            usage: Arc::default(),
        }
    }
}

/// A function that answers HTTP requests, each on the thread that calls.
pub struct HttpFunction {
    name: String,
    handler: Handler,
    running: Arc<Semaphore>,
    concurrency_max: usize,
    usage: Arc<Usage>,
    answered: Counter,
    duration: Histogram,
    failures: Failures,
}

/// Where failures of a function are noted.
#[derive(Clone)]
struct Failures {
    failed: Counter,
    seen: Arc<Mutex<Seen>>,
    logs: Arc<dyn LogSink>,
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
    /// When the component does not answer requests.
    pub fn new(runtime: &Runtime, artifact: &Arc<Artifact>, settings: HttpSettings) -> Result<Self, Fault> {
        let HttpSettings { name, limits, concurrency_max, environment, access, surroundings, logs, usage } = settings;
        let concurrency_max = concurrency_max.min(Semaphore::MAX_PERMITS);
        let settings = HandlerSettings {
            limits,
            environment,
            access,
            surroundings,
            logs: Arc::clone(&logs),
            usage: Arc::clone(&usage),
            ..HandlerSettings::default()
        };
        let handler = Handler::new(runtime, artifact, settings)?;
        let labels = |outcome: &'static str| [("function", name.clone()), ("outcome", outcome.to_owned())];
        let failed = metrics::counter!("littoral_function_calls_total", &labels("failed"));
        Ok(Self {
            handler,
            running: Arc::new(Semaphore::new(concurrency_max)),
            concurrency_max,
            usage,
            answered: metrics::counter!("littoral_function_calls_total", &labels("answered")),
            duration: metrics::histogram!("littoral_function_seconds", "function" => name.clone()),
            failures: Failures { failed, seen: Arc::default(), logs },
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
        let seen = self.failures.seen();
        HttpStats { errors: seen.errors, latency: seen.latency.quantiles(), last_error: seen.last_error.clone() }
    }

    /// Answers a request. Whatever goes wrong becomes a response with a readable cause: 504 if its time ran out, 503 if
    /// there is no room, 413 if the request is too long, else 500. If it goes wrong after the response began, the body
    /// breaks off.
    pub async fn call(&self, request: Request<Body>) -> Response<Body> {
        match self.answer(request).await {
            Ok(response) => response,
            Err(fault) => {
                self.failures.note(&fault);
                tracing::warn!(function = %self.name, %fault, "a function failed");
                fault_response(&self.name, &fault)
            }
        }
    }

    async fn answer(&self, request: Request<Body>) -> Result<Response<Body>, Fault> {
        let permit = Arc::clone(&self.running).try_acquire_owned();
        let permit = permit.map_err(|_| Fault::Concurrency { limit: self.concurrency_max })?;
        let limits = self.handler.limits();
        self.usage.invoked();
        let (parts, body) = request.into_parts();
        let (body, exceeded) = bodies::incoming(body, limits.request_bytes, &self.usage)?;
        let begun = Instant::now();
        let outcome = self.handler.call(Request::from_parts(parts, body)).await;
        let elapsed = begun.elapsed();
        self.duration.record(elapsed.as_secs_f64());
        self.failures.seen().latency.record(elapsed, 1);
        // A guest that failed because its input broke off is not to blame, nor does it know the reason.
        let failed = |status: StatusCode| status.is_client_error() || status.is_server_error();
        if exceeded.get() && outcome.as_ref().map_or(true, |response| failed(response.status())) {
            return Err(Fault::RequestTooLarge { limit_bytes: limits.request_bytes });
        }
        let (parts, body) = outcome?.into_parts();
        let failures = self.failures.clone();
        let body =
            bodies::outgoing(body, limits.response_bytes, &self.usage, move |fault| failures.note(&fault), permit)?;
        self.answered.increment(1);
        Ok(Response::from_parts(parts, body))
    }
}

impl std::fmt::Debug for HttpFunction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HttpFunction").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Failures {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, fault: &Fault) {
        self.failed.increment(1);
        // What the guest itself did wrong, its instance has said.
        if matches!(fault, Fault::ResponseTooLarge { .. }) {
            self.logs.line(LogStream::Stderr, &fault.to_string());
        }
        let mut seen = self.seen();
        seen.errors += 1;
        seen.last_error = Some(fault.to_string());
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
        Fault::Cpu { .. } => (StatusCode::INTERNAL_SERVER_ERROR, "cpu"),
        Fault::Limit { .. } => (StatusCode::INTERNAL_SERVER_ERROR, "limit"),
        Fault::RequestTooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "too-large"),
        Fault::ResponseTooLarge { .. } => (StatusCode::INTERNAL_SERVER_ERROR, "response-too-large"),
        Fault::Composed { is_late: false, .. } => (StatusCode::BAD_GATEWAY, "composed"),
        Fault::Composed { is_late: true, .. } => (StatusCode::GATEWAY_TIMEOUT, "timeout"),
        Fault::Busy | Fault::Concurrency { .. } => (StatusCode::SERVICE_UNAVAILABLE, "busy"),
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
