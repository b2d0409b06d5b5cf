//! What a program may not do, whatever it sees: limits of its processes, rights to files (Landlock), system calls (seccomp).
//!
//! What is `unsafe` here: the filter of system calls is given to the kernel through `libc`; it is copied before the call returns.
#![allow(unsafe_code)]

use std::io;

use landlock::{
    ABI, Access, AccessFs, CompatLevel, Compatible as _, PathBeneath, PathFd, Ruleset, RulesetAttr as _,
    RulesetCreated, RulesetCreatedAttr as _, RulesetStatus,
};
use rustix::process::{Resource, Rlimit};
use rustix::thread::CapabilitySet;

use super::root::{APP, DEVICES, INSTALLED, SETTINGS, WRITABLE};
use super::{ShimError, cannot};
use crate::container::{seccomp, spec};

/// What the kernel must restrict, and what it does restrict if it knows it.
const RULES_MIN: ABI = ABI::V1;
const RULES: ABI = ABI::V5;
const FILES: &str = "restrict which files it reaches";
const CALLS: &str = "restrict its system calls";

/// Limits what each of its processes may have open, and what rights any of them could ever get.
pub(super) fn limit() -> Result<(), ShimError> {
    let most = rustix::process::getrlimit(Resource::Nofile).maximum;
    let files = Some(most.map_or(spec::FILES_MAX, |most| most.min(spec::FILES_MAX)));
    for (resource, most) in [(Resource::Nofile, files), (Resource::Core, Some(0))] {
        let limit = Rlimit { current: most, maximum: most };
        rustix::process::setrlimit(resource, limit).map_err(cannot("limit its processes"))?;
    }
    for capability in CapabilitySet::all().iter() {
        // Those that this kernel does not know, nobody can get.
        let _ = rustix::thread::remove_capability_from_bounding_set(capability);
    }
    Ok(())
}

/// Reads what it sees, runs what is installed and itself, writes only where it may; also where a file's owner would let it.
pub(super) fn restrict_files() -> Result<(), ShimError> {
    let (all, read) = (AccessFs::from_all(RULES), AccessFs::from_read(RULES));
    let restricted = || -> Result<RulesetStatus, landlock::RulesetError> {
        let rules = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
        let rules = rules.handle_access(AccessFs::from_all(RULES_MIN))?.set_compatibility(CompatLevel::BestEffort);
        let mut rules = rules.handle_access(all)?.create()?;
        for path in INSTALLED.iter().chain(&SETTINGS).chain(&[APP, "/proc"]) {
            rules = beneath(rules, path, read)?;
        }
        for path in WRITABLE {
            rules = beneath(rules, path, all)?;
        }
        for path in DEVICES {
            rules = beneath(rules, path, AccessFs::ReadFile | AccessFs::WriteFile)?;
        }
        Ok(rules.restrict_self()?.ruleset)
    };
    match restricted() {
        Ok(RulesetStatus::NotEnforced) => Err(cannot(FILES)(io::Error::other("this kernel has no Landlock"))),
        Ok(_) => Ok(()),
        Err(error) => Err(cannot(FILES)(io::Error::other(error.to_string()))),
    }
}

/// Grants something, if it is there; of a file as much as concerns one.
fn beneath(
    rules: RulesetCreated,
    path: &str,
    rights: landlock::BitFlags<AccessFs>,
) -> Result<RulesetCreated, landlock::RulesetError> {
    let Ok(opened) = PathFd::new(path) else { return Ok(rules) };
    let is_folder = std::fs::metadata(path).is_ok_and(|metadata| metadata.is_dir());
    let rights = if is_folder { rights } else { rights & AccessFs::from_file(RULES) };
    rules.add_rule(PathBeneath::new(opened, rights))
}

/// No program that it runs gets more rights than it has, and none makes system calls that are not on the list.
pub(super) fn restrict_calls() -> Result<(), ShimError> {
    rustix::thread::set_no_new_privs(true).map_err(cannot(CALLS))?;
    let unknown = || cannot(CALLS)(io::Error::other("their numbers on this processor are not known"));
    let mut filter = seccomp::filter().ok_or_else(unknown)?;
    let length = filter.len().try_into().map_err(|_| unknown())?;
    let program = libc::sock_fprog { len: length, filter: filter.as_mut_ptr() };
    // SAFETY: the filter has as many instructions as it says and lives until the kernel has copied it.
    let status = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &program) };
    if status == 0 { Ok(()) } else { Err(cannot(CALLS)(io::Error::last_os_error())) }
}
