//! A `wasi:http/service` of WASI 0.3 whose path says what it does; an instance counts its requests.
use std::sync::atomic::{AtomicU32, Ordering};

use wasip3::http::types::{self, ErrorCode};
use wasip3::http_compat::{IncomingRequestBody, http_from_wasi_request, http_into_wasi_response};

wasip3::http::service::export!(Service);

mod fabric {
    wit_bindgen::generate!({ path: "../../wit/fabric", world: "imports" });
}

struct Service;

static REQUESTS: AtomicU32 = AtomicU32::new(0);

impl wasip3::exports::http::handler::Guest for Service {
    async fn handle(request: types::Request) -> Result<types::Response, ErrorCode> {
        let request = http_from_wasi_request(request)?;
        http_into_wasi_response(http::Response::new(answer(&request).await?))
    }
}

async fn answer(request: &http::Request<IncomingRequestBody>) -> Result<String, ErrorCode> {
    let count = REQUESTS.fetch_add(1, Ordering::Relaxed) + 1;
    match request.uri().path() {
        "/count" => Ok(count.to_string()),
        "/refuse" => Err(ErrorCode::HttpRequestDenied),
        "/trap" => panic!("on purpose"),
        "/spin" => loop {
            std::hint::black_box(());
        },
        "/wait" => {
            wasip3::clocks::monotonic_clock::wait_for(3_600_000_000_000).await;
            Ok(String::new())
        }
        // As slow as the node's configuration says, in milliseconds.
        "/delay" => {
            let delay = std::env::var("DELAY").unwrap_or_default();
            wasip3::clocks::monotonic_clock::wait_for(delay.parse::<u64>().unwrap_or(0) * 1_000_000).await;
            Ok(format!("after {delay} ms"))
        }
        // What it sees of its invocation before and after others had their turn.
        "/context" => {
            let before = fabric::littoral::fabric::context::current();
            wasip3::clocks::monotonic_clock::wait_for(20_000_000).await;
            let after = fabric::littoral::fabric::context::current();
            Ok(format!("{} {} {} {}", before.traceparent, before.id == after.id, after.depth, after.traceparent))
        }
        "/memory" => Ok(vec![1_u8; 1 << 30].len().to_string()),
        "/leak" => Ok(vec![1_u8; 8 << 20].leak().len().to_string()),
        "/large" => Ok("x".repeat(1 << 20)),
        path => Ok(format!("hello from {path}\n")),
    }
}
