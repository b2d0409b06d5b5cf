//! A few nodes in one process: real logs and derived state, a real (lone) keeper, and a network that can be cut.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use littoral_model::entry::{Commit, PORT_MAIN, PortBatch, Position, ProducerSequence};
use littoral_model::id::{Epoch, NodeId, SiteId};
use littoral_model::wire::{
    FetchReply, FetchRequest, InstallRequest, PublishReply, PublishRequest, ReplicateReply, ReplicateRequest,
};
use littoral_model::work::{Assignment, KeeperAnswer, KeeperCommand, WorkId};
use littoral_store::consensus::{ELECTION, GroupOptions, RaftTransport, SiteGroup, TransportError};
use littoral_store::replica::{Keeper, KeeperError, PeerError, Peers, Works};
use littoral_store::{Derived, Log, LogOptions, StoreError};
use tempfile::TempDir;

/// Longer than anything takes, on the slowest machine.
const PATIENCE: Duration = Duration::from_secs(60);

pub fn id(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

pub fn work() -> WorkId {
    "default/app/stream/readings/0@hall".parse().unwrap()
}

pub fn rows(text: &str) -> PortBatch {
    PortBatch { port: PORT_MAIN.to_owned(), rows: 1, origin_us: None, arrow: Bytes::from(text.to_owned()) }
}

pub fn commit(text: &str) -> Commit {
    Commit { outputs: vec![rows(text)], ..Commit::default() }
}

#[derive(Default)]
pub struct Net {
    works: Mutex<HashMap<NodeId, Arc<Works>>>,
    cut: Mutex<HashSet<(NodeId, NodeId)>>,
    away: Mutex<HashSet<NodeId>>,
}

impl Net {
    pub fn cut(&self, one: &str, other: &str) {
        self.cut.lock().unwrap().extend([(id(one), id(other)), (id(other), id(one))]);
    }

    pub fn heal(&self) {
        self.cut.lock().unwrap().clear();
        self.away.lock().unwrap().clear();
    }

    /// The node reaches nobody, not even the keeper.
    pub fn take_away(&self, node: &str) {
        self.away.lock().unwrap().insert(id(node));
    }

    pub fn is_away(&self, node: &NodeId) -> bool {
        self.away.lock().unwrap().contains(node)
    }

    fn reach(&self, from: &NodeId, to: &NodeId) -> Result<Arc<Works>, PeerError> {
        let cut = self.cut.lock().unwrap().contains(&(from.clone(), to.clone()));
        if cut || self.is_away(from) || self.is_away(to) {
            return Err(PeerError("cut".to_owned()));
        }
        self.works.lock().unwrap().get(to).cloned().ok_or(PeerError("down".to_owned()))
    }
}

struct Link {
    net: Arc<Net>,
    from: NodeId,
}

#[async_trait]
impl Peers for Link {
    async fn replicate(&self, to: &NodeId, request: ReplicateRequest) -> Result<ReplicateReply, PeerError> {
        let works = self.net.reach(&self.from, to)?;
        let reply = works.handle_replicate(request).await.map_err(|error| PeerError(error.to_string()))?;
        // The answer may be lost.
        self.net.reach(to, &self.from)?;
        Ok(reply)
    }

    async fn install(&self, to: &NodeId, request: InstallRequest) -> Result<(), PeerError> {
        let works = self.net.reach(&self.from, to)?;
        works.handle_install(request).await.map_err(|error| PeerError(error.to_string()))
    }
}

struct Asks {
    net: Arc<Net>,
    group: Arc<SiteGroup>,
    node: NodeId,
}

impl Asks {
    async fn propose(&self, command: KeeperCommand) -> Result<KeeperAnswer, KeeperError> {
        if self.net.is_away(&self.node) {
            return Err(KeeperError("cut".to_owned()));
        }
        self.group.propose(command).await.map_err(|error| KeeperError(error.to_string()))
    }
}

#[async_trait]
impl Keeper for Asks {
    async fn resync(
        &self,
        work: &WorkId,
        epoch: Epoch,
        replicas: Vec<NodeId>,
        in_sync: Vec<NodeId>,
    ) -> Result<KeeperAnswer, KeeperError> {
        self.propose(KeeperCommand::Resync { work: work.clone(), epoch, replicas, in_sync }).await
    }

    async fn hand_over(&self, work: &WorkId, epoch: Epoch, owner: NodeId) -> Result<KeeperAnswer, KeeperError> {
        self.propose(KeeperCommand::Move { work: work.clone(), epoch, owner, exclude_old: true }).await
    }
}

struct Nobody;

#[async_trait]
impl RaftTransport for Nobody {
    async fn call(&self, _to: &NodeId, _group: &SiteId, _message: Bytes) -> Result<Bytes, TransportError> {
        Err(TransportError("there is nobody else".to_owned()))
    }
}

pub struct Node {
    pub works: Arc<Works>,
    pub log: Log,
    pub derived: Derived,
}

pub struct Cluster {
    pub net: Arc<Net>,
    pub group: Arc<SiteGroup>,
    pub nodes: BTreeMap<NodeId, Node>,
    dirs: BTreeMap<NodeId, TempDir>,
    _keeper: TempDir,
}

impl Cluster {
    pub async fn new(names: &[&str]) -> Self {
        let keeper = TempDir::new().unwrap();
        let site = SiteId::new("hall").unwrap();
        let options = GroupOptions { site, node: id("keeper"), initialize: true, elect: true, election: ELECTION };
        let log = Log::open(keeper.path(), LogOptions::small()).unwrap();
        let group = SiteGroup::start(options, log, Arc::new(Nobody)).await.unwrap();
        let (net, nodes, dirs) = Default::default();
        let mut cluster = Self { net, group, nodes, dirs, _keeper: keeper };
        for name in names {
            cluster.dirs.insert(id(name), TempDir::new().unwrap());
            cluster.start(name).await;
        }
        cluster
    }

    /// Starts a node on what its directory holds.
    pub async fn start(&mut self, name: &str) {
        let node = id(name);
        let dir = self.dirs[&node].path();
        let (log, derived) = tokio::time::timeout(PATIENCE, async {
            loop {
                // What the node before it was doing may take a moment to end.
                match (Log::open(dir, LogOptions::small()), Derived::open(dir)) {
                    (Ok(log), Ok(derived)) => return (log, derived),
                    (Err(StoreError::Locked { .. }), _) | (_, Err(StoreError::Locked { .. })) => {
                        tokio::time::sleep(Duration::from_millis(2)).await;
                    }
                    (log, derived) => panic!("{:?} {:?}", log.err(), derived.err()),
                }
            }
        })
        .await
        .expect("the directory is free");
        let link = Arc::new(Link { net: Arc::clone(&self.net), from: node.clone() });
        let asks = Arc::new(Asks { net: Arc::clone(&self.net), group: Arc::clone(&self.group), node: node.clone() });
        let works = Works::new(node.clone(), log.clone(), derived.clone(), link, asks).unwrap();
        self.net.works.lock().unwrap().insert(node.clone(), Arc::clone(&works));
        self.nodes.insert(node, Node { works, log, derived });
    }

    /// Ends a node.
    pub fn stop(&mut self, name: &str) {
        self.net.works.lock().unwrap().remove(&id(name));
        let node = self.nodes.remove(&id(name)).unwrap();
        node.works.stop();
        node.log.close().unwrap();
    }

    /// Ends a node and deletes all that it had.
    pub fn wipe(&mut self, name: &str) {
        self.stop(name);
        self.dirs.insert(id(name), TempDir::new().unwrap());
    }

    pub fn works(&self, name: &str) -> Arc<Works> {
        Arc::clone(&self.nodes[&id(name)].works)
    }

    pub async fn keeper(&self, command: KeeperCommand) -> KeeperAnswer {
        let answer = self.group.propose(command).await.unwrap();
        self.tell();
        answer
    }

    pub async fn create(&self, owner: &str, replicas: &[&str]) {
        let replicas = replicas.iter().map(|name| id(name)).collect();
        self.keeper(KeeperCommand::Create { work: work(), owner: id(owner), replicas }).await;
    }

    pub async fn give_to(&self, owner: &str, exclude_old: bool) -> KeeperAnswer {
        let epoch = self.assignment().epoch;
        self.keeper(KeeperCommand::Move { work: work(), epoch, owner: id(owner), exclude_old }).await
    }

    /// Tells every node that can hear it what the keeper has decided.
    pub fn tell(&self) {
        let assignment = self.assignment();
        for (name, node) in &self.nodes {
            if !self.net.is_away(name) {
                node.works.assigned(assignment.clone());
            }
        }
    }

    pub fn assignment(&self) -> Assignment {
        self.group.assignments().borrow()[&work()].clone()
    }

    pub async fn in_sync(&self, names: &[&str]) {
        let wanted: HashSet<NodeId> = names.iter().map(|name| id(name)).collect();
        let mut seen = self.group.assignments();
        let reached = seen.wait_for(|all| {
            all.get(&work()).is_some_and(|now| now.in_sync.iter().cloned().collect::<HashSet<_>>() == wanted)
        });
        let reached = tokio::time::timeout(PATIENCE, reached).await.is_ok();
        assert!(reached, "{:?} is not in sync with {names:?}", self.assignment());
    }

    /// All texts that a node's log holds.
    pub fn held(&self, name: &str) -> Vec<String> {
        let log = &self.nodes[&id(name)].log;
        let first = log.head(&work().to_string()).map_or(1, |head| head.first);
        let entries = log.read(&work().to_string(), first, usize::MAX).unwrap();
        let commits = entries.iter().map(|entry| littoral_model::wire::decode::<Commit>(&entry.payload).unwrap());
        commits.flat_map(|commit| commit.outputs).map(|batch| text(&batch)).collect()
    }
}

pub fn text(batch: &PortBatch) -> String {
    String::from_utf8(batch.arrow.to_vec()).unwrap()
}

/// Polls until something holds.
pub async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let polled = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, polled).await.is_ok(), "never happened: {what}");
}

pub async fn in_time<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("it hangs")
}

pub fn publication(text: &str, sequence: u64) -> PublishRequest {
    let producer = ProducerSequence { producer: "sensor".to_owned(), epoch: 1, sequence };
    PublishRequest { work: work(), batch: rows(text), producer: Some(producer) }
}

pub async fn publish(works: &Works, text: &str, sequence: u64) -> (u64, bool) {
    match in_time(works.publish(publication(text, sequence))).await {
        PublishReply::Stored { index, repeated } => (index, repeated),
        other => panic!("{other:?}"),
    }
}

pub fn fetching(from: u64, wait_ms: u32) -> FetchRequest {
    let from = Position { index: from, row: 0 };
    let port = PORT_MAIN.to_owned();
    FetchRequest { work: work(), port, consumer: None, from, committed: Position::START, bytes_max: 1 << 20, wait_ms }
}

/// All committed texts, from the owner.
pub async fn read_all(works: &Works) -> Vec<(u64, String)> {
    let mut all = Vec::new();
    let mut from = 1;
    loop {
        match in_time(works.fetch(fetching(from, 0))).await {
            FetchReply::Rows { batches, next, .. } => {
                all.extend(batches.iter().map(|(index, batch)| (*index, text(batch))));
                if next.index == from {
                    return all;
                }
                from = next.index;
            }
            FetchReply::Trimmed(first) => from = first.index,
            FetchReply::NotOwner(known) => panic!("not the owner: {known:?}"),
        }
    }
}
