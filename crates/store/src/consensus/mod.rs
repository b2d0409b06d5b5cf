//! The keeper of a site's works: a small consensus group (design decisions 1 and 7).
//!
//! A [`SiteGroup`] agrees on one map, from each work of the site to its assignment. `decide` is that map and its rules,
//! pure; `propose` brings commands to the leader, exactly once each; `members` says who votes. `storage` and `journal`
//! keep it all on the node's one log, `network` carries the engine's messages over a [`RaftTransport`].

mod decide;
mod journal;
mod members;
mod network;
mod propose;
mod storage;
mod types;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use littoral_model::id::{NodeId, SiteId};
use littoral_model::wire;
use openraft::error::RaftError;
use openraft::{Config, ServerState, SnapshotPolicy};
use tokio::sync::watch;

use crate::blocking::blocking;
use crate::log::Log;
use journal::Journal;
use network::Network;
use propose::Proposer;
use storage::{LogStore, Machine, Shown};
use types::{Raft, Reply, Request, Voter};

pub use storage::{Assignments, Removed};
pub use types::Status;

/// The names of groups' records in the node's log begin so; the site's name follows.
pub const WORK_PREFIX: &str = "~raft/";

/// How often a leader says that it lives.
const HEARTBEAT: Duration = Duration::from_millis(250);
/// How long a voter hears nothing before it wants to lead, at least and at most, unless it is told otherwise. A leader is
/// heard for as long as the latter before that begins: a new one is elected about as soon as the mesh finds a node silent.
pub const ELECTION: (Duration, Duration) = (Duration::from_millis(700), Duration::from_millis(1_400));
/// How long a piece of a snapshot may take.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(5);
/// A snapshot is taken after this many entries, and as many are kept behind it for those that lag.
const SNAPSHOT_EVERY: u64 = 1_000;
/// A snapshot is sent in pieces of this size: a quarter of a second on a link of 10 Mbit/s.
const SNAPSHOT_CHUNK_BYTES: u64 = 256 << 10;

/// Carries messages between nodes of groups. A message is for the group's [`SiteGroup::handle`] on the other node.
#[async_trait]
pub trait RaftTransport: Send + Sync + 'static {
    /// Sends a message and returns the answer.
    ///
    /// # Errors
    /// When there was none in time.
    async fn call(&self, to: &NodeId, group: &SiteId, message: Bytes) -> Result<Bytes, TransportError>;
}

/// A message that was not answered, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TransportError(pub String);

/// How a group is started on this node.
#[derive(Clone, Debug)]
pub struct GroupOptions {
    /// Whose keeper the group is.
    pub site: SiteId,
    /// This node.
    pub node: NodeId,
    /// Whether this node is the site's first: a group that is new to it is made, with it as the only voter. Otherwise it
    /// waits until it is taken in.
    pub initialize: bool,
    /// Whether this node may lead.
    pub elect: bool,
    /// How long it hears nothing before it wants to lead, at least and at most; [`ELECTION`] everywhere but in the
    /// simulator, which draws it from its seed.
    pub election: (Duration, Duration),
}

/// What a group cannot do now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GroupError {
    /// The group's records cannot be read or written.
    #[error("the consensus group of {site} cannot run: {reason}")]
    Storage {
        /// Whose group.
        site: SiteId,
        /// What is wrong.
        reason: String,
    },
    /// Only the leader can do this.
    #[error("this node does not lead the group of {site}; {}", match leader { Some(leader) => format!("ask {leader}"), None => "nobody is known to, try again".to_owned() })]
    NotLeader {
        /// Whose group.
        site: SiteId,
        /// Who leads, if known.
        leader: Option<NodeId>,
    },
    /// Nothing was decided in time. It may still be decided later, unless something else is proposed.
    #[error("the keeper of {site} did not decide within {} s{}", waited.as_secs(), without(unreachable))]
    Undecided {
        /// Whose keeper.
        site: SiteId,
        /// How long it was waited for.
        waited: Duration,
        /// The voters that do not answer.
        unreachable: Vec<NodeId>,
    },
    /// The voters asked for could not decide anything.
    #[error("the voters of {site} stay as they are{}", without(unreachable))]
    NoQuorum {
        /// Whose group.
        site: SiteId,
        /// The nodes that do not answer or are not up to date.
        unreachable: Vec<NodeId>,
    },
    /// A message that cannot be read.
    #[error("{0}")]
    Message(String),
    /// The group was stopped.
    #[error("the group of {0} was stopped on this node")]
    Stopped(SiteId),
}

fn without(unreachable: &[NodeId]) -> String {
    if unreachable.is_empty() {
        return "; try again".to_owned();
    }
    let names: Vec<&str> = unreachable.iter().map(NodeId::as_str).collect();
    format!("; these do not answer: {}. Start them, or connect them again", names.join(", "))
}

/// This node's part in the group of a site.
pub struct SiteGroup {
    options: GroupOptions,
    raft: Raft,
    network: Network,
    proposer: Proposer,
    assignments: watch::Receiver<Arc<Assignments>>,
    removed: watch::Receiver<Arc<Removed>>,
}

impl std::fmt::Debug for SiteGroup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SiteGroup").field("site", &self.options.site).finish_non_exhaustive()
    }
}

impl SiteGroup {
    /// Starts the group from this node's disk. Needs no network; a node that is the only voter leads at once.
    ///
    /// # Errors
    /// [`GroupError::Storage`] when its records cannot be read or written.
    pub async fn start(
        options: GroupOptions,
        log: Log,
        transport: Arc<dyn RaftTransport>,
    ) -> Result<Arc<Self>, GroupError> {
        let site = options.site.clone();
        let broken = |reason: String| GroupError::Storage { site: site.clone(), reason };
        let opened = blocking({
            let site = site.clone();
            move || Journal::open(log, &site)
        });
        let journal = opened.await.map_err(|error| broken(error.to_string()))?;
        let incarnation = journal.new_incarnation(0).await.map_err(|error| broken(error.to_string()))?;
        let (seen, assignments) = watch::channel(Arc::new(Assignments::new()));
        let (gone, removed) = watch::channel(Arc::new(Removed::new()));
        let shown = Shown { assignments: seen, removed: gone };
        let machine = Machine::open(Arc::clone(&journal), shown).map_err(|error| broken(error.to_string()))?;
        let network = Network { site: site.clone(), transport };
        let config = config(&options).validate().map_err(|error| broken(error.to_string()))?;
        let me = Voter::from(&options.node);
        let log_store = LogStore(Arc::clone(&journal));
        let raft = Raft::new(me, Arc::new(config), network.clone(), log_store, machine)
            .await
            .map_err(|error| broken(error.to_string()))?;
        let proposer = Proposer::start(raft.clone(), journal, options.node.clone(), incarnation);
        let group = Arc::new(Self { options, raft, network, proposer, assignments, removed });
        group.begin().await.map_err(|error| broken(error.to_string()))?;
        Ok(group)
    }

    /// Makes a new group where asked to, and leads at once where nobody else votes.
    async fn begin(&self) -> Result<(), String> {
        let me = Voter::from(&self.options.node);
        if !self.raft.is_initialized().await.map_err(|error| error.to_string())? {
            if self.options.initialize {
                self.raft.initialize(BTreeSet::from([me])).await.map_err(|error| error.to_string())?;
            }
            return Ok(());
        }
        let (leads, alone) = self
            .raft
            .with_raft_state(move |state| {
                let voters: Vec<Voter> = state.membership_state.effective().voter_ids().collect();
                (state.server_state == ServerState::Leader, voters == [me])
            })
            .await
            .map_err(|error| error.to_string())?;
        if alone && !leads && self.options.elect {
            self.raft.trigger().elect().await.map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    /// Whose keeper this is.
    #[must_use]
    pub fn site(&self) -> &SiteId {
        &self.options.site
    }

    /// All assignments as this node knows them; it may lag behind the leader.
    #[must_use]
    pub fn assignments(&self) -> watch::Receiver<Arc<Assignments>> {
        self.assignments.clone()
    }

    /// The works that were removed, as this node knows them; of thousands, the latest. At least as new as what
    /// [`SiteGroup::assignments`] showed before.
    #[must_use]
    pub fn removed(&self) -> Arc<Removed> {
        Arc::clone(&self.removed.borrow())
    }

    /// Who leads, as far as this node knows.
    #[must_use]
    pub fn leader(&self) -> Option<NodeId> {
        self.raft.server_metrics().borrow().current_leader.and_then(|leader| leader.node())
    }

    /// Whether this node believes that it leads. Another may have been elected meanwhile; what this one proposes is not
    /// decided then.
    #[must_use]
    pub fn leads(&self) -> bool {
        self.leader().as_ref() == Some(&self.options.node)
    }

    /// Why the group does not run on this node any more, if it does not: its disk failed, or a bug ended it.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        self.raft.metrics().borrow().running_state.as_ref().err().map(ToString::to_string)
    }

    /// Changes whenever the leader, the term or the members may have changed.
    pub fn status_changes(&self) -> impl Send + 'static + Future<Output = ()> {
        let mut metrics = self.raft.server_metrics();
        metrics.mark_unchanged();
        async move {
            // An error means that the group was stopped, which is a change too.
            metrics.changed().await.ok();
        }
    }

    /// What this node knows of the group.
    #[must_use]
    pub fn status(&self) -> Status {
        let metrics = self.raft.metrics().borrow().clone();
        let membership = metrics.membership_config.membership();
        Status {
            leader: metrics.current_leader.and_then(|leader| leader.node()),
            term: metrics.current_term,
            voters: membership.voter_ids().filter_map(|voter| voter.node()).collect(),
            learners: membership.learner_ids().filter_map(|learner| learner.node()).collect(),
            applied: metrics.last_applied.map_or(0, |last| last.index),
        }
    }

    /// Whether the voters of [`SiteGroup::status`] are decided. While they change, it takes a majority of those before, too, to decide
    /// anything.
    #[must_use]
    pub fn has_settled(&self) -> bool {
        let metrics = self.raft.metrics().borrow().clone();
        let decided = metrics
            .membership_config
            .log_id()
            .is_some_and(|at| metrics.last_applied.is_some_and(|last| at.index <= last.index));
        decided && metrics.membership_config.membership().get_joint_config().len() == 1
    }

    /// Answers a message of another node of the group.
    ///
    /// # Errors
    /// [`GroupError::Message`] when it cannot be read.
    pub async fn handle(&self, message: Bytes) -> Result<Bytes, GroupError> {
        let request = wire::decode(&message).map_err(|error| GroupError::Message(error.to_string()))?;
        let reply = match request {
            Request::Append(rpc) => self.raft.append_entries(rpc).await.map_or_else(failed, Reply::Append),
            Request::Vote(rpc) => self.raft.vote(rpc).await.map_or_else(failed, Reply::Vote),
            Request::Install(rpc) => Reply::Install(Box::new(self.raft.install_snapshot(rpc).await)),
            Request::Propose(proposal) => self.proposer.as_leader(proposal).await,
            Request::Join(node) => self.take_in(&node).await,
            Request::Status => Reply::Status(self.status()),
        };
        wire::encode(&reply).map_err(|error| GroupError::Message(error.to_string()))
    }

    /// Stops the group on this node. What it holds stays.
    pub async fn stop(&self) {
        self.proposer.stop();
        if let Err(error) = self.raft.shutdown().await {
            tracing::error!(site = %self.options.site, %error, "the consensus group ended by a bug");
        }
    }
}

fn failed(error: RaftError<Voter>) -> Reply {
    Reply::Failed(error.to_string())
}

fn config(options: &GroupOptions) -> Config {
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    Config {
        cluster_name: options.site.to_string(),
        heartbeat_interval: millis(HEARTBEAT),
        election_timeout_min: millis(options.election.0),
        election_timeout_max: millis(options.election.1),
        install_snapshot_timeout: millis(SNAPSHOT_TIMEOUT),
        snapshot_policy: SnapshotPolicy::LogsSinceLast(SNAPSHOT_EVERY),
        max_in_snapshot_log_to_keep: SNAPSHOT_EVERY,
        // Above the number of entries between two snapshots, so that a snapshot does mend a lag.
        replication_lag_threshold: 2 * SNAPSHOT_EVERY,
        snapshot_max_chunk_size: SNAPSHOT_CHUNK_BYTES,
        enable_elect: options.elect,
        ..Config::default()
    }
}
