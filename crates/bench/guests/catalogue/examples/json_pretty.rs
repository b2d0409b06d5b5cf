//! Lays out JSON.

use catalogue::{Answer, input};
use littoral_sdk::http::Request;
use serde_json::Value;

fn answer(text: &str) -> Answer {
    Ok(serde_json::to_string_pretty(&serde_json::from_str::<Value>(text)?)?)
}

fn handle(request: Request) -> Answer {
    answer(&input(&request, "{\"a\":[1,2]}"))
}

littoral_sdk::handler!(handle);
