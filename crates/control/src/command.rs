//! What an agent wants done.

use std::collections::BTreeSet;

use littoral_model::id::{AppId, Epoch, FunctionName, NodeId};
use littoral_model::work::{KeeperCommand, WorkId};

use crate::demand::Demand;

/// An effect that an agent asks of its node. This enum lists all there are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Make these the group's voters, all others learners. Only from the leader; repeated after a while if the voters
    /// stay as they were.
    SetVoters(BTreeSet<NodeId>),
    /// Put this to the group. Only from the leader; a refusal needs no answer, the assignments tell what holds.
    Propose(KeeperCommand),
    /// Run work that this node owns, as its role in the placement says. Answered by [`crate::Event::WorkStarted`] or
    /// [`crate::Event::WorkFailed`].
    StartWork {
        /// Which.
        work: WorkId,
        /// Under which epoch.
        epoch: Epoch,
    },
    /// Stop running work: this node does not own it any more, or it is to start anew.
    StopWork {
        /// Which.
        work: WorkId,
    },
    /// Serve an HTTP function; in place of the artefact served so far, if another one is.
    StartFunction {
        /// Whose.
        app: AppId,
        /// Which.
        function: FunctionName,
        /// The digest of its artefact.
        artifact: String,
    },
    /// Serve an HTTP function no more; requests in flight are finished.
    StopFunction {
        /// Whose.
        app: AppId,
        /// Which.
        function: FunctionName,
    },
    /// Tell people that a function is served here because of its callers here; [`Command::StartFunction`] follows.
    Bring {
        /// Whose.
        app: AppId,
        /// Which.
        function: FunctionName,
        /// What justified it.
        demand: Demand,
    },
    /// Tell people that the callers here justify a function here no longer; [`Command::StopFunction`] follows, unless it is
    /// to be served here anyway.
    LetGo {
        /// Whose.
        app: AppId,
        /// Which.
        function: FunctionName,
    },
    /// Announce the node's digest, for what it runs has changed.
    Announce {
        /// How much work it runs for this group's site.
        works: u32,
        /// The functions that it serves, `tenant/app/function`.
        functions: Vec<String>,
    },
    /// Serve no function of an app, for the reason given, until [`Command::Admit`].
    Halt {
        /// Which.
        app: AppId,
        /// Why, for whoever calls.
        reason: String,
    },
    /// Serve the functions of an app without asking for a lease, as of one that was never named here.
    Admit {
        /// Which.
        app: AppId,
    },
    /// Serve functions of an app only at times of the agent's clock from `from_ms` on and before `until_ms`; looked at for
    /// each request, whatever the agent has been told meanwhile.
    Lease {
        /// Which.
        app: AppId,
        /// From when.
        from_ms: u64,
        /// Until when.
        until_ms: u64,
    },
    /// Put this to the group of the node's site, from any node of it, and answer with [`crate::Event::Renewed`] if it was
    /// applied.
    Renew {
        /// Whose lease it is.
        app: AppId,
        /// When it was asked for.
        asked_ms: u64,
        /// What to put.
        renewal: KeeperCommand,
    },
    /// Tell people that work has failed and is to be started again.
    ReportFailure {
        /// Which.
        work: WorkId,
        /// How many times in a row.
        attempts: u32,
        /// When it is started again, on the agent's clock.
        retry_at_ms: u64,
        /// Why it failed.
        reason: String,
    },
}
