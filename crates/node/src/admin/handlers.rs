//! The handlers of [`super::router::ROUTES`], in its order: each parses, calls one operation, and writes the answer.

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Json, http};
use futures::StreamExt as _;
use littoral_model::entry::ProducerSequence;
use littoral_model::id::{AppName, FunctionName, NodeId, StreamName};
use serde::{Deserialize, Serialize};

use super::error::{AdminError, Problem};
use super::extract::{JsonBody, PathOf, QueryOf, RawBody};
use super::openapi;
use super::operations::{Answers, TailStart};
use super::router::Api;
use super::types::{
    AppBundle, AppEnd, AppHistory, AppStatus, Base64Bytes, CallRequest, CallResponse, ConnectorStatus, FlowStatus,
    FunctionStatus, MoveReport, MoveRequest, NodeStatus, PlanReport, Published, Revocation, SiteStatus, StoredArtifact,
    StreamStatus, TokenGrant, TokenRequest,
};

use super::events::EventsReport;
use super::usage::{ChainReports, UsageReport};
use crate::stream_route::{media, records_of};

/// How many past lines `logs` shows when it is not told.
const LOG_LINES_DEFAULT: usize = 100;
/// The most past lines that `logs` shows; a node keeps no more.
const LOG_LINES_MAX: usize = 10_000;
/// The longest name of a producer, in bytes (see [`ProducerSequence`]).
const PRODUCER_BYTES_MAX: usize = 128;

pub(super) type Answer<T> = Result<Json<T>, AdminError>;

pub(super) async fn live() -> &'static str {
    "live\n"
}

pub(super) async fn ready(State(api): State<Api>) -> Response {
    let readiness = api.operations.ready().await;
    let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(readiness)).into_response()
}

pub(super) async fn metrics(State(api): State<Api>) -> Response {
    let text = api.operations.metrics().await;
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

pub(super) async fn openapi() -> Json<serde_json::Value> {
    Json(openapi::document())
}

pub(super) async fn node(State(api): State<Api>) -> Answer<NodeStatus> {
    api.operations.node().await.map(Json)
}

pub(super) async fn nodes(State(api): State<Api>) -> Answer<Vec<NodeStatus>> {
    api.operations.nodes().await.map(Json)
}

pub(super) async fn sites(State(api): State<Api>) -> Answer<Vec<SiteStatus>> {
    api.operations.sites().await.map(Json)
}

pub(super) async fn apps(State(api): State<Api>) -> Answer<Vec<AppStatus>> {
    api.operations.apps().await.map(Json)
}

pub(super) async fn functions(State(api): State<Api>) -> Answer<Vec<FunctionStatus>> {
    api.operations.functions().await.map(Json)
}

pub(super) async fn flows(State(api): State<Api>) -> Answer<Vec<FlowStatus>> {
    api.operations.flows().await.map(Json)
}

pub(super) async fn connectors(State(api): State<Api>) -> Answer<Vec<ConnectorStatus>> {
    api.operations.connectors().await.map(Json)
}

pub(super) async fn streams(State(api): State<Api>) -> Answer<Vec<StreamStatus>> {
    api.operations.streams().await.map(Json)
}

pub(super) async fn has_artifact(
    State(api): State<Api>,
    PathOf(digest): PathOf<String>,
) -> Result<StatusCode, AdminError> {
    let held = api.operations.has_artifact(&digest).await?;
    Ok(if held { StatusCode::OK } else { StatusCode::NOT_FOUND })
}

pub(super) async fn put_artifact(
    State(api): State<Api>,
    RawBody(artifact): RawBody,
) -> Result<(StatusCode, Json<StoredArtifact>), AdminError> {
    let digest = api.operations.put_artifact(artifact).await?;
    Ok((StatusCode::CREATED, Json(StoredArtifact { digest })))
}

pub(super) async fn plan(State(api): State<Api>, JsonBody(bundle): JsonBody<AppBundle>) -> Answer<PlanReport> {
    api.operations.plan(bundle).await.map(Json)
}

pub(super) async fn deploy(State(api): State<Api>, JsonBody(bundle): JsonBody<AppBundle>) -> Answer<AppStatus> {
    api.operations.deploy(bundle).await.map(Json)
}

pub(super) async fn delete(
    State(api): State<Api>,
    PathOf(app): PathOf<AppName>,
    JsonBody(end): JsonBody<AppEnd>,
) -> Result<StatusCode, AdminError> {
    api.operations.delete(app, end).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn relocate(
    State(api): State<Api>,
    PathOf(app): PathOf<AppName>,
    JsonBody(request): JsonBody<MoveRequest>,
) -> Answer<MoveReport> {
    api.operations.relocate(app, request).await.map(Json)
}

pub(super) async fn revoke(
    State(api): State<Api>,
    JsonBody(revocation): JsonBody<Revocation>,
) -> Result<StatusCode, AdminError> {
    api.operations.revoke(revocation).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn history(State(api): State<Api>, PathOf(app): PathOf<AppName>) -> Answer<AppHistory> {
    api.operations.history(app).await.map(Json)
}

pub(super) async fn call(
    State(api): State<Api>,
    PathOf((app, function)): PathOf<(AppName, FunctionName)>,
    JsonBody(call): JsonBody<CallRequest>,
) -> Answer<CallResponse> {
    let response = api.operations.call(app, function, request_of(call)?).await?;
    Ok(Json(response_of(response)))
}

/// A call as an HTTP request.
pub(super) fn request_of(call: CallRequest) -> Result<http::Request<Bytes>, AdminError> {
    let mut request = http::Request::builder().method(call.method.as_str()).uri(&call.path);
    for (name, value) in &call.headers {
        request = request.header(name, value);
    }
    request
        .body(call.body_base64.0)
        .map_err(|error| AdminError::invalid(format!("the call is not a valid HTTP request: {error}")))
}

/// A function's answer as JSON has it.
pub(super) fn response_of(response: http::Response<Bytes>) -> CallResponse {
    let (parts, body) = response.into_parts();
    let headers = parts
        .headers
        .iter()
        .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
        .collect();
    CallResponse { status: parts.status.as_u16(), headers, body_base64: Base64Bytes(body) }
}

/// Who publishes, for dropping repeats; all three or none.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PublishQuery {
    producer: Option<String>,
    epoch: Option<u64>,
    sequence: Option<u64>,
}

impl PublishQuery {
    fn producer(self) -> Result<Option<ProducerSequence>, AdminError> {
        match (self.producer, self.epoch, self.sequence) {
            (None, None, None) => Ok(None),
            (Some(producer), Some(epoch), Some(sequence)) if (1..=PRODUCER_BYTES_MAX).contains(&producer.len()) => {
                Ok(Some(ProducerSequence { producer, epoch, sequence }))
            }
            (Some(_), Some(_), Some(_)) => {
                Err(AdminError::invalid(format!("the producer's name must have 1 to {PRODUCER_BYTES_MAX} bytes")))
            }
            _ => Err(AdminError::invalid("`producer`, `epoch` and `sequence` go together: give all three or none")),
        }
    }
}

pub(super) async fn publish(
    State(api): State<Api>,
    PathOf((app, stream)): PathOf<(AppName, StreamName)>,
    QueryOf(query): QueryOf<PublishQuery>,
    headers: HeaderMap,
    RawBody(body): RawBody,
) -> Answer<Published> {
    let records = records_of(media(&headers), &body)?;
    api.operations.publish(app, stream, records, query.producer()?).await.map(Json)
}

/// Where a tail begins.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TailQuery {
    from: Option<String>,
    last: Option<u64>,
    #[serde(default)]
    follow: bool,
}

impl TailQuery {
    fn start(&self) -> Result<TailStart, AdminError> {
        match (self.from.as_deref(), self.last) {
            (None, Some(last)) => Ok(TailStart::Last(last)),
            (Some("start"), None) => Ok(TailStart::Start),
            (None | Some("end"), None) => Ok(TailStart::End),
            (Some(_), Some(_)) => Err(AdminError::invalid("give `from` or `last`, not both")),
            (Some(other), None) => Err(AdminError::invalid(format!("`from` is `start` or `end`, not `{other}`"))),
        }
    }
}

pub(super) async fn tail(
    State(api): State<Api>,
    PathOf((app, stream)): PathOf<(AppName, StreamName)>,
    QueryOf(query): QueryOf<TailQuery>,
) -> Result<Response, AdminError> {
    let rows = api.operations.tail(app, stream, query.start()?, query.follow).await?;
    Ok(lines(rows))
}

/// Which lines of a log.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LogsQuery {
    app: Option<AppName>,
    last: Option<usize>,
    #[serde(default)]
    follow: bool,
}

pub(super) async fn logs(State(api): State<Api>, QueryOf(query): QueryOf<LogsQuery>) -> Result<Response, AdminError> {
    let last = query.last.unwrap_or(LOG_LINES_DEFAULT).min(LOG_LINES_MAX);
    Ok(lines(api.operations.logs(query.app, query.follow, last).await?))
}

/// What of the usage.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct UsageQuery {
    since_us: Option<i64>,
    app: Option<AppName>,
    node: Option<NodeId>,
}

pub(super) async fn usage(State(api): State<Api>, QueryOf(query): QueryOf<UsageQuery>) -> Answer<UsageReport> {
    api.operations.usage(query.since_us.unwrap_or_default(), query.app, query.node).await.map(Json)
}

/// Which events.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EventsQuery {
    since_us: Option<i64>,
    app: Option<AppName>,
}

pub(super) async fn events(State(api): State<Api>, QueryOf(query): QueryOf<EventsQuery>) -> Answer<EventsReport> {
    api.operations.events(query.since_us.unwrap_or_default(), query.app).await.map(Json)
}

/// Whose records.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct UsageCheckQuery {
    node: Option<NodeId>,
}

pub(super) async fn usage_check(
    State(api): State<Api>,
    QueryOf(query): QueryOf<UsageCheckQuery>,
) -> Answer<ChainReports> {
    api.operations.usage_chains(query.node).await.map(Json)
}

pub(super) async fn token(
    State(api): State<Api>,
    JsonBody(request): JsonBody<TokenRequest>,
) -> Result<(StatusCode, Json<TokenGrant>), AdminError> {
    let grant = api.operations.token(request).await?;
    Ok((StatusCode::CREATED, Json(grant)))
}

pub(super) async fn stop(State(api): State<Api>) -> Result<StatusCode, AdminError> {
    api.operations.stop().await?;
    Ok(StatusCode::ACCEPTED)
}

/// The last line of a stream of lines that ended with an error. The status is long sent by then.
#[derive(Serialize)]
struct ErrorLine {
    #[serde(rename = "_error")]
    error: Problem,
}

/// Writes answers as they come, one JSON object a line, until the first error.
fn lines<T: Serialize + 'static>(answers: Answers<T>) -> Response {
    let lines = answers.map(|answer| {
        let line = match answer {
            Ok(row) => serde_json::to_vec(&row),
            Err(error) => serde_json::to_vec(&ErrorLine { error: error.into() }),
        };
        line.map(|mut line| {
            line.push(b'\n');
            Bytes::from(line)
        })
    });
    ([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response()
}
