//! Components that answer HTTP requests, of WASI 0.2 and 0.3, and what becomes of those that misbehave.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use littoral_runtime_wasm::handler::{Body, Handler, HandlerSettings, Reuse};
use littoral_runtime_wasm::{Fault, Limits, Wasm, WasmOptions};

async fn handler(component: Vec<u8>, settings: HandlerSettings) -> Handler {
    let wasm = Wasm::new(WasmOptions { instances_max: Some(16), ..WasmOptions::default() }).unwrap();
    let artifact = wasm.load(component.into()).await.unwrap();
    assert!(artifact.is_handler());
    Handler::new(&wasm, &artifact, settings).unwrap()
}

fn short(reuse: Reuse) -> HandlerSettings {
    let limits = Limits { memory_bytes: 64 << 20, timeout: Duration::from_secs(3), ..Limits::default() };
    HandlerSettings { limits, reuse, ..HandlerSettings::default() }
}

fn request(path: &str) -> Request<Body> {
    let body = Full::new(Bytes::new()).map_err(|never| match never {}).boxed_unsync();
    Request::get(format!("http://localhost{path}")).header("host", "localhost").body(body).unwrap()
}

async fn text(response: Response<Body>) -> String {
    let body = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(body.to_vec()).unwrap()
}

#[tokio::test]
async fn foreign_services_of_wasi_03_answer() {
    for name in ["http-proxy", "http-proxy-compat"] {
        let handler = handler(support::wasip3_example(name), HandlerSettings::default()).await;
        for _ in 0..3 {
            assert_eq!(text(handler.call(request("/")).await.unwrap()).await, "Hello, WASI!");
        }
    }
}

#[tokio::test]
async fn an_instance_of_wasi_03_answers_so_many_requests_and_then_a_fresh_one_does() {
    let reuse = Reuse { requests_max: 3, idle: Duration::from_secs(60), ..Reuse::default() };
    let handler = handler(support::test_guest("service"), short(reuse)).await;
    let mut counts = Vec::new();
    for _ in 0..7 {
        counts.push(text(handler.call(request("/count")).await.unwrap()).await);
    }
    assert_eq!(counts, ["1", "2", "3", "1", "2", "3", "1"]);
}

#[tokio::test]
async fn an_instance_of_wasi_03_that_leaks_is_replaced_before_it_is_full() {
    let handler = handler(support::test_guest("service"), short(Reuse::default())).await;
    for _ in 0..30 {
        assert_eq!(text(handler.call(request("/leak")).await.unwrap()).await, (8 << 20).to_string());
    }
}

#[tokio::test]
async fn what_fails_in_wasi_03_is_that_requests_error() {
    let handler = Arc::new(handler(support::test_guest("service"), short(Reuse::default())).await);
    assert_eq!(text(handler.call(request("/a")).await.unwrap()).await, "hello from /a\n");
    let fault = handler.call(request("/trap")).await.unwrap_err();
    assert!(matches!(&fault, Fault::Trap { cause } if cause.contains("on purpose")), "{fault}");
    let fault = handler.call(request("/refuse")).await.unwrap_err();
    assert!(matches!(&fault, Fault::Rejected { reason } if reason.contains("HttpRequestDenied")), "{fault}");
    for endless in ["/spin", "/wait"] {
        let fault = handler.call(request(endless)).await.unwrap_err();
        assert!(matches!(fault, Fault::Timeout { .. }), "{endless}: {fault}");
    }
    let fault = handler.call(request("/memory")).await.unwrap_err();
    assert!(matches!(fault, Fault::Memory { .. }), "{fault}");
    assert_eq!(text(handler.call(request("/large")).await.unwrap()).await.len(), 1 << 20);
    assert_eq!(text(handler.call(request("/b")).await.unwrap()).await, "hello from /b\n");
}

#[tokio::test]
async fn a_request_that_waits_does_not_keep_others_from_the_same_instance() {
    let handler = Arc::new(handler(support::test_guest("service"), short(Reuse::default())).await);
    let waiting = tokio::spawn({
        let handler = Arc::clone(&handler);
        async move { handler.call(request("/wait")).await.unwrap_err() }
    });
    tokio::task::yield_now().await;
    for _ in 0..10 {
        assert_eq!(text(handler.call(request("/c")).await.unwrap()).await, "hello from /c\n");
    }
    assert!(matches!(waiting.await.unwrap(), Fault::Timeout { .. }));
}

#[tokio::test]
async fn each_request_of_wasi_02_has_an_instance_of_its_own() {
    let handler = handler(support::sdk_example("hello"), HandlerSettings::default()).await;
    for path in ["/x", "/y"] {
        let response = handler.call(request(path)).await.unwrap();
        let said = text(response).await;
        assert!(said.contains(path), "{said}");
    }
}
