//! Sorts lines.

use catalogue::{Answer, input};
use littoral_sdk::http::Request;

fn answer(text: &str) -> Answer {
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    Ok(lines.join("\n"))
}

fn handle(request: Request) -> Answer {
    answer(&input(&request, "b\na\nc"))
}

littoral_sdk::handler!(handle);
