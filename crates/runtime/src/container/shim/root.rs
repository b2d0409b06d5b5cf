//! The files that a program sees: a root of its own in memory, with what the machine has installed, read-only, and nothing else of it.
//!
//! ```text
//! /usr /bin /sbin /lib …   as the machine has them, read-only
//! /etc                     what dynamic linking and local time need
//! /app/NAME                the program
//! /proc /dev               of its own
//! /tmp /dev/shm            in memory, its own to write to
//! ```
//!
//! All mounts are in the namespace of the program's first process and go with it.

use std::fs;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{DirBuilderExt as _, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use super::namespaces::{bind, detach, mount};
use super::{ShimError, cannot};
use crate::container::program::Program;

/// Where the program is.
pub(super) const APP: &str = "/app";
/// What is installed: programs and libraries. Where the machine has a link, the program sees the same link.
pub(super) const INSTALLED: [&str; 7] = ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"];
/// What of the machine's settings programs need that are linked dynamically or called by another name, and to know the local time.
pub(super) const SETTINGS: [&str; 3] = ["/etc/alternatives", "/etc/ld.so.cache", "/etc/localtime"];
/// Devices that every program may use.
pub(super) const DEVICES: [&str; 5] = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"];
/// What it may write to; half of its memory each at most.
pub(super) const WRITABLE: [&str; 2] = ["/tmp", "/dev/shm"];
/// What names of open files are links to.
const OPENED: [(&str, &str); 4] = [
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
];
/// How large the root itself may be: folders and links only.
const ROOT_OPTIONS: &str = "mode=755,size=256k";
const READ_ONLY: libc::c_ulong = libc::MS_RDONLY | libc::MS_NOSUID | libc::MS_NODEV;
const MAKE: &str = "make the program's files";

/// Makes the root at a place, and this process see nothing else. The process has mounts of its own already.
pub(super) fn make(place: &Path, program: &Program, memory_bytes: u64) -> Result<(), ShimError> {
    let made = || -> io::Result<()> {
        // No link is followed: the folder is the node's to write to.
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = rustix::fs::open(&program.file, flags, Mode::empty())?;
        fs::create_dir_all(place)?;
        let place = place.canonicalize()?;
        volatile(&place, ROOT_OPTIONS, libc::MS_NOSUID)?;
        for path in INSTALLED.iter().chain(&SETTINGS) {
            show(Path::new(path), &place)?;
        }
        let app = inside(&place, Path::new(APP).join(&program.name).as_path());
        file(&app)?;
        bind(&PathBuf::from(format!("/proc/self/fd/{}", opened.as_raw_fd())), &app)?;
        read_only(&app)?;
        for device in DEVICES {
            let seen = inside(&place, Path::new(device));
            file(&seen)?;
            bind(Path::new(device), &seen)?;
        }
        for (link, target) in OPENED {
            symlink(target, inside(&place, Path::new(link)))?;
        }
        let options = format!("mode=1777,size={}", memory_bytes / 2);
        for path in WRITABLE {
            let path = inside(&place, Path::new(path));
            folder(&path)?;
            volatile(&path, &options, libc::MS_NOSUID | libc::MS_NODEV)?;
        }
        let proc = inside(&place, Path::new("/proc"));
        folder(&proc)?;
        let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
        mount(Path::new("proc"), &proc, Some(c"proc"), flags, None)?;
        enter(&place)
    };
    made().map_err(cannot(MAKE))
}

/// Makes it the root; what was the root is seen no more.
fn enter(place: &Path) -> io::Result<()> {
    std::env::set_current_dir(place)?;
    rustix::process::pivot_root(".", ".")?;
    // The old root lies on the new one now.
    detach(Path::new("."))?;
    std::env::set_current_dir("/")?;
    read_only(Path::new("/"))
}

/// Shows something of the machine within the root, if the machine has it.
fn show(path: &Path, place: &Path) -> io::Result<()> {
    let Ok(metadata) = fs::symlink_metadata(path) else { return Ok(()) };
    let seen = inside(place, path);
    if metadata.is_symlink() {
        folder(seen.parent().unwrap_or(place))?;
        return symlink(fs::read_link(path)?, seen);
    }
    if metadata.is_dir() {
        folder(&seen)?
    } else {
        file(&seen)?
    }
    bind(path, &seen)?;
    read_only(&seen)
}

/// Where an absolute path is within a root.
fn inside(place: &Path, path: &Path) -> PathBuf {
    place.join(path.strip_prefix("/").unwrap_or(path))
}

fn folder(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o755).create(path)
}

fn file(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), folder)?;
    fs::File::create(path).map(drop)
}

fn volatile(path: &Path, options: &str, flags: libc::c_ulong) -> io::Result<()> {
    let options = std::ffi::CString::new(options)?;
    mount(Path::new("tmpfs"), path, Some(c"tmpfs"), flags, Some(&options))
}

fn read_only(path: &Path) -> io::Result<()> {
    mount(path, path, None, libc::MS_BIND | libc::MS_REMOUNT | READ_ONLY, None)
}
