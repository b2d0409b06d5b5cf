//! Hybrid logical time (Kulkarni et al., "Logical Physical Clocks", 2014): close to wall time, and never against the order
//! in which things caused one another.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How far another node's time may be ahead of ours before it is not followed, in microseconds: five minutes is more than
/// a machine without a working clock service drifts in a month, and less than harm comes from.
pub const AHEAD_US_MAX: u64 = 5 * 60 * 1_000_000;

/// A moment; later ones are greater.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub struct Hlc {
    /// The highest wall time seen, in microseconds since 1970.
    pub physical_us: u64,
    /// Tells apart what has the same.
    pub logical: u32,
}

impl fmt::Display for Hlc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.physical_us, self.logical)
    }
}

/// Another node's time is too far ahead to be followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is {} s ahead of this node's clock; set the clock of the machine that is wrong", ahead_us / 1_000_000)]
pub struct TooFarAhead {
    /// By how much, in microseconds.
    pub ahead_us: u64,
}

/// A node's clock; the wall time is told to it.
#[derive(Clone, Debug, Default)]
pub struct Clock(Hlc);

impl Clock {
    /// The moment of something that happens here now: later than all before it.
    pub fn tick(&mut self, now_us: u64) -> Hlc {
        self.0 = if now_us > self.0.physical_us { Hlc { physical_us: now_us, logical: 0 } } else { next(self.0) };
        self.0
    }

    /// Takes in the moment of something that happened elsewhere, and gives the moment of hearing of it: later than
    /// that, and than all before it here.
    ///
    /// # Errors
    /// When it is further ahead than [`AHEAD_US_MAX`]; the clock then stays as it is.
    pub fn observe(&mut self, other: Hlc, now_us: u64) -> Result<Hlc, TooFarAhead> {
        let ahead_us = other.physical_us.saturating_sub(now_us);
        if ahead_us > AHEAD_US_MAX {
            return Err(TooFarAhead { ahead_us });
        }
        self.0 = self.0.max(other);
        Ok(self.tick(now_us))
    }
}

/// The moment right after.
#[must_use]
pub fn next(time: Hlc) -> Hlc {
    match time.logical.checked_add(1) {
        Some(logical) => Hlc { logical, ..time },
        None => Hlc { physical_us: time.physical_us.saturating_add(1), logical: 0 },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_goes_on_when_the_wall_clock_goes_back() {
        let mut clock = Clock::default();
        let first = clock.tick(1_000);
        let second = clock.tick(500);
        assert!(second > first);
        assert!(clock.tick(2_000) > second);
    }

    #[test]
    fn what_was_heard_of_is_earlier_than_what_follows() {
        let mut clock = Clock::default();
        let heard = Hlc { physical_us: 9_000, logical: 7 };
        let hearing = clock.observe(heard, 1_000);
        assert_eq!(hearing, Ok(Hlc { physical_us: 9_000, logical: 8 }));
        assert!(clock.tick(1_001) > Hlc { physical_us: 9_000, logical: 8 });
        assert_eq!(clock.observe(heard, 9_001), Ok(Hlc { physical_us: 9_001, logical: 0 }));
    }

    #[test]
    fn a_moment_without_logical_numbers_left_is_followed_by_the_next_microsecond() {
        let last = Hlc { physical_us: 9, logical: u32::MAX };
        assert_eq!(next(last), Hlc { physical_us: 10, logical: 0 });
        assert_eq!(next(last).to_string(), "10.0");
    }

    #[test]
    fn a_clock_that_is_far_ahead_is_not_followed() {
        let mut clock = Clock::default();
        let far = Hlc { physical_us: AHEAD_US_MAX + 2, logical: 0 };
        assert_eq!(clock.observe(far, 1), Err(TooFarAhead { ahead_us: AHEAD_US_MAX + 1 }));
        assert_eq!(clock.tick(5), Hlc { physical_us: 5, logical: 0 });
    }
}
