//! Runs the units of work that this node owns: partitions of streams and stages of flows.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use littoral_connect as connect;
use littoral_connect::sink::SinkWork;
use littoral_connect::source::SourceWork;
use littoral_control::Event;
use littoral_flow::Ended;
use littoral_flow::ingest::{self, IngestWork};
use littoral_flow::reader::{Input, Source};
use littoral_flow::stage::{self, StageWork};
use littoral_flow::stats::{Changes, Snapshot, Stats};
use littoral_model::entry::handover_port;
use littoral_model::id::{ConnectorName, Epoch};
use littoral_model::unit::Size;
use littoral_model::work::WorkId;
use littoral_plan::{Ack, PlacedWork, Placement, Role, StageFunction};
use littoral_runtime::latency::Latency;
use littoral_runtime::stage::StageSettings;
use littoral_runtime::{LogSink, Shards};
use littoral_sql::Partitions;
use littoral_store::replica::{Ack as LogAck, Owned, Retention, WorkConfig, Works};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use crate::fidelity::{Levels, Vary, components, ladder, on_level, shed_after};
use crate::guests::{Loaded, Loader, settings_of};
use crate::intent::{App, IntentStore};
use crate::operators::{Component, Guest, Guests};
use crate::queue::Queues;
use crate::sync::{lock, millis};
use crate::wiring::AppMachine;

/// How much event times may be out of order before windows close on them: sources publish in order today.
const LATENESS_US: i64 = 0;

/// Runs work.
pub(crate) struct Runner {
    pub(crate) works: Arc<Works>,
    pub(crate) source: Arc<dyn Source>,
    pub(crate) intent: Arc<IntentStore>,
    pub(crate) loader: Arc<Loader>,
    pub(crate) queues: Arc<Queues>,
    pub(crate) shards: Shards,
    pub(crate) running: Mutex<HashMap<WorkId, Running>>,
    /// The artefacts that were or are being made ready for work that this node may take over; no more than that names.
    pub(crate) prepared: Mutex<BTreeSet<String>>,
    /// Which stages run cheaper variants of their functions.
    pub(crate) levels: Levels,
    /// When the clock of those began.
    pub(crate) begun: Instant,
}

/// The most that a source reads ahead of its stream, in bytes of its log.
const SOURCE_BYTES_MAX: u64 = 64 << 20;

/// How long what is to go on with other functions waits for them.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// How soon other variants have to be at hand: whoever asks for them waits, and asks again.
const VARIED_WITHIN: Duration = Duration::from_secs(2);

/// Work that runs, or has run and failed.
pub(crate) struct Running {
    epoch: Epoch,
    stats: Arc<Stats>,
    /// When it was started in place of what ran before.
    replaced: Option<Instant>,
    /// The artefacts of its functions.
    artifacts: Vec<String>,
    /// What its functions were started with.
    settings: String,
    agent: mpsc::Sender<Event>,
    task: AbortHandle,
}

/// What this node has of a work.
pub(crate) enum Held {
    /// A copy of its log.
    Copied,
    /// The work itself.
    Owned,
}

/// A stage that takes rows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Run {
    pub(crate) work: WorkId,
    pub(crate) epoch: Epoch,
    /// The artefacts of its functions, in order.
    pub(crate) artifacts: Vec<String>,
    /// From when what ran there before was stopped until it took rows, in microseconds; nothing if nothing ran.
    pub(crate) pause_us: Option<u64>,
    /// How far it is with changes of the number of partitions.
    pub(crate) changes: Changes,
}

impl Running {
    /// Whether it runs under that epoch.
    fn is_on(&self, epoch: Epoch) -> bool {
        self.epoch == epoch && !self.task.is_finished()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Runner {
    /// Starts work; what becomes of it is told to the agent. Where it runs already, that goes on until what it is to run with now
    /// is at hand.
    pub(crate) fn start(self: &Arc<Self>, work: WorkId, epoch: Epoch, agent: mpsc::Sender<Event>) {
        if self.lock().get(&work).is_some_and(|running| running.is_on(epoch)) {
            tokio::spawn(Arc::clone(self).replace(work, epoch, agent));
        } else {
            self.begin(work, epoch, agent);
        }
    }

    /// Has a stage that this node owns go on with other variants of its functions, as it is asked to, once those are at hand.
    pub(crate) async fn vary(self: &Arc<Self>, asked: &Vary) -> Result<(), String> {
        let (work, epoch) = (&asked.work, asked.epoch);
        let disowned = || format!("this node does not run {work} under epoch {epoch}");
        let (app, role) = self.stage(work).ok_or_else(disowned)?;
        let ladder = ladder(&app, &role);
        if let Some(level) = ladder.iter().position(|artifacts| *artifacts == asked.to) {
            let (runner, partition) = (Arc::clone(self), work.partition);
            // What is begun goes on, also if it takes longer: it will be at hand when this is asked again.
            let loading = tokio::spawn(async move { runner.guests(&app, &role, partition, level).await.map(drop) });
            match tokio::time::timeout(VARIED_WITHIN, loading).await {
                Ok(Ok(loaded)) => loaded.map_err(|error| format!("{error:#}"))?,
                Ok(Err(error)) => return Err(error.to_string()),
                Err(_) => return Err("it is still being made ready".to_owned()),
            }
        }
        let agent = {
            let all = self.lock();
            let running = all.get(work).filter(|running| running.is_on(epoch)).ok_or_else(disowned)?;
            self.levels.vary(ladder, asked, self.now_ms())?;
            running.agent.clone()
        };
        self.start(work.clone(), epoch, agent);
        Ok(())
    }

    /// The app and the role of a stage.
    fn stage(&self, work: &WorkId) -> Option<(Arc<App>, Role)> {
        let app = Arc::clone(self.intent.now().apps.get(&work.app)?);
        let role = app.placement.work(work).map(|placed| placed.role.clone());
        role.filter(|role| matches!(role, Role::Stage { .. })).map(|role| (app, role))
    }

    /// The clock of [levels](Self::levels).
    fn now_ms(&self) -> u64 {
        millis(self.begun.elapsed())
    }

    /// Has work go on with what it is to run with now. Where that cannot be had, what runs goes on, and the agent tries again.
    async fn replace(self: Arc<Self>, work: WorkId, epoch: Epoch, agent: mpsc::Sender<Event>) {
        let at_hand = tokio::time::timeout(READY_WITHIN, self.load(&work)).await;
        let failed = match at_hand {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(format!("{error:#}")),
            Err(_) => Some(format!("its functions were not at hand within {} s", READY_WITHIN.as_secs())),
        };
        let settings = self.settings(&work);
        let is_new = match self.lock().get(&work).filter(|running| running.epoch == epoch) {
            // It was stopped, or began anew elsewhere, meanwhile.
            None => return,
            Some(running) => {
                if let Some(reason) = &failed {
                    running.stats.failed(reason);
                    self.levels.fail(&work, self.now_ms());
                }
                running.settings != settings
            }
        };
        // If the agent is gone, the node stops.
        let _ = match failed {
            Some(reason) => agent.send(Event::WorkFailed { work, epoch, reason }).await,
            None if is_new => {
                self.begin(work, epoch, agent);
                return;
            }
            None => agent.send(Event::WorkStarted { work, epoch }).await,
        };
    }

    /// Has at hand what a work is to run with now.
    async fn load(&self, work: &WorkId) -> anyhow::Result<()> {
        let apps = self.intent.now();
        let app = apps.apps.get(&work.app);
        let Some((app, placed)) = app.and_then(|app| Some((app, app.placement.work(work)?))) else { return Ok(()) };
        match &placed.role {
            role @ Role::Stage { .. } => {
                self.guests(app, role, work.partition, self.level(app, work, role)).await.map(drop)
            }
            Role::StreamPartition { .. } | Role::Queue { .. } | Role::Source { .. } | Role::Sink { .. } => Ok(()),
        }
    }

    fn begin(self: &Arc<Self>, work: WorkId, epoch: Epoch, agent: mpsc::Sender<Event>) {
        self.levels.forget_before(&work, epoch);
        let stats = Arc::new(Stats::of(&work));
        let settings = self.settings(&work);
        let telling = agent.clone();
        let runner = Arc::clone(self);
        let (id, seen) = (work.clone(), Arc::clone(&stats));
        let task = tokio::spawn(async move {
            let ended = runner.run(&id, epoch, &seen, &telling).await;
            if matches!(ended, Ended::Failed(_)) {
                runner.levels.fail(&id, runner.now_ms());
            }
            let reason = ended.to_string();
            tracing::debug!(work = %id, %epoch, reason, "work ended");
            // If the agent is gone, the node stops.
            let _ = telling.send(Event::WorkFailed { work: id, epoch, reason }).await;
        });
        let mut all = self.lock();
        let is_on = all.get(&work).is_some_and(|running| running.is_on(epoch));
        let replaced = is_on.then(Instant::now);
        if let Some(before) = all.get(&work) {
            stats.goes_on_from(&before.stats);
        }
        let artifacts = self.artifacts(&work);
        all.insert(work, Running { epoch, stats, replaced, artifacts, settings, agent, task: task.abort_handle() });
    }

    /// Has at hand what the stages need whose logs this node has: of those that it copies the usual variants, so that when their owner
    /// dies, and perhaps the only node that holds their artefacts with it, nothing is fetched or compiled first; of those that it owns
    /// the next cheaper ones.
    pub(crate) fn prepare<'a>(self: &Arc<Self>, held: impl Iterator<Item = (&'a WorkId, Held)>) {
        let apps = self.intent.now();
        let mut wanted = BTreeMap::new();
        for (work, held) in held {
            let app = apps.apps.get(&work.app);
            let Some((app, placed)) = app.and_then(|app| Some((app, app.placement.work(work)?))) else { continue };
            let Role::Stage { functions, .. } = &placed.role else { continue };
            let level = match held {
                Held::Copied => 0,
                Held::Owned => self.level(app, work, &placed.role) + 1,
            };
            if level > 0 && level >= ladder(app, &placed.role).len() {
                continue;
            }
            let components = functions.iter().flat_map(|stage| components(app, stage, level));
            wanted.extend(components.map(|stage| (stage.artifact.clone(), (app, stage))));
        }
        let mut prepared = self.lock_prepared();
        prepared.retain(|artifact| wanted.contains_key(artifact));
        for (artifact, (app, stage)) in wanted {
            if prepared.insert(artifact) {
                tokio::spawn(Arc::clone(self).make_ready(Arc::clone(app), stage));
            }
        }
    }

    async fn make_ready(self: Arc<Self>, app: Arc<App>, stage: StageFunction) {
        if let Err(error) = self.loader.load(&app, &stage.function, &stage.artifact).await {
            // Tried again with the next news of the works.
            tracing::debug!(app = %app.id, function = %stage.function, "not made ready yet: {error:#}");
            self.lock_prepared().remove(&stage.artifact);
        }
    }

    /// Stops work.
    pub(crate) fn stop(&self, work: &WorkId) {
        self.levels.forget(work);
        self.lock().remove(work);
    }

    /// Stops all work.
    pub(crate) fn stop_all(&self) {
        self.levels.clear();
        self.lock().clear();
    }

    /// The works that run.
    pub(crate) fn running(&self) -> Vec<WorkId> {
        self.lock().keys().cloned().collect()
    }

    /// What the watcher of objectives has not seen yet of a work that runs.
    pub(crate) fn take_unseen(&self, work: &WorkId) -> Option<Latency> {
        self.lock().get(work).map(|running| running.stats.take_unseen())
    }

    /// What work that runs has measured, with the epoch it runs under; nothing of what is being started.
    pub(crate) fn snapshots(&self) -> HashMap<WorkId, (Epoch, Snapshot)> {
        let running = self.lock();
        let telling = running.iter().filter(|(_, running)| running.stats.is_telling());
        telling.map(|(work, running)| (work.clone(), (running.epoch, running.stats.snapshot()))).collect()
    }

    /// The stages that take rows here, and for how long they paused if they went on with other functions than before.
    pub(crate) fn runs(&self) -> Vec<Run> {
        let running = self.lock();
        let runs = running.iter().filter_map(|(work, running)| {
            let since = running.stats.runs_since().filter(|_| !running.task.is_finished())?;
            let pause = running.replaced.map(|replaced| since.saturating_duration_since(replaced));
            let pause_us = pause.map(|pause| u64::try_from(pause.as_micros()).unwrap_or(u64::MAX));
            let changes = running.stats.changes();
            let (epoch, artifacts) = (running.epoch, running.artifacts.clone());
            Some(Run { work: work.clone(), epoch, artifacts, pause_us, changes })
        });
        runs.collect()
    }

    /// After intent has changed: tells the log how each work that runs here is to be kept and who reads it, and starts
    /// stages anew whose functions have other settings now.
    pub(crate) fn reconsider(self: &Arc<Self>) {
        let apps = self.intent.now();
        let works: Vec<WorkId> = self.lock().keys().cloned().collect();
        for work in works {
            let app = apps.apps.get(&work.app);
            let Some((app, placed)) = app.and_then(|app| Some((app, app.placement.work(&work)?))) else { continue };
            self.works.configure(&work, work_config(app, placed));
            self.levels.forget_other_than(&work, &ladder(app, &placed.role));
            let settings = self.settings(&work);
            let changed = self.lock().get(&work).filter(|running| running.settings != settings).map(|running| {
                let Running { epoch, agent, .. } = running;
                (*epoch, agent.clone())
            });
            if let Some((epoch, agent)) = changed {
                tracing::info!(%work, "its functions have other settings now; it is started anew");
                self.start(work, epoch, agent);
            }
        }
    }

    /// On which level below the usual variants of its functions a stage is.
    fn level(&self, app: &App, work: &WorkId, role: &Role) -> usize {
        self.levels.of(work, &ladder(app, role))
    }

    /// The artefacts of a stage's functions.
    fn artifacts(&self, work: &WorkId) -> Vec<String> {
        let apps = self.intent.now();
        let app = apps.apps.get(&work.app);
        match app.and_then(|app| Some((app, &app.placement.work(work)?.role))) {
            Some((app, role @ Role::Stage { .. })) => {
                let mut ladder = ladder(app, role);
                let level = self.levels.of(work, &ladder);
                ladder.get_mut(level).map(std::mem::take).unwrap_or_default()
            }
            _ => Vec::new(),
        }
    }

    /// What a work is to be started with.
    fn settings(&self, work: &WorkId) -> String {
        let apps = self.intent.now();
        let app = apps.apps.get(&work.app);
        match app.and_then(|app| Some((app, &app.placement.work(work)?.role))) {
            Some((app, role @ Role::Stage { functions, .. })) => {
                let level = self.level(app, work, role);
                let artifact = |stage: &StageFunction| on_level(app, stage, level).artifact;
                let of = |stage: &StageFunction| format!("{} {}", artifact(stage), settings_of(app, &stage.function));
                let functions: Vec<String> = functions.iter().map(of).collect();
                let shed_after = shed_after(app, role, &self.artifacts(work));
                format!("{role:?}; {}; {shed_after:?}", functions.join("; "))
            }
            Some((_, role @ Role::StreamPartition { .. })) => format!("{role:?}"),
            Some((app, role @ Role::Source { source, .. })) => {
                format!("{role:?}; {:?}", app.manifest.sources.get(source))
            }
            Some((app, role @ Role::Sink { sink, .. })) => format!("{role:?}; {:?}", app.manifest.sinks.get(sink)),
            // Its triggers; all else of a queue is taken up as it runs.
            Some((app, Role::Queue { function, sources })) => {
                let triggers: Vec<_> = app.manifest.triggers.iter().filter(|of| of.function == *function).collect();
                format!("{triggers:?}; {sources:?}")
            }
            None => String::new(),
        }
    }

    async fn run(&self, work: &WorkId, epoch: Epoch, stats: &Arc<Stats>, agent: &mpsc::Sender<Event>) -> Ended {
        let apps = self.intent.now();
        let Some(app) = apps.apps.get(&work.app) else {
            return Ended::Failed(format!("this node does not know the app {}", work.app));
        };
        let Some(placed) = app.placement.work(work) else {
            return Ended::Failed("it is not in the app's placement".to_owned());
        };
        self.works.configure(work, work_config(app, placed));
        let guests = match &placed.role {
            role @ Role::Stage { .. } => {
                match self.guests(app, role, work.partition, self.level(app, work, role)).await {
                    Ok(guests) => Some(guests),
                    Err(error) => return failed(stats, format!("{error:#}")),
                }
            }
            Role::StreamPartition { .. } | Role::Queue { .. } | Role::Source { .. } | Role::Sink { .. } => None,
        };
        let owned = match self.works.lead(work).await {
            Ok(owned) => owned,
            Err(error) => return Ended::Failed(error.to_string()),
        };
        if owned.epoch() != epoch {
            return Ended::Fenced;
        }
        stats.started();
        // The agent is gone only when the node stops.
        let _ = agent.send(Event::WorkStarted { work: work.clone(), epoch }).await;
        match (&placed.role, guests) {
            (Role::StreamPartition { sources, .. }, _) => self.run_partition(owned, sources, Arc::clone(stats)).await,
            (Role::Queue { .. }, _) => self.queues.run(owned, app).await,
            (Role::Source { source, partitions, .. }, _) => {
                self.run_source(owned, app, (source, partitions), Arc::clone(stats)).await
            }
            (Role::Sink { sink, sources }, _) => self.run_sink(owned, app, (sink, sources), Arc::clone(stats)).await,
            (Role::Stage { input: from, rescaling, .. }, Some(guests)) => {
                let changes = rescaling.as_ref().and_then(|of| of.changes.as_ref());
                let shed_after = shed_after(app, &placed.role, &self.artifacts(work));
                let inputs = (input(from), changes.map(input), shed_after);
                self.run_stage(owned, inputs, guests, Arc::clone(stats)).await
            }
            (Role::Stage { .. }, None) => Ended::Failed("its functions are not loaded".to_owned()),
        }
    }

    async fn run_partition(&self, owned: Owned, sources: &[littoral_plan::Source], stats: Arc<Stats>) -> Ended {
        if sources.is_empty() {
            owned.lost().await;
            return Ended::Fenced;
        }
        let handover = handover_port(owned.work().partition);
        let (predecessors, inputs): (Vec<Input>, Vec<Input>) =
            sources.iter().map(input).partition(|input| input.port == handover);
        ingest::run(IngestWork { owned, inputs, predecessors, source: Arc::clone(&self.source), stats }).await
    }

    async fn run_source(
        &self,
        owned: Owned,
        app: &App,
        (name, partitions): (&ConnectorName, &[u32]),
        stats: Arc<Stats>,
    ) -> Ended {
        let Some(source) = app.manifest.sources.get(name).cloned() else {
            return Ended::Failed(format!("the app has no source {name} any more"));
        };
        let (partitions, machine) = (partitions.to_vec(), self.machine(app));
        connect::source::run(SourceWork { owned, source, partitions, machine, stats }).await
    }

    async fn run_sink(
        &self,
        owned: Owned,
        app: &App,
        (name, sources): (&ConnectorName, &[littoral_plan::Source]),
        stats: Arc<Stats>,
    ) -> Ended {
        let Some(sink) = app.manifest.sinks.get(name).cloned() else {
            return Ended::Failed(format!("the app has no sink {name} any more"));
        };
        let (inputs, source, machine) =
            (sources.iter().map(input).collect(), Arc::clone(&self.source), self.machine(app));
        connect::sink::run(SinkWork { owned, sink, inputs, source, machine, stats }).await
    }

    /// What of this machine sources and sinks may have.
    fn machine(&self, app: &App) -> Arc<dyn connect::Machine> {
        Arc::new(AppMachine { app: app.id.clone(), loader: Arc::clone(&self.loader) })
    }

    async fn run_stage(
        &self,
        owned: Owned,
        (input, changes, shed_after): (Input, Option<Input>, Option<Duration>),
        loaded: (Guests, Option<Shards>),
        stats: Arc<Stats>,
    ) -> Ended {
        let (guests, aside) = loaded;
        let first = first_position(&owned.work().name);
        let work = StageWork {
            owned,
            input,
            changes,
            source: Arc::clone(&self.source),
            operators: Box::new(guests),
            first,
            lateness_us: LATENESS_US,
            shed_after,
            stats: Arc::clone(&stats),
        };
        let shards = aside.as_ref().unwrap_or(&self.shards);
        match shards.spawn(shards.pick(), move || stage::run(work)).attended().await {
            Ok(ended) => ended,
            Err(error) => failed(&stats, error.to_string()),
        }
    }

    /// What a stage's functions are on a level, and on which threads they compute, if on other ones: all of them, where none has a higher
    /// priority.
    async fn guests(
        &self,
        app: &Arc<App>,
        role: &Role,
        partition: u32,
        level: usize,
    ) -> anyhow::Result<(Guests, Option<Shards>)> {
        let Role::Stage { functions, rescaling, .. } = role else { anyhow::bail!("it is no stage of a flow") };
        let known = rescaling.as_ref().map(|of| Partitions { first: of.first, most: of.most });
        let mut guests = Vec::with_capacity(functions.len());
        let mut asides = Vec::new();
        for function in functions {
            if let Some(plan) = app.program.stage(&function.function) {
                let (mut called, mut asides_of_called) = (BTreeMap::new(), Vec::new());
                for StageFunction { function, artifact } in components(app, function, level) {
                    let mut loaded = self.loader.load(app, &function, &artifact).await?;
                    asides_of_called.push(loaded.aside.take());
                    called.insert(function.clone(), component(loaded));
                }
                // It has the priority of what it calls, if that has one of its own.
                let aside = asides_of_called.into_iter().collect::<Option<Vec<Shards>>>();
                asides.extend(aside.into_iter().flatten().next().map(Some));
                guests.push(Guest::Query { plan: Arc::clone(plan), partition, known, called });
                continue;
            }
            let StageFunction { function, artifact } = on_level(app, function, level);
            let mut loaded = self.loader.load(app, &function, &artifact).await?;
            asides.push(loaded.aside.take());
            guests.push(Guest::Component(component(loaded)));
        }
        let names = functions.iter().map(|function| function.function.to_string()).collect();
        // A query has no priority, so that it goes on as what has the usual one.
        let has_other = asides.len() < guests.len() || asides.iter().any(Option::is_none);
        let aside = if has_other { None } else { asides.into_iter().flatten().next() };
        Ok((Guests { runtime: self.loader.runtime.clone(), names, guests }, aside))
    }

    fn lock_prepared(&self) -> std::sync::MutexGuard<'_, BTreeSet<String>> {
        lock(&self.prepared)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<WorkId, Running>> {
        lock(&self.running)
    }
}

fn component(loaded: Loaded) -> Component {
    let logs: Arc<dyn LogSink> = loaded.logs;
    let settings = StageSettings {
        limits: loaded.limits,
        config: loaded.config,
        access: loaded.access,
        surroundings: loaded.surroundings,
        logs,
        usage: loaded.usage,
    };
    Component { artifact: loaded.artifact, settings: Box::new(settings) }
}

fn failed(stats: &Stats, reason: String) -> Ended {
    stats.failed(&reason);
    Ended::Failed(reason)
}

fn input(source: &littoral_plan::Source) -> Input {
    Input { work: source.work.clone(), port: source.port.clone() }
}

/// The position in its flow of a stage's first function; the work's name is the flow's, a dot, and the position.
fn first_position(name: &str) -> u32 {
    name.rsplit_once('.').and_then(|(_, position)| position.parse().ok()).unwrap_or_default()
}

/// How a work's log is acknowledged, kept and read.
fn work_config(app: &App, placed: &PlacedWork) -> WorkConfig {
    let stream = |name| app.manifest.streams.get(name).map(|stream| &stream.retention);
    let (retention, bytes_max) = match &placed.role {
        Role::Queue { .. } | Role::Sink { .. } => (None, None),
        // What it has read waits for the stream, and then it reads no more.
        Role::Source { stream: name, .. } => {
            let size = stream(name).and_then(|limits| limits.size).map_or(SOURCE_BYTES_MAX, u64::from);
            (None, Some(Size::from_bytes(size.min(SOURCE_BYTES_MAX))))
        }
        // What a stage puts out waits for its readers as what it reads does.
        Role::Stage { flow, .. } => {
            let source = app.manifest.flows.get(flow).and_then(|flow| stream(&flow.source));
            (None, source.and_then(|limits| limits.size))
        }
        Role::StreamPartition { stream: name, .. } => {
            let limits = stream(name);
            let age = limits.and_then(|limits| limits.age).map(Duration::from);
            (limits.map(|_| Retention { age }), limits.and_then(|limits| limits.size))
        }
    };
    let ack = match placed.ack {
        Ack::Local => LogAck::Local,
        Ack::Site => LogAck::Site,
    };
    let bytes_max = bytes_max.map(u64::from);
    WorkConfig { ack, retention, bytes_max, consumers: consumers(&app.placement, &placed.work) }
}

/// The works of the app that read a work.
fn consumers(placement: &Placement, work: &WorkId) -> Vec<WorkId> {
    let reads = |placed: &&PlacedWork| placed.role.inputs().any(|source| source.work == *work);
    placement.works.iter().filter(reads).map(|placed| placed.work.clone()).collect()
}
