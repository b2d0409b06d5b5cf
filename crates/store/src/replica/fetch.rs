//! Committed rows, for those who read a work.

use std::sync::Arc;
use std::time::Duration;

use littoral_model::entry::{Commit, PortBatch, Position};
use littoral_model::wire::{FetchReply, FetchRequest};
use tokio::time::Instant;

use super::owner::Ownership;
use crate::blocking::blocking;
use crate::error::StoreError;

/// The longest that a reader is kept waiting for a first row.
const WAIT_MAX: Duration = Duration::from_secs(30);
/// The most rows given at once, so that they fit into a message. A single entry may be larger.
const BYTES_MAX: usize = 3 << 20;
/// How much of the log is read at once at least, by readers that are far behind: it may hold nothing that they want.
const READ_BYTES_MIN: usize = 256 << 10;
/// How many consumers' places are remembered; a work has a few.
const CONSUMERS_MAX: usize = 1_024;

/// What was found so far.
struct Found {
    batches: Vec<(u64, PortBatch)>,
    bytes: usize,
    next: Position,
    watermark_us: Option<i64>,
    full: bool,
}

impl Ownership {
    /// Answers a reader; none when the ownership ends meanwhile.
    pub(super) async fn fetch(&self, request: FetchRequest) -> Option<FetchReply> {
        self.note_consumer(&request);
        let wait = Duration::from_millis(request.wait_ms.into()).min(WAIT_MAX);
        let deadline = Instant::now() + wait;
        let mut progress = self.progress.subscribe();
        let next = match request.from {
            Position::END => Position { index: progress.borrow().committed + 1, row: 0 },
            from => Position { index: from.index.max(1), ..from },
        };
        let mut found = Found { batches: Vec::new(), bytes: 0, next, watermark_us: None, full: false };
        loop {
            let now = *progress.borrow_and_update();
            if now.lost {
                return None;
            }
            match self.find_rows(&request, &mut found, now.committed).await {
                Ok(()) => {}
                Err(StoreError::Trimmed { first, .. }) if found.batches.is_empty() => {
                    return Some(FetchReply::Trimmed(Position { index: first, row: 0 }));
                }
                Err(StoreError::Trimmed { .. }) => {}
                Err(error) => {
                    tracing::error!(work = %self.name, %error, "rows cannot be read");
                    return None;
                }
            }
            let waited = tokio::select! {
                biased;
                () = std::future::ready(()), if !found.batches.is_empty() => true,
                _ = progress.changed() => false,
                () = tokio::time::sleep_until(deadline) => true,
            };
            if waited {
                let Found { batches, next, watermark_us, .. } = found;
                return Some(FetchReply::Rows { epoch: self.epoch, batches, next, watermark_us });
            }
        }
    }

    fn note_consumer(&self, request: &FetchRequest) {
        let Some(consumer) = &request.consumer else { return };
        let mut inner = self.inner();
        let is_known = inner.consumers.contains_key(consumer);
        if is_known || inner.consumers.len() < CONSUMERS_MAX {
            let before = inner.consumers.insert(consumer.clone(), request.committed);
            drop(inner);
            if before != Some(request.committed) {
                self.room_changed.notify_waiters();
            }
        }
    }

    /// Looks through the entries that are committed and were not looked at yet.
    async fn find_rows(&self, request: &FetchRequest, found: &mut Found, committed: u64) -> Result<(), StoreError> {
        let first = self.shared.log.head(&self.name).map_or(1, |head| head.first);
        if found.next.index < first {
            return Err(StoreError::Trimmed { work: self.name.clone(), first });
        }
        while found.next.index <= committed && !found.full {
            let recent = self.inner().recent.get(found.next.index);
            if let Some(commit) = recent {
                take_rows(request, found, &commit);
                continue;
            }
            let (log, name, from) = (self.shared.log.clone(), self.name.clone(), found.next.index);
            let left = bytes_max(request).saturating_sub(found.bytes);
            // What would not be taken need not be read.
            if !found.batches.is_empty() && log.payload_bytes(&name, from).is_some_and(|bytes| bytes > left) {
                found.full = true;
                break;
            }
            let commits = blocking(move || {
                let entries = log.read(&name, from, left.max(READ_BYTES_MIN))?;
                let commits = entries.into_iter().map(|entry| Commit::decode(&entry.payload));
                commits.collect::<Result<Vec<_>, _>>().map_err(|error| StoreError::Failed { reason: error.to_string() })
            });
            let commits = commits.await?;
            if commits.is_empty() {
                break;
            }
            for commit in commits {
                if found.next.index <= committed && !found.full {
                    take_rows(request, found, &Arc::new(commit));
                }
            }
        }
        Ok(())
    }
}

/// About how many bytes of rows a reader gets.
fn bytes_max(request: &FetchRequest) -> usize {
    usize::try_from(request.bytes_max).unwrap_or(BYTES_MAX).min(BYTES_MAX)
}

/// Takes an entry's rows on the asked port. All of an entry or nothing: a place in between would count rows of another
/// batch.
fn take_rows(request: &FetchRequest, found: &mut Found, commit: &Commit) {
    let wanted = || commit.outputs.iter().filter(|batch| batch.port == request.port);
    let bytes: usize = wanted().map(|batch| batch.arrow.len()).sum();
    if !found.batches.is_empty() && found.bytes + bytes > bytes_max(request) {
        found.full = true;
        return;
    }
    let index = found.next.index;
    let rows: u32 = wanted().map(|batch| batch.rows).sum();
    let done = if index == request.from.index { request.from.row } else { 0 };
    if rows > done {
        found.batches.extend(wanted().map(|batch| (index, batch.clone())));
        found.bytes += bytes;
    }
    found.watermark_us = found.watermark_us.max(commit.watermark_us);
    found.next = Position { index: index + 1, row: 0 };
}
