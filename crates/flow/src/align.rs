//! In which order a partition takes rows that are spread by their keys while the number of partitions changes.
//!
//! Behind the notice of one who spreads rows that it has switched to another number (`littoral_sql::Notice`) its rows wait in its own log
//! until all have switched, and until all who had groups before have handed over those that are this partition's now. So whoever reads the
//! partition finds the rows of before, then the notices, then what is handed over, then the rows of after, and nothing is kept in memory.

use std::collections::BTreeSet;

use bytes::Bytes;
use littoral_model::work::WorkId;
use littoral_sql::{Change, Notice};
use serde::{Deserialize, Serialize};

/// The version of what is kept.
const VERSION: u8 = 1;
/// The part of the work's state in which it is.
pub(crate) const STATE: u32 = 0;

/// Who writes to the partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Writer {
    /// One who spreads rows.
    Spreads,
    /// One who hands groups over.
    HandsOver,
}

/// How far a partition is with changes.
#[derive(Debug, Default)]
pub(crate) struct Alignment {
    /// Which partition it is.
    partition: u32,
    /// How many spread rows to it.
    spreading: usize,
    kept: Kept,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    /// The last change that is done.
    generation: u32,
    /// The one that is under way.
    change: Option<Change>,
    /// Who has switched.
    switched: BTreeSet<WorkId>,
    /// Which partitions have handed over all.
    handed: BTreeSet<u32>,
}

impl Alignment {
    /// Of a partition to which so many spread rows, as it was kept.
    pub(crate) fn restore(partition: u32, spreading: usize, state: &[(u32, Bytes)]) -> Result<Self, String> {
        let kept = match state.iter().find(|(part, _)| *part == STATE).and_then(|(_, bytes)| bytes.split_first()) {
            None => Kept::default(),
            Some((&VERSION, bytes)) => {
                postcard::from_bytes(bytes).map_err(|error| format!("its state cannot be read: {error}"))?
            }
            Some((newer, _)) => return Err(format!("its state is of format {newer}; upgrade this node")),
        };
        Ok(Self { partition, spreading, kept })
    }

    /// What is kept of it.
    pub(crate) fn snapshot(&self) -> Bytes {
        let mut bytes = vec![VERSION];
        // What is in memory has a length, and can be encoded.
        bytes.extend(postcard::to_stdvec(&self.kept).unwrap_or_default());
        bytes.into()
    }

    /// Whether the rows of one who spreads them wait.
    pub(crate) fn holds(&self, work: &WorkId) -> bool {
        self.kept.switched.contains(work)
    }

    /// Whether what is handed over for a change waits: until all have switched.
    pub(crate) fn holds_handover(&self, generation: u32) -> bool {
        let is_now = self.kept.change.is_some_and(|change| change.generation == generation);
        generation > self.kept.generation && !(is_now && self.all_have_switched())
    }

    /// Takes note of a notice that is taken in now.
    pub(crate) fn take(&mut self, writer: Writer, work: &WorkId, notice: &Notice) -> Result<(), String> {
        let Notice { change, sender, is_last } = *notice;
        let kept = &mut self.kept;
        if change.generation <= kept.generation || kept.change.is_some_and(|ours| ours != change) {
            return Err(format!(
                "{work} says that there are {} partitions by change {}, and this is not the next one; give the flow another name",
                change.to, change.generation
            ));
        }
        kept.change = Some(change);
        match writer {
            Writer::Spreads => drop(kept.switched.insert(work.clone())),
            Writer::HandsOver => drop(is_last && kept.handed.insert(sender)),
        }
        // What belongs to another partition from then on has nothing to wait for.
        let awaited = if self.partition < change.to { change.from as usize } else { 0 };
        if self.all_have_switched() && self.kept.handed.len() >= awaited {
            self.kept = Kept { generation: change.generation, ..Kept::default() };
        }
        Ok(())
    }

    fn all_have_switched(&self) -> bool {
        self.kept.switched.len() >= self.spreading
    }
}
