//! Tests of WASI 0.2 from its specification, one for each name that its first argument may have; it prints what failed and
//! exits with 1. `tests/conformance/wasi-0.2` says with what each is run.
//!
//! Sources: the documentation in the WIT of the packages `wasi:cli`, `clocks`, `random`, `filesystem`, `sockets` and `http`,
//! 0.2.0 (<https://github.com/WebAssembly/WASI>).

mod cli;
mod clocks;
mod files;
mod http;
mod paths;
mod tcp;
mod udp;

use std::process::ExitCode;

/// Fails a test with where it is and what was found.
#[macro_export]
macro_rules! expect {
    ($found:expr, $wanted:pat $(if $guard:expr)?) => {
        match $found {
            $wanted $(if $guard)? => {}
            #[allow(unreachable_patterns)]
            found => {
                let (found, wanted) = (format!("{} is {found:?}", stringify!($found)), stringify!($wanted));
                $crate::fail(&format!("{}:{}: {found}, not {wanted}", file!(), line!()))
            }
        }
    };
}

/// Ends the test.
fn fail(what: &str) -> ! {
    println!("{what}");
    wasip2::cli::exit::exit(Err(()));
    unreachable!("an exit does not return")
}

const TESTS: [(&str, fn()); 27] = [
    ("cli-arguments", cli::arguments),
    ("cli-environment", cli::environment),
    ("cli-exit-failure", cli::exit_failure),
    ("cli-exit-success", cli::exit_success),
    ("cli-input-at-its-end", cli::input_at_its_end),
    ("cli-no-environment", cli::no_environment),
    ("cli-output", cli::output),
    ("clocks-monotonic", clocks::monotonic),
    ("clocks-poll", clocks::poll_several),
    ("clocks-wall", clocks::wall),
    ("random", clocks::random),
    ("filesystem-directories", files::directories),
    ("filesystem-links", files::links),
    ("filesystem-metadata", files::metadata),
    ("filesystem-open", files::open),
    ("filesystem-paths", paths::paths),
    ("filesystem-read-write", files::read_write),
    ("filesystem-rename", files::rename),
    ("filesystem-streams", files::streams),
    ("filesystem-symlinks", paths::symlinks),
    ("http-fields", http::fields),
    ("http-outgoing-errors", http::outgoing_errors),
    ("sockets-names", udp::names),
    ("sockets-tcp", tcp::exchange),
    ("sockets-tcp-options", tcp::options),
    ("sockets-tcp-states", tcp::states),
    ("sockets-udp", udp::exchange),
];

fn main() -> ExitCode {
    let wanted = std::env::args().nth(1).unwrap_or_default();
    match TESTS.iter().find(|(name, _)| *name == wanted) {
        Some((_, test)) => {
            test();
            ExitCode::SUCCESS
        }
        // The public executor wants to see `main` fail, too.
        None if wanted == "cli-main-fails" => ExitCode::FAILURE,
        None => {
            println!("there is no test `{wanted}`");
            ExitCode::from(2)
        }
    }
}
