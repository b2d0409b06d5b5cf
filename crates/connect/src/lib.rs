//! Sources and sinks: what outside the fabric becomes records of a stream, and where the records of one go.
//!
//! A [`Source`] gives records with the position behind them; [`source`] commits both as one entry of the source's own log, from which
//! the stream's partitions pull, as from a stage of a flow. A [`Sink`] takes rows; [`sink`] commits how far it has come once they are safe
//! outside. So the log is the only place where anything waits: neither side keeps a queue. Whichever is down is tried again, and what
//! is the matter is told with its work.
//!
//! Each kind is a module: `generator` makes records up, `file` has files, `http` asks and posts, `mqtt` and `kafka`
//! (which a build may leave out) are clients of brokers. To add one, implement the trait, and
//! name it in [`open_source`] or [`open_sink`], and in the manifest.

mod backoff;
mod file;
mod generator;
mod http;
#[cfg(feature = "kafka")]
mod kafka;
#[cfg(not(feature = "kafka"))]
#[path = "kafka_left_out.rs"]
mod kafka;
mod mqtt;
mod net;
pub mod sink;
pub mod source;

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arrow_array::RecordBatch;
use async_trait::async_trait;
use bytes::Bytes;
use littoral_flow::batch;
use littoral_model::entry::Position;
use littoral_model::grant::Peer;
use littoral_model::id::Epoch;
use littoral_model::manifest::{FileFormat, SinkConnector, SourceConnector};
use littoral_model::work::WorkId;
use tokio::time::Instant;

use crate::http::{HttpSink, HttpSource};
use file::{FileSink, FileSource, ParquetSource};
use generator::Generator;
use mqtt::{MqttSink, MqttSource};
use serde_json::Value;

/// About how many bytes of records are committed at once, and handed to a sink at once.
pub(crate) const BATCH_BYTES: usize = 1 << 20;
/// How many records are committed at once.
pub(crate) const BATCH_RECORDS: usize = 4_096;

/// What a setting begins with that names a secret of the node.
const SECRET_PREFIX: &str = "secret:";

/// What is outside does not do what is wanted of it. The text is for people: what is the matter, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Trouble(pub String);

impl Trouble {
    fn of(what: impl std::fmt::Display, why: impl std::fmt::Display) -> Self {
        Self(format!("{what}: {why}"))
    }
}

/// A record from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its key.
    pub key: Option<String>,
    /// Its time, in microseconds since 1970.
    pub time_us: i64,
    /// Its value.
    pub value: String,
}

/// What a source gives at once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Taken {
    /// Records, in order.
    pub records: Vec<Record>,
    /// Where what follows begins, in the source's own terms; with a version of its form.
    pub position: Bytes,
    /// How many records were passed over because they cannot be taken, and the last reason.
    pub passed_over: Option<(u64, String)>,
}

impl Taken {
    /// Whether there is nothing to commit.
    fn is_empty(&self) -> bool {
        self.records.is_empty() && self.passed_over.is_none()
    }
}

/// Something outside that gives records.
#[async_trait]
pub trait Source: Send {
    /// The records that come next, none where it is only known by now that nothing is the matter; about a mebibyte of them, and no more
    /// than fit into a commit; waits for them. What is given is gone: the next call goes on behind it.
    /// May be dropped while it waits, and asked again.
    ///
    /// # Errors
    /// When it cannot be read now. It is opened anew then, at the position of what was committed last.
    async fn next(&mut self) -> Result<Taken, Trouble>;

    /// What was given is committed.
    ///
    /// # Errors
    /// As for [`next`](Self::next).
    async fn committed(&mut self) -> Result<(), Trouble> {
        Ok(())
    }

    /// Keeps what it has open alive while what it has given is committed, which may take long; ends only with trouble.
    async fn tend(&mut self) -> Trouble {
        std::future::pending().await
    }

    /// For how long it is left alone after trouble, besides the pause between two tries: whoever answers that it is asked too much is not
    /// to be asked more often for it.
    fn rest(&self) -> Duration {
        Duration::ZERO
    }
}

/// Rows of one partition of a stream.
#[derive(Debug, Clone, PartialEq)]
pub struct Part {
    /// The partition.
    pub work: WorkId,
    /// The epoch of its owner.
    pub epoch: Epoch,
    /// Where they begin.
    pub from: Position,
    /// Where what follows them begins.
    pub next: Position,
    /// Runs of rows that have the same columns.
    pub rows: Vec<Rows>,
}

/// Rows with the same columns.
#[derive(Debug, Clone, PartialEq)]
pub struct Rows(pub RecordBatch);

impl Rows {
    /// The names of the columns.
    fn columns(&self) -> Vec<String> {
        self.0.schema_ref().fields().iter().map(|field| field.name().clone()).collect()
    }

    /// The rows as JSON objects, one a line.
    fn lines(&self) -> Result<String, Trouble> {
        batch::to_json_lines(&self.0).map_err(|error| Trouble::of("a row cannot be told as JSON", error))
    }

    /// Whether they are records: a key, a time and a value.
    fn is_record(&self) -> bool {
        self.0.schema() == batch::record_schema()
    }
}

/// What a sink has made safe.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Flushed {
    /// What it must know if it is opened anew, with a version of its form.
    pub known: Bytes,
    /// How many rows were passed over because the outside never takes them, and the last reason.
    pub passed_over: Option<(u64, String)>,
}

/// Something outside that takes rows.
#[async_trait]
pub trait Sink: Send {
    /// Takes rows. They need not be safe before [`flush`](Self::flush).
    ///
    /// # Errors
    /// When it cannot take them now. It is opened anew then, with what was committed last, and is given the same rows again.
    async fn write(&mut self, part: &Part) -> Result<(), Trouble>;

    /// Makes what was written safe, but for rows that are never taken.
    ///
    /// # Errors
    /// As for [`write`](Self::write).
    async fn flush(&mut self) -> Result<Flushed, Trouble>;

    /// Until when what was written may wait to be flushed, together with what comes until then; none if it is to be flushed at once. What
    /// waits is not committed: after a failure it is given again.
    fn waits_until(&self) -> Option<Instant> {
        None
    }

    /// What was flushed is committed: it will not be written again.
    ///
    /// # Errors
    /// As for [`write`](Self::write).
    async fn committed(&mut self) -> Result<(), Trouble>;

    /// Keeps what it has open alive while no rows come; ends only with trouble.
    async fn tend(&mut self) -> Trouble {
        std::future::pending().await
    }
}

/// What of its machine a node lets a source or a sink have.
#[async_trait]
pub trait Machine: Send + Sync + 'static {
    /// Opens a folder.
    ///
    /// # Errors
    /// When the node does not offer it, or it is not there.
    fn folder(&self, path: &Path) -> Result<OwnedFd, Trouble>;

    /// The addresses of a host that may be talked to; nothing is to be resolved again.
    ///
    /// # Errors
    /// When none of the grants admits it, or there is none.
    async fn addresses(&self, grants: &[Peer], host: &str, port: u16) -> Result<Vec<SocketAddr>, Trouble>;

    /// A secret of the app.
    ///
    /// # Errors
    /// When the node has none of that name.
    async fn secret(&self, name: &str) -> Result<String, Trouble>;
}

/// Opens the source that is this work; it goes on at a position that was committed, if there is one.
///
/// # Errors
/// When it cannot be reached now, or the position is not its own.
pub async fn open_source(
    work: &WorkId,
    source: &SourceConnector,
    machine: &Arc<dyn Machine>,
    position: Option<&[u8]>,
) -> Result<Box<dyn Source>, Trouble> {
    match source {
        SourceConnector { generator: Some(generator), .. } => Ok(Box::new(Generator::open(generator, position)?)),
        SourceConnector { file: Some(file), .. } if file.format == FileFormat::Parquet => {
            Ok(Box::new(ParquetSource::open(file, machine, position).await?))
        }
        SourceConnector { file: Some(file), .. } => Ok(Box::new(FileSource::open(file, machine, position).await?)),
        SourceConnector { http: Some(http), .. } => {
            Ok(Box::new(HttpSource::open(http, Arc::clone(machine), position).await?))
        }
        SourceConnector { mqtt: Some(mqtt), .. } => {
            Ok(Box::new(MqttSource::open(work, mqtt, machine, position).await?))
        }
        SourceConnector { kafka: Some(kafka), .. } => kafka::open_source(kafka, machine, position).await,
        _ => Err(Trouble("the source is of no kind; deploy its app again".to_owned())),
    }
}

/// Opens the sink that is this work; it goes on with what was committed, if there is something.
///
/// # Errors
/// When it cannot be reached now, or what was committed is not its own.
pub async fn open_sink(
    work: &WorkId,
    sink: &SinkConnector,
    machine: &Arc<dyn Machine>,
    committed: Option<&[u8]>,
) -> Result<Box<dyn Sink>, Trouble> {
    match sink {
        SinkConnector { file: Some(file), .. } => Ok(Box::new(FileSink::open(work, file, machine, committed).await?)),
        SinkConnector { http: Some(http), .. } => {
            Ok(Box::new(HttpSink::open(http, Arc::clone(machine), committed).await?))
        }
        SinkConnector { mqtt: Some(mqtt), .. } => Ok(Box::new(MqttSink::open(work, mqtt, machine, committed).await?)),
        SinkConnector { kafka: Some(kafka), .. } => kafka::open_sink(work, kafka, machine, committed).await,
        _ => Err(Trouble("the sink is of no kind; deploy its app again".to_owned())),
    }
}

/// Whether what a sink is given together must be the same again after a failure, because the outside knows it by that. It is committed
/// before it is written then.
pub(crate) fn is_planned(sink: &SinkConnector) -> bool {
    sink.http.is_some() || sink.kafka.is_some()
}

/// What a setting says: itself, or the secret of the node that it names.
async fn said(machine: &dyn Machine, setting: &str) -> Result<String, Trouble> {
    match setting.strip_prefix(SECRET_PREFIX) {
        Some(secret) => machine.secret(secret).await,
        None => Ok(setting.to_owned()),
    }
}

/// A value as a key of a record.
fn key_of(value: Option<&Value>) -> Option<String> {
    match value? {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}
