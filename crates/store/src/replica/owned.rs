//! What the owner of a work is given: the right to write to it, and futures of what it wrote.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use littoral_model::entry::Commit;
use littoral_model::id::Epoch;
use littoral_model::work::WorkId;
use tokio::sync::oneshot;

use super::WriteError;
use super::keys::Restored;
use super::owner::{Appended, Ownership};

/// An entry on its way: a future of its index, once it is committed. May be dropped; the entry is committed all the same.
#[derive(Debug)]
#[must_use = "an entry counts only once this says so"]
pub struct Committing {
    pub(super) answer: oneshot::Receiver<Result<u64, WriteError>>,
    pub(super) fenced: WriteError,
}

impl Future for Committing {
    type Output = Result<u64, WriteError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = Pin::new(&mut self.answer).poll(context);
        answer.map(|answer| answer.unwrap_or_else(|_| Err(self.fenced.clone())))
    }
}

/// The right to write to a work under one epoch, until [`Works::lead`](super::Works::lead) gives it to somebody else.
/// Clones are the same right.
#[derive(Clone)]
pub struct Owned {
    pub(super) ownership: Arc<Ownership>,
    pub(super) handle: u64,
}

impl std::fmt::Debug for Owned {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Owned({} at {})", self.ownership.name, self.ownership.epoch)
    }
}

impl Owned {
    /// Which work.
    #[must_use]
    pub fn work(&self) -> &WorkId {
        &self.ownership.id
    }

    /// Under which epoch.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.ownership.epoch
    }

    /// Up to which index entries are committed.
    #[must_use]
    pub fn committed(&self) -> u64 {
        self.ownership.committed()
    }

    /// Appends a commit; those appended one after the other have that order. Waits while 16 MiB wait to be committed, and while
    /// the work has no room because consumers are behind.
    ///
    /// # Errors
    /// [`WriteError::Fenced`] when the right has ended; [`WriteError::TooLarge`]; [`WriteError::Store`].
    pub async fn append(&self, commit: Commit) -> Result<Committing, WriteError> {
        match self.ownership.append(commit, None, Some(self.handle)).await? {
            Appended::Entry(committing) => Ok(committing),
            Appended::TurnedDown(_) => Err(self.ownership.fenced()),
        }
    }

    /// What all entries together say; waits until those that are on their way are committed.
    ///
    /// # Errors
    /// [`WriteError::Unreadable`] and [`WriteError::Store`] when the disk does not give it; [`WriteError::Fenced`] when the
    /// right has ended.
    pub async fn restore(&self) -> Result<Restored, WriteError> {
        let Ownership { shared, id, name, .. } = &*self.ownership;
        let committed = self.ownership.settled(self.handle).await?;
        Ok(super::promote::rebuild(shared, id, name, committed).await?.restored)
    }

    /// Waits until the right has ended.
    pub async fn lost(&self) {
        self.ownership.lost().await;
    }
}
