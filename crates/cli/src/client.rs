//! Asks a node's admin API: over its Unix socket, or over TLS with an administrator's certificate.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use bytes::{Bytes, BytesMut};
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use littoral_model::invocation::InvocationName;
use littoral_node::DataDir;
use littoral_node::admin::error::{AdminError, AdminErrorKind, Problem};
use littoral_node::admin::events::EventsReport;
use littoral_node::admin::queue::{InvocationStatus, InvocationsReport, LaterRequest};
use littoral_node::admin::types::{
    AppBundle, AppEnd, AppHistory, AppStatus, CallRequest, CallResponse, ConnectorStatus, FlowStatus, FunctionStatus,
    MoveReport, MoveRequest, NodeStatus, PlanReport, Published, Revocation, SiteStatus, StoredArtifact, StreamStatus,
    TokenGrant, TokenRequest,
};
use littoral_node::admin::usage::{ChainReports, UsageReport};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use crate::failure::Hinted;

/// How long a node may take to answer. Functions may run for half a minute; all else is fast.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// How long connecting may take, the TLS handshake included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The largest answer that is held in memory: the answer of a function, in base64, is the largest there is.
const ANSWER_BYTES_MAX: usize = 96 << 20;
/// The longest line of a streamed answer: a record's columns as JSON.
const LINE_BYTES_MAX: usize = 16 << 20;

/// Which node to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// One on this machine.
    Unix(PathBuf),
    /// One anywhere, as an administrator.
    Tls {
        /// Its admin address, `host:port`.
        address: String,
        /// The folder with the administrator's credentials.
        credentials: PathBuf,
        /// The node's name, where its certificate does not name the address's host.
        node: Option<String>,
    },
}

/// Asks one node. Each request has a connection of its own.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    target: Target,
}

trait Connection: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Connection for T {}

impl Client {
    /// Asks this node.
    pub(crate) fn new(target: Target) -> Self {
        Self { target }
    }

    /// Where the key is that the tenant's apps are signed with, if it is here: with the administrator's credentials.
    pub(crate) fn key_folder(&self) -> PathBuf {
        match &self.target {
            Target::Unix(socket) => {
                let data = socket.parent().unwrap_or(Path::new(""));
                DataDir::new(data).admin_credentials()
            }
            Target::Tls { credentials, .. } => credentials.clone(),
        }
    }

    pub(crate) async fn nodes(&self) -> anyhow::Result<Vec<NodeStatus>> {
        self.get("/v1/nodes").await
    }

    pub(crate) async fn sites(&self) -> anyhow::Result<Vec<SiteStatus>> {
        self.get("/v1/sites").await
    }

    pub(crate) async fn apps(&self) -> anyhow::Result<Vec<AppStatus>> {
        self.get("/v1/apps").await
    }

    pub(crate) async fn functions(&self) -> anyhow::Result<Vec<FunctionStatus>> {
        self.get("/v1/functions").await
    }

    pub(crate) async fn flows(&self) -> anyhow::Result<Vec<FlowStatus>> {
        self.get("/v1/flows").await
    }

    pub(crate) async fn connectors(&self) -> anyhow::Result<Vec<ConnectorStatus>> {
        self.get("/v1/connectors").await
    }

    pub(crate) async fn streams(&self) -> anyhow::Result<Vec<StreamStatus>> {
        self.get("/v1/streams").await
    }

    /// Whether the node holds the artefact.
    pub(crate) async fn has_artifact(&self, digest: &str) -> anyhow::Result<bool> {
        let response = self.send(Method::HEAD, &format!("/v1/artifacts/{digest}"), None, Bytes::new()).await?;
        match response.status() {
            StatusCode::OK => Ok(true),
            StatusCode::NOT_FOUND => Ok(false),
            status => anyhow::bail!("the node answered {status} when asked for the artefact {digest}"),
        }
    }

    /// Uploads an artefact; answers its digest.
    pub(crate) async fn put_artifact(&self, artifact: Bytes) -> anyhow::Result<String> {
        let kind = Some("application/octet-stream");
        let stored: StoredArtifact = read(self.send(Method::POST, "/v1/artifacts", kind, artifact).await?).await?;
        Ok(stored.digest)
    }

    pub(crate) async fn plan(&self, bundle: &AppBundle) -> anyhow::Result<PlanReport> {
        self.post("/v1/plan", bundle).await
    }

    pub(crate) async fn deploy(&self, bundle: &AppBundle) -> anyhow::Result<AppStatus> {
        self.post("/v1/apps", bundle).await
    }

    pub(crate) async fn delete(&self, app: &str, end: &AppEnd) -> anyhow::Result<()> {
        let body = Bytes::from(serde_json::to_vec(end)?);
        let response = self.send(Method::DELETE, &format!("/v1/apps/{app}"), Some("application/json"), body).await?;
        check(response).await.map(drop)
    }

    pub(crate) async fn relocate(&self, app: &str, request: &MoveRequest) -> anyhow::Result<MoveReport> {
        self.post(&format!("/v1/apps/{app}/moves"), request).await
    }

    pub(crate) async fn revoke(&self, revocation: &Revocation) -> anyhow::Result<()> {
        let body = Bytes::from(serde_json::to_vec(revocation)?);
        check(self.send(Method::POST, "/v1/revocations", Some("application/json"), body).await?).await.map(drop)
    }

    pub(crate) async fn history(&self, app: &str) -> anyhow::Result<AppHistory> {
        self.get(&format!("/v1/apps/{app}/history")).await
    }

    pub(crate) async fn call(&self, app: &str, function: &str, call: &CallRequest) -> anyhow::Result<CallResponse> {
        self.post(&format!("/v1/apps/{app}/functions/{function}/call"), call).await
    }

    /// Has a call accepted for later.
    pub(crate) async fn call_later(
        &self,
        app: &str,
        function: &str,
        later: &LaterRequest,
    ) -> anyhow::Result<InvocationStatus> {
        self.post(&format!("/v1/apps/{app}/functions/{function}/invocations"), later).await
    }

    /// How an invocation stands once it has ended, or after so long.
    pub(crate) async fn invocation(&self, id: &InvocationName, wait_ms: u128) -> anyhow::Result<InvocationStatus> {
        self.get(&format!("/v1/invocations/{id}?wait_ms={wait_ms}")).await
    }

    /// What the function answered.
    pub(crate) async fn invocation_result(&self, id: &InvocationName) -> anyhow::Result<CallResponse> {
        self.get(&format!("/v1/invocations/{id}/result")).await
    }

    /// The invocations; `query` says of what.
    pub(crate) async fn invocations(&self, query: &str) -> anyhow::Result<InvocationsReport> {
        self.get(&format!("/v1/invocations{query}")).await
    }

    pub(crate) async fn retry_invocation(&self, id: &InvocationName) -> anyhow::Result<()> {
        let path = format!("/v1/invocations/{id}/retry");
        check(self.send(Method::POST, &path, None, Bytes::new()).await?).await.map(drop)
    }

    pub(crate) async fn forget_invocation(&self, id: &InvocationName) -> anyhow::Result<()> {
        let path = format!("/v1/invocations/{id}");
        check(self.send(Method::DELETE, &path, None, Bytes::new()).await?).await.map(drop)
    }

    /// Publishes records, one a line; `content_type` says whether as plain values or JSON. `query` is empty or has the
    /// producer's numbers.
    pub(crate) async fn publish(
        &self,
        app: &str,
        stream: &str,
        query: &str,
        content_type: &str,
        records: Bytes,
    ) -> anyhow::Result<Published> {
        let path = format!("/v1/apps/{app}/streams/{stream}/records{query}");
        read(self.send(Method::POST, &path, Some(content_type), records).await?).await
    }

    /// Reads a stream; `query` has the beginning and whether to follow.
    pub(crate) async fn tail(&self, app: &str, stream: &str, query: &str) -> anyhow::Result<Lines> {
        self.lines(&format!("/v1/apps/{app}/streams/{stream}/records{query}")).await
    }

    /// The node's metrics, in Prometheus' text format.
    pub(crate) async fn metrics(&self) -> anyhow::Result<String> {
        let response = check(self.send(Method::GET, "/metrics", None, Bytes::new()).await?).await?;
        let body = response.into_body().collect().await?.to_bytes();
        Ok(String::from_utf8_lossy(&body).into_owned())
    }

    /// Reads a log; `query` names the app and whether to follow.
    pub(crate) async fn logs(&self, query: &str) -> anyhow::Result<Lines> {
        self.lines(&format!("/v1/logs{query}")).await
    }

    /// What happened; `query` says since when, and to which app.
    pub(crate) async fn events(&self, query: &str) -> anyhow::Result<EventsReport> {
        self.get(&format!("/v1/events{query}")).await
    }

    /// What functions have used; `query` says since when, and of what.
    pub(crate) async fn usage(&self, query: &str) -> anyhow::Result<UsageReport> {
        self.get(&format!("/v1/usage{query}")).await
    }

    /// Whether the records of that are whole; `query` may name a node.
    pub(crate) async fn usage_check(&self, query: &str) -> anyhow::Result<ChainReports> {
        self.get(&format!("/v1/usage/check{query}")).await
    }

    pub(crate) async fn token(&self, request: &TokenRequest) -> anyhow::Result<TokenGrant> {
        self.post("/v1/tokens", request).await
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        read(self.send(Method::GET, path, None, Bytes::new()).await?).await
    }

    async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> anyhow::Result<T> {
        let body = Bytes::from(serde_json::to_vec(body)?);
        read(self.send(Method::POST, path, Some("application/json"), body).await?).await
    }

    async fn lines(&self, path: &str) -> anyhow::Result<Lines> {
        let response = check(self.send(Method::GET, path, None, Bytes::new()).await?).await?;
        Ok(Lines { body: response.into_body(), buffer: BytesMut::new(), searched: 0 })
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        content_type: Option<&str>,
        body: Bytes,
    ) -> anyhow::Result<Response<Incoming>> {
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, "littoral");
        if let Some(content_type) = content_type {
            request = request.header(header::CONTENT_TYPE, content_type);
        }
        let request = request.body(Full::new(body))?;
        let stream = tokio::time::timeout(CONNECT_TIMEOUT, self.connect())
            .await
            .map_err(|_| unreachable_node(format!("{} does not take connections", self.target)))??;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "the connection to the node broke");
            }
        });
        tokio::time::timeout(ANSWER_TIMEOUT, sender.send_request(request))
            .await
            .map_err(|_| unreachable_node(format!("{} did not answer within {ANSWER_TIMEOUT:?}", self.target)))?
            .map_err(|error| self.hung_up(&error))
    }

    /// Why there was no answer. With TLS 1.3 a client learns only after its handshake that its certificate is refused.
    fn hung_up(&self, error: &hyper::Error) -> anyhow::Error {
        match &self.target {
            Target::Unix(_) => unreachable_node(format!("{} hung up: {error}", self.target)),
            Target::Tls { credentials, .. } => AdminError::unavailable(format!(
                "{} hung up: {error}; it may not take these credentials: {}",
                self.target,
                credentials.display()
            ))
            .hint("take the folder `admin` that `littoral init` made for this fabric; the node's log says what it refused")
            .into(),
        }
    }

    async fn connect(&self) -> anyhow::Result<Box<dyn Connection>> {
        match &self.target {
            Target::Unix(path) => match UnixStream::connect(path).await {
                Ok(stream) => Ok(Box::new(stream)),
                Err(error) => Err(unreachable_node(format!("no node answers at {}: {error}", path.display()))),
            },
            Target::Tls { address, credentials, node } => {
                let stream = TcpStream::connect(address)
                    .await
                    .map_err(|error| unreachable_node(format!("no node answers at {address}: {error}")))?;
                let host = address.rsplit_once(':').map_or(address.as_str(), |(host, _)| host);
                let server = node.as_deref().unwrap_or_else(|| host.trim_matches(['[', ']']));
                let stream = littoral_node::admin::remote::connect(stream, credentials, server).await.with_context(|| {
                    Hinted {
                        message: format!("{address} and the credentials in {} do not fit", credentials.display()),
                        hint: "give the node's name to `littoral context add` with --node, or copy the credentials of its fabric"
                            .to_owned(),
                    }
                })?;
                Ok(Box::new(stream))
            }
        }
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "the node at {}", path.display()),
            Self::Tls { address, .. } => write!(f, "the node at {address}"),
        }
    }
}

fn unreachable_node(message: String) -> anyhow::Error {
    AdminError::unavailable(message)
        .hint("start one with `littoral dev APP` or `littoral node`, or choose one with --socket or --context")
        .into()
}

/// The answer, if it is no problem.
async fn check(response: Response<Incoming>) -> anyhow::Result<Response<Incoming>> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX)
        .collect()
        .await
        .map_err(|error| anyhow::anyhow!("the node hung up amid its answer: {error}"))?
        .to_bytes();
    match serde_json::from_slice::<Problem>(&body) {
        Ok(problem) => Err(AdminError::from(problem).into()),
        Err(_) => anyhow::bail!("the node answered {status}: {}", String::from_utf8_lossy(&body).trim()),
    }
}

async fn read<T: DeserializeOwned>(response: Response<Incoming>) -> anyhow::Result<T> {
    let body = Limited::new(check(response).await?.into_body(), ANSWER_BYTES_MAX)
        .collect()
        .await
        .map_err(|error| anyhow::anyhow!("the node hung up amid its answer: {error}"))?
        .to_bytes();
    serde_json::from_slice(&body).context("the node's answer is not understood; is it of another version?")
}

/// A streamed answer, line by line.
#[derive(Debug)]
pub(crate) struct Lines {
    body: Incoming,
    buffer: BytesMut,
    /// How much of the buffer is known to have no end of line.
    searched: usize,
}

impl Lines {
    /// The next line, without its end; none at the end.
    ///
    /// # Errors
    /// When the node says that it failed, or hangs up within a line.
    pub(crate) async fn next(&mut self) -> anyhow::Result<Option<Bytes>> {
        loop {
            let unsearched = self.buffer.get(self.searched..).unwrap_or_default();
            if let Some(end) = unsearched.iter().position(|&byte| byte == b'\n') {
                let mut line = self.buffer.split_to(self.searched + end + 1).freeze();
                line.truncate(line.len() - 1);
                self.searched = 0;
                return fail_if_error(line).map(Some);
            }
            self.searched = self.buffer.len();
            anyhow::ensure!(self.buffer.len() <= LINE_BYTES_MAX, "the node sent a line of more than 16 MiB");
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
                Some(Err(error)) => {
                    return Err(AdminError::new(AdminErrorKind::Unavailable, format!("the node hung up: {error}"))
                        .hint("see whether it still runs with `littoral get nodes`")
                        .into());
                }
                None if self.buffer.is_empty() => return Ok(None),
                None => anyhow::bail!("the node hung up within a line"),
            }
        }
    }
}

/// A node that fails after it began to answer says so in a last line.
fn fail_if_error(line: Bytes) -> anyhow::Result<Bytes> {
    #[derive(serde::Deserialize)]
    struct ErrorLine {
        #[serde(rename = "_error")]
        error: Problem,
    }
    if line.starts_with(br#"{"_error":"#)
        && let Ok(line) = serde_json::from_slice::<ErrorLine>(&line)
    {
        return Err(AdminError::from(line.error).into());
    }
    Ok(line)
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;

#[cfg(test)]
pub(crate) use tests::{Canned, problem};
