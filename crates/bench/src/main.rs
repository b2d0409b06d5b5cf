//! Benchmarks that run Littoral and a peer in the same run, in alternating pairs, and print the ratio.
//!
//! `littoral-bench NAME` runs one; the results go to `target/bench/NAME.json`, too. With `--short` it takes seconds instead
//! of minutes, for trying out.

mod ceiling;
mod chaos;
mod client;
mod cold_start;
mod container;
mod density;
mod elastic;
mod fabric;
mod flow;
mod flow_basic;
mod guests;
mod http;
mod hybrid;
mod idle;
mod mesh;
mod neighbour;
mod peers;
mod place;
mod priority;
mod process;
mod results;
mod server;
mod stream;

use std::process::ExitCode;

/// Every benchmark by name.
const NAMES: [&str; 17] = [
    "chaos",
    "chaos-flow",
    "chaos-queue",
    "flow",
    "flow-basic",
    "http",
    "coldstart",
    "container",
    "density",
    "elastic",
    "hybrid",
    "idle",
    "mesh",
    "neighbour",
    "place",
    "priority",
    "stream",
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let short = arguments.contains(&"--short");
    let ran = match arguments.iter().filter(|argument| **argument != "--short").copied().collect::<Vec<_>>().as_slice()
    {
        ["chaos"] => chaos::run(short, None),
        ["chaos-flow"] => chaos::flows::run(short, None),
        ["chaos-queue"] => chaos::queue::run(short, None),
        [name @ ("chaos" | "chaos-flow" | "chaos-queue"), "--seed", seed] => match (*name, seed.parse()) {
            ("chaos", Ok(seed)) => chaos::run(short, Some(seed)),
            ("chaos-flow", Ok(seed)) => chaos::flows::run(short, Some(seed)),
            (_, Ok(seed)) => chaos::queue::run(short, Some(seed)),
            (_, Err(_)) => Err(anyhow::anyhow!("--seed takes a whole number, not {seed}")),
        },
        ["flow"] => flow::run(short),
        ["flow-basic"] => flow_basic::run(),
        ["http"] => http::run(short),
        ["coldstart"] => cold_start::run(short),
        ["container"] => container::run(short),
        ["density"] => density::run(short),
        ["elastic"] => elastic::run(short),
        ["hybrid"] => hybrid::run(short),
        ["idle"] => idle::run(short),
        ["mesh"] => mesh::run(short),
        ["place"] => place::run(short),
        ["stream"] => stream::run(short),
        ["priority"] => priority::run(short),
        ["neighbour"] => neighbour::run(short),
        // What a benchmark starts beside itself.
        ["hyper-server", address] => ceiling::serve(address),
        [container::ROLE, role, folder] => container::role(role, std::path::Path::new(folder)),
        ["nats-echo", address, identity] => mesh::nats_echo(address, identity),
        _ => {
            eprintln!(
                "usage: littoral-bench NAME [--short], NAME one of {}; chaos, chaos-flow and chaos-queue also take --seed N",
                NAMES.join(", ")
            );
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
