//! What a segment file looks like.
//!
//! A segment begins with a header of 64 bytes, little-endian like everything here: magic (8), version (4), length of
//! what follows (4), CRC32C of the 16 bytes before (4), 4 zero bytes, the segment's number (8), where the valid records
//! of the segment before end (8), 20 zero bytes, CRC32C of the 60 bytes before (4).
//!
//! Then come records, each at a multiple of 8 bytes, and zeros up to the end of the file:
//!
//! | at | bytes | |
//! |---|---|---|
//! | 0 | 4 | CRC32C of the segment's number and the record's offset (8 bytes each), then of bytes 4 to 39 |
//! | 4 | 4 | length of the payload |
//! | 8 | 4 | CRC32C of the payload |
//! | 12 | 4 | everything in this segment before this offset was on disk when the record was written |
//! | 16 | 1 | kind |
//! | 17 | 3 | zero |
//! | 20 | 4 | number of the work, given by a `Work` record in the same segment |
//! | 24 | 8 | index |
//! | 32 | 8 | epoch |
//! | 40 | | payload, then zeros up to a multiple of 8 |
//!
//! Number and offset go into the checksum so that bytes that happen to look like a record (left over, or inside a
//! payload) are not taken for one. The field at 12 tells a torn write (nothing after it was written later than it)
//! from damage to something that was acknowledged.

use std::io::{self, IoSlice};

use bytes::Bytes;
use crc32c::{crc32c, crc32c_append};

use crate::disk::{DiskFile, write_all_at};

/// The first bytes of a segment.
const MAGIC: &[u8; 8] = b"LITTLOG\n";
/// The version of the format.
pub(crate) const VERSION: u32 = 1;
/// The length of a segment's header.
pub(crate) const SEGMENT_HEADER_BYTES: u32 = 64;
/// The length of a record's header.
pub(crate) const RECORD_HEADER_BYTES: u32 = 40;
/// The highest index: a log would take millennia to reach it, and what is added to it does not overflow.
const INDEX_MAX: u64 = u64::MAX >> 1;
/// Payloads up to this length are copied beside their headers: the system is quicker with one slice than with three.
const STAGED_BYTES_MAX: usize = 1024;

/// A segment's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) number: u64,
    /// Where the valid records of the segment before end; what follows there was never acknowledged.
    pub(crate) previous_end: u64,
}

/// Why a segment's header cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeaderError {
    Damaged,
    Version(u32),
}

impl SegmentHeader {
    pub(crate) fn encode(self) -> Vec<u8> {
        let mut out = Vec::with_capacity(SEGMENT_HEADER_BYTES as usize);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&(SEGMENT_HEADER_BYTES - 20).to_le_bytes());
        out.extend_from_slice(&crc32c(&out).to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&self.number.to_le_bytes());
        out.extend_from_slice(&self.previous_end.to_le_bytes());
        out.extend_from_slice(&[0; 20]);
        out.extend_from_slice(&crc32c(&out).to_le_bytes());
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, HeaderError> {
        let parse = || {
            let fixed = bytes.get(..16)?;
            let intact = fixed.starts_with(MAGIC) && u32_at(bytes, 16)? == crc32c(fixed);
            intact.then(|| u32_at(bytes, 8)).flatten()
        };
        let version = parse().ok_or(HeaderError::Damaged)?;
        if version != VERSION {
            return Err(HeaderError::Version(version));
        }
        let parse = || {
            let intact = u32_at(bytes, 60)? == crc32c(bytes.get(..60)?);
            let (number, previous_end) = (u64_at(bytes, 24)?, u64_at(bytes, 32)?);
            intact.then_some(Self { number, previous_end })
        };
        parse().ok_or(HeaderError::Damaged)
    }
}

/// What a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A work and where its log stands here: index = first held, epoch = of the entry before that; payload = next
    /// index (8), epoch of the last entry (8), name. Every segment begins with one for each work.
    Work = 1,
    /// The next entry of a work.
    Entry = 2,
    /// An entry that was in a segment to be deleted.
    Copied = 3,
    /// Entries from index on are forgotten; epoch = of the entry before.
    Truncate = 4,
    /// Entries below index are forgotten; epoch = of the entry before it.
    Trim = 5,
    /// All entries are forgotten, the next is index; epoch = of the entry before it.
    Reset = 6,
    /// The work is forgotten.
    Drop = 7,
    /// Changes nothing: a clean end of the log, or something to wait for.
    Mark = 8,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        let all =
            [Self::Work, Self::Entry, Self::Copied, Self::Truncate, Self::Trim, Self::Reset, Self::Drop, Self::Mark];
        all.into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// A record to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) kind: Kind,
    pub(crate) work: u32,
    pub(crate) index: u64,
    pub(crate) epoch: u64,
    pub(crate) payload: Bytes,
    /// The payload's CRC32C.
    pub(crate) crc: u32,
}

impl Record {
    /// A record without payload.
    pub(crate) fn bare(kind: Kind, work: u32, index: u64, epoch: u64) -> Self {
        Self { kind, work, index, epoch, payload: Bytes::new(), crc: 0 }
    }

    /// A [`Kind::Work`] record.
    pub(crate) fn work(work: u32, standing: &Standing, name: &str) -> Self {
        let mut payload = Vec::with_capacity(16 + name.len());
        payload.extend_from_slice(&standing.next.to_le_bytes());
        payload.extend_from_slice(&standing.last_epoch.to_le_bytes());
        payload.extend_from_slice(name.as_bytes());
        let crc = crc32c(&payload);
        let payload = Bytes::from(payload);
        Self { kind: Kind::Work, work, index: standing.first, epoch: standing.base_epoch, payload, crc }
    }

    /// How much of a segment it takes.
    pub(crate) fn size(&self) -> u32 {
        record_size(self.payload.len() as u32)
    }
}

/// Where the log of a work stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) first: u64,
    pub(crate) next: u64,
    /// The epoch of the entry before the first.
    pub(crate) base_epoch: u64,
    pub(crate) last_epoch: u64,
}

impl Standing {
    /// Of a new log.
    pub(crate) const NEW: Self = Self { first: 1, next: 1, base_epoch: 0, last_epoch: 0 };

    /// What a record does to it.
    pub(crate) fn apply(&mut self, kind: Kind, index: u64, epoch: u64) {
        match kind {
            Kind::Entry => (self.next, self.last_epoch) = (index + 1, epoch),
            Kind::Truncate => (self.next, self.last_epoch) = (index, epoch),
            Kind::Trim => (self.first, self.base_epoch) = (index, epoch),
            Kind::Reset => *self = Self { first: index, next: index, base_epoch: epoch, last_epoch: epoch },
            Kind::Work | Kind::Copied | Kind::Drop | Kind::Mark => {}
        }
    }

    /// Reads it, and the name, from a [`Kind::Work`] record.
    pub(crate) fn decode(header: &RecordHeader, payload: &[u8]) -> Option<(Self, String)> {
        let (next, last_epoch) = (u64_at(payload, 0)?, u64_at(payload, 8)?);
        let name = std::str::from_utf8(payload.get(16..)?).ok()?;
        let standing = Self { first: header.index, next, base_epoch: header.epoch, last_epoch };
        standing.makes_sense().then(|| (standing, name.to_owned()))
    }

    /// Whether a log can stand so. What has its checksum and claims otherwise was not written by a log.
    pub(crate) fn makes_sense(self) -> bool {
        (1..=self.next).contains(&self.first) && self.next <= INDEX_MAX
    }
}

/// The size of a record whose payload has `len` bytes.
pub(crate) fn record_size(len: u32) -> u32 {
    RECORD_HEADER_BYTES + len.next_multiple_of(8)
}

/// A record's header as read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecordHeader {
    pub(crate) kind: Kind,
    pub(crate) work: u32,
    pub(crate) index: u64,
    pub(crate) epoch: u64,
    pub(crate) len: u32,
    pub(crate) crc: u32,
    pub(crate) synced: u32,
}

impl RecordHeader {
    /// None when the bytes are not the header of a record at that place.
    pub(crate) fn decode(bytes: &[u8], segment: u32, offset: u32) -> Option<Self> {
        let covered = bytes.get(4..RECORD_HEADER_BYTES as usize)?;
        // Zeros are by far the most common case: no need for a checksum.
        let kind = Kind::from_byte(*bytes.get(16)?)?;
        if u32_at(bytes, 0)? != header_crc(covered, segment, offset) {
            return None;
        }
        Some(Self {
            kind,
            len: u32_at(bytes, 4)?,
            crc: u32_at(bytes, 8)?,
            synced: u32_at(bytes, 12)?,
            work: u32_at(bytes, 20)?,
            index: u64_at(bytes, 24)?,
            epoch: u64_at(bytes, 32)?,
        })
    }

    pub(crate) fn size(&self) -> u32 {
        record_size(self.len)
    }
}

fn header_crc(covered: &[u8], segment: u32, offset: u32) -> u32 {
    let salt = crc32c_append(crc32c(&u64::from(segment).to_le_bytes()), &u64::from(offset).to_le_bytes());
    crc32c_append(salt, covered)
}

/// Records on their way into one place of a segment.
pub(crate) struct Encoder {
    segment: u32,
    start: u32,
    end: u32,
    synced: u32,
    staged: Vec<u8>,
    pieces: Vec<Piece>,
}

enum Piece {
    Staged(std::ops::Range<usize>),
    Payload(Bytes),
}

impl Encoder {
    /// Records for `segment` from offset `start` on, of which everything before `synced` is on disk.
    pub(crate) fn new(segment: u32, start: u32, synced: u32) -> Self {
        Self { segment, start, end: start, synced, staged: Vec::new(), pieces: Vec::new() }
    }

    /// Adds raw bytes, a multiple of 8 long (a segment's header).
    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.stage(bytes);
        self.end += bytes.len() as u32;
    }

    /// Adds a record; its offset.
    pub(crate) fn push(&mut self, record: &Record) -> u32 {
        let offset = self.end;
        let mut header = Vec::with_capacity(RECORD_HEADER_BYTES as usize - 4);
        header.extend_from_slice(&(record.payload.len() as u32).to_le_bytes());
        header.extend_from_slice(&record.crc.to_le_bytes());
        header.extend_from_slice(&self.synced.to_le_bytes());
        header.extend_from_slice(&[record.kind as u8, 0, 0, 0]);
        header.extend_from_slice(&record.work.to_le_bytes());
        header.extend_from_slice(&record.index.to_le_bytes());
        header.extend_from_slice(&record.epoch.to_le_bytes());
        self.stage(&header_crc(&header, self.segment, offset).to_le_bytes());
        self.stage(&header);
        if record.payload.len() <= STAGED_BYTES_MAX {
            self.stage(&record.payload);
        } else {
            self.pieces.push(Piece::Payload(record.payload.clone()));
        }
        let padding = record.size() as usize - RECORD_HEADER_BYTES as usize - record.payload.len();
        self.stage([0; 8].get(..padding).unwrap_or_default());
        self.end += record.size();
        offset
    }

    /// Where the records end.
    pub(crate) fn end(&self) -> u32 {
        self.end
    }

    /// Writes them.
    pub(crate) fn write(&self, file: &dyn DiskFile) -> io::Result<()> {
        let slices = self.pieces.iter().map(|piece| match piece {
            Piece::Staged(range) => IoSlice::new(self.staged.get(range.clone()).unwrap_or_default()),
            Piece::Payload(payload) => IoSlice::new(payload),
        });
        let mut slices: Vec<_> = slices.collect();
        write_all_at(file, &mut slices, u64::from(self.start))
    }

    fn stage(&mut self, bytes: &[u8]) {
        let from = self.staged.len();
        self.staged.extend_from_slice(bytes);
        match self.pieces.last_mut() {
            Some(Piece::Staged(range)) => range.end = self.staged.len(),
            _ => self.pieces.push(Piece::Staged(from..self.staged.len())),
        }
    }
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

/// The file name of a segment.
pub(crate) fn segment_name(number: u32) -> String {
    format!("{number:010}.log")
}

/// The segment that a file holds, if it is one.
pub(crate) fn segment_number(name: &str) -> Option<u32> {
    let digits = name.strip_suffix(".log")?;
    if digits.len() == 10 { digits.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Whoever changes these bytes makes a new version of the format, and keeps reading the old one.
    #[test]
    fn the_bytes_of_version_1() {
        let header = SegmentHeader { number: 7, previous_end: 4000 };
        assert_eq!(
            hex(&header.encode()),
            "4c4954544c4f470a010000002c0000005f6fbc0b000000000700000000000000a00f00000000000000000000000000000000000000000000000000001f77edb2"
        );
        assert_eq!(SegmentHeader::decode(&header.encode()), Ok(header));
        let mut encoder = Encoder::new(7, 64, 64);
        let standing = Standing { first: 2, next: 3, base_epoch: 1, last_epoch: 4 };
        encoder.push(&Record::work(5, &standing, "~n"));
        let payload = Bytes::from_static(b"payload");
        let crc = crc32c(&payload);
        let entry = Record { kind: Kind::Entry, work: 5, index: 3, epoch: 4, payload, crc };
        assert_eq!(encoder.push(&entry), 64 + 40 + 24);
        assert_eq!(
            hex(&encoder.staged),
            "b723dfac1200000096d4cf7d40000000010000000500000002000000000000000100000000000000030000000000000004000000000000007e6e00000000000062f08177070000007069e3f4400000000200000005000000030000000000000004000000000000007061796c6f616400"
        );
        let read = RecordHeader::decode(&encoder.staged, 7, 64).unwrap();
        assert_eq!(Standing::decode(&read, &encoder.staged[40..58]), Some((standing, "~n".to_owned())));
        let read = RecordHeader::decode(&encoder.staged[64..], 7, 128).unwrap();
        assert_eq!((read.kind, read.len, read.crc, read.synced), (Kind::Entry, 7, crc, 64));
        assert_eq!(RecordHeader::decode(&encoder.staged[64..], 7, 136), None, "it is of another place");
        assert_eq!(RecordHeader::decode(&encoder.staged[64..], 8, 128), None, "it is of another segment");
    }
}
