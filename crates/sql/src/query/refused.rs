//! What a flow cannot have: every part of the grammar is named here, so that nothing is read and passed over.

use std::ops::Range;

use sqlparser::ast::{self, SetExpr, Spanned};
use sqlparser::tokenizer::Span;

use crate::source::Source;

/// The most queries whose rows are united.
const ARMS_MAX: usize = 16;

/// What a flow cannot have: what it is, what helps, and where it stands.
type Refused<'q> = (&'q str, &'q str, Range<usize>);

const ROWS_DO_NOT_END: &str = "the rows of a stream do not end, so that there is no last one";
const DROP_IT: &str = "drop it";

/// The SELECTs of a query that has nothing that a flow cannot have. Every part of the grammar is named here, so that nothing is
/// read and passed over.
pub(super) fn plain_selects<'q>(source: &mut Source<'_>, query: &'q ast::Query) -> Option<Vec<&'q ast::Select>> {
    let ast::Query {
        with,
        body,
        order_by,
        limit_clause,
        fetch,
        locks,
        for_clause,
        settings,
        format_clause,
        pipe_operators,
    } = query;
    let whole = source.range(query.span());
    let at = |source: &Source<'_>, span: Option<Span>| span.map(|span| source.range(span));
    let mut refused: Vec<Refused<'_>> = Vec::new();
    let mut refuse = |is_there: bool, what: &'static str, help: &'static str, at: Option<Range<usize>>| {
        if is_there {
            refused.push((what, help, at.unwrap_or_else(|| whole.clone())));
        }
    };
    let with_at = at(source, with.as_ref().map(Spanned::span));
    refuse(with.is_some(), "WITH", "make a flow of it, and read that", with_at);
    let order_at = at(source, order_by.as_ref().map(Spanned::span));
    refuse(order_by.is_some(), "ORDER BY", ROWS_DO_NOT_END, order_at);
    refuse(limit_clause.is_some() || fetch.is_some(), "LIMIT", ROWS_DO_NOT_END, None);
    refuse(!locks.is_empty() || for_clause.is_some(), "FOR", DROP_IT, None);
    refuse(settings.is_some() || format_clause.is_some(), "SETTINGS and FORMAT", DROP_IT, None);
    refuse(!pipe_operators.is_empty(), "pipes", "make a flow of each", None);
    let Some(arms) = united(body).filter(|arms| arms.len() <= ARMS_MAX) else {
        let message = format!("a flow has one SELECT, or up to {ARMS_MAX} that UNION ALL unites, without parentheses");
        source.add("unsupported", whole, message).help("make several flows, and unite their results");
        return None;
    };
    refused.extend(arms.iter().flat_map(|select| refused_in_select(source, select)));
    let is_fine = refused.is_empty();
    for (what, help, at) in refused {
        source.add("unsupported", at, format!("a flow cannot have {what}")).help(help);
    }
    is_fine.then_some(arms)
}

/// The queries that `UNION ALL` unites, or the only one; nothing if something else combines them.
pub(super) fn united(body: &SetExpr) -> Option<Vec<&ast::Select>> {
    let (mut arms, mut left) = (Vec::new(), body);
    loop {
        match left {
            SetExpr::Select(select) => {
                arms.push(&**select);
                arms.reverse();
                return Some(arms);
            }
            SetExpr::SetOperation {
                op: ast::SetOperator::Union,
                set_quantifier: ast::SetQuantifier::All,
                left: next,
                right,
            } => {
                let SetExpr::Select(select) = &**right else { return None };
                arms.push(&**select);
                left = &**next;
            }
            _ => return None,
        }
    }
}

fn refused_in_select<'q>(source: &Source<'_>, select: &'q ast::Select) -> Vec<Refused<'q>> {
    let ast::Select {
        select_token: _,
        optimizer_hints: _,
        distinct,
        select_modifiers,
        top,
        top_before_distinct: _,
        projection: _,
        exclude,
        into,
        from,
        lateral_views,
        prewhere,
        selection: _,
        connect_by,
        group_by,
        cluster_by,
        distribute_by,
        sort_by,
        having: _,
        named_window,
        qualify,
        window_before_qualify: _,
        value_table_mode,
        flavor: _,
    } = select;
    let whole = || source.range(select.span());
    let mut refused: Vec<Refused<'_>> = Vec::new();
    if let Some(third) = from.first().and_then(|table| table.joins.get(1)) {
        let help = "make the first join a flow of its own, and join its result";
        refused.push(("a third stream", help, source.range(third.span())));
    }
    if let Some(second) = from.get(1) {
        refused.push(("a second stream after a comma", "write JOIN and ON", source.range(second.span())));
    }
    if let Some(qualify) = qualify {
        refused.push(("QUALIFY", "say it in HAVING", source.range(qualify.span())));
    }
    let has_modifiers = match group_by {
        ast::GroupByExpr::All(_) => true,
        ast::GroupByExpr::Expressions(_, modifiers) => !modifiers.is_empty(),
    };
    let others = [
        (matches!(distinct, Some(ast::Distinct::On(_))), "DISTINCT ON", "group by its columns, in a window"),
        (select_modifiers.is_some(), "words between SELECT and the columns", DROP_IT),
        (top.is_some(), "TOP", ROWS_DO_NOT_END),
        (exclude.is_some(), "EXCLUDE", "name the columns that it selects"),
        (into.is_some(), "INTO", "the result is the stream of the flow's name"),
        (!lateral_views.is_empty(), "LATERAL VIEW", "a flow reads one stream"),
        (prewhere.is_some(), "PREWHERE", "say it in WHERE"),
        (!connect_by.is_empty(), "CONNECT BY", "a flow reads one stream"),
        (has_modifiers, "GROUP BY ALL, or with modifiers", "name the keys"),
        (!cluster_by.is_empty() || !distribute_by.is_empty(), "CLUSTER BY and DISTRIBUTE BY", DROP_IT),
        (!sort_by.is_empty(), "SORT BY", ROWS_DO_NOT_END),
        (!named_window.is_empty(), "WINDOW", "a flow has no window functions"),
        (value_table_mode.is_some(), "AS VALUE and AS STRUCT", DROP_IT),
    ];
    let others = others.into_iter().filter(|(is_there, ..)| *is_there);
    refused.extend(others.map(|(_, what, help)| (what, help, whole())));
    refused
}
