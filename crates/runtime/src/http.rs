//! Functions that answer HTTP requests.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ::http::header::{CONTENT_TYPE, RETRY_AFTER};
use ::http::{HeaderValue, Request, Response, StatusCode};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use littoral_runtime_wasm::fabric::{Invocation, Surroundings};
use littoral_runtime_wasm::handler::{Handler, HandlerSettings, Held};
use littoral_runtime_wasm::{Access, Artifact, CONCURRENCY_DEFAULT, Discard, Fault, Limits, LogSink, LogStream, Usage};
use metrics::{Counter, Histogram};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

pub use littoral_runtime_wasm::handler::{Body, BodyError};

use crate::Runtime;
use crate::bodies;
use crate::container::{Client, Container};
use crate::latency::{Latency, Quantiles};
use crate::pool::{Lease, Pool};
use crate::shards::Shards;

/// Sees each invocation of a function that did not fail.
pub trait Observer: Send + Sync {
    /// One took so long until its response began. Called on a data-plane thread: it must not block.
    fn invoked(&self, input_bytes: u64, took: Duration);
}

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
    /// What learns from its invocations.
    pub observer: Option<Arc<dyn Observer>>,
    /// On which threads a component computes, if not on the one that calls.
    pub aside: Option<Shards>,
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
            observer: None,
            aside: None,
        }
    }
}

/// A function that answers HTTP requests, each on the thread that calls unless its settings say otherwise.
pub struct HttpFunction {
    name: String,
    engine: Engine,
    running: Arc<Semaphore>,
    concurrency_max: usize,
    usage: Arc<Usage>,
    observer: Option<Arc<dyn Observer>>,
    aside: Option<Shards>,
    answered: Counter,
    duration: Histogram,
    failures: Failures,
}

/// What has instances.
enum Engine {
    /// One that is always there.
    One(Instance),
    /// Some that come and go, all with the same limits.
    Pool(Arc<Pool<Instance>>, Limits),
    /// A component and a container, of which one answers.
    Variants(Box<Variants>),
}

struct Variants {
    component: Instance,
    containers: Arc<Pool<Instance>>,
    /// Whether the container answers.
    is_contained: AtomicBool,
    by_component: Answered,
    by_container: Answered,
}

/// What was answered so far.
#[derive(Debug, Default)]
struct Answered {
    calls: AtomicU64,
    took_us: AtomicU64,
    failed: AtomicU64,
    in_flight: AtomicU64,
}

/// What a variant of a function has answered so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct VariantStats {
    /// How many requests it has answered well.
    pub calls: u64,
    /// How long these took together until their responses began.
    pub took: Duration,
    /// How many requests failed, or were answered with a status of 500 or more.
    pub failed: u64,
    /// How many it has that are not answered yet.
    pub in_flight: u64,
}

/// A request that a variant has.
struct InFlight<'a>(&'a Answered);

impl<'a> InFlight<'a> {
    fn new(answered: &'a Answered) -> Self {
        answered.in_flight.fetch_add(1, Ordering::Relaxed);
        Self(answered)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What answers requests.
#[derive(Debug)]
pub struct Instance(Kind);

enum Kind {
    /// A component.
    Wasm(Arc<Handler>),
    /// A container of an image.
    Container(Client),
}

/// What a request holds until its guest has ended: its share of the function's concurrency, and of an instance that may go.
struct Holding {
    _permit: OwnedSemaphorePermit,
    lease: Option<Lease<Instance>>,
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
    outcomes: Outcomes,
    last_error: Option<String>,
}

/// What became of the requests that reached an instance.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Outcomes {
    /// How many there were.
    pub calls: u64,
    /// How many of them ended with a fault or were answered with a status of 500 or more.
    pub failed: u64,
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
    /// A function of this component, which stays loaded.
    ///
    /// # Errors
    /// When the component does not answer requests.
    pub fn new(runtime: &Runtime, artifact: &Arc<Artifact>, settings: HttpSettings) -> Result<Self, Fault> {
        Ok(Self::of(Engine::One(Instance::component(runtime, artifact, &settings)?), settings))
    }

    /// A function of a container that runs. Its environment, access and surroundings are those that the container was started with.
    #[must_use]
    pub fn of_container(container: Arc<Container>, settings: HttpSettings) -> Self {
        Self::of(Engine::One(Instance::container(container, settings.limits)), settings)
    }

    /// A function of instances that come and go: a request that finds none waits for one within its time. As many wait as are
    /// answered at once, together at most what the settings allow.
    #[must_use]
    pub fn of_pool(pool: Arc<Pool<Instance>>, settings: HttpSettings) -> Self {
        Self::of(Engine::Pool(pool, settings.limits), settings)
    }

    /// A function of a component and of containers that come and go. The component answers until
    /// [`HttpFunction::answer_by_container`] says otherwise.
    ///
    /// # Errors
    /// When the component does not answer requests.
    pub fn of_variants(
        runtime: &Runtime,
        artifact: &Arc<Artifact>,
        containers: Arc<Pool<Instance>>,
        settings: HttpSettings,
    ) -> Result<Self, Fault> {
        let variants = Variants {
            component: Instance::component(runtime, artifact, &settings)?,
            containers,
            is_contained: AtomicBool::new(false),
            by_component: Answered::default(),
            by_container: Answered::default(),
        };
        Ok(Self::of(Engine::Variants(Box::new(variants)), settings))
    }

    fn of(engine: Engine, settings: HttpSettings) -> Self {
        let HttpSettings { name, concurrency_max, logs, usage, observer, aside, .. } = settings;
        let concurrency_max = concurrency_max.min(Semaphore::MAX_PERMITS);
        let labels = |outcome: &'static str| [("function", name.clone()), ("outcome", outcome.to_owned())];
        let failed = metrics::counter!("littoral_function_calls_total", &labels("failed"));
        Self {
            engine,
            running: Arc::new(Semaphore::new(concurrency_max)),
            concurrency_max,
            usage,
            observer,
            aside,
            answered: metrics::counter!("littoral_function_calls_total", &labels("answered")),
            duration: metrics::histogram!("littoral_function_seconds", "function" => name.clone()),
            failures: Failures { failed, seen: Arc::default(), logs },
            name,
        }
    }

    /// The container that always answers, if one does.
    #[must_use]
    pub fn container(&self) -> Option<&Arc<Container>> {
        match &self.engine {
            Engine::One(Instance(Kind::Container(client))) => Some(client.container()),
            Engine::One(_) | Engine::Pool(..) | Engine::Variants(_) => None,
        }
    }

    /// Has its container answer what comes from now on, or its component. Requests that are under way stay where they are. Without effect
    /// on a function that is not both.
    pub fn answer_by_container(&self, is_contained: bool) {
        if let Engine::Variants(variants) = &self.engine {
            variants.is_contained.store(is_contained, Ordering::Release);
        }
    }

    /// What its component and its container have answered; nothing of a function that is not both.
    #[must_use]
    pub fn answered_by(&self) -> Option<[VariantStats; 2]> {
        let Engine::Variants(variants) = &self.engine else { return None };
        Some([&variants.by_component, &variants.by_container].map(Answered::so_far))
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

    /// What became of its requests so far.
    #[must_use]
    pub fn outcomes(&self) -> Outcomes {
        self.failures.seen().outcomes
    }

    /// How much CPU time a request has taken on average, on this node. What a container uses besides, for its start for instance, is in
    /// it, but it is no more than half of the requests lasted.
    #[must_use]
    pub fn mean_cpu(&self) -> Duration {
        let mean = self.usage.mean_cpu(self.in_flight() as u64);
        match &self.engine {
            Engine::One(Instance(Kind::Wasm(_))) => mean,
            _ => mean.min(Duration::from_micros(self.failures.seen().latency.quantiles().p50_us)),
        }
    }

    /// The longest that a request may take.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        self.engine.limits().timeout
    }

    /// How many requests it answers now.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.concurrency_max.saturating_sub(self.running.available_permits())
    }

    /// Whether it takes another request now.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.running.available_permits() > 0
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
        let limits = self.engine.limits();
        self.usage.invoked();
        let (parts, body) = request.into_parts();
        let input_bytes = http_body::Body::size_hint(&body).lower();
        let (body, exceeded) = bodies::incoming(body, limits.request_bytes, &self.usage)?;
        let begun = Instant::now();
        let mut request = Request::from_parts(parts, body);
        let pool = match &self.engine {
            Engine::One(_) => None,
            Engine::Pool(pool, _) => Some(pool),
            Engine::Variants(variants) => variants.is_contained.load(Ordering::Acquire).then_some(&variants.containers),
        };
        let lease = match (pool, &self.engine) {
            (None, _) => None,
            // Where no container can be had its component answers.
            (Some(pool), Engine::Variants(_)) => match lease(pool, limits, &mut request).await {
                Err(Fault::Unready { .. }) => None,
                leased => Some(leased?),
            },
            (Some(pool), _) => Some(lease(pool, limits, &mut request).await?),
        };
        let held = Arc::new(Holding { _permit: permit, lease });
        // A guest may go on when its response is complete.
        request.extensions_mut().insert(Held(Arc::<Holding>::clone(&held)));
        let instance = match (&self.engine, &held.lease) {
            (_, Some(lease)) => lease.instance(),
            (Engine::One(instance), None) => instance,
            (Engine::Variants(variants), None) => &variants.component,
            (Engine::Pool(..), None) => return Err(Fault::Gone),
        };
        let by = match &self.engine {
            Engine::Variants(variants) => Some(variants.answered_by(held.lease.is_some())),
            Engine::One(_) | Engine::Pool(..) => None,
        };
        let in_flight = by.map(InFlight::new);
        let outcome = instance.call(request, self.aside.as_ref()).await;
        let elapsed = begun.elapsed();
        self.duration.record(elapsed.as_secs_f64());
        drop(in_flight);
        let has_failed = outcome.as_ref().map_or(true, |response| response.status().is_server_error());
        let has_failed = has_failed && !exceeded.get();
        self.failures.answered(elapsed, has_failed);
        if let Some(by) = by {
            by.note(elapsed, has_failed);
        }
        if let (Some(observer), true) = (&self.observer, outcome.is_ok()) {
            observer.invoked(input_bytes, elapsed);
        }
        // A guest that failed because its input broke off is not to blame, nor does it know the reason.
        let failed = |status: StatusCode| status.is_client_error() || status.is_server_error();
        if exceeded.get() && outcome.as_ref().map_or(true, |response| failed(response.status())) {
            return Err(Fault::RequestTooLarge { limit_bytes: limits.request_bytes });
        }
        let (parts, body) = outcome?.into_parts();
        let failures = self.failures.clone();
        let body =
            bodies::outgoing(body, limits.response_bytes, &self.usage, move |fault| failures.note(&fault), held)?;
        self.answered.increment(1);
        Ok(Response::from_parts(parts, body))
    }
}

/// An instance for a request, which is given no more time for having waited.
async fn lease(
    pool: &Arc<Pool<Instance>>,
    limits: Limits,
    request: &mut Request<Body>,
) -> Result<Lease<Instance>, Fault> {
    let traceparent = request.headers().get("traceparent").cloned();
    let known = request.extensions_mut().get_or_insert_with(|| Invocation { traceparent, ..Invocation::default() });
    let until = Instant::now() + limits.timeout;
    let until = known.deadline.map_or(until, |earlier| earlier.min(until));
    known.deadline = Some(until);
    pool.lease(until).await
}

impl Engine {
    fn limits(&self) -> Limits {
        match self {
            Self::One(instance) => instance.limits(),
            Self::Pool(_, limits) => *limits,
            Self::Variants(variants) => variants.component.limits(),
        }
    }
}

impl Variants {
    fn answered_by(&self, container: bool) -> &Answered {
        if container { &self.by_container } else { &self.by_component }
    }
}

impl Answered {
    fn note(&self, took: Duration, has_failed: bool) {
        if has_failed {
            self.failed.fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.took_us.fetch_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.calls.fetch_add(1, Ordering::Relaxed);
    }

    fn so_far(&self) -> VariantStats {
        VariantStats {
            calls: self.calls.load(Ordering::Relaxed),
            took: Duration::from_micros(self.took_us.load(Ordering::Relaxed)),
            failed: self.failed.load(Ordering::Relaxed),
            in_flight: self.in_flight.load(Ordering::Relaxed),
        }
    }
}

impl Instance {
    /// One of a component.
    ///
    /// # Errors
    /// When the component does not answer requests.
    pub fn component(runtime: &Runtime, artifact: &Arc<Artifact>, settings: &HttpSettings) -> Result<Self, Fault> {
        let handler = HandlerSettings {
            limits: settings.limits,
            environment: settings.environment.clone(),
            access: Arc::clone(&settings.access),
            surroundings: Arc::clone(&settings.surroundings),
            logs: Arc::clone(&settings.logs),
            usage: Arc::clone(&settings.usage),
            ..HandlerSettings::default()
        };
        Ok(Self(Kind::Wasm(Arc::new(Handler::new(runtime, artifact, handler)?))))
    }

    /// A container that runs.
    #[must_use]
    pub fn container(container: Arc<Container>, limits: Limits) -> Self {
        Self(Kind::Container(Client::new(container, limits)))
    }

    fn limits(&self) -> Limits {
        match &self.0 {
            Kind::Wasm(handler) => handler.limits(),
            Kind::Container(client) => client.limits(),
        }
    }

    async fn call(&self, request: Request<Body>, aside: Option<&Shards>) -> Result<Response<Body>, Fault> {
        match (&self.0, aside) {
            (Kind::Wasm(handler), None) => handler.call(request).await,
            (Kind::Wasm(handler), Some(aside)) => {
                let handler = Arc::clone(handler);
                let called = aside.spawn(aside.pick(), move || async move { handler.call(request).await });
                // It is refused where the threads have no room for it, and ends early only with them.
                called.attended().await.map_err(|_| Fault::Busy)?
            }
            (Kind::Container(client), _) => client.call(request).await,
        }
    }
}

impl std::fmt::Debug for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Wasm(_) => "a component",
            Self::Container(_) => "a container",
        })
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

    fn answered(&self, took: Duration, has_failed: bool) {
        let mut seen = self.seen();
        seen.latency.record(took, 1);
        seen.outcomes.calls += 1;
        seen.outcomes.failed += u64::from(has_failed);
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
        Fault::Unready { .. } => (StatusCode::SERVICE_UNAVAILABLE, "unready"),
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
