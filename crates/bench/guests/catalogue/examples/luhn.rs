//! Checks the digits of a card number.

use catalogue::{Answer, input};
use littoral_sdk::http::Request;

fn answer(text: &str) -> Answer {
    let digits = text.chars().rev().filter_map(|character| character.to_digit(10));
    let sum: u32 = digits
        .enumerate()
        .map(|(place, digit)| if place % 2 == 0 { digit } else { digit * 2 / 10 + digit * 2 % 10 })
        .sum();
    Ok(format!("{}\n", sum.is_multiple_of(10)))
}

fn handle(request: Request) -> Answer {
    answer(&input(&request, "4539578763621486"))
}

littoral_sdk::handler!(handle);
