//! Counts lines, words and bytes, as wc does.

use catalogue::{Answer, input};
use littoral_sdk::http::Request;

fn answer(text: &str) -> Answer {
    Ok(format!("{} {} {}\n", text.lines().count(), text.split_whitespace().count(), text.len()))
}

fn handle(request: Request) -> Answer {
    answer(&input(&request, "one two\nthree"))
}

littoral_sdk::handler!(handle);
