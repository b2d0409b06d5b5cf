//! Posts rows, a batch a request.
//!
//! Each request has an idempotency key that follows from the partition and the rows' places. Which rows are sent together is committed
//! before they are sent ([`is_planned`](crate::is_planned)): after a failure the same request is sent, with the same key, and a receiver
//! that keeps keys takes it once.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderName, Method, StatusCode};
use littoral_model::manifest;

use super::Target;
use crate::{Flushed, Machine, Part, Sink, Trouble};

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
        Ok(Self { target })
    }
}

#[async_trait]
impl Sink for HttpSink {
    async fn write(&mut self, part: &Part) -> Result<(), Trouble> {
        let body: String = part.rows.iter().map(|rows| rows.lines.as_str()).collect();
        if body.is_empty() {
            return Ok(());
        }
        let headers = [(CONTENT_TYPE, "application/x-ndjson".to_owned()), (IDEMPOTENCY_KEY, key(part))];
        let answer = self.target.send(Method::POST, &headers, Bytes::from(body)).await?;
        match answer.status() {
            status if status.is_success() => Ok(()),
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

    async fn flush(&mut self) -> Result<Flushed, Trouble> {
        Ok(Flushed { known: Bytes::from_static(FORM), passed_over: None })
    }

    async fn committed(&mut self) -> Result<(), Trouble> {
        Ok(())
    }
}

/// A text in quotes, as the header's values are: the partition, and from where to where the rows go.
fn key(Part { work, from, next, .. }: &Part) -> String {
    format!("\"{work}/{}.{}-{}.{}\"", from.index, from.row, next.index, next.row)
}
