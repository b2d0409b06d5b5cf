//! Finds addresses of mail.

use catalogue::{Answer, input};
use littoral_sdk::http::Request;
use regex::Regex;

fn answer(text: &str) -> Answer {
    let pattern = Regex::new(r"[\w.+-]+@[\w-]+\.[\w.]+")?;
    Ok(pattern.find_iter(text).map(|found| format!("{}\n", found.as_str())).collect())
}

fn handle(request: Request) -> Answer {
    answer(&input(&request, "write to ada@example.org"))
}

littoral_sdk::handler!(handle);
