//! A small fabric of agents with a keeper that never fails: what is proposed to a group with a leader is applied at
//! once, as the consensus group's state machine does it.

#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use littoral_control::{Agent, Command, Event, Intent, Settings};
use littoral_model::digest::{LinkReport, NodeDigest};
use littoral_model::id::{AppId, AppName, Epoch, NodeId, SiteId, TenantId, Tier};
use littoral_model::wire::VersionRange;
use littoral_model::work::{Assignment, KeeperCommand, WorkId};
use littoral_plan::{Ack, Constraints, PlacedFunction, PlacedWork, Placement, Role};

pub(crate) fn node(name: &str) -> NodeId {
    name.parse().unwrap()
}

pub(crate) fn work(name: &str) -> WorkId {
    format!("default/demo/{name}").parse().unwrap()
}

pub(crate) fn app() -> AppId {
    AppId { tenant: TenantId::default_tenant(), app: AppName::new("demo").unwrap() }
}

pub(crate) fn digest(name: &str, tier: Tier, site: &str) -> NodeDigest {
    NodeDigest {
        node: node(name),
        tier,
        site: site.parse().unwrap(),
        labels: BTreeMap::new(),
        incarnation: 1,
        sequence: 1,
        protocol: VersionRange::OURS,
        program: "0.1.0".to_owned(),
        cores: 2,
        memory_bytes: 1 << 30,
        works: 0,
        http: None,
        functions: Vec::new(),
        links: Vec::new(),
        intent: 0,
        situation: littoral_model::situation::Situation::default(),
        condition: littoral_model::condition::Condition::default(),
    }
}

pub(crate) fn link(peer: &str, rtt_us: u64) -> LinkReport {
    LinkReport { peer: node(peer), rtt_us, bandwidth_bps: None }
}

/// A stream partition, placed with `ack = site` on `owner` and `others`.
pub(crate) fn placed(name: &str, owner: &str, others: &[&str]) -> PlacedWork {
    let replicas = std::iter::once(owner).chain(others.iter().copied()).map(node).collect();
    let work = work(name);
    PlacedWork {
        owner: node(owner),
        replicas,
        ack: Ack::Site,
        role: Role::StreamPartition { stream: work.name.parse().unwrap(), sources: Vec::new() },
        requires: Constraints::any(),
        memory_bytes: 0,
        reasons: Vec::new(),
        work,
    }
}

pub(crate) fn placement(mut works: Vec<PlacedWork>, instances: Vec<PlacedFunction>) -> Placement {
    works.sort_by(|a, b| a.work.cmp(&b.work));
    Placement { app: app(), works, instances, serving: Vec::new(), predictions: Vec::new(), retired: Vec::new() }
}

pub(crate) fn intent(placement: Placement) -> Event {
    let apps = BTreeMap::from([(app(), Arc::new(placement))]);
    Event::Intent(Arc::new(Intent { apps, ..Intent::default() }))
}

pub(crate) fn assignment(name: &str, owner: &str, epoch: u64, in_sync: &[&str]) -> Assignment {
    let in_sync: Vec<NodeId> = in_sync.iter().copied().map(node).collect();
    Assignment { work: work(name), owner: node(owner), epoch: Epoch(epoch), replicas: in_sync.clone(), in_sync }
}

pub(crate) fn assignments(all: &[Assignment]) -> Event {
    Event::Assignments(Arc::new(all.iter().map(|a| (a.work.clone(), a.clone())).collect()))
}

pub(crate) fn members(digests: &[NodeDigest]) -> Event {
    Event::Members(Arc::new(digests.iter().map(|digest| (digest.node.clone(), Arc::new(digest.clone()))).collect()))
}

pub(crate) fn agent(name: &str, site: &str) -> Agent {
    agent_of_group(name, site, site)
}

pub(crate) fn agent_of_group(name: &str, home: &str, group: &str) -> Agent {
    let (home, group) = (home.parse().unwrap(), group.parse().unwrap());
    Agent::new(Settings { node: node(name), home, group, seed: 7 })
}

pub(crate) fn proposals(commands: &[Command]) -> Vec<KeeperCommand> {
    commands
        .iter()
        .filter_map(|command| match command {
            Command::Propose(proposal) => Some(proposal.clone()),
            _ => None,
        })
        .collect()
}

pub(crate) fn voters(commands: &[Command]) -> Option<BTreeSet<NodeId>> {
    commands.iter().find_map(|command| match command {
        Command::SetVoters(voters) => Some(voters.clone()),
        _ => None,
    })
}

pub(crate) fn names(nodes: &[&str]) -> BTreeSet<NodeId> {
    nodes.iter().copied().map(node).collect()
}

/// A site's group: what its state machine holds, and who votes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Group {
    pub(crate) assignments: BTreeMap<WorkId, Assignment>,
    pub(crate) voters: BTreeSet<NodeId>,
    /// Who led in the last round.
    pub(crate) leader: Option<NodeId>,
    /// Moves that were applied: work, old owner, new owner.
    pub(crate) moves: Vec<(WorkId, NodeId, NodeId)>,
}

impl Group {
    /// Applies a command as the documentation of [`KeeperCommand`] says.
    pub(crate) fn apply(&mut self, command: KeeperCommand) {
        match command {
            KeeperCommand::Create { work, owner, replicas } => {
                let in_sync = vec![owner.clone()];
                let new = Assignment { work: work.clone(), owner, epoch: Epoch(1), replicas, in_sync };
                self.assignments.entry(work).or_insert(new);
            }
            KeeperCommand::Move { work, epoch, owner, exclude_old } => {
                let Some(held) = self.assignments.get_mut(&work) else { return };
                if held.epoch == epoch && held.in_sync.contains(&owner) {
                    let old = std::mem::replace(&mut held.owner, owner.clone());
                    held.epoch = epoch.next();
                    held.in_sync.retain(|node| !exclude_old || *node != old);
                    self.moves.push((work, old, owner));
                }
            }
            KeeperCommand::Resync { work, epoch, replicas, in_sync } => {
                let Some(held) = self.assignments.get_mut(&work) else { return };
                if held.epoch == epoch && in_sync.contains(&held.owner) && replicas.contains(&held.owner) {
                    held.replicas = replicas;
                    held.in_sync = in_sync;
                }
            }
            KeeperCommand::Replicas { work, epoch, replicas } => {
                let Some(held) = self.assignments.get_mut(&work) else { return };
                if held.epoch == epoch && replicas.contains(&held.owner) {
                    held.in_sync.retain(|node| replicas.contains(node));
                    held.replicas = replicas;
                }
            }
            KeeperCommand::Remove { work } => {
                self.assignments.remove(&work);
            }
        }
    }
}

/// Agents, groups, and who is alive.
pub(crate) struct Sim {
    pub(crate) now_ms: u64,
    pub(crate) digests: BTreeMap<NodeId, NodeDigest>,
    pub(crate) alive: BTreeSet<NodeId>,
    pub(crate) groups: BTreeMap<SiteId, Group>,
    pub(crate) agents: BTreeMap<(NodeId, SiteId), Agent>,
    pub(crate) running: BTreeMap<NodeId, BTreeMap<WorkId, Epoch>>,
    pub(crate) intent: Arc<Intent>,
}

impl Sim {
    pub(crate) fn new(digests: Vec<NodeDigest>, placement: Placement) -> Self {
        let mut groups: BTreeMap<SiteId, Group> = BTreeMap::new();
        for digest in &digests {
            let group = groups.entry(digest.site.clone()).or_default();
            if group.voters.is_empty() {
                group.voters.insert(digest.node.clone());
            }
        }
        Self {
            now_ms: 0,
            alive: digests.iter().map(|digest| digest.node.clone()).collect(),
            digests: digests.into_iter().map(|digest| (digest.node.clone(), digest)).collect(),
            groups,
            agents: BTreeMap::new(),
            running: BTreeMap::new(),
            intent: Arc::new(Intent { apps: BTreeMap::from([(app(), Arc::new(placement))]), ..Intent::default() }),
        }
    }

    /// Half a second: every live agent hears of everything and is obeyed. Answers with the number of commands.
    pub(crate) fn round(&mut self) -> usize {
        self.now_ms += 500;
        let sites: Vec<SiteId> = self.groups.keys().cloned().collect();
        sites.iter().map(|site| self.round_of(site)).sum()
    }

    fn round_of(&mut self, site: &SiteId) -> usize {
        let mut count = 0;
        let voters = self.groups[site].voters.clone();
        let living: Vec<&NodeId> = voters.iter().filter(|node| self.alive.contains(*node)).collect();
        let leader = (living.len() * 2 > voters.len()).then(|| living[0].clone());
        let local = self.digests.values().filter(|digest| digest.site == *site).map(|digest| digest.node.clone());
        let nodes: BTreeSet<NodeId> = local.chain(voters).filter(|node| self.alive.contains(node)).collect();
        let live: BTreeMap<NodeId, Arc<NodeDigest>> = self
            .digests
            .iter()
            .filter(|(node, _)| self.alive.contains(*node))
            .map(|(node, digest)| (node.clone(), Arc::new(digest.clone())))
            .collect();
        let live = Arc::new(live);
        for node in nodes {
            let home = self.digests[&node].site.clone();
            let group = &self.groups[site];
            // Who leads no more learns that first; who leads now has heard of everything else before.
            let leads = leader.as_ref() == Some(&node);
            let events = [
                Event::Members(live.clone()),
                Event::Voters(group.voters.clone()),
                Event::Assignments(Arc::new(group.assignments.clone())),
                Event::Intent(self.intent.clone()),
                Event::Leadership(leads),
                Event::Tick,
            ];
            let settings = Settings { node: node.clone(), home, group: site.clone(), seed: 1 };
            let agent = self.agents.entry((node.clone(), site.clone())).or_insert_with(|| Agent::new(settings));
            let leads_on = leads && group.leader.as_ref() == Some(&node);
            let first = (!leads_on).then_some(Event::Leadership(false));
            let events = first.into_iter().chain(events);
            let commands: Vec<Command> = events.flat_map(|event| agent.step(self.now_ms, event)).collect();
            count += commands.len();
            for command in commands {
                self.obey(site, &node, leader.as_ref(), command);
            }
        }
        if leader.is_some() {
            self.resync(site);
        }
        self.groups.get_mut(site).unwrap().leader = leader;
        count
    }

    fn obey(&mut self, site: &SiteId, node: &NodeId, leader: Option<&NodeId>, command: Command) {
        match command {
            Command::Propose(proposal) => {
                assert_eq!(leader, Some(node), "only a leader proposes");
                if let KeeperCommand::Move { work, .. } = &proposal {
                    let owner = &self.groups[site].assignments[work].owner;
                    assert!(!self.alive.contains(owner), "{work} was to leave {owner}, which is alive");
                }
                self.groups.get_mut(site).unwrap().apply(proposal);
            }
            Command::SetVoters(voters) => {
                assert_eq!(leader, Some(node), "only a leader changes the voters");
                assert!(voters.len() == 1 || voters.len() == 3, "{voters:?}");
                self.groups.get_mut(site).unwrap().voters = voters;
            }
            Command::StartWork { work, epoch } => {
                let before = self.running.entry(node.clone()).or_default().insert(work, epoch);
                assert!(before.is_none(), "started twice");
            }
            Command::StopWork { work } => {
                assert!(self.running.entry(node.clone()).or_default().remove(&work).is_some(), "stopped twice");
            }
            _ => {}
        }
    }

    /// What the store of each live owner does: the in-sync set follows the live replicas.
    fn resync(&mut self, site: &SiteId) {
        for assignment in self.groups.get_mut(site).unwrap().assignments.values_mut() {
            if self.alive.contains(&assignment.owner) {
                let alive = assignment.replicas.iter().filter(|node| self.alive.contains(*node));
                assignment.in_sync = alive.cloned().collect();
            }
        }
    }

    /// A node dies: its agents forget everything.
    pub(crate) fn kill(&mut self, node: &NodeId) {
        self.alive.remove(node);
        self.agents.retain(|(agent, _), _| agent != node);
        self.running.remove(node);
    }

    /// A node is cut off for a while: its agents remember, and hear nothing.
    pub(crate) fn pause(&mut self, node: &NodeId) {
        self.alive.remove(node);
    }

    pub(crate) fn raise(&mut self, node: &NodeId) {
        self.alive.insert(node.clone());
    }
}
