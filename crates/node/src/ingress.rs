//! HTTP from outside: the routes of all apps, and the node's own health and metrics. Any node answers any route.
//!
//! A route to a function runs it here if this node serves it and is not busy, else asks the instance that is best. A route to a stream answers
//! `GET` with its last records and appends what is `POST`ed.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Limited, StreamBody};
use hyper::body::Frame;
use littoral_flow::reader::Source;
use littoral_gateway::{Body, Router, Target, full};
use littoral_mesh::Mesh;
use littoral_model::id::{AppId, FunctionName, StreamName};
use littoral_model::manifest::RouteTarget;
use littoral_runtime::http::{BodyError, HttpFunction};
use serde_json::json;
use tokio::runtime::Handle;
use tokio::task::JoinError;
use tokio_util::task::AbortOnDropHandle;

use crate::admin::types::{AdminError, AdminErrorKind};
use crate::core::Core;
use crate::functions::{BODY_BYTES_MAX, Chosen, Elsewhere, Functions, Manner, admission};
use crate::health::Health;
use crate::intent::Apps;
use crate::nearest;
use crate::publish::Publisher;
use crate::queue::{Queues, http as later};
use crate::routes::{Route, Routes};
use crate::services::Services;
use crate::stream_route::{self, Asked, media};

/// The header by which a client keeps its requests on one instance.
const KEY_HEADER: &str = "littoral-key";
/// What a text is, in the form that Prometheus reads.
const PLAIN: &str = "text/plain; version=0.0.4; charset=utf-8";
/// How long a body may take that is forwarded, or is a record.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);
/// The longest body of a call that is kept for later, in bytes.
const BODY_KEPT_MAX: usize = littoral_model::invocation::BODY_BYTES_MAX;
/// The longest body that can be posted to a stream, in bytes: of one record or of many.
const RECORDS_BYTES_MAX: usize = 4 << 20;

/// What answers requests.
#[derive(Clone)]
struct Answers {
    functions: Arc<Functions>,
    publisher: Arc<Publisher>,
    queues: Arc<Queues>,
    source: Arc<dyn Source>,
}

/// Where requests go.
pub(crate) struct Ingress {
    routes: RwLock<Arc<Routes>>,
    answers: Answers,
    health: Arc<Health>,
    mesh: Arc<dyn Mesh>,
    /// Streams are read and written there, not on the threads that serve requests.
    control: Handle,
}

impl Ingress {
    pub(crate) fn new(core: &Core, services: &Services) -> Self {
        let answers = Answers {
            functions: Arc::clone(&services.functions),
            publisher: Arc::clone(&services.publisher),
            queues: Arc::clone(&services.queues),
            source: Arc::clone(&core.source),
        };
        let (health, mesh) = (Arc::clone(&services.health), Arc::clone(&core.mesh));
        Self { routes: RwLock::default(), answers, health, mesh, control: Handle::current() }
    }

    /// Takes the routes of what is deployed now.
    pub(crate) fn take(&self, apps: &Apps) {
        let mut routes = Routes::default();
        for app in apps.apps.values() {
            for route in &app.manifest.routes {
                let Some(target) = route.target() else { continue };
                let (sticky, hedge) = (route.sticky.clone(), route.hedge);
                routes.add(&route.path, Route { app: app.id.clone(), target, sticky, hedge });
            }
        }
        *self.routes.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(routes);
    }

    fn find(&self, path: &str) -> Option<Route> {
        let routes = Arc::clone(&self.routes.read().unwrap_or_else(PoisonError::into_inner));
        routes.find(path).cloned()
    }

    /// Asks another node for a function's answer, on the thread that serves the request.
    fn forward(&self, app: AppId, function: FunctionName, elsewhere: Elsewhere) -> Target {
        let functions = Arc::clone(&self.answers.functions);
        Target::Respond(Box::new(move |request| {
            Box::pin(async move {
                let (parts, body) = request.into_parts();
                let answered = match whole(body, BODY_BYTES_MAX).await {
                    Ok(body) => {
                        let request = Request::from_parts(parts, body);
                        functions.call_elsewhere(&app, &function, elsewhere, request).await
                    }
                    Err(error) => Err(error),
                };
                answered.map_or_else(|error| problem(&error), |response| response.map(full))
            })
        }))
    }

    /// Has a function of this node answer if it can by the time that the client states.
    fn in_time(&self, local: Arc<HttpFunction>) -> Target {
        let functions = Arc::clone(&self.answers.functions);
        Target::Respond(Box::new(move |mut request| {
            Box::pin(async move {
                match functions.admit(&local, &mut request) {
                    Ok(_admitted) => local.call(request).await,
                    Err(unfit) => {
                        let mut response = problem(&unfit.error);
                        if !unfit.retry_after.is_zero() {
                            // In whole seconds (RFC 9110, section 10.2.3), and not before there is room.
                            let seconds = unfit.retry_after.as_millis().div_ceil(1_000);
                            if let Ok(seconds) = HeaderValue::from_str(&seconds.to_string()) {
                                response.headers_mut().insert(header::RETRY_AFTER, seconds);
                            }
                        }
                        response
                    }
                }
            })
        }))
    }

    /// Whether a client wants an answer before the function has run. Where the function has no queue, the wish is passed over,
    /// as may be (RFC 7240, section 2).
    fn is_for_later(&self, headers: &HeaderMap, app: &AppId, function: &FunctionName) -> bool {
        headers.contains_key("prefer")
            && later::preferences(headers).respond_async
            && self.answers.queues.has(app, function)
    }

    /// Accepts a call for later.
    fn accept(&self, app: AppId, function: FunctionName) -> Target {
        self.respond(move |answers, request| async move {
            let (parts, body) = request.into_parts();
            let key = later::idempotency_key(&parts.headers)?;
            let call = later::kept(&parts, whole(body, BODY_KEPT_MAX).await?)?;
            Ok(later::accepted(&answers.queues.add(&app, &function, key, call).await?))
        })
    }

    /// Appends what is posted to a stream.
    fn publish(&self, app: AppId, stream: StreamName) -> Target {
        let (publisher, control) = (Arc::clone(&self.answers.publisher), self.control.clone());
        Target::Respond(Box::new(move |request| {
            Box::pin(async move {
                // Read here: each piece that went to another thread would have to be fetched from there.
                let (parts, body) = request.into_parts();
                let body = match whole(body, RECORDS_BYTES_MAX).await {
                    Ok(body) => body,
                    Err(error) => return problem(&error),
                };
                let publishing = control.spawn(async move {
                    let records = stream_route::posted(media(&parts.headers), body)?;
                    publisher.publish(&app, &stream, records, None).await
                });
                answered(
                    publishing
                        .await
                        .map(|published| published.map(|published| json_bytes(StatusCode::OK, &json!(published)))),
                )
            })
        }))
    }

    /// Says what became of such a call.
    fn invocation(&self, request: &Parts) -> Target {
        if !matches!(request.method, Method::GET | Method::HEAD) {
            return Target::answer(not_allowed("an invocation takes GET", "GET, HEAD"));
        }
        let rest = request.uri.path().strip_prefix(later::PATH).unwrap_or_default();
        match later::asked(rest) {
            Err(error) => Target::answer(problem(&error)),
            Ok(asked) => {
                let wait_ms = later::preferences(&request.headers).wait_ms;
                self.respond(move |answers, _| async move {
                    let record = answers.queues.show(&asked.name, wait_ms).await?;
                    Ok(later::told(&asked, record))
                })
            }
        }
    }

    /// Answers with what is found out on the control threads.
    fn respond<F, A, P>(&self, answer: F) -> Target
    where
        F: FnOnce(Answers, Request<Body>) -> A + Send + 'static,
        A: Future<Output = Result<Response<P>, AdminError>> + Send + 'static,
        P: Into<Pieces> + Send + 'static,
    {
        let (answers, control) = (self.answers.clone(), self.control.clone());
        Target::Respond(Box::new(move |request| {
            Box::pin(async move {
                let only_reads = matches!(*request.method(), Method::GET | Method::HEAD);
                let task = control.spawn(answer(answers, request));
                // Who waits for what is read may leave; what is written goes on.
                answered(if only_reads { AbortOnDropHandle::new(task).await } else { task.await })
            })
        }))
    }
}

impl Router for Ingress {
    fn reserved(&self) -> &'static [HeaderName] {
        &later::RESERVED
    }

    fn route(&self, request: &Parts) -> Target {
        let path = request.uri.path();
        match path {
            "/livez" => return Target::answer(text(StatusCode::OK, "live\n")),
            "/readyz" => {
                let readiness = self.health.now();
                let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
                return Target::answer(json_response(status, &json!(readiness)));
            }
            nearest::PATH if matches!(request.method, Method::GET | Method::HEAD) => {
                let members = self.mesh.members().borrow().clone();
                let answer = nearest::answer(request, self.mesh.node(), &members);
                return Target::answer(answer.map_or_else(|error| problem(&error), |response| response.map(full)));
            }
            _ if path.starts_with(later::PATH) => return self.invocation(request),
            "/metrics" => {
                return self.respond(|_, _| async {
                    let mut response = Response::new(Bytes::from(crate::telemetry::render()));
                    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(PLAIN));
                    Ok(response)
                });
            }
            _ => {}
        }
        let Some(route) = self.find(path) else {
            let error = AdminError::not_found(format!("no app has a route to {path}"))
                .hint("`littoral get apps -o wide` lists the routes");
            return Target::answer(problem(&error));
        };
        match route.target {
            RouteTarget::Function(function) => {
                if self.is_for_later(&request.headers, &route.app, &function) {
                    return self.accept(route.app, function);
                }
                let key = key_of(&request.headers, route.sticky.as_deref());
                let length =
                    request.headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
                let manner = Manner { key, input_bytes: length.unwrap_or(0), hedge: route.hedge };
                match self.answers.functions.choose(&route.app, &function, &manner) {
                    Ok(Chosen::Here(local)) if request.headers.contains_key(admission::HEADER) => self.in_time(local),
                    Ok(Chosen::Here(local)) => Target::Function(local),
                    Ok(Chosen::Elsewhere(elsewhere)) => self.forward(route.app, function, elsewhere),
                    Err(error) => Target::answer(problem(&error)),
                }
            }
            RouteTarget::Stream(stream) => match request.method {
                Method::GET | Method::HEAD => {
                    let asked = Asked::of(request);
                    self.respond(move |answers, _| async move {
                        stream_route::read(&answers.publisher, answers.source, (&route.app, &stream), asked?).await
                    })
                }
                Method::POST => self.publish(route.app, stream),
                _ => Target::answer(not_allowed("a stream takes GET and POST", "GET, HEAD, POST")),
            },
        }
    }
}

/// A body in pieces, which are sent as they are.
struct Pieces(Vec<Bytes>);

impl From<Bytes> for Pieces {
    fn from(whole: Bytes) -> Self {
        Self(vec![whole])
    }
}

impl From<Vec<Bytes>> for Pieces {
    fn from(pieces: Vec<Bytes>) -> Self {
        Self(pieces)
    }
}

/// What was found out on the control threads, as it is sent.
fn answered<P: Into<Pieces>>(answer: Result<Result<Response<P>, AdminError>, JoinError>) -> Response<Body> {
    match answer {
        Ok(Ok(response)) => in_pieces(response.map(Into::into)),
        Ok(Err(error)) => problem(&error),
        Err(_) => problem(&AdminError::unavailable("the node is stopping")),
    }
}

fn in_pieces(response: Response<Pieces>) -> Response<Body> {
    let (mut parts, Pieces(mut pieces)) = response.into_parts();
    if pieces.len() <= 1 {
        return Response::from_parts(parts, full(pieces.pop().unwrap_or_default()));
    }
    let bytes: usize = pieces.iter().map(Bytes::len).sum();
    parts.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(bytes));
    let frames = futures::stream::iter(pieces.into_iter().map(|piece| Ok::<_, BodyError>(Frame::data(piece))));
    Response::from_parts(parts, StreamBody::new(frames).boxed_unsync())
}

/// The answer to a method that there is not.
fn not_allowed(text: &str, allowed: &'static str) -> Response<Body> {
    let mut response = problem(&AdminError::invalid(text));
    *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allowed));
    response
}

/// The key that keeps requests on one instance: what the client says, else the header that the route names.
fn key_of(headers: &HeaderMap, sticky: Option<&str>) -> Option<String> {
    let value = |name| headers.get(name).map(HeaderValue::as_bytes);
    let key = value(KEY_HEADER).or_else(|| sticky.and_then(value))?;
    Some(String::from_utf8_lossy(key).into_owned())
}

async fn whole(body: Body, bytes_max: usize) -> Result<Bytes, AdminError> {
    let read = tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, bytes_max).collect()).await;
    let late = |_| AdminError::invalid(format!("the body took longer than {} s", BODY_TIMEOUT.as_secs()));
    read.map_err(late)?.map(http_body_util::Collected::to_bytes).map_err(|error| {
        AdminError::invalid(format!("the body cannot be taken: {error}; it may have {bytes_max} bytes"))
    })
}

fn text(status: StatusCode, text: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(full(text));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(PLAIN));
    response
}

/// An answer in JSON.
pub(crate) fn json_bytes(status: StatusCode, value: &serde_json::Value) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(format!("{value}\n")));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn json_response(status: StatusCode, value: &serde_json::Value) -> Response<Body> {
    json_bytes(status, value).map(full)
}

/// An error as a client sees it.
fn problem(error: &AdminError) -> Response<Body> {
    let status = match error.kind {
        AdminErrorKind::Invalid => StatusCode::BAD_REQUEST,
        AdminErrorKind::NotFound => StatusCode::NOT_FOUND,
        AdminErrorKind::Refused => StatusCode::UNPROCESSABLE_ENTITY,
        AdminErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        AdminErrorKind::Conflict => StatusCode::CONFLICT,
        AdminErrorKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    };
    let mut response =
        json_response(status, &json!({ "error": error.kind, "message": error.message, "hint": error.hint }));
    if status == StatusCode::SERVICE_UNAVAILABLE {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}
