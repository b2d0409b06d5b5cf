//! Making segments, and reading entries from them.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use crc32c::crc32c;
use littoral_model::entry::Entry;
use littoral_model::id::Epoch;

use super::buffers::Buffers;
use super::format::{
    Encoder, RECORD_HEADER_BYTES, Record, RecordHeader, SEGMENT_HEADER_BYTES, SegmentHeader, Standing, record_size,
    segment_name,
};
use super::index::Place;
use crate::disk::{Disk, DiskFile, read_exact_at};
use crate::error::StoreError;

/// The name of a segment that is being made, or kept for when it is needed.
pub(crate) const SPARE: &str = "spare.tmp";

/// Where the logs of all works stand, by number.
pub(crate) type Standings = BTreeMap<u32, (Arc<str>, Standing)>;

/// The segment that is written to.
pub(crate) struct Current {
    pub(crate) number: u32,
    pub(crate) file: Arc<dyn DiskFile>,
    /// The length of the file.
    pub(crate) bytes: u32,
    /// Where its records end. All before is on disk.
    pub(crate) end: u32,
    /// Up to where it was written to, with records or zeros.
    pub(crate) zeroed: u32,
}

/// Makes a file that can become a segment, so that space for it is there.
pub(crate) fn make_spare(disk: &dyn Disk, bytes: u32) -> io::Result<Arc<dyn DiskFile>> {
    let file = disk.create(SPARE)?;
    if let Err(error) = file.allocate(u64::from(bytes)) {
        // Half of a file is of no use, and may be what others need.
        let _ = disk.remove(SPARE);
        return Err(error);
    }
    Ok(file)
}

/// Makes a spare file, or a new one, the segment `number`, beginning with a record for each work.
pub(crate) fn make_segment(
    disk: &dyn Disk,
    spare: Option<Arc<dyn DiskFile>>,
    bytes: u32,
    (number, previous_end): (u32, u32),
    standings: &Standings,
) -> io::Result<Current> {
    let mut encoder = Encoder::new(number, 0, 0);
    encoder.raw(&SegmentHeader { number: u64::from(number), previous_end: u64::from(previous_end) }.encode());
    for (work, (name, standing)) in standings {
        encoder.push(&Record::work(*work, standing, name));
    }
    let file = match spare {
        Some(file) => file,
        None => make_spare(disk, bytes)?,
    };
    // Very many works leave too little room: then this segment is longer than others.
    let needed = encoder.end().saturating_add(bytes / 2);
    if needed > bytes {
        file.allocate(u64::from(needed))?;
    }
    encoder.write(file.as_ref())?;
    file.sync()?;
    // Only now does it get its name: a segment that has one is whole up to here.
    disk.rename(SPARE, &segment_name(number))?;
    disk.sync_dir()?;
    let end = encoder.end();
    Ok(Current { number, file, bytes: needed.max(bytes), end, zeroed: end })
}

/// An entry that is to be read from disk.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    pub(crate) index: u64,
    pub(crate) epoch: u64,
    pub(crate) place: Place,
}

/// Reads entries of one segment, in the order of their offsets, with one read.
pub(crate) fn read_entries(
    file: &dyn DiskFile,
    path: &Path,
    wanted: &[Wanted],
    buffers: &Buffers,
) -> Result<Vec<Entry>, StoreError> {
    let (Some(first), Some(last)) = (wanted.first(), wanted.last()) else { return Ok(Vec::new()) };
    let start = first.place.offset;
    let length = u64::from(last.place.offset - start) + last.place.size();
    let read = |into: &mut [u8]| read_exact_at(file, into, u64::from(start));
    let buffer = buffers.fill(length as usize, read).map_err(|error| StoreError::io("read", path, &error))?;
    let read = |one: &Wanted| {
        let at = (one.place.offset - start) as usize;
        decode_entry(&buffer, at, one).ok_or_else(|| StoreError::Corrupt {
            file: path.to_owned(),
            offset: u64::from(one.place.offset),
            reason: format!("entry {} does not have its checksum", one.index),
        })
    };
    wanted.iter().map(read).collect()
}

fn decode_entry(buffer: &Bytes, at: usize, wanted: &Wanted) -> Option<Entry> {
    let Place { segment, offset, len } = wanted.place;
    let header = RecordHeader::decode(buffer.get(at..)?, segment, offset)?;
    let from = at + RECORD_HEADER_BYTES as usize;
    let payload = buffer.get(from..from + len as usize)?;
    let same = header.len == len && header.index == wanted.index && header.epoch == wanted.epoch;
    (same && crc32c(payload) == header.crc).then(|| Entry {
        index: wanted.index,
        epoch: Epoch(wanted.epoch),
        payload: buffer.slice(from..from + len as usize),
    })
}

/// The largest payload of an entry: a quarter of a segment, so that no more than that of one is ever left unused.
pub(crate) fn entry_bytes_max(segment_bytes: u32) -> usize {
    (segment_bytes / 4).saturating_sub(record_size(0) + SEGMENT_HEADER_BYTES) as usize
}
