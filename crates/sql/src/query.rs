//! Checks a query against the streams that there are, and makes the plan of its stage.

mod from;
mod join;
mod refused;
mod select;
mod window;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use littoral_model::id::FunctionName;
use sqlparser::ast::{self, Spanned};

use crate::check::{Checker, Scope, UserFunctions};
use crate::expr::Expr;
use crate::plan::{Plan, Shape};
use crate::source::Source;
use crate::spread::{Spread, refuses_phases, spread, usual_partitions};
use crate::statement::{CreateFlow, Watermark};
use crate::types::{Column, Type, are_of_record};
use crate::user_function::UserFunction;
use from::{Read, Through, read, stream_of};
use refused::{plain_selects, united};

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
    /// Those of them that expressions may call, by what they call them; none where the statement is wrong.
    pub(crate) declared: BTreeMap<String, Option<Arc<UserFunction>>>,
}

impl Known {
    /// What expressions may call; those of `ON` may not.
    fn callable(&self, in_on: bool) -> UserFunctions<'_> {
        UserFunctions { declared: &self.declared, of_app: &self.functions, in_on }
    }
}

/// What a query came to.
pub(crate) struct Compiled {
    /// The stream that it reads, unless something comes before it.
    pub(crate) source: String,
    /// What its rows go through first.
    pub(crate) functions: Vec<FunctionName>,
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
            Some(spread) => {
                spread.parts.iter().filter(|part| part.plan.has_late_port).map(|part| part.plan.input()).collect()
            }
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
    relations.filter_map(stream_of).collect()
}

/// Checks the query of a flow: one plan, or one for each of those that `UNION ALL` unites.
pub(crate) fn check(source: &mut Source<'_>, known: &Known, flow: &CreateFlow) -> Option<Vec<Compiled>> {
    let arms = plain_selects(source, &flow.query)?;
    // All of them, so that all that is wrong is told.
    let compiled: Vec<Option<Compiled>> = arms.iter().map(|select| check_one(source, known, flow, select)).collect();
    let mut compiled: Vec<Compiled> = compiled.into_iter().collect::<Option<_>>()?;
    refuse_ports(source, flow, &compiled)?;
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
fn check_one(source: &mut Source<'_>, known: &Known, flow: &CreateFlow, select: &ast::Select) -> Option<Compiled> {
    let Some(first) = select.from.first() else {
        source
            .add("unsupported", flow.at.clone(), "the query reads no stream")
            .expected("FROM and the name of a stream");
        return None;
    };
    if let Some(join) = first.joins.first() {
        return join::check(source, known, flow, select, (&first.relation, join));
    }
    let Read { name, alias, table, through, functions, version, .. } = read(source, known, &first.relation)?;
    if let Some(version) = version {
        let at = source.range(version.span());
        let message = "which version of a row is valid is asked for the rows of another stream";
        source.add("unsupported", at, message).help(format!("JOIN {name} FOR SYSTEM_TIME AS OF that stream's moment"));
        return None;
    }
    let parts = [(alias, 0..table.columns.len())];
    let scope = Scope { columns: &table.columns, tables: &parts, functions: known.callable(false) };
    let filter = match &select.selection {
        None => Some(None),
        Some(condition) => Checker::new(source, &scope, "WHERE").of_type(condition, Type::Boolean).map(Some),
    };
    let (shape, output) = match through {
        Through::Nothing | Through::Functions(_) => select::project(source, &scope, select)?,
        Through::Windows(function) => window::group(source, &scope, &table, flow, select, function)?,
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
        if let Some(partitions) = &flow.partitions {
            let message = "only the rows of windows and joins are spread by their keys";
            let help = "drop PARTITIONS: the flow has those of the stream that it reads";
            source.add("contradiction", partitions.at.clone(), message).help(help);
            return None;
        }
    }
    let waits = matches!(shape, Shape::Group(_)) && table.partitions.is_some_and(|partitions| partitions > 1);
    if let Some(idle) = flow.idle.as_ref().filter(|idle| !waits || idle.us == 0) {
        let message = "only windows over several partitions, and joins, wait for those without rows, and for some time";
        source.add("contradiction", idle.at.clone(), message).help("drop IDLE AFTER, or say a longer time");
        return None;
    }
    let watermark = carried(&table, &shape, &output);
    let apart = table.partitions.and_then(|producers| spread_over(producers, flow));
    let are_two_phases = are_two_phases(source, flow, &shape, apart.map(|(producers, _)| producers))?;
    let state_layout = window::layout(&name, &table.columns, &shape, apart.map(|(producers, _)| producers));
    // What functions put out is as it is, whatever its columns are called.
    let is_record = are_of_record(&table.columns) || !functions.is_empty();
    let (mut filter, mut shape) = (filter?, shape);
    let input = if has_late_port { table.columns.clone() } else { used(&table.columns, &mut filter, &mut shape) };
    let keyed_partitions = None;
    let plan =
        Plan { input, is_record, filter, shape, output, has_late_port, state_layout, keyed_partitions, fingerprint: 0 };
    let (spread, plan) = match apart {
        Some(apart) => spread(plan, &name, apart, flow.idle.as_ref().map(|idle| idle.us), are_two_phases),
        None => (None, plan.identified()),
    };
    Some(Compiled { source: name, functions, spread, watermark, plan })
}

/// From how many partitions of the source over how many of their keys rows of windows are spread, if they are.
fn spread_over(producers: u32, flow: &CreateFlow) -> Option<(u32, u32)> {
    let said = flow.partitions.as_ref().map(|of| of.number);
    // Where it is said it may be changed.
    (producers > 1 || said.is_some()).then(|| (producers, said.unwrap_or_else(|| usual_partitions(producers))))
}

/// Whether rows of so many partitions are aggregated in two phases: where the flow says it, or where that is possible and brings
/// something.
fn are_two_phases(source: &mut Source<'_>, flow: &CreateFlow, shape: &Shape, producers: Option<u32>) -> Option<bool> {
    let Shape::Group(grouping) = shape else {
        refuse_phases(source, flow)?;
        return Some(false);
    };
    let refused = match producers {
        Some(_) => refuses_phases(grouping, flow.idle.is_some()),
        None => Some("only rows that come from several partitions, or are spread over PARTITIONS, are"),
    };
    match (&flow.phases, refused) {
        (Some(phases), Some(why)) if phases.are_two => {
            let message = format!("this cannot be aggregated in two phases: {why}");
            source.add("contradiction", phases.at.clone(), message).help("drop AGGREGATE IN TWO PHASES");
            None
        }
        (Some(phases), _) => Some(phases.are_two),
        (None, refused) => Some(refused.is_none() && producers.is_some_and(|producers| producers > 1)),
    }
}

/// Refuses to say in how many phases something is aggregated that is not.
fn refuse_phases(source: &mut Source<'_>, flow: &CreateFlow) -> Option<()> {
    let Some(phases) = &flow.phases else { return Some(()) };
    // It may be said of another one that is united with this.
    if !phases.are_two && united(&flow.query.body).is_some_and(|arms| arms.len() > 1) {
        return Some(());
    }
    source.add("contradiction", phases.at.clone(), "only windows are aggregated").help("drop AGGREGATE");
    None
}

/// Refuses ports where no function has any.
fn refuse_ports(source: &mut Source<'_>, flow: &CreateFlow, compiled: &[Compiled]) -> Option<()> {
    let has_any = compiled.iter().any(|one| !one.functions.is_empty());
    let Some(into) = flow.ports.first().filter(|_| !has_any) else { return Some(()) };
    let message = "only functions have ports, and this query reads what no function puts out";
    source.add("contradiction", into.port.at.clone(), message).help("drop PORT, or read FROM function(stream)");
    None
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
