//! Which variant of a function answers, where it is both a component and a container: whichever costs less under the load that there
//! is. A component needs next to nothing while nobody calls it, and answers at once; a container computes at the machine's own speed,
//! and what it holds it holds for as long as it runs.
//!
//! The cost of a variant is its mean latency over that of the best one, plus the memory that it holds over that of the best one
//! (Elevating the Edge to be a Peer of the Cloud, VI). Of the variant that answers both are measured. Of the other one it is known
//! what it took when it answered under such a load, in proportion; where that is not known, the best that can be hoped for is taken,
//! and if that would be clearly better, it is tried. A trial that was in vain is what is known from then on, and the next one waits
//! longer.

use std::collections::VecDeque;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::rollout::{self, Outcomes, Verdict};

/// For how long few calls are a load, too, in milliseconds.
const WINDOW_MS: u64 = 5_000;
/// Of so many calls a mean says something.
const CALLS_MIN: u64 = 5;
/// How far back calls are looked for, in milliseconds.
const WINDOW_MS_MAX: u64 = 600_000;
/// How many looks are remembered; where there are more within a window, every other one is forgotten.
const LOOKS_MAX: usize = 64;
/// The other variant must be so much better before it answers.
const GAIN_MIN: f64 = 1.2;
/// On so many looks in turn.
const LOOKS_AGREEING: u32 = 2;
/// How long a variant answers at least, in milliseconds.
const STAY_MS: u64 = 3_000;
/// A container without a call for so long has nothing to do, in milliseconds.
const IDLE_MS: u64 = 10_000;
/// What is hoped of a container that is not known: so much of the component's latency, and so much memory.
const HOPED_SHARE: f64 = 0.25;
const HOPED_BYTES: f64 = 1_048_576.0;
/// What a start adds to a call where the calls come so seldom that each has one, in microseconds.
const START_US: f64 = 20_000.0;
/// How long a container is kept after a call, in milliseconds: those that come more seldom each have a start.
const KEPT_MS: f64 = 30_000.0;
/// Two loads are alike where the latencies of the one that answers differ by less than this factor.
const ALIKE: f64 = 1.5;
/// Two moments have the same load where the calls per second differ by less than this factor.
const SAME_RATE: f64 = 2.0;
/// How many loads are remembered.
const KNOWN_MAX: usize = 16;
/// A container that answers for so long was not tried in vain, in milliseconds.
const PROVED_MS: u64 = 60_000;
/// How long the next trial waits after one that was in vain, in milliseconds; it doubles up to the second.
const TRIAL_WAIT_MS: u64 = 30_000;
const TRIAL_WAIT_MS_MAX: u64 = 3_600_000;

/// What may answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Variant {
    /// The WebAssembly component.
    Component,
    /// The container, of an image or a program.
    Container,
}

impl Variant {
    /// The other one.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Component => Self::Container,
            Self::Container => Self::Component,
        }
    }
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Component => "component",
            Self::Container => "container",
        })
    }
}

/// What a variant has done and used since the function was started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// How many calls it has answered well.
    pub calls: u64,
    /// How long these took together, in microseconds.
    pub took_us: u64,
    /// The memory that it held times how long, in byte-microseconds; it may wrap around.
    pub memory_byte_us: u64,
    /// How many calls failed, which count among no others.
    pub failed: u64,
    /// How many calls it has now.
    pub in_flight: u64,
}

impl Seen {
    fn since(self, before: Self) -> Self {
        Self {
            calls: self.calls.saturating_sub(before.calls),
            took_us: self.took_us.saturating_sub(before.took_us),
            memory_byte_us: self.memory_byte_us.wrapping_sub(before.memory_byte_us),
            failed: self.failed.saturating_sub(before.failed),
            in_flight: self.in_flight,
        }
    }
}

/// Latency and memory of a variant under a load.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spent {
    /// The mean latency, in microseconds.
    pub latency_us: f64,
    /// The memory that is held on average, in bytes.
    pub bytes: f64,
}

impl fmt::Display for Spent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2} ms a call and {:.2} MiB held", self.latency_us / 1_000.0, self.bytes / 1_048_576.0)
    }
}

/// Why the other variant is to answer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Why {
    /// It costs less.
    Cheaper {
        /// What the one that answers spends, and what that costs.
        now: (Spent, f64),
        /// The same of the other one, as it is known to be under such a load.
        then: (Spent, f64),
    },
    /// It might cost less, which is not known.
    Trial {
        /// What the one that answers spends.
        now: Spent,
    },
    /// Clearly more of its calls failed.
    Failing {
        /// Those of the one that answers.
        now: Outcomes,
        /// Those of the other one, before.
        then: Outcomes,
    },
    /// The container has not been called for so long, in milliseconds, and the component answers the next call without a start.
    Idle {
        /// So long.
        for_ms: u64,
    },
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cheaper { now, then } => {
                write!(f, "its cost is {:.2} ({}) and was {:.2} ({})", then.1, then.0, now.1, now.0)
            }
            Self::Trial { now } => write!(f, "it is tried: how it fares under such a load ({now}) is not known"),
            Self::Failing { now, then } => write!(
                f,
                "{} of {} calls failed with the other one, and {} of {} with this one",
                now.failed, now.calls, then.failed, then.calls
            ),
            Self::Idle { for_ms } => {
                write!(f, "no call for {:.0} s, and it answers the next one without a start", *for_ms as f64 / 1_000.0)
            }
        }
    }
}

/// The latencies of both variants under a load.
#[derive(Clone, Copy, Debug)]
struct Known {
    component_us: f64,
    container_us: f64,
}

/// What a load was like when the one that answered it was replaced.
#[derive(Clone, Copy, Debug)]
struct Left {
    latency_us: f64,
    calls_per_s: f64,
}

/// The load since a moment, and what it took.
#[derive(Clone, Copy, Debug)]
struct Load {
    calls: u64,
    calls_per_s: f64,
    spent: Spent,
    bytes_per_call: f64,
}

/// The variants of one function on one node.
#[derive(Debug)]
pub struct Variants {
    serving: Variant,
    since_ms: u64,
    called_ms: u64,
    looks: VecDeque<(u64, Seen)>,
    agreeing: u32,
    known: VecDeque<Known>,
    /// The memory that a component holds for a call in flight, and a container in all, in bytes.
    component_bytes: Option<f64>,
    container_bytes: Option<f64>,
    left: Option<Left>,
    /// What had become of the calls of the one that answers when it began to, and of those of the other one by then.
    began: Seen,
    others: Outcomes,
    is_trial: bool,
    /// From when on the container may be tried, and from when on it may answer at all.
    trial_from_ms: u64,
    container_from_ms: u64,
    trial_wait_ms: u64,
}

impl Variants {
    /// Of a function that begins, of which this variant answers.
    #[must_use]
    pub fn new(now_ms: u64, serving: Variant) -> Self {
        Self {
            serving,
            since_ms: now_ms,
            called_ms: now_ms,
            looks: VecDeque::new(),
            agreeing: 0,
            known: VecDeque::new(),
            component_bytes: None,
            container_bytes: None,
            left: None,
            began: Seen::default(),
            others: Outcomes::default(),
            is_trial: false,
            trial_from_ms: 0,
            container_from_ms: 0,
            trial_wait_ms: TRIAL_WAIT_MS,
        }
    }

    /// Which one answers.
    #[must_use]
    pub fn serving(&self) -> Variant {
        self.serving
    }

    /// Looks at what the one that answers has done so far; why the other one is to answer, if it is. Whoever asks carries it out and
    /// calls [`Variants::switched`].
    pub fn look(&mut self, now_ms: u64, seen: Seen) -> Option<Why> {
        let is_same = |(_, before): &(u64, Seen)| (before.calls, before.failed) == (seen.calls, seen.failed);
        if seen.in_flight > 0 || !self.looks.back().is_some_and(is_same) {
            self.called_ms = now_ms;
        }
        self.remember(now_ms, seen);
        if now_ms < self.since_ms + STAY_MS {
            return None;
        }
        let idle_ms = now_ms.saturating_sub(self.called_ms);
        if self.serving == Variant::Container && idle_ms >= IDLE_MS {
            return Some(Why::Idle { for_ms: idle_ms });
        }
        if self.is_trial && now_ms >= self.since_ms + PROVED_MS {
            (self.is_trial, self.trial_wait_ms) = (false, TRIAL_WAIT_MS);
        }
        if self.serving == Variant::Container {
            let now = outcomes(seen.since(self.began));
            if let Verdict::Back(_) = rollout::once_ready(0, now, self.others) {
                return Some(Why::Failing { now, then: self.others });
            }
        }
        let load = self.load(now_ms, seen)?;
        self.learn(load);
        let why = self.better(now_ms, load);
        self.agreeing = if why.is_some() { self.agreeing + 1 } else { 0 };
        why.filter(|_| self.agreeing >= LOOKS_AGREEING)
    }

    /// The other variant answers now; `seen` is what the one before has done in all, and `then` what the other one has done before.
    pub fn switched(&mut self, now_ms: u64, why: Why, seen: Seen, then: Seen) {
        let was_trial = std::mem::replace(&mut self.is_trial, matches!(why, Why::Trial { .. }));
        match why {
            Why::Failing { .. } => self.failed(now_ms),
            Why::Cheaper { .. } if was_trial => self.in_vain(now_ms),
            Why::Idle { .. } if was_trial => self.trial_from_ms = now_ms + self.trial_wait_ms,
            Why::Cheaper { .. } | Why::Idle { .. } | Why::Trial { .. } => {}
        }
        let load = self.load(now_ms, seen);
        self.left = load.map(|load| Left { latency_us: load.spent.latency_us, calls_per_s: load.calls_per_s });
        (self.others, self.began) = (outcomes(seen), then);
        self.serving = self.serving.other();
        (self.since_ms, self.called_ms, self.agreeing) = (now_ms, now_ms, 0);
        self.looks.clear();
    }

    /// The container cannot be made to answer.
    pub fn failed(&mut self, now_ms: u64) {
        self.agreeing = 0;
        self.in_vain(now_ms);
        self.container_from_ms = self.trial_from_ms;
    }

    fn in_vain(&mut self, now_ms: u64) {
        self.trial_from_ms = now_ms + self.trial_wait_ms;
        self.trial_wait_ms = (2 * self.trial_wait_ms).min(TRIAL_WAIT_MS_MAX);
    }

    fn remember(&mut self, now_ms: u64, seen: Seen) {
        let too_old = now_ms.saturating_sub(WINDOW_MS_MAX);
        while self.looks.get(1).is_some_and(|(at_ms, _)| *at_ms <= too_old) {
            self.looks.pop_front();
        }
        if self.looks.len() >= LOOKS_MAX {
            let mut number = 0;
            self.looks.retain(|_| {
                number += 1;
                number % 2 == 1
            });
        }
        self.looks.push_back((now_ms, seen));
    }

    /// The load of the latest window that says something: of a container also one with few calls, for what it holds without them is
    /// what tells against it.
    fn load(&self, now_ms: u64, seen: Seen) -> Option<Load> {
        let says_something = |(at_ms, before): &&(u64, Seen)| {
            let (age_ms, calls) = (now_ms.saturating_sub(*at_ms), seen.since(*before).calls);
            let is_slack = self.serving == Variant::Container && age_ms >= WINDOW_MS && calls > 0;
            is_slack || age_ms >= STAY_MS && calls >= CALLS_MIN
        };
        let (at_ms, before) = self.looks.iter().rev().find(says_something)?;
        let (did, elapsed_ms) = (seen.since(*before), now_ms.saturating_sub(*at_ms).max(1) as f64);
        let spent = Spent {
            latency_us: did.took_us as f64 / did.calls as f64,
            bytes: did.memory_byte_us as f64 / 1_000.0 / elapsed_ms,
        };
        let bytes_per_call = did.memory_byte_us as f64 / (did.took_us as f64).max(1.0);
        Some(Load { calls: did.calls, calls_per_s: did.calls as f64 * 1_000.0 / elapsed_ms, spent, bytes_per_call })
    }

    /// Learns what the one that answers takes, and how that compares with the one before under the same load.
    fn learn(&mut self, load: Load) {
        match self.serving {
            Variant::Component => self.component_bytes = Some(load.bytes_per_call),
            Variant::Container => self.container_bytes = Some(load.spent.bytes),
        }
        let Some(left) = self.left.filter(|_| load.calls >= CALLS_MIN) else { return };
        self.left = None;
        if !are_within(left.calls_per_s, load.calls_per_s, SAME_RATE) {
            return;
        }
        let known = match self.serving {
            Variant::Component => Known { component_us: load.spent.latency_us, container_us: left.latency_us },
            Variant::Container => Known { component_us: left.latency_us, container_us: load.spent.latency_us },
        };
        let is_alike = |other: &Known| {
            are_within(other.component_us, known.component_us, ALIKE)
                && are_within(other.container_us, known.container_us, ALIKE)
        };
        self.known.retain(|other| !is_alike(other));
        if self.known.len() >= KNOWN_MAX {
            self.known.pop_front();
        }
        self.known.push_back(known);
    }

    /// Why the other one would be better under this load, if it would.
    fn better(&self, now_ms: u64, load: Load) -> Option<Why> {
        let (then, is_known) = self.of_other(load);
        let now = load.spent;
        let (now_cost, then_cost) = costs(now, then);
        if self.serving == Variant::Component && now_ms < self.container_from_ms {
            return None;
        }
        if now_cost < GAIN_MIN * then_cost {
            return None;
        }
        match is_known {
            true => Some(Why::Cheaper { now: (now, now_cost), then: (then, then_cost) }),
            false => (now_ms >= self.trial_from_ms).then_some(Why::Trial { now }),
        }
    }

    /// What the other one would spend under this load, and whether that is known.
    fn of_other(&self, load: Load) -> (Spent, bool) {
        let latency_us = load.spent.latency_us;
        let mut near = self.known.iter().rev();
        match self.serving {
            Variant::Component => {
                let known = near.find(|known| are_within(known.component_us, latency_us, ALIKE));
                let share = known.map_or(HOPED_SHARE, |known| known.container_us / known.component_us.max(1.0));
                let each_has_a_start = 1_000.0 / load.calls_per_s > KEPT_MS;
                let latency_us = latency_us * share + if each_has_a_start { START_US } else { 0.0 };
                let bytes = self.container_bytes.unwrap_or(HOPED_BYTES);
                (Spent { latency_us, bytes }, known.is_some() && self.container_bytes.is_some())
            }
            Variant::Container => {
                let known = near.find(|known| are_within(known.container_us, latency_us, ALIKE));
                let share = known.map_or(1.0, |known| known.component_us / known.container_us.max(1.0));
                let latency_us = latency_us * share;
                let in_flight = load.calls_per_s * latency_us / 1_000_000.0;
                let bytes = self.component_bytes.unwrap_or(HOPED_BYTES) * in_flight;
                (Spent { latency_us, bytes }, known.is_some())
            }
        }
    }
}

fn outcomes(seen: Seen) -> Outcomes {
    Outcomes { calls: seen.calls + seen.failed, failed: seen.failed }
}

/// What both cost: latency and memory, each over the better one's.
fn costs(one: Spent, other: Spent) -> (f64, f64) {
    let latency_us = one.latency_us.min(other.latency_us).max(1.0);
    let bytes = one.bytes.min(other.bytes).max(1.0);
    let cost = |spent: Spent| spent.latency_us / latency_us + spent.bytes / bytes;
    (cost(one), cost(other))
}

fn are_within(one: f64, other: f64, factor: f64) -> bool {
    one <= other * factor && other <= one * factor
}

#[cfg(test)]
mod tests;
