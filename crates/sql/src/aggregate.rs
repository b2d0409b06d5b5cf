//! Aggregates: what they take, and what they have taken in so far.

mod packed;

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

use crate::expr::Expr;
use crate::sketch::{Buckets, Distinct, ENTRY_BYTES, Estimate};
use crate::types::Type;
use crate::value::{Cell, compare};
pub(crate) use packed::Packing;

const VARIANCE_OVERFLOWS: &str = "value out of range: overflow in a variance";

/// Which aggregate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AggregateKind {
    Count,
    Sum,
    Min,
    Max,
    Avg,
    StddevSamp,
    StddevPop,
    VarSamp,
    VarPop,
    BoolAnd,
    BoolOr,
    /// `count(DISTINCT …)`.
    CountDistinct,
    ApproxCountDistinct,
    /// The value at so many millionths of all.
    ApproxQuantile(u32),
}

impl AggregateKind {
    /// The first name of each is the one that it is called by.
    pub(crate) const NAMES: [(&'static str, Self); 16] = [
        ("count", Self::Count),
        ("sum", Self::Sum),
        ("min", Self::Min),
        ("max", Self::Max),
        ("avg", Self::Avg),
        ("stddev_samp", Self::StddevSamp),
        ("stddev", Self::StddevSamp),
        ("stddev_pop", Self::StddevPop),
        ("var_samp", Self::VarSamp),
        ("variance", Self::VarSamp),
        ("var_pop", Self::VarPop),
        ("bool_and", Self::BoolAnd),
        ("every", Self::BoolAnd),
        ("bool_or", Self::BoolOr),
        ("approx_count_distinct", Self::ApproxCountDistinct),
        ("approx_quantile", Self::ApproxQuantile(0)),
    ];

    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(known, _)| *known == name).map(|(_, kind)| *kind)
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::CountDistinct => return "count distinct",
            Self::ApproxQuantile(_) => return "approx_quantile",
            _ => {}
        }
        Self::NAMES.iter().find(|(_, kind)| *kind == self).map_or("", |(name, _)| name)
    }
}

/// An aggregate of a query.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Aggregate {
    pub(crate) kind: AggregateKind,
    /// What it takes of each row; none for `count(*)`.
    pub(crate) argument: Option<Expr>,
    /// The argument's type.
    pub(crate) ty: Type,
    /// Which rows it takes.
    pub(crate) filter: Option<Expr>,
}

/// What an aggregate of a type would have to be of, if there is none.
pub(crate) fn refuses(kind: AggregateKind, ty: Type) -> Option<&'static str> {
    match kind {
        AggregateKind::Count
        | AggregateKind::CountDistinct
        | AggregateKind::ApproxCountDistinct
        | AggregateKind::Min
        | AggregateKind::Max => None,
        AggregateKind::BoolAnd | AggregateKind::BoolOr => (ty != Type::Boolean).then_some("a boolean"),
        _ => (!ty.is_number()).then_some("a number"),
    }
}

impl Aggregate {
    pub(crate) fn new(kind: AggregateKind, argument: Option<Expr>, ty: Type, filter: Option<Expr>) -> Self {
        Self { kind, argument, ty, filter }
    }

    pub(crate) fn result(&self) -> Type {
        match self.kind {
            AggregateKind::Count | AggregateKind::CountDistinct | AggregateKind::ApproxCountDistinct => Type::Bigint,
            AggregateKind::Sum | AggregateKind::Min | AggregateKind::Max => self.ty,
            AggregateKind::BoolAnd | AggregateKind::BoolOr => Type::Boolean,
            AggregateKind::Avg
            | AggregateKind::StddevSamp
            | AggregateKind::StddevPop
            | AggregateKind::VarSamp
            | AggregateKind::VarPop
            | AggregateKind::ApproxQuantile(_) => Type::Double,
        }
    }

    /// The types of the values that say all that it has taken in; nothing if that is more than a few of them.
    pub(crate) fn parts(&self) -> Option<Vec<Type>> {
        Some(match self.kind {
            AggregateKind::Count => vec![Type::Bigint],
            AggregateKind::Sum | AggregateKind::Min | AggregateKind::Max => vec![self.ty],
            AggregateKind::Avg => vec![Type::Double, Type::Bigint],
            AggregateKind::StddevSamp | AggregateKind::StddevPop | AggregateKind::VarSamp | AggregateKind::VarPop => {
                vec![Type::Bigint, Type::Double, Type::Double]
            }
            AggregateKind::BoolAnd | AggregateKind::BoolOr => vec![Type::Boolean],
            AggregateKind::CountDistinct | AggregateKind::ApproxCountDistinct | AggregateKind::ApproxQuantile(_) => {
                return None;
            }
        })
    }

    /// What it has taken in, of the values that say so; nothing if these do not.
    pub(crate) fn of_parts(&self, parts: &[Option<Cell<'_>>]) -> Option<Accumulator> {
        let counted = |count: &i64| u64::try_from(*count).ok();
        Some(match (self.begin(), parts) {
            (Accumulator::Count(_), [Some(Cell::Bigint(count))]) => Accumulator::Count(*count),
            (Accumulator::Avg { .. }, [Some(Cell::Double(sum)), Some(Cell::Bigint(count))]) => {
                Accumulator::Avg { sum: *sum, count: counted(count)? }
            }
            (
                Accumulator::Spread(_, of),
                [Some(Cell::Bigint(count)), Some(Cell::Double(mean)), Some(Cell::Double(squares))],
            ) => Accumulator::Spread(Spread { count: counted(count)?, mean: *mean, squares: *squares }, of),
            (Accumulator::Count(_), _) => return None,
            (begun, [None]) => begun,
            (mut begun, [Some(value)]) => {
                begun.take(value);
                begun
            }
            _ => return None,
        })
    }

    /// Nothing taken in yet.
    pub(crate) fn begin(&self) -> Accumulator {
        match (self.kind, self.ty) {
            (AggregateKind::Count, _) => Accumulator::Count(0),
            (AggregateKind::Sum, Type::Bigint) => Accumulator::Sum(None),
            (AggregateKind::Sum, _) => Accumulator::SumDouble(None),
            (AggregateKind::Avg, _) => Accumulator::Avg { sum: 0.0, count: 0 },
            (AggregateKind::Min, _) => Accumulator::Min(None),
            (AggregateKind::Max, _) => Accumulator::Max(None),
            (AggregateKind::StddevSamp, _) => Accumulator::Spread(Spread::default(), SpreadOf::StddevSamp),
            (AggregateKind::StddevPop, _) => Accumulator::Spread(Spread::default(), SpreadOf::StddevPop),
            (AggregateKind::VarSamp, _) => Accumulator::Spread(Spread::default(), SpreadOf::VarSamp),
            (AggregateKind::VarPop, _) => Accumulator::Spread(Spread::default(), SpreadOf::VarPop),
            (AggregateKind::BoolAnd, _) => Accumulator::All(None),
            (AggregateKind::BoolOr, _) => Accumulator::Any(None),
            (AggregateKind::CountDistinct, _) => Accumulator::Distinct(Distinct::default()),
            (AggregateKind::ApproxCountDistinct, _) => Accumulator::Estimate(Estimate::default()),
            (AggregateKind::ApproxQuantile(millionths), _) => Accumulator::Buckets(Buckets::default(), millionths),
        }
    }
}

/// What an aggregate has taken in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Accumulator {
    Count(i64),
    Sum(Option<i64>),
    SumDouble(Option<f64>),
    Avg { sum: f64, count: u64 },
    Min(Option<Cell<'static>>),
    Max(Option<Cell<'static>>),
    Spread(Spread, SpreadOf),
    All(Option<bool>),
    Any(Option<bool>),
    Distinct(Distinct),
    Estimate(Estimate),
    Buckets(Buckets, u32),
}

/// How far numbers are from their mean, taken one by one (Welford, 1962).
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Spread {
    count: u64,
    mean: f64,
    /// The sum of the squares of the distances.
    squares: f64,
}

/// Which figure of a spread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum SpreadOf {
    StddevSamp,
    StddevPop,
    VarSamp,
    VarPop,
}

impl Spread {
    fn with(self, value: f64) -> Self {
        let count = self.count + 1;
        let off = value - self.mean;
        let mean = self.mean + off / count as f64;
        Self { count, mean, squares: self.squares + off * (value - mean) }
    }

    /// What both took in (Chan, Golub and LeVeque, 1979).
    fn and(self, other: Self) -> Self {
        if self.count == 0 || other.count == 0 {
            return if self.count == 0 { other } else { self };
        }
        let count = self.count + other.count;
        let (off, share) = (other.mean - self.mean, other.count as f64 / count as f64);
        let squares = self.squares + other.squares + off * off * self.count as f64 * share;
        Self { count, mean: self.mean + off * share, squares }
    }

    fn result(self, of: SpreadOf) -> Option<f64> {
        let others = match of {
            SpreadOf::StddevSamp | SpreadOf::VarSamp => self.count.checked_sub(1)?,
            SpreadOf::StddevPop | SpreadOf::VarPop => self.count,
        };
        let variance = if others == 0 { return None } else { self.squares / others as f64 };
        Some(match of {
            SpreadOf::StddevSamp | SpreadOf::StddevPop => variance.sqrt(),
            SpreadOf::VarSamp | SpreadOf::VarPop => variance,
        })
    }
}

/// A number as one with a binary point.
fn double(value: &Cell<'_>) -> f64 {
    match value {
        Cell::Bigint(value) => *value as f64,
        Cell::Double(value) => *value,
        _ => 0.0,
    }
}

impl Accumulator {
    /// Whether it can take a value in; nothing has changed yet.
    ///
    /// # Errors
    /// When a sum would leave the numbers of its type.
    pub(crate) fn check(&self, value: &Cell<'_>) -> Result<(), String> {
        match (self, value) {
            (Self::Sum(Some(sum)), Cell::Bigint(value)) if sum.checked_add(*value).is_none() => {
                Err("bigint out of range in sum".to_owned())
            }
            (Self::SumDouble(Some(sum)) | Self::Avg { sum, .. }, Cell::Double(value))
                if sum.is_finite() && value.is_finite() && !(sum + value).is_finite() =>
            {
                Err("value out of range: overflow in sum".to_owned())
            }
            (Self::Spread(spread, _), value)
                if spread.squares.is_finite()
                    && double(value).is_finite()
                    && !spread.with(double(value)).squares.is_finite() =>
            {
                Err(VARIANCE_OVERFLOWS.to_owned())
            }
            _ => Ok(()),
        }
    }

    /// Takes a value in.
    pub(crate) fn take(&mut self, value: &Cell<'_>) {
        match (self, value) {
            (Self::Count(count), _) => *count += 1,
            (Self::Sum(sum), Cell::Bigint(value)) => *sum = Some(sum.unwrap_or(0).wrapping_add(*value)),
            (Self::SumDouble(sum), Cell::Double(value)) => *sum = Some(sum.unwrap_or(0.0) + value),
            (Self::Avg { sum, count }, value) => {
                *count += 1;
                *sum += double(value);
            }
            (Self::Spread(spread, _), value) => *spread = spread.with(double(value)),
            (Self::All(all), Cell::Boolean(value)) => *all = Some(all.unwrap_or(true) && *value),
            (Self::Any(any), Cell::Boolean(value)) => *any = Some(any.unwrap_or(false) || *value),
            (Self::Distinct(distinct), value) => distinct.take(value),
            (Self::Estimate(estimate), value) => estimate.take(value),
            (Self::Buckets(buckets, _), value) => buckets.take(double(value)),
            (Self::Min(best), value) => keep(best, value, Ordering::Less),
            (Self::Max(best), value) => keep(best, value, Ordering::Greater),
            _ => {}
        }
    }

    /// Takes in what another one of the same aggregate has taken in.
    ///
    /// # Errors
    /// When a sum leaves the numbers of its type.
    pub(crate) fn merge(&mut self, other: &Self) -> Result<(), String> {
        match (self, other) {
            (Self::Count(count), Self::Count(more)) => *count += more,
            (sum @ Self::Sum(_), Self::Sum(Some(more))) => return sum.add(&Cell::Bigint(*more)),
            (sum @ Self::SumDouble(_), Self::SumDouble(Some(more))) => return sum.add(&Cell::Double(*more)),
            (avg @ Self::Avg { .. }, Self::Avg { sum, count }) => {
                avg.check(&Cell::Double(*sum))?;
                if let Self::Avg { sum: all, count: rows } = avg {
                    *all += sum;
                    *rows += count;
                }
            }
            (Self::Spread(spread, _), Self::Spread(more, _)) => {
                let both = spread.and(*more);
                if !both.squares.is_finite() && spread.squares.is_finite() && more.squares.is_finite() {
                    return Err(VARIANCE_OVERFLOWS.to_owned());
                }
                *spread = both;
            }
            (Self::Distinct(distinct), Self::Distinct(more)) => distinct.merge(more),
            (Self::Estimate(estimate), Self::Estimate(more)) => estimate.merge(more),
            (Self::Buckets(buckets, _), Self::Buckets(more, _)) => buckets.merge(more),
            (all @ Self::All(_), Self::All(Some(more))) | (all @ Self::Any(_), Self::Any(Some(more))) => {
                all.take(&Cell::Boolean(*more));
            }
            (best @ Self::Min(_), Self::Min(Some(more))) | (best @ Self::Max(_), Self::Max(Some(more))) => {
                best.take(more)
            }
            _ => {}
        }
        Ok(())
    }

    fn add(&mut self, value: &Cell<'_>) -> Result<(), String> {
        self.check(value)?;
        self.take(value);
        Ok(())
    }

    /// The most bytes that a value adds to what it keeps.
    pub(crate) fn adds(&self, value: &Cell<'_>) -> usize {
        match self {
            Self::Min(_) | Self::Max(_) => value.text_bytes(),
            Self::Distinct(distinct) => distinct.adds(value),
            Self::Estimate(_) | Self::Buckets(..) => ENTRY_BYTES,
            _ => 0,
        }
    }

    /// The bytes of the text that it keeps, or of what it keeps of many values.
    pub(crate) fn text_bytes(&self) -> usize {
        match self {
            Self::Min(Some(cell)) | Self::Max(Some(cell)) => cell.text_bytes(),
            Self::Distinct(distinct) => distinct.bytes(),
            Self::Estimate(estimate) => estimate.bytes(),
            Self::Buckets(buckets, _) => buckets.bytes(),
            _ => 0,
        }
    }

    /// The values that say all that it has taken in, if these are [few](Aggregate::parts).
    pub(crate) fn parts(&self) -> Vec<Option<Cell<'static>>> {
        let count = |count: u64| Some(Cell::Bigint(count.cast_signed()));
        match self {
            Self::Avg { sum, count: rows } => vec![Some(Cell::Double(*sum)), count(*rows)],
            Self::Spread(Spread { count: rows, mean, squares }, _) => {
                vec![count(*rows), Some(Cell::Double(*mean)), Some(Cell::Double(*squares))]
            }
            Self::Distinct(_) | Self::Estimate(_) | Self::Buckets(..) => Vec::new(),
            _ => vec![self.result()],
        }
    }

    /// What it amounts to; of nothing null, but a count of 0.
    pub(crate) fn result(&self) -> Option<Cell<'static>> {
        match self {
            Self::Count(count) => Some(Cell::Bigint(*count)),
            Self::Sum(sum) => sum.map(Cell::Bigint),
            Self::SumDouble(sum) => sum.map(Cell::Double),
            Self::Avg { count: 0, .. } => None,
            Self::Avg { sum, count } => Some(Cell::Double(sum / *count as f64)),
            Self::Min(best) | Self::Max(best) => best.clone(),
            Self::Spread(spread, of) => spread.result(*of).map(Cell::Double),
            Self::All(holds) | Self::Any(holds) => holds.map(Cell::Boolean),
            Self::Distinct(distinct) => Some(Cell::Bigint(distinct.count())),
            Self::Estimate(estimate) => Some(Cell::Bigint(estimate.count())),
            Self::Buckets(buckets, millionths) => buckets.quantile(*millionths).map(Cell::Double),
        }
    }
}

fn keep(best: &mut Option<Cell<'static>>, value: &Cell<'_>, wanted: Ordering) {
    if best.as_ref().is_none_or(|best| compare(value, best) == wanted) {
        *best = Some(value.clone().into_owned());
    }
}
