//! Brings commands to the leader, each applied once at most, however often it had to be sent.
//!
//! The leader gathers what comes in while it writes, and writes that as one entry. A proposer numbers its proposals; the
//! state machine knows repeats by the number, and drops those that were given up (see `decide`).

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use littoral_model::id::NodeId;
use littoral_model::work::{KeeperAnswer, KeeperCommand};
use openraft::error::{ClientWriteError, RaftError};
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::decide::{Outcome, Proposal};
use super::journal::Journal;
use super::types::{Raft, Reply, Request, Voter};
use super::{GroupError, SiteGroup};

/// How long a proposal is tried: longer than it takes to elect a new leader.
const DEADLINE: Duration = Duration::from_secs(6);
/// How long one try may take.
const TRY: Duration = Duration::from_secs(2);
/// How long to wait before another try.
const PAUSE: Duration = Duration::from_millis(100);
/// How many times in a row a node may name another as the leader before it is given time to settle.
const REDIRECTS_MAX: u32 = 3;
/// How long to wait for a voter's sign of life when saying which are unreachable.
pub(super) const SIGN_OF_LIFE: Duration = Duration::from_millis(500);
/// How many proposals may wait on the leader; more are told to try again.
const WAITING_MAX: usize = 1_024;
/// How many commands an entry holds at most, so that it stays below 64 KiB.
const BATCH_MAX: usize = 64;

/// Numbers this node's proposals, and writes those that reach it while it leads.
pub(crate) struct Proposer {
    raft: Raft,
    journal: Arc<Journal>,
    node: NodeId,
    numbers: Mutex<Numbers>,
    waiting: mpsc::Sender<Waiting>,
    writer: AbortHandle,
}

struct Numbers {
    incarnation: u64,
    next: u64,
    /// Those not decided and not given up.
    open: BTreeSet<u64>,
    /// Those given up; only as long as one with a lower number is open.
    given_up: BTreeSet<u64>,
}

/// A proposal's number; given up when dropped before it is decided.
struct Number<'a> {
    proposer: &'a Proposer,
    incarnation: u64,
    sequence: u64,
    decided: bool,
}

impl Drop for Number<'_> {
    fn drop(&mut self) {
        let mut numbers = self.proposer.numbers();
        numbers.open.remove(&self.sequence);
        if !self.decided {
            numbers.given_up.insert(self.sequence);
        }
        let floor = numbers.floor();
        numbers.given_up = numbers.given_up.split_off(&floor);
    }
}

impl Numbers {
    fn floor(&self) -> u64 {
        self.open.first().copied().unwrap_or(self.next)
    }
}

struct Waiting {
    proposal: Proposal,
    answer: oneshot::Sender<Reply>,
}

impl Proposer {
    pub(crate) fn start(raft: Raft, journal: Arc<Journal>, node: NodeId, incarnation: u64) -> Self {
        let (waiting, receiver) = mpsc::channel(WAITING_MAX);
        let writer = tokio::spawn(write(raft.clone(), receiver)).abort_handle();
        let numbers = Mutex::new(Numbers { incarnation, next: 1, open: BTreeSet::new(), given_up: BTreeSet::new() });
        Self { raft, journal, node, numbers, waiting, writer }
    }

    /// Writes a proposal, if this node leads.
    pub(crate) async fn as_leader(&self, proposal: Proposal) -> Reply {
        let leader = self.raft.server_metrics().borrow().current_leader;
        if leader != Some(Voter::from(&self.node)) {
            return Reply::NotLeader(leader.and_then(|leader| leader.node()));
        }
        let (answer, answered) = oneshot::channel();
        if self.waiting.try_send(Waiting { proposal, answer }).is_err() {
            return Reply::Failed("too many proposals wait; try again".to_owned());
        }
        match tokio::time::timeout(TRY, answered).await {
            Ok(Ok(reply)) => reply,
            _ => Reply::Failed("the voters did not agree in time".to_owned()),
        }
    }

    pub(crate) fn stop(&self) {
        self.writer.abort();
    }

    fn number(&self) -> Number<'_> {
        let mut numbers = self.numbers();
        let sequence = numbers.next;
        numbers.next += 1;
        numbers.open.insert(sequence);
        Number { proposer: self, incarnation: numbers.incarnation, sequence, decided: false }
    }

    /// What else a proposal says: up to where, and which others, are not wanted any more.
    fn unwanted(&self) -> (u64, BTreeSet<u64>) {
        let numbers = self.numbers();
        (numbers.floor(), numbers.given_up.clone())
    }

    fn numbers(&self) -> MutexGuard<'_, Numbers> {
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The group knows a later incarnation of this node, whose disk was lost: goes on above that.
    async fn overtake(&self, known: u64) -> Result<(), String> {
        if self.numbers().incarnation > known {
            return Ok(());
        }
        let incarnation = self.journal.new_incarnation(known).await.map_err(|error| error.to_string())?;
        let mut numbers = self.numbers();
        numbers.incarnation = numbers.incarnation.max(incarnation);
        Ok(())
    }
}

impl Drop for Proposer {
    fn drop(&mut self) {
        self.writer.abort();
    }
}

/// Writes what waits as one entry, then what came meanwhile as the next.
async fn write(raft: Raft, mut waiting: mpsc::Receiver<Waiting>) {
    let mut batch = Vec::with_capacity(BATCH_MAX);
    while waiting.recv_many(&mut batch, BATCH_MAX).await > 0 {
        let (proposals, answers): (Vec<_>, Vec<_>) =
            batch.drain(..).map(|waiting| (waiting.proposal, waiting.answer)).unzip();
        let written = tokio::time::timeout(TRY, raft.client_write(proposals)).await;
        let reply = match written {
            Ok(Ok(response)) => {
                for (answer, outcome) in answers.into_iter().zip(response.data) {
                    // Who asked may have given up.
                    answer.send(Reply::Proposed(outcome)).ok();
                }
                continue;
            }
            Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward)))) => {
                let leader = forward.leader_id.and_then(|leader| leader.node());
                move || Reply::NotLeader(leader.clone())
            }
            Ok(Err(error)) => {
                for answer in answers {
                    answer.send(Reply::Failed(error.to_string())).ok();
                }
                continue;
            }
            Err(_) => {
                for answer in answers {
                    answer.send(Reply::Failed("the voters did not agree in time".to_owned())).ok();
                }
                continue;
            }
        };
        for answer in answers {
            answer.send(reply()).ok();
        }
    }
}

impl SiteGroup {
    /// Has the keeper decide on a command, wherever it leads. Tried for six seconds.
    ///
    /// # Errors
    /// [`GroupError::Undecided`] when nothing was decided in time, with the voters that do not answer.
    /// [`GroupError::Stopped`] when the group was stopped.
    pub async fn propose(&self, command: KeeperCommand) -> Result<KeeperAnswer, GroupError> {
        self.try_until_decided(command, None).await
    }

    /// Has this node, which leads, decide on a command of its own. Not sent to another leader: what was concluded while
    /// this node led, perhaps just after it was paused and replaced, is not what the other one would do. Tried for six
    /// seconds at most, and no longer than the term lasts.
    ///
    /// # Errors
    /// As [`SiteGroup::propose`]; [`GroupError::NotLeader`] when this node does not lead any more.
    pub async fn decide(&self, command: KeeperCommand) -> Result<KeeperAnswer, GroupError> {
        let term = self.status().term;
        self.try_until_decided(command, Some(term)).await
    }

    /// Tries everywhere, or here alone, as the leader of a term.
    async fn try_until_decided(&self, command: KeeperCommand, term: Option<u64>) -> Result<KeeperAnswer, GroupError> {
        let deadline = Instant::now() + DEADLINE;
        let mut number = self.proposer.number();
        let mut hint = None;
        let mut redirects = 0;
        loop {
            let (floor, given_up) = self.proposer.unwanted();
            let proposal = Proposal {
                node: self.options.node.clone(),
                incarnation: number.incarnation,
                sequence: number.sequence,
                floor,
                given_up,
                command: command.clone(),
            };
            let reply = match term {
                Some(term) if term != self.status().term => Reply::NotLeader(self.leader()),
                Some(_) => self.proposer.as_leader(proposal).await,
                None => self.try_propose(proposal, hint.take()).await,
            };
            match reply {
                Reply::Proposed(Outcome::Decided(answer)) => {
                    number.decided = true;
                    return Ok(answer);
                }
                Reply::Proposed(Outcome::Stale(known)) => {
                    self.proposer.overtake(known).await.map_err(|reason| self.storage_error(reason))?;
                    number = self.proposer.number();
                }
                Reply::NotLeader(leader) if term.is_some() => {
                    return Err(GroupError::NotLeader { site: self.options.site.clone(), leader });
                }
                Reply::NotLeader(leader) => hint = leader,
                _ => {}
            }
            if Instant::now() >= deadline {
                return Err(self.undecided().await);
            }
            redirects += 1;
            if hint.is_none() || redirects > REDIRECTS_MAX {
                self.pause(deadline).await?;
                redirects = 0;
            }
        }
    }

    /// One try: written here if this node leads, otherwise sent to who does.
    async fn try_propose(&self, proposal: Proposal, hint: Option<NodeId>) -> Reply {
        let Some(leader) = hint.or_else(|| self.leader()) else { return Reply::NotLeader(None) };
        if leader == self.options.node {
            return match self.proposer.as_leader(proposal).await {
                // Its own hint would send it in a circle.
                Reply::NotLeader(leader) => Reply::NotLeader(leader.filter(|leader| *leader != self.options.node)),
                reply => reply,
            };
        }
        let request = Request::Propose(proposal);
        match tokio::time::timeout(TRY, self.network.ask(&leader, &request)).await {
            Ok(Ok(Reply::NotLeader(Some(other)))) if other == leader => Reply::NotLeader(None),
            Ok(Ok(reply)) => reply,
            Ok(Err(error)) => Reply::Failed(error.to_string()),
            Err(_) => Reply::Failed(format!("{leader} does not answer")),
        }
    }

    /// Until a leader may have been elected, or a moment has passed.
    async fn pause(&self, deadline: Instant) -> Result<(), GroupError> {
        let until = deadline.min(Instant::now() + PAUSE);
        let running = self.raft.metrics().borrow().running_state.clone();
        running.map_err(|_| GroupError::Stopped(self.options.site.clone()))?;
        tokio::select! {
            () = self.status_changes() => {}
            () = tokio::time::sleep_until(until) => {}
        }
        Ok(())
    }

    async fn undecided(&self) -> GroupError {
        let (_, unreachable) = self.signs_of_life(self.status().voters).await;
        GroupError::Undecided { site: self.options.site.clone(), waited: DEADLINE, unreachable }
    }

    pub(super) fn storage_error(&self, reason: String) -> GroupError {
        GroupError::Storage { site: self.options.site.clone(), reason }
    }
}
