//! The node's one log: an ordered, durable sequence of entries for each unit of work, all in the same segments.
//!
//! Callers change the index in memory under a short lock, which gives entries their places at once, and put what is to
//! be written into a queue (`state`, `index`). One thread (`writer`) writes and syncs all that waits together and wakes
//! who waits. `format` says what the files look like, `recover` reads them when the log is opened, `reclaim` gives up
//! those that are not needed any more.
//!
//! What a crash leaves: everything whose `durable` said so, in order and without gaps; of the rest a part from its
//! beginning on; nothing else.

mod buffers;
mod format;
mod held;
mod index;
mod reclaim;
mod recover;
mod segment;
mod state;
mod types;
mod writer;

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use bytes::Bytes;
use crc32c::crc32c;
use littoral_model::entry::Entry;
use littoral_model::id::Epoch;
use tokio::sync::oneshot;

use crate::disk::{Disk, DiskFile, RealDisk};
use crate::error::StoreError;
use format::{Kind, Record, segment_name};
use index::Place;
use recover::{Recovered, recover};
use segment::{Wanted, entry_bytes_max, read_entries};
use state::{Done, Forget, Shared, State};
use writer::Writer;

pub(crate) use format::record_size;
pub use types::{Append, Head, LogOptions, LogStats};

/// Entries of one segment that lie at most this far apart are read together.
const READ_GAP_BYTES: u32 = 16 << 10;
/// How far apart the first and the last of them may be.
const READ_SPAN_BYTES: u32 = 1 << 20;
/// The smallest segment that is of use.
const SEGMENT_BYTES_MIN: u32 = 4 << 10;
/// The largest: places in it have 32 bits, with room for many works at its beginning.
const SEGMENT_BYTES_MAX: u32 = 1 << 30;

/// The log; clones are handles to the same one. It is closed when the last handle is dropped.
#[derive(Clone)]
pub struct Log {
    owner: Arc<Owner>,
}

struct Owner {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// Writes a log that has no thread of its own (see [`Log::open_stepped`]). Dropping it is what a crash is: what waits is
/// never written.
pub struct Stepper {
    writer: Writer,
}

impl std::fmt::Debug for Stepper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stepper").finish_non_exhaustive()
    }
}

impl Stepper {
    /// Waits until there is something to write, or the log is closed.
    pub async fn wanted(&self) {
        self.writer.shared.step.notified().await;
    }

    /// Writes what waits, syncs once, and tells who waited. False once the log is closed or has failed.
    pub fn step(&mut self) -> bool {
        self.writer.step()
    }
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Log").field("dir", &self.owner.shared.disk.path("")).finish_non_exhaustive()
    }
}

impl Owner {
    fn close(&self) {
        self.shared.lock().closing = true;
        self.shared.work.notify_all();
        self.shared.step.notify_one();
        self.shared.space.notify_waiters();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("the log's thread ended by a bug; what it had not acknowledged is not on disk");
        }
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.close();
    }
}

impl Log {
    /// Opens the log in `dir`, or makes a new one. Blocks: reads the whole log once and checks every checksum.
    ///
    /// # Errors
    /// [`StoreError::Locked`] when another process has it open; [`StoreError::Corrupt`] when something that was
    /// acknowledged is damaged; [`StoreError::Full`] when there is no space for a new log.
    pub fn open(dir: &Path, options: LogOptions) -> Result<Self, StoreError> {
        Self::open_on(Arc::new(RealDisk::open(dir)?), options)
    }

    /// Like [`Log::open`], on any [`Disk`].
    ///
    /// # Errors
    /// As for [`Log::open`].
    pub fn open_on(disk: Arc<dyn Disk>, options: LogOptions) -> Result<Self, StoreError> {
        let (shared, writer) = Self::recover(disk, options)?;
        let builder = std::thread::Builder::new().name("littoral-log".to_owned());
        let thread = builder
            .spawn(move || writer.run())
            .map_err(|error| StoreError::io("start a thread for", &shared.disk.path(""), &error))?;
        Ok(Self { owner: Arc::new(Owner { shared, thread: Mutex::new(Some(thread)) }) })
    }

    /// Like [`Log::open_on`], without a thread: nothing is written but by [`Stepper::step`]. For the simulator, where
    /// the disk takes virtual time.
    ///
    /// # Errors
    /// As for [`Log::open`].
    pub fn open_stepped(disk: Arc<dyn Disk>, options: LogOptions) -> Result<(Self, Stepper), StoreError> {
        let (shared, writer) = Self::recover(disk, options)?;
        Ok((Self { owner: Arc::new(Owner { shared, thread: Mutex::new(None) }) }, Stepper { writer }))
    }

    fn recover(disk: Arc<dyn Disk>, mut options: LogOptions) -> Result<(Arc<Shared>, Writer), StoreError> {
        options.segment_bytes = options.segment_bytes.clamp(SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX).next_multiple_of(8);
        let Recovered { state, standings, current } = recover(disk.as_ref(), &options)?;
        let shared = Arc::new(Shared::new(state, disk, options));
        let mut writer = Writer::new(shared.clone(), standings, current);
        writer.refill();
        Ok((shared, writer))
    }

    /// Appends entries to the log of a work, which is made where it is new. Never waits for the disk: the entries get
    /// their indexes at once.
    ///
    /// # Errors
    /// [`StoreError::Busy`] when too much waits for the disk; [`StoreError::Full`] when the disk is full;
    /// [`StoreError::Fenced`] when the log has entries of a higher epoch; [`StoreError::TooLarge`],
    /// [`StoreError::InvalidWork`]; [`StoreError::Failed`] and [`StoreError::Closed`] when the log has ended.
    pub fn append(&self, work: &str, epoch: Epoch, payloads: Vec<Bytes>) -> Result<Append, StoreError> {
        let entries = payloads.into_iter().map(|payload| (epoch, payload)).collect();
        self.push(work, entries, |_| Ok(()))
    }

    /// Like [`Log::append`], but waits while too much waits for the disk, or while it is full.
    ///
    /// # Errors
    /// As for [`Log::append`].
    pub async fn append_wait(&self, work: &str, epoch: Epoch, payloads: Vec<Bytes>) -> Result<Append, StoreError> {
        let waits = |error: &StoreError| matches!(error, StoreError::Busy { .. } | StoreError::Full { .. });
        self.append_while(waits, work, epoch, payloads).await
    }

    /// The same without waiting for space on the disk.
    pub(crate) async fn append_unless_full(
        &self,
        work: &str,
        epoch: Epoch,
        payloads: Vec<Bytes>,
    ) -> Result<Append, StoreError> {
        self.append_while(|error| matches!(error, StoreError::Busy { .. }), work, epoch, payloads).await
    }

    async fn append_while(
        &self,
        waits: impl Fn(&StoreError) -> bool,
        work: &str,
        epoch: Epoch,
        payloads: Vec<Bytes>,
    ) -> Result<Append, StoreError> {
        loop {
            // Enlisted before trying, so that space that comes in between is not missed.
            let space = self.owner.shared.space.notified();
            tokio::pin!(space);
            space.as_mut().enable();
            match self.append(work, epoch, payloads.clone()) {
                Err(error) if waits(&error) => space.await,
                done => return done,
            }
        }
    }

    /// Appends entries that have their places already, as a replica does.
    ///
    /// # Errors
    /// [`StoreError::OutOfOrder`] when the first is not the next one or there are gaps; otherwise as for
    /// [`Log::append`].
    pub fn append_at(&self, work: &str, entries: Vec<Entry>) -> Result<Append, StoreError> {
        let indexes: Vec<u64> = entries.iter().map(|entry| entry.index).collect();
        let entries = entries.into_iter().map(|entry| (entry.epoch, entry.payload)).collect();
        self.push(work, entries, |next| match indexes.iter().zip(next..).find(|(got, expected)| **got != *expected) {
            Some((got, expected)) => Err(StoreError::OutOfOrder { work: work.to_owned(), expected, got: *got }),
            None => Ok(()),
        })
    }

    fn push(
        &self,
        work: &str,
        entries: Vec<(Epoch, Bytes)>,
        check: impl FnOnce(u64) -> Result<(), StoreError>,
    ) -> Result<Append, StoreError> {
        let shared = &self.owner.shared;
        let max = entry_bytes_max(shared.options.segment_bytes);
        if let Some((_, payload)) = entries.iter().find(|(_, payload)| payload.len() > max) {
            return Err(StoreError::TooLarge { bytes: payload.len(), max });
        }
        // Outside of the lock: this is the part that takes time.
        let entries: Vec<_> = entries.into_iter().map(|(epoch, payload)| (epoch, crc32c(&payload), payload)).collect();
        let bytes: usize = entries.iter().map(|(_, _, payload)| payload.len()).sum();
        let mut state = shared.lock();
        state.check_open()?;
        state.check_space(shared)?;
        // One that is larger than all that may wait is taken when nothing else waits.
        if state.backlog_bytes > 0 && state.backlog_bytes + bytes > shared.backlog_max() {
            return Err(StoreError::Busy { waiting: state.backlog_bytes });
        }
        let standing = state.find(work).map(|(_, work)| work.standing());
        let (next, mut last) = standing.map_or((1, 0), |standing| (standing.next, standing.last_epoch));
        check(next)?;
        for (epoch, _, _) in &entries {
            if epoch.0 < last {
                return Err(StoreError::Fenced { work: work.to_owned(), epoch: *epoch, last: Epoch(last) });
            }
            last = epoch.0;
        }
        if entries.is_empty() {
            return Ok(self.barrier(state, Append { first: next, last: next - 1, done: None }));
        }
        let (done, waiter) = oneshot::channel();
        let (first, last) = state.push_entries(work, entries, done)?;
        self.wake(state);
        Ok(Append { first, last, done: Some(waiter) })
    }

    /// Entries from `from` on: at least one if there is one, then up to about `bytes_max` bytes of payload. Empty at
    /// the end of the log, and for a work without one. They may not be on disk yet (see [`Head::durable`]). Recent ones
    /// come from memory; for others this blocks for a read from the disk.
    ///
    /// # Errors
    /// [`StoreError::Trimmed`] when `from` is below the first that is held; [`StoreError::Corrupt`] when what is on disk
    /// is damaged; [`StoreError::Io`] when it cannot be read.
    pub fn read(&self, work: &str, from: u64, bytes_max: usize) -> Result<Vec<Entry>, StoreError> {
        let mut found: Vec<Found> = Vec::new();
        let state = self.owner.shared.lock();
        let Some((_, log)) = state.find(work) else { return Ok(Vec::new()) };
        let standing = log.standing();
        if from < standing.first {
            return Err(StoreError::Trimmed { work: work.to_owned(), first: standing.first });
        }
        let mut bytes = 0;
        for index in from..standing.next {
            let (Some(place), Some(epoch)) = (log.place(index), log.epoch_at(index)) else { break };
            bytes += place.len as usize;
            if bytes > bytes_max && !found.is_empty() {
                break;
            }
            found.push(match log.cached(index) {
                Some(payload) => Found::Cached(Entry { index, epoch: Epoch(epoch), payload: payload.clone() }),
                None => {
                    let Some(segment) = state.segments.get(&place.segment) else { break };
                    Found::OnDisk(Wanted { index, epoch, place }, segment.file.clone())
                }
            });
        }
        drop(state);
        self.gather(&found)
    }

    /// Reads what is on disk; neighbours together.
    fn gather(&self, mut found: &[Found]) -> Result<Vec<Entry>, StoreError> {
        let mut entries = Vec::with_capacity(found.len());
        while let Some((first, rest)) = found.split_first() {
            match first {
                Found::Cached(entry) => {
                    entries.push(entry.clone());
                    found = rest;
                }
                Found::OnDisk(wanted, file) => {
                    let begin = wanted.place.offset;
                    let mut wanted = vec![*wanted];
                    found = rest;
                    while let Some((Found::OnDisk(next, _), rest)) = found.split_first()
                        && wanted.last().is_some_and(|last| neighbours(last.place, next.place))
                        && next.place.offset - begin <= READ_SPAN_BYTES
                    {
                        wanted.push(*next);
                        found = rest;
                    }
                    let segment = wanted.first().map_or(0, |wanted| wanted.place.segment);
                    let path = self.owner.shared.disk.path(&segment_name(segment));
                    let buffers = &self.owner.shared.buffers;
                    entries.extend(read_entries(file.as_ref(), &path, &wanted, buffers)?);
                }
            }
        }
        Ok(entries)
    }

    /// Where the log of a work stands. None for a work without one.
    #[must_use]
    pub fn head(&self, work: &str) -> Option<Head> {
        let state = self.owner.shared.lock();
        let (_, log) = state.find(work)?;
        let standing = log.standing();
        let (first, next, last_epoch) = (standing.first, standing.next, Epoch(standing.last_epoch));
        Some(Head { first, next, last_epoch, durable: log.durable() })
    }

    /// What the entries of a work take of segments, those that wait for the disk included.
    pub(crate) fn bytes_held(&self, work: &str) -> u64 {
        let state = self.owner.shared.lock();
        state.find(work).map_or(0, |(_, log)| log.bytes())
    }

    /// The first of a work's latest entries that together take no more than so many bytes of segments; behind the last where
    /// not even that one fits.
    pub(crate) fn first_within(&self, work: &str, bytes_max: u64) -> u64 {
        let state = self.owner.shared.lock();
        state.find(work).map_or(1, |(_, log)| log.first_within(bytes_max))
    }

    /// Whether the disk has space for what may be appended.
    ///
    /// # Errors
    /// [`StoreError::Full`] while it has not.
    pub(crate) fn check_space(&self) -> Result<(), StoreError> {
        self.owner.shared.lock().check_space(&self.owner.shared)
    }

    /// How long the payload of an entry is; none where it is not held.
    pub(crate) fn payload_bytes(&self, work: &str, index: u64) -> Option<usize> {
        let state = self.owner.shared.lock();
        let (_, log) = state.find(work)?;
        log.place(index).map(|place| place.len as usize)
    }

    /// The epoch of an entry that is held, or of the one just before the first that is (0 before the first of all).
    #[must_use]
    pub fn epoch_at(&self, work: &str, index: u64) -> Option<Epoch> {
        let state = self.owner.shared.lock();
        let (_, log) = state.find(work)?;
        log.epoch_at(index).map(Epoch)
    }

    /// Forgets the entries from `from` on. Nothing happens when there are none.
    ///
    /// # Errors
    /// [`StoreError::Trimmed`] when `from` is below the first that is held; [`StoreError::Failed`] and
    /// [`StoreError::Closed`] when the log has ended.
    pub fn truncate(&self, work: &str, from: u64) -> Result<Append, StoreError> {
        let mut state = self.owner.shared.lock();
        state.check_open()?;
        let nothing = Append { first: from, last: from.saturating_sub(1), done: None };
        let Some((number, log)) = state.find(work) else { return Ok(self.barrier(state, nothing)) };
        let standing = log.standing();
        if from >= standing.next {
            return Ok(self.barrier(state, nothing));
        }
        let trimmed = || StoreError::Trimmed { work: work.to_owned(), first: standing.first };
        if from < standing.first {
            return Err(trimmed());
        }
        let epoch = log.epoch_at(from - 1).ok_or_else(trimmed)?;
        state.forget(number, Forget::From(from));
        Ok(self.enqueue(state, Record::bare(Kind::Truncate, number, from, epoch), nothing))
    }

    /// Forgets the entries below `below`, so that their space can be used again. It is written with what comes next, or
    /// after a second: after a crash some of them may still be there.
    ///
    /// # Errors
    /// [`StoreError::Failed`] and [`StoreError::Closed`] when the log has ended.
    pub fn trim(&self, work: &str, below: u64) -> Result<(), StoreError> {
        let mut state = self.owner.shared.lock();
        state.check_open()?;
        let Some((number, log)) = state.find(work) else { return Ok(()) };
        let below = below.min(log.standing().next);
        if below <= log.standing().first {
            return Ok(());
        }
        let Some(epoch) = log.epoch_at(below - 1) else { return Ok(()) };
        state.forget(number, Forget::Below(below));
        state.enqueue(Record::bare(Kind::Trim, number, below, epoch), None, None);
        self.wake(state);
        Ok(())
    }

    /// Empties the log of a work, which is made where it is new; it goes on at `next`, and the entry before that was of
    /// `epoch`. For a replica that got the state instead of the entries.
    ///
    /// # Errors
    /// [`StoreError::InvalidWork`]; [`StoreError::OutOfOrder`] when `next` is 0; [`StoreError::Failed`] and
    /// [`StoreError::Closed`] when the log has ended.
    pub fn reset(&self, work: &str, next: u64, epoch: Epoch) -> Result<Append, StoreError> {
        if next == 0 {
            return Err(StoreError::OutOfOrder { work: work.to_owned(), expected: 1, got: 0 });
        }
        let mut state = self.owner.shared.lock();
        state.check_open()?;
        let number = state.find_or_make(work)?;
        state.forget(number, Forget::All { next, epoch: epoch.0 });
        let append = Append { first: next, last: next - 1, done: None };
        Ok(self.enqueue(state, Record::bare(Kind::Reset, number, next, epoch.0), append))
    }

    /// Forgets a work and all its entries.
    ///
    /// # Errors
    /// [`StoreError::Failed`] and [`StoreError::Closed`] when the log has ended.
    pub fn drop_work(&self, work: &str) -> Result<Append, StoreError> {
        let mut state = self.owner.shared.lock();
        state.check_open()?;
        let nothing = Append { first: 1, last: 0, done: None };
        let Some((number, _)) = state.find(work) else { return Ok(self.barrier(state, nothing)) };
        state.forget(number, Forget::All { next: 1, epoch: 0 });
        state.works.remove(&number);
        state.names.remove(work);
        Ok(self.enqueue(state, Record::bare(Kind::Drop, number, 0, 0), nothing))
    }

    /// All works that have a log, in no order.
    #[must_use]
    pub fn works(&self) -> Vec<String> {
        self.owner.shared.lock().names.keys().map(ToString::to_string).collect()
    }

    /// Figures.
    #[must_use]
    pub fn stats(&self) -> LogStats {
        let state = self.owner.shared.lock();
        LogStats {
            segments: state.segments.len(),
            bytes: state.segments.values().map(|segment| u64::from(segment.end)).sum(),
            live_bytes: state.segments.values().map(|segment| segment.live_bytes).sum(),
            backlog_bytes: state.backlog_bytes,
            cached_bytes: state.cache_bytes,
            appends: state.counts.appends,
            syncs: state.counts.syncs,
            sync_seconds: state.counts.sync_seconds,
            full: state.full,
            failed: state.failed.clone(),
        }
    }

    /// Writes what waits, marks a clean end, and stops. Blocks. Later appends on any handle give
    /// [`StoreError::Closed`]; reading goes on.
    ///
    /// # Errors
    /// [`StoreError::Failed`] when the log had failed.
    pub fn close(&self) -> Result<(), StoreError> {
        self.owner.close();
        match &self.owner.shared.lock().failed {
            Some(reason) => Err(StoreError::Failed { reason: reason.clone() }),
            None => Ok(()),
        }
    }

    /// Something to wait for that changes nothing, but follows on what is not on disk yet.
    fn barrier(&self, state: std::sync::MutexGuard<'_, State>, append: Append) -> Append {
        if state.backlog_bytes == 0 {
            return append;
        }
        self.enqueue(state, Record::bare(Kind::Mark, 0, 0, 0), append)
    }

    fn enqueue(&self, mut state: std::sync::MutexGuard<'_, State>, record: Record, append: Append) -> Append {
        let (done, waiter): (Done, _) = oneshot::channel();
        state.enqueue(record, None, Some(done));
        self.wake(state);
        Append { done: Some(waiter), ..append }
    }

    /// Wakes the thread, where it waits.
    fn wake(&self, state: std::sync::MutexGuard<'_, State>) {
        let waits = state.thread_waits;
        drop(state);
        self.owner.shared.step.notify_one();
        if waits {
            self.owner.shared.work.notify_one();
        }
    }
}

/// An entry to give out.
enum Found {
    Cached(Entry),
    OnDisk(Wanted, Arc<dyn DiskFile>),
}

/// Whether one read should fetch both.
fn neighbours(one: Place, next: Place) -> bool {
    let end = u64::from(one.offset) + one.size();
    let gap = u64::from(next.offset).checked_sub(end);
    one.segment == next.segment && gap.is_some_and(|gap| gap <= u64::from(READ_GAP_BYTES))
}
