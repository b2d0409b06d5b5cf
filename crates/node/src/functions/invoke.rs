//! HTTP requests to functions: here if that is best, else over the mesh by [`Method::Invoke`], to one instance after the
//! other until one answers.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use http::header::{HOST, HeaderValue};
use http::{Request, Response};
use http_body_util::{BodyExt as _, Limited};
use littoral_mesh::{Call, CallError, Method, Priority};
use littoral_model::id::{AppId, FunctionName, NodeId};
use littoral_model::wire;
use littoral_plan::route::Choice;
use littoral_runtime::http::{Body, HttpFunction, full};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep_until};

use super::{BODY_BYTES_MAX, Functions};
use crate::admin::types::AdminError;
use crate::routing::{Here, Way, Wish};

/// How long a call of another node may take on top of the function's own time: until a dead node is known to be dead,
/// and another one has been asked.
const LINK_ALLOWANCE: Duration = Duration::from_secs(5);

/// How a request is to be handled.
#[derive(Clone, Debug, Default)]
pub(crate) struct Manner {
    /// Requests with the same key go to the same instance.
    pub(crate) key: Option<String>,
    /// The size of the input, in bytes, as far as it is known.
    pub(crate) input_bytes: u64,
    /// Whether a second instance may be asked before the first has answered, if the method is idempotent.
    pub(crate) hedge: bool,
}

/// Who is to answer a request.
pub(crate) enum Chosen {
    /// This node's own instance.
    Here(Arc<HttpFunction>),
    /// One of these, which may also be this node.
    Elsewhere(Elsewhere),
}

/// How a request goes to others.
pub(crate) struct Elsewhere {
    way: Way,
    timeout: Duration,
    hedge: bool,
}

/// A request that goes to another node.
#[derive(Debug, Serialize, Deserialize)]
struct Invocation {
    app: AppId,
    function: FunctionName,
    method: String,
    uri: String,
    headers: Vec<(String, Bytes)>,
    body: Bytes,
}

/// Its answer.
#[derive(Debug, Serialize, Deserialize)]
struct Answer {
    status: u16,
    headers: Vec<(String, Bytes)>,
    body: Bytes,
}

/// What came of asking one instance.
enum Attempt {
    Answered(Response<Bytes>),
    /// It surely did not start on it: another one may be asked.
    Untouched(String),
    /// It did not answer, but may have begun: another one may be asked only if that does no harm.
    Unanswered(String),
    Failed(AdminError),
}

impl Functions {
    /// Calls a function, wherever it runs.
    pub(crate) async fn call(
        &self,
        app: &AppId,
        function: &FunctionName,
        request: Request<Bytes>,
    ) -> Result<Response<Bytes>, AdminError> {
        let manner = Manner { input_bytes: request.body().len() as u64, ..Manner::default() };
        match self.choose(app, function, &manner)? {
            Chosen::Here(local) => self.call_here(local, with_host(request)).await,
            Chosen::Elsewhere(way) => self.call_elsewhere(app, function, way, request).await,
        }
    }

    /// Who is to answer a request. An instance of this node does if it is not busy, and keeps its objective.
    pub(crate) fn choose(&self, app: &AppId, function: &FunctionName, manner: &Manner) -> Result<Chosen, AdminError> {
        let local = self.here(app, function);
        let execution_us = self.measured.strained_us(|| (app.clone(), function.clone()));
        let may_answer = manner.key.is_none() && execution_us.is_none();
        if let Some(local) = local.as_ref().filter(|local| may_answer && self.is_quick(local)) {
            return Ok(Chosen::Here(Arc::clone(local)));
        }
        if local.is_none() && self.loader.exports.here(app, function).is_some() {
            let text = format!("{}/{function} answers no HTTP: it exports interfaces for other functions", app.app);
            return Err(AdminError::refused(text).hint("call a function that imports them"));
        }
        let apps = self.intent.now();
        let known = apps.apps.get(app).and_then(|app| app.manifest.functions.get(function));
        let Some(known) = known else {
            return Err(AdminError::not_found(format!("there is no function {}/{function}", app.app))
                .hint("`littoral get functions` lists those there are"));
        };
        let here =
            local.as_ref().map(|local| Here { queue: local.in_flight(), has_room: local.has_room(), execution_us });
        let (key, input_bytes) = (manner.key.as_deref(), manner.input_bytes);
        let way = self.routing.way(&Wish { app, function, key, input_bytes, here }, Some(known));
        let is_first = |choice: &Choice| choice.node == *self.loader.mesh.node();
        match local {
            Some(local) if way.choices.first().is_none_or(is_first) => Ok(Chosen::Here(local)),
            _ => Ok(Chosen::Elsewhere(Elsewhere { way, timeout: known.timeout.into(), hedge: manner.hedge })),
        }
    }

    /// Whether an own instance answers at once: then no other can be quicker.
    fn is_quick(&self, local: &HttpFunction) -> bool {
        local.in_flight() < self.shards.count() && local.has_room()
    }

    /// Asks instances in turn until one answers, within the function's time and an allowance for the links.
    pub(crate) async fn call_elsewhere(
        &self,
        app: &AppId,
        function: &FunctionName,
        elsewhere: Elsewhere,
        request: Request<Bytes>,
    ) -> Result<Response<Bytes>, AdminError> {
        let Elsewhere { way, timeout, hedge } = elsewhere;
        let (parts, body) = with_host(request).into_parts();
        let may_repeat = parts.method.is_idempotent();
        let invocation = Invocation {
            app: app.clone(),
            function: function.clone(),
            method: parts.method.to_string(),
            uri: parts.uri.to_string(),
            headers: headers_out(&parts.headers),
            body,
        };
        let payload = wire::encode(&invocation).map_err(|error| AdminError::invalid(error.to_string()))?;
        let deadline = Instant::now() + timeout + LINK_ALLOWANCE;
        let mut hedge_at = (hedge && may_repeat).then(|| Instant::now() + way.hedge_after);
        let mut choices = way.choices.iter();
        let mut asked = FuturesUnordered::new();
        let mut last = format!("no live node serves {}/{function}", app.app);
        loop {
            if asked.is_empty() {
                let Some(choice) = choices.next() else { break };
                asked.push(self.attempt(&choice.node, &invocation, &payload, deadline));
            }
            tokio::select! {
                Some(attempt) = asked.next() => match attempt {
                    Attempt::Answered(response) => return Ok(response),
                    Attempt::Failed(error) => return Err(error),
                    Attempt::Untouched(reason) => last = gone_around(app, function, reason),
                    Attempt::Unanswered(reason) if may_repeat => last = gone_around(app, function, reason),
                    Attempt::Unanswered(reason) => return Err(AdminError::unavailable(reason).hint(
                        "it may have been done: only requests with an idempotent method are repeated elsewhere",
                    )),
                },
                () = sleep_until(hedge_at.unwrap_or(deadline)), if hedge_at.is_some() => {
                    hedge_at = None;
                    if let Some(choice) = choices.next() {
                        metrics::counter!("littoral_requests_hedged_total").increment(1);
                        asked.push(self.attempt(&choice.node, &invocation, &payload, deadline));
                    }
                }
            }
        }
        // Why it is closed here says more than that nobody else serves it.
        let last = self.gate.closed(app).unwrap_or(last);
        Err(AdminError::unavailable(last).hint("`littoral get functions` tells where it runs and why it does not"))
    }

    async fn attempt(&self, node: &NodeId, invocation: &Invocation, payload: &Bytes, deadline: Instant) -> Attempt {
        let Invocation { app, function, .. } = invocation;
        let mesh = &self.loader.mesh;
        if node == mesh.node() {
            let Some(local) = self.here(app, function).filter(|local| local.has_room()) else {
                return Attempt::Untouched(format!("{node} has no room for it"));
            };
            let mut request = match invocation.request() {
                Ok(request) => request,
                Err(reason) => return Attempt::Failed(AdminError::invalid(reason)),
            };
            let _admitted = match self.admit(&local, &mut request) {
                Ok(admitted) => admitted,
                Err(unfit) => return Attempt::Untouched(format!("{node}: {}", unfit.error)),
            };
            return self.run_request(local, request).await.map_or_else(Attempt::Failed, Attempt::Answered);
        }
        if !self.routing.is_member(node) {
            return Attempt::Untouched(format!("{node} cannot be reached"));
        }
        let _under_way = self.routing.begin(node);
        let left = deadline.saturating_duration_since(Instant::now());
        let call = Call::new(Method::Invoke, payload.clone(), Priority::Data, left, mesh.invocation());
        let begun = Instant::now();
        let reply = mesh.call(node, call).await;
        self.routing.note(node, &reply);
        match reply {
            Ok(reply) => match wire::decode::<Option<Answer>>(&reply) {
                Ok(Some(answer)) => {
                    self.note_forwarded((app, function), node, invocation.body.len(), begun.elapsed());
                    response(answer).map_or_else(Attempt::Failed, Attempt::Answered)
                }
                Ok(None) => Attempt::Untouched(format!("{node} does not serve it now")),
                Err(error) => Attempt::Failed(AdminError::internal(error.to_string())),
            },
            Err(error @ (CallError::Refused { .. } | CallError::Version { .. })) => {
                Attempt::Untouched(format!("{node}: {error}"))
            }
            Err(error @ (CallError::Unreachable { .. } | CallError::DeadlineExceeded { .. })) => {
                Attempt::Unanswered(format!("{node}: {error}"))
            }
            Err(error) => Attempt::Failed(AdminError::unavailable(format!("{node}: {error}"))),
        }
    }

    /// Answers another node's [`Method::Invoke`]; with nothing if this node does not serve the function, or has no room.
    pub(crate) async fn answer(&self, payload: &Bytes) -> Result<Bytes, String> {
        let invocation: Invocation = wire::decode(payload).map_err(|error| error.to_string())?;
        let Some(function) = self.here(&invocation.app, &invocation.function).filter(|local| local.has_room()) else {
            if self.loader.exports.here(&invocation.app, &invocation.function).is_some() {
                return Err("it answers no HTTP: it exports interfaces for other functions".to_owned());
            }
            return wire::encode(&None::<Answer>).map_err(|error| error.to_string());
        };
        let mut request = invocation.request()?;
        // Another node may answer in time.
        let Ok(admitted) = self.admit(&function, &mut request) else {
            return wire::encode(&None::<Answer>).map_err(|error| error.to_string());
        };
        let response = self.run_request(function, request).await.map_err(|error| error.to_string())?;
        drop(admitted);
        let (parts, body) = response.into_parts();
        let answer = Answer { status: parts.status.as_u16(), headers: headers_out(&parts.headers), body };
        wire::encode(&Some(answer)).map_err(|error| error.to_string())
    }

    async fn call_here(
        &self,
        function: Arc<HttpFunction>,
        mut request: Request<Bytes>,
    ) -> Result<Response<Bytes>, AdminError> {
        let _admitted = self.admit(&function, &mut request)?;
        self.run_request(function, request).await
    }

    async fn run_request(
        &self,
        function: Arc<HttpFunction>,
        request: Request<Bytes>,
    ) -> Result<Response<Bytes>, AdminError> {
        let called = self.shards.spawn(self.shards.pick_near(), move || async move {
            let (parts, body) = function.call(request.map(|body| -> Body { full(body) })).await.into_parts();
            let body = Limited::new(body, BODY_BYTES_MAX).collect().await;
            (parts, body.map(http_body_util::Collected::to_bytes).map_err(|error| error.to_string()))
        });
        // One that was given up may be made again, and must not run beside that.
        let (parts, body) = called.attended().await.map_err(|error| AdminError::unavailable(error.to_string()))?;
        let body =
            body.map_err(|error| AdminError::unavailable(format!("the function's answer broke off: {error}")))?;
        Ok(Response::from_parts(parts, body))
    }
}

impl Invocation {
    fn request(&self) -> Result<Request<Bytes>, String> {
        let mut request = Request::builder().method(self.method.as_str()).uri(self.uri.as_str());
        for (name, value) in &self.headers {
            request = request.header(name, value.as_ref());
        }
        request.body(self.body.clone()).map_err(|error| error.to_string())
    }
}

/// Says that another instance is asked, and why.
fn gone_around(app: &AppId, function: &FunctionName, reason: String) -> String {
    tracing::debug!(%app, %function, reason, "an instance is gone around");
    reason
}

/// HTTP/1.1 demands a host; who calls by name has none in mind.
fn with_host(mut request: Request<Bytes>) -> Request<Bytes> {
    request.headers_mut().entry(HOST).or_insert(HeaderValue::from_static("localhost"));
    request
}

fn headers_out(headers: &http::HeaderMap) -> Vec<(String, Bytes)> {
    headers.iter().map(|(name, value)| (name.to_string(), Bytes::copy_from_slice(value.as_bytes()))).collect()
}

fn response(answer: Answer) -> Result<Response<Bytes>, AdminError> {
    let mut response = Response::builder().status(answer.status);
    for (name, value) in &answer.headers {
        response = response.header(name, value.as_ref());
    }
    response.body(answer.body).map_err(|error| AdminError::internal(error.to_string()))
}
