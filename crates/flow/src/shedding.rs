//! How a stage that passes over rows does so: which, and how many of the others it takes at once.

use std::time::Duration;

use crate::pending::BATCH_ROWS_MAX;

/// What a stage takes while it passes over rows.
///
/// Rows that come while a batch is processed wait for its end, so a batch is to take no more than half of the time that rows may have
/// waited. How many rows that are is found out: from one on twice as many, until it took longer; then half, and an eighth more each time.
/// Where one row alone takes longer, batches are what they are: that it would be less for fewer rows is not to be expected.
#[derive(Debug)]
pub(crate) struct Shedding {
    after: Duration,
    rows_max: usize,
    /// Whether a batch took too long before.
    has_exceeded: bool,
    /// Whether one row did.
    is_unbound: bool,
}

impl Shedding {
    /// Takes rows that are no older than that.
    pub(crate) fn new(after: Duration) -> Self {
        Self { after, rows_max: 1, has_exceeded: false, is_unbound: false }
    }

    /// How old rows may be, in microseconds.
    pub(crate) fn after_us(&self) -> i64 {
        i64::try_from(self.after.as_micros()).unwrap_or(i64::MAX)
    }

    /// How many rows are taken at once.
    pub(crate) fn rows_max(&self) -> usize {
        if self.is_unbound { BATCH_ROWS_MAX } else { self.rows_max }
    }

    /// Takes note of how long so many rows took.
    pub(crate) fn measured(&mut self, rows: usize, took: Duration) {
        if took > self.after / 2 {
            self.is_unbound |= rows <= 1;
            self.has_exceeded = true;
            self.rows_max = (rows / 2).max(1);
        } else if rows >= self.rows_max {
            let more = if self.has_exceeded { self.rows_max / 8 + 1 } else { self.rows_max };
            self.rows_max = (self.rows_max + more).min(BATCH_ROWS_MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AFTER: Duration = Duration::from_secs(1);

    /// How many rows are taken at once after so many batches, each of which takes some time and some more for each row.
    fn settled(batches: usize, fixed: Duration, each: Duration) -> usize {
        let mut shedding = Shedding::new(AFTER);
        for _ in 0..batches {
            let rows = shedding.rows_max();
            shedding.measured(rows, fixed + each * rows as u32);
        }
        shedding.rows_max()
    }

    #[test]
    fn a_batch_takes_half_of_what_rows_may_wait() {
        for batches in 20..60 {
            assert!((2..=7).contains(&settled(batches, Duration::ZERO, Duration::from_millis(100))));
            assert!((100..=300).contains(&settled(batches, Duration::from_millis(300), Duration::from_millis(1))));
        }
    }

    #[test]
    fn what_takes_no_longer_for_many_rows_gets_many() {
        assert_eq!(settled(20, Duration::from_millis(400), Duration::ZERO), BATCH_ROWS_MAX);
        assert_eq!(settled(20, Duration::from_millis(900), Duration::ZERO), BATCH_ROWS_MAX);
        assert_eq!(settled(20, Duration::ZERO, Duration::from_micros(1)), BATCH_ROWS_MAX);
    }

    #[test]
    fn a_few_rows_say_nothing_of_many() {
        let mut shedding = Shedding::new(AFTER);
        (0..5).for_each(|_| shedding.measured(shedding.rows_max(), Duration::ZERO));
        let before = shedding.rows_max();
        shedding.measured(before - 1, Duration::ZERO);
        assert_eq!(shedding.rows_max(), before);
    }
}
