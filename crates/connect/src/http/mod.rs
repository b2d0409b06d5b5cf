//! HTTP: a source asks a URL again and again, a sink posts rows to one.

mod sink;
mod source;

pub(crate) use sink::HttpSink;
pub(crate) use source::HttpSource;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http::header::{HOST, USER_AGENT};
use http::uri::Scheme;
use http::{HeaderName, HeaderValue, Method, Request, Response, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use littoral_model::grant::Peer;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::{Machine, Trouble};

/// The longest answer that is taken.
const ANSWER_BYTES_MAX: usize = 4 << 20;
/// What a value begins with that names a secret of the node.
const SECRET_PREFIX: &str = "secret:";

/// Where requests go, and what each of them has.
struct Target {
    uri: Uri,
    host: String,
    port: u16,
    is_secure: bool,
    headers: Vec<(HeaderName, HeaderValue)>,
    grants: Vec<Peer>,
    timeout: Duration,
    machine: Arc<dyn Machine>,
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Its headers may be secrets.
        f.debug_struct("Target").field("uri", &self.uri).finish_non_exhaustive()
    }
}

impl Target {
    async fn open(
        url: &str,
        headers: &BTreeMap<String, String>,
        grants: &[Peer],
        timeout: Duration,
        machine: Arc<dyn Machine>,
    ) -> Result<Self, Trouble> {
        let uri: Uri = url.parse().map_err(|error| Trouble::of(format!("`{url}` is no URL"), error))?;
        let is_secure = uri.scheme() == Some(&Scheme::HTTPS);
        let authority = uri.authority().ok_or_else(|| Trouble(format!("`{url}` names no host")))?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = authority.port_u16().unwrap_or(if is_secure { 443 } else { 80 });
        let mut made = Vec::with_capacity(headers.len());
        for (name, value) in headers {
            let value = match value.strip_prefix(SECRET_PREFIX) {
                Some(secret) => machine.secret(secret).await?,
                None => value.clone(),
            };
            let named = HeaderName::try_from(name.as_str()).map_err(|error| Trouble::of(name, error))?;
            let mut value = HeaderValue::try_from(value).map_err(|error| Trouble::of(name, error))?;
            value.set_sensitive(true);
            made.push((named, value));
        }
        Ok(Self { uri, host, port, is_secure, headers: made, grants: grants.to_vec(), timeout, machine })
    }

    /// Sends a request over a connection of its own; the answer with its body.
    async fn send(
        &self,
        method: Method,
        more: &[(HeaderName, String)],
        body: Bytes,
    ) -> Result<Response<Bytes>, Trouble> {
        let answered = tokio::time::timeout(self.timeout, self.exchange(method, more, body)).await;
        answered.map_err(|_| self.trouble(format!("no answer within {} s", self.timeout.as_secs_f64())))?
    }

    fn trouble(&self, why: impl std::fmt::Display) -> Trouble {
        Trouble::of(&self.uri, why)
    }

    async fn exchange(
        &self,
        method: Method,
        more: &[(HeaderName, String)],
        body: Bytes,
    ) -> Result<Response<Bytes>, Trouble> {
        let path = self.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
        let authority = self.uri.authority().map_or(self.host.as_str(), http::uri::Authority::as_str);
        let mut request = Request::builder().method(method).uri(path).header(HOST, authority);
        request = request.header(USER_AGENT, concat!("littoral/", env!("CARGO_PKG_VERSION")));
        for (name, value) in more {
            request = request.header(name, value);
        }
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let request = request.body(Full::new(body)).map_err(|error| self.trouble(error))?;
        let addresses = self.machine.addresses(&self.grants, &self.host, self.port).await?;
        let stream = self.connect(&addresses).await?;
        if !self.is_secure {
            return self.over(stream, request).await;
        }
        let name = ServerName::try_from(self.host.clone()).map_err(|error| self.trouble(error))?;
        let config = tls_config().ok_or_else(|| self.trouble("TLS cannot be set up"))?;
        let stream = tokio_rustls::TlsConnector::from(config).connect(name, stream).await;
        self.over(stream.map_err(|error| self.trouble(error))?, request).await
    }

    async fn connect(&self, addresses: &[SocketAddr]) -> Result<TcpStream, Trouble> {
        let mut last = "its name leads nowhere".to_owned();
        for address in addresses {
            match TcpStream::connect(address).await {
                Ok(stream) => {
                    stream.set_nodelay(true).map_err(|error| self.trouble(error))?;
                    return Ok(stream);
                }
                Err(error) => last = format!("{address}: {error}"),
            }
        }
        Err(self.trouble(last))
    }

    async fn over(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Bytes>, Trouble> {
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| self.trouble(error))?;
        let exchange = async {
            let (head, body) = sender.send_request(request).await.map_err(|error| self.trouble(error))?.into_parts();
            let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
            let body = body.map_err(|error| self.trouble(format!("its answer cannot be read: {error}")))?;
            Ok(Response::from_parts(head, body.to_bytes()))
        };
        // The connection moves only while it is polled; how it ends, the exchange is told.
        let connection = async {
            let _ = connection.await;
            std::future::pending().await
        };
        tokio::select! {
            answer = exchange => answer,
            never = connection => never,
        }
    }
}

/// Servers are trusted that Mozilla's list of authorities vouches for.
fn tls_config() -> Option<Arc<ClientConfig>> {
    static CONFIG: OnceLock<Option<Arc<ClientConfig>>> = OnceLock::new();
    let config = CONFIG.get_or_init(|| {
        let roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
        let builder = builder.with_safe_default_protocol_versions().ok()?;
        Some(Arc::new(builder.with_root_certificates(roots).with_no_client_auth()))
    });
    config.clone()
}
