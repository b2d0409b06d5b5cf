//! Tells readings above a limit.

use catalogue::{Answer, input};
use littoral_sdk::http::Request;
use serde::Deserialize;

#[derive(Deserialize)]
struct Reading {
    sensor: String,
    value: f64,
}

fn answer(text: &str) -> Answer {
    let readings: Vec<Reading> = serde_json::from_str(text)?;
    let high = readings.iter().filter(|reading| reading.value > 90.0);
    Ok(high.map(|reading| format!("{} {}\n", reading.sensor, reading.value)).collect())
}

fn handle(request: Request) -> Answer {
    answer(&input(&request, "[{\"sensor\":\"s1\",\"value\":99.5}]"))
}

littoral_sdk::handler!(handle);
