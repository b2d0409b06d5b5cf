//! Has functions of lower priority that run in containers give way where the node is saturated: tells [`littoral_control::yielding`] what is
//! seen, and holds still what that says. Guests in the node's own threads give way by their turns.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use littoral_control::yielding::{LOOK_MS, Load, Look, Verdict, Yielding};
use littoral_model::manifest::Priority;
use littoral_plan::reason::Milliseconds;
use littoral_runtime::container::Containers;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::{Functions, Key};
use crate::admin::events::EventKind;
use crate::condition::{cpu_time, permille};
use crate::events::Events;
use crate::sync::{lock, micros};

/// How often it is seen whether anything could be held at all.
const IDLE_LOOK: Duration = Duration::from_secs(1);

/// What was held within this time is told of as one: that it goes on for a moment meanwhile is no event.
const TOLD_FOR: Duration = Duration::from_secs(60);

/// What is held, and why.
#[derive(Default)]
pub(crate) struct Held(Mutex<BTreeMap<Key, String>>);

impl Held {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Key, String>> {
        lock(&self.0)
    }
}

/// What was counted at the last look.
#[derive(Default)]
struct Before {
    /// Busy and all time of the processors, in ticks.
    cpu: Option<(u64, u64)>,
    at: Option<Instant>,
    calls: HashMap<Key, u64>,
    used: HashMap<String, Duration>,
    /// When it was said of a function that it is held.
    told: HashMap<Key, Instant>,
}

impl Functions {
    /// Why a function is held still here, if it is.
    pub(crate) fn held(&self, key: &Key) -> Option<String> {
        self.held.lock().get(key).cloned()
    }

    /// Holds functions still and lets them go on as priorities ask for, until the node stops; what is held then goes on.
    pub(crate) async fn give_way(self: Arc<Self>, events: Arc<Events>, stop: CancellationToken) {
        let Some(containers) = self.loader.containers.clone() else { return };
        let (mut yielding, mut before) = (Yielding::default(), Before::default());
        let since = Instant::now();
        let mut look = tokio::time::interval(Duration::from_millis(LOOK_MS));
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let priorities = if containers.any() { self.priorities() } else { BTreeMap::new() };
            if !yielding.is_concerned(priorities.values().copied()) {
                before = Before { told: before.told, ..Before::default() };
                if stop.run_until_cancelled(tokio::time::sleep(IDLE_LOOK)).await.is_none() {
                    break;
                }
                continue;
            }
            if stop.run_until_cancelled(look.tick()).await.is_none() {
                break;
            }
            let seen = self.see(&containers, &priorities, &mut before);
            let now_ms = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
            for (key, verdict) in yielding.look(now_ms, &seen) {
                let text = self.carry_out(&containers, &key, &verdict).await;
                if let Some(kind) = before.worth_telling(&key, &verdict) {
                    events.note(&key.0.app, format!("function {}", key.1), kind, text).await;
                }
            }
            self.held.lock().retain(|key, _| priorities.contains_key(key));
            self.hold_new(&containers).await;
        }
        let held: Vec<Key> = self.held.lock().keys().cloned().collect();
        for key in held {
            set_still(&containers, &key, false).await;
        }
    }

    /// The priorities of what is served here, and whether it runs in containers.
    fn priorities(&self) -> BTreeMap<Key, (Priority, bool)> {
        let apps = self.intent.now();
        let ready = self.ready.read().unwrap_or_else(PoisonError::into_inner);
        let functions = ready.keys().filter_map(|key| {
            let function = apps.apps.get(&key.0)?.manifest.functions.get(&key.1)?;
            Some((key.clone(), (function.priority, function.is_contained())))
        });
        functions.collect()
    }

    /// What was done since the last look.
    fn see(&self, containers: &Containers, priorities: &BTreeMap<Key, (Priority, bool)>, before: &mut Before) -> Look {
        let cpu = cpu_time(self.shards.lingered());
        let busy = cpu.zip(std::mem::replace(&mut before.cpu, cpu));
        let busy = busy.and_then(|(now, then)| permille(now.0.saturating_sub(then.0), now.1.saturating_sub(then.1)));
        let now = Instant::now();
        let elapsed = before.at.replace(now).map_or(Duration::ZERO, |at| now.duration_since(at));
        let all = elapsed * u32::try_from(self.shards.count()).unwrap_or(1);
        let mut used = HashMap::new();
        let mut look = Look { busy_permille: busy.unwrap_or(0), functions: BTreeMap::new() };
        for (key, (priority, can_be_held)) in priorities {
            let in_flight = self.here(&key.0, &key.1).map_or(0, |function| function.in_flight() as u64);
            let answered = self.stats(key).map_or(0, |stats| stats.latency.count);
            let calls = answered.saturating_sub(before.calls.insert(key.clone(), answered).unwrap_or(answered));
            let mut cpu = Duration::ZERO;
            for container in containers.of(&name(key)).iter().filter(|_| *can_be_held) {
                let Ok(now) = container.used() else { continue };
                cpu += now.cpu.saturating_sub(before.used.get(container.id()).copied().unwrap_or(now.cpu));
                used.insert(container.id().to_owned(), now.cpu);
            }
            let use_permille = permille(micros(cpu), micros(all)).unwrap_or(0);
            let load = Load { priority: *priority, can_be_held: *can_be_held, calls: calls + in_flight, use_permille };
            look.functions.insert(key.clone(), load);
        }
        before.calls.retain(|key, _| priorities.contains_key(key));
        before.used = used;
        look
    }

    /// Does it; why, for people.
    async fn carry_out(&self, containers: &Containers, key: &Key, verdict: &Verdict) -> String {
        let name = name(key);
        let (is_held, text) = match verdict {
            Verdict::Hold { for_the_sake_of: (app, function), busy_permille, use_permille } => {
                metrics::counter!("littoral_function_holds_total", "function" => name.clone()).increment(1);
                let (busy, used, app) = (busy_permille / 10, use_permille / 10, &app.app);
                let text = format!(
                    "the node is {busy} % busy, {used} % with this, and {app}/{function} has a higher priority: it is held still"
                );
                self.held.lock().insert(key.clone(), text.clone());
                (true, text)
            }
            Verdict::LetGo { held_ms, is_interlude } => {
                self.held.lock().remove(key);
                let held = Milliseconds(held_ms.saturating_mul(1_000));
                let why = if *is_interlude { "its callers wait, too" } else { "nothing of higher priority is called" };
                (false, format!("{why}: it goes on after {held}"))
            }
            Verdict::Release { held_ms } => {
                self.held.lock().remove(key);
                let held = Milliseconds(held_ms.saturating_mul(1_000));
                (false, format!("it runs in containers here no more: what is left of them goes on after {held}"))
            }
        };
        set_still(containers, key, is_held).await;
        tracing::debug!(function = name, text, "priorities");
        metrics::gauge!("littoral_function_held", "function" => name).set(f64::from(u8::from(is_held)));
        text
    }

    /// Holds what was started meanwhile of functions that are held.
    async fn hold_new(&self, containers: &Containers) {
        let held: Vec<Key> = self.held.lock().keys().cloned().collect();
        for key in held {
            set_still(containers, &key, true).await;
        }
    }
}

impl Before {
    /// What kind of event it is, if it is one.
    fn worth_telling(&mut self, key: &Key, verdict: &Verdict) -> Option<EventKind> {
        self.told.retain(|_, told| told.elapsed() < TOLD_FOR);
        match verdict {
            Verdict::Hold { .. } => {
                self.told.insert(key.clone(), Instant::now()).is_none().then_some(EventKind::Action)
            }
            Verdict::LetGo { is_interlude: true, .. } => None,
            Verdict::LetGo { .. } | Verdict::Release { .. } => {
                self.told.remove(key);
                Some(EventKind::Restored)
            }
        }
    }
}

/// Holds all containers of a function still, or lets them go on.
async fn set_still(containers: &Containers, key: &Key, is_still: bool) {
    for container in containers.of(&name(key)) {
        if container.is_still() != is_still
            && let Err(error) = container.pause(is_still).await
        {
            tracing::warn!(%error, container = container.id(), "priorities are not kept");
        }
    }
}

fn name((app, function): &Key) -> String {
    format!("{app}/{function}")
}
