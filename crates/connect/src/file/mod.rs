//! Files: a source follows one that grows, a sink writes one after the other.

mod format;
mod sink;
mod source;
#[cfg(test)]
mod tests;

pub(crate) use sink::FileSink;
pub(crate) use source::FileSource;

use std::fs::File;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};

use crate::{Machine, Trouble};

/// A folder that is held open, so that its files are reached whatever becomes of its name.
#[derive(Debug, Clone)]
struct Folder(Arc<OwnedFd>);

impl Folder {
    /// Opens a folder that the node offers; on a thread that may wait for the disk.
    async fn of(machine: &Arc<dyn Machine>, path: &Path) -> Result<Self, Trouble> {
        let (machine, path) = (Arc::clone(machine), path.to_owned());
        let opened = tokio::task::spawn_blocking(move || machine.folder(&path)).await;
        Ok(Self(Arc::new(opened.map_err(|error| Trouble(error.to_string()))??)))
    }

    /// A file of it by its name. A link is not followed: whoever may make one there could name any file of the node.
    fn open(&self, name: &str, flags: OFlags) -> Result<File, std::io::Error> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = File::from(rustix::fs::openat(&self.0, name, flags, Mode::from_raw_mode(0o640))?);
        if !file.metadata()?.is_file() {
            return Err(std::io::Error::other("it is no file"));
        }
        Ok(file)
    }

    /// A path for what takes only paths.
    fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.0.as_raw_fd()))
    }
}

/// Lets a thread that may wait for the disk do something with what one task has.
async fn aside<S: Send + 'static, T: Send + 'static>(
    slot: &mut Option<S>,
    work: impl FnOnce(&mut S) -> Result<T, Trouble> + Send + 'static,
) -> Result<T, Trouble> {
    let interrupted = || Trouble("it was interrupted; it is opened anew".to_owned());
    let mut inner = slot.take().ok_or_else(interrupted)?;
    let done = tokio::task::spawn_blocking(move || {
        let result = work(&mut inner);
        (inner, result)
    });
    let (inner, result) = done.await.map_err(|_| interrupted())?;
    *slot = Some(inner);
    result
}
