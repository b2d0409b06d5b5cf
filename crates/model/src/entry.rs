//! What the log of a unit of work holds, and how far a reader of it has come.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::id::Epoch;
use crate::wire::{self, WireError};
use crate::work::WorkId;

/// How far a reader has come in a work's log: the next entry, and how many of that entry's rows it has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Position {
    /// The index of the next entry to read; the first is 1.
    pub index: u64,
    /// How many rows of that entry are done already.
    pub row: u32,
}

impl Position {
    /// The beginning of every log.
    pub const START: Self = Self { index: 1, row: 0 };
    /// Behind the last committed entry, wherever that is: where a reader begins who wants only what is to come.
    pub const END: Self = Self { index: u64::MAX, row: 0 };
}

/// One port's batch of rows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortBatch {
    /// Which output of the stage; [`PORT_MAIN`] for its main one and for streams.
    pub port: String,
    /// How many rows.
    pub rows: u32,
    /// When the oldest of the records behind these rows was published, in microseconds since 1970; for measuring
    /// latency end to end. None if unknown.
    pub origin_us: Option<i64>,
    /// An Arrow IPC stream (one schema message, one record batch).
    pub arrow: Bytes,
}

/// The port of a stream's records and of a stage's main output.
pub const PORT_MAIN: &str = "main";
/// The port of those rows of a stage's main output that belong to one partition of its sink.
#[must_use]
pub fn partition_port(partition: u32) -> String {
    format!("{PORT_MAIN}.{partition}")
}
/// The port of the key groups that a stage hands over to one of its partitions, where their number changes.
#[must_use]
pub fn handover_port(partition: u32) -> String {
    format!("handover.{partition}")
}
/// The port on which the first partition of a stage announces that the number of its partitions changes.
pub const PORT_CHANGES: &str = "changes";
/// The port of a stage's rejected rows.
pub const PORT_DEAD_LETTER: &str = "dead-letter";
/// Where rows are counted that a stage has passed over; no port has this name.
pub const COUNTED_AS_SHED: &str = "(shed)";

/// How far one input has been consumed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputPosition {
    /// The work whose log is read.
    pub work: WorkId,
    /// The epoch of its owner when it was read; a reader never goes back to a lower one.
    pub epoch: Epoch,
    /// Everything before this is consumed.
    pub position: Position,
}

/// Everything one step of a unit of work changes, committed as one entry (design decision 5): inputs consumed, state
/// changed, rows put out, producers seen. Either all of it happened, or none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commit {
    /// The inputs that advanced.
    pub inputs: Vec<InputPosition>,
    /// The key groups whose state changed, with their whole new state; empty bytes remove one.
    pub state: Vec<(u32, Bytes)>,
    /// The rows put out.
    pub outputs: Vec<PortBatch>,
    /// For rows published from outside: who published them and their number, for dropping repeats.
    pub producers: Vec<ProducerSequence>,
    /// The highest event time seen, in microseconds since 1970, less the allowed lateness.
    pub watermark_us: Option<i64>,
}

impl Commit {
    /// Decodes a commit without copying its rows and states: they are slices of the encoding, and keep all of it in memory.
    ///
    /// # Errors
    /// As for [`wire::decode`].
    pub fn decode(encoded: &Bytes) -> Result<Self, WireError> {
        let Slices { inputs, state, outputs, producers, watermark_us } = wire::decode(encoded)?;
        let batch = |SliceBatch { port, rows, origin_us, arrow }| PortBatch {
            port,
            rows,
            origin_us,
            arrow: encoded.slice_ref(arrow),
        };
        Ok(Self {
            inputs,
            state: state.into_iter().map(|(group, bytes)| (group, encoded.slice_ref(bytes))).collect(),
            outputs: outputs.into_iter().map(batch).collect(),
            producers,
            watermark_us,
        })
    }
}

/// A [`Commit`] that borrows from its encoding.
#[derive(Deserialize)]
struct Slices<'e> {
    inputs: Vec<InputPosition>,
    #[serde(borrow)]
    state: Vec<(u32, &'e [u8])>,
    #[serde(borrow)]
    outputs: Vec<SliceBatch<'e>>,
    producers: Vec<ProducerSequence>,
    watermark_us: Option<i64>,
}

/// A [`PortBatch`] that does.
#[derive(Deserialize)]
struct SliceBatch<'e> {
    port: String,
    rows: u32,
    origin_us: Option<i64>,
    arrow: &'e [u8],
}

/// The number of a producer's latest publication.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProducerSequence {
    /// Chosen by the producer, at most 128 bytes.
    pub producer: String,
    /// Raised by a producer each time it starts anew; a publication with a lower one is refused.
    pub epoch: u64,
    /// Rises by at least one with each publication.
    pub sequence: u64,
}

/// One entry of a work's log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its place, from 1, without gaps.
    pub index: u64,
    /// The epoch of the owner that wrote it.
    pub epoch: Epoch,
    /// An encoded [`Commit`] (see [`crate::wire`] for the encoding).
    pub payload: Bytes,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_commit_is_decoded_in_place() {
        let batch = |port: &str, arrow: &'static [u8]| PortBatch {
            port: port.to_owned(),
            rows: 3,
            origin_us: Some(-7),
            arrow: Bytes::from_static(arrow),
        };
        let commit = Commit {
            inputs: vec![InputPosition {
                work: "default/app/stream/readings/0@hall".parse().unwrap(),
                epoch: Epoch(4),
                position: Position { index: 9, row: 2 },
            }],
            state: vec![(1, Bytes::from_static(b"one")), (300, Bytes::new())],
            outputs: vec![batch(PORT_MAIN, b"rows"), batch(PORT_DEAD_LETTER, b"")],
            producers: vec![ProducerSequence { producer: "p".to_owned(), epoch: 1, sequence: 7 }],
            watermark_us: Some(5),
        };
        let encoded = wire::encode(&commit).unwrap();
        let decoded = Commit::decode(&encoded).unwrap();
        assert_eq!(decoded, commit);
        assert_eq!(decoded, wire::decode(&encoded).unwrap());
        let within = encoded.as_ptr_range();
        for slice in [&decoded.state.first().unwrap().1, &decoded.outputs.first().unwrap().arrow] {
            assert!(within.contains(&slice.as_ptr()), "it was copied");
        }
        assert!(Commit::decode(&encoded.slice(..encoded.len() - 1)).is_err());
    }
}
