//! Parquet files (<https://parquet.apache.org/docs/file-format/>): written in row groups, read row by row.

use std::fs::File;
use std::io::Seek as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::{DataType, Field, FieldRef, Fields, Schema, SchemaRef};
use littoral_flow::batch;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
};
use parquet::basic::Compression;
use parquet::errors::ParquetError;
use parquet::file::metadata::ParquetMetaData;
use parquet::file::properties::WriterProperties;

use super::{description, read_at};
use crate::BATCH_BYTES;

/// How large a row group gets, encoded. It is in memory until it is written.
const ROW_GROUP_BYTES: usize = 8 << 20;
/// How many rows are decoded at once at most. Less of rows that are large.
const DECODED_ROWS: usize = 1 << 10;
/// How long the description of a file may be.
const DESCRIPTION_BYTES_MAX: u32 = 16 << 20;
/// What a file ends in: how long its description before that is, and four letters.
const ENDING: usize = 8;
const MAGIC: &[u8] = b"PAR1";
/// How much of a file's end tells it from others: it says where all columns are.
const TAIL_BYTES: usize = 1 << 10;
/// Universal time, as an offset: names of zones are known only with a database of all of them.
const UTC: &str = "+00:00";

/// A file that is written to.
#[derive(Debug)]
pub(super) struct Table {
    writer: ArrowWriter<File>,
    schema: SchemaRef,
}

impl Table {
    /// Begins a file with the columns that rows have.
    pub(super) fn begin(file: File, rows: &RecordBatch) -> std::io::Result<Self> {
        let properties = WriterProperties::builder()
            .set_compression(Compression::SNAPPY)
            .set_max_row_group_bytes(Some(ROW_GROUP_BYTES))
            .build();
        let schema = columns_of(rows);
        let writer = ArrowWriter::try_new(file, Arc::clone(&schema), Some(properties))?;
        Ok(Self { writer, schema })
    }

    /// Whether rows have its columns.
    pub(super) fn takes(&self, rows: &RecordBatch) -> bool {
        columns_of(rows) == self.schema
    }

    pub(super) fn write(&mut self, rows: &RecordBatch) -> std::io::Result<()> {
        let rows = RecordBatch::try_new(Arc::clone(&self.schema), rows.columns().to_vec());
        Ok(self.writer.write(&rows.map_err(std::io::Error::other)?)?)
    }

    /// About how long it is by now, in bytes.
    pub(super) fn length(&self) -> u64 {
        (self.writer.bytes_written() + self.writer.in_progress_size()) as u64
    }

    /// Writes what makes it a whole file. It is not synced.
    pub(super) fn end(self) -> std::io::Result<()> {
        self.writer.close()?;
        Ok(())
    }
}

/// The columns of rows as those of a file: any value may be missing, whether some stage says otherwise of some rows or not.
fn columns_of(rows: &RecordBatch) -> SchemaRef {
    let fields = rows.schema_ref().fields().iter();
    let fields = fields.map(|field| Field::new(field.name(), field.data_type().clone(), true));
    Arc::new(Schema::new(fields.collect::<Fields>()))
}

/// Why a file cannot be read.
#[derive(Debug)]
pub(super) enum Unreadable {
    /// Its bytes are none of a Parquet file that can be read.
    Damaged(String),
    /// The disk, or that it is not there.
    Io(std::io::Error),
}

impl From<std::io::Error> for Unreadable {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<ParquetError> for Unreadable {
    fn from(error: ParquetError) -> Self {
        match error {
            ParquetError::External(error) => match error.downcast::<std::io::Error>() {
                // The decoder's own ends and contradictions have these kinds, too.
                Ok(error) if !is_of_content(error.kind()) => Self::Io(*error),
                Ok(error) => Self::Damaged(error.to_string()),
                Err(error) => Self::Damaged(error.to_string()),
            },
            other => Self::Damaged(other.to_string()),
        }
    }
}

fn is_of_content(kind: std::io::ErrorKind) -> bool {
    use std::io::ErrorKind::{InvalidData, InvalidInput, Other, UnexpectedEof};
    matches!(kind, UnexpectedEof | InvalidData | InvalidInput | Other)
}

/// A file that is read.
pub(super) struct Rows {
    file: File,
    reader: ParquetRecordBatchReader,
    /// Tells it from others.
    pub(super) checksum: u32,
}

impl std::fmt::Debug for Rows {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Rows").field("checksum", &self.checksum).finish_non_exhaustive()
    }
}

impl Rows {
    /// Reads a file from a row on; from its first if it is not the one that is `known` by its checksum.
    pub(super) fn open(file: File, row: u64, known: u32) -> Result<(Self, u64), Unreadable> {
        let checksum = checksum_of(&file)?;
        let from = if checksum == known { row } else { 0 };
        let read = file.try_clone()?;
        let reader = guarded(|| reader(read, from))?;
        Ok((Self { file, reader, checksum }, from))
    }

    /// Those that come next as JSON objects, one a line; none at the end.
    pub(super) fn next(&mut self) -> Result<Option<String>, Unreadable> {
        let decoded = guarded(|| {
            let rows = self.reader.next().transpose()?;
            let lines = rows.map(|rows| batch::to_json_lines(&rows)).transpose();
            lines.map_err(|error| ParquetError::General(error.to_string()))
        });
        if let Err(Unreadable::Damaged(_)) = &decoded {
            // What the disk says comes out of the decoder as a text.
            self.file.rewind()?;
            std::io::copy(&mut self.file, &mut std::io::sink())?;
        }
        decoded
    }
}

/// The decoder is made for bytes that are what they should be, and may panic where they are not: that is the fault of the file.
fn guarded<T>(decode: impl FnOnce() -> Result<T, ParquetError>) -> Result<T, Unreadable> {
    match catch_unwind(AssertUnwindSafe(decode)) {
        Ok(decoded) => decoded.map_err(Unreadable::from),
        Err(_) => Err(Unreadable::Damaged("its bytes contradict one another".to_owned())),
    }
}

/// The checksum of how a file ends, if that is how one ends.
fn checksum_of(file: &File) -> Result<u32, Unreadable> {
    let length = file.metadata()?.len();
    let tail = read_at(file, length.saturating_sub(TAIL_BYTES as u64), TAIL_BYTES)?;
    let ending = tail.last_chunk::<ENDING>().and_then(|ending| ending.split_first_chunk::<4>());
    match ending {
        Some((bytes, MAGIC)) if u32::from_le_bytes(*bytes) <= DESCRIPTION_BYTES_MAX => {
            let described = u64::from(u32::from_le_bytes(*bytes)).min(length);
            let from = length.saturating_sub(described + ENDING as u64);
            let description = read_at(file, from, usize::try_from(described).unwrap_or_default())?;
            match description::is_sound(&description) {
                true => Ok(crc32c::crc32c(&tail)),
                false => Err(Unreadable::Damaged("the description of what it has is none".to_owned())),
            }
        }
        Some((_, MAGIC)) => {
            Err(Unreadable::Damaged(format!("what it has is described in more than {DESCRIPTION_BYTES_MAX} bytes")))
        }
        _ => Err(Unreadable::Damaged("it does not end as a whole Parquet file that is not encrypted".to_owned())),
    }
}

fn reader(file: File, from: u64) -> Result<ParquetRecordBatchReader, ParquetError> {
    // The types are those of Parquet, whatever who wrote it says of its own besides.
    let read = ArrowReaderMetadata::load(&file, ArrowReaderOptions::new().with_skip_arrow_metadata(true))?;
    let schema = Schema::new(told(read.schema().fields()));
    let options = ArrowReaderOptions::new().with_schema(Arc::new(schema));
    let metadata = ArrowReaderMetadata::try_new(Arc::clone(read.metadata()), options)?;
    let (groups, rest, rows_at_once) = rest_of(read.metadata(), from);
    let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(file, metadata);
    builder.with_row_groups(groups).with_offset(rest).with_batch_size(rows_at_once).build()
}

/// The row groups from a row on, how many rows of the first of them are before it, and how many rows are about a batch.
fn rest_of(metadata: &ParquetMetaData, from: u64) -> (Vec<usize>, usize, usize) {
    let (mut groups, mut before, mut rows_at_once) = (Vec::new(), from, DECODED_ROWS);
    for (place, group) in metadata.row_groups().iter().enumerate() {
        let rows = u64::try_from(group.num_rows()).unwrap_or_default();
        if groups.is_empty() && before >= rows {
            before -= rows;
            continue;
        }
        groups.push(place);
        let row_bytes = usize::try_from(group.total_byte_size() / group.num_rows().max(1)).unwrap_or_default();
        rows_at_once = rows_at_once.min(BATCH_BYTES / row_bytes.max(1)).max(1);
    }
    (groups, usize::try_from(before).unwrap_or(usize::MAX), rows_at_once)
}

/// Columns with types that can be told as JSON.
fn told(fields: &Fields) -> Fields {
    fields.iter().map(told_field).collect()
}

fn told_field(field: &FieldRef) -> FieldRef {
    let ty = match field.data_type() {
        DataType::Timestamp(unit, Some(_)) => DataType::Timestamp(*unit, Some(UTC.into())),
        DataType::List(item) => DataType::List(told_field(item)),
        DataType::LargeList(item) => DataType::LargeList(told_field(item)),
        DataType::FixedSizeList(item, length) => DataType::FixedSizeList(told_field(item), *length),
        DataType::Struct(fields) => DataType::Struct(told(fields)),
        DataType::Map(entries, is_sorted) => DataType::Map(told_field(entries), *is_sorted),
        other => other.clone(),
    };
    Arc::new(field.as_ref().clone().with_data_type(ty))
}
