//! Consensus groups in one process: alone, growing, losing their leader, restarting from disk.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use littoral_model::id::{Epoch, NodeId, SiteId};
use littoral_model::work::{KeeperAnswer, KeeperCommand, WorkId};
use littoral_store::consensus::{ELECTION, GroupError, GroupOptions, RaftTransport, SiteGroup, TransportError};
use littoral_store::{Log, LogOptions, StoreError};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(60);

fn id(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

fn ids(names: &[&str]) -> BTreeSet<NodeId> {
    names.iter().map(|name| id(name)).collect()
}

fn site() -> SiteId {
    SiteId::new("hall").unwrap()
}

fn work(number: usize) -> WorkId {
    format!("default/app/stream/s{number}/0@hall").parse().unwrap()
}

fn create(number: usize) -> KeeperCommand {
    KeeperCommand::Create { work: work(number), owner: id("a"), replicas: vec![id("a")] }
}

#[derive(Default)]
struct Net(Mutex<BTreeMap<NodeId, Weak<SiteGroup>>>);

#[async_trait]
impl RaftTransport for Net {
    async fn call(&self, to: &NodeId, _group: &SiteId, message: Bytes) -> Result<Bytes, TransportError> {
        let group = self.0.lock().unwrap().get(to).and_then(Weak::upgrade);
        let group = group.ok_or(TransportError(format!("{to} is down")))?;
        group.handle(message).await.map_err(|error| TransportError(error.to_string()))
    }
}

struct Nodes {
    net: Arc<Net>,
    dirs: BTreeMap<NodeId, TempDir>,
    groups: BTreeMap<NodeId, (Arc<SiteGroup>, Log)>,
}

impl Nodes {
    /// A group that the first node has made, and that the others have not been taken into yet.
    async fn new(names: &[&str]) -> Self {
        let dirs = names.iter().map(|name| (id(name), TempDir::new().unwrap())).collect();
        let mut nodes = Self { net: Arc::default(), dirs, groups: BTreeMap::new() };
        for name in names {
            nodes.start(name, *name == names[0]).await;
        }
        nodes.leads(names[0]).await;
        nodes
    }

    async fn start(&mut self, name: &str, initialize: bool) -> Arc<SiteGroup> {
        let dir = self.dirs[&id(name)].path();
        let log = in_time(async {
            loop {
                match Log::open(dir, LogOptions::small()) {
                    Err(StoreError::Locked { .. }) => tokio::time::sleep(Duration::from_millis(2)).await,
                    log => return log.unwrap(),
                }
            }
        })
        .await;
        let options = GroupOptions { site: site(), node: id(name), initialize, elect: true, election: ELECTION };
        let transport: Arc<dyn RaftTransport> = Arc::clone(&self.net) as Arc<dyn RaftTransport>;
        let group = SiteGroup::start(options, log.clone(), transport).await.unwrap();
        self.net.0.lock().unwrap().insert(id(name), Arc::downgrade(&group));
        self.groups.insert(id(name), (Arc::clone(&group), log));
        group
    }

    async fn stop(&mut self, name: &str) {
        self.net.0.lock().unwrap().remove(&id(name));
        let (group, log) = self.groups.remove(&id(name)).unwrap();
        group.stop().await;
        log.close().unwrap();
    }

    fn group(&self, name: &str) -> Arc<SiteGroup> {
        Arc::clone(&self.groups[&id(name)].0)
    }

    async fn leads(&self, name: &str) {
        let group = self.group(name);
        in_time(async {
            loop {
                let changed = group.status_changes();
                if group.leads() {
                    return;
                }
                changed.await;
            }
        })
        .await;
    }

    /// Waits until a node knows of so many works.
    async fn knows(&self, name: &str, count: usize) {
        let mut seen = self.group(name).assignments();
        in_time(seen.wait_for(|all| all.len() == count)).await.unwrap();
    }
}

async fn in_time<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("it hangs")
}

async fn propose(group: &SiteGroup, command: KeeperCommand) -> KeeperAnswer {
    in_time(async {
        loop {
            match group.propose(command.clone()).await {
                // An election on a slow machine may take longer than a proposal is tried.
                Err(GroupError::Undecided { .. }) => {}
                answer => return answer.unwrap(),
            }
        }
    })
    .await
}

fn applied(answer: &KeeperAnswer) -> bool {
    matches!(answer, KeeperAnswer::Applied(_))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lone_voter_decides_alone_and_leads_at_once_after_a_restart() {
    let mut nodes = Nodes::new(&["a"]).await;
    assert!(applied(&propose(&nodes.group("a"), create(1)).await));
    nodes.stop("a").await;
    let group = nodes.start("a", true).await;
    // What was decided is known before anything else happens.
    assert_eq!(group.assignments().borrow()[&work(1)].epoch, Epoch(1));
    assert!(applied(&propose(&group, create(2)).await));
    assert_eq!(group.status().voters, ids(&["a"]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_voters_go_on_without_their_leader_and_take_it_back() {
    let mut nodes = Nodes::new(&["a", "b", "c"]).await;
    let leader = nodes.group("a");
    in_time(leader.set_voters(ids(&["a", "b", "c"]))).await.unwrap();
    in_time(leader.set_voters(ids(&["a", "b", "c"]))).await.unwrap();
    assert_eq!(leader.status().voters, ids(&["a", "b", "c"]));
    // Through a node that does not lead.
    assert!(applied(&propose(&nodes.group("c"), create(1)).await));
    let refused = in_time(nodes.group("b").set_voters(ids(&["b"]))).await;
    assert!(matches!(refused, Err(GroupError::NotLeader { leader: Some(leader), .. }) if leader == id("a")));
    drop(leader);
    nodes.stop("a").await;
    assert!(applied(&propose(&nodes.group("b"), create(2)).await));
    assert!(applied(&propose(&nodes.group("c"), create(3)).await));
    nodes.start("a", true).await;
    nodes.knows("a", 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_node_concludes_as_the_leader_is_not_sent_to_another_one() {
    let nodes = Nodes::new(&["a", "b"]).await;
    in_time(nodes.group("a").set_voters(ids(&["a", "b"]))).await.unwrap();
    // A node that believes that it leads, as one does that was paused and replaced.
    let refused = in_time(nodes.group("b").decide(create(1))).await;
    assert!(matches!(refused, Err(GroupError::NotLeader { leader: Some(leader), .. }) if leader == id("a")));
    assert!(applied(&in_time(nodes.group("a").decide(create(2))).await.unwrap()));
    nodes.knows("b", 1).await;
    assert!(nodes.group("a").assignments().borrow().contains_key(&work(2)), "the other one was not decided");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_learner_has_a_copy_and_proposes_and_its_commands_are_applied_once() {
    let nodes = Nodes::new(&["a", "b"]).await;
    in_time(nodes.group("b").join(&id("a"))).await.unwrap();
    in_time(nodes.group("b").join(&id("a"))).await.unwrap();
    assert!(applied(&propose(&nodes.group("b"), create(1)).await));
    nodes.knows("b", 1).await;
    let status = nodes.group("a").status();
    assert_eq!((status.voters, status.learners), (ids(&["a"]), ids(&["b"])));
    let move_once = KeeperCommand::Move { work: work(1), epoch: Epoch(1), owner: id("a"), exclude_old: false };
    assert!(applied(&propose(&nodes.group("b"), move_once.clone()).await));
    assert!(!applied(&propose(&nodes.group("b"), move_once).await));
    in_time(nodes.group("a").forget(&ids(&["b"]))).await.unwrap();
    assert_eq!(nodes.group("a").status().learners, ids(&[]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_majority_nothing_is_decided_and_the_error_names_who_is_missing() {
    let mut nodes = Nodes::new(&["a", "b", "c"]).await;
    in_time(nodes.group("a").set_voters(ids(&["a", "b", "c"]))).await.unwrap();
    nodes.stop("b").await;
    nodes.stop("c").await;
    let undecided = in_time(nodes.group("a").propose(create(1))).await;
    let Err(GroupError::Undecided { unreachable, .. }) = undecided else { panic!("{undecided:?}") };
    assert_eq!(unreachable, [id("b"), id("c")]);
    nodes.start("b", false).await;
    assert!(applied(&propose(&nodes.group("a"), create(2)).await));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn voters_that_could_not_decide_anything_are_not_set() {
    let mut nodes = Nodes::new(&["a", "b"]).await;
    nodes.stop("b").await;
    let refused = in_time(nodes.group("a").set_voters(ids(&["a", "b"]))).await;
    assert!(matches!(refused, Err(GroupError::NoQuorum { unreachable, .. }) if unreachable == [id("b")]));
    assert_eq!(nodes.group("a").status().voters, ids(&["a"]));
    let refused = in_time(nodes.group("a").set_voters(ids(&["b"]))).await;
    assert!(matches!(refused, Err(GroupError::NoQuorum { .. })));
    assert!(applied(&propose(&nodes.group("a"), create(1)).await));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_member_gets_a_snapshot_and_the_journal_stays_short() {
    let mut nodes = Nodes::new(&["a", "b"]).await;
    let leader = nodes.group("a");
    propose(&leader, create(0)).await;
    // Each a proposal of its own, so that the log outgrows what is kept behind a snapshot.
    for epoch in 1..=2_500 {
        let command = KeeperCommand::Move { work: work(0), epoch: Epoch(epoch), owner: id("a"), exclude_old: false };
        assert!(applied(&propose(&leader, command).await));
    }
    let log = nodes.groups[&id("a")].1.clone();
    let head = log.head("~raft/hall").unwrap();
    assert!(head.first > 1_000, "{head:?}");
    in_time(leader.set_voters(ids(&["a", "b"]))).await.unwrap();
    nodes.knows("b", 1).await;
    drop((leader, log));
    nodes.stop("b").await;
    nodes.stop("a").await;
    let again = nodes.start("b", false).await;
    assert!(again.assignments().borrow()[&work(0)].epoch > Epoch(1_000));
    nodes.start("a", true).await;
    let command = KeeperCommand::Move { work: work(0), epoch: Epoch(2_501), owner: id("a"), exclude_old: false };
    assert!(applied(&propose(&again, command).await));
}
