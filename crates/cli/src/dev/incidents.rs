//! From alarms to incidents, and how those compare with the failures that people labelled.
//!
//! Alarms of one series within [`ALARM_GAP_US`] of one another are one incident, which ends [`INCIDENT_US_MAX`] after it
//! began at the latest: a fault that goes on becomes a new incident then, as an operator would be told again. A labelled
//! window is detected when an alarm lies in it; an incident with no alarm in any window is false.
//!
//! Times are microseconds since 1970, as everywhere in rows. All of it is pure.

use serde::Serialize;

const HOUR_US: i64 = 3_600_000_000;

/// Alarms further apart than this belong to different incidents.
pub(crate) const ALARM_GAP_US: i64 = 24 * HOUR_US;

/// How long an incident lasts at the most, from its first alarm.
pub(crate) const INCIDENT_US_MAX: i64 = 48 * HOUR_US;

/// A time span that people labelled as a failure; both ends belong to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Window {
    /// Its beginning.
    pub(crate) from_us: i64,
    /// Its end.
    pub(crate) to_us: i64,
}

impl Window {
    fn holds(&self, time_us: i64) -> bool {
        (self.from_us..=self.to_us).contains(&time_us)
    }
}

/// Alarms that belong together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Incident {
    /// Its first alarm.
    pub(crate) from_us: i64,
    /// Its last alarm.
    pub(crate) to_us: i64,
    /// How many alarms.
    pub(crate) alarms: usize,
    /// Whether one of them lies in a labelled window.
    pub(crate) labelled: bool,
}

/// How the incidents of a series compare with its labelled windows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Evaluation {
    /// How many windows there are.
    pub(crate) windows: usize,
    /// How many of them hold an alarm.
    pub(crate) windows_detected: usize,
    /// Every incident, in order of time.
    pub(crate) incidents: Vec<Incident>,
}

impl Evaluation {
    /// How many incidents have no alarm in any window.
    pub(crate) fn incidents_false(&self) -> usize {
        self.incidents.iter().filter(|incident| !incident.labelled).count()
    }
}

/// Merges the alarms of one series, given in any order, into incidents and compares them with its labelled windows.
pub(crate) fn evaluate(alarms_us: &[i64], windows: &[Window]) -> Evaluation {
    let mut alarms_us = alarms_us.to_vec();
    alarms_us.sort_unstable();
    let mut incidents: Vec<Incident> = Vec::new();
    for &alarm in &alarms_us {
        let labelled = windows.iter().any(|window| window.holds(alarm));
        match incidents.last_mut() {
            Some(incident) if alarm - incident.to_us <= ALARM_GAP_US && alarm - incident.from_us <= INCIDENT_US_MAX => {
                incident.to_us = alarm;
                incident.alarms += 1;
                incident.labelled |= labelled;
            }
            _ => incidents.push(Incident { from_us: alarm, to_us: alarm, alarms: 1, labelled }),
        }
    }
    let detected = windows.iter().filter(|window| alarms_us.iter().any(|&alarm| window.holds(alarm)));
    Evaluation { windows: windows.len(), windows_detected: detected.count(), incidents }
}

/// Reads the windows of one series from the text of the benchmark's `combined_windows.json`: an object from a file's
/// path to a list of pairs of times, `2013-12-10 06:25:00.000000`. The series is named by its file, without folders.
///
/// # Errors
/// When the text is not such an object or does not know the series; says which part of it.
pub(crate) fn windows_of(json: &str, series_file: &str) -> Result<Vec<Window>, String> {
    let all: std::collections::BTreeMap<String, Vec<(String, String)>> =
        serde_json::from_str(json).map_err(|e| format!("the labelled windows cannot be read: {e}"))?;
    let (_, pairs) = all
        .iter()
        .find(|(path, _)| path.rsplit('/').next() == Some(series_file))
        .ok_or_else(|| format!("there are no labelled windows for `{series_file}`"))?;
    let time = |text: &str| time_us(text).ok_or_else(|| format!("`{text}` is not a time like 2013-12-10 06:25:00"));
    pairs.iter().map(|(from, to)| Ok(Window { from_us: time(from)?, to_us: time(to)? })).collect()
}

/// Microseconds since 1970 of `YYYY-MM-DD HH:MM:SS`, with or without a fraction of six digits; UTC.
pub(super) fn time_us(text: &str) -> Option<i64> {
    let (date, clock) = text.split_once(' ')?;
    let (clock, fraction) = clock.split_once('.').unwrap_or((clock, "0"));
    let [year, month, day] = numbers(date, '-')?;
    let [hour, minute, second] = numbers(clock, ':')?;
    let inside = (1..=12).contains(&month) && (1..=31).contains(&day) && hour < 24 && minute < 60 && second < 60;
    if !inside || !matches!(fraction.len(), 1 | 6) {
        return None;
    }
    let fraction: i64 = fraction.parse().ok()?;
    let seconds = days_since_1970(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second;
    Some(seconds * 1_000_000 + fraction)
}

/// Exactly three numbers separated by `separator`.
fn numbers(text: &str, separator: char) -> Option<[i64; 3]> {
    let mut parts = text.split(separator).map(|part| part.parse::<u32>().ok().map(i64::from));
    let found = [parts.next()??, parts.next()??, parts.next()??];
    parts.next().is_none().then_some(found)
}

/// Days from 1970-01-01 to a date of the Gregorian calendar (Howard Hinnant, "chrono-compatible low-level date
/// algorithms", `days_from_civil`).
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use super::*;

    fn hours(hours: &[i64]) -> Vec<i64> {
        hours.iter().map(|hour| hour * HOUR_US).collect()
    }

    fn window(from: i64, to: i64) -> Window {
        Window { from_us: from * HOUR_US, to_us: to * HOUR_US }
    }

    fn spans(evaluation: &Evaluation) -> Vec<(i64, i64)> {
        evaluation.incidents.iter().map(|i| (i.from_us / HOUR_US, i.to_us / HOUR_US)).collect()
    }

    #[test]
    fn alarms_within_a_day_are_one_incident() {
        assert_eq!(spans(&evaluate(&hours(&[0, 24, 30]), &[])), [(0, 30)]);
        assert_eq!(spans(&evaluate(&hours(&[0, 25]), &[])), [(0, 0), (25, 25)]);
    }

    #[test]
    fn an_incident_ends_after_two_days() {
        assert_eq!(spans(&evaluate(&hours(&[0, 20, 40, 48, 49, 60]), &[])), [(0, 48), (49, 60)]);
    }

    #[test]
    fn the_order_of_alarms_does_not_matter() {
        assert_eq!(evaluate(&hours(&[30, 0, 24]), &[]), evaluate(&hours(&[0, 24, 30]), &[]));
    }

    #[test]
    fn a_window_is_detected_by_an_alarm_inside_it() {
        let found = evaluate(&hours(&[10]), &[window(10, 12), window(8, 10), window(11, 12)]);
        assert_eq!((found.windows, found.windows_detected, found.incidents_false()), (3, 2, 0));
    }

    #[test]
    fn an_incident_around_a_window_with_no_alarm_in_it_is_false() {
        let found = evaluate(&hours(&[0, 20]), &[window(5, 15)]);
        assert_eq!((found.windows_detected, found.incidents_false()), (0, 1));
    }

    #[test]
    fn one_labelled_alarm_makes_the_incident_true() {
        let found = evaluate(&hours(&[0, 20, 100]), &[window(19, 21)]);
        assert_eq!((found.windows_detected, found.incidents.len(), found.incidents_false()), (1, 2, 1));
        assert!(found.incidents[0].labelled);
    }

    #[test]
    fn no_alarms_are_no_incidents() {
        let found = evaluate(&[], &[window(0, 1)]);
        assert_eq!((found.windows_detected, found.incidents.len()), (0, 0));
    }

    #[test]
    fn windows_are_read_by_file_name() {
        let json = r#"{"known/a.csv": [["2013-12-10 06:25:00.000000", "2013-12-12 05:35:00.500000"]], "b.csv": []}"#;
        let windows = windows_of(json, "a.csv").unwrap();
        assert_eq!(windows, [Window { from_us: 1_386_656_700_000_000, to_us: 1_386_826_500_500_000 }]);
        assert_eq!(windows_of(json, "b.csv").unwrap(), []);
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        assert!(windows_of("[]", "a.csv").unwrap_err().contains("cannot be read"));
        assert!(windows_of("{}", "a.csv").unwrap_err().contains("`a.csv`"));
        let error = windows_of(r#"{"a.csv": [["2013-13-01 00:00:00", "x"]]}"#, "a.csv").unwrap_err();
        assert!(error.contains("2013-13-01"), "{error}");
    }

    #[test]
    fn days_are_those_of_the_calendar() {
        assert_eq!(days_since_1970(1970, 1, 1), 0);
        assert_eq!(days_since_1970(2000, 3, 1), 11_017);
        assert_eq!(days_since_1970(2013, 12, 10), 16_049);
        assert_eq!(days_since_1970(1969, 12, 31), -1);
    }
}
