//! How long functions take, learned from every invocation: by function, variant, class of node and size of the input.
//!
//! A prediction says how sure it is: beside each quantile stands the interval in which it lies with 95 % probability,
//! from the order statistics of the records (Conover 1999, 3.2). A function of which nothing is known is predicted to
//! take what it declares, else a share of its timeout; that counts as 4 records, so that measurements soon
//! outweigh it.

use std::collections::BTreeMap;

use littoral_model::digest::NodeDigest;
use serde::{Deserialize, Serialize};

use crate::sketch::Sketch;

/// The most profiles that a node keeps; those that were not used for the longest are forgotten.
pub const PROFILES_MAX: usize = 32;
/// How many records a guess counts for.
const PRIOR: u64 = 4;
/// How many standard deviations around a rank hold 95 % of the cases.
const DEVIATIONS: f64 = 1.96;
/// Below so many records nothing is said of how high a quantile may be but what was guessed.
pub const RECORDS_FEW: u32 = 8;

/// What a variant of a function is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Variant {
    /// A WebAssembly component.
    Component,
    /// A container.
    Container,
    /// A managed process.
    Process,
}

/// Machines on which a function takes about as long: of one architecture, with as many cores and as fast ones, both to
/// a factor of two.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeClass {
    /// The architecture, as `x86_64`.
    pub arch: String,
    /// The binary logarithm of the cores.
    pub cores_log2: u8,
    /// The binary logarithm of the speed of one.
    pub speed_log2: u8,
}

impl NodeClass {
    /// The class of a node.
    #[must_use]
    pub fn of(digest: &NodeDigest) -> Self {
        let machine = &digest.condition.machine;
        let log2 = |number: u32| number.max(1).ilog2() as u8;
        Self { arch: machine.arch.clone(), cores_log2: log2(digest.cores), speed_log2: log2(machine.steps_per_us) }
    }
}

/// What a profile is of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ProfileKey {
    /// `tenant/app/function`.
    pub function: String,
    /// The variant.
    pub variant: Variant,
    /// The class of the node.
    pub class: NodeClass,
    /// The size of the input; see [`input_bucket`].
    pub input: u8,
}

/// The bucket of an input's size: 0 for none, else one for each factor of 16, from 1 for less than 16 bytes.
#[must_use]
pub fn input_bucket(bytes: u64) -> u8 {
    bytes.checked_ilog2().map_or(0, |log2| (log2 / 4 + 1) as u8)
}

/// The profiles that a node has learned or heard of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Profiles {
    /// With the turn in which each was last used.
    profiles: BTreeMap<ProfileKey, (u64, Sketch)>,
    turn: u64,
}

/// What a prediction rests on, from the best to the worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Grounds {
    /// Invocations with such inputs on such nodes.
    Same,
    /// Invocations with other inputs, on other nodes, or of other variants.
    Similar,
    /// What was declared or guessed.
    Guess,
}

/// A predicted quantile, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Estimate {
    /// The prediction.
    pub value_us: u64,
    /// With 95 % probability it is no less,
    pub low_us: u64,
    /// and no more than this.
    pub high_us: u64,
}

/// How long an invocation will take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prediction {
    /// Half of the invocations.
    pub p50: Estimate,
    /// 95 of 100.
    pub p95: Estimate,
    /// 99 of 100.
    pub p99: Estimate,
    /// How many invocations it rests on.
    pub records: u32,
    /// What it rests on.
    pub grounds: Grounds,
}

/// What is assumed of a function before anything was measured, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guess {
    /// What an invocation takes.
    pub usual_us: u64,
    /// What it takes at the most: its timeout.
    pub most_us: u64,
}

impl Guess {
    /// From what a function declares: half its objective if it has one, for an objective is met with some room; else a
    /// quarter of its timeout.
    #[must_use]
    pub fn declared(slo_us: Option<u64>, timeout_us: u64) -> Self {
        Self { usual_us: slo_us.map_or(timeout_us / 4, |slo_us| slo_us / 2).min(timeout_us), most_us: timeout_us }
    }
}

impl Profiles {
    /// Takes in how long an invocation took.
    pub fn record(&mut self, key: &ProfileKey, took_us: u64) {
        self.slot(key).record(took_us);
    }

    /// Takes in what another node has learned.
    pub fn merge(&mut self, key: &ProfileKey, learned: &Sketch) {
        self.slot(key).merge(learned);
    }

    fn slot(&mut self, key: &ProfileKey) -> &mut Sketch {
        self.turn = self.turn.saturating_add(1);
        if !self.profiles.contains_key(key) && self.profiles.len() >= PROFILES_MAX {
            let oldest = self.profiles.iter().min_by_key(|(_, (turn, _))| *turn).map(|(key, _)| key.clone());
            oldest.and_then(|oldest| self.profiles.remove(&oldest));
        }
        let slot = self.profiles.entry(key.clone()).or_default();
        slot.0 = self.turn;
        &mut slot.1
    }

    /// What was learned of a function, whatever its inputs; of the variant and the class, if they were seen.
    #[must_use]
    pub fn learned(&self, function: &str) -> Sketch {
        self.of(function).fold(Sketch::default(), |mut sum, (_, sketch)| {
            sum.merge(sketch);
            sum
        })
    }

    fn of(&self, function: &str) -> impl Iterator<Item = (&ProfileKey, &Sketch)> {
        let all = self.profiles.iter().filter(move |(key, _)| key.function == function);
        all.map(|(key, (_, sketch))| (key, sketch))
    }

    /// Predicts an invocation.
    #[must_use]
    pub fn predict(&self, key: &ProfileKey, guess: Guess) -> Prediction {
        let same = self.profiles.get(key).map(|(_, sketch)| sketch).filter(|sketch| sketch.count() >= RECORDS_FEW);
        match same {
            Some(sketch) => predict(sketch, guess, Grounds::Same),
            None => predict(&self.learned(&key.function), guess, Grounds::Similar),
        }
    }
}

/// What a sketch predicts, given what was guessed before.
#[must_use]
pub fn predict(sketch: &Sketch, guess: Guess, grounds: Grounds) -> Prediction {
    let records = sketch.count();
    let estimate = |quantile: f64| {
        let Some(seen_us) = sketch.quantile(quantile) else {
            return Estimate { value_us: guess.usual_us, low_us: 0, high_us: guess.most_us };
        };
        let (count, prior) = (f64::from(records), PRIOR as f64);
        let value = (seen_us as f64 * count + guess.usual_us as f64 * prior) / (count + prior);
        let (middle, deviation) = (count * quantile, (count * quantile * (1.0 - quantile)).sqrt() * DEVIATIONS);
        let (low, high) = ((middle - deviation).floor(), (middle + deviation).ceil() + 1.0);
        let low_us = if low < 1.0 { 0 } else { sketch.at_rank(low as u32).unwrap_or(0) };
        // Beyond the highest record nobody knows.
        let high_us = if high > count { None } else { sketch.at_rank(high as u32) };
        let high_us = high_us.unwrap_or_else(|| guess.most_us.max(seen_us));
        Estimate { value_us: (value.round() as u64).clamp(low_us, high_us), low_us, high_us }
    };
    let grounds = if records == 0 { Grounds::Guess } else { grounds };
    Prediction { p50: estimate(0.5), p95: estimate(0.95), p99: estimate(0.99), records, grounds }
}

#[cfg(test)]
#[path = "profile_tests.rs"]
mod tests;
