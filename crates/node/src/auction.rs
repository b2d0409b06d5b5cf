//! Scheduling by auction: whichever node receives a deployment plans it, calls the nodes that it considers for bids, and
//! commits to the best; a node that refuses is planned without, a few times over.
//!
//! A bid is what a node says of itself at this moment, with memory that it keeps free for the caller under a lease
//! ([`littoral_control::leases`]). The whole app is planned at once from the bids, so that its flows' objectives are met
//! together, and each node it is to run on is then asked for as much as the plan needs there.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::join_all;
use littoral_control::leases::{LeaseId, Leases};
use littoral_mesh::{CallError, Mesh, Method, Priority};
use littoral_model::id::{AppId, FunctionName, NodeId};
use littoral_model::work::Assignment;
use littoral_plan::{AppSpec, Fabric, NodeView, Placement, Refusal};
use serde::{Deserialize, Serialize};

use crate::gate;
use crate::intent::{App, Apps, IntentStore};
use crate::sync::lock;
use crate::wiring::ask;

/// How often a plan is made anew because a node refused: the best three are tried (serverless computing fabric, IV.D).
const ROUNDS_MAX: usize = 3;
/// How long a node has for its bid or its answer to a commit.
const BID_DEADLINE: Duration = Duration::from_millis(1_000);

/// What a scheduler asks of a node.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum AuctionRequest {
    /// What it bids for an app.
    Bid { app: AppId, memory_bytes: u64 },
    /// So much of what it offered is taken.
    Commit { lease: LeaseId, memory_bytes: u64 },
    /// What it offered is not needed.
    Release { lease: LeaseId },
}

/// What the node answers.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum AuctionReply {
    Bid(Bid),
    Done,
    Refused(String),
}

/// An offer to run something.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Bid {
    lease: LeaseId,
    /// The memory that it keeps free for the caller, in bytes.
    memory_bytes: u64,
    /// How many units of work it runs now.
    works: u32,
}

/// What each node has offered.
pub(crate) type Bids = BTreeMap<NodeId, Bid>;

/// What this node has offered.
pub(crate) struct Bidder {
    mesh: Arc<dyn Mesh>,
    intent: Arc<IntentStore>,
    leases: Mutex<Leases>,
}

impl Bidder {
    pub(crate) fn new(mesh: Arc<dyn Mesh>, intent: Arc<IntentStore>) -> Self {
        Self { mesh, intent, leases: Mutex::default() }
    }

    /// Answers [`Method::Bid`].
    pub(crate) fn answer(&self, request: AuctionRequest) -> AuctionReply {
        let now_ms = gate::now_ms();
        let mut leases = lock(&self.leases);
        match request {
            AuctionRequest::Bid { app, memory_bytes } => {
                let members = self.mesh.members().borrow().clone();
                let Some(digest) = members.get(self.mesh.node()) else {
                    return AuctionReply::Refused("it is starting".to_owned());
                };
                let promised = promised(&self.intent.now(), self.mesh.node());
                match leases.offer(now_ms, &app, memory_bytes, digest.memory_bytes, &promised) {
                    Some(offer) => {
                        AuctionReply::Bid(Bid { lease: offer.lease, memory_bytes: offer.bytes, works: digest.works })
                    }
                    None => AuctionReply::Refused("too many schedulers ask it at once".to_owned()),
                }
            }
            AuctionRequest::Commit { lease, memory_bytes } => match leases.commit(now_ms, lease, memory_bytes) {
                Ok(()) => AuctionReply::Done,
                Err(refused) => AuctionReply::Refused(refused.to_string()),
            },
            AuctionRequest::Release { lease } => {
                leases.release(lease);
                AuctionReply::Done
            }
        }
    }
}

/// The memory of a node that intent promises to each app, in bytes.
fn promised(apps: &Apps, node: &NodeId) -> BTreeMap<AppId, u64> {
    apps.apps.values().filter_map(|app| Some((app.id.clone(), needs_of(app).remove(node)?))).collect()
}

/// What a deployed app takes of each node, in bytes.
pub(crate) fn needs_of(app: &App) -> BTreeMap<NodeId, u64> {
    needs(&app.placement, |name| app.manifest.functions.get(name).map_or(0, |function| function.memory.into()))
}

fn needs(placement: &Placement, memory_of: impl Fn(&FunctionName) -> u64) -> BTreeMap<NodeId, u64> {
    let mut needs: BTreeMap<NodeId, u64> = BTreeMap::new();
    for placed in &placement.works {
        for node in &placed.replicas {
            *needs.entry(node.clone()).or_default() += placed.memory_bytes;
        }
    }
    for instance in &placement.instances {
        *needs.entry(instance.node.clone()).or_default() += memory_of(&instance.function);
    }
    needs
}

/// Why an app has no placement.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AuctionError {
    /// It cannot be placed as the nodes are.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// It could, but others were faster each time.
    #[error("{} refused what they had offered: others deploy at the same time", .0.join(", "))]
    Contended(Vec<String>),
}

/// Sells what an app needs to the nodes of a fabric.
pub(crate) struct Auction<'a> {
    pub(crate) mesh: &'a Arc<dyn Mesh>,
    pub(crate) spec: &'a AppSpec,
    /// Who holds something of the app already.
    pub(crate) existing: &'a [Assignment],
}

impl Auction<'_> {
    /// Where everything is to run, with the memory for it leased on every node, and the leases.
    pub(crate) async fn run(&self, mut fabric: Fabric) -> Result<(Placement, Bids), AuctionError> {
        let mut placement = self.compile(&fabric)?;
        let most = self.needs(&placement).into_values().max().unwrap_or_default();
        let bids = self.call_for_bids(&mut fabric, most).await;
        let mut committed: BTreeMap<NodeId, u64> = BTreeMap::new();
        let mut refused = BTreeMap::new();
        for _ in 0..ROUNDS_MAX {
            placement = match self.compile(&fabric) {
                Ok(placement) => placement,
                Err(refusal) => {
                    self.release(&bids).await;
                    return Err(refusal.into());
                }
            };
            let needs = self.needs(&placement);
            let missing = needs.iter().filter(|(node, bytes)| committed.get(*node) != Some(*bytes));
            let asked = missing.filter_map(|(node, bytes)| Some((node, bids.get(node)?.lease, *bytes)));
            let answers = join_all(asked.map(|(node, lease, memory_bytes)| async move {
                let reply = self.ask(node, &AuctionRequest::Commit { lease, memory_bytes }).await;
                (node.clone(), memory_bytes, reply)
            }));
            refused.clear();
            for (node, bytes, reply) in answers.await {
                match reply {
                    Ok(AuctionReply::Done) => drop(committed.insert(node, bytes)),
                    Ok(AuctionReply::Refused(reason)) => drop(refused.insert(node, reason)),
                    Ok(AuctionReply::Bid(_)) => drop(refused.insert(node, "it does not understand".to_owned())),
                    Err(error) => drop(refused.insert(node, error.to_string())),
                }
            }
            if refused.is_empty() {
                let (needed, unused) = bids.into_iter().partition(|(node, _)| needs.contains_key(node));
                self.release(&unused).await;
                return Ok((placement, needed));
            }
            for (node, reason) in &refused {
                tracing::info!(%node, reason, app = %self.spec.app, "a node refuses what it had offered");
                fabric.nodes.entry(node.clone()).and_modify(close);
            }
        }
        self.release(&bids).await;
        Err(AuctionError::Contended(refused.into_keys().map(|node| node.to_string()).collect()))
    }

    fn compile(&self, fabric: &Fabric) -> Result<Placement, Refusal> {
        littoral_plan::compile(self.spec, fabric, self.existing)
    }

    fn needs(&self, placement: &Placement) -> BTreeMap<NodeId, u64> {
        needs(placement, |name| self.spec.functions.get(name).map_or(0, |function| function.memory_bytes))
    }

    /// Asks every live node; what it answers takes the place of what its digest says. One that holds something of the app is
    /// planned with even if it does not answer: what runs is not moved because a message was lost.
    async fn call_for_bids(&self, fabric: &mut Fabric, memory_bytes: u64) -> Bids {
        let live: Vec<NodeId> = fabric.nodes.values().filter(|view| view.alive).map(|view| view.node.clone()).collect();
        let asked = live.into_iter().map(|node| async move {
            let request = AuctionRequest::Bid { app: self.spec.app.clone(), memory_bytes };
            let reply = self.ask(&node, &request).await;
            (node, reply)
        });
        let mut bids = Bids::new();
        for (node, reply) in join_all(asked).await {
            let Some(view) = fabric.nodes.get_mut(&node) else { continue };
            let reason = match reply {
                Ok(AuctionReply::Bid(bid)) => {
                    view.memory_promised_bytes = view.memory_bytes.saturating_sub(bid.memory_bytes);
                    view.works = bid.works;
                    bids.insert(node, bid);
                    continue;
                }
                Ok(AuctionReply::Refused(reason)) => reason,
                Ok(AuctionReply::Done) => "it does not understand".to_owned(),
                Err(error) => error.to_string(),
            };
            tracing::info!(%node, reason, app = %self.spec.app, "a node does not bid");
            if !self.existing.iter().any(|held| held.owner == node || held.replicas.contains(&node)) {
                close(view);
            }
        }
        bids
    }

    /// Gives back what is not needed.
    pub(crate) async fn release(&self, unused: &Bids) {
        // One that is not told keeps its lease for some time longer.
        let told = unused.iter().map(|(node, bid)| async move {
            drop(self.ask(node, &AuctionRequest::Release { lease: bid.lease }).await);
        });
        join_all(told).await;
    }

    async fn ask(&self, node: &NodeId, request: &AuctionRequest) -> Result<AuctionReply, CallError> {
        ask(self.mesh, node, Method::Bid, Priority::Control, BID_DEADLINE, request).await
    }
}

/// Nothing more is to be had of a node.
fn close(view: &mut NodeView) {
    view.memory_promised_bytes = view.memory_bytes;
}
