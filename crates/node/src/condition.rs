//! Measures how this node is: its load, its memory, how much others on the machine slow it down, what it holds.

use std::fs::read_to_string;
use std::hint::black_box;
use std::time::{Duration, Instant};

use littoral_model::condition::{ARTIFACTS_MAX, Condition, Machine, PERMILLE, Runtimes};

use crate::artifacts::Artifacts;

/// Steps of the loop that measures a core; about a millisecond.
const STEPS: u32 = 1 << 20;
/// How often it is measured: the fastest counts, for others may run on the machine meanwhile.
const MEASUREMENTS: u32 = 5;
/// A node that ran for less than this between two looks was not slowed down, but idle.
const RUN_MIN: Duration = Duration::from_millis(20);
/// Without so much free memory no instance is taken: what one may have by default.
const READY_MEMORY_BYTES_MIN: u64 = 64 << 20;

/// What kind of machine this is.
pub(crate) fn machine() -> Machine {
    let fastest = (0..MEASUREMENTS).map(|_| steps_took()).min().unwrap_or_default();
    let steps_per_us = u128::from(STEPS) * 1_000 / fastest.as_nanos().max(1);
    Machine { arch: std::env::consts::ARCH.to_owned(), steps_per_us: u32::try_from(steps_per_us).unwrap_or(u32::MAX) }
}

/// How long a chain of multiplications takes, each of which needs the one before.
fn steps_took() -> Duration {
    let begun = Instant::now();
    let mixed = (0..STEPS).fold(black_box(1_u64), |number, step| {
        (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb).wrapping_add(u64::from(step))
    });
    black_box(mixed);
    begun.elapsed()
}

/// Looks at the machine from time to time.
#[derive(Default)]
pub(crate) struct Sampler {
    /// [`cpu_time`] so far.
    cpu: Option<(u64, u64)>,
    /// For how long this process has run so far.
    ran: Duration,
    /// For how long its threads had run, and waited for a core though they could have run; in nanoseconds. None after a time
    /// in which it was idle.
    scheduled: Option<(u64, u64)>,
}

impl Sampler {
    /// Brings what is measured up to date, on a node with these runtimes that has looked for work for so long so far. Files of `/proc`
    /// are read, which does not wait for any disk.
    pub(crate) fn sample(
        &mut self,
        condition: &mut Condition,
        lingered: Duration,
        cores: u32,
        memory_bytes: u64,
        able: Runtimes,
    ) {
        if let Some(now) = cpu_time(lingered)
            && let Some((busy, all)) = self.cpu.replace(now)
        {
            let busy = permille(now.0.saturating_sub(busy), now.1.saturating_sub(all)).unwrap_or(0);
            condition.busy_permille = condition.busy_permille.midpoint(busy.min(PERMILLE));
        }
        let ran = process_time();
        let was_idle = ran.saturating_sub(std::mem::replace(&mut self.ran, ran)) < RUN_MIN;
        // Of an idle process it would not count, and costs two system calls a thread.
        let scheduled = if was_idle { None } else { schedule() };
        let before = std::mem::replace(&mut self.scheduled, scheduled);
        let slowdown = scheduled.zip(before).and_then(|(now, before)| {
            let (ran, waited) = (now.0.saturating_sub(before.0), now.1.saturating_sub(before.1));
            permille(ran.saturating_add(waited), ran)
        });
        let told = condition.slowdown_permille.max(PERMILLE);
        condition.slowdown_permille = told.midpoint(slowdown.unwrap_or(PERMILLE));
        condition.run_queue = running().map_or(0, |running| {
            // This thread runs as well.
            let queued = running.saturating_sub(1).saturating_sub(cores);
            u16::try_from(queued).unwrap_or(u16::MAX)
        });
        condition.memory_free_bytes = memory_available().unwrap_or(memory_bytes).min(memory_bytes);
        let has_room = condition.memory_free_bytes >= READY_MEMORY_BYTES_MIN;
        condition.ready = if has_room { able } else { Runtimes::default() };
    }
}

/// The first 32 bits of the digests of the artefacts that are here, the latest that there is room for.
pub(crate) fn held(artifacts: &Artifacts) -> Vec<u32> {
    let mut held: Vec<u32> = artifacts.latest(ARTIFACTS_MAX).iter().filter_map(|digest| hint(digest)).collect();
    held.sort_unstable();
    held.dedup();
    held
}

/// What stands for an artefact in a digest.
pub(crate) fn hint(digest: &str) -> Option<u32> {
    u32::from_str_radix(digest.get(..8)?, 16).ok()
}

pub(crate) fn permille(part: u64, whole: u64) -> Option<u16> {
    let share = u128::from(part) * u128::from(PERMILLE) / u128::from(whole.max(1));
    (whole > 0).then(|| u16::try_from(share).unwrap_or(u16::MAX))
}

/// Busy and all time of the machine's CPUs (proc(5), `/proc/stat`), in ticks. For how long this node only looked for work is not busy.
pub(crate) fn cpu_time(lingered: Duration) -> Option<(u64, u64)> {
    let text = read_to_string("/proc/stat").ok()?;
    let times: Vec<u64> =
        text.lines().next()?.split_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect();
    // User, nice, system, idle, waiting for a disk, interrupts, steal; guests are in user.
    let all: u64 = times.iter().take(8).sum();
    let idle: u64 = times.iter().skip(3).take(2).sum();
    let lingered = lingered.as_nanos() * u128::from(rustix::param::clock_ticks_per_second()) / 1_000_000_000;
    Some((all.saturating_sub(idle).saturating_sub(u64::try_from(lingered).unwrap_or(u64::MAX)), all))
}

/// The processor time that this process has used.
pub(crate) fn process_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

/// How long this process' threads have run and waited for a core (kernel documentation, `scheduler/sched-stats`).
fn schedule() -> Option<(u64, u64)> {
    let threads = std::fs::read_dir("/proc/self/task").ok()?;
    let times = threads.flatten().filter_map(|thread| {
        let text = read_to_string(thread.path().join("schedstat")).ok()?;
        let mut fields = text.split_whitespace().map(str::parse::<u64>);
        Some((fields.next()?.ok()?, fields.next()?.ok()?))
    });
    Some(times.fold((0, 0), |sum, time| (sum.0.saturating_add(time.0), sum.1.saturating_add(time.1))))
}

/// How many threads of the machine run or could run (proc(5), `/proc/loadavg`).
fn running() -> Option<u32> {
    let text = read_to_string("/proc/loadavg").ok()?;
    text.split_whitespace().nth(3)?.split_once('/')?.0.parse().ok()
}

/// The memory that new work could have, in bytes (proc(5), `/proc/meminfo`).
pub(crate) fn memory_available() -> Option<u64> {
    let text = read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().trim_end_matches("kB").trim().parse::<u64>().ok().map(|kib| kib.saturating_mul(1_024))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_is_measured() {
        let machine = machine();
        assert!(machine.steps_per_us > 0 && !machine.arch.is_empty(), "{machine:?}");
        let (mut sampler, mut condition) = (Sampler::default(), Condition::default());
        let able = Runtimes { wasm: true, ..Runtimes::default() };
        sampler.sample(&mut condition, Duration::ZERO, 1, u64::MAX, able);
        // Long enough to count as running, twice: the slowdown is that of the time between two looks.
        for _ in 0..2 {
            let begun = process_time();
            while process_time() - begun < Duration::from_millis(50) {
                steps_took();
            }
            sampler.sample(&mut condition, Duration::ZERO, 1, u64::MAX, able);
        }
        assert!(sampler.scheduled.is_some(), "a busy process is looked at");
        assert!(condition.memory_free_bytes > 0 && condition.slowdown_permille >= PERMILLE, "{condition:?}");
        assert!(condition.busy_permille > 0, "this thread was busy: {condition:?}");
    }

    #[test]
    fn an_artefact_is_hinted_at_by_its_first_digits() {
        assert_eq!(hint("0a0b0c0dffff"), Some(0x0a0b_0c0d));
        assert_eq!(hint("xyz"), None);
    }
}
