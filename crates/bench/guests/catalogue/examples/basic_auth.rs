//! Reads the user of a header `Basic`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use catalogue::{Answer, input};
use littoral_sdk::Error;
use littoral_sdk::http::Request;

fn answer(text: &str) -> Answer {
    let token = text.strip_prefix("Basic ").ok_or_else(|| Error::new("expected `Basic`"))?;
    let pair = String::from_utf8(STANDARD.decode(token)?)?;
    let (user, _) = pair.split_once(':').ok_or_else(|| Error::new("expected `user:password`"))?;
    Ok(user.to_owned())
}

fn handle(request: Request) -> Answer {
    answer(&input(&request, "Basic QWRhOnNlY3JldA=="))
}

littoral_sdk::handler!(handle);
