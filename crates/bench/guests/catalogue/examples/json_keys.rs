//! Lists the keys of a JSON object.

use catalogue::{Answer, input};
use littoral_sdk::http::Request;
use serde_json::{Map, Value};

fn answer(text: &str) -> Answer {
    let object: Map<String, Value> = serde_json::from_str(text)?;
    Ok(object.keys().map(|key| format!("{key}\n")).collect())
}

fn handle(request: Request) -> Answer {
    answer(&input(&request, "{\"a\":1,\"b\":{}}"))
}

littoral_sdk::handler!(handle);
