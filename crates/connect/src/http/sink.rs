//! Posts rows, a batch a request.
//!
//! Each request has an idempotency key that follows from the partition and the rows' places. Which rows are sent together is committed
//! before they are sent ([`is_planned`](crate::is_planned)): after a failure the same request is sent, with the same key, and a receiver
//! that keeps keys takes it once. Where a request is too large, its rows are sent in halves.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderName, Method, StatusCode};
use littoral_model::manifest;

use super::Target;
use crate::{Flushed, Machine, Part, Rows, Sink, Trouble};

/// The form of what it must know, which is nothing.
const FORM: &[u8] = b"http 1";
/// The key of a request (draft-ietf-httpapi-idempotency-key-header).
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// How much of a refusal is shown.
const REASON_CHARS_MAX: usize = 200;

/// A URL that rows are posted to.
#[derive(Debug)]
pub(crate) struct HttpSink {
    target: Target,
    passed_over: Option<(u64, String)>,
}

/// What became of rows that were posted.
enum Posted {
    Taken,
    TooLarge,
}

impl HttpSink {
    pub(crate) async fn open(
        settings: &manifest::HttpSink,
        machine: Arc<dyn Machine>,
        committed: Option<&[u8]>,
    ) -> Result<Self, Trouble> {
        if committed.is_some_and(|committed| committed != FORM) {
            return Err(Trouble("what it has written did not go over HTTP: declare it under another name".to_owned()));
        }
        let timeout = Duration::from(settings.timeout);
        let target = Target::open(&settings.url, &settings.headers, &settings.grants, timeout, machine).await?;
        Ok(Self { target, passed_over: None })
    }

    async fn post(&self, key: String, body: String) -> Result<Posted, Trouble> {
        let headers = [(CONTENT_TYPE, "application/x-ndjson".to_owned()), (IDEMPOTENCY_KEY, key)];
        let answer = self.target.send(Method::POST, &headers, Bytes::from(body)).await?;
        match answer.status() {
            status if status.is_success() => Ok(Posted::Taken),
            StatusCode::PAYLOAD_TOO_LARGE => Ok(Posted::TooLarge),
            // It was taken before, or is being taken.
            StatusCode::CONFLICT => {
                Err(self.target.trouble("409: the request is being worked on there already; it is sent again"))
            }
            status => {
                let said = String::from_utf8_lossy(answer.body());
                let said: String = said.chars().take(REASON_CHARS_MAX).collect();
                Err(self.target.trouble(format!("it answered {status}: {said}")))
            }
        }
    }
}

#[async_trait]
impl Sink for HttpSink {
    async fn write(&mut self, part: &Part) -> Result<(), Trouble> {
        let texts = part.rows.iter().map(Rows::lines).collect::<Result<Vec<_>, _>>()?;
        let lines: Vec<&str> = texts.iter().flat_map(|text| text.lines()).collect();
        if lines.is_empty() {
            return Ok(());
        }
        // What is still to be sent, the first at the end. Always the same halves: their keys follow from their places.
        let mut left: Vec<Range<usize>> = std::iter::once(0..lines.len()).collect();
        while let Some(range) = left.pop() {
            let body: String =
                lines.get(range.clone()).unwrap_or_default().iter().flat_map(|line| [*line, "\n"]).collect();
            let bytes = body.len();
            match self.post(key(part, &range, lines.len()), body).await? {
                Posted::Taken => {}
                Posted::TooLarge if range.len() > 1 => {
                    let middle = range.start + range.len() / 2;
                    left.extend([middle..range.end, range.start..middle]);
                }
                Posted::TooLarge => {
                    let before = self.passed_over.take().map_or(0, |(count, _)| count);
                    let why = self.target.trouble(format!("a row of {bytes} bytes alone is too large for it"));
                    self.passed_over = Some((before + 1, why.0));
                }
            }
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<Flushed, Trouble> {
        Ok(Flushed { known: Bytes::from_static(FORM), passed_over: self.passed_over.take() })
    }

    async fn committed(&mut self) -> Result<(), Trouble> {
        Ok(())
    }
}

/// A text in quotes, as the header's values are: the partition, from where to where the rows go, and which of them are sent if not all.
fn key(Part { work, from, next, .. }: &Part, range: &Range<usize>, count: usize) -> String {
    let share = if range.len() < count { format!("/{}-{}", range.start, range.end) } else { String::new() };
    format!("\"{work}/{}.{}-{}.{}{share}\"", from.index, from.row, next.index, next.row)
}
