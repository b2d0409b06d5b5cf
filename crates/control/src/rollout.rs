//! Whether a new version of a function stays, or the one before it comes back.
//!
//! The new version is started beside the old one, which is kept while the new one answers its first requests. The new one goes when
//! it does not become ready, or when clearly more of its requests fail than failed of the old one's: when the lower bound of its share
//! of failures lies above the upper bound of the old one's, both by the score interval (E. B. Wilson, "Probable Inference, the Law of
//! Succession, and Statistical Inference", 1927), so that a single failure, or one more than before, sends nobody back.

use std::fmt;

/// How often a new version may fail to start while there is an old one that answers.
const STARTS_MAX: u32 = 3;
/// How many of its requests are looked at.
const CALLS_WATCHED: u64 = 200;
/// For how long, at most, in milliseconds: ten minutes.
const WATCHED_MS_MAX: u64 = 600_000;
/// Fewer failures than this say nothing.
const FAILED_MIN: u64 = 3;
/// Of an old version with fewer requests than this it is not known how often it fails.
const CALLS_FEW: u64 = 20;
/// Then so much is taken to be usual.
const USUAL_SHARE: f64 = 0.25;
/// The bounds hold in 99 of 100 cases.
const Z: f64 = 2.576;

/// What became of a version's requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcomes {
    /// How many there were.
    pub calls: u64,
    /// How many of these failed.
    pub failed: u64,
}

/// What is to become of a new version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on, and is looked at again.
    Watch,
    /// It stays; the old one can go.
    Stay,
    /// The old one comes back.
    Back(Why),
}

/// Why an old version comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The new one has failed to start so often.
    NotReady {
        /// How often.
        starts: u32,
    },
    /// Too many of its requests failed.
    Failures {
        /// Its own.
        new: Outcomes,
        /// Those of the old one.
        old: Outcomes,
    },
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotReady { starts } => write!(f, "it did not become ready in {starts} tries"),
            Self::Failures { new, old } => write!(
                f,
                "{} of its first {} requests failed, and {} of {} of the version before it",
                new.failed, new.calls, old.failed, old.calls
            ),
        }
    }
}

/// What is to become of a version that has failed to start so often, and has not become ready yet.
#[must_use]
pub fn before_ready(failed_starts: u32) -> Verdict {
    if failed_starts >= STARTS_MAX { Verdict::Back(Why::NotReady { starts: failed_starts }) } else { Verdict::Watch }
}

/// What is to become of a version that has been ready for so long. `old` are the outcomes of the one before it, as long as that
/// answered.
#[must_use]
pub fn once_ready(ready_ms: u64, new: Outcomes, old: Outcomes) -> Verdict {
    if new.failed >= FAILED_MIN && bounds(new).0 > usual(old) {
        return Verdict::Back(Why::Failures { new, old });
    }
    if new.calls >= CALLS_WATCHED || ready_ms >= WATCHED_MS_MAX { Verdict::Stay } else { Verdict::Watch }
}

/// The most that may fail without anything being wrong with the new version.
fn usual(old: Outcomes) -> f64 {
    if old.calls < CALLS_FEW { bounds(old).0.max(USUAL_SHARE) } else { bounds(old).1 }
}

/// Between which the share of failures surely lies.
fn bounds(outcomes: Outcomes) -> (f64, f64) {
    if outcomes.calls == 0 {
        return (0.0, 1.0);
    }
    let n = outcomes.calls as f64;
    let (share, z2) = (outcomes.failed.min(outcomes.calls) as f64 / n, Z * Z);
    let middle = (share + z2 / (2.0 * n)) / (1.0 + z2 / n);
    let half = Z / (1.0 + z2 / n) * (share * (1.0 - share) / n + z2 / (4.0 * n * n)).sqrt();
    (middle - half, middle + half)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(failed: u64, calls: u64) -> Outcomes {
        Outcomes { calls, failed }
    }

    #[test]
    fn one_that_always_fails_goes_after_a_few_requests() {
        assert_eq!(once_ready(0, of(2, 2), of(0, 1_000)), Verdict::Watch);
        assert!(matches!(once_ready(0, of(3, 3), of(0, 1_000)), Verdict::Back(_)));
        // Also where nothing is known of the old one.
        assert!(matches!(once_ready(0, of(3, 3), of(0, 0)), Verdict::Back(_)));
    }

    #[test]
    fn one_that_fails_as_often_as_before_stays() {
        for calls in 0..CALLS_WATCHED {
            assert_eq!(once_ready(0, of(calls / 10, calls), of(100, 1_000)), Verdict::Watch);
            assert_eq!(once_ready(0, of(calls, calls), of(1_000, 1_000)), Verdict::Watch, "both always fail");
        }
        assert_eq!(once_ready(0, of(20, 200), of(100, 1_000)), Verdict::Stay);
    }

    #[test]
    fn one_that_fails_clearly_more_often_goes() {
        assert!(matches!(once_ready(0, of(40, 100), of(100, 1_000)), Verdict::Back(_)));
        assert_eq!(once_ready(0, of(4, 100), of(10, 1_000)), Verdict::Watch);
    }

    #[test]
    fn it_is_not_looked_at_for_ever() {
        assert_eq!(once_ready(WATCHED_MS_MAX - 1, of(0, 1), of(0, 0)), Verdict::Watch);
        assert_eq!(once_ready(WATCHED_MS_MAX, of(0, 1), of(0, 0)), Verdict::Stay);
        assert_eq!(once_ready(0, of(0, CALLS_WATCHED), of(0, 0)), Verdict::Stay);
    }

    #[test]
    fn one_that_does_not_start_is_tried_some_times() {
        assert_eq!(before_ready(STARTS_MAX - 1), Verdict::Watch);
        let Verdict::Back(why) = before_ready(STARTS_MAX) else { panic!("it goes") };
        assert_eq!(why.to_string(), "it did not become ready in 3 tries");
    }
}
