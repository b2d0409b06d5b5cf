//! A moving average of three.

use catalogue::{Answer, input};
use littoral_sdk::http::Request;

fn answer(text: &str) -> Answer {
    let numbers = text.split_whitespace().map(str::parse).collect::<Result<Vec<f64>, _>>()?;
    Ok(numbers.windows(3).map(|three| format!("{} ", three.iter().sum::<f64>() / 3.0)).collect())
}

fn handle(request: Request) -> Answer {
    answer(&input(&request, "1 2 3 4 5"))
}

littoral_sdk::handler!(handle);
