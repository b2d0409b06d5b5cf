//! Publishes what sensors feed, each on its node, at a pace or as fast as it is taken; and writes down what was.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use bytes::Bytes;
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};

use super::feed::Feed;
use crate::client::Client;

/// How often records that are due are published.
const TICK: Duration = Duration::from_millis(20);
/// How many records are published at once at the most.
const BATCH_MAX: usize = 4_096;
/// How long a publication is tried; a node that was killed is back long before.
const GIVE_UP: Duration = Duration::from_secs(90);
/// The pause before another try.
const PAUSE: Duration = Duration::from_millis(100);

/// Which part of the records is published, and how fast.
#[derive(Clone, Copy, Debug)]
pub(super) struct Phase {
    /// Only sensors that the manifest names.
    pub(super) named_only: bool,
    /// Records a second of each feed; none for as fast as they are taken.
    pub(super) rate: Option<f64>,
    /// Ends after so long, even if records are left.
    pub(super) time: Option<Duration>,
}

/// What was published and acknowledged; one file each, of one JSON object a line.
pub(super) struct Written {
    acks: Mutex<BufWriter<File>>,
    /// How many records were acknowledged.
    pub(super) published: watch::Sender<u64>,
    raw_bytes: Mutex<u64>,
}

/// One acknowledgement.
#[derive(Serialize)]
struct Ack<'a> {
    time_us: u64,
    node: &'a str,
    records: usize,
}

impl Written {
    /// Opens the files in a run's folder.
    pub(super) fn open(out: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(out.join("input"))?;
        let acks = Mutex::new(BufWriter::new(File::create(out.join("acks.ndjson"))?));
        Ok(Self { acks, published: watch::Sender::new(0), raw_bytes: Mutex::new(0) })
    }

    /// Bytes of the records published, keys and values.
    pub(super) fn raw_bytes(&self) -> u64 {
        *self.raw_bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn acknowledged(&self, node: &str, records: usize, bytes: u64) -> anyhow::Result<()> {
        let mut acks = self.acks.lock().unwrap_or_else(PoisonError::into_inner);
        serde_json::to_writer(&mut *acks, &Ack { time_us: now_us(), node, records })?;
        acks.write_all(b"\n")?;
        *self.raw_bytes.lock().unwrap_or_else(PoisonError::into_inner) += bytes;
        self.published.send_modify(|published| *published += records as u64);
        Ok(())
    }

    /// Puts everything on disk.
    pub(super) fn flush(&self) -> anyhow::Result<()> {
        Ok(self.acks.lock().unwrap_or_else(PoisonError::into_inner).flush()?)
    }
}

/// Microseconds since 1970.
pub(super) fn now_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// Publishes one feed.
pub(super) struct Replayer {
    pub(super) app: String,
    pub(super) feed: Feed,
    pub(super) client: Client,
    pub(super) written: Arc<Written>,
    input: BufWriter<File>,
    sequence: u64,
}

impl Replayer {
    /// Publishes a feed on a node, and writes down in the run's folder what.
    pub(super) fn new(
        app: &str,
        feed: Feed,
        client: Client,
        written: Arc<Written>,
        out: &Path,
    ) -> anyhow::Result<Self> {
        let path = out.join("input").join(format!("{}.ndjson", feed.node));
        let file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self { app: app.to_owned(), feed, client, written, input: BufWriter::new(file), sequence: 0 })
    }

    /// Publishes one phase; gives itself back for the next one.
    pub(super) async fn run(mut self, phase: Phase) -> anyhow::Result<Self> {
        let begun = Instant::now();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut given = 0_usize;
        while phase.time.is_none_or(|time| begun.elapsed() < time) {
            let due = match phase.rate {
                Some(rate) => {
                    tick.tick().await;
                    // What is due is small and positive.
                    (begun.elapsed().as_secs_f64() * rate) as usize
                }
                None => usize::MAX,
            };
            let count = due.saturating_sub(given).min(BATCH_MAX);
            if count == 0 {
                continue;
            }
            let batch: Vec<_> = std::iter::from_fn(|| self.feed.next(phase.named_only)).take(count).collect();
            if batch.is_empty() {
                break;
            }
            given += batch.len();
            let mut body = Vec::new();
            for record in &batch {
                serde_json::to_writer(&mut body, record)?;
                body.push(b'\n');
            }
            // Written down before it is published: what came out and is not there would be noticed.
            self.input.write_all(&body)?;
            let bytes = batch.iter().map(|record| (record.key.len() + record.value.len()) as u64).sum();
            self.publish(body.into(), batch.len(), bytes).await?;
        }
        self.input.flush()?;
        Ok(self)
    }

    /// Publishes a batch until it is acknowledged; repeats carry the same number and are dropped.
    async fn publish(&mut self, body: Bytes, records: usize, bytes: u64) -> anyhow::Result<()> {
        self.sequence += 1;
        let node = self.feed.node.to_string();
        let query = format!("?producer=dev-{node}-{}&epoch=1&sequence={}", self.feed.stream, self.sequence);
        let deadline = Instant::now() + GIVE_UP;
        loop {
            let sent =
                self.client.publish(&self.app, &self.feed.stream, &query, "application/x-ndjson", body.clone()).await;
            match sent {
                Ok(_) => return self.written.acknowledged(&node, records, bytes),
                Err(error) if Instant::now() >= deadline => {
                    return Err(error.context(format!("{node} takes no records for {} s", GIVE_UP.as_secs())));
                }
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    }
}
