//! The way out of a container that is granted one: an HTTP proxy (RFC 9110, sections 3.7 and 9.3.6) on its loopback, served by the node.
//!
//! Its socket is in the container's network and was handed over by the shim; connections wait in it while no node is there. Each request
//! names its target, a `CONNECT` for a tunnel or a whole URI for a request. The grants are checked, the name is resolved here, what it
//! leads to is checked, and one of these addresses is connected to. Nothing that the container says is believed beyond that: the header
//! `Host` of a request is that of its target.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use http::header::{
    CONNECTION, HOST, HeaderName, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE, VIA,
};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::client::conn::http1::handshake;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::{TokioIo, TokioTimer};
use littoral_runtime_wasm::handler::{Body, BodyError};
use littoral_runtime_wasm::{Access, Denied, GuestOutput, Peer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::link::Link;

/// How many connections out a container may have at once; others wait to be accepted.
const CONNECTIONS_MAX: usize = 128;
/// How many those of a node may have together: each takes two of the files that a process may have open, of which there may be 1,024.
const CONNECTIONS_OF_ALL_MAX: usize = 256;
/// The first wait before the socket is asked for again where it could not be handed over, and the longest.
const HANDOVER_AGAIN_MIN: Duration = Duration::from_millis(200);
const HANDOVER_AGAIN_MAX: Duration = Duration::from_secs(30);
/// How long the head of a request may take, and be, and how many headers it may have.
const HEAD_MAX: Duration = Duration::from_secs(10);
const HEAD_BYTES_MAX: usize = 32 << 10;
const HEADERS_MAX: usize = 100;
/// How long it may take to connect to a target, all of its addresses together.
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// How long a connection is kept on which nothing comes or goes; as long as that of a component.
const IDLE_MAX: Duration = Duration::from_secs(600);
/// How long to wait when the system has no file or memory for another connection.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(50);
/// What this proxy is called in `Via` and `Proxy-Status` (RFC 9209).
const NAME: &str = "littoral";
const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");
/// What concerns one connection only, and is not handed on, beside what `Connection` names (RFC 9110, section 7.6.1).
const HOP_BY_HOP: [HeaderName; 9] = [
    CONNECTION,
    TRANSFER_ENCODING,
    UPGRADE,
    TE,
    TRAILER,
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// The way out of one container.
pub(super) struct Egress {
    access: Access,
    /// Where it is told what was denied.
    output: GuestOutput,
}

/// Why a request was not sent, as the container is told it.
struct Refusal {
    status: StatusCode,
    /// One of the types of RFC 9209, section 2.3.
    kind: &'static str,
    message: String,
}

/// What a request is for.
struct Target {
    host: String,
    port: u16,
}

/// A tunnel that begins when the answer to `CONNECT` was sent.
struct Tunnel {
    client: OnUpgrade,
    server: TcpStream,
}

impl Egress {
    /// That of a container with these grants.
    pub(super) fn new(http: Vec<Peer>, output: GuestOutput) -> Self {
        Self { access: Access { http, ..Access::default() }, output }
    }

    /// Serves what the container asks for, if anything is granted to it, until this is dropped.
    pub(super) async fn serve(self, link: &Link) -> Infallible {
        if self.access.http.is_empty() {
            return std::future::pending().await;
        }
        let (mut wait, mut is_told) = (HANDOVER_AGAIN_MIN, false);
        let listener = loop {
            match link.proxy().await {
                Ok(listener) => break listener,
                Err(error) if !is_told => {
                    self.output.host_line(&format!("its proxy is not there yet, so that it reaches nothing: {error}"));
                    is_told = true;
                }
                Err(_) => {}
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(HANDOVER_AGAIN_MAX);
        };
        Arc::new(self).accept(&listener).await
    }

    async fn accept(self: Arc<Self>, listener: &TcpListener) -> Infallible {
        static OF_ALL: LazyLock<Arc<Semaphore>> = LazyLock::new(|| Arc::new(Semaphore::new(CONNECTIONS_OF_ALL_MAX)));
        let mut connections = JoinSet::new();
        let next = || async {
            let permit = Arc::clone(&OF_ALL).acquire_owned().await.map_err(io::Error::other)?;
            Ok::<_, io::Error>((listener.accept().await?.0, permit))
        };
        loop {
            tokio::select! {
                accepted = next(), if connections.len() < CONNECTIONS_MAX => match accepted {
                    Ok((stream, permit)) => {
                        let served = Arc::clone(&self).connection(stream);
                        connections.spawn(async move {
                            let _permit = permit;
                            served.await;
                        });
                    }
                    Err(_) => tokio::time::sleep(EXHAUSTED_PAUSE).await,
                },
                Some(_) = connections.join_next() => {}
            }
        }
    }

    /// Answers the requests of a connection, or is a tunnel for it, until it closes or nothing happens on it any more.
    async fn connection(self: Arc<Self>, stream: TcpStream) {
        let (stream, last) = Watched::new(stream);
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new())
            .header_read_timeout(HEAD_MAX)
            .max_headers(HEADERS_MAX)
            .max_buf_size(HEAD_BYTES_MAX);
        let tunnel = Mutex::new(None);
        let service = service_fn(|request| async { Ok::<_, Infallible>(self.answer(request, &tunnel).await) });
        let served = async {
            // However it ends, the container sees it.
            let _ = http.serve_connection(TokioIo::new(stream), service).with_upgrades().await;
            let begun = tunnel.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(tunnel) = begun {
                tunnel.carry().await;
            }
        };
        tokio::select! {
            () = served => {}
            () = idle(&last, IDLE_MAX) => {}
        }
    }

    async fn answer(&self, request: Request<Incoming>, tunnel: &Mutex<Option<Tunnel>>) -> Response<Body> {
        let target = match Target::of(&request) {
            Ok(target) => target,
            Err(refusal) => return refusal.response(),
        };
        let answered = async {
            let server = self.connect(&target).await?;
            if request.method() == Method::CONNECT {
                let client = hyper::upgrade::on(request);
                *tunnel.lock().unwrap_or_else(PoisonError::into_inner) = Some(Tunnel { client, server });
                return Ok(Response::new(crate::http::full("")));
            }
            let broken = |error: hyper::Error| {
                Refusal::new(
                    StatusCode::BAD_GATEWAY,
                    "http_protocol_error",
                    format!("{target} does not answer: {error}"),
                )
            };
            send(server, to_origin(request, &target)).await.map_err(broken)
        };
        answered.await.unwrap_or_else(|refusal| refusal.response())
    }

    /// A connection to a target that is granted.
    async fn connect(&self, target: &Target) -> Result<TcpStream, Refusal> {
        let found = self.access.http_addresses(&target.host, target.port).await;
        let addresses = found.map_err(|denied| {
            if let Some(missing) = denied.missing_grant(&target.host, target.port) {
                self.output.host_line(&missing);
                let is_address = matches!(denied, Denied::Address(_));
                let kind = if is_address { "destination_ip_prohibited" } else { "http_request_denied" };
                return Refusal::new(StatusCode::FORBIDDEN, kind, missing);
            }
            let why = if let Denied::Unresolved(error) = denied { error.to_string() } else { String::new() };
            Refusal::new(StatusCode::BAD_GATEWAY, "dns_error", format!("{} leads nowhere: {why}", target.host))
        })?;
        match tokio::time::timeout(CONNECT_MAX, first_of(&addresses)).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => {
                let message = format!("cannot connect to {target}: {error}");
                Err(Refusal::new(StatusCode::BAD_GATEWAY, "destination_unavailable", message))
            }
            Err(_) => {
                let message = format!("cannot connect to {target} within {CONNECT_MAX:?}");
                Err(Refusal::new(StatusCode::GATEWAY_TIMEOUT, "connection_timeout", message))
            }
        }
    }
}

impl Refusal {
    fn new(status: StatusCode, kind: &'static str, message: String) -> Self {
        Self { status, kind, message }
    }

    fn response(self) -> Response<Body> {
        let mut response = Response::new(crate::http::full(format!("{}\n", self.message)));
        *response.status_mut() = self.status;
        if let Ok(value) = HeaderValue::from_str(&format!("{NAME}; error={}", self.kind)) {
            response.headers_mut().insert(PROXY_STATUS, value);
        }
        response
    }
}

impl Target {
    fn of<B>(request: &Request<B>) -> Result<Self, Refusal> {
        let bad = |message: &str| Refusal::new(StatusCode::BAD_REQUEST, "http_protocol_error", message.to_owned());
        let uri = request.uri();
        let is_tunnel = request.method() == Method::CONNECT;
        let default = match (is_tunnel, uri.scheme_str()) {
            (true, None) => None,
            (false, Some("http")) => Some(80),
            (false, Some("https")) => {
                return Err(bad("this is a proxy for plain HTTP: for https, open a tunnel with CONNECT"));
            }
            _ => {
                return Err(bad(
                    "this is a proxy: a request names a whole URI, `GET http://HOST/PATH`, or is a CONNECT to HOST:PORT",
                ));
            }
        };
        let authority = uri.authority().ok_or_else(|| bad("the request names no host"))?;
        // `user@host` would show one host and reach another to whoever reads it carelessly.
        if authority.as_str().contains('@') {
            return Err(bad("the host is named with a user; leave that out"));
        }
        let port = authority.port_u16().or(default).ok_or_else(|| bad("a CONNECT names a port, HOST:PORT"))?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        Ok(Self { host, port })
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (host, port) = (&self.host, self.port);
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

impl Tunnel {
    async fn carry(mut self) {
        let Ok(client) = self.client.await else { return };
        // Either side may end it, and both see that.
        let _ = tokio::io::copy_bidirectional(&mut TokioIo::new(client), &mut self.server).await;
    }
}

/// Connects to the first address that answers.
async fn first_of(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// A request as the target expects it: the path alone, the target's name, and nothing that is between the container and its proxy.
fn to_origin(request: Request<Incoming>, target: &Target) -> Request<Incoming> {
    let (mut parts, body) = request.into_parts();
    let named = parts.uri.authority().and_then(|authority| HeaderValue::from_str(authority.as_str()).ok());
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    parts.uri = path.parse().unwrap_or_else(|_| Uri::from_static("/"));
    parts.version = Version::HTTP_11;
    forget_hop_by_hop(&mut parts.headers);
    let host = named.or_else(|| HeaderValue::from_str(&target.to_string()).ok());
    parts.headers.remove(HOST);
    parts.headers.extend(host.map(|host| (HOST, host)));
    pass(&mut parts.headers);
    Request::from_parts(parts, body)
}

fn forget_hop_by_hop(headers: &mut HeaderMap) {
    let named = headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    let named = named.flat_map(|value| value.split(',')).filter_map(|name| name.trim().parse::<HeaderName>().ok());
    let named: Vec<HeaderName> = named.collect();
    named.iter().chain(&HOP_BY_HOP).for_each(|name| drop(headers.remove(name)));
}

/// Says that it came this way.
fn pass(headers: &mut HeaderMap) {
    if let Ok(value) = HeaderValue::from_str(&format!("1.1 {NAME}")) {
        headers.append(VIA, value);
    }
}

async fn send(server: TcpStream, request: Request<Incoming>) -> Result<Response<Body>, hyper::Error> {
    let (mut sender, connection) = handshake(TokioIo::new(server)).await?;
    // The connection must move while the answer is awaited, and on while its body is read.
    let driver = Driver(tokio::spawn(async move { drop(connection.await) }));
    let mut response = sender.send_request(request).await?;
    forget_hop_by_hop(response.headers_mut());
    pass(response.headers_mut());
    let broken = move |error: hyper::Error| {
        // It ends with the body.
        let _driver = &driver;
        BodyError::Broken(error.to_string())
    };
    Ok(response.map(|body| body.map_err(broken).boxed_unsync()))
}

/// The task of a connection, which ends with this.
struct Driver(tokio::task::JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// When something came or went last.
type Last = Arc<Mutex<Instant>>;

/// A connection that notes when something came or went.
struct Watched {
    stream: TcpStream,
    last: Last,
}

impl Watched {
    fn new(stream: TcpStream) -> (Self, Last) {
        let last = Arc::new(Mutex::new(Instant::now()));
        (Self { stream, last: Arc::clone(&last) }, last)
    }

    fn moved<T>(&self, outcome: Poll<T>) -> Poll<T> {
        if outcome.is_ready() {
            *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        }
        outcome
    }
}

/// Waits until nothing has come or gone for so long.
async fn idle(last: &Last, at_most: Duration) {
    loop {
        let until = *last.lock().unwrap_or_else(PoisonError::into_inner) + at_most;
        if until <= Instant::now() {
            return;
        }
        tokio::time::sleep_until(until).await;
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.moved(read)
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.moved(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
#[path = "egress_tests.rs"]
mod tests;
