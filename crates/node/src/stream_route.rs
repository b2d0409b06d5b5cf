//! What a route to a stream takes and gives: one record or many at once, and the last records as JSON, or all from a place on as Arrow.

use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt as _;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use littoral_flow::batch;
use littoral_flow::reader::Source;
use littoral_model::entry::{PORT_MAIN, PortBatch, Position};
use littoral_model::id::{AppId, StreamName};
use littoral_model::wire::{FetchReply, FetchRequest};
use serde_json::json;

use crate::admin::operations::TailStart;
use crate::admin::types::{AdminError, AdminErrorKind, PublishRecord};
use crate::ingress::json_bytes;
use crate::publish::Publisher;
use crate::tail::{self, tail};

/// The most records in one publication: each costs more memory than its bytes.
const RECORDS_PER_PUBLISH_MAX: usize = 65_536;
/// How many records a route to a stream answers with, unless it is asked for another number.
const LAST_DEFAULT: u64 = 100;
/// The most records that a route to a stream answers with in JSON.
const LAST_MAX: u64 = 10_000;
/// About how many bytes of rows an answer in Arrow has.
const ROWS_BYTES: u32 = 2 << 20;
/// The longest that an answer in Arrow waits for a first row, in milliseconds.
const WAIT_MS_MAX: u32 = 30_000;
/// Many records, a JSON object a line.
const LINES_OF_JSON: &str = "application/x-ndjson";
/// Rows as columns (<https://www.iana.org/assignments/media-types/application/vnd.apache.arrow.stream>).
const ARROW: &str = "application/vnd.apache.arrow.stream";
/// Where the rows that follow an answer begin.
const NEXT: HeaderName = HeaderName::from_static("littoral-next");

/// The type of a body, without parameters.
pub(crate) fn media(headers: &HeaderMap) -> &str {
    let of_body = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    of_body.split(';').next().unwrap_or_default().trim()
}

/// The records of a publication: a JSON object a line, or a plain value a line. Empty lines are skipped.
pub(crate) fn records_of(media: &str, body: &Bytes) -> Result<Vec<PublishRecord>, AdminError> {
    let text = std::str::from_utf8(body)
        .map_err(|error| AdminError::invalid(format!("the records are not UTF-8: {error}")))?;
    let parse: fn(&str) -> Result<PublishRecord, serde_json::Error> = match media {
        LINES_OF_JSON => |line| serde_json::from_str(line),
        "text/plain" => |line| Ok(PublishRecord { value: line.to_owned(), ..PublishRecord::default() }),
        _ => {
            return Err(AdminError::invalid(format!("records of type `{media}` are not taken"))
                .hint("send application/x-ndjson or text/plain, one record a line"));
        }
    };
    let mut records = Vec::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        if records.len() == RECORDS_PER_PUBLISH_MAX {
            return Err(AdminError::invalid(format!("more than {RECORDS_PER_PUBLISH_MAX} records in one publication"))
                .hint("send them in several"));
        }
        let record =
            parse(line).map_err(|error| AdminError::invalid(format!("record on line {}: {error}", number + 1)))?;
        records.push(record);
    }
    if records.is_empty() {
        return Err(AdminError::invalid("there is no record in the publication"));
    }
    Ok(records)
}

/// What is posted to a route: a record, whatever its type, unless it says that it is many.
pub(crate) fn posted(media: &str, body: Bytes) -> Result<Vec<PublishRecord>, AdminError> {
    if media == LINES_OF_JSON {
        return records_of(media, &body);
    }
    let value = String::from_utf8(body.into()).map_err(|_| AdminError::invalid("a record must be text in UTF-8"))?;
    Ok(vec![PublishRecord { value, ..PublishRecord::default() }])
}

/// What a route to a stream is asked for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// The last records, in JSON.
    Last(u64),
    /// Rows of one partition from a place on, in Arrow; whether to wait for the first.
    Rows { partition: u32, from: Position, wait_ms: u32 },
}

impl Asked {
    /// What a request asks for.
    pub(crate) fn of(request: &Parts) -> Result<Self, AdminError> {
        let accepted = request.headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
        let wants_arrow =
            accepted.flat_map(|value| value.split(',')).any(|one| one.split(';').next().map(str::trim) == Some(ARROW));
        let query = request.uri.query().unwrap_or_default();
        if !wants_arrow {
            return last_of(query).map(Self::Last);
        }
        let number = |name: &str, max: u32| match value_of(query, name) {
            None => Ok(0),
            Some(text) => text
                .parse()
                .ok()
                .filter(|number| *number <= max)
                .ok_or_else(|| AdminError::invalid(format!("`{name}` is a number from 0 to {max}, not `{text}`"))),
        };
        let from = match value_of(query, "from") {
            None | Some("start") => START,
            Some("end") => Position::END,
            Some(text) => place_of(text).ok_or_else(|| {
                AdminError::invalid(format!("`from` is `start`, `end` or a place, not `{text}`"))
                    .hint("the header littoral-next of an answer says the next place")
            })?,
        };
        let (partition, wait_ms) = (number("partition", u32::MAX)?, number("wait_ms", WAIT_MS_MAX)?);
        Ok(Self::Rows { partition, from, wait_ms })
    }
}

/// The first row that is kept, wherever that is.
const START: Position = Position { index: 0, row: 0 };

/// A place as clients know it: an entry, or behind some rows of an entry.
fn place_of(text: &str) -> Option<Position> {
    let (index, row) = text.split_once('.').unwrap_or((text, "0"));
    let place = Position { index: index.parse().ok()?, row: row.parse().ok()? };
    (place > START && place < Position::END).then_some(place)
}

/// The value that a query gives a name; the last one counts.
fn value_of<'q>(query: &'q str, name: &str) -> Option<&'q str> {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.filter(|(key, _)| *key == name).map(|(_, value)| value).next_back()
}

/// The `last` of a query.
fn last_of(query: &str) -> Result<u64, AdminError> {
    let Some(text) = value_of(query, "last") else { return Ok(LAST_DEFAULT) };
    let last: Option<u64> = text.parse().ok().filter(|last| (1..=LAST_MAX.min(tail::LAST_MAX)).contains(last));
    last.ok_or_else(|| AdminError::invalid(format!("`last` is a number from 1 to {LAST_MAX}, not `{text}`")))
}

/// Answers what a route to a stream is asked for.
pub(crate) async fn read(
    publisher: &Publisher,
    source: Arc<dyn Source>,
    (app, stream): (&AppId, &StreamName),
    asked: Asked,
) -> Result<Response<Vec<Bytes>>, AdminError> {
    let partitions = publisher.partitions(app, stream)?;
    let (partition, from, wait_ms) = match asked {
        Asked::Last(last) => {
            let mut rows = tail(source, partitions, TailStart::Last(last), false);
            let mut found = Vec::new();
            while let Some(row) = rows.next().await {
                found.push(row?);
            }
            return Ok(json_bytes(StatusCode::OK, &json!(found)).map(|json| vec![json]));
        }
        Asked::Rows { partition, from, wait_ms } => (partition, from, wait_ms),
    };
    let count = partitions.len();
    let work = partitions.into_iter().nth(partition as usize).ok_or_else(|| {
        AdminError::not_found(format!("there is no partition {partition}; the stream {stream} has {count}"))
    })?;
    let name = work.to_string();
    let mut request = FetchRequest {
        work,
        port: PORT_MAIN.to_owned(),
        consumer: None,
        from,
        committed: Position::default(),
        bytes_max: ROWS_BYTES,
        wait_ms,
    };
    let mut fetched = source.fetch(request.clone()).await;
    if let (Ok(FetchReply::Trimmed(first)), true) = (&fetched, from == START) {
        request.from = *first;
        fetched = source.fetch(request).await;
    }
    match fetched {
        Ok(FetchReply::Rows { batches, next, .. }) => rows(&batches, from, next),
        Ok(FetchReply::Trimmed(first)) => {
            let text = format!("the records before {} are not kept any more", first.index);
            Err(AdminError::new(AdminErrorKind::Conflict, text).hint(format!("go on with `from={}`", first.index)))
        }
        Ok(FetchReply::NotOwner(_)) => {
            Err(AdminError::unavailable(format!("{name} is moving to another owner")).hint("try again"))
        }
        Err(error) => Err(AdminError::unavailable(error.to_string()).hint("try again")),
    }
}

/// Rows from a place on as one Arrow stream, in pieces; what has another schema comes with the next answer.
fn rows(batches: &[(u64, PortBatch)], from: Position, next: Position) -> Result<Response<Vec<Bytes>>, AdminError> {
    // Each with the place behind it. An entry is fetched whole, and cut only between its batches.
    let mut behind = Position::default();
    let placed = batches.iter().map(|(index, rows)| {
        let before = if behind.index == *index { behind.row } else { 0 };
        behind = Position { index: *index, row: before.saturating_add(rows.rows) };
        (behind, rows)
    });
    let placed: Vec<_> = placed.filter(|(behind, _)| *behind > from).collect();
    let (body, taken) = match placed.as_slice() {
        [] => (Vec::new(), 0),
        placed => batch::join(placed.iter().map(|(_, rows)| *rows))
            .map_err(|error| AdminError::internal(format!("the rows cannot be read: {error}")))?,
    };
    let mut response = Response::new(body);
    let place = match placed.get(taken.wrapping_sub(1)) {
        None => {
            *response.status_mut() = StatusCode::NO_CONTENT;
            next.index.to_string()
        }
        Some(_) if taken == placed.len() => next.index.to_string(),
        Some((behind, _)) => format!("{}.{}", behind.index, behind.row),
    };
    let place = HeaderValue::from_str(&place).map_err(|error| AdminError::internal(error.to_string()))?;
    response.headers_mut().insert(NEXT, place);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(ARROW));
    Ok(response)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn asked(query: &str, accept: &str) -> Result<Asked, AdminError> {
        let request = http::Request::get(format!("/notes?{query}")).header(header::ACCEPT, accept);
        Asked::of(&request.body(()).unwrap().into_parts().0)
    }

    #[test]
    fn the_number_of_records_is_bounded() {
        assert_eq!(asked("", "*/*").unwrap(), Asked::Last(LAST_DEFAULT));
        assert_eq!(asked("x=1&last=5", "*/*").unwrap(), Asked::Last(5));
        assert!(asked("last=0", "*/*").is_err());
        assert!(asked("last=many", "*/*").is_err());
    }

    #[test]
    fn rows_are_asked_for_by_place() {
        let rows = |query: &str| asked(query, "text/html, application/vnd.apache.arrow.stream;q=0.9");
        assert_eq!(rows("").unwrap(), Asked::Rows { partition: 0, from: START, wait_ms: 0 });
        let from = Position { index: 17, row: 40 };
        assert_eq!(rows("partition=2&from=17.40&wait_ms=9").unwrap(), Asked::Rows { partition: 2, from, wait_ms: 9 });
        for wrong in ["from=0", "from=-1", "from=18446744073709551615", "from=x.1", "wait_ms=30001", "partition=one"] {
            assert!(rows(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn rows_of_another_schema_come_with_the_next_answer_and_none_comes_twice() {
        let records = batch::records(&[(None, 1, "a".to_owned()), (None, 2, "b".to_owned())]).unwrap();
        let letters = batch::dead_letters(&[]).unwrap();
        let [records, letters] = [&records, &letters].map(|rows| batch::encode(PORT_MAIN, rows, None).unwrap());
        let letters = PortBatch { rows: 1, ..letters };
        let fetched = [(3, records.clone()), (4, records.clone()), (4, letters), (4, records)];
        let next = Position { index: 5, row: 0 };
        let mut from = START;
        for (place, status) in [("4.2", 200), ("4.3", 200), ("5", 200), ("5", 204)] {
            let response = rows(&fetched, from, next).unwrap();
            assert_eq!((response.headers()[NEXT].to_str().unwrap(), response.status().as_u16()), (place, status));
            assert_eq!(response.body().is_empty(), status == 204);
            from = place_of(place).unwrap();
        }
    }

    #[test]
    fn a_body_is_one_record_unless_it_says_that_it_is_many() {
        let two = Bytes::from_static(b"{\"value\": \"a\"}\n{\"value\": \"b\", \"key\": \"k\"}\n");
        assert_eq!(posted("application/x-ndjson", two.clone()).unwrap().len(), 2);
        let whole = posted("application/json", two.clone()).unwrap();
        assert_eq!((whole.len(), whole.first().unwrap().value.as_bytes()), (1, &two[..]));
        assert!(posted("application/x-ndjson", Bytes::from_static(b"no object")).is_err());
    }
}
