//! Quantities as they are written in manifests and on the command line: a number and its unit.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// A text that is not a quantity of the wanted kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no {kind}: {reason}; write it like `{example}`, with one of {units}")]
pub struct UnitError {
    /// What was given.
    pub text: String,
    /// What it should be.
    pub kind: &'static str,
    /// What is wrong.
    pub reason: String,
    /// A right one.
    pub example: &'static str,
    /// The units that there are.
    pub units: String,
}

/// What is common to the quantities.
struct Kind {
    name: &'static str,
    example: &'static str,
    /// The units and what they are in the smallest one, the smallest first.
    units: &'static [(&'static str, u64)],
}

const TIME: Kind = Kind {
    name: "time",
    example: "150ms",
    units: &[
        ("us", 1),
        ("ms", 1_000),
        ("s", 1_000_000),
        ("min", 60_000_000),
        ("h", 3_600_000_000),
        ("d", 86_400_000_000),
    ],
};
const SIZE: Kind = Kind {
    name: "size",
    example: "32MiB",
    units: &[
        ("B", 1),
        ("kB", 1_000),
        ("KiB", 1 << 10),
        ("MB", 1_000_000),
        ("MiB", 1 << 20),
        ("GB", 1_000_000_000),
        ("GiB", 1 << 30),
        ("TB", 1_000_000_000_000),
        ("TiB", 1 << 40),
    ],
};
const BANDWIDTH: Kind = Kind {
    name: "bandwidth",
    example: "50Mbit/s",
    units: &[("bit/s", 1), ("kbit/s", 1_000), ("Mbit/s", 1_000_000), ("Gbit/s", 1_000_000_000)],
};
const RATIO: Kind = Kind { name: "ratio", example: "0.5%", units: &[("%", PARTS_PER_PERCENT)] };
/// Ratios are kept in millionths.
const PARTS_PER_PERCENT: u64 = 10_000;

impl Kind {
    fn error(&self, text: &str, reason: impl Into<String>) -> UnitError {
        let units: Vec<&str> = self.units.iter().map(|(unit, _)| *unit).collect();
        let (text, reason, units) = (text.to_owned(), reason.into(), units.join(", "));
        UnitError { text, kind: self.name, reason, example: self.example, units }
    }

    /// The quantity in the smallest unit.
    fn parse(&self, text: &str) -> Result<u64, UnitError> {
        let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = text.split_at(split);
        let unit = unit.trim_start();
        if number.is_empty() {
            return Err(self.error(text, if unit.starts_with('-') { "it is negative" } else { "it has no number" }));
        }
        if unit.is_empty() {
            return Err(self.error(text, "it has no unit"));
        }
        let Some((_, factor)) = self.units.iter().find(|(known, _)| *known == unit) else {
            let nearest = self.units.iter().min_by_key(|(known, _)| strsim::damerau_levenshtein(known, unit));
            let hint = nearest.map(|(known, _)| format!(", did you mean `{known}`?")).unwrap_or_default();
            return Err(self.error(text, format!("`{unit}` is no unit of {}{hint}", self.name)));
        };
        self.scale(text, number, *factor)
    }

    fn scale(&self, text: &str, number: &str, factor: u64) -> Result<u64, UnitError> {
        let (whole, part) = number.split_once('.').unwrap_or((number, "0"));
        let digits = u32::try_from(part.len()).ok().filter(|digits| (1..=9).contains(digits));
        let (Ok(whole), Ok(part), Some(digits)) = (whole.parse::<u128>(), part.parse::<u128>(), digits) else {
            return Err(self.error(text, format!("`{number}` is no number with at most nine decimals")));
        };
        let scale = 10_u128.pow(digits);
        let scaled = whole.checked_mul(scale).and_then(|n| n.checked_add(part)).and_then(|n| n.checked_mul(factor.into()));
        let exact = scaled.filter(|scaled| scaled % scale == 0).map(|scaled| scaled / scale);
        let value = exact.and_then(|value| u64::try_from(value).ok());
        value.ok_or_else(|| self.error(text, "it is too large, or a part of the smallest unit"))
    }

    /// The quantity in the largest unit in which it is a whole number.
    fn show(&self, value: u64, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fits = self.units.iter().rev().find(|(_, factor)| value != 0 && value % factor == 0);
        let (unit, factor) = fits.or(self.units.first()).copied().unwrap_or(("", 1));
        write!(f, "{}{unit}", value / factor)
    }

    fn schema(&self) -> Schema {
        let units: Vec<&str> = self.units.iter().map(|(unit, _)| *unit).collect();
        let pattern = format!("^[0-9]+(\\.[0-9]{{1,9}})? *({})$", units.join("|"));
        json_schema!({ "type": "string", "format": self.name, "pattern": pattern, "examples": [self.example] })
    }
}

macro_rules! quantities {
    ($($(#[$doc:meta])* $name:ident: $kind:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(u64);

        impl FromStr for $name {
            type Err = UnitError;
            fn from_str(text: &str) -> Result<Self, UnitError> {
                Self::checked(text, $kind.parse(text)?)
            }
        }

        impl TryFrom<String> for $name {
            type Error = UnitError;
            fn try_from(text: String) -> Result<Self, UnitError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(quantity: $name) -> String {
                quantity.to_string()
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                $kind.schema()
            }
        }
    )*};
}

quantities! {
    /// A time, as `150ms`; kept in microseconds.
    Time: TIME;
    /// A size, as `32MiB`; kept in bytes.
    Size: SIZE;
    /// A rate, as `50Mbit/s`; kept in bits per second.
    Bandwidth: BANDWIDTH;
    /// A share of the whole, as `0.5%`; kept in millionths.
    Ratio: RATIO;
}

macro_rules! shown_by_kind {
    ($($name:ident: $kind:ident;)*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                $kind.show(self.0, f)
            }
        }

        impl $name {
            // Every number of the smallest unit is one.
            #[allow(clippy::unnecessary_wraps)]
            fn checked(_text: &str, value: u64) -> Result<Self, UnitError> {
                Ok(Self(value))
            }
        }
    )*};
}

shown_by_kind! {
    Time: TIME;
    Size: SIZE;
    Bandwidth: BANDWIDTH;
}

impl Ratio {
    fn checked(text: &str, value: u64) -> Result<Self, UnitError> {
        if value > 100 * PARTS_PER_PERCENT {
            return Err(RATIO.error(text, "it is more than 100%"));
        }
        Ok(Self(value))
    }
}

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, part) = (self.0 / PARTS_PER_PERCENT, self.0 % PARTS_PER_PERCENT);
        if part == 0 {
            return write!(f, "{whole}%");
        }
        let part = format!("{part:04}");
        write!(f, "{whole}.{}%", part.trim_end_matches('0'))
    }
}

impl Time {
    /// A time of so many microseconds.
    #[must_use]
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros)
    }
}

impl Size {
    /// A size of so many bytes.
    #[must_use]
    pub const fn from_bytes(bytes: u64) -> Self {
        Self(bytes)
    }
}

impl From<Time> for Duration {
    fn from(time: Time) -> Self {
        Self::from_micros(time.0)
    }
}

impl From<Size> for u64 {
    fn from(size: Size) -> Self {
        size.0
    }
}

impl From<Bandwidth> for u64 {
    fn from(bandwidth: Bandwidth) -> Self {
        bandwidth.0
    }
}

impl From<Ratio> for f64 {
    fn from(ratio: Ratio) -> Self {
        // At most a million: exact.
        ratio.0 as Self / (100 * PARTS_PER_PERCENT) as Self
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn quantities_are_read_and_written() {
        assert_eq!(Duration::from("150ms".parse::<Time>().unwrap()), Duration::from_millis(150));
        assert_eq!(Duration::from("1.5 s".parse::<Time>().unwrap()), Duration::from_millis(1_500));
        assert_eq!(u64::from("32MiB".parse::<Size>().unwrap()), 32 << 20);
        assert_eq!(u64::from("50Mbit/s".parse::<Bandwidth>().unwrap()), 50_000_000);
        assert!((f64::from("0.5%".parse::<Ratio>().unwrap()) - 0.005).abs() < 1e-12);
        for text in ["7d", "1500ms", "2min", "0us"] {
            assert_eq!(text.parse::<Time>().unwrap().to_string(), text);
        }
        assert_eq!("1024KiB".parse::<Size>().unwrap().to_string(), "1MiB");
        assert_eq!("0.25%".parse::<Ratio>().unwrap().to_string(), "0.25%");
    }

    #[test]
    fn what_is_wrong_is_said_with_an_example() {
        let reason = |text: &str| text.parse::<Time>().unwrap_err().to_string();
        assert!(reason("150").contains("no unit"));
        assert!(reason("-1s").contains("negative"));
        assert!(reason("ms").contains("no number"));
        assert!(reason("5mins").contains("did you mean `min`"), "{}", reason("5mins"));
        assert!(reason("0.0000001s").contains("smallest unit"));
        assert!(reason("99999999999999999999d").contains("too large"));
        assert!("101%".parse::<Ratio>().unwrap_err().to_string().contains("more than 100%"));
        assert!("1.2.3s".parse::<Time>().is_err());
    }
}
