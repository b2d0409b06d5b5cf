//! What a work's derived state holds: the latest value of everything that commits change.
//!
//! Keys: `s` and four bytes, a key group's state; `i` and a work, how far that input is consumed; `p` and a name, that
//! producer's latest publication; `w`, the watermark. Values are messages (see `model::wire`), but for groups, whose
//! bytes are the guest's.

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes, BytesMut};
use littoral_model::entry::{Commit, InputPosition, Position, ProducerSequence};
use littoral_model::id::Epoch;
use littoral_model::wire::{self, WireError};
use littoral_model::work::WorkId;

/// New values by key; none removes the key.
pub(super) type Changes = BTreeMap<Bytes, Option<Bytes>>;

/// What the owner of a work goes on from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// The key groups that have state.
    pub state: Vec<(u32, Bytes)>,
    /// How far each input is consumed.
    pub inputs: Vec<InputPosition>,
    /// The latest watermark, microseconds since 1970.
    pub watermark_us: Option<i64>,
}

/// A producer's latest publication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Published {
    pub(super) epoch: u64,
    pub(super) sequence: u64,
    /// The entry that holds it.
    pub(super) index: u64,
}

/// Stands in a commit for "this producer is forgotten". Every replica learns that from the log, so that all forget the
/// same ones.
pub(super) fn forgotten(producer: String) -> ProducerSequence {
    ProducerSequence { producer, epoch: u64::MAX, sequence: u64::MAX }
}

/// Adds what a commit changes.
pub(super) fn fold(changes: &mut Changes, index: u64, commit: &Commit) -> Result<(), WireError> {
    for (group, bytes) in &commit.state {
        let mut key = BytesMut::with_capacity(5);
        key.put_u8(b's');
        key.put_u32(*group);
        // Copied: what is kept for long must not keep in memory what it was read with.
        changes.insert(key.freeze(), (!bytes.is_empty()).then(|| Bytes::copy_from_slice(bytes)));
    }
    for input in &commit.inputs {
        changes.insert(key(b'i', &input.work.to_string()), Some(wire::encode(&(input.epoch, input.position))?));
    }
    for producer in &commit.producers {
        let gone = *producer == forgotten(producer.producer.clone());
        let value = wire::encode(&(producer.epoch, producer.sequence, index))?;
        changes.insert(key(b'p', &producer.producer), (!gone).then_some(value));
    }
    if let Some(watermark) = commit.watermark_us {
        changes.insert(Bytes::from_static(b"w"), Some(wire::encode(&watermark)?));
    }
    Ok(())
}

/// The whole derived state of a work, read.
#[derive(Debug, Default)]
pub(super) struct Rebuilt {
    pub(super) restored: Restored,
    pub(super) producers: BTreeMap<String, Published>,
}

/// Reads a derived state.
pub(super) fn read(rows: &BTreeMap<Bytes, Bytes>) -> Result<Rebuilt, WireError> {
    let mut rebuilt = Rebuilt::default();
    for (key, value) in rows {
        match key.split_first() {
            Some((b's', group)) => {
                let group = group.try_into().map(u32::from_be_bytes).map_err(|_| malformed("the key of a group"))?;
                rebuilt.restored.state.push((group, value.clone()));
            }
            Some((b'i', work)) => {
                let work: WorkId = text(work)?.parse().map_err(|_| malformed("the name of an input"))?;
                let (epoch, position): (Epoch, Position) = wire::decode(value)?;
                rebuilt.restored.inputs.push(InputPosition { work, epoch, position });
            }
            Some((b'p', producer)) => {
                let (epoch, sequence, index) = wire::decode(value)?;
                rebuilt.producers.insert(text(producer)?.to_owned(), Published { epoch, sequence, index });
            }
            Some((b'w', [])) => rebuilt.restored.watermark_us = Some(wire::decode(value)?),
            _ => return Err(malformed("a key of derived state")),
        }
    }
    Ok(rebuilt)
}

fn key(kind: u8, name: &str) -> Bytes {
    let mut key = BytesMut::with_capacity(1 + name.len());
    key.put_u8(kind);
    key.put_slice(name.as_bytes());
    key.freeze()
}

fn text(bytes: &[u8]) -> Result<&str, WireError> {
    std::str::from_utf8(bytes).map_err(|_| malformed("a name"))
}

fn malformed(kind: &'static str) -> WireError {
    WireError::Malformed { kind, reason: "it is not what this program writes".to_owned() }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_is_folded_is_read_back_and_empty_state_is_gone() {
        let work: WorkId = "default/app/stage/f.0/3@hall".parse().unwrap();
        let input = InputPosition { work, epoch: Epoch(4), position: Position { index: 9, row: 2 } };
        let producer = ProducerSequence { producer: "p".to_owned(), epoch: 1, sequence: 7 };
        let first = Commit {
            inputs: vec![input.clone()],
            state: vec![(1, Bytes::from_static(b"one")), (300, Bytes::from_static(b"two"))],
            producers: vec![producer.clone(), ProducerSequence { producer: "q".to_owned(), ..producer }],
            watermark_us: Some(-5),
            ..Commit::default()
        };
        let second =
            Commit { state: vec![(1, Bytes::new())], producers: vec![forgotten("q".to_owned())], ..Commit::default() };
        let mut changes = Changes::new();
        fold(&mut changes, 1, &first).unwrap();
        fold(&mut changes, 2, &second).unwrap();
        let rows = changes.into_iter().filter_map(|(key, value)| Some((key, value?))).collect();
        let rebuilt = read(&rows).unwrap();
        assert_eq!(rebuilt.restored.state, [(300, Bytes::from_static(b"two"))]);
        assert_eq!((rebuilt.restored.inputs, rebuilt.restored.watermark_us), (vec![input], Some(-5)));
        let published = Published { epoch: 1, sequence: 7, index: 1 };
        assert_eq!(rebuilt.producers, BTreeMap::from([("p".to_owned(), published)]));
    }
}
