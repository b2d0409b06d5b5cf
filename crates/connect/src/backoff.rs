//! The pauses between tries of what is outside.

use std::time::Duration;

use littoral_flow::stats::Stats;
use rand::Rng as _;

use crate::Trouble;

/// The pause after a first failure; it doubles up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// The longest pause: what has come back is noticed within it.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// How long to wait before the next try.
#[derive(Debug)]
pub(crate) struct Backoff(Duration);

impl Default for Backoff {
    fn default() -> Self {
        Self(PAUSE_MIN)
    }
}

impl Backoff {
    /// Tells of a failure, and waits before the next try.
    pub(crate) async fn wait(&mut self, stats: &Stats, trouble: &Trouble) {
        stats.failed(&trouble.0);
        // Not all at the same moment, who were turned away together.
        let share = rand::rng().random_range(0.5..=1.0);
        tokio::time::sleep(self.0.mul_f64(share)).await;
        self.0 = (self.0 * 2).min(PAUSE_MAX);
    }

    /// It works again.
    pub(crate) fn over(&mut self, stats: &Stats) {
        stats.recovered();
        self.0 = PAUSE_MIN;
    }
}
