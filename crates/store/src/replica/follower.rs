//! Ships a work's entries from its owner to one replica: one request at a time, each with all that fits.

use std::sync::Arc;
use std::time::Duration;

use littoral_model::id::NodeId;
use littoral_model::wire::{InstallRequest, ReplicateReply, ReplicateRequest};
use tokio::sync::watch;
use tokio::time::Instant;

use super::PeerError;
use super::owner::{Lost, Ownership, Progress};
use crate::blocking::blocking;
use crate::error::StoreError;

/// A replica that does not take waiting entries for so long is no longer waited for.
const SILENT: Duration = Duration::from_millis(1_500);
/// The same for one that is known to be down; long enough for a link to be made again.
const DOWN: Duration = Duration::from_millis(200);
/// How many bytes are sent at once; half as many after a request that failed, so that a slow link can do it too.
const BATCH_BYTES: (usize, usize) = (64 << 10, 4 << 20);
/// How long a request may take.
const REQUEST: Duration = Duration::from_secs(10);
/// How long to wait after a request that failed, at first and at most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// A replica that needs no entries is told at this pace what is committed and may be forgotten.
const TELL_EVERY: Duration = Duration::from_millis(500);
/// Entries this close to the end are in the log's memory; others are read on a thread that may wait for the disk.
const NEAR_END: u64 = 16;

/// Ships until the ownership ends, which aborts this.
pub(super) async fn ship(own: Arc<Ownership>, to: NodeId) {
    let next = own.inner().inherited.unwrap_or(0) + 1;
    let (durable, progress) = (own.durable.subscribe(), own.progress.subscribe());
    let batch_bytes = BATCH_BYTES.1;
    let shipping =
        Shipping { own, to, next, batch_bytes, durable, progress, told: None, waits_since: None, pause: PAUSE.0 };
    shipping.run().await;
}

struct Shipping {
    own: Arc<Ownership>,
    to: NodeId,
    /// The index to send next; everything before is believed to be there.
    next: u64,
    batch_bytes: usize,
    durable: watch::Receiver<u64>,
    progress: watch::Receiver<Progress>,
    /// What it was last told of commits and trimming. None until it first agreed.
    told: Option<(u64, u64)>,
    /// Since when entries wait for it without an answer.
    waits_since: Option<Instant>,
    pause: Duration,
}

impl Shipping {
    async fn run(mut self) {
        loop {
            self.wait().await;
            let outcome = match self.request().await {
                Ok(Some(request)) => {
                    let telling = (request.committed, request.trim_below);
                    let reply = self.send(request).await;
                    self.took(reply, telling)
                }
                Ok(None) => self.install().await,
                Err(error) => return self.own.end(Lost::Failed(error.into())),
            };
            match outcome {
                Ok(()) => self.pause = PAUSE.0,
                Err(error) => {
                    tracing::debug!(work = %self.own.name, to = %self.to, %error, "a replica did not take entries");
                    self.batch_bytes = (self.batch_bytes / 2).max(BATCH_BYTES.0);
                    self.note_waiting();
                    self.check_silence();
                    tokio::time::sleep(self.pause).await;
                    self.pause = (self.pause * 2).min(PAUSE.1);
                }
            }
        }
    }

    /// Waits until there is something to say.
    async fn wait(&mut self) {
        let Some(told) = self.told else { return };
        while *self.durable.borrow_and_update() < self.next {
            let news = (self.own.committed(), self.own.inner().trim_below) != told;
            tokio::select! {
                _ = self.durable.changed() => {}
                () = tokio::time::sleep(TELL_EVERY), if news => return,
                _ = self.progress.changed(), if !news => {}
            }
        }
    }

    /// What to send; none where the entries needed are no longer in the log.
    async fn request(&self) -> Result<Option<ReplicateRequest>, StoreError> {
        let own = &self.own;
        let durable = *own.durable.borrow();
        let first = own.shared.log.head(&own.name).map_or(1, |head| head.first);
        if self.next < first {
            return Ok(None);
        }
        let Some(epoch_before) = epoch_before(own, self.next) else { return Ok(None) };
        let mut entries = Vec::new();
        if self.next <= durable {
            let (log, name, next, bytes) = (own.shared.log.clone(), own.name.clone(), self.next, self.batch_bytes);
            let read = move || log.read(&name, next, bytes);
            let read = if durable - next < NEAR_END { read() } else { blocking(read).await };
            entries = match read {
                Ok(entries) => entries,
                Err(StoreError::Trimmed { .. }) => return Ok(None),
                Err(error) => return Err(error),
            };
            entries.retain(|entry| entry.index <= durable);
        }
        let trim_below = own.inner().trim_below;
        Ok(Some(ReplicateRequest {
            work: own.id.clone(),
            owner: own.shared.node.clone(),
            epoch: own.epoch,
            previous: (self.next - 1, epoch_before),
            entries,
            committed: own.committed(),
            trim_below,
            last: durable,
        }))
    }

    /// Sends, and meanwhile takes note when it takes too long.
    async fn send(&mut self, request: ReplicateRequest) -> Result<ReplicateReply, PeerError> {
        let own = Arc::clone(&self.own);
        let to = self.to.clone();
        let call = tokio::time::timeout(REQUEST, own.shared.peers.replicate(&to, request));
        tokio::pin!(call);
        loop {
            self.note_waiting();
            let silent_at = self.waits_since.map(|since| since + self.patience());
            let already = own.inner().followers.get(&to).is_some_and(|follower| follower.silent);
            tokio::select! {
                reply = &mut call => {
                    return reply.unwrap_or_else(|_| Err(PeerError("it took too long".to_owned())));
                }
                () = sleep_until(silent_at), if silent_at.is_some() && !already => self.check_silence(),
                _ = self.durable.changed(), if silent_at.is_none() => {}
            }
        }
    }

    fn took(&mut self, reply: Result<ReplicateReply, PeerError>, telling: (u64, u64)) -> Result<(), PeerError> {
        match reply? {
            ReplicateReply::Stored { last } => {
                let last = last.min(*self.own.durable.borrow());
                self.next = last + 1;
                self.told = Some(telling);
                self.waits_since = None;
                self.batch_bytes = (self.batch_bytes * 2).min(BATCH_BYTES.1);
                self.own.has_stored(&self.to, last);
            }
            ReplicateReply::Mismatch { from } => {
                // Always further back, so that it ends.
                self.next = from.min(self.next.saturating_sub(1)).max(1);
                self.own.lacks_from(&self.to, self.next);
            }
            ReplicateReply::Fenced { epoch } => self.own.end(Lost::Fenced(epoch)),
            ReplicateReply::Ahead { last } => {
                tracing::error!(work = %self.own.name, replica = %self.to, last, "a replica holds entries that this owner wrote and lost");
                self.own.end(Lost::Copy(self.to.clone()));
            }
        }
        Ok(())
    }

    /// Sends the derived state in place of entries that are no longer held. Those that are held still follow, also where
    /// the state covers them: readers may not have them yet. To apply them once more changes nothing, as a commit says
    /// what values are and not how they change.
    async fn install(&mut self) -> Result<(), PeerError> {
        let own = &self.own;
        let (derived, name) = (own.shared.derived.clone(), own.name.clone());
        let loaded = blocking(move || derived.load_at(&name)).await;
        let (covered, state) = loaded.map_err(|error| PeerError(error.to_string()))?;
        // Asked for after the state was read: nothing above what it covers is forgotten.
        let first = own.shared.log.head(&own.name).map_or(1, |head| head.first);
        let before = epoch_before(own, first).filter(|_| first <= covered.0);
        let last = before.map_or(covered, |epoch| (first - 1, epoch));
        let request = InstallRequest { work: own.id.clone(), epoch: own.epoch, last, state };
        own.shared.peers.install(&self.to, request).await?;
        self.next = last.0 + 1;
        Ok(())
    }

    fn note_waiting(&mut self) {
        // Read before the other lock is taken: whoever holds that one tells how far the disk is.
        let durable = *self.own.durable.borrow();
        if durable > self.own.matched(&self.to) {
            self.waits_since.get_or_insert_with(Instant::now);
        }
    }

    fn check_silence(&self) {
        if self.waits_since.is_some_and(|since| since.elapsed() >= self.patience()) {
            self.own.is_silent(&self.to);
        }
    }

    /// How long entries wait for it before it counts as silent.
    fn patience(&self) -> Duration {
        if self.own.shared.peers.is_down(&self.to) { DOWN } else { SILENT }
    }
}

/// The epoch of the entry before one; none when that is forgotten.
fn epoch_before(own: &Ownership, next: u64) -> Option<littoral_model::id::Epoch> {
    if next == 1 {
        return Some(littoral_model::id::Epoch(0));
    }
    own.shared.log.epoch_at(&own.name, next - 1)
}

pub(super) async fn sleep_until(when: Option<Instant>) {
    match when {
        Some(when) => tokio::time::sleep_until(when).await,
        None => std::future::pending().await,
    }
}
