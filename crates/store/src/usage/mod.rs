//! What functions have used, kept for whoever bills or asks: an append-only chain of records, one a minute.
//!
//! Each record carries the SHA-256 of the one before, so that none can be altered, dropped or put between without it being
//! seen by whoever knows a later hash. A record is on disk before the next one is begun; one that was cut off by a crash is
//! removed at the next start, and what came before stays. Files are small, and the oldest are deleted when there are too
//! many; the chain is then checked from the oldest that is kept. Everything here blocks.

mod format;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::disk::{Disk, DiskFile, read_exact_at, write_all_at};
use crate::error::StoreError;

pub use format::Hash;
use format::{End, Found, Header, HeaderError, NOTHING_BEFORE, RECORD_BYTES_MAX, VERSION};

/// What files are called, before their number.
const FILE_PREFIX: &str = "usage-";
/// A file that is being made anew, without what was cut off at its end.
const MENDED_FILE: &str = "mended.tmp";
/// How many problems a check lists; more say nothing more.
const PROBLEMS_MAX: usize = 100;

/// How much is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UsageLogOptions {
    /// A file of this size, in bytes, is followed by a new one.
    pub file_bytes: u64,
    /// How many files are kept, at least one.
    pub files_max: usize,
}

impl Default for UsageLogOptions {
    /// 64 files of 1 MiB: a node with ten busy functions writes half a kilobyte a minute, and so keeps three months.
    fn default() -> Self {
        Self { file_bytes: 1 << 20, files_max: 64 }
    }
}

/// What was used on one node in a span of time, a minute as a rule.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageRecord {
    /// Its number, from 1; set when it is appended.
    pub sequence: u64,
    /// The node.
    pub node: String,
    /// Where the span begins, microseconds since 1970.
    pub from_us: i64,
    /// Where it ends.
    pub until_us: i64,
    /// What functions used; those that used nothing are left out.
    pub rows: Vec<UsageRow>,
    /// CPU time of the node's threads outside guests, in microseconds.
    pub host_cpu_us: u64,
    /// CPU time of the whole process, as the system counts it, in microseconds.
    pub process_cpu_us: u64,
}

/// What one function used.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageRow {
    /// Whose it is.
    pub tenant: String,
    /// Its app.
    pub app: String,
    /// Its name.
    pub function: String,
    /// CPU time, in microseconds.
    pub cpu_us: u64,
    /// Memory times time, in byte-seconds.
    pub memory_byte_s: u64,
    /// Bytes that came in.
    pub bytes_in: u64,
    /// Bytes that went out.
    pub bytes_out: u64,
    /// How often it was called.
    pub invocations: u64,
}

/// What a check of the whole chain found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// How many records can be read.
    pub records: u64,
    /// The number of the first that is kept.
    pub first: Option<u64>,
    /// The number of the last.
    pub last: Option<u64>,
    /// The hash of the last: whoever notes it down can tell later that nothing up to here was altered.
    pub head: Option<Hash>,
    /// What is wrong, a sentence each.
    pub problems: Vec<String>,
}

/// The chain of a node's usage records.
pub struct UsageLog {
    disk: Arc<dyn Disk>,
    options: UsageLogOptions,
    state: Mutex<State>,
}

struct State {
    /// The numbers of the files, the oldest first.
    files: Vec<u64>,
    /// The file that is written to, and how long it is; none if the next record begins a new one.
    open: Option<(Arc<dyn DiskFile>, u64)>,
    next: u64,
    head: Hash,
}

impl UsageLog {
    /// Opens the chain in a directory, and removes a record that was cut off by a crash. Damage is no error: new records
    /// follow, and [`check`](Self::check) names it.
    ///
    /// # Errors
    /// When the disk cannot be read or written, or a newer program wrote there.
    pub fn open(disk: Arc<dyn Disk>, options: UsageLogOptions) -> Result<Self, StoreError> {
        let number = |name: &String| name.strip_prefix(FILE_PREFIX)?.parse::<u64>().ok();
        let listed = disk.list().map_err(|error| StoreError::io("list", &disk.path(""), &error))?;
        let mut files: Vec<u64> = listed.iter().filter_map(number).collect();
        files.sort_unstable();
        let mut log = Self {
            disk,
            options,
            state: Mutex::new(State { files: Vec::new(), open: None, next: 1, head: NOTHING_BEFORE }),
        };
        let state = log.recover(files)?;
        log.state = Mutex::new(state);
        Ok(log)
    }

    /// Finds the end of the chain.
    fn recover(&self, mut files: Vec<u64>) -> Result<State, StoreError> {
        while let Some(number) = files.last().copied() {
            let bytes = self.read_file(number)?;
            let (header, begin) = match Header::decode(&bytes) {
                Ok(decoded) => decoded,
                Err(HeaderError::CutOff) => {
                    self.remove(number)?;
                    files.pop();
                    continue;
                }
                Err(HeaderError::Version(version)) => {
                    return Err(StoreError::Version { file: self.path(number), version, max: VERSION });
                }
                // What it held cannot be told; the next file says so by its number and by what it follows.
                Err(HeaderError::Damaged) => {
                    let before = files.iter().rev().skip(1).copied().find_map(|number| self.end_of(number).transpose());
                    let (next, head) = before.transpose()?.unwrap_or((1, NOTHING_BEFORE));
                    return Ok(State { files, open: None, next: next + 1, head });
                }
            };
            let (found, end, how) = format::frames(&bytes, begin);
            let (next, head) = after(header, &found);
            let open = match how {
                End::Clean => Some(self.open_file(number)?),
                End::Torn => {
                    tracing::warn!(file = %self.path(number).display(), "cut off a usage record that was not written to its end");
                    self.mend(number, bytes.get(..end).unwrap_or_default())?;
                    Some(self.open_file(number)?)
                }
                End::Damaged => None,
            };
            let next = if how == End::Damaged { next + 1 } else { next };
            return Ok(State { files, open: open.map(|file| (file, end as u64)), next, head });
        }
        Ok(State { files, open: None, next: 1, head: NOTHING_BEFORE })
    }

    /// The number and the predecessor's hash of the record that follows a file, if it can be read.
    fn end_of(&self, number: u64) -> Result<Option<(u64, Hash)>, StoreError> {
        let bytes = self.read_file(number)?;
        let Ok((header, begin)) = Header::decode(&bytes) else { return Ok(None) };
        Ok(Some(after(header, &format::frames(&bytes, begin).0)))
    }

    /// Appends a record and answers its number, once it is on disk.
    ///
    /// # Errors
    /// When it is too large or the disk fails; the next one is then written to a new file.
    pub fn append(&self, mut record: UsageRecord) -> Result<u64, StoreError> {
        let mut state = self.lock();
        record.sequence = state.next;
        let invalid = |reason: String| StoreError::Failed { reason };
        let (frame, hash) = format::encode(&record, &state.head).map_err(|error| invalid(error.to_string()))?;
        if frame.len() > RECORD_BYTES_MAX {
            return Err(StoreError::TooLarge { bytes: frame.len(), max: RECORD_BYTES_MAX });
        }
        let open = match state.open.take() {
            Some((file, at)) if at + frame.len() as u64 <= self.options.file_bytes => (file, at),
            _ => self.begin_file(&mut state)?,
        };
        let (file, at) = open;
        let path = self.path(state.files.last().copied().unwrap_or_default());
        write_all_at(file.as_ref(), &mut [std::io::IoSlice::new(&frame)], at)
            .and_then(|()| file.sync())
            .map_err(|error| StoreError::io("write", &path, &error))?;
        state.open = Some((file, at + frame.len() as u64));
        state.next += 1;
        state.head = hash;
        Ok(record.sequence)
    }

    /// Begins a new file, and deletes the oldest if there are too many.
    fn begin_file(&self, state: &mut State) -> Result<(Arc<dyn DiskFile>, u64), StoreError> {
        let number = state.files.last().map_or(1, |last| last + 1);
        let (name, path) = (name(number), self.path(number));
        let header = Header { first: state.next, previous: state.head }.encode();
        let made = self.disk.create(&name).and_then(|file| {
            write_all_at(file.as_ref(), &mut [std::io::IoSlice::new(&header)], 0)?;
            file.sync()?;
            self.disk.sync_dir()?;
            Ok(file)
        });
        let file = made.map_err(|error| StoreError::io("create", &path, &error))?;
        state.files.push(number);
        while state.files.len() > self.options.files_max.max(1) {
            let oldest = state.files.remove(0);
            self.remove(oldest)?;
        }
        Ok((file, header.len() as u64))
    }

    /// The records whose span ends after `since_us` (microseconds since 1970), the oldest first; what is damaged is left
    /// out.
    ///
    /// # Errors
    /// When the disk cannot be read.
    pub fn read(&self, since_us: i64) -> Result<Vec<UsageRecord>, StoreError> {
        let state = self.lock();
        let mut records = Vec::new();
        let mut end = u64::MAX;
        for number in state.files.iter().rev() {
            let bytes = self.read_file(*number)?;
            let Ok((header, begin)) = Header::decode(&bytes) else { continue };
            let found = format::frames(&bytes, begin).0.into_iter().rev();
            let of_file = found.filter_map(|found| Some(found.record?.0));
            // A record that could not be synced was written again, to the next file.
            for record in of_file.filter(|record| record.sequence < end) {
                if record.until_us > since_us {
                    records.push(record);
                }
            }
            end = header.first;
        }
        records.reverse();
        Ok(records)
    }

    /// Walks the whole chain.
    ///
    /// # Errors
    /// When the disk cannot be read.
    pub fn check(&self) -> Result<Checked, StoreError> {
        let state = self.lock();
        let mut walk = Walk::default();
        for number in &state.files {
            let path = self.path(*number).display().to_string();
            walk.file(&path, &self.read_file(*number)?);
        }
        Ok(walk.checked)
    }

    /// Writes a file anew with what is whole in it.
    fn mend(&self, number: u64, whole: &[u8]) -> Result<(), StoreError> {
        let mended = self.disk.create(MENDED_FILE).and_then(|file| {
            write_all_at(file.as_ref(), &mut [std::io::IoSlice::new(whole)], 0)?;
            file.sync()?;
            self.disk.rename(MENDED_FILE, &name(number))?;
            self.disk.sync_dir()
        });
        mended.map_err(|error| StoreError::io("mend", &self.path(number), &error))
    }

    fn remove(&self, number: u64) -> Result<(), StoreError> {
        let removed = self.disk.remove(&name(number)).and_then(|()| self.disk.sync_dir());
        removed.map_err(|error| StoreError::io("delete", &self.path(number), &error))
    }

    fn open_file(&self, number: u64) -> Result<Arc<dyn DiskFile>, StoreError> {
        self.disk.open(&name(number)).map_err(|error| StoreError::io("open", &self.path(number), &error))
    }

    fn read_file(&self, number: u64) -> Result<Vec<u8>, StoreError> {
        let file = self.open_file(number)?;
        let read = || -> std::io::Result<Vec<u8>> {
            // Written by this program, which ends files early enough; a larger one is read as far.
            let length = file.size()?.min(self.options.file_bytes.saturating_mul(2) + RECORD_BYTES_MAX as u64);
            let mut bytes = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
            read_exact_at(file.as_ref(), &mut bytes, 0)?;
            Ok(bytes)
        };
        read().map_err(|error| StoreError::io("read", &self.path(number), &error))
    }

    fn path(&self, number: u64) -> std::path::PathBuf {
        self.disk.path(&name(number))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for UsageLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UsageLog").field("next", &self.lock().next).finish_non_exhaustive()
    }
}

fn name(number: u64) -> String {
    format!("{FILE_PREFIX}{number:08}")
}

/// The number of the record that follows these frames, and the hash that it carries.
fn after(header: Header, found: &[Found]) -> (u64, Hash) {
    (header.first + found.len() as u64, found.last().map_or(header.previous, |last| last.hash))
}

/// A walk along the chain.
#[derive(Default)]
struct Walk {
    checked: Checked,
    /// The number of the record that should come next.
    next: Option<u64>,
    /// The hash of the record before the last one.
    before_last: Option<Hash>,
}

impl Walk {
    fn file(&mut self, path: &str, bytes: &[u8]) {
        let (header, begin) = match Header::decode(bytes) {
            Ok(decoded) => decoded,
            Err(error) => return self.problem(format!("{path} cannot be read: its header is damaged ({error:?})")),
        };
        // A record that could not be synced was written again, to the next file.
        if self.next == Some(header.first + 1) && self.before_last == Some(header.previous) {
            self.next = Some(header.first);
            self.checked.head = self.before_last;
            self.checked.records = self.checked.records.saturating_sub(1);
        }
        if self.next.is_some_and(|next| next != header.first) {
            let next = self.next.unwrap_or_default();
            self.problem(format!("{path} begins with record {}, where record {next} should follow", header.first));
        }
        if self.checked.head.is_some_and(|head| head != header.previous) {
            let last = header.first.saturating_sub(1);
            self.problem(format!("{path} does not follow record {last} as that is now: one of both was altered"));
        }
        let (found, end, how) = format::frames(bytes, begin);
        let mut previous = header.previous;
        for (number, found) in (header.first..).zip(found) {
            self.record(path, number, &found, previous);
            previous = found.hash;
        }
        if how != End::Clean {
            let next = self.next.unwrap_or(header.first);
            self.problem(format!("{path} cannot be read from byte {end} on, where record {next} begins"));
        }
        self.next = self.next.max(Some(header.first));
    }

    fn record(&mut self, path: &str, number: u64, found: &Found, previous: Hash) {
        match &found.record {
            None => self.problem(format!("record {number} was altered ({path} at byte {})", found.at)),
            Some((record, names)) => {
                if *names != previous {
                    let before = number.saturating_sub(1);
                    self.problem(format!("record {before} was altered: record {number}, which follows it, has another hash of it ({path})"));
                }
                if record.sequence != number {
                    let sequence = record.sequence;
                    self.problem(format!("record {sequence} stands in the place of record {number} ({path})"));
                }
                self.checked.records += 1;
            }
        }
        self.before_last = self.checked.head.or(Some(previous));
        self.checked.first = self.checked.first.or(Some(number));
        self.checked.last = Some(number);
        self.checked.head = Some(found.hash);
        self.next = Some(number + 1);
    }

    fn problem(&mut self, text: String) {
        if self.checked.problems.len() < PROBLEMS_MAX {
            self.checked.problems.push(text);
        }
    }
}

#[cfg(test)]
mod tests;
