//! Notices when one sensor's recent average leaves what has been normal for it. Online, and in a few numbers per sensor.
//!
//! Three exponential averages are kept: the *recent* one of the value (half-life [`RECENT_HALF_LIFE_US`]), the *normal*
//! one of the value and the *usual deviation* from it (half-life [`NORMAL_HALF_LIFE_US`]). The score is how many usual
//! deviations the recent average lies from the normal one; beyond [`SCORE_ALARM`] the reading is an alarm. Averaging
//! first makes a spike of one reading count for little and a shift that lasts for much.
//!
//! So that a fault does not become the new normal while it lasts, a reading moves the two long averages by at most
//! [`CLIP_DEVIATIONS`] usual deviations (Huber, "Robust estimation of a location parameter", 1964). While a sensor is
//! young its half-life is its age, and for [`LEARNING_US`] it gives no alarm.
//!
//! All of it is in units of time, not of readings: a sensor that measures each hour and one that measures every five
//! minutes need no different settings. None was fitted to one series; `tests/detection.rs` shows that the result holds
//! around them, too.

const HOUR_US: i64 = 3_600_000_000;
const DAY_US: i64 = 24 * HOUR_US;

/// Half a working shift or so: what lasts this long is no disturbance.
pub const RECENT_HALF_LIFE_US: i64 = 6 * HOUR_US;

/// Two weeks: normal is the same for working days and weekends.
pub const NORMAL_HALF_LIFE_US: i64 = 14 * DAY_US;

/// How long a new sensor is only learnt from.
pub const LEARNING_US: i64 = 3 * DAY_US;

/// The score from which a reading is an alarm.
pub const SCORE_ALARM: f64 = 3.0;

/// How many usual deviations a reading can move what is normal by.
pub const CLIP_DEVIATIONS: f64 = 3.0;

/// An alarm that lasts is raised again each hour; in between it would only tell the same.
pub const ALERT_REPEAT_US: i64 = HOUR_US;

/// A reading stands for the time since the last one, but for no more than this, however long the sensor was silent.
const ELAPSED_US_MAX: i64 = RECENT_HALF_LIFE_US;

/// A reading older than the newest by more than this is no late one: the sensor's clock was set back.
const LATE_US_MAX: i64 = DAY_US;

/// The shortest half-life of a young sensor, so that its first readings are averaged at all.
const YOUNG_HALF_LIFE_US_MIN: i64 = HOUR_US;

/// No deviation counts as less than this part of the normal value: a sensor that stood still while it was young would
/// otherwise raise an alarm at its first flicker.
const DEVIATION_RATIO_MIN: f64 = 1e-3;

/// Nor as less than this, where normal is zero: scores stay finite.
const DEVIATION_MIN: f64 = 1e-6;

/// The settings, so that tests can show what others do.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// See [`RECENT_HALF_LIFE_US`].
    pub recent_half_life_us: i64,
    /// See [`NORMAL_HALF_LIFE_US`].
    pub normal_half_life_us: i64,
    /// See [`LEARNING_US`].
    pub learning_us: i64,
    /// See [`SCORE_ALARM`].
    pub score_alarm: f64,
    /// See [`CLIP_DEVIATIONS`].
    pub clip_deviations: f64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            recent_half_life_us: RECENT_HALF_LIFE_US,
            normal_half_life_us: NORMAL_HALF_LIFE_US,
            learning_us: LEARNING_US,
            score_alarm: SCORE_ALARM,
            clip_deviations: CLIP_DEVIATIONS,
        }
    }
}

/// What is kept of a sensor.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Detector {
    /// The time of the newest reading; none before the first.
    newest_us: Option<i64>,
    /// For how long the sensor has been watched.
    age_us: i64,
    recent: f64,
    normal: f64,
    deviation: f64,
    /// When an alert was last raised.
    alert_us: Option<i64>,
}
littoral_sdk::impl_state!(Detector { newest_us, age_us, recent, normal, deviation, alert_us });

/// What a reading means.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Verdict {
    /// By how many usual deviations the recent average differs from the normal one; negative below it, 0 while learning.
    pub score: f64,
    /// Whether that is too many.
    pub alarm: bool,
    /// Whether an alert is to be raised for it.
    pub alert: bool,
}

impl Detector {
    /// Takes a reading in. One that was not measured but fills a gap is `measured: false`; it raises no alert.
    pub fn observe(&mut self, settings: &Settings, time_us: i64, value: f64, measured: bool) -> Verdict {
        let Some(newest_us) = self.newest_us else {
            *self = Self { newest_us: Some(time_us), recent: value, normal: value, ..Self::default() };
            return Verdict { score: 0.0, alarm: false, alert: false };
        };
        let elapsed_us = (time_us - newest_us).min(ELAPSED_US_MAX);
        if elapsed_us < -LATE_US_MAX {
            self.newest_us = Some(time_us);
            self.alert_us = None;
        }
        // A late reading is judged by what is known, and changes nothing: averages cannot take it in afterwards.
        if elapsed_us > 0 {
            self.newest_us = Some(time_us);
            self.age_us = self.age_us.saturating_add(elapsed_us);
            self.recent += weight(elapsed_us, settings.recent_half_life_us) * (value - self.recent);
        }
        let verdict = self.judge(settings, time_us, measured);
        if elapsed_us > 0 {
            self.learn(settings, elapsed_us, value);
        }
        verdict
    }

    /// The averages by which the latest reading was judged: the recent and the normal one.
    pub fn averages(&self) -> (f64, f64) {
        (self.recent, self.normal)
    }

    fn judge(&mut self, settings: &Settings, time_us: i64, measured: bool) -> Verdict {
        if self.age_us <= settings.learning_us {
            return Verdict { score: 0.0, alarm: false, alert: false };
        }
        let score = (self.recent - self.normal) / self.deviation_usual();
        let alarm = score.abs() >= settings.score_alarm;
        let alert = alarm && measured && self.alert_us.is_none_or(|last_us| time_us - last_us >= ALERT_REPEAT_US);
        if alert {
            self.alert_us = Some(time_us);
        }
        Verdict { score, alarm, alert }
    }

    fn learn(&mut self, settings: &Settings, elapsed_us: i64, value: f64) {
        let half_life_us = settings.normal_half_life_us.min(self.age_us.max(YOUNG_HALF_LIFE_US_MIN));
        let weight = weight(elapsed_us, half_life_us);
        let mut difference = value - self.normal;
        if self.age_us > settings.learning_us {
            let limit = settings.clip_deviations * self.deviation_usual();
            difference = difference.clamp(-limit, limit);
        }
        self.normal += weight * difference;
        self.deviation += weight * (difference.abs() - self.deviation);
    }

    fn deviation_usual(&self) -> f64 {
        self.deviation.max(DEVIATION_RATIO_MIN * self.normal.abs()).max(DEVIATION_MIN)
    }
}

/// How much of an average with this half-life a reading that stands for `elapsed_us` makes up.
fn weight(elapsed_us: i64, half_life_us: i64) -> f64 {
    1.0 - (-(elapsed_us as f64) / half_life_us as f64).exp2()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Readings around 100 that alternate by 2, from an hour to another.
    fn steady(detector: &mut Detector, hours: std::ops::Range<i64>, level: f64) -> Vec<Verdict> {
        let swing = |hour: i64| if hour % 2 == 0 { 2.0 } else { -2.0 };
        hours.map(|hour| detector.observe(&Settings::default(), hour * HOUR_US, level + swing(hour), true)).collect()
    }

    #[test]
    fn what_is_steady_raises_nothing() {
        let mut detector = Detector::default();
        assert!(
            steady(&mut detector, 0..2000, 100.0).iter().all(|verdict| !verdict.alarm && verdict.score.abs() < 1.0)
        );
    }

    #[test]
    fn a_lasting_shift_is_an_alarm_and_a_spike_is_none() {
        let mut detector = Detector::default();
        steady(&mut detector, 0..500, 100.0);
        let mut spiked = detector;
        assert!(!spiked.observe(&Settings::default(), 500 * HOUR_US, 130.0, true).alarm);
        let shifted = steady(&mut detector, 500..524, 85.0);
        assert!(shifted.last().is_some_and(|verdict| verdict.alarm && verdict.score < -SCORE_ALARM));
    }

    #[test]
    fn a_young_sensor_is_only_learnt_from() {
        let mut detector = Detector::default();
        steady(&mut detector, 0..24, 100.0);
        assert!(steady(&mut detector, 24..72, 0.0).iter().all(|verdict| !verdict.alarm && verdict.score == 0.0));
    }

    #[test]
    fn a_fault_does_not_become_normal_within_days() {
        let mut detector = Detector::default();
        steady(&mut detector, 0..1000, 100.0);
        steady(&mut detector, 1000..1072, 0.0);
        assert!(detector.averages().1 > 95.0, "{detector:?}");
    }

    #[test]
    fn alerts_repeat_each_hour() {
        let mut detector = Detector::default();
        steady(&mut detector, 0..500, 100.0);
        let alerts = (0..12 * 24)
            .map(|step| detector.observe(&Settings::default(), 500 * HOUR_US + step * HOUR_US / 12, 50.0, true))
            .filter(|verdict| verdict.alert)
            .count();
        assert!((20..=24).contains(&alerts), "{alerts}");
    }

    #[test]
    fn late_readings_change_nothing_and_a_clock_set_back_is_followed() {
        let mut detector = Detector::default();
        steady(&mut detector, 0..500, 100.0);
        let before = detector;
        detector.observe(&Settings::default(), 490 * HOUR_US, 0.0, true);
        assert_eq!(detector, before);
        detector.observe(&Settings::default(), 0, 0.0, true);
        assert_eq!(detector.newest_us, Some(0));
        assert_eq!(detector.averages(), before.averages());
    }

    #[test]
    fn a_sensor_that_stands_still_gives_finite_scores() {
        let mut detector = Detector::default();
        for hour in 0..500 {
            assert!(detector.observe(&Settings::default(), hour * HOUR_US, 0.0, true).score.abs() < 1.0);
        }
        assert!(detector.observe(&Settings::default(), 500 * HOUR_US, 1.0, true).score.is_finite());
    }

    #[test]
    fn the_rate_of_readings_matters_little() {
        let [mut hourly, mut frequent] = [Detector::default(); 2];
        for step in 0..12 * 500 {
            let (time_us, value) = (step * HOUR_US / 12, 100.0 + (step as f64 / 40.0).sin());
            frequent.observe(&Settings::default(), time_us, value, true);
            if step % 12 == 0 {
                hourly.observe(&Settings::default(), time_us, value, true);
            }
        }
        assert!((hourly.averages().1 - frequent.averages().1).abs() < 0.2);
    }
}
