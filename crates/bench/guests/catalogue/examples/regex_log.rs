//! Takes the lines of a web server's log apart.

use catalogue::{Answer, input};
use littoral_sdk::http::Request;
use regex::Regex;

fn answer(text: &str) -> Answer {
    let pattern = Regex::new(r#"^(\S+) .*"(\w+) (\S+) [^"]*" (\d{3})"#)?;
    let lines = text.lines().filter_map(|line| pattern.captures(line));
    Ok(lines
        .map(|parts| parts.iter().skip(1).flatten().map(|part| part.as_str()).collect::<Vec<_>>().join(","))
        .collect())
}

fn handle(request: Request) -> Answer {
    answer(&input(&request, "127.0.0.1 - - [21/Nov/2026] \"GET / HTTP/1.1\" 200 12"))
}

littoral_sdk::handler!(handle);
