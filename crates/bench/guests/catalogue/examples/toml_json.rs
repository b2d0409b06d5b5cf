//! TOML to JSON.

use catalogue::{Answer, input};
use littoral_sdk::http::Request;

fn answer(text: &str) -> Answer {
    Ok(serde_json::to_string(&toml::from_str::<toml::Value>(text)?)?)
}

fn handle(request: Request) -> Answer {
    answer(&input(&request, "a = 1\n[b]\nc = 'd'"))
}

littoral_sdk::handler!(handle);
