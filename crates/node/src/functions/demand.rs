//! What callers of this node ask of functions that run elsewhere, for [`littoral_control::demand`], and what comes of
//! bringing one here.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use littoral_control::demand::{Demand, LOOK_MS};
use littoral_model::id::{AppId, FunctionName, NodeId};
use littoral_model::manifest::Objectives;
use littoral_plan::reason::Milliseconds;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Functions, Key};
use crate::admin::events::EventKind;
use crate::events::Events;
use crate::sync::{lock, micros};

/// The most functions of which demand is counted; the agent brings fewer.
const COUNTED_MAX: usize = 1_024;

/// What callers here asked for.
pub(crate) type Demands = Arc<BTreeMap<(AppId, FunctionName), Demand>>;

/// What is counted between two looks.
#[derive(Default)]
pub(crate) struct Counted {
    forwarded: Mutex<HashMap<Key, Demand>>,
    brought: Mutex<HashMap<Key, Brought>>,
    told: watch::Sender<Demands>,
}

/// A function that is here for its callers here.
struct Brought {
    /// How long a call took on average before.
    before_us: u64,
    /// How many calls this node has answered in all.
    answered: u64,
    /// Whether it was told what it achieved.
    is_told: bool,
}

impl Counted {
    /// Counts a call that another node answered: how long it took, and how long it would have taken here.
    fn forwarded(&self, key: &Key, took: Duration, here: Duration, objective: Option<Duration>) {
        let mut counted = lock(&self.forwarded);
        if !counted.contains_key(key) && counted.len() >= COUNTED_MAX {
            return;
        }
        let demand = counted.entry(key.clone()).or_default();
        demand.calls += 1;
        demand.waited_us += micros(took);
        demand.saved_us += micros(took.saturating_sub(here));
        demand.late += u64::from(objective.is_some_and(|objective| took > objective));
    }
}

impl Functions {
    /// Takes in how long another node took to answer a call from here.
    pub(super) fn note_forwarded(
        &self,
        (app, function): (&AppId, &FunctionName),
        node: &NodeId,
        input_bytes: usize,
        took: Duration,
    ) {
        if let Some(here) = self.routing.learn(app, function, node, input_bytes as u64, took) {
            let apps = self.intent.now();
            let known = apps.apps.get(app).and_then(|app| app.manifest.functions.get(function));
            let objective = known.and_then(|known| known.slo).map(Duration::from);
            let key = (app.clone(), function.clone());
            self.counted.forwarded(&key, took, here, objective);
            if objective.is_some() {
                self.measured.elsewhere(&key, node, took);
            }
        }
    }

    /// What callers here ask for, look by look.
    pub(crate) fn demands(&self) -> watch::Receiver<Demands> {
        self.counted.told.subscribe()
    }

    /// Tells the agent what was asked for, look by look, until the node stops; and people what bringing a function achieved.
    pub(crate) async fn watch_demand(self: Arc<Self>, events: Arc<Events>, stop: CancellationToken) {
        let mut tick = tokio::time::interval(Duration::from_millis(LOOK_MS));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = tick.tick() => {}
            }
            let (demands, effects) = self.look();
            // Each look counts, also one that is like the last; a node of which nothing is asked has none.
            if !demands.is_empty() || !lock(&self.counted.brought).is_empty() {
                self.counted.told.send_replace(Arc::new(demands));
            }
            for ((app, function), text) in effects {
                events.note(&app.app, format!("function {function}"), EventKind::Restored, text).await;
            }
        }
    }

    /// What was asked for since the last look, and what bringing functions achieved, as far as it was not told.
    fn look(&self) -> (BTreeMap<Key, Demand>, Vec<(Key, String)>) {
        let apps = self.intent.now();
        let forwarded = std::mem::take(&mut *lock(&self.counted.forwarded));
        let mut demands: BTreeMap<Key, Demand> = BTreeMap::new();
        for (key, demand) in forwarded {
            let Some(manifest) = apps.apps.get(&key.0).map(|app| &app.manifest) else { continue };
            let Some(function) = manifest.functions.get(&key.1) else { continue };
            // What a function keeps is kept on the node where it runs: another instance would not find it.
            if function.grants.keyvalue.is_empty() {
                let saved_us = weighed(demand.saved_us, manifest.objectives.unwrap_or_default());
                demands.insert(key, Demand { saved_us, ..demand });
            }
        }
        let mut effects = Vec::new();
        for (key, brought) in &mut *lock(&self.counted.brought) {
            let Some(latency) = self.stats(key).map(|stats| stats.latency) else { continue };
            let calls = latency.count.saturating_sub(std::mem::replace(&mut brought.answered, latency.count));
            demands.entry(key.clone()).or_default().calls += calls;
            if calls > 0 && !std::mem::replace(&mut brought.is_told, true) {
                let (now, before) = (Milliseconds(latency.p50_us), Milliseconds(brought.before_us));
                effects.push((key.clone(), format!("calls take {now} at p50 here; elsewhere they took {before}")));
            }
        }
        (demands, effects)
    }

    /// Notes that demand brings a function here; why, for people.
    pub(crate) fn bring(&self, app: &AppId, function: &FunctionName, demand: Demand) -> String {
        let key = (app.clone(), function.clone());
        let before_us = demand.waited_us.checked_div(demand.calls).unwrap_or(0);
        lock(&self.counted.brought).insert(key, Brought { before_us, answered: 0, is_told: false });
        let seconds = LOOK_MS / 1_000;
        let mut text = format!(
            "its callers here made {} calls in {seconds} s, and would wait {} less in all for an instance here",
            demand.calls,
            Milliseconds(demand.saved_us)
        );
        if demand.late > 0 {
            text.push_str(&format!("; {} took longer than its objective", demand.late));
        }
        text + ": it is brought here"
    }

    /// Whether demand has brought a function here.
    pub(super) fn is_brought(&self, key: &Key) -> bool {
        lock(&self.counted.brought).contains_key(key)
    }

    /// Notes that it is not here for its callers any more.
    pub(crate) fn let_go(&self, app: &AppId, function: &FunctionName) {
        lock(&self.counted.brought).remove(&(app.clone(), function.clone()));
    }
}

/// The time saved, as far as time is what the app weighs.
fn weighed(saved_us: u64, weights: Objectives) -> u64 {
    let Objectives { latency, cost, energy, carbon, locality } = weights;
    let all: u64 = [latency, cost, energy, carbon, locality].into_iter().map(u64::from).sum();
    saved_us.saturating_mul(latency.into()).checked_div(all).unwrap_or(0)
}
