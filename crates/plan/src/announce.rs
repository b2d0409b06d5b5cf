//! When a node tells the others of itself: when its digest says something else, within a budget of bytes, and not by
//! the clock.
//!
//! Each field has a width around what was last told, within which it may move unheard (hysteresis): a value that wavers
//! is told once. What others act upon at once (what is served, owned, intended, ready) is told without such a width, and
//! may overdraw the budget by one burst; the noisy fields pay that back by waiting.

use littoral_model::condition::{Condition, Coordinate, Served};
use littoral_model::digest::{LinkReport, NodeDigest};
use littoral_model::wire;

use crate::coordinate::estimate_us;

/// How many bytes of digests a node sends to each other node in a second, on average over a minute or more.
pub const BYTES_PER_S: u64 = 64;
/// How many bytes it may save up, and how many it may owe: several digests of a usual size.
pub const BURST_BYTES: u64 = 4 << 10;
/// Shares of CPU time that differ by less, in thousandths, are the same.
const BUSY_WIDTH_PERMILLE: u16 = 150;
/// Slowdowns that differ by less, in thousandths, are the same.
const SLOWDOWN_WIDTH_PERMILLE: u16 = 250;
/// Errors of coordinates that differ by less, in thousandths, are the same.
const ERROR_WIDTH_PERMILLE: u16 = 300;
/// Queues that differ by less are the same.
const QUEUE_WIDTH: u64 = 3;
/// Free memory that differs by less, in bytes, is the same.
const MEMORY_WIDTH_BYTES: u64 = 64 << 20;
/// Times that differ by less, in microseconds, are the same: it is noise.
const TIME_WIDTH_US: u64 = 500;
/// Round trips that differ by less, in microseconds, are the same: it is the jitter of schedulers at both ends.
const LINK_WIDTH_US: u64 = 2_000;
/// A coordinate that moved less, in microseconds, has not moved.
const PLACE_WIDTH_US: u64 = 2_000;

/// Decides when a digest is announced.
#[derive(Clone, Debug, Default)]
pub struct Announcer {
    told: Option<NodeDigest>,
    /// What may be sent, in thousandths of a byte; below 0 if it is owed.
    budget: i64,
    budget_of_ms: u64,
}

/// What to do with a digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing: it says about the same.
    Same,
    /// Announce it.
    Announce,
    /// Announce what it is then, at this time at the earliest.
    Wait {
        /// When, in milliseconds.
        until_ms: u64,
    },
}

/// How much has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Change {
    Nothing,
    Noticeable,
    Urgent,
}

impl Announcer {
    /// What to do with what the digest is now. One that is to be announced counts as told.
    pub fn consider(&mut self, now_ms: u64, now: &NodeDigest) -> Verdict {
        self.refill(now_ms);
        let change = self.told.as_ref().map_or(Change::Urgent, |told| change(told, now));
        let needed = match change {
            Change::Nothing => return Verdict::Same,
            Change::Noticeable => 0,
            Change::Urgent => -milli(BURST_BYTES),
        };
        // What cannot be encoded is larger than any message; the mesh says so.
        let bytes = wire::encode(now).map_or(BURST_BYTES, |bytes| bytes.len() as u64);
        if self.budget < needed {
            let missing = needed.saturating_sub(self.budget).unsigned_abs();
            return Verdict::Wait { until_ms: now_ms.saturating_add(missing.div_ceil(BYTES_PER_S)) };
        }
        self.budget = self.budget.saturating_sub(milli(bytes));
        self.told = Some(now.clone());
        Verdict::Announce
    }

    fn refill(&mut self, now_ms: u64) {
        if self.told.is_none() {
            (self.budget, self.budget_of_ms) = (milli(BURST_BYTES), now_ms);
        }
        let passed_ms = now_ms.saturating_sub(self.budget_of_ms);
        // A byte a second is a thousandth of a byte a millisecond.
        let earned = i64::try_from(passed_ms.saturating_mul(BYTES_PER_S)).unwrap_or(i64::MAX);
        self.budget = self.budget.saturating_add(earned).min(milli(BURST_BYTES));
        self.budget_of_ms = self.budget_of_ms.max(now_ms);
    }
}

fn milli(bytes: u64) -> i64 {
    i64::try_from(bytes.saturating_mul(1_000)).unwrap_or(i64::MAX)
}

fn change(told: &NodeDigest, now: &NodeDigest) -> Change {
    let is_same = told.works == now.works
        && told.functions == now.functions
        && told.intent == now.intent
        && told.labels == now.labels
        && told.http == now.http
        && told.situation == now.situation
        && told.condition.ready == now.condition.ready
        && told.condition.clients == now.condition.clients;
    if !is_same {
        return Change::Urgent;
    }
    let is_about_same = links_about_same(&told.links, &now.links) && about_same(&told.condition, &now.condition);
    if is_about_same { Change::Nothing } else { Change::Noticeable }
}

/// Whether two values differ by less than a quarter of the first, and by less than a width.
fn is_near(told: u64, now: u64, width: u64) -> bool {
    told.abs_diff(now) <= width.max(told / 4)
}

fn about_same(told: &Condition, now: &Condition) -> bool {
    told.busy_permille.abs_diff(now.busy_permille) <= BUSY_WIDTH_PERMILLE
        && told.slowdown_permille.abs_diff(now.slowdown_permille) <= SLOWDOWN_WIDTH_PERMILLE
        && is_near(told.run_queue.into(), now.run_queue.into(), QUEUE_WIDTH)
        && is_near(told.memory_free_bytes, now.memory_free_bytes, MEMORY_WIDTH_BYTES)
        && told.machine == now.machine
        && told.artifacts == now.artifacts
        && is_same_place(told.coordinate.as_ref(), now.coordinate.as_ref())
        && told.served.len() == now.served.len()
        && told.served.iter().zip(&now.served).all(|(told, now)| fares_the_same(told, now))
}

fn fares_the_same(told: &Served, now: &Served) -> bool {
    told.function == now.function
        && is_near(told.p50_us.into(), now.p50_us.into(), TIME_WIDTH_US)
        && is_near(told.p95_us.into(), now.p95_us.into(), TIME_WIDTH_US)
        && is_near(told.queue.into(), now.queue.into(), QUEUE_WIDTH)
        // The first few make a guess a measurement; later ones hardly matter.
        && told.samples.max(1).ilog2() / 3 == now.samples.max(1).ilog2() / 3
}

fn is_same_place(told: Option<&Coordinate>, now: Option<&Coordinate>) -> bool {
    let (Some(told), Some(now)) = (told, now) else { return told.is_none() && now.is_none() };
    let flat = |coordinate: &Coordinate| Coordinate { height_us: 0, ..*coordinate };
    let moved_us = estimate_us(&flat(told), &flat(now)) + u64::from(told.height_us.abs_diff(now.height_us));
    moved_us <= PLACE_WIDTH_US && told.error_permille.abs_diff(now.error_permille) <= ERROR_WIDTH_PERMILLE
}

/// Whether no link came, went, or became so much slower or faster that placement might differ.
fn links_about_same(told: &[LinkReport], now: &[LinkReport]) -> bool {
    told.len() == now.len()
        && now.iter().all(|link| {
            let told = told.iter().find(|told| told.peer == link.peer);
            told.is_some_and(|told| is_near(told.rtt_us, link.rtt_us, LINK_WIDTH_US))
        })
}

#[cfg(test)]
#[path = "announce_tests.rs"]
mod tests;
