//! Confines the node's process to its own data directory (Landlock), so that a fault in it, or in a guest that broke
//! out, reads nobody else's files: not those of another node on the machine, not the user's.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use landlock::{
    ABI, Access, AccessFs, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr,
    RulesetStatus,
};

/// Folders that the program and its libraries need to read: themselves, what the kernel tells, and the certificates of the
/// authorities that registries are checked with (not the keys beside them).
const READABLE_FOLDERS: [&str; 8] =
    ["/usr", "/lib", "/lib64", "/proc", "/sys", "/etc/ssl/certs", "/etc/pki/tls/certs", "/etc/pki/ca-trust/extracted"];
/// Files that they need to read: name resolution, time zones.
const READABLE_FILES: [&str; 3] = ["/etc/resolv.conf", "/etc/hosts", "/etc/localtime"];
/// Devices that every program may use.
const DEVICES: [&str; 4] = ["/dev/null", "/dev/zero", "/dev/random", "/dev/urandom"];
/// The newest rules that we know; an older kernel enforces those that it knows.
const RULES: ABI = ABI::V5;

/// How far the kernel confines this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Confinement {
    /// To its data directory.
    Full,
    /// Some accesses are not restricted: the kernel is older than our rules.
    Partial,
    /// Not at all: the kernel has no Landlock.
    None,
}

/// Confines the calling thread, and the threads and processes that it starts from now on, to `data` and what is
/// `offered` to functions for writing, and to what is `readable` and the system's own folders for reading. Call it before any other thread is started.
///
/// # Errors
/// When `data` or what is offered cannot be opened, or the kernel has Landlock and refuses.
pub fn confine(data: &Path, offered: &[PathBuf], readable: &[&Path]) -> anyhow::Result<Confinement> {
    let all = AccessFs::from_all(RULES);
    let read = AccessFs::from_read(RULES);
    let mut rules = Ruleset::default().set_compatibility(CompatLevel::BestEffort).handle_access(all)?.create()?;
    rules = rules.add_rule(PathBeneath::new(PathFd::new(data)?, all))?;
    for path in offered {
        let file = AccessFs::from_file(RULES);
        let rights = if path.is_dir() { all } else { file };
        let opened = PathFd::new(path).with_context(|| format!("cannot offer {}", path.display()))?;
        rules = rules.add_rule(PathBeneath::new(opened, rights))?;
    }
    for path in readable {
        let opened = PathFd::new(path).with_context(|| format!("cannot read {}", path.display()))?;
        rules = rules.add_rule(PathBeneath::new(opened, read))?;
    }
    for path in READABLE_FOLDERS {
        if let Ok(opened) = PathFd::new(path) {
            rules = rules.add_rule(PathBeneath::new(opened, read))?;
        }
    }
    for path in READABLE_FILES {
        if let Ok(opened) = PathFd::new(path) {
            // A folder's right on a file would count as one that the kernel does not enforce.
            rules = rules.add_rule(PathBeneath::new(opened, AccessFs::ReadFile))?;
        }
    }
    if let Ok(opened) = std::env::current_exe().and_then(std::fs::File::open) {
        // For the names in backtraces, and to compile in a process of its own.
        rules = rules.add_rule(PathBeneath::new(opened, AccessFs::ReadFile | AccessFs::Execute))?;
    }
    for path in DEVICES {
        if let Ok(opened) = PathFd::new(path) {
            rules = rules.add_rule(PathBeneath::new(opened, AccessFs::ReadFile | AccessFs::WriteFile))?;
        }
    }
    Ok(match rules.restrict_self()?.ruleset {
        RulesetStatus::FullyEnforced => Confinement::Full,
        RulesetStatus::PartiallyEnforced => Confinement::Partial,
        RulesetStatus::NotEnforced => Confinement::None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_confined_thread_reads_its_own_directory_and_no_other() {
        let mine = tempfile::tempdir().unwrap();
        let other = tempfile::tempdir().unwrap();
        std::fs::write(mine.path().join("a"), "mine").unwrap();
        std::fs::write(other.path().join("b"), "secret").unwrap();
        let (own, foreign) = (mine.path().to_owned(), other.path().join("b"));
        let outcome = std::thread::spawn(move || {
            let confinement = confine(&own, &[], &[]).unwrap();
            (
                confinement,
                std::fs::read_to_string(own.join("a")),
                std::fs::write(own.join("c"), "x"),
                std::fs::read_to_string(foreign),
            )
        });
        let (confinement, own, written, foreign) = outcome.join().unwrap();
        assert_eq!(own.unwrap(), "mine");
        written.unwrap();
        if confinement != Confinement::None {
            assert_eq!(foreign.unwrap_err().kind(), std::io::ErrorKind::PermissionDenied);
        }
    }
}
