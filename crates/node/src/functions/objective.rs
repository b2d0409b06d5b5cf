//! Keeps the objectives of functions: whether the calls that this node answers, and those that it has others answer, take no
//! longer than the manifest's `slo`.
//!
//! Where the calls are late that this node answers, they go from then on wherever they are predicted to be answered sooner,
//! this node's own instance taken to be as slow as it is now; otherwise a node that is not busy answers what comes to it. One of
//! many still tries whether it is. Where those are late that others answer, demand brings the function here (`demand`). Each
//! step is an event with its measurement.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use littoral_control::slo::{Change, Seen, Watch};
use littoral_model::id::NodeId;
use littoral_plan::reason::Milliseconds;
use littoral_plan::route::Choice;
use littoral_runtime::latency::{Latency, Quantiles};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::{Functions, Key};
use crate::admin::events::EventKind;
use crate::events::Events;
use crate::intent::{App, Apps};
use crate::keeping::standing::told;
use crate::routing::{Here, Wish};
use crate::sync::{lock, micros};

/// How often what was answered is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long what was done has to show an effect before something else is tried.
const COOL_DOWN: Duration = Duration::from_secs(30);
/// By how much sooner another instance must be predicted to answer: by one of so many parts of its time.
const GAIN_SHARE: u64 = 4;
/// One of so many calls tries whether an instance that was slow still is; far fewer than may be late.
const TRIED_SHARE: u64 = 128;
/// So many of them in a row have to be answered in time.
const TRIED_ENOUGH: u64 = 8;
/// The most nodes, for each function, of which it is known what they answered since the last look.
const ANSWERERS_MAX: usize = 16;

/// What was measured of calls of functions that have an objective.
#[derive(Default)]
pub(super) struct Measured {
    /// Since the last look, by who answered.
    elsewhere: Mutex<HashMap<Key, BTreeMap<NodeId, Latency>>>,
    /// Functions that do not keep their objective here.
    strained: Mutex<HashMap<Key, Strained>>,
    any_strained: AtomicBool,
}

/// A function whose calls go elsewhere if they are answered sooner there.
struct Strained {
    /// What a call took here when one was last answered here, in microseconds.
    execution_us: u64,
    /// How many calls were chosen for.
    calls: u64,
    /// How many in a row were answered here in time.
    in_time: u64,
}

impl Measured {
    /// Takes in how long another node took to answer a call, the way included.
    pub(super) fn elsewhere(&self, key: &Key, node: &NodeId, took: Duration) {
        let mut elsewhere = lock(&self.elsewhere);
        let answerers = elsewhere.entry(key.clone()).or_default();
        if answerers.contains_key(node) || answerers.len() < ANSWERERS_MAX {
            answerers.entry(node.clone()).or_default().record(took, 1);
        }
    }

    /// What a call takes here of late, in microseconds, if that is too long and this one is not to try whether it still is.
    /// Costs next to nothing while nothing is late.
    pub(super) fn strained_us(&self, key: impl FnOnce() -> Key) -> Option<u64> {
        if !self.any_strained.load(Ordering::Relaxed) {
            return None;
        }
        let mut strained = lock(&self.strained);
        let strained = strained.get_mut(&key())?;
        strained.calls += 1;
        (!strained.calls.is_multiple_of(TRIED_SHARE)).then_some(strained.execution_us)
    }

    fn strain(&self, key: &Key, execution_us: u64) {
        lock(&self.strained).insert(key.clone(), Strained { execution_us, calls: 0, in_time: 0 });
        self.any_strained.store(true, Ordering::Relaxed);
    }

    fn relieve(&self, key: &Key) {
        let mut strained = lock(&self.strained);
        strained.remove(key);
        self.any_strained.store(!strained.is_empty(), Ordering::Relaxed);
    }

    /// Takes in how those fared that were tried here; whether enough of them were answered in time.
    fn tried(&self, key: &Key, here: &Latency, limit: Duration) -> bool {
        let mut strained = lock(&self.strained);
        let Some(strained) = strained.get_mut(key) else { return false };
        let (recent, late) = (here.quantiles(), here.count_above(limit));
        if recent.count > 0 {
            strained.execution_us = recent.p50_us;
            strained.in_time = if late > 0 { 0 } else { strained.in_time + recent.count };
        }
        strained.in_time >= TRIED_ENOUGH
    }
}

/// A function whose objective is kept.
struct Kept {
    watch: Watch,
    acted: bool,
    rests_until: Instant,
    is_helpless: bool,
}

impl Kept {
    fn new(limit: Duration) -> Self {
        let watch = Watch::new(micros(limit));
        Self { watch, acted: false, rests_until: Instant::now(), is_helpless: false }
    }
}

/// Who answered the calls of a function since the last look, and how long it took.
struct Answered {
    all: Latency,
    here: Latency,
    /// Who answered most of those that were late, how many these are, and their 95th percentile in microseconds.
    latest: Option<(NodeId, u64, u64)>,
}

impl Functions {
    /// Watches and acts until the node stops.
    pub(crate) async fn keep_objectives(self: Arc<Self>, events: Arc<Events>, stop: CancellationToken) {
        let started = Instant::now();
        let mut kept: BTreeMap<Key, Kept> = BTreeMap::new();
        let mut tick = tokio::time::interval(LOOK_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut apps = self.intent.watch();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = tick.tick() => {}
            }
            // A node is not woken each second for what nobody asks for.
            tokio::select! {
                () = stop.cancelled() => return,
                _ = apps.wait_for(|apps| !kept.is_empty() || apps.apps.values().any(has_objective)) => {}
            }
            let now_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
            let limits = limits(&self.intent.now());
            kept.retain(|key, function| {
                let stays = limits.get(key).is_some_and(|limit| micros(*limit) == function.watch.limit_us());
                if !stays {
                    self.measured.relieve(key);
                }
                stays
            });
            lock(&self.measured.elsewhere).retain(|key, _| limits.contains_key(key));
            for (key, limit) in limits {
                let answered = self.answered(&key, limit);
                let function = kept.entry(key.clone()).or_insert_with(|| Kept::new(limit));
                let Quantiles { count, p95_us, .. } = answered.all.quantiles();
                let seen = Seen { records: count, late: answered.all.count_above(limit), p95_us };
                let change = function.watch.observe(now_ms, seen);
                let mut said: Vec<_> =
                    change.map(|change| self.told(&key, function, change, &answered)).into_iter().collect();
                if self.measured.tried(&key, &answered.here, limit) {
                    self.measured.relieve(&key);
                    let text = format!(
                        "the last {TRIED_ENOUGH} calls that were tried here took no longer than {}: this node answers again",
                        Milliseconds(micros(limit))
                    );
                    said.push((EventKind::Action, text));
                }
                if function.watch.is_violated() && Instant::now() >= function.rests_until {
                    said.extend(self.act(&key, function, &answered));
                }
                for (kind, text) in said {
                    events.note(&key.0.app, format!("function {}", key.1), kind, text).await;
                }
            }
        }
    }

    /// What was answered since the last look.
    fn answered(&self, key: &Key, limit: Duration) -> Answered {
        let here = self.take_recent(key);
        let elsewhere = lock(&self.measured.elsewhere).remove(key).unwrap_or_default();
        let (mut all, mut answerers) = (Latency::default(), Vec::new());
        let own = self.loader.mesh.node().clone();
        for (node, latency) in elsewhere.iter().chain([(&own, &here)]) {
            all.add(latency);
            let late = latency.count_above(limit);
            answerers.extend((late > 0).then(|| (node.clone(), late, latency.quantiles().p95_us)));
        }
        let latest = answerers.into_iter().max_by_key(|(_, late, _)| *late);
        Answered { all, here, latest }
    }

    /// What is said of how the objective stands now.
    fn told(&self, key: &Key, kept: &mut Kept, change: Change, answered: &Answered) -> (EventKind, String) {
        let (kind, mut text) = told(&kept.watch, change, "calls", || {
            let has_helped = kept.acted || self.is_brought(key);
            let p95 = Milliseconds(kept.watch.p95_us());
            if has_helped { format!("what was done helped, p95 is {p95}") } else { "by itself".to_owned() }
        });
        match (&kind, &answered.latest) {
            (EventKind::Violated, Some((node, late, p95_us))) => {
                let p95 = Milliseconds(*p95_us);
                text += &format!("; of the last ones that were late, {node} answered {late}, p95 {p95}");
            }
            (EventKind::Restored, _) => (kept.acted, kept.is_helpless) = (false, false),
            _ => {}
        }
        (kind, text)
    }

    /// Does what may help where calls are late that this node answers.
    fn act(&self, key: &Key, kept: &mut Kept, answered: &Answered) -> Option<(EventKind, String)> {
        let own = self.loader.mesh.node();
        let (node, ..) = answered.latest.as_ref()?;
        if node != own {
            return None;
        }
        let local = self.here(&key.0, &key.1)?;
        let recent = answered.here.quantiles();
        let here = Here { queue: local.in_flight(), has_room: local.has_room(), execution_us: Some(recent.p50_us) };
        let wish = Wish { app: &key.0, function: &key.1, key: None, input_bytes: 0, here: Some(here) };
        let way = self.routing.way(&wish, None);
        let is_sooner = |choice: &&Choice| {
            let predicted_us = choice.predicted_us.saturating_add(choice.predicted_us / GAIN_SHARE);
            choice.node != *own && predicted_us <= recent.p50_us
        };
        let best = way.choices.first().filter(is_sooner);
        let (p95, took) = (Milliseconds(recent.p95_us), Milliseconds(recent.p50_us));
        let Some(Choice { node, predicted_us, .. }) = best else {
            let text = format!("calls take {took} here, p95 {p95}; no other instance is predicted to be quicker");
            return (!std::mem::replace(&mut kept.is_helpless, true)).then_some((EventKind::Helpless, text));
        };
        kept.rests_until = Instant::now() + COOL_DOWN;
        self.measured.strain(key, recent.p50_us);
        let sooner = Milliseconds(*predicted_us);
        let text = format!(
            "calls take {took} here, p95 {p95}; they go wherever they are predicted to be answered sooner, as to {node} in {sooner}"
        );
        (!std::mem::replace(&mut kept.acted, true)).then_some((EventKind::Action, text))
    }
}

fn has_objective(app: &Arc<App>) -> bool {
    app.manifest.functions.values().any(|function| function.slo.is_some())
}

/// The functions with an objective.
fn limits(apps: &Apps) -> BTreeMap<Key, Duration> {
    let of_app = |app: &Arc<App>| {
        let limits = app
            .manifest
            .functions
            .iter()
            .filter_map(|(name, function)| Some(((app.id.clone(), name.clone()), Duration::from(function.slo?))));
        limits.collect::<Vec<_>>()
    };
    apps.apps.values().flat_map(of_app).collect()
}
