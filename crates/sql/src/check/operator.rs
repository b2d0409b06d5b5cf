//! Operators.

use sqlparser::ast::{self, BinaryOperator as B, UnaryOperator};

use super::{Checker, Typed};
use crate::expr::{Comparison, Expr, Literal, Operation};
use crate::function::named;
use crate::types::Type::{self, Bigint, Boolean, Double, Interval, Text, Timestamp};

impl Checker<'_, '_, '_, '_> {
    pub(super) fn binary(&mut self, expr: &ast::Expr, left: &ast::Expr, op: &B, right: &ast::Expr) -> Option<Typed> {
        let comparison = match op {
            B::Eq => Some(Comparison::Equal),
            B::NotEq => Some(Comparison::NotEqual),
            B::Lt => Some(Comparison::Less),
            B::LtEq => Some(Comparison::LessEqual),
            B::Gt => Some(Comparison::Greater),
            B::GtEq => Some(Comparison::GreaterEqual),
            _ => None,
        };
        if let Some(comparison) = comparison {
            return self.compare(expr, comparison, left, right);
        }
        match op {
            B::And | B::Or => {
                let (left, right) = (self.of_type(left, Boolean), self.of_type(right, Boolean));
                let (left, right) = (Box::new(left?), Box::new(right?));
                let both = if matches!(op, B::And) { Expr::And(left, right) } else { Expr::Or(left, right) };
                Some(self.typed(expr, both, Boolean))
            }
            B::Plus => self.arithmetic(expr, Operation::Add, left, right),
            B::Minus => self.arithmetic(expr, Operation::Subtract, left, right),
            B::Multiply => self.arithmetic(expr, Operation::Multiply, left, right),
            B::Divide => self.arithmetic(expr, Operation::Divide, left, right),
            B::Modulo => self.arithmetic(expr, Operation::Remainder, left, right),
            B::StringConcat => self.concatenate(expr, left, right),
            B::LongArrow => self.call(expr, "json_text", &[left, right]),
            other => self.unsupported(expr, &format!("the operator `{other}`")),
        }
    }

    pub(super) fn compare(
        &mut self,
        expr: &ast::Expr,
        comparison: Comparison,
        left: &ast::Expr,
        right: &ast::Expr,
    ) -> Option<Typed> {
        let (left, right) = (self.check(left), self.check(right));
        let (operands, _) = self.unify(vec![left?, right?], "this compares")?;
        let [left, right] = <[Expr; 2]>::try_from(operands).ok()?;
        Some(self.typed(expr, Expr::Compare(comparison, Box::new(left), Box::new(right)), Boolean))
    }

    fn arithmetic(
        &mut self,
        expr: &ast::Expr,
        operation: Operation,
        left: &ast::Expr,
        right: &ast::Expr,
    ) -> Option<Typed> {
        let (left, right) = (self.check(left), self.check(right));
        let (left, right) = (left?, right?);
        use Operation::{Add, Divide, Multiply, Subtract};
        let as_numbers = |one: Type, other: Type| if one == other { one } else { Double };
        let (left_ty, right_ty, result) = match (left.ty, operation, right.ty) {
            (Some(one), _, Some(other)) if one.is_number() && other.is_number() => {
                let ty = as_numbers(one, other);
                (ty, ty, ty)
            }
            (Some(Timestamp), Add | Subtract, Some(Interval) | None) => (Timestamp, Interval, Timestamp),
            (Some(Interval), Add, Some(Timestamp)) => (Interval, Timestamp, Timestamp),
            (Some(Timestamp), Subtract, Some(Timestamp)) => (Timestamp, Timestamp, Interval),
            (Some(Interval), Add | Subtract, Some(Interval) | None) => (Interval, Interval, Interval),
            (Some(Interval), Multiply | Divide, Some(Bigint)) => (Interval, Bigint, Interval),
            (Some(Bigint), Multiply, Some(Interval)) => (Bigint, Interval, Interval),
            (Some(ty), _, None) | (None, _, Some(ty)) if ty.is_number() => (ty, ty, ty),
            (left_ty, _, right_ty) => {
                let name = |ty: Option<Type>| ty.map_or_else(|| "an unknown".to_owned(), |ty| ty.to_string());
                let message =
                    format!("there is no operator {} {} {}", name(left_ty), operation.symbol(), name(right_ty));
                let typed = self.typed(expr, Expr::null(Text), Text);
                self.source.add("wrong-type", typed.at, message).help("cast one of both: `CAST(x AS double)`");
                return None;
            }
        };
        let (left, right) = (self.settle(left, left_ty), self.settle(right, right_ty));
        let expr_ = Expr::Arithmetic(operation, Box::new(left?), Box::new(right?), result);
        Some(self.typed(expr, expr_, result))
    }

    /// Texts, and whatever else can be written as text.
    fn concatenate(&mut self, expr: &ast::Expr, left: &ast::Expr, right: &ast::Expr) -> Option<Typed> {
        let (left, right) = (self.check(left), self.check(right));
        let (left, right) = (left?, right?);
        let at = self.typed(expr, Expr::null(Text), Text).at;
        let as_text = |typed: Typed| match typed.ty {
            Some(Text) | None => typed.expr,
            Some(_) => Expr::Cast(Box::new(typed.expr), Text),
        };
        let function = named("||").next()?;
        let call = Expr::Call(function, vec![as_text(left), as_text(right)]);
        Some(Typed { expr: call, ty: Some(Text), at })
    }

    pub(super) fn unary(&mut self, expr: &ast::Expr, op: UnaryOperator, of: &ast::Expr) -> Option<Typed> {
        match op {
            UnaryOperator::Not => {
                let of = self.of_type(of, Boolean)?;
                Some(self.typed(expr, Expr::Not(Box::new(of)), Boolean))
            }
            UnaryOperator::Plus => self.check(of),
            UnaryOperator::Minus => {
                if let Some(least) = least(of) {
                    return Some(self.typed(expr, Expr::Literal(Literal::Bigint(least), Bigint), Bigint));
                }
                let of = self.check(of)?;
                match (of.expr, of.ty) {
                    (Expr::Literal(Literal::Bigint(value), _), Some(ty)) if value != i64::MIN => {
                        Some(self.typed(expr, Expr::Literal(Literal::Bigint(-value), ty), ty))
                    }
                    (Expr::Literal(Literal::Double(value), _), Some(ty)) => {
                        Some(self.typed(expr, Expr::Literal(Literal::Double(-value), ty), ty))
                    }
                    (of, Some(ty @ (Bigint | Double | Interval))) => {
                        Some(self.typed(expr, Expr::Negate(Box::new(of)), ty))
                    }
                    (_, ty) => {
                        let message = format!("there is no negative {}", ty.unwrap_or(Text));
                        self.source.add("wrong-type", of.at, message).expected("a number or an interval");
                        None
                    }
                }
            }
            other => self.unsupported(expr, &format!("the operator `{other}`")),
        }
    }

    pub(super) fn between(
        &mut self,
        expr: &ast::Expr,
        of: &ast::Expr,
        negated: bool,
        low: &ast::Expr,
        high: &ast::Expr,
    ) -> Option<Typed> {
        let parts = [self.check(of), self.check(low), self.check(high)];
        let parts: Vec<Typed> = parts.into_iter().collect::<Option<_>>()?;
        let (parts, _) = self.unify(parts, "this compares")?;
        let parts = <[Expr; 3]>::try_from(parts).ok()?;
        Some(self.negated(expr, negated, Expr::Between(parts.map(Box::new))))
    }

    pub(super) fn in_list(
        &mut self,
        expr: &ast::Expr,
        of: &ast::Expr,
        list: &[ast::Expr],
        negated: bool,
    ) -> Option<Typed> {
        let parts: Vec<Option<Typed>> = std::iter::once(of).chain(list).map(|part| self.check(part)).collect();
        let parts: Vec<Typed> = parts.into_iter().collect::<Option<_>>()?;
        let (parts, _) = self.unify(parts, "this compares")?;
        let mut parts = parts.into_iter();
        let of = Box::new(parts.next()?);
        Some(self.negated(expr, negated, Expr::In(of, parts.collect())))
    }

    pub(super) fn like(
        &mut self,
        expr: &ast::Expr,
        of: &ast::Expr,
        pattern: &ast::Expr,
        negated: bool,
        any_case: bool,
    ) -> Option<Typed> {
        let (text, pattern) = (self.of_type(of, Text), self.of_type(pattern, Text));
        let like = Expr::Like { text: Box::new(text?), pattern: Box::new(pattern?), negated, any_case };
        Some(self.typed(expr, like, Boolean))
    }

    pub(super) fn case(
        &mut self,
        expr: &ast::Expr,
        operand: Option<&ast::Expr>,
        branches: &[ast::CaseWhen],
        otherwise: Option<&ast::Expr>,
    ) -> Option<Typed> {
        let compared = self.conditions(operand, branches);
        let results: Vec<Option<Typed>> = branches.iter().map(|branch| self.check(&branch.result)).collect();
        let otherwise = match otherwise {
            Some(otherwise) => self.check(otherwise)?,
            None => Typed { ty: None, ..self.typed(expr, Expr::null(Text), Text) },
        };
        let (operand, conditions) = compared?;
        let results: Vec<Typed> = results.into_iter().collect::<Option<_>>()?;
        let (mut results, ty) =
            self.unify(results.into_iter().chain(std::iter::once(otherwise)).collect(), "the branches are")?;
        let otherwise = Box::new(results.pop()?);
        let branches = conditions.into_iter().zip(results).collect();
        Some(self.typed(expr, Expr::Case { operand, branches, otherwise }, ty))
    }

    /// The operand of a `CASE`, and what it is compared with; without one, conditions.
    fn conditions(
        &mut self,
        operand: Option<&ast::Expr>,
        branches: &[ast::CaseWhen],
    ) -> Option<(Option<Box<Expr>>, Vec<Expr>)> {
        let conditions = branches.iter().map(|branch| &branch.condition);
        let Some(operand) = operand else {
            let conditions: Vec<Option<Expr>> = conditions.map(|condition| self.of_type(condition, Boolean)).collect();
            return Some((None, conditions.into_iter().collect::<Option<_>>()?));
        };
        let parts: Vec<Option<Typed>> =
            std::iter::once(operand).chain(conditions).map(|part| self.check(part)).collect();
        let (parts, _) = self.unify(parts.into_iter().collect::<Option<_>>()?, "this compares")?;
        let mut parts = parts.into_iter();
        let operand = Box::new(parts.next()?);
        Some((Some(operand), parts.collect()))
    }

    fn negated(&self, at: &ast::Expr, negated: bool, expr: Expr) -> Typed {
        let expr = if negated { Expr::Not(Box::new(expr)) } else { expr };
        self.typed(at, expr, Boolean)
    }
}

/// The least whole number, whose digits alone are none.
fn least(of: &ast::Expr) -> Option<i64> {
    let ast::Expr::Value(value) = of else { return None };
    let ast::Value::Number(digits, _) = &value.value else { return None };
    (digits.trim_start_matches('0') == "9223372036854775808").then_some(i64::MIN)
}
