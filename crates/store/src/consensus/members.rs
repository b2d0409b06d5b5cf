//! Who votes in a group, and who has a copy only.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::future::join_all;
use littoral_model::id::NodeId;
use openraft::error::{ClientWriteError, RaftError};
use openraft::{ChangeMembers, EmptyNode};

use super::propose::SIGN_OF_LIFE;
use super::types::{Reply, Request, Voter};
use super::{GroupError, SiteGroup};

/// How long a new member may take to receive what the group knows.
const CATCH_UP: Duration = Duration::from_secs(5);
/// How long the voters may take to agree on new voters.
const CHANGE: Duration = Duration::from_secs(5);
/// How many nodes may be named before one of them is the leader, when asking to be taken in.
const REDIRECTS_MAX: usize = 3;

type ChangeError = RaftError<Voter, ClientWriteError<Voter, EmptyNode>>;

impl SiteGroup {
    /// Makes these nodes the voters, and all others learners. Only the leader can; asking for what is already so has no
    /// effect. Nodes that cannot be reached or brought up to date are left out and reported; nothing is changed where
    /// too few of the voters asked for live to decide anything.
    ///
    /// # Errors
    /// [`GroupError::NotLeader`]; [`GroupError::NoQuorum`] with the nodes that were left out.
    pub async fn set_voters(&self, wanted: BTreeSet<NodeId>) -> Result<(), GroupError> {
        self.check_leads()?;
        let voters = self.status().voters;
        if voters == wanted {
            return Ok(());
        }
        let no_quorum = |unreachable| GroupError::NoQuorum { site: self.options.site.clone(), unreachable };
        let mut left_out = Vec::new();
        let mut next: BTreeSet<NodeId> = BTreeSet::new();
        for node in &wanted {
            if voters.contains(node) || self.bring_up(node).await? {
                next.insert(node.clone());
            } else {
                left_out.push(node.clone());
            }
        }
        let (alive, dead) = self.signs_of_life(next.clone()).await;
        if next.is_empty() || alive.len() <= next.len() / 2 {
            left_out.extend(dead);
            return Err(no_quorum(left_out));
        }
        if next != voters {
            let ids: BTreeSet<Voter> = next.iter().map(Voter::from).collect();
            let change = self.raft.change_membership(ChangeMembers::ReplaceAllVoters(ids), true);
            match tokio::time::timeout(CHANGE, change).await {
                Ok(changed) => changed.map(drop).map_err(|error| self.change_error(&error))?,
                Err(_) => return Err(no_quorum(self.signs_of_life(voters).await.1)),
            }
        }
        if left_out.is_empty() { Ok(()) } else { Err(no_quorum(left_out)) }
    }

    /// Asks to be taken in as a learner, through any node of the group. Being in already is success.
    ///
    /// # Errors
    /// [`GroupError::NotLeader`] when the leader was not found, [`GroupError::Message`] when it did not answer.
    pub async fn join(&self, contact: &NodeId) -> Result<(), GroupError> {
        let mut contact = contact.clone();
        for _ in 0..REDIRECTS_MAX {
            let request = Request::Join(self.options.node.clone());
            let asked = self.network.ask(&contact, &request).await;
            match asked.map_err(|error| GroupError::Message(error.to_string()))? {
                Reply::Joined => return Ok(()),
                Reply::NotLeader(Some(leader)) => contact = leader,
                Reply::Failed(reason) => return Err(GroupError::Message(reason)),
                _ => break,
            }
        }
        Err(GroupError::NotLeader { site: self.options.site.clone(), leader: None })
    }

    /// Stops sending copies to nodes that left the site for good. Voters stay. Only the leader can.
    ///
    /// # Errors
    /// [`GroupError::NotLeader`]; [`GroupError::NoQuorum`] when the voters did not agree in time.
    pub async fn forget(&self, nodes: &BTreeSet<NodeId>) -> Result<(), GroupError> {
        self.check_leads()?;
        let learners = self.status().learners;
        let gone: BTreeSet<Voter> = nodes.iter().filter(|node| learners.contains(*node)).map(Voter::from).collect();
        if gone.is_empty() {
            return Ok(());
        }
        let change = self.raft.change_membership(ChangeMembers::RemoveNodes(gone), true);
        match tokio::time::timeout(CHANGE, change).await {
            Ok(changed) => changed.map(drop).map_err(|error| self.change_error(&error)),
            Err(_) => Err(GroupError::NoQuorum { site: self.options.site.clone(), unreachable: Vec::new() }),
        }
    }

    /// Makes a node a learner, as the leader.
    pub(super) async fn take_in(&self, node: &NodeId) -> Reply {
        if let Err(GroupError::NotLeader { leader, .. }) = self.check_leads() {
            return Reply::NotLeader(leader);
        }
        let status = self.status();
        if status.voters.contains(node) || status.learners.contains(node) {
            return Reply::Joined;
        }
        match tokio::time::timeout(CHANGE, self.raft.add_learner(Voter::from(node), EmptyNode {}, false)).await {
            Ok(Ok(_)) => Reply::Joined,
            Ok(Err(error)) => Reply::Failed(error.to_string()),
            Err(_) => Reply::Failed("the voters did not agree in time".to_owned()),
        }
    }

    /// Makes a node a learner and waits until it knows what the group knows. Whether it does.
    async fn bring_up(&self, node: &NodeId) -> Result<bool, GroupError> {
        let adding = self.raft.add_learner(Voter::from(node), EmptyNode {}, true);
        match tokio::time::timeout(CATCH_UP, adding).await {
            Ok(Ok(_)) => Ok(true),
            Ok(Err(error)) => Err(self.change_error(&error)),
            Err(_) => Ok(false),
        }
    }

    /// Which of these nodes answer, and which do not.
    pub(super) async fn signs_of_life(&self, nodes: BTreeSet<NodeId>) -> (Vec<NodeId>, Vec<NodeId>) {
        let asked = nodes.into_iter().map(|node| async move {
            let alive = node == self.options.node || {
                let answer = self.network.ask(&node, &Request::Status);
                matches!(tokio::time::timeout(SIGN_OF_LIFE, answer).await, Ok(Ok(_)))
            };
            (node, alive)
        });
        let (alive, dead): (Vec<_>, Vec<_>) = join_all(asked).await.into_iter().partition(|(_, alive)| *alive);
        let names = |nodes: Vec<(NodeId, bool)>| nodes.into_iter().map(|(node, _)| node).collect();
        (names(alive), names(dead))
    }

    fn check_leads(&self) -> Result<(), GroupError> {
        let leader = self.leader();
        if leader.as_ref() == Some(&self.options.node) {
            return Ok(());
        }
        Err(GroupError::NotLeader { site: self.options.site.clone(), leader })
    }

    fn change_error(&self, error: &ChangeError) -> GroupError {
        let site = self.options.site.clone();
        match error {
            RaftError::APIError(ClientWriteError::ForwardToLeader(forward)) => {
                GroupError::NotLeader { site, leader: forward.leader_id.and_then(|leader| leader.node()) }
            }
            error => GroupError::Message(error.to_string()),
        }
    }
}
