//! What a running unit of work has measured of itself.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use littoral_model::entry::COUNTED_AS_SHED;
use littoral_model::work::WorkId;
use littoral_runtime::latency::{Latency, Quantiles};
use littoral_sql::Change;
use metrics::{Counter, Histogram};
use serde::{Deserialize, Serialize};

/// Counters and latencies of one unit of work; shared between its task and whoever reports.
#[derive(Default)]
pub struct Stats {
    inner: Mutex<Inner>,
    metrics: Option<Metrics>,
}

impl std::fmt::Debug for Stats {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stats").field("inner", &self.inner).finish_non_exhaustive()
    }
}

/// The same as metrics of the process, which go on when the work starts anew.
struct Metrics {
    starts: Counter,
    rows_in: Counter,
    rows_out: Counter,
    rejected: Counter,
    shed: Counter,
    age: Histogram,
}

#[derive(Debug, Default)]
struct Inner {
    has_started: bool,
    /// Since when it takes rows.
    runs_since: Option<Instant>,
    rows_in: u64,
    rows_out: BTreeMap<String, u64>,
    bytes_out: BTreeMap<String, u64>,
    rejected: u64,
    /// Rows that were passed over.
    shed: u64,
    bytes_in: u64,
    process: Latency,
    end_to_end: Latency,
    functions: BTreeMap<String, Inside>,
    recent: Rotating,
    /// End to end, since a watcher last looked.
    unseen: Latency,
    first_us: Option<i64>,
    last_us: Option<i64>,
    changes: Changes,
    last_error: Option<String>,
}

/// A change of the number of partitions that a stage is done with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rescaled {
    /// Which change.
    pub change: Change,
    /// For how long rows waited for it, in microseconds; nothing if they did not, or it was done before the stage was started.
    pub pause_us: Option<u64>,
}

/// How far a stage is with changes of the number of partitions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changes {
    /// The last that it is done with, since it was started.
    pub rescaled: Option<Rescaled>,
    /// Of the first partition: how many there are, if no change is under way or to be announced.
    pub settled: Option<u32>,
}

/// How long a window of what is recent is at least; twice as long at most.
const RECENT: Duration = Duration::from_secs(5);

/// What was measured of late.
#[derive(Debug, Default)]
struct Rotating {
    now: Window,
    before: Window,
    since: Option<Instant>,
}

#[derive(Debug, Default)]
struct Window {
    process: Latency,
    end_to_end: Latency,
}

impl Rotating {
    /// The window to record in.
    fn window(&mut self) -> &mut Window {
        self.turn();
        &mut self.now
    }

    fn turn(&mut self) {
        let age = self.since.map(|since| since.elapsed());
        if age.is_none_or(|age| age >= RECENT) {
            let last = std::mem::take(&mut self.now);
            // Nothing was asked or recorded for longer than both windows: nothing is recent.
            self.before = if age.is_some_and(|age| age < RECENT * 2) { last } else { Window::default() };
            self.since = Some(Instant::now());
        }
    }

    fn snapshot(&mut self) -> Recent {
        self.turn();
        let both = |of: fn(&Window) -> &Latency| {
            let mut both = Latency::default();
            both.add(of(&self.before));
            both.add(of(&self.now));
            both.quantiles()
        };
        Recent { process: both(|window| &window.process), end_to_end: both(|window| &window.end_to_end) }
    }
}

/// What was measured in the last five to ten seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recent {
    /// Time in the guests of a batch, counted for each of its rows.
    pub process: Quantiles,
    /// From a record's publication until this work has committed what became of it.
    pub end_to_end: Quantiles,
}

/// What was measured of one function of a stage.
#[derive(Debug, Default)]
struct Inside {
    rows: u64,
    rejected: u64,
    process: Latency,
}

/// The state of a [`Stats`] at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Rows consumed and committed.
    pub rows_in: u64,
    /// Rows put out, by port; those that were passed over as [`COUNTED_AS_SHED`].
    pub rows_out: BTreeMap<String, u64>,
    /// Encoded bytes put out, by port. It is not among what is encoded, for others read that without it.
    #[serde(skip)]
    pub bytes_out: BTreeMap<String, u64>,
    /// Rows rejected.
    pub rejected: u64,
    /// Encoded bytes consumed.
    pub bytes_in: u64,
    /// Time in the guests of a batch, counted for each of its rows.
    pub process: Quantiles,
    /// From a record's publication until this work has committed what became of it.
    pub end_to_end: Quantiles,
    /// The same two of late.
    pub recent: Recent,
    /// What each function of a stage did.
    pub functions: BTreeMap<String, FunctionSnapshot>,
    /// When the first step was committed, in microseconds since 1970.
    pub first_us: Option<i64>,
    /// When the last step was committed, in microseconds since 1970.
    pub last_us: Option<i64>,
    /// The last failure, for people.
    pub last_error: Option<String>,
}

/// One function of a stage, at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionSnapshot {
    /// Rows that it processed, in steps that were committed.
    pub rows: u64,
    /// Rows that it rejected, or on which it failed.
    pub rejected: u64,
    /// Its time for a batch, counted for each row.
    pub process: Quantiles,
}

/// What one function did in a step.
#[derive(Debug, Clone, Default)]
pub struct FunctionStep {
    /// Its name.
    pub function: String,
    /// Rows that it processed.
    pub rows: u64,
    /// Rows that it rejected, or on which it failed.
    pub rejected: u64,
    /// The time that it took.
    pub process: Duration,
}

/// What one committed step did.
#[derive(Debug, Clone, Default)]
pub struct Step {
    /// Rows consumed.
    pub rows_in: u64,
    /// Encoded bytes consumed.
    pub bytes_in: u64,
    /// Rows put out, by port.
    pub rows_out: Vec<(String, u64)>,
    /// Encoded bytes put out, by port.
    pub bytes_out: Vec<(String, u64)>,
    /// Rows rejected.
    pub rejected: u64,
    /// Rows passed over, since they were too old.
    pub shed: u64,
    /// Time in the guests.
    pub process: Option<Duration>,
    /// What each function of a stage did.
    pub functions: Vec<FunctionStep>,
    /// When the oldest record was published, in microseconds since 1970.
    pub origin_us: Option<i64>,
}

impl Stats {
    /// Those of a unit of work, which also count as metrics of the process, by tenant, app and work.
    #[must_use]
    pub fn of(work: &WorkId) -> Self {
        let labels = [
            ("tenant", work.app.tenant.to_string()),
            ("app", work.app.app.to_string()),
            ("work", work.name.clone()),
            ("partition", work.partition.to_string()),
            ("site", work.site.to_string()),
        ];
        let metrics = Metrics {
            starts: metrics::counter!("littoral_work_starts_total", &labels),
            rows_in: metrics::counter!("littoral_work_rows_in_total", &labels),
            rows_out: metrics::counter!("littoral_work_rows_out_total", &labels),
            rejected: metrics::counter!("littoral_work_rows_rejected_total", &labels),
            shed: metrics::counter!("littoral_work_rows_shed_total", &labels),
            age: metrics::histogram!("littoral_work_age_seconds", &labels),
        };
        Self { inner: Mutex::default(), metrics: Some(metrics) }
    }

    /// Takes note that the work runs from now on.
    pub fn started(&self) {
        if let Some(metrics) = &self.metrics {
            metrics.starts.increment(1);
        }
        self.lock().has_started = true;
    }

    /// Takes note that it has its state, and takes rows from now on.
    pub fn runs(&self) {
        self.lock().runs_since = Some(Instant::now());
    }

    /// Since when it takes rows, if it does.
    #[must_use]
    pub fn runs_since(&self) -> Option<Instant> {
        self.lock().runs_since
    }

    /// Takes note of a change of the number of partitions that it is done with, for which rows waited so long.
    pub fn rescaled(&self, change: Change, pause: Option<Duration>) {
        let pause_us = pause.map(|pause| u64::try_from(pause.as_micros()).unwrap_or(u64::MAX));
        self.lock().changes.rescaled = Some(Rescaled { change, pause_us });
    }

    /// Takes note of how many partitions there are, if no change is under way or to be announced.
    pub fn settled(&self, partitions: Option<u32>) {
        self.lock().changes.settled = partitions;
    }

    /// How far it is with such changes.
    #[must_use]
    pub fn changes(&self) -> Changes {
        self.lock().changes
    }

    /// Whether there is something to tell: it runs, or it has failed before it ran.
    #[must_use]
    pub fn is_telling(&self) -> bool {
        let inner = self.lock();
        inner.has_started || inner.last_error.is_some()
    }

    /// Takes note of a step that is committed now.
    pub fn committed(&self, step: &Step) {
        let now_us = now_us();
        if let Some(metrics) = &self.metrics {
            metrics.rows_in.increment(step.rows_in);
            metrics.rows_out.increment(step.rows_out.iter().map(|(_, rows)| rows).sum());
            metrics.rejected.increment(step.rejected);
            metrics.shed.increment(step.shed);
            if let Some(origin_us) = step.origin_us {
                metrics.age.record((now_us - origin_us).max(0) as f64 / 1e6);
            }
        }
        let mut inner = self.lock();
        inner.rows_in += step.rows_in;
        inner.bytes_in += step.bytes_in;
        inner.rejected += step.rejected;
        inner.shed += step.shed;
        add(&mut inner.rows_out, &step.rows_out);
        add(&mut inner.bytes_out, &step.bytes_out);
        if let Some(process) = step.process {
            inner.process.record(process, step.rows_in);
            inner.recent.window().process.record(process, step.rows_in);
        }
        if let Some(origin_us) = step.origin_us {
            let latency = Duration::from_micros(u64::try_from(now_us - origin_us).unwrap_or(0));
            inner.end_to_end.record(latency, step.rows_in);
            inner.recent.window().end_to_end.record(latency, step.rows_in);
            inner.unseen.record(latency, step.rows_in);
        }
        for inside in &step.functions {
            if !inner.functions.contains_key(&inside.function) {
                inner.functions.insert(inside.function.clone(), Inside::default());
            }
            if let Some(function) = inner.functions.get_mut(&inside.function) {
                function.rows += inside.rows;
                function.rejected += inside.rejected;
                function.process.record(inside.process, inside.rows);
            }
        }
        if step.rows_in > 0 {
            inner.first_us.get_or_insert(now_us);
            inner.last_us = Some(now_us);
        }
    }

    /// Counts the rows that were passed over before the work was started anew here.
    pub fn goes_on_from(&self, before: &Self) {
        let shed = before.lock().shed;
        self.lock().shed += shed;
    }

    /// Takes note of a failure.
    pub fn failed(&self, error: &str) {
        self.lock().last_error = Some(error.to_owned());
    }

    /// Takes note that what failed works again.
    pub fn recovered(&self) {
        self.lock().last_error = None;
    }

    /// How long the rows took, end to end, that the watcher of objectives, of which there is one, has not seen yet.
    pub fn take_unseen(&self) -> Latency {
        std::mem::take(&mut self.lock().unseen)
    }

    /// The present state.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let mut inner = self.lock();
        let recent = inner.recent.snapshot();
        let functions = inner.functions.iter().map(|(name, inside)| {
            let process = inside.process.quantiles();
            (name.clone(), FunctionSnapshot { rows: inside.rows, rejected: inside.rejected, process })
        });
        let mut rows_out = inner.rows_out.clone();
        if inner.shed > 0 {
            rows_out.insert(COUNTED_AS_SHED.to_owned(), inner.shed);
        }
        Snapshot {
            rows_in: inner.rows_in,
            rows_out,
            bytes_out: inner.bytes_out.clone(),
            rejected: inner.rejected,
            bytes_in: inner.bytes_in,
            process: inner.process.quantiles(),
            end_to_end: inner.end_to_end.quantiles(),
            recent,
            functions: functions.collect(),
            first_us: inner.first_us,
            last_us: inner.last_us,
            last_error: inner.last_error.clone(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Adds to sums by port.
fn add(sums: &mut BTreeMap<String, u64>, more: &[(String, u64)]) {
    for (port, amount) in more {
        match sums.get_mut(port) {
            Some(sum) => *sum += amount,
            None => drop(sums.insert(port.clone(), *amount)),
        }
    }
}

/// The wall clock, in microseconds since 1970.
#[must_use]
pub fn now_us() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}
