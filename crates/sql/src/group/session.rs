//! Sessions: windows that begin with a row of a key, and end when there is none for a while.
//!
//! Each partition of the source has sessions of its own rows, which its order alone decides. Those of a key that overlap are one
//! session: they lie under its end, to be put out together. A row that is older than its partition's watermark is late, whatever is
//! open: then no row can come any more that belongs to a session which is closed.

use super::table::{PackedKey, Table};
use super::{GROUPS_MAX, Groups, Row, within_bounds};
use crate::aggregate::Accumulator;

/// What stands behind an encoded key: the partition of the source, and the begin and the end of its session.
pub(super) const SUFFIX_BYTES: usize = 20;

/// A session of the rows of one partition of the source.
#[derive(Clone, Copy, Debug)]
pub(super) struct Session {
    producer: u32,
    start_us: i64,
    /// Behind its last row by the gap.
    end_us: i64,
    /// The end of the session that it makes with those of other partitions.
    until_us: i64,
}

impl Session {
    fn is_hit(&self, producer: u32, (start_us, end_us): (i64, i64)) -> bool {
        self.producer == producer && self.start_us < end_us && self.end_us > start_us
    }

    /// Where it is among the sessions of its key.
    fn order(&self) -> (i64, u32) {
        (self.start_us, self.producer)
    }

    /// The key of its group.
    fn key(&self, key: &[u8]) -> PackedKey {
        let (producer, start, end) =
            (self.producer.to_be_bytes(), self.start_us.to_be_bytes(), self.end_us.to_be_bytes());
        PackedKey::of(&[key, &producer, &start, &end].concat())
    }

    fn read(suffix: &[u8], until_us: i64) -> Option<Self> {
        let (producer, suffix) = suffix.split_first_chunk()?;
        let (start, end) = suffix.split_first_chunk()?;
        let (start_us, end_us) = (i64::from_be_bytes(*start), i64::from_be_bytes(end.try_into().ok()?));
        Some(Self { producer: u32::from_be_bytes(*producer), start_us, end_us, until_us })
    }
}

/// The begin of the session of a group's key.
pub(super) fn start_of(encoded: &[u8]) -> Option<i64> {
    let (_, suffix) = encoded.split_last_chunk::<SUFFIX_BYTES>()?;
    Session::read(suffix, 0).map(|session| session.start_us)
}

impl Groups {
    /// Whether the session of a row can take it.
    pub(super) fn check_session(&self, row: &Row<'_>, (producer, span): (u32, (i64, i64))) -> Result<(), String> {
        let known = self.sessions.get(row.encoded.as_slice()).into_iter().flatten();
        let hit = known.filter(|session| session.is_hit(producer, span));
        let mut groups = hit.filter_map(|session| {
            let table = self.windows.get(&session.until_us)?.part(row.part)?;
            Some((table, table.find(&self.layout, &session.key(&row.encoded))?))
        });
        let Some((table, record)) = groups.next() else {
            if self.count >= GROUPS_MAX {
                return Err(format!("{GROUPS_MAX} groups are open in this partition, which is the most"));
            }
            return within_bounds(self.text_bytes + row.key_bytes(SUFFIX_BYTES) + self.layout.adds(&row.values));
        };
        let mut others = groups.peekable();
        if others.peek().is_none() {
            return within_bounds(self.text_bytes + table.check(&self.layout, record, &row.values)?);
        }
        // The row makes several sessions one.
        let mut all: Vec<_> = table.accumulators(&self.layout, record).collect();
        for (table, record) in others {
            let mut both = all.iter_mut().zip(table.accumulators(&self.layout, record));
            both.try_for_each(|(one, other)| one.to_mut().merge(&other))?;
        }
        let mut adding = 0;
        for (one, value) in all.iter().zip(&row.values) {
            let Some(value) = value else { continue };
            one.check(value)?;
            adding += one.adds(value);
        }
        within_bounds(self.text_bytes + adding)
    }

    /// Takes one row into its session, which it begins, extends, or makes of several.
    pub(super) fn take_session(&mut self, row: &Row<'_>, (producer, span): (u32, (i64, i64))) {
        let known = self.sessions.remove(row.encoded.as_slice()).unwrap_or_default();
        let (hit, mut sessions): (Vec<Session>, Vec<Session>) =
            known.into_iter().partition(|session| session.is_hit(producer, span));
        let mut own = Session { producer, start_us: span.0, end_us: span.1, until_us: span.1 };
        let mut group: Option<Vec<Accumulator>> = None;
        for session in &hit {
            own.start_us = own.start_us.min(session.start_us);
            own.end_us = own.end_us.max(session.end_us);
            own.until_us = own.end_us;
            let Some(taken) = self.remove(row, session) else { continue };
            match &mut group {
                None => group = Some(taken),
                Some(group) => {
                    for (one, other) in group.iter_mut().zip(&taken) {
                        // That it can be was checked.
                        let _ = one.merge(other);
                    }
                }
            }
        }
        let mut group = group.unwrap_or_else(|| self.layout.begin().collect());
        for (accumulator, value) in group.iter_mut().zip(&row.values) {
            value.iter().for_each(|value| accumulator.take(value));
        }
        self.insert(row, &own, group);
        sessions.push(own);
        self.join(row, &mut sessions);
        self.sessions.insert(row.encoded.as_slice().into(), sessions);
    }

    /// Lets the sessions of a key that overlap end together.
    fn join(&mut self, row: &Row<'_>, sessions: &mut [Session]) {
        sessions.sort_unstable_by_key(Session::order);
        let mut ends: Vec<i64> = Vec::with_capacity(sessions.len());
        let mut end = i64::MIN;
        for session in sessions.iter() {
            if session.start_us >= end {
                end = session.end_us;
            }
            end = end.max(session.end_us);
            ends.push(end);
        }
        // What begins before the one after it ends does so with that.
        let mut next: Option<(i64, i64)> = None;
        for (session, reached) in sessions.iter_mut().zip(ends).rev() {
            let until_us = next.filter(|(start, _)| *start < reached).map_or(reached, |(_, until)| until);
            next = Some((session.start_us, until_us));
            if session.until_us != until_us {
                let group = self.remove(row, session);
                session.until_us = until_us;
                group.into_iter().for_each(|group| self.insert(row, session, group));
            }
        }
    }

    /// Notes the session of a group that was restored.
    pub(super) fn note_session(&mut self, encoded: &[u8], until_us: i64) {
        let Some((key, suffix)) = encoded.split_last_chunk::<SUFFIX_BYTES>() else { return };
        let Some(session) = Session::read(suffix, until_us) else { return };
        let sessions = self.sessions.entry(key.into()).or_default();
        // In the order in which they are merged: sums of doubles depend on it.
        let at = sessions.partition_point(|other| other.order() < session.order());
        sessions.insert(at, session);
    }

    /// Forgets the sessions of groups that end then.
    pub(super) fn forget_sessions(&mut self, table: &Table, until_us: i64) {
        let mut encoded = Vec::new();
        for record in table.records(&self.layout) {
            table.read_key(&self.layout, record, &mut encoded);
            let Some((key, _)) = encoded.split_last_chunk::<SUFFIX_BYTES>() else { continue };
            let Some(sessions) = self.sessions.get_mut(key) else { continue };
            sessions.retain(|session| session.until_us != until_us);
            if sessions.is_empty() {
                self.sessions.remove(key);
            }
        }
    }

    /// Takes the group of a session of a row's key out: what it has taken in.
    fn remove(&mut self, row: &Row<'_>, session: &Session) -> Option<Vec<Accumulator>> {
        let window = self.windows.get_mut(&session.until_us)?;
        let table = window.part_mut(row.part)?;
        let before = table.text_bytes();
        let group = table.remove(&self.layout, &session.key(&row.encoded), row.key_bytes(SUFFIX_BYTES))?;
        self.text_bytes = self.text_bytes - before + table.text_bytes();
        self.count -= 1;
        if table.len() == 0 {
            window.remove(row.part);
        }
        if window.is_empty() {
            self.windows.remove(&session.until_us);
        }
        Some(group)
    }

    /// Puts the group of a session of a row's key in.
    fn insert(&mut self, row: &Row<'_>, session: &Session, group: Vec<Accumulator>) {
        let window = self.windows.entry(session.until_us).or_default();
        let Some(table) = window.begin(row.part) else { return };
        let before = table.text_bytes();
        table.insert(&self.layout, &session.key(&row.encoded), row.key_bytes(SUFFIX_BYTES), group);
        self.text_bytes = self.text_bytes - before + table.text_bytes();
        self.count += 1;
    }
}
