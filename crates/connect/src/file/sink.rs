//! Writes files, one after the other, each row once.
//!
//! The file that is written to has a name that ends in `.open`. What is committed of it is its length: a sink that starts anew cuts off what is
//! behind. A file gets its name once a commit says that the next one has begun, and is never touched again.
//!
//! A Parquet file has no use before its end is written, and cannot be gone on with. So nothing of it is committed before that, and
//! its length as long as it is written to is none: a sink that starts anew writes it anew.

use std::cmp::Ordering;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arrow_array::RecordBatch;
use async_trait::async_trait;
use bytes::Bytes;
use littoral_model::manifest::{self, FileFormat};
use littoral_model::work::WorkId;
use rustix::fs::{FlockOperation, OFlags};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::time::Instant;

use super::parquet::Table;
use super::{Folder, aside, format};
use crate::{BATCH_BYTES, Flushed, Machine, Part, Rows, Sink, Trouble};

/// The version of the form of what is committed.
const VERSION: u32 = 1;
/// How much is read of whose files they are.
const LOCK_BYTES_MAX: u64 = 4 << 10;
/// For how long a Parquet file is written to, unless it is said.
const ROTATE_EVERY: Duration = Duration::from_secs(60);
/// What the name of a file ends in that is written to.
const OPEN: &str = ".open";

/// Files in a folder.
#[derive(Debug)]
pub(crate) struct FileSink {
    /// None while a thread writes.
    inner: Option<Writing>,
}

#[derive(Debug)]
struct Writing {
    settings: manifest::FileSink,
    name: String,
    folder: Folder,
    /// Held as long as anybody may write there: of two nodes, or of this one before it was told to stop, one does.
    _lock: File,
    at: Committed,
    file: File,
    /// What is not written yet, of a file of lines.
    buffer: Vec<u8>,
    /// A Parquet file that was begun, and until when it may be written to.
    table: Option<(Table, Instant)>,
    /// The files that are full, but for a commit that says so.
    full: Vec<u64>,
}

/// How far files are written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Committed {
    version: u32,
    /// The number of the file that is written to.
    number: u64,
    /// Its length, in bytes.
    length: u64,
    /// The columns that it has, if it names them.
    columns: Vec<String>,
    /// The folder that it is in; older versions did not say.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    path: String,
}

impl Committed {
    /// The file of a number, with nothing in it yet.
    fn begin(number: u64, settings: &manifest::FileSink) -> Self {
        Self { version: VERSION, number, path: settings.path.clone(), ..Self::default() }
    }

    /// Whether it is in another folder than the one that is said.
    fn is_elsewhere(&self, settings: &manifest::FileSink) -> bool {
        !self.path.is_empty() && self.path != settings.path
    }
}

impl FileSink {
    /// Goes on with what was committed.
    pub(crate) async fn open(
        work: &WorkId,
        settings: &manifest::FileSink,
        machine: &Arc<dyn Machine>,
        committed: Option<&[u8]>,
    ) -> Result<Self, Trouble> {
        let at = match committed {
            None => None,
            Some(known) => {
                let known = serde_json::from_slice::<Committed>(known).ok().filter(|at| at.version == VERSION);
                let foreign =
                    || Trouble("what it has written is not in files: declare it under another name".to_owned());
                Some(known.ok_or_else(foreign)?)
            }
        };
        let folder = Folder::of(machine, Path::new(&settings.path)).await?;
        let left = match &at {
            Some(at) if at.is_elsewhere(settings) => left(at, machine).await,
            _ => None,
        };
        let (work, settings) = (work.clone(), settings.clone());
        let opened = tokio::task::spawn_blocking(move || {
            let path = settings.path.clone();
            if let Some((folder, at)) = left {
                let what = format!("what was written to {} before cannot be closed", at.path);
                close_left(&folder, &work, &at).map_err(|error| Trouble::of(what, error))?;
            }
            Writing::open(&work, settings, folder, at)
                .map_err(|error| Trouble::of(format!("{path} cannot be written to"), error))
        });
        let inner = opened.await.map_err(|error| Trouble(error.to_string()))??;
        Ok(Self { inner: Some(inner) })
    }
}

#[async_trait]
impl Sink for FileSink {
    async fn write(&mut self, part: &Part) -> Result<(), Trouble> {
        let rows = part.rows.clone();
        aside(&mut self.inner, move |inner| {
            let written = rows.iter().try_for_each(|rows| inner.write(rows));
            written.map_err(|error| inner.trouble(error))
        })
        .await
    }

    async fn flush(&mut self) -> Result<Flushed, Trouble> {
        aside(&mut self.inner, |inner| {
            inner.sync().map_err(|error| inner.trouble(error))?;
            let known = serde_json::to_vec(&inner.at).map_err(|error| inner.trouble(error))?;
            Ok(Flushed { known: Bytes::from(known), passed_over: None })
        })
        .await
    }

    fn waits_until(&self) -> Option<Instant> {
        let inner = self.inner.as_ref()?;
        let (table, due) = inner.table.as_ref()?;
        let is_full = table.length() >= u64::from(inner.settings.rotate) || !inner.full.is_empty();
        (!is_full).then_some(*due)
    }

    async fn committed(&mut self) -> Result<(), Trouble> {
        if self.inner.as_ref().is_some_and(|inner| inner.full.is_empty()) {
            return Ok(());
        }
        aside(&mut self.inner, |inner| inner.name_full().map_err(|error| inner.trouble(error))).await
    }
}

impl Writing {
    fn open(
        work: &WorkId,
        settings: manifest::FileSink,
        folder: Folder,
        at: Option<Committed>,
    ) -> std::io::Result<Self> {
        let name = work.name.clone();
        let lock = lock(&folder, work)?;
        let there = numbers(&folder, &name, settings.format)?;
        let open_name = |number| file_name(&name, settings.format, number) + OPEN;
        let mut full = Vec::new();
        let is_known = match &at {
            Some(at) if !at.is_elsewhere(&settings) => is_there(&folder, &open_name(at.number), at.length)?,
            _ => false,
        };
        let at = match at {
            Some(at) if is_known => {
                for (number, _) in there.iter().filter(|(_, is_open)| *is_open) {
                    match number.cmp(&at.number) {
                        Ordering::Less => full.push(*number),
                        Ordering::Equal => {}
                        Ordering::Greater => std::fs::remove_file(folder.path().join(open_name(*number)))?,
                    }
                }
                at
            }
            // What is there stays as it is: of an earlier sink of that name, or of this one before its folder was another.
            gone => {
                let others = FileFormat::ALL.into_iter().filter(|format| *format != settings.format);
                if let Some(gone) = gone.as_ref().filter(|gone| !gone.is_elsewhere(&settings))
                    && !close(&folder, &name, others, gone)?
                {
                    let (file, length) = (open_name(gone.number), gone.length);
                    tracing::warn!(file, length, "what was written to it is not there; the next file is begun");
                }
                for (number, _) in there.iter().filter(|(_, is_open)| *is_open) {
                    remove_empty(&folder, &open_name(*number))?;
                }
                let taken = there.iter().map(|(number, _)| *number).chain(gone.map(|gone| gone.number));
                let number = taken.max().map_or(1, |number| number + 1);
                Committed::begin(number, &settings)
            }
        };
        let mut file = folder.open(&open_name(at.number), OFlags::RDWR | OFlags::CREATE)?;
        file.set_len(at.length)?;
        file.seek(SeekFrom::Start(at.length))?;
        let (buffer, table) = (Vec::new(), None);
        let mut writing = Self { settings, name, folder, _lock: lock, at, file, buffer, table, full };
        writing.name_full()?;
        sync_folder(&writing.folder)?;
        Ok(writing)
    }

    fn trouble(&self, error: impl std::fmt::Display) -> Trouble {
        Trouble::of(format!("{} cannot be written to", self.settings.path), error)
    }

    fn write(&mut self, rows: &Rows) -> std::io::Result<()> {
        match self.settings.format {
            _ if rows.0.num_rows() == 0 => Ok(()),
            FileFormat::Parquet => self.write_table(&rows.0),
            FileFormat::JsonLines | FileFormat::Csv => self.write_lines(rows),
        }
    }

    fn write_table(&mut self, rows: &RecordBatch) -> std::io::Result<()> {
        if self.table.as_ref().is_some_and(|(table, _)| !table.takes(rows)) {
            self.next_file()?;
        }
        let (table, _) = match &mut self.table {
            Some(table) => table,
            none => {
                let every = self.settings.rotate_every.map_or(ROTATE_EVERY, Duration::from);
                none.insert((Table::begin(self.file.try_clone()?, rows)?, Instant::now() + every))
            }
        };
        table.write(rows)
    }

    fn write_lines(&mut self, rows: &Rows) -> std::io::Result<()> {
        let is_csv = self.settings.format == FileFormat::Csv;
        let (columns, lines) = (rows.columns(), rows.lines().map_err(std::io::Error::other)?);
        if is_csv && self.at.columns != columns {
            if self.at.length > 0 {
                self.next_file()?;
            }
            self.name_columns(&columns);
        }
        for line in lines.lines() {
            let line = match is_csv {
                false => format!("{line}\n"),
                true => format::csv_line(&columns, &object(line)?),
            };
            if self.at.length > 0 && self.at.length + line.len() as u64 > u64::from(self.settings.rotate) {
                self.next_file()?;
                if is_csv {
                    self.name_columns(&columns);
                }
            }
            self.put(&line);
            if self.buffer.len() >= BATCH_BYTES {
                self.write_out()?;
            }
        }
        Ok(())
    }

    fn name_columns(&mut self, columns: &[String]) {
        self.at.columns = columns.to_vec();
        self.put(&format::csv_header(columns));
    }

    fn put(&mut self, line: &str) {
        self.buffer.extend_from_slice(line.as_bytes());
        self.at.length += line.len() as u64;
    }

    fn write_out(&mut self) -> std::io::Result<()> {
        self.file.write_all(&self.buffer)?;
        self.buffer.clear();
        Ok(())
    }

    fn sync(&mut self) -> std::io::Result<()> {
        if self.table.is_some() {
            return self.next_file();
        }
        self.write_out()?;
        self.file.sync_data()
    }

    fn next_file(&mut self) -> std::io::Result<()> {
        if let Some((table, _)) = self.table.take() {
            table.end()?;
        }
        self.write_out()?;
        self.file.sync_data()?;
        self.full.push(self.at.number);
        self.at = Committed::begin(self.at.number + 1, &self.settings);
        let name = file_name(&self.name, self.settings.format, self.at.number) + OPEN;
        self.file = self.folder.open(&name, OFlags::RDWR | OFlags::CREATE | OFlags::TRUNC)?;
        sync_folder(&self.folder)
    }

    /// Gives the files their names that a commit says are full.
    fn name_full(&mut self) -> std::io::Result<()> {
        if self.full.is_empty() {
            return Ok(());
        }
        let folder = self.folder.path();
        for number in self.full.drain(..) {
            let name = file_name(&self.name, self.settings.format, number);
            std::fs::rename(folder.join(format!("{name}{OPEN}")), folder.join(name))?;
        }
        sync_folder(&self.folder)
    }
}

/// Keeps others from writing files of that name there: those who would at the same time, and whoever is not the sink that has begun
/// them, whose numbers mean other files.
fn lock(folder: &Folder, work: &WorkId) -> std::io::Result<File> {
    let name = format!(".{}.lock", work.name);
    let mut lock = folder.open(&name, OFlags::RDWR | OFlags::CREATE)?;
    rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)
        .map_err(|_| std::io::Error::other("another sink of that name writes there; end it, or name another folder"))?;
    let (mut of, ours) = (String::new(), work.to_string());
    (&lock).take(LOCK_BYTES_MAX).read_to_string(&mut of)?;
    // One that was cut off while it was written is begun anew.
    if of.len() < ours.len() && ours.starts_with(&of) {
        lock.rewind()?;
        lock.write_all(ours.as_bytes())?;
        lock.sync_data()?;
    } else if of != ours {
        let text = format!(
            "the files of that name there are of {of}; name another folder, or remove {name} there if that is gone"
        );
        return Err(std::io::Error::other(text));
    }
    Ok(lock)
}

/// The folder that was written to before, if there still is one.
async fn left(at: &Committed, machine: &Arc<dyn Machine>) -> Option<(Folder, Committed)> {
    match Folder::of(machine, Path::new(&at.path)).await {
        Ok(folder) => Some((folder, at.clone())),
        Err(trouble) => {
            tracing::warn!(path = at.path, %trouble, "what was written there stays open");
            None
        }
    }
}

/// Closes what was written in another folder.
fn close_left(folder: &Folder, work: &WorkId, at: &Committed) -> std::io::Result<()> {
    let _lock = lock(folder, work)?;
    close(folder, &work.name, FileFormat::ALL, at)?;
    sync_folder(folder)
}

/// Removes a file that nothing was ever written to.
fn remove_empty(folder: &Folder, name: &str) -> std::io::Result<()> {
    match folder.open(name, OFlags::RDONLY)?.metadata()?.len() {
        0 => std::fs::remove_file(folder.path().join(name)),
        _ => Ok(()),
    }
}

/// Closes what was written in other formats, as far as it is committed, and says whether there was something.
fn close(
    folder: &Folder,
    sink: &str,
    formats: impl IntoIterator<Item = FileFormat>,
    at: &Committed,
) -> std::io::Result<bool> {
    let mut was_there = false;
    for format in formats {
        let (path, name) = (folder.path(), |number| file_name(sink, format, number));
        if !is_there(folder, &(name(at.number) + OPEN), at.length)? {
            continue;
        }
        was_there = true;
        for (number, _) in numbers(folder, sink, format)?.into_iter().filter(|(_, is_open)| *is_open) {
            let open = name(number) + OPEN;
            if number > at.number || number == at.number && at.length == 0 {
                std::fs::remove_file(path.join(&open))?;
                continue;
            }
            if number == at.number {
                let file = folder.open(&open, OFlags::RDWR)?;
                file.set_len(at.length)?;
                file.sync_all()?;
            }
            std::fs::rename(path.join(&open), path.join(name(number)))?;
        }
    }
    Ok(was_there)
}

/// Whether a file is there that is at least so long.
fn is_there(folder: &Folder, name: &str, length: u64) -> std::io::Result<bool> {
    match folder.open(name, OFlags::RDONLY) {
        Ok(file) => Ok(file.metadata()?.len() >= length),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn object(line: &str) -> std::io::Result<Map<String, Value>> {
    serde_json::from_str(line).map_err(std::io::Error::other)
}

fn file_name(sink: &str, format: FileFormat, number: u64) -> String {
    format!("{sink}-{number:08}.{}", format.extension())
}

/// The numbers of the files that are there, and whether they are written to.
fn numbers(folder: &Folder, sink: &str, format: FileFormat) -> std::io::Result<Vec<(u64, bool)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder.path())? {
        let name = entry?.file_name();
        let Some(name) = name.to_str() else { continue };
        let (closed, is_open) = name.strip_suffix(OPEN).map_or((name, false), |closed| (closed, true));
        let number = closed.strip_prefix(sink).and_then(|rest| rest.strip_prefix('-'));
        let number = number.and_then(|rest| rest.strip_suffix(format.extension())?.strip_suffix('.')?.parse().ok());
        // What is not named as this sink does is somebody else's.
        let is_ours = |number: &u64| file_name(sink, format, *number) == closed;
        found.extend(number.filter(is_ours).map(|number| (number, is_open)));
    }
    Ok(found)
}

/// Makes the names of files safe.
fn sync_folder(folder: &Folder) -> std::io::Result<()> {
    File::open(folder.path())?.sync_all()
}
