//! The records of a queue and the indexes over them, which change together; and how room is made.

use littoral_model::id::InvocationId;
use littoral_model::invocation::{Record, State};

use super::{ANSWERS_BYTES_MAX, ENTRIES_MAX, Ends, Queue, TICKS_SLOT, WAITING_BYTES_MAX, ends};

/// How many answers lose what they hold at once: what is left of so many takes less than a MiB of an entry.
const SHED_MAX: usize = 2_000;
/// What a record takes in an entry besides its texts: its numbers, and the lengths of its parts.
const NUMBERS_BYTES: usize = 100;

impl Queue {
    /// Puts a record into a slot that is free.
    pub(super) fn put(&mut self, slot: u32, record: Record) {
        let (kind, at) = ends(&self.settings, &record);
        match kind {
            Ends::TooOld => self.aging.insert((at, slot)),
            Ends::Forgotten => self.expiring.insert((at, slot)),
        };
        if let State::Pending { due_us } = record.state {
            self.due.insert((due_us, slot));
        } else {
            self.touched.insert(record.id);
        }
        self.by_id.insert(record.id, slot);
        if let Some(key) = &record.key {
            self.by_key.insert(key.clone(), slot);
        }
        let (waiting, answer) = sizes(&record);
        self.waiting_bytes += waiting;
        self.answers_bytes += answer;
        self.changed.insert(slot);
        self.records.insert(slot, record);
    }

    /// Takes a record out of its slot.
    pub(super) fn remove(&mut self, slot: u32) -> Option<Record> {
        let record = self.records.remove(&slot)?;
        let (_, at) = ends(&self.settings, &record);
        self.aging.remove(&(at, slot));
        self.expiring.remove(&(at, slot));
        self.running.remove(&slot);
        if let State::Pending { due_us } = record.state {
            self.due.remove(&(due_us, slot));
        }
        self.by_id.remove(&record.id);
        if let Some(key) = &record.key {
            self.by_key.remove(key);
        }
        let (waiting, answer) = sizes(&record);
        self.waiting_bytes -= waiting;
        self.answers_bytes -= answer;
        self.changed.insert(slot);
        self.touched.insert(record.id);
        Some(record)
    }

    /// Takes out a record that runs.
    pub(super) fn take_running(&mut self, id: InvocationId) -> Option<(u32, Record)> {
        let slot = self.by_id.get(&id).copied().filter(|slot| self.running.contains(slot))?;
        Some((slot, self.remove(slot)?))
    }

    /// Makes room for a request: results without a key may be forgotten early, nothing else.
    pub(super) fn make_room(&mut self, bytes: usize) -> Result<(), String> {
        if self.waiting_bytes.saturating_add(bytes) > WAITING_BYTES_MAX {
            return Err(format!("the calls that wait have {WAITING_BYTES_MAX} bytes together, and more are not held"));
        }
        if self.records.len() < ENTRIES_MAX {
            return Ok(());
        }
        let is_free = |slot: &u32| {
            let record = self.records.get(slot);
            record.is_some_and(|record| record.key.is_none() && matches!(record.state, State::Done { .. }))
        };
        let oldest = self.expiring.iter().map(|(_, slot)| *slot).find(is_free);
        match oldest.and_then(|slot| self.remove(slot)) {
            Some(_) => Ok(()),
            None => {
                Err(format!("the queue has {ENTRIES_MAX} calls that wait, are dead, or have a key that is to be known"))
            }
        }
    }

    /// Drops bodies and headers of the oldest answers until the rest fits, a part at a time.
    pub(super) fn shed_answers(&mut self) {
        let mut excess = self.answers_bytes.saturating_sub(ANSWERS_BYTES_MAX);
        let mut slots = Vec::new();
        for (_, slot) in &self.expiring {
            if excess == 0 || slots.len() >= SHED_MAX {
                break;
            }
            let (_, answer) = self.records.get(slot).map_or((0, 0), sizes);
            if answer > 0 {
                excess = excess.saturating_sub(answer);
                slots.push(*slot);
            }
        }
        for slot in slots {
            let Some(mut record) = self.remove(slot) else { continue };
            if let State::Done { answer, .. } = &mut record.state {
                (answer.body, answer.headers) = (None, Vec::new());
            }
            self.put(slot, record);
        }
    }

    /// A slot that is free, other than that of the ticks. There is one: there are fewer records than slots.
    pub(super) fn free_slot(&mut self) -> u32 {
        loop {
            self.cursor = self.cursor.wrapping_add(1);
            if self.cursor != TICKS_SLOT && !self.records.contains_key(&self.cursor) {
                return self.cursor;
            }
        }
    }
}

/// About how many bytes a record takes in an entry.
pub(super) fn stored_bytes(record: &Record) -> usize {
    let (request, answer) = sizes(record);
    let texts = record.key.as_ref().map_or(0, String::len) + record.error.as_ref().map_or(0, String::len);
    request + answer + texts + NUMBERS_BYTES
}

/// How many bytes a record counts among those that wait, and among answers.
fn sizes(record: &Record) -> (usize, usize) {
    let request = record.request.as_ref().map_or(0, littoral_model::invocation::Request::bytes);
    let answer = match &record.state {
        State::Done { answer, .. } => answer.bytes(),
        _ => 0,
    };
    (request, answer)
}
