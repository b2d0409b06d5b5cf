//! Quantiles of durations in a few hundred bytes, to be merged with those of others.
//!
//! A sketch with relative error (DDSketch: Masson, Rim and Lee, VLDB 2019): bins grow by a constant factor, so that a
//! quantile is within [`ERROR_PERCENT`] of a value that was recorded. When there are more than [`BINS_MAX`] bins, each
//! two neighbours become one (UDDSketch: Epicoco et al., 2020): a single outlier makes all bins somewhat coarser, and
//! none of them wrong. Old records count half each time that there are [`COUNT_MAX`]: what a function does changes.

use serde::{Deserialize, Serialize};

/// How far a quantile is from a recorded value at most, in percent, while the values are within a factor of about a
/// hundred of each other; each further doubling of bins about doubles it.
pub const ERROR_PERCENT: u32 = 5;
/// The most bins: 6 bytes each on the wire.
pub const BINS_MAX: usize = 48;
/// How many records count.
pub const COUNT_MAX: u32 = 4_096;
/// The coarsest bins: with 16 doublings a bin spans any duration.
const LEVEL_MAX: u8 = 16;

/// The distribution of a duration in microseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sketch {
    /// How often neighbouring bins were made one.
    level: u8,
    /// Number of the bin and records in it, in order.
    bins: Vec<(u16, u32)>,
}

impl Sketch {
    /// Takes in a duration, in microseconds.
    pub fn record(&mut self, value_us: u64) {
        let bin = bin_of(value_us, self.level);
        match self.bins.binary_search_by_key(&bin, |(bin, _)| *bin) {
            Ok(at) => {
                if let Some((_, count)) = self.bins.get_mut(at) {
                    *count = count.saturating_add(1);
                }
            }
            Err(at) => self.bins.insert(at, (bin, 1)),
        }
        self.keep_bounded();
    }

    /// Takes in all that another sketch has.
    pub fn merge(&mut self, other: &Self) {
        let mut other = other.clone();
        while self.level < other.level.min(LEVEL_MAX) {
            self.coarsen();
        }
        while other.level < self.level {
            other.coarsen();
        }
        self.bins.extend(other.bins);
        self.bins.sort_unstable_by_key(|(bin, _)| *bin);
        self.join();
        self.keep_bounded();
    }

    /// How many records there are.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.bins.iter().fold(0, |sum: u32, (_, count)| sum.saturating_add(*count))
    }

    /// The value of a rank from 1 to [`count`](Self::count), in microseconds; that of the last for higher ones. None if
    /// there are no records.
    #[must_use]
    pub fn at_rank(&self, rank: u32) -> Option<u64> {
        let mut seen = 0_u32;
        let found = self.bins.iter().find(|(_, count)| {
            seen = seen.saturating_add(*count);
            seen >= rank
        });
        found.or(self.bins.last()).map(|(bin, _)| value_of(*bin, self.level))
    }

    /// A quantile, as 0.95, in microseconds. None if there are no records.
    #[must_use]
    pub fn quantile(&self, quantile: f64) -> Option<u64> {
        let rank = (quantile * f64::from(self.count())).ceil().max(1.0);
        self.at_rank(rank as u32)
    }

    fn keep_bounded(&mut self) {
        while self.count() > COUNT_MAX {
            self.bins.iter_mut().for_each(|(_, count)| *count /= 2);
            self.bins.retain(|(_, count)| *count > 0);
        }
        while self.bins.len() > BINS_MAX && self.level < LEVEL_MAX {
            self.coarsen();
        }
    }

    /// Makes each two neighbouring bins one.
    fn coarsen(&mut self) {
        self.level = self.level.saturating_add(1);
        self.bins.iter_mut().for_each(|(bin, _)| *bin = bin.div_ceil(2));
        self.join();
    }

    fn join(&mut self) {
        self.bins.dedup_by(|next, kept| {
            let is_same = next.0 == kept.0;
            if is_same {
                kept.1 = kept.1.saturating_add(next.1);
            }
            is_same
        });
    }
}

/// The factor between bins of a level.
fn growth(level: u8) -> f64 {
    let error = f64::from(ERROR_PERCENT) / 100.0;
    ((1.0 + error) / (1.0 - error)).powi(1_i32 << level.min(LEVEL_MAX))
}

fn bin_of(value_us: u64, level: u8) -> u16 {
    // At most 444 for the longest duration in the finest bins.
    ((value_us.max(1) as f64).ln() / growth(level).ln()).ceil() as u16
}

/// The value of which no other of the bin is farther away than the error.
fn value_of(bin: u16, level: u8) -> u64 {
    let growth = growth(level);
    (2.0 * growth.powi(i32::from(bin)) / (growth + 1.0)).round() as u64
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn sketch(values: &[u64]) -> Sketch {
        let mut sketch = Sketch::default();
        values.iter().for_each(|value| sketch.record(*value));
        sketch
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn quantiles_are_within_the_error(mut values in proptest::collection::vec(500_u64..40_000, 1..400), quantile in 0.01..1.0) {
            let got = sketch(&values).quantile(quantile).unwrap();
            values.sort_unstable();
            let exact = values[((quantile * values.len() as f64).ceil() as usize).max(1) - 1];
            prop_assert!(got.abs_diff(exact) * 100 <= exact * u64::from(ERROR_PERCENT) + 100, "{got} for {exact}");
        }

        #[test]
        fn merged_is_as_if_recorded_together(a in proptest::collection::vec(any::<u64>(), 0..300), b in proptest::collection::vec(1_u64..5_000_000, 0..300)) {
            let mut merged = sketch(&a);
            merged.merge(&sketch(&b));
            let together = sketch(&[a, b].concat());
            prop_assert_eq!(merged, together);
        }

        #[test]
        fn it_stays_bounded_whatever_is_recorded(values in proptest::collection::vec(any::<u64>(), 0..600)) {
            let sketch = sketch(&values);
            prop_assert!(sketch.bins.len() <= BINS_MAX);
            prop_assert!(postcard::to_allocvec(&sketch).unwrap().len() <= 6 * BINS_MAX + 4);
        }
    }

    #[test]
    fn an_outlier_does_not_spoil_the_median() {
        let mut values: Vec<u64> = (900..1_100).collect();
        values.push(3_600_000_000);
        let sketch = sketch(&values);
        assert!(sketch.quantile(0.5).unwrap().abs_diff(1_000) < 50);
        assert!(sketch.quantile(1.0).unwrap() > 3_000_000_000);
    }

    #[test]
    fn old_records_fade() {
        let mut sketch = sketch(&[1_000; 10_000]);
        assert!(sketch.count() <= COUNT_MAX);
        (0..3 * COUNT_MAX).for_each(|_| sketch.record(9_000));
        assert!(sketch.quantile(0.2).unwrap() > 8_000, "what was four thousand records ago hardly counts");
    }
}
