//! The consensus groups that this node takes part in: its own site's, and those of sites that borrow its vote.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use littoral_mesh::Members;
use littoral_model::id::{NodeId, SiteId};
use littoral_model::wire;
use littoral_model::work::{Assignment, KeeperAnswer, KeeperCommand, WorkId};
use littoral_store::consensus::{ELECTION, GroupOptions, RaftTransport, SiteGroup};
use littoral_store::log::Log;
use tokio::sync::mpsc::Sender;
use tokio::sync::watch;

use crate::data_dir::Facts;
use crate::sync::lock;

/// How many other sites may borrow this node's vote; a group costs a heartbeat four times a second.
pub(crate) const BORROWED_MAX: usize = 64;

/// All groups of this node.
pub(crate) struct Groups {
    node: NodeId,
    site: SiteId,
    log: Log,
    transport: Arc<dyn RaftTransport>,
    members: watch::Receiver<Arc<Members>>,
    /// Tells of each group that is started, so that its agent is driven.
    opened: Sender<Arc<SiteGroup>>,
    running: Mutex<BTreeMap<SiteId, Arc<SiteGroup>>>,
    /// One group is started at a time: two of the same site would write to one log without knowing of each other.
    opening: tokio::sync::Mutex<()>,
}

impl Groups {
    /// Starts the site's own group, and those that this node voted in before it was restarted.
    pub(crate) async fn start(
        facts: &Facts,
        log: Log,
        transport: Arc<dyn RaftTransport>,
        members: watch::Receiver<Arc<Members>>,
        opened: Sender<Arc<SiteGroup>>,
    ) -> anyhow::Result<Arc<Self>> {
        let (node, site) = (facts.node.clone(), facts.site.clone());
        let groups = Arc::new(Self {
            node,
            site: site.clone(),
            log,
            transport,
            members,
            opened,
            running: Mutex::default(),
            opening: tokio::sync::Mutex::default(),
        });
        groups.open(&site, facts.founder).await?;
        for work in groups.log.works() {
            let borrowed =
                work.strip_prefix(littoral_store::consensus::WORK_PREFIX).and_then(|name| SiteId::new(name).ok());
            if let Some(other) = borrowed.filter(|other| *other != site) {
                groups.open(&other, false).await?;
            }
        }
        Ok(groups)
    }

    /// The group of this node's own site.
    pub(crate) fn own(&self) -> Option<Arc<SiteGroup>> {
        self.get(&self.site)
    }

    /// What a group that runs here says of a work.
    pub(crate) fn assignment(&self, work: &WorkId) -> Option<Assignment> {
        self.get(&work.site)?.assignments().borrow().get(work).cloned()
    }

    /// Has the keeper of a work decide; for works of this site, and of those that borrow this node's vote.
    pub(crate) async fn propose(&self, command: KeeperCommand) -> Result<KeeperAnswer, String> {
        let site = &command_work(&command).site;
        let group = self.get(site).ok_or_else(|| format!("this node is not of the site {site}; ask a node there"))?;
        group.propose(command).await.map_err(|error| error.to_string())
    }

    /// Answers a message of another node's group; a group that wants this node's vote is started.
    pub(crate) async fn handle(&self, from: &NodeId, payload: &Bytes) -> Result<Bytes, String> {
        let (site, message): (SiteId, Bytes) = wire::decode(payload).map_err(|error| error.to_string())?;
        let is_of_site = || self.members.borrow().get(from).is_some_and(|digest| digest.site == site);
        let group = match self.get(&site) {
            Some(group) => group,
            // Only a node of the site leads its group; whoever names others would use up the votes that are lent.
            None if !is_of_site() => return Err(format!("{from} is not known to be of the site {site}; try again")),
            None => self.open(&site, false).await.map_err(|error| error.to_string())?,
        };
        group.handle(message).await.map_err(|error| error.to_string())
    }

    /// Ends all groups.
    pub(crate) async fn stop(&self) {
        let running = std::mem::take(&mut *self.lock());
        for group in running.into_values() {
            group.stop().await;
        }
    }

    async fn open(&self, site: &SiteId, founder: bool) -> anyhow::Result<Arc<SiteGroup>> {
        let _one = self.opening.lock().await;
        if let Some(group) = self.get(site) {
            return Ok(group);
        }
        if self.lock().len() > BORROWED_MAX {
            anyhow::bail!("{BORROWED_MAX} sites borrow this node's vote already; give {site} another parent");
        }
        let options = GroupOptions {
            site: site.clone(),
            node: self.node.clone(),
            initialize: founder,
            // A borrowed voter votes and never leads: it sees the site's nodes only from afar.
            elect: *site == self.site,
            election: ELECTION,
        };
        let group = SiteGroup::start(options, self.log.clone(), Arc::clone(&self.transport)).await?;
        self.lock().insert(site.clone(), Arc::clone(&group));
        // There is room for every group that there may be; if nobody drives groups any more, the node stops.
        if self.opened.try_send(Arc::clone(&group)).is_err() {
            tracing::debug!(%site, "nobody drives groups any more");
        }
        Ok(group)
    }

    fn get(&self, site: &SiteId) -> Option<Arc<SiteGroup>> {
        self.lock().get(site).cloned()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<SiteId, Arc<SiteGroup>>> {
        lock(&self.running)
    }
}

fn command_work(command: &KeeperCommand) -> &WorkId {
    match command {
        KeeperCommand::Create { work, .. }
        | KeeperCommand::Move { work, .. }
        | KeeperCommand::Resync { work, .. }
        | KeeperCommand::Replicas { work, .. }
        | KeeperCommand::Remove { work } => work,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use async_trait::async_trait;
    use littoral_model::id::Tier;
    use littoral_store::consensus::TransportError;
    use littoral_store::log::LogOptions;

    use super::*;

    struct Nobody;

    #[async_trait]
    impl RaftTransport for Nobody {
        async fn call(&self, _: &NodeId, _: &SiteId, _: Bytes) -> Result<Bytes, TransportError> {
            Err(TransportError("there is nobody else".to_owned()))
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn messages_that_arrive_at_once_start_one_group() {
        let folder = tempfile::tempdir().unwrap();
        let log = Log::open(folder.path(), LogOptions::small()).unwrap();
        let (node, site) = (NodeId::new("cloud-1").unwrap(), SiteId::new("cloud").unwrap());
        let facts = Facts::new("fabric".to_owned(), node, Tier::Cloud, site, true);
        let (opened, mut started) = tokio::sync::mpsc::channel(BORROWED_MAX + 1);
        let (_members, seen) = watch::channel(Arc::default());
        let groups = Groups::start(&facts, log, Arc::new(Nobody), seen, opened).await.unwrap();
        let hall = SiteId::new("hall-7").unwrap();
        let all = futures::future::join_all((0..8).map(|_| groups.open(&hall, false))).await;
        let all: Vec<Arc<SiteGroup>> = all.into_iter().map(Result::unwrap).collect();
        assert!(all.windows(2).all(|pair| Arc::ptr_eq(&pair[0], &pair[1])));
        assert_eq!(started.recv().await.unwrap().site().as_str(), "cloud");
        assert_eq!(started.recv().await.unwrap().site().as_str(), "hall-7");
        assert!(started.try_recv().is_err(), "each is told of once");
        groups.stop().await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_group_is_started_only_for_a_node_of_its_site() {
        let folder = tempfile::tempdir().unwrap();
        let log = Log::open(folder.path(), LogOptions::small()).unwrap();
        let (node, site) = (NodeId::new("cloud-1").unwrap(), SiteId::new("cloud").unwrap());
        let facts = Facts::new("fabric".to_owned(), node, Tier::Cloud, site, true);
        let (opened, _started) = tokio::sync::mpsc::channel(BORROWED_MAX + 1);
        let known = crate::spec::tests::digest("edge-1", "hall-7");
        let (_members, seen) = watch::channel(Arc::new(Members::from([(known.node.clone(), Arc::new(known))])));
        let groups = Groups::start(&facts, log, Arc::new(Nobody), seen, opened).await.unwrap();
        let names = |site: &str| wire::encode(&(SiteId::new(site).unwrap(), Bytes::new())).unwrap();
        for (from, site, opens) in
            [("edge-1", "hall-8", false), ("edge-2", "hall-7", false), ("edge-1", "hall-7", true)]
        {
            // The message itself cannot be read, whoever sends it.
            groups.handle(&NodeId::new(from).unwrap(), &names(site)).await.unwrap_err();
            assert_eq!(groups.get(&SiteId::new(site).unwrap()).is_some(), opens, "{from} names {site}");
        }
        groups.stop().await;
    }
}
