//! Reads a sensor's row, `<seq>,<timestamp>,<value>`, and says what is wrong with one that is malformed.

use std::fmt;

/// The longest row that is read. The longest well-formed one has 18 digits, 19 characters of time and a number, which
/// nothing keeps from having many digits.
pub(crate) const ROW_BYTES_MAX: usize = 256;

/// The most digits of a sequence number: all of them fit 64 bits.
pub(crate) const SEQ_DIGITS_MAX: usize = 18;

/// Absolute zero, in the degrees Fahrenheit that the sensors send: nothing is colder.
pub(crate) const VALUE_MIN: f64 = -459.67;

/// Hotter than any metal's melting point, in degrees Fahrenheit: no sensor on a machine would outlive it.
pub(crate) const VALUE_MAX: f64 = 10_000.0;

/// One reading of a sensor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Reading {
    /// Its number at its sensor.
    pub(crate) seq: i64,
    /// When it was taken, in microseconds since 1970.
    pub(crate) time_us: i64,
    /// Degrees Fahrenheit.
    pub(crate) value: f64,
}

/// What is wrong with a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Malformed {
    TooLong,
    Fields(usize),
    Seq,
    Timestamp,
    Number,
    Range,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong => write!(f, "the row is longer than {ROW_BYTES_MAX} bytes"),
            Self::Fields(found) => write!(f, "expected 3 fields, seq,timestamp,value; found {found}"),
            Self::Seq => write!(f, "the sequence number is not 1 to {SEQ_DIGITS_MAX} digits"),
            Self::Timestamp => f.write_str("the timestamp is no time written YYYY-MM-DD HH:MM:SS"),
            Self::Number => f.write_str("the value is not a finite number"),
            Self::Range => write!(f, "the value is not from {VALUE_MIN} to {VALUE_MAX} degrees Fahrenheit"),
        }
    }
}

/// Reads a row.
///
/// # Errors
/// The first thing that is wrong with it.
pub(crate) fn parse(row: &str) -> Result<Reading, Malformed> {
    if row.len() > ROW_BYTES_MAX {
        return Err(Malformed::TooLong);
    }
    let mut fields = row.split(',');
    let (Some(seq), Some(timestamp), Some(value), None) = (fields.next(), fields.next(), fields.next(), fields.next())
    else {
        return Err(Malformed::Fields(row.split(',').count()));
    };
    let seq = digits(seq.as_bytes(), SEQ_DIGITS_MAX).ok_or(Malformed::Seq)?;
    let time_us = time_us(timestamp.as_bytes()).ok_or(Malformed::Timestamp)?;
    let value: f64 = value.parse().map_err(|_| Malformed::Number)?;
    if !value.is_finite() {
        return Err(Malformed::Number);
    }
    if !(VALUE_MIN..=VALUE_MAX).contains(&value) {
        return Err(Malformed::Range);
    }
    Ok(Reading { seq, time_us, value })
}

/// A number of 1 to `digits_max` digits (18 at the most) and nothing else.
fn digits(text: &[u8], digits_max: usize) -> Option<i64> {
    if text.is_empty() || text.len() > digits_max {
        return None;
    }
    text.iter().try_fold(0, |number, byte| byte.is_ascii_digit().then(|| number * 10 + i64::from(byte - b'0')))
}

/// Microseconds since 1970 of `YYYY-MM-DD HH:MM:SS`, UTC.
fn time_us(text: &[u8]) -> Option<i64> {
    let [y0, y1, y2, y3, b'-', mo0, mo1, b'-', d0, d1, b' ', h0, h1, b':', mi0, mi1, b':', s0, s1] = *text else {
        return None;
    };
    let year = digits(&[y0, y1, y2, y3], 4)?;
    let [month, day] = [digits(&[mo0, mo1], 2)?, digits(&[d0, d1], 2)?];
    let [hour, minute, second] = [digits(&[h0, h1], 2)?, digits(&[mi0, mi1], 2)?, digits(&[s0, s1], 2)?];
    let inside =
        year >= 1 && (1..=days_in_month(year, month)?).contains(&day) && hour < 24 && minute < 60 && second < 60;
    let seconds = days_since_1970(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second;
    inside.then_some(seconds * 1_000_000)
}

fn days_in_month(year: i64, month: i64) -> Option<i64> {
    Some(match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        _ => return None,
    })
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
    use super::*;

    #[test]
    fn a_well_formed_row() {
        assert_eq!(
            parse("17,2013-12-02 21:15:00,73.96732207"),
            Ok(Reading { seq: 17, time_us: 1_386_018_900_000_000, value: 73.967_322_07 })
        );
        assert_eq!(parse("0,1970-01-01 00:00:00,-3").map(|r| (r.time_us, r.value)), Ok((0, -3.0)));
        assert_eq!(parse("1,2016-02-29 00:00:00,1e3").map(|r| r.value), Ok(1000.0));
    }

    #[test]
    fn malformed_rows() {
        let time = "2013-12-02 21:15:00";
        for (row, expected) in [
            (String::new(), Malformed::Fields(1)),
            (format!("17,{time}"), Malformed::Fields(2)),
            (format!("17,{time},1,2"), Malformed::Fields(4)),
            ("\u{0}\u{1}\u{fffd}\u{7f}".to_owned(), Malformed::Fields(1)),
            (format!(",{time},1"), Malformed::Seq),
            (format!("-1,{time},1"), Malformed::Seq),
            (format!("+1,{time},1"), Malformed::Seq),
            (format!("1234567890123456789,{time},1"), Malformed::Seq),
            ("17,2013-13-02 21:15:00,1".to_owned(), Malformed::Timestamp),
            ("17,2013-02-29 21:15:00,1".to_owned(), Malformed::Timestamp),
            ("17,0000-01-01 00:00:00,1".to_owned(), Malformed::Timestamp),
            ("17,2013-12-02 24:00:00,1".to_owned(), Malformed::Timestamp),
            ("17,2013-12-02T21:15:00,1".to_owned(), Malformed::Timestamp),
            ("17,2013-12-02 21:15:60,1".to_owned(), Malformed::Timestamp),
            ("17,2013-12-02 21:15,1".to_owned(), Malformed::Timestamp),
            (format!("17,{time},"), Malformed::Number),
            (format!("17,{time},seventy"), Malformed::Number),
            (format!("17,{time}, 1"), Malformed::Number),
            (format!("17,{time},NaN"), Malformed::Number),
            (format!("17,{time},inf"), Malformed::Number),
            (format!("17,{time},1e999"), Malformed::Number),
            (format!("17,{time},-460"), Malformed::Range),
            (format!("17,{time},99999999"), Malformed::Range),
            (format!("17,{time},{}", "1".repeat(300)), Malformed::TooLong),
        ] {
            assert_eq!(parse(&row), Err(expected), "{row}");
            assert!(!expected.to_string().is_empty());
        }
    }

    #[test]
    fn no_cut_of_a_row_makes_it_panic() {
        let row = "17,2013-12-02 21:15:00,73.96732207é";
        for (end, _) in row.char_indices() {
            for start in (0..=end).filter(|start| row.is_char_boundary(*start)) {
                let _ = parse(&row[start..end]);
            }
        }
    }
}
