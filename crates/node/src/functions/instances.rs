//! Carries out what `control::scaling` wants of a version of a function: starts instances, lets them finish and stops them, and
//! starts others in place of those that end. Off the way of requests: these wait in the pool.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use littoral_control::scaling::{Scaling, Seen, Settings, Wanted};
use littoral_runtime::container::{Container, ContainerSpec};
use littoral_runtime::http::{HttpSettings, Instance};
use littoral_runtime::pool::Pool;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep_until, timeout};

use super::{DRAIN_MAX, RETRY_MAX, RETRY_MIN};
use crate::condition::memory_available;
use crate::guests::{Loader, Unpacked};
use crate::intent::App;
use crate::sync::millis;

/// How many instances of a function are started at once.
const STARTING_MAX: usize = 4;

/// What makes instances.
pub(super) enum Starter {
    /// Loads a component.
    Component(Box<Component>),
    /// Runs an image.
    Image(Box<Unpacked>),
}

/// A component that is loaded when it is needed.
pub(super) struct Component {
    pub(super) loader: Arc<Loader>,
    /// As it was deployed; an older one may come back.
    pub(super) app: Arc<App>,
    pub(super) function: littoral_model::id::FunctionName,
    pub(super) digest: String,
    pub(super) settings: HttpSettings,
}

/// What is to be stopped of an instance: a component's is gone when nobody has it.
type Kept = Option<Arc<Container>>;

impl Starter {
    async fn start(&self, ordinal: u32) -> Result<(Instance, Kept), String> {
        match self {
            Self::Component(component) => component.load().await.map(|instance| (instance, None)),
            Self::Image(image) => {
                let (spec, logs, usage) = (of(image, ordinal), Arc::clone(&image.logs), Arc::clone(&image.usage));
                let started = image.containers.start(spec, logs, image.limits.log_lines_per_second, usage).await;
                let container = started.map_err(|error| error.to_string())?;
                Ok((Instance::container(Arc::clone(&container), image.limits), Some(container)))
            }
        }
    }

    /// Whether an instance runs already that another process, or another version, has started.
    pub(super) fn runs(&self, ordinal: u32) -> bool {
        match self {
            Self::Component(_) => false,
            Self::Image(image) => image.containers.runs(&of(image, ordinal)),
        }
    }

    async fn stop(&self, kept: Kept) {
        if let (Self::Image(image), Some(container)) = (self, kept) {
            image.containers.stop(&container).await;
        }
    }

    fn memory_bytes(&self) -> u64 {
        match self {
            Self::Component(component) => component.settings.limits.memory_bytes,
            Self::Image(image) => image.spec.memory_bytes,
        }
    }

    /// How long an instance may finish what it is answering before it is stopped.
    fn drain_max(&self) -> Duration {
        let limits = match self {
            Self::Component(component) => &component.settings.limits,
            Self::Image(image) => &image.limits,
        };
        DRAIN_MAX.max(limits.timeout)
    }

    /// Whether its instances are held still for functions of higher priority.
    fn is_held(&self) -> bool {
        match self {
            Self::Component(_) => false,
            Self::Image(image) => image.containers.of(&image.spec.name).iter().any(|container| container.is_still()),
        }
    }

    /// Whether both make the same instances: then one's are the other's.
    fn is_like(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Image(one), Self::Image(other)) => {
                // What makes no other container of it.
                let (health_path, cpu_shares) = (one.spec.health_path.clone(), one.spec.cpu_shares);
                one.spec == ContainerSpec { health_path, cpu_shares, ..other.spec.clone() }
            }
            _ => false,
        }
    }
}

impl Component {
    async fn load(&self) -> Result<Instance, String> {
        let loaded = self.loader.load(&self.app, &self.function, &self.digest).await;
        let loaded = loaded.map_err(|error| format!("{error:#}"))?;
        Instance::component(&self.loader.runtime, &loaded.artifact, &self.settings).map_err(|error| error.to_string())
    }
}

fn of(image: &Unpacked, ordinal: u32) -> ContainerSpec {
    ContainerSpec { ordinal, ..image.spec.clone() }
}

/// How the instances of a function stand on a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Standing {
    /// How many take requests.
    pub(crate) ready: u32,
    /// How many are being started.
    pub(crate) starting: u32,
    /// How many there are to be.
    pub(crate) wanted: u32,
    /// Why.
    pub(crate) reason: String,
    /// Why one could not be started, or how one ended, since one was ready last.
    pub(crate) error: Option<String>,
    /// How often starting one failed since one was ready last.
    pub(crate) failed_starts: u32,
    /// Whether one was ever ready.
    pub(crate) was_ready: bool,
    /// How many requests found none.
    pub(crate) cold: u64,
}

/// How long an instance of a version that was replaced is kept without a request, in milliseconds.
const REPLACED_IDLE_MS: u64 = 10_000;
/// The same of a container in whose place a component answers: no request is on its way to it any more.
const VARIANT_IDLE_MS: u64 = 1_000;

/// What answers requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Duty {
    /// These instances do.
    Answer,
    /// They are about to: one is to be there before any request is.
    Prepare,
    /// Those of another version do, and these are there only for those who still ask for this one.
    Replaced,
    /// A component does.
    Relieved,
}

/// What the instances are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Order {
    bounds: Settings,
    duty: Duty,
    /// Whether they are to finish what they are answering, and to go.
    leaves: bool,
}

impl Order {
    fn settings(self) -> Settings {
        let Settings { min, idle_ms, .. } = self.bounds;
        let at_most = |most_ms: u64| Settings { min: 0, idle_ms: idle_ms.min(most_ms), expects: false, ..self.bounds };
        match self.duty {
            Duty::Answer => self.bounds,
            Duty::Prepare => Settings { min: min.max(1), ..self.bounds },
            Duty::Replaced => at_most(REPLACED_IDLE_MS),
            Duty::Relieved => at_most(VARIANT_IDLE_MS),
        }
    }
}

/// The instances of a version of a function. When this is dropped, containers go on for whoever takes them up.
pub(super) struct Instances {
    starter: Arc<Starter>,
    pool: Arc<Pool<Instance>>,
    orders: watch::Sender<Order>,
    standing: watch::Receiver<Standing>,
    task: AbortHandle,
}

impl Drop for Instances {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Instances {
    /// Of a function called `name` in metrics. Those that run already are taken up.
    pub(super) fn run(name: &str, starter: Starter, pool: Arc<Pool<Instance>>, bounds: Settings, duty: Duty) -> Self {
        let starter = Arc::new(starter);
        let order = Order { bounds, duty, leaves: false };
        let (settings, (orders, ordered)) = (order.settings(), watch::channel(order));
        let (told, standing) = watch::channel(Standing::default());
        let driver = Driver {
            name: name.to_owned(),
            scaling: Scaling::new(settings),
            since: Instant::now(),
            starter: Arc::clone(&starter),
            pool: Arc::clone(&pool),
            told,
            running: BTreeMap::new(),
            starting: BTreeMap::new(),
            leaving: BTreeMap::new(),
            starts: JoinSet::new(),
            endings: JoinSet::new(),
            departures: JoinSet::new(),
            retry_at: None,
            wait: RETRY_MIN,
            promised: settings.min.max(1) as usize,
        };
        let task = tokio::spawn(driver.run(ordered)).abort_handle();
        Self { starter, pool, orders, standing, task }
    }

    pub(super) fn standing(&self) -> Standing {
        self.standing.borrow().clone()
    }

    /// Waits until the instances stand in such a way.
    pub(super) async fn until(&self, is_so: impl FnMut(&Standing) -> bool) {
        // Whoever is told to leave ends the wait, too.
        let _ = self.standing.clone().wait_for(is_so).await;
    }

    /// Takes other bounds.
    pub(super) fn scale(&self, bounds: Settings) {
        self.order(|order| order.bounds = bounds);
    }

    /// Says what they are for now.
    pub(super) fn charge(&self, duty: Duty) {
        self.order(|order| order.duty = duty);
    }

    fn order(&self, change: impl FnOnce(&mut Order)) {
        self.orders.send_if_modified(|order| {
            let before = *order;
            change(order);
            *order != before
        });
    }

    /// Has all of them finish what they are answering and go; returns when they are gone.
    pub(super) async fn leave(&self) {
        self.order(|order| order.leaves = true);
        self.until(|_| false).await;
    }

    /// Has those of another version, which are the same ones, answer whoever still asks for this one.
    pub(super) fn pass_on(&self, successor: &Self) {
        self.pool.pass_on(&successor.pool);
    }

    /// Whether the instances of both are the same ones.
    pub(super) fn are_like(&self, other: &Self) -> bool {
        self.starter.is_like(&other.starter)
    }
}

/// An instance that takes requests.
struct Running {
    number: u64,
    kept: Kept,
    since: Instant,
}

type Started = Result<(Instance, Kept), String>;

/// Follows one function's requests. An instance is known by its ordinal: the lowest that is free.
struct Driver {
    name: String,
    scaling: Scaling,
    since: Instant,
    starter: Arc<Starter>,
    pool: Arc<Pool<Instance>>,
    told: watch::Sender<Standing>,
    running: BTreeMap<u32, Running>,
    starting: BTreeMap<u32, Instant>,
    leaving: BTreeMap<u32, u64>,
    starts: JoinSet<(u32, Started)>,
    endings: JoinSet<(u32, u64, String)>,
    departures: JoinSet<u32>,
    retry_at: Option<Instant>,
    wait: Duration,
    /// How many there is memory for in any case.
    promised: usize,
}

impl Driver {
    async fn run(mut self, mut orders: watch::Receiver<Order>) {
        let settings = orders.borrow_and_update().bounds;
        for ordinal in 0..settings.max.max(settings.min) {
            if self.starter.runs(ordinal) {
                self.start(ordinal);
            }
        }
        if !self.starting.is_empty() {
            self.scaling.found(0, count(self.starting.len()));
        }
        loop {
            let again = self.look();
            let again = [again, self.retry_at].into_iter().flatten().min();
            tokio::select! {
                () = self.pool.called() => {}
                Some(Ok((ordinal, started))) = self.starts.join_next() => self.started(ordinal, started),
                Some(Ok((ordinal, number, how))) = self.endings.join_next() => self.ended(ordinal, number, how),
                Some(Ok(ordinal)) = self.departures.join_next() => drop(self.leaving.remove(&ordinal)),
                Ok(()) = orders.changed() => {
                    let order = *orders.borrow_and_update();
                    if order.leaves {
                        return self.leave().await;
                    }
                    self.promised = order.bounds.min.max(1) as usize;
                    self.scaling.set(order.settings());
                }
                () = sleep_until(again.unwrap_or(self.since).into()), if again.is_some() => {}
            }
        }
    }

    /// Looks at what came, and starts and removes instances; when to look again.
    fn look(&mut self) -> Option<Instant> {
        let now = Instant::now();
        let traffic = self.pool.traffic();
        let seen = Seen {
            requests: count(traffic.requests),
            most: count(traffic.most),
            busy_ms: millis(traffic.busy),
            idle_times_ms: traffic.idle_times.into_iter().map(millis).collect(),
            idle_since_ms: traffic.idle_since.map(|since| self.millis_at(since)),
            ready: count(self.running.len()),
        };
        let wanted = self.scaling.step(self.millis_at(now), &seen);
        self.retry_at = self.retry_at.filter(|at| *at > now);
        let missing = (wanted.instances as usize).saturating_sub(self.running.len() + self.starting.len());
        let held_back = self.add(missing);
        let surplus = self.running.len().saturating_sub(wanted.instances as usize);
        self.remove_idlest(surplus);
        self.tell(wanted, held_back, traffic.cold);
        wanted.again_ms.map(|again_ms| self.since + Duration::from_millis(again_ms))
    }

    /// Has so many go: those that answer least, and of these the last ones.
    fn remove_idlest(&mut self, many: usize) {
        if many == 0 {
            return;
        }
        let in_flight = self.pool.in_flight();
        let mut ordinals: Vec<(usize, Reverse<u32>)> = self
            .running
            .iter()
            .map(|(ordinal, running)| (in_flight.get(&running.number).copied().unwrap_or(0), Reverse(*ordinal)))
            .collect();
        ordinals.sort_unstable();
        ordinals.into_iter().take(many).for_each(|(_, Reverse(ordinal))| self.remove(ordinal));
    }

    /// Starts so many more, as far as that may be now; why not all of them.
    fn add(&mut self, missing: usize) -> Option<&'static str> {
        for _ in 0..missing {
            if self.retry_at.is_some() {
                return Some("; starting one failed, and is tried again");
            }
            if self.starting.len() >= STARTING_MAX {
                return None;
            }
            // More of them would take what it is to leave to others.
            if !self.running.is_empty() && self.starter.is_held() {
                return Some("; it is held still for functions of higher priority");
            }
            // More than the node has promised it has only while it has.
            let is_promised = self.running.len() + self.starting.len() < self.promised;
            let needed = self.starter.memory_bytes().saturating_mul(1 + self.starting.len() as u64);
            if !is_promised && memory_available().is_some_and(|free| free < needed) {
                return Some("; the node has no memory for more");
            }
            let is_free = |ordinal: &u32| {
                !self.running.contains_key(ordinal)
                    && !self.starting.contains_key(ordinal)
                    && !self.leaving.contains_key(ordinal)
            };
            if let Some(ordinal) = (0..=u32::MAX).find(is_free) {
                self.start(ordinal);
            }
        }
        None
    }

    fn start(&mut self, ordinal: u32) {
        self.starting.insert(ordinal, Instant::now());
        let starter = Arc::clone(&self.starter);
        self.starts.spawn(async move { (ordinal, starter.start(ordinal).await) });
    }

    fn started(&mut self, ordinal: u32, started: Started) {
        let begun = self.starting.remove(&ordinal);
        match started {
            Ok((instance, kept)) => {
                // One that ran already says nothing of how long starting takes.
                let ran = kept.as_ref().is_some_and(|container| container.is_adopted());
                if let (Some(begun), false) = (begun, ran) {
                    self.scaling.started(millis(begun.elapsed()));
                }
                let number = self.pool.add(instance);
                if let Some(container) = kept.clone() {
                    self.endings.spawn(async move { (ordinal, number, container.until_ended().await) });
                }
                self.running.insert(ordinal, Running { number, kept, since: Instant::now() });
                metrics::counter!("littoral_function_starts_total", "function" => self.name.clone()).increment(1);
                self.told.send_modify(|told| {
                    (told.error, told.failed_starts, told.was_ready) = (None, 0, true);
                });
            }
            Err(reason) => {
                tracing::warn!(function = self.name, reason, "an instance could not be started");
                if self.running.is_empty() && self.starting.is_empty() {
                    self.pool.refuse(&reason);
                }
                self.told.send_modify(|told| {
                    told.failed_starts += 1;
                    told.error = Some(reason);
                });
                self.back_off();
            }
        }
    }

    /// An instance has ended by itself: another one takes its place.
    fn ended(&mut self, ordinal: u32, number: u64, how: String) {
        // One that was to go has ended, too, and another may be in its place.
        if self.running.get(&ordinal).is_none_or(|running| running.number != number) {
            return;
        }
        let Some(running) = self.running.remove(&ordinal) else { return };
        tracing::warn!(function = self.name, reason = how, "an instance has ended");
        self.pool.lose(number);
        self.told.send_modify(|told| told.error = Some(how));
        self.trust(&running);
        self.back_off();
    }

    /// What ran for long has worked: the next trouble is another one.
    fn trust(&mut self, running: &Running) {
        if running.since.elapsed() > RETRY_MAX {
            self.wait = RETRY_MIN;
        }
    }

    fn back_off(&mut self) {
        self.retry_at = Some(Instant::now() + self.wait);
        self.wait = (self.wait * 2).min(RETRY_MAX);
    }

    /// Has an instance finish what it is answering, and stops it.
    fn remove(&mut self, ordinal: u32) {
        let Some(running) = self.running.remove(&ordinal) else { return };
        self.trust(&running);
        let Running { number, kept, .. } = running;
        self.leaving.insert(ordinal, number);
        let (pool, starter) = (Arc::clone(&self.pool), Arc::clone(&self.starter));
        let within = self.starter.drain_max();
        // One that was told to go goes, also if nobody follows this version any more.
        let gone = tokio::spawn(async move {
            if timeout(within, pool.remove(number)).await.is_err() {
                pool.lose(number);
            }
            starter.stop(kept).await;
        });
        self.departures.spawn(async move {
            // It does not panic, and nobody aborts it.
            let _ = gone.await;
            ordinal
        });
    }

    /// Ends it all. Whoever has the function in hand is answered before.
    async fn leave(mut self) {
        // What is being started is stopped once it is there: nothing is left of it then.
        while let Some(Ok((ordinal, started))) = self.starts.join_next().await {
            self.started(ordinal, started);
        }
        let ordinals: Vec<u32> = self.running.keys().copied().collect();
        ordinals.into_iter().for_each(|ordinal| self.remove(ordinal));
        while self.departures.join_next().await.is_some() {}
        self.pool.close();
        metrics::gauge!("littoral_function_instances", "function" => self.name.clone()).set(0.0);
    }

    fn tell(&self, wanted: Wanted, held_back: Option<&str>, cold: u64) {
        let (ready, starting) = (count(self.running.len()), count(self.starting.len()));
        let name = || self.name.clone();
        self.told.send_if_modified(|told| {
            let reason = format!("{}{}", wanted.reason, held_back.unwrap_or_default());
            let (wanted, before) = (wanted.instances, told.clone());
            if cold > before.cold {
                metrics::counter!("littoral_function_cold_total", "function" => name()).increment(cold - before.cold);
            }
            *told = Standing { ready, starting, wanted, reason, cold, ..before.clone() };
            if told.ready != before.ready {
                metrics::gauge!("littoral_function_instances", "function" => name()).set(f64::from(told.ready));
            }
            *told != before
        });
    }

    fn millis_at(&self, at: Instant) -> u64 {
        millis(at.saturating_duration_since(self.since))
    }
}

fn count(many: usize) -> u32 {
    u32::try_from(many).unwrap_or(u32::MAX)
}
