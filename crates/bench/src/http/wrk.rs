//! wrk, and what it measured.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use anyhow::Context as _;

use crate::fabric;

/// What wrk prints at its end.
pub(crate) const SCRIPT: &str = include_str!("wrk.lua");
/// How long an answer may take before wrk counts it as an error. 64 computations of 10 ms on one thread take less.
const TIMEOUT: &str = "10s";

/// One run of wrk.
#[derive(Debug, PartialEq)]
pub(crate) struct Measured {
    pub(crate) requests_per_s: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
}

/// Loads a server for a while over so many connections, which are kept.
pub(crate) fn run(
    script: &Path,
    to: SocketAddr,
    path: &str,
    connections: u32,
    seconds: u32,
) -> anyhow::Result<Measured> {
    let mut command = Command::new("wrk");
    // One thread is enough to saturate two cores that it shares with the server.
    command.args(["-t1", "--latency", "--timeout", TIMEOUT]).arg("-s").arg(script);
    command.arg(format!("-c{connections}")).arg(format!("-d{seconds}s")).arg(format!("http://{to}{path}"));
    parse(&fabric::run(&mut command)?)
}

fn parse(output: &str) -> anyhow::Result<Measured> {
    let line = output.lines().find_map(|line| line.strip_prefix("RESULT ")).context("wrk printed no result")?;
    let numbers: Vec<f64> = line.split(' ').map(str::parse).collect::<Result<_, _>>().context("wrk's result")?;
    let [requests, duration_us, p50_us, p99_us, errors, refused] = numbers.as_slice() else {
        anyhow::bail!("wrk printed another result than was asked for: {line}");
    };
    anyhow::ensure!(*errors == 0.0 && *refused == 0.0, "{errors} connections broke, {refused} answers were no success");
    anyhow::ensure!(*requests > 0.0, "no request was answered");
    Ok(Measured { requests_per_s: requests / duration_us * 1e6, p50_ms: p50_us / 1e3, p99_ms: p99_us / 1e3 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_is_read() {
        let measured = parse("Running 2s test\nRESULT 1000 2000000 100.5 250.0 0 0\n").unwrap();
        assert_eq!(measured, Measured { requests_per_s: 500.0, p50_ms: 0.1005, p99_ms: 0.25 });
    }

    #[test]
    fn errors_are_no_result() {
        assert!(parse("RESULT 1000 2000000 100.5 250.0 3 0").is_err());
        assert!(parse("RESULT 1000 2000000 100.5 250.0 0 7").is_err());
        assert!(parse("unable to connect").is_err());
    }
}
