//! What functions are given of a fabric: here, one that notes what it is asked.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use arrow_array::cast::AsArray as _;
use arrow_array::{RecordBatch, StringArray};
use arrow_schema::{DataType, Field, Schema};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use littoral_model::id::{BucketName, InvocationId, StreamName, Tier};
use littoral_runtime_wasm::fabric::{
    Attached, BucketError, CALL_DEPTH_MAX, CallError, Changes, Device, Fabric, Invocation, Keys, Message, Outgoing,
    Payload, Place, PublishError, Surroundings,
};
use littoral_runtime_wasm::handler::{Body, Handler, HandlerSettings};
use littoral_runtime_wasm::stage::{Stage, StageSettings};
use littoral_runtime_wasm::{Access, Fault, Limits, LogSink, LogStream, Wasm, WasmOptions};
use rustix::fs::{Mode, OFlags};

const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// Answers a call with what it was asked, and takes whatever is published.
#[derive(Default)]
struct Noting(Mutex<Vec<String>>);

#[wasmtime_wasi::async_trait]
impl Fabric for Noting {
    async fn call(&self, from: &Place, call: Outgoing) -> Result<Payload, CallError> {
        let Outgoing { function, request, depth, traceparent, within } = call;
        assert!(within < Duration::from_secs(2), "the caller keeps some of its time");
        let body = String::from_utf8(request.body.to_vec()).unwrap();
        let text = format!("{} -> {function} ({depth}, {}): {body}", from.function, traceparent.to_str().unwrap());
        Ok(Payload { content_type: request.content_type, body: text.into() })
    }
    async fn publish(&self, _: &Place, stream: &StreamName, messages: Vec<Message>) -> Result<u64, PublishError> {
        self.0.lock().unwrap().push(format!("{stream}: {messages:?}"));
        Ok(messages.len() as u64)
    }
    async fn get(&self, _: &Place, _: &BucketName, keys: Vec<String>) -> Result<Vec<Option<Bytes>>, BucketError> {
        Ok(keys.into_iter().map(|key| Some(key.into())).collect())
    }
    async fn change(&self, _: &Place, _: &BucketName, _: Changes) -> Result<(), BucketError> {
        Err(BucketError("the disk is full".to_owned()))
    }
    async fn increment(&self, _: &Place, _: &BucketName, _: String, delta: u64) -> Result<u64, BucketError> {
        Ok(41 + delta)
    }
    async fn keys(&self, _: &Place, _: &BucketName, _: u64) -> Result<Keys, BucketError> {
        Ok(Keys { keys: vec!["a".to_owned(), "b".to_owned()], next: None })
    }
}

#[derive(Default)]
struct Lines(Mutex<Vec<String>>);

impl LogSink for Lines {
    fn line(&self, _: LogStream, text: &str) {
        self.0.lock().unwrap().push(text.to_owned());
    }
}

impl Lines {
    fn has(&self, text: &str) -> bool {
        self.0.lock().unwrap().iter().any(|line| line.contains(text))
    }
}

struct Scene {
    handler: Handler,
    fabric: Arc<Noting>,
    logs: Arc<Lines>,
}

/// What lies around a function of a fabric.
fn surroundings(fabric: Option<Arc<dyn Fabric>>) -> Arc<Surroundings> {
    let place = Place {
        app: littoral_model::id::AppId { tenant: "default".parse().unwrap(), app: "shop".parse().unwrap() },
        function: "order".parse().unwrap(),
        node: "edge-1".parse().unwrap(),
        tier: Tier::Edge,
        site: "hall-7".parse().unwrap(),
    };
    let config = vec![("greeting".to_owned(), "moin".to_owned())];
    Arc::new(Surroundings { config, attached: fabric.map(|fabric| Attached { place, fabric }) })
}

/// A handler in a fabric, with these grants; or in none.
async fn scene(component: Vec<u8>, attached: bool, grants: Access) -> Scene {
    let wasm = Wasm::new(WasmOptions { instances_max: Some(16), ..WasmOptions::default() }).unwrap();
    let artifact = wasm.load(component.into()).await.unwrap();
    let (fabric, logs) = (Arc::new(Noting::default()), Arc::new(Lines::default()));
    let given: Option<Arc<dyn Fabric>> = if attached { Some(fabric.clone()) } else { None };
    let settings = HandlerSettings {
        limits: Limits { memory_bytes: 64 << 20, timeout: Duration::from_secs(2), ..Limits::default() },
        access: Arc::new(grants),
        surroundings: surroundings(given),
        logs: logs.clone(),
        ..HandlerSettings::default()
    };
    Scene { handler: Handler::new(&wasm, &artifact, settings).unwrap(), fabric, logs }
}

fn everything() -> Access {
    Access {
        call: vec!["price".parse().unwrap()],
        publish: vec!["orders".parse().unwrap()],
        keyvalue: vec!["carts".parse().unwrap()],
        ..Access::default()
    }
}

fn request(path: &str, body: &str) -> Request<Body> {
    let body = Full::new(Bytes::copy_from_slice(body.as_bytes())).map_err(|never| match never {}).boxed_unsync();
    Request::post(path).header("host", "localhost").header("content-type", "text/plain").body(body).unwrap()
}

async fn text(response: Response<Body>) -> String {
    let body = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(body.to_vec()).unwrap()
}

impl Scene {
    async fn ask(&self, path: &str, body: &str) -> String {
        text(self.handler.call(request(path, body)).await.unwrap()).await.trim_end().to_owned()
    }
}

#[tokio::test]
async fn what_is_granted_reaches_the_fabric() {
    let scene = scene(support::sdk_example("fabric"), true, everything()).await;
    let mut traced = request("/call/price", "7");
    traced.headers_mut().insert("traceparent", TRACE.parse().unwrap());
    let answer = text(scene.handler.call(traced).await.unwrap()).await;
    assert_eq!(answer.trim_end(), format!("text/plain; charset=utf-8: order -> price (1, {TRACE}): 7"));
    assert_eq!(scene.ask("/publish/orders", "one").await, "stored 1");
    let noted = scene.fabric.0.lock().unwrap().clone();
    assert_eq!(noted, ["orders: [Message { key: Some(\"fabric\"), value: \"one\", time_us: None }]"]);
    assert_eq!(scene.ask("/get/carts/k", "").await, "k");
    assert_eq!(scene.ask("/increment/carts/k", "").await, "42");
    assert_eq!(scene.ask("/keys/carts", "").await, "a b");
    assert_eq!(scene.ask("/set/carts/k", "v").await, "the disk is full");
    assert!(scene.ask(&format!("/get/carts/{}", "k".repeat(2_000)), "").await.contains("1024"));
}

#[tokio::test]
async fn what_is_not_granted_is_denied_and_the_log_names_the_grant() {
    let scene = scene(support::sdk_example("fabric"), true, Access::default()).await;
    let denied = scene.ask("/call/price", "7").await;
    assert!(denied.starts_with("Denied") && denied.contains("call = [\\\"price\\\"]"), "{denied}");
    assert!(scene.ask("/publish/orders", "one").await.starts_with("Denied"));
    assert!(scene.ask("/get/carts/k", "").await.contains("not granted"));
    for (key, name) in [("call", "price"), ("publish", "orders"), ("keyvalue", "carts")] {
        let line = format!("grant it with `{key} = [\"{name}\"]` in `[functions.order.grants]`");
        assert!(scene.logs.has(&line), "{line} is not in {:?}", scene.logs.0.lock().unwrap());
    }
    assert!(scene.fabric.0.lock().unwrap().is_empty());
}

/// A terminal of which another program holds one end: it says where the other one is, answers the first five bytes, and
/// says what they were and how the line is set.
const TERMINAL: &str = r#"
import os, pty, sys, termios
end, line = pty.openpty()
print(os.ttyname(line), flush=True)
asked = b""
while len(asked) < 5:
    asked += os.read(end, 5)
os.write(end, b"\x03\r\n21.5")
print(asked.decode(), termios.tcgetattr(line)[5] == termios.B19200, flush=True)
sys.stdin.read()
"#;

fn device(path: &str) -> Device {
    let path = path.to_owned();
    let name = path.clone();
    let open = move || {
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        Ok(rustix::fs::open(&path, flags, Mode::empty())?)
    };
    Device { path: name, open: Arc::new(open) }
}

#[tokio::test]
async fn a_serial_line_is_set_and_carries_bytes_as_they_are() {
    let mut terminal = Command::new("python3");
    let mut terminal =
        terminal.args(["-c", TERMINAL]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("python3 is there");
    let mut said = BufReader::new(terminal.stdout.take().unwrap()).lines();
    let path = said.next().unwrap().unwrap();
    let access = Access { devices: vec![device(&path), device("/no/such/device")], ..Access::default() };
    let scene = scene(support::sdk_example("fabric"), true, access).await;
    // A terminal would make something else of these bytes.
    assert_eq!(scene.ask("/ask-device/T-abc", &format!("{path} 19200")).await, "\u{3}\r\n21.5");
    assert_eq!(said.next().unwrap().unwrap(), "T-abc True");
    assert_eq!(scene.ask("/ask-device/T", &path).await, "", "nobody answers: a read waits no longer than it is told");
    let denied = scene.ask("/ask-device/T", "/dev/null").await;
    assert!(denied.contains("grant it with `devices = [\"/dev/null\"]`") && scene.logs.has("devices ="), "{denied}");
    assert!(scene.ask("/ask-device/T", "/no/such/device").await.contains("cannot be opened"));
    drop(terminal.stdin.take());
    assert!(terminal.wait().unwrap().success());
    assert!(scene.ask("/ask-device/T", &path).await.contains("cannot be opened"), "the line is gone");
}

#[tokio::test]
async fn without_a_fabric_everything_links_and_is_denied() {
    let scene = scene(support::sdk_example("fabric"), false, everything()).await;
    assert!(scene.ask("/call/price", "7").await.contains("littoral run"));
    assert!(scene.ask("/publish/orders", "7").await.contains("littoral run"));
    assert!(scene.ask("/get/carts/k", "").await.contains("not granted"));
    assert!(scene.ask("/context", "").await.contains("place: None"));
    assert_eq!(scene.ask("/config/greeting", "").await, "moin");
    assert_eq!(scene.ask("/config/farewell", "").await, "nothing");
    scene.ask("/log", "one\ntwo").await;
    assert!(scene.logs.has("WARN example: one") && scene.logs.has("WARN example: two"));
}

#[tokio::test]
async fn a_function_sees_its_invocation_and_place() {
    for (component, path) in [("fabric", "/context"), ("typed", "/")] {
        let scene = scene(support::sdk_example(component), true, Access::default()).await;
        let outside = scene.ask(path, "context").await;
        assert!(outside.contains("attempt: 1") && outside.contains("depth: 0"), "{outside}");
        let place = "Place { tenant: \"default\", app: \"shop\", function: \"order\", node: \"edge-1\", tier: \"edge\", site: \"hall-7\" }";
        assert!(outside.contains(place), "{outside}");
        assert_ne!(outside, scene.ask(path, "context").await, "each has an id of its own");
        let mut told = request(path, "context");
        told.extensions_mut().insert(Invocation {
            id: Some(InvocationId::from_parts(1, 2)),
            attempt: 3,
            deadline: Some(Instant::now() + Duration::from_secs(1)),
            depth: 4,
            traceparent: Some(TRACE.parse().unwrap()),
        });
        let inside = text(scene.handler.call(told).await.unwrap()).await;
        for told in ["attempt: 3", "depth: 4", TRACE, &InvocationId::from_parts(1, 2).to_string()] {
            assert!(inside.contains(told), "{told}: {inside}");
        }
        let remaining = inside.split("remaining: ").nth(1).unwrap().split(',').next().unwrap();
        assert!(remaining.ends_with("ms"), "less than the caller's second is left, not two: {remaining}");
    }
}

#[tokio::test]
async fn a_typed_handler_answers_a_request_with_its_payload() {
    let scene = scene(support::sdk_example("typed"), true, everything()).await;
    let response = scene.handler.call(request("/any", "21")).await.unwrap();
    assert_eq!(
        (response.status().as_u16(), &response.headers()["content-type"]),
        (200, &"text/plain".parse().unwrap())
    );
    assert_eq!(text(response).await, "42");
    for (asked, status, said) in [("x", 400, "`x` is no number"), ("fail on purpose", 500, "on purpose")] {
        let response = scene.handler.call(request("/", asked)).await.unwrap();
        assert_eq!(response.status().as_u16(), status);
        assert_eq!(text(response).await, said);
    }
    let answer = scene.ask("/", "call price").await;
    assert!(answer.contains("order -> price (1, "), "{answer}");
}

#[tokio::test]
async fn a_function_ends_with_its_callers_time_and_a_chain_of_calls_with_its_length() {
    let scene = scene(support::sdk_example("typed"), true, everything()).await;
    let called = |asked: &str, invocation: Invocation| {
        let mut request = request("/", asked);
        request.extensions_mut().insert(invocation);
        scene.handler.call(request)
    };
    let short = Invocation { deadline: Some(Instant::now() + Duration::from_millis(50)), ..Invocation::default() };
    let fault = called("spin", short).await.unwrap_err();
    assert!(matches!(fault, Fault::Timeout { limit } if limit <= Duration::from_millis(50)), "{fault}");
    let deep = |depth| Invocation { depth, ..Invocation::default() };
    assert_eq!(called("call price", deep(CALL_DEPTH_MAX - 2)).await.unwrap().status(), 200);
    let response = called("call price", deep(CALL_DEPTH_MAX - 1)).await.unwrap();
    assert_eq!(response.status(), 500);
    assert!(text(response).await.contains("a chain of more than 16"));
}

#[tokio::test]
async fn requests_in_one_instance_of_wasi_03_see_an_invocation_each() {
    let scene = scene(support::test_guest("service"), true, Access::default()).await;
    let asked = |depth: u32| {
        let trace = TRACE.replace("b7ad", &format!("{depth:04}"));
        let mut request = request("/context", "");
        let traceparent = Some(trace.parse().unwrap());
        request.extensions_mut().insert(Invocation { depth, traceparent, ..Invocation::default() });
        let handler = &scene.handler;
        async move {
            let said = text(handler.call(request).await.unwrap()).await;
            assert_eq!(said, format!("{trace} true {depth} {trace}"));
        }
    };
    futures::future::join_all((1..=8).map(asked)).await;
}

#[tokio::test]
async fn each_batch_of_a_stage_is_an_invocation_and_may_publish() {
    let wasm = Wasm::new(WasmOptions { instances_max: Some(16), ..WasmOptions::default() }).unwrap();
    let artifact = wasm.load(support::sdk_example("faulty_stage").into()).await.unwrap();
    let fabric = Arc::new(Noting::default());
    let access = Access { publish: vec!["alerts".parse().unwrap()], ..Access::default() };
    let settings = StageSettings {
        access: Arc::new(access),
        surroundings: surroundings(Some(fabric.clone())),
        ..StageSettings::default()
    };
    let mut stage = Stage::instantiate(&wasm, &artifact, settings).await.unwrap();
    let schema = Arc::new(Schema::new(vec![Field::new("value", DataType::Utf8, false)]));
    stage.open(&schema).await.unwrap();
    let mut ask = async |values: &[&str]| {
        let column = Arc::new(StringArray::from_iter_values(values));
        let batch = RecordBatch::try_new(schema.clone(), vec![column]).unwrap();
        let step = stage.process(&batch, 0).await.unwrap();
        let said = step.outputs[0].1.column(0).as_string::<i32>().iter().map(|value| value.unwrap().to_owned());
        said.collect::<Vec<_>>()
    };
    let first = ask(&["context", "context"]).await;
    assert_eq!(first[0], first[1]);
    assert_ne!(first[0], ask(&["context"]).await[0]);
    assert_eq!(ask(&["publish"]).await, ["Ok(1)"]);
    assert_eq!(fabric.0.lock().unwrap().len(), 1);
}
