//! Unpacks a layer of an image: a tar archive of what it adds, and of whiteouts, which name what it takes away.
//!
//! Layers come from anybody. What they may do is decided here and in [`root`](super::root); what is refused is said with its path,
//! and nothing is written outside the root before or after.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io::{self, Read, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::fs::FileType;
use rustix::io::Errno;
use tar::{Archive, Entry, EntryType};

use super::root::{Attributes, Place, Root, TOO_DEEP};

/// What an image may take, all of its layers together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes of the files.
    pub bytes: u64,
    /// Files, folders, links and whiteouts.
    pub entries: u64,
}

impl Default for Bounds {
    /// A large image of a machine learning framework has 6 GiB and 200,000 entries.
    fn default() -> Self {
        Self { bytes: 8 << 30, entries: 400_000 }
    }
}

/// How much may describe one entry: long names and extended attributes come before it, and are held in memory.
const DESCRIPTION_BYTES_MAX: u64 = 1 << 20;
/// An entry's content is followed by at most a block of zeroes.
const BLOCK_BYTES: u64 = 512;
/// Deeper trees are none that a program is run from.
pub(super) const DEPTH_MAX: usize = 128;
/// The longest path that Linux takes.
const PATH_BYTES_MAX: usize = 4_095;
/// All paths of a layer together, which are held in memory while it is unpacked; a large layer's have a quarter of it.
const PATHS_BYTES_MAX: usize = 64 << 20;
/// So much of a file is copied at once.
const COPIED_BYTES: usize = 64 << 10;
/// What the name of a whiteout begins with.
const WHITEOUT: &[u8] = b".wh.";
/// The whiteout of all that lower layers have in a folder.
const OPAQUE: &[u8] = b".wh..wh..opq";

/// Why a layer was not unpacked.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// It asks for what no layer may have.
    #[error("`{path}` {reason}")]
    Refused {
        /// The entry.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// It is no archive, or breaks off.
    #[error("it is no readable archive: {0}")]
    Archive(io::Error),
    /// The disk failed.
    #[error("`{path}` cannot be written: {error}")]
    Disk {
        /// The entry.
        path: String,
        /// What the system says.
        error: Errno,
    },
}

/// Unpacks a layer, an archive that is not compressed, and takes what it needs from the bounds. The archive is read to its end.
///
/// # Errors
/// When the layer asks for something it may not have, or is damaged. What is in the root then is of no use.
pub(crate) fn unpack(archive: impl Read, root: &Root, bounds: &mut Bounds) -> Result<(), LayerError> {
    let budget = Rc::new(Cell::new(DESCRIPTION_BYTES_MAX));
    let reader = Budgeted { inner: archive, left: Rc::clone(&budget) };
    let mut archive = Archive::new(reader);
    let mut layer = Layer { root, bounds, made: BTreeSet::new(), paths_bytes_left: PATHS_BYTES_MAX };
    for entry in archive.entries().map_err(LayerError::Archive)? {
        let mut entry = entry.map_err(LayerError::Archive)?;
        let stored = entry.header().entry_size().map_err(LayerError::Archive)?.max(entry.size());
        budget.set(stored.saturating_add(BLOCK_BYTES));
        layer.take(&mut entry)?;
        // What is left of it is skipped when the next one is read.
        io::copy(&mut entry, &mut io::sink()).map_err(LayerError::Archive)?;
        budget.set(DESCRIPTION_BYTES_MAX);
    }
    // Whoever made it may have padded it.
    let mut rest = archive.into_inner();
    rest.left.set(DESCRIPTION_BYTES_MAX);
    io::copy(&mut rest, &mut io::sink()).map_err(LayerError::Archive)?;
    Ok(())
}

/// Reads no more than it is allowed to at the time: the archive's reader holds names and attributes in memory, however long.
struct Budgeted<R> {
    inner: R,
    left: Rc<Cell<u64>>,
}

impl<R: Read> Read for Budgeted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let allowed = usize::try_from(self.left.get()).unwrap_or(usize::MAX).min(buffer.len());
        let Some(buffer) = buffer.get_mut(..allowed).filter(|buffer| !buffer.is_empty()) else {
            return Err(io::Error::other(format!(
                "more than {DESCRIPTION_BYTES_MAX} bytes describe one entry, or follow the last"
            )));
        };
        let read = self.inner.read(buffer)?;
        self.left.set(self.left.get().saturating_sub(read as u64));
        Ok(read)
    }
}

/// A layer that is being unpacked.
struct Layer<'a> {
    root: &'a Root,
    bounds: &'a mut Bounds,
    /// What it has made so far, and the folders on the way: a whiteout concerns lower layers only.
    made: BTreeSet<PathBuf>,
    /// How much longer all of these may get.
    paths_bytes_left: usize,
}

impl Layer<'_> {
    fn take(&mut self, entry: &mut Entry<'_, impl Read>) -> Result<(), LayerError> {
        let kind = entry.header().entry_type();
        if kind == EntryType::XGlobalHeader {
            return Ok(());
        }
        let named = entry.path_bytes().into_owned();
        let shown = String::from_utf8_lossy(&named).into_owned();
        let refused = |reason: String| LayerError::Refused { path: shown.clone(), reason };
        let entries = self.bounds.entries.checked_sub(1);
        self.bounds.entries = entries.ok_or_else(|| refused("is one entry more than an image may have".to_owned()))?;
        let Some(path) = inside(&named).map_err(|reason| refused(reason.to_owned()))? else {
            return if kind == EntryType::Directory { Ok(()) } else { Err(refused("is no name of a file".to_owned())) };
        };
        self.put(&path, kind, entry).map_err(|why| match why {
            Why::Refused(reason) => refused(reason),
            Why::Archive(error) => LayerError::Archive(error),
            Why::Errno(Errno::XDEV | Errno::LOOP) => {
                refused("goes through a link that leads out of the image".to_owned())
            }
            Why::Errno(Errno::NOTDIR | Errno::EXIST) => refused("goes through something that is no folder".to_owned()),
            Why::Errno(Errno::OVERFLOW) => {
                refused("belongs to a user or group that no container has; use ids below 65536".to_owned())
            }
            Why::Errno(Errno::NAMETOOLONG | Errno::INVAL) => refused("is no name of a file".to_owned()),
            Why::Errno(TOO_DEEP) => refused("is nested too deeply".to_owned()),
            Why::Errno(error) => LayerError::Disk { path: shown.clone(), error },
        })
    }

    fn put(&mut self, path: &Path, kind: EntryType, entry: &mut Entry<'_, impl Read>) -> Result<(), Why> {
        let name = path.file_name().unwrap_or_default().as_bytes();
        if let Some(hidden) = name.strip_prefix(WHITEOUT) {
            return self.hide(path, name, hidden);
        }
        let place = self.root.place(path)?;
        let attributes = attributes(entry)?;
        let is_new = self.note(path)?;
        match kind {
            EntryType::Directory => {
                if !matches!(place.kind()?, None | Some(FileType::Directory)) {
                    if !is_new {
                        return Err(twice());
                    }
                    place.remove()?;
                }
                self.root.make_folder(&place, attributes)?;
                return Ok(());
            }
            EntryType::Char | EntryType::Block | EntryType::Fifo => {
                return Err(Why::Refused(
                    "is a device or a pipe; an image has files, folders and links only".to_owned(),
                ));
            }
            _ => {}
        }
        if !is_new && place.kind()?.is_some() {
            return Err(twice());
        }
        match kind {
            EntryType::Symlink => {
                let target = target(entry)?;
                place.remove()?;
                Ok(self.root.make_link(&place, OsStr::from_bytes(&target), attributes)?)
            }
            EntryType::Link => self.link(&place, path, entry),
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                place.remove()?;
                self.write(&place, attributes, entry)
            }
            other => Err(Why::Refused(format!("is of the unknown kind {:#04x}", other.as_byte()))),
        }
    }

    /// Makes another name of a file that is in the image already.
    fn link(&self, place: &Place<'_>, path: &Path, entry: &Entry<'_, impl Read>) -> Result<(), Why> {
        let target =
            inside(&target(entry)?).map_err(|reason| Why::Refused(format!("links to a path that {reason}")))?;
        let target = target.ok_or_else(|| Why::Refused("links to a folder".to_owned()))?;
        if target.as_path() == path {
            return Err(Why::Refused("links to itself".to_owned()));
        }
        place.remove()?;
        self.root.make_hard_link(place, &target).map_err(|error| match error {
            Errno::NOENT | Errno::NOTDIR => {
                Why::Refused(format!("links to `{}`, which is not there", target.display()))
            }
            Errno::PERM => Why::Refused(format!("links to `{}`, which is no file", target.display())),
            Errno::XDEV | Errno::LOOP => {
                Why::Refused(format!("links to `{}`, which leads out of the image", target.display()))
            }
            error => Why::Errno(error),
        })
    }

    fn write(
        &mut self,
        place: &Place<'_>,
        attributes: Attributes,
        entry: &mut Entry<'_, impl Read>,
    ) -> Result<(), Why> {
        let size = entry.size();
        let left = self.bounds.bytes.checked_sub(size);
        self.bounds.bytes = left.ok_or_else(|| {
            Why::Refused(format!(
                "has {size} bytes, which is more than what the image may still have, {}",
                self.bounds.bytes
            ))
        })?;
        let mut file = self.root.make_file(place)?;
        // A sparse file is as long as it says, whatever is stored of it.
        let mut buffer = vec![0; COPIED_BYTES.min(usize::try_from(size).unwrap_or(COPIED_BYTES))];
        let mut missing = size;
        while missing > 0 {
            let read = entry.read(&mut buffer).map_err(Why::Archive)?;
            let part = buffer.get(..read).filter(|part| !part.is_empty() && part.len() as u64 <= missing);
            let part = part.ok_or_else(|| Why::Archive(io::Error::other("it breaks off within a file")))?;
            file.write_all(part).map_err(|error| Why::Errno(Errno::from_io_error(&error).unwrap_or(Errno::IO)))?;
            missing -= read as u64;
        }
        Ok(self.root.give(file.as_fd(), attributes)?)
    }

    /// Takes away what lower layers have: one name, or all of a folder.
    fn hide(&mut self, path: &Path, name: &[u8], hidden: &[u8]) -> Result<(), Why> {
        let folder = path.parent().unwrap_or(Path::new(""));
        if name == OPAQUE {
            return Ok(self.root.clear(folder, &|path| self.made.contains(path))?);
        }
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(Why::Refused("is a whiteout of no file".to_owned()));
        }
        let hidden = folder.join(OsStr::from_bytes(hidden));
        match self.root.find(&hidden)? {
            Some(place) if !self.made.contains(&hidden) => Ok(place.remove()?),
            // What the same layer has made stays, but for what lower layers had in it.
            Some(place) if place.kind()? == Some(FileType::Directory) => {
                Ok(self.root.clear(&hidden, &|path| self.made.contains(path))?)
            }
            _ => Ok(()),
        }
    }

    /// Notes that the layer has a path; answers whether it is the first time that it has an entry of it.
    fn note(&mut self, path: &Path) -> Result<bool, Why> {
        let mut is_new = None;
        for path in path.ancestors().filter(|path| !path.as_os_str().is_empty()) {
            let inserted = self.made.insert(path.to_owned());
            is_new.get_or_insert(inserted);
            if !inserted {
                break;
            }
            let left = self.paths_bytes_left.checked_sub(path.as_os_str().len());
            self.paths_bytes_left =
                left.ok_or_else(|| Why::Refused("is one path too many: all together are too long".to_owned()))?;
        }
        Ok(is_new.unwrap_or(false))
    }
}

/// Why an entry was not taken.
enum Why {
    Refused(String),
    Archive(io::Error),
    Errno(Errno),
}

impl From<Errno> for Why {
    fn from(error: Errno) -> Self {
        Self::Errno(error)
    }
}

fn twice() -> Why {
    Why::Refused("is there twice".to_owned())
}

fn target(entry: &Entry<'_, impl Read>) -> Result<Vec<u8>, Why> {
    let target = entry.link_name_bytes().filter(|target| !target.is_empty());
    let target = target.ok_or_else(|| Why::Refused("is a link to nothing".to_owned()))?;
    if target.len() > PATH_BYTES_MAX || target.contains(&0) {
        return Err(Why::Refused("is a link to what is no path".to_owned()));
    }
    Ok(target.into_owned())
}

fn attributes(entry: &Entry<'_, impl Read>) -> Result<Attributes, Why> {
    let header = entry.header();
    let read =
        || Ok(Attributes { mode: header.mode()?, uid: header.uid()?, gid: header.gid()?, mtime_s: header.mtime()? });
    read().map_err(Why::Archive)
}

/// The path of an entry below the root; none for the root itself.
fn inside(named: &[u8]) -> Result<Option<PathBuf>, &'static str> {
    if named.starts_with(b"/") {
        return Err("is absolute");
    }
    if named.len() > PATH_BYTES_MAX || named.contains(&0) {
        return Err("is no path");
    }
    let parts: Vec<&[u8]> = named.split(|byte| *byte == b'/').filter(|part| !matches!(*part, b"" | b".")).collect();
    if parts.contains(&b"..".as_slice()) {
        return Err("leads out of its folder with `..`");
    }
    if parts.len() > DEPTH_MAX {
        return Err("is nested too deeply");
    }
    Ok((!parts.is_empty()).then(|| parts.into_iter().map(OsStr::from_bytes).collect()))
}
