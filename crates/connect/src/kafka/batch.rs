//! What is fetched of a partition: batches of records (format 2, the only one since Kafka 0.11), taken apart one record at a time.
//!
//! Producers make batches, and brokers do not look at all of them: whatever they say of lengths and counts is not believed. Records
//! of transactions that were aborted, and the marks that say so, are left out.

use std::collections::BTreeSet;
use std::io::Read as _;

use bytes::{Buf as _, Bytes};
use flate2::read::MultiGzDecoder;

use super::BATCH_BYTES_MAX;

/// What comes before the records of a batch.
const HEADER_BYTES: usize = 61;
/// What the length of a batch does not count.
const UNCOUNTED_BYTES: usize = 12;
/// Where the checksum is, and where what it is of begins.
const CHECKSUM_AT: usize = 17;
const CHECKED_FROM: usize = 21;
/// What Snappy's frames begin with, as Kafka writes them: a mark, and two versions (of snappy-java).
const SNAPPY_MARK: &[u8] = b"\x82SNAPPY\0";
const SNAPPY_HEADER_BYTES: usize = 16;

/// A record, as it stands in a batch.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) offset: i64,
    /// In milliseconds since 1970; less than 0 if it has none.
    pub(super) time_ms: i64,
    pub(super) key: Option<Bytes>,
    pub(super) value: Option<Bytes>,
}

/// What was fetched of a partition.
#[derive(Debug)]
pub(super) struct Fetched {
    bytes: Bytes,
    /// Aborted transactions: their first offsets and producers, in the order of the former.
    aborted: Vec<(i64, i64)>,
    /// The producers of which records are left out now.
    aborting: BTreeSet<i64>,
    open: Option<Open>,
    /// The offset behind what was taken.
    pub(super) next: i64,
}

/// A batch that is being taken apart.
#[derive(Debug)]
struct Open {
    header: Header,
    records: Bytes,
}

#[derive(Clone, Copy, Debug)]
struct Header {
    base: i64,
    last: i64,
    attributes: i16,
    first_time_ms: i64,
    max_time_ms: i64,
    producer: i64,
}

impl Header {
    fn is_transactional(self) -> bool {
        self.attributes & 1 << 4 != 0
    }

    fn is_control(self) -> bool {
        self.attributes & 1 << 5 != 0
    }

    fn has_append_time(self) -> bool {
        self.attributes & 1 << 3 != 0
    }
}

impl Fetched {
    pub(super) fn new(bytes: Bytes, mut aborted: Vec<(i64, i64)>, next: i64) -> Self {
        aborted.sort_unstable();
        Self { bytes, aborted, aborting: BTreeSet::new(), open: None, next }
    }

    /// The next record; none if there are no more.
    pub(super) fn take(&mut self) -> Result<Option<Found>, String> {
        loop {
            if let Some(open) = &mut self.open {
                if let Some(found) = open.take()? {
                    // A batch may begin before what was asked for.
                    if found.offset < self.next {
                        continue;
                    }
                    self.next = found.offset + 1;
                    return Ok(Some(found));
                }
                self.next = self.next.max(open.header.last + 1);
                self.open = None;
            }
            let Some(batch) = self.batch()? else { return Ok(None) };
            self.enter(batch)?;
        }
    }

    /// The next batch that is whole; what is behind the last one is fetched again.
    fn batch(&mut self) -> Result<Option<Bytes>, String> {
        let Some(mut head) = self.bytes.get(..HEADER_BYTES) else { return Ok(None) };
        head.advance(8);
        let length = usize::try_from(head.get_i32()).map_err(|_| "a batch has a negative length")?;
        let whole = length.saturating_add(UNCOUNTED_BYTES);
        if whole < HEADER_BYTES {
            return Err(format!("a batch has {length} bytes"));
        }
        if whole > self.bytes.len() {
            return Ok(None);
        }
        Ok(Some(self.bytes.split_to(whole)))
    }

    fn enter(&mut self, batch: Bytes) -> Result<(), String> {
        let (header, records) = opened(batch)?;
        let begun = self.aborted.partition_point(|(first, _)| *first <= header.last);
        self.aborting.extend(self.aborted.drain(..begun).map(|(_, producer)| producer));
        if header.is_control() {
            // Whether it says that they are valid or not: it ends a transaction.
            self.aborting.remove(&header.producer);
        }
        if header.is_control() || (header.is_transactional() && self.aborting.contains(&header.producer)) {
            self.next = self.next.max(header.last + 1);
            return Ok(());
        }
        let records = decompressed(header.attributes & 7, records)
            .map_err(|why| format!("the batch at offset {} cannot be read: {why}", header.base))?;
        self.open = Some(Open { header, records });
        Ok(())
    }
}

/// A batch's header and what follows it.
fn opened(mut batch: Bytes) -> Result<(Header, Bytes), String> {
    let version = batch.get(CHECKSUM_AT - 1).copied().unwrap_or_default();
    if version != 2 {
        return Err(format!("it is of format {version}; the brokers must be of Kafka 2.5 or newer"));
    }
    let checked = crc32c::crc32c(batch.get(CHECKED_FROM..).unwrap_or_default());
    let base = batch.get_i64();
    batch.advance(CHECKSUM_AT - 8);
    if batch.get_u32() != checked {
        return Err(format!("the batch at offset {base} is damaged"));
    }
    let attributes = batch.get_i16();
    let last = base.saturating_add(batch.get_i32().max(0).into());
    let (first_time_ms, max_time_ms, producer) = (batch.get_i64(), batch.get_i64(), batch.get_i64());
    // The producer's epoch and numbers, and how many records there are.
    batch.advance(2 + 4 + 4);
    Ok((Header { base, last, attributes, first_time_ms, max_time_ms, producer }, batch))
}

impl Open {
    fn take(&mut self) -> Result<Option<Found>, String> {
        if !self.records.has_remaining() {
            return Ok(None);
        }
        let header = self.header;
        let found = record(&mut self.records, header);
        found.map(Some).ok_or_else(|| format!("the batch at offset {} has a record that is none", header.base))
    }
}

fn record(records: &mut Bytes, header: Header) -> Option<Found> {
    let length = varint(records)?;
    let mut record = bytes_of(records, length)?;
    record.try_get_i8().ok()?;
    let later_ms = varint(&mut record)?;
    let offset = header.base.checked_add(varint(&mut record)?)?;
    let mut field = || {
        let length = varint(&mut record)?;
        if length == -1 { Some(None) } else { bytes_of(&mut record, length).map(Some) }
    };
    let (key, value) = (field()?, field()?);
    let time_ms =
        if header.has_append_time() { header.max_time_ms } else { header.first_time_ms.checked_add(later_ms)? };
    (offset >= header.base && offset <= header.last).then_some(Found { offset, time_ms, key, value })
}

fn bytes_of(from: &mut Bytes, length: i64) -> Option<Bytes> {
    let length = usize::try_from(length).ok().filter(|length| *length <= from.len())?;
    Some(from.split_to(length))
}

/// A number of up to 64 bits, of seven bits a byte, the sign in the lowest one.
fn varint(from: &mut Bytes) -> Option<i64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let byte = from.try_get_u8().ok()?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some((value >> 1).cast_signed() ^ -(value & 1).cast_signed());
        }
    }
    None
}

fn decompressed(compression: i16, records: Bytes) -> Result<Bytes, String> {
    match compression {
        0 => Ok(records),
        1 => {
            let mut read = Vec::new();
            let limit = BATCH_BYTES_MAX as u64 + 1;
            MultiGzDecoder::new(&*records).take(limit).read_to_end(&mut read).map_err(|error| error.to_string())?;
            if read.len() > BATCH_BYTES_MAX { Err(too_large()) } else { Ok(Bytes::from(read)) }
        }
        2 => unsnapped(records),
        other => {
            let name = ["LZ4", "zstd"].get(usize::try_from(other - 3).unwrap_or_default()).copied().unwrap_or("?");
            Err(format!(
                "it is compressed with {name}, which is not known here; let producers use gzip, Snappy or nothing"
            ))
        }
    }
}

fn too_large() -> String {
    format!("it has more than {BATCH_BYTES_MAX} bytes")
}

fn unsnapped(mut records: Bytes) -> Result<Bytes, String> {
    let mut read = Vec::new();
    if !records.starts_with(SNAPPY_MARK) {
        unsnap(&records, &mut read)?;
        return Ok(Bytes::from(read));
    }
    let cut = || "it ends in the middle".to_owned();
    bytes_of(&mut records, SNAPPY_HEADER_BYTES as i64).ok_or_else(cut)?;
    while records.has_remaining() {
        let length = records.try_get_u32().map_err(|_| cut())?;
        unsnap(&bytes_of(&mut records, length.into()).ok_or_else(cut)?, &mut read)?;
    }
    Ok(Bytes::from(read))
}

fn unsnap(block: &[u8], read: &mut Vec<u8>) -> Result<(), String> {
    let length = snap::raw::decompress_len(block).map_err(|error| error.to_string())?;
    let (from, upto) = (read.len(), read.len().saturating_add(length));
    if upto > BATCH_BYTES_MAX {
        return Err(too_large());
    }
    read.resize(upto, 0);
    let room = read.get_mut(from..).unwrap_or_default();
    snap::raw::Decoder::new().decompress(block, room).map(|_| ()).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use std::io::Write as _;

    use bytes::BytesMut;
    use kafka_protocol::records::{Compression, Record, RecordBatchEncoder, RecordEncodeOptions, TimestampType};
    use proptest::prelude::*;

    use super::*;

    /// A batch as another implementation writes it.
    fn batch(base: i64, producer: i64, is_control: bool, values: &[&str]) -> BytesMut {
        let records: Vec<Record> = (base..)
            .zip(values)
            .map(|(offset, value)| Record {
                transactional: producer >= 0,
                control: is_control,
                delete_horizon: false,
                partition_leader_epoch: 0,
                producer_id: producer,
                producer_epoch: 0,
                timestamp_type: TimestampType::Creation,
                offset,
                sequence: offset as i32,
                timestamp: 1_000 + offset,
                key: None,
                value: Some(Bytes::from((*value).to_owned())),
                headers: Default::default(),
            })
            .collect();
        let mut bytes = BytesMut::new();
        let options = RecordEncodeOptions { version: 2, compression: Compression::None };
        RecordBatchEncoder::encode(&mut bytes, &records, &options).unwrap();
        bytes
    }

    /// The same, with its records compressed.
    fn compressed(mut batch: BytesMut, compression: u8, compress: impl Fn(&[u8]) -> Vec<u8>) -> Bytes {
        let records = batch.split_off(HEADER_BYTES);
        batch.extend_from_slice(&compress(&records));
        let length = i32::try_from(batch.len() - UNCOUNTED_BYTES).unwrap();
        batch[8..12].copy_from_slice(&length.to_be_bytes());
        batch[22] |= compression;
        let checked = crc32c::crc32c(&batch[CHECKED_FROM..]);
        batch[CHECKSUM_AT..CHECKED_FROM].copy_from_slice(&checked.to_be_bytes());
        batch.freeze()
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn snappy(bytes: &[u8]) -> Vec<u8> {
        let mut framed = [SNAPPY_MARK, &[0, 0, 0, 1, 0, 0, 0, 1]].concat();
        for block in bytes.chunks(5) {
            let block = snap::raw::Encoder::new().compress_vec(block).unwrap();
            framed.extend_from_slice(&u32::try_from(block.len()).unwrap().to_be_bytes());
            framed.extend_from_slice(&block);
        }
        framed
    }

    fn values(mut fetched: Fetched) -> (Vec<String>, i64) {
        let mut values = Vec::new();
        while let Some(found) = fetched.take().unwrap() {
            assert_eq!(found.time_ms, 1_000 + found.offset);
            values.push(String::from_utf8(found.value.unwrap().to_vec()).unwrap());
        }
        (values, fetched.next)
    }

    #[test]
    fn records_are_taken_from_where_they_were_asked_for_and_a_batch_that_is_cut_is_left() {
        let mut bytes = batch(10, -1, false, &["a", "b", "c"]);
        let next = batch(13, -1, false, &["d"]);
        bytes.extend_from_slice(&next[..next.len() - 1]);
        assert_eq!(values(Fetched::new(bytes.freeze(), Vec::new(), 11)), (vec!["b".to_owned(), "c".to_owned()], 13));
    }

    #[test]
    fn compressed_batches_are_read_and_unknown_compressions_are_named() {
        let plain = || batch(0, -1, false, &["hello", "hello", "hello"]);
        let raw = |bytes: &[u8]| snap::raw::Encoder::new().compress_vec(bytes).unwrap();
        for bytes in [compressed(plain(), 1, gzip), compressed(plain(), 2, snappy), compressed(plain(), 2, raw)] {
            assert_eq!(values(Fetched::new(bytes, Vec::new(), 0)), (vec!["hello".to_owned(); 3], 3));
        }
        let told = Fetched::new(compressed(plain(), 4, gzip), Vec::new(), 0).take().unwrap_err();
        assert!(told.contains("compressed with zstd"), "{told}");
    }

    #[test]
    fn a_batch_that_grows_beyond_all_bounds_is_refused() {
        let zeros = |_: &[u8]| gzip(&vec![0; BATCH_BYTES_MAX + 1]);
        let told = Fetched::new(compressed(batch(0, -1, false, &["a"]), 1, zeros), Vec::new(), 0).take().unwrap_err();
        assert!(told.contains("more than"), "{told}");
        // What a block of Snappy says that it has: some GiB.
        let huge = |_: &[u8]| vec![0xff, 0xff, 0xff, 0xff, 0x0f];
        let told = Fetched::new(compressed(batch(0, -1, false, &["a"]), 2, huge), Vec::new(), 0).take().unwrap_err();
        assert!(told.contains("more than"), "{told}");
    }

    #[test]
    fn what_was_aborted_is_left_out_and_what_the_producer_writes_later_is_not() {
        let mut bytes = batch(0, 7, false, &["aborted"]);
        bytes.extend_from_slice(&batch(1, 8, false, &["good"]));
        bytes.extend_from_slice(&batch(2, 7, true, &["mark"]));
        bytes.extend_from_slice(&batch(3, 7, false, &["later"]));
        bytes.extend_from_slice(&batch(4, 7, true, &["mark"]));
        let fetched = Fetched::new(bytes.freeze(), vec![(0, 7)], 0);
        assert_eq!(values(fetched), (vec!["good".to_owned(), "later".to_owned()], 5));
    }

    #[test]
    fn a_damaged_batch_is_told() {
        let mut bytes = batch(0, -1, false, &["a"]);
        *bytes.last_mut().unwrap() ^= 1;
        assert!(Fetched::new(bytes.freeze(), Vec::new(), 0).take().unwrap_err().contains("is damaged"));
    }

    proptest! {
        /// What a producer writes into a batch cannot end the node, however it is made.
        #[test]
        fn whatever_stands_in_a_batch_is_records_or_an_error(
            records in proptest::collection::vec(any::<u8>(), 0..200), compression in 0_u8..8,
        ) {
            let bytes = compressed(batch(0, -1, false, &["a"]), compression, |_| records.clone());
            let mut fetched = Fetched::new(bytes, Vec::new(), 0);
            while let Ok(Some(_)) = fetched.take() {}
        }
    }
}
