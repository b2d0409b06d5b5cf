//! A way for a container's root to the files of its image.
//!
//! In a user namespace of its own, root is nobody to the folders of this machine, and a data directory lets nobody pass. In the mount
//! namespace of a shim, the topmost folder that does is covered by an empty one that lets everybody pass, with the containers' folder
//! in its old place. Paths are the same within and without, and nobody else sees it.

use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use super::namespaces;
use super::{ShimError, cannot};

/// Passable, not readable.
const FOLDER_MODE: u32 = 0o711;
const COVER: &str = "make a way to the containers' folder";

/// Makes a way to a folder, which itself is passable. The path is absolute, without links.
pub(super) fn open(folder: &Path) -> Result<(), ShimError> {
    namespaces::own_mounts()?;
    let Some(closed) = closed(folder)? else { return Ok(()) };
    // Opened in the new mount namespace: no other's mount can be bound.
    let kept = rustix::fs::open(folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let kept = kept.map_err(cannot(COVER))?;
    namespaces::cover(&closed).map_err(cannot(COVER))?;
    std::fs::DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(folder).map_err(cannot(COVER))?;
    let kept = PathBuf::from(format!("/proc/self/fd/{}", kept.as_raw_fd()));
    namespaces::bind(&kept, folder).map_err(cannot(COVER))
}

/// The topmost folder on the way that does not let everybody pass.
fn closed(folder: &Path) -> Result<Option<PathBuf>, ShimError> {
    let mut above: Vec<&Path> = folder.ancestors().skip(1).collect();
    above.reverse();
    for folder in above {
        let mode = folder.metadata().map_err(cannot(COVER))?.permissions().mode();
        if mode & 0o001 == 0 {
            return Ok(Some(folder.to_owned()));
        }
    }
    Ok(None)
}
