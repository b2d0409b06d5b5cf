//! Checks the names and types of expressions.
//!
//! Every check answers nothing where it has reported a finding, and goes on with what stands beside it, so that several
//! mistakes are found at once. A text or null that is written out has no type of its own and takes that of its
//! surroundings, as in PostgreSQL.

pub(crate) mod call;
mod column;
mod operator;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use sqlparser::ast::{self, Spanned as _};

use crate::aggregate::Aggregate;
use crate::cast;
use crate::expr::{Comparison, Expr, Literal, Test};
use crate::function::{FIELDS, INTERVAL_FIELDS, TRUNCATED_FIELDS, field_named, named};
use crate::source::Source;
use crate::statement::column_name;
use crate::types::{Column, Type};
use crate::user_function::UserFunction;

/// How deep an expression may nest; what is deeper could overflow a small thread's stack when it is evaluated.
const DEPTH_MAX: usize = 100;

/// An expression that is fine.
#[derive(Clone, Debug)]
pub(crate) struct Typed {
    pub(crate) expr: Expr,
    /// None for a text or null that is written out and has not found its type yet.
    pub(crate) ty: Option<Type>,
    pub(crate) at: Range<usize>,
}

/// What names stand for in an expression.
pub(crate) struct Scope<'a> {
    /// The columns of the row.
    pub(crate) columns: &'a [Column],
    /// What its parts may be called, as in `readings.ts`, and which of the columns are theirs: one, or those of a join.
    pub(crate) tables: &'a [(String, Range<usize>)],
    /// What it may call of the app.
    pub(crate) functions: UserFunctions<'a>,
}

/// The functions of the app, as far as expressions may call them.
#[derive(Clone, Copy)]
pub(crate) struct UserFunctions<'a> {
    /// By what expressions call them; none where the statement that declares it is wrong.
    pub(crate) declared: &'a BTreeMap<String, Option<Arc<UserFunction>>>,
    /// The names of all that the app has.
    pub(crate) of_app: &'a BTreeSet<String>,
    /// Whether it is asked which rows join, which calls none.
    pub(crate) in_on: bool,
}

impl Scope<'_> {
    /// What the row may be called, or the first part of it.
    pub(crate) fn table(&self) -> &str {
        self.tables.first().map_or("", |(name, _)| name)
    }
}

/// The groups that expressions are of, after `GROUP BY`. The row of a group has its keys, the begin and the end of its
/// window, and its aggregates, in this order.
pub(crate) struct Groups<'a> {
    /// Each key, as it is written, and as an expression over a row of the input.
    pub(crate) keys: Vec<(&'a ast::Expr, Typed)>,
    /// The aggregates that have been met.
    pub(crate) aggregates: Vec<Aggregate>,
}

impl Groups<'_> {
    /// Where in a group's row the window's begin is; its end follows, then the aggregates.
    fn window_at(&self) -> usize {
        self.keys.len()
    }
}

/// Checks the expressions of one clause.
pub(crate) struct Checker<'c, 's, 't, 'a> {
    pub(crate) source: &'s mut Source<'t>,
    pub(crate) scope: &'c Scope<'c>,
    pub(crate) groups: Option<&'c mut Groups<'a>>,
    /// The clause, where a group is not what counts: `WHERE`.
    pub(crate) clause: &'static str,
    pub(crate) depth: usize,
}

impl<'c, 's, 't, 'a> Checker<'c, 's, 't, 'a> {
    pub(crate) fn new(source: &'s mut Source<'t>, scope: &'c Scope<'c>, clause: &'static str) -> Self {
        Self { source, scope, groups: None, clause, depth: 0 }
    }

    /// Checks an expression that must be of a type.
    pub(crate) fn of_type(&mut self, expr: &ast::Expr, ty: Type) -> Option<Expr> {
        let checked = self.check(expr)?;
        self.settle(checked, ty)
    }

    /// Checks an expression of any type.
    pub(crate) fn check(&mut self, expr: &ast::Expr) -> Option<Typed> {
        if self.depth >= DEPTH_MAX {
            let at = self.source.range(expr.span());
            self.source
                .add("too-deep", at, format!("an expression nests more than {DEPTH_MAX} levels deep"))
                .help("write `x IN (1, 2, 3)` for `x = 1 OR x = 2 OR x = 3`, or split the flow in two");
            return None;
        }
        self.depth += 1;
        let checked = self.of_group(expr).unwrap_or_else(|| self.node(expr));
        self.depth -= 1;
        checked
    }

    /// What stands in `GROUP BY` is a column of the group's row.
    fn of_group(&mut self, expr: &ast::Expr) -> Option<Option<Typed>> {
        let groups = self.groups.as_ref()?;
        let at = |source: &Source<'_>| source.range(expr.span());
        if let ast::Expr::Identifier(ident) = expr {
            let name = column_name(ident);
            let place = ["window_start", "window_end"].iter().position(|window| *window == name);
            if let Some(place) = place {
                let expr = Expr::Column(groups.window_at() + place);
                return Some(Some(Typed { expr, ty: Some(Type::Timestamp), at: at(self.source) }));
            }
        }
        let is_it = |key: &(&ast::Expr, Typed)| key.0 == expr || is_same_column(key.0, expr);
        let place = groups.keys.iter().position(is_it)?;
        let ty = groups.keys.get(place)?.1.ty;
        Some(Some(Typed { expr: Expr::Column(place), ty, at: at(self.source) }))
    }

    fn node(&mut self, expr: &ast::Expr) -> Option<Typed> {
        use ast::Expr as E;
        let test = |test, of: &E, checker: &mut Self| {
            let of = checker.of_type(of, Type::Boolean)?;
            Some(checker.typed(expr, Expr::Test(test, Box::new(of)), Type::Boolean))
        };
        match expr {
            E::Nested(of) => self.check(of),
            E::Identifier(ident) => self.column(expr, ident, None),
            E::CompoundIdentifier(parts) => match parts.as_slice() {
                [table, ident] => self.column(expr, ident, Some(table)),
                _ => self.unsupported(expr, "a name of more than two parts"),
            },
            E::Value(value) => self.literal(expr, &value.value),
            E::IsNull(of) => self.is_null(expr, of, Test::Null),
            E::IsNotNull(of) => self.is_null(expr, of, Test::NotNull),
            E::IsUnknown(of) => test(Test::Null, of, self),
            E::IsNotUnknown(of) => test(Test::NotNull, of, self),
            E::IsTrue(of) => test(Test::True, of, self),
            E::IsNotTrue(of) => test(Test::NotTrue, of, self),
            E::IsFalse(of) => test(Test::False, of, self),
            E::IsNotFalse(of) => test(Test::NotFalse, of, self),
            E::IsDistinctFrom(left, right) => self.compare(expr, Comparison::Distinct, left, right),
            E::IsNotDistinctFrom(left, right) => self.compare(expr, Comparison::NotDistinct, left, right),
            E::InList { expr: of, list, negated } => self.in_list(expr, of, list, *negated),
            E::Between { expr: of, negated, low, high } => self.between(expr, of, *negated, low, high),
            E::BinaryOp { left, op, right } => self.binary(expr, left, op, right),
            E::UnaryOp { op, expr: of } => self.unary(expr, *op, of),
            E::Like { negated, any: false, expr: of, pattern, escape_char: None } => {
                self.like(expr, of, pattern, *negated, false)
            }
            E::ILike { negated, any: false, expr: of, pattern, escape_char: None } => {
                self.like(expr, of, pattern, *negated, true)
            }
            E::Like { .. } | E::ILike { .. } => self.unsupported(expr, "LIKE with ESCAPE or ANY"),
            E::Cast {
                kind: ast::CastKind::Cast | ast::CastKind::DoubleColon,
                expr: of,
                data_type,
                array: false,
                format: None,
            } => self.cast(expr, of, data_type),
            E::TypedString(typed) => self.typed_text(expr, typed),
            E::Interval(interval) => self.interval(expr, interval),
            E::Case { operand, conditions, else_result, .. } => {
                self.case(expr, operand.as_deref(), conditions, else_result.as_deref())
            }
            E::Function(function) => self.function(expr, function),
            E::Extract { field, expr: of, .. } => self.extract(expr, &field.to_string(), of),
            E::Ceil { expr: of, field: ast::CeilFloorKind::DateTimeField(ast::DateTimeField::NoDateTime) } => {
                self.call(expr, "ceil", &[of])
            }
            E::Floor { expr: of, field: ast::CeilFloorKind::DateTimeField(ast::DateTimeField::NoDateTime) } => {
                self.call(expr, "floor", &[of])
            }
            E::Position { expr: wanted, r#in } => self.call(expr, "strpos", &[r#in, wanted]),
            E::Substring { expr: of, substring_from, substring_for, .. } => {
                self.substring(expr, of, substring_from.as_deref(), substring_for.as_deref())
            }
            E::Trim { trim_where, trim_what, expr: of, trim_characters } => {
                let name = match trim_where {
                    None | Some(ast::TrimWhereField::Both) => "btrim",
                    Some(ast::TrimWhereField::Leading) => "ltrim",
                    Some(ast::TrimWhereField::Trailing) => "rtrim",
                };
                let what = trim_what.as_deref().into_iter().chain(trim_characters.iter().flatten());
                let arguments: Vec<&E> = std::iter::once(&**of).chain(what).collect();
                self.call(expr, name, &arguments)
            }
            E::InSubquery { .. } | E::Exists { .. } | E::Subquery(_) => {
                self.unsupported(expr, "a query within a query")
            }
            _ => self.unsupported(expr, "this kind of expression"),
        }
    }

    fn literal(&mut self, expr: &ast::Expr, value: &ast::Value) -> Option<Typed> {
        let at = self.source.range(expr.span());
        let (literal, ty) = match value {
            ast::Value::Number(digits, false) => match (digits.parse(), digits.parse()) {
                (Ok(whole), _) => (Literal::Bigint(whole), Type::Bigint),
                (_, Ok(number)) if f64::is_finite(number) => (Literal::Double(number), Type::Double),
                _ => {
                    self.source.add("out-of-range", at, format!("`{digits}` is too large for a number"));
                    return None;
                }
            },
            ast::Value::SingleQuotedString(text) | ast::Value::EscapedStringLiteral(text) => {
                let expr = Expr::Literal(Literal::Text(text.clone()), Type::Text);
                return Some(Typed { expr, ty: None, at });
            }
            ast::Value::Boolean(value) => (Literal::Boolean(*value), Type::Boolean),
            ast::Value::Null => return Some(Typed { expr: Expr::null(Type::Text), ty: None, at }),
            _ => return self.unsupported(expr, "this kind of constant"),
        };
        Some(Typed { expr: Expr::Literal(literal, ty), ty: Some(ty), at })
    }

    fn is_null(&mut self, expr: &ast::Expr, of: &ast::Expr, test: Test) -> Option<Typed> {
        let of = self.check(of)?;
        Some(self.typed(expr, Expr::Test(test, Box::new(of.expr)), Type::Boolean))
    }

    fn cast(&mut self, expr: &ast::Expr, of: &ast::Expr, data_type: &ast::DataType) -> Option<Typed> {
        let name = data_type.to_string();
        let at = self.source.range(expr.span());
        let Some(to) = Type::named(&name) else {
            if name.split('(').next().and_then(|name| Type::named(name.trim())).is_some() {
                return self.unsupported(expr, "a type with a length or a precision");
            }
            let expected = "bigint, double, boolean, text, timestamp or interval";
            let adding = self.source.add("unknown-name", at, format!("there is no type `{}`", name.to_lowercase()));
            adding.expected(expected).nearest(&name, Type::names());
            return None;
        };
        let of = self.check(of)?;
        let Some(from) = of.ty else { return self.settle(of, to).map(|expr| Typed { expr, ty: Some(to), at }) };
        if !cast::is_possible(from, to) {
            self.source.add("wrong-type", at, format!("{from} cannot be cast to {to}"));
            return None;
        }
        let expr = if from == to { of.expr } else { Expr::Cast(Box::new(of.expr), to) };
        Some(Typed { expr, ty: Some(to), at })
    }

    /// `TIMESTAMP '2024-01-01'`.
    fn typed_text(&mut self, expr: &ast::Expr, typed: &ast::TypedString) -> Option<Typed> {
        let at = self.source.range(expr.span());
        let (ast::Value::SingleQuotedString(text), Some(ty)) =
            (&typed.value.value, Type::named(&typed.data_type.to_string()))
        else {
            return self.unsupported(expr, "a constant of this type");
        };
        let text = Typed { expr: Expr::Literal(Literal::Text(text.clone()), Type::Text), ty: None, at: at.clone() };
        self.settle(text, ty).map(|expr| Typed { expr, ty: Some(ty), at })
    }

    fn interval(&mut self, expr: &ast::Expr, interval: &ast::Interval) -> Option<Typed> {
        let at = self.source.range(expr.span());
        let ast::Interval {
            value,
            leading_field,
            leading_precision: None,
            last_field: None,
            fractional_seconds_precision: None,
        } = interval
        else {
            return self.unsupported(expr, "an interval of several fields, or with a precision");
        };
        let text = match &**value {
            ast::Expr::Value(value) => match &value.value {
                ast::Value::SingleQuotedString(text) | ast::Value::Number(text, _) => text,
                _ => return self.unsupported(expr, "an interval that is not written out"),
            },
            _ => return self.unsupported(expr, "an interval that is not written out"),
        };
        let unit = leading_field.as_ref().map(ToString::to_string);
        let unit_us = unit.as_ref().and_then(|unit| cast::unit_us(unit));
        let micros = if unit.is_some() && unit_us.is_none() { None } else { cast::interval(text, unit_us) };
        let Some(micros) = micros else {
            let message = format!("`{}` is no length of time", cast::shown(text));
            let help = "months and years have no fixed length; say how many days";
            self.source.add("invalid-interval", at, message).expected("one as '5 minutes'").help(help);
            return None;
        };
        Some(Typed { expr: Expr::Literal(Literal::Interval(micros), Type::Interval), ty: Some(Type::Interval), at })
    }

    fn extract(&mut self, expr: &ast::Expr, field: &str, of: &ast::Expr) -> Option<Typed> {
        let at = self.source.range(expr.span());
        let field =
            Typed { expr: Expr::Literal(Literal::Text(field.to_owned()), Type::Text), ty: None, at: at.clone() };
        let mut arguments = vec![field, self.check(of)?];
        self.field("date_part", &mut arguments)?;
        self.resolve(at, "date_part", arguments, named("date_part"))
    }

    /// Checks the name of the field that a function of moments is asked for, if it is written out.
    fn field(&mut self, function: &str, arguments: &mut [Typed]) -> Option<()> {
        let [Typed { expr: Expr::Literal(Literal::Text(field), _), at, .. }, of] = arguments else { return Some(()) };
        let (known, what): (&[&str], _) = match (function, of.ty) {
            ("date_part", Some(Type::Interval)) => (&INTERVAL_FIELDS, "an interval"),
            ("date_part", _) => (&FIELDS, "a moment"),
            ("date_trunc", _) => (&TRUNCATED_FIELDS, "a moment to which it can be cut"),
            _ => return Some(()),
        };
        let name = field_named(field);
        if known.contains(&name.as_str()) {
            *field = name;
            return Some(());
        }
        let known = known.iter().copied();
        let adding = self.source.add("unknown-name", at.clone(), format!("there is no field `{name}` of {what}"));
        adding.one_of(known.clone()).nearest(&name, known);
        None
    }

    fn substring(
        &mut self,
        expr: &ast::Expr,
        of: &ast::Expr,
        from: Option<&ast::Expr>,
        length: Option<&ast::Expr>,
    ) -> Option<Typed> {
        match from {
            Some(from) => {
                let arguments: Vec<&ast::Expr> = [of, from].into_iter().chain(length).collect();
                self.call(expr, "substr", &arguments)
            }
            None => self.unsupported(expr, "SUBSTRING without FROM"),
        }
    }

    /// Makes an expression one of a type: a constant is read as one, a whole number may stand for a number.
    pub(crate) fn settle(&mut self, of: Typed, ty: Type) -> Option<Expr> {
        match (&of.expr, of.ty) {
            (_, Some(from)) if from == ty => Some(of.expr),
            (Expr::Literal(Literal::Bigint(value), _), Some(_)) if ty == Type::Double => {
                Some(Expr::Literal(Literal::Double(*value as f64), ty))
            }
            (_, Some(Type::Bigint)) if ty == Type::Double => Some(Expr::Cast(Box::new(of.expr), ty)),
            (Expr::Literal(Literal::Null, _), None) => Some(Expr::null(ty)),
            (Expr::Literal(Literal::Text(text), _), None) => match cast::of_text(text, ty) {
                Ok(cell) => Some(Expr::Literal(cell.into(), ty)),
                Err(_) => {
                    let message = format!("`{}` is no {ty}", cast::shown(text));
                    self.source.add("invalid-literal", of.at, message).expected(example(ty));
                    None
                }
            },
            (_, from) => {
                let message = format!("this is {}", from.map_or_else(|| "text".to_owned(), |ty| ty.to_string()));
                self.source.add("wrong-type", of.at, message).expected(ty.to_string());
                None
            }
        }
    }

    /// Makes expressions ones of a type that all of them have or may take.
    pub(crate) fn unify(&mut self, of: Vec<Typed>, what: &str) -> Option<(Vec<Expr>, Type)> {
        let mut common: Option<Type> = None;
        for typed in &of {
            common = match (common, typed.ty) {
                (None, ty) | (ty, None) => ty,
                (Some(one), Some(other)) if one == other => Some(one),
                (Some(one), Some(other)) if one.is_number() && other.is_number() => Some(Type::Double),
                (Some(one), Some(other)) => {
                    let message = format!("{what} {one} and {other}");
                    let help = "cast one of both: `CAST(x AS text)`";
                    self.source.add("wrong-type", typed.at.clone(), message).expected(one.to_string()).help(help);
                    return None;
                }
            };
        }
        let ty = common.unwrap_or(Type::Text);
        let settled: Vec<Option<Expr>> = of.into_iter().map(|typed| self.settle(typed, ty)).collect();
        Some((settled.into_iter().collect::<Option<_>>()?, ty))
    }

    pub(crate) fn typed(&self, at: &ast::Expr, expr: Expr, ty: Type) -> Typed {
        Typed { expr, ty: Some(ty), at: self.source.range(at.span()) }
    }

    pub(crate) fn unsupported<T>(&mut self, expr: &ast::Expr, what: &str) -> Option<T> {
        let at = self.source.range(expr.span());
        self.source.add("unsupported", at, format!("a flow cannot have {what}"));
        None
    }
}

fn is_same_column(key: &ast::Expr, expr: &ast::Expr) -> bool {
    let name = |expr: &ast::Expr| match expr {
        ast::Expr::Identifier(ident) => Some(column_name(ident)),
        ast::Expr::CompoundIdentifier(parts) => parts.last().map(column_name),
        _ => None,
    };
    name(key).is_some_and(|key| name(expr) == Some(key))
}

/// What a constant of a type looks like.
fn example(ty: Type) -> &'static str {
    match ty {
        Type::Bigint => "a whole number",
        Type::Double => "a number",
        Type::Boolean => "true or false",
        Type::Text => "a text",
        Type::Timestamp => "a moment as '2024-01-31 12:00:00'",
        Type::Interval => "a length of time as '5 minutes'",
    }
}
