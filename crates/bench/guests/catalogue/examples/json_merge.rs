//! Merges two JSON objects, a line each.

use catalogue::{Answer, input};
use littoral_sdk::http::Request;
use serde_json::{Map, Value};

fn answer(text: &str) -> Answer {
    let mut merged = Map::new();
    for line in text.lines() {
        merged.extend(serde_json::from_str::<Map<String, Value>>(line)?);
    }
    Ok(Value::Object(merged).to_string())
}

fn handle(request: Request) -> Answer {
    answer(&input(&request, "{\"a\":1}\n{\"b\":2}"))
}

littoral_sdk::handler!(handle);
