//! The groups of a window that are in one part of the state, in a row of words.
//!
//! A group is a record: the length of its encoded key in bytes, what its aggregates have taken in, then the key. Records lie one after
//! the other in the order in which they were begun, and an index over hashes of keys says where. So a group takes no memory of its
//! own, what a row touches of it is side by side, and a window that is over is let go of at once.

use std::borrow::Cow;

use crate::aggregate::{Accumulator, Aggregate, Packing};
use crate::plan::hash;
use crate::sketch::spread;
use crate::value::Cell;

/// In the first word of a record: its group was removed.
const REMOVED: u64 = 1 << 63;
/// In the first word of a record: it is among those that changed.
const CHANGED: u64 = 1 << 62;
/// The places of the index at first.
const PLACES_MIN: usize = 8;
/// How many words of removed records are kept at least.
const REMOVED_WORDS_MAX: usize = 1 << 10;
const WORD_BYTES: usize = size_of::<u64>();

/// What a record of a query is like.
#[derive(Debug, Default)]
pub(super) struct Layout {
    fields: Vec<Field>,
    /// A record without its length and key in which nothing is taken in.
    fresh: Vec<u64>,
}

/// Where an aggregate has its words in a record.
#[derive(Debug)]
struct Field {
    aggregate: Aggregate,
    packing: Packing,
    at: usize,
}

impl Layout {
    pub(super) fn new(aggregates: &[Aggregate]) -> Self {
        let mut layout = Self::default();
        for aggregate in aggregates {
            let (packing, at) = (Packing::of(aggregate), layout.key_at());
            let from = layout.fresh.len();
            layout.fresh.resize(from + packing.words(), 0);
            packing.pack(&aggregate.begin(), layout.fresh.get_mut(from..).unwrap_or_default());
            layout.fields.push(Field { aggregate: aggregate.clone(), packing, at });
        }
        layout
    }

    /// What the aggregates of a group begin with.
    pub(super) fn begin(&self) -> impl Iterator<Item = Accumulator> {
        self.fields.iter().map(|field| field.aggregate.begin())
    }

    /// What aggregates have taken in, of the values that say so of one after the other.
    ///
    /// # Errors
    /// When they do not.
    pub(super) fn of_parts(&self, parts: &[Option<Cell<'_>>]) -> Result<Vec<Accumulator>, String> {
        let mut left = parts;
        let accumulators = self.fields.iter().map(|field| {
            let (parts, others) = left.split_at_checked(field.aggregate.parts()?.len())?;
            left = others;
            field.aggregate.of_parts(parts)
        });
        let accumulators: Option<Vec<Accumulator>> = accumulators.collect();
        accumulators.ok_or_else(|| "it says nothing of what rows of its partition come to".to_owned())
    }

    /// How many bytes a row's values add at most to what is kept of a group that they begin.
    pub(super) fn adds(&self, values: &[Option<Cell<'_>>]) -> usize {
        let apart = self.fields.iter().zip(values).filter(|(field, _)| field.packing == Packing::Apart);
        apart.filter_map(|(field, value)| Some(field.aggregate.begin().adds(value.as_ref()?))).sum()
    }

    /// Where in a record its key begins.
    fn key_at(&self) -> usize {
        1 + self.fresh.len()
    }
}

/// An encoded key in words, which are in the order in which its bytes are.
#[derive(Debug, Default)]
pub(super) struct PackedKey {
    words: Vec<u64>,
    bytes: usize,
    /// The upper half of it is in the index.
    hash: u64,
}

impl PackedKey {
    pub(super) fn of(encoded: &[u8]) -> Self {
        let mut key = Self::default();
        key.set(encoded, hash(encoded));
        key
    }

    /// Becomes another key, of which the hash is known.
    pub(super) fn set(&mut self, encoded: &[u8], hash: u64) {
        let (chunks, rest) = encoded.as_chunks();
        self.words.clear();
        self.words.extend(chunks.iter().map(|chunk| u64::from_be_bytes(*chunk)));
        if !rest.is_empty() {
            let mut last = [0; WORD_BYTES];
            last.iter_mut().zip(rest).for_each(|(last, byte)| *last = *byte);
            self.words.push(u64::from_be_bytes(last));
        }
        self.bytes = encoded.len();
        // Those of one part have the lowest bits of this hash in common.
        self.hash = spread(hash);
    }

    fn tag(&self) -> u32 {
        (self.hash >> u32::BITS) as u32
    }
}

/// Groups by encoded key.
#[derive(Debug, Default)]
pub(super) struct Table {
    /// At a place that a hash says, or one of the next: the upper half of the hash, and one more than where the record begins.
    /// Nothing is 0, and at least a quarter is that.
    index: Vec<u64>,
    words: Vec<u64>,
    /// How many of the words are of removed records.
    removed: usize,
    count: usize,
    text_bytes: usize,
    /// What of aggregates does not fit into words.
    apart: Vec<Accumulator>,
    /// The records that changed since that was forgotten.
    changed: Vec<u32>,
}

impl Table {
    /// How many groups it has.
    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// About how many bytes its groups are written in.
    pub(super) fn bytes(&self, layout: &Layout) -> usize {
        self.count * layout.key_at() * WORD_BYTES + self.text_bytes
    }

    /// The same of those that changed.
    pub(super) fn changed_bytes(&self, layout: &Layout) -> usize {
        self.bytes(layout).checked_div(self.count).unwrap_or_default() * self.changed.len()
    }

    /// Notes that a group changed; not where groups are removed, too.
    pub(super) fn note_changed(&mut self, record: usize) {
        if let Some(first) = self.words.get_mut(record).filter(|first| **first & CHANGED == 0) {
            *first |= CHANGED;
            // The index has no more bits for it.
            self.changed.push(record as u32);
        }
    }

    /// Where the records of the groups begin that changed.
    pub(super) fn changed(&self) -> impl ExactSizeIterator<Item = usize> {
        self.changed.iter().map(|record| *record as usize)
    }

    /// Forgets that they did.
    pub(super) fn forget_changed(&mut self) {
        for record in self.changed.drain(..) {
            self.words.get_mut(record as usize).into_iter().for_each(|first| *first &= !CHANGED);
        }
    }

    /// The bytes of the texts of its groups.
    pub(super) fn text_bytes(&self) -> usize {
        self.text_bytes
    }

    /// Where the record of a key begins.
    pub(super) fn find(&self, layout: &Layout, key: &PackedKey) -> Option<usize> {
        self.place(layout, key).map(|(_, record)| record)
    }

    /// Where the record of a key with a hash begins, most likely.
    pub(super) fn guess(&self, hash: u64) -> Option<usize> {
        let place = (spread(hash) >> u32::BITS) as usize & self.index.len().checked_sub(1)?;
        self.index.get(place).filter(|entry| **entry != 0).map(|entry| record_of(*entry))
    }

    /// Something of a record, so that it is at hand afterwards.
    pub(super) fn touch(&self, layout: &Layout, record: usize) -> u64 {
        let word = |place: usize| self.words.get(place).copied().unwrap_or_default();
        word(record) ^ word(record + layout.key_at())
    }

    /// Where a key is in the index, and its record.
    fn place(&self, layout: &Layout, key: &PackedKey) -> Option<(usize, usize)> {
        let (tag, mask) = (key.tag(), self.index.len().checked_sub(1)?);
        let mut place = tag as usize & mask;
        loop {
            let entry = self.index.get(place).copied().filter(|entry| *entry != 0)?;
            let record = record_of(entry);
            if tag_of(entry) == tag && self.is_of(layout, record, key) {
                return Some((place, record));
            }
            place = (place + 1) & mask;
        }
    }

    fn is_of(&self, layout: &Layout, record: usize, key: &PackedKey) -> bool {
        let from = record + layout.key_at();
        // Most keys are too short for a call that compares memory.
        self.words.get(record).is_some_and(|first| *first & !CHANGED == key.bytes as u64)
            && self.words.get(from..).unwrap_or_default().iter().zip(&key.words).all(|(one, other)| one == other)
    }

    /// Begins a group, whose key has so many bytes of text, and says where its record is.
    pub(super) fn begin(&mut self, layout: &Layout, key: &PackedKey, text_bytes: usize) -> usize {
        if self.removed > REMOVED_WORDS_MAX && self.removed * 2 > self.words.len() {
            self.compact(layout);
        }
        let record = self.words.len();
        self.words.push(key.bytes as u64);
        self.words.extend_from_slice(&layout.fresh);
        self.words.extend_from_slice(&key.words);
        for field in layout.fields.iter().filter(|field| field.packing == Packing::Apart) {
            if let Some(word) = self.words.get_mut(record + field.at) {
                *word = self.apart.len() as u64;
                self.apart.push(field.aggregate.begin());
            }
        }
        self.note(key.tag(), record);
        self.text_bytes += text_bytes;
        record
    }

    /// Puts a record into the index.
    fn note(&mut self, tag: u32, record: usize) {
        self.count += 1;
        if self.count * 4 > self.index.len() * 3 {
            let places = (self.index.len() * 2).max(PLACES_MIN);
            let before = std::mem::replace(&mut self.index, vec![0; places]);
            before.into_iter().filter(|entry| *entry != 0).for_each(|entry| self.link(entry));
        }
        self.link(u64::from(tag) << u32::BITS | (record as u64 + 1));
    }

    fn link(&mut self, entry: u64) {
        let mask = self.index.len() - 1;
        let mut place = tag_of(entry) as usize & mask;
        while self.index.get(place).is_some_and(|entry| *entry != 0) {
            place = (place + 1) & mask;
        }
        self.index.get_mut(place).into_iter().for_each(|free| *free = entry);
    }

    /// Begins a group that has taken in something, whose key has so many bytes of text.
    pub(super) fn insert(&mut self, layout: &Layout, key: &PackedKey, text_bytes: usize, taken_in: Vec<Accumulator>) {
        let record = self.begin(layout, key, text_bytes);
        for (field, accumulator) in layout.fields.iter().zip(taken_in) {
            self.text_bytes += accumulator.text_bytes();
            self.set(record, field, accumulator);
        }
    }

    /// Removes a group, whose key has so many bytes of text: what it has taken in.
    pub(super) fn remove(&mut self, layout: &Layout, key: &PackedKey, text_bytes: usize) -> Option<Vec<Accumulator>> {
        let (place, record) = self.place(layout, key)?;
        let accumulators = self.accumulators(layout, record).map(Cow::into_owned).collect::<Vec<_>>();
        self.text_bytes -= text_bytes + accumulators.iter().map(Accumulator::text_bytes).sum::<usize>();
        for field in layout.fields.iter().filter(|field| field.packing == Packing::Apart) {
            self.set(record, field, field.aggregate.begin());
        }
        self.words.get_mut(record).into_iter().for_each(|length| *length |= REMOVED);
        self.removed += layout.key_at() + key.words.len();
        self.count -= 1;
        self.unlink(place);
        Some(accumulators)
    }

    /// Frees a place of the index, for those behind it that were to be there or before.
    fn unlink(&mut self, place: usize) {
        let mask = self.index.len() - 1;
        let (mut free, mut next) = (place, place);
        loop {
            next = (next + 1) & mask;
            let Some(entry) = self.index.get(next).copied().filter(|entry| *entry != 0) else { break };
            let home = tag_of(entry) as usize & mask;
            if next.wrapping_sub(home) & mask >= next.wrapping_sub(free) & mask {
                self.index.get_mut(free).into_iter().for_each(|free| *free = entry);
                free = next;
            }
        }
        self.index.get_mut(free).into_iter().for_each(|free| *free = 0);
    }

    /// Lets go of removed records.
    fn compact(&mut self, layout: &Layout) {
        let mut before = std::mem::take(self);
        let (records, mut bytes) = (before.records(layout).collect::<Vec<_>>(), Vec::new());
        self.text_bytes = before.text_bytes;
        for from in records {
            before.read_key(layout, from, &mut bytes);
            let record = self.words.len();
            self.words.extend_from_slice(before.words.get(from..before.behind(layout, from)).unwrap_or_default());
            for field in layout.fields.iter().filter(|field| field.packing == Packing::Apart) {
                let kept = before.apart_mut(from, field).map(|kept| std::mem::replace(kept, field.aggregate.begin()));
                if let Some(word) = self.words.get_mut(record + field.at) {
                    *word = self.apart.len() as u64;
                    self.apart.extend(kept);
                }
            }
            self.note(PackedKey::of(&bytes).tag(), record);
        }
    }

    /// Where the record behind one begins.
    fn behind(&self, layout: &Layout, record: usize) -> usize {
        record + layout.key_at() + self.key_bytes(record).div_ceil(WORD_BYTES)
    }

    fn key_bytes(&self, record: usize) -> usize {
        (self.words.get(record).copied().unwrap_or_default() & !(REMOVED | CHANGED)) as usize
    }

    /// Where the records of all groups begin, in the order in which they were begun.
    pub(super) fn records(&self, layout: &Layout) -> impl Iterator<Item = usize> {
        let mut next = 0;
        let records = std::iter::from_fn(move || {
            let record = (next < self.words.len()).then_some(next)?;
            next = self.behind(layout, record);
            Some(record)
        });
        records.filter(|record| self.words.get(*record).is_some_and(|length| length & REMOVED == 0))
    }

    /// The same in the order of keys.
    pub(super) fn sorted(&self, layout: &Layout) -> Vec<usize> {
        let key = |record: usize| {
            let words = self.words.get(record + layout.key_at()..self.behind(layout, record));
            words.unwrap_or_default()
        };
        // Most keys begin alike: what tells them apart is in the word behind that.
        let first = self.records(layout).next().map(key).unwrap_or_default();
        let alike = |record| key(record).iter().zip(first).take_while(|(one, other)| one == other).count();
        let common = self.records(layout).map(alike).min().unwrap_or_default();
        let by = |record| (key(record).get(common).copied().unwrap_or_default(), record);
        let mut sorted: Vec<(u64, usize)> = self.records(layout).map(by).collect();
        sorted.sort_unstable_by(|(one, record), (other, another)| {
            one.cmp(other).then_with(|| key(*record).cmp(key(*another)))
        });
        sorted.into_iter().map(|(_, record)| record).collect()
    }

    /// The encoded key of a group.
    pub(super) fn read_key(&self, layout: &Layout, record: usize, key: &mut Vec<u8>) {
        let words = self.words.get(record + layout.key_at()..self.behind(layout, record));
        key.clear();
        key.extend(words.into_iter().flatten().flat_map(|word| word.to_be_bytes()));
        key.truncate(self.key_bytes(record));
    }

    /// What the aggregates of a group have taken in.
    pub(super) fn accumulators(
        &self,
        layout: &Layout,
        record: usize,
    ) -> impl ExactSizeIterator<Item = Cow<'_, Accumulator>> {
        layout.fields.iter().map(move |field| self.accumulator(record, field))
    }

    /// What an aggregate of groups comes to.
    pub(super) fn results_of(
        &self,
        layout: &Layout,
        aggregate: usize,
        records: &[usize],
    ) -> impl Iterator<Item = Option<Cell<'static>>> {
        let field = layout.fields.get(aggregate);
        records.iter().filter_map(move |record| {
            let packed = field?.packing.result(self.words_of(*record, field?));
            Some(packed.unwrap_or_else(|| field.and_then(|field| self.accumulator(*record, field).result())))
        })
    }

    fn words_of(&self, record: usize, field: &Field) -> &[u64] {
        let from = record + field.at;
        self.words.get(from..from + field.packing.words()).unwrap_or_default()
    }

    fn accumulator(&self, record: usize, field: &Field) -> Cow<'_, Accumulator> {
        let words = self.words_of(record, field);
        match field.packing.unpack(words) {
            Some(accumulator) => Cow::Owned(accumulator),
            None => {
                let kept = words.first().and_then(|place| self.apart.get(usize::try_from(*place).ok()?));
                kept.map_or_else(|| Cow::Owned(field.aggregate.begin()), Cow::Borrowed)
            }
        }
    }

    fn apart_mut(&mut self, record: usize, field: &Field) -> Option<&mut Accumulator> {
        let place = usize::try_from(*self.words.get(record + field.at)?).ok()?;
        self.apart.get_mut(place)
    }

    fn set(&mut self, record: usize, field: &Field, accumulator: Accumulator) {
        if field.packing == Packing::Apart {
            if let Some(kept) = self.apart_mut(record, field) {
                *kept = accumulator;
            }
            return;
        }
        let from = record + field.at;
        if let Some(words) = self.words.get_mut(from..from + field.packing.words()) {
            field.packing.pack(&accumulator, words);
        }
    }

    /// Whether the aggregates of a group can take a row's values in: how many bytes they add to what is kept at most.
    ///
    /// # Errors
    /// When a sum would leave the numbers of its type.
    pub(super) fn check(&self, layout: &Layout, record: usize, values: &[Option<Cell<'_>>]) -> Result<usize, String> {
        let mut adding = 0;
        for (field, value) in layout.fields.iter().zip(values) {
            let Some(value) = value else { continue };
            match field.packing.check(self.words_of(record, field), value) {
                Some(checked) => checked?,
                None => adding += self.accumulator(record, field).adds(value),
            }
        }
        Ok(adding)
    }

    /// The bytes of the texts that the aggregates of a group keep.
    pub(super) fn taken_bytes(&self, layout: &Layout, record: usize) -> usize {
        self.accumulators(layout, record).map(|of| of.text_bytes()).sum()
    }

    /// Has a group have taken in something else.
    pub(super) fn replace(&mut self, layout: &Layout, record: usize, taken_in: &[Accumulator]) {
        let before = self.taken_bytes(layout, record);
        self.text_bytes = self.text_bytes - before + taken_in.iter().map(Accumulator::text_bytes).sum::<usize>();
        for (field, accumulator) in layout.fields.iter().zip(taken_in) {
            self.set(record, field, accumulator.clone());
        }
    }

    /// Takes a row's values into the aggregates of a group.
    pub(super) fn take(&mut self, layout: &Layout, record: usize, values: &[Option<Cell<'_>>]) {
        for (field, value) in layout.fields.iter().zip(values) {
            let Some(value) = value else { continue };
            let from = record + field.at;
            let words = self.words.get_mut(from..from + field.packing.words()).unwrap_or_default();
            if field.packing.take(words, value).is_none()
                && let Some(kept) = self.apart_mut(record, field)
            {
                let before = kept.text_bytes();
                kept.take(value);
                let after = kept.text_bytes();
                self.text_bytes = self.text_bytes - before + after;
            }
        }
    }
}

fn tag_of(entry: u64) -> u32 {
    (entry >> u32::BITS) as u32
}

fn record_of(entry: u64) -> usize {
    (entry as u32 as usize).saturating_sub(1)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::aggregate::AggregateKind;
    use crate::types::Type;

    fn aggregates() -> Vec<Aggregate> {
        let of = |kind, ty| Aggregate::new(kind, None, ty, None);
        vec![
            of(AggregateKind::Count, Type::Bigint),
            of(AggregateKind::Max, Type::Text),
            of(AggregateKind::StddevPop, Type::Bigint),
            of(AggregateKind::CountDistinct, Type::Bigint),
            of(AggregateKind::Min, Type::Bigint),
        ]
    }

    /// The same as a table, as plain as can be.
    type Plain = BTreeMap<Vec<u8>, Vec<Accumulator>>;

    fn is_same(layout: &Layout, table: &Table, plain: &Plain, order: &[Vec<u8>]) {
        let key = |record| {
            let mut key = Vec::new();
            table.read_key(layout, record, &mut key);
            key
        };
        assert_eq!(table.len(), plain.len());
        assert_eq!(table.records(layout).map(key).collect::<Vec<_>>(), order);
        assert_eq!(
            table.sorted(layout).into_iter().map(key).collect::<Vec<_>>(),
            plain.keys().cloned().collect::<Vec<_>>()
        );
        let mut bytes = 0;
        for (key, expected) in plain {
            let record = table.find(layout, &PackedKey::of(key)).unwrap();
            assert_eq!(&table.accumulators(layout, record).map(Cow::into_owned).collect::<Vec<_>>(), expected);
            bytes += key.len() + expected.iter().map(Accumulator::text_bytes).sum::<usize>();
        }
        assert_eq!(table.text_bytes(), bytes);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn a_table_has_what_was_put_in(
            // Keys none of which begins another, as those of cells.
            steps in proptest::collection::vec((0_u8..40, 0_usize..20, -9_i64..9, 0_u8..4), 1..600),
        ) {
            let layout = Layout::new(&aggregates());
            let (mut table, mut plain, mut order) = (Table::default(), Plain::new(), Vec::new());
            for (number, length, value, what) in steps {
                let bytes = [vec![number], vec![7; length.min(usize::from(number))], vec![0]].concat();
                let key = PackedKey::of(&bytes);
                if what == 0 {
                    prop_assert_eq!(table.remove(&layout, &key, bytes.len()), plain.remove(&bytes));
                    order.retain(|other| *other != bytes);
                    continue;
                }
                let record = table.find(&layout, &key);
                prop_assert_eq!(record.is_some(), plain.contains_key(&bytes));
                let record = record.unwrap_or_else(|| {
                    order.push(bytes.clone());
                    table.begin(&layout, &key, bytes.len())
                });
                let value_of = |aggregate: &Aggregate| match aggregate.ty {
                    Type::Text => Cell::Text("x".repeat(value.unsigned_abs() as usize).into()),
                    _ => Cell::Bigint(value),
                };
                let values: Vec<_> = aggregates().iter().map(|aggregate| (value != 0).then(|| value_of(aggregate))).collect();
                table.take(&layout, record, &values);
                let taken = plain.entry(bytes).or_insert_with(|| layout.begin().collect());
                taken.iter_mut().zip(&values).for_each(|(taken, value)| value.iter().for_each(|value| taken.take(value)));
            }
            is_same(&layout, &table, &plain, &order);
            table.compact(&layout);
            is_same(&layout, &table, &plain, &order);
        }
    }
}
