//! Requests to a container: HTTP/1.1 over connections that are kept, some of them, for the next request.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, HOST, HeaderName, TE, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderValue, Request, Response, Uri, Version};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use littoral_runtime_wasm::fabric::Invocation;
use littoral_runtime_wasm::handler::{Body, BodyError};
use littoral_runtime_wasm::{Fault, Limits};
use tokio::time::{Instant, Sleep, timeout_at};

use super::Container;

/// How many connections are kept that nobody uses.
const IDLE_MAX: usize = 64;
/// How long one is kept: servers close those that are idle, after 2 seconds (gunicorn) or 5 (Node), and a request may meet that.
const IDLE_TIME_MAX: Duration = Duration::from_secs(1);
/// How often a call looks whether the container goes on whose time would be up if it was not held.
const STILL_LOOK: Duration = Duration::from_millis(50);
/// What concerns one connection only, and is not handed on.
const HOP_BY_HOP: [HeaderName; 4] = [CONNECTION, TRANSFER_ENCODING, UPGRADE, TE];

/// What asks a container.
#[derive(Debug)]
pub(crate) struct Client {
    container: Arc<Container>,
    limits: Limits,
    idle: Arc<Idle>,
}

#[derive(Debug, Default)]
struct Idle(Mutex<Vec<(Instant, SendRequest<Body>)>>);

impl Client {
    pub(crate) fn new(container: Arc<Container>, limits: Limits) -> Self {
        Self { container, limits, idle: Arc::default() }
    }

    pub(crate) fn limits(&self) -> Limits {
        self.limits
    }

    pub(crate) fn container(&self) -> &Arc<Container> {
        &self.container
    }

    /// Answers a request, within the function's time.
    pub(crate) async fn call(&self, request: Request<Body>) -> Result<Response<Body>, Fault> {
        let limit = self.limits.timeout;
        let earlier = request.extensions().get::<Invocation>().and_then(|invocation| invocation.deadline);
        let until = earlier.map_or(Instant::now() + limit, |earlier| (Instant::now() + limit).min(earlier.into()));
        let deadline = Deadline::new(&self.container, until);
        let answered = deadline.within(self.send(to_origin(request)));
        let (response, sender) = answered.await.ok_or(Fault::Timeout { limit })??;
        let (mut parts, body) = response.into_parts();
        HOP_BY_HOP.iter().for_each(|name| drop(parts.headers.remove(name)));
        let kept = Some((sender, Arc::clone(&self.idle)));
        let late = Box::pin(tokio::time::sleep_until(deadline.at()));
        let body = Answer { body, kept, limit, deadline, late };
        Ok(Response::from_parts(parts, body.boxed_unsync()))
    }

    /// Sends a request over a connection that was kept, if it still takes it, or over a new one.
    async fn send(&self, mut request: Request<Body>) -> Result<(Response<Incoming>, SendRequest<Body>), Fault> {
        while let Some(mut sender) = self.idle.take() {
            match sender.try_send_request(request).await {
                Ok(response) => return Ok((response, sender)),
                // It was closed meanwhile; what comes back was not sent.
                Err(mut error) => match error.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(self.broken(error.error())),
                },
            }
        }
        let mut sender = open(&self.container).await.map_err(|error| self.gone(&error))?;
        let response = sender.send_request(request).await.map_err(|error| self.broken(&error))?;
        Ok((response, sender))
    }

    fn broken(&self, error: &hyper::Error) -> Fault {
        match self.container.ended() {
            Some(how) => Fault::Trap { cause: how },
            None => Fault::Protocol { reason: error.to_string() },
        }
    }

    fn gone(&self, error: &std::io::Error) -> Fault {
        Fault::Trap { cause: self.container.ended().unwrap_or_else(|| error.to_string()) }
    }
}

impl Idle {
    fn take(&self) -> Option<SendRequest<Body>> {
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let fresh =
            |(since, sender): &(Instant, SendRequest<Body>)| now - *since < IDLE_TIME_MAX && !sender.is_closed();
        std::iter::from_fn(|| idle.pop()).find(fresh).map(|(_, sender)| sender)
    }

    fn put(&self, sender: SendRequest<Body>) {
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() >= IDLE_MAX {
            idle.retain(|(since, sender)| since.elapsed() < IDLE_TIME_MAX && !sender.is_closed());
        }
        if idle.len() < IDLE_MAX && !sender.is_closed() {
            idle.push((Instant::now(), sender));
        }
    }
}

/// The end of a call's time, which stands still while the container is held.
struct Deadline {
    container: Arc<Container>,
    first: Instant,
    still_before: Duration,
}

impl Deadline {
    fn new(container: &Arc<Container>, first: Instant) -> Self {
        Self { container: Arc::clone(container), first, still_before: container.still() }
    }

    fn at(&self) -> Instant {
        self.first + self.container.still().saturating_sub(self.still_before)
    }

    /// When it is to be looked at again, if it has not passed.
    fn later(&self) -> Option<Instant> {
        let (at, now) = (self.at(), Instant::now());
        (at > now).then(|| if self.container.is_still() { at.max(now + STILL_LOOK) } else { at })
    }

    /// What something comes to within the time; nothing if it takes longer.
    async fn within<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let mut work = std::pin::pin!(work);
        let mut until = self.at();
        loop {
            match timeout_at(until, &mut work).await {
                Ok(outcome) => return Some(outcome),
                Err(_) => until = self.later()?,
            }
        }
    }
}

/// Whether a container answers a request for a path with a status below 500.
pub(super) async fn is_healthy(container: &Container, path: &str, at_most: Duration) -> Result<(), String> {
    let asked = async {
        let mut sender = open(container).await.map_err(|error| error.to_string())?;
        let request = Request::get(path)
            .header(HOST, "localhost")
            .body(crate::http::full(""))
            .map_err(|error| error.to_string())?;
        let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let status = response.status();
        if status.is_server_error() { Err(format!("it answers {path} with {status}")) } else { Ok(()) }
    };
    tokio::time::timeout(at_most, asked).await.map_err(|_| format!("it does not answer {path} within {at_most:?}"))?
}

async fn open(container: &Container) -> std::io::Result<SendRequest<Body>> {
    let stream = container.connect().await?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(std::io::Error::other)?;
    // It ends with the last of its users; what went wrong, these are told.
    tokio::spawn(async move { drop(connection.await) });
    Ok(sender)
}

/// A request as a server expects it: the path alone, and a host.
fn to_origin(mut request: Request<Body>) -> Request<Body> {
    let host = request.uri().authority().and_then(|host| HeaderValue::from_str(host.as_str()).ok());
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    let path = if path.is_empty() { Ok(Uri::from_static("/")) } else { path.parse() };
    *request.uri_mut() = path.unwrap_or_else(|_| Uri::from_static("/"));
    *request.version_mut() = Version::HTTP_11;
    let headers = request.headers_mut();
    HOP_BY_HOP.iter().for_each(|name| drop(headers.remove(name)));
    if !headers.contains_key(HOST) {
        headers.insert(HOST, host.unwrap_or(HeaderValue::from_static("localhost")));
    }
    request
}

/// The body of an answer. At its end the connection is free for the next request; if it is dropped before, it is closed.
struct Answer {
    body: Incoming,
    kept: Option<(SendRequest<Body>, Arc<Idle>)>,
    limit: Duration,
    deadline: Deadline,
    late: Pin<Box<Sleep>>,
}

impl Answer {
    fn keep(&mut self) {
        if let Some((sender, idle)) = self.kept.take() {
            idle.put(sender);
        }
    }
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        while self.late.as_mut().poll(context).is_ready() {
            if let Some(later) = self.deadline.later() {
                self.late.as_mut().reset(later);
                continue;
            }
            self.kept = None;
            return Poll::Ready(Some(Err(BodyError::Broken(Fault::Timeout { limit: self.limit }.to_string()))));
        }
        let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) else { return Poll::Pending };
        if self.body.is_end_stream() {
            self.keep();
        }
        match frame {
            Some(Ok(frame)) => Poll::Ready(Some(Ok(frame))),
            Some(Err(error)) => Poll::Ready(Some(Err(BodyError::Broken(error.to_string())))),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        // A body that was known to be empty is never polled.
        if self.body.is_end_stream() {
            self.keep();
        }
    }
}
