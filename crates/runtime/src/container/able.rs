//! What besides components a machine can run, and why not the rest.

use std::ffi::OsStr;
use std::path::Path;

use landlock::{ABI, Access as _, AccessFs, CompatLevel, Compatible as _, Ruleset, RulesetAttr as _};
use rustix::thread::CapabilitySet;

use super::oci::{OciRuntime, Unable};
use super::{cgroup, seccomp};

/// The namespaces that a program has of its own.
const NAMESPACES: [&str; 6] = ["cgroup", "ipc", "mnt", "net", "pid", "uts"];

/// What besides components a machine can run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Abilities {
    /// Containers of images: the program that makes them, or why there are none.
    pub images: Result<OciRuntime, Unable>,
    /// Processes of programs, or why there are none.
    pub programs: Result<(), Unable>,
}

impl Abilities {
    /// What this machine can, with container runtimes looked for in `path` (as the variable `PATH` has it).
    #[must_use]
    pub fn find(path: Option<&OsStr>) -> Self {
        Self { images: OciRuntime::find(path), programs: programs() }
    }

    /// Whether it can run anything of this.
    #[must_use]
    pub fn any(&self) -> bool {
        self.images.is_ok() || self.programs.is_ok()
    }

    pub(super) fn has_user_namespaces(&self) -> bool {
        self.images.as_ref().is_ok_and(|runtime| runtime.has_user_namespaces)
    }
}

/// Whether this machine's kernel confines processes as far as it has to.
fn programs() -> Result<(), Unable> {
    let has_rights =
        rustix::thread::capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_ADMIN));
    if !rustix::process::geteuid().is_root() || !has_rights {
        return Err(Unable::Root);
    }
    let missing = cgroup::missing_controllers();
    if !missing.is_empty() {
        return Err(Unable::Controllers(missing.join(", ")));
    }
    let missing: Vec<&str> =
        NAMESPACES.into_iter().filter(|name| !Path::new("/proc/self/ns").join(name).exists()).collect();
    if !missing.is_empty() {
        return Err(Unable::Namespaces(missing.join(", ")));
    }
    let rules = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
    if rules.handle_access(AccessFs::from_all(ABI::V1)).and_then(Ruleset::create).is_err() {
        return Err(Unable::Landlock);
    }
    if seccomp::filter().is_none() || !Path::new("/proc/sys/kernel/seccomp").exists() {
        return Err(Unable::Filter);
    }
    Ok(())
}
