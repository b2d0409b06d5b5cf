//! The component of `bench-hybrid`: scores so many rows as the last part of the path says.

use littoral_sdk::http::{Request, Response, text};

fn score(request: Request) -> Response {
    let rows = request.uri().path().rsplit('/').next().and_then(|rows| rows.parse().ok()).unwrap_or(1);
    text(200, format!("{}\n", dense::Network::made_up().score(rows)))
}

littoral_sdk::handler!(score);
