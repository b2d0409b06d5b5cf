//! Processes that outlive the node which started them, told from later ones that got their number.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rustix::process::Pid;
use serde::{Deserialize, Serialize};

/// A process, and when it was started, in ticks since the machine was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StartTime {
    pub(crate) pid: i32,
    pub(crate) ticks: u64,
}

impl StartTime {
    pub(crate) fn own() -> io::Result<Self> {
        Self::of(rustix::process::getpid())
    }

    pub(crate) fn of(pid: Pid) -> io::Result<Self> {
        let pid = pid.as_raw_nonzero().get();
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // The second field is a name, which may hold spaces and parentheses; the start time is the twentieth after it.
        let fields = stat.rsplit_once(')').map(|(_, fields)| fields.split_whitespace());
        let ticks = fields.and_then(|mut fields| fields.nth(19)).and_then(|ticks| ticks.parse().ok());
        Ok(Self { pid, ticks: ticks.ok_or_else(|| io::Error::other("the kernel says it in another form"))? })
    }

    /// Whether it is still there.
    pub(crate) fn is_alive(self) -> bool {
        Pid::from_raw(self.pid).is_some_and(|pid| Self::of(pid).is_ok_and(|now| now == self) && !is_zombie(pid))
    }
}

fn is_zombie(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
    stat.rsplit_once(") ").is_none_or(|(_, fields)| fields.starts_with(['Z', 'X']))
}

/// Writes a file that others cannot read, whole or not at all.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let part = path.with_extension("part");
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part)?;
    file.write_all(bytes)?;
    drop(file);
    fs::rename(part, path)
}
