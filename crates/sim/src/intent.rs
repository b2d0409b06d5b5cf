//! What is deployed, as a simulated node knows it: edits on its log, merged by `control::edits` and exchanged with whoever
//! knows others.
//!
//! It follows `node::intent`, less the signatures, which need keys and files.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use littoral_control::Intent;
use littoral_control::edits::{Merged, Tips, Version};
use littoral_control::partition::Policy;
use littoral_model::edit::{Edit, EditId};
use littoral_model::id::{AppId, Epoch, NodeId};
use littoral_plan::Placement;
use littoral_store::Log;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// Where intent is in the node's log.
const WORK: &str = "~intent";

/// One edit, as it is written and sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    app: AppId,
    id: EditId,
    edit: Edit,
    /// None where the edit ends the app.
    placement: Option<Placement>,
}

/// What is known of each app.
type Map = BTreeMap<AppId, Tips<Option<Placement>>>;

/// What two nodes tell each other.
#[derive(Clone, Debug, Default)]
pub struct Exchange {
    known: BTreeSet<EditId>,
    records: Vec<Record>,
}

/// What is deployed, at one moment.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// As agents need it.
    pub intent: Arc<Intent>,
    /// Equal on nodes that know the same.
    pub hash: u64,
}

/// The intent that a node knows.
#[derive(Debug)]
pub struct Intents {
    node: NodeId,
    log: Log,
    map: Mutex<Map>,
    writing: tokio::sync::Mutex<()>,
    known: watch::Sender<Known>,
}

impl Intents {
    /// Reads what the node's log holds.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn open(node: NodeId, log: Log) -> Result<Self, String> {
        let mut map = Map::new();
        let mut next = log.head(WORK).map_or(1, |head| head.first);
        loop {
            let entries = log.read(WORK, next, usize::MAX).map_err(|error| error.to_string())?;
            let Some(last) = entries.last() else { break };
            next = last.index + 1;
            for entry in &entries {
                merge(&mut map, serde_json::from_slice(&entry.payload).map_err(|error| error.to_string())?);
            }
        }
        let (known, _) = watch::channel(view(&map));
        Ok(Self { node, log, map: Mutex::new(map), writing: tokio::sync::Mutex::default(), known })
    }

    /// What is deployed, now and from now on.
    pub fn watch(&self) -> watch::Receiver<Known> {
        self.known.subscribe()
    }

    /// What is deployed now.
    pub fn now(&self) -> Known {
        self.known.borrow().clone()
    }

    /// Makes an app wanted as placed, or with none unwanted; durable on this node before it returns.
    ///
    /// # Errors
    /// When the log failed.
    pub async fn set(&self, app: AppId, placement: Option<Placement>, wall_us: u64) -> Result<(), String> {
        let author = self.node.to_string();
        let edit = match lock(&self.map).get(&app).and_then(Tips::holds) {
            Some(held) => held.edit.next(held.id, &[], placement.is_none(), wall_us, author),
            None => Edit { ends: placement.is_none(), ..Edit::first(wall_us, author) },
        };
        let id = name(&app, &edit);
        self.take(vec![Record { app, id, edit, placement }]).await
    }

    /// Everything that this node knows of, for another one.
    pub fn offer(&self) -> Exchange {
        let known = lock(&self.map).values().flat_map(Tips::all).map(|version| version.id).collect();
        Exchange { known, records: Vec::new() }
    }

    /// The same, with what is known of one app.
    pub fn offer_with(&self, app: &AppId) -> Exchange {
        let records = records(&lock(&self.map)).filter(|record| record.app == *app).collect();
        Exchange { records, ..self.offer() }
    }

    /// Takes what another node tells and answers with what that one lacks.
    ///
    /// # Errors
    /// When the log failed.
    pub async fn exchange(&self, theirs: Exchange) -> Result<Exchange, String> {
        let known = theirs.known.clone();
        self.learn(theirs).await?;
        let records = records(&lock(&self.map)).filter(|record| !known.contains(&record.id)).collect();
        Ok(Exchange { records, ..self.offer() })
    }

    /// Takes the edits that are not known.
    ///
    /// # Errors
    /// When the log failed.
    pub async fn learn(&self, theirs: Exchange) -> Result<(), String> {
        if theirs.records.is_empty() { Ok(()) } else { self.take(theirs.records).await }
    }

    async fn take(&self, records: Vec<Record>) -> Result<(), String> {
        let _one = self.writing.lock().await;
        let mut next = lock(&self.map).clone();
        let fresh: Vec<Record> =
            records.into_iter().filter(|record| merge(&mut next, record.clone()) != Merged::Old).collect();
        if fresh.is_empty() {
            return Ok(());
        }
        let payloads = fresh.iter().map(|record| serde_json::to_vec(record).map(Bytes::from));
        let payloads = payloads.collect::<Result<Vec<_>, _>>().map_err(|error| error.to_string())?;
        let append = self.log.append_wait(WORK, Epoch(1), payloads).await.map_err(|error| error.to_string())?;
        append.durable().await.map_err(|error| error.to_string())?;
        self.known.send_replace(view(&next));
        *lock(&self.map) = next;
        Ok(())
    }
}

fn merge(map: &mut Map, record: Record) -> Merged {
    let Record { app, id, edit, placement } = record;
    map.entry(app).or_default().merge(Version { id, edit, says: placement })
}

fn records(map: &Map) -> impl Iterator<Item = Record> {
    let all = map.iter().flat_map(|(app, tips)| tips.all().iter().map(move |version| (app, version)));
    all.map(|(app, version)| {
        let Version { id, edit, says } = version.clone();
        Record { app: app.clone(), id, edit, placement: says }
    })
}

/// Names an edit by what it says, as a digest would.
fn name(app: &AppId, edit: &Edit) -> EditId {
    let text = format!("{app} {edit:?}");
    let mut id = [0; 32];
    for (seed, part) in (1_u64..).zip(id.chunks_mut(8)) {
        part.copy_from_slice(&hash(seed, &text).to_be_bytes());
    }
    EditId(id)
}

fn hash(seed: u64, text: &str) -> u64 {
    let begin = 0xcbf2_9ce4_8422_2325_u64.wrapping_mul(seed | 1);
    text.bytes().fold(begin, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3).rotate_left(7))
}

fn view(map: &Map) -> Known {
    let mut intent = Intent::default();
    for (app, held) in map.iter().filter_map(|(app, tips)| Some((app, tips.holds()?))) {
        match &held.says {
            Some(placement) => drop(intent.apps.insert(app.clone(), Arc::new(placement.clone()))),
            None => drop(intent.ended.insert(app.clone())),
        }
        if crate::apps::is_singleton(app) {
            intent.policies.insert(app.clone(), Policy::Singleton);
        }
    }
    let ids: Vec<String> = map.values().flat_map(Tips::all).map(|version| version.id.to_string()).collect();
    Known { intent: Arc::new(intent), hash: hash(1, &ids.concat()) }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
