//! A log of any bytes is opened or refused, and gives no entry that is not in its segments with the right checksums. The
//! checksums are worked out here anew, from what the documentation of the format says.

use std::collections::HashSet;
use std::sync::Arc;

use crc32c::{crc32c, crc32c_append};
use littoral_model::id::Epoch;
use littoral_store::disk::Disk;
use littoral_store::fake::FaultyDisk;
use littoral_store::{Log, LogOptions};

const SEGMENT_BYTES: usize = 4096;
const HEADER_BYTES: usize = 64;
const RECORD_BYTES: usize = 40;
/// Longer inputs find nothing that shorter ones do not.
const SEGMENTS_MAX: usize = 3;

/// Opens a log whose segments are what follows the first byte. Its lowest bit says whether checksums are mended first, so
/// that what lies behind them is tried, too.
pub fn run(bytes: &[u8]) {
    let Some((how, bytes)) = bytes.split_first() else { return };
    let mend = how & 1 == 1;
    let segments: Vec<Vec<u8>> = bytes
        .chunks(SEGMENT_BYTES)
        .take(SEGMENTS_MAX)
        .enumerate()
        .map(|(at, segment)| if mend { mended(segment, at as u64 + 1) } else { segment.to_vec() })
        .collect();
    let disk = FaultyDisk::new(7);
    for (at, segment) in segments.iter().enumerate() {
        let file = disk.create(&format!("{:010}.log", at + 1)).expect("the disk takes it");
        file.write_at(&[std::io::IoSlice::new(segment)], 0).expect("the disk takes it");
    }
    let options = LogOptions { segment_bytes: SEGMENT_BYTES as u32, cache_bytes: 0 };
    let Ok(log) = Log::open_on(Arc::new(disk), options) else { return };
    let genuine: HashSet<_> =
        segments.iter().enumerate().flat_map(|(at, segment)| entries(segment, at as u64 + 1)).collect();
    for work in log.works() {
        let Some(head) = log.head(&work) else { continue };
        assert!(head.first <= head.next, "{head:?}");
        let Ok(read) = log.read(&work, head.first, 1 << 20) else { continue };
        for entry in read {
            let found = genuine.contains(&(entry.index, entry.epoch, entry.payload.to_vec()));
            assert!(found, "{work} has an entry that no segment holds: {entry:?}");
        }
    }
    // It can be written to, and closed.
    let _ = log.append("default/app/stream/s/0@hall", Epoch(u64::MAX), vec![bytes::Bytes::from_static(b"next")]);
    let _ = log.close();
}

type Found = (u64, Epoch, Vec<u8>);

/// Every entry in a segment that has its checksums, wherever it begins.
fn entries(segment: &[u8], number: u64) -> Vec<Found> {
    let starts = (HEADER_BYTES..segment.len()).step_by(8);
    starts.filter_map(|at| entry(segment, number, at)).collect()
}

fn entry(segment: &[u8], number: u64, at: usize) -> Option<Found> {
    let header = segment.get(at..at + RECORD_BYTES)?;
    let payload_bytes = u32_at(header, 4)? as usize;
    let payload = segment.get(at + RECORD_BYTES..(at + RECORD_BYTES).checked_add(payload_bytes)?)?;
    let genuine = u32_at(header, 0)? == header_checksum(header, number, at)? && u32_at(header, 8)? == crc32c(payload);
    let (index, epoch) = (u64_at(header, 24)?, u64_at(header, 32)?);
    // Kinds 2 and 3 are entries.
    (genuine && matches!(header.get(16), Some(2 | 3))).then(|| (index, Epoch(epoch), payload.to_vec()))
}

fn header_checksum(header: &[u8], number: u64, at: usize) -> Option<u32> {
    let place = [number.to_le_bytes(), (at as u64).to_le_bytes()].concat();
    Some(crc32c_append(crc32c(&place), header.get(4..RECORD_BYTES)?))
}

/// The segment with a valid header, and with valid checksums in whatever stands where records are read.
fn mended(segment: &[u8], number: u64) -> Vec<u8> {
    let mut out = segment.to_vec();
    if out.len() < HEADER_BYTES {
        return out;
    }
    put(&mut out, 0, b"LITTLOG\n");
    put(&mut out, 8, &1_u32.to_le_bytes());
    put(&mut out, 12, &44_u32.to_le_bytes());
    let fixed = crc32c(out.get(..16).unwrap_or_default());
    put(&mut out, 16, &fixed.to_le_bytes());
    put(&mut out, 20, &[0; 4]);
    put(&mut out, 24, &number.to_le_bytes());
    put(&mut out, 40, &[0; 20]);
    let whole = crc32c(out.get(..60).unwrap_or_default());
    put(&mut out, 60, &whole.to_le_bytes());
    let mut at = HEADER_BYTES;
    while let Some(length) = mend_record(&mut out, number, at) {
        at += length;
    }
    out
}

/// Gives the record at a place its checksums; how far the next one is.
fn mend_record(out: &mut [u8], number: u64, at: usize) -> Option<usize> {
    let header = out.get(at..at + RECORD_BYTES)?;
    if header.iter().all(|byte| *byte == 0) {
        return None;
    }
    // Lengths beyond the segment are as interesting as those within; most are made to fit.
    let room = out.len() - at - RECORD_BYTES;
    let length = u32_at(header, 4)? as usize;
    let length = if length & 0x8000_0000 != 0 { length } else { length % (room + 1) };
    put(out, at + 4, &(length as u32).to_le_bytes());
    put(out, at + 17, &[0; 3]);
    let payload = crc32c(out.get(at + RECORD_BYTES..(at + RECORD_BYTES).checked_add(length)?)?);
    put(out, at + 8, &payload.to_le_bytes());
    let checksum = header_checksum(out.get(at..at + RECORD_BYTES)?, number, at)?;
    put(out, at, &checksum.to_le_bytes());
    Some((RECORD_BYTES + length).next_multiple_of(8))
}

fn put(out: &mut [u8], at: usize, bytes: &[u8]) {
    out.iter_mut().skip(at).zip(bytes).for_each(|(place, byte)| *place = *byte);
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}
