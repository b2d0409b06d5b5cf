//! What a query selects, and the columns of its result.

use std::collections::BTreeSet;
use std::ops::Range;

use sqlparser::ast::{self, SelectItem, SelectItemQualifiedWildcardKind, Spanned};

use crate::check::{Checker, Scope, Typed};
use crate::expr::Expr;
use crate::plan::Shape;
use crate::source::Source;
use crate::statement::column_name;
use crate::types::{Column, Type};

/// The most columns of a result.
const COLUMNS_MAX: usize = 256;

/// Each row becomes one.
pub(super) fn project(
    source: &mut Source<'_>,
    scope: &Scope<'_>,
    select: &ast::Select,
) -> Option<(Shape, Vec<Column>)> {
    if is_distinct(select) {
        let at = source.range(select.span());
        let help = format!(
            "select what is distinct in each window: SELECT DISTINCT …, window_end FROM TUMBLE({}, ts, INTERVAL '1 minute')",
            scope.table()
        );
        source
            .add("unbounded", at, "what has been there before would have to be known of a stream that never ends")
            .help(help);
        return None;
    }
    let group_by = group_by(select);
    if let Some(key) = group_by.first() {
        let at = source.range(key.span());
        let help = format!("group the rows of windows: FROM TUMBLE({}, ts, INTERVAL '1 minute')", scope.table());
        source.add("unbounded", at, "a group of a stream that has no windows never ends").help(help);
        return None;
    }
    if let Some(having) = &select.having {
        let at = source.range(having.span());
        source.add("unsupported", at, "without GROUP BY there are no groups").help("say it in WHERE");
        return None;
    }
    let mut columns = Vec::new();
    for item in &select.projection {
        match item {
            SelectItem::Wildcard(options) if is_plain(options) => {
                columns.extend(all_of(source, scope, item, 0..scope.columns.len()));
            }
            SelectItem::QualifiedWildcard(SelectItemQualifiedWildcardKind::ObjectName(name), options)
                if is_plain(options) =>
            {
                let [ast::ObjectNamePart::Identifier(table)] = name.0.as_slice() else {
                    let at = source.range(item.span());
                    source.add("unsupported", at, "a flow cannot have a name of more than two parts");
                    return None;
                };
                let places = Checker::new(source, scope, "SELECT").places_of(table)?;
                columns.extend(all_of(source, scope, item, places));
            }
            item => {
                let (expr, alias) = item_of(source, item)?;
                let checked = Checker::new(source, scope, "a SELECT without GROUP BY").check(expr);
                columns.push(checked.and_then(|typed| Some((name_of(source, expr, alias, &typed)?, typed))));
            }
        }
    }
    let (exprs, mut output) = outputs(source, columns)?;
    for (expr, column) in exprs.iter().zip(&mut output) {
        if let Expr::Column(place) = expr {
            column.nullable = scope.columns.get(*place).is_none_or(|column| column.nullable);
        }
    }
    Some((Shape::Project(exprs), output))
}

pub(super) fn is_distinct(select: &ast::Select) -> bool {
    matches!(select.distinct, Some(ast::Distinct::Distinct))
}

pub(super) fn group_by(select: &ast::Select) -> Vec<&ast::Expr> {
    match &select.group_by {
        ast::GroupByExpr::Expressions(expressions, _) => expressions.iter().collect(),
        ast::GroupByExpr::All(_) => Vec::new(),
    }
}

/// The columns at places, as they are.
fn all_of(
    source: &Source<'_>,
    scope: &Scope<'_>,
    item: &SelectItem,
    places: Range<usize>,
) -> Vec<Option<(String, Typed)>> {
    let at = source.range(item.span());
    let columns = scope.columns.iter().enumerate().filter(|(place, _)| places.contains(place));
    let typed = |(place, column): (usize, &Column)| {
        let typed = Typed { expr: Expr::Column(place), ty: Some(column.ty), at: at.clone() };
        Some((column.name.clone(), typed))
    };
    columns.map(typed).collect()
}

/// Whether `*` stands for all columns as they are.
fn is_plain(options: &ast::WildcardAdditionalOptions) -> bool {
    let ast::WildcardAdditionalOptions {
        wildcard_token: _,
        opt_ilike: None,
        opt_exclude: None,
        opt_except: None,
        opt_replace: None,
        opt_rename: None,
        opt_alias: None,
    } = options
    else {
        return false;
    };
    true
}

pub(super) fn item_of<'q>(
    source: &mut Source<'_>,
    item: &'q SelectItem,
) -> Option<(&'q ast::Expr, Option<&'q ast::Ident>)> {
    match item {
        SelectItem::UnnamedExpr(expr) => Some((expr, None)),
        SelectItem::ExprWithAlias { expr, alias } => Some((expr, Some(alias))),
        other => {
            let at = source.range(other.span());
            source.add("unsupported", at, "a flow cannot have this here").expected("an expression");
            None
        }
    }
}

/// What a column of the result is called.
pub(super) fn name_of(
    source: &mut Source<'_>,
    expr: &ast::Expr,
    alias: Option<&ast::Ident>,
    typed: &Typed,
) -> Option<String> {
    let name = match (alias, expr) {
        (Some(alias), _) => Some(column_name(alias)),
        (None, ast::Expr::Identifier(ident)) => Some(column_name(ident)),
        (None, ast::Expr::CompoundIdentifier(parts)) => parts.last().map(column_name),
        (None, ast::Expr::Function(function)) => function.name.0.last().and_then(|part| match part {
            ast::ObjectNamePart::Identifier(ident) => Some(column_name(ident)),
            ast::ObjectNamePart::Function(_) => None,
        }),
        _ => None,
    };
    if name.is_none() {
        let help = "give it one: `expression AS name`";
        source.add("unnamed", typed.at.clone(), "this column of the result has no name").help(help);
    }
    name
}

/// The columns of the result, if all are fine.
pub(super) fn outputs(
    source: &mut Source<'_>,
    columns: Vec<Option<(String, Typed)>>,
) -> Option<(Vec<Expr>, Vec<Column>)> {
    let mut names = BTreeSet::new();
    let (mut exprs, mut output, mut is_fine) = (Vec::new(), Vec::new(), true);
    let places = || columns.iter().flatten().map(|(_, typed)| typed.at.clone());
    let at = places().map(|at| at.start).min().unwrap_or_default()..places().map(|at| at.end).max().unwrap_or_default();
    for column in columns {
        let Some((name, typed)) = column else {
            is_fine = false;
            continue;
        };
        if !names.insert(name.clone()) {
            let message = format!("the result has two columns `{name}`");
            source.add("duplicate", typed.at.clone(), message).help("give one of both another name with AS");
            is_fine = false;
        }
        if typed.ty == Some(Type::Interval) {
            let help = "give its seconds: `EXTRACT(EPOCH FROM interval)`";
            source.add("wrong-type", typed.at.clone(), "a column of a stream cannot be an interval").help(help);
            is_fine = false;
        }
        output.push(Column::new(&name, typed.ty.unwrap_or(Type::Text)));
        exprs.push(typed.expr);
    }
    if exprs.len() > COLUMNS_MAX {
        source
            .add("too-large", at, format!("the result has {} columns", exprs.len()))
            .expected(format!("at most {COLUMNS_MAX}"));
        return None;
    }
    is_fine.then_some((exprs, output))
}
