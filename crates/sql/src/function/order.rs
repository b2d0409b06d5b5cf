//! The greatest and the least of several values; nulls are passed over.

use std::cmp::Ordering;

use super::Function;
use crate::types::Type::{self, Bigint, Double, Interval, Text, Timestamp};
use crate::value::{Cell, compare};

type Answer = Result<Option<Cell<'static>>, String>;

const fn f(name: &'static str, ty: Type, call: super::Call) -> Function {
    Function { rest: Some(ty), is_strict: false, ..Function::new(name, &[], ty, call) }
}

pub(super) static FUNCTIONS: &[Function] = &[
    f("greatest", Bigint, greatest),
    f("greatest", Double, greatest),
    f("greatest", Text, greatest),
    f("greatest", Timestamp, greatest),
    f("greatest", Interval, greatest),
    f("least", Bigint, least),
    f("least", Double, least),
    f("least", Text, least),
    f("least", Timestamp, least),
    f("least", Interval, least),
];

fn greatest(arguments: &[Option<Cell<'_>>]) -> Answer {
    best(arguments, Ordering::Greater)
}

fn least(arguments: &[Option<Cell<'_>>]) -> Answer {
    best(arguments, Ordering::Less)
}

fn best(arguments: &[Option<Cell<'_>>], wanted: Ordering) -> Answer {
    let known = arguments.iter().flatten();
    let best = known.reduce(|best, next| if compare(next, best) == wanted { next } else { best });
    Ok(best.cloned().map(Cell::into_owned))
}
