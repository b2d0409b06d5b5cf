//! Keeps an eye on one latency objective: is its error budget being used up, will it be, and does it hold again?
//!
//! An objective is that 95 % of the records of a window take no longer than a limit; the 5 % that may be late are the
//! *error budget* (the burn-rate rule of Google's SRE workbook, chapter 5, with windows of seconds, for an edge that is to
//! react within one). It is violated when more than the budget was late both in the last 5 and in the last 20 seconds, so
//! that neither a moment nor a past hour counts; threatened when the 95th percentile rises such that it will pass the limit
//! within 10 seconds; and it holds again after 15 seconds in which less than half of the budget was late, so that what is
//! done about it does not flap.

use std::collections::VecDeque;

/// The share of records that may be late, in thousandths.
const BUDGET_PERMILLE: u64 = 50;
/// The window that tells that it is late now, in seconds.
const SHORT_S: u64 = 5;
/// The window that tells that it was not only a moment, in seconds.
const LONG_S: u64 = 20;
/// How far ahead is looked, in seconds.
const AHEAD_S: u64 = 10;
/// For how long it must have been well, in seconds.
const CALM_S: u64 = 15;
/// Fewer records in the long window than this say nothing.
const RECORDS_MIN: u64 = 20;

/// What was seen of records within a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// How many records.
    pub records: u64,
    /// How many of them took longer than the limit.
    pub late: u64,
    /// Their 95th percentile, in microseconds.
    pub p95_us: u64,
}

/// A change of how an objective stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It does not hold.
    Violated {
        /// The share of records that were late in the long window, in thousandths.
        late_permille: u64,
        /// The 95th percentile of the last second with records, in microseconds.
        p95_us: u64,
    },
    /// It holds, but the 95th percentile will pass the limit soon if it goes on rising like this.
    Threatened {
        /// The 95th percentile now, in microseconds.
        p95_us: u64,
        /// Where it will be, in microseconds.
        expected_us: u64,
    },
    /// It holds again.
    Restored {
        /// For how long it did not, in milliseconds.
        after_ms: u64,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Holds,
    Threatened,
    Violated { since_ms: u64 },
}

/// One objective and what was seen of late; under 2 KiB.
#[derive(Clone, Debug)]
pub struct Watch {
    limit_us: u64,
    standing: Standing,
    /// When, in seconds, and what; the oldest first.
    seen: VecDeque<(u64, Seen)>,
    /// Since when it has been well, in milliseconds.
    calm_since_ms: Option<u64>,
}

impl Watch {
    /// An objective of so many microseconds at the 95th percentile.
    #[must_use]
    pub fn new(limit_us: u64) -> Self {
        Self { limit_us, standing: Standing::Holds, seen: VecDeque::new(), calm_since_ms: None }
    }

    /// An objective that was violated when another node watched it.
    #[must_use]
    pub fn violated(limit_us: u64, now_ms: u64) -> Self {
        Self { standing: Standing::Violated { since_ms: now_ms }, ..Self::new(limit_us) }
    }

    /// The limit, in microseconds.
    #[must_use]
    pub fn limit_us(&self) -> u64 {
        self.limit_us
    }

    /// Whether it does not hold now.
    #[must_use]
    pub fn is_violated(&self) -> bool {
        matches!(self.standing, Standing::Violated { .. })
    }

    /// The 95th percentile of the last second with records, in microseconds; 0 without any.
    #[must_use]
    pub fn p95_us(&self) -> u64 {
        self.seen.back().map_or(0, |(_, seen)| seen.p95_us)
    }

    /// How much of the error budget of the long window is left, in thousandths of it; negative when it is overdrawn.
    #[must_use]
    pub fn budget_left_permille(&self) -> i64 {
        let used = late_permille(self.total()).unwrap_or_default() * 1_000 / BUDGET_PERMILLE;
        1_000 - i64::try_from(used).unwrap_or(i64::MAX)
    }

    /// Takes in what was seen since it was last told, about once a second; what has changed by it.
    pub fn observe(&mut self, now_ms: u64, seen: Seen) -> Option<Change> {
        let now_s = now_ms / 1_000;
        if seen.records > 0 {
            self.seen.push_back((now_s, seen));
        }
        while self.seen.front().is_some_and(|(at_s, _)| at_s + LONG_S <= now_s) || self.seen.len() > LONG_S as usize {
            self.seen.pop_front();
        }
        let (short, long) = (late_permille(self.recent(now_s)), late_permille(self.total()));
        let is_calm = short.is_none_or(|late| late * 2 < BUDGET_PERMILLE);
        if !is_calm {
            self.calm_since_ms = None;
        } else if self.calm_since_ms.is_none() {
            self.calm_since_ms = Some(now_ms);
        }
        let is_late = |late: Option<u64>| late.is_some_and(|late| late > BUDGET_PERMILLE);
        let enough = self.total().0 >= RECORDS_MIN;
        match self.standing {
            Standing::Violated { since_ms } => {
                let calm_ms = self.calm_since_ms.map_or(0, |since_ms| now_ms.saturating_sub(since_ms));
                // Without records nothing is known: that is no calm.
                let is_known = short.is_some();
                (is_known && calm_ms >= CALM_S * 1_000).then(|| {
                    self.standing = Standing::Holds;
                    Change::Restored { after_ms: now_ms.saturating_sub(since_ms).saturating_sub(calm_ms) }
                })
            }
            _ if enough && is_late(short) && is_late(long) => {
                self.standing = Standing::Violated { since_ms: now_ms };
                let p95_us = self.seen.back().map_or(0, |(_, seen)| seen.p95_us);
                Some(Change::Violated { late_permille: long.unwrap_or_default(), p95_us })
            }
            Standing::Holds => {
                let (p95_us, expected_us) = self.forecast(now_s).filter(|_| enough)?;
                let is_late_now = self.seen.back().is_some_and(|(_, seen)| seen.p95_us > self.limit_us);
                (expected_us > self.limit_us && !is_late_now).then(|| {
                    self.standing = Standing::Threatened;
                    Change::Threatened { p95_us, expected_us }
                })
            }
            Standing::Threatened => {
                let expected_us = self.forecast(now_s).map_or(0, |(_, expected_us)| expected_us);
                if expected_us <= self.limit_us && is_calm {
                    self.standing = Standing::Holds;
                }
                None
            }
        }
    }

    /// Records, and late ones, of the short window.
    fn recent(&self, now_s: u64) -> (u64, u64) {
        let recent = self.seen.iter().filter(|(at_s, _)| at_s + SHORT_S > now_s);
        recent.fold((0, 0), |(records, late), (_, seen)| (records + seen.records, late + seen.late))
    }

    /// The same of the long one.
    fn total(&self) -> (u64, u64) {
        self.seen.iter().fold((0, 0), |(records, late), (_, seen)| (records + seen.records, late + seen.late))
    }

    /// The 95th percentile now, and [`AHEAD_S`] seconds from now if it goes on as in the window: a line through the means
    /// of its two halves. None before the window is half full.
    fn forecast(&self, now_s: u64) -> Option<(u64, u64)> {
        let (first_s, _) = self.seen.front()?;
        let span_s = now_s.checked_sub(*first_s).filter(|span_s| *span_s * 2 >= LONG_S)?;
        let middle_s = first_s + span_s / 2;
        let mean = |newer: bool| {
            let half = self.seen.iter().filter(|(at_s, _)| (*at_s > middle_s) == newer);
            let (count, sum) = half.fold((0_u64, 0_u64), |(count, sum), (_, seen)| (count + 1, sum + seen.p95_us));
            sum.checked_div(count)
        };
        let (before_us, after_us) = (mean(false)?, mean(true)?);
        let rise_us = after_us.saturating_sub(before_us);
        // The halves' middles are half of the span apart; the newer one's is a quarter of it ago.
        let ahead_us = rise_us.checked_mul(2)?.checked_mul(AHEAD_S + span_s / 4)?.checked_div(span_s.max(1))?;
        Some((after_us, after_us.saturating_add(ahead_us)))
    }
}

fn late_permille((records, late): (u64, u64)) -> Option<u64> {
    (late * 1_000).checked_div(records)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const LIMIT_US: u64 = 150_000;

    fn seen(p95_us: u64) -> Seen {
        Seen { records: 50, late: if p95_us > LIMIT_US { 25 } else { 0 }, p95_us }
    }

    /// What changes while the 95th percentile is so, a second each; with the second.
    fn changes(watch: &mut Watch, from_s: u64, p95s_us: impl IntoIterator<Item = u64>) -> Vec<(u64, Change)> {
        let all = p95s_us.into_iter().enumerate();
        all.filter_map(|(at, p95_us)| {
            let now_s = from_s + at as u64;
            Some((now_s, watch.observe(now_s * 1_000, seen(p95_us))?))
        })
        .collect()
    }

    #[test]
    fn a_violation_is_told_once_and_its_end_after_a_calm() {
        let mut watch = Watch::new(LIMIT_US);
        assert_eq!(changes(&mut watch, 0, [20_000; 30]), []);
        assert_eq!(watch.budget_left_permille(), 1_000);
        let told = changes(&mut watch, 30, [400_000; 30]);
        assert!(matches!(told.as_slice(), [(30..=33, Change::Violated { p95_us: 400_000, .. })]), "{told:?}");
        assert!(watch.is_violated() && watch.budget_left_permille() < 0);
        // Well for a while, then not, then well for good.
        assert_eq!(changes(&mut watch, 60, [20_000; 10]), []);
        assert_eq!(changes(&mut watch, 70, [400_000; 5]), []);
        let told = changes(&mut watch, 75, [20_000; 40]);
        let [(at_s, Change::Restored { after_ms })] = told.as_slice() else { panic!("{told:?}") };
        assert!((75 + CALM_S..75 + CALM_S + SHORT_S + 2).contains(at_s), "{told:?}");
        assert!((40_000..=52_000).contains(after_ms), "{told:?}");
    }

    #[test]
    fn a_moment_is_none_and_few_records_say_nothing() {
        let mut watch = Watch::new(LIMIT_US);
        changes(&mut watch, 0, [20_000; 20]);
        let mut one = seen(400_000);
        one.late = 4;
        assert_eq!(watch.observe(20_000, one), None, "four of a thousand");
        let mut watch = Watch::new(LIMIT_US);
        for second in 0..10 {
            assert_eq!(watch.observe(second * 1_000, Seen { records: 1, late: 1, p95_us: 400_000 }), None);
        }
    }

    #[test]
    fn silence_restores_nothing() {
        let mut watch = Watch::new(LIMIT_US);
        changes(&mut watch, 0, [400_000; 20]);
        assert!(watch.is_violated());
        for second in 20..100 {
            assert_eq!(watch.observe(second * 1_000, Seen::default()), None);
        }
        assert!(watch.is_violated());
    }

    #[test]
    fn a_rise_is_foreseen_once() {
        let mut watch = Watch::new(LIMIT_US);
        let told = changes(&mut watch, 0, (0..24).map(|second| 20_000 + second * 5_000));
        let [(_, Change::Threatened { p95_us, expected_us })] = told.as_slice() else { panic!("{told:?}") };
        assert!(*p95_us <= LIMIT_US && *expected_us > LIMIT_US, "{told:?}");
        assert_eq!(changes(&mut watch, 24, [30_000; 60]), []);
    }
}
