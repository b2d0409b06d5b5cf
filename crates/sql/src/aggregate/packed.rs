//! Accumulators as words in a row, so that a table of groups has no memory of its own for each.

use super::{Accumulator, Aggregate, AggregateKind, Spread, SpreadOf};
use crate::types::Type;
use crate::value::Cell;

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

    /// Whether [`Accumulator::check`] may refuse a value.
    pub(crate) fn may_refuse(self) -> bool {
        matches!(self, Self::Sum | Self::SumDouble | Self::Avg | Self::Spread(_))
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
                let mut accumulator = aggregate.begin();
                for _ in 0..3 {
                    let mut words = vec![0; packing.words()];
                    packing.pack(&accumulator, &mut words);
                    let unpacked = packing.unpack(&words);
                    assert_eq!(unpacked.is_none(), packing == Packing::Apart);
                    assert!(unpacked.is_none_or(|unpacked| unpacked == accumulator), "{accumulator:?}");
                    assert!(packing.may_refuse() || accumulator.check(value).is_ok());
                    accumulator.take(value);
                }
            }
        }
    }
}
