//! What the state of groups is written as, a key group at a time.

use serde::{Deserialize, Serialize};

use super::Progress;
use crate::aggregate::Accumulator;
use crate::value::Cell;

/// The version of what a snapshot is written in.
const STATE_VERSION: u8 = 1;
/// The same of something that is idle.
const STATE_VERSION_IDLE: u8 = 2;
/// The same where groups of closed windows are still to be put out.
const STATE_VERSION_UNFINISHED: u8 = 3;

/// What one key group's state says.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) progress: Progress,
    /// Which window, by its end, and part of it is to be put out next, if its watermark says that it is closed.
    pub(super) next: Option<(i64, u32)>,
    /// By the end of their window and encoded key.
    pub(super) groups: Vec<((i64, Vec<u8>), Group)>,
}

/// A group as it is written.
#[derive(Debug, Deserialize)]
pub(super) struct Group {
    pub(super) keys: Vec<Option<Cell<'static>>>,
    pub(super) accumulators: Vec<Accumulator>,
}

/// What is written, behind its version.
#[derive(Deserialize)]
struct Written {
    layout: u64,
    groups: Vec<((i64, Vec<u8>), Group)>,
    watermark_us: Option<i64>,
}

/// A state that is being written.
pub(super) struct Writer(Vec<u8>);

impl Writer {
    /// Begins a state of so many groups.
    pub(super) fn begin(layout: u64, progress: Progress, next: Option<(i64, u32)>, groups: usize) -> Self {
        let version = match (progress.is_idle, next) {
            (_, Some(_)) => STATE_VERSION_UNFINISHED,
            (true, None) => STATE_VERSION_IDLE,
            (false, None) => STATE_VERSION,
        };
        let mut writer = Self(vec![version]);
        next.into_iter().for_each(|next| writer.push(&next));
        writer.push(&layout);
        writer.push(&groups);
        writer
    }

    /// A group: the end of its window, its encoded key, that without what tells groups of one key apart, and its accumulators.
    pub(super) fn group<A: Serialize>(
        &mut self,
        end_us: i64,
        (encoded, common): (&[u8], &[u8]),
        accumulators: impl ExactSizeIterator<Item = A>,
    ) {
        self.push(&(end_us, encoded));
        // A key is a list of cells, encoded.
        self.0.extend_from_slice(common);
        self.push(&accumulators.len());
        accumulators.for_each(|accumulator| self.push(&accumulator));
    }

    /// The whole state.
    pub(super) fn end(mut self, progress: Progress) -> Vec<u8> {
        self.push(&progress.watermark_us);
        self.0
    }

    fn push(&mut self, value: &impl Serialize) {
        // What is in memory has a length, and can be encoded.
        self.0 = postcard::to_extend(value, std::mem::take(&mut self.0)).unwrap_or_default();
    }
}

/// The state of a key group with nothing but how far something has come.
pub(crate) fn written_progress(layout: u64, progress: Progress) -> Vec<u8> {
    Writer::begin(layout, progress, None, 0).end(progress)
}

/// What a key group's state says of how far something has come; nothing if it has no state.
pub(crate) fn read_progress(layout: u64, bytes: &[u8]) -> Result<Option<Progress>, String> {
    Ok(read(layout, bytes)?.map(|state| state.progress))
}

/// What was written; nothing if it has no state.
pub(super) fn read(layout: u64, bytes: &[u8]) -> Result<Option<State>, String> {
    let Some((version, bytes)) = bytes.split_first() else { return Ok(None) };
    let unreadable = |error| format!("the state cannot be read: {error}");
    let (next, bytes) = match *version {
        STATE_VERSION | STATE_VERSION_IDLE => (None, bytes),
        STATE_VERSION_UNFINISHED => {
            let (next, bytes) = postcard::take_from_bytes(bytes).map_err(unreadable)?;
            (Some(next), bytes)
        }
        newer => return Err(format!("the state is of format {newer}; upgrade this node")),
    };
    let written: Written = postcard::from_bytes(bytes).map_err(unreadable)?;
    if written.layout != layout {
        return Err(
            "the state is of a query with another source, or other windows, keys or aggregates; give the flow another name".to_owned()
        );
    }
    let progress = Progress { watermark_us: written.watermark_us, is_idle: *version == STATE_VERSION_IDLE };
    Ok(Some(State { progress, next, groups: written.groups }))
}
