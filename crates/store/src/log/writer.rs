//! The log's own thread: takes everything that waits, writes it, syncs once, and tells who waited.
//!
//! While a sync is under way the next batch gathers. A segment whose sync failed is never written to again: what was
//! not on disk yet goes into a fresh one, and the header of that one says where the valid records of the former end.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::format::{Encoder, Kind, Record, segment_name};
use super::index::Place;
use super::reclaim::Reclaim;
use super::segment::{Current, Standings, make_segment, make_spare};
use super::state::{Done, Operation, Segment, Shared, State};
use crate::disk::{DiskFile, write_all_at};
use crate::error::StoreError;

/// How much is written before a sync. More would make those at its beginning wait for its end.
const BATCH_BYTES_MAX: usize = 8 << 20;
/// How far ahead of the records zeros are written: a sync of bytes that the file system knows as written is quicker.
const ZERO_AHEAD_BYTES: u32 = 1 << 20;
/// How long something that nobody waits for may stay unwritten, and how often a full disk is looked at again.
const PATIENCE: Duration = Duration::from_secs(1);
/// How far the thread is put before others, where that is allowed.
const NICE: i32 = -5;

static ZEROS: [u8; 1 << 16] = [0; 1 << 16];

/// The thread's own state.
pub(crate) struct Writer {
    pub(crate) shared: Arc<Shared>,
    /// Where the works stand as far as it is on disk.
    pub(crate) standings: Standings,
    pub(crate) current: Current,
    pub(crate) spare: Option<Arc<dyn DiskFile>>,
    pub(crate) reclaim: Reclaim,
    /// The last operation that is on disk.
    pub(crate) ticket_written: u64,
    lazy_since: Option<Instant>,
}

impl Writer {
    pub(crate) fn new(shared: Arc<Shared>, standings: Standings, current: Current) -> Self {
        let reclaim = Reclaim::default();
        Self { shared, standings, current, spare: None, reclaim, ticket_written: 0, lazy_since: None }
    }

    /// Runs until the log is closed or fails.
    pub(crate) fn run(mut self) {
        let thread = rustix::thread::gettid();
        // Not allowed for everybody; then the thread is one among others.
        let _ = rustix::process::setpriority_process(Some(thread), NICE);
        while let Some(batch) = self.take() {
            if !self.round(batch) {
                return;
            }
        }
        self.mark_end();
    }

    /// Writes what waits, without waiting for it. False once the log is closed or has failed.
    pub(crate) fn step(&mut self) -> bool {
        match self.next_batch() {
            Some(batch) => self.round(batch),
            None => {
                self.mark_end();
                false
            }
        }
    }

    /// Writes a batch and tidies up. False when the log has failed.
    fn round(&mut self, mut batch: VecDeque<Operation>) -> bool {
        if let Err(error) = self.write(&mut batch) {
            self.fail(batch, &error);
            return false;
        }
        self.reclaim();
        if self.shared.lock().full {
            self.refill();
        }
        true
    }

    /// Says that the log was closed and not cut off.
    fn mark_end(&self) {
        let mut encoder = Encoder::new(self.current.number, self.current.end, self.current.end);
        encoder.push(&Record::bare(Kind::Mark, 0, 0, 0));
        if encoder.end() <= self.current.bytes {
            let closed = encoder.write(self.current.file.as_ref()).and_then(|()| self.current.file.sync());
            if let Err(error) = closed {
                // Everything before is on disk; the next start looks at the end more closely, that is all.
                tracing::warn!(%error, "cannot mark the end of the log");
            }
        }
    }

    /// Keeps a segment's space in hand.
    pub(crate) fn refill(&mut self) {
        let mut full = false;
        if self.spare.is_none() {
            match make_spare(self.shared.disk.as_ref(), self.shared.options.segment_bytes) {
                Ok(file) => self.spare = Some(file),
                Err(error) if error.kind() == io::ErrorKind::StorageFull => full = true,
                Err(error) => tracing::warn!(%error, "cannot prepare a segment of the log ahead of its use"),
            }
        }
        self.set_full(full);
    }

    fn set_full(&self, full: bool) {
        let mut state = self.shared.lock();
        if state.full == full {
            return;
        }
        state.full = full;
        drop(state);
        if full {
            tracing::error!(dir = %self.shared.disk.path("").display(), "the disk is full: nothing is appended until space is freed");
        } else {
            tracing::info!("the disk has space again");
            self.shared.space.notify_waiters();
        }
    }

    /// Waits for something to do. None when the log is closed and everything is written.
    fn take(&mut self) -> Option<VecDeque<Operation>> {
        let shared = self.shared.clone();
        let mut state = shared.lock();
        let mut ticked = false;
        loop {
            let waiting = !state.queue.is_empty();
            let lazy_since = if waiting { Some(self.lazy_since.unwrap_or_else(Instant::now)) } else { None };
            self.lazy_since = lazy_since;
            let overdue = lazy_since.is_some_and(|since| since.elapsed() >= PATIENCE);
            if state.urgent || state.closing || overdue || self.reclaim.has_copies() || (ticked && state.full) {
                break;
            }
            state.thread_waits = true;
            if waiting || state.full {
                let waited = shared.work.wait_timeout(state, PATIENCE);
                let (guard, outcome) = waited.unwrap_or_else(std::sync::PoisonError::into_inner);
                state = guard;
                ticked = outcome.timed_out();
            } else {
                state = shared.work.wait(state).unwrap_or_else(std::sync::PoisonError::into_inner);
            }
            state.thread_waits = false;
        }
        self.lazy_since = None;
        drop(state);
        self.next_batch()
    }

    /// What is to be written next. None when the log is closed and everything is written.
    fn next_batch(&mut self) -> Option<VecDeque<Operation>> {
        let shared = self.shared.clone();
        let mut state = shared.lock();
        if state.closing && state.queue.is_empty() {
            return None;
        }
        let mut batch = pop_batch(&mut state);
        let copies = self.choose_copies(&state);
        drop(state);
        batch.extend(self.read_copies(copies));
        Some(batch)
    }

    /// Writes all of a batch; what is on disk is taken out of it.
    fn write(&mut self, batch: &mut VecDeque<Operation>) -> Result<(), StoreError> {
        let (mut failures, mut rolled) = (0, false);
        while !batch.is_empty() {
            let count = self.fitting(batch);
            if count == 0 {
                if rolled {
                    return Err(self.failed(&io::Error::other("an entry does not fit into a segment")));
                }
                rolled = true;
                if let Err(error) = self.roll() {
                    tracing::warn!(%error, "cannot begin a segment; trying once more");
                    self.roll()?;
                }
                continue;
            }
            rolled = false;
            match self.write_some(batch.iter().take(count)) {
                Ok(places) => {
                    failures = 0;
                    self.complete(batch.drain(..count), places);
                }
                Err(error) if failures == 0 => {
                    let file = self.shared.disk.path(&segment_name(self.current.number));
                    tracing::error!(%error, file = %file.display(), "writing failed; the segment is sealed, and what was not on disk goes into a new one");
                    failures += 1;
                    self.roll()?;
                }
                Err(error) => return Err(self.failed(&error)),
            }
        }
        Ok(())
    }

    fn failed(&self, error: &io::Error) -> StoreError {
        let file = self.shared.disk.path(&segment_name(self.current.number));
        StoreError::Failed { reason: format!("{}: {error}", file.display()) }
    }

    /// How many operations fit into the current segment.
    fn fitting(&self, batch: &VecDeque<Operation>) -> usize {
        let mut room = self.current.bytes - self.current.end;
        let fits = |operation: &&Operation| {
            let left = room.checked_sub(operation.record.size());
            room = left.unwrap_or(room);
            left.is_some()
        };
        batch.iter().take_while(fits).count()
    }

    /// Writes operations that fit into the current segment, and syncs; their places.
    fn write_some<'a>(&mut self, operations: impl Iterator<Item = &'a Operation>) -> io::Result<Vec<Place>> {
        let Current { number, end, .. } = self.current;
        let mut encoder = Encoder::new(number, end, end);
        let place = |operation: &Operation| Place {
            segment: number,
            offset: encoder.push(&operation.record),
            len: operation.record.payload.len() as u32,
        };
        let places = operations.map(place).collect();
        while let Err(error) = encoder.write(self.current.file.as_ref()) {
            // Only where space cannot be reserved.
            if error.kind() != io::ErrorKind::StorageFull || !self.wait_for_space() {
                return Err(error);
            }
            self.refill();
        }
        let zeroed = self.zero_ahead(encoder.end());
        let started = Instant::now();
        self.current.file.sync()?;
        let seconds = started.elapsed().as_secs_f64();
        metrics::histogram!("littoral_log_sync_seconds").record(seconds);
        self.current.end = encoder.end();
        self.current.zeroed = zeroed;
        let mut state = self.shared.lock();
        state.counts.syncs += 1;
        state.counts.sync_seconds += seconds;
        Ok(places)
    }

    /// Writes zeros behind the records once these have reached where zeros were written; up to where there are some.
    fn zero_ahead(&self, end: u32) -> u32 {
        if end <= self.current.zeroed {
            return self.current.zeroed;
        }
        let until = end.saturating_add(ZERO_AHEAD_BYTES).min(self.current.bytes);
        let mut slices = Vec::new();
        let mut left = (until - end) as usize;
        while left > 0 {
            let slice = ZEROS.get(..left).unwrap_or(&ZEROS);
            left -= slice.len();
            slices.push(IoSlice::new(slice));
        }
        // It only saves time: what is wrong with the disk will show in the sync.
        match write_all_at(self.current.file.as_ref(), &mut slices, u64::from(end)) {
            Ok(()) => until,
            Err(_) => end,
        }
    }

    /// Waits a while for space; false when the log is being closed.
    fn wait_for_space(&self) -> bool {
        self.set_full(true);
        let state = self.shared.lock();
        let waited = self.shared.work.wait_timeout_while(state, PATIENCE, |state| !state.closing);
        !waited.unwrap_or_else(std::sync::PoisonError::into_inner).0.closing
    }

    /// Begins a new segment.
    fn roll(&mut self) -> Result<(), StoreError> {
        let disk = self.shared.disk.clone();
        let bytes = self.shared.options.segment_bytes;
        let number = self.current.number + 1;
        let current = loop {
            let place = (number, self.current.end);
            match make_segment(disk.as_ref(), self.spare.take(), bytes, place, &self.standings) {
                Ok(current) => break current,
                Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                    if !self.wait_for_space() {
                        return Err(StoreError::Full { dir: disk.path(""), needed: u64::from(bytes) });
                    }
                }
                Err(error) => {
                    let path = disk.path(&segment_name(number));
                    return Err(StoreError::Failed { reason: format!("{}: {error}", path.display()) });
                }
            }
        };
        let segment = Segment { file: current.file.clone(), end: current.end, live_entries: 0, live_bytes: 0 };
        self.shared.lock().segments.insert(number, segment);
        self.current = current;
        self.refill();
        Ok(())
    }

    /// Notes that operations are on disk, and tells who waits for them.
    fn complete(&mut self, operations: impl Iterator<Item = Operation>, places: Vec<Place>) {
        let mut dones: Vec<Done> = Vec::new();
        let (mut appends, mut bytes) = (0, 0);
        let shared = self.shared.clone();
        let mut state = shared.lock();
        for (operation, place) in operations.zip(places) {
            let Operation { ticket, ref record, ref name, from, .. } = operation;
            let (number, index) = (record.work, record.index);
            match (record.kind, name) {
                (Kind::Work, Some(name)) => {
                    self.standings.insert(number, (name.clone(), super::format::Standing::NEW));
                }
                (Kind::Drop, _) => {
                    self.standings.remove(&number);
                }
                (kind, _) => {
                    if let Some((_, standing)) = self.standings.get_mut(&number) {
                        standing.apply(kind, index, record.epoch);
                    }
                }
            }
            if let Some(from) = from {
                state.copied(number, index, from, place);
                continue;
            }
            if record.kind == Kind::Entry {
                state.written(number, index, ticket, place);
                appends += 1;
                bytes += record.payload.len() as u64;
            }
            state.backlog_bytes -= operation.cost();
            self.ticket_written = ticket;
            dones.extend(operation.done);
        }
        if let Some(segment) = state.segments.get_mut(&self.current.number) {
            segment.end = self.current.end;
        }
        state.counts.appends += appends;
        state.evict();
        drop(state);
        for done in dones {
            // Whoever does not wait any more does not need to know.
            let _ = done.send(Ok(()));
        }
        self.shared.space.notify_waiters();
        metrics::counter!("littoral_log_appends_total").increment(appends);
        metrics::counter!("littoral_log_appended_bytes_total").increment(bytes);
    }

    /// Stops the log: tells everybody why.
    fn fail(&self, batch: VecDeque<Operation>, error: &StoreError) {
        tracing::error!(%error, "the log has stopped");
        let mut state = self.shared.lock();
        let reason = match error {
            StoreError::Failed { reason } => reason.clone(),
            other => other.to_string(),
        };
        state.failed = Some(reason);
        state.backlog_bytes = 0;
        let queue = std::mem::take(&mut state.queue);
        drop(state);
        for done in batch.into_iter().chain(queue).filter_map(|operation| operation.done) {
            let _ = done.send(Err(error.clone()));
        }
        self.shared.space.notify_waiters();
    }
}

/// Takes what waits, up to a batch.
fn pop_batch(state: &mut State) -> VecDeque<Operation> {
    let mut batch = VecDeque::new();
    let mut bytes = 0;
    while bytes < BATCH_BYTES_MAX
        && let Some(operation) = state.queue.pop_front()
    {
        bytes += operation.cost();
        batch.push_back(operation);
    }
    state.urgent = !state.queue.is_empty();
    batch
}
