//! The groups of a window, by the parts of the state.

use super::KEY_GROUPS;
use super::table::{Layout, Table};

/// That a window has no groups in a part.
const NONE: u8 = u8::MAX;

/// The groups of a window.
#[derive(Debug)]
pub(super) struct Window {
    /// Of each part where its table is.
    places: [u8; KEY_GROUPS as usize],
    tables: Vec<(u32, Table)>,
    /// Whether no row can change it any more.
    pub(super) is_over: bool,
}

impl Default for Window {
    fn default() -> Self {
        Self { places: [NONE; KEY_GROUPS as usize], tables: Vec::new(), is_over: false }
    }
}

impl Window {
    pub(super) fn part(&self, part: u32) -> Option<&Table> {
        self.tables.get(usize::from(*self.places.get(part as usize)?)).map(|(_, table)| table)
    }

    pub(super) fn part_mut(&mut self, part: u32) -> Option<&mut Table> {
        self.tables.get_mut(usize::from(*self.places.get(part as usize)?)).map(|(_, table)| table)
    }

    /// The table of a part, which is begun if there is none.
    pub(super) fn begin(&mut self, part: u32) -> Option<&mut Table> {
        let place = self.places.get_mut(part as usize)?;
        if *place == NONE {
            // There are fewer tables than parts, and those fit.
            *place = u8::try_from(self.tables.len()).ok()?;
            self.tables.push((part, Table::default()));
        }
        self.tables.get_mut(usize::from(*place)).map(|(_, table)| table)
    }

    pub(super) fn remove(&mut self, part: u32) -> Option<Table> {
        let place = std::mem::replace(self.places.get_mut(part as usize)?, NONE);
        if usize::from(place) >= self.tables.len() {
            return None;
        }
        let (_, table) = self.tables.swap_remove(usize::from(place));
        let moved = self.tables.get(usize::from(place)).map(|(moved, _)| *moved);
        if let Some(at) = moved.and_then(|moved| self.places.get_mut(moved as usize)) {
            *at = place;
        }
        Some(table)
    }

    /// The parts that it has groups in from one on, in order.
    pub(super) fn parts(&self, from: u32) -> impl Iterator<Item = u32> {
        let places = self.places.iter().zip(0..).skip(from as usize);
        places.filter(|(place, _)| **place != NONE).map(|(_, part)| part)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.tables.is_empty()
    }

    /// How many groups it has.
    pub(super) fn len(&self) -> usize {
        self.tables.iter().map(|(_, table)| table.len()).sum()
    }

    /// About how many bytes its groups are written in.
    pub(super) fn bytes(&self, layout: &Layout) -> usize {
        self.tables.iter().map(|(_, table)| table.bytes(layout)).sum()
    }

    /// The bytes of the texts of its groups.
    pub(super) fn text_bytes(&self) -> usize {
        self.tables.iter().map(|(_, table)| table.text_bytes()).sum()
    }
}
