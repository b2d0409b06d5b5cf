//! What is deployed: the apps that should run, on every node's disk, so that it is known offline.
//!
//! Of each app the edits are kept that no other was made in the knowledge of: one holds, the others lost and are shown to
//! people (`littoral-control::edits` decides, `record` says how they are written). Edits spread from node to node: one is
//! sent to all that are reachable, and whoever sees another hash of intent in a digest exchanges what one of both lacks.

mod record;
mod revocation;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use anyhow::Context as _;
use bytes::Bytes;
use littoral_control::Intent;
use littoral_control::edits::{Merged, Tips};
use littoral_control::partition::Policy;
use littoral_mesh::identity::unix_now;
use littoral_model::composition::Composition;
use littoral_model::edit::{Edit, EditId};
use littoral_model::id::{AppId, Epoch, NodeId};
use littoral_model::manifest::{self, Manifest, Partition, PartitionPolicy, StopAfter};
use littoral_model::wire;
use littoral_plan::Placement;
use littoral_sql::Program;
use littoral_store::log::Log;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use self::record::{Known, Said, Wanted};
use crate::admin::types::{AppBundle, AppEnd, AppHistory};
use crate::logs::Logs;
use crate::signing::{BundleError, Verifier};
use crate::sync::lock;

/// Where intent is in the node's log.
const WORK: &str = "~intent";
/// After so many records they are written anew and the older ones forgotten.
const REWRITE_AFTER: u64 = 256;
/// How many apps may be known, ended ones among them.
const APPS_MAX: usize = 10_000;
/// How many refused edits are remembered as said.
const REFUSED_MAX: usize = 1_024;
/// How much of the log is read at once.
const READ_BYTES: usize = 4 << 20;

/// A deployed app.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) id: AppId,
    /// What is written in it, with what its flows in SQL came to.
    pub(crate) manifest: Manifest,
    /// What the stages of its flows in SQL do.
    pub(crate) program: Program,
    pub(crate) bundle: AppBundle,
    pub(crate) placement: Arc<Placement>,
    /// What its functions import from one another.
    pub(crate) composition: Composition,
    /// The edit that holds.
    pub(crate) edit: Edit,
    /// Its name.
    pub(crate) edit_id: EditId,
    /// What lost to it unknown to its author; one sentence each.
    pub(crate) lost: Vec<String>,
}

/// Everything that is deployed, at one moment.
#[derive(Debug, Default)]
pub(crate) struct Apps {
    pub(crate) apps: BTreeMap<AppId, Arc<App>>,
    /// The same, as far as agents need it.
    pub(crate) intent: Arc<Intent>,
    /// The nodes that are shut out.
    pub(crate) revoked: Arc<BTreeSet<NodeId>>,
    /// Equal on nodes that know the same.
    pub(crate) hash: u64,
}

/// What two nodes tell each other: edits, as JSON so that another version can read them, and what else is known.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Exchange {
    known: BTreeMap<AppId, Vec<EditId>>,
    records: Vec<String>,
    /// All revocations; they never end, and there are few.
    revoked: Vec<String>,
}

/// What is known of all apps.
type Edits = BTreeMap<AppId, Tips<Arc<Said>>>;

/// The revocations, as they came.
type Revoked = BTreeMap<NodeId, String>;

/// Why something was not deployed or ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EditError {
    /// It does not follow what holds here.
    #[error("{app} was changed meanwhile: {now}")]
    Overtaken {
        /// Which app.
        app: AppId,
        /// What holds.
        now: String,
    },
    /// It is not signed, or not well.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// It cannot be kept.
    #[error("{0}")]
    Failed(String),
}

/// The intent that this node knows.
pub(crate) struct IntentStore {
    log: Log,
    verifier: Verifier,
    logs: Arc<Logs>,
    edits: Mutex<Edits>,
    revoked: Mutex<Revoked>,
    /// What other nodes offered and was refused, so that it is said once.
    refused: Mutex<BTreeSet<EditId>>,
    /// One change is written at a time, so that the log and the memory have the same order.
    writing: tokio::sync::Mutex<u64>,
    apps: watch::Sender<Arc<Apps>>,
}

impl IntentStore {
    /// Reads what this node's disk holds. Blocks briefly.
    pub(crate) fn open(log: Log, verifier: Verifier, logs: Arc<Logs>) -> anyhow::Result<Self> {
        let mut edits = Edits::new();
        let mut held = 0;
        if let Some(head) = log.head(WORK) {
            let mut from = head.first;
            while from < head.next {
                let entries = log.read(WORK, from, READ_BYTES).context("the stored intent cannot be read")?;
                let Some(last) = entries.last() else { break };
                from = last.index + 1;
                for entry in &entries {
                    let text = std::str::from_utf8(&entry.payload).context("the stored intent is not text")?;
                    let version = record::read(text)
                        .context("the stored intent is of another version of Littoral; start that one")?;
                    held += 1;
                    if is_held(&verifier, &version) {
                        edits.entry(version.says.app.clone()).or_default().merge(version);
                    }
                }
            }
        }
        let revoked = revocation::open(&log, &verifier)?;
        let (apps, _) = watch::channel(Arc::new(view(&edits, &revoked, &Apps::default())));
        let writing = tokio::sync::Mutex::new(held);
        let (edits, revoked) = (Mutex::new(edits), Mutex::new(revoked));
        Ok(Self { log, verifier, logs, edits, revoked, refused: Mutex::default(), writing, apps })
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
        if bundle.signature.is_some() && bundle.edit.is_none() {
            return Err(BundleError::NoEdit { app: app.clone() });
        }
        self.verifier.check_new(app, bundle, Some(unix_now()))
    }

    /// Makes an app wanted as it is here; durable on this node before it returns.
    pub(crate) async fn deploy(
        &self,
        app: AppId,
        bundle: AppBundle,
        placement: Placement,
        composition: Composition,
    ) -> Result<(), EditError> {
        self.check(&app, &bundle)?;
        let wanted = Wanted { bundle, placement, composition };
        self.edit(record::deployment(app, wanted).map_err(failed)?).await
    }

    /// Makes an app unwanted.
    pub(crate) async fn end(&self, app: AppId, end: AppEnd) -> Result<(), EditError> {
        self.verifier.check_edit(&app, &end.edit, None, end.signature.as_ref(), Some(unix_now()))?;
        self.edit(record::end(app, end).map_err(failed)?).await
    }

    /// Takes an edit that somebody made here, who knew what holds here.
    async fn edit(&self, version: Known) -> Result<(), EditError> {
        let mut held = self.writing.lock().await;
        let app = version.says.app.clone();
        {
            let edits = self.lock();
            let holds = edits.get(&app).and_then(Tips::holds);
            let Edit { incarnation, generation, .. } = version.edit;
            let place = match holds {
                None => (1, 1),
                Some(Known { edit, .. }) => {
                    (edit.incarnation + u64::from(edit.ends || edit.incarnation == 0), edit.generation + 1)
                }
            };
            if holds.map(|holds| &holds.id) != version.edit.lineage.first() || (incarnation, generation) != place {
                let now = holds.map_or_else(|| "it was never deployed here".to_owned(), told);
                return Err(EditError::Overtaken { app, now });
            }
        }
        self.take_in_turn(&mut held, vec![version]).await.map_err(EditError::Failed)
    }

    /// What holds of an app, and what lost.
    pub(crate) fn history(&self, app: &AppId) -> AppHistory {
        let edits = self.lock();
        let Some(tips) = edits.get(app) else { return AppHistory::default() };
        AppHistory { holds: tips.holds().map(record::shown), lost: tips.lost().iter().map(record::shown).collect() }
    }

    /// The artefacts of everything that holds, and of what lost and may be applied again.
    pub(crate) fn artifacts(&self) -> BTreeSet<String> {
        let edits = self.lock();
        let wanted = edits.values().flat_map(Tips::all).filter_map(|version| version.says.wanted.as_ref());
        wanted.flat_map(|wanted| wanted.bundle.artifacts.values().cloned()).collect()
    }

    /// Everything that this node knows, for another one.
    pub(crate) fn offer(&self) -> Exchange {
        let ids = |tips: &Tips<Arc<Said>>| tips.all().iter().map(|version| version.id).collect();
        let known = self.lock().iter().map(|(app, tips)| (app.clone(), ids(tips))).collect();
        let revoked = self.lock_revoked().values().cloned().collect();
        Exchange { known, records: Vec::new(), revoked }
    }

    /// Like [`offer`](Self::offer), with one app's edits.
    pub(crate) fn offer_with(&self, app: &AppId) -> Exchange {
        let mut offer = self.offer();
        let edits = self.lock();
        let tips = edits.get(app).into_iter().flat_map(Tips::all);
        offer.records = tips.map(|version| version.says.text.clone()).collect();
        offer
    }

    /// Takes what another node tells and answers with what that one lacks.
    pub(crate) async fn exchange(&self, theirs: Exchange) -> Result<Exchange, String> {
        let known = theirs.known.clone();
        self.learn(theirs).await?;
        let mut answer = self.offer();
        let edits = self.lock();
        let lacks = |version: &&Known| !known.get(&version.says.app).is_some_and(|ids| ids.contains(&version.id));
        let mut bytes = 0;
        for version in edits.values().flat_map(Tips::all).filter(lacks) {
            bytes += version.says.text.len();
            // What does not fit into one message is asked for again.
            if bytes > wire::MESSAGE_BYTES_MAX / 2 && !answer.records.is_empty() {
                break;
            }
            answer.records.push(version.says.text.clone());
        }
        Ok(answer)
    }

    /// Takes the edits that are not known, and that their tenant has signed. One that cannot be read stands in no other's
    /// way.
    pub(crate) async fn learn(&self, theirs: Exchange) -> Result<(), String> {
        self.learn_revoked(theirs.revoked).await?;
        let mut versions = Vec::with_capacity(theirs.records.len());
        let mut unread = None;
        for text in &theirs.records {
            match record::read(text) {
                Ok(version) if !self.knows(&version) && self.is_good(&version) => versions.push(version),
                Ok(_) => {}
                Err(error) => unread = Some(format!("an edit that another node knows cannot be read: {error}")),
            }
        }
        if !versions.is_empty() {
            self.take(versions).await?;
        }
        unread.map_or(Ok(()), Err)
    }

    fn knows(&self, version: &Known) -> bool {
        let edits = self.lock();
        edits.get(&version.says.app).is_some_and(|tips| tips.all().iter().any(|tip| tip.id == version.id))
    }

    /// Whether another node's edit is to be taken; says once why not.
    fn is_good(&self, version: &Known) -> bool {
        let Said { app, wanted, end, .. } = &*version.says;
        let checked = match (wanted, end) {
            (Some(wanted), _) => self.verifier.check_new(app, &wanted.bundle, None),
            (None, Some(end)) => self.verifier.check_edit(app, &end.edit, None, end.signature.as_ref(), None),
            // Ends were not signed once: who was not told of one then must be told again, by somebody with the key.
            (None, None) => Err(BundleError::Unsigned { app: app.clone() }),
        };
        let Err(error) = checked else { return true };
        let mut refused = lock(&self.refused);
        if refused.len() >= REFUSED_MAX {
            refused.clear();
        }
        if refused.insert(version.id) {
            tracing::error!(%app, by = version.edit.author, %error, "refused what another node says is deployed");
        }
        false
    }

    async fn take(&self, versions: Vec<Known>) -> Result<(), String> {
        self.take_in_turn(&mut *self.writing.lock().await, versions).await
    }

    async fn take_in_turn(&self, held: &mut u64, versions: Vec<Known>) -> Result<(), String> {
        let mut merged = self.lock().clone();
        let is_new =
            |version: &Known| merged.entry(version.says.app.clone()).or_default().merge(version.clone()) != Merged::Old;
        let versions: Vec<Known> = versions.into_iter().filter(is_new).collect();
        if versions.is_empty() {
            return Ok(());
        }
        if merged.len() > APPS_MAX {
            return Err(format!("{APPS_MAX} apps are known; this fabric takes no more"));
        }
        self.write(versions.iter()).await?;
        *held += versions.len() as u64;
        let before = std::mem::replace(&mut *self.lock(), merged);
        self.tell_of_lost(&before, &versions);
        self.show();
        let kept = self.lock().values().map(|tips| tips.all().len() as u64).sum::<u64>();
        if *held >= REWRITE_AFTER + 2 * kept {
            *held = self.rewrite().await?;
        }
        Ok(())
    }

    /// Tells what is deployed now.
    fn show(&self) {
        let now = view(&self.lock(), &self.lock_revoked(), &self.now());
        self.apps.send_replace(Arc::new(now));
    }

    /// Says which edits of these apps have lost that had not before.
    fn tell_of_lost(&self, before: &Edits, versions: &[Known]) {
        let edits = self.lock();
        let apps: BTreeSet<&AppId> = versions.iter().map(|version| &version.says.app).collect();
        for app in apps {
            let Some(tips) = edits.get(app) else { continue };
            let Some(holds) = tips.holds() else { continue };
            let had_lost =
                |id: &EditId| before.get(app).is_some_and(|tips| tips.lost().iter().any(|lost| lost.id == *id));
            for lost in tips.lost().iter().filter(|lost| !had_lost(&lost.id)) {
                let text = lost_sentence(app, lost, holds);
                tracing::warn!(%app, "{text}");
                self.logs.system(Some(app.app.as_str()), None, &text);
            }
        }
    }

    async fn write(&self, versions: impl Iterator<Item = &Known>) -> Result<u64, String> {
        let payloads = versions.map(|version| Bytes::from(version.says.text.clone())).collect();
        let append = self.log.append_wait(WORK, Epoch(1), payloads).await.map_err(|error| error.to_string())?;
        let first = append.first;
        append.durable().await.map_err(|error| error.to_string())?;
        Ok(first)
    }

    /// Writes all edits anew, so that those that were replaced can be forgotten.
    async fn rewrite(&self) -> Result<u64, String> {
        let all: Vec<Known> = self.lock().values().flat_map(Tips::all).cloned().collect();
        let first = self.write(all.iter()).await?;
        self.log.trim(WORK, first).map_err(|error| error.to_string())?;
        Ok(all.len() as u64)
    }

    fn lock_revoked(&self) -> std::sync::MutexGuard<'_, Revoked> {
        lock(&self.revoked)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Edits> {
        lock(&self.edits)
    }
}

fn failed(error: anyhow::Error) -> EditError {
    EditError::Failed(error.to_string())
}

/// What an edit was, in a few words.
fn told(version: &Known) -> String {
    let Known { id, edit, says } = version;
    let manifest =
        says.wanted.as_ref().and_then(|wanted| manifest::parse("littoral.toml", &wanted.bundle.manifest).ok());
    let what = manifest.map_or_else(|| "its end".to_owned(), |manifest| format!("version {}", manifest.version));
    format!("{what} by {}, edit {} of generation {}", edit.author, id.short(), edit.generation)
}

/// What to tell whoever made an edit that lost.
fn lost_sentence(app: &AppId, lost: &Known, holds: &Known) -> String {
    let next = match lost.says.wanted {
        Some(_) => format!("`littoral reapply {} {}` applies it again", app.app, lost.id.short()),
        None => format!("`littoral delete {}` ends it again", app.app),
    };
    format!("{} lost to {}, made without knowing of it; {next}", told(lost), told(holds))
}

/// Whether what is on the disk is still to be done.
fn is_held(verifier: &Verifier, version: &Known) -> bool {
    let Said { app, wanted, end, .. } = &*version.says;
    let checked = match (wanted, end) {
        (Some(wanted), _) => verifier.check_held(app, &wanted.bundle),
        (None, Some(end)) => verifier.check_edit(app, &end.edit, None, end.signature.as_ref(), None),
        (None, None) => Ok(()),
    };
    match checked {
        Ok(()) if record::is_stamped(version) && wanted.as_ref().is_some_and(|w| w.bundle.signature.is_none()) => {
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

/// What an app does in a cut, unless it simply goes on.
fn policy(manifest: &Manifest) -> Option<Policy> {
    match &manifest.partition {
        Partition::Named(PartitionPolicy::Keep) => None,
        Partition::Named(PartitionPolicy::Singleton) => Some(Policy::Singleton),
        Partition::StopAfter(StopAfter { stop_after }) => {
            let after = std::time::Duration::from(*stop_after);
            Some(Policy::StopAfter(u64::try_from(after.as_millis()).unwrap_or(u64::MAX)))
        }
    }
}

/// Reads a manifest, and what its statements in SQL add to it.
pub(crate) fn read_manifest(text: &str) -> Result<(Manifest, Program), manifest::Findings> {
    let mut manifest = manifest::parse("littoral.toml", text)?;
    let program = littoral_sql::expand(&mut manifest).map_err(|mistakes| mistakes.findings)?;
    Ok((manifest, program))
}

/// The app that an edit wants.
fn read(id: &AppId, holds: &Known, wanted: &Wanted, lost: Vec<String>) -> Result<Arc<App>, manifest::Findings> {
    let (manifest, program) = read_manifest(&wanted.bundle.manifest)?;
    let placement = Arc::new(wanted.placement.clone());
    let (bundle, composition) = (wanted.bundle.clone(), wanted.composition.clone());
    let (edit, edit_id) = (holds.edit.clone(), holds.id);
    Ok(Arc::new(App { id: id.clone(), manifest, program, bundle, placement, composition, edit, edit_id, lost }))
}

/// What is deployed. Of `before` the apps are taken over of which nothing has changed: to read a manifest takes a while.
fn view(edits: &Edits, revoked: &Revoked, before: &Apps) -> Apps {
    let mut found = Apps { revoked: Arc::new(revoked.keys().cloned().collect()), ..Apps::default() };
    let (mut intent, mut ended, mut policies) = (BTreeMap::new(), BTreeSet::new(), BTreeMap::new());
    let mut hashed = String::new();
    revoked.keys().for_each(|node| hashed.push_str(&format!("{node}\n")));
    for (id, tips) in edits {
        tips.all().iter().for_each(|version| hashed.push_str(&format!("{id} {}\n", version.id)));
        let Some(holds) = tips.holds() else { continue };
        let Some(wanted) = &holds.says.wanted else {
            ended.insert(id.clone());
            continue;
        };
        let lost: Vec<String> = tips.lost().iter().map(|lost| lost_sentence(id, lost, holds)).collect();
        let same = before.apps.get(id).filter(|app| app.edit_id == holds.id && app.lost == lost);
        let app = match same.map_or_else(|| read(id, holds, wanted, lost), |app| Ok(Arc::clone(app))) {
            Ok(app) => app,
            Err(findings) => {
                tracing::error!(app = %id, %findings, "the manifest of a deployed app cannot be read; upgrade this node");
                continue;
            }
        };
        intent.insert(id.clone(), Arc::clone(&app.placement));
        policies.extend(policy(&app.manifest).map(|policy| (id.clone(), policy)));
        found.apps.insert(id.clone(), app);
    }
    let digest = ring::digest::digest(&ring::digest::SHA256, hashed.as_bytes());
    found.hash = digest.as_ref().iter().take(8).fold(0, |hash, byte| hash << 8 | u64::from(*byte));
    found.intent = Arc::new(Intent { apps: intent, ended, policies, revoked: Arc::clone(&found.revoked) });
    found
}

#[cfg(test)]
#[path = "intent_tests.rs"]
mod tests;
