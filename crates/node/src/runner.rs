//! Runs the units of work that this node owns: partitions of streams and stages of flows.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use littoral_control::Event;
use littoral_flow::Ended;
use littoral_flow::ingest::{self, IngestWork};
use littoral_flow::reader::{Input, Source};
use littoral_flow::stage::{self, StageWork};
use littoral_flow::stats::{Snapshot, Stats};
use littoral_model::id::Epoch;
use littoral_model::work::WorkId;
use littoral_plan::{Ack, PlacedWork, Placement, Role, StageFunction};
use littoral_runtime::shards::Task;
use littoral_runtime::stage::StageSettings;
use littoral_runtime::{LogSink, Shards};
use littoral_store::replica::{Ack as LogAck, Owned, Retention, WorkConfig, Works};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use crate::guests::{Loader, settings_of};
use crate::intent::{App, IntentStore};
use crate::operators::{Guest, Guests};

/// How much event times may be out of order before windows close on them: sources publish in order today.
const LATENESS_US: i64 = 0;

/// Runs work.
pub(crate) struct Runner {
    pub(crate) works: Arc<Works>,
    pub(crate) source: Arc<dyn Source>,
    pub(crate) intent: Arc<IntentStore>,
    pub(crate) loader: Arc<Loader>,
    pub(crate) shards: Shards,
    pub(crate) running: Mutex<HashMap<WorkId, Running>>,
}

/// Work that runs, or has run and failed.
pub(crate) struct Running {
    epoch: Epoch,
    stats: Arc<Stats>,
    /// What its functions were started with.
    settings: String,
    agent: mpsc::Sender<Event>,
    task: AbortHandle,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A task on a shard that ends with whoever waits for it.
struct OnShard(Task<Ended>);

impl Drop for OnShard {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Runner {
    /// Starts work; what becomes of it is told to the agent.
    pub(crate) fn start(self: &Arc<Self>, work: WorkId, epoch: Epoch, agent: mpsc::Sender<Event>) {
        let stats = Arc::new(Stats::of(&work));
        let settings = self.settings(&work);
        let telling = agent.clone();
        let runner = Arc::clone(self);
        let (id, seen) = (work.clone(), Arc::clone(&stats));
        let task = tokio::spawn(async move {
            let ended = runner.run(&id, epoch, &seen, &telling).await;
            let reason = ended.to_string();
            tracing::debug!(work = %id, %epoch, reason, "work ended");
            // If the agent is gone, the node stops.
            let _ = telling.send(Event::WorkFailed { work: id, epoch, reason }).await;
        });
        self.lock().insert(work, Running { epoch, stats, settings, agent, task: task.abort_handle() });
    }

    /// Stops work.
    pub(crate) fn stop(&self, work: &WorkId) {
        self.lock().remove(work);
    }

    /// Stops all work.
    pub(crate) fn stop_all(&self) {
        self.lock().clear();
    }

    /// What running work has measured, with the epoch it runs under.
    pub(crate) fn snapshots(&self) -> HashMap<WorkId, (Epoch, Snapshot)> {
        let running = self.lock();
        running.iter().map(|(work, running)| (work.clone(), (running.epoch, running.stats.snapshot()))).collect()
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

    /// What the functions of a work are to be started with.
    fn settings(&self, work: &WorkId) -> String {
        let apps = self.intent.now();
        let app = apps.apps.get(&work.app);
        match app.and_then(|app| Some((app, &app.placement.work(work)?.role))) {
            Some((app, Role::Stage { functions, .. })) => {
                functions.iter().map(|stage| settings_of(app, &stage.function)).collect::<Vec<_>>().join("; ")
            }
            _ => String::new(),
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
            Role::StreamPartition { .. } => None,
            Role::Stage { functions, .. } => match self.guests(app, functions).await {
                Ok(guests) => Some(guests),
                Err(error) => return failed(stats, format!("{error:#}")),
            },
        };
        let owned = match self.works.lead(work).await {
            Ok(owned) => owned,
            Err(error) => return Ended::Failed(error.to_string()),
        };
        if owned.epoch() != epoch {
            return Ended::Fenced;
        }
        // The agent is gone only when the node stops.
        let _ = agent.send(Event::WorkStarted { work: work.clone(), epoch }).await;
        match (&placed.role, guests) {
            (Role::StreamPartition { sources, .. }, _) => {
                let inputs = sources.iter().map(input).collect();
                self.run_partition(owned, inputs, Arc::clone(stats)).await
            }
            (Role::Stage { input: from, .. }, Some(guests)) => {
                self.run_stage(owned, input(from), guests, Arc::clone(stats)).await
            }
            (Role::Stage { .. }, None) => Ended::Failed("its functions are not loaded".to_owned()),
        }
    }

    async fn run_partition(&self, owned: Owned, inputs: Vec<Input>, stats: Arc<Stats>) -> Ended {
        if inputs.is_empty() {
            owned.lost().await;
            return Ended::Fenced;
        }
        ingest::run(IngestWork { owned, inputs, source: Arc::clone(&self.source), stats }).await
    }

    async fn run_stage(&self, owned: Owned, input: Input, guests: Guests, stats: Arc<Stats>) -> Ended {
        let first = first_position(&owned.work().name);
        let work = StageWork {
            owned,
            input,
            source: Arc::clone(&self.source),
            operators: Box::new(guests),
            first,
            lateness_us: LATENESS_US,
            stats: Arc::clone(&stats),
        };
        let mut task = OnShard(self.shards.spawn(self.shards.pick(), move || stage::run(work)));
        match (&mut task.0).await {
            Ok(ended) => ended,
            Err(error) => failed(&stats, error.to_string()),
        }
    }

    async fn guests(&self, app: &Arc<App>, functions: &[StageFunction]) -> anyhow::Result<Guests> {
        let mut guests = Vec::with_capacity(functions.len());
        for function in functions {
            let loaded = self.loader.load(app, &function.function, &function.artifact).await?;
            let logs: Arc<dyn LogSink> = loaded.logs;
            let settings = StageSettings {
                limits: loaded.limits,
                config: loaded.config,
                access: loaded.access,
                surroundings: loaded.surroundings,
                logs,
                usage: loaded.usage,
            };
            guests.push(Guest { artifact: loaded.artifact, settings });
        }
        let names = functions.iter().map(|function| function.function.to_string()).collect();
        Ok(Guests { runtime: self.loader.runtime.clone(), names, guests })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<WorkId, Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
    let retention = match &placed.role {
        Role::Stage { .. } => None,
        Role::StreamPartition { stream, .. } => app.manifest.streams.get(stream).map(|stream| Retention {
            age: stream.retention.age.map(Duration::from),
            bytes: stream.retention.size.map(u64::from),
        }),
    };
    let ack = match placed.ack {
        Ack::Local => LogAck::Local,
        Ack::Site => LogAck::Site,
    };
    WorkConfig { ack, retention, consumers: consumers(&app.placement, &placed.work) }
}

/// The works of the app that read a work.
fn consumers(placement: &Placement, work: &WorkId) -> Vec<WorkId> {
    let reads = |placed: &&PlacedWork| match &placed.role {
        Role::StreamPartition { sources, .. } => sources.iter().any(|source| source.work == *work),
        Role::Stage { input, .. } => input.work == *work,
    };
    placement.works.iter().filter(reads).map(|placed| placed.work.clone()).collect()
}
