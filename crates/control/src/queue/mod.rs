//! The queue of a function's asynchronous invocations as a pure state machine.
//!
//! Its owner feeds it what happens (calls that arrive, answers, the time) and commits what has changed
//! ([`Queue::take_changes`]) as one entry of the queue's log before it acts on it or tells anybody; [`Queue::restore`] makes the
//! same queue of what was committed, on any node. What runs is not written down: a new owner runs again what has no
//! answer yet, so that each invocation runs at least once, and has one answer at most: the first that is committed.
//!
//! The bounds: [`ENTRIES_MAX`] invocations, [`WAITING_BYTES_MAX`] of requests, [`ANSWERS_BYTES_MAX`] of answers.

mod keep;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use littoral_model::id::InvocationId;
use littoral_model::invocation::{Answer, Record, Request, State, StateKind, Stored};
use littoral_model::wire::WireError;

use keep::stored_bytes;

/// The most invocations of a queue, those included whose results are kept.
pub const ENTRIES_MAX: usize = 10_000;
/// The most that the requests of all invocations without an answer may take, in bytes: they are held in memory.
pub const WAITING_BYTES_MAX: usize = 64 << 20;
/// The most that all answers may take, in bytes. Beyond it the oldest lose their headers and bodies.
pub const ANSWERS_BYTES_MAX: usize = 64 << 20;
/// How long a dead letter is kept, in microseconds: two weeks, so that a holiday does not lose it.
pub const DEAD_KEEP_US: i64 = 14 * 86_400_000_000;
/// The longest wait before a further try, in microseconds: what was away for hours is met again within a minute.
pub const BACKOFF_MAX_US: i64 = 60_000_000;
/// About how many bytes of an entry are given up at once.
const EXPIRED_BYTES_MAX: usize = 3 << 20;
/// The key group of what is remembered of schedules.
const TICKS_SLOT: u32 = 0;

/// What the manifest says. Times are in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How many answers with an error are one too many.
    pub attempts: u32,
    /// How long after it was accepted an invocation is tried.
    pub max_age_us: i64,
    /// The longest wait before the second try.
    pub backoff_us: i64,
    /// How long results are kept.
    pub keep_us: i64,
    /// How many run at once.
    pub concurrency: usize,
}

/// What became of a call that arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Added {
    /// It is this invocation, which had been there before if `repeated`.
    Accepted {
        /// Which.
        id: InvocationId,
        /// Whether it was there.
        repeated: bool,
    },
    /// The queue has reached one of its bounds.
    Full(String),
    /// Its key stands for a call with another request.
    KeyTaken,
}

/// An invocation to be run now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// Which.
    pub id: InvocationId,
    /// What the function is called with.
    pub request: Request,
    /// Which try this is, from 1.
    pub attempt: u32,
}

/// A queue.
#[derive(Debug)]
pub struct Queue {
    settings: Settings,
    records: BTreeMap<u32, Record>,
    by_id: BTreeMap<InvocationId, u32>,
    by_key: BTreeMap<String, u32>,
    /// What is to be run, by when.
    due: BTreeSet<(i64, u32)>,
    /// What has no answer yet and does not run, by when it is too old.
    aging: BTreeSet<(i64, u32)>,
    /// What is done or dead, by when it is forgotten.
    expiring: BTreeSet<(i64, u32)>,
    running: BTreeSet<u32>,
    /// What is not committed as it is.
    changed: BTreeSet<u32>,
    /// What ended, was forgotten, or was tried since changes were taken last; and before that.
    touched: BTreeSet<InvocationId>,
    touched_before: BTreeSet<InvocationId>,
    ticks: BTreeMap<String, i64>,
    waiting_bytes: usize,
    answers_bytes: usize,
    /// Where the next free slot is looked for.
    cursor: u32,
    draw: u64,
}

impl Queue {
    /// The queue of what was committed, by key group. `seed` spreads the waits of its tries.
    ///
    /// # Errors
    /// When a record is not what this program writes.
    pub fn restore<'a>(
        settings: Settings,
        seed: u64,
        committed: impl Iterator<Item = (u32, &'a [u8])>,
    ) -> Result<Self, WireError> {
        let mut queue = Self {
            settings,
            records: BTreeMap::new(),
            by_id: BTreeMap::new(),
            by_key: BTreeMap::new(),
            due: BTreeSet::new(),
            aging: BTreeSet::new(),
            expiring: BTreeSet::new(),
            running: BTreeSet::new(),
            changed: BTreeSet::new(),
            touched: BTreeSet::new(),
            touched_before: BTreeSet::new(),
            ticks: BTreeMap::new(),
            waiting_bytes: 0,
            answers_bytes: 0,
            cursor: TICKS_SLOT,
            draw: seed,
        };
        for (slot, bytes) in committed {
            match Stored::decode(bytes)? {
                Stored::V1(record) => queue.put(slot, record),
                Stored::TicksV1(ticks) => queue.ticks = ticks.into_iter().collect(),
            }
        }
        queue.changed.clear();
        queue.touched.clear();
        Ok(queue)
    }

    /// Takes other settings; what waits goes by them, too.
    pub fn configure(&mut self, settings: Settings) {
        if self.settings == settings {
            return;
        }
        self.settings = settings;
        self.aging.clear();
        self.expiring.clear();
        // What runs has no end before it has ended.
        for (slot, record) in self.records.iter().filter(|(slot, _)| !self.running.contains(slot)) {
            let (kind, at) = ends(&settings, record);
            match kind {
                Ends::TooOld => self.aging.insert((at, *slot)),
                Ends::Forgotten => self.expiring.insert((at, *slot)),
            };
        }
    }

    /// A call arrives. The same id or the same key is the same invocation.
    pub fn add(&mut self, now_us: i64, id: InvocationId, key: Option<String>, request: Request) -> Added {
        let known = self.by_id.get(&id).or_else(|| self.by_key.get(key.as_ref()?));
        let fingerprint = request.fingerprint();
        if let Some(record) = known.and_then(|slot| self.records.get(slot)) {
            return match record.fingerprint == fingerprint {
                true => Added::Accepted { id: record.id, repeated: true },
                false => Added::KeyTaken,
            };
        }
        if let Err(reason) = self.make_room(request.bytes()) {
            return Added::Full(reason);
        }
        let record = Record {
            id,
            key,
            fingerprint,
            accepted_us: now_us,
            request: Some(request),
            state: State::Pending { due_us: now_us },
            attempts: 0,
            unanswered: 0,
            error: None,
        };
        let slot = self.free_slot();
        self.put(slot, record);
        Added::Accepted { id, repeated: false }
    }

    /// What is to be run now, the longest due first. Call it when what has changed is committed: what is not, is not run.
    ///
    /// What would have to wait longer than any try does was put off by a clock that was ahead, of another owner or of this
    /// one, and is run now, too.
    pub fn start(&mut self, now_us: i64) -> Vec<Run> {
        let room = self.settings.concurrency.saturating_sub(self.running.len());
        let ready = self.due.iter().take_while(|(due, _)| *due <= now_us);
        let latest = now_us.saturating_add(BACKOFF_MAX_US);
        let ready = ready.chain(self.due.range((latest.saturating_add(1), 0)..)).map(|(_, slot)| *slot);
        let slots: Vec<u32> = ready.filter(|slot| !self.changed.contains(slot)).take(room).collect();
        let mut runs = Vec::with_capacity(slots.len());
        for slot in slots {
            let Some(record) = self.records.get(&slot) else { continue };
            let (State::Pending { due_us }, Some(request)) = (&record.state, &record.request) else { continue };
            self.due.remove(&(*due_us, slot));
            self.aging.remove(&(ends(&self.settings, record).1, slot));
            self.running.insert(slot);
            let attempt = record.attempts.saturating_add(record.unanswered).saturating_add(1);
            runs.push(Run { id: record.id, request: request.clone(), attempt });
        }
        runs
    }

    /// The function has answered. Nothing happens if the invocation was dropped meanwhile.
    pub fn answered(&mut self, now_us: i64, id: InvocationId, answer: Answer) {
        match answer.status {
            429 | 503 => self.unanswered(now_us, id, format!("it was turned away with {}", answer.status)),
            408 | 425 | 500.. => {
                let text = answer.body.as_deref().map(String::from_utf8_lossy).unwrap_or_default();
                let text: String = text.chars().take(ERROR_CHARS_MAX).collect();
                let error = format!("the function answered {}: {}", answer.status, text.trim());
                self.failed(now_us, id, error, |record| record.attempts = record.attempts.saturating_add(1));
            }
            _ => {
                let Some((slot, mut record)) = self.take_running(id) else { return };
                record.request = None;
                record.error = None;
                record.state = State::Done { at_us: now_us, answer };
                self.put(slot, record);
            }
        }
    }

    /// No answer came: the function could not be reached, or did not finish.
    pub fn unanswered(&mut self, now_us: i64, id: InvocationId, reason: String) {
        self.failed(now_us, id, reason, |record| record.unanswered = record.unanswered.saturating_add(1));
    }

    fn failed(&mut self, now_us: i64, id: InvocationId, error: String, count: impl Fn(&mut Record)) {
        let Some((slot, mut record)) = self.take_running(id) else { return };
        count(&mut record);
        record.error = Some(error);
        let is_too_old = now_us >= record.accepted_us.saturating_add(self.settings.max_age_us);
        record.state = if record.attempts >= self.settings.attempts || is_too_old {
            State::Dead { at_us: now_us }
        } else {
            State::Pending {
                due_us: now_us.saturating_add(self.wait(record.attempts.saturating_add(record.unanswered))),
            }
        };
        self.put(slot, record);
    }

    /// A draw between nothing and twice as much for each further try ("full jitter": M. Brooker, "Exponential Backoff And
    /// Jitter", AWS Architecture Blog, 2015).
    fn wait(&mut self, tries: u32) -> i64 {
        let doubled = self.settings.backoff_us.saturating_mul(1_i64 << tries.saturating_sub(1).min(30));
        let most = doubled.clamp(1, BACKOFF_MAX_US);
        // SplitMix64.
        self.draw = self.draw.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.draw ^ (self.draw >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        i64::try_from((mixed ^ (mixed >> 31)) % most.unsigned_abs()).unwrap_or(most)
    }

    /// Time has passed, and answers have come: what is too old is given up, what was kept long enough is forgotten, and the
    /// oldest answers make room for the latest. Of what is written anew, a part at a time, so that it fits an entry:
    /// [`Queue::next_us`] says at once if there is more.
    pub fn expire(&mut self, now_us: i64) {
        let mut bytes = 0;
        while let Some((_, slot)) = self.expiring.first().copied().filter(|(at, _)| *at <= now_us) {
            self.remove(slot);
        }
        self.shed_answers();
        while let Some((_, slot)) =
            self.aging.first().copied().filter(|(at, _)| *at <= now_us && bytes < EXPIRED_BYTES_MAX)
        {
            let Some(mut record) = self.remove(slot) else { return };
            let why = record.error.take().unwrap_or_else(|| "it was never tried".to_owned());
            record.error = Some(format!("it is too old; last: {why}"));
            record.state = State::Dead { at_us: now_us };
            bytes += stored_bytes(&record);
            self.put(slot, record);
        }
    }

    /// Runs a dead letter once more, with all tries before it and a new age. False if it is not one.
    pub fn retry(&mut self, now_us: i64, id: InvocationId) -> bool {
        let Some(slot) = self.by_id.get(&id).copied() else { return false };
        if !self.records.get(&slot).is_some_and(|record| matches!(record.state, State::Dead { .. })) {
            return false;
        }
        let Some(mut record) = self.remove(slot) else { return false };
        (record.attempts, record.unanswered, record.accepted_us) = (0, 0, now_us);
        record.state = State::Pending { due_us: now_us };
        self.put(slot, record);
        true
    }

    /// Forgets an invocation. False if there is none.
    pub fn forget(&mut self, id: InvocationId) -> bool {
        self.by_id.get(&id).copied().and_then(|slot| self.remove(slot)).is_some()
    }

    /// An invocation.
    #[must_use]
    pub fn get(&self, id: InvocationId) -> Option<&Record> {
        self.by_id.get(&id).and_then(|slot| self.records.get(slot))
    }

    /// All invocations, or those that stand so, the latest first.
    #[must_use]
    pub fn latest(&self, of: Option<StateKind>) -> Vec<&Record> {
        let all = self.records.values().filter(|record| of.is_none_or(|kind| record.state.kind() == kind));
        let mut all: Vec<&Record> = all.collect();
        all.sort_by_key(|record| (std::cmp::Reverse(record.accepted_us), record.id));
        all
    }

    /// The last tick of a schedule that was taken in, in microseconds since 1970.
    #[must_use]
    pub fn tick(&self, trigger: &str) -> Option<i64> {
        self.ticks.get(trigger).copied()
    }

    /// A schedule has ticked; together with what it called, this is one commit. Schedules that are no more are forgotten.
    pub fn ticked(&mut self, trigger: &str, at_us: i64, known: &[String]) {
        self.ticks.retain(|name, _| known.contains(name));
        self.ticks.insert(trigger.to_owned(), at_us);
        self.changed.insert(TICKS_SLOT);
    }

    /// When something is next to be done, if nothing happens before; long ago for what is to be done at once.
    #[must_use]
    pub fn next_us(&self) -> Option<i64> {
        if self.answers_bytes > ANSWERS_BYTES_MAX {
            return Some(0);
        }
        let has_room = self.running.len() < self.settings.concurrency;
        let due = self.due.first().filter(|_| has_room);
        [due, self.aging.first(), self.expiring.first()].into_iter().flatten().map(|(at, _)| *at).min()
    }

    /// What has changed since the last call, by key group; empty bytes for what is gone. It must be committed before anything
    /// else is done, and if that fails, the queue is to be dropped.
    ///
    /// # Errors
    /// When a record is too large for a message.
    pub fn take_changes(&mut self) -> Result<Vec<(u32, Bytes)>, WireError> {
        let changed = std::mem::take(&mut self.changed);
        self.touched_before = std::mem::take(&mut self.touched);
        let encoded = changed.into_iter().map(|slot| {
            let bytes = match self.records.get(&slot) {
                _ if slot == TICKS_SLOT => {
                    let ticks = self.ticks.iter().map(|(name, at)| (name.clone(), *at)).collect();
                    Stored::TicksV1(ticks).encode()?
                }
                Some(record) => Stored::V1(record.clone()).encode()?,
                None => Bytes::new(),
            };
            Ok((slot, bytes))
        });
        encoded.collect()
    }

    /// What ended or was forgotten with the changes that were taken last: with these, who waits for that is told. What was tried
    /// only is not among it.
    pub fn ended(&self) -> impl Iterator<Item = InvocationId> {
        let is_pending = |id: &InvocationId| self.get(*id).is_some_and(|it| matches!(it.state, State::Pending { .. }));
        self.touched_before.iter().copied().filter(move |id| !is_pending(id))
    }

    /// How many invocations wait or run.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.due.len() + self.running.len()
    }

    /// How many invocations wait or run, are dead, and are done.
    #[must_use]
    pub fn counts(&self) -> (usize, usize, usize) {
        let waiting = self.waiting();
        let dead = self.records.values().filter(|record| matches!(record.state, State::Dead { .. })).count();
        (waiting, dead, self.records.len() - waiting - dead)
    }
}

/// How much of an answer with an error is kept.
const ERROR_CHARS_MAX: usize = 500;

/// What ends with time.
enum Ends {
    /// It is too old to be tried.
    TooOld,
    /// It is forgotten.
    Forgotten,
}

fn ends(settings: &Settings, record: &Record) -> (Ends, i64) {
    match record.state {
        State::Pending { .. } => (Ends::TooOld, record.accepted_us.saturating_add(settings.max_age_us)),
        State::Done { at_us, .. } => (Ends::Forgotten, at_us.saturating_add(settings.keep_us)),
        State::Dead { at_us } => (Ends::Forgotten, at_us.saturating_add(DEAD_KEEP_US)),
    }
}
