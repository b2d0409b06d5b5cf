//! Encodes a text in base 64.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use catalogue::{Answer, input};
use littoral_sdk::http::Request;

fn answer(text: &str) -> Answer {
    Ok(STANDARD.encode(text))
}

fn handle(request: Request) -> Answer {
    answer(&input(&request, "hello"))
}

littoral_sdk::handler!(handle);
