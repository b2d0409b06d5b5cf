//! Greets.

use catalogue::{Answer, input};
use littoral_sdk::http::Request;

fn answer(text: &str) -> Answer {
    Ok(format!("Hello, {text}!\n"))
}

fn handle(request: Request) -> Answer {
    answer(&input(&request, "Ada"))
}

littoral_sdk::handler!(handle);
