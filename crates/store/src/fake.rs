//! Disks that fail on purpose, for tests and the simulator: one for the log, and a file for the derived state.
//!
//! It keeps, for each file, what is on the medium and what only the system's memory holds. A crash keeps of the latter
//! a random part, sector by sector, and of the directory's changes a random number from their beginning on, as a
//! journalling file system does. A sync that fails forgets that anything was to be written, as Linux does: later ones
//! succeed, and prove nothing.
#![allow(clippy::indexing_slicing, clippy::missing_panics_doc)]

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redb::StorageBackend;

use crate::derived::Derived;
use crate::disk::{Disk, DiskFile};
use crate::error::StoreError;

/// What a disk writes whole or not at all.
const SECTOR_BYTES: usize = 512;

/// A disk in memory that fails when told to. Clones are the same disk.
#[derive(Clone)]
pub struct FaultyDisk {
    inner: Arc<Mutex<Inner>>,
    /// Handles from before a crash are of no use after it.
    life: u64,
}

struct Inner {
    random: u64,
    life: u64,
    files: BTreeMap<String, Arc<Mutex<Content>>>,
    /// What the directory says on the medium.
    durable_files: BTreeMap<String, Arc<Mutex<Content>>>,
    changes: Vec<Change>,
    capacity: u64,
    short_writes: bool,
    fail_syncs: u32,
    fail_writes: u32,
    /// After so many more operations the machine loses its power.
    crash_after: Option<u64>,
}

#[derive(Clone)]
enum Change {
    Create(String, Arc<Mutex<Content>>),
    Rename(String, String),
    Remove(String),
}

#[derive(Default)]
struct Content {
    now: Vec<u8>,
    durable: Vec<u8>,
    /// The sectors that differ, or may.
    dirty: Vec<(usize, usize)>,
}

impl FaultyDisk {
    /// An empty disk; equal seeds give equal failures.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let inner = Inner {
            random: seed.wrapping_mul(2).wrapping_add(1),
            life: 0,
            files: BTreeMap::new(),
            durable_files: BTreeMap::new(),
            changes: Vec::new(),
            capacity: u64::MAX,
            short_writes: false,
            fail_syncs: 0,
            fail_writes: 0,
            crash_after: None,
        };
        Self { inner: Arc::new(Mutex::new(inner)), life: 0 }
    }

    /// Loses the power: everything through handles from before fails. The disk as it is found afterwards.
    #[must_use]
    pub fn crash(&self) -> Self {
        let mut inner = self.lock();
        inner.lose_power();
        inner.crash_after = None;
        Self { inner: self.inner.clone(), life: inner.life }
    }

    /// The disk as another process finds it: nothing is lost, unless the power was.
    #[must_use]
    pub fn reopen(&self) -> Self {
        let mut inner = self.lock();
        inner.crash_after = None;
        Self { inner: self.inner.clone(), life: inner.life }
    }

    /// Loses the power in the middle of the `operations`th next operation.
    pub fn crash_after(&self, operations: u64) {
        self.lock().crash_after = Some(operations);
    }

    /// Limits the sum of the lengths of all files.
    pub fn set_capacity(&self, bytes: u64) {
        self.lock().capacity = bytes;
    }

    /// The sum of the lengths of all files.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.lock().used()
    }

    /// Makes writes write only a part of what they are given.
    pub fn set_short_writes(&self, on: bool) {
        self.lock().short_writes = on;
    }

    /// Makes the next `count` syncs of files fail.
    pub fn fail_syncs(&self, count: u32) {
        self.lock().fail_syncs = count;
    }

    /// Makes the next `count` writes fail.
    pub fn fail_writes(&self, count: u32) {
        self.lock().fail_writes = count;
    }

    /// Flips one bit on the medium.
    pub fn flip(&self, name: &str, byte: usize, bit: u8) {
        if let Some(file) = self.lock().files.get(name) {
            let mut content = lock(file);
            for bytes in [&mut *content].into_iter().flat_map(|content| [&mut content.now, &mut content.durable]) {
                if let Some(byte) = bytes.get_mut(byte) {
                    *byte ^= 1 << bit;
                }
            }
        }
    }

    /// What a file holds.
    #[must_use]
    pub fn content(&self, name: &str) -> Vec<u8> {
        self.lock().files.get(name).map(|file| lock(file).now.clone()).unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        lock(&self.inner)
    }

    /// One operation: fails when the power was lost.
    fn operate(&self) -> io::Result<MutexGuard<'_, Inner>> {
        let mut inner = self.lock();
        if inner.life != self.life {
            return Err(io::Error::other("the power was lost"));
        }
        match &mut inner.crash_after {
            Some(0) => {
                inner.lose_power();
                inner.crash_after = None;
                return Err(io::Error::other("the power was lost"));
            }
            Some(left) => *left -= 1,
            None => {}
        }
        Ok(inner)
    }

    fn handle(&self, content: &Arc<Mutex<Content>>) -> Arc<dyn DiskFile> {
        Arc::new(FaultyFile { disk: self.clone(), content: content.clone() })
    }
}

impl Inner {
    /// A random number (xorshift*), below `below`.
    fn random(&mut self, below: u64) -> u64 {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        (self.random.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % below.max(1)
    }

    fn used(&self) -> u64 {
        self.files.values().map(|file| lock(file).now.len() as u64).sum()
    }

    fn lose_power(&mut self) {
        self.life += 1;
        let kept = self.random(self.changes.len() as u64 + 1) as usize;
        let changes: Vec<_> = self.changes.drain(..).take(kept).collect();
        for change in changes {
            change.apply(&mut self.durable_files);
        }
        self.files = self.durable_files.clone();
        let files: Vec<_> = self.files.values().cloned().collect();
        for file in files {
            let mut content = lock(&file);
            // Sometimes nothing arrives, sometimes all, mostly a part.
            let odds = self.random(5);
            for (from, to) in std::mem::take(&mut content.dirty) {
                if self.random(4) < odds {
                    content.settle(from, to);
                }
            }
            content.now = content.durable.clone();
        }
    }
}

impl Change {
    fn apply(self, files: &mut BTreeMap<String, Arc<Mutex<Content>>>) {
        match self {
            Self::Create(name, content) => drop(files.insert(name, content)),
            Self::Rename(from, to) => {
                if let Some(content) = files.remove(&from) {
                    files.insert(to, content);
                }
            }
            Self::Remove(name) => drop(files.remove(&name)),
        }
    }
}

impl Content {
    /// Part of what was written reaches the medium.
    fn settle(&mut self, from: usize, to: usize) {
        if self.durable.len() < to {
            self.durable.resize(to, 0);
        }
        self.durable[from..to].copy_from_slice(&self.now[from..to]);
    }

    fn write(&mut self, offset: usize, bytes: &[u8]) {
        let end = offset + bytes.len();
        if self.now.len() < end {
            self.now.resize(end, 0);
        }
        self.now[offset..end].copy_from_slice(bytes);
        let mut at = offset;
        while at < end {
            let next = ((at / SECTOR_BYTES) + 1) * SECTOR_BYTES;
            self.dirty.push((at, next.min(end)));
            at = next;
        }
    }
}

/// Fills up with zeros; by the page, for without optimisation a byte takes as long.
fn lengthen(bytes: &mut Vec<u8>, length: usize) {
    if bytes.is_empty() {
        *bytes = vec![0; length];
    } else if bytes.len() < length {
        bytes.extend_from_slice(&vec![0; length - bytes.len()]);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Disk for FaultyDisk {
    fn path(&self, name: &str) -> PathBuf {
        PathBuf::from("/faulty").join(name)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.operate()?.files.keys().cloned().collect())
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut inner = self.operate()?;
        let content = Arc::new(Mutex::new(Content::default()));
        inner.files.insert(name.to_owned(), content.clone());
        inner.changes.push(Change::Create(name.to_owned(), content.clone()));
        Ok(self.handle(&content))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let inner = self.operate()?;
        let content = inner.files.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(self.handle(content))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut inner = self.operate()?;
        let content = inner.files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        inner.files.insert(to.to_owned(), content);
        inner.changes.push(Change::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut inner = self.operate()?;
        inner.files.remove(name).ok_or(io::ErrorKind::NotFound)?;
        inner.changes.push(Change::Remove(name.to_owned()));
        Ok(())
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut inner = self.operate()?;
        let changes = std::mem::take(&mut inner.changes);
        for change in changes {
            change.apply(&mut inner.durable_files);
        }
        Ok(())
    }
}

struct FaultyFile {
    disk: FaultyDisk,
    content: Arc<Mutex<Content>>,
}

impl DiskFile for FaultyFile {
    fn size(&self) -> io::Result<u64> {
        let _inner = self.disk.operate()?;
        Ok(lock(&self.content).now.len() as u64)
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        let inner = self.disk.operate()?;
        let more = bytes.saturating_sub(lock(&self.content).now.len() as u64);
        if inner.used() + more > inner.capacity {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let mut content = lock(&self.content);
        if content.now.len() < bytes as usize {
            // Lengths are part of the journal: they arrive with the next sync, and reading them early does no harm.
            lengthen(&mut content.now, bytes as usize);
            lengthen(&mut content.durable, bytes as usize);
        }
        Ok(())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let _inner = self.disk.operate()?;
        let content = lock(&self.content);
        let rest = content.now.get(offset as usize..).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    fn write_at(&self, slices: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        let mut inner = self.disk.operate()?;
        if inner.fail_writes > 0 {
            inner.fail_writes -= 1;
            return Err(io::Error::from_raw_os_error(5));
        }
        let mut bytes = Vec::with_capacity(slices.iter().map(|slice| slice.len()).sum());
        slices.iter().for_each(|slice| bytes.extend_from_slice(slice));
        if inner.short_writes && bytes.len() > 1 {
            let count = inner.random(bytes.len() as u64 - 1) as usize + 1;
            bytes.truncate(count);
        }
        lock(&self.content).write(offset as usize, &bytes);
        Ok(bytes.len())
    }

    fn sync(&self) -> io::Result<()> {
        let mut inner = self.disk.operate()?;
        let mut content = lock(&self.content);
        let dirty = std::mem::take(&mut content.dirty);
        if inner.fail_syncs > 0 {
            inner.fail_syncs -= 1;
            return Err(io::Error::from_raw_os_error(5));
        }
        for (from, to) in dirty {
            content.settle(from, to);
        }
        Ok(())
    }
}

/// The file of a derived state, in memory: a crash loses what was not synced. Clones are the same file.
#[derive(Clone, Debug, Default)]
pub struct DerivedFile(Arc<Mutex<Bytes>>);

#[derive(Debug, Default)]
struct Bytes {
    now: Vec<u8>,
    durable: Vec<u8>,
    dirty: Vec<(usize, usize)>,
}

impl DerivedFile {
    /// Opens the derived state in it.
    ///
    /// # Errors
    /// As for [`Derived::open`].
    pub fn open(&self) -> Result<Derived, StoreError> {
        Derived::open_on(self.clone(), &PathBuf::from("/faulty/derived.redb"))
    }

    /// The file as it is found after the power was lost; handles to the former one do it no harm.
    #[must_use]
    pub fn crash(&self) -> Self {
        let durable = lock(&self.0).durable.clone();
        Self(Arc::new(Mutex::new(Bytes { now: durable.clone(), durable, dirty: Vec::new() })))
    }
}

impl StorageBackend for DerivedFile {
    fn len(&self) -> io::Result<u64> {
        Ok(lock(&self.0).now.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let file = lock(&self.0);
        let from = offset as usize;
        let held = file.now.get(from..from + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(held);
        Ok(())
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        let mut file = lock(&self.0);
        let (before, after) = (file.now.len(), bytes as usize);
        if before < after {
            lengthen(&mut file.now, after);
            file.dirty.push((before, after));
        } else {
            file.now.truncate(after);
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let Bytes { now, durable, dirty } = &mut *lock(&self.0);
        durable.truncate(now.len());
        lengthen(durable, now.len());
        for (from, to) in dirty.drain(..) {
            let to = to.min(now.len());
            if from < to {
                durable[from..to].copy_from_slice(&now[from..to]);
            }
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut file = lock(&self.0);
        let from = offset as usize;
        let held = file.now.get_mut(from..from + data.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        held.copy_from_slice(data);
        file.dirty.push((from, from + data.len()));
        Ok(())
    }
}
