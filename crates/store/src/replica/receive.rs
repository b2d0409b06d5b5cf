//! A replica's side: takes what the owner sends, if it is the owner.

use std::sync::Arc;

use littoral_model::entry::Entry;
use littoral_model::id::Epoch;
use littoral_model::wire::{InstallRequest, ReplicateReply, ReplicateRequest};

use super::WriteError;
use super::work::Work;
use crate::blocking::blocking;
use crate::error::StoreError;
use crate::log::Head;

impl Work {
    /// Takes entries; answers once they are on disk.
    pub(super) async fn replicate(self: &Arc<Self>, request: ReplicateRequest) -> Result<ReplicateReply, StoreError> {
        let _gate = self.gate.lock().await;
        if let Err(epoch) = self.give_way(request.epoch) {
            // What a replaced owner still wrote, and nobody takes.
            let entries = request.entries.len() as u64;
            metrics::counter!("littoral_replica_fenced_total").increment(entries.max(1));
            return Ok(ReplicateReply::Fenced { epoch });
        }
        self.shared.epochs.raise(&self.name, request.epoch).await?;
        let head = self.head();
        if head.next - 1 > request.last && head.last_epoch == request.epoch {
            return Ok(ReplicateReply::Ahead { last: head.next - 1 });
        }
        if self.applied() + 1 < head.first {
            // The derived state was lost, and with it what the log no longer holds.
            return self.start_over("its derived state was lost").await;
        }
        if let Some(from) = self.mismatch(&head, request.previous) {
            return match from {
                Some(from) => Ok(ReplicateReply::Mismatch { from }),
                None => self.start_over("it differs in what was committed").await,
            };
        }
        let last = request.previous.0 + request.entries.len() as u64;
        match self.new_entries(&head, request.entries) {
            New::Append(entries) => self.store(entries).await?,
            New::Replace(from, _) if from <= self.applied() => {
                return self.start_over("it differs in what was committed").await;
            }
            New::Replace(from, entries) => {
                tracing::info!(work = %self.name, from, last = head.next - 1, "entries of an earlier owner that were not acknowledged are dropped");
                // Writes keep their order; the append waits for both.
                drop(self.shared.log.truncate(&self.name, from)?);
                self.store(entries).await?;
                let mut state = self.state();
                state.committed = state.committed.min(from - 1);
            }
        }
        let mut state = self.state();
        let committed = request.committed.min(last);
        if committed > state.committed {
            let entries = usize::try_from(committed - state.committed).unwrap_or(usize::MAX);
            self.shared.fresh(entries.saturating_mul(APPLY_WEIGHT));
        }
        state.committed = state.committed.max(committed);
        state.trim_below = state.trim_below.max(request.trim_below);
        drop(state);
        Ok(ReplicateReply::Stored { last })
    }

    /// Takes a state in place of entries that the owner no longer holds.
    pub(super) async fn install(self: &Arc<Self>, request: InstallRequest) -> Result<(), WriteError> {
        let _gate = self.gate.lock().await;
        let fenced = |_| WriteError::Fenced { work: self.id.clone(), epoch: request.epoch };
        self.give_way(request.epoch).map_err(fenced)?;
        self.shared.epochs.raise(&self.name, request.epoch).await?;
        let (index, epoch) = request.last;
        let head = self.head();
        let covered = index < head.next && self.applied() + 1 >= head.first;
        if covered && (index < head.first || self.shared.log.epoch_at(&self.name, index) == Some(epoch)) {
            // Sent twice, and held up on the way: what came after it must stay.
            return Ok(());
        }
        let _applying = self.shared.applying.lock().await;
        let (derived, name) = (self.shared.derived.clone(), self.name.clone());
        // The state first: a crash in between leaves a log that ends too early, which the owner mends.
        blocking(move || derived.install(&name, index, epoch, &request.state)).await?;
        self.shared.log.reset(&self.name, index + 1, epoch)?.durable().await?;
        self.set_applied(index);
        self.state().committed = index;
        tracing::info!(work = %self.name, index, "installed the owner's state");
        Ok(())
    }

    fn head(&self) -> Head {
        let new = Head { first: 1, next: 1, last_epoch: Epoch(0), durable: 0 };
        self.shared.log.head(&self.name).unwrap_or(new)
    }

    /// Where the owner must begin, if the entry that it believes to be here is not; `Some(None)` where that entry was
    /// committed here, and is another.
    #[allow(clippy::option_option, reason = "three outcomes, used once")]
    fn mismatch(&self, head: &Head, previous: (u64, Epoch)) -> Option<Option<u64>> {
        let (index, epoch) = previous;
        if index >= head.next {
            return Some(Some(head.next));
        }
        // Forgotten here, so committed, and the same everywhere.
        if index + 1 < head.first || index == 0 {
            return None;
        }
        let ours = self.shared.log.epoch_at(&self.name, index);
        if ours == Some(epoch) {
            return None;
        }
        if index + 1 == head.first {
            return Some(None);
        }
        // None of the entries of that epoch is likely to be the owner's: all of them are skipped at once.
        let mut from = index;
        while from > head.first && self.shared.log.epoch_at(&self.name, from - 1) == ours {
            from -= 1;
        }
        Some(Some(from))
    }

    /// Which of the entries are new here, and whether others must go for them.
    fn new_entries(&self, head: &Head, mut entries: Vec<Entry>) -> New {
        let held = |entry: &Entry| {
            let known = entry.index < head.next;
            known
                && (entry.index < head.first || self.shared.log.epoch_at(&self.name, entry.index) == Some(entry.epoch))
        };
        let known = entries.iter().take_while(|entry| held(entry)).count();
        let new = entries.split_off(known);
        match new.first().map(|entry| entry.index) {
            Some(index) if index < head.next => New::Replace(index, new),
            _ => New::Append(new),
        }
    }

    /// Appends and waits for the disk; with no entries, for those that were appended before.
    async fn store(&self, entries: Vec<Entry>) -> Result<(), StoreError> {
        self.shared.log.append_at(&self.name, entries)?.durable().await
    }

    /// Throws this copy away and asks for everything.
    async fn start_over(&self, why: &str) -> Result<ReplicateReply, StoreError> {
        tracing::warn!(work = %self.name, why, "this copy is thrown away and made anew");
        let _applying = self.shared.applying.lock().await;
        let (derived, name) = (self.shared.derived.clone(), self.name.clone());
        // The state first: a log without the state that should be there is found out, and leads here again.
        blocking(move || derived.drop_work(&name)).await?;
        self.shared.log.reset(&self.name, 1, Epoch(0))?.durable().await?;
        self.set_applied(0);
        let mut state = self.state();
        (state.committed, state.trim_below) = (0, 0);
        Ok(ReplicateReply::Mismatch { from: 1 })
    }
}

/// What an entry counts for the applier of a replica, which does not look into entries: about a batch of rows.
const APPLY_WEIGHT: usize = 64 << 10;

enum New {
    Append(Vec<Entry>),
    Replace(u64, Vec<Entry>),
}
