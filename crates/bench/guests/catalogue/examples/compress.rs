//! Says how small a text gets.

use std::io::Write as _;

use catalogue::{Answer, input};
use flate2::Compression;
use flate2::write::GzEncoder;
use littoral_sdk::http::Request;

fn answer(text: &str) -> Answer {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(text.as_bytes())?;
    Ok(format!("{} of {}\n", encoder.finish()?.len(), text.len()))
}

fn handle(request: Request) -> Answer {
    answer(&input(&request, "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"))
}

littoral_sdk::handler!(handle);
