//! What a node says of its surroundings: where it is and whether it moves, what powers it, what it costs, and what it
//! would fail together with. All of it may change while the node runs.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::id::{AcceleratorName, DomainName, RegionId};
use crate::unit::{Distance, Ratio};

/// A node's situation. What is not known is left out, and satisfies no constraint that asks for it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Situation {
    /// The region whose law its data is under.
    pub region: Option<RegionId>,
    /// Where it is.
    pub position: Option<Position>,
    /// Whether it is moving.
    pub moving: bool,
    /// Its accelerators.
    pub accelerators: BTreeSet<AcceleratorName>,
    /// What powers it.
    pub power: Power,
    /// What a core costs for an hour, in millionths of the fabric's currency.
    pub core_hour_price_micros: Option<u64>,
    /// What it would fail together with: nodes with the same name for a kind share that.
    pub domains: BTreeMap<FailureDomain, DomainName>,
}

impl Situation {
    /// What is known of it, a text for each thing: where it is, whether it moves, what it has, what powers it, what it
    /// costs, what it would fail with.
    #[must_use]
    pub fn describe(&self) -> Vec<String> {
        let millionths = |micros: u64| micros as f64 / 1e6;
        let power = &self.power;
        let mut texts = Vec::new();
        texts.extend(self.region.iter().map(|region| format!("region {region}")));
        texts.extend(self.position.iter().map(|position| format!("at {position}")));
        texts.extend(self.moving.then(|| "moving".to_owned()));
        texts.extend(self.accelerators.iter().map(ToString::to_string));
        if power.source == PowerSource::Mains {
            texts.push("on the mains".to_owned());
        }
        texts.extend(power.battery_percent.map(|percent| format!("battery {percent}%")));
        texts.extend(power.kwh_price_micros.map(|micros| format!("{}/kWh", millionths(micros))));
        texts.extend(power.carbon_g_per_kwh.map(|grams| format!("{grams} g/kWh")));
        texts.extend(power.core_milliwatts.map(|milliwatts| format!("{} W/core", f64::from(milliwatts) / 1e3)));
        texts.extend(self.core_hour_price_micros.map(|micros| format!("{}/core-hour", millionths(micros))));
        texts.extend(self.domains.iter().map(|(domain, name)| format!("{domain} {name}")));
        texts
    }
}

/// What powers a node, and what that costs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Power {
    /// Where its power comes from now.
    pub source: PowerSource,
    /// How full its battery is, in percent, if it has one.
    pub battery_percent: Option<u8>,
    /// What a kilowatt hour costs, in millionths of the fabric's currency.
    pub kwh_price_micros: Option<u64>,
    /// What a kilowatt hour emits, in grams of carbon dioxide.
    pub carbon_g_per_kwh: Option<u32>,
    /// What a busy core draws, in milliwatts.
    pub core_milliwatts: Option<u32>,
}

/// Where a node's power comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PowerSource {
    /// It does not say; machines that have no battery do not.
    #[default]
    Unknown,
    /// The mains.
    Mains,
    /// Its battery.
    Battery,
}

impl fmt::Display for PowerSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unknown => "unknown",
            Self::Mains => "mains",
            Self::Battery => "battery",
        })
    }
}

/// A kind of thing that nodes fail together with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum FailureDomain {
    /// The circuit that powers them.
    Power,
    /// The link that connects them with the rest of the world.
    Uplink,
}

impl FailureDomain {
    /// Every kind.
    pub const ALL: [Self; 2] = [Self::Power, Self::Uplink];
}

impl fmt::Display for FailureDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Power => "power",
            Self::Uplink => "uplink",
        })
    }
}

/// A place on Earth, as `59.3293,18.0686`: latitude and longitude in degrees (WGS 84); kept in steps of 1e-7 degrees,
/// about a centimetre.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Position {
    latitude_e7: i32,
    longitude_e7: i32,
}

/// The most that a price or a power in watts may be.
const AMOUNT_MAX: f64 = 1e6;

/// A text that is no position.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no position: {problem}; write latitude and longitude in degrees, like `{POSITION_EXAMPLE}`")]
pub struct PositionError {
    /// What was given.
    pub text: String,
    /// What is wrong with it.
    pub problem: &'static str,
}

/// A position as it is written.
const POSITION_EXAMPLE: &str = "59.3293,18.0686";
/// Steps of a position in a degree.
const STEPS_PER_DEGREE: f64 = 1e7;
/// The mean radius of the Earth, in metres (IUGG).
const EARTH_RADIUS_M: f64 = 6_371_008.8;

impl Position {
    /// How far away another position is along the surface (haversine formula), to the metre.
    #[must_use]
    pub fn distance(self, other: Self) -> Distance {
        let radians = |steps: i32| (f64::from(steps) / STEPS_PER_DEGREE).to_radians();
        let (here, there) = (radians(self.latitude_e7), radians(other.latitude_e7));
        let east = radians(other.longitude_e7) - radians(self.longitude_e7);
        let chord = ((there - here) / 2.0).sin().powi(2) + here.cos() * there.cos() * (east / 2.0).sin().powi(2);
        let metres = 2.0 * EARTH_RADIUS_M * chord.sqrt().clamp(0.0, 1.0).asin();
        // At most half the Earth's circumference.
        Distance::from_metres(metres.round() as u64)
    }
}

impl FromStr for Position {
    type Err = PositionError;

    fn from_str(text: &str) -> Result<Self, PositionError> {
        let wrong = |problem| PositionError { text: text.to_owned(), problem };
        let (latitude, longitude) = text.split_once(',').ok_or_else(|| wrong("it has no comma"))?;
        let steps = |degrees: &str, most: f64, too_far: &'static str| {
            let degrees = degrees.trim();
            let plain = degrees.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b'-' | b'+'));
            let value: f64 =
                degrees.parse().ok().filter(|_| plain).ok_or_else(|| wrong("it is not two decimal numbers"))?;
            if value.abs() > most {
                return Err(wrong(too_far));
            }
            // At most 1.8e9: fits.
            Ok((value * STEPS_PER_DEGREE).round() as i32)
        };
        Ok(Self {
            latitude_e7: steps(latitude, 90.0, "a latitude is from -90 to 90")?,
            longitude_e7: steps(longitude, 180.0, "a longitude is from -180 to 180")?,
        })
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let degrees = |steps: i32| f64::from(steps) / STEPS_PER_DEGREE;
        write!(f, "{},{}", degrees(self.latitude_e7), degrees(self.longitude_e7))
    }
}

impl TryFrom<String> for Position {
    type Error = PositionError;
    fn try_from(text: String) -> Result<Self, PositionError> {
        text.parse()
    }
}

impl From<Position> for String {
    fn from(position: Position) -> Self {
        position.to_string()
    }
}

impl JsonSchema for Position {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Position".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "format": "position", "examples": [POSITION_EXAMPLE] })
    }
}

/// What a file states of a node's situation, in TOML: what its owner knows, and what sensors of its maker write there.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Stated {
    region: Option<RegionId>,
    position: Option<Position>,
    moving: bool,
    accelerators: BTreeSet<AcceleratorName>,
    core_hour_price: Option<f64>,
    power: StatedPower,
    domains: BTreeMap<FailureDomain, DomainName>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct StatedPower {
    source: Option<PowerSource>,
    battery: Option<Ratio>,
    kwh_price: Option<f64>,
    carbon: Option<u32>,
    core_watts: Option<f64>,
}

impl Stated {
    /// Reads such a file's text.
    ///
    /// # Errors
    /// Says what is wrong and where.
    pub fn parse(text: &str) -> Result<Self, String> {
        let stated: Self = toml::from_str(text).map_err(|error| error.to_string())?;
        let amounts = [stated.core_hour_price, stated.power.kwh_price, stated.power.core_watts];
        if amounts.into_iter().flatten().any(|amount| !(0.0..=AMOUNT_MAX).contains(&amount)) {
            return Err(format!("a price or a power is from 0 to {AMOUNT_MAX}"));
        }
        Ok(stated)
    }

    /// The situation, where `measured` is what the machine itself says of its power: what is stated goes first.
    #[must_use]
    pub fn situation(self, measured: (PowerSource, Option<u8>)) -> Situation {
        // At most a billion times a million: exact enough, and it fits.
        let millionths = |amount: f64| (amount * 1e6).round() as u64;
        let percent = |ratio: Ratio| (ratio.as_fraction() * 100.0).floor() as u8;
        Situation {
            region: self.region,
            position: self.position,
            moving: self.moving,
            accelerators: self.accelerators,
            power: Power {
                source: self.power.source.unwrap_or(measured.0),
                battery_percent: self.power.battery.map(percent).or(measured.1),
                kwh_price_micros: self.power.kwh_price.map(millionths),
                carbon_g_per_kwh: self.power.carbon,
                core_milliwatts: self.power.core_watts.map(|watts| (watts * 1e3).round() as u32),
            },
            core_hour_price_micros: self.core_hour_price.map(millionths),
            domains: self.domains,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn at(text: &str) -> Position {
        text.parse().unwrap()
    }

    #[test]
    fn distances_are_those_of_the_map() {
        // Stockholm to Uppsala is 63.6 km; across the date line it is the short way round.
        let metres = at("59.3293,18.0686").distance(at("59.8586,17.6389")).as_metres();
        assert!((63_000..64_500).contains(&metres), "{metres}");
        let metres = at("0,179.9").distance(at("0,-179.9")).as_metres();
        assert!((22_000..22_500).contains(&metres), "{metres}");
        assert_eq!(at("59.3,18").distance(at(" 59.30 , 18.0")).as_metres(), 0);
    }

    #[test]
    fn what_is_no_position_is_told_why() {
        for (text, problem) in [
            ("59.3", "no comma"),
            ("91,0", "-90 to 90"),
            ("0,181", "-180 to 180"),
            ("north,0", "two decimal numbers"),
            ("NaN,0", "two decimal numbers"),
            ("1e3,0", "two decimal numbers"),
        ] {
            let error = text.parse::<Position>().unwrap_err().to_string();
            assert!(error.contains(problem), "{error}");
        }
    }

    #[test]
    fn a_file_states_a_situation_and_goes_before_what_is_measured() {
        let text = "region = \"eu-north\"\nposition = \"59.3,18\"\naccelerators = [\"gpu\"]\ncore-hour-price = 0.038\n\
            [power]\nsource = \"battery\"\nbattery = \"72.9%\"\nkwh-price = 0.21\ncarbon = 41\ncore-watts = 4.5\n\
            [domains]\npower = \"circuit-a\"\n";
        let situation = Stated::parse(text).unwrap().situation((PowerSource::Mains, Some(12)));
        assert_eq!(situation.region, Some("eu-north".parse().unwrap()));
        assert_eq!((situation.power.source, situation.power.battery_percent), (PowerSource::Battery, Some(72)));
        assert_eq!((situation.core_hour_price_micros, situation.power.core_milliwatts), (Some(38_000), Some(4_500)));
        assert_eq!(situation.domains.get(&FailureDomain::Power), Some(&"circuit-a".parse().unwrap()));
        let empty = Stated::parse("").unwrap().situation((PowerSource::Mains, Some(12)));
        assert_eq!((empty.power.source, empty.power.battery_percent), (PowerSource::Mains, Some(12)));
        assert!(Stated::parse("regoin = \"x\"").unwrap_err().contains("regoin"));
        assert!(Stated::parse("core-hour-price = -1.0").is_err());
        assert!(Stated::parse("position = \"59.3\"").unwrap_err().contains("no comma"));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_position_is_read_as_it_is_written(latitude_e7 in -900_000_000..=900_000_000, longitude_e7 in -1_800_000_000..=1_800_000_000) {
            let position = Position { latitude_e7, longitude_e7 };
            prop_assert_eq!(position.to_string().parse(), Ok(position));
            prop_assert_eq!(position.distance(position).as_metres(), 0);
        }
    }
}
