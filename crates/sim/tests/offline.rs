//! Cuts an edge site off for days of virtual time under seeds, a process for each. `--hours N`, `--count N`, `--from N`;
//! `--seed N [--trace]` replays one.
#![allow(clippy::unwrap_used)]

mod arguments;

use std::process::{Command, ExitCode};

use arguments::Arguments;
use littoral_sim::{entropy, offline};

/// What `make test` and CI run: one with the stage on the edge, and one with it in the cloud.
const COUNT: u64 = 2;
/// How long the cut lasts then; `make offline` has more, optimised.
const HOURS: u64 = 6;

fn main() -> ExitCode {
    let arguments = Arguments::read();
    if arguments.lists("offline") {
        return ExitCode::SUCCESS;
    }
    let hours = arguments.number("--hours").unwrap_or(HOURS);
    if let Some(seed) = arguments.number("--seed") {
        return one(seed, hours, arguments.has("--trace"));
    }
    let from = arguments.number("--from").unwrap_or(1);
    let seeds = from..from + arguments.number("--count").unwrap_or(COUNT);
    let failed: Vec<u64> = seeds.filter(|seed| !in_process(*seed, hours)).collect();
    for seed in &failed {
        println!("replay it: cargo test --locked --workspace --test offline -- --hours {hours} --seed {seed} --trace");
    }
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs one seed in this process.
fn one(seed: u64, hours: u64, trace: bool) -> ExitCode {
    entropy::seed(seed);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let outcome = runtime.block_on(offline::run(seed, hours, trace));
    println!("seed {seed}, {hours} h: {outcome}");
    for violation in &outcome.violations {
        println!("seed {seed}: {violation}");
    }
    if outcome.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs a seed in a process of its own; whether everything held.
fn in_process(seed: u64, hours: u64) -> bool {
    let mut program = Command::new(std::env::current_exe().unwrap());
    program.args(["--seed", &seed.to_string(), "--hours", &hours.to_string()]).status().unwrap().success()
}
