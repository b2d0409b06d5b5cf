//! Names of columns.

use std::ops::Range;

use sqlparser::ast::{self, Ident};

use super::{Checker, Typed};
use crate::expr::Expr;
use crate::statement::{column_name, fabric_name};

impl Checker<'_, '_, '_, '_> {
    pub(super) fn column(&mut self, expr: &ast::Expr, ident: &Ident, table: Option<&Ident>) -> Option<Typed> {
        let name = column_name(ident);
        let at = self.source.range(ident.span);
        let places = match table {
            Some(table) => self.places_of(table)?,
            None => 0..self.scope.columns.len(),
        };
        let columns = self.scope.columns;
        let among = || columns.iter().enumerate().filter(|(place, _)| places.contains(place));
        let mut found = among().filter(|(_, column)| column.name == name);
        let Some((place, column)) = found.next() else {
            let known = among().map(|(_, column)| column.name.as_str());
            let adding = self.source.add("unknown-name", at, format!("there is no column `{name}`"));
            adding.one_of(known.clone()).nearest(&name, known);
            return None;
        };
        if found.next().is_some() {
            let of_each = self.scope.tables.iter().map(|(table, _)| format!("`{table}.{name}`"));
            let expected = of_each.collect::<Vec<_>>().join(" or ");
            let message = format!("both sides of the join have a column `{name}`");
            self.source.add("ambiguous", at, message).expected(expected);
            return None;
        }
        if self.groups.is_some() {
            let message = format!("`{name}` is not the same for all rows of a group");
            let help = format!("add it to GROUP BY, or take one of its values: `max({name})`");
            self.source.add("not-grouped", at, message).help(help);
            return None;
        }
        Some(self.typed(expr, Expr::Column(place), column.ty))
    }

    /// The places of the columns of what has that name in the query.
    pub(crate) fn places_of(&mut self, table: &Ident) -> Option<Range<usize>> {
        let name = fabric_name(table);
        if let Some((_, places)) = self.scope.tables.iter().find(|(known, _)| *known == name) {
            return Some(places.clone());
        }
        let known = self.scope.tables.iter().map(|(known, _)| known.as_str());
        let expected = known.clone().map(|known| format!("`{known}`")).collect::<Vec<_>>().join(" or ");
        let at = self.source.range(table.span);
        let adding = self.source.add("unknown-name", at, format!("the query reads no stream `{name}`"));
        adding.expected(expected).nearest(&name, known);
        None
    }
}
