//! Turns letters by thirteen.

use catalogue::{Answer, input};
use littoral_sdk::http::Request;

fn answer(text: &str) -> Answer {
    Ok(text
        .chars()
        .map(|character| {
            let base = if character.is_ascii_uppercase() { b'A' } else { b'a' };
            if character.is_ascii_alphabetic() {
                char::from((character as u8 - base + 13) % 26 + base)
            } else {
                character
            }
        })
        .collect())
}

fn handle(request: Request) -> Answer {
    answer(&input(&request, "Uryyb"))
}

littoral_sdk::handler!(handle);
