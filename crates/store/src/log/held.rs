//! What a work holds while a log is read: where its entries are, as far as they were found.
//!
//! A work may hold entries whose place comes later in the log, because they were copied to its end. How many, only a record
//! says: nothing is set aside for them before they are found.

use std::collections::{BTreeMap, VecDeque};

use super::index::Place;

/// A place and the epoch of the entry there.
pub(super) type Found = (Place, u64);

/// The entries of one work by index.
#[derive(Default)]
pub(super) struct Held {
    /// Those below `base`: of the ones that were held when the work was first named, what was found so far.
    earlier: BTreeMap<u64, Found>,
    /// Those from `base` on, without gaps.
    entries: VecDeque<Found>,
    base: u64,
}

impl Held {
    /// Holds entries up to `next`, none of which was found yet.
    pub(super) fn up_to(next: u64) -> Self {
        Self { base: next, ..Self::default() }
    }

    /// Adds the next entry.
    pub(super) fn push(&mut self, found: Found) {
        self.entries.push_back(found);
    }

    /// Says where an entry is that is held.
    pub(super) fn place(&mut self, index: u64, found: Found) {
        match index.checked_sub(self.base) {
            None => drop(self.earlier.insert(index, found)),
            Some(at) => {
                if let Some(entry) = usize::try_from(at).ok().and_then(|at| self.entries.get_mut(at)) {
                    *entry = found;
                }
            }
        }
    }

    /// Forgets the entries from an index on.
    pub(super) fn truncate(&mut self, index: u64) {
        match index.checked_sub(self.base) {
            Some(kept) => self.entries.truncate(usize::try_from(kept).unwrap_or(usize::MAX)),
            None => {
                self.entries.clear();
                drop(self.earlier.split_off(&index));
                self.base = index;
            }
        }
    }

    /// Forgets the entries below an index.
    pub(super) fn trim(&mut self, index: u64) {
        self.earlier = self.earlier.split_off(&index);
        if let Some(gone) = index.checked_sub(self.base) {
            let gone = usize::try_from(gone).unwrap_or(usize::MAX).min(self.entries.len());
            drop(self.entries.drain(..gone));
            self.base = index;
        }
    }

    /// How many were found.
    pub(super) fn found(&self) -> usize {
        self.earlier.len() + self.entries.len()
    }

    /// Where an entry is, if it was found.
    pub(super) fn get(&self, index: u64) -> Option<Found> {
        match index.checked_sub(self.base) {
            None => self.earlier.get(&index).copied(),
            Some(at) => self.entries.get(usize::try_from(at).ok()?).copied(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(number: u32) -> Found {
        (Place { segment: 1, offset: number, len: 0 }, u64::from(number))
    }

    fn indices(held: &Held) -> Vec<u64> {
        (0..30).filter(|index| held.get(*index).is_some()).collect()
    }

    #[test]
    fn entries_are_found_in_any_order_and_forgotten_at_both_ends() {
        let mut held = Held::up_to(10);
        (10..15).for_each(|number| held.push(found(number)));
        (5..8).for_each(|number| held.place(u64::from(number), found(number)));
        held.place(12, found(99));
        assert_eq!(indices(&held), [5, 6, 7, 10, 11, 12, 13, 14]);
        assert_eq!((held.get(12), held.found()), (Some(found(99)), 8));
        held.truncate(13);
        held.trim(6);
        assert_eq!(indices(&held), [6, 7, 10, 11, 12]);
        held.trim(11);
        held.push(found(13));
        assert_eq!(indices(&held), [11, 12, 13]);
        held.truncate(11);
        assert_eq!(indices(&held), [0_u64; 0]);
        held.push(found(11));
        assert_eq!(held.get(11), Some(found(11)));
    }

    #[test]
    fn truncating_what_was_not_found_yet_makes_the_next_index_follow() {
        let mut held = Held::up_to(u64::MAX);
        held.place(3, found(3));
        held.truncate(4);
        held.push(found(4));
        assert_eq!(indices(&held), [3, 4]);
    }
}
