//! Which of two versions is newer.

use catalogue::{Answer, input};
use littoral_sdk::Error;
use littoral_sdk::http::Request;
use semver::Version;

fn answer(text: &str) -> Answer {
    let (a, b) = text.trim().split_once(' ').ok_or_else(|| Error::new("expected two versions"))?;
    Ok(format!("{}\n", Version::parse(a)?.max(Version::parse(b)?)))
}

fn handle(request: Request) -> Answer {
    answer(&input(&request, "1.2.3 1.10.0"))
}

littoral_sdk::handler!(handle);
