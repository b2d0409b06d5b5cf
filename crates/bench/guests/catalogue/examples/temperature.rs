//! Celsius to Fahrenheit and Kelvin.

use catalogue::{Answer, input};
use littoral_sdk::http::Request;

fn answer(text: &str) -> Answer {
    let celsius: f64 = text.trim().parse()?;
    Ok(format!("{} F, {} K\n", celsius * 1.8 + 32.0, celsius + 273.15))
}

fn handle(request: Request) -> Answer {
    answer(&input(&request, "21.5"))
}

littoral_sdk::handler!(handle);
