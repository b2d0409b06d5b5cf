//! The functions that this node serves. `invoke` has HTTP requests to them and to those that others serve, `calls` the
//! calls of functions by functions, `demand` counts those that others answer, `objective` keeps what is promised of their latency.
//! A function is a `version` of it, whose `instances` may come and go; `rollout` replaces one by the next, and `variants` chooses between the
//! component and the container of one that is both. Those that other
//! functions call by their interfaces are started and stopped here, too, and called in `exports`.

pub(crate) mod admission;
mod calls;
pub(crate) mod demand;
mod instances;
mod invoke;
mod learned;
mod objective;
mod rollout;
mod variants;
mod version;
pub(crate) mod yielding;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use littoral_model::id::{AppId, FunctionName};
use littoral_runtime::http::{HttpFunction, HttpStats};
use littoral_runtime::{Shards, Usage};
use tokio::task::AbortHandle;

use crate::events::Events;
use crate::gate::Gate;
use crate::guests::{Loader, settings_of};
use crate::intent::IntentStore;
use crate::routing::Routing;
use crate::sync::lock;
use admission::Deadlines;
use learned::Learner;
use rollout::Trouble;
use version::Version;

pub(crate) use instances::Standing;
pub(crate) use invoke::{Chosen, Elsewhere, Manner};
pub(crate) use variants::Chosen as ChosenVariant;

/// The largest body that goes to another node, either way: it must fit into a message.
pub(crate) const BODY_BYTES_MAX: usize = 8 << 20;
/// The first wait before a function that did not load is tried again; it doubles up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_millis(500);
/// The longest wait.
const RETRY_MAX: Duration = Duration::from_secs(30);

/// How long a version that is served no more is kept for those who have it in hand, and an instance for what it is answering, unless
/// the function's time is longer; and how often that is looked at.
const DRAIN_MAX: Duration = Duration::from_secs(30);
const DRAIN_POLL: Duration = Duration::from_millis(20);

type Key = (AppId, FunctionName);

/// A function that is served or being loaded.
struct Served {
    artifact: String,
    /// What it was started with.
    settings: String,
    rolling: AbortHandle,
    trouble: Trouble,
    /// What answers.
    current: Option<Arc<Version>>,
    /// What is to take its place, and is not ready yet.
    incoming: Option<Arc<Version>>,
    /// What answered before, as long as it may come back.
    former: Option<Arc<Version>>,
    /// What an earlier roll-out has left: it ends once it is known that the next version has other instances.
    left: Vec<Arc<Version>>,
    /// Why the version that is deployed is not the one that answers.
    refused: Option<String>,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.rolling.abort();
    }
}

impl Served {
    /// The versions that do not answer.
    fn others(&mut self) -> Vec<Arc<Version>> {
        let mut others = std::mem::take(&mut self.left);
        others.extend([self.incoming.take(), self.former.take()].into_iter().flatten());
        others
    }
}

/// How a function fares on this node.
pub(crate) struct Fares {
    /// What was measured of it once it is loaded.
    pub(crate) stats: Option<HttpStats>,
    /// Why it is not served as it is to be.
    pub(crate) error: Option<String>,
    /// How its instances stand, if they come and go.
    pub(crate) standing: Option<Standing>,
    /// Why the version that is deployed is not the one that answers.
    pub(crate) refused: Option<String>,
    /// Which of its variants answers, if it has two.
    pub(crate) chosen: Option<ChosenVariant>,
}

/// The functions of this node.
pub(crate) struct Functions {
    loader: Arc<Loader>,
    intent: Arc<IntentStore>,
    shards: Shards,
    gate: Arc<Gate>,
    served: Mutex<HashMap<Key, Served>>,
    ready: RwLock<HashMap<Key, Arc<HttpFunction>>>,
    routing: Arc<Routing>,
    learners: Mutex<HashMap<Key, Arc<Learner>>>,
    counted: demand::Counted,
    measured: objective::Measured,
    deadlines: Arc<Deadlines>,
    events: Arc<Events>,
    held: yielding::Held,
    /// What the containers of functions use that are components, too.
    contained: Mutex<HashMap<Key, Arc<Usage>>>,
}

impl Functions {
    pub(crate) fn new(
        loader: Arc<Loader>,
        intent: Arc<IntentStore>,
        shards: Shards,
        gate: Arc<Gate>,
        routing: Arc<Routing>,
        events: Arc<Events>,
    ) -> Self {
        let (served, ready, learners) = (Mutex::default(), RwLock::default(), Mutex::default());
        let (counted, measured) = (demand::Counted::default(), objective::Measured::default());
        let (deadlines, held) = (Arc::new(Deadlines::new(shards.count())), yielding::Held::default());
        Self {
            loader,
            intent,
            shards,
            gate,
            served,
            ready,
            routing,
            learners,
            counted,
            measured,
            deadlines,
            events,
            held,
            contained: Mutex::default(),
        }
    }

    /// What the containers of a function use that is a component, too: of all of its versions, for these may have the same ones.
    fn contained(&self, key: &Key) -> Arc<Usage> {
        let new = || Arc::new(Usage::part_of(self.loader.usage(&key.0, &key.1)));
        Arc::clone(lock(&self.contained).entry(key.clone()).or_insert_with(new))
    }

    /// Serves a function; until it is ready, the version served so far goes on.
    pub(crate) fn start(self: &Arc<Self>, app: AppId, function: FunctionName, artifact: String) {
        let key = (app, function);
        let (settings, trouble) = (self.settings(&key), Trouble::default());
        // Held until the roll-out is known as the current one: it asks for that when it has loaded the version.
        let mut all = self.lock_served();
        let mut before = all.remove(&key);
        let left = before.as_mut().map(Served::others).unwrap_or_default();
        let current = before.and_then(|mut before| before.current.take());
        let roll = Arc::clone(self).roll(key.clone(), artifact.clone(), Arc::clone(&trouble));
        let rolling = tokio::spawn(roll).abort_handle();
        let (incoming, former, refused) = (None, None, None);
        all.insert(key, Served { artifact, settings, rolling, trouble, current, incoming, former, left, refused });
    }

    /// After intent has changed: starts functions anew that have other settings now.
    pub(crate) fn reconsider(self: &Arc<Self>) {
        let apps = self.intent.now();
        let mut changed: Vec<(Key, String)> = Vec::new();
        for (key, served) in self.lock_served().iter() {
            if served.settings != self.settings(key) {
                changed.push((key.clone(), served.artifact.clone()));
            } else if let Some(function) = apps.apps.get(&key.0).and_then(|app| app.manifest.functions.get(&key.1)) {
                [&served.current, &served.incoming].into_iter().flatten().for_each(|version| version.scale(function));
            }
        }
        for ((app, function), artifact) in changed {
            self.start(app, function, artifact);
        }
    }

    fn settings(&self, key: &Key) -> String {
        self.intent.now().apps.get(&key.0).map(|app| settings_of(app, &key.1)).unwrap_or_default()
    }

    /// Serves a function no more; calls in flight are finished.
    pub(crate) fn stop(&self, app: &AppId, function: &FunctionName) {
        let key = (app.clone(), function.clone());
        lock(&self.contained).remove(&key);
        let mut all = self.lock_served();
        self.serve(&key, None);
        if let Some(mut served) = all.remove(&key) {
            let versions = served.others().into_iter().chain(served.current.take());
            versions.for_each(|version| drop(tokio::spawn(version.retire())));
        }
    }

    /// Ends the containers of all functions: this node does not come back for them.
    pub(crate) async fn end_containers(&self) {
        self.lock_served().clear();
        if let Some(containers) = &self.loader.containers {
            containers.stop_all().await;
        }
    }

    fn lock_served(&self) -> MutexGuard<'_, HashMap<Key, Served>> {
        lock(&self.served)
    }

    /// Has a version answer, or none.
    fn serve(&self, key: &Key, version: Option<&Version>) {
        self.loader.exports.set(key, version.and_then(|version| version.interfaces.clone()));
        let mut ready = self.ready.write().unwrap_or_else(PoisonError::into_inner);
        match version.and_then(|version| version.http.clone()) {
            Some(function) => drop(ready.insert(key.clone(), function)),
            None => drop(ready.remove(key)),
        }
    }

    /// A function that this node serves and may answer for now.
    pub(crate) fn here(&self, app: &AppId, function: &FunctionName) -> Option<Arc<HttpFunction>> {
        if self.gate.closed(app).is_some() {
            return None;
        }
        let ready = self.ready.read().unwrap_or_else(PoisonError::into_inner);
        ready.get(&(app.clone(), function.clone())).cloned()
    }

    /// What this node serves or is to serve, and how it fares.
    pub(crate) fn all(&self) -> Vec<(Key, Fares)> {
        let served = self.lock_served();
        let all = served.iter().map(|(key, served)| {
            let trouble = lock(&served.trouble).clone();
            let standing = served.current.as_ref().and_then(|version| version.standing());
            let error = trouble.or_else(|| standing.as_ref().and_then(|standing| standing.error.clone()));
            let chosen = served.current.as_ref().and_then(|version| version.chosen());
            let fares = Fares { stats: self.stats(key), error, standing, refused: served.refused.clone(), chosen };
            (key.clone(), fares)
        });
        all.collect()
    }

    /// The artefacts of the versions that are or may be loaded again, also of those that are not deployed any more.
    pub(crate) fn artifacts(&self) -> BTreeSet<String> {
        let served = self.lock_served();
        let versions = served.values().flat_map(|served| [&served.current, &served.incoming, &served.former]);
        versions.flatten().flat_map(|version| version.artifacts.iter().cloned()).collect()
    }

    /// What was measured of a function that is loaded, of both ways in which it may be called.
    fn stats(&self, (app, function): &Key) -> Option<HttpStats> {
        let http = self.here(app, function).map(|http| http.stats());
        let interfaces = self.loader.exports.here(app, function).map(|interfaces| interfaces.stats());
        match (http, interfaces) {
            (Some(http), Some(interfaces)) => Some(http.and(interfaces)),
            (http, interfaces) => http.or(interfaces),
        }
    }
}
