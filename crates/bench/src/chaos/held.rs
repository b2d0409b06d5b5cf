//! The containers and processes that nodes of the hall run while these are struck: whether a node that comes back takes them up, and
//! whether anything of them is left when nobody wants them any more.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::Value;

use super::nodes::Nodes;

/// How long a node may take to take up what it finds, or to remove what it does not want: it looks once a minute.
const SETTLED: Duration = Duration::from_secs(150);
/// How often is looked whether that has happened.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// What nodes hold.
pub(super) struct Held {
    /// Where the records of each struck node's containers are, by the node's number.
    records: BTreeMap<usize, PathBuf>,
    /// The names of all that were seen: their control groups have these, too.
    seen: BTreeSet<String>,
    /// How many were taken up by a node that came back.
    pub(super) adopted: usize,
    /// Those that were started anew though they ran.
    pub(super) restarted: Vec<String>,
}

/// Who runs, by name: the first process.
type Running = BTreeMap<String, i64>;

impl Held {
    /// Of nodes that may hold some. None where this machine runs neither containers nor processes.
    pub(super) fn of(nodes: &Nodes, slots: &[usize]) -> anyhow::Result<Option<Self>> {
        let mut records = BTreeMap::new();
        for slot in slots {
            let link = nodes.data(*slot).join("containers/run");
            let Ok(run) = std::fs::read_link(&link) else { return Ok(None) };
            records.insert(*slot, run.parent().context("records lie in no folder")?.to_owned());
        }
        Ok(Some(Self { records, seen: BTreeSet::new(), adopted: 0, restarted: Vec::new() }))
    }

    /// What a node runs now.
    pub(super) fn running(&mut self, slot: usize) -> Running {
        let Some(records) = self.records.get(&slot) else { return Running::new() };
        let running = running(records);
        self.seen.extend(running.keys().cloned());
        running
    }

    /// Waits until a node that is back has taken up what it ran, or removed it; notes what it started anew.
    pub(super) async fn settle(&mut self, slot: usize, before: &Running) -> anyhow::Result<()> {
        let begun = Instant::now();
        while self.running(slot).is_empty() && !before.is_empty() {
            anyhow::ensure!(begun.elapsed() < SETTLED, "a node runs nothing any more for {} s", SETTLED.as_secs());
            tokio::time::sleep(LOOK_EVERY).await;
        }
        for (name, pid) in self.running(slot) {
            match before.get(&name) {
                Some(known) if *known == pid => self.adopted += 1,
                Some(_) => self.restarted.push(name),
                None => {}
            }
        }
        Ok(())
    }

    /// What is left once nobody wants any of them: records, control groups, processes and mounts.
    pub(super) async fn orphans(&self) -> Vec<String> {
        let begun = Instant::now();
        loop {
            let left = self.left();
            if left.is_empty() || begun.elapsed() > SETTLED {
                return left;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    fn left(&self) -> Vec<String> {
        let mut left = Vec::new();
        for records in self.records.values() {
            for part in ["run", "runtime"] {
                left.extend(entries(&records.join(part)).map(|path| path.display().to_string()));
            }
            let folder = records.display().to_string();
            left.extend(processes().filter(|said| said.contains("shim") && said.contains(&folder)));
            let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
            left.extend(mounts.lines().filter(|mount| mount.contains(&folder)).map(str::to_owned));
        }
        let hierarchies = entries(Path::new("/sys/fs/cgroup")).chain([PathBuf::from("/sys/fs/cgroup")]);
        let groups: Vec<PathBuf> =
            hierarchies.flat_map(|hierarchy| self.seen.iter().map(move |name| hierarchy.join(name))).collect();
        left.extend(groups.into_iter().filter(|group| group.exists()).map(|group| group.display().to_string()));
        left
    }
}

/// What runs by the records in a folder.
fn running(records: &Path) -> Running {
    let of = |folder: PathBuf| {
        let record: Value = serde_json::from_slice(&std::fs::read(folder.join("shim.json")).ok()?).ok()?;
        let pid = record.pointer("/container/pid")?.as_i64()?;
        let runs = Path::new("/proc").join(pid.to_string()).exists();
        Some((folder.file_name()?.to_str()?.to_owned(), pid)).filter(|_| runs)
    };
    entries(&records.join("run")).filter_map(of).collect()
}

fn entries(folder: &Path) -> impl Iterator<Item = PathBuf> {
    std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path())
}

/// What each process of this machine was started with.
fn processes() -> impl Iterator<Item = String> {
    let said = |folder: PathBuf| std::fs::read(folder.join("cmdline")).ok();
    entries(Path::new("/proc")).filter_map(said).map(|said| String::from_utf8_lossy(&said).replace('\0', " "))
}
