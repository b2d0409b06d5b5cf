//! Counts how often each word occurs.

use std::collections::BTreeMap;

use catalogue::{Answer, input};
use littoral_sdk::http::Request;

fn answer(text: &str) -> Answer {
    let mut words = BTreeMap::<&str, u32>::new();
    for word in text.split_whitespace() {
        *words.entry(word).or_default() += 1;
    }
    Ok(words.iter().map(|(word, count)| format!("{word} {count}\n")).collect())
}

fn handle(request: Request) -> Answer {
    answer(&input(&request, "a b a"))
}

littoral_sdk::handler!(handle);
