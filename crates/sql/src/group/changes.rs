//! Which parts of the state a step writes: key groups whole, or only what changed of them.
//!
//! A step that touches a few groups of each key group would write all of them each time. So where a key group has much more than what
//! changed of it, the groups that changed are written together, into a part with what changed since that part was begun. When it is
//! large enough it is left as it is, and the next one is begun. So that those do not pile up, key groups are written whole in turn,
//! twice as many bytes as were written of changes, once these come to half of all groups: what is older than that is needed no more.
//!
//! A key group that is written whole says which parts with changes it covers, and what the one that is not full yet had of it is taken
//! out of there.

use std::collections::BTreeMap;

use super::closing::Dirty;
use super::table::Table;
use super::{Groups, KEY_GROUPS};
use crate::plan::{Grouping, Turn};

/// The first part with changes; they are numbered from 1 on, and take these places in turn.
pub(super) const CHANGES_FROM: u32 = 1 << 15;
/// How many places there are; the last number below 2^16 is not one of them.
const PLACES: u64 = (1 << 15) - 1;
/// A key group that is no larger is written whole in any case.
const SMALL_BYTES: usize = 1 << 10;
/// What a part with changes has at least before the next one is begun, or a thousandth of all groups.
const FULL_BYTES: usize = 16 << 10;
const FULL_SHARE: usize = 1 << 10;
/// The bytes of changes from which on key groups are written whole in turn, at least.
const CHANGES_BYTES_MIN: usize = 64 << 10;
/// How many bytes of key groups are written in turn for each byte of changes.
const TURN_BYTES: usize = 2;
/// The most of them in a step, unless it is one key group.
const TURN_BYTES_MAX: usize = 2 << 20;
/// From so many parts with changes on, of which each going on from the state leaves one that is not full, a step writes a key group whole.
const PARTS_MAX: usize = 1 << 11;
/// The bytes of a key group from which on a row that would begin another group there is rejected: an entry of the log is to hold it.
const KEY_GROUP_BYTES_MAX: usize = 10 << 20;
/// The most bytes of one that is written in turn.
const IN_TURN_BYTES_MAX: usize = 11 << 20;

/// What is known of the parts with changes.
#[derive(Debug)]
pub(super) struct Changes {
    /// The number of the one that changes are written into.
    number: u64,
    /// The key groups that it has something of, a bit for each.
    of: u128,
    /// The tables, by the end of their window and their key group, that are gone since it was begun.
    gone: Vec<(i64, u32)>,
    /// The others that are still needed.
    full: BTreeMap<u64, Full>,
    /// Their bytes.
    bytes: usize,
    /// Up to which number each key group has what was changed.
    covered: [u64; KEY_GROUPS as usize],
    /// The key groups that are so large that no row may begin another group.
    wide: u128,
    /// Which key group is written whole next in turn, and how many bytes may be.
    turn: u32,
    credit: usize,
}

/// A part with changes that is full.
#[derive(Debug)]
struct Full {
    /// The key groups of which it has something that they do not cover.
    of: u128,
    bytes: usize,
}

impl Default for Changes {
    fn default() -> Self {
        Self {
            number: 1,
            of: 0,
            gone: Vec::new(),
            full: BTreeMap::new(),
            bytes: 0,
            covered: [0; KEY_GROUPS as usize],
            wide: 0,
            turn: 0,
            credit: 0,
        }
    }
}

impl Changes {
    /// The number of the part at that place, if changes are written into it now.
    pub(super) fn is_open(&self, part: u32) -> bool {
        part == place_of(self.number)
    }

    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// The key groups that the part that is not full has something of.
    pub(super) fn key_groups(&self) -> impl Iterator<Item = u32> + use<> {
        of_bits(self.of)
    }

    pub(super) fn gone(&self) -> &[(i64, u32)] {
        &self.gone
    }

    /// Up to which number a key group has what was changed, if any part with changes may say otherwise.
    pub(super) fn covered(&self, part: u32) -> Option<u64> {
        let is_needed = !self.full.is_empty() || self.of != 0;
        self.covered.get(part as usize).copied().filter(|covered| is_needed && *covered > 0)
    }

    /// Notes up to which number a key group that was restored has what was changed.
    pub(super) fn restore_covered(&mut self, part: u32, covered: u64) {
        self.covered.get_mut(part as usize).into_iter().for_each(|of| *of = covered);
        self.number = self.number.max(covered + 1);
    }

    /// Whether a part with changes says something newer of a key group than that has.
    pub(super) fn is_newer(&self, number: u64, part: u32) -> bool {
        self.covered.get(part as usize).is_some_and(|covered| number > *covered)
    }

    /// Notes a part with changes that was restored, of key groups that do not cover it.
    pub(super) fn restore_full(&mut self, number: u64, of: impl Iterator<Item = u32>, bytes: usize) {
        let of = of.fold(0, |of, part| of | bit(part));
        self.number = self.number.max(number + 1);
        self.bytes += bytes;
        self.full.insert(number, Full { of, bytes });
    }

    /// All parts that there are.
    pub(super) fn parts(&self) -> impl Iterator<Item = u32> {
        let open = (self.of != 0).then_some(self.number);
        self.full.keys().copied().chain(open).map(place_of)
    }

    /// Whether a key group has so many bytes that no further group is to be begun in it.
    pub(super) fn is_wide(&self, part: u32) -> bool {
        self.wide & bit(part) != 0
    }

    /// Notes that a key group is written whole: the parts with changes that have something of it change by that.
    fn covers(&mut self, part: u32, dirty: &mut Dirty) {
        let bit = bit(part);
        if self.of & bit != 0 {
            self.of &= !bit;
            dirty.insert(place_of(self.number));
        }
        self.gone.retain(|(_, of)| *of != part);
        self.covered.get_mut(part as usize).into_iter().for_each(|covered| *covered = self.number - 1);
        self.full.retain(|number, full| {
            full.of &= !bit;
            if full.of == 0 {
                self.bytes -= full.bytes;
                dirty.insert(place_of(*number));
            }
            full.of != 0
        });
    }
}

impl Groups {
    /// What of the state is to be written after a step that has changed these parts: some key groups whole, of the others what changed.
    pub(super) fn parts_to_write(&mut self, grouping: &Grouping, changed: Dirty) -> Vec<u32> {
        if grouping.window.turn == Turn::Sessions {
            return changed.into_parts();
        }
        let (key_groups, mut dirty) = changed.split();
        for part in of_bits(key_groups) {
            let (bytes, of_changed) = self.bytes_of(part);
            self.changes.wide &= !bit(part);
            if bytes > KEY_GROUP_BYTES_MAX {
                self.changes.wide |= bit(part);
            }
            if bytes <= SMALL_BYTES.max(2 * of_changed) {
                self.write_whole(part, &mut dirty);
            } else {
                self.changes.of |= bit(part);
                dirty.insert(place_of(self.changes.number));
            }
        }
        self.write_in_turn(&mut dirty);
        dirty.into_parts()
    }

    /// Has a key group written whole.
    pub(super) fn write_whole(&mut self, part: u32, dirty: &mut Dirty) {
        dirty.insert(part);
        self.windows.values_mut().filter_map(|window| window.part_mut(part)).for_each(Table::forget_changed);
        self.changes.covers(part, dirty);
    }

    /// Notes that the groups of a window in a key group are gone.
    pub(super) fn note_gone(&mut self, end_us: i64, part: u32) {
        self.changes.gone.push((end_us, part));
    }

    /// Has key groups written whole in turn that parts with changes are needed for, if these have become large.
    fn write_in_turn(&mut self, dirty: &mut Dirty) {
        let (mut written, changes) = (0, &self.changes);
        let needed = changes.full.values().fold(0, |needed, full| needed | full.of);
        if needed == 0 {
            self.changes.credit = 0;
            return;
        }
        let is_crowded = changes.full.len() >= PARTS_MAX;
        for part in (changes.turn..KEY_GROUPS).chain(0..changes.turn).filter(|part| needed & bit(*part) != 0) {
            let (bytes, _) = self.bytes_of(part);
            if bytes > IN_TURN_BYTES_MAX {
                continue;
            }
            if is_crowded && written == 0 {
                self.changes.credit = self.changes.credit.max(bytes);
            }
            if bytes > self.changes.credit || written >= TURN_BYTES_MAX {
                self.changes.turn = part;
                return;
            }
            self.changes.credit -= bytes;
            written += bytes;
            self.write_whole(part, dirty);
        }
    }

    /// Notes that what changed was written in so many bytes: if that is enough, the next part is begun.
    pub(super) fn written_changes(&mut self, bytes: usize) {
        let all: usize = self.windows.values().map(|window| window.bytes(&self.layout)).sum();
        if bytes < FULL_BYTES.max(all / FULL_SHARE) {
            return;
        }
        for part in self.changes.key_groups() {
            let tables = self.windows.values_mut().filter_map(|window| window.part_mut(part));
            tables.for_each(Table::forget_changed);
        }
        let changes = &mut self.changes;
        changes.full.insert(changes.number, Full { of: std::mem::take(&mut changes.of), bytes });
        changes.gone.clear();
        (changes.number, changes.bytes) = (changes.number + 1, changes.bytes + bytes);
        if changes.bytes > CHANGES_BYTES_MIN.max(all / 2) {
            changes.credit += TURN_BYTES * bytes;
        } else {
            changes.credit = 0;
        }
    }

    /// About the bytes of a key group, and of what changed of it.
    fn bytes_of(&self, part: u32) -> (usize, usize) {
        let tables = self.windows.values().filter_map(|window| window.part(part));
        tables.fold((0, 0), |(all, changed), table| {
            (all + table.bytes(&self.layout), changed + table.changed_bytes(&self.layout))
        })
    }
}

/// Where the part with that number is.
fn place_of(number: u64) -> u32 {
    // There are fewer places than numbers of 32 bits.
    CHANGES_FROM + u32::try_from(number % PLACES).unwrap_or_default()
}

fn bit(part: u32) -> u128 {
    1_u128.checked_shl(part).unwrap_or_default()
}

fn of_bits(bits: u128) -> impl Iterator<Item = u32> {
    (0..KEY_GROUPS).filter(move |part| bits >> part & 1 == 1)
}
