//! How many instances of a function a node is to have, and why: one state machine for functions of all runtimes.
//!
//! A [`Scaling`] is told what its function had to do ([`Seen`]) and answers with how many instances are wanted ([`Wanted`]). While
//! there are requests, instances follow the load over two windows (`load`), as Knative's autoscaler does. When the last request has
//! ended, the times between earlier ones say when an instance is to be there again ([`idle_times`]): it goes, and is started again
//! shortly before the next request is expected; where they say too little, it is kept for a fixed time.

pub mod idle_times;
mod load;

use std::fmt;

use idle_times::IdleTimes;
use load::{Load, STABLE_BUCKETS};

/// How often a busy function is looked at, in milliseconds.
const LOOK_MS: u64 = 1_000;
/// A rush is when the short window asks for so many times the instances there are.
const RUSH: u32 = 2;
/// For how long after a rush no instance goes: the long window, in milliseconds.
const RUSH_MS: u64 = STABLE_BUCKETS as u64 * 1_000;
/// How much sooner an instance is started than it is to be there, as a multiple of how long starting took.
const START_AHEAD: u64 = 2;

/// What a manifest says of a function's instances.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// So many there are always.
    pub min: u32,
    /// There are never more, and at least one is allowed.
    pub max: u32,
    /// How many requests an instance is given at once.
    pub target: u32,
    /// How long the last instance is kept without a request where nothing better is known, in milliseconds.
    pub idle_ms: u64,
    /// Whether an instance is to be there when a request is expected: not where others answer those.
    pub expects: bool,
}

/// What a function had to do since it was last looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// How many requests it has now, those without an instance among them.
    pub requests: u32,
    /// The most that it had at once.
    pub most: u32,
    /// How long all its requests lasted together, in milliseconds: two that ran side by side for a second are 2000.
    pub busy_ms: u64,
    /// The times that passed without a request, each ended by one, in milliseconds.
    pub idle_times_ms: Vec<u64>,
    /// Since when it has had none, in the time that is passed in; nothing while it has some.
    pub idle_since_ms: Option<u64>,
    /// How many instances take requests.
    pub ready: u32,
}

/// How many instances there are to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// So many.
    pub instances: u32,
    /// Why.
    pub reason: Reason,
    /// When that may be different though nothing was asked for; nothing if only a request changes it.
    pub again_ms: Option<u64>,
}

/// Why there are to be so many instances.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The requests of the last minute take them.
    Load,
    /// Many requests came at once within the last minute, or so many instances were there when the node began.
    Rush,
    /// The manifest wants that many always.
    Minimum,
    /// The load would take more, and the manifest allows no more.
    Maximum {
        /// So many the load would take.
        of: u32,
    },
    /// The last request has just ended, or it was deployed just now, and nothing is known of when the next one comes.
    Kept {
        /// So long it is kept from then on, in milliseconds.
        for_ms: u64,
    },
    /// A request is expected.
    Expected {
        /// From so long after the last one, in milliseconds.
        from_ms: u64,
        /// To so long after it.
        until_ms: u64,
    },
    /// A request is not expected yet: an instance is started before.
    Away {
        /// So long after the last request, in milliseconds.
        until_ms: u64,
    },
    /// None has come for too long.
    Idle {
        /// Since the last one, in milliseconds.
        for_ms: u64,
    },
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = |ms: u64| ms as f64 / 1_000.0;
        match *self {
            Self::Load => write!(f, "the load of the last minute"),
            Self::Rush => write!(f, "many requests at once in the last minute"),
            Self::Minimum => write!(f, "`scale.min`"),
            Self::Maximum { of } => write!(f, "`scale.max`: the load would take {of}"),
            Self::Kept { for_ms } => write!(f, "kept for {:.0} s after the last request", seconds(for_ms)),
            Self::Expected { from_ms, until_ms } => {
                let (from, until) = (seconds(from_ms), seconds(until_ms));
                write!(f, "a request is expected {from:.0} to {until:.0} s after the last one")
            }
            Self::Away { until_ms } => {
                write!(f, "no request is expected until {:.0} s after the last one", seconds(until_ms))
            }
            Self::Idle { for_ms } => write!(f, "no request for {:.0} s", seconds(for_ms)),
        }
    }
}

/// The instances of one function on one node.
#[derive(Clone, Debug)]
pub struct Scaling {
    settings: Settings,
    idle_times: IdleTimes,
    load: Load,
    /// How long an instance takes to start: the longest lately.
    start_ms: u64,
    /// Until when no instance goes because of a rush, and how many there are to be at least.
    rush: Option<(u64, u32)>,
    /// The most that were busy in the last burst of requests, and in the one before: what comes together again and again is started
    /// ahead together.
    peaks: [u32; 2],
}

impl Scaling {
    /// Of a function that begins.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let (idle_times, load) = (IdleTimes::default(), Load::default());
        Self { settings, idle_times, load, start_ms: 0, rush: None, peaks: [0; 2] }
    }

    /// Takes other settings; what was learned stays.
    pub fn set(&mut self, settings: Settings) {
        self.settings = settings;
    }

    /// Takes in that so many instances are there already, of which it is not known what they are for: they are not taken away at once.
    pub fn found(&mut self, now_ms: u64, instances: u32) {
        self.rush = Some((now_ms + RUSH_MS, instances));
    }

    /// Takes in how long an instance took until it was ready, in milliseconds. One that took longer counts at once, one that was
    /// quicker little by little.
    pub fn started(&mut self, took_ms: u64) {
        self.start_ms = took_ms.max((self.start_ms * 7 + took_ms) / 8);
    }

    /// How many instances there are to be. `now_ms` is any time that rises steadily, in milliseconds.
    pub fn step(&mut self, now_ms: u64, seen: &Seen) -> Wanted {
        self.load.tell(now_ms, seen.busy_ms, seen.most.max(seen.requests));
        self.rush = self.rush.filter(|(until_ms, _)| now_ms < *until_ms);
        for idle_ms in &seen.idle_times_ms {
            if self.idle_times.record(*idle_ms) {
                self.peaks = [0, self.peaks[0]];
            }
        }
        let Settings { min, max, .. } = self.settings;
        let max = max.max(min).max(1);
        let (instances, reason, again_ms) = match seen.idle_since_ms {
            None => self.busy(now_ms, seen),
            Some(since_ms) => self.idle(now_ms, since_ms),
        };
        let peak = seen.most.max(seen.requests).div_ceil(self.settings.target.max(1));
        self.peaks[0] = self.peaks[0].max(peak.min(max));
        let (instances, reason) = match instances {
            few if few < min => (min, Reason::Minimum),
            many if many > max => (max, Reason::Maximum { of: many }),
            some => (some, reason),
        };
        Wanted { instances, reason, again_ms }
    }

    /// While it has requests.
    fn busy(&mut self, now_ms: u64, seen: &Seen) -> (u32, Reason, Option<u64>) {
        let (stable, panic, now) = self.needed(now_ms);
        let short = panic.max(now).max(1);
        if short >= RUSH * seen.ready.max(1) || (self.rush.is_some() && short > seen.ready) {
            let before = self.rush.map_or(0, |(_, instances)| instances);
            self.rush = Some((now_ms + RUSH_MS, short.max(before)));
        }
        let again_ms = Some(now_ms + LOOK_MS);
        match self.rush {
            Some((_, instances)) if instances > stable => (instances.max(now), Reason::Rush, again_ms),
            _ => (stable.max(now).max(1), Reason::Load, again_ms),
        }
    }

    /// How many instances it takes for what came in the long window and in the short one, and for what came at once: what was in use
    /// a moment ago is not taken away.
    fn needed(&self, now_ms: u64) -> (u32, u32, u32) {
        let target = self.settings.target.max(1);
        let (stable, panic) = self.load.instances(now_ms, target);
        (stable, panic, self.load.most(now_ms).div_ceil(target))
    }

    /// Since it had its last request.
    fn idle(&mut self, now_ms: u64, since_ms: u64) -> (u32, Reason, Option<u64>) {
        let for_ms = now_ms.saturating_sub(since_ms);
        let keep_ms = self.settings.idle_ms;
        let at = |ms: u64| Some(since_ms.saturating_add(ms));
        // A gust may be followed by another one: what it took goes with the averages, and the last one by what is expected.
        let (stable, _, now) = self.needed(now_ms);
        let kept = self.rush.map_or(0, |(_, instances)| instances).max(stable).max(now).max(1);
        let look = |ms: u64| if kept > 1 { Some((now_ms + LOOK_MS).min(since_ms.saturating_add(ms))) } else { at(ms) };
        let window = self.idle_times.window(self.start_ms * START_AHEAD, keep_ms);
        let Some(window) = window.filter(|_| self.settings.expects) else {
            return match for_ms < keep_ms {
                true => (kept, Reason::Kept { for_ms: keep_ms }, look(keep_ms)),
                false => (0, Reason::Idle { for_ms }, None),
            };
        };
        let idle_times::Window { stay_ms, from_ms, until_ms } = window;
        if for_ms < stay_ms && from_ms > 0 {
            return (kept, Reason::Kept { for_ms: stay_ms }, look(stay_ms));
        }
        if for_ms < from_ms {
            return (0, Reason::Away { until_ms: from_ms }, at(from_ms));
        }
        if for_ms >= until_ms {
            return (0, Reason::Idle { for_ms }, None);
        }
        let ahead = if from_ms > 0 { self.peaks[0].min(self.peaks[1]).max(1) } else { kept };
        (ahead, Reason::Expected { from_ms, until_ms }, look(until_ms))
    }
}

#[cfg(test)]
mod tests;
