//! Quantiles of latencies.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// The longest latency that is told apart, in microseconds: an hour. Longer ones count as this.
const LATENCY_US_MAX: u64 = 3_600_000_000;
/// Two significant digits: quantiles within 1 %.
const DIGITS: u8 = 2;

/// Latencies, recorded one by one; some kilobytes once there is one, 20 KiB if there is one of an hour.
#[derive(Debug, Default)]
pub struct Latency(Option<Histogram<u64>>);

/// Quantiles of a latency, in microseconds; all 0 if nothing was measured.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quantiles {
    /// How many were measured.
    pub count: u64,
    /// The median.
    pub p50_us: u64,
    /// The 95th percentile.
    pub p95_us: u64,
    /// The 99th percentile.
    pub p99_us: u64,
}

impl Latency {
    /// Takes a latency that applies to so many things.
    pub fn record(&mut self, latency: Duration, count: u64) {
        if self.0.is_none() {
            // It grows with the latencies: a node has one for each of its functions.
            self.0 = Histogram::new(DIGITS).ok();
        }
        if let Some(histogram) = &mut self.0 {
            let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
            // Growing is all that could fail, and not below this bound.
            histogram.record_n(micros.clamp(1, LATENCY_US_MAX), count).unwrap_or_default();
        }
    }

    /// Takes in what another one has recorded.
    pub fn add(&mut self, other: &Self) {
        match (&mut self.0, &other.0) {
            // Both have the same digits, and grow.
            (Some(ours), Some(theirs)) => ours.add(theirs).unwrap_or_default(),
            (None, Some(theirs)) => self.0 = Some(theirs.clone()),
            (_, None) => {}
        }
    }

    /// How many were recorded that are longer than this.
    #[must_use]
    pub fn count_above(&self, limit: Duration) -> u64 {
        let limit_us = u64::try_from(limit.as_micros()).unwrap_or(u64::MAX);
        // What is recorded as the same value as the limit is not longer.
        self.0.as_ref().map_or(0, |histogram| {
            let bound_us = histogram.highest_equivalent(limit_us.min(LATENCY_US_MAX));
            histogram.len().saturating_sub(histogram.count_between(0, bound_us))
        })
    }

    /// The quantiles of what was recorded so far.
    #[must_use]
    pub fn quantiles(&self) -> Quantiles {
        let Some(histogram) = self.0.as_ref().filter(|histogram| !histogram.is_empty()) else {
            return Quantiles::default();
        };
        Quantiles {
            count: histogram.len(),
            p50_us: histogram.value_at_quantile(0.5),
            p95_us: histogram.value_at_quantile(0.95),
            p99_us: histogram.value_at_quantile(0.99),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_within_a_percent() {
        let mut latency = Latency::default();
        assert_eq!(latency.quantiles(), Quantiles::default());
        for ms in 1..=100 {
            latency.record(Duration::from_millis(ms), 1);
        }
        let quantiles = latency.quantiles();
        assert_eq!(quantiles.count, 100);
        assert!(quantiles.p50_us.abs_diff(50_000) <= 500, "{quantiles:?}");
        assert!(quantiles.p99_us.abs_diff(99_000) <= 990, "{quantiles:?}");
        assert_eq!(latency.count_above(Duration::from_millis(90)), 10);
        assert_eq!(latency.count_above(Duration::from_secs(10_000)), 0);
        assert_eq!(Latency::default().count_above(Duration::ZERO), 0);
    }
}
