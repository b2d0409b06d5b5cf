//! Reads whole Parquet files of a folder, in the order of their names: each row is a record.
//!
//! Files are not changed once they are there. The position is the name of the file and how many of its rows are read, so a file whose name
//! comes before that one's is not read any more. One that is not whole is waited for, but not for ever.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use littoral_flow::stats::now_us;
use littoral_model::manifest;
use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::parquet::{Rows, Unreadable};
use super::{Folder, aside, pass_over};
use crate::{BATCH_BYTES, BATCH_RECORDS, Machine, Record, Source, Taken, Trouble, key_of};

/// The version of the form of positions.
const VERSION: u32 = 1;
/// How often is looked whether there is another file.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// For how long after its last change a file may be not whole.
const PATIENCE: Duration = Duration::from_secs(60);
/// The longest record.
const RECORD_BYTES_MAX: usize = BATCH_BYTES;
/// What the names of files end in.
const ENDING: &str = ".parquet";

/// The files of a folder, or one file.
#[derive(Debug)]
pub(crate) struct ParquetSource {
    /// None while a thread reads.
    inner: Option<Reading>,
    /// It was looked for files since it was opened.
    has_looked: bool,
}

#[derive(Debug)]
struct Reading {
    settings: manifest::FileSource,
    folder: Folder,
    /// The only file of it that is read.
    only: Option<String>,
    place: Place,
    /// The file at hand.
    rows: Option<Rows>,
    /// What is decoded of it and not given yet.
    ahead: VecDeque<String>,
    /// How many files there were whose turn is over.
    over: Option<usize>,
}

/// How far one has come.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Place {
    version: u32,
    /// The name of the file; none before the first.
    file: String,
    /// How many of its rows are read.
    row: u64,
    /// The checksum of how it ends.
    checksum: u32,
    /// All of it is read that can be.
    is_over: bool,
}

impl ParquetSource {
    /// Goes on at a position.
    pub(crate) async fn open(
        settings: &manifest::FileSource,
        machine: &Arc<dyn Machine>,
        position: Option<&[u8]>,
    ) -> Result<Self, Trouble> {
        let place = match position {
            None => Place { version: VERSION, is_over: true, ..Place::default() },
            Some(position) => {
                serde_json::from_slice::<Place>(position).ok().filter(|at| at.version == VERSION).ok_or_else(|| {
                    Trouble("its position is not that of Parquet files: declare it under another name".to_owned())
                })?
            }
        };
        let (folder, only) = opened(Path::new(&settings.path), machine).await?;
        let (settings, rows, ahead, over) = (settings.clone(), None, VecDeque::new(), None);
        Ok(Self { inner: Some(Reading { settings, folder, only, place, rows, ahead, over }), has_looked: false })
    }
}

/// The folder that a path names, or the one that it is in, and its name.
async fn opened(path: &Path, machine: &Arc<dyn Machine>) -> Result<(Folder, Option<String>), Trouble> {
    let trouble = match Folder::of(machine, path).await {
        Ok(folder) => return Ok((folder, None)),
        Err(trouble) => trouble,
    };
    match (path.parent(), path.file_name().and_then(|name| name.to_str())) {
        (Some(parent), Some(name)) if name.ends_with(ENDING) => {
            Ok((Folder::of(machine, parent).await?, Some(name.to_owned())))
        }
        _ => Err(trouble),
    }
}

#[async_trait]
impl Source for ParquetSource {
    async fn next(&mut self) -> Result<Taken, Trouble> {
        loop {
            let before = self.inner.as_ref().map(|inner| inner.place.clone());
            let taken = aside(&mut self.inner, Reading::take).await?;
            let has_moved = before != self.inner.as_ref().map(|inner| inner.place.clone());
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

impl Reading {
    fn trouble(&self, error: impl std::fmt::Display) -> Trouble {
        Trouble::of(format!("{} cannot be read", self.settings.path), error)
    }

    /// What is there, of one file.
    fn take(&mut self) -> Result<Taken, Trouble> {
        let mut taken = Taken::default();
        if self.rows.is_none() {
            self.begin(&mut taken)?;
        }
        if self.rows.is_some() {
            self.read(&mut taken)?;
        }
        let position = serde_json::to_vec(&self.place).map_err(|error| self.trouble(error))?;
        taken.position = Bytes::from(position);
        Ok(taken)
    }

    /// Opens the file that is to be read, if there is one.
    fn begin(&mut self, taken: &mut Taken) -> Result<(), Trouble> {
        let (name, row) = match self.place.is_over {
            false => (self.place.file.clone(), self.place.row),
            true => match self.following(taken).map_err(|error| self.trouble(error))? {
                Some(name) => (name, 0),
                None => return Ok(()),
            },
        };
        let known = self.place.checksum;
        let file = self.folder.open(&name, OFlags::RDONLY);
        let changed = file.as_ref().ok().and_then(|file| file.metadata().ok()?.modified().ok());
        let opened = file.map_err(Unreadable::from).and_then(|file| Rows::open(file, row, known));
        match opened {
            Ok((rows, from)) => {
                self.over = self.over.map(|over| over + usize::from(self.place.file != name));
                self.place = Place { version: VERSION, file: name, row: from, checksum: rows.checksum, is_over: false };
                self.rows = Some(rows);
            }
            // Removed between the look and now.
            Err(Unreadable::Io(error)) if error.kind() == std::io::ErrorKind::NotFound && self.place.is_over => {}
            Err(Unreadable::Io(error)) if error.kind() == std::io::ErrorKind::NotFound => {
                self.give_up(taken, format!("{name} is gone, and only {row} of its rows were read"));
            }
            Err(Unreadable::Io(error)) => return Err(self.trouble(format!("{name}: {error}"))),
            Err(Unreadable::Damaged(why)) if changed.is_some_and(is_fresh) => {
                let hint = "it is passed over if that is so for a minute; give files their names once they are whole";
                return Err(self.trouble(format!("{name}: {why}; {hint}")));
            }
            Err(Unreadable::Damaged(why)) => {
                self.over = self.over.map(|over| over + usize::from(self.place.file != name));
                self.place = Place { version: VERSION, file: name.clone(), row, ..Place::default() };
                self.give_up(taken, format!("{name}: {why}"));
            }
        }
        Ok(())
    }

    /// The file whose turn it is. One that has come too late for its turn is passed over.
    fn following(&mut self, taken: &mut Taken) -> std::io::Result<Option<String>> {
        let (mut following, mut over) = (None::<String>, 0);
        for entry in std::fs::read_dir(self.folder.path())? {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            let is_meant = match &self.only {
                Some(only) => *only == name,
                None => name.ends_with(ENDING) && !name.starts_with(['.', '_']),
            };
            if !is_meant || !entry.file_type()?.is_file() {
                continue;
            }
            if name <= self.place.file {
                over += 1;
            } else if following.as_ref().is_none_or(|first| name < *first) {
                following = Some(name);
            }
        }
        for _ in self.over.unwrap_or(over)..over {
            let read = &self.place.file;
            pass_over(taken, format!("a file came whose name is before {read}, which is read; give it a later name"));
        }
        self.over = Some(over);
        Ok(following)
    }

    fn give_up(&mut self, taken: &mut Taken, why: String) {
        pass_over(taken, why);
        (self.place.is_over, self.rows) = (true, None);
        self.ahead.clear();
    }

    fn read(&mut self, taken: &mut Taken) -> Result<(), Trouble> {
        let (mut bytes_given, time_us) = (0, now_us());
        while taken.records.len() < BATCH_RECORDS && bytes_given < BATCH_BYTES {
            let Some(value) = self.ahead.pop_front() else {
                if !self.decode(taken)? {
                    break;
                }
                continue;
            };
            self.place.row += 1;
            if value.len() > RECORD_BYTES_MAX {
                let (row, file) = (self.place.row, &self.place.file);
                pass_over(taken, format!("row {row} of {file} has more than {RECORD_BYTES_MAX} bytes"));
                continue;
            }
            bytes_given += value.len();
            taken.records.push(Record { key: self.key_of(&value), time_us, value });
        }
        Ok(())
    }

    /// Decodes what comes next of the file at hand; not if that was all.
    fn decode(&mut self, taken: &mut Taken) -> Result<bool, Trouble> {
        match self.rows.as_mut().map(Rows::next) {
            Some(Ok(Some(lines))) => {
                self.ahead = lines.lines().map(str::to_owned).collect();
                return Ok(true);
            }
            Some(Err(Unreadable::Io(error))) => return Err(self.trouble(format!("{}: {error}", self.place.file))),
            Some(Err(Unreadable::Damaged(why))) => {
                let Place { file, row, .. } = &self.place;
                let why = format!("{file} cannot be read behind row {row}: {why}");
                self.give_up(taken, why);
            }
            Some(Ok(None)) | None => (self.place.is_over, self.rows) = (true, None),
        }
        Ok(false)
    }

    fn key_of(&self, value: &str) -> Option<String> {
        let key = self.settings.key.as_ref()?;
        let read: Value = serde_json::from_str(value).ok()?;
        key_of(read.get(key))
    }
}

/// Whether somebody may still be writing a file. One from the future is not waited for.
fn is_fresh(changed: SystemTime) -> bool {
    SystemTime::now().duration_since(changed).is_ok_and(|age| age < PATIENCE)
}
