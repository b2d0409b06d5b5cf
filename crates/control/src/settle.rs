//! What a node says of a situation that flaps.
//!
//! A battery at the very level that a function asks for, a position on the rim of a circle, a plug that makes bad
//! contact: were each measurement told, what runs there would come and go with it. So what is worse is told at once, and
//! what is better only when it has become better by a margin, or has stayed so for a while. It is settled here, on the
//! node that measures, and not by those who decide: they all see the same figure and need no memory of earlier ones.

use littoral_model::situation::{PowerSource, Situation};

/// By how many percent a battery must have filled since the last figure before it is told.
pub const BATTERY_RISE_PERCENT: u8 = 5;
/// How far a node must be from the last position before a new one is told, in metres: more than the error of a receiver
/// under open sky.
pub const POSITION_STEP_M: u64 = 25;
/// How long a node must stand still, or be back on the mains, before that is told, in milliseconds.
pub const CALM_MS: u64 = 60_000;

/// Settles what one node measures of its situation.
#[derive(Clone, Debug, Default)]
pub struct Settled {
    told: Option<Situation>,
    /// Since when it has not moved by a step.
    still_since_ms: u64,
    /// Since when it has been on the mains, if it is.
    mains_since_ms: Option<u64>,
}

impl Settled {
    /// Takes a measurement, on any clock that never goes back, and answers with what to tell. Whether a node moves may be
    /// measured, or follows from its positions. The first measurement is told as it is.
    pub fn take(&mut self, now_ms: u64, measured: Situation) -> &Situation {
        let is_on_mains = measured.power.source != PowerSource::Battery;
        self.mains_since_ms = is_on_mains.then(|| self.mains_since_ms.unwrap_or(now_ms));
        let Some(before) = self.told.take() else {
            self.still_since_ms = now_ms;
            return self.told.insert(measured);
        };
        let told = self.told.insert(measured);
        // The battery: down at once, up by a margin.
        if let (Some(was), Some(is)) = (before.power.battery_percent, told.power.battery_percent)
            && is > was
            && is < was.saturating_add(BATTERY_RISE_PERCENT)
            && is < 100
        {
            told.power.battery_percent = Some(was);
        }
        let is_back = before.power.source == PowerSource::Battery && is_on_mains;
        if is_back && self.mains_since_ms.is_none_or(|since| now_ms.saturating_sub(since) < CALM_MS) {
            told.power.source = PowerSource::Battery;
        }
        // The position: by steps, and each step is movement.
        let has_stepped = match (before.position, told.position) {
            (Some(was), Some(is)) => was.distance(is).as_metres() >= POSITION_STEP_M,
            _ => false,
        };
        if has_stepped || told.moving {
            self.still_since_ms = now_ms;
        }
        if !has_stepped && before.position.is_some() && told.position.is_some() {
            told.position = before.position;
        }
        let is_calm = now_ms.saturating_sub(self.still_since_ms) >= CALM_MS;
        told.moving = told.moving || has_stepped || (before.moving && !is_calm);
        told
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use littoral_model::situation::Power;

    use super::*;

    fn battery(percent: u8) -> Situation {
        let power = Power { source: PowerSource::Battery, battery_percent: Some(percent), ..Power::default() };
        Situation { power, ..Situation::default() }
    }

    fn at(latitude: f64) -> Situation {
        Situation { position: Some(format!("{latitude:.6},18").parse().unwrap()), ..Situation::default() }
    }

    #[test]
    fn a_battery_that_flaps_is_told_once() {
        let mut settled = Settled::default();
        let told: Vec<u8> = [31, 30, 29, 30, 31, 30, 29, 33, 34, 35, 34]
            .into_iter()
            .map(|percent| settled.take(0, battery(percent)).power.battery_percent.unwrap())
            .collect();
        assert_eq!(told, [31, 30, 29, 29, 29, 29, 29, 29, 34, 34, 34]);
        assert_eq!(settled.take(0, battery(100)).power.battery_percent, Some(100));
    }

    #[test]
    fn lost_mains_are_told_at_once_and_mains_when_they_have_lasted() {
        let mains = || Situation { power: Power { source: PowerSource::Mains, ..Power::default() }, ..battery(80) };
        let mut settled = Settled::default();
        assert_eq!(settled.take(0, mains()).power.source, PowerSource::Mains);
        assert_eq!(settled.take(1, battery(80)).power.source, PowerSource::Battery);
        assert_eq!(settled.take(2, mains()).power.source, PowerSource::Battery);
        // It was lost again in between: the wait begins anew.
        assert_eq!(settled.take(40_000, battery(80)).power.source, PowerSource::Battery);
        assert_eq!(settled.take(41_000, mains()).power.source, PowerSource::Battery);
        assert_eq!(settled.take(62_000, mains()).power.source, PowerSource::Battery);
        assert_eq!(settled.take(41_000 + CALM_MS, mains()).power.source, PowerSource::Mains);
    }

    #[test]
    fn positions_are_told_by_steps_and_a_step_is_movement() {
        let mut settled = Settled::default();
        settled.take(0, at(59.0));
        // Eleven metres: the receiver's error.
        let told = settled.take(1_000, at(59.0001)).clone();
        assert_eq!((told.position, told.moving), (at(59.0).position, false));
        let told = settled.take(2_000, at(59.001)).clone();
        assert_eq!((told.position, told.moving), (at(59.001).position, true));
        assert!(settled.take(3_000, at(59.001)).moving);
        assert!(!settled.take(2_000 + CALM_MS, at(59.001)).moving);
        // A device maker's own sensor is believed.
        assert!(settled.take(99_000, Situation { moving: true, ..at(59.001) }).moving);
    }
}
