//! Keeps a quiet node's resident memory small: lets go of the pages of its own program that only its start, a compilation
//! or a deployment needed, and of what the allocator keeps for later. The only `unsafe` of this crate.
//!
//! A program's pages become resident as they are executed, sixteen at a time, and stay so: of a node that does nothing,
//! four fifths of the resident memory are such pages (docs/performance.md, "idle"). What is needed again is
//! mapped again from the page cache; and what is not mapped is what the kernel takes back first when memory is short.
#![allow(unsafe_code)]

use std::path::Path;
use std::time::Duration;

use littoral_runtime::Shards;
use rustix::mm::{Advice, madvise};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::condition::process_time;

/// How often it is looked whether there is something to let go of.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// A process that has used less of the processor than this since the last look is quiet: a tenth of a core.
const QUIET: Duration = Duration::from_secs(6);
/// One that has used less than this has done nothing: what it has resident then, it needs for that.
const IDLE: Duration = Duration::from_secs(1);
/// So much more must be resident than when it did nothing, before it is worth the while: to look costs as much as what an
/// idle node does otherwise in five seconds.
const GROWTH_KIB: u64 = 4 << 10;

/// Lets go of unused pages of the program whenever the node has been quiet for a while, until it stops.
pub(crate) async fn keep_small(shards: Shards, stop: CancellationToken) {
    let mut tick = interval(LOOK_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tick.tick().await;
    // To look for work is no work.
    let used = || process_time().saturating_sub(shards.lingered());
    let mut used_before = used();
    // How much was resident after a minute of nothing but idling; nothing as long as that is not known.
    let mut kept = None;
    let mut has_let_go = false;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        let now = used();
        let used = now.saturating_sub(std::mem::replace(&mut used_before, now));
        let resident = resident_kib();
        kept = if has_let_go && used < IDLE { Some(resident) } else { kept.filter(|_| used < QUIET) };
        has_let_go = used < QUIET && kept.is_none_or(|kept| resident > kept.saturating_add(GROWTH_KIB));
        if !has_let_go {
            continue;
        }
        // Looking through its own mappings takes the kernel a while.
        match tokio::task::spawn_blocking(let_go).await {
            Ok(Ok(bytes)) => tracing::debug!(bytes, "let go of pages of the program, and of free memory"),
            Ok(Err(error)) => tracing::debug!(%error, "what is mapped cannot be read"),
            Err(error) => tracing::debug!(%error, "pages were not let go of"),
        }
    }
}

/// How much the process has resident, in KiB (proc_pid_status(5)); much if that cannot be read.
fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").ok();
    let kib = |text: String| {
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()
    };
    status.and_then(kib).unwrap_or(u64::MAX)
}

/// Lets go of what the allocator keeps, and of the pages of the program's code and constants; how many bytes were mapped there.
fn let_go() -> std::io::Result<usize> {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: foreign, but takes a number only, and gives back pages that nobody has allocated, under the allocator's own locks.
    unsafe {
        libc::malloc_trim(0);
    }
    let program = std::fs::read_link("/proc/self/exe")?;
    let mappings = std::fs::read_to_string("/proc/self/smaps")?;
    let mut bytes = 0;
    for (start, length) in unchanged(&mappings, &program) {
        let start = std::ptr::with_exposed_provenance_mut(start);
        // SAFETY: the range is a whole mapping of the program's file, private, not writable, and without a page that differs
        // from the file (`unchanged`). Such a page, when it is needed again, is read from the file again, which the kernel
        // keeps from being changed while it is executed: no reference into the range sees another value.
        unsafe { madvise(start, length, Advice::LinuxDontNeed) }?;
        bytes += length;
    }
    Ok(bytes)
}

/// The mappings (start, length) of a program's file that cannot be written and of which no page differs from the file, in
/// the form of `/proc/self/smaps` (proc_pid_smaps(5)).
fn unchanged(smaps: &str, program: &Path) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    let mut current = None;
    for line in smaps.lines() {
        if let Some(mapping) = header(line, program) {
            current = mapping;
        } else if line.strip_prefix("Anonymous:").is_some_and(|rest| rest.trim() == "0 kB") {
            found.extend(current.take());
        }
    }
    found
}

/// Of the line that begins a mapping: none if it is another line, and the range if it is one of the program that cannot be
/// written.
fn header(line: &str, program: &Path) -> Option<Option<(usize, usize)>> {
    let mut fields = line.split_ascii_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    let (start, end) = (usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?);
    let access = fields.next()?;
    let path = fields.nth(3);
    let is_ours = matches!(access, "r-xp" | "r--p") && path.is_some_and(|path| Path::new(path) == program);
    Some(is_ours.then(|| (start, end.saturating_sub(start))))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_what_is_the_same_as_in_the_file_is_let_go_of() {
        let smaps = "1000-3000 r--p 00000000 fe:00 11   /bin/littoral\nRss: 4 kB\nAnonymous:             0 kB\n\
                     3000-9000 r-xp 00002000 fe:00 11   /bin/littoral\nAnonymous:             0 kB\n\
                     9000-a000 r--p 00008000 fe:00 11   /bin/littoral\nAnonymous:             4 kB\n\
                     a000-b000 rw-p 00009000 fe:00 11   /bin/littoral\nAnonymous:             0 kB\n\
                     b000-c000 r-xp 00000000 fe:00 12   /lib/libc.so.6\nAnonymous:             0 kB\n\
                     c000-d000 rw-p 00000000 00:00 0    [heap]\nAnonymous:             0 kB\n";
        assert_eq!(unchanged(smaps, Path::new("/bin/littoral")), [(0x1000, 0x2000), (0x3000, 0x6000)]);
    }

    #[test]
    fn a_process_goes_on_without_its_pages() {
        assert!(let_go().unwrap() > 1 << 20, "the code of this test is larger");
        let sum: u64 = (0..1_000_u64).map(|number| number.pow(2)).sum();
        assert_eq!(sum, 332_833_500);
    }
}
