//! The day of the week, by Zeller.

use catalogue::{Answer, input};
use littoral_sdk::Error;
use littoral_sdk::http::Request;

fn answer(text: &str) -> Answer {
    let parts = text.split_whitespace().map(str::parse).collect::<Result<Vec<i64>, _>>()?;
    let [year, month, day] = parts.as_slice() else { return Err(Error::new("expected year, month and day")) };
    let (year, month) = if *month < 3 { (year - 1, month + 12) } else { (*year, *month) };
    let day = (day + 13 * (month + 1) / 5 + year + year / 4 - year / 100 + year / 400).rem_euclid(7);
    Ok(format!("{day} (0 is Saturday)\n"))
}

fn handle(request: Request) -> Answer {
    answer(&input(&request, "2026 11 21"))
}

littoral_sdk::handler!(handle);
