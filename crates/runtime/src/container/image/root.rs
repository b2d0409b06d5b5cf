//! The folder that an image is unpacked into, and out of which nothing that a layer names can lead.
//!
//! Every path is resolved by the kernel beneath the folder (`openat2` with `RESOLVE_BENEATH`), and what is made or removed is named
//! by one component within a folder that was opened so. A link is thus never followed out of the image, whatever its layers put where.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, fchmod, fchown, futimens,
    linkat, mkdirat, openat, openat2, statat, symlinkat, unlinkat,
};
use rustix::io::Errno;

use super::layer::DEPTH_MAX;

/// What a folder has that a layer implies and does not describe.
const FOLDER_MODE: u32 = 0o755;
/// No one may become another by a file of an image: it lies on the machine's disk, too.
const MODE_MASK: u32 = 0o1777;
/// The kernel answers so often that something was renamed meanwhile before we believe that it always will be.
const RESOLVE_ATTEMPTS: usize = 16;
/// What is answered where a folder would be too deep: nothing else here comes to it.
pub(super) const TOO_DEEP: Errno = Errno::TOOBIG;

/// The users of this machine that those of containers are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Owners {
    /// The user that root within is; the others follow.
    pub first: u32,
    /// How many there are.
    pub count: u32,
}

/// To whom a file belongs, and what may be done with it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attributes {
    pub(crate) mode: u32,
    pub(crate) uid: u64,
    pub(crate) gid: u64,
    pub(crate) mtime_s: u64,
}

impl Attributes {
    const IMPLIED: Self = Self { mode: FOLDER_MODE, uid: 0, gid: 0, mtime_s: 0 };
}

/// The root of an image that is being unpacked.
#[derive(Debug)]
pub(crate) struct Root {
    folder: OwnedFd,
    /// None where files stay this process' own.
    owners: Option<Owners>,
}

/// A place within the root: a folder that is open, and a name in it.
pub(crate) struct Place<'a> {
    pub(crate) folder: OwnedFd,
    pub(crate) name: &'a OsStr,
}

impl Root {
    pub(crate) fn open(path: &Path, owners: Option<Owners>) -> Result<Self, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let root = Self { folder: rustix::fs::open(path, flags, Mode::empty())?, owners };
        root.give(root.folder.as_fd(), Attributes::IMPLIED)?;
        Ok(root)
    }

    /// Where a path leads, with the folders on the way made if need be.
    pub(crate) fn place<'a>(&self, path: &'a Path) -> Result<Place<'a>, Errno> {
        let name = path.file_name().ok_or(Errno::INVAL)?;
        Ok(Place { folder: self.folder(path.parent().unwrap_or(Path::new("")))?, name })
    }

    /// Where a path leads, if the folders on the way are there.
    pub(crate) fn find<'a>(&self, path: &'a Path) -> Result<Option<Place<'a>>, Errno> {
        let name = path.file_name().ok_or(Errno::INVAL)?;
        match self.resolve(path.parent().unwrap_or(Path::new(""))) {
            Ok(folder) => Ok(Some(Place { folder, name })),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The folder at a path, made if need be, also those on the way.
    fn folder(&self, path: &Path) -> Result<OwnedFd, Errno> {
        match self.resolve(path) {
            Err(Errno::NOENT) => {}
            found => return found,
        }
        let mut folder = self.resolve(Path::new(""))?;
        let mut walked = PathBuf::new();
        for component in path.components() {
            walked.push(component);
            folder = match self.resolve(&walked) {
                Err(Errno::NOENT) => {
                    self.make_folder(&Place { folder, name: component.as_os_str() }, Attributes::IMPLIED)?
                }
                found => found?,
            };
        }
        Ok(folder)
    }

    fn resolve(&self, path: &Path) -> Result<OwnedFd, Errno> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut attempt = 1;
        loop {
            match openat2(&self.folder, path, flags, Mode::empty(), ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS)
            {
                Err(Errno::AGAIN) if attempt < RESOLVE_ATTEMPTS => attempt += 1,
                found => return found,
            }
        }
    }

    /// Makes a folder, or takes the one that is there, and gives it its attributes.
    pub(crate) fn make_folder(&self, place: &Place<'_>, attributes: Attributes) -> Result<OwnedFd, Errno> {
        // A path may lead through links to where it does not say; deeper than this, no tree could be removed again.
        if place.depth()? >= self.depth()? + DEPTH_MAX && place.kind()?.is_none() {
            return Err(TOO_DEEP);
        }
        match mkdirat(&place.folder, place.name, Mode::from_raw_mode(0o700)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let folder = openat(&place.folder, place.name, flags, Mode::empty())?;
        self.give(folder.as_fd(), attributes)?;
        Ok(folder)
    }

    /// Makes an empty file where nothing is.
    pub(crate) fn make_file(&self, place: &Place<'_>) -> Result<File, Errno> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        openat(&place.folder, place.name, flags, Mode::from_raw_mode(0o600)).map(File::from)
    }

    /// Makes a symbolic link where nothing is. It may say anything: it is never followed out of the root.
    pub(crate) fn make_link(&self, place: &Place<'_>, target: &OsStr, attributes: Attributes) -> Result<(), Errno> {
        symlinkat(target, &place.folder, place.name)?;
        match self.owner(attributes)? {
            Some((uid, gid)) => {
                rustix::fs::chownat(&place.folder, place.name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
            }
            None => Ok(()),
        }
    }

    /// Makes another name of a file within the root.
    pub(crate) fn make_hard_link(&self, place: &Place<'_>, target: &Path) -> Result<(), Errno> {
        let target = self.find(target)?.ok_or(Errno::NOENT)?;
        linkat(&target.folder, target.name, &place.folder, place.name, AtFlags::empty())
    }

    /// Gives a file its owner, its mode and its time.
    pub(crate) fn give(&self, file: BorrowedFd<'_>, attributes: Attributes) -> Result<(), Errno> {
        if let Some((uid, gid)) = self.owner(attributes)? {
            fchown(file, Some(uid), Some(gid))?;
        }
        fchmod(file, Mode::from_raw_mode(attributes.mode & MODE_MASK))?;
        let time = Timespec { tv_sec: i64::try_from(attributes.mtime_s).unwrap_or(0), tv_nsec: 0 };
        futimens(file, &Timestamps { last_access: time, last_modification: time })
    }

    fn depth(&self) -> Result<usize, Errno> {
        depth(self.folder.as_fd())
    }

    /// The user and the group of this machine; an error for those that no container has.
    fn owner(&self, attributes: Attributes) -> Result<Option<(Uid, Gid)>, Errno> {
        let Some(owners) = self.owners else { return Ok(None) };
        let id = |id: u64| {
            let within = u32::try_from(id).ok().filter(|id| *id < owners.count);
            within.and_then(|id| owners.first.checked_add(id)).ok_or(Errno::OVERFLOW)
        };
        Ok(Some((Uid::from_raw(id(attributes.uid)?), Gid::from_raw(id(attributes.gid)?))))
    }

    /// Removes what a folder of the root holds, but for what `keeps` names: whole, or in part if it is a folder.
    pub(crate) fn clear(&self, path: &Path, keeps: &dyn Fn(&Path) -> bool) -> Result<(), Errno> {
        match self.resolve(path) {
            Ok(folder) => clear(&folder, path, keeps),
            Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Writes all of it to disk.
    pub(crate) fn sync(&self) -> Result<(), Errno> {
        rustix::fs::syncfs(&self.folder)
    }
}

impl Place<'_> {
    /// What is there; a link is not followed.
    pub(crate) fn kind(&self) -> Result<Option<FileType>, Errno> {
        match statat(&self.folder, self.name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) => Ok(Some(FileType::from_raw_mode(found.st_mode))),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn depth(&self) -> Result<usize, Errno> {
        depth(self.folder.as_fd())
    }

    /// Removes what is there, if anything is.
    pub(crate) fn remove(&self) -> Result<(), Errno> {
        remove(&self.folder, self.name)
    }
}

/// How many folders an open one is below the machine's root.
fn depth(folder: BorrowedFd<'_>) -> Result<usize, Errno> {
    let path = rustix::fs::readlink(format!("/proc/self/fd/{}", folder.as_raw_fd()), Vec::new())?;
    Ok(path.as_bytes().iter().filter(|byte| **byte == b'/').count())
}

fn remove(folder: &OwnedFd, name: &OsStr) -> Result<(), Errno> {
    match unlinkat(folder, name, AtFlags::empty()) {
        Err(Errno::ISDIR | Errno::PERM) => {}
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(error) => return Err(error),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    clear(&openat(folder, name, flags, Mode::empty())?, Path::new(""), &|_| false)?;
    unlinkat(folder, name, AtFlags::REMOVEDIR)
}

/// As deep as the tree is, which layers bound by the length of a path.
fn clear(folder: &OwnedFd, path: &Path, keeps: &dyn Fn(&Path) -> bool) -> Result<(), Errno> {
    let names: Vec<_> = Dir::read_from(folder)?
        .map(|entry| entry.map(|entry| entry.file_name().to_owned()))
        .filter(|name| !name.as_ref().is_ok_and(|name| [c".", c".."].contains(&name.as_c_str())))
        .collect::<Result<_, _>>()?;
    for name in names {
        let name = OsStr::from_bytes(name.as_bytes());
        let path = path.join(name);
        if !keeps(&path) {
            remove(folder, name)?;
            continue;
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        match openat(folder, name, flags, Mode::empty()) {
            Ok(kept) => clear(&kept, &path, keeps)?,
            Err(Errno::NOTDIR | Errno::LOOP) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
