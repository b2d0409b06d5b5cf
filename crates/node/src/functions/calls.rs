//! Calls of functions by functions: here if this node serves the called one, else by [`Method::Call`] on a node that
//! does. The deadline, the trace and the id travel with the mesh's call, the depth in its payload.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST};
use http::{HeaderValue, Request, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use littoral_mesh::{Call, CallError as MeshError, Incoming, Method, Priority};
use littoral_model::id::{AppId, FunctionName, NodeId};
use littoral_model::wire;
use littoral_plan::route::Choice;
use littoral_runtime::fabric::{CallError, Invocation, Outgoing, PAYLOAD_BYTES_MAX, Payload};
use littoral_runtime::http::{Body, HttpFunction, full};
use serde::{Deserialize, Serialize};

use super::Functions;
use crate::routing::{Here, Wish};

/// How much of what a function says about its failure is handed on.
const FAILURE_BYTES_MAX: usize = 1_000;

/// A call that goes to another node.
#[derive(Debug, Serialize, Deserialize)]
struct RemoteCall {
    app: AppId,
    function: FunctionName,
    content_type: String,
    body: Bytes,
    /// How many calls led to this one.
    depth: u32,
    /// How many nodes were asked, this one included.
    attempt: u32,
}

/// What a function answered to a call.
#[derive(Debug, Serialize, Deserialize)]
struct Answered {
    status: u16,
    content_type: String,
    body: Bytes,
}

impl Functions {
    /// Calls a function for another one, which waits until `deadline`.
    pub(crate) async fn call_between(
        &self,
        app: &AppId,
        call: Outgoing,
        deadline: Instant,
    ) -> Result<Payload, CallError> {
        if let Some(local) = self.here(app, &call.function).filter(|local| local.has_room()) {
            let invocation = Invocation {
                deadline: Some(deadline),
                depth: call.depth,
                traceparent: Some(call.traceparent),
                ..Invocation::default()
            };
            return outcome(self.run_here(local, call.request, invocation).await?);
        }
        let known = self.intent.now().apps.get(app).and_then(|app| app.manifest.functions.get(&call.function)).cloned();
        let Some(known) = known else {
            return Err(CallError::NotFound(format!("the app {} has no function {}", app.app, call.function)));
        };
        // If there is one, it has no room.
        let here = self.here(app, &call.function).map(|local| Here {
            queue: local.in_flight(),
            has_room: false,
            execution_us: None,
        });
        let way = self.routing.way(
            &Wish { app, function: &call.function, key: None, input_bytes: call.request.body.len() as u64, here },
            Some(&known),
        );
        self.call_others(app, call, way.choices, deadline).await
    }

    /// Asks the nodes that serve a function, in turn, until one takes the call.
    async fn call_others(
        &self,
        app: &AppId,
        call: Outgoing,
        choices: Vec<Choice>,
        deadline: Instant,
    ) -> Result<Payload, CallError> {
        let mesh = &self.loader.mesh;
        let Outgoing { function, request, depth, traceparent, .. } = call;
        let trace = traceparent.to_str().ok().map(str::to_owned);
        let mut remote = RemoteCall {
            app: app.clone(),
            content_type: request.content_type,
            body: request.body,
            depth,
            attempt: 0,
            function,
        };
        let mut last = format!("no live node serves {}/{}", app.app, remote.function);
        for Choice { node, .. } in choices.into_iter().filter(|choice| choice.node != *mesh.node()) {
            if !self.routing.is_member(&node) {
                last = format!("{node} cannot be reached");
                continue;
            }
            let _under_way = self.routing.begin(&node);
            remote.attempt += 1;
            let payload = wire::encode(&remote).map_err(|error| CallError::Failed(error.to_string()))?;
            let left = deadline.saturating_duration_since(Instant::now());
            let call = Call::new(Method::Call, payload, Priority::Data, left, mesh.invocation());
            let begun = Instant::now();
            let reply = mesh.call(&node, Call { trace: trace.clone(), ..call }).await;
            self.routing.note(&node, &reply);
            match reply {
                Ok(reply) => {
                    let answered: Option<Answered> =
                        wire::decode(&reply).map_err(|error| CallError::Failed(format!("{node}: {error}")))?;
                    match answered {
                        Some(answered) => {
                            self.note_forwarded((app, &remote.function), &node, remote.body.len(), begun.elapsed());
                            return outcome(answered);
                        }
                        None => last = format!("{node} does not serve it now"),
                    }
                }
                Err(error) => last = refusal(&node, error)?,
            }
        }
        Err(CallError::Unavailable(self.gate.closed(app).unwrap_or(last)))
    }

    /// Answers another node's [`Method::Call`]; with nothing if this node does not serve the function, or has
    /// no room.
    pub(crate) async fn answer_call(&self, call: &Incoming) -> Result<Bytes, String> {
        let RemoteCall { app, function, content_type, body, depth, attempt } =
            wire::decode(&call.payload).map_err(|error| error.to_string())?;
        let Some(function) = self.here(&app, &function).filter(|local| local.has_room()) else {
            return wire::encode(&None::<Answered>).map_err(|error| error.to_string());
        };
        let invocation = Invocation {
            id: Some(call.invocation),
            attempt,
            deadline: Some(Instant::now() + call.deadline),
            depth,
            traceparent: call.trace.as_deref().and_then(|trace| HeaderValue::from_str(trace).ok()),
        };
        let answered = self.run_here(function, Payload { content_type, body }, invocation).await;
        let answered = answered.map_err(|error| error.to_string())?;
        wire::encode(&Some(answered)).map_err(|error| error.to_string())
    }

    /// Runs a function of this node.
    async fn run_here(
        &self,
        function: Arc<HttpFunction>,
        payload: Payload,
        invocation: Invocation,
    ) -> Result<Answered, CallError> {
        let name = function.name().to_owned();
        let mut request = Request::post("/").extension(invocation).header(HOST, "localhost");
        if !payload.content_type.is_empty() {
            request = request.header(CONTENT_TYPE, payload.content_type);
        }
        let request = request.body(payload.body);
        let request =
            request.map_err(|error| CallError::Failed(format!("the payload has no valid media type: {error}")))?;
        let called = self.shards.spawn(self.shards.pick_near(), move || async move {
            let (parts, body) = function.call(request.map(|body| -> Body { full(body) })).await.into_parts();
            (parts, Limited::new(body, PAYLOAD_BYTES_MAX).collect().await.map_err(|error| error.to_string()))
        });
        let (parts, body) =
            called.attended().await.map_err(|error| CallError::Unavailable(format!("{name}: {error}")))?;
        let body = body.map_err(|error| CallError::Failed(format!("the answer of {name} broke off: {error}")))?;
        let content_type = parts.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let content_type = content_type.to_owned();
        Ok(Answered { status: parts.status.as_u16(), content_type, body: body.to_bytes() })
    }
}

/// Whether a node's error leaves the next one to be asked: only what certainly had no effect does.
fn refusal(node: &NodeId, error: MeshError) -> Result<String, CallError> {
    match error {
        MeshError::Refused { .. } | MeshError::Version { .. } => Ok(format!("{node}: {error}")),
        MeshError::DeadlineExceeded { .. } | MeshError::Unreachable { .. } | MeshError::Closed => {
            Err(CallError::TimedOut(format!("{node}: {error}")))
        }
        MeshError::Failed(_) | MeshError::TooLarge { .. } => Err(CallError::Failed(format!("{node}: {error}"))),
    }
}

/// A function's answer, or its error by its status.
fn outcome(answered: Answered) -> Result<Payload, CallError> {
    let Answered { status, content_type, body } = answered;
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    if status.as_u16() < StatusCode::BAD_REQUEST.as_u16() {
        return Ok(Payload { content_type, body });
    }
    let said = String::from_utf8_lossy(body.get(..FAILURE_BYTES_MAX).unwrap_or(&body)).trim().to_owned();
    let text = format!("it answered {}: {said}", status.as_u16());
    Err(match status {
        StatusCode::GATEWAY_TIMEOUT => CallError::TimedOut(text),
        StatusCode::SERVICE_UNAVAILABLE => CallError::Unavailable(text),
        _ => CallError::Failed(text),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_from_400_on_is_an_error_of_its_kind() {
        let of = |status| {
            outcome(Answered { status, content_type: "text/plain".to_owned(), body: Bytes::from_static(b"said\n") })
        };
        assert_eq!(of(204).map(|payload| payload.content_type), Ok("text/plain".to_owned()));
        assert_eq!(of(400), Err(CallError::Failed("it answered 400: said".to_owned())));
        assert_eq!(of(503), Err(CallError::Unavailable("it answered 503: said".to_owned())));
        assert_eq!(of(504), Err(CallError::TimedOut("it answered 504: said".to_owned())));
    }
}
