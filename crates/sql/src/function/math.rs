//! Functions of numbers.

use super::{Function, bigint, double};
use crate::types::Type::{self, Bigint, Double};
use crate::value::Cell;

type Answer = Result<Option<Cell<'static>>, String>;

const fn f(name: &'static str, parameters: &'static [Type], result: Type, call: super::Call) -> Function {
    Function::new(name, parameters, result, call)
}

const OUT_OF_RANGE: &str = "bigint out of range";

pub(super) static FUNCTIONS: &[Function] = &[
    f("abs", &[Bigint], Bigint, |a| whole(bigint(a, 0).checked_abs())),
    f("abs", &[Double], Double, |a| number(a, double(a, 0).abs())),
    f("sign", &[Double], Double, |a| {
        let value = double(a, 0);
        number(a, if value == 0.0 || value.is_nan() { value + 0.0 } else { value.signum() })
    }),
    f("ceil", &[Double], Double, |a| number(a, double(a, 0).ceil())),
    f("ceiling", &[Double], Double, |a| number(a, double(a, 0).ceil())),
    f("floor", &[Double], Double, |a| number(a, double(a, 0).floor())),
    f("trunc", &[Double], Double, |a| number(a, double(a, 0).trunc())),
    f("round", &[Double], Double, |a| number(a, double(a, 0).round_ties_even())),
    f("round", &[Double, Bigint], Double, |a| round(double(a, 0), bigint(a, 1))),
    f("sqrt", &[Double], Double, |a| match double(a, 0) {
        value if value < 0.0 => Err("cannot take square root of a negative number".to_owned()),
        value => number(a, value.sqrt()),
    }),
    f("cbrt", &[Double], Double, |a| number(a, double(a, 0).cbrt())),
    f("exp", &[Double], Double, |a| number(a, double(a, 0).exp())),
    f("ln", &[Double], Double, |a| logarithm(double(a, 0), f64::ln)),
    f("log", &[Double], Double, |a| logarithm(double(a, 0), f64::log10)),
    f("log10", &[Double], Double, |a| logarithm(double(a, 0), f64::log10)),
    f("power", &[Double, Double], Double, |a| power(double(a, 0), double(a, 1))),
    f("pow", &[Double, Double], Double, |a| power(double(a, 0), double(a, 1))),
    f("mod", &[Bigint, Bigint], Bigint, |a| match bigint(a, 1) {
        0 => Err("division by zero".to_owned()),
        by => whole(Some(bigint(a, 0).wrapping_rem(by))),
    }),
    f("sin", &[Double], Double, |a| angle(double(a, 0), f64::sin)),
    f("cos", &[Double], Double, |a| angle(double(a, 0), f64::cos)),
    f("tan", &[Double], Double, |a| angle(double(a, 0), f64::tan)),
    f("asin", &[Double], Double, |a| arc(double(a, 0), f64::asin)),
    f("acos", &[Double], Double, |a| arc(double(a, 0), f64::acos)),
    f("atan", &[Double], Double, |a| number(a, double(a, 0).atan())),
    f("atan2", &[Double, Double], Double, |a| number(a, double(a, 0).atan2(double(a, 1)))),
    f("degrees", &[Double], Double, |a| number(a, double(a, 0).to_degrees())),
    f("radians", &[Double], Double, |a| number(a, double(a, 0).to_radians())),
    f("pi", &[], Double, |_| Ok(Some(Cell::Double(std::f64::consts::PI)))),
];

fn whole(value: Option<i64>) -> Answer {
    value.map(|value| Some(Cell::Bigint(value))).ok_or_else(|| OUT_OF_RANGE.to_owned())
}

/// A number that is infinite only where an argument is.
fn number(arguments: &[Option<Cell<'_>>], value: f64) -> Answer {
    let all_finite = (0..arguments.len()).all(|place| double(arguments, place).is_finite());
    if value.is_infinite() && all_finite {
        return Err("value out of range: overflow".to_owned());
    }
    Ok(Some(Cell::Double(value)))
}

/// To so many decimals, halves away from zero, as PostgreSQL rounds a numeric.
fn round(value: f64, decimals: i64) -> Answer {
    let decimals = i32::try_from(decimals.clamp(-308, 308)).unwrap_or_default();
    let scale = 10f64.powi(decimals.abs());
    let rounded = if decimals < 0 { (value / scale).round() * scale } else { (value * scale).round() / scale };
    // Beyond its precision a number has no decimals to lose.
    Ok(Some(Cell::Double(if rounded.is_finite() { rounded } else { value })))
}

fn logarithm(value: f64, of: fn(f64) -> f64) -> Answer {
    match value {
        0.0 => Err("cannot take logarithm of zero".to_owned()),
        value if value < 0.0 => Err("cannot take logarithm of a negative number".to_owned()),
        value => Ok(Some(Cell::Double(of(value)))),
    }
}

fn power(base: f64, exponent: f64) -> Answer {
    if base == 0.0 && exponent < 0.0 {
        return Err("zero raised to a negative power is undefined".to_owned());
    }
    if base < 0.0 && base.is_finite() && exponent.is_finite() && exponent.fract() != 0.0 {
        return Err("a negative number raised to a non-integer power yields a complex result".to_owned());
    }
    let value = base.powf(exponent);
    if value.is_infinite() && base.is_finite() && exponent.is_finite() {
        return Err("value out of range: overflow".to_owned());
    }
    Ok(Some(Cell::Double(value)))
}

fn angle(value: f64, of: fn(f64) -> f64) -> Answer {
    if value.is_infinite() { Err("input is out of range".to_owned()) } else { Ok(Some(Cell::Double(of(value)))) }
}

fn arc(value: f64, of: fn(f64) -> f64) -> Answer {
    if value.abs() > 1.0 { Err("input is out of range".to_owned()) } else { Ok(Some(Cell::Double(of(value)))) }
}
