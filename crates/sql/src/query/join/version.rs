//! Versions: a row of the left stream with the row of the right one that was valid at its moment (`FOR SYSTEM_TIME AS OF`, SQL:2011).

use std::collections::BTreeSet;

use sqlparser::ast::{self, Spanned as _};

use super::{Moments, Sides};
use crate::check::{Checker, Scope};
use crate::expr::Expr;
use crate::join::one;
use crate::plan::Pairing;
use crate::source::Source;
use crate::types::{Column, Type};

/// Refuses what a join with versions cannot have.
pub(super) fn refuse(source: &mut Source<'_>, sides: &Sides<'_, '_>) -> Option<()> {
    let [left, right] = &sides.reads;
    if let Some(version) = left.version {
        let at = source.range(version.span());
        let help = format!("write `FROM {} JOIN {} FOR SYSTEM_TIME AS OF …`", right.name, left.name);
        source
            .add("unsupported", at, "the versions of the right side of a join can be read, not of the left one")
            .help(help);
        return None;
    }
    if right.version.is_some() && *one(&sides.are_outer, 1) {
        let message = "a version comes with each row that it is valid at, and never alone";
        source.add("unsupported", sides.at.clone(), message).expected("JOIN or LEFT JOIN");
        return None;
    }
    Some(())
}

/// The moments of a join with the versions that were valid then.
pub(super) fn of(
    source: &mut Source<'_>,
    sides: &Sides<'_, '_>,
    scope: &Scope<'_>,
    version: &ast::Expr,
) -> Option<Moments> {
    let (at, [left, right]) = (source.range(version.span()), &sides.reads);
    let expr = Checker::new(source, scope, "FOR SYSTEM_TIME AS OF").of_type(version, Type::Timestamp)?;
    let known = sides.watermark_of(0);
    let is_fine = |place: &usize| *place < sides.behind_left() && known.is_none_or(|known| known == *place);
    let Some(of_left) = (match expr {
        Expr::Column(place) => Some(place).filter(is_fine),
        _ => None,
    }) else {
        let message = format!("which version is valid is a matter of the moment of a row of `{}`", left.alias);
        let is_moment = |column: &&Column| column.ty == Type::Timestamp;
        let column =
            known.and_then(|place| sides.columns.get(place)).or_else(|| left.table.columns.iter().find(is_moment));
        let adding = source.add("unsupported", at, message);
        match column {
            Some(column) => adding.expected(format!("`{}.{}`", left.alias, column.name)),
            None => adding.help(format!("`{}` needs a column of moments", left.name)),
        };
        return None;
    };
    let moments = right.table.columns.iter().enumerate().filter(|(_, column)| column.ty == Type::Timestamp);
    let moments: Vec<usize> = moments.map(|(place, _)| place).collect();
    let of_right = match (sides.watermark_of(1), moments.as_slice()) {
        (Some(place), _) => place - sides.behind_left(),
        (None, [place]) => *place,
        (None, _) => {
            let message = format!("from when on a row of `{}` is valid is not known", right.alias);
            let help = format!(
                "say it where the stream is declared: CREATE STREAM {} (…, WATERMARK FOR ts AS ts)",
                right.name
            );
            source.add("unbounded", right.at.clone(), message).help(help);
            return None;
        }
    };
    Some(Moments { times: [of_left, of_right], pairing: Pairing::Version, said: BTreeSet::new() })
}
