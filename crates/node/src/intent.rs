//! What is deployed: the apps that should run, on every node's disk, so that it is known offline.
//!
//! Each app has one record, replaced by a later one. Records spread from node to node: a deployment is sent to all that
//! are reachable, and whoever sees another hash of intent in a digest exchanges what one of both lacks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use bytes::Bytes;
use littoral_control::Intent;
use littoral_mesh::identity::unix_now;
use littoral_model::composition::Composition;
use littoral_model::hlc::{self, Clock, Hlc};
use littoral_model::id::{AppId, Epoch, NodeId};
use littoral_model::manifest::{self, Manifest};
use littoral_model::wire;
use littoral_plan::Placement;
use littoral_store::log::Log;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::admin::types::AppBundle;
use crate::signing::{BundleError, Verifier};

/// Where intent is in the node's log.
const WORK: &str = "~intent";
/// After so many records they are written anew and the older ones forgotten.
const REWRITE_AFTER: u64 = 256;
/// How many apps may be known, ended ones among them.
const APPS_MAX: usize = 10_000;
/// How much of the log is read at once.
const READ_BYTES: usize = 4 << 20;

/// When an app was last deployed or ended, and by which node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Stamp {
    time: Hlc,
    node: NodeId,
}

/// What is wanted of an app.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    app: AppId,
    stamp: Stamp,
    /// None once it was deleted.
    wanted: Option<Wanted>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Wanted {
    bundle: AppBundle,
    placement: Placement,
    #[serde(default, skip_serializing_if = "Composition::is_empty")]
    composition: Composition,
}

/// A deployed app.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) id: AppId,
    pub(crate) manifest: Manifest,
    pub(crate) bundle: AppBundle,
    pub(crate) placement: Arc<Placement>,
    /// What its functions import from one another.
    pub(crate) composition: Composition,
}

/// Everything that is deployed, at one moment.
#[derive(Debug, Default)]
pub(crate) struct Apps {
    pub(crate) apps: BTreeMap<AppId, Arc<App>>,
    /// The same, as far as agents need it.
    pub(crate) intent: Arc<Intent>,
    /// Equal on nodes that know the same.
    pub(crate) hash: u64,
}

/// What two nodes tell each other: records, as JSON so that another version can read them, and what else is known.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Exchange {
    known: BTreeMap<AppId, Stamp>,
    records: Vec<String>,
}

/// The intent that this node knows.
pub(crate) struct IntentStore {
    node: NodeId,
    log: Log,
    verifier: Verifier,
    records: Mutex<BTreeMap<AppId, Record>>,
    /// What other nodes offered and was refused, so that it is said once.
    refused: Mutex<BTreeMap<AppId, Stamp>>,
    /// One change is written at a time, so that the log and the memory have the same order.
    writing: tokio::sync::Mutex<u64>,
    clock: Mutex<Clock>,
    apps: watch::Sender<Arc<Apps>>,
}

impl IntentStore {
    /// Reads what this node's disk holds. Blocks briefly.
    pub(crate) fn open(node: NodeId, log: Log, verifier: Verifier) -> anyhow::Result<Self> {
        let mut records: BTreeMap<AppId, Record> = BTreeMap::new();
        let mut held = 0;
        if let Some(head) = log.head(WORK) {
            let mut from = head.first;
            while from < head.next {
                let entries = log.read(WORK, from, READ_BYTES).context("the stored intent cannot be read")?;
                let Some(last) = entries.last() else { break };
                from = last.index + 1;
                for entry in &entries {
                    let record: Record = serde_json::from_slice(&entry.payload)
                        .context("the stored intent is of another version of Littoral; start that one")?;
                    records.insert(record.app.clone(), record);
                    held += 1;
                }
            }
        }
        records.retain(|app, record| is_held(&verifier, app, record));
        let (apps, _) = watch::channel(Arc::new(view(&records)));
        let writing = tokio::sync::Mutex::new(held);
        let (clock, refused) = (Mutex::default(), Mutex::default());
        Ok(Self { node, log, verifier, records: Mutex::new(records), refused, writing, clock, apps })
    }

    /// What is deployed, now and from now on.
    pub(crate) fn watch(&self) -> watch::Receiver<Arc<Apps>> {
        self.apps.subscribe()
    }

    /// What is deployed now.
    pub(crate) fn now(&self) -> Arc<Apps> {
        self.apps.borrow().clone()
    }

    /// Whether a bundle may be deployed now.
    pub(crate) fn check(&self, app: &AppId, bundle: &AppBundle) -> Result<(), BundleError> {
        self.verifier.check_new(app, bundle, Some(unix_now()))
    }

    /// Makes an app wanted as it is here; durable on this node before it returns.
    pub(crate) async fn deploy(
        &self,
        app: AppId,
        bundle: AppBundle,
        placement: Placement,
        composition: Composition,
    ) -> Result<(), String> {
        self.check(&app, &bundle).map_err(|error| error.to_string())?;
        let stamp = self.next_stamp(&app);
        self.take(vec![Record { app, stamp, wanted: Some(Wanted { bundle, placement, composition }) }]).await
    }

    /// Makes an app unwanted.
    pub(crate) async fn end(&self, app: AppId) -> Result<(), String> {
        let stamp = self.next_stamp(&app);
        self.take(vec![Record { app, stamp, wanted: None }]).await
    }

    /// Everything that this node knows, for another one.
    pub(crate) fn offer(&self) -> Exchange {
        let records = self.lock();
        Exchange {
            known: records.iter().map(|(app, record)| (app.clone(), record.stamp.clone())).collect(),
            records: Vec::new(),
        }
    }

    /// Like [`offer`](Self::offer), with one app's record.
    pub(crate) fn offer_with(&self, app: &AppId) -> Exchange {
        let mut offer = self.offer();
        offer.records =
            self.lock().get(app).and_then(|record| serde_json::to_string(record).ok()).into_iter().collect();
        offer
    }

    /// Takes what another node tells and answers with what that one lacks.
    pub(crate) async fn exchange(&self, theirs: Exchange) -> Result<Exchange, String> {
        let known = theirs.known.clone();
        self.learn(theirs).await?;
        let mut answer = self.offer();
        let records = self.lock();
        let newer = records.values().filter(|record| known.get(&record.app).is_none_or(|stamp| *stamp < record.stamp));
        let mut bytes = 0;
        for record in newer {
            let text = serde_json::to_string(record).map_err(|error| error.to_string())?;
            bytes += text.len();
            // What does not fit into one message is asked for again.
            if bytes > wire::MESSAGE_BYTES_MAX / 2 && !answer.records.is_empty() {
                break;
            }
            answer.records.push(text);
        }
        Ok(answer)
    }

    /// Takes the records that are newer than what is known, and whose bundles their tenant has signed.
    pub(crate) async fn learn(&self, theirs: Exchange) -> Result<(), String> {
        let mut records = Vec::with_capacity(theirs.records.len());
        for text in &theirs.records {
            let record: Record =
                serde_json::from_str(text).map_err(|error| format!("intent of another version: {error}"))?;
            if self.is_newer(&record) && self.is_good(&record) {
                records.push(record);
            }
        }
        if records.is_empty() { Ok(()) } else { self.take(records).await }
    }

    fn is_newer(&self, record: &Record) -> bool {
        self.lock().get(&record.app).is_none_or(|known| known.stamp < record.stamp)
    }

    /// Whether another node's record is to be taken; says once why not.
    fn is_good(&self, record: &Record) -> bool {
        let Some(wanted) = &record.wanted else { return true };
        let Err(error) = self.verifier.check_new(&record.app, &wanted.bundle, None) else { return true };
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        if refused.len() >= APPS_MAX {
            refused.clear();
        }
        if refused.insert(record.app.clone(), record.stamp.clone()).as_ref() != Some(&record.stamp) {
            tracing::error!(app = %record.app, by = %record.stamp.node, %error, "refused what another node says is deployed");
        }
        false
    }

    async fn take(&self, records: Vec<Record>) -> Result<(), String> {
        let mut held = self.writing.lock().await;
        let newer: Vec<Record> = {
            let known = self.lock();
            let is_newer = |record: &Record| known.get(&record.app).is_none_or(|old| old.stamp < record.stamp);
            records.into_iter().filter(is_newer).collect()
        };
        if newer.is_empty() {
            return Ok(());
        }
        if self.lock().len() + newer.len() > APPS_MAX {
            return Err(format!("{APPS_MAX} apps are known; this fabric takes no more"));
        }
        self.write(&newer).await?;
        *held += newer.len() as u64;
        {
            let mut known = self.lock();
            let mut clock = self.clock.lock().unwrap_or_else(PoisonError::into_inner);
            for record in newer {
                if let Err(error) = clock.observe(record.stamp.time, now_us()) {
                    tracing::warn!(app = %record.app, by = %record.stamp.node, %error, "a deployment has a strange time");
                }
                known.insert(record.app.clone(), record);
            }
            self.apps.send_replace(Arc::new(view(&known)));
        }
        if *held >= REWRITE_AFTER + 2 * self.lock().len() as u64 {
            *held = self.rewrite().await?;
        }
        Ok(())
    }

    async fn write(&self, records: &[Record]) -> Result<u64, String> {
        let payloads = records.iter().map(|record| serde_json::to_vec(record).map(Bytes::from));
        let payloads = payloads.collect::<Result<Vec<_>, _>>().map_err(|error| error.to_string())?;
        let append = self.log.append_wait(WORK, Epoch(1), payloads).await.map_err(|error| error.to_string())?;
        let first = append.first;
        append.durable().await.map_err(|error| error.to_string())?;
        Ok(first)
    }

    /// Writes all records anew, so that the older ones can be forgotten.
    async fn rewrite(&self) -> Result<u64, String> {
        let all: Vec<Record> = self.lock().values().cloned().collect();
        let first = self.write(&all).await?;
        self.log.trim(WORK, first).map_err(|error| error.to_string())?;
        Ok(all.len() as u64)
    }

    /// Later than any stamp of the app that this node has seen, whatever its clock says.
    fn next_stamp(&self, app: &AppId) -> Stamp {
        let now = self.clock.lock().unwrap_or_else(PoisonError::into_inner).tick(now_us());
        let known = self.lock().get(app).map(|record| record.stamp.time);
        let time = match known {
            Some(known) if known >= now => hlc::next(known),
            _ => now,
        };
        Stamp { time, node: self.node.clone() }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<AppId, Record>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether what is on the disk is still to be done.
fn is_held(verifier: &Verifier, app: &AppId, record: &Record) -> bool {
    let Some(wanted) = &record.wanted else { return true };
    match verifier.check_held(app, &wanted.bundle) {
        Ok(()) if wanted.bundle.signature.is_none() => {
            tracing::warn!(%app, "deployed before bundles were signed, and kept on this node; deploy it again to have it signed");
            true
        }
        Ok(()) => true,
        Err(error) => {
            tracing::error!(%app, %error, "what is on the disk is not what was signed; it is not run");
            false
        }
    }
}

fn now_us() -> u64 {
    u64::try_from(littoral_flow::stats::now_us()).unwrap_or_default()
}

fn view(records: &BTreeMap<AppId, Record>) -> Apps {
    let mut found = Apps::default();
    let (mut intent, mut ended) = (BTreeMap::new(), BTreeSet::new());
    let mut hashed = String::new();
    for (id, record) in records {
        hashed.push_str(&format!("{id} {} {}\n", record.stamp.time, record.stamp.node));
        let Some(wanted) = &record.wanted else {
            ended.insert(id.clone());
            continue;
        };
        match manifest::parse("littoral.toml", &wanted.bundle.manifest) {
            Ok(manifest) => {
                let placement = Arc::new(wanted.placement.clone());
                intent.insert(id.clone(), Arc::clone(&placement));
                let (bundle, composition) = (wanted.bundle.clone(), wanted.composition.clone());
                let app = App { id: id.clone(), manifest, bundle, placement, composition };
                found.apps.insert(id.clone(), Arc::new(app));
            }
            Err(findings) => {
                tracing::error!(app = %id, %findings, "the manifest of a deployed app cannot be read; upgrade this node");
            }
        }
    }
    let digest = ring::digest::digest(&ring::digest::SHA256, hashed.as_bytes());
    found.hash = digest.as_ref().iter().take(8).fold(0, |hash, byte| hash << 8 | u64::from(*byte));
    found.intent = Arc::new(Intent { apps: intent, ended });
    found
}

#[cfg(test)]
#[path = "intent_tests.rs"]
mod tests;
