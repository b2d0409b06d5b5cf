//! Moments as texts: ISO 8601 with a date and a time, as RFC 3339 has it or with a blank between; without an offset, UTC.

/// Microseconds since 1970.
pub(crate) fn parse(text: &str) -> Option<i64> {
    let (date, time) = text.split_once(['T', 't', ' '])?;
    let [year, month, day] = numbers(date, '-', [4, 2, 2])?;
    let (time, offset_minutes) = offset(time)?;
    let (clock, fraction) = time.split_once('.').unwrap_or((time, ""));
    let [hour, minute, second] = numbers(clock, ':', [2, 2, 2])?;
    if hour > 23 || minute > 59 || second > 59 || fraction.len() > 9 || (time.contains('.') && fraction.is_empty()) {
        return None;
    }
    let micros = fraction
        .bytes()
        .chain(std::iter::repeat(b'0'))
        .take(6)
        .try_fold(0_i64, |micros, digit| digit.is_ascii_digit().then(|| micros * 10 + i64::from(digit - b'0')))?;
    if !fraction.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let minutes = (days(year, month, day)? * 24 + hour) * 60 + minute - offset_minutes;
    Some((minutes * 60 + second) * 1_000_000 + micros)
}

/// The time without its offset, and the offset in minutes.
fn offset(time: &str) -> Option<(&str, i64)> {
    if let Some(time) = time.strip_suffix(['Z', 'z']) {
        return Some((time, 0));
    }
    let Some(at) = time.find(['+', '-']) else { return Some((time, 0)) };
    let (time, offset) = time.split_at_checked(at)?;
    let sign = if offset.starts_with('-') { -1 } else { 1 };
    let offset = offset.get(1..)?;
    let [hours, minutes] = if offset.contains(':') { numbers(offset, ':', [2, 2])? } else { [whole(offset, 2)?, 0] };
    (hours < 24 && minutes < 60).then_some((time, sign * (hours * 60 + minutes)))
}

/// Numbers of so many digits each, and nothing else.
fn numbers<const N: usize>(text: &str, separator: char, digits: [usize; N]) -> Option<[i64; N]> {
    let mut parts = text.split(separator);
    let mut found = [0; N];
    for (number, digits) in found.iter_mut().zip(digits) {
        *number = whole(parts.next()?, digits)?;
    }
    parts.next().is_none().then_some(found)
}

fn whole(text: &str, digits: usize) -> Option<i64> {
    (text.len() == digits && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok())?
}

/// Days since 1970-01-01 in the proleptic Gregorian calendar (H. Hinnant, "chrono-compatible low-level date algorithms").
fn days(year: i64, month: i64, day: i64) -> Option<i64> {
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let last = match month {
        2 => 28 + i64::from(is_leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if !(1..=last).contains(&day) {
        return None;
    }
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    Some(era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_those_of_the_calendar() {
        for (text, us) in [
            ("1970-01-01T00:00:00Z", 0),
            ("1970-01-02 00:00:01.5", 86_401_500_000),
            ("2000-02-29T12:00:00+01:00", 951_822_000_000_000),
            ("2024-12-31T23:59:59.999999Z", 1_735_689_599_999_999),
            ("1969-12-31T23:59:59-05", 17_999_000_000),
            ("2026-11-26T14:00:00.123456789Z", 1_795_701_600_123_456),
        ] {
            assert_eq!(parse(text), Some(us), "{text}");
        }
        for text in [
            "",
            "2024-02-30T00:00:00Z",
            "2023-02-29 00:00:00",
            "2024-01-01",
            "2024-01-01T24:00:00Z",
            "2024-1-1T00:00:00Z",
            "2024-01-01T00:00:00.Z",
            "2024-01-01T00:00:00+25",
            "２024-01-01T00:00:00Z",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
