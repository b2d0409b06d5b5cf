//! What aggregates over many values keep of them: the distinct ones, an estimate of how many those are, and where quantiles lie.
//!
//! All of these take values in any order, and are the same whatever the order was and however they were merged.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::plan::hash;
use crate::value::Cell;

/// What a distinct value takes beside its own bytes.
const VALUE_BYTES: usize = 64;
/// What a register or a bucket takes.
pub(crate) const ENTRY_BYTES: usize = 32;

/// Distinct values.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Distinct {
    /// Each of them encoded.
    values: BTreeSet<Box<[u8]>>,
    /// The bytes of them all.
    bytes: usize,
}

impl Distinct {
    pub(crate) fn take(&mut self, value: &Cell<'_>) {
        self.insert(encoded(value));
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        other.values.iter().for_each(|value| self.insert(value.clone()));
    }

    fn insert(&mut self, value: Box<[u8]>) {
        let bytes = value.len() + VALUE_BYTES;
        if self.values.insert(value) {
            self.bytes += bytes;
        }
    }

    pub(crate) fn count(&self) -> i64 {
        i64::try_from(self.values.len()).unwrap_or(i64::MAX)
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The bytes that a value adds.
    pub(crate) fn adds(&self, value: &Cell<'_>) -> usize {
        let value = encoded(value);
        if self.values.contains(&value) { 0 } else { value.len() + VALUE_BYTES }
    }
}

/// How many registers an estimate has, as a power of two: it is off by 1.04 / √2048 = 2.3 % (one standard deviation).
const REGISTERS_LOG2: u32 = 11;
/// The highest value of a register.
const RANK_MAX: u8 = (64 - REGISTERS_LOG2 + 1) as u8;

/// An estimate of how many distinct values there are (HyperLogLog: Flajolet et al., 2007), read as in Ertl, "New cardinality
/// estimation algorithms for HyperLogLog sketches", 2017, algorithm 6.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Estimate {
    /// Those that are not 0.
    registers: BTreeMap<u16, u8>,
}

impl Estimate {
    pub(crate) fn take(&mut self, value: &Cell<'_>) {
        let hash = spread(hash(&encoded(value)));
        let place = (hash >> (u64::BITS - REGISTERS_LOG2)) as u16;
        let rank = ((hash << REGISTERS_LOG2).leading_zeros() + 1).min(u32::from(RANK_MAX)) as u8;
        self.raise(place, rank);
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        other.registers.iter().for_each(|(place, rank)| self.raise(*place, *rank));
    }

    fn raise(&mut self, place: u16, rank: u8) {
        let register = self.registers.entry(place).or_default();
        *register = rank.max(*register);
    }

    pub(crate) fn count(&self) -> i64 {
        let all = f64::from(1_u32 << REGISTERS_LOG2);
        let mut counts = [0_u32; RANK_MAX as usize + 1];
        for rank in self.registers.values() {
            counts.get_mut(usize::from(*rank)).into_iter().for_each(|count| *count += 1);
        }
        let [empty, ranks @ .., full] = &mut counts;
        *empty = (1 << REGISTERS_LOG2) - u32::try_from(self.registers.len()).unwrap_or(u32::MAX);
        let mut sum = all * tau(1.0 - f64::from(*full) / all);
        for count in ranks.iter().rev() {
            sum = 0.5 * (sum + f64::from(*count));
        }
        sum += all * sigma(f64::from(*empty) / all);
        (all * all / (2.0 * std::f64::consts::LN_2 * sum)).round() as i64
    }

    pub(crate) fn bytes(&self) -> usize {
        self.registers.len() * ENTRY_BYTES
    }
}

fn sigma(mut x: f64) -> f64 {
    if x >= 1.0 {
        return f64::INFINITY;
    }
    let (mut y, mut z) = (1.0, x);
    loop {
        x *= x;
        let before = z;
        z += x * y;
        y += y;
        if z == before {
            return z;
        }
    }
}

fn tau(mut x: f64) -> f64 {
    if x <= 0.0 || x >= 1.0 {
        return 0.0;
    }
    let (mut y, mut z) = (1.0, 1.0 - x);
    loop {
        x = x.sqrt();
        let before = z;
        y *= 0.5;
        z -= (1.0 - x) * (1.0 - x) * y;
        if z == before {
            return z / 3.0;
        }
    }
}

/// The bits of a double that a bucket leaves out: 128 buckets for each power of two, none of whose values is farther than 0.4 % from
/// its middle.
const LEFT_OUT: u32 = 52 - 7;
const SIGN: u64 = 1 << 63;

/// How often values lie in each of many narrow buckets, for quantiles. The buckets of the sketch in `littoral-plan` are coarser, and
/// what is old counts less there.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Buckets {
    /// In the order of values.
    counts: BTreeMap<u32, u64>,
    least: Option<f64>,
    greatest: Option<f64>,
}

impl Buckets {
    pub(crate) fn take(&mut self, value: f64) {
        // There is one zero, whatever its sign.
        let value = value + 0.0;
        *self.counts.entry(bucket(value)).or_default() += 1;
        self.widen(value, value);
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        for (bucket, count) in &other.counts {
            *self.counts.entry(*bucket).or_default() += count;
        }
        if let (Some(least), Some(greatest)) = (other.least, other.greatest) {
            self.widen(least, greatest);
        }
    }

    fn widen(&mut self, least: f64, greatest: f64) {
        self.least = Some(self.least.map_or(least, |known| known.min(least)));
        self.greatest = Some(self.greatest.map_or(greatest, |known| known.max(greatest)));
    }

    /// The value at a share of all, in millionths: the first that is not below so many of them.
    pub(crate) fn quantile(&self, millionths: u32) -> Option<f64> {
        let count: u64 = self.counts.values().sum();
        let rank = (u128::from(count) * u128::from(millionths)).div_ceil(1_000_000).max(1);
        let mut seen = 0_u128;
        let (bucket, _) = self.counts.iter().find(|(_, count)| {
            seen += u128::from(**count);
            seen >= rank
        })?;
        let value = middle(*bucket);
        // Neither bound is passed, so that few values come out as they are.
        Some(if value.is_nan() { value } else { value.max(self.least?).min(self.greatest?) })
    }

    pub(crate) fn bytes(&self) -> usize {
        self.counts.len() * ENTRY_BYTES
    }
}

/// The bits of a double turned so that they are in the order of values.
fn bucket(value: f64) -> u32 {
    let bits = (value + 0.0).to_bits();
    let ordered = if value.is_nan() {
        !0
    } else if bits & SIGN == 0 {
        bits | SIGN
    } else {
        !bits
    };
    (ordered >> LEFT_OUT) as u32
}

fn middle(bucket: u32) -> f64 {
    let first = u64::from(bucket) << LEFT_OUT;
    let value = |ordered: u64| f64::from_bits(if ordered & SIGN == 0 { !ordered } else { ordered & !SIGN });
    // The value of the bucket that is nearest to 0.
    let nearest = value(if first & SIGN == 0 { first | ((1 << LEFT_OUT) - 1) } else { first });
    if nearest == 0.0 || nearest.is_infinite() { nearest } else { value(first | 1 << (LEFT_OUT - 1)) }
}

fn encoded(value: &Cell<'_>) -> Box<[u8]> {
    // Only what has no length cannot be encoded, and cells have one.
    postcard::to_stdvec(&value.clone().canonical()).unwrap_or_default().into_boxed_slice()
}

/// Has each bit of a hash depend on all of its bits (the last step of MurmurHash3).
pub(crate) fn spread(hash: u64) -> u64 {
    let hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn estimate(values: impl Iterator<Item = i64>) -> Estimate {
        let mut estimate = Estimate::default();
        values.for_each(|value| estimate.take(&Cell::Bigint(value)));
        estimate
    }

    #[test]
    fn an_estimate_is_off_by_a_few_percent_at_any_size() {
        for count in [0, 1, 2, 10, 100, 1_000, 3_000, 10_000, 30_000, 200_000] {
            let estimated = estimate((0..count).chain(0..count / 2)).count();
            assert!((estimated - count).abs() * 100 <= count * 6, "{estimated} of {count}");
        }
    }

    #[test]
    fn estimates_that_are_merged_are_as_one() {
        let mut merged = estimate(0..5_000);
        merged.merge(&estimate(2_500..9_000));
        assert_eq!(merged, estimate((0..9_000).rev()));
    }

    #[test]
    fn what_is_distinct_is_counted_with_its_bytes() {
        let mut distinct = Distinct::default();
        for value in [0.0, -0.0, f64::NAN, -f64::NAN, 1.0] {
            let adds = distinct.adds(&Cell::Double(value));
            let before = distinct.bytes();
            distinct.take(&Cell::Double(value));
            assert_eq!(distinct.bytes(), before + adds);
        }
        assert_eq!(distinct.count(), 3);
    }

    fn buckets(values: &[f64]) -> Buckets {
        let mut buckets = Buckets::default();
        values.iter().for_each(|value| buckets.take(*value));
        buckets
    }

    #[test]
    fn what_is_no_common_number_comes_out_as_it_is() {
        let all = buckets(&[f64::NEG_INFINITY, -1e-320, 0.0, f64::INFINITY, f64::NAN]);
        let at = |millionths| all.quantile(millionths).unwrap();
        assert_eq!((at(0), at(600_000), at(800_000)), (f64::NEG_INFINITY, 0.0, f64::INFINITY));
        assert!(at(1_000_000).is_nan());
        assert_eq!(Buckets::default().quantile(500_000), None);
        assert_eq!(buckets(&[12.34]).quantile(500_000), Some(12.34));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn quantiles_are_near_those_of_the_values(
            values in proptest::collection::vec(prop_oneof![-1e9..1e9_f64, -1.0..1.0_f64], 1..300),
            others in proptest::collection::vec(-10.0..10.0_f64, 0..50),
            millionths in 0_u32..=1_000_000,
        ) {
            let mut merged = buckets(&values);
            merged.merge(&buckets(&others));
            let mut all = [values, others].concat();
            prop_assert_eq!(&merged, &buckets(&all));
            all.sort_by(f64::total_cmp);
            let rank = (all.len() as u64 * u64::from(millionths)).div_ceil(1_000_000).max(1) as usize;
            let (exact, found) = (all[rank - 1], merged.quantile(millionths).unwrap());
            prop_assert!((found - exact).abs() <= exact.abs() * 0.004, "{} for {}", found, exact);
        }
    }
}
