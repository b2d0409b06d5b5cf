//! Mean and deviation of numbers.

use catalogue::{Answer, input};
use littoral_sdk::http::Request;

fn answer(text: &str) -> Answer {
    let numbers = text.split_whitespace().map(str::parse).collect::<Result<Vec<f64>, _>>()?;
    let count = numbers.len() as f64;
    let mean = numbers.iter().sum::<f64>() / count;
    let variance = numbers.iter().map(|number| (number - mean).powi(2)).sum::<f64>() / count;
    Ok(format!("{mean} {}\n", variance.sqrt()))
}

fn handle(request: Request) -> Answer {
    answer(&input(&request, "1 2 3 4.5"))
}

littoral_sdk::handler!(handle);
