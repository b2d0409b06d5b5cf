//! Calls of functions and aggregates.

use std::ops::Range;
use std::sync::Arc;

use sqlparser::ast::{self, FunctionArg, FunctionArgExpr, FunctionArguments};

use super::{Checker, Typed};
use crate::aggregate::{self, Aggregate, AggregateKind};
use crate::expr::{Expr, Literal};
use crate::function::{Function, all, named};
use crate::statement::column_name;
use crate::types::Type;
use crate::user_function::UserFunction;

/// Functions under other names.
const ALIASES: [(&str, &str); 4] =
    [("substring", "substr"), ("character_length", "char_length"), ("trim", "btrim"), ("dpow", "power")];
/// What is not the same each time that it is computed.
const VOLATILE: [&str; 7] =
    ["now", "current_timestamp", "clock_timestamp", "localtimestamp", "current_date", "random", "gen_random_uuid"];

/// Whether a name has a meaning in expressions of its own.
pub(crate) fn is_built_in(name: &str) -> bool {
    let aliases = ALIASES.iter().map(|(alias, _)| *alias);
    let mut others = aliases.chain(VOLATILE).chain(["coalesce", "nullif", "window_start", "window_end"]);
    AggregateKind::named(name).is_some() || named(name).next().is_some() || others.any(|other| other == name)
}

impl Checker<'_, '_, '_, '_> {
    pub(super) fn function(&mut self, expr: &ast::Expr, function: &ast::Function) -> Option<Typed> {
        let name = match function.name.0.as_slice() {
            [ast::ObjectNamePart::Identifier(ident)] => column_name(ident),
            _ => return self.unsupported(expr, "a function of a schema"),
        };
        let ast::Function {
            name: _,
            uses_odbc_syntax: _,
            parameters,
            args,
            filter,
            null_treatment,
            over,
            within_group,
        } = function;
        if over.is_some() || !within_group.is_empty() || null_treatment.is_some() {
            return self.unsupported(expr, "a window function (OVER, WITHIN GROUP)");
        }
        if *parameters != FunctionArguments::None {
            return self.unsupported(expr, "a function with parameters");
        }
        let list = match args {
            FunctionArguments::None => None,
            FunctionArguments::List(list) => Some(list),
            FunctionArguments::Subquery(_) => return self.unsupported(expr, "a query within a query"),
        };
        if VOLATILE.contains(&name.as_str()) {
            let at = self.source.range(ast::Spanned::span(expr));
            let message =
                format!("`{name}` gives something else each time, and a flow that goes on after a failure must not");
            self.source.add("volatile", at, message).help("use the moment in a column of the record");
            return None;
        }
        let arguments: Vec<&FunctionArg> = list.iter().flat_map(|list| &list.args).collect();
        if let Some(kind) = AggregateKind::named(&name) {
            let is_distinct =
                list.is_some_and(|list| list.duplicate_treatment == Some(ast::DuplicateTreatment::Distinct));
            let kind = match kind {
                AggregateKind::Count if is_distinct => AggregateKind::CountDistinct,
                // What is there more than once is as good as once.
                AggregateKind::Min | AggregateKind::Max | AggregateKind::ApproxCountDistinct => kind,
                _ if is_distinct => return self.unsupported(expr, "DISTINCT in an aggregate other than count"),
                _ => kind,
            };
            if list.is_some_and(|list| !list.clauses.is_empty()) {
                return self.unsupported(expr, "ORDER BY in an aggregate");
            }
            return self.aggregate(expr, kind, &arguments, filter.as_deref());
        }
        if filter.is_some() {
            return self.unsupported(expr, "FILTER on a function that is no aggregate");
        }
        if list.is_some_and(|list| list.duplicate_treatment.is_some() || !list.clauses.is_empty()) {
            return self.unsupported(expr, "DISTINCT or ORDER BY in a function that is no aggregate");
        }
        let mut plain = Vec::with_capacity(arguments.len());
        for argument in arguments {
            match argument {
                FunctionArg::Unnamed(FunctionArgExpr::Expr(argument)) => plain.push(argument),
                _ => return self.unsupported(expr, "arguments with names, or `*`, here"),
            }
        }
        match name.as_str() {
            "coalesce" => self.coalesce(expr, &plain),
            "nullif" => self.null_if(expr, &plain),
            name => match self.scope.functions.declared.get(name) {
                Some(Some(function)) => self.user_function(expr, &Arc::clone(function), &plain),
                // What is wrong with it is told where it is declared.
                Some(None) => None,
                None => {
                    let name = ALIASES.iter().find(|(alias, _)| *alias == name).map_or(name, |(_, name)| name);
                    self.call(expr, name, &plain)
                }
            },
        }
    }

    /// A call of a function of the app.
    fn user_function(
        &mut self,
        expr: &ast::Expr,
        function: &Arc<UserFunction>,
        arguments: &[&ast::Expr],
    ) -> Option<Typed> {
        let at = self.source.range(ast::Spanned::span(expr));
        let arguments: Vec<Option<Typed>> = arguments.iter().map(|argument| self.check(argument)).collect();
        if self.scope.functions.in_on {
            let message = format!("which rows join is not asked functions of the app, as `{}`", function.name);
            let help = "say it in WHERE, which is asked of pairs";
            self.source.add("unsupported", at, message).help(help);
            return None;
        }
        if arguments.len() != function.parameters.len() {
            let message = format!("`{}` takes {} arguments", function.name, function.parameters.len());
            self.source.add("wrong-type", at, message).expected(function.signature());
            return None;
        }
        let arguments: Vec<Typed> = arguments.into_iter().collect::<Option<_>>()?;
        let types = function.parameters.iter().map(|(_, ty)| *ty);
        let settled: Vec<Option<Expr>> =
            arguments.into_iter().zip(types).map(|(argument, ty)| self.settle(argument, ty)).collect();
        let arguments = settled.into_iter().collect::<Option<_>>()?;
        Some(Typed { expr: Expr::User(Arc::clone(function), arguments), ty: Some(function.result), at })
    }

    fn coalesce(&mut self, expr: &ast::Expr, of: &[&ast::Expr]) -> Option<Typed> {
        let parts: Vec<Option<Typed>> = of.iter().map(|part| self.check(part)).collect();
        let parts: Vec<Typed> = parts.into_iter().collect::<Option<_>>()?;
        if parts.is_empty() {
            return self.unsupported(expr, "COALESCE of nothing");
        }
        let (parts, ty) = self.unify(parts, "the arguments are")?;
        Some(self.typed(expr, Expr::Coalesce(parts), ty))
    }

    fn null_if(&mut self, expr: &ast::Expr, of: &[&ast::Expr]) -> Option<Typed> {
        let [left, right] = of else { return self.unsupported(expr, "NULLIF of other than two arguments") };
        let (left, right) = (self.check(left), self.check(right));
        let (parts, ty) = self.unify(vec![left?, right?], "this compares")?;
        let [left, right] = <[Expr; 2]>::try_from(parts).ok()?;
        Some(self.typed(expr, Expr::NullIf(Box::new(left), Box::new(right)), ty))
    }

    pub(super) fn call(&mut self, expr: &ast::Expr, name: &str, arguments: &[&ast::Expr]) -> Option<Typed> {
        let at = self.source.range(ast::Spanned::span(expr));
        let arguments: Vec<Option<Typed>> = arguments.iter().map(|argument| self.check(argument)).collect();
        let mut candidates = named(name).peekable();
        if candidates.peek().is_none() {
            let is_name = |name: &&str| name.starts_with(|c: char| c.is_ascii_alphabetic());
            let known = all().map(|function| function.name).chain(["coalesce", "nullif"]).filter(is_name);
            let known = known.chain(AggregateKind::NAMES.iter().map(|(name, _)| *name));
            let known = known.chain(self.scope.functions.declared.keys().map(String::as_str));
            let adding = self.source.add("unknown-name", at, format!("there is no function `{name}`"));
            if self.scope.functions.of_app.contains(&name.replace('_', "-")) {
                let help = format!(
                    "say what the app's function takes and returns: CREATE FUNCTION {name} (x double) RETURNS double"
                );
                adding.help(help);
            } else {
                adding.nearest(name, known);
            }
            return None;
        }
        let mut arguments: Vec<Typed> = arguments.into_iter().collect::<Option<_>>()?;
        self.field(name, &mut arguments)?;
        self.resolve(at, name, arguments, candidates)
    }

    /// Chooses the function whose parameters the arguments fit with the fewest changes of type.
    pub(super) fn resolve(
        &mut self,
        at: Range<usize>,
        name: &str,
        arguments: Vec<Typed>,
        candidates: impl Iterator<Item = &'static Function> + Clone,
    ) -> Option<Typed> {
        let cost = |function: &&'static Function| {
            let costs =
                arguments.iter().enumerate().map(|(place, argument)| match (argument.ty, function.parameter(place)?) {
                    (Some(ty), wanted) if ty == wanted => Some(0),
                    (None, Type::Text) => Some(0),
                    (None, _) => Some(1),
                    (Some(Type::Bigint), Type::Double) => Some(2),
                    _ => None,
                });
            if function.takes(arguments.len()) { costs.sum::<Option<u32>>() } else { None }
        };
        let fitting = candidates.clone().filter_map(|function| Some((cost(&function)?, function)));
        let Some((_, function)) = fitting.min_by_key(|(cost, _)| *cost) else {
            let given: Vec<String> = arguments
                .iter()
                .map(|argument| argument.ty.map_or_else(|| "unknown".to_owned(), |ty| ty.to_string()))
                .collect();
            let signatures: Vec<String> = candidates.map(Function::signature).collect();
            let message = format!("there is no function `{name}({})`", given.join(", "));
            self.source.add("wrong-type", at, message).expected(signatures.join(" or "));
            return None;
        };
        let settled: Vec<Option<Expr>> = arguments
            .into_iter()
            .enumerate()
            .map(|(place, argument)| self.settle(argument, function.parameter(place)?))
            .collect();
        let arguments = settled.into_iter().collect::<Option<_>>()?;
        Some(Typed { expr: Expr::Call(function, arguments), ty: Some(function.result), at })
    }

    fn aggregate(
        &mut self,
        expr: &ast::Expr,
        kind: AggregateKind,
        arguments: &[&FunctionArg],
        filter: Option<&ast::Expr>,
    ) -> Option<Typed> {
        let at = self.source.range(ast::Spanned::span(expr));
        let Some(groups) = self.groups.take() else {
            let message = format!("{} has no aggregates", self.clause);
            let help = "group the rows of a window: FROM TUMBLE(stream, ts, INTERVAL '1 minute') GROUP BY window_start, window_end";
            self.source.add("misplaced-aggregate", at, message).help(help);
            return None;
        };
        // Within an aggregate it is the rows of the input that count, not the groups.
        let clause = std::mem::replace(&mut self.clause, "an aggregate");
        let (kind, arguments) = self.quantile(kind, arguments);
        let argument = match arguments {
            [FunctionArg::Unnamed(FunctionArgExpr::Wildcard)] if kind == AggregateKind::Count => Some(None),
            [FunctionArg::Unnamed(FunctionArgExpr::Expr(argument))] => self.check(argument).map(Some),
            _ => {
                let expected = match kind {
                    AggregateKind::ApproxQuantile(_) => "a number and a share from 0 to 1, as 0.95",
                    _ => "one argument",
                };
                self.source.add("wrong-type", at.clone(), "an aggregate has other arguments").expected(expected);
                None
            }
        };
        let filter = filter.map(|filter| self.of_type(filter, Type::Boolean));
        self.clause = clause;
        let (argument, filter) = match (argument, filter) {
            (Some(argument), None) => (argument, None),
            (Some(argument), Some(Some(filter))) => (argument, Some(filter)),
            _ => {
                self.groups = Some(groups);
                return None;
            }
        };
        let made = self.aggregate_of(kind, argument, filter, &at);
        let place = made.map(|aggregate| {
            let ty = aggregate.result();
            let known = groups.aggregates.iter().position(|other| *other == aggregate);
            let place = known.unwrap_or_else(|| {
                groups.aggregates.push(aggregate);
                groups.aggregates.len() - 1
            });
            (groups.window_at() + 2 + place, ty)
        });
        self.groups = Some(groups);
        let (place, ty) = place?;
        Some(Typed { expr: Expr::Column(place), ty: Some(ty), at })
    }

    /// Takes the share from the arguments of a quantile: without it, one that it needs is missing.
    fn quantile<'e>(
        &mut self,
        kind: AggregateKind,
        arguments: &'e [&'e FunctionArg],
    ) -> (AggregateKind, &'e [&'e FunctionArg]) {
        if !matches!(kind, AggregateKind::ApproxQuantile(_)) {
            return (kind, arguments);
        }
        let Some((FunctionArg::Unnamed(FunctionArgExpr::Expr(share)), value @ [_])) = arguments.split_last() else {
            return (kind, &[]);
        };
        let share = match self.check(share).map(|typed| typed.expr) {
            Some(Expr::Literal(Literal::Double(share), _)) => share,
            Some(Expr::Literal(Literal::Bigint(share), _)) => share as f64,
            _ => return (kind, &[]),
        };
        if !(0.0..=1.0).contains(&share) {
            return (kind, &[]);
        }
        (AggregateKind::ApproxQuantile((share * 1e6).round() as u32), value)
    }

    fn aggregate_of(
        &mut self,
        kind: AggregateKind,
        argument: Option<Typed>,
        filter: Option<Expr>,
        at: &Range<usize>,
    ) -> Option<Aggregate> {
        let Some(argument) = argument else { return Some(Aggregate::new(kind, None, Type::Bigint, filter)) };
        let ty = argument.ty.unwrap_or(Type::Text);
        if let Some(wanted) = aggregate::refuses(kind, ty) {
            let message = format!("there is no {} of {ty}", kind.name());
            self.source.add("wrong-type", at.clone(), message).expected(wanted);
            return None;
        }
        let argument = self.settle(argument, ty)?;
        Some(Aggregate::new(kind, Some(argument), ty, filter))
    }
}
