//! The program that makes containers, `runc` or `crun`: which one this machine has, and what it is asked.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::cgroup;

/// The programs that are looked for, the preferred first.
const PROGRAMS: [&str; 2] = ["runc", "crun"];

/// What of a machine makes it run no containers, or no processes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unable {
    /// There is no program for it.
    #[error("neither runc nor crun is installed; install one (Debian: `apt install runc`) and start the node again")]
    Runtime,
    /// The one there is does not work with this machine's control groups.
    #[error(
        "crun does not work where both versions of control groups are mounted; install runc, or boot with `systemd.unified_cgroup_hierarchy=1`"
    )]
    Hybrid,
    /// The node may not.
    #[error("containers and processes need a node that runs as root, with all that root may")]
    Root,
    /// Something that limits them is not there.
    #[error("this machine's control groups do not limit {0}; mount or enable these controllers")]
    Controllers(String),
    /// Something that hides others from them is not there.
    #[error("this machine's kernel has no namespaces of {0}")]
    Namespaces(String),
    /// Their files cannot be limited.
    #[error("this machine's kernel has no Landlock; it needs Linux 5.13 or later, with Landlock among its `lsm`")]
    Landlock,
    /// Their system calls cannot be limited.
    #[error(
        "this machine's kernel filters no system calls, or their numbers on this processor are not known to this program"
    )]
    Filter,
}

/// A container runtime.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OciRuntime {
    /// Its path.
    pub program: PathBuf,
    /// Whether containers have users of their own.
    pub has_user_namespaces: bool,
}

impl OciRuntime {
    /// Looks for what this machine has, in `path` (as the variable `PATH` has it) and where administrators' programs are.
    ///
    /// # Errors
    /// Why it can run no containers.
    pub fn find(path: Option<&std::ffi::OsStr>) -> Result<Self, Unable> {
        let folders: Vec<PathBuf> = path.map(|path| std::env::split_paths(path).collect()).unwrap_or_default();
        let folders = folders
            .iter()
            .map(PathBuf::as_path)
            .chain(["/usr/sbin", "/usr/bin", "/usr/local/bin", "/usr/local/sbin"].map(Path::new));
        let folders: Vec<&Path> = folders.collect();
        let found =
            PROGRAMS.iter().find_map(|name| folders.iter().map(|folder| folder.join(name)).find(|path| path.is_file()));
        let program = found.ok_or(Unable::Runtime)?;
        if !rustix::process::geteuid().is_root() {
            return Err(Unable::Root);
        }
        if program.ends_with("crun") && cgroup::is_hybrid() {
            return Err(Unable::Hybrid);
        }
        let missing = cgroup::missing_controllers();
        if !missing.is_empty() {
            return Err(Unable::Controllers(missing.join(", ")));
        }
        let namespaces_max = std::fs::read_to_string("/proc/sys/user/max_user_namespaces").ok();
        let has_user_namespaces =
            namespaces_max.and_then(|max| max.trim().parse().ok()).is_some_and(|max: u64| max > 0);
        Ok(Self { program, has_user_namespaces })
    }

    /// Asks it to do something to a container. It blocks the thread, for some milliseconds.
    ///
    /// # Errors
    /// What it says.
    pub(super) fn ask(&self, root: &Path, arguments: &[&str]) -> Result<(), String> {
        let mut command = Command::new(&self.program);
        let done = command.arg("--root").arg(root).args(arguments).stdin(Stdio::null()).output();
        let done = done.map_err(|error| format!("cannot start {}: {error}", self.program.display()))?;
        if done.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&done.stderr).trim().to_owned()) }
    }
}
