//! Settings, in the types that `library.toml` names.

use littoral_sdk::prelude::*;

/// The units of a time, as in manifests, in microseconds.
const TIME_UNITS: [(&str, f64); 6] =
    [("us", 1.0), ("ms", 1e3), ("s", 1e6), ("min", 60e6), ("h", 3_600e6), ("d", 86_400e6)];
/// The units of a size, as in manifests, in bytes.
const SIZE_UNITS: [(&str, f64); 5] = [("B", 1.0), ("kB", 1e3), ("KiB", 1024.0), ("MB", 1e6), ("MiB", 1_048_576.0)];
/// The longest time that is taken, in microseconds: a hundred years. Sums of it and a moment stay within 64 bits.
const TIME_US_MAX: f64 = 100.0 * 365.25 * 86_400e6;
/// The largest size that is taken, in bytes: more than a guest can have.
const SIZE_BYTES_MAX: f64 = 4_294_967_296.0;

/// The settings of a function, read in the types that `library.toml` names.
#[derive(Clone, Copy, Debug)]
pub struct Settings<'a>(pub &'a Config);

impl<'a> Settings<'a> {
    /// A text; `default` if it is not set.
    #[must_use]
    pub fn text(&self, name: &str, default: &'a str) -> &'a str {
        self.0.get(name).unwrap_or(default)
    }

    /// A text that must be set.
    ///
    /// # Errors
    /// When it is not.
    pub fn required(&self, name: &str) -> Result<&'a str> {
        self.0.get(name).ok_or_else(|| Error::new(format!("the setting `{name}` is missing")))
    }

    /// Names of columns, separated by commas; `default` if it is not set.
    ///
    /// # Errors
    /// When there is none, or an empty one.
    pub fn names(&self, name: &str, default: &'a str) -> Result<Vec<String>> {
        let text = self.text(name, default);
        let names: Vec<String> = text.split(',').map(|column| column.trim().to_owned()).collect();
        if names.iter().any(String::is_empty) {
            return Err(wrong(name, text, "expected names of columns, separated by commas"));
        }
        Ok(names)
    }

    /// A time of more than nothing, in microseconds, as `500ms` or `1.5h`.
    ///
    /// # Errors
    /// When it is set to anything else.
    pub fn time_us(&self, name: &str, default: &'a str) -> Result<i64> {
        let text = self.text(name, default);
        let us = quantity(text, &TIME_UNITS).filter(|us| (1.0..=TIME_US_MAX).contains(us));
        // At most a hundred years of microseconds: far below 2^63.
        us.map(|us| us as i64).ok_or_else(|| wrong(name, text, "expected a time, as `500ms`, `90s`, `5min`, `1.5h`"))
    }

    /// A size of at least one byte, in bytes, as `4MiB`.
    ///
    /// # Errors
    /// When it is set to anything else.
    pub fn bytes(&self, name: &str, default: &'a str) -> Result<usize> {
        let text = self.text(name, default);
        let bytes = quantity(text, &SIZE_UNITS).filter(|bytes| (1.0..SIZE_BYTES_MAX).contains(bytes));
        bytes.map(|bytes| bytes as usize).ok_or_else(|| wrong(name, text, "expected a size, as `64KiB` or `4MiB`"))
    }

    /// A number that is finite and more than nothing.
    ///
    /// # Errors
    /// When it is set to anything else.
    pub fn positive(&self, name: &str, default: f64) -> Result<f64> {
        let number: f64 = self.0.parse(name, default)?;
        if number.is_finite() && number > 0.0 {
            return Ok(number);
        }
        Err(wrong(name, &number.to_string(), "expected a number above 0"))
    }

    /// A whole number within a range.
    ///
    /// # Errors
    /// When it is set to anything else.
    pub fn whole(&self, name: &str, default: usize, range: std::ops::RangeInclusive<usize>) -> Result<usize> {
        let number: usize = self.0.parse(name, default)?;
        if range.contains(&number) {
            return Ok(number);
        }
        Err(wrong(name, &number.to_string(), &format!("expected {} to {}", range.start(), range.end())))
    }
}

/// What is wrong with a setting.
fn wrong(name: &str, value: &str, expected: &str) -> Error {
    Error::new(format!("the setting `{name}` is `{value}`: {expected}"))
}

/// A number and its unit.
fn quantity(text: &str, units: &[(&str, f64)]) -> Option<f64> {
    let digits = text.find(|c: char| !(c.is_ascii_digit() || c == '.'))?;
    let (number, unit) = text.split_at_checked(digits)?;
    let (_, factor) = units.iter().find(|(name, _)| *name == unit.trim())?;
    Some((number.parse::<f64>().ok()? * factor).round())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn config(value: &str) -> Config {
        Config::new(vec![("x".to_owned(), value.to_owned())])
    }

    #[test]
    fn times_and_sizes_have_units() {
        for (text, us) in [("250us", 250), ("1.5s", 1_500_000), ("5min", 300_000_000), ("7d", 604_800_000_000)] {
            assert_eq!(Settings(&config(text)).time_us("x", "1s").unwrap(), us);
        }
        assert_eq!(Settings(&config("4MiB")).bytes("x", "1B").unwrap(), 4 << 20);
        assert_eq!(Settings(&Config::default()).time_us("x", "2ms").unwrap(), 2_000);
        for text in ["", "5", "0s", "-1s", "1 parsec", "1e3s", "101000d", "s"] {
            let error = Settings(&config(text)).time_us("x", "1s").unwrap_err();
            assert!(error.to_string().starts_with(&format!("the setting `x` is `{text}`: expected a time")), "{error}");
        }
    }

    #[test]
    fn names_and_numbers_are_checked() {
        assert_eq!(Settings(&config("a, b")).names("x", "").unwrap(), ["a", "b"]);
        assert!(Settings(&config("a,,b")).names("x", "").is_err());
        assert!(Settings(&config("nan")).positive("x", 1.0).is_err());
        assert!(Settings(&config("0")).whole("x", 1, 1..=8).is_err());
        assert!(Settings(&Config::default()).required("x").is_err());
    }
}
