//! Quantities as they are written in manifests and on the command line: a number and its unit.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// A text that is not a quantity of the wanted kind: what is wrong with it, and what was expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no {kind}: {problem}; write it like `{example}`, with one of {units}")]
pub struct UnitError {
    /// What was given.
    pub text: String,
    /// What it should be.
    pub kind: &'static str,
    /// What is wrong.
    pub problem: UnitProblem,
    /// A right one.
    pub example: &'static str,
    /// The units that there are.
    pub units: String,
}

/// What is wrong with a text that should be a quantity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnitProblem {
    /// It does not begin with a digit.
    #[error("it has no number")]
    NoNumber,
    /// It begins with a minus sign.
    #[error("it is negative")]
    Negative,
    /// It begins with something other than a decimal number.
    #[error("`{0}` is no number with at most nine decimals")]
    NotANumber(String),
    /// It ends after the number.
    #[error("it has no unit")]
    NoUnit,
    /// There is no such unit.
    #[error("there is no unit `{unit}`, did you mean `{nearest}`?")]
    UnknownUnit {
        /// What stands where the unit should.
        unit: String,
        /// The unit that is most like it.
        nearest: &'static str,
    },
    /// Its number does not fit 64 bits of the smallest unit.
    #[error("it is too large")]
    TooLarge,
    /// It is not a whole number of the smallest unit.
    #[error("it is finer than the smallest step")]
    TooFine,
    /// It is a share of more than the whole.
    #[error("it is more than 100%")]
    MoreThanAll,
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
const DISTANCE: Kind = Kind { name: "distance", example: "500m", units: &[("m", 1), ("km", 1_000)] };
/// As Kubernetes has it: thousandths of a processor, or whole ones without a unit.
const CPUS: Kind = Kind { name: "cpu-quantity", example: "500m", units: &[("m", 1), ("", 1_000)] };
const RATIO: Kind = Kind { name: "ratio", example: "0.5%", units: &[("%", PARTS_PER_PERCENT)] };
/// Ratios are kept in millionths.
const PARTS_PER_PERCENT: u64 = 10_000;

/// The most decimals that are read: what is finer than a billionth of a unit is no quantity that a person means.
const DECIMALS_MAX: u32 = 9;
/// How many characters of an unknown unit are compared with the known ones.
const UNIT_CHARS_MAX: usize = 32;

impl Kind {
    fn error(&self, text: &str, problem: UnitProblem) -> UnitError {
        let name = |unit: &&'static str| if unit.is_empty() { "no unit" } else { unit };
        let units: Vec<&str> = self.units.iter().map(|(unit, _)| name(unit)).collect();
        UnitError { text: text.to_owned(), kind: self.name, problem, example: self.example, units: units.join(", ") }
    }

    /// The quantity in the smallest unit.
    fn parse(&self, text: &str) -> Result<u64, UnitError> {
        self.read(text).map_err(|problem| self.error(text, problem))
    }

    fn read(&self, text: &str) -> Result<u64, UnitProblem> {
        let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = text.split_at(split);
        let unit = unit.trim_start_matches(' ');
        if number.is_empty() {
            return Err(if unit.starts_with('-') { UnitProblem::Negative } else { UnitProblem::NoNumber });
        }
        let Some((_, factor)) = self.units.iter().find(|(known, _)| *known == unit) else {
            if unit.is_empty() {
                return Err(UnitProblem::NoUnit);
            }
            return Err(UnitProblem::UnknownUnit { unit: unit.to_owned(), nearest: self.nearest(unit) });
        };
        scale(number, *factor)
    }

    /// The unit that is most like the given text.
    fn nearest(&self, unit: &str) -> &'static str {
        // No unit is longer; comparing takes time with the product of both lengths.
        let given: String = unit.to_lowercase().chars().take(UNIT_CHARS_MAX).collect();
        let likeness = |known: &str| strsim::jaro_winkler(&known.to_lowercase(), &given);
        let known = self.units.iter().map(|(known, _)| *known);
        known.max_by(|one, other| likeness(one).total_cmp(&likeness(other))).unwrap_or_default()
    }

    /// The quantity in the largest unit in which it is a whole number.
    fn show(&self, value: u64, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fits = self.units.iter().rev().find(|(_, factor)| value != 0 && value.is_multiple_of(*factor));
        let (unit, factor) = fits.or(self.units.first()).copied().unwrap_or(("", 1));
        write!(f, "{}{unit}", value / factor)
    }

    fn schema(&self) -> Schema {
        let units: Vec<&str> = self.units.iter().map(|(unit, _)| *unit).collect();
        let pattern = format!("^[0-9]+(\\.[0-9]{{1,9}})? *({})$", units.join("|"));
        json_schema!({ "type": "string", "format": self.name, "pattern": pattern, "examples": [self.example] })
    }
}

/// A decimal number times a factor, which must be whole.
fn scale(number: &str, factor: u64) -> Result<u64, UnitProblem> {
    let (whole, part) = number.split_once('.').unwrap_or((number, "0"));
    let is_number = |digits: &str| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let decimals = u32::try_from(part.len()).ok().filter(|decimals| *decimals <= DECIMALS_MAX);
    let (true, Some(decimals), Ok(part)) = (is_number(whole) && is_number(part), decimals, part.parse::<u128>()) else {
        return Err(UnitProblem::NotANumber(number.to_owned()));
    };
    let scale = 10_u128.pow(decimals);
    let whole = whole.parse::<u64>().map_err(|_| UnitProblem::TooLarge)?;
    // Below 2^64 * 10^9 * 2^47: it fits.
    let scaled = (u128::from(whole) * scale + part) * u128::from(factor);
    if scaled % scale != 0 {
        return Err(UnitProblem::TooFine);
    }
    u64::try_from(scaled / scale).map_err(|_| UnitProblem::TooLarge)
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
    /// A distance, as `500m`; kept in metres.
    Distance: DISTANCE;
    /// A share of the whole, as `0.5%`; kept in millionths.
    Ratio: RATIO;
    /// So many processors, as `500m` or `1.5`; kept in thousandths of one.
    Cpus: CPUS;
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
    Distance: DISTANCE;
    Cpus: CPUS;
}

impl Ratio {
    fn checked(text: &str, value: u64) -> Result<Self, UnitError> {
        if value > 100 * PARTS_PER_PERCENT {
            return Err(RATIO.error(text, UnitProblem::MoreThanAll));
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

    /// It in microseconds.
    #[must_use]
    pub const fn as_micros(self) -> u64 {
        self.0
    }
}

impl Size {
    /// A size of so many bytes.
    #[must_use]
    pub const fn from_bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    /// It in bytes.
    #[must_use]
    pub const fn as_bytes(self) -> u64 {
        self.0
    }
}

impl Bandwidth {
    /// A rate of so many bits per second.
    #[must_use]
    pub const fn from_bits_per_second(bits: u64) -> Self {
        Self(bits)
    }

    /// It in bits per second.
    #[must_use]
    pub const fn as_bits_per_second(self) -> u64 {
        self.0
    }
}

impl Distance {
    /// A distance of so many metres.
    #[must_use]
    pub const fn from_metres(metres: u64) -> Self {
        Self(metres)
    }

    /// It in metres.
    #[must_use]
    pub const fn as_metres(self) -> u64 {
        self.0
    }
}

impl Cpus {
    /// So many thousandths of a processor.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// It in thousandths of a processor.
    #[must_use]
    pub const fn as_millis(self) -> u64 {
        self.0
    }
}

impl Ratio {
    /// A share of so many percent; the whole if they are more.
    #[must_use]
    pub const fn from_percent(percent: u8) -> Self {
        Self(if percent < 100 { percent as u64 } else { 100 } * PARTS_PER_PERCENT)
    }

    /// It as a part of 1.
    #[must_use]
    pub fn as_fraction(self) -> f64 {
        // At most a million: exact.
        self.0 as f64 / (100 * PARTS_PER_PERCENT) as f64
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
        ratio.as_fraction()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

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
        for (text, millis, written) in
            [("500m", 500, "500m"), ("0.5", 500, "500m"), ("2", 2_000, "2"), ("1.25", 1_250, "1250m")]
        {
            let cpus: Cpus = text.parse().unwrap();
            assert_eq!((cpus.as_millis(), cpus.to_string().as_str()), (millis, written));
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_an_example() {
        let reason = |text: &str| text.parse::<Time>().unwrap_err().to_string();
        assert!(reason("150").contains("no unit"));
        assert!(reason("-1s").contains("negative"));
        assert!(reason("ms").contains("no number"));
        for (given, meant) in [("5mins", "min"), ("7 days", "d"), ("1sec", "s"), ("2 hours", "h"), ("1MS", "ms")] {
            assert!(reason(given).contains(&format!("did you mean `{meant}`")), "{}", reason(given));
        }
        assert!(reason("0.0000001s").contains("smallest step"));
        assert!(reason("99999999999999999999d").contains("too large"));
        assert!("101%".parse::<Ratio>().unwrap_err().to_string().contains("more than 100%"));
        for text in ["1.2.3s", "1.s", ".5s", "1,5s", "1.0000000000s", "1\u{a0}s", "", "s", "+1s", "1e3s", "1 s "] {
            assert!(text.parse::<Time>().is_err(), "{text:?}");
        }
        let cpus = |text: &str| text.parse::<Cpus>().unwrap_err().to_string();
        assert!(cpus("5x").ends_with("write it like `500m`, with one of m, no unit"), "{}", cpus("5x"));
        assert!(cpus("0.5m").contains("smallest step"));
        let unknown = UnitProblem::UnknownUnit { unit: "mib".to_owned(), nearest: "MiB" };
        assert_eq!("1mib".parse::<Size>().unwrap_err().problem, unknown);
        assert_eq!("17000000TiB".parse::<Size>().unwrap_err().problem, UnitProblem::TooLarge);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_is_written_is_read_as_the_same(number: u64, part in 0..=1_000_000_u64) {
            let (time, size, rate) = (Time(number), Size(number), Bandwidth(number));
            prop_assert_eq!(time.to_string().parse::<Time>(), Ok(time));
            prop_assert_eq!(size.to_string().parse::<Size>(), Ok(size));
            prop_assert_eq!(rate.to_string().parse::<Bandwidth>(), Ok(rate));
            prop_assert_eq!(Cpus(number).to_string().parse::<Cpus>(), Ok(Cpus(number)));
            prop_assert_eq!(Ratio(part).to_string().parse::<Ratio>(), Ok(Ratio(part)));
        }

        #[test]
        fn no_text_breaks_it(text in ".{0,40}", number in "[0-9.]{0,40}", unit in "(us|ms|d|TiB|GiB|Gbit/s|%| )?") {
            for text in [text, format!("{number}{unit}")] {
                _ = text.parse::<Time>();
                _ = text.parse::<Size>();
                _ = text.parse::<Bandwidth>();
                _ = text.parse::<Ratio>();
                _ = text.parse::<Cpus>();
            }
        }
    }
}
