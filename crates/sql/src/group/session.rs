//! Sessions: windows that begin with a row of a key, and end when there is none for a while.
//!
//! Each partition of the source has sessions of its own rows, which its order alone decides. Those of a key that overlap are one
//! session: they lie under its end, to be put out together. A row that is older than its partition's watermark is late, whatever is
//! open: then no row can come any more that belongs to a session which is closed.

use super::{GROUPS_MAX, Group, Groups, Key, Row, adds, begin, group_bytes, key_bytes, within_bounds};
use crate::aggregate::Accumulator;
use crate::plan::Grouping;
use crate::value::Cell;

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

    /// The key of its group.
    fn key(&self, key: &[u8]) -> Key {
        let (producer, start, end) =
            (self.producer.to_be_bytes(), self.start_us.to_be_bytes(), self.end_us.to_be_bytes());
        Key::from_vec([key, &producer, &start, &end].concat())
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
    pub(super) fn check_session(
        &self,
        grouping: &Grouping,
        row: &Row<'_>,
        (producer, span): (u32, (i64, i64)),
    ) -> Result<(), String> {
        let known = self.sessions.get(row.encoded.as_slice()).into_iter().flatten();
        let hit = known.filter(|session| session.is_hit(producer, span));
        let mut groups = hit.filter_map(|session| {
            let part = self.windows.get(&session.until_us)?.get(&row.part)?;
            part.get(&session.key(&row.encoded)[..])
        });
        let Some(first) = groups.next() else {
            let fresh = begin(grouping);
            let adding = key_bytes(&row.keys, &row.encoded) + SUFFIX_BYTES + adds(fresh.iter().zip(&row.values));
            if self.count >= GROUPS_MAX {
                return Err(format!("{GROUPS_MAX} groups are open in this partition, which is the most"));
            }
            return within_bounds(self.text_bytes + adding);
        };
        let check = |accumulators: &[Accumulator]| {
            let mut both = accumulators.iter().zip(&row.values);
            both.try_for_each(|(one, value)| value.as_ref().map_or(Ok(()), |value| one.check(value)))
        };
        let mut others = groups.peekable();
        if others.peek().is_none() {
            check(&first.accumulators)?;
        } else {
            // The row makes several sessions one.
            let mut all = first.accumulators.clone();
            for other in others {
                all.iter_mut().zip(&other.accumulators).try_for_each(|(one, other)| one.merge(other))?;
            }
            check(&all)?;
        }
        within_bounds(self.text_bytes + adds(first.accumulators.iter().zip(&row.values)))
    }

    /// Takes one row into its session, which it begins, extends, or makes of several.
    pub(super) fn take_session(&mut self, grouping: &Grouping, row: &Row<'_>, (producer, span): (u32, (i64, i64))) {
        let known = self.sessions.remove(row.encoded.as_slice()).unwrap_or_default();
        let (hit, mut sessions): (Vec<Session>, Vec<Session>) =
            known.into_iter().partition(|session| session.is_hit(producer, span));
        let mut own = Session { producer, start_us: span.0, end_us: span.1, until_us: span.1 };
        let mut group: Option<Group> = None;
        for session in &hit {
            own.start_us = own.start_us.min(session.start_us);
            own.end_us = own.end_us.max(session.end_us);
            own.until_us = own.end_us;
            let Some(taken) = self.remove(row.part, session.until_us, &session.key(&row.encoded)) else { continue };
            match &mut group {
                None => group = Some(taken),
                Some(group) => {
                    for (one, other) in group.accumulators.iter_mut().zip(&taken.accumulators) {
                        // That it can be was checked.
                        let _ = one.merge(other);
                    }
                }
            }
        }
        let keys = || row.keys.iter().cloned().map(|key| key.map(Cell::into_owned)).collect();
        let mut group = group.unwrap_or_else(|| Group { keys: keys(), accumulators: begin(grouping) });
        for (accumulator, value) in group.accumulators.iter_mut().zip(&row.values) {
            value.iter().for_each(|value| accumulator.take(value));
        }
        self.insert(row.part, own.until_us, own.key(&row.encoded), group);
        sessions.push(own);
        self.join(row, &mut sessions);
        self.sessions.insert(row.encoded.as_slice().into(), sessions);
    }

    /// Lets the sessions of a key that overlap end together.
    fn join(&mut self, row: &Row<'_>, sessions: &mut [Session]) {
        sessions.sort_unstable_by_key(|session| (session.start_us, session.producer));
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
                let key = session.key(&row.encoded);
                if let Some(group) = self.remove(row.part, session.until_us, &key) {
                    self.insert(row.part, until_us, key, group);
                }
                session.until_us = until_us;
            }
        }
    }

    /// Notes the session of a group that was restored.
    pub(super) fn note_session(&mut self, encoded: &[u8], until_us: i64) {
        let Some((key, suffix)) = encoded.split_last_chunk::<SUFFIX_BYTES>() else { return };
        let session = Session::read(suffix, until_us);
        self.sessions.entry(key.into()).or_default().extend(session);
    }

    /// Forgets the sessions of a group's key that end then.
    pub(super) fn forget_sessions(&mut self, encoded: &[u8], until_us: i64) {
        let Some((key, _)) = encoded.split_last_chunk::<SUFFIX_BYTES>() else { return };
        let Some(sessions) = self.sessions.get_mut(key) else { return };
        sessions.retain(|session| session.until_us != until_us);
        if sessions.is_empty() {
            self.sessions.remove(key);
        }
    }

    fn remove(&mut self, part: u32, end_us: i64, key: &[u8]) -> Option<Group> {
        let parts = self.windows.get_mut(&end_us)?;
        let groups = parts.get_mut(&part)?;
        let group = groups.remove(key)?;
        if groups.is_empty() {
            parts.remove(&part);
        }
        if parts.is_empty() {
            self.windows.remove(&end_us);
        }
        self.count -= 1;
        self.text_bytes -= group_bytes(key, &group);
        Some(group)
    }

    fn insert(&mut self, part: u32, end_us: i64, key: Key, group: Group) {
        self.count += 1;
        self.text_bytes += group_bytes(&key, &group);
        self.windows.entry(end_us).or_default().entry(part).or_default().insert(key, group);
    }
}
