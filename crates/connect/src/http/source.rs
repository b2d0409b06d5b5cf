//! Asks a URL again and again: what it answers is records, when it is another answer than the one before.
//!
//! Whether it is another one is said by its entity tag, which is sent back with each request (RFC 9110, section 13.1.2), and
//! otherwise by a checksum of it.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::header::{ACCEPT, ETAG, IF_NONE_MATCH};
use http::{Method, StatusCode};
use littoral_flow::stats::now_us;
use littoral_model::manifest;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::Instant;

use super::Target;
use crate::{Machine, Record, Source, Taken, Trouble, key_of};

/// The version of the form of positions.
const VERSION: u32 = 1;
/// How many records an answer may have, and how many bytes: they are committed together.
const RECORDS_MAX: usize = 1 << 16;
const RECORDS_BYTES_MAX: usize = 8 << 20;
/// The longest entity tag that is kept.
const TAG_BYTES_MAX: usize = 1 << 10;

/// A URL that is asked.
#[derive(Debug)]
pub(crate) struct HttpSource {
    target: Target,
    settings: manifest::HttpSource,
    last: Last,
    /// When it was asked last.
    asked: Option<Instant>,
    /// Whether it answered then.
    has_answered: bool,
}

/// The answer before.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Last {
    version: u32,
    tag: Option<String>,
    /// The CRC-32C and the length of its body.
    body: Option<(u32, u64)>,
}

impl HttpSource {
    pub(crate) async fn open(
        settings: &manifest::HttpSource,
        machine: Arc<dyn Machine>,
        position: Option<&[u8]>,
    ) -> Result<Self, Trouble> {
        let last = match position {
            None => Last { version: VERSION, ..Last::default() },
            Some(position) => {
                serde_json::from_slice::<Last>(position).ok().filter(|last| last.version == VERSION).ok_or_else(
                    || Trouble("its position is not that of a URL: declare it under another name".to_owned()),
                )?
            }
        };
        let timeout = Duration::from(settings.timeout);
        let target = Target::open(&settings.url, &settings.headers, &settings.grants, timeout, machine).await?;
        Ok(Self { target, settings: settings.clone(), last, asked: None, has_answered: false })
    }

    /// Asks once; records if the answer is another one.
    async fn ask(&mut self) -> Result<Option<Taken>, Trouble> {
        let mut headers = vec![(ACCEPT, "application/json".to_owned())];
        headers.extend(self.last.tag.clone().map(|tag| (IF_NONE_MATCH, tag)));
        self.has_answered = false;
        let answer = self.target.send(Method::GET, &headers, Bytes::new()).await?;
        self.has_answered = true;
        if answer.status() == StatusCode::NOT_MODIFIED {
            return Ok(None);
        }
        if !answer.status().is_success() {
            return Err(self.target.trouble(format!("it answered {}", answer.status())));
        }
        let tag = answer.headers().get(ETAG).and_then(|tag| tag.to_str().ok()).filter(|tag| tag.len() <= TAG_BYTES_MAX);
        let body = answer.body();
        let last = Last {
            version: VERSION,
            tag: tag.map(str::to_owned),
            body: Some((crc32c::crc32c(body), body.len() as u64)),
        };
        let is_same = last.body == self.last.body && (last.tag.is_none() || last.tag == self.last.tag);
        if is_same || body.is_empty() {
            return Ok(None);
        }
        let records = self.records(body)?;
        let position = serde_json::to_vec(&last).map_err(|error| self.target.trouble(error))?;
        self.last = last;
        Ok(Some(Taken { records, position: Bytes::from(position), passed_over: None }))
    }

    /// Each element of a list is a record, else the whole.
    fn records(&self, body: &[u8]) -> Result<Vec<Record>, Trouble> {
        let answer: Value = serde_json::from_slice(body)
            .map_err(|error| self.target.trouble(format!("its answer is no JSON: {error}")))?;
        let values = match answer {
            Value::Array(values) => values,
            other => vec![other],
        };
        if values.len() > RECORDS_MAX {
            return Err(self.too_much(values.len()));
        }
        let time_us = now_us();
        let record = |value: Value| {
            let key = self.settings.key.as_ref().and_then(|key| key_of(value.get(key)));
            Record { key, time_us, value: value.to_string() }
        };
        let records: Vec<Record> = values.into_iter().map(record).collect();
        let bytes_of = |record: &Record| record.value.len() + record.key.as_ref().map_or(0, String::len);
        if records.iter().map(bytes_of).sum::<usize>() > RECORDS_BYTES_MAX {
            return Err(self.too_much(records.len()));
        }
        Ok(records)
    }

    fn too_much(&self, records: usize) -> Trouble {
        self.target.trouble(format!(
            "its answer has {records} records; {RECORDS_MAX} with {} MiB are taken at once: have it answer with fewer",
            RECORDS_BYTES_MAX >> 20
        ))
    }
}

#[async_trait]
impl Source for HttpSource {
    async fn next(&mut self) -> Result<Taken, Trouble> {
        if let Some(asked) = self.asked {
            tokio::time::sleep_until(asked + Duration::from(self.settings.every)).await;
        }
        self.asked = Some(Instant::now());
        Ok(self.ask().await?.unwrap_or_default())
    }

    fn rest(&self) -> Duration {
        if self.has_answered { self.settings.every.into() } else { Duration::ZERO }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::net::SocketAddr;
    use std::os::fd::OwnedFd;
    use std::path::Path;

    use littoral_model::grant::Peer;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    struct Loopback(SocketAddr);

    #[async_trait]
    impl Machine for Loopback {
        fn folder(&self, path: &Path) -> Result<OwnedFd, Trouble> {
            Err(Trouble(format!("{} is not offered", path.display())))
        }

        async fn addresses(&self, _: &[Peer], _: &str, _: u16) -> Result<Vec<SocketAddr>, Trouble> {
            Ok(vec![self.0])
        }

        async fn secret(&self, name: &str) -> Result<String, Trouble> {
            Err(Trouble(format!("{name} is not offered")))
        }
    }

    #[tokio::test]
    async fn who_answers_that_it_is_asked_too_much_is_left_alone_and_who_cannot_be_reached_is_not() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let machine = Arc::new(Loopback(listener.local_addr().unwrap()));
        let settings = serde_json::json!({ "url": "http://a.example/", "grants": ["a.example"], "every": "1h" });
        let settings: manifest::HttpSource = serde_json::from_value(settings).unwrap();
        let mut source = HttpSource::open(&settings, machine, None).await.unwrap();
        let serving = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            assert!(stream.read(&mut request).await.unwrap() > 0);
            let answer = b"HTTP/1.1 429 Too Many Requests\r\ncontent-length: 0\r\n\r\n";
            stream.write_all(answer).await.unwrap();
            stream
        };
        let (answered, _stream) = tokio::join!(source.next(), serving);
        assert!(answered.unwrap_err().0.contains("429"));
        assert_eq!(source.rest(), Duration::from_secs(3_600));
        drop(listener);
        source.asked = None;
        source.next().await.unwrap_err();
        assert_eq!(source.rest(), Duration::ZERO);
    }

    #[test]
    fn what_an_older_version_has_committed_is_read() {
        let last: Last = serde_json::from_str(r#"{"version":1,"tag":"\"a\"","body":[3091053675,3]}"#).unwrap();
        assert_eq!(last, Last { version: 1, tag: Some("\"a\"".to_owned()), body: Some((crc32c::crc32c(b"[1]"), 3)) });
    }
}
