//! How far the moments of a pair may be apart.
//!
//! Conditions are taken as they come: what is compared is brought to the form "the moment of the right row less that of the left one",
//! whatever stands on which side.

use std::collections::{BTreeMap, BTreeSet};

use super::{Condition, Moments, Sides};
use crate::expr::{Comparison, Expr, Literal, Operation};
use crate::join::one;
use crate::plan::Pairing;
use crate::source::Source;
use crate::types::{Column, Type};

/// What a condition says of two columns of moments.
struct Bound {
    /// Their places, the one of the left side and the one of the right one.
    columns: [usize; 2],
    low_us: Option<i128>,
    high_us: Option<i128>,
}

/// A sum of columns of moments, each so many times, and a number of microseconds.
#[derive(Default)]
struct Sum {
    columns: BTreeMap<usize, i128>,
    constant_us: i128,
}

/// The interval that the conditions come to.
pub(super) fn of(source: &mut Source<'_>, sides: &Sides<'_, '_>, conditions: &[Condition]) -> Option<Moments> {
    let is_inner = sides.are_outer == [false, false];
    let joining = conditions.iter().enumerate().filter(|(_, condition)| condition.is_on || is_inner);
    let bounds: Vec<(usize, Bound)> =
        joining.filter_map(|(number, condition)| Some((number, bound(&condition.expr, sides)?))).collect();
    let known = [0, 1].map(|side| sides.watermark_of(side));
    let is_known = |bound: &Bound| {
        known.iter().zip(&bound.columns).all(|(known, column)| known.is_none_or(|known| known == *column))
    };
    let Some(columns) = bounds.iter().find(|(_, bound)| is_known(bound)).map(|(_, bound)| bound.columns) else {
        match bounds.first() {
            Some((number, bound)) => other_watermark(source, sides, conditions.get(*number)?, bound, known),
            None => unbounded(source, sides, known, "how far apart the moments of both rows of a pair may be"),
        }
        return None;
    };
    let (mut low, mut high, mut said) = (None, None, BTreeSet::new());
    for (number, bound) in bounds.into_iter().filter(|(_, bound)| bound.columns == columns) {
        low = low.max(bound.low_us);
        high = [high, bound.high_us].into_iter().flatten().min();
        said.insert(number);
    }
    let [left, right] = &sides.reads;
    let (Some(low), Some(high)) = (low, high) else {
        let than = if low.is_none() { "earlier" } else { "later" };
        let what = format!("how much {than} a row of `{}` may be than one of `{}`", right.alias, left.alias);
        unbounded(source, sides, columns.map(Some), &what);
        return None;
    };
    if low > high {
        let help = format!("let the first bound of {}.{} be the lower one", right.alias, named(sides, columns, 1));
        source.add("contradiction", sides.at.clone(), "no two rows are within this interval").help(help);
        return None;
    }
    let us = |us: i128| i64::try_from(us).unwrap_or(if us < 0 { i64::MIN } else { i64::MAX });
    let [left, right] = columns;
    let times = [left, right - sides.behind_left()];
    Some(Moments { times, pairing: Pairing::Within { low_us: us(low), high_us: us(high) }, said })
}

fn named<'s>(sides: &'s Sides<'_, '_>, columns: [usize; 2], side: usize) -> &'s str {
    sides.columns.get(*one(&columns, side)).map_or("ts", |column| column.name.as_str())
}

/// Says that an interval is missing, and how to write it.
fn unbounded(source: &mut Source<'_>, sides: &Sides<'_, '_>, known: [Option<usize>; 2], what: &str) {
    let [left, right] = [0, 1].map(|side| {
        let read = one(&sides.reads, side);
        let is_moment = |column: &&Column| column.ty == Type::Timestamp;
        let first = || read.table.columns.iter().find(is_moment);
        let column = one(&known, side).map_or_else(first, |place| sides.columns.get(place));
        format!("{}.{}", read.alias, column.map_or("ts", |column| column.name.as_str()))
    });
    let help =
        format!("add to ON: AND {right} BETWEEN {left} - INTERVAL '5 seconds' AND {left} + INTERVAL '5 seconds'");
    let message = format!("rows would be kept for ever, for nothing says {what}");
    source.add("unbounded", sides.at.clone(), message).help(help);
}

fn other_watermark(
    source: &mut Source<'_>,
    sides: &Sides<'_, '_>,
    condition: &Condition,
    bound: &Bound,
    known: [Option<usize>; 2],
) {
    for side in [0, 1] {
        let (Some(known), column) = (*one(&known, side), *one(&bound.columns, side)) else { continue };
        let (Some(known), Some(column)) = (sides.columns.get(known), sides.columns.get(column)) else { continue };
        if known.name != column.name {
            let read = one(&sides.reads, side);
            let message = format!("the watermark of `{}` is of `{}`, not of `{}`", read.alias, known.name, column.name);
            let help = format!("declare the stream with WATERMARK FOR {} AS {}", column.name, column.name);
            source
                .add("wrong-watermark", condition.at.clone(), message)
                .expected(format!("`{}`", known.name))
                .help(help);
            return;
        }
    }
}

fn bound(expr: &Expr, sides: &Sides<'_, '_>) -> Option<Bound> {
    match expr {
        Expr::Compare(comparison, left, right) => compared(*comparison, left, right, sides),
        Expr::Between(parts) => {
            let [of, low, high] = parts;
            let (low, high) = (
                compared(Comparison::GreaterEqual, of, low, sides)?,
                compared(Comparison::LessEqual, of, high, sides)?,
            );
            (low.columns == high.columns).then(|| Bound {
                columns: low.columns,
                low_us: low.low_us.max(high.low_us),
                high_us: high.high_us.or(low.high_us),
            })
        }
        _ => None,
    }
}

/// What a comparison of two sums says, if one column of each side is left of their difference.
fn compared(comparison: Comparison, left: &Expr, right: &Expr, sides: &Sides<'_, '_>) -> Option<Bound> {
    let mut difference = Sum::default();
    difference.add(left, 1, &sides.columns)?;
    difference.add(right, -1, &sides.columns)?;
    difference.columns.retain(|_, times| *times != 0);
    let mut columns = difference.columns.into_iter();
    let (Some((left, of_left)), Some((right, of_right)), None) = (columns.next(), columns.next(), columns.next())
    else {
        return None;
    };
    let is_of_both = left < sides.behind_left() && right >= sides.behind_left();
    if !is_of_both || of_left != -of_right || of_right.abs() != 1 {
        return None;
    }
    // Whichever was taken from the other.
    let by_us = -of_right * difference.constant_us;
    let is_turned = of_right < 0;
    let (low_us, high_us) = match (comparison, is_turned) {
        (Comparison::Equal, _) => (Some(by_us), Some(by_us)),
        (Comparison::Less, false) | (Comparison::Greater, true) => (None, Some(by_us - 1)),
        (Comparison::LessEqual, false) | (Comparison::GreaterEqual, true) => (None, Some(by_us)),
        (Comparison::Greater, false) | (Comparison::Less, true) => (Some(by_us + 1), None),
        (Comparison::GreaterEqual, false) | (Comparison::LessEqual, true) => (Some(by_us), None),
        (Comparison::NotEqual | Comparison::Distinct | Comparison::NotDistinct, _) => return None,
    };
    Some(Bound { columns: [left, right], low_us, high_us })
}

impl Sum {
    /// Adds an expression so many times, if it is a sum.
    fn add(&mut self, expr: &Expr, times: i128, columns: &[Column]) -> Option<()> {
        match expr {
            Expr::Column(place) if columns.get(*place)?.ty == Type::Timestamp => {
                *self.columns.entry(*place).or_default() += times;
            }
            Expr::Literal(Literal::Timestamp(us) | Literal::Interval(us), _) => {
                self.constant_us += times * i128::from(*us);
            }
            Expr::Negate(of) => self.add(of, -times, columns)?,
            Expr::Arithmetic(
                operation @ (Operation::Add | Operation::Subtract),
                left,
                right,
                Type::Timestamp | Type::Interval,
            ) => {
                self.add(left, times, columns)?;
                self.add(right, if *operation == Operation::Add { times } else { -times }, columns)?;
            }
            _ => return None,
        }
        Some(())
    }
}
