//! What the log of a unit of work holds, and how far a reader of it has come.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::id::Epoch;
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
/// The port of a stage's rejected rows.
pub const PORT_DEAD_LETTER: &str = "dead-letter";

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
