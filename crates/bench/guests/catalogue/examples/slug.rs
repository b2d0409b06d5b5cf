//! Makes a text fit for an address.

use catalogue::{Answer, input};
use littoral_sdk::http::Request;

fn answer(text: &str) -> Answer {
    let words = text.split(|character: char| !character.is_alphanumeric()).filter(|word| !word.is_empty());
    Ok(words.map(str::to_lowercase).collect::<Vec<_>>().join("-"))
}

fn handle(request: Request) -> Answer {
    answer(&input(&request, "Hello, World of 2026!"))
}

littoral_sdk::handler!(handle);
