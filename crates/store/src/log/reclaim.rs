//! Getting space back: the oldest segment is deleted once no entry in it is held any more.
//!
//! A few entries that are held for long would keep it, and all after it, for ever: they are copied to the end of the
//! log, a little with each batch. Where the works stand needs no copying, as every segment begins with it.

use std::collections::VecDeque;

use bytes::Bytes;
use crc32c::crc32c;

use super::format::{Kind, Record, segment_name};
use super::index::Place;
use super::segment::{Wanted, read_entries};
use super::state::{Operation, State};
use super::writer::Writer;
use crate::error::StoreError;

/// What is left of the oldest segment is copied when it is at most one part in so many of it.
const SPARSE_FRACTION: u64 = 4;
/// With more segments than this, the oldest is also copied when half of the whole log is of no use any more.
const SEGMENTS_RELAXED: usize = 8;
/// How much is copied with one batch, so that nobody waits long because of it.
const COPY_BYTES_PER_BATCH: u64 = 1 << 20;

/// How far reclaiming has come.
#[derive(Default)]
pub(crate) struct Reclaim {
    /// Segments up to this number hold nothing, and may go when the operation with this ticket is on disk: until then
    /// what was forgotten would be missing after a crash.
    doomed: Option<(u32, u64)>,
    /// The segment that is being copied, and the entries (work, index) that were in it.
    copying: VecDeque<(u32, u64)>,
    copying_from: u32,
    /// A segment that cannot be copied, because it is damaged.
    blocked: Option<u32>,
}

impl Reclaim {
    pub(crate) fn has_copies(&self) -> bool {
        !self.copying.is_empty()
    }
}

/// An entry to copy.
pub(crate) struct Copying {
    work: u32,
    wanted: Wanted,
    cached: Option<Bytes>,
}

impl Writer {
    /// After a batch: deletes what can go, and looks what else could.
    pub(crate) fn reclaim(&mut self) {
        if let Some((number, ticket)) = self.reclaim.doomed
            && ticket <= self.ticket_written
        {
            self.reclaim.doomed = None;
            self.delete_up_to(number);
        }
        let shared = self.shared.clone();
        let state = shared.lock();
        let bytes: u64 = state.segments.values().map(|segment| u64::from(segment.end)).sum();
        metrics::gauge!("littoral_log_segments").set(state.segments.len() as f64);
        metrics::gauge!("littoral_log_bytes").set(bytes as f64);
        if self.reclaim.doomed.is_some() || self.reclaim.has_copies() {
            return;
        }
        let oldest = state.segments.keys().next().copied();
        if oldest.is_none() || oldest == self.reclaim.blocked {
            return;
        }
        let old = state.segments.range(..self.current.number);
        let dead = old.take_while(|(_, segment)| segment.live_entries == 0).last();
        if let Some((number, _)) = dead {
            let ticket = state.ticket_next - 1;
            self.reclaim.doomed = Some((*number, ticket));
            if ticket > self.ticket_written {
                return;
            }
            drop(state);
            return self.reclaim();
        }
        self.plan_copies(&state, bytes);
    }

    fn delete_up_to(&mut self, last: u32) {
        let numbers: Vec<u32> = self.shared.lock().segments.range(..=last).map(|(number, _)| *number).collect();
        for number in numbers {
            let name = segment_name(number);
            let disk = &self.shared.disk;
            // One by one, each made durable: a gap between segments would look like damage.
            if let Err(error) = disk.remove(&name).and_then(|()| disk.sync_dir()) {
                tracing::warn!(%error, file = %disk.path(&name).display(), "cannot delete an old segment of the log");
                self.reclaim.blocked = Some(number);
                return;
            }
            self.shared.lock().segments.remove(&number);
        }
        if self.spare.is_none() {
            self.refill();
        }
    }

    fn plan_copies(&mut self, state: &State, bytes: u64) {
        let Some((&oldest, segment)) = state.segments.first_key_value() else { return };
        if oldest == self.current.number {
            return;
        }
        let sparse = segment.live_bytes * SPARSE_FRACTION <= u64::from(segment.end);
        let crowded = state.segments.len() > SEGMENTS_RELAXED && {
            let live: u64 = state.segments.values().map(|segment| segment.live_bytes).sum();
            live * 2 <= bytes
        };
        let room = self.current.bytes - self.current.end;
        // What little room a full disk leaves is for forgetting, which is what makes space.
        let cramped = self.spare.is_none() && u64::from(room / 2) < segment.live_bytes;
        if cramped || !(sparse || crowded) {
            return;
        }
        let entries = state.works.iter().flat_map(|(work, log)| log.in_segment(oldest).map(|index| (*work, index)));
        self.reclaim.copying = entries.collect();
        self.reclaim.copying_from = oldest;
    }

    /// The next entries to copy, if they are still where they were. Called when a batch is taken from the queue: what
    /// is forgotten later is also written later.
    pub(crate) fn choose_copies(&mut self, state: &State) -> Vec<Copying> {
        let mut chosen = Vec::new();
        let mut bytes = 0;
        while bytes < COPY_BYTES_PER_BATCH
            && let Some((work, index)) = self.reclaim.copying.pop_front()
        {
            let Some(log) = state.works.get(&work) else { continue };
            let (Some(place), Some(epoch)) = (log.place(index), log.epoch_at(index)) else { continue };
            if place.segment == self.reclaim.copying_from {
                bytes += place.size();
                let cached = log.cached(index).cloned();
                chosen.push(Copying { work, wanted: Wanted { index, epoch, place }, cached });
            }
        }
        chosen
    }

    /// The operations that copy.
    pub(crate) fn read_copies(&mut self, copies: Vec<Copying>) -> Vec<Operation> {
        let mut operations = Vec::with_capacity(copies.len());
        for copy in copies {
            match self.read_copy(&copy) {
                Ok(operation) => operations.push(operation),
                Err(error) => {
                    tracing::error!(%error, "an old segment of the log cannot be given up");
                    self.reclaim.blocked = Some(self.reclaim.copying_from);
                    self.reclaim.copying.clear();
                    break;
                }
            }
        }
        operations
    }

    fn read_copy(&self, copy: &Copying) -> Result<Operation, StoreError> {
        let Wanted { index, epoch, place } = copy.wanted;
        let payload = match &copy.cached {
            Some(payload) => payload.clone(),
            None => self.read_place(copy.wanted)?,
        };
        let crc = crc32c(&payload);
        let record = Record { kind: Kind::Copied, work: copy.work, index, epoch, payload, crc };
        Ok(Operation { ticket: 0, record, name: None, from: Some(place), done: None })
    }

    fn read_place(&self, wanted: Wanted) -> Result<Bytes, StoreError> {
        let Place { segment, .. } = wanted.place;
        let file = self.shared.lock().segments.get(&segment).map(|segment| segment.file.clone());
        let path = self.shared.disk.path(&segment_name(segment));
        let missing = || StoreError::Corrupt { file: path.clone(), offset: 0, reason: "it is missing".to_owned() };
        let entries = read_entries(file.ok_or_else(missing)?.as_ref(), &path, &[wanted], &self.shared.buffers)?;
        entries.into_iter().next().map(|entry| entry.payload).ok_or_else(missing)
    }
}
