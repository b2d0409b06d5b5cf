//! Runs the units of work that a simulated node owns.
//!
//! A stream without writers inside the fabric only waits to be written to. A stage, and a stream that a flow writes,
//! copy what their inputs hold, committing how far they have read with what they write, as `flow` does.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use littoral_control::Event;
use littoral_model::entry::{Commit, InputPosition, PORT_MAIN, PortBatch, Position};
use littoral_model::id::{Epoch, NodeId};
use littoral_model::wire::{FetchReply, FetchRequest};
use littoral_model::work::{Assignment, WorkId};
use littoral_plan::{PlacedWork, Placement, Role, Source};
use littoral_store::replica::{Ack, Owned, Retention, WorkConfig};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::sleep;

use crate::history;
use crate::net::{Reply, Request};
use crate::node::Node;

/// How long an owner is asked to wait for rows.
const WAIT_MS: u32 = 1_000;
/// How long it may take to answer.
const FETCH_DEADLINE: Duration = Duration::from_secs(3);
/// About how many bytes are asked for: what they are copied into must fit into an entry of the small segments here.
const FETCH_BYTES: u32 = 48 << 10;
/// How long to wait before trying again.
const PAUSE: Duration = Duration::from_millis(200);

/// What runs on a node.
pub struct Runner {
    node: Weak<Node>,
    running: Mutex<BTreeMap<WorkId, (Epoch, AbortHandle)>>,
}

impl Runner {
    pub(crate) fn new(node: Weak<Node>) -> Self {
        Self { node, running: Mutex::default() }
    }

    /// What runs, and under which epoch.
    pub fn running(&self) -> BTreeMap<WorkId, Epoch> {
        let running = self.lock();
        let alive = running.iter().filter(|(_, (_, task))| !task.is_finished());
        alive.map(|(work, (epoch, _))| (work.clone(), *epoch)).collect()
    }

    pub(crate) fn start(&self, work: WorkId, epoch: Epoch, agent: mpsc::Sender<Event>) {
        let Some(node) = self.node.upgrade() else { return };
        let id = work.clone();
        let task = tokio::spawn(async move {
            let reason = run(&node, &id, epoch, &agent).await;
            agent.send(Event::WorkFailed { work: id, epoch, reason }).await.ok();
        });
        if let Some((_, before)) = self.lock().insert(work, (epoch, task.abort_handle())) {
            before.abort();
        }
    }

    pub(crate) fn stop(&self, work: &WorkId) {
        if let Some((_, task)) = self.lock().remove(work) {
            task.abort();
        }
    }

    pub(crate) fn stop_all(&self) {
        for (_, (_, task)) in std::mem::take(&mut *self.lock()) {
            task.abort();
        }
    }

    /// What is deployed has changed.
    pub(crate) fn reconsider(&self) {
        let Some(node) = self.node.upgrade() else { return };
        let intent = node.intent.now().intent;
        for work in self.running().into_keys() {
            let placement = intent.apps.get(&work.app);
            if let Some((placement, placed)) = placement.and_then(|all| Some((all, all.work(&work)?))) {
                node.works.configure(&work, config(&node, placement, placed));
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<WorkId, (Epoch, AbortHandle)>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs a work until it ends; why it did.
async fn run(node: &Arc<Node>, work: &WorkId, epoch: Epoch, agent: &mpsc::Sender<Event>) -> String {
    let intent = node.intent.now().intent;
    let Some(placement) = intent.apps.get(&work.app) else { return "the app is not known".to_owned() };
    let Some(placed) = placement.work(work) else { return "it is not in the placement".to_owned() };
    node.works.configure(work, config(node, placement, placed));
    let owned = match node.works.lead(work).await {
        Ok(owned) => owned,
        Err(error) => return error.to_string(),
    };
    if owned.epoch() != epoch {
        return "it was replaced".to_owned();
    }
    agent.send(Event::WorkStarted { work: work.clone(), epoch }).await.ok();
    let inputs: Vec<Source> = placed.role.inputs().cloned().collect();
    if inputs.is_empty() {
        owned.lost().await;
        return "it was replaced".to_owned();
    }
    copy(node, &owned, &inputs).await
}

/// Takes what the inputs hold into this work, one input after the other.
async fn copy(node: &Arc<Node>, owned: &Owned, inputs: &[Source]) -> String {
    let restored = match owned.restore().await {
        Ok(restored) => restored,
        Err(error) => return error.to_string(),
    };
    let mut places: BTreeMap<WorkId, (Epoch, Position)> = BTreeMap::new();
    places.extend(restored.inputs.into_iter().map(|input| (input.work, (input.epoch, input.position))));
    let mut hints: BTreeMap<WorkId, Assignment> = BTreeMap::new();
    for turn in 0.. {
        node.net.awake(node.id()).await;
        let Some(input) = inputs.get(turn % inputs.len()) else { break };
        let (epoch, from) = places.get(&input.work).copied().unwrap_or((Epoch(0), Position::START));
        let hint = hints.remove(&input.work);
        let Some(known) = (match hint {
            Some(hint) => Some(hint),
            None => node.locate(&input.work).await,
        }) else {
            sleep(PAUSE).await;
            continue;
        };
        // With several inputs none may hold up the others.
        let wait_ms = if inputs.len() == 1 { WAIT_MS } else { 0 };
        match fetch(node, &known.owner, owned.work(), input, from, wait_ms).await {
            Some(FetchReply::Rows { epoch: now, batches, next, .. }) if now >= epoch => {
                hints.insert(input.work.clone(), known);
                if next == from {
                    sleep(PAUSE).await;
                    continue;
                }
                places.insert(input.work.clone(), (now, next));
                let outputs = batches.into_iter().map(|(_, batch)| PortBatch { port: PORT_MAIN.to_owned(), ..batch });
                let read = InputPosition { work: input.work.clone(), epoch: now, position: next };
                let commit = Commit { inputs: vec![read], outputs: outputs.collect(), ..Commit::default() };
                let committed = match owned.append(commit).await {
                    Ok(committing) => committing.await,
                    Err(error) => Err(error),
                };
                match committed {
                    Ok(index) => node.note(history::Event::Committed {
                        node: node.id().clone(),
                        work: owned.work().clone(),
                        epoch: owned.epoch(),
                        index,
                    }),
                    Err(error) => return error.to_string(),
                }
            }
            Some(FetchReply::NotOwner(Some(now))) if now.epoch > known.epoch => {
                hints.insert(input.work.clone(), now);
            }
            _ => sleep(PAUSE).await,
        }
    }
    "it has no inputs".to_owned()
}

async fn fetch(
    node: &Arc<Node>,
    owner: &NodeId,
    consumer: &WorkId,
    input: &Source,
    from: Position,
    wait_ms: u32,
) -> Option<FetchReply> {
    let request = FetchRequest {
        work: input.work.clone(),
        port: PORT_MAIN.to_owned(),
        consumer: Some(consumer.clone()),
        from,
        committed: from,
        bytes_max: FETCH_BYTES,
        wait_ms,
    };
    match node.ask(owner, Request::Fetch(request), FETCH_DEADLINE).await {
        Ok(Reply::Fetch(reply)) => Some(reply),
        _ => None,
    }
}

/// As the node configures a work; streams forget nothing before there is no room, so that the invariants find it.
fn config(node: &Node, placement: &Placement, placed: &PlacedWork) -> WorkConfig {
    let limit = node.machine.facts.work_bytes_max;
    let (retention, bytes_max) = match &placed.role {
        Role::Queue { .. } | Role::Source { .. } | Role::Sink { .. } => (None, None),
        Role::Stage { .. } => (None, limit),
        Role::StreamPartition { sources, .. } => (Some(Retention::default()), limit.filter(|_| sources.is_empty())),
    };
    let ack = match placed.ack {
        littoral_plan::Ack::Local => Ack::Local,
        littoral_plan::Ack::Site => Ack::Site,
    };
    let reads = |other: &&PlacedWork| other.role.inputs().any(|source| source.work == placed.work);
    let consumers = placement.works.iter().filter(reads).map(|other| other.work.clone()).collect();
    WorkConfig { ack, retention, bytes_max, consumers }
}
