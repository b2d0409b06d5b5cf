//! Reverses a text.

use catalogue::{Answer, input};
use littoral_sdk::http::Request;

fn answer(text: &str) -> Answer {
    Ok(text.chars().rev().collect())
}

fn handle(request: Request) -> Answer {
    answer(&input(&request, "stressed"))
}

littoral_sdk::handler!(handle);
