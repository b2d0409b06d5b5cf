//! What callers and the log's own thread share, behind one short lock: the index, the queue and the cache.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use littoral_model::id::Epoch;
use tokio::sync::{Notify, oneshot};

use super::LogOptions;
use super::buffers::Buffers;
use super::format::{Kind, Record, Standing};
use super::index::{Place, Work};
use crate::disk::{Disk, DiskFile};
use crate::error::StoreError;

/// The longest name of a work, in bytes: a work's id is three names of at most 63, a kind, a stage and a number.
pub(crate) const WORK_BYTES_MAX: usize = 512;
/// How many works a log takes. Each costs about 150 bytes at the beginning of every segment.
pub(crate) const WORKS_MAX: usize = 65_536;
/// How many payloads are kept in memory, whatever their length: each costs some 60 bytes beside.
const CACHE_ENTRIES_MAX: usize = 262_144;
/// What an operation counts in the backlog beside its payload: about what it takes in memory.
const OPERATION_BYTES: usize = 128;

/// What callers and the thread share.
pub(crate) struct Shared {
    state: Mutex<State>,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) options: LogOptions,
    /// Wakes the thread.
    pub(crate) work: Condvar,
    /// Wakes who steps the log, where no thread does ([`super::Stepper`]).
    pub(crate) step: Notify,
    /// Wakes who waits for the backlog to shrink.
    pub(crate) space: Notify,
    /// For what is read from segments.
    pub(crate) buffers: Buffers,
}

impl Shared {
    pub(crate) fn new(state: State, disk: Arc<dyn Disk>, options: LogOptions) -> Self {
        Self {
            state: Mutex::new(state),
            disk,
            options,
            work: Condvar::new(),
            step: Notify::new(),
            space: Notify::new(),
            buffers: Buffers::default(),
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        // A panic under the lock would be a bug; the state is changed in steps that leave it readable.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How much may wait for the disk: half a segment, so that all of it fits into the spare one when the disk is full.
    pub(crate) fn backlog_max(&self) -> usize {
        self.options.segment_bytes as usize / 2
    }
}

/// Tells whoever waits for an operation.
pub(crate) type Done = oneshot::Sender<Result<(), StoreError>>;

/// One thing to write.
pub(crate) struct Operation {
    pub(crate) ticket: u64,
    pub(crate) record: Record,
    /// The name, where the work is new.
    pub(crate) name: Option<Arc<str>>,
    /// For [`Kind::Copied`]: where the entry was.
    pub(crate) from: Option<Place>,
    pub(crate) done: Option<Done>,
}

impl Operation {
    pub(crate) fn cost(&self) -> usize {
        OPERATION_BYTES + self.record.payload.len()
    }
}

/// A segment file.
pub(crate) struct Segment {
    pub(crate) file: Arc<dyn DiskFile>,
    /// Where its records end.
    pub(crate) end: u32,
    /// The entries in it that are still held.
    pub(crate) live_entries: u64,
    pub(crate) live_bytes: u64,
}

/// Figures since the log was opened.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) appends: u64,
    pub(crate) syncs: u64,
    pub(crate) sync_seconds: f64,
}

/// The state of the log as its callers see it: what waits for the disk counts as done.
pub(crate) struct State {
    pub(crate) names: HashMap<Arc<str>, u32>,
    pub(crate) works: HashMap<u32, Work>,
    pub(crate) work_next: u32,
    pub(crate) segments: BTreeMap<u32, Segment>,
    pub(crate) queue: VecDeque<Operation>,
    pub(crate) ticket_next: u64,
    pub(crate) backlog_bytes: usize,
    /// Someone waits for something in the queue.
    pub(crate) urgent: bool,
    pub(crate) thread_waits: bool,
    pub(crate) full: bool,
    pub(crate) failed: Option<String>,
    pub(crate) closing: bool,
    pub(crate) counts: Counts,
    cache_order: VecDeque<(u32, u64)>,
    pub(crate) cache_bytes: usize,
    cache_bytes_max: usize,
}

impl State {
    pub(crate) fn new(
        works: HashMap<u32, Work>,
        work_next: u32,
        segments: BTreeMap<u32, Segment>,
        cache_bytes_max: usize,
    ) -> Self {
        let names = works.iter().map(|(number, work)| (work.name.clone(), *number)).collect();
        Self {
            names,
            works,
            work_next,
            segments,
            queue: VecDeque::new(),
            ticket_next: 1,
            backlog_bytes: 0,
            urgent: false,
            thread_waits: false,
            full: false,
            failed: None,
            closing: false,
            counts: Counts::default(),
            cache_order: VecDeque::new(),
            cache_bytes: 0,
            cache_bytes_max,
        }
    }

    /// Refuses what comes after the end.
    pub(crate) fn check_open(&self) -> Result<(), StoreError> {
        match &self.failed {
            Some(reason) => Err(StoreError::Failed { reason: reason.clone() }),
            None if self.closing => Err(StoreError::Closed),
            None => Ok(()),
        }
    }

    /// Refuses what the disk has no space for.
    pub(crate) fn check_space(&self, shared: &Shared) -> Result<(), StoreError> {
        let needed = u64::from(shared.options.segment_bytes);
        if self.full { Err(StoreError::Full { dir: shared.disk.path(""), needed }) } else { Ok(()) }
    }

    pub(crate) fn find(&self, work: &str) -> Option<(u32, &Work)> {
        let number = *self.names.get(work)?;
        Some((number, self.works.get(&number)?))
    }

    /// The number of a work; it is made where it is new.
    pub(crate) fn find_or_make(&mut self, work: &str) -> Result<u32, StoreError> {
        if let Some((number, _)) = self.find(work) {
            return Ok(number);
        }
        let reason = if work.is_empty() {
            "it is empty"
        } else if work.len() > WORK_BYTES_MAX {
            "it is longer than 512 bytes"
        } else if self.works.len() >= WORKS_MAX {
            "there are 65,536 logs already; drop some"
        } else {
            let number = self.work_next;
            self.work_next += 1;
            let name: Arc<str> = Arc::from(work);
            self.names.insert(name.clone(), number);
            self.works.insert(number, Work::new(name.clone(), Standing::NEW));
            let record = Record::work(number, &Standing::NEW, work);
            self.enqueue(record, Some(name), None);
            return Ok(number);
        };
        Err(StoreError::InvalidWork { work: work.to_owned(), reason })
    }

    /// Puts an operation at the end of the queue.
    pub(crate) fn enqueue(&mut self, record: Record, name: Option<Arc<str>>, done: Option<Done>) -> u64 {
        let ticket = self.ticket_next;
        self.ticket_next += 1;
        self.urgent |= done.is_some();
        let operation = Operation { ticket, record, name, from: None, done };
        self.backlog_bytes += operation.cost();
        self.queue.push_back(operation);
        ticket
    }

    /// Adds entries to a work, whose epochs were checked; index of the first and the last.
    pub(crate) fn push_entries(
        &mut self,
        work: &str,
        entries: Vec<(Epoch, u32, Bytes)>,
        done: Done,
    ) -> Result<(u64, u64), StoreError> {
        let number = self.find_or_make(work)?;
        let next = self.works.get(&number).map_or(1, |work| work.standing().next);
        let mut last = next - 1;
        let mut done = Some(done);
        let count = entries.len();
        for (at, (epoch, crc, payload)) in entries.into_iter().enumerate() {
            let done = if at + 1 == count { done.take() } else { None };
            self.cache_bytes += payload.len();
            let Some(work) = self.works.get_mut(&number) else { continue };
            last = work.push(epoch.0, payload.clone(), self.ticket_next);
            self.cache_order.push_back((number, last));
            let record = Record { kind: Kind::Entry, work: number, index: last, epoch: epoch.0, payload, crc };
            self.enqueue(record, None, done);
        }
        self.evict();
        Ok((next, last))
    }

    /// Changes the index of a work, keeping the figures of segments and cache right.
    pub(crate) fn forget(&mut self, number: u32, what: Forget) {
        let Self { works, segments, cache_bytes, .. } = self;
        let Some(work) = works.get_mut(&number) else { return };
        let freed = |place: Place| free(segments, place);
        let uncached = |bytes| *cache_bytes -= bytes;
        match what {
            Forget::From(from) => work.truncate(from, freed, uncached),
            Forget::Below(below) => work.trim(below, freed, uncached),
            Forget::All { next, epoch } => work.reset(next, epoch, freed, uncached),
        }
    }

    /// An entry is on disk.
    pub(crate) fn written(&mut self, number: u32, index: u64, ticket: u64, place: Place) {
        let known = self.works.get_mut(&number).is_some_and(|work| work.written(index, ticket, place));
        if known {
            hold(&mut self.segments, place);
        }
    }

    /// An entry is on disk at another place.
    pub(crate) fn copied(&mut self, number: u32, index: u64, from: Place, to: Place) {
        let known = self.works.get_mut(&number).is_some_and(|work| work.replace(index, from, to));
        if known {
            free(&mut self.segments, from);
            hold(&mut self.segments, to);
        }
    }

    /// Lets go of the oldest payloads in memory until the rest is within bounds. What waits for the disk is kept.
    pub(crate) fn evict(&mut self) {
        while self.cache_bytes > self.cache_bytes_max || self.cache_order.len() > CACHE_ENTRIES_MAX {
            let Some((number, index)) = self.cache_order.pop_front() else { return };
            match self.works.get_mut(&number).map_or(Some(0), |work| work.evict(index)) {
                Some(bytes) => self.cache_bytes -= bytes,
                None => {
                    self.cache_order.push_front((number, index));
                    return;
                }
            }
        }
    }
}

/// Which entries to forget.
pub(crate) enum Forget {
    /// From this index on.
    From(u64),
    /// Below this index.
    Below(u64),
    /// All; go on at `next`.
    All {
        /// The next index.
        next: u64,
        /// The epoch of the entry before it.
        epoch: u64,
    },
}

pub(crate) fn hold(segments: &mut BTreeMap<u32, Segment>, place: Place) {
    if let Some(segment) = segments.get_mut(&place.segment) {
        segment.live_entries += 1;
        segment.live_bytes += place.size();
    }
}

fn free(segments: &mut BTreeMap<u32, Segment>, place: Place) {
    if let Some(segment) = segments.get_mut(&place.segment) {
        segment.live_entries -= 1;
        segment.live_bytes -= place.size();
    }
}
