//! What happened, in order: what the invariants judge, and what two runs of a seed are compared by.

use std::fmt::{self, Debug, Write as _};
use std::sync::{Mutex, MutexGuard, PoisonError};

use littoral_model::id::{AppId, Epoch, NodeId};
use littoral_model::work::{Assignment, WorkId};
use tokio::time::Instant;

/// Something that happened on or to a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Something was done to the fabric, or by a user; for people.
    Act(String),
    /// A fault began, of this kind.
    Struck(&'static str),
    /// A node began to run, for the time that `life` says.
    Booted { node: NodeId, life: u64 },
    /// A node ended without having been told.
    Crashed { node: NodeId },
    /// A node's disk is another, empty one.
    LostDisk { node: NodeId },
    /// A node learned what the keeper decided.
    Assigned { node: NodeId, assignment: Assignment },
    /// A node was told to run work that it owns.
    Started { node: NodeId, work: WorkId, epoch: Epoch },
    /// A node was told to run it no more.
    Stopped { node: NodeId, work: WorkId },
    /// A node was told to serve a function.
    Serving { node: NodeId, app: AppId, function: String },
    /// A node may serve a singleton from one virtual millisecond until another; not at all where that is not after it.
    Leased { node: NodeId, app: AppId, from_ms: u64, until_ms: u64 },
    /// A replica has an owner's entries on its disk and said so; or has answered an owner of this epoch, without any.
    Took { replica: NodeId, work: WorkId, owner: NodeId, epoch: Epoch, last: u64 },
    /// A node has dropped all that it held of a work, which the keeper removed at this epoch.
    Removed { node: NodeId, work: WorkId, epoch: Epoch },
    /// An owner was told that its entry is committed.
    Committed { node: NodeId, work: WorkId, epoch: Epoch, index: u64 },
    /// A producer was told that its record is stored.
    Acknowledged { work: WorkId, index: u64, text: String },
    /// A node knows that an app is deployed.
    Deployed { node: NodeId, app: AppId },
    /// A node knows that an app was deleted.
    Deleted { node: NodeId, app: AppId },
    /// Every fault has ended.
    Healed,
    /// A cut has ended beside which nothing was wrong for long.
    Mended,
}

/// All that happened so far.
#[derive(Debug)]
pub struct History {
    begun: Instant,
    trace: bool,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    events: Vec<(u64, Event)>,
    hash: u64,
}

impl Inner {
    fn write_u64(&mut self, word: u64) {
        self.hash = (self.hash ^ word).wrapping_mul(0x0100_0000_01b3).rotate_left(23);
    }
}

impl fmt::Write for Inner {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for chunk in text.as_bytes().chunks(8) {
            self.write_u64(chunk.iter().fold(0, |word, byte| word << 8 | u64::from(*byte)));
        }
        // Where one piece ends and the next begins is told, too.
        self.write_u64(text.len() as u64);
        Ok(())
    }
}

impl History {
    /// An empty one; with `trace` everything is printed as it happens.
    #[must_use]
    pub fn new(trace: bool) -> Self {
        let inner = Inner { events: Vec::new(), hash: 0xcbf2_9ce4_8422_2325 };
        Self { begun: Instant::now(), trace, inner: Mutex::new(inner) }
    }

    /// Virtual milliseconds since the beginning.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Takes note of an event.
    pub fn note(&self, event: Event) {
        self.mix(&event);
        let now_ms = self.now_ms();
        self.lock().events.push((now_ms, event));
    }

    /// Takes something into the hash, and into the trace, that no invariant asks for.
    pub fn mix(&self, what: &impl Debug) {
        let mut said = self.lock();
        said.write_u64(self.now_us());
        write!(said, "{what:?}").ok();
        drop(said);
        self.trace(what);
    }

    /// The same for a message that has arrived; there are so many that they are not put into words for the hash.
    pub fn mix_message(&self, from: &NodeId, to: &NodeId, kind: &'static str) {
        let mut said = self.lock();
        said.write_u64(self.now_us());
        for word in [from.as_str(), to.as_str(), kind] {
            said.write_str(word).ok();
        }
        drop(said);
        self.trace(&(from.as_str(), to.as_str(), kind));
    }

    fn trace(&self, what: &impl Debug) {
        if self.trace {
            println!("{:>9.3} {what:?}", self.begun.elapsed().as_secs_f64());
        }
    }

    fn now_us(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// Equal for two runs in which the same happened at the same time.
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.lock().hash
    }

    /// The events so far, each with its virtual milliseconds.
    #[must_use]
    pub fn events(&self) -> Vec<(u64, Event)> {
        self.lock().events.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
