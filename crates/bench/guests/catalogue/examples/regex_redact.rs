//! Hides numbers that look like cards.

use catalogue::{Answer, input};
use littoral_sdk::http::Request;
use regex::Regex;

fn answer(text: &str) -> Answer {
    Ok(Regex::new(r"(?:\d[ -]?){13,16}")?.replace_all(text, "****").into_owned())
}

fn handle(request: Request) -> Answer {
    answer(&input(&request, "pay 4539 5787 6362 1486 now"))
}

littoral_sdk::handler!(handle);
