//! HTTP from outside: the routes of all apps, and the node's own health and metrics. Any node answers any route.
//!
//! A route to a function runs it here if this node serves it, else asks one that does. A route to a stream answers
//! `GET` with its last records and appends what is `POST`ed.

use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use futures::StreamExt as _;
use http::request::Parts;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use littoral_flow::reader::Source;
use littoral_gateway::{Body, Router, Target, full};
use littoral_model::id::{AppId, StreamName};
use littoral_model::manifest::RouteTarget;
use serde_json::json;
use tokio::runtime::Handle;

use crate::admin::operations::TailStart;
use crate::admin::types::{AdminError, AdminErrorKind, PublishRecord};
use crate::core::Core;
use crate::functions::{BODY_BYTES_MAX, Functions};
use crate::health::Health;
use crate::intent::Apps;
use crate::publish::Publisher;
use crate::services::Services;
use crate::tail::{self, tail};

/// How many records a route to a stream answers with, unless it is asked for another number.
const LAST_DEFAULT: u64 = 100;
/// The most records that a route to a stream answers with.
const LAST_MAX: u64 = 10_000;
/// The longest record that can be posted, in bytes.
const RECORD_BYTES_MAX: usize = 1 << 20;

/// One route of an app.
#[derive(Clone)]
struct Route {
    /// The path, without the `*` of one for everything below it.
    path: String,
    below: bool,
    app: AppId,
    target: RouteTarget,
}

/// What answers requests.
#[derive(Clone)]
struct Answers {
    functions: Arc<Functions>,
    publisher: Arc<Publisher>,
    source: Arc<dyn Source>,
}

/// Where requests go.
pub(crate) struct Ingress {
    /// The longest path first.
    routes: RwLock<Arc<Vec<Route>>>,
    answers: Answers,
    health: Arc<Health>,
    /// Whatever talks to other nodes runs there, not on the threads that serve requests.
    control: Handle,
}

impl Ingress {
    pub(crate) fn new(core: &Core, services: &Services) -> Self {
        let answers = Answers {
            functions: Arc::clone(&services.functions),
            publisher: Arc::clone(&services.publisher),
            source: Arc::clone(&core.source),
        };
        Self { routes: RwLock::default(), answers, health: Arc::clone(&services.health), control: Handle::current() }
    }

    /// Takes the routes of what is deployed now.
    pub(crate) fn take(&self, apps: &Apps) {
        let mut routes: Vec<Route> = Vec::new();
        for app in apps.apps.values() {
            for route in &app.manifest.routes {
                let Some(target) = route.target() else { continue };
                let below = route.path.ends_with("/*");
                let path = route.path.trim_end_matches('*').to_owned();
                routes.push(Route { path, below, app: app.id.clone(), target });
            }
        }
        routes.sort_by(|a, b| b.path.len().cmp(&a.path.len()).then_with(|| a.path.cmp(&b.path)));
        *self.routes.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(routes);
    }

    fn find(&self, path: &str) -> Option<Route> {
        let routes = Arc::clone(&self.routes.read().unwrap_or_else(PoisonError::into_inner));
        let leads = |route: &&Route| {
            if route.below {
                path.starts_with(&route.path) || path == route.path.trim_end_matches('/')
            } else {
                path == route.path
            }
        };
        routes.iter().find(leads).cloned()
    }

    fn respond<F, A>(&self, answer: F) -> Target
    where
        F: FnOnce(Answers, Request<Body>) -> A + Send + 'static,
        A: Future<Output = Result<Response<Bytes>, AdminError>> + Send + 'static,
    {
        let (answers, control) = (self.answers.clone(), self.control.clone());
        Target::Respond(Box::new(move |request| {
            Box::pin(async move {
                let answered = control.spawn(answer(answers, request)).await;
                match answered {
                    Ok(Ok(response)) => response.map(full),
                    Ok(Err(error)) => problem(&error),
                    Err(_) => problem(&AdminError::unavailable("the node is stopping")),
                }
            })
        }))
    }
}

impl Router for Ingress {
    fn route(&self, request: &Parts) -> Target {
        let path = request.uri.path();
        match path {
            "/livez" => return Target::answer(text(StatusCode::OK, "live\n")),
            "/readyz" => {
                let readiness = self.health.now();
                let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
                return Target::answer(json_response(status, &json!(readiness)));
            }
            "/metrics" => return Target::answer(text(StatusCode::OK, crate::telemetry::render())),
            _ => {}
        }
        let Some(route) = self.find(path) else {
            let error = AdminError::not_found(format!("no app has a route to {path}"))
                .hint("`littoral get apps -o wide` lists the routes");
            return Target::answer(problem(&error));
        };
        match route.target {
            RouteTarget::Function(function) => match self.answers.functions.here(&route.app, &function) {
                Some(local) => Target::Function(local),
                None => self.respond(move |answers, request| async move {
                    let (parts, body) = request.into_parts();
                    let body = whole(body, BODY_BYTES_MAX).await?;
                    answers.functions.call(&route.app, &function, Request::from_parts(parts, body)).await
                }),
            },
            RouteTarget::Stream(stream) => match request.method {
                Method::GET | Method::HEAD => self.respond(move |answers, request| async move {
                    let last = last_of(request.uri().query())?;
                    read(answers, &route.app, &stream, last).await
                }),
                Method::POST => self.respond(move |answers, request| async move {
                    let value = String::from_utf8(whole(request.into_body(), RECORD_BYTES_MAX).await?.to_vec())
                        .map_err(|_| AdminError::invalid("a record must be text in UTF-8"))?;
                    let record = PublishRecord { value, ..PublishRecord::default() };
                    let published = answers.publisher.publish(&route.app, &stream, vec![record], None).await?;
                    Ok(json_bytes(StatusCode::OK, &json!(published)))
                }),
                _ => {
                    let error = AdminError::invalid("a stream takes GET and POST");
                    let mut response = problem(&error);
                    *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
                    response.headers_mut().insert(header::ALLOW, header::HeaderValue::from_static("GET, HEAD, POST"));
                    Target::answer(response)
                }
            },
        }
    }
}

/// The last records of a stream, as a JSON array.
async fn read(answers: Answers, app: &AppId, stream: &StreamName, last: u64) -> Result<Response<Bytes>, AdminError> {
    let partitions = answers.publisher.partitions(app, stream)?;
    let mut rows = tail(answers.source, partitions, TailStart::Last(last), false);
    let mut found = Vec::new();
    while let Some(row) = rows.next().await {
        found.push(row?);
    }
    Ok(json_bytes(StatusCode::OK, &json!(found)))
}

/// The `last` of a query.
fn last_of(query: Option<&str>) -> Result<u64, AdminError> {
    let pairs = query.unwrap_or_default().split('&');
    let Some(text) = pairs.filter_map(|pair| pair.strip_prefix("last=")).next_back() else { return Ok(LAST_DEFAULT) };
    let last: Option<u64> = text.parse().ok().filter(|last| (1..=LAST_MAX.min(tail::LAST_MAX)).contains(last));
    last.ok_or_else(|| AdminError::invalid(format!("`last` is a number from 1 to {LAST_MAX}, not `{text}`")))
}

async fn whole(body: Body, bytes_max: usize) -> Result<Bytes, AdminError> {
    let read = Limited::new(body, bytes_max).collect().await;
    read.map(http_body_util::Collected::to_bytes).map_err(|error| {
        AdminError::invalid(format!("the body cannot be taken: {error}; it may have {bytes_max} bytes"))
    })
}

fn text(status: StatusCode, text: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(full(text));
    *response.status_mut() = status;
    let plain = header::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, plain);
    response
}

fn json_bytes(status: StatusCode, value: &serde_json::Value) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(format!("{value}\n")));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
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
        response.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from_static("1"));
    }
    response
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_number_of_records_is_bounded() {
        assert_eq!(last_of(None).unwrap(), LAST_DEFAULT);
        assert_eq!(last_of(Some("x=1&last=5")).unwrap(), 5);
        assert!(last_of(Some("last=0")).is_err());
        assert!(last_of(Some("last=many")).is_err());
    }
}
