//! What a choice costs, in the terms of an app's objectives.
//!
//! Five terms are added up along a flow: time, money, energy, carbon and locality. To be weighed against one another
//! each is scaled to microseconds: what the *reference* has of it counts as much as 10 ms. The reference is one stage
//! that takes 200 µs a record, on a core of 5 W at 0.04 an hour, with power at 0.20 and 300 g of carbon dioxide a
//! kilowatt hour; for locality it is one link between two sites. A node that does not state a figure is taken to have
//! the reference's. The score is the sum of weight times term; with the default weights it is the time alone.

use std::fmt;

use littoral_model::manifest::Objectives;
use littoral_model::situation::Situation;
use serde::{Deserialize, Serialize};

use crate::fabric::NodeView;
use crate::reason::Milliseconds;

/// What the reference's amount of each term counts as, in microseconds.
const REFERENCE_US: u64 = 10_000;
/// The reference's time for a record, in microseconds; also what a function of which nothing is known is taken to need.
pub(crate) const REFERENCE_EXECUTION_US: u64 = 200;
/// The reference's core, in milliwatts.
const REFERENCE_MILLIWATTS: u64 = 5_000;
/// What the reference's core costs for an hour, in millionths of the currency.
const REFERENCE_CORE_HOUR_MICROS: u64 = 40_000;
/// What the reference's power costs, in millionths of the currency for a kilowatt hour.
const REFERENCE_KWH_MICROS: u64 = 200_000;
/// What the reference's power emits, in grams for a kilowatt hour.
const REFERENCE_CARBON_G: u64 = 300;
/// What the reference's core and its power cost together for an hour, in millionths of the currency.
const REFERENCE_HOUR_MICROS: u64 = REFERENCE_CORE_HOUR_MICROS + REFERENCE_MILLIWATTS * REFERENCE_KWH_MICROS / 1_000_000;
/// What locality counts in a link between two nodes of a site, in hundredths of one between two sites.
const IN_SITE_PERCENT: u64 = 10;
/// What locality counts in a link between two regions, in hundredths of one between two sites.
const ACROSS_REGIONS_PERCENT: u64 = 300;
/// The records for which money, energy and carbon are shown.
const RECORDS: f64 = 1e6;
/// Microseconds in an hour.
const HOUR_US: f64 = 3.6e9;

/// What a choice costs, each term in the microseconds that it counts as before it is weighed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Terms {
    pub(crate) latency_us: u64,
    pub(crate) cost_us: u64,
    pub(crate) energy_us: u64,
    pub(crate) carbon_us: u64,
    pub(crate) locality_us: u64,
}

impl Terms {
    /// Time alone.
    pub(crate) fn latency(latency_us: u64) -> Self {
        Self { latency_us, ..Self::default() }
    }

    /// What it costs to use a core of a node for so long per record, the time itself left aside.
    pub(crate) fn execution(view: &NodeView, execution_us: u64) -> Self {
        let milliwatts = milliwatts(&view.situation);
        let power = &view.situation.power;
        let kwh_micros = power.kwh_price_micros.unwrap_or(REFERENCE_KWH_MICROS);
        let core_micros = view.situation.core_hour_price_micros.unwrap_or(REFERENCE_CORE_HOUR_MICROS);
        let hour_micros = core_micros.saturating_add(milliwatts.saturating_mul(kwh_micros) / 1_000_000);
        let carbon_g = power.carbon_g_per_kwh.map_or(REFERENCE_CARBON_G, u64::from);
        let scale = |amount: u64, reference: u64| {
            let counted = u128::from(amount) * u128::from(execution_us) * u128::from(REFERENCE_US)
                / (u128::from(reference) * u128::from(REFERENCE_EXECUTION_US));
            u64::try_from(counted).unwrap_or(u64::MAX)
        };
        Self {
            latency_us: 0,
            cost_us: scale(hour_micros, REFERENCE_HOUR_MICROS),
            energy_us: scale(milliwatts, REFERENCE_MILLIWATTS),
            carbon_us: scale(milliwatts.saturating_mul(carbon_g), REFERENCE_MILLIWATTS * REFERENCE_CARBON_G),
            locality_us: 0,
        }
    }

    /// What a link costs in locality, between two nodes that are one, of one site, or of one region.
    pub(crate) fn link(is_one: bool, in_site: bool, in_region: bool) -> Self {
        let percent = match (is_one, in_site, in_region) {
            (true, ..) => 0,
            (_, true, _) => IN_SITE_PERCENT,
            (.., true) => 100,
            _ => ACROSS_REGIONS_PERCENT,
        };
        Self { locality_us: REFERENCE_US * percent / 100, ..Self::default() }
    }

    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            latency_us: self.latency_us.saturating_add(other.latency_us),
            cost_us: self.cost_us.saturating_add(other.cost_us),
            energy_us: self.energy_us.saturating_add(other.energy_us),
            carbon_us: self.carbon_us.saturating_add(other.carbon_us),
            locality_us: self.locality_us.saturating_add(other.locality_us),
        }
    }

    /// The sum of weight times term.
    pub(crate) fn score(self, weights: Objectives) -> u64 {
        let each = weighed(self, weights).map(|(_, weight, us)| u64::from(weight).saturating_mul(us));
        each.into_iter().fold(0, u64::saturating_add)
    }

    /// By how much this is worse than the best; none where time alone is weighed, which is said otherwise.
    pub(crate) fn compare(self, best: Self, weights: Objectives) -> Option<Weighed> {
        if weights.is_time_alone() {
            return None;
        }
        let sum = weighed(self, weights).iter().map(|(_, weight, _)| u64::from(*weight)).sum::<u64>();
        let worse = self.score(weights).saturating_sub(best.score(weights));
        let pairs = weighed(self, weights).into_iter().zip(weighed(best, weights));
        let differences =
            pairs.filter(|((_, weight, _), _)| *weight > 0).map(|((objective, _, ours), (_, _, best))| {
                let difference = i128::from(ours) - i128::from(best);
                (objective, i64::try_from(difference).unwrap_or(i64::MAX))
            });
        Some(Weighed { worse_us: worse.checked_div(sum).unwrap_or(worse), differences: differences.collect() })
    }
}

fn weighed(terms: Terms, weights: Objectives) -> [(Objective, u32, u64); 5] {
    [
        (Objective::Latency, weights.latency, terms.latency_us),
        (Objective::Cost, weights.cost, terms.cost_us),
        (Objective::Energy, weights.energy, terms.energy_us),
        (Objective::Carbon, weights.carbon, terms.carbon_us),
        (Objective::Locality, weights.locality, terms.locality_us),
    ]
}

fn milliwatts(situation: &Situation) -> u64 {
    situation.power.core_milliwatts.map_or(REFERENCE_MILLIWATTS, u64::from)
}

/// One of the objectives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Objective {
    /// Time.
    Latency,
    /// Money.
    Cost,
    /// Energy.
    Energy,
    /// Carbon dioxide.
    Carbon,
    /// Links that leave a node, a site, a region.
    Locality,
}

/// By how much an alternative is worse, all objectives together, and how it differs in each that has a weight.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Weighed {
    /// The difference of the scores, divided by the sum of the weights, in microseconds.
    pub worse_us: u64,
    /// More (or less) of each objective, in the microseconds that it counts as before it is weighed.
    pub differences: Vec<(Objective, i64)>,
}

impl fmt::Display for Weighed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "+{} weighed", Milliseconds(self.worse_us))?;
        for (position, (objective, us)) in self.differences.iter().enumerate() {
            f.write_str(if position == 0 { ": " } else { ", " })?;
            // What the reference has of it for a million records, times the share of it that the difference is.
            let share = *us as f64 / REFERENCE_US as f64;
            let core_hours = REFERENCE_EXECUTION_US as f64 * RECORDS / HOUR_US;
            let watt_hours = core_hours * REFERENCE_MILLIWATTS as f64 / 1e3;
            match objective {
                Objective::Latency => write!(f, "{:+.1} ms", *us as f64 / 1e3)?,
                Objective::Cost => write!(f, "cost {:+.5}", share * core_hours * REFERENCE_HOUR_MICROS as f64 / 1e6)?,
                Objective::Energy => write!(f, "energy {:+.3} Wh", share * watt_hours)?,
                Objective::Carbon => {
                    write!(f, "carbon {:+.3} g", share * watt_hours * REFERENCE_CARBON_G as f64 / 1e3)?;
                }
                Objective::Locality => write!(f, "locality {:+.1} links", share)?,
            }
        }
        Ok(())
    }
}
