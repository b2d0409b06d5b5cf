//! A number of Fibonacci's.

use catalogue::{Answer, input};
use littoral_sdk::http::Request;

fn answer(text: &str) -> Answer {
    let (mut a, mut b) = (0_u128, 1_u128);
    for _ in 0..text.trim().parse::<u8>()?.min(180) {
        (a, b) = (b, a + b);
    }
    Ok(a.to_string())
}

fn handle(request: Request) -> Answer {
    answer(&input(&request, "90"))
}

littoral_sdk::handler!(handle);
