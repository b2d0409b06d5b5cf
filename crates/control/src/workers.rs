//! Runs what this node owns: starts it, stops it, starts it again after a failure, later each time.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use littoral_model::id::{AppId, Epoch, FunctionName};
use littoral_model::work::WorkId;

use crate::agent::Agent;
use crate::command::Command;

/// The first wait after a failure, in milliseconds.
const BACKOFF_MS_MIN: u64 = 200;
/// The longest wait, in milliseconds: what a user who has mended the cause is willing to wait.
const BACKOFF_MS_MAX: u64 = 30_000;
/// Waits are spread by up to this share to both sides, so that work that failed together does not start together.
const JITTER_PERCENT: u64 = 25;
/// Work that ran for so long counts as mended: its next failure is its first, in milliseconds.
const STABLE_MS: u64 = 60_000;

/// Work that this node runs or is to run again.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    epoch: Epoch,
    /// Tells the role that it was started with from a later one.
    revision: u64,
    failures: u32,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Starting,
    Running { since_ms: u64 },
    Failed { retry_at_ms: u64 },
}

impl Run {
    /// Whether it waits for another try.
    pub(crate) fn has_failed(&self) -> bool {
        matches!(self.state, State::Failed { .. })
    }
}

impl Agent {
    /// Starts what this node owns and does not run, stops what it runs and does not own, or may not run any more.
    pub(crate) fn run_works(&mut self, now_ms: u64, commands: &mut Vec<Command>) {
        let Some(assignments) = self.assignments.clone() else { return };
        let mut wanted: BTreeMap<&WorkId, (Epoch, u64)> = BTreeMap::new();
        for assignment in assignments.values().filter(|assignment| assignment.owner == self.settings.node) {
            if self.is_retired(&assignment.work) || self.halted.contains(&assignment.work.app) {
                continue;
            }
            if let Some(placed) = self.placed(&assignment.work).filter(|placed| !self.is_barred(placed)) {
                let mut hasher = DefaultHasher::new();
                (&placed.role, placed.ack).hash(&mut hasher);
                wanted.insert(&assignment.work, (assignment.epoch, hasher.finish()));
            }
        }
        self.runs.retain(|work, run| {
            let same = wanted.get(work) == Some(&(run.epoch, run.revision));
            if !same {
                // Also where it failed: what ran before may go on, as what was to follow it could not be had.
                commands.push(Command::StopWork { work: work.clone() });
            }
            same
        });
        for (work, (epoch, revision)) in wanted {
            let start = match self.runs.get_mut(work) {
                None => {
                    let run = Run { epoch, revision, failures: 0, state: State::Starting };
                    self.runs.insert(work.clone(), run);
                    true
                }
                Some(run) => match run.state {
                    State::Failed { retry_at_ms } if now_ms >= retry_at_ms => {
                        run.state = State::Starting;
                        true
                    }
                    _ => false,
                },
            };
            if start {
                self.has_announced = false;
                commands.push(Command::StartWork { work: work.clone(), epoch });
            }
        }
    }

    pub(crate) fn work_started(&mut self, now_ms: u64, work: &WorkId, epoch: Epoch) {
        if let Some(run) = self.runs.get_mut(work).filter(|run| run.epoch == epoch && run.state == State::Starting) {
            run.state = State::Running { since_ms: now_ms };
        }
    }

    pub(crate) fn work_failed(
        &mut self,
        now_ms: u64,
        work: WorkId,
        epoch: Epoch,
        reason: String,
        commands: &mut Vec<Command>,
    ) {
        let seed = self.settings.seed;
        let Some(run) = self.runs.get_mut(&work).filter(|run| run.epoch == epoch) else { return };
        match run.state {
            State::Failed { .. } => return,
            State::Running { since_ms } if now_ms.saturating_sub(since_ms) >= STABLE_MS => run.failures = 0,
            _ => {}
        }
        run.failures = run.failures.saturating_add(1);
        let retry_at_ms = now_ms.saturating_add(backoff_ms(seed, &work, run.failures));
        run.state = State::Failed { retry_at_ms };
        let attempts = run.failures;
        commands.push(Command::ReportFailure { work, attempts, retry_at_ms, reason });
    }

    /// Serves the HTTP functions that this node is to serve, as things are now. The agent of its own site does, others do
    /// not.
    pub(crate) fn run_functions(&mut self, commands: &mut Vec<Command>) {
        let Some(intent) = self.intent.clone() else { return };
        if self.settings.home != self.settings.group || !std::mem::take(&mut self.has_changed) {
            return;
        }
        let own = &self.settings.node;
        let mut wanted: BTreeMap<(AppId, FunctionName), &String> = BTreeMap::new();
        let served = intent.apps.iter().filter(|(app, _)| !self.halted.contains(*app));
        for (app, placement) in served {
            for serving in &placement.serving {
                let is_one = match self.members.is_live(own) {
                    true => {
                        self.serving(app, serving, &mut Vec::new()).contains(&own)
                            || (self.demanded.has(app, &serving.function) && self.may_serve_also(app, serving))
                    }
                    // It has yet to hear of itself.
                    false => serving.first.contains(own),
                };
                if is_one {
                    wanted.insert((app.clone(), serving.function.clone()), &serving.artifact);
                }
            }
            // Placements of older versions do not say what is wanted.
            let is_old = |name: &FunctionName| !placement.serving.iter().any(|serving| serving.function == *name);
            for instance in placement.instances.iter().filter(|one| one.node == *own && is_old(&one.function)) {
                wanted.insert((app.clone(), instance.function.clone()), &instance.artifact);
            }
        }
        let changed = &mut self.has_announced;
        self.functions.retain(|key, _| {
            let stays = wanted.contains_key(key);
            if !stays {
                *changed = false;
                commands.push(Command::StopFunction { app: key.0.clone(), function: key.1.clone() });
            }
            stays
        });
        for (key, artifact) in wanted {
            if self.functions.get(&key) != Some(artifact) {
                *changed = false;
                let (app, function) = key.clone();
                commands.push(Command::StartFunction { app, function, artifact: artifact.clone() });
                self.functions.insert(key, artifact.clone());
            }
        }
    }

    /// Asks for an announcement when what this node runs has changed.
    pub(crate) fn announce_changes(&mut self, commands: &mut Vec<Command>) {
        let has_stopped = commands.iter().any(|command| matches!(command, Command::StopWork { .. }));
        if (self.has_announced && !has_stopped) || self.intent.is_none() || self.assignments.is_none() {
            return;
        }
        self.has_announced = true;
        // A singleton is ready on every node that may come to serve it, and others ask the one that does.
        let served = self.functions.keys().filter(|(app, _)| self.may_serve(app));
        let functions = served.map(|(app, function)| format!("{app}/{function}")).collect();
        let works = u32::try_from(self.runs.len()).unwrap_or(u32::MAX);
        commands.push(Command::Announce { works, functions });
    }
}

/// How long to wait after that many failures in a row: doubled each time, spread by the seed.
fn backoff_ms(seed: u64, work: &WorkId, failures: u32) -> u64 {
    let doublings = failures.saturating_sub(1).min(16);
    let base_ms = (BACKOFF_MS_MIN << doublings).min(BACKOFF_MS_MAX);
    let mut hasher = DefaultHasher::new();
    (seed, work, failures).hash(&mut hasher);
    let spread_ms = base_ms * JITTER_PERCENT / 100;
    base_ms - spread_ms + hasher.finish() % (2 * spread_ms + 1)
}
