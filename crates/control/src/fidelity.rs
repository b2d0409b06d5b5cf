//! When a stage that is late goes on with cheaper variants of its functions, and when with better ones again.
//!
//! Who watches an objective asks for a cheaper variant where the objective does not hold, no move helps, and the time is spent in
//! functions ([`is_of_functions`]); and for a better one after a [`Calm`], in which records took less than half of the objective. Who owns
//! the stage is asked, by several watchers perhaps, and keeps the level ([`Fidelity`]): a step at a time, and it is calm for two minutes
//! before a step up, for twice as long after each step up that was taken back within five minutes.

use crate::slo::Seen;

/// How long an objective holds with room to spare before a better variant is tried, in milliseconds.
pub const CALM_MS: u64 = 120_000;
/// The longest that it may come to, in milliseconds: an hour, for what made a stage late may be gone by then.
pub const CALM_MS_MAX: u64 = 3_600_000;
/// A step down so soon after one up takes it back, in milliseconds.
pub const RELAPSE_MS: u64 = 300_000;
/// In a calm, one second in so many may be none: a moment tells of no load.
const MISSES_PER_S: u64 = 20;

/// Whether cheaper functions may help: they take a quarter of what the stage adds, or of what the objective allows. What waits for them
/// adds to the first and not to the second. All are in microseconds.
#[must_use]
pub fn is_of_functions(process_us: u64, adds_us: u64, limit_us: u64) -> bool {
    process_us.saturating_mul(4) >= adds_us.min(limit_us)
}

/// For how long an objective has held with room to spare, as its watcher sees it: in seconds in which records came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Calm {
    seconds: u64,
    misses: u64,
}

impl Calm {
    /// Takes in what was seen within a second; for how many milliseconds it has been calm. A second without records tells nothing, and
    /// is not counted.
    pub fn observe(&mut self, limit_us: u64, is_violated: bool, seen: Seen) -> u64 {
        if is_violated {
            *self = Self::default();
        } else if seen.records > 0 {
            self.misses += u64::from(seen.p95_us >= limit_us / 2);
            if self.misses > self.seconds / MISSES_PER_S {
                *self = Self::default();
            } else {
                self.seconds += 1;
            }
        }
        self.seconds.saturating_mul(1_000)
    }
}

/// On which level below the usual variants a stage is, and how long it must be calm before it goes up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fidelity {
    level: usize,
    wait_ms: u64,
    /// When the last step was.
    changed_ms: u64,
    /// Whether that was one up.
    was_raised: bool,
    /// Until when there is no step down, for what it led to failed.
    barred_until_ms: u64,
}

impl Default for Fidelity {
    fn default() -> Self {
        Self { level: 0, wait_ms: CALM_MS, changed_ms: 0, was_raised: false, barred_until_ms: 0 }
    }
}

impl Fidelity {
    /// The level: 0 for the usual variants.
    #[must_use]
    pub fn level(&self) -> usize {
        self.level
    }

    /// How long it must be calm before a step up, in milliseconds.
    #[must_use]
    pub fn wait_ms(&self) -> u64 {
        self.wait_ms
    }

    /// A step down. One that soon takes back a step up doubles the wait for the next; after a step up that held for longer, the wait
    /// begins anew; a further step down leaves it as it is.
    ///
    /// # Errors
    /// For how many milliseconds there is none, since what the last one led to failed.
    pub fn lower(&mut self, now_ms: u64) -> Result<(), u64> {
        let barred_ms = self.barred_until_ms.saturating_sub(now_ms);
        if barred_ms > 0 {
            return Err(barred_ms);
        }
        if self.was_raised {
            let is_relapse = now_ms.saturating_sub(self.changed_ms) <= RELAPSE_MS;
            self.wait_ms = if is_relapse { self.wait_ms.saturating_mul(2).min(CALM_MS_MAX) } else { CALM_MS };
        }
        (self.level, self.changed_ms, self.was_raised) = (self.level + 1, now_ms, false);
        Ok(())
    }

    /// What runs on this level failed: it goes on with the level above, and is not lowered again for some time.
    pub fn fail(&mut self, now_ms: u64) {
        self.level = self.level.saturating_sub(1);
        (self.changed_ms, self.was_raised) = (now_ms, false);
        self.barred_until_ms = now_ms.saturating_add(RELAPSE_MS);
    }

    /// A step up, if it was calm for long enough, also since the last step; whether it was.
    pub fn raise(&mut self, now_ms: u64, calm_ms: u64) -> bool {
        let is_due = calm_ms.min(now_ms.saturating_sub(self.changed_ms)) >= self.wait_ms;
        if self.level > 0 && is_due {
            (self.level, self.changed_ms, self.was_raised) = (self.level - 1, now_ms, true);
            return true;
        }
        false
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;
    use crate::slo::Watch;

    const LIMIT_US: u64 = 200_000;

    fn seen(p95_us: u64) -> Seen {
        Seen { records: 10, late: 0, p95_us }
    }

    #[test]
    fn what_waits_for_functions_is_theirs_and_what_waits_for_a_link_is_not() {
        assert!(is_of_functions(150_000, 200_000, LIMIT_US));
        assert!(is_of_functions(150_000, 30_000_000, LIMIT_US), "a queue before them");
        assert!(!is_of_functions(12_500, 1_835_000, LIMIT_US));
    }

    #[test]
    fn a_calm_bears_moments_and_silence_and_no_violation() {
        let mut calm = Calm::default();
        let mut last = |p95_us: u64, count: u64| (0..count).map(|_| calm.observe(LIMIT_US, false, seen(p95_us))).last();
        assert_eq!(last(50_000, 61), Some(61_000));
        assert_eq!(last(150_000, 3), Some(64_000), "three seconds in a minute");
        assert_eq!(last(150_000, 1), Some(0));
        assert_eq!(last(50_000, 11), Some(11_000));
        assert_eq!(calm.observe(LIMIT_US, false, Seen::default()), 11_000, "silence tells nothing");
        assert_eq!(calm.observe(LIMIT_US, true, Seen::default()), 0);
    }

    #[test]
    fn what_failed_is_left_for_the_level_above_and_not_tried_again_at_once() {
        let mut fidelity = Fidelity::default();
        fidelity.lower(0).unwrap();
        fidelity.lower(30_000).unwrap();
        fidelity.fail(40_000);
        assert_eq!(fidelity.level(), 1);
        assert_eq!(fidelity.lower(60_000), Err(RELAPSE_MS - 20_000));
        fidelity.lower(40_000 + RELAPSE_MS).unwrap();
        assert_eq!(fidelity.level(), 2);
    }

    #[test]
    fn it_goes_up_after_a_calm_that_doubles_with_each_relapse() {
        let mut fidelity = Fidelity::default();
        let mut now_ms = 0;
        for wait_ms in [CALM_MS, 2 * CALM_MS, 4 * CALM_MS] {
            fidelity.lower(now_ms).unwrap();
            assert_eq!((fidelity.level(), fidelity.wait_ms()), (1, wait_ms));
            assert!(!fidelity.raise(now_ms + wait_ms - 1, u64::MAX), "not so soon after the step down");
            assert!(!fidelity.raise(now_ms + wait_ms, wait_ms - 1), "it was not calm for so long");
            assert!(fidelity.raise(now_ms + wait_ms, wait_ms));
            assert_eq!(fidelity.level(), 0);
            now_ms += wait_ms + RELAPSE_MS;
        }
        // What held for longer begins anew.
        fidelity.lower(now_ms + 1).unwrap();
        assert_eq!(fidelity.wait_ms(), CALM_MS);
        for step in 0..10 {
            let now_ms = now_ms + step * 2 * CALM_MS_MAX;
            assert!(fidelity.raise(now_ms + CALM_MS_MAX + 1, CALM_MS_MAX));
            fidelity.lower(now_ms + CALM_MS_MAX + 1).unwrap();
        }
        assert_eq!(fidelity.wait_ms(), CALM_MS_MAX);
        assert!(!Fidelity::default().raise(CALM_MS_MAX, CALM_MS_MAX), "there is nothing above the usual ones");
    }

    #[test]
    fn a_relapse_by_two_levels_is_remembered_as_one() {
        let mut fidelity = Fidelity::default();
        fidelity.lower(0).unwrap();
        assert!(fidelity.raise(CALM_MS, CALM_MS));
        fidelity.lower(CALM_MS + 30_000).unwrap();
        fidelity.lower(CALM_MS + 60_000).unwrap();
        assert_eq!((fidelity.level(), fidelity.wait_ms()), (2, 2 * CALM_MS));
    }

    /// What a stage with one cheaper variant goes through under loads, each for so many seconds, as its watcher and its owner see it:
    /// when it goes to which level, in seconds. The usual variant is too slow for a load, the cheaper one has room to spare.
    fn story(loads: impl IntoIterator<Item = (u64, bool)>) -> Vec<(u64, usize)> {
        let (mut watch, mut calm, mut fidelity) = (Watch::new(LIMIT_US), Calm::default(), Fidelity::default());
        let (mut steps, mut rests_until_s) = (Vec::new(), 0);
        let seconds = loads.into_iter().flat_map(|(seconds, is_loaded)| (0..seconds).map(move |_| is_loaded));
        for (now_s, is_loaded) in (0..).zip(seconds) {
            let now_ms = now_s * 1_000;
            let is_late = is_loaded && fidelity.level() == 0;
            let seen =
                Seen { records: 50, late: u64::from(is_late) * 50, p95_us: if is_late { 900_000 } else { 20_000 } };
            watch.observe(now_ms, seen);
            let calm_ms = calm.observe(LIMIT_US, watch.is_violated(), seen);
            if watch.is_violated() && fidelity.level() == 0 && now_s >= rests_until_s {
                fidelity.lower(now_ms).unwrap();
                (steps, rests_until_s) = ([steps, vec![(now_s, 1)]].concat(), now_s + 30);
            } else if calm_ms >= CALM_MS && fidelity.raise(now_ms, calm_ms) {
                calm = Calm::default();
                steps.push((now_s, 0));
            }
        }
        steps
    }

    #[test]
    fn a_load_that_goes_leaves_the_usual_variants_and_one_that_stays_is_tried_ever_more_rarely() {
        let steps = story([(60, false), (60, true), (600, false)]);
        assert!(matches!(steps.as_slice(), [(60..=80, 1), (180..=280, 0)]), "{steps:?}");
        let (day_s, steps) = (86_400, story([(86_400, true)]));
        let tries: Vec<u64> = steps.iter().filter(|(_, level)| *level == 0).map(|(at_s, _)| *at_s).collect();
        // Five doublings come to an hour; then it is one in about an hour.
        assert!((day_s / 3_600..day_s / 3_600 + 6).contains(&(tries.len() as u64)), "{tries:?}");
        assert!(tries.is_sorted_by_key(|at_s| *at_s) && steps.len() <= 2 * tries.len() + 1, "{steps:?}");
        let late_s: u64 = steps.windows(2).filter(|of| of[0].1 == 0).map(|of| of[1].0 - of[0].0).sum();
        assert!(late_s < day_s / 100, "late for {late_s} s of a day");
    }

    #[test]
    fn each_step_up_has_its_calm() {
        let mut fidelity = Fidelity::default();
        fidelity.lower(0).unwrap();
        fidelity.lower(60_000).unwrap();
        assert!(fidelity.raise(60_000 + CALM_MS, CALM_MS));
        assert!(!fidelity.raise(61_000 + CALM_MS, u64::MAX));
        assert!(fidelity.raise(60_000 + 2 * CALM_MS, u64::MAX));
    }
}
