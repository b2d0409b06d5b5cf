//! Where the entries of one work are: 12 bytes for each that is held, and the most recent payloads themselves.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use super::format::{Standing, record_size};

/// Where an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The segment's number; 0 while the entry waits for the disk.
    pub(crate) segment: u32,
    /// Where its record begins; while it waits, the lower half of its ticket.
    pub(crate) offset: u32,
    /// The length of its payload.
    pub(crate) len: u32,
}

impl Place {
    pub(crate) fn pending(ticket: u64, len: usize) -> Self {
        Self { segment: 0, offset: ticket as u32, len: len as u32 }
    }

    pub(crate) fn is_pending(self) -> bool {
        self.segment == 0
    }

    /// How much of the segment the entry takes.
    pub(crate) fn size(self) -> u64 {
        u64::from(record_size(self.len))
    }
}

/// The log of one work, as it will be once everything that waits is written.
#[derive(Debug)]
pub(crate) struct Work {
    pub(crate) name: Arc<str>,
    standing: Standing,
    /// Of the entries `first..next`.
    places: VecDeque<Place>,
    /// What they take of segments, all together.
    bytes: u64,
    /// How many of the places, at the end, are pending.
    pending: usize,
    /// Where each run of entries of one epoch begins.
    epochs: VecDeque<(u64, u64)>,
    /// The payloads of the last so many entries.
    tail: VecDeque<Bytes>,
}

impl Work {
    pub(crate) fn new(name: Arc<str>, standing: Standing) -> Self {
        let (places, epochs, tail) = (VecDeque::new(), VecDeque::new(), VecDeque::new());
        Self { name, standing, places, bytes: 0, pending: 0, epochs, tail }
    }

    /// With entries that are on disk already.
    pub(crate) fn recovered(name: Arc<str>, standing: Standing, entries: Vec<(Place, u64)>) -> Self {
        let mut work = Self::new(name, standing);
        for ((place, epoch), index) in entries.into_iter().zip(standing.first..) {
            work.note_epoch(index, epoch);
            work.bytes += place.size();
            work.places.push_back(place);
        }
        work
    }

    pub(crate) fn standing(&self) -> Standing {
        self.standing
    }

    /// Everything up to this index is on disk.
    pub(crate) fn durable(&self) -> u64 {
        (self.standing.next - 1).saturating_sub(self.pending as u64)
    }

    /// The epoch of an entry that is held, or of the one before the first.
    pub(crate) fn epoch_at(&self, index: u64) -> Option<u64> {
        if index + 1 == self.standing.first {
            return Some(self.standing.base_epoch);
        }
        if !(self.standing.first..self.standing.next).contains(&index) {
            return None;
        }
        let after = self.epochs.partition_point(|(start, _)| *start <= index);
        self.epochs.get(after.checked_sub(1)?).map(|(_, epoch)| *epoch)
    }

    /// What the entries that are held take of segments.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The first of the latest entries that together take no more than so many bytes.
    pub(crate) fn first_within(&self, bytes_max: u64) -> u64 {
        let (mut bytes, mut first) = (self.bytes, self.standing.first);
        for place in &self.places {
            if bytes <= bytes_max {
                break;
            }
            bytes -= place.size();
            first += 1;
        }
        first
    }

    pub(crate) fn place(&self, index: u64) -> Option<Place> {
        self.places.get(index.checked_sub(self.standing.first)? as usize).copied()
    }

    /// A payload that is in memory.
    pub(crate) fn cached(&self, index: u64) -> Option<&Bytes> {
        self.tail.get(index.checked_sub(self.tail_first())? as usize)
    }

    fn tail_first(&self) -> u64 {
        self.standing.next - self.tail.len() as u64
    }

    fn note_epoch(&mut self, index: u64, epoch: u64) {
        if self.epochs.back().is_none_or(|(_, last)| *last != epoch) {
            self.epochs.push_back((index, epoch));
        }
    }

    /// Adds the next entry, which waits for the disk; its index.
    pub(crate) fn push(&mut self, epoch: u64, payload: Bytes, ticket: u64) -> u64 {
        let index = self.standing.next;
        self.note_epoch(index, epoch);
        let place = Place::pending(ticket, payload.len());
        self.bytes += place.size();
        self.places.push_back(place);
        self.pending += 1;
        self.tail.push_back(payload);
        self.standing.next += 1;
        self.standing.last_epoch = epoch;
        index
    }

    /// An entry was written; false when it was forgotten in the meantime.
    pub(crate) fn written(&mut self, index: u64, ticket: u64, place: Place) -> bool {
        let expected = Place::pending(ticket, place.len as usize);
        self.replace(index, expected, place) && {
            self.pending -= 1;
            true
        }
    }

    /// An entry is at another place now; false when it is not where it was thought to be.
    pub(crate) fn replace(&mut self, index: u64, from: Place, to: Place) -> bool {
        let Some(at) = index.checked_sub(self.standing.first) else { return false };
        match self.places.get_mut(at as usize) {
            Some(place) if *place == from => {
                *place = to;
                true
            }
            _ => false,
        }
    }

    /// Forgets entries from `from` on, which is at least `first`; tells where each was, and how long each cached
    /// payload.
    pub(crate) fn truncate(&mut self, from: u64, mut freed: impl FnMut(Place), mut uncached: impl FnMut(usize)) {
        self.standing.last_epoch = self.epoch_at(from - 1).unwrap_or(self.standing.last_epoch);
        while self.standing.next > from {
            if let Some(payload) = self.tail.pop_back() {
                uncached(payload.len());
            }
            if let Some(place) = self.places.pop_back() {
                self.bytes -= place.size();
                self.pending -= usize::from(place.is_pending());
                freed(place);
            }
            self.standing.next -= 1;
        }
        while self.epochs.back().is_some_and(|(start, _)| *start >= from) {
            self.epochs.pop_back();
        }
        if self.places.is_empty() {
            self.epochs.clear();
        }
    }

    /// Forgets entries below `below`, which is at most `next`.
    pub(crate) fn trim(&mut self, below: u64, mut freed: impl FnMut(Place), mut uncached: impl FnMut(usize)) {
        self.standing.base_epoch = self.epoch_at(below - 1).unwrap_or(self.standing.base_epoch);
        while self.standing.first < below {
            if self.tail_first() == self.standing.first
                && let Some(payload) = self.tail.pop_front()
            {
                uncached(payload.len());
            }
            if let Some(place) = self.places.pop_front() {
                self.bytes -= place.size();
                self.pending -= usize::from(place.is_pending());
                freed(place);
            }
            self.standing.first += 1;
        }
        while self.epochs.get(1).is_some_and(|(start, _)| *start <= below) {
            self.epochs.pop_front();
        }
        if self.places.is_empty() {
            self.epochs.clear();
        }
    }

    /// Forgets all entries and goes on at `next`.
    pub(crate) fn reset(&mut self, next: u64, epoch: u64, freed: impl FnMut(Place), uncached: impl FnMut(usize)) {
        self.truncate(self.standing.first, freed, uncached);
        self.standing = Standing { first: next, next, base_epoch: epoch, last_epoch: epoch };
    }

    /// Lets go of the oldest payload in memory if it is of an entry up to `index` and on disk; its length. None when
    /// it must be kept, because it is nowhere else; `Some(0)` when there is nothing to let go of.
    pub(crate) fn evict(&mut self, index: u64) -> Option<usize> {
        if self.tail.is_empty() || self.tail_first() > index {
            return Some(0);
        }
        if self.tail.len() <= self.pending {
            return None;
        }
        self.tail.pop_front().map(|payload| payload.len())
    }

    /// The entries that are in a segment.
    pub(crate) fn in_segment(&self, segment: u32) -> impl Iterator<Item = u64> {
        let places = self.places.iter().zip(self.standing.first..);
        places.filter(move |(place, _)| place.segment == segment).map(|(_, index)| index)
    }
}
