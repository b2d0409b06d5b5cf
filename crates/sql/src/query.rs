//! Checks a query against the streams that there are, and makes the plan of its stage.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use littoral_model::id::FunctionName;
use sqlparser::ast::{self, SelectItem, SetExpr, Spanned};
use sqlparser::tokenizer::Span;

use crate::check::{Checker, Groups, Scope, Typed};
use crate::expr::{Expr, Literal};
use crate::from::{From, Through, WINDOWS, WindowCall, functions};
use crate::plan::{Grouping, Plan, Shape, Turn, Window, hash};
use crate::source::Source;
use crate::spread::{Spread, spread};
use crate::statement::{CreateFlow, Watermark, column_name, fabric_name};
use crate::types::{Column, Type, are_of_record};

/// How many windows a row may be in at once.
const WINDOWS_PER_ROW_MAX: i64 = 1_000;
/// The most columns of a result.
const COLUMNS_MAX: usize = 256;
/// The most queries whose rows are united.
const ARMS_MAX: usize = 16;

/// A stream, as queries see it.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    pub(crate) columns: Vec<Column>,
    pub(crate) watermark: Option<Watermark>,
    /// In how many partitions its records are; none where there is one for each device.
    pub(crate) partitions: Option<u32>,
}

/// What queries may name.
#[derive(Debug, Default)]
pub(crate) struct Known {
    /// The streams.
    pub(crate) tables: BTreeMap<String, Table>,
    /// The streams of which nothing is known, for what makes them has been reported: so are their readers not.
    pub(crate) failed: BTreeSet<String>,
    /// The streams whose columns nobody says: functions write them.
    pub(crate) untyped: BTreeSet<String>,
    /// The functions of the app.
    pub(crate) functions: BTreeSet<String>,
}

/// What a query came to.
pub(crate) struct Compiled {
    /// The stream that it reads.
    pub(crate) source: String,
    /// What its rows go through first.
    pub(crate) functions: Vec<FunctionName>,
    /// What comes before it where the source has several partitions, and rows have to come together by their keys.
    pub(crate) spread: Option<Spread>,
    pub(crate) plan: Plan,
    /// The watermark of its result, if that has the column of the source's.
    pub(crate) watermark: Option<Watermark>,
}

impl Compiled {
    /// The columns of the rows that may come too late.
    pub(crate) fn input(&self) -> &[Column] {
        self.spread.as_ref().map_or(&self.plan, |spread| &spread.plan).input()
    }
}

/// The streams that a query reads, as far as it says so in a way that can be read.
pub(crate) fn sources_of(query: &ast::Query) -> Vec<String> {
    let arms = united(&query.body).unwrap_or_default();
    let source_of = |arm: &ast::Select| From::read(arm.from.first()?).map(|from| fabric_name(from.stream));
    arms.into_iter().filter_map(source_of).collect()
}

/// Checks the query of a flow: one plan, or one for each of those that `UNION ALL` unites.
pub(crate) fn check(source: &mut Source<'_>, known: &Known, flow: &CreateFlow) -> Option<Vec<Compiled>> {
    let arms = plain_selects(source, &flow.query)?;
    // All of them, so that all that is wrong is told.
    let compiled: Vec<Option<Compiled>> = arms.iter().map(|select| check_one(source, known, flow, select)).collect();
    let mut compiled: Vec<Compiled> = compiled.into_iter().collect::<Option<_>>()?;
    unite(source, &arms, &mut compiled)?;
    Some(compiled)
}

/// Has all queries put out the same columns: by place, under the names of the first.
fn unite(source: &mut Source<'_>, arms: &[&ast::Select], compiled: &mut [Compiled]) -> Option<()> {
    let (first, others) = compiled.split_first_mut()?;
    if others.is_empty() {
        return Some(());
    }
    let mut columns = first.plan.output.clone();
    let types = |columns: &[Column]| columns.iter().map(|column| column.ty.to_string()).collect::<Vec<_>>().join(", ");
    let mut is_fine = true;
    for (arm, other) in arms.iter().skip(1).zip(others.iter()) {
        let same = |(one, other): (&Column, &Column)| one.ty == other.ty;
        if columns.len() != other.plan.output.len() || !columns.iter().zip(&other.plan.output).all(same) {
            let at = source.range(arm.span());
            let message = format!("this puts out {}, unlike the first query", types(&other.plan.output));
            let help = "select as many columns in the same order, and CAST those of other types";
            source.add("wrong-type", at, message).expected(types(&columns)).help(help);
            is_fine = false;
        }
        for (column, other) in columns.iter_mut().zip(&other.plan.output) {
            column.nullable |= other.nullable;
        }
    }
    let watermark = common_watermark(first, others);
    for one in std::iter::once(first).chain(others) {
        one.plan.put_out(&columns);
        one.watermark.clone_from(&watermark);
    }
    is_fine.then_some(())
}

/// The watermark of what several queries put out, if all have one, of the same column.
fn common_watermark(first: &Compiled, others: &[Compiled]) -> Option<Watermark> {
    let place = |one: &Compiled| {
        let watermark = one.watermark.as_ref()?;
        one.plan.output.iter().position(|column| column.name == watermark.column).map(|at| (at, watermark.delay_us))
    };
    let (at, _) = place(first)?;
    let delays = std::iter::once(first).chain(others);
    let delays: Option<Vec<i64>> =
        delays.map(|one| place(one).filter(|(other, _)| *other == at).map(|(_, delay_us)| delay_us)).collect();
    Some(Watermark { column: first.watermark.as_ref()?.column.clone(), delay_us: delays?.into_iter().max()? })
}

/// The queries that `UNION ALL` unites, or the only one; nothing if something else combines them.
fn united(body: &SetExpr) -> Option<Vec<&ast::Select>> {
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

/// Checks one query, which reads one stream.
fn check_one(source: &mut Source<'_>, known: &Known, flow: &CreateFlow, select: &ast::Select) -> Option<Compiled> {
    let Some(first) = select.from.first() else {
        source
            .add("unsupported", flow.at.clone(), "the query reads no stream")
            .expected("FROM and the name of a stream");
        return None;
    };
    let Some(from) = From::read(first) else {
        let at = source.range(first.span());
        source
            .add("unsupported", at, "a flow cannot read this")
            .expected("a stream, TUMBLE, HOP, CUMULATE or SESSION of one, or functions of the app of one, by one name")
            .help("make a flow of what functions put out, and read windows of that");
        return None;
    };
    let name = fabric_name(from.stream);
    let Some(table) = known.tables.get(&name) else {
        if known.failed.contains(&name) {
            return None;
        }
        let at = source.range(from.stream.span);
        if known.untyped.contains(&name) {
            let help = format!("declare those that you use: CREATE STREAM {name} (machine text, ts timestamp, …)");
            source.add("unknown-name", at, format!("the columns of `{name}` are not known")).help(help);
            return None;
        }
        let known = known.tables.keys().map(String::as_str);
        source
            .add("unknown-name", at, format!("there is no stream `{name}`"))
            .one_of(known.clone())
            .nearest(&name, known);
        return None;
    };
    let (functions, table) = match &from.through {
        Through::Functions(calls) => {
            let functions = functions(source, &known.functions, calls)?;
            let columns = from.columns(source, calls)?;
            (functions, Cow::Owned(Table { columns, watermark: None, partitions: table.partitions }))
        }
        Through::Nothing | Through::Windows(_) => (Vec::new(), Cow::Borrowed(table)),
    };
    let alias = from.known_as();
    let scope = Scope { columns: &table.columns, table: &alias };
    let filter = match &select.selection {
        None => Some(None),
        Some(condition) => Checker::new(source, &scope, "WHERE").of_type(condition, Type::Boolean).map(Some),
    };
    let (shape, output) = match from.through {
        Through::Nothing | Through::Functions(_) => project(source, &scope, select)?,
        Through::Windows(function) => group(source, &scope, &table, flow, select, function)?,
    };
    if let Some(into) = flow.ports.first().filter(|_| functions.is_empty()) {
        let message = "only functions have ports, and this query reads what no function puts out";
        source.add("contradiction", into.port.at.clone(), message).help("drop PORT, or read FROM function(stream)");
        return None;
    }
    let has_late_port = flow.late.is_some();
    if let Shape::Project(_) = &shape {
        let message = "without a window nothing comes too late";
        let late = flow.late.iter().map(|late| (late.at.clone(), "drop LATE INTO"));
        let lateness = flow.lateness.iter().map(|lateness| (lateness.at.clone(), "drop ALLOW LATENESS"));
        if let Some((at, help)) = late.chain(lateness).next() {
            source.add("contradiction", at, message).help(help);
            return None;
        }
    }
    let waits = matches!(shape, Shape::Group(_)) && table.partitions.is_some_and(|partitions| partitions > 1);
    if let Some(idle) = flow.idle.as_ref().filter(|idle| !waits || idle.us == 0) {
        let message = "only windows over several partitions wait for those without rows, and for some time";
        source.add("contradiction", idle.at.clone(), message).help("drop IDLE AFTER, or say a longer time");
        return None;
    }
    let watermark = carried(&table, &shape, &output);
    let producers = table.partitions.filter(|partitions| *partitions > 1);
    let state_layout = layout(&name, &table.columns, &shape, producers);
    let (mut filter, mut shape, is_record) = (filter?, shape, are_of_record(&table.columns));
    let input = if has_late_port { table.columns.clone() } else { used(&table.columns, &mut filter, &mut shape) };
    let plan = Plan { input, is_record, filter, shape, output, has_late_port, state_layout, fingerprint: 0 };
    let (spread, plan) = match producers {
        Some(producers) => spread(plan, producers, flow.idle.as_ref().map(|idle| idle.us)),
        None => (None, plan.identified()),
    };
    Some(Compiled { source: name, functions, spread, watermark, plan })
}

/// The columns that count: those that a query uses, and those that may not be missing. What it uses is then by its place
/// among these.
fn used(columns: &[Column], filter: &mut Option<Expr>, shape: &mut Shape) -> Vec<Column> {
    let mut places: BTreeSet<usize> =
        (0..).zip(columns).filter(|(_, column)| !column.nullable).map(|(at, _)| at).collect();
    let mut each = |of: &mut dyn FnMut(&mut usize)| {
        filter.iter_mut().for_each(|filter| filter.each_column(of));
        shape.each_column(of);
    };
    each(&mut |place| {
        places.insert(*place);
    });
    each(&mut |place| *place = places.range(..*place).count());
    places.iter().filter_map(|place| columns.get(*place).cloned()).collect()
}

/// The watermark of a result: as far out of order as the moments of the source are, they are in it, too.
fn carried(table: &Table, shape: &Shape, output: &[Column]) -> Option<Watermark> {
    let watermark = table.watermark.as_ref()?;
    let Shape::Project(exprs) = shape else { return None };
    let is_it = |expr: &Expr| match expr {
        Expr::Column(place) => table.columns.get(*place).is_some_and(|column| column.name == watermark.column),
        _ => false,
    };
    let column = output.get(exprs.iter().position(is_it)?)?;
    Some(Watermark { column: column.name.clone(), delay_us: watermark.delay_us })
}

/// What the state of groups depends on: which stream they are of, the windows, keys and aggregates, and which columns
/// those are of, and where the stream has several partitions how many. Where a column stands among the others does not matter.
fn layout(stream: &str, columns: &[Column], shape: &Shape, producers: Option<u32>) -> u64 {
    let Shape::Group(grouping) = shape else { return 0 };
    let mut grouping = grouping.clone();
    let mut used: Vec<&Column> = Vec::new();
    grouping.each_column(&mut |place| {
        let Some(column) = columns.get(*place) else { return };
        *place = used.iter().position(|known| known.name == column.name).unwrap_or_else(|| {
            used.push(column);
            used.len() - 1
        });
    });
    let used: Vec<(&str, Type)> = used.into_iter().map(|column| (column.name.as_str(), column.ty)).collect();
    let Grouping { time, window: Window { size_us, slide_us, turn }, keys, aggregates, .. } = &*grouping;
    // As it was before windows could grow: what has a state goes on with it.
    let turn = match turn {
        Turn::Slides => "",
        Turn::Grows => " grows",
        Turn::Sessions => " sessions",
    };
    let window = format!("Window {{ size_us: {size_us}, slide_us: {slide_us} }}{turn}");
    let producers = producers.map_or_else(String::new, |producers| format!(" of {producers}"));
    hash(format!("{stream} {used:?} {time} {window} {keys:?} {aggregates:?}{producers}").as_bytes())
}

/// What a flow cannot have: what it is, what helps, and where it stands.
type Refused<'q> = (&'q str, &'q str, Range<usize>);

const ROWS_DO_NOT_END: &str = "the rows of a stream do not end, so that there is no last one";
const DROP_IT: &str = "drop it";

/// The SELECTs of a query that has nothing that a flow cannot have. Every part of the grammar is named here, so that nothing is
/// read and passed over.
fn plain_selects<'q>(source: &mut Source<'_>, query: &'q ast::Query) -> Option<Vec<&'q ast::Select>> {
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
    if let Some(join) = from.first().and_then(|table| table.joins.first()) {
        refused.push(("JOIN", "a flow reads one stream", source.range(join.span())));
    }
    if let Some(second) = from.get(1) {
        refused.push(("a second stream", "a flow reads one stream", source.range(second.span())));
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

/// Each row becomes one.
fn project(source: &mut Source<'_>, scope: &Scope<'_>, select: &ast::Select) -> Option<(Shape, Vec<Column>)> {
    if is_distinct(select) {
        let at = source.range(select.span());
        let help = format!(
            "select what is distinct in each window: SELECT DISTINCT …, window_end FROM TUMBLE({}, ts, INTERVAL '1 minute')",
            scope.table
        );
        source
            .add("unbounded", at, "what has been there before would have to be known of a stream that never ends")
            .help(help);
        return None;
    }
    let group_by = group_by(select);
    if let Some(key) = group_by.first() {
        let at = source.range(key.span());
        let help = format!("group the rows of windows: FROM TUMBLE({}, ts, INTERVAL '1 minute')", scope.table);
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
                let at = source.range(item.span());
                columns.extend(scope.columns.iter().enumerate().map(|(place, column)| {
                    let typed = Typed { expr: Expr::Column(place), ty: Some(column.ty), at: at.clone() };
                    Some((column.name.clone(), typed))
                }));
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

/// Rows are grouped by windows and keys.
fn group(
    source: &mut Source<'_>,
    scope: &Scope<'_>,
    table: &Table,
    flow: &CreateFlow,
    select: &ast::Select,
    function: WindowCall<'_>,
) -> Option<(Shape, Vec<Column>)> {
    let (time, window) = window(source, scope, &function)?;
    if table.partitions.is_none() {
        let at = source.range(function.name.span);
        let message = format!("{} has a partition for each device, and a window waits for all of them", scope.table);
        let help = "say how many there are with PARTITIONS, or gather the rows first: CREATE FLOW gathered AS SELECT * FROM it, and read that";
        source.add("partitioned", at, message).help(help);
        return None;
    }
    let is_window = |expr: &ast::Expr| match expr {
        ast::Expr::Identifier(ident) => matches!(column_name(ident).as_str(), "window_start" | "window_end"),
        _ => false,
    };
    let by = if is_distinct(select) { distinct_by(source, select, window)? } else { group_by(select) };
    if !by.iter().any(|expr| is_window(expr)) {
        let at = source.range(function.name.span);
        let help = "add GROUP BY window_start, window_end";
        source.add("unbounded", at, "rows in windows are grouped by their window").help(help);
        return None;
    }
    let mut groups = Groups { keys: Vec::new(), aggregates: Vec::new() };
    let mut is_fine = true;
    for key in by.into_iter().filter(|expr| !is_window(expr)) {
        match Checker::new(source, scope, "GROUP BY").check(key) {
            Some(Typed { expr: Expr::Literal(..), at, .. }) => {
                let help = "write out what is selected there; a constant is the same for all rows";
                source.add("unsupported", at, "GROUP BY takes expressions, not places in SELECT").help(help);
                is_fine = false;
            }
            Some(typed) => groups.keys.push((key, typed)),
            None => is_fine = false,
        }
    }
    let mut columns = Vec::new();
    for item in &select.projection {
        let (expr, alias) = item_of(source, item)?;
        let mut checker = Checker::new(source, scope, "SELECT");
        checker.groups = Some(&mut groups);
        let checked = checker.check(expr);
        columns.push(checked.and_then(|typed| Some((name_of(source, expr, alias, &typed)?, typed))));
    }
    let having = select.having.as_ref().map(|having| {
        let mut checker = Checker::new(source, scope, "HAVING");
        checker.groups = Some(&mut groups);
        checker.of_type(having, Type::Boolean)
    });
    let (project, output) = outputs(source, columns)?;
    let having = match having {
        Some(None) => return None,
        having => having.flatten(),
    };
    if !is_fine {
        return None;
    }
    if let (Turn::Sessions, Some(lateness)) = (window.turn, &flow.lateness) {
        let message = "what is late could make two sessions one that were put out as two";
        let help = "drop ALLOW LATENESS, and have the watermark further behind";
        source.add("contradiction", lateness.at.clone(), message).help(help);
        return None;
    }
    let delay_us = delay_us(source, scope, table, &function, time)?;
    let keys = groups.keys.into_iter().map(|(_, typed)| (typed.expr, typed.ty.unwrap_or(Type::Text))).collect();
    let grouping = Grouping {
        time,
        window,
        delay_us,
        lateness_us: flow.lateness.as_ref().map_or(0, |lateness| lateness.us),
        producers: None,
        keys,
        aggregates: groups.aggregates,
        having,
        project,
    };
    Some((Shape::Group(Box::new(grouping)), output))
}

/// How much the moments in a column may be out of order.
fn delay_us(
    source: &mut Source<'_>,
    scope: &Scope<'_>,
    table: &Table,
    call: &WindowCall<'_>,
    time: usize,
) -> Option<i64> {
    let (Some(watermark), Some(column)) = (&table.watermark, scope.columns.get(time)) else { return Some(0) };
    if watermark.column == column.name {
        return Some(watermark.delay_us);
    }
    let at = call.args.get(1).map_or(0..0, |time| source.range(time.span()));
    let message = format!("the watermark of the stream is of `{}`, not of `{}`", watermark.column, column.name);
    let help = format!("declare the stream with WATERMARK FOR {} AS {}", column.name, column.name);
    source.add("wrong-watermark", at, message).expected(format!("`{}`", watermark.column)).help(help);
    None
}

fn is_distinct(select: &ast::Select) -> bool {
    matches!(select.distinct, Some(ast::Distinct::Distinct))
}

/// What rows are grouped by of which each is to be there once in a window: all that is selected.
fn distinct_by<'q>(source: &mut Source<'_>, select: &'q ast::Select, window: Window) -> Option<Vec<&'q ast::Expr>> {
    let at = source.range(select.span());
    if !group_by(select).is_empty() || select.having.is_some() {
        let message = "DISTINCT groups by what is selected, and there is GROUP BY or HAVING, too";
        source.add("contradiction", at, message).help("drop DISTINCT, and group by what is to be there once");
        return None;
    }
    let mut by = Vec::new();
    for item in &select.projection {
        let (expr, _) = item_of(source, item)?;
        // A constant is the same in all rows.
        if !matches!(expr, ast::Expr::Value(_)) {
            by.push(expr);
        }
    }
    let names =
        |name: &str| by.iter().any(|expr| matches!(expr, ast::Expr::Identifier(ident) if column_name(ident) == name));
    if !names("window_end") && (window.turn == Turn::Grows || !names("window_start")) {
        let message = "rows are distinct within a window, which is not among what is selected";
        source.add("unbounded", at, message).help("select window_end, too");
        return None;
    }
    Some(by)
}

fn group_by(select: &ast::Select) -> Vec<&ast::Expr> {
    match &select.group_by {
        ast::GroupByExpr::Expressions(expressions, _) => expressions.iter().collect(),
        ast::GroupByExpr::All(_) => Vec::new(),
    }
}

/// The column of moments, and the windows.
fn window(source: &mut Source<'_>, scope: &Scope<'_>, call: &WindowCall<'_>) -> Option<(usize, Window)> {
    let at = source.range(call.name.span);
    let name = call.name.value.to_lowercase();
    let usage = match name.as_str() {
        "tumble" => "TUMBLE(stream, ts, INTERVAL '1 minute')",
        "hop" => {
            "HOP(stream, ts, INTERVAL '10 seconds', INTERVAL '1 minute'): the way from one to the next, and the length"
        }
        "cumulate" => {
            "CUMULATE(stream, ts, INTERVAL '1 minute', INTERVAL '1 hour'): by how much it grows, and up to which length, a multiple of that"
        }
        "session" => "SESSION(stream, ts, INTERVAL '1 minute'): the gap between one and the next",
        _ => {
            source
                .add("unknown-name", at, format!("there is no table function `{name}`"))
                .one_of(WINDOWS)
                .nearest(&name, WINDOWS);
            return None;
        }
    };
    let (time, lengths) = match (call.args.as_slice(), name.as_str()) {
        ([_, time, size], "tumble" | "session") => (*time, vec![*size]),
        ([_, time, slide, size], "hop" | "cumulate") => (*time, vec![*size, *slide]),
        _ => {
            source.add("wrong-type", at, format!("`{name}` has other arguments")).expected(usage);
            return None;
        }
    };
    let mut checker = Checker::new(source, scope, "a window");
    let moment = checker.check(time);
    let lengths: Vec<Option<Expr>> =
        lengths.into_iter().map(|length| checker.of_type(length, Type::Interval)).collect();
    let moment = moment?;
    let (Expr::Column(place), Some(Type::Timestamp)) = (&moment.expr, moment.ty) else {
        source
            .add("wrong-type", moment.at, "windows are over a column of moments")
            .expected("a column of type timestamp");
        return None;
    };
    let mut micros = Vec::new();
    for length in lengths {
        match length? {
            Expr::Literal(Literal::Interval(us), _) if us > 0 => micros.push(us),
            _ => {
                source
                    .add("invalid-interval", at, "a window has a fixed length, which is more than nothing")
                    .expected(usage);
                return None;
            }
        }
    }
    let size_us = *micros.first()?;
    let slide_us = micros.get(1).copied().unwrap_or(size_us);
    if size_us / slide_us > WINDOWS_PER_ROW_MAX || slide_us > size_us {
        let message = "the way from one window to the next is too long or too short for their length";
        let expected = format!("at most the length, and at least a {WINDOWS_PER_ROW_MAX}th of it");
        source.add("out-of-range", at, message).expected(expected);
        return None;
    }
    let turn = match name.as_str() {
        "cumulate" => Turn::Grows,
        "session" => Turn::Sessions,
        _ => Turn::Slides,
    };
    if turn == Turn::Grows && size_us % slide_us != 0 {
        let message = "a window does not grow to its length by such steps";
        source.add("invalid-interval", at, message).expected(usage);
        return None;
    }
    Some((*place, Window { size_us, slide_us, turn }))
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

fn item_of<'q>(source: &mut Source<'_>, item: &'q SelectItem) -> Option<(&'q ast::Expr, Option<&'q ast::Ident>)> {
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
fn name_of(source: &mut Source<'_>, expr: &ast::Expr, alias: Option<&ast::Ident>, typed: &Typed) -> Option<String> {
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
fn outputs(source: &mut Source<'_>, columns: Vec<Option<(String, Typed)>>) -> Option<(Vec<Expr>, Vec<Column>)> {
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
