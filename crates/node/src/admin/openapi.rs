//! The OpenAPI 3.1 document of the admin API, made from the routes and the types.
//!
//! It is checked in at `docs/reference/admin-api.openapi.json`; a test compares the two, and with `LITTORAL_BLESS=1`
//! in the environment writes it anew.

use schemars::generate::{SchemaGenerator, SchemaSettings};
use serde_json::{Map, Value, json};

use super::error::Problem;
use super::events::EventsReport;
use super::queue::{InvocationStatus, InvocationsReport, LaterRequest};
use super::router::{Content, ROUTES, Route};
use super::types::{
    AppBundle, AppEnd, AppHistory, AppStatus, CallRequest, CallResponse, ConnectorStatus, FlowStatus, FunctionStatus,
    LogLine, MoveReport, MoveRequest, NodeStatus, PlanReport, PublishRecord, Published, Readiness, Revocation,
    SiteStatus, StoredArtifact, StreamStatus, TailRow, TokenGrant, TokenRequest,
};
use super::usage::{ChainReports, UsageReport};

/// The document.
#[must_use]
pub fn document() -> Value {
    let mut paths = Map::new();
    for route in ROUTES {
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        if let Some(path) = path.as_object_mut() {
            path.insert(route.method.as_str().to_ascii_lowercase(), operation(route));
        }
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Littoral admin API",
            "version": "1",
            "description": "What people and programs ask of a node: over its Unix socket, or over TLS with an \
                            administrator's certificate. Errors are problem documents (RFC 9457) with a hint.",
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "paths": paths,
        "components": { "schemas": schemas() },
    })
}

fn operation(route: &Route) -> Value {
    let in_path = route.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    let mut parameters: Vec<Value> = in_path
        .map(|name| json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } }))
        .collect();
    parameters.extend(route.query.iter().map(|parameter| {
        json!({
            "name": parameter.name,
            "in": "query",
            "description": parameter.what,
            "schema": { "type": parameter.kind },
        })
    }));
    let mut success = json!({ "description": "Done." });
    if let (Some(content), Some(success)) = (content(route.response), success.as_object_mut()) {
        success.insert("content".to_owned(), content);
    }
    let mut operation = json!({
        "operationId": route.id,
        "summary": route.summary,
        "parameters": parameters,
        "responses": {
            route.status.to_string(): success,
            "default": {
                "description": "It was not done; the problem says why and what to do.",
                "content": { "application/problem+json": { "schema": reference("Problem") } },
            },
        },
    });
    if let (Some(content), Some(operation)) = (content(route.request), operation.as_object_mut()) {
        operation.insert("requestBody".to_owned(), json!({ "required": true, "content": content }));
    }
    operation
}

fn content(content: Content) -> Option<Value> {
    Some(match content {
        Content::Empty => return None,
        Content::Binary => json!({ "application/octet-stream": {} }),
        Content::Text => json!({ "text/plain": { "schema": { "type": "string" } } }),
        Content::Json(name) => json!({ "application/json": { "schema": reference(name) } }),
        Content::JsonList(name) => {
            json!({ "application/json": { "schema": { "type": "array", "items": reference(name) } } })
        }
        Content::Lines(name) => json!({ "application/x-ndjson": { "schema": reference(name) } }),
        Content::LinesOrText(name) => json!({
            "application/x-ndjson": { "schema": reference(name) },
            "text/plain": { "schema": { "type": "string" } },
        }),
        Content::JsonAny => json!({ "application/json": { "schema": { "type": "object" } } }),
    })
}

fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

/// The schemas of everything that travels, and of what they are made of.
fn schemas() -> Map<String, Value> {
    let mut settings = SchemaSettings::draft2020_12();
    settings.definitions_path = "/components/schemas".into();
    let mut generator = SchemaGenerator::new(settings);
    macro_rules! register {
        ($($name:ident),* $(,)?) => {$( generator.subschema_for::<$name>(); )*};
    }
    register!(
        AppBundle,
        AppEnd,
        AppHistory,
        AppStatus,
        CallRequest,
        CallResponse,
        ChainReports,
        EventsReport,
        FlowStatus,
        FunctionStatus,
        InvocationStatus,
        InvocationsReport,
        LaterRequest,
        LogLine,
        NodeStatus,
        MoveReport,
        MoveRequest,
        PlanReport,
        Problem,
        PublishRecord,
        Published,
        Readiness,
        Revocation,
        SiteStatus,
        StoredArtifact,
        ConnectorStatus,
        StreamStatus,
        TailRow,
        TokenGrant,
        TokenRequest,
        UsageReport,
    );
    let mut schemas = generator.take_definitions(true);
    schemas.sort_keys();
    schemas
}
