//! `littoral stream publish` and `littoral stream tail`.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use littoral_node::admin::error::{AdminError, AdminErrorKind};
use littoral_node::admin::types::{PublishRecord, Published};
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::sync::mpsc;

use crate::args::{AppPath, From, PublishArgs, TailArgs};
use crate::client::Client;
use crate::commands::told_to_end;
use crate::output;

/// The longest record, in bytes.
const RECORD_BYTES_MAX: usize = 1 << 20;
/// How much goes into one publication: much below what a node takes, and enough that its cost does not matter.
const BATCH_BYTES: usize = 2 << 20;
/// How many records go into one publication.
const BATCH_RECORDS: usize = 4_096;
/// How often a publication is repeated while no owner can be reached. It carries a number, so repeats are dropped.
const ATTEMPTS: u32 = 16;
/// How long to wait before the first repeat; doubled for each further one, up to [`PAUSE_MAX`].
const PAUSE: Duration = Duration::from_millis(200);
/// The longest wait before a repeat: an owner that is lost is replaced within a few seconds.
const PAUSE_MAX: Duration = Duration::from_secs(3);

/// Publishes records and says how many.
pub(super) async fn publish(args: &PublishArgs, client: &Client) -> anyhow::Result<ExitCode> {
    let mut publisher = Publisher::new(client.clone(), args);
    if args.value.is_empty() {
        let (lines, mut read) = mpsc::channel(BATCH_RECORDS);
        let source: Box<dyn AsyncBufRead + Unpin + Send> = match &args.file {
            Some(path) => {
                let file = tokio::fs::File::open(path).await;
                Box::new(BufReader::new(file.with_context(|| format!("cannot open {}", path.display()))?))
            }
            None => Box::new(BufReader::new(tokio::io::stdin())),
        };
        tokio::spawn(read_lines(source, lines));
        // Whatever has been read meanwhile goes together: many records of a file, one of a slow sensor.
        while let Some(line) = read.recv().await {
            publisher.add(&line?).await?;
            while let Ok(line) = read.try_recv() {
                publisher.add(&line?).await?;
            }
            publisher.flush().await?;
        }
    } else {
        for value in &args.value {
            publisher.add(value.as_bytes()).await?;
        }
        publisher.flush().await?;
    }
    let Published { stored, repeated } = publisher.total;
    let repeats = if repeated > 0 { format!(" ({repeated} of them had been stored before)") } else { String::new() };
    eprintln!("stored {stored} records in {}/{}{repeats}", args.stream.app, args.stream.name);
    Ok(ExitCode::SUCCESS)
}

/// Sends the lines that are not empty, until the end, the first error, or nobody listens.
async fn read_lines(mut source: Box<dyn AsyncBufRead + Unpin + Send>, lines: mpsc::Sender<anyhow::Result<Vec<u8>>>) {
    loop {
        let mut line = Vec::new();
        let read = (&mut source).take(RECORD_BYTES_MAX as u64 + 1).read_until(b'\n', &mut line).await;
        while line.last().is_some_and(u8::is_ascii_whitespace) {
            line.pop();
        }
        let line = match read {
            Ok(0) => return,
            Ok(_) if line.is_empty() => continue,
            Ok(_) if line.len() > RECORD_BYTES_MAX => Err(anyhow::anyhow!("a record has more than 1 MiB; split it")),
            Ok(_) => Ok(line),
            Err(error) => Err(anyhow::Error::new(error).context("cannot read the records")),
        };
        let failed = line.is_err();
        if lines.send(line).await.is_err() || failed {
            return;
        }
    }
}

/// Gathers records into publications, each with a number of its own.
struct Publisher {
    client: Client,
    stream: AppPath,
    key: Option<String>,
    /// Lines are JSON already.
    ndjson: bool,
    producer: String,
    sequence: u64,
    batch: Vec<u8>,
    records: usize,
    total: Published,
}

impl Publisher {
    fn new(client: Client, args: &PublishArgs) -> Self {
        Self {
            client,
            stream: args.stream.clone(),
            key: args.key.clone(),
            ndjson: args.ndjson,
            producer: format!("cli-{:032x}", rand::random::<u128>()),
            sequence: 0,
            batch: Vec::new(),
            records: 0,
            total: Published { stored: 0, repeated: 0 },
        }
    }

    async fn add(&mut self, line: &[u8]) -> anyhow::Result<()> {
        if self.ndjson {
            self.batch.extend_from_slice(line);
        } else {
            let value = std::str::from_utf8(line).context("a record is not UTF-8")?.to_owned();
            let record = PublishRecord { key: self.key.clone(), time_us: None, value };
            serde_json::to_writer(&mut self.batch, &record)?;
        }
        self.batch.push(b'\n');
        self.records += 1;
        if self.records >= BATCH_RECORDS || self.batch.len() >= BATCH_BYTES {
            self.flush().await?;
        }
        Ok(())
    }

    /// Publishes what has gathered.
    async fn flush(&mut self) -> anyhow::Result<()> {
        if self.records == 0 {
            return Ok(());
        }
        self.records = 0;
        self.sequence += 1;
        let batch = Bytes::from(std::mem::take(&mut self.batch));
        let query = format!("?producer={}&epoch=1&sequence={}", self.producer, self.sequence);
        let AppPath { app, name } = &self.stream;
        let mut pause = PAUSE;
        for attempt in 1.. {
            let published =
                self.client.publish(app.as_str(), name, &query, "application/x-ndjson", batch.clone()).await;
            match published {
                Ok(published) => {
                    self.total.stored += published.stored;
                    self.total.repeated += published.repeated;
                    break;
                }
                Err(error) if attempt < ATTEMPTS && is_unavailable(&error) => {
                    tracing::debug!(%error, attempt, "publishing again");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
                Err(error) => {
                    return Err(error.context(format!("{} records were stored before this", self.total.stored)));
                }
            }
        }
        Ok(())
    }
}

fn is_unavailable(error: &anyhow::Error) -> bool {
    error.downcast_ref::<AdminError>().is_some_and(|error| error.kind == AdminErrorKind::Unavailable)
}

/// Prints a stream's records as they come.
pub(super) async fn tail(args: &TailArgs, client: &Client) -> anyhow::Result<ExitCode> {
    let start = match (args.last, args.from) {
        (Some(last), _) => format!("last={last}"),
        (None, Some(From::Start)) => "from=start".to_owned(),
        (None, Some(From::End)) => "from=end".to_owned(),
        (None, None) if args.follow => "from=end".to_owned(),
        (None, None) => "from=start".to_owned(),
    };
    let query = format!("?{start}&follow={}", args.follow);
    let mut rows = client.tail(args.stream.app.as_str(), &args.stream.name, &query).await?;
    let end = told_to_end();
    tokio::pin!(end);
    loop {
        let row = tokio::select! {
            row = rows.next() => row?,
            ended = &mut end => {
                ended?;
                return Ok(ExitCode::SUCCESS);
            }
        };
        let Some(row) = row else { return Ok(ExitCode::SUCCESS) };
        output::write(&[&row[..], b"\n"].concat())?;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use super::*;
    use crate::client::{Canned, problem};

    #[tokio::test]
    async fn a_publication_is_repeated_with_its_number() {
        let stored = r#"{"stored":2,"repeated":0}"#;
        let stored = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{stored}", stored.len());
        let canned = Canned::new(vec![problem(AdminErrorKind::Unavailable, "no owner"), stored]);
        let args = PublishArgs {
            stream: "my-app/readings".parse().unwrap(),
            value: Vec::new(),
            file: None,
            key: Some("k".to_owned()),
            ndjson: false,
        };
        let mut publisher = Publisher::new(canned.client(), &args);
        publisher.add(b"1").await.unwrap();
        publisher.add(b"2").await.unwrap();
        publisher.flush().await.unwrap();
        assert_eq!(publisher.total.stored, 2);
        let requests = canned.requests.lock().unwrap();
        assert_eq!(requests[0], requests[1], "a repeat is the same to the last byte, its number too");
        assert!(requests[0].contains("&epoch=1&sequence=1 HTTP"), "{}", requests[0]);
        assert!(requests[0].ends_with("{\"key\":\"k\",\"value\":\"1\"}\n{\"key\":\"k\",\"value\":\"2\"}\n"));
    }

    #[tokio::test]
    async fn what_is_refused_is_not_repeated() {
        let canned = Canned::new(vec![problem(AdminErrorKind::Invalid, "too long")]);
        let args = PublishArgs {
            stream: "my-app/readings".parse().unwrap(),
            value: Vec::new(),
            file: None,
            key: None,
            ndjson: true,
        };
        let mut publisher = Publisher::new(canned.client(), &args);
        publisher.add(b"{}").await.unwrap();
        let error = publisher.flush().await.unwrap_err();
        assert_eq!(error.to_string(), "0 records were stored before this");
        assert!(error.downcast_ref::<AdminError>().is_some());
    }

    #[tokio::test]
    async fn lines_that_are_empty_are_skipped_and_long_ones_refused() {
        let (lines, mut read) = mpsc::channel(8);
        let long = "x".repeat(RECORD_BYTES_MAX + 1);
        let source = std::io::Cursor::new(format!("a\r\n\n  \nb\n{long}\nc"));
        read_lines(Box::new(source), lines).await;
        assert_eq!(read.recv().await.unwrap().unwrap(), b"a");
        assert_eq!(read.recv().await.unwrap().unwrap(), b"b");
        assert!(read.recv().await.unwrap().is_err());
        assert!(read.recv().await.is_none(), "nothing after an error");
    }
}
