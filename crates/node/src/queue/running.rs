//! The tries of invocations that run now, and how each ends: also one whose task panics is known to have ended.

use std::collections::HashMap;

use littoral_model::id::InvocationId;
use littoral_model::invocation::Answer;
use tokio::task::{Id, JoinError, JoinSet};

/// How a try ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Answered(Answer),
    Unanswered(String),
}

/// The tries that run. They end when dropped.
#[derive(Default)]
pub(super) struct Running {
    tasks: JoinSet<Outcome>,
    /// Which invocation each runs: a task that panics does not tell.
    ids: HashMap<Id, InvocationId>,
}

impl Running {
    /// Runs a try of an invocation.
    pub(super) fn spawn(&mut self, id: InvocationId, run: impl Future<Output = Outcome> + Send + 'static) {
        let task = self.tasks.spawn(run).id();
        self.ids.insert(task, id);
    }

    /// The next that ends; none if nothing runs.
    pub(super) async fn next(&mut self) -> Option<(InvocationId, Outcome)> {
        loop {
            let ended = self.tasks.join_next_with_id().await?;
            if let Some(ended) = self.known(ended) {
                return Some(ended);
            }
        }
    }

    /// One that has ended, if there is one.
    pub(super) fn try_next(&mut self) -> Option<(InvocationId, Outcome)> {
        loop {
            let ended = self.tasks.try_join_next_with_id()?;
            if let Some(ended) = self.known(ended) {
                return Some(ended);
            }
        }
    }

    fn known(&mut self, ended: Result<(Id, Outcome), JoinError>) -> Option<(InvocationId, Outcome)> {
        let (task, outcome) = ended.unwrap_or_else(|error| {
            tracing::error!(%error, "a call ended without an outcome");
            (error.id(), Outcome::Unanswered(format!("the call broke off: {error}")))
        });
        Some((self.ids.remove(&task)?, outcome))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn panics() -> Outcome {
        panic!("told to panic")
    }

    #[tokio::test]
    async fn a_try_that_panics_has_ended_without_an_answer() {
        let id = |number| InvocationId::from_parts(number, 7);
        let mut running = Running::default();
        running.spawn(id(1), panics());
        let (ended, outcome) = running.next().await.unwrap();
        assert!(matches!(&outcome, Outcome::Unanswered(why) if why.contains("broke off")), "{outcome:?}");
        assert_eq!(ended, id(1));
        running.spawn(id(2), async { Outcome::Unanswered("away".to_owned()) });
        assert_eq!(running.next().await, Some((id(2), Outcome::Unanswered("away".to_owned()))));
        assert!(running.next().await.is_none() && running.try_next().is_none() && running.ids.is_empty());
    }
}
