//! Groups words that have the same letters.

use std::collections::BTreeMap;

use catalogue::{Answer, input};
use littoral_sdk::http::Request;

fn answer(text: &str) -> Answer {
    let mut groups = BTreeMap::<Vec<char>, Vec<&str>>::new();
    for word in text.split_whitespace() {
        let mut letters: Vec<char> = word.chars().collect();
        letters.sort_unstable();
        groups.entry(letters).or_default().push(word);
    }
    Ok(groups.values().map(|words| words.join(" ") + "\n").collect())
}

fn handle(request: Request) -> Answer {
    answer(&input(&request, "listen silent cat act"))
}

littoral_sdk::handler!(handle);
