//! The gateway over real sockets, with components from the SDK and from elsewhere.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

#[path = "../../runtime-wasm/tests/support/mod.rs"]
mod support;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use http::request::Parts;
use http::{HeaderName, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use littoral_gateway::{Drained, Gateway, Router, Settings, Target, error_response, single};
use littoral_runtime::http::{HttpFunction, HttpSettings};
use littoral_runtime::{Limits, LogSink, LogStream, Runtime, RuntimeOptions, Shards};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;

const ANY_PORT: &str = "127.0.0.1:0";

#[derive(Default)]
struct Kept(Mutex<Vec<String>>);

impl LogSink for Kept {
    fn line(&self, _stream: LogStream, text: &str) {
        self.0.lock().unwrap().push(text.to_owned());
    }
}

async fn function(component: Vec<u8>, settings: HttpSettings) -> Arc<HttpFunction> {
    let runtime = Runtime::new(RuntimeOptions::default()).unwrap();
    let artifact = runtime.load(component.into()).await.unwrap();
    Arc::new(HttpFunction::new(&runtime, &artifact, settings).unwrap())
}

async fn serve(router: Arc<dyn Router>, settings: Settings) -> (Shards, Gateway) {
    let shards = Shards::new(2).unwrap();
    let gateway = Gateway::serve(ANY_PORT.parse().unwrap(), &shards, router, settings).await.unwrap();
    (shards, gateway)
}

async fn send(address: SocketAddr, request: Request<Full<Bytes>>) -> Response<Incoming> {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender.send_request(request).await.unwrap()
}

fn request(method: &str, path: &str, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    Request::builder().method(method).uri(path).header("host", "app.test:8080").body(Full::new(body.into())).unwrap()
}

async fn text(response: Response<Incoming>) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

/// Sends bytes as they are and reads until the gateway closes.
async fn raw(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn a_handler_made_with_the_sdk() {
    let settings = HttpSettings { environment: vec![("GREETING".into(), "moin".into())], ..HttpSettings::default() };
    let (_shards, gateway) =
        serve(single(function(support::sdk_example("hello"), settings).await), Settings::default()).await;
    let response = send(gateway.address(), request("GET", "/a/b?c=d", "")).await;
    assert_eq!(response.headers()["content-type"], "text/plain; charset=utf-8");
    assert_eq!(text(response).await, "moin from /a/b on http://app.test:8080/a/b?c=d\n");
    let sent: Vec<u8> = (0..3 << 20).map(|at| (at % 251) as u8).collect();
    let response = send(gateway.address(), request("POST", "/", sent.clone())).await;
    assert!(response.into_body().collect().await.unwrap().to_bytes() == sent, "what was sent came back");
}

#[tokio::test]
async fn components_that_nobody_here_wrote() {
    let (_shards, gateway) = serve(
        single(function(support::wstd_example("http_server"), HttpSettings::default()).await),
        Settings::default(),
    )
    .await;
    let address = gateway.address();
    assert_eq!(text(send(address, request("GET", "/", "")).await).await, "Hello, wasi:http/proxy world!\n");
    assert_eq!(text(send(address, request("POST", "/echo", "ping")).await).await, "ping");
    assert!(text(send(address, request("GET", "/wait-body", "")).await).await.starts_with("slept for "));
    assert_eq!(send(address, request("GET", "/nowhere", "")).await.status(), 404);
    let echoed = send(address, request("GET", "/echo-headers", "")).await;
    assert_eq!(echoed.status(), 200);
    let status = Request::builder().uri("/response-status").header("host", "a").header("x-response-status", "418");
    assert_eq!(send(address, status.body(Full::default()).unwrap()).await.status(), 418);
    assert_eq!(send(address, request("GET", "/response-fail", "")).await.status(), 500);
    let broken = raw(address, b"GET /response-body-fail HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert!(!broken.ends_with("0\r\n\r\n"), "a body that its handler gave up must not look complete: {broken}");
    let mut body = send(address, request("GET", "/stream-body", "")).await.into_body().into_data_stream();
    let mut chunks = 0;
    while let Some(chunk) = body.next().await {
        assert!(chunk.unwrap().starts_with(b"stream started"));
        chunks += 1;
    }
    assert!(chunks > 1, "the body came in one piece");
}

#[tokio::test]
async fn a_foreign_proxy_is_served_and_reaches_nobody() {
    let logs = Arc::new(Kept::default());
    let environment = vec![("TARGET_URL".into(), "http://169.254.169.254/".into())];
    let settings = HttpSettings { environment, logs: logs.clone(), ..HttpSettings::default() };
    let (_shards, gateway) =
        serve(single(function(support::wstd_example("http_server_proxy"), settings).await), Settings::default()).await;
    assert_eq!(send(gateway.address(), request("GET", "/", "")).await.status(), 404);
    let denied = send(gateway.address(), request("GET", "/proxy/meta-data", "")).await;
    assert!(denied.status().is_server_error(), "{}", denied.status());
    let lines = logs.0.lock().unwrap();
    assert!(lines.iter().any(|line| line.contains("169.254.169.254:80 was denied")), "{lines:?}");
}

#[tokio::test]
async fn faults_are_told_and_touch_no_neighbour() {
    let limits = Limits { memory_bytes: 16 << 20, timeout: Duration::from_secs(2), ..Limits::default() };
    let settings = HttpSettings { name: "default/app/faulty".into(), limits, ..HttpSettings::default() };
    let (_shards, gateway) =
        serve(single(function(support::sdk_example("faulty_handler"), settings).await), Settings::default()).await;
    for (path, status, kind, words) in [
        ("/trap", 500, "trap", "told to trap"),
        ("/spin", 504, "timeout", "longer than 2s"),
        ("/grow", 500, "memory", "more memory than 16777216 bytes"),
        ("/exit", 500, "trap", "exited with status 1"),
    ] {
        let (failed, fine) = tokio::join!(
            send(gateway.address(), request("GET", path, "")),
            send(gateway.address(), request("POST", "/fine", "abc")),
        );
        assert_eq!(failed.status(), status, "{path}");
        let body: serde_json::Value = serde_json::from_str(&text(failed).await).unwrap();
        assert_eq!((&body["error"], &body["function"]), (&kind.into(), &"default/app/faulty".into()));
        assert!(body["message"].as_str().unwrap().contains(words), "{body}");
        assert_eq!(text(fine).await, "POST /fine 3 bytes");
    }
    assert_eq!(text(send(gateway.address(), request("GET", "/large", "")).await).await.len(), 4 << 20);
}

#[tokio::test]
async fn too_many_at_once_are_turned_away() {
    let settings = HttpSettings { concurrency_max: 0, ..HttpSettings::default() };
    let (_shards, gateway) =
        serve(single(function(support::sdk_example("hello"), settings).await), Settings::default()).await;
    let response = send(gateway.address(), request("GET", "/", "")).await;
    assert_eq!(
        (response.status(), &response.headers()["retry-after"]),
        (StatusCode::SERVICE_UNAVAILABLE, &"1".parse().unwrap())
    );
}

#[tokio::test]
async fn a_client_that_leaves_takes_its_guest_along() {
    let limits = Limits { timeout: Duration::from_secs(3_600), ..Limits::default() };
    let settings = HttpSettings { limits, concurrency_max: 1, ..HttpSettings::default() };
    let (_shards, gateway) =
        serve(single(function(support::sdk_example("faulty_handler"), settings).await), Settings::default()).await;
    let fine = async || send(gateway.address(), request("GET", "/fine", "")).await.status();
    let mut spinning = TcpStream::connect(gateway.address()).await.unwrap();
    spinning.write_all(b"GET /spin HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    while fine().await != StatusCode::SERVICE_UNAVAILABLE {}
    drop(spinning);
    while fine().await != StatusCode::OK {}
}

/// Says what it was asked, reads the body if there is one, and waits where the path says so.
struct Plain {
    entered: Arc<Notify>,
    release: Arc<Notify>,
}

/// What clients of `Plain` cannot say.
static RESERVED: [HeaderName; 1] = [HeaderName::from_static("x-told")];

impl Router for Plain {
    fn reserved(&self) -> &'static [HeaderName] {
        &RESERVED
    }

    fn route(&self, request: &Parts) -> Target {
        match request.uri.path() {
            "/told" => {
                let told = ["x-told", "x-own"].map(|name| request.headers.contains_key(name));
                Target::answer(Response::new(littoral_gateway::full(format!("{told:?}"))))
            }
            "/read" => Target::Respond(Box::new(|request| {
                Box::pin(async move {
                    match request.into_body().collect().await {
                        Ok(body) => Response::new(littoral_gateway::full(body.to_bytes())),
                        Err(error) => error_response(StatusCode::INTERNAL_SERVER_ERROR, "body", &error.to_string()),
                    }
                })
            })),
            "/wait" => {
                let (entered, release) = (Arc::clone(&self.entered), Arc::clone(&self.release));
                Target::Respond(Box::new(move |_| {
                    Box::pin(async move {
                        entered.notify_one();
                        release.notified().await;
                        Response::new(littoral_gateway::full("waited"))
                    })
                }))
            }
            path => Target::answer(Response::new(littoral_gateway::full(path.to_owned()))),
        }
    }
}

fn plain() -> Plain {
    Plain { entered: Arc::default(), release: Arc::default() }
}

#[tokio::test]
async fn what_clients_may_not_do() {
    let settings = Settings { body_bytes_max: 1_000, header_timeout: Duration::from_secs(1), ..Settings::default() };
    let (_shards, gateway) = serve(Arc::new(plain()), settings).await;
    let address = gateway.address();
    let status =
        async |bytes: &str| raw(address, bytes.as_bytes()).await.split(' ').nth(1).unwrap_or("closed").to_owned();
    assert_eq!(status("GET /a HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await, "200");
    assert_eq!(status("GET /a HTTP/1.0\r\n\r\n").await, "200");
    assert_eq!(status("GET /a HTTP/1.1\r\nconnection: close\r\n\r\n").await, "400");
    assert_eq!(status("GET /a HTTP/1.1\r\nhost: a\r\nhost: b\r\nconnection: close\r\n\r\n").await, "400");
    assert_eq!(status("CONNECT a:80 HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await, "501");
    assert_eq!(status("rubbish\r\n\r\n").await, "400");
    let large = format!("GET /a HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "y".repeat(64 << 10));
    assert_eq!(status(&large).await, "431");
    let many = format!("GET /a HTTP/1.1\r\nhost: a\r\n{}\r\n", "x: y\r\n".repeat(200));
    assert_eq!(status(&many).await, "431");
    assert_eq!(send(address, request("POST", "/read", vec![0; 1_000])).await.status(), 200);
    assert_eq!(send(address, request("POST", "/read", vec![0; 1_001])).await.status(), 413);
    let chunked = format!(
        "POST /read HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n{}",
        "64\r\n".to_owned() + &"x".repeat(100) + "\r\n"
    );
    let chunk = "64\r\n".to_owned() + &"x".repeat(100) + "\r\n";
    assert_eq!(status(&(chunked + &chunk.repeat(10) + "0\r\n\r\n")).await, "413");
    // A client that never finishes its head is let go.
    assert!(["closed", "408"].contains(&status("GET /a HT").await.as_str()));
}

#[tokio::test]
async fn what_only_the_node_may_tell_is_taken_from_clients() {
    let (_shards, gateway) = serve(Arc::new(plain()), Settings::default()).await;
    let told = Request::builder().uri("/told").header("host", "a").header("x-own", "1");
    let told = told.header("X-Told", "1").header("x-told", "2").body(Full::default()).unwrap();
    assert_eq!(text(send(gateway.address(), told).await).await, "[false, true]");
}

#[tokio::test]
async fn draining_lets_requests_finish() {
    let router = plain();
    let (entered, release) = (Arc::clone(&router.entered), Arc::clone(&router.release));
    let (_shards, gateway) = serve(Arc::new(router), Settings::default()).await;
    let address = gateway.address();
    let waiting = tokio::spawn(async move { text(send(address, request("GET", "/wait", "")).await).await });
    entered.notified().await;
    let drained = tokio::spawn(gateway.drain(Duration::from_secs(60)));
    release.notify_one();
    assert_eq!(waiting.await.unwrap(), "waited");
    assert_eq!(drained.await.unwrap(), Drained { complete: true });
    assert!(TcpStream::connect(address).await.is_err(), "nobody listens any more");
}

#[tokio::test]
async fn draining_ends_at_its_deadline() {
    let router = plain();
    let entered = Arc::clone(&router.entered);
    let (_shards, gateway) = serve(Arc::new(router), Settings::default()).await;
    let address = gateway.address();
    let stuck = tokio::spawn(async move { raw(address, b"GET /wait HTTP/1.1\r\nhost: a\r\n\r\n").await });
    entered.notified().await;
    assert_eq!(gateway.drain(Duration::from_millis(10)).await, Drained { complete: false });
    assert_eq!(stuck.await.unwrap(), "", "it was cut");
}

#[tokio::test]
async fn a_taken_port_is_an_error() {
    let (shards, gateway) = serve(Arc::new(plain()), Settings::default()).await;
    let again = Gateway::serve(gateway.address(), &shards, Arc::new(plain()), Settings::default()).await;
    assert!(again.unwrap_err().to_string().contains("choose another address or port"));
}

#[tokio::test]
async fn connections_beyond_the_limit_wait() {
    let (_shards, gateway) = serve(Arc::new(plain()), Settings { connections_max: 1, ..Settings::default() }).await;
    let mut answered = 0;
    for _ in 0..20 {
        answered += u32::from(send(gateway.address(), request("GET", "/a", "")).await.status() == StatusCode::OK);
    }
    assert_eq!(answered, 20);
}
