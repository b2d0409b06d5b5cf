//! Decodes base 64.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use catalogue::{Answer, input};
use littoral_sdk::http::Request;

fn answer(text: &str) -> Answer {
    Ok(String::from_utf8(STANDARD.decode(text.trim())?)?)
}

fn handle(request: Request) -> Answer {
    answer(&input(&request, "aGVsbG8="))
}

littoral_sdk::handler!(handle);
