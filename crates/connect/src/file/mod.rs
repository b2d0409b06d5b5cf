//! Files: a source follows one that grows, or reads whole ones of a folder; a sink writes one after the other.

mod description;
mod format;
mod parquet;
mod parquet_source;
#[cfg(test)]
mod parquet_tests;
mod sink;
mod source;
#[cfg(test)]
mod tests;

pub(crate) use parquet_source::ParquetSource;
pub(crate) use sink::FileSink;
pub(crate) use source::FileSource;

use std::fs::File;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};

use crate::{Machine, Taken, Trouble};

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

/// Up to so many bytes from a place on.
fn read_at(file: &File, offset: u64, length: usize) -> std::io::Result<Vec<u8>> {
    let (mut bytes, mut filled) = (vec![0; length], 0);
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, offset + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

/// Notes that a record is none.
fn pass_over(taken: &mut Taken, why: String) {
    let before = taken.passed_over.take().map_or(0, |(count, _)| count);
    taken.passed_over = Some((before + 1, why));
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
