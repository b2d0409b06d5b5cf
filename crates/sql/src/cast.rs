//! Casts from one type to another, as PostgreSQL does them.

use std::borrow::Cow;

use chrono::{DateTime, NaiveDate, NaiveDateTime, NaiveTime, TimeDelta};

use crate::types::Type;
use crate::value::Cell;

/// The most characters of a text that a message shows.
const SHOWN_CHARS: usize = 60;

/// Whether there is a cast from one type to another.
pub(crate) fn is_possible(from: Type, to: Type) -> bool {
    use Type::{Bigint, Boolean, Double, Text};
    from == to
        || from == Text
        || to == Text
        || matches!((from, to), (Bigint, Double | Boolean) | (Double | Boolean, Bigint))
}

/// Casts a value.
///
/// # Errors
/// When it has no counterpart: the fault of the row.
pub(crate) fn cast(cell: &Cell<'_>, to: Type) -> Result<Cell<'static>, String> {
    match (cell, to) {
        (Cell::Bigint(value), Type::Double) => Ok(Cell::Double(*value as f64)),
        (Cell::Bigint(value), Type::Boolean) => Ok(Cell::Boolean(*value != 0)),
        (Cell::Double(value), Type::Bigint) => bigint_of(*value).map(Cell::Bigint),
        (Cell::Boolean(value), Type::Bigint) => Ok(Cell::Bigint(i64::from(*value))),
        (Cell::Text(text), _) => of_text(text, to),
        (cell, Type::Text) => Ok(Cell::Text(Cow::Owned(text_of(cell)))),
        (cell, _) => Ok(cell.clone().into_owned()),
    }
}

/// The nearest whole number; of two that are equally near the even one.
pub(crate) fn bigint_of(value: f64) -> Result<i64, String> {
    let rounded = value.round_ties_even();
    // 2^63 is a double, the greatest bigint is not.
    if (-9_223_372_036_854_775_808.0..9_223_372_036_854_775_808.0).contains(&rounded) {
        Ok(rounded as i64)
    } else {
        Err("bigint out of range".to_owned())
    }
}

/// Reads a value of a type.
///
/// # Errors
/// When the text is none.
pub(crate) fn of_text(text: &str, to: Type) -> Result<Cell<'static>, String> {
    let trimmed = text.trim_matches(|c: char| c.is_ascii_whitespace());
    let read = match to {
        Type::Text => Some(Cell::Text(Cow::Owned(text.to_owned()))),
        Type::Bigint => trimmed.parse().ok().map(Cell::Bigint),
        Type::Double => double(trimmed).map(Cell::Double),
        Type::Boolean => boolean(trimmed).map(Cell::Boolean),
        Type::Timestamp => timestamp(trimmed).map(Cell::Timestamp),
        Type::Interval => interval(trimmed, None).map(Cell::Interval),
    };
    read.ok_or_else(|| format!("invalid input syntax for type {to}: \"{}\"", shown(text)))
}

/// A text as far as a message shows it.
pub(crate) fn shown(text: &str) -> String {
    match text.char_indices().nth(SHOWN_CHARS) {
        Some((end, _)) => format!("{}...", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

fn double(text: &str) -> Option<f64> {
    let value: f64 = text.parse().ok()?;
    let says_infinite = text.trim_start_matches(['+', '-']).to_ascii_lowercase().starts_with("inf");
    (value.is_finite() || value.is_nan() || says_infinite).then_some(value)
}

fn boolean(text: &str) -> Option<bool> {
    let text = text.to_ascii_lowercase();
    let is_of = |word: &str, least: usize| text.len() >= least && word.starts_with(&text);
    if text == "1" || is_of("true", 1) || is_of("yes", 1) || is_of("on", 2) {
        return Some(true);
    }
    (text == "0" || is_of("false", 1) || is_of("no", 1) || is_of("off", 2)).then_some(false)
}

/// A moment: a date, with a time of day, with an offset from universal time; `T` or a blank between.
pub(crate) fn timestamp(text: &str) -> Option<i64> {
    let (date, rest) = match text.char_indices().find(|(_, c)| matches!(c, 'T' | 't' | ' ')) {
        Some((place, _)) => (text.get(..place)?, text.get(place + 1..)?.trim_start()),
        None => (text, ""),
    };
    let date = NaiveDate::parse_from_str(date, "%Y-%m-%d").ok()?;
    let zone_at = rest.find(['Z', 'z', '+', '-']).unwrap_or(rest.len());
    let (time, zone) = (rest.get(..zone_at)?.trim_end(), rest.get(zone_at..)?);
    let time = match time {
        "" => NaiveTime::MIN,
        time => ["%H:%M:%S%.f", "%H:%M"].iter().find_map(|format| NaiveTime::parse_from_str(time, format).ok())?,
    };
    let micros = date.and_time(time).and_utc().timestamp_micros();
    micros.checked_sub(zone_us(zone)?)
}

/// An offset from universal time, in microseconds: `Z`, `+02`, `+0200`, `+02:00` or nothing.
fn zone_us(zone: &str) -> Option<i64> {
    let sign = match zone.chars().next() {
        None | Some('Z' | 'z') => return (zone.len() <= 1).then_some(0),
        Some('-') => -1,
        Some(_) => 1,
    };
    let digits: String = zone.get(1..)?.chars().filter(|c| *c != ':').collect();
    if !matches!(digits.len(), 2 | 4) || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let (hours, minutes) = digits.split_at(2);
    let hours: i64 = hours.parse().ok()?;
    let minutes: i64 = if minutes.is_empty() { 0 } else { minutes.parse().ok()? };
    Some(sign * (hours * 60 + minutes) * 60_000_000)
}

/// The units of lengths of time, in microseconds. Months and years are none: they have no fixed length.
const UNITS: [(&str, i64); 7] = [
    ("microsecond", 1),
    ("millisecond", 1_000),
    ("second", 1_000_000),
    ("minute", 60_000_000),
    ("hour", 3_600_000_000),
    ("day", 86_400_000_000),
    ("week", 604_800_000_000),
];

/// The unit of that name, in microseconds.
pub(crate) fn unit_us(name: &str) -> Option<i64> {
    let name = name.to_ascii_lowercase();
    let name = match name.as_str() {
        "us" => "microsecond",
        "ms" => "millisecond",
        "s" | "sec" | "secs" => "second",
        "min" | "mins" | "m" => "minute",
        "h" | "hr" | "hrs" => "hour",
        "d" => "day",
        "w" => "week",
        name => name.strip_suffix('s').unwrap_or(name),
    };
    UNITS.iter().find(|(unit, _)| *unit == name).map(|(_, us)| *us)
}

/// A length of time: `5 minutes`, `1 day 02:03:04.5`, or a number of `unit_us`.
pub(crate) fn interval(text: &str, default_us: Option<i64>) -> Option<i64> {
    let mut total: i64 = 0;
    let mut left = text.trim();
    if left.is_empty() {
        return None;
    }
    while !left.is_empty() {
        let end =
            left.find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | ':' | '+' | '-'))).unwrap_or(left.len());
        let (number, rest) = left.split_at(end);
        let rest = rest.trim_start();
        let part = if number.contains(':') {
            left = rest;
            clock_us(number)?
        } else {
            let end = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
            let (unit, rest) = rest.split_at(end);
            left = rest.trim_start();
            scaled(number, if unit.is_empty() { default_us? } else { unit_us(unit)? })?
        };
        total = total.checked_add(part)?;
    }
    Some(total)
}

/// Hours, minutes and seconds with colons between.
fn clock_us(text: &str) -> Option<i64> {
    let (sign, text) = match text.strip_prefix('-') {
        Some(text) => (-1, text),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let mut parts = text.split(':');
    let (hours, minutes, seconds) = (parts.next()?, parts.next()?, parts.next().unwrap_or("0"));
    if parts.next().is_some() || [hours, minutes, seconds].iter().any(|part| part.contains(['-', '+'])) {
        return None;
    }
    let total = scaled(hours, 3_600_000_000)?.checked_add(scaled(minutes, 60_000_000)?)?;
    Some(sign * total.checked_add(scaled(seconds, 1_000_000)?)?)
}

fn scaled(number: &str, unit_us: i64) -> Option<i64> {
    if let Ok(whole) = number.parse::<i64>() {
        return whole.checked_mul(unit_us);
    }
    let value = number.parse::<f64>().ok()? * unit_us as f64;
    (value.abs() < 9e18).then_some(value.round_ties_even() as i64)
}

/// A value as text.
pub(crate) fn text_of(cell: &Cell<'_>) -> String {
    match cell {
        Cell::Bigint(value) => value.to_string(),
        Cell::Double(value) => double_text(*value),
        Cell::Boolean(value) => value.to_string(),
        Cell::Text(text) => text.to_string(),
        Cell::Timestamp(value) => timestamp_text(*value),
        Cell::Interval(value) => interval_text(*value),
    }
}

/// The shortest text from which the same number is read, with an exponent where that is shorter.
fn double_text(value: f64) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "Infinity" } else { "-Infinity" }.to_owned();
    }
    let scientific = format!("{value:e}");
    let Some((digits, exponent)) = scientific.split_once('e') else { return scientific };
    let exponent: i32 = exponent.parse().unwrap_or_default();
    if (-4..15).contains(&exponent) {
        return value.to_string();
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}

pub(crate) fn timestamp_text(micros: i64) -> String {
    match moment(micros) {
        Some(moment) if micros % 1_000_000 == 0 => moment.format("%Y-%m-%d %H:%M:%S").to_string(),
        Some(moment) => {
            let text = moment.format("%Y-%m-%d %H:%M:%S%.6f").to_string();
            text.trim_end_matches('0').to_owned()
        }
        None => micros.to_string(),
    }
}

fn interval_text(micros: i64) -> String {
    let sign = if micros < 0 { "-" } else { "" };
    let micros = micros.unsigned_abs();
    let (seconds, rest) = (micros / 1_000_000, micros % 1_000_000);
    let text = format!("{sign}{:02}:{:02}:{:02}", seconds / 3_600, seconds / 60 % 60, seconds % 60);
    if rest == 0 { text } else { format!("{text}.{rest:06}").trim_end_matches('0').to_owned() }
}

/// A moment in the calendar.
pub(crate) fn moment(micros: i64) -> Option<NaiveDateTime> {
    DateTime::from_timestamp(0, 0)?.naive_utc().checked_add_signed(TimeDelta::microseconds(micros))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_read_with_and_without_time_and_zone() {
        for (text, micros) in [
            ("1970-01-01", 0),
            ("1970-01-01 00:00:01.5", 1_500_000),
            ("1970-01-01T01:00:00+01:00", 0),
            ("1969-12-31 23:00Z", -3_600_000_000),
            ("1970-01-01 00:00:00 -00:30", 1_800_000_000),
        ] {
            assert_eq!(timestamp(text), Some(micros), "{text}");
        }
        for text in ["", "1970-13-01", "1970-01-01 25:00", "1970-01-01 10:00+1", "today", "1970-01-01T10:00:00 CET"] {
            assert_eq!(timestamp(text), None, "{text}");
        }
    }

    #[test]
    fn lengths_of_time_are_sums_of_their_parts() {
        assert_eq!(interval("5 minutes", None), Some(300_000_000));
        assert_eq!(interval("1 day 02:03:04.5", None), Some(93_784_500_000));
        assert_eq!(interval("-90 s", None), Some(-90_000_000));
        assert_eq!(interval("1.5", Some(60_000_000)), Some(90_000_000));
        for text in ["", "5", "five minutes", "1 month", "1:2:3:4", "5 minutes and"] {
            assert_eq!(interval(text, None), None, "{text}");
        }
    }

    #[test]
    fn numbers_are_written_as_they_are_read() {
        for (value, text) in
            [(1.0, "1"), (0.1, "0.1"), (1e15, "1e+15"), (1e14, "100000000000000"), (1e-5, "1e-05"), (-2.5, "-2.5")]
        {
            assert_eq!(double_text(value), text);
        }
        assert_eq!(timestamp_text(1_500_000), "1970-01-01 00:00:01.5");
        assert_eq!(interval_text(-93_784_500_000), "-26:03:04.5");
        assert_eq!((bigint_of(2.5), bigint_of(3.5)), (Ok(2), Ok(4)));
        assert!(bigint_of(9.3e18).is_err());
    }
}
