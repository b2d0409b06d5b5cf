//! One connection: its requests, one after the other.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST};
use http::{HeaderValue, Method, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use littoral_runtime::Shards;
use littoral_runtime::http::{Body, full};
use metrics::{Counter, Gauge, Histogram};
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::body::limited;
use crate::router::{Router, Target};
use crate::settings::Settings;
use crate::stall::Stalling;

/// How many bytes of a request are read at once, and from how many on what is to be sent is sent: twice what a guest of WASI 0.2 writes.
const BUFFERED_BYTES_MAX: usize = 128 << 10;

/// What a gateway's connections should do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Serve.
    Open,
    /// Finish the request under way, then close.
    Draining,
    /// Close.
    Cut,
}

/// The client at the other end of a connection, as an extension of its requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientAddress(pub SocketAddr);

/// What the connections of a gateway share.
pub(crate) struct Shared {
    pub(crate) router: Arc<dyn Router>,
    pub(crate) settings: Settings,
    pub(crate) phase: watch::Receiver<Phase>,
    pub(crate) measures: Measures,
}

/// What is counted.
pub(crate) struct Measures {
    /// By the hundreds of the status.
    answered: [Counter; 5],
    in_flight: Gauge,
    /// From the head of the request to the head of the response.
    seconds: Histogram,
}

impl Measures {
    pub(crate) fn new() -> Self {
        let answered = |class: &'static str| metrics::counter!("littoral_http_requests_total", "status" => class);
        Self {
            answered: ["1xx", "2xx", "3xx", "4xx", "5xx"].map(answered),
            in_flight: metrics::gauge!("littoral_http_requests_in_flight"),
            seconds: metrics::histogram!("littoral_http_request_seconds"),
        }
    }
}

/// A request that is being answered; counts it, also if the client goes away.
struct InFlight<'a> {
    measures: &'a Measures,
    begun: Instant,
}

impl<'a> InFlight<'a> {
    fn new(measures: &'a Measures) -> Self {
        measures.in_flight.increment(1.0);
        Self { measures, begun: Instant::now() }
    }

    fn answered(&self, status: StatusCode) {
        let class = usize::from(status.as_u16() / 100).saturating_sub(1);
        if let Some(counter) = self.measures.answered.get(class) {
            counter.increment(1);
        }
        self.measures.seconds.record(self.begun.elapsed().as_secs_f64());
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.measures.in_flight.decrement(1.0);
    }
}

/// Serves a connection until it closes or the gateway does.
pub(crate) async fn serve(stream: TcpStream, shared: Arc<Shared>) {
    let mut phase = shared.phase.clone();
    let settings = &shared.settings;
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(settings.header_timeout);
    // The number of headers is left to hyper: to set it, even to the same, costs two allocations a request.
    http.max_header_size(settings.header_bytes_max).max_buf_size(BUFFERED_BYTES_MAX);
    let client = stream.peer_addr().ok();
    let service = service_fn(|mut request: Request<Incoming>| {
        let shared = Arc::clone(&shared);
        if let Some(client) = client {
            request.extensions_mut().insert(ClientAddress(client));
        }
        async move { Ok::<_, Infallible>(answer(request, &shared).await) }
    });
    let stream = Stalling::new(stream, settings.write_timeout);
    let connection = http.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let mut draining = false;
    loop {
        let changed = tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "a connection ended");
                }
                return;
            }
            changed = phase.changed() => changed,
        };
        let now = *phase.borrow_and_update();
        if changed.is_err() || now == Phase::Cut {
            return;
        }
        if now == Phase::Draining && !draining {
            draining = true;
            connection.as_mut().graceful_shutdown();
        }
    }
}

async fn answer(request: Request<Incoming>, shared: &Shared) -> Response<Body> {
    Shards::work_came();
    let in_flight = InFlight::new(&shared.measures);
    let response = match accept(request, shared) {
        Ok((target, request, exceeded)) => {
            let response = match target {
                Target::Function(function) => function.call(request).await,
                Target::Respond(respond) => respond(request).await,
            };
            // A guest that failed because its input broke off is not to blame.
            if exceeded.get() && response.status().is_server_error() { too_large(&shared.settings) } else { response }
        }
        Err(refusal) => *refusal,
    };
    in_flight.answered(response.status());
    response
}

type Accepted = (Target, Request<Body>, crate::body::Exceeded);

/// Checks a request's head, and finds out where it goes.
fn accept(request: Request<Incoming>, shared: &Shared) -> Result<Accepted, Box<Response<Body>>> {
    let (mut parts, body) = request.into_parts();
    let bad = |message: &str| Box::new(error_response(StatusCode::BAD_REQUEST, "request", message));
    if parts.method == Method::CONNECT {
        let message = "this is no proxy: CONNECT is not supported";
        return Err(Box::new(error_response(StatusCode::NOT_IMPLEMENTED, "request", message)));
    }
    // RFC 9112, section 3.2: exactly one Host, except in HTTP/1.0. Two of them may be read differently further on.
    match (parts.headers.get_all(HOST).iter().count(), parts.version) {
        (1, _) => {}
        (0, Version::HTTP_10) => {
            parts.headers.insert(HOST, HeaderValue::from_static("localhost"));
        }
        (0, _) => return Err(bad("the request has no Host header")),
        _ => return Err(bad("the request has several Host headers")),
    }
    if parts.headers.get(HOST).is_some_and(|host| host.to_str().is_err()) {
        return Err(bad("the Host header is not ASCII"));
    }
    for name in shared.router.reserved() {
        parts.headers.remove(name);
    }
    let bytes_max = shared.settings.body_bytes_max;
    let declared = parts.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if declared.is_some_and(|length| length > bytes_max) {
        return Err(Box::new(too_large(&shared.settings)));
    }
    let target = shared.router.route(&parts);
    let (body, exceeded) = limited(body, bytes_max);
    Ok((target, Request::from_parts(parts, body), exceeded))
}

fn too_large(settings: &Settings) -> Response<Body> {
    let message = format!("the request's body has more than {} bytes", settings.body_bytes_max);
    error_response(StatusCode::PAYLOAD_TOO_LARGE, "too-large", &message)
}

/// An error for a client, in the form that functions' errors have, too: `{"error": kind, "message": text}`.
#[must_use]
pub fn error_response(status: StatusCode, kind: &str, message: &str) -> Response<Body> {
    let body = serde_json::json!({ "error": kind, "message": message });
    let mut response = Response::new(full(format!("{body}\n")));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
