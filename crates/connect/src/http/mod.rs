//! HTTP: a source asks a URL again and again, a sink posts rows to one.

mod sink;
mod source;

pub(crate) use sink::HttpSink;
pub(crate) use source::HttpSource;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{HOST, USER_AGENT};
use http::uri::Scheme;
use http::{HeaderName, HeaderValue, Method, Request, Response, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use littoral_model::grant::Peer;
use tokio::time::Instant;

use crate::net::{self, Duplex};
use crate::{Machine, Trouble, said};

/// The longest answer that is taken.
const ANSWER_BYTES_MAX: usize = 4 << 20;

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
            let value = said(&*machine, value).await?;
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
        let deadline = Instant::now() + self.timeout;
        let stream = net::dial(&*self.machine, &self.grants, &self.host, self.port, deadline).await;
        let stream = stream.map_err(|trouble| self.trouble(trouble))?;
        if !self.is_secure {
            return self.over(stream, request).await;
        }
        let stream = net::secured(stream, &self.host, net::public_tls()?).await;
        self.over(stream.map_err(|trouble| self.trouble(trouble))?, request).await
    }

    async fn over(
        &self,
        stream: impl Duplex + 'static,
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
