//! Encodes runs of characters.

use catalogue::{Answer, input};
use littoral_sdk::http::Request;

fn answer(text: &str) -> Answer {
    let mut out = String::new();
    let mut rest = text.chars().peekable();
    while let Some(character) = rest.next() {
        let mut count = 1;
        while rest.next_if_eq(&character).is_some() {
            count += 1;
        }
        out += &format!("{count}{character}");
    }
    Ok(out)
}

fn handle(request: Request) -> Answer {
    answer(&input(&request, "aaabbc"))
}

littoral_sdk::handler!(handle);
