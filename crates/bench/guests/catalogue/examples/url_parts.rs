//! Takes an address apart.

use catalogue::{Answer, input};
use littoral_sdk::http::Request;
use url::Url;

fn answer(text: &str) -> Answer {
    let url = Url::parse(text.trim())?;
    Ok(format!("{} {:?} {:?} {} {:?}\n", url.scheme(), url.host_str(), url.port(), url.path(), url.query()))
}

fn handle(request: Request) -> Answer {
    answer(&input(&request, "https://ada@example.org:8443/a/b?c=d#e"))
}

littoral_sdk::handler!(handle);
