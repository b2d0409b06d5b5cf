//! Escapes a text for HTML.

use catalogue::{Answer, input};
use littoral_sdk::http::Request;

fn answer(text: &str) -> Answer {
    Ok(text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;"))
}

fn handle(request: Request) -> Answer {
    answer(&input(&request, "<b>&amp;</b>"))
}

littoral_sdk::handler!(handle);
