//! Runs seeds, a process for each, on all cores. `--count N`, `--from N`, `--jobs N`; `--seed N [--trace]` replays one.
#![allow(clippy::unwrap_used, clippy::panic)]

mod arguments;

use std::collections::BTreeMap;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use arguments::Arguments;
use littoral_sim::{entropy, scenario};

/// What `make test` and CI run.
const COUNT: u64 = 300;
/// How a seed is replayed.
const REPLAY: &str = "cargo test --locked --workspace --test seeds -- --trace --seed";

/// What the line begins with that says how many faults of each kind there were.
const FAULTS: &str = "faults: ";

fn main() -> ExitCode {
    let arguments = Arguments::read();
    if arguments.lists("seeds") {
        return ExitCode::SUCCESS;
    }
    match arguments.number("--seed") {
        Some(seed) => one(seed, arguments.has("--trace")),
        None => {
            let jobs = arguments
                .number("--jobs")
                .unwrap_or_else(|| std::thread::available_parallelism().map_or(2, |n| n.get() as u64));
            many(arguments.number("--from").unwrap_or(1), arguments.number("--count").unwrap_or(COUNT), jobs)
        }
    }
}

/// Runs one seed in this process.
fn one(seed: u64, trace: bool) -> ExitCode {
    entropy::seed(seed);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let outcome = runtime.block_on(scenario::run(seed, trace));
    println!("seed {seed}: {:016x}", outcome.hash);
    let faults: Vec<String> = outcome.faults.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
    println!("{FAULTS}{}", faults.join(", "));
    for violation in &outcome.violations {
        println!("seed {seed}: {violation}");
    }
    if outcome.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs many seeds, and the first twice, to see that it gives the same.
fn many(from: u64, count: u64, jobs: u64) -> ExitCode {
    let begun = Instant::now();
    let (next, done) = (AtomicU64::new(0), AtomicU64::new(0));
    let failed: Mutex<Vec<(u64, String)>> = Mutex::default();
    let faults: Mutex<BTreeMap<String, u64>> = Mutex::default();
    let (first, again) = (in_process(from), in_process(from));
    if first.1 != again.1 {
        println!("seed {from} is not deterministic:\n{}{}", first.1, again.1);
        return ExitCode::FAILURE;
    }
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    if at >= count {
                        return;
                    }
                    let (holds, output) = in_process(from + at);
                    add_faults(&mut faults.lock().unwrap(), &output);
                    if !holds {
                        print!("{output}");
                        println!("  replay it: {REPLAY} {}", from + at);
                        failed.lock().unwrap().push((from + at, output));
                    }
                    let done = done.fetch_add(1, Ordering::Relaxed) + 1;
                    if done.is_multiple_of(100) || done == count {
                        let rate = done as f64 / begun.elapsed().as_secs_f64();
                        println!("{done} of {count} seeds, {rate:.1} a second");
                    }
                }
            });
        }
    });
    let faults = faults.into_inner().unwrap();
    let counts: Vec<String> = faults.iter().map(|(kind, seen)| format!("{kind} {seen}")).collect();
    println!("{FAULTS}{}", counts.join(", "));
    let failed = failed.into_inner().unwrap();
    if failed.is_empty() {
        return ExitCode::SUCCESS;
    }
    let seeds: Vec<String> = failed.iter().map(|(seed, _)| seed.to_string()).collect();
    println!("{} of {count} seeds fail: {}", seeds.len(), seeds.join(", "));
    ExitCode::FAILURE
}

/// Adds the faults that a seed says it had.
fn add_faults(all: &mut BTreeMap<String, u64>, output: &str) {
    let said = output.lines().find_map(|line| line.strip_prefix(FAULTS)).unwrap_or_default();
    for (kind, count) in said.split(", ").filter_map(|one| one.rsplit_once(' ')) {
        *all.entry(kind.to_owned()).or_default() += count.parse::<u64>().unwrap();
    }
}

/// Runs a seed in a process of its own: whether everything held, and what it said.
fn in_process(seed: u64) -> (bool, String) {
    let program = std::env::current_exe().unwrap();
    let ran = Command::new(program).args(["--seed", &seed.to_string()]).stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&ran.stdout).into_owned() + &String::from_utf8_lossy(&ran.stderr);
    (ran.status.success(), said)
}
