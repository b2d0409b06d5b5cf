//! Takes accents away.

use catalogue::{Answer, input};
use littoral_sdk::http::Request;
use unicode_normalization::UnicodeNormalization as _;

fn answer(text: &str) -> Answer {
    Ok(text.nfd().filter(char::is_ascii).collect())
}

fn handle(request: Request) -> Answer {
    answer(&input(&request, "Crème brûlée"))
}

littoral_sdk::handler!(handle);
