//! When a schedule is due: the five fields of cron, in UTC or at a fixed distance from it.
//!
//! Fields are as in POSIX `crontab` with steps and names added: `*`, numbers, ranges, lists, `/STEP`, `jan` to `dec`, `sun`
//! to `sat` (7 is Sunday, too). Where both days are restricted, either suffices. There are no time zones with summer time:
//! an hour that is twice or not at all has no good answer, and every node would need the same tables.

use std::fmt;
use std::str::FromStr;

const MINUTE_US: i64 = 60_000_000;
const MINUTES_PER_DAY: i64 = 24 * 60;
/// How far ahead a tick is looked for, in days: the 29th of February comes at least every eight years.
const AHEAD_DAYS: i64 = 8 * 366;
const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

/// The five fields; a bit for each value that fits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// Whether the day of the month, and that of the week, may be any.
    any_day: bool,
    any_weekday: bool,
}

/// A text that is no schedule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no schedule: {reason}")]
pub struct InvalidSchedule {
    text: String,
    reason: String,
}

/// How far local time is ahead of UTC, in minutes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Zone(i64);

/// A text that is no distance from UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected `UTC` or a distance from it, as `+02:00`")]
pub struct InvalidZone;

impl FromStr for Zone {
    type Err = InvalidZone;

    fn from_str(text: &str) -> Result<Self, InvalidZone> {
        if text == "UTC" {
            return Ok(Self(0));
        }
        let (sign, rest) = match text.split_at_checked(1) {
            Some(("+", rest)) => (1, rest),
            Some(("-", rest)) => (-1, rest),
            _ => return Err(InvalidZone),
        };
        let (hours, minutes) = rest.split_once(':').ok_or(InvalidZone)?;
        let number = |text: &str, max: i64| {
            let is_two_digits = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse().ok().filter(|number| is_two_digits && (0..=max).contains(number)).ok_or(InvalidZone)
        };
        Ok(Self(sign * (number(hours, 14)? * 60 + number(minutes, 59)?)))
    }
}

impl FromStr for Schedule {
    type Err = InvalidSchedule;

    fn from_str(text: &str) -> Result<Self, InvalidSchedule> {
        let invalid = |reason: String| InvalidSchedule { text: text.to_owned(), reason };
        let fields: Vec<&str> = text.split_whitespace().collect();
        let [minute, hour, day, month, weekday] = fields.as_slice() else {
            return Err(invalid(format!("it has {} fields, not five", fields.len())));
        };
        let field = |text: &str, name: &str, range: (u32, u32), names: &[&str], first: u32| {
            values(text, range, names, first).map_err(|reason| invalid(format!("the {name} `{text}` {reason}")))
        };
        let mut weekdays = field(weekday, "day of the week", (0, 7), &DAYS, 0)?;
        if weekdays & (1 << 7) != 0 {
            weekdays |= 1;
        }
        let schedule = Self {
            minutes: field(minute, "minute", (0, 59), &[], 0)?,
            hours: field(hour, "hour", (0, 23), &[], 0)?,
            days: field(day, "day", (1, 31), &[], 0)?,
            months: field(month, "month", (1, 12), &MONTHS, 1)?,
            weekdays,
            any_day: day.starts_with('*'),
            any_weekday: weekday.starts_with('*'),
        };
        if schedule.next(0, Zone::default()).is_none() {
            return Err(invalid("no day is such a one".to_owned()));
        }
        Ok(schedule)
    }
}

impl Schedule {
    /// The first tick after a time, both in microseconds since 1970. None if there is none within eight years.
    #[must_use]
    pub fn next(&self, after_us: i64, zone: Zone) -> Option<i64> {
        let local = after_us.div_euclid(MINUTE_US) + zone.0 + 1;
        let first_day = local.div_euclid(MINUTES_PER_DAY);
        for day in first_day..=first_day + AHEAD_DAYS {
            if !self.has_day(day) {
                continue;
            }
            let from = if day == first_day { local.rem_euclid(MINUTES_PER_DAY) } else { 0 };
            let fits = |minute: &i64| has(self.hours, minute / 60) && has(self.minutes, minute % 60);
            if let Some(minute) = (from..MINUTES_PER_DAY).find(fits) {
                return Some((day * MINUTES_PER_DAY + minute - zone.0) * MINUTE_US);
            }
        }
        None
    }

    fn has_day(&self, day: i64) -> bool {
        let (month, of_month) = civil(day);
        // 1970 began on a Thursday.
        let by_week = has(self.weekdays, (day + 4).rem_euclid(7));
        let by_month = has(self.days, of_month);
        let by_day = match (self.any_day, self.any_weekday) {
            (false, false) => by_month || by_week,
            _ => by_month && by_week,
        };
        has(self.months, month) && by_day
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { '-' } else { '+' };
        write!(f, "{sign}{:02}:{:02}", self.0.abs() / 60, self.0.abs() % 60)
    }
}

fn has(bits: u64, value: i64) -> bool {
    bits & (1 << value) != 0
}

/// Month and day of a day since 1970, in the Gregorian calendar (Howard Hinnant, "chrono-compatible low-level date
/// algorithms", `civil_from_days`).
fn civil(day: i64) -> (i64, i64) {
    let of_era = (day + 719_468).rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (month, of_year - (153 * from_march + 2) / 5 + 1)
}

/// The bits of a field.
fn values(text: &str, (min, max): (u32, u32), names: &[&str], first: u32) -> Result<u64, String> {
    let number = |text: &str| {
        let named = names.iter().position(|name| name.eq_ignore_ascii_case(text));
        let named = named.and_then(|place| u32::try_from(place).ok()).map(|place| place + first);
        let number = named.or_else(|| text.parse().ok()).ok_or_else(|| "is no number".to_owned())?;
        if (min..=max).contains(&number) { Ok(number) } else { Err(format!("is not from {min} to {max}")) }
    };
    let mut bits = 0;
    for part in text.split(',') {
        let (range, step) = part.split_once('/').map_or((part, None), |(range, step)| (range, Some(step)));
        let (from, to) = match range.split_once('-') {
            _ if range == "*" => (min, max),
            Some((from, to)) => (number(from)?, number(to)?),
            None => (number(range)?, if step.is_some() { max } else { number(range)? }),
        };
        let step: usize =
            step.map_or(Ok(1), |step| step.parse().map_err(|_| "has a step that is no number".to_owned()))?;
        if step == 0 || from > to {
            return Err("is empty".to_owned());
        }
        bits |= (from..=to).step_by(step).fold(0, |bits, value| bits | 1_u64 << value);
    }
    Ok(bits)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// 2026-11-21T00:00:00Z, a Saturday.
    const DAY_US: i64 = 1_795_219_200_000_000;
    const HOUR_US: i64 = 60 * MINUTE_US;

    /// The next tick, in hours and minutes after that day's begin.
    fn next(schedule: &str, zone: &str) -> (i64, i64) {
        let tick = schedule.parse::<Schedule>().unwrap().next(DAY_US, zone.parse().unwrap()).unwrap();
        assert_eq!(tick % MINUTE_US, 0);
        ((tick - DAY_US) / HOUR_US, (tick - DAY_US) % HOUR_US / MINUTE_US)
    }

    #[test]
    fn the_next_tick_is_found() {
        for (schedule, zone, expected) in [
            ("* * * * *", "UTC", (0, 1)),
            ("*/15 * * * *", "UTC", (0, 15)),
            ("30 6 * * *", "UTC", (6, 30)),
            ("30 6 * * *", "+02:00", (4, 30)),
            ("0 1 * * *", "+02:00", (23, 0)),
            ("0 1 * * *", "-05:30", (6, 30)),
            ("0 0 * * mon", "UTC", (48, 0)),
            ("0 0 * * 7", "UTC", (24, 0)),
            ("0 9-17/4,20 22 nov *", "UTC", (33, 0)),
            // Either of the two days.
            ("0 0 25 * sun", "UTC", (24, 0)),
            ("0 0 1 jan *", "UTC", (41 * 24, 0)),
            // 2028 is the next leap year.
            ("0 0 29 2 *", "UTC", (465 * 24, 0)),
        ] {
            assert_eq!(next(schedule, zone), expected, "{schedule} {zone}");
        }
    }

    #[test]
    fn ticks_follow_one_another_without_repeats() {
        let schedule: Schedule = "*/20 * * * *".parse().unwrap();
        let mut at = DAY_US - 1;
        let mut ticks = Vec::new();
        for _ in 0..4 {
            at = schedule.next(at, Zone::default()).unwrap();
            ticks.push((at - DAY_US) / MINUTE_US);
        }
        assert_eq!(ticks, [0, 20, 40, 60]);
    }

    #[test]
    fn what_is_no_schedule_is_refused_with_a_reason() {
        for (text, reason) in [
            ("* * * *", "4 fields"),
            ("60 * * * *", "from 0 to 59"),
            ("a * * * *", "is no number"),
            ("5-1 * * * *", "is empty"),
            ("*/0 * * * *", "is empty"),
            ("0 0 31 2 *", "no day"),
        ] {
            let error = text.parse::<Schedule>().unwrap_err().to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
        for zone in ["", "Z", "+2:00", "+02", "+15:00", "02:00", "+0a:00"] {
            assert!(zone.parse::<Zone>().is_err(), "{zone}");
        }
    }
}
