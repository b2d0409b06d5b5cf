//! What callers of the log give and get.

use littoral_model::id::Epoch;
use tokio::sync::oneshot;

use crate::error::StoreError;

/// How a log is laid out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogOptions {
    /// The size of a segment file, 4 KiB to 1 GiB. An entry may have a quarter of it, and half of it may wait for the
    /// disk.
    pub segment_bytes: u32,
    /// How much of the most recent entries is kept in memory for readers.
    pub cache_bytes: usize,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self { segment_bytes: 64 << 20, cache_bytes: 32 << 20 }
    }
}

impl LogOptions {
    /// Segments of 1 MiB and a cache of 1 MiB: for tests and very small devices.
    #[must_use]
    pub fn small() -> Self {
        Self { segment_bytes: 1 << 20, cache_bytes: 1 << 20 }
    }
}

/// Entries that were given their places and are on their way to the disk.
#[derive(Debug)]
#[must_use = "an append is durable only once `durable` says so"]
pub struct Append {
    /// The index of the first entry.
    pub first: u64,
    /// The index of the last entry; `first - 1` if there were none.
    pub last: u64,
    pub(super) done: Option<oneshot::Receiver<Result<(), StoreError>>>,
}

impl Append {
    /// Waits until the entries, and everything that was appended or changed before, are on disk. May be dropped; the entries are written all the same.
    ///
    /// # Errors
    /// When the log failed or was closed before.
    pub async fn durable(self) -> Result<(), StoreError> {
        match self.done {
            None => Ok(()),
            Some(done) => done.await.unwrap_or(Err(StoreError::Closed)),
        }
    }
}

/// Where the log of a work begins and ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The first index that is held; equal to `next` if none is.
    pub first: u64,
    /// The index that the next entry gets; 1 for a new log.
    pub next: u64,
    /// The epoch of the last entry, held or forgotten; 0 for a new log.
    pub last_epoch: Epoch,
    /// Everything up to this index is on disk; 0 if nothing is.
    pub durable: u64,
}

/// Figures of a log.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LogStats {
    /// Segment files.
    pub segments: usize,
    /// Bytes used in them.
    pub bytes: u64,
    /// Bytes of entries in them that are still needed.
    pub live_bytes: u64,
    /// Bytes that wait for the disk.
    pub backlog_bytes: usize,
    /// Bytes of entries kept in memory for readers, or because they wait for the disk.
    pub cached_bytes: usize,
    /// Entries appended since the log was opened.
    pub appends: u64,
    /// Syncs since the log was opened.
    pub syncs: u64,
    /// Seconds spent in them.
    pub sync_seconds: f64,
    /// Whether appends are refused because the disk is full.
    pub full: bool,
    /// Why the log stopped, if it did.
    pub failed: Option<String>,
}
