//! Says where a TOML document is wrong.

use catalogue::{Answer, input};
use littoral_sdk::http::Request;

fn answer(text: &str) -> Answer {
    Ok(match toml::from_str::<toml::Table>(text) {
        Ok(table) => format!("{} keys\n", table.len()),
        Err(error) => error.to_string(),
    })
}

fn handle(request: Request) -> Answer {
    answer(&input(&request, "a = "))
}

littoral_sdk::handler!(handle);
