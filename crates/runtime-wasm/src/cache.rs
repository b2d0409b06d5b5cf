//! Compiled components on disk, authenticated with a key of the node.
//!
//! A file is `<SHA-256 of the component>-<engine>.cwasm`: [`MAGIC`], the format's version, an HMAC-SHA256 over version,
//! name and the code's SHA-256, a CRC32C of all that, and the code. The name is covered so that a file cannot be passed off as
//! another. Whatever is damaged, foreign, of another version or of another engine counts as absent: it is compiled
//! again and replaced.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use ring::rand::{SecureRandom, SystemRandom};
use ring::{digest, hmac};

const MAGIC: &[u8; 8] = b"LITCWASM";
const VERSION: u16 = 1;
const TAG_BYTES: usize = 32;
const TAG_START: usize = MAGIC.len() + size_of::<u16>();
const CRC_START: usize = TAG_START + TAG_BYTES;
const HEADER_BYTES: usize = CRC_START + size_of::<u32>();
const KEY_BYTES: usize = 32;
/// What the cache may hold: a thousand functions of a few megabytes of code. The least recently used make room.
const CACHE_BYTES_MAX: u64 = 4 << 30;
/// A larger file is none of ours: a component of 64 MiB, the most that is kept, compiles to less.
const FILE_BYTES_MAX: u64 = 1 << 30;

/// Code that the cache has authenticated; see `native`.
pub(crate) struct Verified {
    file: Vec<u8>,
}

impl Verified {
    pub(crate) fn bytes(&self) -> &[u8] {
        self.file.get(HEADER_BYTES..).unwrap_or_default()
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
        let file = fs::File::open(&path).ok()?;
        let mut bytes = Vec::new();
        file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).ok()?;
        if !self.authentic(name, &bytes) {
            tracing::warn!(path = %path.display(), "a file of the artefact cache is damaged or foreign; compiling anew");
            return None;
        }
        // The time of last use decides what makes room for others; losing it does no harm.
        let _ = fs::File::open(&path).and_then(|file| file.set_modified(SystemTime::now()));
        Some(Verified { file: bytes })
    }

    /// Keeps code under a name; whole or not at all.
    pub(crate) fn write(&self, name: &str, code: &[u8]) -> std::io::Result<()> {
        let mut header = Vec::with_capacity(HEADER_BYTES);
        header.extend_from_slice(MAGIC);
        header.extend_from_slice(&VERSION.to_le_bytes());
        header.extend_from_slice(hmac::sign(&self.key, &signed(name, code)).as_ref());
        header.extend_from_slice(&crc32c::crc32c(&header).to_le_bytes());
        self.make_room((header.len() + code.len()) as u64)?;
        let temporary = self.path(name).with_extension(format!("part-{}", std::process::id()));
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(&header)?;
        file.write_all(code)?;
        file.sync_all()?;
        fs::rename(&temporary, self.path(name))
    }

    fn authentic(&self, name: &str, file: &[u8]) -> bool {
        let Some((header, code)) = file.split_at_checked(HEADER_BYTES) else { return false };
        let (Some(magic), Some(version), Some(tag), Some(covered), Some(crc)) = (
            header.get(..MAGIC.len()),
            header.get(MAGIC.len()..TAG_START),
            header.get(TAG_START..CRC_START),
            header.get(..CRC_START),
            header.get(CRC_START..),
        ) else {
            return false;
        };
        magic == MAGIC
            && version == VERSION.to_le_bytes()
            && crc == crc32c::crc32c(covered).to_le_bytes()
            && hmac::verify(&self.key, &signed(name, code), tag).is_ok()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.cwasm"))
    }

    /// Removes the least recently used files until so many bytes fit.
    fn make_room(&self, bytes: u64) -> std::io::Result<()> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            files.push((metadata.modified()?, metadata.len(), entry.path()));
        }
        let mut held: u64 = files.iter().map(|(_, length, _)| length).sum();
        files.sort();
        for (_, length, path) in files {
            if held.saturating_add(bytes) <= self.bytes_max {
                break;
            }
            fs::remove_file(path)?;
            held = held.saturating_sub(length);
        }
        Ok(())
    }
}

/// What the HMAC covers: version, name and the code's SHA-256.
fn signed(name: &str, code: &[u8]) -> Vec<u8> {
    let mut message = MAGIC.to_vec();
    message.extend_from_slice(&VERSION.to_le_bytes());
    message.extend_from_slice(name.as_bytes());
    message.extend_from_slice(digest::digest(&digest::SHA256, code).as_ref());
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

    #[test]
    fn what_was_written_is_read_by_this_node_only() {
        let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        open(ours.path()).write("a-1", b"code").unwrap();
        assert_eq!(open(ours.path()).read("a-1").unwrap().bytes(), b"code");
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
        cache.write("a-1", b"code").unwrap();
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
        cache.write("a-1", b"code").unwrap();
        assert!(cache.read("a-1").is_some());
    }

    #[test]
    fn the_least_recently_used_makes_room() {
        let folder = tempfile::tempdir().unwrap();
        let mut cache = open(folder.path());
        cache.bytes_max = 2 * (HEADER_BYTES as u64 + 4);
        for (name, age) in [("a-1", 20), ("b-1", 10)] {
            cache.write(name, b"code").unwrap();
            let file = fs::File::open(cache.path(name)).unwrap();
            file.set_modified(SystemTime::now() - std::time::Duration::from_secs(age)).unwrap();
        }
        cache.read("a-1").unwrap();
        cache.write("c-1", b"code").unwrap();
        assert!(cache.read("a-1").is_some() && cache.read("b-1").is_none() && cache.read("c-1").is_some());
    }
}
