//! What the admin API shows of asynchronous invocations, and the handlers of its routes.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use littoral_model::id::{AppName, FunctionName};
use littoral_model::invocation::{self, InvalidInvocation, InvocationName, Record, StateKind};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::error::AdminError;
use super::extract::{JsonBody, PathOf, QueryOf};
use super::handlers::{Answer, request_of, response_of};
use super::router::Api;
use super::types::{CallRequest, CallResponse};

/// A call that is to be made later.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LaterRequest {
    /// The call.
    pub call: CallRequest,
    /// The same key stands for the same invocation, for as long as its result is kept.
    #[serde(default)]
    pub key: Option<String>,
}

/// Where an invocation stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum InvocationState {
    /// It is to be run, or runs.
    Waiting,
    /// The function has answered.
    Done,
    /// It was given up.
    Dead,
}

/// An asynchronous invocation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct InvocationStatus {
    /// Its name.
    pub id: String,
    /// The app.
    pub app: String,
    /// The function.
    pub function: String,
    /// The site of its queue.
    pub site: String,
    /// Where it stands.
    pub state: InvocationState,
    /// The idempotency key that it was called with.
    pub key: Option<String>,
    /// What the function is called with: method and path; none once it has answered.
    pub request: Option<String>,
    /// When it was accepted, microseconds since 1970.
    pub accepted_us: i64,
    /// When it is tried, next or again, while it waits.
    pub due_us: Option<i64>,
    /// When it was done or given up.
    pub ended_us: Option<i64>,
    /// How often the function answered with an error.
    pub attempts: u32,
    /// How often no answer came.
    pub unanswered: u32,
    /// The status of the function's answer.
    pub status: Option<u16>,
    /// Why the last try failed.
    pub error: Option<String>,
}

/// Asynchronous invocations, and what is not among them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct InvocationsReport {
    /// The invocations, the latest first; the latest thousand of each queue that stand as asked for.
    pub invocations: Vec<InvocationStatus>,
    /// The queues that they are in.
    pub queues: Vec<QueueStatus>,
}

/// A partition of a function's queue: that of one site.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct QueueStatus {
    /// Its name: `tenant/app/queue/function/partition@site`.
    pub name: String,
    /// The node that owns it.
    pub owner: Option<String>,
    /// Raised each time the owner changes.
    pub epoch: u64,
    /// The nodes that hold everything that was accepted.
    pub in_sync: Vec<String>,
    /// Whether it answers now. If not, its invocations are not shown.
    pub answers: bool,
    /// Whether it has more than are shown.
    pub has_more: bool,
}

impl From<InvocationState> for StateKind {
    fn from(state: InvocationState) -> Self {
        match state {
            InvocationState::Waiting => Self::Pending,
            InvocationState::Done => Self::Done,
            InvocationState::Dead => Self::Dead,
        }
    }
}

impl InvocationStatus {
    /// How a record is shown.
    pub(crate) fn of(name: &InvocationName, record: &Record) -> Self {
        let (state, due_us, ended_us, status) = match &record.state {
            invocation::State::Pending { due_us } => (InvocationState::Waiting, Some(*due_us), None, None),
            invocation::State::Done { at_us, answer } => {
                (InvocationState::Done, None, Some(*at_us), Some(answer.status))
            }
            invocation::State::Dead { at_us } => (InvocationState::Dead, None, Some(*at_us), None),
        };
        Self {
            id: name.to_string(),
            app: name.queue.app.app.to_string(),
            function: name.queue.name.clone(),
            site: name.queue.site.to_string(),
            state,
            key: record.key.clone(),
            request: record.request.as_ref().map(|request| format!("{} {}", request.method, request.uri)),
            accepted_us: record.accepted_us,
            due_us,
            ended_us,
            attempts: record.attempts,
            unanswered: record.unanswered,
            status,
            error: record.error.clone(),
        }
    }
}

pub(super) async fn later(
    State(api): State<Api>,
    PathOf((app, function)): PathOf<(AppName, FunctionName)>,
    JsonBody(later): JsonBody<LaterRequest>,
) -> Result<(StatusCode, Json<InvocationStatus>), AdminError> {
    let request = request_of(later.call)?;
    let status = api.operations.call_later(app, function, later.key, request).await?;
    Ok((StatusCode::ACCEPTED, Json(status)))
}

/// Of what.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct InvocationsQuery {
    app: Option<AppName>,
    function: Option<FunctionName>,
    state: Option<InvocationState>,
}

pub(super) async fn invocations(
    State(api): State<Api>,
    QueryOf(query): QueryOf<InvocationsQuery>,
) -> Answer<InvocationsReport> {
    api.operations.invocations(query.app, query.function, query.state).await.map(Json)
}

/// How long to wait.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WaitQuery {
    #[serde(default)]
    wait_ms: u32,
}

pub(super) async fn invocation(
    State(api): State<Api>,
    PathOf(name): PathOf<String>,
    QueryOf(query): QueryOf<WaitQuery>,
) -> Answer<InvocationStatus> {
    let name = parse(&name)?;
    let record = api.operations.invocation(name.clone(), query.wait_ms).await?;
    Ok(Json(InvocationStatus::of(&name, &record)))
}

pub(super) async fn result(State(api): State<Api>, PathOf(name): PathOf<String>) -> Answer<CallResponse> {
    let name = parse(&name)?;
    let record = api.operations.invocation(name.clone(), 0).await?;
    let asked = crate::queue::http::Asked { name, result: true };
    match &record.state {
        invocation::State::Done { answer, .. } if answer.body.is_some() => {}
        invocation::State::Done { .. } => {
            return Err(AdminError::not_found("the body of the answer was not kept")
                .hint("an answer may have 1 MiB; have the function store what is larger, and answer with its name"));
        }
        invocation::State::Pending { .. } => return Err(AdminError::unavailable("the function has not answered yet")),
        invocation::State::Dead { .. } => {
            let error = record.error.unwrap_or_default();
            return Err(AdminError::refused(format!("the invocation was given up: {error}"))
                .hint("run it once more with `littoral queue retry`"));
        }
    }
    Ok(Json(response_of(crate::queue::http::told(&asked, record))))
}

pub(super) async fn retry(State(api): State<Api>, PathOf(name): PathOf<String>) -> Result<StatusCode, AdminError> {
    api.operations.retry_invocation(parse(&name)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn forget(State(api): State<Api>, PathOf(name): PathOf<String>) -> Result<StatusCode, AdminError> {
    api.operations.forget_invocation(parse(&name)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn parse(name: &str) -> Result<InvocationName, AdminError> {
    name.parse().map_err(|error: InvalidInvocation| AdminError::invalid(error.to_string()))
}
