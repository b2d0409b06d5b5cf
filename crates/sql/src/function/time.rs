//! Functions of moments and lengths of time. There is none that reads the clock: a flow that is run again over the same
//! records has to come to the same results.

use chrono::{Datelike as _, NaiveDate, NaiveDateTime, Timelike as _};

use super::{Function, bigint, double, text};
use crate::cast::{moment, unit_us};
use crate::types::Type::{self, Double, Interval, Text, Timestamp};
use crate::value::Cell;

type Answer = Result<Option<Cell<'static>>, String>;

const fn f(name: &'static str, parameters: &'static [Type], result: Type, call: super::Call) -> Function {
    Function::new(name, parameters, result, call)
}

pub(super) static FUNCTIONS: &[Function] = &[
    f("date_part", &[Text, Timestamp], Double, |a| part(text(a, 0), bigint(a, 1))),
    f("date_part", &[Text, Interval], Double, |a| part_of_interval(text(a, 0), bigint(a, 1))),
    f("date_trunc", &[Text, Timestamp], Timestamp, |a| truncated(text(a, 0), bigint(a, 1))),
    f("date_bin", &[Interval, Timestamp, Timestamp], Timestamp, |a| bin(bigint(a, 0), bigint(a, 1), bigint(a, 2))),
    f("to_timestamp", &[Double], Timestamp, |a| {
        let micros = (double(a, 0) * 1e6).round_ties_even();
        if micros.abs() < 9e18 {
            Ok(Some(Cell::Timestamp(micros as i64)))
        } else {
            Err("timestamp out of range".to_owned())
        }
    }),
];

/// The fields that a moment has, for finding the nearest name.
pub(crate) const FIELDS: [&str; 14] = [
    "year",
    "quarter",
    "month",
    "week",
    "day",
    "dow",
    "isodow",
    "doy",
    "hour",
    "minute",
    "second",
    "milliseconds",
    "microseconds",
    "epoch",
];

/// The fields that a length of time has.
pub(crate) const INTERVAL_FIELDS: [&str; 6] = ["hour", "minute", "second", "milliseconds", "microseconds", "epoch"];

/// The fields to which a moment can be cut.
pub(crate) const TRUNCATED_FIELDS: [&str; 10] =
    ["year", "quarter", "month", "week", "day", "hour", "minute", "second", "milliseconds", "microseconds"];

/// A field by its own name: as PostgreSQL, we know several in the plural, and short ones.
pub(crate) fn field_named(name: &str) -> String {
    let name = name.to_ascii_lowercase();
    let own = match name.as_str() {
        "years" | "yrs" | "yr" | "y" => "year",
        "qtr" => "quarter",
        "months" | "mons" | "mon" => "month",
        "weeks" | "w" => "week",
        "days" | "d" => "day",
        "hours" | "hrs" | "hr" | "h" => "hour",
        "minutes" | "mins" | "min" | "m" => "minute",
        "seconds" | "secs" | "sec" | "s" => "second",
        "millisecond" | "msecs" | "msec" | "ms" => "milliseconds",
        "microsecond" | "usecs" | "usec" | "us" => "microseconds",
        name => name,
    };
    own.to_owned()
}

fn part(field: &str, micros: i64) -> Answer {
    let at = moment(micros).ok_or("timestamp out of range")?;
    let second_us = f64::from(at.second()) * 1e6 + micros.rem_euclid(1_000_000) as f64;
    let value = match field_named(field).as_str() {
        "year" => f64::from(at.year()),
        "quarter" => f64::from(at.month0() / 3 + 1),
        "month" => f64::from(at.month()),
        "week" => f64::from(at.iso_week().week()),
        "day" => f64::from(at.day()),
        "dow" => f64::from(at.weekday().num_days_from_sunday()),
        "isodow" => f64::from(at.weekday().number_from_monday()),
        "doy" => f64::from(at.ordinal()),
        "hour" => f64::from(at.hour()),
        "minute" => f64::from(at.minute()),
        "second" => second_us / 1e6,
        "milliseconds" => second_us / 1e3,
        "microseconds" => second_us,
        "epoch" => micros as f64 / 1e6,
        _ => return Err(format!("there is no field \"{field}\" of a timestamp")),
    };
    Ok(Some(Cell::Double(value)))
}

fn part_of_interval(field: &str, micros: i64) -> Answer {
    let value = match field_named(field).as_str() {
        "epoch" => micros as f64 / 1e6,
        "hour" => (micros / 3_600_000_000) as f64,
        "minute" => (micros / 60_000_000 % 60) as f64,
        "second" => (micros % 60_000_000) as f64 / 1e6,
        "milliseconds" => (micros % 60_000_000) as f64 / 1e3,
        "microseconds" => (micros % 60_000_000) as f64,
        _ => return Err(format!("there is no field \"{field}\" of an interval")),
    };
    Ok(Some(Cell::Double(value)))
}

fn truncated(field: &str, micros: i64) -> Answer {
    let field = field_named(field);
    let at = moment(micros).ok_or("timestamp out of range")?;
    let day = |year, month, day| NaiveDate::from_ymd_opt(year, month, day);
    let begin = match field.as_str() {
        "year" => day(at.year(), 1, 1),
        "quarter" => day(at.year(), at.month0() / 3 * 3 + 1, 1),
        "month" => day(at.year(), at.month(), 1),
        "week" => at.date().checked_sub_days(chrono::Days::new(u64::from(at.weekday().num_days_from_monday()))),
        _ => {
            // All shorter ones have a length, and begin where universal time is a multiple of it.
            let unit = TRUNCATED_FIELDS.contains(&field.as_str()).then(|| unit_us(&field)).flatten();
            let unit = unit.ok_or_else(|| format!("there is no field \"{field}\" of a timestamp"))?;
            return earlier(micros, micros.rem_euclid(unit));
        }
    };
    let begin = begin.and_then(|date| date.and_hms_opt(0, 0, 0)).ok_or("timestamp out of range")?;
    Ok(Some(Cell::Timestamp(micros_of(begin))))
}

fn micros_of(moment: NaiveDateTime) -> i64 {
    moment.and_utc().timestamp_micros()
}

fn bin(stride: i64, micros: i64, origin: i64) -> Answer {
    if stride <= 0 {
        return Err("stride must be greater than zero".to_owned());
    }
    let since = micros.checked_sub(origin).ok_or("timestamp out of range")?;
    earlier(micros, since.rem_euclid(stride))
}

fn earlier(micros: i64, by: i64) -> Answer {
    Ok(Some(Cell::Timestamp(micros.checked_sub(by).ok_or("timestamp out of range")?)))
}
