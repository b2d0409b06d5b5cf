//! Opening a log: reads every segment once, checks every checksum, and finds out where the works stand.
//!
//! Only the end of the last segment can be torn by a crash: a segment is whole and on disk before the next one gets its
//! name (or the next one's header says where its valid records end). What is torn there was never acknowledged and is
//! cut off. Anything else that does not have its checksum was damaged later, and is reported.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crc32c::crc32c;

use super::LogOptions;
use super::format::{
    HeaderError, Kind, RECORD_HEADER_BYTES, RecordHeader, SEGMENT_HEADER_BYTES, SegmentHeader, Standing, VERSION,
    segment_name, segment_number,
};
use super::held::Held;
use super::index::{Place, Work};
use super::segment::{Current, SPARE, Standings, make_segment};
use super::state::{Segment, State, hold};
use crate::disk::{Disk, DiskFile, read_exact_at, write_all_at};
use crate::error::StoreError;

/// How much is read at once.
const READ_BYTES: usize = 1 << 20;
/// The end of a segment is looked through in blocks of this size; those of zeros are skipped.
const BLOCK_BYTES: usize = 4096;
/// Records begin at multiples of this.
const ALIGNMENT: usize = 8;

/// A log that was read.
pub(crate) struct Recovered {
    pub(crate) state: State,
    pub(crate) standings: Standings,
    pub(crate) current: Current,
}

/// Reads the log on `disk`, or makes an empty one.
pub(crate) fn recover(disk: &dyn Disk, options: &LogOptions) -> Result<Recovered, StoreError> {
    let names = disk.list().map_err(|error| StoreError::io("list", &disk.path(""), &error))?;
    let mut numbers: Vec<u32> = names.iter().filter_map(|name| segment_number(name)).collect();
    numbers.sort_unstable();
    if names.iter().any(|name| name == SPARE) {
        // It may have been made half.
        disk.remove(SPARE).map_err(|error| StoreError::io("delete", &disk.path(SPARE), &error))?;
    }
    let mut files = Vec::new();
    for number in numbers {
        files.push(Opened::open(disk, number)?);
    }
    let mut replay = Replay::default();
    let Some(last) = files.pop() else { return begin(disk, options) };
    for at in 0..files.len() {
        let (Some(file), next) = (files.get(at), files.get(at + 1).unwrap_or(&last)) else { continue };
        if next.number != file.number + 1 {
            return Err(file.corrupt(0, format!("the segment after it, {}, is missing", segment_name(file.number + 1))));
        }
        file.read(&mut replay, Some(next.header.previous_end))?;
    }
    let tail = last.read(&mut replay, None)?;
    last.mend(&tail)?;
    disk.sync_dir().map_err(|error| StoreError::io("sync", &disk.path(""), &error))?;
    let end = tail.end as u32;
    let current = Current { number: last.number, file: last.file.clone(), bytes: last.bytes as u32, end, zeroed: end };
    let mut segments = BTreeMap::new();
    for (at, file) in files.iter().enumerate() {
        let next = files.get(at + 1).unwrap_or(&last);
        segments.insert(file.number, file.segment(next.header.previous_end as u32));
    }
    segments.insert(last.number, last.segment(end));
    replay.finish(files.first().unwrap_or(&last), segments, current, options)
}

/// A log without anything in it.
fn begin(disk: &dyn Disk, options: &LogOptions) -> Result<Recovered, StoreError> {
    let standings = Standings::new();
    let current = make_segment(disk, None, options.segment_bytes, (1, 0), &standings).map_err(|error| {
        if error.kind() == io::ErrorKind::StorageFull {
            return StoreError::Full { dir: disk.path(""), needed: u64::from(options.segment_bytes) };
        }
        StoreError::io("create", &disk.path(&segment_name(1)), &error)
    })?;
    let segment = Segment { file: current.file.clone(), end: current.end, live_entries: 0, live_bytes: 0 };
    let segments = BTreeMap::from([(1, segment)]);
    let state = State::new(HashMap::new(), 1, segments, options.cache_bytes);
    Ok(Recovered { state, standings, current })
}

/// A segment file with a valid header.
struct Opened {
    number: u32,
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    bytes: u64,
    header: SegmentHeader,
}

/// Where the valid records of the last segment end, and what follows.
struct Tail {
    end: u64,
    /// Everything before this was on disk for certain.
    synced: u64,
    /// Behind the last byte that is not zero, where that is behind the records.
    garbage_end: u64,
}

impl Opened {
    fn open(disk: &dyn Disk, number: u32) -> Result<Self, StoreError> {
        let name = segment_name(number);
        let path = disk.path(&name);
        let io = |error: io::Error| StoreError::io("read", &path, &error);
        let file = disk.open(&name).map_err(io)?;
        let bytes = file.size().map_err(io)?;
        let mut header = vec![0; SEGMENT_HEADER_BYTES as usize];
        let corrupt = |reason: &str| StoreError::Corrupt { file: path.clone(), offset: 0, reason: reason.to_owned() };
        if bytes < u64::from(SEGMENT_HEADER_BYTES) || bytes > u64::from(u32::MAX) {
            return Err(corrupt("it does not have the length of a segment"));
        }
        read_exact_at(file.as_ref(), &mut header, 0).map_err(io)?;
        let header = SegmentHeader::decode(&header).map_err(|error| match error {
            HeaderError::Damaged => corrupt("its header does not have its checksum"),
            HeaderError::Version(version) => StoreError::Version { file: path.clone(), version, max: VERSION },
        })?;
        if header.number != u64::from(number) {
            return Err(corrupt("its header has the number of another segment"));
        }
        Ok(Self { number, path, file, bytes, header })
    }

    fn corrupt(&self, offset: u64, reason: impl Into<String>) -> StoreError {
        StoreError::Corrupt { file: self.path.clone(), offset, reason: reason.into() }
    }

    fn io(&self, error: &io::Error) -> StoreError {
        StoreError::io("read", &self.path, error)
    }

    fn segment(&self, end: u32) -> Segment {
        Segment { file: self.file.clone(), end, live_entries: 0, live_bytes: 0 }
    }

    /// Replays the records up to `limit`, or up to the last valid one.
    fn read(&self, replay: &mut Replay, limit: Option<u64>) -> Result<Tail, StoreError> {
        replay.numbers.clear();
        let mut window = Window { file: self.file.as_ref(), bytes: self.bytes, start: 0, buffer: Vec::new() };
        let (mut offset, mut synced) = (u64::from(SEGMENT_HEADER_BYTES), u64::from(SEGMENT_HEADER_BYTES));
        while limit.is_none_or(|limit| offset < limit) {
            let Some((header, payload)) = self.record(&mut window, offset)? else {
                if limit.is_some() {
                    return Err(self.corrupt(offset, "the record there does not have its checksum"));
                }
                break;
            };
            let place = Place { segment: self.number, offset: offset as u32, len: header.len };
            replay.record(&header, place, payload).map_err(|reason| self.corrupt(offset, reason))?;
            synced = synced.max(u64::from(header.synced));
            offset += u64::from(header.size());
        }
        if limit.is_some_and(|limit| offset > limit) {
            return Err(self.corrupt(offset, "its records go on behind their end"));
        }
        let garbage_end = if limit.is_none() { self.look_behind(&mut window, offset)? } else { offset };
        Ok(Tail { end: offset, synced, garbage_end })
    }

    fn record<'a>(
        &self,
        window: &'a mut Window<'_>,
        offset: u64,
    ) -> Result<Option<(RecordHeader, &'a [u8])>, StoreError> {
        let io = |error| self.io(&error);
        let Some(bytes) = window.get(offset, RECORD_HEADER_BYTES as usize).map_err(io)? else { return Ok(None) };
        let Some(header) = RecordHeader::decode(bytes, self.number, offset as u32) else { return Ok(None) };
        let at = offset + u64::from(RECORD_HEADER_BYTES);
        let payload = window.get(at, header.len as usize).map_err(io)?;
        // What was written ends with its padding; a file that was cut off within it has no room for what follows.
        let whole = |payload: &&[u8]| crc32c(payload) == header.crc && offset + u64::from(header.size()) <= self.bytes;
        Ok(payload.filter(whole).map(|payload| (header, payload)))
    }

    /// Looks through what follows the last valid record: where it ends. A later record that was written when the
    /// broken place was on disk already says that this is not the end.
    fn look_behind(&self, window: &mut Window<'_>, from: u64) -> Result<u64, StoreError> {
        let zeros = [0; BLOCK_BYTES];
        let (mut at, mut garbage_end) = (from, from);
        while at < self.bytes {
            let length = (BLOCK_BYTES as u64).min(self.bytes - at) as usize;
            // A record may begin in this block and its header end in the next.
            let wanted = (length as u64 + u64::from(RECORD_HEADER_BYTES)).min(self.bytes - at) as usize;
            let Some(bytes) = window.get(at, wanted).map_err(|error| self.io(&error))? else { break };
            let block = bytes.get(..length).unwrap_or_default();
            if zeros.get(..length) != Some(block) {
                let last = block.iter().rposition(|byte| *byte != 0).map_or(0, |last| last as u64 + 1);
                garbage_end = at + last;
                for start in (0..length).step_by(ALIGNMENT) {
                    let place = (at + start as u64) as u32;
                    let header = bytes.get(start..).and_then(|rest| RecordHeader::decode(rest, self.number, place));
                    if header.is_some_and(|header| u64::from(header.synced) > from) {
                        return Err(self.corrupt(
                            from,
                            format!(
                                "the record there does not have its checksum, but a later one at byte {place} is valid"
                            ),
                        ));
                    }
                }
            }
            at += length as u64;
        }
        Ok(garbage_end)
    }

    /// Makes the end of the last segment durable and clean.
    fn mend(&self, tail: &Tail) -> Result<(), StoreError> {
        let io = |error: io::Error| StoreError::io("write", &self.path, &error);
        // What the last batch wrote may be in the system's memory only, even marked as written after a sync that
        // failed: only writing it again makes sure.
        let mut last = vec![0; tail.end.saturating_sub(tail.synced) as usize];
        read_exact_at(self.file.as_ref(), &mut last, tail.synced).map_err(io)?;
        write_all_at(self.file.as_ref(), &mut [io::IoSlice::new(&last)], tail.synced).map_err(io)?;
        if tail.garbage_end > tail.end {
            let cut = tail.garbage_end - tail.end;
            tracing::warn!(file = %self.path.display(), at = tail.end, bytes = cut, "the end of the log was torn by a crash and is cut off; nothing acknowledged was in it");
            // Nothing of it may ever look like a record again.
            let zeros = vec![0; cut as usize];
            write_all_at(self.file.as_ref(), &mut [io::IoSlice::new(&zeros)], tail.end).map_err(io)?;
        }
        self.file.sync().map_err(io)
    }
}

/// The part of a file that is in memory.
struct Window<'a> {
    file: &'a dyn DiskFile,
    bytes: u64,
    start: u64,
    buffer: Vec<u8>,
}

impl Window<'_> {
    /// None when the file ends before.
    fn get(&mut self, offset: u64, length: usize) -> io::Result<Option<&[u8]>> {
        if offset + length as u64 > self.bytes {
            return Ok(None);
        }
        let known = self.start..self.start + self.buffer.len() as u64;
        if !(known.start <= offset && offset + length as u64 <= known.end) {
            let wanted = (length.max(READ_BYTES) as u64).min(self.bytes - offset);
            self.buffer.resize(wanted as usize, 0);
            self.start = offset;
            read_exact_at(self.file, &mut self.buffer, offset)?;
        }
        let at = (offset - self.start) as usize;
        Ok(self.buffer.get(at..at + length))
    }
}

/// A work as far as it was replayed.
struct Replayed {
    name: String,
    standing: Standing,
    entries: Held,
}

/// What the records said so far.
#[derive(Default)]
struct Replay {
    works: HashMap<String, Replayed>,
    /// The names behind the numbers of the present segment.
    numbers: HashMap<u32, String>,
    number_max: u32,
}

impl Replay {
    fn record(&mut self, header: &RecordHeader, place: Place, payload: &[u8]) -> Result<(), String> {
        match header.kind {
            Kind::Mark => return Ok(()),
            Kind::Work => return self.work(header, payload),
            _ => {}
        }
        let unknown = || format!("the record names work {}, which was not introduced", header.work);
        let name = self.numbers.get(&header.work).ok_or_else(unknown)?;
        if header.kind == Kind::Drop {
            self.works.remove(name);
            self.numbers.remove(&header.work);
            return Ok(());
        }
        let work = self.works.get_mut(name).ok_or_else(unknown)?;
        work.record(header, place)
    }

    fn work(&mut self, header: &RecordHeader, payload: &[u8]) -> Result<(), String> {
        let (standing, name) = Standing::decode(header, payload).ok_or("the record of a work makes no sense")?;
        let make = || Replayed { name: name.clone(), standing, entries: Held::up_to(standing.next) };
        let work = self.works.entry(name.clone()).or_insert_with(make);
        if work.standing != standing {
            return Err(format!("{name} should stand at {:?} there, not at {standing:?}", work.standing));
        }
        self.numbers.insert(header.work, name);
        self.number_max = self.number_max.max(header.work);
        Ok(())
    }

    /// Builds the index.
    fn finish(
        mut self,
        oldest: &Opened,
        mut segments: BTreeMap<u32, Segment>,
        current: Current,
        options: &LogOptions,
    ) -> Result<Recovered, StoreError> {
        let (mut works, mut standings) = (HashMap::new(), Standings::new());
        for (number, name) in std::mem::take(&mut self.numbers) {
            let Some(replayed) = self.works.remove(&name) else { continue };
            let Replayed { name, standing, entries } = replayed;
            let mut found = Vec::with_capacity(entries.found());
            for index in standing.first..standing.next {
                let missing = || oldest.corrupt(0, format!("entry {index} of {name} is missing from here on"));
                let (place, epoch) = entries.get(index).ok_or_else(missing)?;
                hold(&mut segments, place);
                found.push((place, epoch));
            }
            let name: Arc<str> = Arc::from(name);
            standings.insert(number, (name.clone(), standing));
            works.insert(number, Work::recovered(name, standing, found));
        }
        if let Some(name) = self.works.keys().next() {
            return Err(oldest.corrupt(0, format!("the last segment does not know {name}")));
        }
        let state = State::new(works, self.number_max + 1, segments, options.cache_bytes);
        Ok(Recovered { state, standings, current })
    }
}

impl Replayed {
    fn record(&mut self, header: &RecordHeader, place: Place) -> Result<(), String> {
        let Standing { first, next, .. } = self.standing;
        let RecordHeader { kind, index, epoch, .. } = *header;
        let name = &self.name;
        match kind {
            Kind::Entry if index == next => self.entries.push((place, epoch)),
            Kind::Entry => return Err(format!("entry {index} of {name} is there, where {next} should be")),
            Kind::Copied => {
                // A copy of what was forgotten by then would be a harmless waste.
                if (first..next).contains(&index) {
                    self.entries.place(index, (place, epoch));
                }
            }
            Kind::Truncate | Kind::Trim if !(first..=next).contains(&index) => {
                return Err(format!("{name} holds {first} to {next}, but is cut at {index}"));
            }
            Kind::Truncate => self.entries.truncate(index),
            Kind::Trim => self.entries.trim(index),
            Kind::Reset => self.entries = Held::up_to(index),
            Kind::Work | Kind::Drop | Kind::Mark => {}
        }
        self.standing.apply(kind, index, epoch);
        if !self.standing.makes_sense() {
            return Err(format!("{name} would stand at {:?}", self.standing));
        }
        Ok(())
    }
}
