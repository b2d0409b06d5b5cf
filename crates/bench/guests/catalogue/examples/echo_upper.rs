//! Answers in capitals.

use catalogue::{Answer, input};
use littoral_sdk::http::Request;

fn answer(text: &str) -> Answer {
    Ok(text.to_uppercase())
}

fn handle(request: Request) -> Answer {
    answer(&input(&request, "shout"))
}

littoral_sdk::handler!(handle);
