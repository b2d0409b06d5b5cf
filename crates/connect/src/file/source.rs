//! Follows a file that grows: each line that is complete is a record.
//!
//! The position says how far it was read, and has a checksum of how the file begins: so it is found again that another file is there
//! now, which is read from its start. A file that was moved away while it is read is read to its end before.

use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use littoral_flow::stats::now_us;
use littoral_model::manifest::{self, FileFormat};
use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::format::{self, Found};
use super::{Folder, aside, pass_over, read_at};
use crate::{BATCH_BYTES, BATCH_RECORDS, Machine, Record, Source, Taken, Trouble, key_of};

/// The version of the form of positions.
const VERSION: u32 = 1;
/// How often is looked whether a file has grown.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How much of a file tells it from others.
const HEAD_BYTES: u64 = 1 << 10;
/// How much is read at once, and the longest record.
const READ_BYTES: usize = BATCH_BYTES;

/// A file that is followed.
#[derive(Debug)]
pub(crate) struct FileSource {
    /// None while a thread reads.
    inner: Option<Following>,
    /// It was looked for since it was opened.
    has_looked: bool,
}

#[derive(Debug)]
struct Following {
    settings: manifest::FileSource,
    name: String,
    folder: Folder,
    /// How far the file at hand is read, and how it begins; before it is opened, what was committed.
    place: Place,
    file: Option<File>,
    /// The names of its columns.
    columns: Vec<String>,
}

/// How far a file is read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Place {
    version: u32,
    /// How many bytes of it are read.
    offset: u64,
    /// Of how many bytes at its beginning the checksum is.
    head: u64,
    /// Their CRC-32C.
    checksum: u32,
    /// It is in the middle of a record that is too long.
    is_skipping: bool,
}

impl FileSource {
    /// Goes on at a position. That the file is not there is told by the first read.
    pub(crate) async fn open(
        settings: &manifest::FileSource,
        machine: &Arc<dyn Machine>,
        position: Option<&[u8]>,
    ) -> Result<Self, Trouble> {
        let place = match position {
            None => Place { version: VERSION, ..Place::default() },
            Some(position) => {
                serde_json::from_slice::<Place>(position).ok().filter(|at| at.version == VERSION).ok_or_else(|| {
                    Trouble("its position is not that of a file: declare it under another name".to_owned())
                })?
            }
        };
        let path = Path::new(&settings.path);
        let (Some(folder), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
            return Err(Trouble(format!("{} is no path of a file", settings.path)));
        };
        let folder = Folder::of(machine, folder).await?;
        let (settings, name) = (settings.clone(), name.to_owned());
        let inner = Following { settings, name, folder, place, file: None, columns: Vec::new() };
        Ok(Self { inner: Some(inner), has_looked: false })
    }
}

#[async_trait]
impl Source for FileSource {
    async fn next(&mut self) -> Result<Taken, Trouble> {
        loop {
            let before = self.inner.as_ref().map(|inner| inner.place);
            let taken = aside(&mut self.inner, Following::take).await?;
            let has_moved = before != self.inner.as_ref().map(|inner| inner.place);
            let is_first = !std::mem::replace(&mut self.has_looked, true);
            if is_first || !taken.is_empty() {
                return Ok(taken);
            }
            if !has_moved {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
    }
}

impl Following {
    fn trouble(&self, error: impl std::fmt::Display) -> Trouble {
        Trouble::of(format!("{} cannot be read", self.settings.path), error)
    }

    /// The records that are there.
    fn take(&mut self) -> Result<Taken, Trouble> {
        let mut taken = Taken::default();
        if !self.find().map_err(|error| self.trouble(error))? {
            return Err(Trouble(format!("{} is not there; it is looked for again", self.settings.path)));
        }
        self.read(&mut taken).map_err(|error| self.trouble(error))?;
        let position = serde_json::to_vec(&self.place).map_err(|error| self.trouble(error))?;
        taken.position = Bytes::from(position);
        Ok(taken)
    }

    /// Whether there is a file to read on: the one at hand, or the one that has taken its place once that is read.
    fn find(&mut self) -> std::io::Result<bool> {
        let named = match self.folder.open(&self.name, OFlags::RDONLY) {
            Ok(file) => Some(file),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        if let Some(file) = &self.file {
            let (ours, length) = (identity(file)?, file.metadata()?.len());
            let is_same = named.as_ref().map(identity).transpose()? == Some(ours);
            if is_same && !self.is_known(file)? {
                // It was cut off, and begins anew, however long it has become since.
                self.begin();
                return Ok(true);
            }
            if is_same || length > self.place.offset && self.grows(length)? {
                return Ok(true);
            }
            let Some(named) = named else { return Ok(true) };
            self.begin();
            self.file = Some(named);
            return Ok(true);
        }
        let Some(file) = named else { return Ok(false) };
        if !self.is_known(&file)? {
            self.begin();
        }
        self.file = Some(file);
        if self.place.offset > 0 && self.settings.format == FileFormat::Csv {
            self.columns = self.header()?.map(|(columns, _)| columns).unwrap_or_default();
        }
        Ok(true)
    }

    /// Whether a file that was moved away has a whole record left: nobody ends one that was begun, but whoever still has it open.
    fn grows(&self, length: u64) -> std::io::Result<bool> {
        let rest = self.chunk(self.place.offset)?;
        let is_long = length - self.place.offset >= READ_BYTES as u64;
        let is_whole = match self.settings.format {
            FileFormat::Csv if !self.place.is_skipping => matches!(format::fields(&rest), Found::One(..)),
            _ => rest.contains(&b'\n'),
        };
        Ok(is_long || is_whole)
    }

    fn begin(&mut self) {
        self.place = Place { version: VERSION, ..Place::default() };
        self.columns = Vec::new();
    }

    /// Whether a file is the one that was read so far.
    fn is_known(&self, file: &File) -> std::io::Result<bool> {
        let Place { offset, head, checksum, .. } = self.place;
        Ok(file.metadata()?.len() >= offset && checksum_of(file, head)? == checksum)
    }

    /// What follows a place, as much as is read at once.
    fn chunk(&self, offset: u64) -> std::io::Result<Vec<u8>> {
        let Some(file) = &self.file else { return Ok(Vec::new()) };
        read_at(file, offset, READ_BYTES)
    }

    /// The names of the columns, and how many bytes they take.
    fn header(&self) -> std::io::Result<Option<(Vec<String>, usize)>> {
        let start = self.chunk(0)?;
        let rest = start.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&start);
        match format::fields(rest) {
            Found::Incomplete => Ok(None),
            Found::One(fields, bytes) => {
                let name = |field: Option<Vec<u8>>| String::from_utf8_lossy(&field.unwrap_or_default()).into_owned();
                Ok(Some((fields.into_iter().map(name).collect(), bytes + start.len() - rest.len())))
            }
        }
    }

    fn read(&mut self, taken: &mut Taken) -> std::io::Result<()> {
        if self.place.offset == 0 && self.settings.format == FileFormat::Csv {
            let Some((columns, bytes)) = self.header()? else { return Ok(()) };
            self.columns = columns;
            self.place.offset = bytes as u64;
        }
        let chunk = self.chunk(self.place.offset)?;
        let (mut at, time_us) = (0, now_us());
        // As a record, a line is longer than in the file where each has the names of its columns.
        let mut bytes_given = 0;
        while taken.records.len() < BATCH_RECORDS && bytes_given < BATCH_BYTES {
            let rest = chunk.get(at..).unwrap_or_default();
            match self.one(rest, time_us) {
                Found::One(Ok(Some(record)), bytes) => {
                    bytes_given += record.value.len();
                    taken.records.push(record);
                    at += bytes;
                }
                Found::One(Ok(None), bytes) => at += bytes,
                Found::One(Err(why), bytes) => {
                    pass_over(taken, why);
                    at += bytes;
                }
                Found::Incomplete if at == 0 && chunk.len() == READ_BYTES => {
                    if !self.place.is_skipping {
                        pass_over(taken, format!("it has more than {READ_BYTES} bytes"));
                    }
                    // Of several lines only the first is given up: more likely it has a quote too many than that all are one record.
                    match format::line(&chunk) {
                        Found::One(_, bytes) => (self.place.is_skipping, at) = (false, bytes),
                        Found::Incomplete => (self.place.is_skipping, at) = (true, chunk.len()),
                    }
                }
                Found::Incomplete => break,
            }
        }
        self.place.offset += at as u64;
        if let (true, Some(file)) = (self.place.head < HEAD_BYTES, &self.file) {
            self.place.head = self.place.offset.min(HEAD_BYTES);
            self.place.checksum = checksum_of(file, self.place.head)?;
        }
        Ok(())
    }

    /// The first record of what is left; none for an empty line, and an error for what is no record.
    fn one(&mut self, rest: &[u8], time_us: i64) -> Found<Result<Option<Record>, String>> {
        if self.place.is_skipping {
            return match format::line(rest) {
                Found::Incomplete => Found::Incomplete,
                Found::One(_, bytes) => {
                    self.place.is_skipping = false;
                    Found::One(Ok(None), bytes)
                }
            };
        }
        match self.settings.format {
            // Of Parquet there is another source.
            FileFormat::JsonLines | FileFormat::Parquet => match format::line(rest) {
                Found::Incomplete => Found::Incomplete,
                Found::One(line, bytes) => Found::One(self.of_line(line, time_us), bytes),
            },
            FileFormat::Csv => match format::fields(rest) {
                Found::Incomplete => Found::Incomplete,
                Found::One(fields, bytes) => Found::One(self.of_fields(&fields, time_us), bytes),
            },
        }
    }

    fn of_line(&self, line: &[u8], time_us: i64) -> Result<Option<Record>, String> {
        let value = std::str::from_utf8(line).map_err(|error| error.to_string())?;
        if value.trim().is_empty() {
            return Ok(None);
        }
        let key = match &self.settings.key {
            None => None,
            Some(key) => {
                let read: Value = serde_json::from_str(value).map_err(|error| format!("it is no JSON: {error}"))?;
                key_of(read.get(key))
            }
        };
        Ok(Some(Record { key, time_us, value: value.to_owned() }))
    }

    fn of_fields(&self, fields: &[Option<Vec<u8>>], time_us: i64) -> Result<Option<Record>, String> {
        if let [None] = fields {
            return Ok(None);
        }
        if fields.len() != self.columns.len() {
            return Err(format!("it has {} fields, and the first line names {}", fields.len(), self.columns.len()));
        }
        let object = format::object(&self.columns, fields).map_err(|error| error.to_string())?;
        let key = self.settings.key.as_ref().and_then(|key| key_of(object.get(key)));
        Ok(Some(Record { key, time_us, value: Value::Object(object).to_string() }))
    }
}

fn identity(file: &File) -> std::io::Result<(u64, u64)> {
    let metadata = file.metadata()?;
    Ok((metadata.dev(), metadata.ino()))
}

fn checksum_of(file: &File, head: u64) -> std::io::Result<u32> {
    let length = usize::try_from(head.min(HEAD_BYTES)).unwrap_or_default();
    Ok(crc32c::crc32c(&read_at(file, 0, length)?))
}
