//! `elastic`: how many cold starts a trace of real calls meets, and for how long instances are held, with `control::scaling` and with
//! fixed times to keep an instance. In virtual time: each call of the trace is replayed at its moment, on one node, an instance for
//! each function; and a periodic load in the same way.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Context as _;
use littoral_control::scaling::{Scaling, Seen, Settings};
use ring::digest::{SHA256, digest};

use crate::results::{Results, Series, load};

/// The trace, in `crates/bench/traces`: 199 calls of 31 functions in 20 minutes of the Azure Functions trace of 2021 (Y. Zhang et al.,
/// "Faster and Cheaper Serverless Computing on Harvested Resources", SOSP 2021), as the vHive community samples it.
const TRACE: &str = "azure2021-sample-200.csv";
/// How long an instance takes to start, in milliseconds, and the memory that it has then.
const START_MS: u64 = 500;
const INSTANCE_GIB: f64 = 0.125;
/// How long instances are kept with ours where nothing is known, in seconds; the manifest's default is what is compared.
const IDLE_S: [u64; 5] = [60, 120, 180, 300, 600];
const IDLE_DEFAULT_S: u64 = 300;
/// The fixed times to keep an instance, in seconds: none, those that are in use, and enough between to interpolate.
const KEEP_S: [u64; 26] =
    [0, 1, 2, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 105, 120, 135, 150, 180, 210, 240, 270, 300, 360, 480, 600, 1_200];
/// The periods of periodic loads, in seconds, and how many calls each has. They vary by a twentieth.
const PERIODS_S: [u64; 5] = [10, 60, 300, 1_200, 7_200];
const PERIODIC_CALLS: u64 = 200;

/// A call: when it comes, and how long it takes, in milliseconds.
type Call = (u64, u64);

/// What a replay came to.
#[derive(Clone, Copy, Debug, Default)]
struct Outcome {
    calls: u64,
    /// Instances that were started because a call found none, or were not ready when it came.
    cold: u64,
    /// How long instances were there or being started.
    held_ms: u64,
}

impl Outcome {
    fn gib_s(self) -> f64 {
        self.held_ms as f64 / 1_000.0 * INSTANCE_GIB
    }

    fn and(self, other: Self) -> Self {
        let (calls, cold) = (self.calls + other.calls, self.cold + other.cold);
        Self { calls, cold, held_ms: self.held_ms + other.held_ms }
    }
}

/// Who decides whether a function has an instance.
enum Policy {
    /// `control::scaling`.
    Ours(Box<Scaling>),
    /// It is kept for so long after the last call, in milliseconds.
    Keep(u64),
}

impl Policy {
    fn ours(idle_s: u64) -> Self {
        let settings = Settings { min: 0, max: 8, target: 256, idle_ms: idle_s * 1_000, expects: true };
        Self::Ours(Box::new(Scaling::new(settings)))
    }

    /// Whether there is to be an instance, and when that may be different without a call.
    fn step(&mut self, now_ms: u64, seen: &Seen) -> (bool, Option<u64>) {
        match self {
            Self::Ours(scaling) => {
                let wanted = scaling.step(now_ms, seen);
                (wanted.instances > 0, wanted.again_ms)
            }
            Self::Keep(keep_ms) => match seen.idle_since_ms {
                Some(since_ms) if now_ms < since_ms + *keep_ms => (true, Some(since_ms + *keep_ms)),
                Some(_) => (false, None),
                None => (true, None),
            },
        }
    }
}

/// Runs the benchmark.
pub(crate) fn run(short: bool) -> anyhow::Result<()> {
    let mut results = Results::begin("elastic", short);
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("traces").join(TRACE);
    let text =
        std::fs::read_to_string(&path).with_context(|| format!("the trace {} cannot be read", path.display()))?;
    let hash: String = digest(&SHA256, text.as_bytes()).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    println!("trace: {} (SHA-256 {hash})", path.display());
    let functions = functions(&text)?;
    let of_trace = format!("{TRACE}, SHA-256 {hash}; starts of {START_MS} ms, {INSTANCE_GIB} GiB an instance");

    let mut kept = Vec::new();
    for keep_s in KEEP_S {
        let outcome = all(&functions, || Policy::Keep(keep_s * 1_000));
        kept.push(outcome);
        let name = if keep_s == 0 { "never kept".to_owned() } else { format!("kept for {keep_s} s") };
        results.series.push(series(name, &of_trace, outcome));
    }
    for idle_s in IDLE_S {
        let outcome = all(&functions, || Policy::ours(idle_s));
        let mut ours = series(format!("ours, idle = {idle_s} s"), &of_trace, outcome);
        let equal = at_equal_memory(&kept, outcome).context("no fixed time holds as much memory as ours")?;
        let ratio = outcome.cold as f64 / equal;
        ours.note_further("cold_starts_of_fixed_at_equal_gib_s", equal);
        ours.note_further("cold_starts_vs_keepalive", ratio);
        results.series.push(ours);
        if idle_s == IDLE_DEFAULT_S {
            results.ratios.insert("elastic_cold_starts_vs_keepalive".to_owned(), ratio);
        }
    }
    let mut least = f64::MAX;
    for period_s in PERIODS_S {
        let outcome = replay(&periodic(period_s * 1_000), Policy::ours(IDLE_DEFAULT_S));
        let warm = 1.0 - outcome.cold as f64 / outcome.calls as f64;
        least = least.min(warm);
        let held = outcome.gib_s() / INSTANCE_GIB / (period_s * PERIODIC_CALLS) as f64;
        let configuration = format!("{PERIODIC_CALLS} calls, each a twentieth earlier or later at most");
        let mut series = Series::new(format!("ours, every {period_s} s"), configuration, "warm_share");
        series.note(warm, &[("held_share", held)]);
        results.series.push(series);
    }
    results.ratios.insert("elastic_periodic_warm_share".to_owned(), least);
    results.load.1 = load();
    results.publish()
}

fn series(name: String, configuration: &str, outcome: Outcome) -> Series {
    let mut series = Series::new(name, configuration, "cold_starts");
    series.note(outcome.cold as f64, &[("gib_s", outcome.gib_s()), ("calls", outcome.calls as f64)]);
    series
}

/// The calls of each function, in order.
fn functions(trace: &str) -> anyhow::Result<Vec<Vec<Call>>> {
    let mut functions: BTreeMap<&str, Vec<Call>> = BTreeMap::new();
    for line in trace.lines().skip(1).filter(|line| !line.is_empty()) {
        let fields: Vec<&str> = line.split(',').collect();
        let [_, function, end_s, took_s] = fields.as_slice() else { anyhow::bail!("no call of the trace: {line}") };
        let (end_s, took_s): (f64, f64) = (end_s.parse()?, took_s.parse()?);
        let call = (((end_s - took_s).max(0.0) * 1_000.0) as u64, (took_s * 1_000.0) as u64);
        functions.entry(function).or_default().push(call);
    }
    functions.values_mut().for_each(|calls| calls.sort_unstable());
    Ok(functions.into_values().collect())
}

/// All functions until the last call of the trace has begun.
fn all(functions: &[Vec<Call>], policy: impl Fn() -> Policy) -> Outcome {
    let until_ms = functions.iter().flatten().map(|(at_ms, _)| *at_ms).max().unwrap_or(0);
    let outcomes = functions.iter().map(|calls| Replay::new(policy(), until_ms).run(calls));
    outcomes.fold(Outcome::default(), Outcome::and)
}

fn replay(calls: &[Call], policy: Policy) -> Outcome {
    let until_ms = calls.last().map_or(0, |(at_ms, _)| *at_ms);
    Replay::new(policy, until_ms).run(calls)
}

/// Calls of 100 ms that come every so often.
fn periodic(period_ms: u64) -> Vec<Call> {
    let mut draw = 20_261_121_u64;
    let calls = (0..PERIODIC_CALLS).map(|number| {
        draw = draw.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let spread_ms = period_ms / 20;
        (number * period_ms + (draw >> 33) % spread_ms.max(1), 100)
    });
    calls.collect()
}

/// The cold starts of a fixed time that holds as much memory, between the two nearest.
fn at_equal_memory(kept: &[Outcome], ours: Outcome) -> Option<f64> {
    let mut kept = kept.to_vec();
    kept.sort_by_key(|outcome| outcome.held_ms);
    kept.windows(2).find_map(|pair| {
        let [less, more] = pair else { return None };
        let within = less.held_ms <= ours.held_ms && ours.held_ms <= more.held_ms;
        let share =
            (ours.held_ms - less.held_ms.min(ours.held_ms)) as f64 / (more.held_ms - less.held_ms).max(1) as f64;
        within.then_some(less.cold as f64 + (more.cold as f64 - less.cold as f64) * share)
    })
}

/// One function in virtual time.
struct Replay {
    policy: Policy,
    until_ms: u64,
    now_ms: u64,
    /// When its instance was begun, and when it is ready.
    instance: Option<(u64, u64)>,
    /// Whether a call has waited for this instance.
    was_waited_for: bool,
    /// When each call ends that an instance has; how long each takes that waits.
    running: Vec<u64>,
    waiting: Vec<u64>,
    idle_since_ms: Option<u64>,
    idle_times_ms: Vec<u64>,
    again_ms: Option<u64>,
    most: u32,
    outcome: Outcome,
}

impl Replay {
    fn new(policy: Policy, until_ms: u64) -> Self {
        Self {
            policy,
            until_ms,
            now_ms: 0,
            instance: None,
            was_waited_for: false,
            running: Vec::new(),
            waiting: Vec::new(),
            idle_since_ms: None,
            idle_times_ms: Vec::new(),
            again_ms: None,
            most: 0,
            outcome: Outcome::default(),
        }
    }

    fn run(mut self, calls: &[Call]) -> Outcome {
        for (at_ms, takes_ms) in calls {
            self.pass(*at_ms);
            self.arrive(*takes_ms);
        }
        self.pass(self.until_ms);
        self.drop_instance();
        self.outcome
    }

    /// Goes from one moment at which something is due to the next.
    fn pass(&mut self, until_ms: u64) {
        while self.now_ms < until_ms {
            let ready_ms = self.instance.map(|(_, ready_ms)| ready_ms);
            let due = self.running.iter().copied().chain(self.again_ms).chain(ready_ms);
            let next_ms = due.filter(|due_ms| *due_ms > self.now_ms).min().unwrap_or(u64::MAX).min(until_ms);
            let (requests, passed_ms) = (self.requests(), next_ms - self.now_ms);
            self.now_ms = next_ms;
            self.begin_waiting();
            self.running.retain(|end_ms| *end_ms > next_ms);
            if requests > 0 && self.requests() == 0 {
                self.idle_since_ms = Some(next_ms);
            }
            self.look(passed_ms * u64::from(requests));
        }
    }

    fn arrive(&mut self, takes_ms: u64) {
        self.outcome.calls += 1;
        if let Some(since_ms) = self.idle_since_ms.take() {
            self.idle_times_ms.push(self.now_ms - since_ms);
        }
        self.waiting.push(takes_ms);
        self.most = self.most.max(self.requests());
        self.look(0);
        let is_ready = self.instance.is_some_and(|(_, ready_ms)| ready_ms <= self.now_ms);
        if !is_ready && !std::mem::replace(&mut self.was_waited_for, true) {
            self.outcome.cold += 1;
        }
        self.begin_waiting();
    }

    fn begin_waiting(&mut self) {
        if self.instance.is_some_and(|(_, ready_ms)| ready_ms <= self.now_ms) {
            self.running.extend(self.waiting.drain(..).map(|takes_ms| self.now_ms + takes_ms));
        }
    }

    fn requests(&self) -> u32 {
        u32::try_from(self.running.len() + self.waiting.len()).unwrap_or(u32::MAX)
    }

    /// Asks the policy, and does as it says.
    fn look(&mut self, busy_ms: u64) {
        // A function of which nothing was ever asked is not deployed yet.
        if self.outcome.calls == 0 {
            return;
        }
        let requests = self.requests();
        let seen = Seen {
            requests,
            most: std::mem::replace(&mut self.most, requests),
            busy_ms,
            idle_times_ms: std::mem::take(&mut self.idle_times_ms),
            idle_since_ms: self.idle_since_ms,
            ready: u32::from(self.instance.is_some_and(|(_, ready_ms)| ready_ms <= self.now_ms)),
        };
        let (is_wanted, again_ms) = self.policy.step(self.now_ms, &seen);
        self.again_ms = again_ms;
        if !is_wanted && requests == 0 {
            self.drop_instance();
        } else if self.instance.is_none() {
            self.instance = Some((self.now_ms, self.now_ms + START_MS));
            self.was_waited_for = false;
            if let Policy::Ours(scaling) = &mut self.policy {
                scaling.started(START_MS);
            }
        }
    }

    fn drop_instance(&mut self) {
        if let Some((begun_ms, _)) = self.instance.take() {
            self.outcome.held_ms += self.now_ms - begun_ms;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fixed_time_is_what_it_says() {
        let calls = [(0, 1_000), (5_000, 1_000), (60_000, 1_000)];
        let kept = replay(&calls, Policy::Keep(10_000));
        // From 0 until 10 s after the second one's end, at 6 s; the third one is where the replay ends.
        assert_eq!((kept.calls, kept.cold, kept.held_ms), (3, 2, 16_000));
        let none = replay(&calls, Policy::Keep(0));
        assert_eq!((none.cold, none.held_ms), (3, 3_000));
        // What comes together waits for one start.
        assert_eq!(replay(&[(0, 10), (0, 10), (100, 10)], Policy::Keep(0)).cold, 1);
    }

    #[test]
    fn between_two_fixed_times_is_between_their_cold_starts() {
        let of = |cold, held_ms| Outcome { calls: 100, cold, held_ms };
        assert_eq!(at_equal_memory(&[of(80, 0), of(40, 100)], of(10, 50)), Some(60.0));
        assert_eq!(at_equal_memory(&[of(80, 10), of(40, 100)], of(10, 5)), None);
    }
}
