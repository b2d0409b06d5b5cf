//! The little that the log asks of a file system, and the real one.
//!
//! Everything here blocks: only the log's own thread, and readers of what is no longer in memory, call it.

use std::fs::File;
use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::StoreError;

/// The file whose lock tells that a node uses the directory.
const LOCK_FILE: &str = "lock";
/// How many slices one system call takes (`IOV_MAX` of Linux).
const SLICES_PER_WRITE: usize = 1024;

/// A directory of files.
pub trait Disk: Send + Sync + 'static {
    /// Where a file is, for messages.
    fn path(&self, name: &str) -> PathBuf;

    /// The names of all files.
    ///
    /// # Errors
    /// What the system says.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Makes an empty file; one of that name is replaced.
    ///
    /// # Errors
    /// What the system says.
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;

    /// Opens a file.
    ///
    /// # Errors
    /// What the system says.
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;

    /// Renames a file, replacing one of the new name.
    ///
    /// # Errors
    /// What the system says.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Deletes a file.
    ///
    /// # Errors
    /// What the system says.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes creations, renamings and deletions durable.
    ///
    /// # Errors
    /// What the system says.
    fn sync_dir(&self) -> io::Result<()>;
}

/// One open file. It can still be read after it was deleted.
pub trait DiskFile: Send + Sync + 'static {
    /// Its length in bytes.
    ///
    /// # Errors
    /// What the system says.
    fn size(&self) -> io::Result<u64>;

    /// Makes the file `bytes` long; what is new reads as zeros, and its space is reserved where that can be done.
    ///
    /// # Errors
    /// What the system says; `StorageFull` when there is not enough space.
    fn allocate(&self, bytes: u64) -> io::Result<()>;

    /// Reads some bytes; fewer than asked for, and 0 at the end.
    ///
    /// # Errors
    /// What the system says.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes some of the bytes.
    ///
    /// # Errors
    /// What the system says.
    fn write_at(&self, slices: &[IoSlice<'_>], offset: u64) -> io::Result<usize>;

    /// Makes what was written durable. After an error nothing is known about what was written since the last success,
    /// and trying again proves nothing.
    ///
    /// # Errors
    /// What the system says.
    fn sync(&self) -> io::Result<()>;
}

/// Reads exactly `buffer`.
pub(crate) fn read_exact_at(file: &dyn DiskFile, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !buffer.is_empty() {
        match file.read_at(buffer, offset) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                let read = buffer;
                buffer = read.get_mut(count..).unwrap_or_default();
                offset += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Writes all of `slices`.
pub(crate) fn write_all_at(file: &dyn DiskFile, mut slices: &mut [IoSlice<'_>], mut offset: u64) -> io::Result<()> {
    IoSlice::advance_slices(&mut slices, 0);
    while !slices.is_empty() {
        match file.write_at(slices, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => {
                IoSlice::advance_slices(&mut slices, count);
                offset += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// A directory of the file system, locked against other processes as long as this lives.
#[derive(Debug)]
pub struct RealDisk {
    dir: PathBuf,
    handle: File,
    _lock: File,
}

impl RealDisk {
    /// Makes the directory where it is missing, and locks it.
    ///
    /// # Errors
    /// [`StoreError::Locked`] when another process uses it; [`StoreError::Io`] when it cannot be used.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        std::fs::create_dir_all(dir).map_err(|error| StoreError::io("create", dir, &error))?;
        let path = dir.join(LOCK_FILE);
        let lock = File::options().create(true).truncate(false).write(true).open(&path);
        let lock = lock.map_err(|error| StoreError::io("create", &path, &error))?;
        if let Err(error) = rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            return Err(match error {
                rustix::io::Errno::WOULDBLOCK => StoreError::Locked { dir: dir.to_owned() },
                error => StoreError::io("lock", &path, &error.into()),
            });
        }
        let handle = File::open(dir).map_err(|error| StoreError::io("open", dir, &error))?;
        Ok(Self { dir: dir.to_owned(), handle, _lock: lock })
    }
}

impl Disk for RealDisk {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let names = std::fs::read_dir(&self.dir)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        names.collect()
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = File::options().read(true).write(true).create(true).truncate(true).open(self.path(name))?;
        Ok(Arc::new(RealFile(file)))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = File::options().read(true).write(true).open(self.path(name))?;
        Ok(Arc::new(RealFile(file)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.path(from), self.path(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.path(name))
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.handle.sync_all()
    }
}

struct RealFile(File);

impl DiskFile for RealFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        match rustix::fs::fallocate(&self.0, rustix::fs::FallocateFlags::empty(), 0, bytes) {
            // A file system that cannot reserve: the file is sparse then, and a full disk is noticed when writing.
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => self.0.set_len(bytes),
            done => done.map_err(Into::into),
        }
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buffer, offset)
    }

    fn write_at(&self, slices: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        let slices = slices.get(..SLICES_PER_WRITE).unwrap_or(slices);
        rustix::io::pwritev(&self.0, slices, offset).map_err(Into::into)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}
