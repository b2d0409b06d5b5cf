//! Each limit of an HTTP function, overstepped: what the client and the function's author are told, and what is counted.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

#[path = "../../runtime-wasm/tests/support/mod.rs"]
mod support;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use littoral_gateway::{Gateway, Settings, single};
use littoral_runtime::http::{HttpFunction, HttpSettings};
use littoral_runtime::{Limits, LogSink, LogStream, Runtime, RuntimeOptions, Shards, Usage};

#[derive(Default)]
struct Kept(Mutex<Vec<String>>);

impl LogSink for Kept {
    fn line(&self, _stream: LogStream, text: &str) {
        self.0.lock().unwrap().push(text.to_owned());
    }
}

/// A served function, with its counters and its log.
struct Served {
    address: SocketAddr,
    usage: Arc<Usage>,
    logs: Arc<Kept>,
    _gateway: Gateway,
    _shards: Shards,
}

async fn serve(component: Vec<u8>, limits: Limits, concurrency_max: usize) -> Served {
    let runtime = Runtime::new(RuntimeOptions::default()).unwrap();
    let artifact = runtime.load(component.into()).await.unwrap();
    let (usage, logs) = (Arc::<Usage>::default(), Arc::<Kept>::default());
    let settings = HttpSettings {
        limits,
        concurrency_max,
        usage: Arc::clone(&usage),
        logs: logs.clone(),
        ..HttpSettings::default()
    };
    let function = Arc::new(HttpFunction::new(&runtime, &artifact, settings).unwrap());
    let shards = Shards::new(2).unwrap();
    let any_port = "127.0.0.1:0".parse().unwrap();
    let gateway = Gateway::serve(any_port, &shards, single(function), Settings::default()).await.unwrap();
    Served { address: gateway.address(), usage, logs, _gateway: gateway, _shards: shards }
}

impl Served {
    /// Sends one request; the whole answer, head and body, as far as it goes.
    fn send(&self, head: &str, body: &str) -> String {
        let mut stream = TcpStream::connect(self.address).unwrap();
        write!(stream, "{head} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n{body}").unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        String::from_utf8(answer).unwrap()
    }

    fn post(&self, path: &str, body: &str) -> String {
        self.send(&format!("POST {path}"), &format!("content-length: {}\r\n\r\n{body}", body.len()))
    }

    fn get(&self, path: &str) -> String {
        self.send(&format!("GET {path}"), "\r\n")
    }

    fn logged(&self, words: &str) -> bool {
        self.logs.0.lock().unwrap().iter().any(|line| line.contains(words))
    }
}

/// How much of a body of `x` an answer has, chunked or not.
fn xs(answer: &str) -> usize {
    answer.split_once("\r\n\r\n").map_or(0, |(_, body)| body.matches('x').count())
}

fn assert_fault(answer: &str, status: u16, kind: &str, words: &[&str]) {
    assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    assert!(answer.contains(&format!("\"error\":\"{kind}\"")), "{answer}");
    assert!(words.iter().all(|word| answer.contains(word)), "{answer}");
}

#[tokio::test]
async fn cpu_time_in_0_2_and_0_3() {
    let cpu = Duration::from_millis(50);
    for component in [support::sdk_example("faulty_handler"), support::test_guest("service")] {
        let limits = Limits { cpu: Some(cpu), timeout: Duration::from_secs(600), ..Limits::default() };
        let served = serve(component, limits, 10).await;
        let answer = served.get("/spin");
        assert_fault(&answer, 500, "cpu", &["more CPU time than 50ms", "`limits.cpu`"]);
        assert!(served.logged("more CPU time than 50ms"));
        let used = served.usage.now();
        assert!(used.cpu_ns >= 50_000_000, "{used:?}");
        assert_eq!(used.invocations, 1);
        assert!(used.memory_byte_us > 0);
        // Each call has its own time: a hundred of them together use more than one may.
        for _ in 0..100 {
            assert!(served.get("/fine").starts_with("HTTP/1.1 200 "));
        }
    }
}

#[tokio::test]
async fn requests_at_once() {
    let limits = Limits { timeout: Duration::from_secs(600), ..Limits::default() };
    let served = serve(support::sdk_example("faulty_handler"), limits, 1).await;
    let mut spinning = TcpStream::connect(served.address).unwrap();
    spinning.write_all(b"GET /spin HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
    loop {
        let answer = served.get("/fine");
        if !answer.starts_with("HTTP/1.1 200 ") {
            assert_fault(&answer, 503, "busy", &["1 requests of it", "`limits.concurrency`"]);
            break;
        }
    }
}

#[tokio::test]
async fn the_body_of_a_request() {
    let limits = Limits { request_bytes: 1_000, ..Limits::default() };
    let served = serve(support::sdk_example("hello"), limits, 10).await;
    assert!(xs(&served.post("/", &"x".repeat(1_000))) >= 1_000);
    let words = ["more than 1000 bytes", "`limits.request`"];
    assert_fault(&served.post("/", &"x".repeat(1_001)), 413, "too-large", &words);
    // Where it is not said before how long it is.
    let chunk = format!("258\r\n{}\r\n", "x".repeat(0x258));
    let chunked = |chunks: &str| served.send("POST /", &format!("transfer-encoding: chunked\r\n\r\n{chunks}0\r\n\r\n"));
    assert!(chunked(&chunk).starts_with("HTTP/1.1 200 "));
    assert_fault(&chunked(&chunk.repeat(2)), 413, "too-large", &words);
    let used = served.usage.now();
    assert_eq!(
        used.bytes_in,
        1_000 + 600 + 600,
        "what is refused at once, and the part that was too much, did not come in"
    );
}

#[tokio::test]
async fn the_body_of_a_response() {
    let limits = Limits { response_bytes: 100_000, ..Limits::default() };
    let served = serve(support::sdk_example("hello"), limits, 10).await;
    assert!(xs(&served.post("/", &"x".repeat(60_000))) >= 60_000);
    assert_eq!(served.usage.now().bytes_out, 60_000);
    // Known whole before its head is sent.
    let limits = Limits { response_bytes: 10_000, ..Limits::default() };
    let strict = serve(support::sdk_example("hello"), limits, 10).await;
    let mut answer = strict.post("/", &"x".repeat(10_001));
    for _ in 0..100 {
        if answer.starts_with("HTTP/1.1 500 ") {
            break;
        }
        // The guest had to give way within its response, the head of which was sent meanwhile.
        assert!(xs(&answer) < 10_001, "{answer}");
        answer = strict.post("/", &"x".repeat(10_001));
    }
    assert_fault(&answer, 500, "response-too-large", &["more than 10000 bytes", "`limits.response`"]);
    // Longer than what is collected before the head is sent: it breaks off, and the author is told.
    let of_0_2 = (support::sdk_example("faulty_handler"), 3 << 20);
    let of_0_3 = (support::test_guest("service"), 1 << 19);
    for (component, response_bytes) in [of_0_2, of_0_3] {
        let limits = Limits { response_bytes, ..Limits::default() };
        let served = serve(component, limits, 10).await;
        assert!(served.get("/fine").starts_with("HTTP/1.1 200 "));
        let before = served.usage.now().bytes_out;
        let sent = xs(&served.get("/large"));
        assert!(sent as u64 <= response_bytes, "{sent} bytes");
        assert!(served.usage.now().bytes_out - before <= response_bytes);
        assert!(served.logged(&format!("more than {response_bytes} bytes; raise `limits.response`")));
    }
}

#[tokio::test]
async fn lines_of_its_log() {
    let limits = Limits { log_lines_per_second: 5, ..Limits::default() };
    let served = serve(support::sdk_example("faulty_handler"), limits, 10).await;
    assert!(served.get("/talk").starts_with("HTTP/1.1 200 "));
    assert!(served.logged("line 49"), "ten seconds' worth may come at once");
    assert!(served.logs.0.lock().unwrap().len() < 1_000);
    // It is said when the guest has ended, which may be after its answer.
    let end = Instant::now() + Duration::from_secs(60);
    while !served.logged("lines were dropped: it may write 5 a second; raise `limits.log-rate`") {
        assert!(Instant::now() < end, "it is not said that lines were dropped");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
