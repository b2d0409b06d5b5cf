//! A thousand SHA-256 one after the other.

use catalogue::{Answer, input};
use littoral_sdk::http::Request;
use sha2::{Digest as _, Sha256};

fn answer(text: &str) -> Answer {
    let first = Sha256::digest(text);
    let last = (0..1000).fold(first, |hash, _| Sha256::digest(hash));
    Ok(last.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn handle(request: Request) -> Answer {
    answer(&input(&request, "seed"))
}

littoral_sdk::handler!(handle);
