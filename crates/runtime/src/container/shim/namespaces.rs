//! The namespaces that a shim makes and enters, and the mounts that it makes in its own.
//!
//! What is `unsafe` here: `unshare` could take the table of descriptors from other threads; it is asked for namespaces only, and
//! a shim has one thread. `mount` is called through `libc` with strings that end with a zero and live as long as the call; it keeps none.
//! `ioctl` is given a structure of the kind that its request reads.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::{Gid, Pid, Uid};
use rustix::thread::{LinkNameSpaceType, UnshareFlags};

use super::{ShimError, cannot};

const ENTER: &str = "enter the container's namespaces";
const BECOME: &str = "become the container's user";

/// Has mounts of its own from now on, that no other process sees.
pub(super) fn own_mounts() -> Result<(), ShimError> {
    // SAFETY: the flag concerns mounts only, not descriptors.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }.map_err(cannot("have mounts of its own"))?;
    mount(Path::new("/"), Path::new("/"), None, libc::MS_SLAVE | libc::MS_REC, None)
        .map_err(cannot("keep its mounts to itself"))
}

/// Has a network of its own from now on, with loopback only, and names, shared memory and numbers of processes of its own for the
/// processes that it starts.
pub(super) fn own_network() -> Result<(), ShimError> {
    let spaces = UnshareFlags::NEWNET | UnshareFlags::NEWIPC | UnshareFlags::NEWUTS | UnshareFlags::NEWPID;
    // SAFETY: the flags concern namespaces only, not descriptors.
    unsafe { rustix::thread::unshare_unsafe(spaces) }.map_err(cannot("have namespaces of its own"))?;
    rustix::system::sethostname(b"function").map_err(cannot("have a host name of its own"))?;
    start_loopback().map_err(cannot("start the loopback of its own network"))
}

/// Has the mounts and control groups that it sees for itself from now on.
pub(super) fn own_view() -> Result<(), ShimError> {
    own_mounts()?;
    // SAFETY: the flag concerns the view of control groups only, not descriptors.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWCGROUP) }.map_err(cannot("have control groups of its own"))
}

fn start_loopback() -> io::Result<()> {
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    // SAFETY: all of it may be zero.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (place, byte) in request.ifr_name.iter_mut().zip(b"lo") {
        *place = *byte as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
    // SAFETY: this request reads a structure of this kind, which lives until it returns.
    let status = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &request) };
    if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Is this user of the machine from now on, with no rights but theirs.
pub(super) fn become_user(id: u32) -> Result<(), ShimError> {
    let (user, group) = (Uid::from_raw(id), Gid::from_raw(id));
    rustix::thread::set_thread_groups(&[]).map_err(cannot(BECOME))?;
    rustix::thread::set_thread_res_gid(group, group, group).map_err(cannot(BECOME))?;
    rustix::thread::set_thread_res_uid(user, user, user).map_err(cannot(BECOME))
}

/// Covers a folder with an empty one that lets everybody pass.
pub(super) fn cover(folder: &Path) -> io::Result<()> {
    let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    mount(Path::new("tmpfs"), folder, Some(c"tmpfs"), flags, Some(c"mode=711,size=64k"))
}

/// Lets a folder be seen in another place, too.
pub(super) fn bind(folder: &Path, place: &Path) -> io::Result<()> {
    mount(folder, place, None, libc::MS_BIND | libc::MS_REC, None)
}

/// Mounts something as `mount(2)` does.
pub(super) fn mount(
    source: &Path,
    target: &Path,
    kind: Option<&CStr>,
    flags: libc::c_ulong,
    options: Option<&CStr>,
) -> io::Result<()> {
    let (source, target) = (CString::new(source.as_os_str().as_bytes())?, CString::new(target.as_os_str().as_bytes())?);
    let text = |text: Option<&CStr>| text.map_or(std::ptr::null(), CStr::as_ptr);
    // SAFETY: all four are null or end with a zero, and live until it returns; with a null in place of the kind or of the options the
    // flags do not ask for them.
    let status = unsafe { libc::mount(source.as_ptr(), target.as_ptr(), text(kind), flags, text(options).cast()) };
    if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Unmounts whatever is mounted there, once nobody uses it any more.
pub(super) fn detach(place: &Path) -> io::Result<()> {
    let place = CString::new(place.as_os_str().as_bytes())?;
    // SAFETY: the text ends with a zero and lives until it returns.
    let status = unsafe { libc::umount2(place.as_ptr(), libc::MNT_DETACH) };
    if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The namespaces of a container, which stay even if it ends at once.
pub(super) struct Spaces {
    /// Where it has its own.
    users: Option<OwnedFd>,
    network: OwnedFd,
}

impl Spaces {
    /// Those of a process.
    pub(super) fn of(container: Pid, has_user_namespace: bool) -> Result<Self, ShimError> {
        let open = |name: &str| {
            let path = format!("/proc/{}/ns/{name}", container.as_raw_nonzero());
            rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(cannot(ENTER))
        };
        Ok(Self { users: has_user_namespace.then(|| open("user")).transpose()?, network: open("net")? })
    }

    /// Enters the network: sockets that are made from now on are in it.
    pub(super) fn enter_network(&self) -> Result<(), ShimError> {
        rustix::thread::move_into_link_name_space(self.network.as_fd(), Some(LinkNameSpaceType::Network))
            .map_err(cannot(ENTER))
    }

    /// Enters that of users, where it has its own: this is root of the machine no more, but root of the container.
    pub(super) fn enter_users(&self) -> Result<(), ShimError> {
        let Some(users) = &self.users else { return Ok(()) };
        rustix::thread::move_into_link_name_space(users.as_fd(), Some(LinkNameSpaceType::User))
            .map_err(cannot(ENTER))?;
        become_user(Uid::ROOT.as_raw())
    }
}
