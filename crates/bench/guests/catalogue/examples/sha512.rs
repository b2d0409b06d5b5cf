//! The SHA-512 of a text.

use catalogue::{Answer, input};
use littoral_sdk::http::Request;
use sha2::{Digest as _, Sha512};

fn answer(text: &str) -> Answer {
    Ok(Sha512::digest(text).iter().map(|byte| format!("{byte:02x}")).collect())
}

fn handle(request: Request) -> Answer {
    answer(&input(&request, "abc"))
}

littoral_sdk::handler!(handle);
