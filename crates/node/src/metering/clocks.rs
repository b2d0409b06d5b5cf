//! What the node's threads use of the processor, from their own clocks.
//!
//! The system tells how long each living thread has run; a thread that ends takes that with it. So the clocks are read
//! every few seconds and what they gained is added up: of a thread that ended, only what it did since the last look is
//! missed.

use std::collections::HashMap;
use std::path::Path;

use rustix::time::{ClockId, clock_gettime};

/// Where the system shows the threads of this process.
const TASKS: &str = "/proc/self/task";

/// What all threads have used since this was made.
#[derive(Debug, Default)]
pub(super) struct ThreadClocks {
    /// What each living thread had used when it was last looked at, in nanoseconds.
    seen: HashMap<u32, u64>,
    total_ns: u64,
}

impl ThreadClocks {
    /// Looks at all threads; answers what they have used in all, in nanoseconds.
    pub(super) fn look(&mut self) -> u64 {
        let mut now = HashMap::with_capacity(self.seen.len());
        for entry in std::fs::read_dir(TASKS).into_iter().flatten().flatten() {
            let thread = entry.file_name().to_str().and_then(|name| name.parse().ok());
            // It may have ended since the list was read.
            let Some((thread, used_ns)) = thread.zip(used_ns(&entry.path())) else { continue };
            let before = self.seen.get(&thread).copied().filter(|before| *before <= used_ns);
            // A clock that went back is of another thread that was given the same number.
            self.total_ns += used_ns - before.unwrap_or_default();
            now.insert(thread, used_ns);
        }
        for (thread, before) in std::mem::take(&mut self.seen) {
            // A listing leaves out a thread when the one before it ends meanwhile; what it has used must not count again.
            if !now.contains_key(&thread) && Path::new(TASKS).join(thread.to_string()).exists() {
                now.insert(thread, before);
            }
        }
        self.seen = now;
        self.total_ns
    }
}

/// How long a thread has run, in nanoseconds; where the kernel does not count so finely, in its ticks.
fn used_ns(task: &Path) -> Option<u64> {
    if let Ok(text) = std::fs::read_to_string(task.join("schedstat")) {
        return text.split(' ').next()?.parse().ok();
    }
    let text = std::fs::read_to_string(task.join("stat")).ok()?;
    // The second field, the name, may hold anything; user and system time are the 14th and 15th (proc_pid_stat(5)).
    let (_, after_name) = text.rsplit_once(')')?;
    let mut fields = after_name.split_whitespace().skip(11).map(str::parse::<u64>);
    let ticks = fields.next()?.ok()? + fields.next()?.ok()?;
    let per_second = rustix::param::clock_ticks_per_second();
    Some(ticks.saturating_mul(1_000_000_000) / per_second.max(1))
}

/// How much CPU time this process has used since it started, as the system counts it, in nanoseconds.
pub(super) fn process_ns() -> u64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    // Neither is ever negative.
    (time.tv_sec as u64).saturating_mul(1_000_000_000).saturating_add(time.tv_nsec as u64)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_threads_clocks_make_up_the_process_clock_also_of_threads_that_ended() {
        let mut clocks = ThreadClocks::default();
        clocks.look();
        let (threads_before, process_before) = (clocks.look(), process_ns());
        let burn = |ns: u64| {
            let begun = process_ns();
            while process_ns() - begun < ns {}
        };
        // It lives until it was looked at once more, and then ends.
        let (done, waiting) = std::sync::mpsc::sync_channel::<()>(1);
        let thread = std::thread::spawn(move || {
            burn(200_000_000);
            waiting.recv().ok();
        });
        burn(200_000_000);
        while !thread.is_finished() {
            clocks.look();
            if process_ns() - process_before > 600_000_000 {
                done.send(()).ok();
                break;
            }
        }
        thread.join().unwrap();
        let (threads, process) = (clocks.look() - threads_before, process_ns() - process_before);
        // The other tests of this process may start and end threads meanwhile; theirs are what may be missed.
        assert!(threads > 300_000_000, "{threads} of {process}");
        assert!(threads <= process + process / 20, "{threads} of {process}");
    }
}
