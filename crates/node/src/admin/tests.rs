//! The admin API over real sockets, before a node that only remembers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::path::Path;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use littoral_mesh::admin::{AdminCredential, is_admin};
use littoral_mesh::identity::Root;
use littoral_model::entry::ProducerSequence;
use littoral_model::id::{AppName, FunctionName, NodeId, StreamName};
use littoral_model::invocation::{Answer as Kept, InvocationName, Record, State};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio_util::sync::CancellationToken;

use super::events::EventsReport;
use super::openapi;
use super::operations::{Answers, Operations, TailStart};
use super::queue::{InvocationState, InvocationStatus, InvocationsReport};
use super::remote;
use super::router::{ARTIFACT_BYTES_MAX, REQUEST_BYTES_MAX, ROUTES, router};
use super::serve::{AdminSocket, ServeError, serve_tls, serve_unix};
use super::types::{
    AdminError, AppBundle, AppEnd, AppHistory, AppStatus, ConditionStatus, ConnectorStatus, FlowStatus, FunctionStatus,
    Health, LogLine, MoveReport, MoveRequest, NodeState, NodeStatus, PlanReport, PublishRecord, Published, Readiness,
    Revocation, SiteStatus, StreamStatus, TailRow, TokenGrant, TokenRequest,
};
use super::usage::{ChainReports, UsageReport};

/// Answers plainly and remembers what it was asked.
#[derive(Default)]
struct Fake {
    asked: Mutex<Vec<String>>,
    unready: bool,
}

impl Fake {
    fn note(&self, what: String) {
        self.asked.lock().unwrap().push(what);
    }

    fn last(&self) -> String {
        self.asked.lock().unwrap().last().cloned().unwrap_or_default()
    }
}

fn invocation_name() -> InvocationName {
    "default.shop.resize.hall-7.0.01ARZ3NDEKTSV4RRFFQ69G5FAV".parse().unwrap()
}

fn invocation_record() -> Record {
    let answer = Kept { status: 201, headers: Vec::new(), body: Some(Bytes::from_static(b"small")) };
    Record {
        id: invocation_name().id,
        key: Some("k".to_owned()),
        fingerprint: 1,
        accepted_us: 1,
        request: None,
        state: State::Done { at_us: 2, answer },
        attempts: 0,
        unanswered: 1,
        error: None,
    }
}

fn app_status(name: &str) -> AppStatus {
    AppStatus {
        name: name.to_owned(),
        version: "1".to_owned(),
        description: None,
        digest: "d".to_owned(),
        state: Health::Starting,
        reasons: Vec::new(),
        functions: Vec::new(),
        flows: Vec::new(),
        streams: Vec::new(),
        routes: Vec::new(),
        generation: 1,
        author: "ann".to_owned(),
        notes: Vec::new(),
    }
}

#[async_trait]
impl Operations for Fake {
    async fn node(&self) -> Result<NodeStatus, AdminError> {
        Ok(NodeStatus {
            id: "edge-1".to_owned(),
            tier: "edge".to_owned(),
            site: "hall-7".to_owned(),
            labels: [("gpu".to_owned(), "no".to_owned())].into(),
            situation: Vec::new(),
            version: "0.1.0".to_owned(),
            state: NodeState::Alive,
            works: 3,
            functions: Vec::new(),
            http: None,
            revoked: false,
            links: Vec::new(),
            condition: ConditionStatus::default(),
        })
    }
    async fn nodes(&self) -> Result<Vec<NodeStatus>, AdminError> {
        Ok(vec![self.node().await?])
    }
    async fn sites(&self) -> Result<Vec<SiteStatus>, AdminError> {
        Ok(Vec::new())
    }
    async fn apps(&self) -> Result<Vec<AppStatus>, AdminError> {
        Ok(vec![app_status("a")])
    }
    async fn functions(&self) -> Result<Vec<FunctionStatus>, AdminError> {
        Ok(Vec::new())
    }
    async fn flows(&self) -> Result<Vec<FlowStatus>, AdminError> {
        Ok(Vec::new())
    }
    async fn connectors(&self) -> Result<Vec<ConnectorStatus>, AdminError> {
        Ok(Vec::new())
    }
    async fn streams(&self) -> Result<Vec<StreamStatus>, AdminError> {
        Err(AdminError::unavailable("the node is stopping").hint("ask another"))
    }
    async fn has_artifact(&self, digest: &str) -> Result<bool, AdminError> {
        Ok(digest == "held")
    }
    async fn put_artifact(&self, artifact: Bytes) -> Result<String, AdminError> {
        Ok(artifact.len().to_string())
    }
    async fn plan(&self, bundle: AppBundle) -> Result<PlanReport, AdminError> {
        let app = bundle.manifest;
        Ok(PlanReport { app, accepted: true, placements: Vec::new(), predictions: Vec::new(), refusals: Vec::new() })
    }
    async fn deploy(&self, bundle: AppBundle) -> Result<AppStatus, AdminError> {
        Ok(app_status(&bundle.manifest))
    }
    async fn delete(&self, app: AppName, _: AppEnd) -> Result<(), AdminError> {
        Err(AdminError::not_found(format!("there is no app `{app}`")).hint("see `littoral get apps`"))
    }
    async fn relocate(&self, _: AppName, request: MoveRequest) -> Result<MoveReport, AdminError> {
        self.note(format!("move {} to {}", request.name, request.to));
        Ok(MoveReport::default())
    }
    async fn revoke(&self, revocation: Revocation) -> Result<(), AdminError> {
        self.note(format!("revoke {}", revocation.node));
        Ok(())
    }
    async fn history(&self, _: AppName) -> Result<AppHistory, AdminError> {
        Ok(AppHistory::default())
    }
    async fn call(
        &self,
        app: AppName,
        function: FunctionName,
        request: http::Request<Bytes>,
    ) -> Result<http::Response<Bytes>, AdminError> {
        let (parts, body) = request.into_parts();
        self.note(format!("{} {} {:?} {app}/{function}", parts.method, parts.uri, parts.headers.get("x-a")));
        Ok(http::Response::builder().status(503).header("x-b", "2").body(body).unwrap())
    }
    async fn call_later(
        &self,
        app: AppName,
        function: FunctionName,
        key: Option<String>,
        request: http::Request<Bytes>,
    ) -> Result<InvocationStatus, AdminError> {
        self.note(format!("later {} {} {key:?} {app}/{function}", request.method(), request.uri()));
        Ok(InvocationStatus::of(&invocation_name(), &invocation_record()))
    }
    async fn invocations(
        &self,
        app: Option<AppName>,
        function: Option<FunctionName>,
        state: Option<InvocationState>,
    ) -> Result<InvocationsReport, AdminError> {
        self.note(format!("invocations {app:?} {function:?} {state:?}"));
        Ok(InvocationsReport::default())
    }
    async fn invocation(&self, name: InvocationName, wait_ms: u32) -> Result<Record, AdminError> {
        self.note(format!("invocation {name} {wait_ms}"));
        Ok(invocation_record())
    }
    async fn retry_invocation(&self, name: InvocationName) -> Result<(), AdminError> {
        self.note(format!("retry {name}"));
        Ok(())
    }
    async fn forget_invocation(&self, name: InvocationName) -> Result<(), AdminError> {
        self.note(format!("forget {name}"));
        Ok(())
    }
    async fn publish(
        &self,
        app: AppName,
        stream: StreamName,
        records: Vec<PublishRecord>,
        producer: Option<ProducerSequence>,
    ) -> Result<Published, AdminError> {
        self.note(format!("{app}/{stream} {records:?} {producer:?}"));
        Ok(Published { stored: records.len() as u64, repeated: 0 })
    }
    async fn tail(
        &self,
        _app: AppName,
        _stream: StreamName,
        start: TailStart,
        follow: bool,
    ) -> Result<Answers<TailRow>, AdminError> {
        self.note(format!("{start:?} {follow}"));
        let row = json!({ "_partition": 0, "_index": 1, "value": "x" });
        let rows =
            vec![Ok(TailRow(row.as_object().unwrap().clone())), Err(AdminError::unavailable("the owner is gone"))];
        Ok(futures::stream::iter(rows).boxed())
    }
    async fn logs(&self, app: Option<AppName>, follow: bool, last: usize) -> Result<Answers<LogLine>, AdminError> {
        self.note(format!("{app:?} {follow} {last}"));
        // Never ends: what follows goes on until the asker leaves.
        Ok(futures::stream::pending().boxed())
    }
    async fn events(&self, since_us: i64, app: Option<AppName>) -> Result<EventsReport, AdminError> {
        self.note(format!("events {since_us} {app:?}"));
        Ok(EventsReport::default())
    }
    async fn usage(
        &self,
        since_us: i64,
        app: Option<AppName>,
        node: Option<NodeId>,
    ) -> Result<UsageReport, AdminError> {
        self.note(format!("usage {since_us} {app:?} {node:?}"));
        Ok(UsageReport::default())
    }
    async fn usage_chains(&self, node: Option<NodeId>) -> Result<ChainReports, AdminError> {
        self.note(format!("check {node:?}"));
        Ok(ChainReports::default())
    }
    async fn token(&self, request: TokenRequest) -> Result<TokenGrant, AdminError> {
        Ok(TokenGrant { token: "t1".to_owned(), expires_s: request.ttl_seconds })
    }
    async fn metrics(&self) -> String {
        "littoral_up 1\n".to_owned()
    }
    async fn ready(&self) -> Readiness {
        Readiness { ready: !self.unready, reasons: Vec::new() }
    }
    async fn stop(&self) -> Result<(), AdminError> {
        self.note("stop".to_owned());
        Ok(())
    }
}

/// A served fake; everything is gone when it is dropped.
struct Served {
    fake: Arc<Fake>,
    folder: tempfile::TempDir,
    shutdown: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

fn serve(fake: Fake) -> Served {
    let folder = tempfile::tempdir().unwrap();
    let fake = Arc::new(fake);
    let shutdown = CancellationToken::new();
    let socket = AdminSocket::bind(&folder.path().join("admin.sock")).unwrap();
    let task = tokio::spawn(serve_unix(socket, router(Arc::clone(&fake) as _), shutdown.clone()));
    Served { fake, folder, shutdown, task }
}

impl Served {
    fn path(&self) -> std::path::PathBuf {
        self.folder.path().join("admin.sock")
    }

    async fn ask(&self, method: &str, path: &str, content_type: &str, body: impl Into<Bytes>) -> (u16, Value) {
        let stream = UnixStream::connect(self.path()).await.unwrap();
        let response = send(stream, method, path, content_type, body.into()).await.unwrap();
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (
            status,
            serde_json::from_slice(&body).unwrap_or_else(|_| Value::from(String::from_utf8(body.to_vec()).unwrap())),
        )
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        self.ask("GET", path, "", "").await
    }
}

async fn send(
    stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    method: &str,
    path: &str,
    content_type: &str,
    body: Bytes,
) -> hyper::Result<http::Response<hyper::body::Incoming>> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = http::Request::builder()
        .method(method)
        .uri(path)
        .header("host", "littoral")
        .header("content-type", content_type)
        .body(Full::new(body))
        .unwrap();
    sender.send_request(request).await
}

#[tokio::test]
async fn reads_are_json_and_errors_are_problems() {
    let served = serve(Fake::default());
    assert_eq!(served.get("/livez").await, (200, json!("live\n")));
    assert_eq!(served.get("/metrics").await, (200, json!("littoral_up 1\n")));
    assert_eq!(served.get("/v1/node").await.1["site"], "hall-7");
    assert_eq!(served.get("/v1/apps").await.1[0]["state"], "starting");
    let (status, problem) = served.get("/v1/streams").await;
    assert_eq!(status, 503);
    assert_eq!(
        problem,
        json!({
            "type": "urn:littoral:problem:unavailable",
            "title": "Not available now",
            "status": 503,
            "detail": "the node is stopping",
            "kind": "unavailable",
            "hint": "ask another",
        })
    );
    let edit = littoral_model::edit::Edit::first(1, "ann".to_owned());
    let end = serde_json::to_string(&AppEnd { edit, signature: None }).unwrap();
    let (status, problem) = served.ask("DELETE", "/v1/apps/my-app", "application/json", end).await;
    assert_eq!((status, &problem["detail"]), (404, &json!("there is no app `my-app`")));
    assert_eq!(served.ask("DELETE", "/v1/apps/My_App", "", "").await.0, 400);
    assert_eq!(served.get("/v2/x").await.0, 404);
    assert_eq!(served.ask("PUT", "/v1/apps", "", "").await.1["kind"], "invalid");
}

#[tokio::test]
async fn readiness_is_the_status() {
    assert_eq!(serve(Fake::default()).get("/readyz").await.0, 200);
    assert_eq!(serve(Fake { unready: true, ..Fake::default() }).get("/readyz").await.0, 503);
}

#[tokio::test]
async fn artefacts_and_bundles_are_bounded() {
    let served = serve(Fake::default());
    assert_eq!(served.ask("HEAD", "/v1/artifacts/held", "", "").await.0, 200);
    assert_eq!(served.ask("HEAD", "/v1/artifacts/other", "", "").await.0, 404);
    let stored = served.ask("POST", "/v1/artifacts", "", vec![0; REQUEST_BYTES_MAX + 1]).await;
    assert_eq!(stored, (201, json!({ "digest": (REQUEST_BYTES_MAX + 1).to_string() })));
    let (status, problem) = served.ask("POST", "/v1/plan", "", vec![b' '; REQUEST_BYTES_MAX + 1]).await;
    assert_eq!((status, &problem["kind"]), (400, &json!("invalid")), "{problem}");
    const { assert!(ARTIFACT_BYTES_MAX > REQUEST_BYTES_MAX) };
    let bundle = json!({ "manifest": "m", "artifacts": {} }).to_string();
    assert_eq!(served.ask("POST", "/v1/plan", "", bundle.clone()).await.1["accepted"], true);
    assert_eq!(served.ask("POST", "/v1/apps", "", bundle).await.1["name"], "m");
    assert_eq!(served.ask("POST", "/v1/apps", "", "{").await.0, 400);
}

#[tokio::test]
async fn a_call_carries_a_request_and_the_functions_answer() {
    let served = serve(Fake::default());
    let call = json!({ "method": "PUT", "path": "/x?y=1", "headers": [["x-a", "1"]], "body_base64": "aGk=" });
    let (status, answer) = served.ask("POST", "/v1/apps/my-app/functions/score/call", "", call.to_string()).await;
    assert_eq!(status, 200, "an error of the function is not one of the API");
    assert_eq!(answer, json!({ "status": 503, "headers": [["x-b", "2"]], "body_base64": "aGk=" }));
    assert_eq!(served.fake.last(), "PUT /x?y=1 Some(\"1\") my-app/score");
    let bad = json!({ "method": "GET ", "path": "/" }).to_string();
    assert_eq!(served.ask("POST", "/v1/apps/my-app/functions/score/call", "", bad).await.0, 400);
}

#[tokio::test]
async fn records_are_lines_of_json_or_text() {
    let served = serve(Fake::default());
    let path = "/v1/apps/my-app/streams/readings/records";
    let lines = "{\"value\":\"1\",\"key\":\"k\"}\n\n{\"value\":\"2\",\"time_us\":5}\n";
    assert_eq!(served.ask("POST", path, "application/x-ndjson", lines).await, (200, json!({"stored":2,"repeated":0})));
    assert!(served.fake.last().contains("time_us: Some(5)"), "{}", served.fake.last());
    let numbered = format!("{path}?producer=p&epoch=1&sequence=7");
    assert_eq!(served.ask("POST", &numbered, "text/plain; charset=utf-8", "a\nb\nc").await.1["stored"], 3);
    assert!(served.fake.last().contains("sequence: 7"), "{}", served.fake.last());
    for (path, content_type, body, complaint) in [
        (path, "application/x-ndjson", "{\"value\":\"1\"}\n{\"valu\":1}", "record on line 2"),
        (path, "application/json", "{}", "records of type `application/json` are not taken"),
        (path, "text/plain", "\n", "there is no record"),
        (&format!("{path}?producer=p"), "text/plain", "a", "go together"),
    ] {
        let (status, problem) = served.ask("POST", path, content_type, body).await;
        assert_eq!(status, 400);
        assert!(problem["detail"].as_str().unwrap().contains(complaint), "{problem}");
    }
}

#[tokio::test]
async fn a_tail_is_lines_and_ends_with_its_error() {
    let served = serve(Fake::default());
    let path = "/v1/apps/my-app/streams/readings/records";
    let (status, body) = served.get(&format!("{path}?last=3&follow=true")).await;
    assert_eq!((status, served.fake.last().as_str()), (200, "Last(3) true"));
    let lines: Vec<Value> = body.as_str().unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0]["value"], "x");
    assert_eq!(lines[1]["_error"]["detail"], "the owner is gone");
    served.get(path).await;
    assert_eq!(served.fake.last(), "End false");
    assert_eq!(served.get(&format!("{path}?from=middle")).await.0, 400);
    assert_eq!(served.get(&format!("{path}?from=start&last=1")).await.0, 400);
}

#[tokio::test]
async fn a_stop_ends_those_that_follow() {
    let served = serve(Fake::default());
    let stream = UnixStream::connect(served.path()).await.unwrap();
    let response = send(stream, "GET", "/v1/logs?follow=true&app=my-app", "", Bytes::new()).await.unwrap();
    assert_eq!(response.status(), 200, "the head comes before the first line");
    assert_eq!(served.fake.last(), "Some(\"my-app\") true 100");
    served.shutdown.cancel();
    served.task.await.unwrap();
    assert!(!served.folder.path().join("admin.sock").exists(), "the socket is gone with the node");
    response.into_body().collect().await.unwrap_err();
}

#[tokio::test]
async fn a_token_has_defaults() {
    let served = serve(Fake::default());
    assert_eq!(served.ask("POST", "/v1/tokens", "", "{}").await, (201, json!({ "token": "t1", "expires_s": 3600 })));
    assert_eq!(served.ask("POST", "/v1/stop", "", "").await.0, 202);
    assert_eq!(served.fake.last(), "stop");
}

#[tokio::test]
async fn a_stale_socket_is_replaced_a_live_one_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("admin.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists(), "a socket outlives its process");
    let socket = AdminSocket::bind(&path).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    assert!(matches!(AdminSocket::bind(&path), Err(ServeError::InUse { .. })));
    drop(socket);
    std::fs::write(&path, "mine").unwrap();
    assert!(matches!(AdminSocket::bind(&path), Err(ServeError::NoSocket { .. })));
    assert_eq!(std::fs::read(&path).unwrap(), b"mine");
}

#[tokio::test]
async fn only_administrators_of_the_fabric_get_in_from_afar() {
    let (ours, other) = (Root::create().unwrap(), Root::create().unwrap());
    let name = NodeId::new("edge-1").unwrap();
    let identity = ours.identity(&name, &[[127, 0, 0, 1].into()]).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let tls = remote::server_config(&identity).unwrap();
    let served = router(Arc::new(Fake::default()));
    let task = tokio::spawn(serve_tls(listener, tls, is_admin, served, shutdown.clone()));
    let folder = tempfile::tempdir().unwrap();
    let ask = async |credentials: &Path, server: &str| -> Result<u16, String> {
        let stream = TcpStream::connect(address).await.unwrap();
        let stream = remote::connect(stream, credentials, server).await.map_err(|error| error.to_string())?;
        let response = send(stream, "GET", "/v1/node", "", Bytes::new()).await.map_err(|error| error.to_string())?;
        Ok(response.status().as_u16())
    };
    let save = |credential: &AdminCredential, name: &str| {
        let path = folder.path().join(name);
        credential.save(&path).unwrap();
        path
    };
    let admin = AdminCredential::create(&ours).unwrap();
    let good = save(&admin, "good");
    assert_eq!(ask(&good, "127.0.0.1").await, Ok(200));
    assert_eq!(ask(&good, "edge-1").await, Ok(200));
    assert!(ask(&good, "edge-2").await.is_err(), "a node cannot pose as another");
    let stranger = AdminCredential { root_pem: admin.root_pem.clone(), ..AdminCredential::create(&other).unwrap() };
    assert!(ask(&save(&stranger, "stranger"), "edge-1").await.is_err(), "of another fabric");
    let node = AdminCredential {
        certificate_pem: identity.certificate_pem.clone(),
        key_pem: identity.key_pem.clone(),
        root_pem: identity.root_pem.clone(),
    };
    assert!(ask(&save(&node, "node"), "edge-1").await.is_err(), "a node is no administrator");
    shutdown.cancel();
    task.await.unwrap();
}

/// The document is what is served, and each answer has the fields that it names.
#[test]
fn the_document_is_checked_in() {
    let document = serde_json::to_string_pretty(&openapi::document()).unwrap() + "\n";
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/admin-api.openapi.json");
    if std::env::var("LITTORAL_BLESS").is_ok_and(|bless| bless == "1") {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &document).unwrap();
    }
    let checked_in = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(checked_in == document, "{} is out of date; run this test with LITTORAL_BLESS=1", path.display());
}

#[test]
fn every_route_and_field_is_in_the_document() {
    let document = openapi::document();
    for route in ROUTES {
        let operation = &document["paths"][route.path][route.method.as_str().to_ascii_lowercase()];
        assert_eq!(operation["operationId"], route.id);
    }
    let operations: usize =
        document["paths"].as_object().unwrap().values().map(|path| path.as_object().unwrap().len()).sum();
    assert_eq!(operations, ROUTES.len(), "two routes have the same method and path");
    // Every reference leads somewhere.
    let text = document.to_string();
    for reference in text.split("\"#/components/schemas/").skip(1) {
        let name = reference.split('"').next().unwrap();
        assert!(document["components"]["schemas"][name].is_object(), "{name}");
    }
    let status = futures::executor::block_on(Fake::default().node()).unwrap();
    let fields = serde_json::to_value(status).unwrap();
    let described = document["components"]["schemas"]["NodeStatus"]["properties"].as_object().unwrap();
    assert!(fields.as_object().unwrap().keys().eq(described.keys()), "{described:?}");
}
