//! Resamples one sensor's readings to the regular grid on which it measures.
//!
//! The interval is learnt from the first readings. From then on a reading is moved to the nearest slot of the grid, and
//! a short gap before it is filled. Every reading comes out exactly once, whatever its time: the grid fills and aligns,
//! it never drops.

const SECOND_US: i64 = 1_000_000;
const MINUTE_US: i64 = 60 * SECOND_US;
const HOUR_US: i64 = 60 * MINUTE_US;

/// The intervals at which sensors measure; each divides a day, so that slots fall on round times.
const INTERVALS_US: [i64; 25] = [
    SECOND_US / 10,
    SECOND_US / 5,
    SECOND_US / 2,
    SECOND_US,
    2 * SECOND_US,
    5 * SECOND_US,
    10 * SECOND_US,
    15 * SECOND_US,
    20 * SECOND_US,
    30 * SECOND_US,
    MINUTE_US,
    2 * MINUTE_US,
    5 * MINUTE_US,
    10 * MINUTE_US,
    15 * MINUTE_US,
    20 * MINUTE_US,
    30 * MINUTE_US,
    HOUR_US,
    2 * HOUR_US,
    3 * HOUR_US,
    4 * HOUR_US,
    6 * HOUR_US,
    8 * HOUR_US,
    12 * HOUR_US,
    24 * HOUR_US,
];

/// How many gaps between readings the interval is learnt from; their median withstands three that are odd.
pub(crate) const GAPS_LEARNT: usize = 7;

/// The longest gap that is filled: an hour of five-minute readings. What was not seen for longer is not known.
pub(crate) const SLOTS_FILLED_MAX: i64 = 12;

/// A reading older than the newest by more than this is no late one: the sensor's clock was set back, and the grid
/// starts anew at it. Otherwise one reading with a time far ahead would end the filling of gaps for good.
pub(crate) const LATE_US_MAX: i64 = 24 * HOUR_US;

/// What is kept of a sensor.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Grid {
    /// The gaps seen while the interval is being learnt.
    gaps_us: Vec<i64>,
    /// The interval, once it is known.
    interval_us: Option<i64>,
    /// The newest reading, in its slot.
    newest: Option<Point>,
}
littoral_sdk::impl_state!(Grid { gaps_us, interval_us, newest });

/// A value at a time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Point {
    /// Microseconds since 1970.
    pub(crate) time_us: i64,
    /// Degrees Fahrenheit.
    pub(crate) value: f64,
}
littoral_sdk::impl_state!(Point { time_us, value });

impl Grid {
    /// Takes a reading, hands what fills the gap before it to `fill`, oldest first, and answers the time of its slot.
    pub(crate) fn place(&mut self, reading: Point, fill: impl FnMut(Point)) -> i64 {
        let slot_us = self.interval_us.map_or(reading.time_us, |interval_us| nearest(reading.time_us, interval_us));
        let placed = Point { time_us: slot_us, value: reading.value };
        let Some(newest) = self.newest else {
            self.newest = Some(placed);
            return slot_us;
        };
        let gap_us = slot_us - newest.time_us;
        if gap_us < -LATE_US_MAX {
            self.newest = Some(placed);
        } else if gap_us > 0 {
            match self.interval_us {
                Some(interval_us) => fill_gap(newest, placed, interval_us, fill),
                None => self.learn(gap_us),
            }
            self.newest = Some(placed);
        }
        slot_us
    }

    fn learn(&mut self, gap_us: i64) {
        self.gaps_us.push(gap_us);
        if self.gaps_us.len() < GAPS_LEARNT {
            return;
        }
        self.gaps_us.sort_unstable();
        if let Some(&median_us) = self.gaps_us.get(GAPS_LEARNT / 2) {
            self.interval_us = INTERVALS_US.into_iter().min_by_key(|interval_us| (interval_us - median_us).abs());
        }
        self.gaps_us = Vec::new();
    }
}

/// Interpolates linearly between two readings, where at most [`SLOTS_FILLED_MAX`] slots lie between them.
fn fill_gap(from: Point, to: Point, interval_us: i64, mut fill: impl FnMut(Point)) {
    let steps = (to.time_us - from.time_us) / interval_us;
    if !(2..=SLOTS_FILLED_MAX + 1).contains(&steps) {
        return;
    }
    let slope = (to.value - from.value) / (to.time_us - from.time_us) as f64;
    for step in 1..steps {
        let time_us = from.time_us + step * interval_us;
        fill(Point { time_us, value: from.value + slope * (time_us - from.time_us) as f64 });
    }
}

fn nearest(time_us: i64, interval_us: i64) -> i64 {
    (time_us + interval_us / 2).div_euclid(interval_us) * interval_us
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Places readings at these minutes and answers (slots, filled), in minutes.
    fn place(grid: &mut Grid, minutes: &[f64]) -> (Vec<f64>, Vec<(f64, f64)>) {
        let mut filled = Vec::new();
        let slots = minutes
            .iter()
            .map(|&minute| {
                let reading = Point { time_us: (minute * MINUTE_US as f64) as i64, value: minute };
                let slot_us = grid.place(reading, |p| filled.push((p.time_us as f64 / MINUTE_US as f64, p.value)));
                slot_us as f64 / MINUTE_US as f64
            })
            .collect();
        (slots, filled)
    }

    /// A grid that has learnt an interval of five minutes and is at minute 40.
    fn learnt() -> Grid {
        let mut grid = Grid::default();
        place(&mut grid, &[5.0, 10.0, 15.0, 20.0, 25.0, 30.0, 35.0, 40.0]);
        assert_eq!(grid.interval_us, Some(5 * MINUTE_US));
        grid
    }

    #[test]
    fn the_interval_is_learnt_in_spite_of_a_gap() {
        let mut grid = Grid::default();
        let (slots, filled) = place(&mut grid, &[0.0, 60.0, 120.5, 180.0, 600.0, 660.0, 720.0, 780.0]);
        assert_eq!(grid.interval_us, Some(HOUR_US));
        assert_eq!(slots[2], 120.5, "nothing is moved before the interval is known");
        assert_eq!(filled, []);
        assert_eq!(grid.gaps_us.len(), 0);
    }

    #[test]
    fn readings_move_to_the_nearest_slot() {
        assert_eq!(place(&mut learnt(), &[44.9, 50.2]), (vec![45.0, 50.0], vec![]));
    }

    #[test]
    fn a_gap_of_twelve_slots_is_filled_and_one_of_thirteen_is_not() {
        let (_, filled) = place(&mut learnt(), &[105.0]);
        assert_eq!(filled.len(), 12);
        assert_eq!(filled.first(), Some(&(45.0, 45.0)));
        assert_eq!(filled.last(), Some(&(100.0, 100.0)));
        assert_eq!(place(&mut learnt(), &[110.0]).1, []);
    }

    #[test]
    fn late_and_repeated_times_come_out_and_fill_nothing() {
        let mut grid = learnt();
        assert_eq!(place(&mut grid, &[40.0, 20.0, 45.0]), (vec![40.0, 20.0, 45.0], vec![]));
    }

    #[test]
    fn a_clock_that_was_set_back_starts_anew() {
        let mut grid = learnt();
        let year = 365.0 * 1440.0;
        assert_eq!(place(&mut grid, &[year, 45.0, 55.0]), (vec![year, 45.0, 55.0], vec![(50.0, 50.0)]));
    }

    #[test]
    fn times_before_1970_have_slots_too() {
        assert_eq!(nearest(-MINUTE_US, 5 * MINUTE_US), 0);
        assert_eq!(nearest(-4 * MINUTE_US, 5 * MINUTE_US), -5 * MINUTE_US);
    }
}
