//! What can go wrong with storage, and what to do about it.

use std::path::{Path, PathBuf};

use littoral_model::id::Epoch;

/// An error of the log or of the derived state. Cheap to clone, because one failed sync is told to many waiters.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The operating system refused.
    #[error("cannot {action} {}: {reason}", path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// What the system says.
        reason: String,
    },
    /// A file does not hold what was written to it.
    #[error("{} is damaged at byte {offset}: {reason}. Nothing was changed. If other nodes of the site hold copies, stop this node, move its data directory away and let it join again; otherwise restore the directory from a backup", file.display())]
    Corrupt {
        /// The damaged file.
        file: PathBuf,
        /// Where the damage begins.
        offset: u64,
        /// What is wrong.
        reason: String,
    },
    /// A file was written by a newer program.
    #[error("{} has format version {version}; this program reads up to {max}: upgrade it", file.display())]
    Version {
        /// The file.
        file: PathBuf,
        /// Its version.
        version: u32,
        /// The newest version that this program knows.
        max: u32,
    },
    /// Another process has the data directory open.
    #[error("{} is in use by another node: stop that one, or give this one a directory of its own with --data", dir.display())]
    Locked {
        /// The directory.
        dir: PathBuf,
    },
    /// More is waiting for the disk than may wait; try again, or use `append_wait`.
    #[error("the disk does not keep up: {waiting} bytes wait for it already; try again later")]
    Busy {
        /// How much is waiting.
        waiting: usize,
    },
    /// No space for another segment.
    #[error("the disk that holds {} is full: free {needed} bytes there, then appending goes on by itself", dir.display())]
    Full {
        /// The log's directory.
        dir: PathBuf,
        /// How much the next segment needs.
        needed: u64,
    },
    /// The disk failed twice in a row; nothing more is taken.
    #[error(
        "the log has stopped, because the disk failed: {reason}. Nothing that was acknowledged is lost. Check the disk and start the node again"
    )]
    Failed {
        /// What the disk said.
        reason: String,
    },
    /// The log was closed.
    #[error("the log is closed; the node is stopping")]
    Closed,
    /// The entries asked for were forgotten.
    #[error("entries of {work} below {first} are no longer held: go on from {first}, or install its state")]
    Trimmed {
        /// Whose entries.
        work: String,
        /// The first index that is held.
        first: u64,
    },
    /// An entry was offered at the wrong place.
    #[error("the next entry of {work} is {expected}, not {got}: send the entries in between first")]
    OutOfOrder {
        /// Whose entry.
        work: String,
        /// The next index.
        expected: u64,
        /// The index that was offered.
        got: u64,
    },
    /// The writer was replaced by an owner of a higher epoch.
    #[error("{work} has entries of epoch {last}; an owner of epoch {epoch} may no longer write to it")]
    Fenced {
        /// Whose entry.
        work: String,
        /// The writer's epoch.
        epoch: Epoch,
        /// The epoch of the last entry.
        last: Epoch,
    },
    /// An entry is larger than the log takes.
    #[error("the entry has {bytes} bytes; at most {max} are taken: split it")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The largest size.
        max: usize,
    },
    /// A name that the log does not take.
    #[error("`{work}` cannot name a log: {reason}")]
    InvalidWork {
        /// The name.
        work: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The file of derived state cannot be read; it can be built anew from the log.
    #[error("{} is damaged: {reason}. Delete it; it is built anew from the log and the other copies", path.display())]
    DerivedCorrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

impl StoreError {
    /// An error of the operating system.
    #[must_use]
    pub fn io(action: &'static str, path: &Path, error: &std::io::Error) -> Self {
        Self::Io { action, path: path.to_owned(), reason: error.to_string() }
    }
}
