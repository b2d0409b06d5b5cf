//! The exponentially weighted mean and variance of a series, and how far a value lies from them.
//!
//! After T. Finch, "Incremental calculation of weighted mean and variance", 2009. A value has the weight that the time since the last one
//! gives it; while there are few, each has the same, so that the first ones do not count for more than they are.

/// How values are judged.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    /// After so long a value counts half.
    pub(crate) half_life_us: i64,
    /// For so long a new series is only learnt from.
    pub(crate) learning_us: i64,
    /// From so many deviations on a value is an anomaly. One that is further off moves mean and variance as if it were just there.
    pub(crate) threshold: f64,
    /// No deviation counts as less.
    pub(crate) deviation_min: f64,
}

/// After so many half-lives without values, or so far back, a series begins anew: what is known of it says nothing any more, and a moment in
/// the future would end it for ever.
const ANEW_HALF_LIVES: i64 = 10;

/// What is kept of a series.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Detector {
    count: u64,
    first_us: i64,
    newest_us: i64,
    mean: f64,
    variance: f64,
}
littoral_sdk::impl_state!(Detector { count, first_us, newest_us, mean, variance });

impl Detector {
    /// Takes a value in; by how many deviations it lies from the mean of those before, none while the series is learnt. What is not newer
    /// than the newest is judged and not learnt from.
    pub(crate) fn observe(&mut self, rules: &Rules, time_us: i64, value: f64) -> Option<f64> {
        let elapsed_us = time_us.saturating_sub(self.newest_us);
        if self.count == 0 || elapsed_us.saturating_abs() > rules.half_life_us.saturating_mul(ANEW_HALF_LIVES) {
            *self = Self { count: 1, first_us: time_us, newest_us: time_us, mean: value, variance: 0.0 };
            return None;
        }
        let is_learnt = time_us.saturating_sub(self.first_us) >= rules.learning_us;
        let deviation = self.variance.sqrt().max(rules.deviation_min);
        let score = is_learnt.then(|| (value - self.mean) / deviation);
        if elapsed_us > 0 {
            let limit = if is_learnt { rules.threshold * deviation } else { f64::INFINITY };
            self.learn(rules, elapsed_us, (value - self.mean).clamp(-limit, limit));
            self.newest_us = time_us;
        }
        // A value that is out of all measure leaves nothing to compare the next ones with.
        if !(self.mean.is_finite() && self.variance.is_finite()) {
            *self = Self::default();
        }
        score
    }

    fn learn(&mut self, rules: &Rules, elapsed_us: i64, difference: f64) {
        self.count = self.count.saturating_add(1);
        let by_time = 1.0 - (-(elapsed_us as f64) / rules.half_life_us as f64).exp2();
        let weight = by_time.max(1.0 / self.count as f64);
        self.mean += weight * difference;
        self.variance = (1.0 - weight) * (self.variance + weight * difference * difference);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing)]
    use super::*;

    const SECOND_US: i64 = 1_000_000;

    /// What a thousand values about 20 come to, one a second from a moment on.
    fn learnt(from_s: i64) -> Detector {
        let mut detector = Detector::default();
        for n in 0..1_000 {
            detector.observe(&rules(60), (from_s + n) * SECOND_US, 20.0 + (n % 7) as f64 / 10.0);
        }
        detector
    }

    #[test]
    fn after_a_long_time_without_values_a_series_begins_anew() {
        let mut detector = learnt(0);
        assert_eq!(detector.observe(&rules(60), 100_000 * SECOND_US, 25.0), None);
        let score = detector.observe(&rules(60), 100_001 * SECOND_US, 25.1);
        assert!(score.is_some() && detector.count == 2, "{detector:?}");
    }

    #[test]
    fn neither_a_moment_in_the_future_nor_a_value_out_of_measure_ends_a_series() {
        let mut detector = learnt(1_000_000_000);
        assert_eq!(detector.observe(&rules(60), 0, 20.0), None);
        assert!(detector.observe(&rules(60), SECOND_US, 20.1).is_some());
        let mut detector = learnt(0);
        detector.observe(&rules(60), 1_000 * SECOND_US, f64::MAX);
        for n in 1_001..1_010 {
            detector.observe(&rules(60), n * SECOND_US, 20.0);
        }
        assert!(detector.mean.is_finite() && detector.variance.is_finite(), "{detector:?}");
    }

    fn rules(half_life_s: i64) -> Rules {
        Rules { half_life_us: half_life_s * SECOND_US, learning_us: 0, threshold: 1e12, deviation_min: 1e-9 }
    }

    /// Values at uneven moments, the same each time.
    fn series() -> Vec<(i64, f64)> {
        (0..300_i64)
            .map(|n| (n * SECOND_US + n * n * 977 % 800_000, ((n * n * 31 + 7 * n) % 113) as f64 / 4.0))
            .collect()
    }

    /// Mean and variance by the weights of all values, each written out.
    fn plainly(values: &[(i64, f64)], half_life_us: f64) -> (f64, f64) {
        let own = |place: usize| match place {
            0 => 1.0,
            _ => {
                let elapsed = (values[place].0 - values[place - 1].0) as f64;
                (1.0 - 0.5_f64.powf(elapsed / half_life_us)).max(1.0 / (place + 1) as f64)
            }
        };
        let weight =
            |place: usize| own(place) * (place + 1..values.len()).map(|later| 1.0 - own(later)).product::<f64>();
        let mean: f64 = values.iter().enumerate().map(|(place, (_, value))| weight(place) * value).sum();
        let variance =
            values.iter().enumerate().map(|(place, (_, value))| weight(place) * (value - mean).powi(2)).sum();
        (mean, variance)
    }

    #[test]
    fn mean_and_variance_are_those_of_the_weighted_values() {
        for half_life_s in [5, 60, 1_000_000] {
            let (mut detector, series) = (Detector::default(), series());
            for (place, (time_us, value)) in series.iter().enumerate() {
                let expected = plainly(&series[..place], half_life_s as f64 * SECOND_US as f64);
                let score = detector.observe(&rules(half_life_s), *time_us, *value);
                if place > 1 {
                    let wanted = (value - expected.0) / expected.1.sqrt().max(1e-9);
                    assert!((score.unwrap_or_default() - wanted).abs() < 1e-6, "{place}: {score:?} {wanted}");
                }
            }
        }
    }

    #[test]
    fn an_outlier_moves_little_and_a_late_value_nothing() {
        let rules = Rules { threshold: 4.0, ..rules(60) };
        let mut detector = Detector::default();
        for (time_us, value) in series() {
            detector.observe(&rules, time_us, value);
        }
        let before = detector;
        let score = detector.observe(&rules, before.newest_us - 1, 1e6);
        assert!(score.is_some_and(|score| score > 1e4) && detector == before);
        detector.observe(&rules, before.newest_us + SECOND_US, 1e6);
        assert!((detector.mean - before.mean).abs() < before.variance.sqrt(), "{detector:?}");
    }
}
