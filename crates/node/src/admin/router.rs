//! Maps HTTP onto [`Operations`]: parses a request, calls one method, writes the answer.
//!
//! [`ROUTES`] is the one table of what there is; the router and the OpenAPI document are both made from it.

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::Method;
use axum::routing::{MethodRouter, delete, get, head, post};

use super::error::AdminError;
use super::handlers;
use super::operations::Operations;
use super::queue;

/// The largest artefact, in bytes. A Wasm component of a function has a few megabytes; the largest seen in the wild
/// (interpreters compiled to Wasm) has about forty.
pub const ARTIFACT_BYTES_MAX: usize = 64 << 20;
/// The largest other request, in bytes: it is held in memory while it is worked on, and what is published must fit a
/// message to the stream's owner.
pub const REQUEST_BYTES_MAX: usize = 8 << 20;

/// What the handlers share.
#[derive(Clone)]
pub struct Api {
    /// The node.
    pub(super) operations: Arc<dyn Operations>,
}

/// A parameter in the query of a request.
#[derive(Debug)]
pub struct Parameter {
    /// Its name.
    pub name: &'static str,
    /// Its JSON type.
    pub kind: &'static str,
    /// What it does.
    pub what: &'static str,
}

/// What a request or an answer carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Nothing.
    Empty,
    /// Any bytes.
    Binary,
    /// Text.
    Text,
    /// The named schema as JSON.
    Json(&'static str),
    /// A JSON array of the named schema.
    JsonList(&'static str),
    /// The named schema, one JSON object a line.
    Lines(&'static str),
    /// The named schema, one JSON object a line; or one plain value a line.
    LinesOrText(&'static str),
    /// Any JSON object.
    JsonAny,
}

/// One thing that can be asked.
pub struct Route {
    /// The HTTP method.
    pub method: Method,
    /// The path, with `{parameters}`.
    pub path: &'static str,
    /// Its name in the OpenAPI document.
    pub id: &'static str,
    /// What it does, in a sentence.
    pub summary: &'static str,
    /// The query's parameters.
    pub query: &'static [Parameter],
    /// What it takes.
    pub request: Content,
    /// The status of success.
    pub status: u16,
    /// What it answers with.
    pub response: Content,
    /// Carries it out.
    handler: fn() -> MethodRouter<Api>,
}

const FOLLOW: Parameter = Parameter { name: "follow", kind: "boolean", what: "go on with what is to come" };

const NODE: Parameter = Parameter { name: "node", kind: "string", what: "of this live node only" };

/// Everything that the admin API offers, in the order of the documentation.
pub const ROUTES: &[Route] = &[
    Route {
        method: Method::GET,
        path: "/livez",
        id: "live",
        summary: "Answers as long as the process lives.",
        query: &[],
        request: Content::Empty,
        status: 200,
        response: Content::Text,
        handler: || get(handlers::live),
    },
    Route {
        method: Method::GET,
        path: "/readyz",
        id: "ready",
        summary: "Whether the node can do its work: 200 if so, else 503. Being cut off from the cloud is no reason.",
        query: &[],
        request: Content::Empty,
        status: 200,
        response: Content::Json("Readiness"),
        handler: || get(handlers::ready),
    },
    Route {
        method: Method::GET,
        path: "/metrics",
        id: "metrics",
        summary: "The node's metrics in Prometheus' text format.",
        query: &[],
        request: Content::Empty,
        status: 200,
        response: Content::Text,
        handler: || get(handlers::metrics),
    },
    Route {
        method: Method::GET,
        path: "/openapi.json",
        id: "openapi",
        summary: "This document.",
        query: &[],
        request: Content::Empty,
        status: 200,
        response: Content::JsonAny,
        handler: || get(handlers::openapi),
    },
    Route {
        method: Method::GET,
        path: "/v1/node",
        id: "node",
        summary: "The asked node.",
        query: &[],
        request: Content::Empty,
        status: 200,
        response: Content::Json("NodeStatus"),
        handler: || get(handlers::node),
    },
    Route {
        method: Method::GET,
        path: "/v1/nodes",
        id: "nodes",
        summary: "All nodes that the asked node knows.",
        query: &[],
        request: Content::Empty,
        status: 200,
        response: Content::JsonList("NodeStatus"),
        handler: || get(handlers::nodes),
    },
    Route {
        method: Method::GET,
        path: "/v1/sites",
        id: "sites",
        summary: "The sites of all nodes, with who decides there.",
        query: &[],
        request: Content::Empty,
        status: 200,
        response: Content::JsonList("SiteStatus"),
        handler: || get(handlers::sites),
    },
    Route {
        method: Method::GET,
        path: "/v1/apps",
        id: "apps",
        summary: "The apps that are or should be running.",
        query: &[],
        request: Content::Empty,
        status: 200,
        response: Content::JsonList("AppStatus"),
        handler: || get(handlers::apps),
    },
    Route {
        method: Method::GET,
        path: "/v1/functions",
        id: "functions",
        summary: "The functions of all apps, with what was measured of them.",
        query: &[],
        request: Content::Empty,
        status: 200,
        response: Content::JsonList("FunctionStatus"),
        handler: || get(handlers::functions),
    },
    Route {
        method: Method::GET,
        path: "/v1/flows",
        id: "flows",
        summary: "The flows of all apps: where their stages are, why, and how they fare.",
        query: &[],
        request: Content::Empty,
        status: 200,
        response: Content::JsonList("FlowStatus"),
        handler: || get(handlers::flows),
    },
    Route {
        method: Method::GET,
        path: "/v1/streams",
        id: "streams",
        summary: "The streams of all apps with their partitions.",
        query: &[],
        request: Content::Empty,
        status: 200,
        response: Content::JsonList("StreamStatus"),
        handler: || get(handlers::streams),
    },
    Route {
        method: Method::GET,
        path: "/v1/connectors",
        id: "connectors",
        summary: "The sources and sinks of all apps, and how they fare.",
        query: &[],
        request: Content::Empty,
        status: 200,
        response: Content::JsonList("ConnectorStatus"),
        handler: || get(handlers::connectors),
    },
    Route {
        method: Method::HEAD,
        path: "/v1/artifacts/{digest}",
        id: "has_artifact",
        summary: "Whether the node holds the artefact with this SHA-256: 200 if so, else 404.",
        query: &[],
        request: Content::Empty,
        status: 200,
        response: Content::Empty,
        handler: || head(handlers::has_artifact),
    },
    Route {
        method: Method::POST,
        path: "/v1/artifacts",
        id: "put_artifact",
        summary: "Keeps an artefact, at most 64 MiB.",
        query: &[],
        request: Content::Binary,
        status: 201,
        response: Content::Json("StoredArtifact"),
        handler: || post(handlers::put_artifact).layer(DefaultBodyLimit::max(ARTIFACT_BYTES_MAX)),
    },
    Route {
        method: Method::POST,
        path: "/v1/plan",
        id: "plan",
        summary: "Says where everything of an app would run now, and why; changes nothing.",
        query: &[],
        request: Content::Json("AppBundle"),
        status: 200,
        response: Content::Json("PlanReport"),
        handler: || post(handlers::plan),
    },
    Route {
        method: Method::POST,
        path: "/v1/apps",
        id: "deploy",
        summary: "Makes a bundle the wanted state of its app; answers once that is durable, not once it is healthy.",
        query: &[],
        request: Content::Json("AppBundle"),
        status: 200,
        response: Content::Json("AppStatus"),
        handler: || post(handlers::deploy),
    },
    Route {
        method: Method::DELETE,
        path: "/v1/apps/{app}",
        id: "delete",
        summary: "Ends an app and forgets its streams.",
        query: &[],
        request: Content::Json("AppEnd"),
        status: 204,
        response: Content::Empty,
        handler: || delete(handlers::delete),
    },
    Route {
        method: Method::POST,
        path: "/v1/apps/{app}/moves",
        id: "move",
        summary: "Moves stages of a flow, or partitions of a stream, to another node of their site; answers once it works on them.",
        query: &[],
        request: Content::Json("MoveRequest"),
        status: 200,
        response: Content::Json("MoveReport"),
        handler: || post(handlers::relocate),
    },
    Route {
        method: Method::POST,
        path: "/v1/revocations",
        id: "revoke",
        summary: "Shuts a node out of the fabric for good, by an administrator's signature.",
        query: &[],
        request: Content::Json("Revocation"),
        status: 204,
        response: Content::Empty,
        handler: || post(handlers::revoke),
    },
    Route {
        method: Method::GET,
        path: "/v1/apps/{app}/history",
        id: "history",
        summary: "What holds of an app, by whom, and which edits lost to it without their authors knowing.",
        query: &[],
        request: Content::Empty,
        status: 200,
        response: Content::Json("AppHistory"),
        handler: || get(handlers::history),
    },
    Route {
        method: Method::POST,
        path: "/v1/apps/{app}/functions/{function}/call",
        id: "call",
        summary: "Calls a function, wherever it runs. What the function answers, errors too, is in the answer.",
        query: &[],
        request: Content::Json("CallRequest"),
        status: 200,
        response: Content::Json("CallResponse"),
        handler: || post(handlers::call),
    },
    Route {
        method: Method::POST,
        path: "/v1/apps/{app}/functions/{function}/invocations",
        id: "call_later",
        summary: "Accepts a call that is made later; answers once that is durable.",
        query: &[],
        request: Content::Json("LaterRequest"),
        status: 202,
        response: Content::Json("InvocationStatus"),
        handler: || post(queue::later),
    },
    Route {
        method: Method::GET,
        path: "/v1/invocations",
        id: "invocations",
        summary: "The asynchronous invocations that wait, are dead letters, or whose results are kept.",
        query: &[
            Parameter { name: "app", kind: "string", what: "of this app only" },
            Parameter { name: "function", kind: "string", what: "of this function only" },
            Parameter { name: "state", kind: "string", what: "that stand so only: waiting, done or dead" },
        ],
        request: Content::Empty,
        status: 200,
        response: Content::Json("InvocationsReport"),
        handler: || get(queue::invocations),
    },
    Route {
        method: Method::GET,
        path: "/v1/invocations/{id}",
        id: "invocation",
        summary: "How an asynchronous invocation stands.",
        query: &[Parameter {
            name: "wait_ms",
            kind: "integer",
            what: "answer once it has ended, or after so many milliseconds; at most 30000",
        }],
        request: Content::Empty,
        status: 200,
        response: Content::Json("InvocationStatus"),
        handler: || get(queue::invocation),
    },
    Route {
        method: Method::GET,
        path: "/v1/invocations/{id}/result",
        id: "invocation_result",
        summary: "What the function answered to an asynchronous invocation.",
        query: &[],
        request: Content::Empty,
        status: 200,
        response: Content::Json("CallResponse"),
        handler: || get(queue::result),
    },
    Route {
        method: Method::POST,
        path: "/v1/invocations/{id}/retry",
        id: "retry_invocation",
        summary: "Runs a dead letter once more, with all its tries before it.",
        query: &[],
        request: Content::Empty,
        status: 204,
        response: Content::Empty,
        handler: || post(queue::retry),
    },
    Route {
        method: Method::DELETE,
        path: "/v1/invocations/{id}",
        id: "forget_invocation",
        summary: "Forgets an asynchronous invocation, whatever its state.",
        query: &[],
        request: Content::Empty,
        status: 204,
        response: Content::Empty,
        handler: || delete(queue::forget),
    },
    Route {
        method: Method::POST,
        path: "/v1/apps/{app}/streams/{stream}/records",
        id: "publish",
        summary: "Appends records to a stream; answers once they are durable as the stream's `ack` asks. With the \
                  three parameters, a repeat of a publication is dropped.",
        query: &[
            Parameter { name: "producer", kind: "string", what: "the producer's name, at most 128 bytes" },
            Parameter { name: "epoch", kind: "integer", what: "raised by the producer each time it starts anew" },
            Parameter { name: "sequence", kind: "integer", what: "rises with each publication" },
        ],
        request: Content::LinesOrText("PublishRecord"),
        status: 200,
        response: Content::Json("Published"),
        handler: || post(handlers::publish),
    },
    Route {
        method: Method::GET,
        path: "/v1/apps/{app}/streams/{stream}/records",
        id: "tail",
        summary: "Reads a stream's records, one JSON object a line; an error on the way is a last line with `_error`.",
        query: &[
            Parameter { name: "from", kind: "string", what: "`start` or `end` (the default)" },
            Parameter { name: "last", kind: "integer", what: "begin with the last so many of each partition" },
            FOLLOW,
        ],
        request: Content::Empty,
        status: 200,
        response: Content::Lines("TailRow"),
        handler: || get(handlers::tail),
    },
    Route {
        method: Method::GET,
        path: "/v1/logs",
        id: "logs",
        summary: "Lines logged by an app's functions, or of the system, one JSON object a line.",
        query: &[
            Parameter { name: "app", kind: "string", what: "the app; the system's lines if none" },
            Parameter { name: "last", kind: "integer", what: "how many past lines; 100 if none is given" },
            FOLLOW,
        ],
        request: Content::Empty,
        status: 200,
        response: Content::Lines("LogLine"),
        handler: || get(handlers::logs),
    },
    Route {
        method: Method::GET,
        path: "/v1/events",
        id: "events",
        summary: "What happened: objectives violated and restored, what was done about it, and why.",
        query: &[
            Parameter {
                name: "since_us",
                kind: "integer",
                what: "since when, microseconds since 1970; all that is kept",
            },
            Parameter { name: "app", kind: "string", what: "events of this app only" },
        ],
        request: Content::Empty,
        status: 200,
        response: Content::Json("EventsReport"),
        handler: || get(handlers::events),
    },
    Route {
        method: Method::GET,
        path: "/v1/usage",
        id: "usage",
        summary: "What functions have used, beside what the nodes themselves have, up to now.",
        query: &[
            Parameter {
                name: "since_us",
                kind: "integer",
                what: "since when, microseconds since 1970; all that is kept",
            },
            Parameter { name: "app", kind: "string", what: "functions of this app only" },
            NODE,
        ],
        request: Content::Empty,
        status: 200,
        response: Content::Json("UsageReport"),
        handler: || get(handlers::usage),
    },
    Route {
        method: Method::GET,
        path: "/v1/usage/check",
        id: "usage_check",
        summary: "Walks the chains of usage records and says what was altered in them.",
        query: &[NODE],
        request: Content::Empty,
        status: 200,
        response: Content::Json("ChainReports"),
        handler: || get(handlers::usage_check),
    },
    Route {
        method: Method::POST,
        path: "/v1/tokens",
        id: "token",
        summary: "Grants a token with which nodes may join the fabric.",
        query: &[],
        request: Content::Json("TokenRequest"),
        status: 201,
        response: Content::Json("TokenGrant"),
        handler: || post(handlers::token),
    },
    Route {
        method: Method::POST,
        path: "/v1/stop",
        id: "stop",
        summary: "Begins a graceful stop of the asked node.",
        query: &[],
        request: Content::Empty,
        status: 202,
        response: Content::Empty,
        handler: || post(handlers::stop),
    },
];

/// The router over a node.
pub fn router(operations: Arc<dyn Operations>) -> Router {
    let mut router = Router::new();
    for route in ROUTES {
        router = router.route(route.path, (route.handler)());
    }
    router
        .fallback(|| async { AdminError::not_found("there is no such path; see /openapi.json") })
        .method_not_allowed_fallback(|| async {
            AdminError::invalid("the path does not take this method; see /openapi.json")
        })
        .layer(DefaultBodyLimit::max(REQUEST_BYTES_MAX))
        .with_state(Api { operations })
}
