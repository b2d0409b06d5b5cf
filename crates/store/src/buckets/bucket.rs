//! One bucket: its entries in the log, and what of them is not in the derived state yet.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use littoral_model::id::Epoch;
use littoral_model::wire;

use super::{BUCKET_BYTES_MAX, BUCKET_KEYS_MAX, BucketError, Changes, KEYS_LISTED_MAX, Keys, blocking};
use crate::derived::{Applied, Derived};
use crate::error::StoreError;
use crate::log::{Append, Log};

/// A bucket has one writer ever: its node.
const EPOCH: Epoch = Epoch(1);
/// Once so many bytes are not in the derived state yet, they are put there: few enough to hold for each bucket, enough
/// that a commit of the derived state serves many writes.
const RECENT_BYTES_MAX: usize = 256 << 10;
/// What an entry costs besides its values, about, in the log and in memory.
const ENTRY_BYTES: u64 = 64;
/// All values are written anew once the log has twice their bytes, and so many more.
const REWRITE_BYTES: u64 = 1 << 20;
/// How much of the log is read, or written, at once.
const CHUNK_BYTES: usize = 1 << 20;

/// A bucket.
pub(super) struct Bucket {
    work: String,
    log: Log,
    derived: Derived,
    state: Mutex<State>,
    /// Held while an entry is made: what it says depends on what earlier ones did.
    writing: tokio::sync::Mutex<()>,
    /// Held while the derived state is brought up to date.
    applying: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    /// What the entries behind the derived state change: by key, the entry's index and the new value, oldest first.
    recent: BTreeMap<String, VecDeque<(u64, Option<Bytes>)>>,
    recent_bytes: usize,
    /// Entries up to this one are on disk, so that readers may see them.
    committed: u64,
    /// How many keys there are, and how many bytes they and their values have, entries that are under way included.
    keys: u64,
    bytes: u64,
    /// What the log holds.
    log_bytes: u64,
    forgotten: bool,
}

impl Bucket {
    /// Brings the derived state up to the log, and counts what is there. Blocks.
    pub(super) fn open(work: String, log: Log, derived: Derived) -> Result<Self, BucketError> {
        let mut state = State::default();
        if let Some(head) = log.head(&work) {
            let applied = derived.applied(&work)?;
            let mut from = head.first;
            while from < head.next {
                let entries = log.read(&work, from, CHUNK_BYTES)?;
                let Some(last) = entries.last() else { break };
                from = last.index + 1;
                let mut changes: Vec<(Bytes, Option<Bytes>)> = Vec::new();
                for entry in entries.iter() {
                    state.log_bytes += entry.payload.len() as u64 + ENTRY_BYTES;
                    if entry.index > applied {
                        let decoded: Changes = wire::decode(&entry.payload)?;
                        changes.extend(decoded.into_iter().map(|(key, value)| (Bytes::from(key), value)));
                    }
                }
                derived.apply(&[Applied { work: work.clone(), index: last.index, epoch: last.epoch, changes }])?;
            }
            state.committed = head.next.saturating_sub(1);
        }
        derived.visit(&work, None, |key, value| {
            state.keys += 1;
            state.bytes += (key.len() + value.len()) as u64;
            false
        })?;
        let (writing, applying) = (tokio::sync::Mutex::default(), tokio::sync::Mutex::default());
        Ok(Self { work, log, derived, state: Mutex::new(state), writing, applying })
    }

    pub(super) async fn get(self: &Arc<Self>, keys: Vec<String>) -> Result<Vec<Option<Bytes>>, BucketError> {
        let committed = self.lock().committed;
        self.read(keys, move |index| index <= committed).await
    }

    pub(super) async fn change(self: &Arc<Self>, changes: Changes) -> Result<(), BucketError> {
        let last: BTreeMap<String, Option<Bytes>> = changes.into_iter().collect();
        let writing = self.writing.lock().await;
        let before = self.read(last.keys().cloned().collect(), |_| true).await?;
        let append = self.append(last.into_iter().collect(), &before)?;
        drop(writing);
        self.committed(append).await
    }

    pub(super) async fn increment(self: &Arc<Self>, key: String, delta: u64) -> Result<u64, BucketError> {
        let writing = self.writing.lock().await;
        let before = self.read(vec![key.clone()], |_| true).await?;
        let number = match before.first().and_then(Option::as_ref) {
            None => Some(0),
            Some(value) => std::str::from_utf8(value).ok().and_then(|text| text.parse::<u64>().ok()),
        };
        let number = number.ok_or_else(|| BucketError::NotANumber { key: key.clone() })?;
        let sum = number.checked_add(delta).ok_or_else(|| BucketError::Overflow { key: key.clone() })?;
        let append = self.append(vec![(key, Some(sum.to_string().into()))], &before)?;
        drop(writing);
        self.committed(append).await?;
        Ok(sum)
    }

    pub(super) async fn keys(self: &Arc<Self>, skip: u64) -> Result<Keys, BucketError> {
        self.apply().await?;
        let this = Arc::clone(self);
        let list = move || {
            let mut found = Keys::default();
            let mut place = 0;
            this.derived.visit(&this.work, None, |key, _| {
                if found.keys.len() == KEYS_LISTED_MAX {
                    found.next = Some(place);
                    return true;
                }
                if place >= skip {
                    found.keys.push(String::from_utf8_lossy(key).into_owned());
                }
                place += 1;
                false
            })?;
            Ok::<_, BucketError>(found)
        };
        blocking(list).await
    }

    /// Gives up everything. Whoever has the bucket still can do nothing with it.
    pub(super) async fn forget(self: &Arc<Self>) -> Result<(), BucketError> {
        let _alone = self.writing.lock().await;
        let _one = self.applying.lock().await;
        self.lock().forgotten = true;
        // First what follows from the log: the other way round, a crash in between would leave values of the past.
        let this = Arc::clone(self);
        blocking(move || this.derived.drop_work(&this.work)).await?;
        Ok(self.log.drop_work(&self.work)?.durable().await?)
    }

    /// The values of keys by the last entries that may be seen.
    async fn read(
        self: &Arc<Self>,
        keys: Vec<String>,
        seen: impl Fn(u64) -> bool,
    ) -> Result<Vec<Option<Bytes>>, BucketError> {
        let recent: Vec<Option<Option<Bytes>>> = {
            let state = self.lock();
            let last = |key: &String| {
                let changes = state.recent.get(key)?;
                changes.iter().rev().find(|(index, _)| seen(*index)).map(|(_, value)| value.clone())
            };
            keys.iter().map(last).collect()
        };
        // What was not among the recent ones is in the derived state by now, and stays there.
        let older: Vec<String> =
            keys.into_iter().zip(&recent).filter(|(_, recent)| recent.is_none()).map(|(key, _)| key).collect();
        let mut older = if older.is_empty() {
            Vec::new()
        } else {
            let this = Arc::clone(self);
            blocking(move || this.derived.get_many(&this.work, &older)).await?
        }
        .into_iter();
        Ok(recent.into_iter().map(|recent| recent.unwrap_or_else(|| older.next().flatten())).collect())
    }

    /// Gives changes their place in the log; `before` has the values that they replace.
    fn append(&self, changes: Changes, before: &[Option<Bytes>]) -> Result<Append, BucketError> {
        let mut state = self.lock();
        if state.forgotten {
            return Err(BucketError::Forgotten);
        }
        let (mut keys, mut bytes) = (state.keys, state.bytes);
        let size = |key: &String, value: &Bytes| (key.len() + value.len()) as u64;
        for ((key, value), before) in changes.iter().zip(before) {
            if let Some(before) = before {
                keys = keys.saturating_sub(1);
                bytes = bytes.saturating_sub(size(key, before));
            }
            if let Some(value) = value {
                keys += 1;
                bytes += size(key, value);
            }
        }
        let grows = keys > state.keys || bytes > state.bytes;
        if grows && (keys > BUCKET_KEYS_MAX || bytes > BUCKET_BYTES_MAX) {
            return Err(BucketError::Full { bucket: self.work.clone(), keys, bytes });
        }
        let payload = wire::encode(&changes)?;
        let log_bytes = payload.len() as u64 + ENTRY_BYTES;
        let append = self.log.append(&self.work, EPOCH, vec![payload])?;
        (state.keys, state.bytes) = (keys, bytes);
        state.log_bytes += log_bytes;
        for (key, value) in changes {
            state.recent_bytes += key.len() + value.as_ref().map_or(0, Bytes::len) + ENTRY_BYTES as usize;
            state.recent.entry(key).or_default().push_back((append.last, value));
        }
        Ok(append)
    }

    /// Waits until an entry is on disk and shown. It is so in the end even if nobody waits any more.
    async fn committed(self: &Arc<Self>, append: Append) -> Result<(), BucketError> {
        let this = Arc::clone(self);
        let committing = tokio::spawn(async move { this.commit(append).await });
        committing.await.unwrap_or(Err(StoreError::Closed.into()))
    }

    /// Waits until an entry is on disk, and shows it; now and then, tidies up.
    async fn commit(self: &Arc<Self>, append: Append) -> Result<(), BucketError> {
        let index = append.last;
        append.durable().await?;
        let (apply, rewrite) = {
            let mut state = self.lock();
            state.committed = state.committed.max(index);
            let rewrite = state.log_bytes > 2 * state.bytes + state.keys * ENTRY_BYTES + REWRITE_BYTES;
            (state.recent_bytes > RECENT_BYTES_MAX, rewrite)
        };
        // The write is done; what goes wrong now is tried again with the next one.
        let tidied = match (apply, rewrite) {
            (_, true) => self.rewrite().await,
            (true, false) => self.apply().await,
            (false, false) => Ok(()),
        };
        if let Err(error) = tidied {
            tracing::warn!(bucket = self.work, %error, "a bucket could not be tidied up; its log grows meanwhile");
        }
        Ok(())
    }

    /// Puts what is on disk into the derived state.
    async fn apply(self: &Arc<Self>) -> Result<(), BucketError> {
        let _one = self.applying.lock().await;
        let (index, changes) = {
            let state = self.lock();
            if state.forgotten {
                return Err(BucketError::Forgotten);
            }
            let committed = state.committed;
            let last = |(key, changes): (&String, &VecDeque<(u64, Option<Bytes>)>)| {
                let (_, value) = changes.iter().rev().find(|(index, _)| *index <= committed)?;
                Some((Bytes::copy_from_slice(key.as_bytes()), value.clone()))
            };
            (committed, state.recent.iter().filter_map(last).collect::<Vec<_>>())
        };
        if changes.is_empty() {
            return Ok(());
        }
        let this = Arc::clone(self);
        let applied = Applied { work: self.work.clone(), index, epoch: EPOCH, changes };
        blocking(move || this.derived.apply(&[applied])).await?;
        let state = &mut *self.lock();
        state.recent.retain(|_, changes| {
            changes.retain(|(changed, _)| *changed > index);
            !changes.is_empty()
        });
        let sizes = state.recent.iter().flat_map(|(key, changes)| {
            changes.iter().map(|(_, value)| key.len() + value.as_ref().map_or(0, Bytes::len) + ENTRY_BYTES as usize)
        });
        state.recent_bytes = sizes.sum();
        Ok(())
    }

    /// Writes all values anew, so that earlier entries can be forgotten.
    async fn rewrite(self: &Arc<Self>) -> Result<(), BucketError> {
        let _alone = self.writing.lock().await;
        {
            let state = self.lock();
            if state.forgotten {
                return Err(BucketError::Forgotten);
            }
            // Who waited for the lock may find it done.
            if state.log_bytes <= 2 * state.bytes + state.keys * ENTRY_BYTES + REWRITE_BYTES {
                return Ok(());
            }
        }
        let everything = self.log.append(&self.work, EPOCH, Vec::new())?;
        let last = everything.last;
        everything.durable().await?;
        self.lock().committed = last;
        self.apply().await?;
        let (mut after, mut first, mut index, mut log_bytes) = (None, None, last, 0);
        loop {
            let chunk = self.chunk(after.take()).await?;
            let Some((key, _)) = chunk.last() else { break };
            after = Some(key.clone());
            let payload = wire::encode(&chunk)?;
            log_bytes += payload.len() as u64 + ENTRY_BYTES;
            let append = self.log.append_wait(&self.work, EPOCH, vec![payload]).await?;
            first.get_or_insert(append.first);
            index = append.last;
            append.durable().await?;
        }
        self.log.trim(&self.work, first.unwrap_or(last + 1))?;
        let this = Arc::clone(self);
        let applied = Applied { work: self.work.clone(), index, epoch: EPOCH, changes: Vec::new() };
        blocking(move || this.derived.apply(&[applied])).await?;
        let mut state = self.lock();
        state.committed = index;
        state.log_bytes = log_bytes;
        Ok(())
    }

    /// Some of the derived state, behind a key.
    async fn chunk(self: &Arc<Self>, after: Option<String>) -> Result<Changes, BucketError> {
        let this = Arc::clone(self);
        let read = move || {
            let (mut chunk, mut bytes) = (Changes::new(), 0);
            let after = after.as_ref().map(String::as_bytes);
            this.derived.visit(&this.work, after, |key, value| {
                bytes += key.len() + value.len();
                chunk.push((String::from_utf8_lossy(key).into_owned(), Some(Bytes::copy_from_slice(value))));
                bytes >= CHUNK_BYTES
            })?;
            Ok::<_, BucketError>(chunk)
        };
        blocking(read).await
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
