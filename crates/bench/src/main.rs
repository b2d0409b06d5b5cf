//! Benchmarks that run Littoral and a peer in the same run, in alternating pairs, and print the ratio.
//!
//! `littoral-bench NAME` runs one; the results go to `target/bench/NAME.json`, too.

mod fabric;
mod flow_basic;
mod results;

use std::process::ExitCode;

/// Every benchmark by name.
const NAMES: [&str; 1] = ["flow-basic"];

fn main() -> ExitCode {
    let name = std::env::args().nth(1).unwrap_or_default();
    let ran = match name.as_str() {
        "flow-basic" => flow_basic::run(),
        _ => {
            eprintln!("usage: littoral-bench NAME, one of {}", NAMES.join(", "));
            return ExitCode::from(2);
        }
    };
    match ran {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
