//! The control group of a container, in either version of the kernel's interface: what it has used, holding it still, and its end.
//!
//! That of a container of an image its runtime makes; that of a program is made here. In version 1 there is a hierarchy for each controller, in version 2 one for all; where a machine has
//! both (hybrid), the controllers are in those of version 1.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// Where control groups are mounted.
const ROOT: &str = "/sys/fs/cgroup";
/// How long a freezer may take: it waits for what is within the kernel.
const FREEZE_MAX: Duration = Duration::from_secs(2);
/// How long what is killed may take to end: on a busy machine it has a small share of the processors.
const END_MAX: Duration = Duration::from_secs(30);
const FREEZE_POLL: Duration = Duration::from_millis(1);

/// The hierarchies of version 1 that limit, freeze or measure a program.
const CONTROLLERS: [&str; 5] = ["cpu", "cpuacct", "memory", "pids", "freezer"];
/// The length of a period of the processor's limit.
pub(crate) const CPU_PERIOD_US: u64 = 100_000;

/// The least and the greatest share of the processors that the kernel takes.
const SHARES_MIN: u32 = 2;
const SHARES_MAX: u32 = 262_144;

/// The control group of one container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cgroup {
    name: String,
}

/// What a container has used since it was started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Used {
    /// Processor time.
    pub cpu: Duration,
    /// Memory that it has now, bytes.
    pub memory_bytes: u64,
}

/// How much a control group may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Most {
    /// Memory, bytes; with swap no more than without.
    pub(crate) memory_bytes: u64,
    /// Processor time, thousandths of a processor; all there is if none.
    pub(crate) cpu_millis: Option<u32>,
    /// Processes and threads.
    pub(crate) pids: u32,
}

impl Most {
    /// What is written to which file of which controller, in this order.
    fn files(self, is_unified: bool) -> Vec<(&'static str, &'static str, String)> {
        let Self { memory_bytes, cpu_millis, pids } = self;
        let quota_us = cpu_millis.map(|millis| u64::from(millis) * CPU_PERIOD_US / 1_000);
        let mut files = vec![("pids", "pids.max", pids.to_string())];
        if is_unified {
            files.push(("memory", "memory.max", memory_bytes.to_string()));
            files.extend(quota_us.map(|quota| ("cpu", "cpu.max", format!("{quota} {CPU_PERIOD_US}"))));
        } else {
            files.push(("memory", "memory.limit_in_bytes", memory_bytes.to_string()));
            files.extend(quota_us.map(|_| ("cpu", "cpu.cfs_period_us", CPU_PERIOD_US.to_string())));
            files.extend(quota_us.map(|quota| ("cpu", "cpu.cfs_quota_us", quota.to_string())));
        }
        files
    }

    /// The same for swap, which some machines do not count.
    fn swap_file(self, is_unified: bool) -> (&'static str, String) {
        if is_unified {
            ("memory.swap.max", "0".to_owned())
        } else {
            ("memory.memsw.limit_in_bytes", self.memory_bytes.to_string())
        }
    }
}

/// What version 2 calls a share: 100 for 1,024, and at least 1.
fn weight(shares: u32) -> u32 {
    (shares.saturating_mul(100) / 1_024).clamp(1, 10_000)
}

/// Whether this machine has version 1 of control groups, or version 2 only.
pub(crate) fn is_unified() -> bool {
    Path::new(ROOT).join("cgroup.controllers").exists()
}

/// Whether it has both, which `crun` does not take.
pub(crate) fn is_hybrid() -> bool {
    !is_unified() && Path::new(ROOT).join("unified/cgroup.controllers").exists()
}

/// Whether processors, memory and numbers of processes can be limited here; else, what cannot.
pub(crate) fn missing_controllers() -> Vec<&'static str> {
    let mut needed = vec!["cpu", "memory", "pids"];
    if is_unified() {
        let had = fs::read_to_string(Path::new(ROOT).join("cgroup.controllers")).unwrap_or_default();
        needed.retain(|controller| !had.split_whitespace().any(|had| had == *controller));
    } else {
        needed.push("freezer");
        needed.retain(|controller| !Path::new(ROOT).join(controller).is_dir());
    }
    needed
}

impl Cgroup {
    pub(crate) fn new(id: &str) -> Self {
        Self { name: id.to_owned() }
    }

    /// As a runtime is told it.
    pub(crate) fn path(&self) -> String {
        format!("/{}", self.name)
    }

    fn of(&self, controller: &str) -> PathBuf {
        let root = Path::new(ROOT);
        if is_unified() { root.join(&self.name) } else { root.join(controller).join(&self.name) }
    }

    /// Makes it, with limits; nothing is in it yet.
    pub(crate) fn make(&self, most: Most) -> io::Result<()> {
        let is_unified = is_unified();
        if is_unified {
            // What is enabled already stays so; what cannot be is missed when its limit is written.
            let _ = fs::write(Path::new(ROOT).join("cgroup.subtree_control"), "+cpu +memory +pids");
        }
        for controller in CONTROLLERS {
            fs::create_dir_all(self.of(controller))?;
        }
        let write = |controller: &str, file: &str, value: String| {
            let path = self.of(controller).join(file);
            let explained = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
            fs::write(&path, value).map_err(explained)
        };
        for (controller, file, value) in most.files(is_unified) {
            write(controller, file, value)?;
        }
        let (file, value) = most.swap_file(is_unified);
        match write("memory", file, value) {
            Err(error) if !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) => {
                Err(error)
            }
            _ => Ok(()),
        }
    }

    /// Moves the calling process into it, and with it what that starts.
    pub(crate) fn enter(&self) -> io::Result<()> {
        CONTROLLERS.iter().try_for_each(|controller| fs::write(self.of(controller).join("cgroup.procs"), "0"))
    }

    /// Gives it a share of the processors, against 1,024 of each other group and process.
    pub(crate) fn weigh(&self, shares: u32) -> io::Result<()> {
        let shares = shares.clamp(SHARES_MIN, SHARES_MAX);
        if is_unified() {
            return fs::write(self.of("cpu").join("cpu.weight"), weight(shares).to_string());
        }
        fs::write(self.of("cpu").join("cpu.shares"), shares.to_string())
    }

    /// Holds the container still, or lets it go on. It blocks the thread until that is so.
    pub(crate) fn freeze(&self, freeze: bool) -> io::Result<()> {
        let (file, word) = match (is_unified(), freeze) {
            (true, true) => ("cgroup.freeze", "1"),
            (true, false) => ("cgroup.freeze", "0"),
            (false, true) => ("freezer.state", "FROZEN"),
            (false, false) => ("freezer.state", "THAWED"),
        };
        let file = self.of("freezer").join(file);
        let until = Instant::now() + FREEZE_MAX;
        loop {
            // Version 1 gives up on a process that it cannot hold, and has to be told again.
            fs::write(&file, word)?;
            if self.is_frozen()? == freeze {
                return Ok(());
            }
            if Instant::now() > until {
                let _ = fs::write(&file, if freeze { if is_unified() { "0" } else { "THAWED" } } else { word });
                return Err(io::Error::new(io::ErrorKind::TimedOut, "its processes cannot be held"));
            }
            std::thread::sleep(FREEZE_POLL);
        }
    }

    pub(crate) fn is_frozen(&self) -> io::Result<bool> {
        if is_unified() {
            let events = fs::read_to_string(self.of("freezer").join("cgroup.events"))?;
            return Ok(events.lines().any(|line| line == "frozen 1"));
        }
        Ok(fs::read_to_string(self.of("freezer").join("freezer.state"))?.trim() == "FROZEN")
    }

    /// What it has used.
    pub(crate) fn used(&self) -> io::Result<Used> {
        let number =
            |path: PathBuf| -> io::Result<u64> { fs::read_to_string(path)?.trim().parse().map_err(io::Error::other) };
        if is_unified() {
            let stat = fs::read_to_string(self.of("cpu").join("cpu.stat"))?;
            let us = stat.lines().find_map(|line| line.strip_prefix("usage_usec ")).and_then(|us| us.parse().ok());
            let memory_bytes = number(self.of("memory").join("memory.current"))?;
            return Ok(Used { cpu: Duration::from_micros(us.unwrap_or(0)), memory_bytes });
        }
        let cpu = Duration::from_nanos(number(self.of("cpuacct").join("cpuacct.usage"))?);
        Ok(Used { cpu, memory_bytes: number(self.of("memory").join("memory.usage_in_bytes"))? })
    }

    /// Ends whatever is in it and removes it, as far as a runtime has left it.
    pub(crate) fn remove(&self) {
        for folder in self.folders() {
            for pid in fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default().lines() {
                if let Some(pid) = pid.parse().ok().and_then(rustix::process::Pid::from_raw) {
                    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
                }
            }
        }
        let until = Instant::now() + END_MAX;
        while Instant::now() < until {
            let left: Vec<PathBuf> = self.folders();
            if left.is_empty() {
                return;
            }
            for folder in left {
                // It is busy until what was in it has ended.
                let _ = fs::remove_dir(folder);
            }
            std::thread::sleep(FREEZE_POLL);
        }
    }

    /// Where there is something of it.
    pub(crate) fn folders(&self) -> Vec<PathBuf> {
        let root = Path::new(ROOT);
        let hierarchies = fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path());
        let mut folders: Vec<PathBuf> =
            hierarchies.chain([root.to_owned()]).map(|path| path.join(&self.name)).collect();
        folders.retain(|path| path.is_dir() && !path.is_symlink());
        folders
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_weights_in_version_2() {
        assert_eq!([8, 1_024, 8_192, SHARES_MAX].map(weight), [1, 100, 800, 10_000]);
    }

    #[test]
    fn limits_are_written_in_both_versions() {
        let most = Most { memory_bytes: 1 << 20, cpu_millis: Some(1_500), pids: 20 };
        let written = |is_unified| {
            let files = most.files(is_unified).into_iter().map(|(_, file, value)| (file, value));
            let files = files.chain([most.swap_file(is_unified)]);
            files.map(|(file, value)| format!("{file}={value}")).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(written(true), "pids.max=20 memory.max=1048576 cpu.max=150000 100000 memory.swap.max=0");
        assert_eq!(
            written(false),
            "pids.max=20 memory.limit_in_bytes=1048576 cpu.cfs_period_us=100000 cpu.cfs_quota_us=150000 memory.memsw.limit_in_bytes=1048576"
        );
    }
}
