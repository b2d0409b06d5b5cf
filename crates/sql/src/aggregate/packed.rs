//! Accumulators as words in a row, so that a table of groups has no memory of its own for each.

use std::cmp::Ordering;

use super::{Accumulator, Aggregate, AggregateKind, Spread, SpreadOf, double};
use crate::types::Type;
use crate::value::{Cell, compare};

/// The most words that what an aggregate has taken in is packed into.
const PACKED_WORDS_MAX: usize = 3;

/// How what an aggregate has taken in is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Packing {
    Count,
    Sum,
    SumDouble,
    Avg,
    Min(Type),
    Max(Type),
    Spread(SpreadOf),
    All,
    Any,
    /// It is of no fixed length, and lies elsewhere.
    Apart,
}

impl Packing {
    pub(crate) fn of(aggregate: &Aggregate) -> Self {
        match (aggregate.kind, aggregate.ty) {
            (AggregateKind::Count, _) => Self::Count,
            (AggregateKind::Sum, Type::Bigint) => Self::Sum,
            (AggregateKind::Sum, _) => Self::SumDouble,
            (AggregateKind::Avg, _) => Self::Avg,
            (AggregateKind::Min | AggregateKind::Max, Type::Text) => Self::Apart,
            (AggregateKind::Min, ty) => Self::Min(ty),
            (AggregateKind::Max, ty) => Self::Max(ty),
            (AggregateKind::StddevSamp, _) => Self::Spread(SpreadOf::StddevSamp),
            (AggregateKind::StddevPop, _) => Self::Spread(SpreadOf::StddevPop),
            (AggregateKind::VarSamp, _) => Self::Spread(SpreadOf::VarSamp),
            (AggregateKind::VarPop, _) => Self::Spread(SpreadOf::VarPop),
            (AggregateKind::BoolAnd, _) => Self::All,
            (AggregateKind::BoolOr, _) => Self::Any,
            (
                AggregateKind::CountDistinct | AggregateKind::ApproxCountDistinct | AggregateKind::ApproxQuantile(_),
                _,
            ) => Self::Apart,
        }
    }

    /// How many words it takes; one that lies elsewhere takes one, which says where.
    pub(crate) fn words(self) -> usize {
        match self {
            Self::Count | Self::Apart => 1,
            Self::Spread(_) => PACKED_WORDS_MAX,
            Self::Sum | Self::SumDouble | Self::Avg | Self::Min(_) | Self::Max(_) | Self::All | Self::Any => 2,
        }
    }

    /// Whether its aggregate can take a value in, of its words; nothing if it lies elsewhere.
    #[inline]
    pub(crate) fn check(self, words: &[u64], value: &Cell<'_>) -> Option<Result<(), String>> {
        match (self, words, value) {
            (Self::Count | Self::Min(_) | Self::Max(_) | Self::All | Self::Any, ..) => Some(Ok(())),
            (Self::Avg, [_, sum, ..], Cell::Double(value)) if (f64::from_bits(*sum) + value).is_finite() => {
                Some(Ok(()))
            }
            _ => self.unpack(words).map(|accumulator| accumulator.check(value)),
        }
    }

    /// Takes a value in; nothing if what its aggregate has taken in lies elsewhere. The most common ones are not unpacked.
    #[inline]
    pub(crate) fn take(self, words: &mut [u64], value: &Cell<'_>) -> Option<()> {
        let mut keep = |ty: Type, wanted: Ordering| {
            if let [known, best, ..] = words
                && (*known == 0 || of_bits(ty, *best).is_some_and(|best| compare(value, &best) == wanted))
            {
                (*known, *best) = (1, bits(value));
            }
        };
        match (self, value) {
            (Self::Min(ty), _) => keep(ty, Ordering::Less),
            (Self::Max(ty), _) => keep(ty, Ordering::Greater),
            (Self::Count, _) => words.iter_mut().for_each(|count| *count += 1),
            (Self::Avg, _) => {
                if let [count, sum, ..] = words {
                    (*count, *sum) = (*count + 1, (f64::from_bits(*sum) + double(value)).to_bits());
                }
            }
            _ => {
                let mut accumulator = self.unpack(words)?;
                accumulator.take(value);
                self.pack(&accumulator, words);
            }
        }
        Some(())
    }

    /// What it amounts to, of its words; nothing if it lies elsewhere.
    #[inline]
    pub(crate) fn result(self, words: &[u64]) -> Option<Option<Cell<'static>>> {
        match (self, words) {
            (Self::Count, [count, ..]) => Some(Some(Cell::Bigint(count.cast_signed()))),
            (Self::Avg, [count, sum, ..]) if *count > 0 => {
                Some(Some(Cell::Double(f64::from_bits(*sum) / *count as f64)))
            }
            (Self::Min(ty) | Self::Max(ty), [1, best, ..]) => Some(of_bits(ty, *best)),
            _ => self.unpack(words).map(|accumulator| accumulator.result()),
        }
    }

    /// Packs what its aggregate has taken in into its words.
    pub(crate) fn pack(self, accumulator: &Accumulator, words: &mut [u64]) {
        let packed = match accumulator {
            Accumulator::Count(count) => [count.cast_unsigned(), 0, 0],
            Accumulator::Sum(sum) => optional(sum.map(i64::cast_unsigned)),
            Accumulator::SumDouble(sum) => optional(sum.map(f64::to_bits)),
            Accumulator::Avg { sum, count } => [*count, sum.to_bits(), 0],
            Accumulator::Min(best) | Accumulator::Max(best) => optional(best.as_ref().map(bits)),
            Accumulator::Spread(spread, _) => [spread.count, spread.mean.to_bits(), spread.squares.to_bits()],
            Accumulator::All(holds) | Accumulator::Any(holds) => optional(holds.map(u64::from)),
            Accumulator::Distinct(_) | Accumulator::Estimate(_) | Accumulator::Buckets(..) => return,
        };
        words.iter_mut().zip(packed).for_each(|(word, packed)| *word = packed);
    }

    /// What its aggregate has taken in, of its words; nothing if it lies elsewhere.
    pub(crate) fn unpack(self, words: &[u64]) -> Option<Accumulator> {
        let word = |place: usize| words.get(place).copied().unwrap_or_default();
        let (first, second) = (word(0), word(1));
        let known = (first != 0).then_some(second);
        Some(match self {
            Self::Count => Accumulator::Count(first.cast_signed()),
            Self::Sum => Accumulator::Sum(known.map(u64::cast_signed)),
            Self::SumDouble => Accumulator::SumDouble(known.map(f64::from_bits)),
            Self::Avg => Accumulator::Avg { sum: f64::from_bits(second), count: first },
            Self::Min(ty) => Accumulator::Min(known.and_then(|bits| of_bits(ty, bits))),
            Self::Max(ty) => Accumulator::Max(known.and_then(|bits| of_bits(ty, bits))),
            Self::Spread(of) => {
                let (mean, squares) = (f64::from_bits(second), f64::from_bits(word(2)));
                Accumulator::Spread(Spread { count: first, mean, squares }, of)
            }
            Self::All => Accumulator::All(known.map(|bits| bits != 0)),
            Self::Any => Accumulator::Any(known.map(|bits| bits != 0)),
            Self::Apart => return None,
        })
    }
}

fn optional(bits: Option<u64>) -> [u64; PACKED_WORDS_MAX] {
    bits.map_or([0; PACKED_WORDS_MAX], |bits| [1, bits, 0])
}

/// A value that is no text.
fn bits(cell: &Cell<'_>) -> u64 {
    match cell {
        Cell::Bigint(value) | Cell::Timestamp(value) | Cell::Interval(value) => value.cast_unsigned(),
        Cell::Double(value) => value.to_bits(),
        Cell::Boolean(value) => u64::from(*value),
        Cell::Text(_) => 0,
    }
}

fn of_bits(ty: Type, bits: u64) -> Option<Cell<'static>> {
    Some(match ty {
        Type::Bigint => Cell::Bigint(bits.cast_signed()),
        Type::Timestamp => Cell::Timestamp(bits.cast_signed()),
        Type::Interval => Cell::Interval(bits.cast_signed()),
        Type::Double => Cell::Double(f64::from_bits(bits)),
        Type::Boolean => Cell::Boolean(bits != 0),
        Type::Text => return None,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_packed_comes_out_as_it_was() {
        let kinds = AggregateKind::NAMES.iter().map(|(_, kind)| *kind).chain([AggregateKind::CountDistinct]);
        let values = [
            Cell::Bigint(-7),
            Cell::Double(-0.25),
            Cell::Boolean(true),
            Cell::Text("x".into()),
            Cell::Timestamp(-1),
            Cell::Interval(i64::MAX),
        ];
        let types = [Type::Bigint, Type::Double, Type::Boolean, Type::Text, Type::Timestamp, Type::Interval];
        for kind in kinds {
            for (value, ty) in values.iter().zip(types).filter(|(_, ty)| super::super::refuses(kind, *ty).is_none()) {
                let aggregate = Aggregate::new(kind, None, ty, None);
                let packing = Packing::of(&aggregate);
                let (mut accumulator, mut words) = (aggregate.begin(), vec![0; packing.words()]);
                packing.pack(&accumulator, &mut words);
                for number in 0..6_i64 {
                    let unpacked = packing.unpack(&words);
                    assert_eq!(unpacked.is_none(), packing == Packing::Apart);
                    assert!(unpacked.is_none_or(|unpacked| unpacked == accumulator), "{accumulator:?}");
                    assert!(packing.result(&words).is_none_or(|result| result == accumulator.result()));
                    let value = match value {
                        Cell::Double(_) => Cell::Double([-0.25, 2.5, -1.0, f64::MAX, f64::MAX, 1.0][number as usize]),
                        Cell::Bigint(_) => Cell::Bigint([3, -7, 9, i64::MAX, i64::MAX, 0][number as usize]),
                        other => other.clone(),
                    };
                    let checked = accumulator.check(&value);
                    assert!(packing.check(&words, &value).is_none_or(|packed| packed == checked), "{accumulator:?}");
                    if checked.is_ok() {
                        accumulator.take(&value);
                        assert_eq!(packing.take(&mut words, &value).is_none(), packing == Packing::Apart);
                    }
                }
            }
        }
    }
}
