//! Joins: two streams whose rows come together by what is equal on both sides, and by moments that are not further apart than an
//! interval, or where the right one's were valid at the left one's (`FOR SYSTEM_TIME AS OF`).
//!
//! What stands in `ON`, and for inner joins in `WHERE`, are conditions of which all must hold. Each is checked by itself: one says what is
//! equal, others how far the moments may be apart, some are of one side alone and are applied where its rows are read, and the rest is
//! asked of pairs.

mod interval;
mod version;

use std::collections::BTreeSet;
use std::ops::Range;

use sqlparser::ast::{self, BinaryOperator, JoinConstraint, JoinOperator, Spanned, TableFactor};

use super::from::{Read, Through, read};
use super::select::{group_by, is_distinct, project};
use super::{Compiled, Known, refuse_phases};
use crate::check::{Checker, Scope};
use crate::expr::{Comparison, Expr};
use crate::join::{one, one_mut};
use crate::plan::{Pairing, Shape};
use crate::source::Source;
use crate::spread::{Checked, CheckedSide, pair};
use crate::statement::{CreateFlow, Watermark};
use crate::types::{Column, Type};

/// The most conditions of a join: they are kept as a chain, which is evaluated by recursion.
const CONDITIONS_MAX: usize = 64;

/// The names and columns of both sides; columns of the right one are behind those of the left one.
struct Sides<'q, 't> {
    reads: [Read<'q, 't>; 2],
    /// Whether its rows come out alone, too.
    are_outer: [bool; 2],
    columns: Vec<Column>,
    tables: Vec<(String, Range<usize>)>,
    /// Where the join stands.
    at: Range<usize>,
}

impl Sides<'_, '_> {
    fn behind_left(&self) -> usize {
        one(&self.reads, 0).table.columns.len()
    }

    /// The place of the first column of a side.
    fn start_of(&self, side: usize) -> usize {
        if side == 0 { 0 } else { self.behind_left() }
    }

    /// The only side that an expression is of; none of constants.
    fn side_of(&self, expr: &Expr) -> Option<usize> {
        let mut sides = BTreeSet::new();
        expr.clone().each_column(&mut |place| {
            sides.insert(usize::from(*place >= self.behind_left()));
        });
        if sides.len() == 1 { sides.pop_first() } else { None }
    }

    /// Has an expression of one side name its columns by their own places.
    fn place_in(&self, side: usize, expr: &mut Expr) {
        expr.each_column(&mut |place| *place = place.saturating_sub(self.start_of(side)));
    }

    /// The place of the column with the watermark of a side, if there is one.
    fn watermark_of(&self, side: usize) -> Option<usize> {
        let table = &one(&self.reads, side).table;
        let of = |column: &Column| table.watermark.as_ref().is_some_and(|watermark| watermark.column == column.name);
        table.columns.iter().position(of).map(|place| place + self.start_of(side))
    }

    /// How much the moments of a side may be out of order.
    fn delay_us(&self, side: usize) -> i64 {
        one(&self.reads, side).table.watermark.as_ref().map_or(0, |watermark| watermark.delay_us)
    }
}

/// Which moments the rows of a pair have.
struct Moments {
    /// Their places among the columns of their sides.
    times: [usize; 2],
    pairing: Pairing,
    /// Which of the conditions say so.
    said: BTreeSet<usize>,
}

/// A condition of which a join has several.
struct Condition {
    expr: Expr,
    /// The type of what is compared, if it says that something is equal.
    equal: Option<Type>,
    /// Whether it stands in `ON`.
    is_on: bool,
    at: Range<usize>,
}

/// What the conditions came to.
#[derive(Default)]
struct Sorted {
    /// What is equal, of the left side and of the right one, where columns are at their own places.
    keys: [Vec<Expr>; 2],
    types: Vec<Type>,
    /// Which rows of each side count at all; columns are at their own places.
    filters: [Option<Expr>; 2],
    on: Option<Expr>,
    filter: Option<Expr>,
}

/// Checks a query that joins two streams.
pub(super) fn check(
    source: &mut Source<'_>,
    known: &Known,
    flow: &CreateFlow,
    select: &ast::Select,
    (left, join): (&TableFactor, &ast::Join),
) -> Option<Compiled> {
    let (on, are_outer) = kind(source, join)?;
    let sides = sides(source, known, (left, join), are_outer)?;
    refuse(source, flow, select, &sides)?;
    let scope = |of_condition: bool| Scope {
        columns: &sides.columns,
        tables: &sides.tables,
        functions: known.callable(of_condition),
    };
    let (of_on, scope) = (scope(true), scope(false));
    let clauses = [("ON", Some(on)), ("WHERE", select.selection.as_ref())];
    let parts = clauses.into_iter().flat_map(|(clause, of)| parts_of(of).into_iter().map(move |part| (clause, part)));
    // All of them, so that all that is wrong is told.
    let conditions: Vec<Option<Condition>> = parts
        .map(|(clause, part)| condition(source, if clause == "ON" { &of_on } else { &scope }, clause, part))
        .collect();
    let projected = project(source, &scope, select);
    let conditions: Vec<Condition> = conditions.into_iter().collect::<Option<_>>()?;
    if conditions.len() > CONDITIONS_MAX {
        let message = format!("the join has {} conditions", conditions.len());
        source.add("too-deep", sides.at, message).expected(format!("at most {CONDITIONS_MAX}"));
        return None;
    }
    let moments = match one(&sides.reads, 1).version {
        Some(version) => version::of(source, &sides, &scope, version),
        None => interval::of(source, &sides, &conditions),
    }?;
    let sorted = sort(source, &sides, conditions, &moments)?;
    let (Shape::Project(exprs), output) = projected? else { return None };
    let watermark = carried(&sides, &moments, &exprs, &output);
    let Sorted { keys: [left_keys, right_keys], types, filters: [left_filter, right_filter], on, filter } = sorted;
    let side = |which: usize, keys: Vec<Expr>, filter: Option<Expr>| {
        let read = one(&sides.reads, which);
        CheckedSide {
            source: read.name.clone(),
            columns: read.table.columns.clone(),
            partitions: read.table.partitions.unwrap_or(1),
            time: *one(&moments.times, which),
            delay_us: sides.delay_us(which),
            is_outer: *one(&are_outer, which),
            keys,
            filter,
        }
    };
    let checked = Checked {
        sides: [side(0, left_keys, left_filter), side(1, right_keys, right_filter)],
        keys: types,
        pairing: moments.pairing,
        on,
        filter,
        project: exprs,
        output,
        has_late_port: flow.late.is_some(),
        idle_us: flow.idle.as_ref().map(|idle| idle.us),
        partitions: flow.partitions.as_ref().map(|partitions| partitions.number),
    };
    let (spread, plan) = pair(checked);
    Some(Compiled {
        source: one(&sides.reads, 0).name.clone(),
        functions: Vec::new(),
        spread: Some(spread),
        plan,
        watermark,
    })
}

/// What stands in `ON`, and of which sides rows come out alone, too.
fn kind<'q>(source: &mut Source<'_>, join: &'q ast::Join) -> Option<(&'q ast::Expr, [bool; 2])> {
    use JoinOperator as J;
    let at = source.range(join.span());
    let (constraint, are_outer) = match &join.join_operator {
        J::Join(constraint) | J::Inner(constraint) => (constraint, [false, false]),
        J::Left(constraint) | J::LeftOuter(constraint) => (constraint, [true, false]),
        J::Right(constraint) | J::RightOuter(constraint) => (constraint, [false, true]),
        J::FullOuter(constraint) => (constraint, [true, true]),
        _ => {
            source
                .add("unsupported", at, "a flow cannot have this kind of join")
                .expected("JOIN, LEFT JOIN, RIGHT JOIN or FULL JOIN");
            return None;
        }
    };
    match constraint {
        JoinConstraint::On(on) if !join.global => Some((on, are_outer)),
        _ => {
            let help = "say in ON what is equal, and how far the moments may be apart";
            source.add("unsupported", at, "a flow cannot have a join without ON").help(help);
            None
        }
    }
}

/// Finds both sides among the streams that there are.
fn sides<'q, 't>(
    source: &mut Source<'_>,
    known: &'t Known,
    (left, join): (&'q TableFactor, &'q ast::Join),
    are_outer: [bool; 2],
) -> Option<Sides<'q, 't>> {
    let at = source.range(join.span());
    let (left, right) = (read(source, known, left), read(source, known, &join.relation));
    let (left, right) = (left?, right?);
    if left.alias == right.alias {
        let message = format!("both sides of the join are called `{}`", left.alias);
        source
            .add("duplicate", at, message)
            .help(format!("call one of both something else: `{} AS other`", right.name));
        return None;
    }
    // What comes out alone has nothing of the other side.
    let may_miss = |of: &Read<'_, '_>, is_missed: bool| {
        let columns = of.table.columns.clone().into_iter();
        columns.map(move |column| Column { nullable: column.nullable || is_missed, ..column })
    };
    let [is_left_outer, is_right_outer] = are_outer;
    let columns: Vec<Column> = may_miss(&left, is_right_outer).chain(may_miss(&right, is_left_outer)).collect();
    let behind_left = left.table.columns.len();
    let tables = vec![(left.alias.clone(), 0..behind_left), (right.alias.clone(), behind_left..columns.len())];
    Some(Sides { reads: [left, right], are_outer, columns, tables, at })
}

/// Refuses what a join cannot have.
fn refuse(source: &mut Source<'_>, flow: &CreateFlow, select: &ast::Select, sides: &Sides<'_, '_>) -> Option<()> {
    let apart = "make the join a flow of its own, and read its result";
    version::refuse(source, sides)?;
    refuse_phases(source, flow)?;
    for read in &sides.reads {
        if !matches!(read.through, Through::Nothing) {
            let help = "make what it reads there a flow of its own, and join its result";
            source.add("unsupported", read.at.clone(), "a join reads streams themselves").help(help);
            return None;
        }
        if read.table.partitions.is_none() {
            let message = format!("{} has a partition for each device, and a join waits for all of them", read.alias);
            let help = "say how many there are with PARTITIONS, or gather the rows first: CREATE FLOW gathered AS SELECT * FROM it, and join that";
            source.add("partitioned", sides.at.clone(), message).help(help);
            return None;
        }
    }
    let key = group_by(select).first().map(|key| key.span());
    let groups = key.or_else(|| select.having.as_ref().map(Spanned::span));
    if let Some(span) = groups.or_else(|| is_distinct(select).then(|| select.span())) {
        let at = source.range(span);
        source.add("unsupported", at, "a flow cannot join and group in one").help(apart);
        return None;
    }
    if let Some(lateness) = &flow.lateness {
        let message = "a row that is late for a join may have been waited for no longer";
        let help = "drop ALLOW LATENESS, and have the watermark of its stream further behind";
        source.add("contradiction", lateness.at.clone(), message).help(help);
        return None;
    }
    if let Some(idle) = flow.idle.as_ref().filter(|idle| idle.us == 0) {
        source.add("contradiction", idle.at.clone(), "this waits for nothing").help("say a longer time");
        return None;
    }
    let [left, right] = &sides.reads;
    let same = |(one, other): (&Column, &Column)| one.name == other.name && one.ty == other.ty;
    let (left, right) = (&left.table.columns, &right.table.columns);
    let are_same = left.len() == right.len() && left.iter().zip(right).all(same);
    // No version is late.
    let is_fine = are_same || one(&sides.reads, 1).version.is_some();
    if let Some(late) = flow.late.as_ref().filter(|_| !is_fine) {
        let message = "the late rows of both sides go to one stream, and have other columns";
        let help = "drop LATE INTO: late rows are then rejected, and DEAD LETTER INTO takes them";
        source.add("wrong-type", late.at.clone(), message).help(help);
        return None;
    }
    Some(())
}

/// The conditions that must all hold.
fn parts_of(of: Option<&ast::Expr>) -> Vec<&ast::Expr> {
    let (mut parts, mut left) = (Vec::new(), Vec::from_iter(of));
    while let Some(next) = left.pop() {
        match next {
            ast::Expr::BinaryOp { left: one, op: BinaryOperator::And, right: other } => left.extend([&**other, &**one]),
            ast::Expr::Nested(of) => left.push(of),
            other => parts.push(other),
        }
    }
    parts
}

fn condition(source: &mut Source<'_>, scope: &Scope<'_>, clause: &'static str, of: &ast::Expr) -> Option<Condition> {
    let (at, is_on) = (source.range(of.span()), clause == "ON");
    let mut checker = Checker::new(source, scope, clause);
    let ast::Expr::BinaryOp { left, op: BinaryOperator::Eq, right } = of else {
        return Some(Condition { expr: checker.of_type(of, Type::Boolean)?, equal: None, is_on, at });
    };
    let (left, right) = (checker.check(left), checker.check(right));
    let (operands, ty) = checker.unify(vec![left?, right?], "this compares")?;
    let [left, right] = <[Expr; 2]>::try_from(operands).ok()?;
    let expr = Expr::Compare(Comparison::Equal, Box::new(left), Box::new(right));
    Some(Condition { expr, equal: Some(ty), is_on, at })
}

/// Finds out what each condition says.
fn sort(
    source: &mut Source<'_>,
    sides: &Sides<'_, '_>,
    conditions: Vec<Condition>,
    moments: &Moments,
) -> Option<Sorted> {
    let mut sorted = Sorted::default();
    // Of which side alone all were so far that stand in the clause.
    let mut guards = [None, None];
    for (number, condition) in conditions.into_iter().enumerate() {
        let (said, is_on) = (moments.said.contains(&number), condition.is_on);
        let guard: &mut Option<Option<usize>> = one_mut(&mut guards, usize::from(is_on));
        // Which version was valid is a matter of what stands in ON alone.
        let joins = is_on || sides.are_outer == [false, false] && moments.pairing != Pairing::Version;
        if said || joins && sorted.take_key(sides, &condition) {
            *guard = Some(None);
            continue;
        }
        // Which version was valid does not depend on what it says.
        let is_version = |side: usize| moments.pairing == Pairing::Version && side == 1;
        let side = sides.side_of(&condition.expr).filter(|side| !is_version(*side)).filter(|side| {
            // Rows of an outer side come out whatever stands in ON; what stands in WHERE holds for them, too.
            let is_asked_before = !one(&sides.are_outer, if is_on { *side } else { 1 - *side });
            is_asked_before && (guard.is_none_or(|of| of == Some(*side)) || cannot_fail(&condition.expr))
        });
        *guard = Some(side.filter(|_| guard.is_none_or(|of| of == side)));
        let mut expr = condition.expr;
        let into = match side {
            Some(side) => {
                sides.place_in(side, &mut expr);
                one_mut(&mut sorted.filters, side)
            }
            None if is_on => &mut sorted.on,
            None => &mut sorted.filter,
        };
        *into = Some(match into.take() {
            Some(before) => Expr::And(Box::new(before), Box::new(expr)),
            None => expr,
        });
    }
    if sorted.types.is_empty() {
        nothing_equal(source, sides, moments);
        return None;
    }
    Some(sorted)
}

/// Says that no key is there, and how to write one.
fn nothing_equal(source: &mut Source<'_>, sides: &Sides<'_, '_>, moments: &Moments) {
    let names = |side: usize| {
        let columns = one(&sides.reads, side).table.columns.iter().enumerate();
        let others = columns.filter(move |(place, _)| place != one(&moments.times, side));
        others.map(|(_, column)| column.name.as_str()).collect::<BTreeSet<_>>()
    };
    let name = names(0).intersection(&names(1)).next().copied().unwrap_or("key");
    let [left, right] = &sides.reads;
    let help = format!("add to ON what is equal, as {}.{name} = {}.{name}", left.alias, right.alias);
    let message = "rows come together by what is equal on both sides, and nothing is";
    source.add("unbounded", sides.at.clone(), message).help(help);
}

impl Sorted {
    /// Takes a condition that says that an expression of one side is equal to one of the other side.
    fn take_key(&mut self, sides: &Sides<'_, '_>, condition: &Condition) -> bool {
        let (Some(ty), Expr::Compare(_, left, right)) = (condition.equal, &condition.expr) else { return false };
        let (left, right) = match (sides.side_of(left), sides.side_of(right)) {
            (Some(0), Some(1)) => (left, right),
            (Some(1), Some(0)) => (right, left),
            _ => return false,
        };
        for (side, (keys, key)) in self.keys.iter_mut().zip([left, right]).enumerate() {
            let mut key = Expr::clone(key);
            sides.place_in(side, &mut key);
            keys.push(key);
        }
        self.types.push(ty);
        true
    }
}

/// Whether an expression has a value for whatever rows.
fn cannot_fail(expr: &Expr) -> bool {
    match expr {
        Expr::Column(_) | Expr::Literal(..) => true,
        Expr::Not(of) | Expr::Test(_, of) => cannot_fail(of),
        Expr::And(left, right) | Expr::Or(left, right) | Expr::Compare(_, left, right) => {
            cannot_fail(left) && cannot_fail(right)
        }
        Expr::Between(parts) => parts.iter().all(|part| cannot_fail(part)),
        Expr::In(of, list) => cannot_fail(of) && list.iter().all(cannot_fail),
        _ => false,
    }
}

/// The watermark of a result that has the moments of a side: its rows are as far out of order as those of that side, or as those of the
/// other and the interval. Those of versions say nothing.
fn carried(sides: &Sides<'_, '_>, moments: &Moments, exprs: &[Expr], output: &[Column]) -> Option<Watermark> {
    let (length_us, behind) = match moments.pairing {
        Pairing::Within { low_us, high_us } => (high_us.saturating_sub(low_us), sides.columns.len()),
        Pairing::Version => (0, sides.behind_left()),
    };
    exprs.iter().zip(output).find_map(|(expr, column)| {
        let Expr::Column(place) = expr else { return None };
        if *place >= behind {
            return None;
        }
        let side = usize::from(*place >= sides.behind_left());
        let is_moment = place.checked_sub(sides.start_of(side)) == Some(*one(&moments.times, side));
        let is_there = !one(&sides.are_outer, 1 - side);
        let delay_us = sides.delay_us(side).max(sides.delay_us(1 - side).saturating_add(length_us));
        (is_moment && is_there).then(|| Watermark { column: column.name.clone(), delay_us })
    })
}
