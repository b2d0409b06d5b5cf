//! Groups of rows in windows.

use sqlparser::ast::{self, Spanned};

use super::Table;
use super::from::{WINDOWS, WindowCall};
use super::select::{group_by, is_distinct, item_of, name_of, outputs};
use crate::check::{Checker, Groups, Scope, Typed};
use crate::expr::{Expr, Literal};
use crate::plan::{Grouping, Phase, Shape, Turn, Window, hash};
use crate::source::Source;
use crate::statement::{CreateFlow, column_name};
use crate::types::{Column, Type};

/// How many windows a row may be in at once.
const WINDOWS_PER_ROW_MAX: i64 = 1_000;

/// Rows are grouped by windows and keys.
pub(super) fn group(
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
        let message = format!("{} has a partition for each device, and a window waits for all of them", scope.table());
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
        phase: Phase::Single,
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

/// What the state of groups depends on: which stream they are of, the windows, keys and aggregates, and which columns
/// those are of, and where rows are spread by their keys from how many partitions. Where a column stands among the others does not
/// matter.
pub(super) fn layout(stream: &str, columns: &[Column], shape: &Shape, producers: Option<u32>) -> u64 {
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
    let apart = producers.map_or_else(String::new, |producers| format!(" of {producers}"));
    hash(format!("{stream} {used:?} {time} {window} {keys:?} {aggregates:?}{apart}").as_bytes())
}
