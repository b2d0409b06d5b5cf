//! What a query reads: a stream, the windows of one, or what functions of the app make of one.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::ops::Range;

use littoral_model::id::FunctionName;
use sqlparser::ast::{self, FunctionArg, FunctionArgExpr, Ident, Spanned, TableFactor};

use super::{Known, Table};
use crate::source::Source;
use crate::statement::{column_name, fabric_name};
use crate::types::{Column, Type};

/// The table functions with windows.
pub(super) const WINDOWS: [&str; 4] = ["tumble", "hop", "cumulate", "session"];

/// What stands behind FROM, or on a side of JOIN.
struct From<'q> {
    /// The stream whose rows are read.
    stream: &'q Ident,
    /// What becomes of them first.
    through: Through<'q>,
    /// The moment at which its rows are to be valid.
    version: Option<&'q ast::Expr>,
    alias: Option<&'q ast::TableAlias>,
}

/// What a query reads, found among what there is.
pub(super) struct Read<'q, 't> {
    /// The name of the stream.
    pub(super) name: String,
    /// What it is called in the query.
    pub(super) alias: String,
    pub(super) table: Cow<'t, Table>,
    pub(super) through: Through<'q>,
    /// The moment at which its rows are to be valid, where it stands.
    pub(super) version: Option<&'q ast::Expr>,
    /// What the rows go through first.
    pub(super) functions: Vec<FunctionName>,
    /// Where it stands.
    pub(super) at: Range<usize>,
}

/// What rows of a stream go through before the query has them.
pub(super) enum Through<'q> {
    /// Nothing.
    Nothing,
    /// `TUMBLE(stream, ts, INTERVAL '1 minute')`.
    Windows(WindowCall<'q>),
    /// `score(clean(stream))`: the functions, in the order in which they are called.
    Functions(Vec<Call<'q>>),
}

/// A call of a function of the app.
pub(super) struct Call<'q> {
    name: &'q Ident,
    /// What it is given beside rows, which it cannot be.
    beside: Option<&'q ast::Expr>,
}

/// A table function with windows.
pub(super) struct WindowCall<'q> {
    pub(super) name: &'q Ident,
    pub(super) args: Vec<&'q ast::Expr>,
}

impl<'q> From<'q> {
    /// Reads it, if it is something that a flow can read.
    fn of(relation: &'q TableFactor) -> Option<Self> {
        let TableFactor::Table {
            name,
            alias,
            args,
            with_hints,
            version,
            with_ordinality: false,
            partitions,
            json_path: None,
            sample: None,
            index_hints,
        } = relation
        else {
            return None;
        };
        if !with_hints.is_empty() || !partitions.is_empty() || !index_hints.is_empty() {
            return None;
        }
        let version = match version {
            None => None,
            Some(ast::TableVersion::ForSystemTimeAsOf(moment)) => Some(moment),
            Some(_) => return None,
        };
        let [ast::ObjectNamePart::Identifier(ident)] = name.0.as_slice() else { return None };
        let (stream, through) = match args {
            None => (ident, Through::Nothing),
            Some(ast::TableFunctionArgs { args, settings: None }) => of_call(ident, args)?,
            Some(_) => return None,
        };
        let alias = alias.as_ref();
        let may_name_columns = matches!(through, Through::Functions(_));
        let is_fine = |alias: &ast::TableAlias| alias.at.is_none() && (may_name_columns || alias.columns.is_empty());
        alias.is_none_or(is_fine).then_some(Self { stream, through, version, alias })
    }

    /// The name by which the query knows it.
    fn known_as(&self) -> String {
        let called = match &self.through {
            Through::Functions(calls) => calls.last().map_or(self.stream, |call| call.name),
            Through::Nothing | Through::Windows(_) => self.stream,
        };
        fabric_name(self.alias.map_or(called, |alias| &alias.name))
    }

    /// The columns that it says functions put out.
    fn columns(&self, source: &mut Source<'_>, calls: &[Call<'_>]) -> Option<Vec<Column>> {
        let declared = self.alias.map(|alias| alias.columns.as_slice()).unwrap_or_default();
        let Some(last) = calls.last().filter(|_| declared.is_empty()) else {
            return columns(source, declared);
        };
        let at = source.range(last.name.span);
        let message = format!("what columns `{}` puts out is not known here", fabric_name(last.name));
        let help = "name those that the query uses with their types: FROM score(readings) AS scored (machine text, score double)";
        source.add("unknown-name", at, message).help(help);
        None
    }
}

/// The stream that something reads, if it says so in a way that can be read.
pub(super) fn stream_of(relation: &TableFactor) -> Option<String> {
    From::of(relation).map(|from| fabric_name(from.stream))
}

/// Finds what is read among what there is. What failed is not said again.
pub(super) fn read<'q, 't>(
    source: &mut Source<'_>,
    known: &'t Known,
    relation: &'q TableFactor,
) -> Option<Read<'q, 't>> {
    let at = source.range(relation.span());
    let Some(from) = From::of(relation) else {
        source
            .add("unsupported", at, "a flow cannot read this")
            .expected("a stream, TUMBLE, HOP, CUMULATE or SESSION of one, or functions of the app of one, by one name")
            .help("make a flow of what functions put out, and read windows of that");
        return None;
    };
    let name = fabric_name(from.stream);
    let table = known.tables.get(&name);
    if table.is_none() && !known.failed.contains(&name) {
        unknown(source, known, from.stream);
    }
    let table = table?;
    let (functions, table) = match &from.through {
        Through::Functions(calls) => {
            let functions = functions(source, &known.functions, calls)?;
            let columns = from.columns(source, calls)?;
            (functions, Cow::Owned(Table { columns, watermark: None, partitions: table.partitions }))
        }
        Through::Nothing | Through::Windows(_) => (Vec::new(), Cow::Borrowed(table)),
    };
    Some(Read { name, alias: from.known_as(), table, through: from.through, version: from.version, functions, at })
}

/// Says that there is no such stream, or that its columns are not known.
fn unknown(source: &mut Source<'_>, known: &Known, stream: &Ident) {
    let (name, at) = (fabric_name(stream), source.range(stream.span));
    if known.untyped.contains(&name) {
        let help = format!("declare those that you use: CREATE STREAM {name} (machine text, ts timestamp, …)");
        source.add("unknown-name", at, format!("the columns of `{name}` are not known")).help(help);
        return;
    }
    let known = known.tables.keys().map(String::as_str);
    let adding = source.add("unknown-name", at, format!("there is no stream `{name}`"));
    adding.one_of(known.clone()).nearest(&name, known);
}

/// The columns that an alias names, with their types.
fn columns(source: &mut Source<'_>, declared: &[ast::TableAliasColumnDef]) -> Option<Vec<Column>> {
    let mut columns: Vec<Column> = Vec::new();
    for ast::TableAliasColumnDef { name, data_type } in declared {
        let at = source.range(name.span);
        let column = column_name(name);
        if columns.iter().any(|known| known.name == column) {
            source.add("duplicate", at, format!("there are two columns `{column}`")).help("drop one of them");
            return None;
        }
        let Some(written) = data_type else {
            let message = format!("the column `{column}` has no type");
            source.add("unknown-name", at, message).expected("bigint, double, boolean, text or timestamp");
            return None;
        };
        let written = written.to_string();
        let Some(ty) = Type::named(&written).filter(|ty| *ty != Type::Interval) else {
            let message = format!("no column has the type `{}`", written.to_lowercase());
            let adding = source.add("unknown-name", at, message).expected("bigint, double, boolean, text or timestamp");
            adding.nearest(&written, Type::names());
            return None;
        };
        columns.push(Column::new(&column, ty));
    }
    Some(columns)
}

/// The functions of the app that calls name, if there are such, and they are given rows alone.
fn functions(source: &mut Source<'_>, known: &BTreeSet<String>, calls: &[Call<'_>]) -> Option<Vec<FunctionName>> {
    let mut functions = Vec::with_capacity(calls.len());
    for Call { name, beside } in calls {
        let text = fabric_name(name);
        let at = source.range(name.span);
        if WINDOWS.contains(&text.as_str()) {
            let help = "make a flow of what functions put out, and read windows of that";
            source.add("unsupported", at, "functions are not given windows").help(help);
            return None;
        }
        if !known.contains(&text) {
            let names = known.iter().map(String::as_str).chain(WINDOWS);
            let adding = source.add("unknown-name", at, format!("there is no table function `{text}`"));
            adding.one_of(names.clone()).nearest(&text, names);
            return None;
        }
        if let Some(beside) = beside {
            let at = source.range(beside.span());
            let message = format!("`{text}` is given the rows of a stream, and nothing beside");
            source.add("unsupported", at, message).expected(format!("{text}(stream)"));
            return None;
        }
        functions.push(FunctionName::new(&text).ok()?);
    }
    Some(functions)
}

/// A call in FROM: the stream that it is of, and what it does with the rows.
fn of_call<'q>(name: &'q Ident, args: &'q [FunctionArg]) -> Option<(&'q Ident, Through<'q>)> {
    let args: Vec<&ast::Expr> = args.iter().map(argument).collect::<Option<_>>()?;
    if !WINDOWS.contains(&name.value.to_lowercase().as_str()) {
        let mut calls = vec![Call { name, beside: args.get(1).copied() }];
        let stream = innermost(args.first()?, &mut calls)?;
        calls.reverse();
        return Some((stream, Through::Functions(calls)));
    }
    let Some(ast::Expr::Identifier(stream)) = args.first() else { return None };
    Some((stream, Through::Windows(WindowCall { name, args })))
}

/// The stream in calls of functions within one another; the grammar bounds how many.
fn innermost<'q>(arg: &'q ast::Expr, calls: &mut Vec<Call<'q>>) -> Option<&'q Ident> {
    let call = match arg {
        ast::Expr::Identifier(stream) => return Some(stream),
        ast::Expr::Function(call) => call,
        _ => return None,
    };
    let [ast::ObjectNamePart::Identifier(name)] = call.name.0.as_slice() else { return None };
    let ast::FunctionArguments::List(list) = &call.args else { return None };
    let args: Vec<&ast::Expr> = list.args.iter().map(argument).collect::<Option<_>>()?;
    calls.push(Call { name, beside: args.get(1).copied() });
    innermost(args.first()?, calls)
}

fn argument(arg: &FunctionArg) -> Option<&ast::Expr> {
    match arg {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Some(expr),
        _ => None,
    }
}
