//! What follows from committed entries, in redb, with the position up to which it was applied.
//!
//! Rows are keyed by work and key. Everything here can be built anew: what the log no longer holds, another copy does.

use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use littoral_model::id::Epoch;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};

use crate::error::StoreError;

/// The name of the file in the data directory.
const FILE: &str = "derived.redb";
/// The version of what the tables below hold; raised when that changes.
const FORMAT_VERSION: u64 = 1;
/// How much of the file redb may keep in memory; its default of 1 GiB is too much for a device.
const CACHE_BYTES: usize = 16 << 20;

const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
/// Work -> index and epoch of the last entry applied.
const APPLIED: TableDefinition<'_, &str, (u64, u64)> = TableDefinition::new("applied");
/// Work and key -> value.
const STATE: TableDefinition<'_, (&str, &[u8]), &[u8]> = TableDefinition::new("state");

/// What one or more committed entries of a work change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// Whose entries.
    pub work: String,
    /// The index of the last of them. Not above what was applied before: the change is a repeat, and skipped.
    pub index: u64,
    /// Its epoch.
    pub epoch: Epoch,
    /// Keys with their new values; none removes the key.
    pub changes: Vec<(Bytes, Option<Bytes>)>,
}

/// The derived state of a node; clones are handles to the same one. Calls block for about a disk sync.
#[derive(Clone, Debug)]
pub struct Derived {
    database: Arc<Database>,
    path: Arc<PathBuf>,
}

impl Derived {
    /// Opens or makes the file in `dir`.
    ///
    /// # Errors
    /// [`StoreError::DerivedCorrupt`] when the file is damaged: call [`Derived::discard`], open again, and apply the log
    /// from its start (or use [`Derived::open_or_discard`]). Other errors when it cannot be reached.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        let path = dir.join(FILE);
        std::fs::create_dir_all(dir).map_err(|error| StoreError::io("create", dir, &error))?;
        let database = guarded(&path, || Self::open_file(&path))?;
        Ok(Self { database: Arc::new(database), path: Arc::new(path) })
    }

    /// Opens what a backend of redb's holds, in place of a file. For the simulator.
    ///
    /// # Errors
    /// As for [`Derived::open`].
    pub fn open_on(backend: impl redb::StorageBackend, path: &Path) -> Result<Self, StoreError> {
        let existing = backend.len().is_ok_and(|bytes| bytes > 0);
        let database = guarded(path, || {
            let opened = Database::builder().set_cache_size(CACHE_BYTES).create_with_backend(backend);
            Self::begin(opened.map_err(|error| corrupt_or_io(path, error.into()))?, existing, path)
        })?;
        Ok(Self { database: Arc::new(database), path: Arc::new(path.to_owned()) })
    }

    /// Opens the file, and when it is damaged deletes it and begins with an empty one.
    ///
    /// Returns whether it had to: then everything must be applied again from the log, and what the log no longer holds
    /// must be installed from another copy.
    ///
    /// # Errors
    /// When the file cannot be reached or deleted.
    pub fn open_or_discard(dir: &Path) -> Result<(Self, bool), StoreError> {
        match Self::open(dir) {
            Err(error @ StoreError::DerivedCorrupt { .. }) => {
                tracing::warn!(%error, "the derived state is thrown away and built anew from the log");
                Self::discard(dir)?;
                Ok((Self::open(dir)?, true))
            }
            opened => opened.map(|derived| (derived, false)),
        }
    }

    /// Deletes the file. No handle to it may be open.
    ///
    /// # Errors
    /// When it cannot be deleted. That there is none is no error.
    pub fn discard(dir: &Path) -> Result<(), StoreError> {
        let path = dir.join(FILE);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(StoreError::io("delete", &path, &error)),
            _ => Ok(()),
        }
    }

    /// Applies changes, all or none of them, and returns once they are on disk.
    ///
    /// # Errors
    /// When the file cannot be written or is damaged; nothing was changed then.
    pub fn apply(&self, batch: &[Applied]) -> Result<(), StoreError> {
        self.write(|transaction| {
            let mut applied = transaction.open_table(APPLIED)?;
            let mut state = transaction.open_table(STATE)?;
            for one in batch {
                let before = applied.get(one.work.as_str())?.map_or(0, |row| row.value().0);
                if one.index <= before {
                    continue;
                }
                for (key, value) in &one.changes {
                    match value {
                        Some(value) => state.insert((one.work.as_str(), key.as_ref()), value.as_ref())?,
                        None => state.remove((one.work.as_str(), key.as_ref()))?,
                    };
                }
                applied.insert(one.work.as_str(), (one.index, one.epoch.0))?;
            }
            Ok(())
        })
    }

    /// The index of the last entry applied of a work; 0 if none was.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn applied(&self, work: &str) -> Result<u64, StoreError> {
        Ok(self.applied_at(work)?.map_or(0, |(index, _)| index))
    }

    /// Index and epoch of the last entry applied of a work.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn applied_at(&self, work: &str) -> Result<Option<(u64, Epoch)>, StoreError> {
        self.read(|transaction| {
            let row = transaction.open_table(APPLIED)?.get(work)?;
            Ok(row.map(|row| (row.value().0, Epoch(row.value().1))))
        })
    }

    /// One value of a work's state.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn get(&self, work: &str, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.read(|transaction| {
            let row = transaction.open_table(STATE)?.get((work, key))?;
            Ok(row.map(|row| Bytes::copy_from_slice(row.value())))
        })
    }

    /// Values of a work's state, in the order of their keys, as they are at one moment.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn get_many(&self, work: &str, keys: &[impl AsRef<[u8]>]) -> Result<Vec<Option<Bytes>>, StoreError> {
        self.read(|transaction| {
            let table = transaction.open_table(STATE)?;
            let value = |key: &[u8]| Ok(table.get((work, key))?.map(|row| Bytes::copy_from_slice(row.value())));
            keys.iter().map(|key| value(key.as_ref())).collect()
        })
    }

    /// Calls with the rows of a work, ordered by key, from the one behind `after` on, until it has had enough.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn visit(
        &self,
        work: &str,
        after: Option<&[u8]>,
        mut enough: impl FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), StoreError> {
        self.read(|transaction| {
            let table = transaction.open_table(STATE)?;
            let from = after.map_or(Bound::Included((work, [].as_slice())), |after| Bound::Excluded((work, after)));
            for row in table.range::<(&str, &[u8])>((from, Bound::Unbounded))? {
                let (key, value) = row?;
                let (owner, key) = key.value();
                if owner != work || enough(key, value.value()) {
                    break;
                }
            }
            Ok(())
        })
    }

    /// The whole state of a work, ordered by key.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn load(&self, work: &str) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        self.load_at(work).map(|(_, state)| state)
    }

    /// The whole state of a work together with index and epoch of the last entry that it covers (0 if none).
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn load_at(&self, work: &str) -> Result<Loaded, StoreError> {
        self.read(|transaction| {
            let applied = transaction.open_table(APPLIED)?.get(work)?;
            let last = applied.map_or((0, Epoch(0)), |row| (row.value().0, Epoch(row.value().1)));
            let table = transaction.open_table(STATE)?;
            let mut state = Vec::new();
            for row in table.range((work, [].as_slice())..)? {
                let (key, value) = row?;
                let (owner, key) = key.value();
                if owner != work {
                    break;
                }
                state.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value.value())));
            }
            Ok((last, state))
        })
    }

    /// Replaces the whole state of a work, which then covers entries up to `index`.
    ///
    /// # Errors
    /// When the file cannot be written; nothing was changed then.
    pub fn install(&self, work: &str, index: u64, epoch: Epoch, rows: &[(Bytes, Bytes)]) -> Result<(), StoreError> {
        self.write(|transaction| {
            clear(transaction, work)?;
            let mut state = transaction.open_table(STATE)?;
            for (key, value) in rows {
                state.insert((work, key.as_ref()), value.as_ref())?;
            }
            transaction.open_table(APPLIED)?.insert(work, (index, epoch.0))?;
            Ok(())
        })
    }

    /// Forgets everything about a work.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn drop_work(&self, work: &str) -> Result<(), StoreError> {
        self.write(|transaction| clear(transaction, work))
    }

    /// All works of which something was applied.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn works(&self) -> Result<Vec<String>, StoreError> {
        self.read(|transaction| {
            let table = transaction.open_table(APPLIED)?;
            table.iter()?.map(|row| Ok(row?.0.value().to_owned())).collect()
        })
    }

    fn open_file(path: &Path) -> Result<Database, StoreError> {
        let existing = std::fs::metadata(path).is_ok_and(|file| file.len() > 0);
        let opened = Database::builder().set_cache_size(CACHE_BYTES).create(path);
        Self::begin(opened.map_err(|error| corrupt_or_io(path, error.into()))?, existing, path)
    }

    /// Makes the tables of a new database, and checks the version of one that exists.
    fn begin(database: Database, existing: bool, path: &Path) -> Result<Database, StoreError> {
        let check = || -> Result<u64, redb::Error> {
            let transaction = database.begin_write()?;
            let version = {
                let mut meta = transaction.open_table(META)?;
                let known = meta.get("format")?.map(|row| row.value());
                if let (None, false) = (known, existing) {
                    meta.insert("format", FORMAT_VERSION)?;
                }
                transaction.open_table(APPLIED)?;
                transaction.open_table(STATE)?;
                known.unwrap_or(FORMAT_VERSION)
            };
            transaction.commit()?;
            Ok(version)
        };
        let version = check().map_err(|error| corrupt_or_io(path, error))?;
        if version > FORMAT_VERSION {
            let version = u32::try_from(version).unwrap_or(u32::MAX);
            return Err(StoreError::Version { file: path.to_owned(), version, max: 1 });
        }
        Ok(database)
    }

    fn read<T>(&self, body: impl FnOnce(&redb::ReadTransaction) -> Result<T, redb::Error>) -> Result<T, StoreError> {
        guarded(&self.path, || {
            let run = || body(&self.database.begin_read()?);
            run().map_err(|error| corrupt_or_io(&self.path, error))
        })
    }

    fn write(&self, body: impl FnOnce(&WriteTransaction) -> Result<(), redb::Error>) -> Result<(), StoreError> {
        guarded(&self.path, || {
            let run = || -> Result<(), redb::Error> {
                // The default durability is immediate: the log is trimmed on the strength of what is here.
                let transaction = self.database.begin_write()?;
                body(&transaction)?;
                transaction.commit()?;
                Ok(())
            };
            run().map_err(|error| corrupt_or_io(&self.path, error))
        })
    }
}

/// Index and epoch of the last entry that a state covers, and the state's rows.
pub type Loaded = ((u64, Epoch), Vec<(Bytes, Bytes)>);

/// Removes every row of a work.
fn clear(transaction: &WriteTransaction, work: &str) -> Result<(), redb::Error> {
    let mut state = transaction.open_table(STATE)?;
    let mut keys = Vec::new();
    for row in state.range((work, [].as_slice())..)? {
        let (key, _) = row?;
        let (owner, key) = key.value();
        if owner != work {
            break;
        }
        keys.push(key.to_vec());
    }
    for key in keys {
        state.remove((work, key.as_slice()))?;
    }
    transaction.open_table(APPLIED)?.remove(work)?;
    Ok(())
}

/// redb asserts in a few places on bytes that were damaged on disk: that is damage too, not the end of the node.
fn guarded<T>(path: &Path, body: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body));
    outcome.unwrap_or_else(|_| {
        Err(StoreError::DerivedCorrupt { path: path.to_owned(), reason: "its structure makes no sense".to_owned() })
    })
}

/// Tells damage to the file, which can be mended by building it anew, from a disk that does not answer.
fn corrupt_or_io(path: &Path, error: redb::Error) -> StoreError {
    match error {
        redb::Error::DatabaseAlreadyOpen => StoreError::Locked { dir: path.parent().unwrap_or(path).to_owned() },
        redb::Error::Io(error) if error.kind() != std::io::ErrorKind::InvalidData => {
            StoreError::io("use", path, &error)
        }
        error => StoreError::DerivedCorrupt { path: path.to_owned(), reason: error.to_string() },
    }
}
