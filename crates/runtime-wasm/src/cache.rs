//! Compiled components on disk, authenticated with a key of the node.
//!
//! A file is `<SHA-256 of the component>-<engine>.cwasm`: the code, then a trailer of [`MAGIC`], the format's version, an
//! HMAC-SHA256 over version, name and the code's SHA-256, and a CRC32C of all that. The code comes first so that the file
//! can be mapped: what no function runs takes no memory. The name is covered so that a file cannot be passed off as
//! another. Whatever is damaged, foreign, of another version or of another engine counts as absent: it is compiled
//! again and replaced.

use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use ring::rand::{SecureRandom, SystemRandom};
use ring::{digest, hmac};

const MAGIC: &[u8; 8] = b"LITCWASM";
/// 1 had the code behind a header.
const VERSION: u16 = 2;
const TAG_BYTES: usize = 32;
const TAG_START: usize = MAGIC.len() + size_of::<u16>();
const CRC_START: usize = TAG_START + TAG_BYTES;
const TRAILER_BYTES: usize = CRC_START + size_of::<u32>();
/// So much of a file is hashed at once.
const HASHED_BYTES: usize = 64 << 10;
const KEY_BYTES: usize = 32;
/// What the cache may hold: a thousand functions of a few megabytes of code. The least recently used make room.
const CACHE_BYTES_MAX: u64 = 4 << 30;
/// A larger file is none of ours: a component of 64 MiB, the most that is kept, compiles to less.
const FILE_BYTES_MAX: u64 = 1 << 30;

/// A file that the cache has authenticated; see `native`.
pub(crate) struct Verified(PathBuf);

impl Verified {
    /// Where the code is, from the file's beginning.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

/// Code that is being written.
pub(crate) struct Part {
    pub(crate) file: fs::File,
    path: PathBuf,
}

impl Drop for Part {
    fn drop(&mut self) {
        // If it was finished, it has another name by now.
        let _ = fs::remove_file(&self.path);
    }
}

/// The folder of compiled components.
pub(crate) struct Cache {
    folder: PathBuf,
    key: hmac::Key,
    bytes_max: u64,
}

impl Cache {
    /// Opens the folder and the key, making them if need be.
    pub(crate) fn open(folder: PathBuf, key_file: &Path) -> std::io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
        let key = hmac::Key::new(hmac::HMAC_SHA256, &read_or_make_key(key_file)?);
        Ok(Self { folder, key, bytes_max: CACHE_BYTES_MAX })
    }

    /// The authenticated code of this name, if it is there.
    pub(crate) fn read(&self, name: &str) -> Option<Verified> {
        let path = self.path(name);
        let mut file = fs::File::open(&path).ok()?;
        if !self.authentic(name, &mut file).is_ok_and(|authentic| authentic) {
            tracing::warn!(path = %path.display(), "a file of the artefact cache is damaged or foreign; compiling anew");
            return None;
        }
        // The time of last use decides what makes room for others; losing it does no harm.
        let _ = file.set_modified(SystemTime::now());
        Some(Verified(path))
    }

    /// Begins to keep code under a name: it is written to the answer's file, and is there once [`finish`](Self::finish)
    /// is done.
    pub(crate) fn begin(&self, name: &str) -> std::io::Result<Part> {
        let path = self.path(name).with_extension(format!("part-{}", std::process::id()));
        let mut options = fs::OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(true).mode(0o600).open(&path)?;
        Ok(Part { file, path })
    }

    /// Keeps what was written; whole or not at all.
    pub(crate) fn finish(&self, name: &str, mut part: Part) -> std::io::Result<()> {
        let bytes = part.file.metadata()?.len();
        part.file.seek(SeekFrom::Start(0))?;
        let digest = hash(&mut part.file, bytes)?;
        let mut trailer = Vec::with_capacity(TRAILER_BYTES);
        trailer.extend_from_slice(MAGIC);
        trailer.extend_from_slice(&VERSION.to_le_bytes());
        trailer.extend_from_slice(hmac::sign(&self.key, &signed(name, &digest)).as_ref());
        trailer.extend_from_slice(&crc32c::crc32c(&trailer).to_le_bytes());
        self.make_room(trailer.len() as u64)?;
        part.file.write_all(&trailer)?;
        part.file.sync_all()?;
        // A new file takes the old one's place; what is mapped of that stays as it is.
        fs::rename(&part.path, self.path(name))
    }

    fn authentic(&self, name: &str, file: &mut fs::File) -> std::io::Result<bool> {
        let bytes = file.metadata()?.len();
        let Some(code_bytes) = bytes.checked_sub(TRAILER_BYTES as u64).filter(|_| bytes <= FILE_BYTES_MAX) else {
            return Ok(false);
        };
        let digest = hash(file, code_bytes)?;
        let mut trailer = [0; TRAILER_BYTES];
        file.read_exact(&mut trailer)?;
        let (covered, crc) = trailer.split_at(CRC_START);
        let (head, tag) = covered.split_at(TAG_START);
        let (magic, version) = head.split_at(MAGIC.len());
        Ok(magic == MAGIC
            && version == VERSION.to_le_bytes()
            && crc == crc32c::crc32c(covered).to_le_bytes()
            && hmac::verify(&self.key, &signed(name, &digest), tag).is_ok())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.cwasm"))
    }

    /// Removes the least recently used files until so many more bytes fit.
    fn make_room(&self, bytes: u64) -> std::io::Result<()> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            // Other processes of this user may share the folder, and remove files, too.
            let Ok(metadata) = entry.metadata() else { continue };
            files.push((metadata.modified()?, metadata.len(), entry.path()));
        }
        let mut held: u64 = files.iter().map(|(_, length, _)| length).sum();
        files.sort();
        for (_, length, path) in files {
            if held.saturating_add(bytes) <= self.bytes_max {
                break;
            }
            match fs::remove_file(path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            held = held.saturating_sub(length);
        }
        Ok(())
    }
}

/// The SHA-256 of so many bytes from where the file is read; an error if it has fewer.
fn hash(file: &mut fs::File, bytes: u64) -> std::io::Result<digest::Digest> {
    let mut hashed = digest::Context::new(&digest::SHA256);
    let (mut buffer, mut left) = (vec![0; HASHED_BYTES], bytes);
    while left > 0 {
        let read = file.take(left).read(&mut buffer)?;
        let part = buffer.get(..read).filter(|part| !part.is_empty());
        hashed.update(part.ok_or(std::io::ErrorKind::UnexpectedEof)?);
        left = left.saturating_sub(read as u64);
    }
    Ok(hashed.finish())
}

/// What the HMAC covers: version, name and the code's SHA-256.
fn signed(name: &str, code: &digest::Digest) -> Vec<u8> {
    let mut message = MAGIC.to_vec();
    message.extend_from_slice(&VERSION.to_le_bytes());
    message.extend_from_slice(name.as_bytes());
    message.extend_from_slice(code.as_ref());
    message
}

fn read_or_make_key(path: &Path) -> std::io::Result<[u8; KEY_BYTES]> {
    let mut key = [0; KEY_BYTES];
    match fs::File::open(path) {
        Ok(mut file) => match file.read_exact(&mut key) {
            Ok(()) => return Ok(key),
            // A key that was cut short by a crash protects nothing yet; what was made with it is compiled anew.
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {}
            Err(error) => return Err(error),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    SystemRandom::new().fill(&mut key).map_err(|_| std::io::Error::other("the system gives no random numbers"))?;
    let temporary = path.with_extension("part");
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(&key)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn open(folder: &Path) -> Cache {
        Cache::open(folder.join("cache"), &folder.join("cache.key")).unwrap()
    }

    fn write(cache: &Cache, name: &str, code: &[u8]) {
        let mut part = cache.begin(name).unwrap();
        part.file.write_all(code).unwrap();
        cache.finish(name, part).unwrap();
    }

    #[test]
    fn what_was_written_is_read_by_this_node_only() {
        let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        write(&open(ours.path()), "a-1", b"code");
        let verified = open(ours.path()).read("a-1").unwrap();
        assert!(fs::read(verified.path()).unwrap().starts_with(b"code"));
        assert!(open(ours.path()).read("a-2").is_none());
        let key = fs::metadata(ours.path().join("cache.key")).unwrap();
        assert_eq!(key.permissions().mode() & 0o777, 0o600);

        let cache = open(theirs.path());
        fs::copy(ours.path().join("cache/a-1.cwasm"), theirs.path().join("cache/a-1.cwasm")).unwrap();
        assert!(cache.read("a-1").is_none(), "another node's file");
    }

    #[test]
    fn every_changed_byte_and_every_cut_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let cache = open(folder.path());
        write(&cache, "a-1", b"code");
        let path = folder.path().join("cache/a-1.cwasm");
        let good = fs::read(&path).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(&path, &bad).unwrap();
            assert!(cache.read("a-1").is_none(), "byte {at} changed");
            fs::write(&path, &good[..at]).unwrap();
            assert!(cache.read("a-1").is_none(), "cut at {at}");
        }
        fs::write(folder.path().join("cache/b-1.cwasm"), &good).unwrap();
        assert!(cache.read("b-1").is_none(), "passed off as another");
        write(&cache, "a-1", b"code");
        assert!(cache.read("a-1").is_some());
    }

    #[test]
    fn the_least_recently_used_makes_room() {
        let folder = tempfile::tempdir().unwrap();
        let mut cache = open(folder.path());
        cache.bytes_max = 2 * (TRAILER_BYTES as u64 + 4);
        for (name, age) in [("a-1", 20), ("b-1", 10)] {
            write(&cache, name, b"code");
            let file = fs::File::open(cache.path(name)).unwrap();
            file.set_modified(SystemTime::now() - std::time::Duration::from_secs(age)).unwrap();
        }
        cache.read("a-1").unwrap();
        write(&cache, "c-1", b"code");
        assert!(cache.read("a-1").is_some() && cache.read("b-1").is_none() && cache.read("c-1").is_some());
    }
}
