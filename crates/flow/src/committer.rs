//! Waits for commits in their order while the task goes on with the next batch.

use std::sync::Arc;

use littoral_model::entry::{Commit, InputPosition, Position};
use littoral_model::id::Epoch;
use littoral_model::work::WorkId;
use littoral_store::replica::{Committing, Owned};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::Ended;
use crate::reader::Progress;
use crate::stats::{Stats, Step};

/// How many steps may wait for their commit: enough to hide a slow disk or a replica behind the guests' work, few
/// enough that little is done twice after a failure.
const IN_FLIGHT_MAX: usize = 16;

/// The commits of one running unit of work.
pub(crate) struct Committer {
    owned: Owned,
    sender: mpsc::Sender<Waiting>,
    waiter: JoinHandle<()>,
}

struct Waiting {
    committing: Committing,
    progress: Progress,
    position: Position,
    step: Step,
}

impl Committer {
    pub(crate) fn new(owned: Owned, stats: Arc<Stats>) -> Self {
        let (sender, mut receiver) = mpsc::channel::<Waiting>(IN_FLIGHT_MAX);
        let waiter = tokio::spawn(async move {
            while let Some(waiting) = receiver.recv().await {
                if waiting.committing.await.is_err() {
                    return;
                }
                waiting.progress.reached(waiting.position);
                stats.committed(&waiting.step);
            }
        });
        Self { owned, sender, waiter }
    }

    /// Appends a step that consumed `input` up to `position`; waits only if too many are in flight.
    pub(crate) async fn commit(
        &self,
        mut commit: Commit,
        input: (&WorkId, Epoch, Position),
        progress: &Progress,
        step: Step,
    ) -> Result<(), Ended> {
        let (work, epoch, position) = input;
        commit.inputs.push(InputPosition { work: work.clone(), epoch, position });
        let permit = self.sender.reserve().await.map_err(|_| Ended::Fenced)?;
        let committing = self.owned.append(commit).await?;
        permit.send(Waiting { committing, progress: progress.clone(), position, step });
        Ok(())
    }

    /// Ends when the work has another owner.
    pub(crate) async fn fenced(&mut self) {
        tokio::select! {
            _ = &mut self.waiter => {}
            () = self.owned.lost() => {}
        }
    }
}

impl Drop for Committer {
    fn drop(&mut self) {
        self.waiter.abort();
    }
}
