//! For how long a function is idle between its requests: a histogram in bounded memory, and what follows from it.
//!
//! The policy is the hybrid histogram of Shahrad et al., "Serverless in the Wild" (ATC 2020): an instance that is idle goes until
//! shortly before the next request is expected (the 5th percentile of the idle times), and then stays until it is hardly to be
//! expected any more (the 99th). Where the histogram says too little, the caller keeps the instance for a fixed time. Their bins are
//! minutes, of up to four hours; these grow with the time, so that what is called every few seconds has its histogram, too.

/// The bins of each doubling of the time: a bin is at most a sixteenth of its time wide.
const BINS_PER_DOUBLING: u64 = 16;
/// Longer idle times are not told apart: after four hours nothing is started ahead.
const TRACKED_MS_MAX: u64 = 4 * 3_600_000;
/// The bin of the longest time.
const BINS: usize = bin_of(TRACKED_MS_MAX) + 1;
/// How many idle times count: when there are more, old ones count half, so that a change of habits is learned.
const COUNT_MAX: u32 = 256;
/// The idle times between these two are expected, in percent.
const EXPECTED_PERCENT: (u32, u32) = (5, 99);
/// How much earlier and later than these a request is still expected, in percent of the time.
const MARGIN_PERCENT: u64 = 10;
/// Shorter idle times are those within a burst of requests: they say nothing of when the next burst comes, and would outnumber those
/// that do. An instance that would be away for less than this is kept, too.
const BURST_MS: u64 = 5_000;
/// When one idle time in so many was within a burst, an instance is kept for [`BURST_MS`] before it goes.
const BURST_SHARE: u32 = 20;

/// The idle times of one function.
#[derive(Clone, Debug)]
pub struct IdleTimes {
    bins: Box<[u16; BINS]>,
    count: u32,
    /// Those shorter than [`BURST_MS`].
    short: u32,
    /// Those longer than [`TRACKED_MS_MAX`].
    beyond: u32,
}

/// When an instance is to be there, counted from the moment when the function became idle, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// For so long at first.
    pub stay_ms: u64,
    /// From then on again; if nothing, it is there from the beginning.
    pub from_ms: u64,
    /// Until then.
    pub until_ms: u64,
}

impl Default for IdleTimes {
    fn default() -> Self {
        Self { bins: Box::new([0; BINS]), count: 0, short: 0, beyond: 0 }
    }
}

impl IdleTimes {
    /// Takes in a time between the end of the last request and the next one; whether it lay between two bursts.
    pub fn record(&mut self, idle_ms: u64) -> bool {
        if self.count + self.short + self.beyond >= COUNT_MAX {
            // The rare ones are those that are looked for: a single one stays.
            self.bins.iter_mut().for_each(|bin| *bin = bin.div_ceil(2));
            self.count = self.bins.iter().map(|bin| u32::from(*bin)).sum();
            (self.short, self.beyond) = (self.short / 2, self.beyond / 2);
        }
        if idle_ms < BURST_MS {
            self.short += 1;
        } else if idle_ms > TRACKED_MS_MAX {
            self.beyond += 1;
        } else if let Some(bin) = self.bins.get_mut(bin_of(idle_ms)) {
            *bin = bin.saturating_add(1);
            self.count += 1;
        }
        idle_ms >= BURST_MS
    }

    /// When an instance is to be there that takes `start_ms` to start. Nothing where `keep_ms`, a fixed time to keep it, does as well: no
    /// idle time was seen, half of them were too long to be told apart, or the next request is expected over a longer time than
    /// that and over most of the time until its end.
    #[must_use]
    pub fn window(&self, start_ms: u64, keep_ms: u64) -> Option<Window> {
        if self.count == 0 || self.beyond >= self.count {
            return None;
        }
        let (first, last) = (self.bin_at(EXPECTED_PERCENT.0), self.bin_at(EXPECTED_PERCENT.1));
        let from_ms = (starts_at(first) * (100 - MARGIN_PERCENT) / 100).saturating_sub(start_ms);
        let until_ms = starts_at(last + 1) * (100 + MARGIN_PERCENT) / 100;
        let is_bursty = self.short * BURST_SHARE >= self.short + self.count;
        let stay_ms = if is_bursty { BURST_MS.min(keep_ms) } else { 0 };
        let from_ms = if from_ms < stay_ms + BURST_MS { 0 } else { from_ms };
        (until_ms - from_ms <= keep_ms.max(from_ms)).then_some(Window { stay_ms, from_ms, until_ms })
    }

    /// The bin below which so many percent of the times lie, itself included.
    fn bin_at(&self, percent: u32) -> usize {
        let rank = (self.count * percent).div_ceil(100).max(1);
        let mut seen = 0;
        let found = self.bins.iter().position(|bin| {
            seen += u32::from(*bin);
            seen >= rank
        });
        found.unwrap_or(BINS - 1)
    }
}

/// The bin of a time: those below [`BINS_PER_DOUBLING`] milliseconds have one each, and each doubling as many.
const fn bin_of(ms: u64) -> usize {
    if ms < BINS_PER_DOUBLING {
        return ms as usize;
    }
    let doublings = (ms.ilog2() - BINS_PER_DOUBLING.ilog2()) as u64;
    (doublings * BINS_PER_DOUBLING + (ms >> doublings)) as usize
}

/// The shortest time of a bin, in milliseconds.
const fn starts_at(bin: usize) -> u64 {
    let bin = bin as u64;
    if bin < 2 * BINS_PER_DOUBLING {
        return bin;
    }
    let doublings = bin / BINS_PER_DOUBLING - 1;
    (bin - doublings * BINS_PER_DOUBLING) << doublings
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(times: &[u64]) -> IdleTimes {
        let mut idle = IdleTimes::default();
        times.iter().for_each(|time| _ = idle.record(*time));
        idle
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_time_lies_in_its_bin(ms in 0..=TRACKED_MS_MAX) {
            let bin = bin_of(ms);
            prop_assert!(bin < BINS);
            prop_assert!(starts_at(bin) <= ms && ms < starts_at(bin + 1), "{ms} in {bin}");
            prop_assert!((starts_at(bin + 1) - starts_at(bin)) * BINS_PER_DOUBLING <= ms.max(BINS_PER_DOUBLING));
        }

        #[test]
        fn what_was_seen_is_expected(times in proptest::collection::vec(BURST_MS..=TRACKED_MS_MAX, 1..50)) {
            let window = of(&times).window(0, u64::MAX).unwrap();
            let sorted = { let mut times = times; times.sort_unstable(); times };
            let middle = sorted[sorted.len() / 2];
            prop_assert!((window.from_ms..=window.until_ms).contains(&middle), "{middle} in {window:?}");
        }
    }

    #[test]
    fn a_period_has_a_window_around_it() {
        let window = of(&[60_000; 10]).window(1_000, 600_000).unwrap();
        assert!((50_000..=53_000).contains(&window.from_ms), "{window:?}");
        assert!((65_000..=70_000).contains(&window.until_ms), "{window:?}");
        // Also where it is longer than instances are kept.
        assert_eq!(of(&[60_000; 10]).window(1_000, 30_000), Some(window));
    }

    #[test]
    fn an_instance_is_not_sent_away_for_a_moment() {
        assert_eq!(of(&[5_100; 10]).window(0, 600_000).unwrap().from_ms, 0);
        assert_eq!(of(&[60_000; 10]).window(50_000, 600_000).unwrap().from_ms, 0, "it takes as long to start");
    }

    #[test]
    fn what_lies_within_a_burst_does_not_hide_what_lies_between_two() {
        let alone = of(&[300_000; 10]).window(0, 60_000).unwrap();
        let mut idle = of(&[]);
        (0..10).for_each(|_| {
            [[10; 100].as_slice(), &[300_000]].concat().into_iter().for_each(|time| _ = idle.record(time))
        });
        let window = idle.window(0, 60_000).unwrap();
        assert_eq!(window, Window { stay_ms: BURST_MS, ..alone });
        assert_eq!(alone.stay_ms, 0);
    }

    #[test]
    fn where_anything_may_happen_the_fixed_time_holds() {
        assert_eq!(of(&[]).window(0, 600_000), None);
        assert_eq!(of(&[10; 10]).window(0, 600_000), None, "it has had one burst only");
        assert_eq!(of(&[10_000, 3_600_000]).window(0, 600_000), None, "it would be kept for an hour");
        assert_eq!(of(&[TRACKED_MS_MAX + 1, 10_000]).window(0, 600_000), None);
    }

    #[test]
    fn habits_change_and_memory_is_bounded() {
        let mut idle = of(&[60_000; 1_000]);
        (0..20_000).for_each(|_| _ = idle.record(10_000));
        assert!(idle.window(0, 600_000).unwrap().until_ms < 13_000);
        assert!(idle.count <= COUNT_MAX);
    }
}
