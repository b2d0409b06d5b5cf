//! Benchmarks that run Littoral and a peer in the same run, in alternating pairs, and print the ratio.
//!
//! `littoral-bench NAME` runs one; the results go to `target/bench/NAME.json`, too. With `--short` it takes seconds instead
//! of minutes, for trying out.

mod ceiling;
mod client;
mod cold_start;
mod density;
mod fabric;
mod flow_basic;
mod guests;
mod http;
mod mesh;
mod neighbour;
mod peers;
mod results;
mod server;

use std::process::ExitCode;

/// Every benchmark by name.
const NAMES: [&str; 6] = ["flow-basic", "http", "coldstart", "density", "mesh", "neighbour"];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let short = arguments.contains(&"--short");
    let ran = match arguments.iter().filter(|argument| **argument != "--short").copied().collect::<Vec<_>>().as_slice()
    {
        ["flow-basic"] => flow_basic::run(),
        ["http"] => http::run(short),
        ["coldstart"] => cold_start::run(short),
        ["density"] => density::run(short),
        ["mesh"] => mesh::run(short),
        ["neighbour"] => neighbour::run(short),
        // What a benchmark starts beside itself.
        ["hyper-server", address] => ceiling::serve(address),
        ["nats-echo", address, identity] => mesh::nats_echo(address, identity),
        _ => {
            eprintln!("usage: littoral-bench NAME [--short], NAME one of {}", NAMES.join(", "));
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
