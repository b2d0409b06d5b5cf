//! Checks a query against the streams that there are, and makes the plan of its stage.

mod join;
mod refused;
mod select;
mod window;

use std::collections::{BTreeMap, BTreeSet};

use sqlparser::ast::{self, FunctionArg, FunctionArgExpr, Spanned, TableFactor};

use crate::check::{Checker, Scope};
use crate::expr::Expr;
use crate::plan::{Plan, Shape};
use crate::source::Source;
use crate::spread::{Spread, spread};
use crate::statement::{CreateFlow, Watermark, fabric_name};
use crate::types::{Column, Type, are_of_record};
use refused::{plain_selects, united};
use window::WindowCall;

/// A stream, as queries see it.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    pub(crate) columns: Vec<Column>,
    pub(crate) watermark: Option<Watermark>,
    /// In how many partitions its records are; none where there is one for each device.
    pub(crate) partitions: Option<u32>,
}

/// What a query came to.
pub(crate) struct Compiled {
    /// The stream that it reads, unless something comes before it.
    pub(crate) source: String,
    /// What comes before it where rows of several partitions, or of several streams, have to come together by their keys.
    pub(crate) spread: Option<Spread>,
    pub(crate) plan: Plan,
    /// The watermark of its result, if that has the column of the source's.
    pub(crate) watermark: Option<Watermark>,
}

impl Compiled {
    /// The columns of the rows that may come too late, for each stream that is read.
    pub(crate) fn inputs(&self) -> Vec<&[Column]> {
        match &self.spread {
            Some(spread) => spread.parts.iter().map(|part| part.plan.input()).collect(),
            None => vec![self.plan.input()],
        }
    }
}

/// The streams that a query reads, as far as it says so in a way that can be read.
pub(crate) fn sources_of(query: &ast::Query) -> Vec<String> {
    let arms = united(&query.body).unwrap_or_default();
    let tables = arms.into_iter().flat_map(|arm| &arm.from);
    let relations =
        tables.flat_map(|table| std::iter::once(&table.relation).chain(table.joins.iter().map(|join| &join.relation)));
    relations.filter_map(|relation| from(relation).map(|(stream, _)| fabric_name(stream))).collect()
}

/// Checks the query of a flow: one plan, or one for each of those that `UNION ALL` unites. That it reads a stream which `failed`
/// is not said again.
pub(crate) fn check(
    source: &mut Source<'_>,
    tables: &BTreeMap<String, Table>,
    failed: &BTreeSet<String>,
    flow: &CreateFlow,
) -> Option<Vec<Compiled>> {
    let arms = plain_selects(source, &flow.query)?;
    // All of them, so that all that is wrong is told.
    let compiled: Vec<Option<Compiled>> =
        arms.iter().map(|select| check_one(source, tables, failed, flow, select)).collect();
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

/// Checks one query, which reads one stream, or joins two.
fn check_one(
    source: &mut Source<'_>,
    tables: &BTreeMap<String, Table>,
    failed: &BTreeSet<String>,
    flow: &CreateFlow,
    select: &ast::Select,
) -> Option<Compiled> {
    let Some(first) = select.from.first() else {
        source
            .add("unsupported", flow.at.clone(), "the query reads no stream")
            .expected("FROM and the name of a stream");
        return None;
    };
    if let Some(join) = first.joins.first() {
        return join::check(source, (tables, failed), flow, select, (&first.relation, join));
    }
    let Read { name, alias, table, function } = read(source, (tables, failed), &first.relation)?;
    let parts = [(alias, 0..table.columns.len())];
    let scope = Scope { columns: &table.columns, tables: &parts };
    let filter = match &select.selection {
        None => Some(None),
        Some(condition) => Checker::new(source, &scope, "WHERE").of_type(condition, Type::Boolean).map(Some),
    };
    let (shape, output) = match function {
        None => select::project(source, &scope, select)?,
        Some(function) => window::group(source, &scope, table, flow, select, function)?,
    };
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
        let message = "only windows over several partitions, and joins, wait for those without rows, and for some time";
        source.add("contradiction", idle.at.clone(), message).help("drop IDLE AFTER, or say a longer time");
        return None;
    }
    let watermark = carried(table, &shape, &output);
    let producers = table.partitions.filter(|partitions| *partitions > 1);
    let state_layout = window::layout(&name, &table.columns, &shape, producers);
    let (mut filter, mut shape, is_record) = (filter?, shape, are_of_record(&table.columns));
    let input = if has_late_port { table.columns.clone() } else { used(&table.columns, &mut filter, &mut shape) };
    let plan = Plan { input, is_record, filter, shape, output, has_late_port, state_layout, fingerprint: 0 };
    let (spread, plan) = match producers {
        Some(producers) => spread(plan, &name, producers, flow.idle.as_ref().map(|idle| idle.us)),
        None => (None, plan.identified()),
    };
    Some(Compiled { source: name, spread, watermark, plan })
}

/// The columns that count: those that a query uses, and those that may not be missing. What it uses is then by its place
/// among these.
pub(crate) fn used(columns: &[Column], filter: &mut Option<Expr>, shape: &mut Shape) -> Vec<Column> {
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

/// What a query reads.
struct Read<'q, 't> {
    name: String,
    /// What it is called in the query.
    alias: String,
    table: &'t Table,
    function: Option<WindowCall<'q>>,
}

/// Finds what is read among the streams that there are. That one `failed` is not said again.
fn read<'q, 't>(
    source: &mut Source<'_>,
    (tables, failed): (&'t BTreeMap<String, Table>, &BTreeSet<String>),
    relation: &'q TableFactor,
) -> Option<Read<'q, 't>> {
    let Some((ident, function)) = from(relation) else {
        let at = source.range(relation.span());
        source
            .add("unsupported", at, "a flow cannot read this")
            .expected("a stream, or TUMBLE, HOP, CUMULATE or SESSION of one, by one name");
        return None;
    };
    let name = fabric_name(ident);
    let Some(table) = tables.get(&name) else {
        if failed.contains(&name) {
            return None;
        }
        let at = source.range(ident.span);
        let known = tables.keys().map(String::as_str);
        source
            .add("unknown-name", at, format!("there is no stream `{name}`"))
            .one_of(known.clone())
            .nearest(&name, known);
        return None;
    };
    let alias = match relation {
        TableFactor::Table { alias: Some(alias), .. } => fabric_name(&alias.name),
        _ => name.clone(),
    };
    Some(Read { name, alias, table, function })
}

/// The name of what is read, and the arguments if it is a function.
fn from(relation: &TableFactor) -> Option<(&ast::Ident, Option<WindowCall<'_>>)> {
    let TableFactor::Table {
        name,
        alias,
        args,
        with_hints,
        version: None,
        with_ordinality: false,
        partitions,
        json_path: None,
        sample: None,
        index_hints,
    } = relation
    else {
        return None;
    };
    let is_plain = alias.as_ref().is_none_or(|alias| alias.columns.is_empty() && alias.at.is_none());
    if !is_plain || !with_hints.is_empty() || !partitions.is_empty() || !index_hints.is_empty() {
        return None;
    }
    let [ast::ObjectNamePart::Identifier(ident)] = name.0.as_slice() else { return None };
    let Some(ast::TableFunctionArgs { args, settings: None }) = args else {
        return args.is_none().then_some((ident, None));
    };
    let args = args.iter().map(|arg| match arg {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Some(expr),
        _ => None,
    });
    let args: Vec<&ast::Expr> = args.collect::<Option<_>>()?;
    let Some(ast::Expr::Identifier(stream)) = args.first() else { return None };
    Some((stream, Some(WindowCall { name: ident, args })))
}
