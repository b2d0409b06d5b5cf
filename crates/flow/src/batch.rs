//! Rows as they travel and rest: Arrow IPC streams of one schema message and one record batch.

use std::io::Cursor;
use std::sync::Arc;

use arrow_array::{Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow_ipc::reader::StreamReader;
use arrow_ipc::writer::StreamWriter;
use arrow_schema::{ArrowError, DataType, Field, Schema, SchemaRef, TimeUnit};
use bytes::{Bytes, BytesMut};
use littoral_model::entry::PortBatch;

/// Rows that cannot be encoded or decoded.
#[derive(Debug, Clone, thiserror::Error)]
pub enum BatchError {
    /// Not an Arrow IPC stream of one batch.
    #[error("the rows are not a valid Arrow stream: {0}")]
    Arrow(String),
    /// The stream holds no batch.
    #[error("the Arrow stream holds no batch")]
    Empty,
}

impl From<ArrowError> for BatchError {
    fn from(error: ArrowError) -> Self {
        Self::Arrow(error.to_string())
    }
}

/// Encodes rows for a port.
///
/// # Errors
/// When Arrow cannot encode them.
pub fn encode(port: &str, rows: &RecordBatch, origin_us: Option<i64>) -> Result<PortBatch, BatchError> {
    let mut buffer = Vec::with_capacity(rows.get_array_memory_size() + 1024);
    let mut writer = StreamWriter::try_new(&mut buffer, rows.schema_ref())?;
    writer.write(rows)?;
    writer.finish()?;
    drop(writer);
    let count = u32::try_from(rows.num_rows()).unwrap_or(u32::MAX);
    Ok(PortBatch { port: port.to_owned(), rows: count, origin_us, arrow: Bytes::from(buffer) })
}

/// Decodes the rows of a port.
///
/// # Errors
/// When the bytes are not an Arrow stream of one batch.
pub fn decode(batch: &PortBatch) -> Result<RecordBatch, BatchError> {
    let mut reader = StreamReader::try_new(Cursor::new(&batch.arrow), None)?;
    reader.next().ok_or(BatchError::Empty)?.map_err(BatchError::from)
}

/// Rows up to this length are copied to be sent together: a piece of its own costs more.
const COPIED_BYTES_MAX: usize = 16 << 10;

/// Puts batches together to one Arrow IPC stream, as far as their schema is that of the first, without decoding them: what is written to a stream
/// in small batches is read in large answers. The stream in pieces, of which the large ones are slices of the batches, and how many of the batches are in it.
///
/// # Errors
/// When one is not an Arrow stream.
pub fn join<'b>(batches: impl Iterator<Item = &'b PortBatch> + Clone) -> Result<(Vec<Bytes>, usize), BatchError> {
    let lengths = batches.clone().map(|batch| batch.arrow.len());
    let small: usize = lengths.filter(|length| *length <= COPIED_BYTES_MAX).sum();
    let mut copied = BytesMut::with_capacity(small + SCHEMA_BYTES);
    let (mut pieces, mut count, mut schema) = (Vec::new(), 0, None);
    for batch in batches {
        let (own, rows) =
            split(&batch.arrow).ok_or_else(|| BatchError::Arrow("its first message is cut off".to_owned()))?;
        match schema {
            None => {
                schema = Some(own);
                copied.extend_from_slice(own);
            }
            Some(schema) if schema == own => {}
            Some(_) => break,
        }
        if rows.len() <= COPIED_BYTES_MAX {
            copied.extend_from_slice(rows);
        } else {
            pieces.extend((!copied.is_empty()).then(|| copied.split().freeze()));
            pieces.push(batch.arrow.slice_ref(rows));
        }
        count += 1;
    }
    copied.extend_from_slice(&END_OF_STREAM);
    pieces.push(copied.freeze());
    Ok((pieces, count))
}

/// About how long a schema is, with the end of the stream.
const SCHEMA_BYTES: usize = 1 << 10;
/// What begins each message of a stream, and, without any, ends it (<https://arrow.apache.org/docs/format/Columnar.html#encapsulated-message-format>).
const CONTINUATION: [u8; 4] = [0xff; 4];
const END_OF_STREAM: [u8; 8] = [0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0];

/// A stream's first message, which is its schema and has no body, and the messages that follow.
fn split(arrow: &[u8]) -> Option<(&[u8], &[u8])> {
    let (continuation, rest) = arrow.split_first_chunk()?;
    let (length, _) = rest.split_first_chunk()?;
    let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
    let (schema, rows) = arrow.split_at_checked(length.checked_add(8)?)?;
    (*continuation == CONTINUATION).then(|| (schema, rows.strip_suffix(&END_OF_STREAM).unwrap_or(rows)))
}

/// Universal time, as an offset: Arrow knows names of zones only with a database of all of them.
const UTC: &str = "+00:00";

/// The columns of a stream whose records are published from outside: `key` (text or null), `time` (microseconds since
/// 1970, UTC: when it was published, unless the publisher says otherwise) and `value` (text).
#[must_use]
pub fn record_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("key", DataType::Utf8, true),
        Field::new("time", DataType::Timestamp(TimeUnit::Microsecond, Some(UTC.into())), false),
        Field::new("value", DataType::Utf8, false),
    ]))
}

/// Builds rows of [`record_schema`].
///
/// # Errors
/// When Arrow refuses them, which takes columns of more than 2 GiB.
pub fn records(rows: &[(Option<String>, i64, String)]) -> Result<RecordBatch, BatchError> {
    let keys: StringArray = rows.iter().map(|(key, _, _)| key.as_deref()).collect();
    let times = TimestampMicrosecondArray::from_iter_values(rows.iter().map(|(_, time, _)| *time)).with_timezone(UTC);
    let values = StringArray::from_iter_values(rows.iter().map(|(_, _, value)| value));
    Ok(RecordBatch::try_new(record_schema(), vec![Arc::new(keys), Arc::new(times), Arc::new(values)])?)
}

/// Rows that a stage rejected, for the flow's dead-letter stream: the stage, the reason, and the row as JSON.
#[must_use]
pub fn dead_letter_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("stage", DataType::Utf8, false),
        Field::new("reason", DataType::Utf8, false),
        Field::new("row", DataType::Utf8, false),
    ]))
}

/// One rejected row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// The function that rejected it, or on which it failed.
    pub stage: String,
    /// Why.
    pub reason: String,
    /// The row, as JSON.
    pub row: String,
}

/// Builds rows of [`dead_letter_schema`].
///
/// # Errors
/// When Arrow refuses them.
pub fn dead_letters(letters: &[DeadLetter]) -> Result<RecordBatch, BatchError> {
    let stages = StringArray::from_iter_values(letters.iter().map(|letter| &letter.stage));
    let reasons = StringArray::from_iter_values(letters.iter().map(|letter| &letter.reason));
    let rows = StringArray::from_iter_values(letters.iter().map(|letter| &letter.row));
    Ok(RecordBatch::try_new(dead_letter_schema(), vec![Arc::new(stages), Arc::new(reasons), Arc::new(rows)])?)
}

/// Rows as JSON objects, one a line.
///
/// # Errors
/// When a column has a type that JSON cannot carry.
pub fn to_json_lines(rows: &RecordBatch) -> Result<String, BatchError> {
    let mut writer = arrow_json::WriterBuilder::new()
        .with_explicit_nulls(true)
        .build::<_, arrow_json::writer::LineDelimited>(Vec::new());
    writer.write(rows)?;
    writer.finish()?;
    String::from_utf8(writer.into_inner()).map_err(|error| BatchError::Arrow(error.to_string()))
}

/// The latest value of the `time` column, if the rows have one in microseconds.
#[must_use]
pub fn time_max_us(rows: &RecordBatch) -> Option<i64> {
    let column = rows.column_by_name("time")?;
    let times = column.as_any().downcast_ref::<TimestampMicrosecondArray>()?;
    if times.null_count() == 0 {
        return times.values().iter().copied().max();
    }
    times.iter().flatten().max()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_survive_the_round_trip() {
        let rows = records(&[(Some("a".to_owned()), 5, "x".to_owned()), (None, 7, "{}".to_owned())]).unwrap();
        let encoded = encode("main", &rows, Some(5)).unwrap();
        assert_eq!(encoded.rows, 2);
        assert_eq!(decode(&encoded).unwrap(), rows);
        assert_eq!(time_max_us(&rows), Some(7));
    }

    #[test]
    fn batches_of_one_schema_make_one_stream() {
        let rows = |value: &str| records(&[(None, 5, value.to_owned())]).unwrap();
        let other = dead_letters(&[DeadLetter { stage: "s".into(), reason: "r".into(), row: "{}".into() }]).unwrap();
        let batches = [rows("a"), rows("b"), other, rows("c")].map(|rows| encode("main", &rows, None).unwrap());
        let (pieces, count) = join(batches.iter()).unwrap();
        assert_eq!((pieces.len(), count), (1, 2));
        assert_eq!(read(&pieces), [rows("a"), rows("b")]);
        assert_eq!(join(batches.iter().skip(2)).unwrap().1, 1);
    }

    fn read(pieces: &[Bytes]) -> Vec<RecordBatch> {
        StreamReader::try_new(Cursor::new(pieces.concat()), None).unwrap().map(Result::unwrap).collect()
    }

    #[test]
    fn large_batches_are_not_copied() {
        let rows = |value: String| records(&[(None, 5, value)]).unwrap();
        let large = "l".repeat(COPIED_BYTES_MAX);
        let batches = ["a".to_owned(), large.clone(), large, "b".to_owned(), "c".to_owned()].map(rows);
        let encoded = batches.clone().map(|rows| encode("main", &rows, None).unwrap());
        let (pieces, count) = join(encoded.iter()).unwrap();
        assert_eq!((pieces.len(), count), (4, 5));
        assert!(encoded[1].arrow.as_ptr_range().contains(&pieces[1].as_ptr()), "it was copied");
        assert_eq!(read(&pieces), batches);
    }

    #[test]
    fn garbage_is_an_error() {
        let batch =
            PortBatch { port: "main".to_owned(), rows: 1, origin_us: None, arrow: Bytes::from_static(b"garbage") };
        assert!(decode(&batch).is_err());
        assert!(join(std::iter::once(&batch)).is_err());
        let short = Bytes::from_static(&[0xff, 0xff, 0xff, 0xff, 9, 0, 0, 0, 1]);
        assert!(join(std::iter::once(&PortBatch { arrow: short, ..batch })).is_err());
    }

    #[test]
    fn json_has_a_line_a_row() {
        let rows = dead_letters(&[DeadLetter { stage: "clean".into(), reason: "no number".into(), row: "{}".into() }])
            .unwrap();
        assert_eq!(to_json_lines(&rows).unwrap(), "{\"stage\":\"clean\",\"reason\":\"no number\",\"row\":\"{}\"}\n");
    }
}
