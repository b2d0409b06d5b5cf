//! HTTP requests that guests send: to granted hosts only, over a connection to an address that was checked after its
//! name was resolved, so that a name cannot lead elsewhere between the check and the connection.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::uri::Scheme;
use http::{Request, Response, Uri};
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};
use wasmtime_wasi_http::io::TokioIo;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody};

use crate::access::{Access, Denied};
use crate::logs::GuestOutput;

/// How long connecting, waiting for a response's head and for each part of its body may take at most, and by default.
const TIMEOUT_MAX: Duration = Duration::from_secs(600);

type Sending = Box<dyn Future<Output = Result<(), Error>> + Send>;

/// Sends a request if the guest is granted it; answers the response and what must be polled until its body is read.
pub(crate) async fn send(
    access: Arc<Access>,
    output: GuestOutput,
    mut request: Request<WasiBody>,
    options: Option<RequestOptions>,
) -> Result<(Response<WasiBody>, Sending), Error> {
    let target = Target::of(request.uri())?;
    let addresses = access.http_addresses(&target.host, target.port).await.map_err(|denied| {
        if let Some(missing) = denied.missing_grant(&target.host, target.port) {
            output.host_line(&missing);
        }
        match denied {
            Denied::NotGranted => Error::HttpRequestDenied,
            Denied::Address(_) => Error::DestinationIpProhibited,
            Denied::Unresolved(error) if error.kind() == std::io::ErrorKind::TimedOut => Error::DnsTimeout,
            Denied::Unresolved(error) => Error::DnsError { rcode: Some(error.to_string()), info_code: None },
        }
    })?;
    let allowed = |wanted: Option<Duration>| wanted.unwrap_or(TIMEOUT_MAX).min(TIMEOUT_MAX);
    let options = options.unwrap_or_default();
    let connecting = connect(&addresses);
    let stream = tokio::time::timeout(allowed(options.connect_timeout), connecting).await;
    let stream = stream.map_err(|_| Error::ConnectionTimeout)??;
    // HTTP/1.1 names the path alone, the host goes into its header (RFC 9112, section 3.2.1).
    let path = request.uri().path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    *request.uri_mut() = path.parse::<Uri>().map_err(|_| Error::HttpRequestUriInvalid)?;
    let first_byte = allowed(options.first_byte_timeout);
    let between_bytes = allowed(options.between_bytes_timeout);
    if target.secure {
        let name = ServerName::try_from(target.host.clone()).map_err(|_| Error::HttpRequestUriInvalid)?;
        let tls = tokio_rustls::TlsConnector::from(tls_config()?).connect(name, stream);
        let tls = tokio::time::timeout(first_byte, tls).await.map_err(|_| Error::ConnectionTimeout)?;
        exchange(tls.map_err(Error::Tls)?, request, first_byte, between_bytes).await
    } else {
        exchange(stream, request, first_byte, between_bytes).await
    }
}

/// Where a request goes.
struct Target {
    host: String,
    port: u16,
    secure: bool,
}

impl Target {
    fn of(uri: &Uri) -> Result<Self, Error> {
        let authority = uri.authority().ok_or(Error::HttpRequestUriInvalid)?;
        // `user@host` would show one host and reach another to whoever reads it carelessly.
        if authority.as_str().contains('@') {
            return Err(Error::HttpRequestUriInvalid);
        }
        let secure = match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTP => false,
            None => true,
            Some(scheme) if *scheme == Scheme::HTTPS => true,
            Some(_) => return Err(Error::HttpProtocolError),
        };
        let port = authority.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        Ok(Self { host, port, secure })
    }
}

/// Connects to the first address that answers.
async fn connect(addresses: &[SocketAddr]) -> Result<TcpStream, Error> {
    let mut last = Error::DestinationNotFound;
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(stream) => {
                stream.set_nodelay(true).map_err(Error::Connect)?;
                return Ok(stream);
            }
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => last = Error::ConnectionRefused,
            Err(error) => last = Error::Connect(error),
        }
    }
    Err(last)
}

async fn exchange<S>(
    stream: S,
    request: Request<WasiBody>,
    first_byte: Duration,
    between_bytes: Duration,
) -> Result<(Response<WasiBody>, Sending), Error>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(Error::Hyper)?;
    // The connection must move while the response is awaited, and on while its body is read. It ends with the guest.
    let driven = tokio::spawn(connection);
    let driven = Driven(driven);
    let answered = tokio::time::timeout(first_byte, sender.send_request(request)).await;
    let response = answered.map_err(|_| Error::HttpResponseTimeout)?.map_err(Error::Hyper)?;
    let response = response.map(|body| {
        let pause = Box::pin(tokio::time::sleep(between_bytes));
        Paced { body, between_bytes, pause }.boxed_unsync()
    });
    Ok((response, Box::new(driven.ended())))
}

/// A response's body, which breaks off where its next part takes too long.
struct Paced {
    body: Incoming,
    between_bytes: Duration,
    pause: Pin<Box<Sleep>>,
}

impl http_body::Body for Paced {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) {
            let next = Instant::now() + self.between_bytes;
            self.pause.as_mut().reset(next);
            return Poll::Ready(frame.map(|frame| frame.map_err(Error::Hyper)));
        }
        self.pause.as_mut().poll(context).map(|()| Some(Err(Error::ConnectionReadTimeout)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A connection's task, which ends with this.
struct Driven(tokio::task::JoinHandle<Result<(), hyper::Error>>);

impl Driven {
    async fn ended(mut self) -> Result<(), Error> {
        match (&mut self.0).await {
            Ok(outcome) => outcome.map_err(Error::Hyper),
            Err(_) => Err(Error::ConnectionTerminated),
        }
    }
}

impl Drop for Driven {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Servers are trusted that Mozilla's list of authorities vouches for.
fn tls_config() -> Result<Arc<ClientConfig>, Error> {
    static CONFIG: OnceLock<Option<Arc<ClientConfig>>> = OnceLock::new();
    let config = CONFIG.get_or_init(|| {
        let roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
        let builder = builder.with_safe_default_protocol_versions().ok()?;
        Some(Arc::new(builder.with_root_certificates(roots).with_no_client_auth()))
    });
    config.clone().ok_or(Error::ConfigurationError)
}
