//! What the kernel says of a process.

use std::fs;
use std::time::Duration;

use anyhow::Context as _;

/// Clock ticks of `/proc` in a second; the same on every Linux that Rust runs on (`sysconf(_SC_CLK_TCK)`).
const TICKS_PER_S: u64 = 100;

/// What of a process is in memory: all, what only it has, and what is mapped from files, in megabytes.
pub(crate) fn memory_mb(process: u32) -> anyhow::Result<[f64; 3]> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).context("the process has ended")?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        line.split_whitespace().next().and_then(|kib| kib.parse::<f64>().ok()).unwrap_or_default() * 1.024e-3
    };
    Ok([field("VmRSS:"), field("RssAnon:"), field("RssFile:")])
}

/// The CPU time of all threads of a process, in user and kernel mode.
pub(crate) fn cpu_time(process: u32) -> anyhow::Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).context("the process has ended")?;
    // The second field is the program's name, which may have blanks and brackets: fields are counted behind it.
    let (_, fields) = stat.rsplit_once(')').context("no process")?;
    let ticks: u64 = fields.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Ok(Duration::from_millis(ticks * 1_000 / TICKS_PER_S))
}
