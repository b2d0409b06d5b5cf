//! A factorial with all its digits.

use catalogue::{Answer, input};
use littoral_sdk::http::Request;
use num_bigint::BigUint;

fn answer(text: &str) -> Answer {
    let number: u32 = text.trim().parse::<u32>()?.min(1_000);
    Ok((1..=number).map(BigUint::from).product::<BigUint>().to_string())
}

fn handle(request: Request) -> Answer {
    answer(&input(&request, "100"))
}

littoral_sdk::handler!(handle);
