//! Demand: a function is brought to a node whose callers justify it, and goes again when they no longer do.
//!
//! A placement has an HTTP function on at most [`littoral_plan::INSTANCES_MAX`] nodes, and where its objectives say so on
//! fewer. Each node counts what it forwards for its own callers. When these would have waited at least a twentieth of one
//! caller's time less, or when their objective is violated, in two looks in a row, and the node may serve the function, it
//! does so in addition to those that serve it anyway. That harms nobody, needs nobody's consent, and works in a cut. It
//! stops when its callers have not asked for a quarter of that for five minutes: much longer than it takes to be brought,
//! so that nothing comes and goes with each lull.

use std::collections::BTreeMap;

use littoral_model::id::{AppId, FunctionName};
use littoral_plan::Placement;

use crate::agent::Agent;
use crate::command::Command;
use crate::event::Intent;
use crate::partition::Policy;

/// How often an agent is told of demand, in milliseconds.
pub const LOOK_MS: u64 = 10_000;
/// The time that callers would have saved in a look that justifies an instance, in microseconds.
pub const SAVED_US_MIN: u64 = LOOK_MS * 1_000 / 20;
/// Fewer late calls in a look than this violate no objective.
const LATE_MIN: u64 = 5;
/// The share of calls that an objective at the 95th percentile lets be late: one of so many.
const LATE_SHARE: u64 = 20;
/// In how many looks in a row it must be justified.
const LOOKS_TO_BRING: u32 = 2;
/// After how many looks in a row with hardly any demand it goes: five minutes.
const LOOKS_TO_LET_GO: u32 = 30;
/// The most functions that demand brings to a node.
const BROUGHT_MAX: usize = 64;

type Key = (AppId, FunctionName);

/// What callers of a node asked of a function since the last look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Demand {
    /// How many calls.
    pub calls: u64,
    /// How long they waited, in microseconds together.
    pub waited_us: u64,
    /// How much less they would have waited, or have waited, for an instance on this node, in microseconds together.
    pub saved_us: u64,
    /// How many of them took longer than the function's objective.
    pub late: u64,
}

impl Demand {
    fn is_justified(self) -> bool {
        self.saved_us >= SAVED_US_MIN || (self.late >= LATE_MIN && self.late * LATE_SHARE > self.calls)
    }
}

/// What an agent remembers of demand: at most a function for each of [`BROUGHT_MAX`], and as many that may come.
#[derive(Clone, Debug, Default)]
pub(crate) struct Demanded {
    /// In how many looks in a row it was justified.
    pressing: BTreeMap<Key, u32>,
    /// When the last look was: nothing is told of one in which nothing was asked for.
    looked_ms: u64,
    brought: BTreeMap<Key, Brought>,
}

/// A function that is here for its callers here.
#[derive(Clone, Copy, Debug)]
struct Brought {
    /// How many calls in a look justified it.
    calls: u64,
    /// For how many looks there has been hardly any.
    idle: u32,
}

impl Demanded {
    /// Whether demand has brought a function here.
    pub(crate) fn has(&self, app: &AppId, function: &FunctionName) -> bool {
        // Nearly every node has none: no key is made then.
        !self.brought.is_empty() && self.brought.contains_key(&(app.clone(), function.clone()))
    }
}

impl Agent {
    /// Takes in what was asked for; what comes and goes by it.
    pub(crate) fn take_demand(&mut self, now_ms: u64, demands: &BTreeMap<Key, Demand>, commands: &mut Vec<Command>) {
        let Some(intent) = self.intent.clone() else { return };
        if self.settings.home != self.settings.group {
            return;
        }
        self.let_go(&intent, demands, commands);
        let mut pressing = std::mem::take(&mut self.demanded.pressing);
        if now_ms.saturating_sub(std::mem::replace(&mut self.demanded.looked_ms, now_ms)) >= 2 * LOOK_MS {
            pressing.clear();
        }
        for (key, demand) in demands {
            let is_new = demand.is_justified() && !self.functions.contains_key(key);
            if !is_new || !self.may_bring(&intent, key) {
                continue;
            }
            let looks = pressing.get(key).copied().unwrap_or(0) + 1;
            if looks < LOOKS_TO_BRING {
                self.demanded.pressing.insert(key.clone(), looks);
                continue;
            }
            self.demanded.brought.insert(key.clone(), Brought { calls: demand.calls, idle: 0 });
            self.has_changed = true;
            let (app, function) = key.clone();
            commands.push(Command::Bring { app, function, demand: *demand });
        }
    }

    /// Lets go of what its callers have not asked for in a while, and of what is gone.
    fn let_go(&mut self, intent: &Intent, demands: &BTreeMap<Key, Demand>, commands: &mut Vec<Command>) {
        let changed = &mut self.has_changed;
        self.demanded.brought.retain(|key, brought| {
            let calls = demands.get(key).map_or(0, |demand| demand.calls);
            brought.idle = if calls * 4 < brought.calls.max(1) { brought.idle + 1 } else { 0 };
            let is_there = intent.apps.get(&key.0).is_some_and(|placement| serves(placement, &key.1));
            let stays = is_there && brought.idle < LOOKS_TO_LET_GO;
            if !stays {
                *changed = true;
                commands.push(Command::LetGo { app: key.0.clone(), function: key.1.clone() });
            }
            stays
        });
    }

    /// Whether there is room for one more, and the app is not one that is served by one node at a time.
    fn may_bring(&self, intent: &Intent, (app, function): &Key) -> bool {
        let held = self.demanded.brought.len() + self.demanded.pressing.len();
        let is_free = intent.policies.get(app) != Some(&Policy::Singleton) && !self.halted.contains(app);
        let placement = intent.apps.get(app).filter(|_| is_free && held < BROUGHT_MAX);
        let serving = placement.and_then(|placement| placement.serving.iter().find(|one| one.function == *function));
        serving.is_some_and(|serving| self.may_serve_also(app, serving))
    }
}

fn serves(placement: &Placement, function: &FunctionName) -> bool {
    placement.serving.iter().any(|serving| serving.function == *function)
}
