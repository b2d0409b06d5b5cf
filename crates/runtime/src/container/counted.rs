//! How far the use of containers was counted, for the next process that takes them up: what they use while no node is there counts, too.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use super::process::{StartTime, write_whole};

/// The file, in the containers' folder.
const FILE: &str = "counted.json";
const VERSION: u32 = 1;
/// How long it may be: some hundred bytes for each container.
const BYTES_MAX: u64 = 4 << 20;

/// How far the use of a container was counted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Counted {
    /// Its first process: another one is another container, of the same name perhaps.
    pub(super) process: StartTime,
    pub(super) cpu_ns: u64,
    /// When, on the clock that nobody sets: the same process is of the same start of the machine.
    pub(super) at: SinceBoot,
}

/// A moment, as the time since the machine was started, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SinceBoot(u64);

impl SinceBoot {
    pub(super) fn now() -> Self {
        let now = clock_gettime(ClockId::Boottime);
        // Neither is ever negative.
        Self((now.tv_sec as u64).saturating_mul(1_000).saturating_add(now.tv_nsec as u64 / 1_000_000))
    }

    /// How long ago it was.
    pub(super) fn elapsed(self) -> Duration {
        Duration::from_millis(Self::now().0.saturating_sub(self.0))
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Note {
    version: u32,
    containers: HashMap<String, Counted>,
}

/// What was noted in a folder; nothing if that is not understood.
pub(super) fn read(folder: &Path) -> HashMap<String, Counted> {
    let read = || {
        let mut bytes = Vec::new();
        File::open(folder.join(FILE)).ok()?.take(BYTES_MAX).read_to_end(&mut bytes).ok()?;
        serde_json::from_slice::<Note>(&bytes).ok().filter(|note| note.version == VERSION)
    };
    read().map(|note| note.containers).unwrap_or_default()
}

/// Notes it in place of what was noted before. It blocks the thread.
pub(super) fn write(folder: &Path, containers: HashMap<String, Counted>) -> io::Result<()> {
    write_whole(&folder.join(FILE), &serde_json::to_vec(&Note { version: VERSION, containers })?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_was_noted_is_read_and_what_is_damaged_or_of_another_version_is_nothing() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(read(folder.path()), HashMap::new());
        let counted = Counted { process: StartTime { pid: 1, ticks: 2 }, cpu_ns: 3, at: SinceBoot::now() };
        let noted = HashMap::from([("littoral-1".to_owned(), counted)]);
        write(folder.path(), noted.clone()).unwrap();
        assert_eq!(read(folder.path()), noted);
        let text = std::fs::read_to_string(folder.path().join(FILE)).unwrap();
        for other in [text.replace("\"version\":1", "\"version\":2"), text.replace('}', ""), String::new()] {
            std::fs::write(folder.path().join(FILE), other).unwrap();
            assert_eq!(read(folder.path()), HashMap::new());
        }
    }
}
