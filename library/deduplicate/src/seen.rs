//! The keys that have passed lately, by key group, within so much memory.

use std::collections::{BTreeMap, BTreeSet};

use littoral_sdk::keyed::{KEY_GROUPS, key_group};
use littoral_sdk::prelude::*;

/// What a key takes beside its text: twice its length and moment in two ordered maps.
const KEY_OVERHEAD_BYTES: usize = 96;
/// The format of a group's state, in front of it.
const VERSION: u8 = 1;

/// The keys of one group.
#[derive(Clone, Debug, Default, PartialEq)]
struct Group {
    /// The newest moment of any row.
    newest_us: i64,
    /// When each key passed last.
    passed: BTreeMap<String, i64>,
    /// The same, the oldest first.
    oldest: BTreeSet<(i64, String)>,
    bytes: usize,
}

impl Group {
    fn insert(&mut self, key: &str, time_us: i64) {
        self.remove(key);
        self.bytes += 2 * key.len() + KEY_OVERHEAD_BYTES;
        self.passed.insert(key.to_owned(), time_us);
        self.oldest.insert((time_us, key.to_owned()));
    }

    fn remove(&mut self, key: &str) {
        if let Some(time_us) = self.passed.remove(key) {
            self.oldest.remove(&(time_us, key.to_owned()));
            self.bytes -= 2 * key.len() + KEY_OVERHEAD_BYTES;
        }
    }

    /// Forgets what passed before a moment, and the oldest beyond so many bytes.
    fn forget(&mut self, before_us: i64, bytes_max: usize) {
        while let Some((time_us, key)) = self.oldest.first()
            && (*time_us <= before_us || self.bytes > bytes_max)
        {
            let key = key.clone();
            self.remove(&key);
        }
    }
}

/// The keys that have passed lately.
#[derive(Debug)]
pub(crate) struct Seen {
    groups: BTreeMap<u32, Group>,
    dirty: BTreeSet<u32>,
    within_us: i64,
    group_bytes_max: usize,
}

impl Seen {
    /// None yet. A key is known for `within_us`, and none takes more memory than its share of `bytes_max`.
    pub(crate) fn new(within_us: i64, bytes_max: usize) -> Self {
        let group_bytes_max = bytes_max / KEY_GROUPS as usize;
        Self { groups: BTreeMap::new(), dirty: BTreeSet::new(), within_us, group_bytes_max }
    }

    /// Whether a row is the first of its key within the time; then it passes, and others after it do not.
    pub(crate) fn passes(&mut self, key: &str, time_us: i64) -> bool {
        let number = key_group(key);
        let group = self.groups.entry(number).or_insert_with(|| Group { newest_us: time_us, ..Group::default() });
        let last_us = group.passed.get(key).copied();
        if last_us.is_some_and(|last_us| last_us.abs_diff(time_us) < self.within_us.unsigned_abs()) {
            return false;
        }
        // One that is so old that another one passed long after it says nothing about those to come.
        if last_us.is_none_or(|last_us| last_us < time_us) {
            group.insert(key, time_us);
        }
        group.newest_us = group.newest_us.max(time_us);
        // Rows may be out of order by as much as a key is known for.
        group.forget(group.newest_us - 2 * self.within_us, self.group_bytes_max);
        self.dirty.insert(number);
        true
    }
}

impl KeyGroups for Seen {
    fn take_dirty(&mut self) -> BTreeSet<u32> {
        std::mem::take(&mut self.dirty)
    }

    fn snapshot(&self, group: u32) -> Vec<u8> {
        let Some(group) = self.groups.get(&group) else { return Vec::new() };
        let mut bytes = Vec::new();
        VERSION.encode(&mut bytes);
        group.newest_us.encode(&mut bytes);
        let keys: Vec<(String, i64)> = group.passed.iter().map(|(key, time_us)| (key.clone(), *time_us)).collect();
        keys.encode(&mut bytes);
        bytes
    }

    fn restore(&mut self, group: u32, mut bytes: &[u8]) -> Result<()> {
        if bytes.is_empty() {
            self.groups.remove(&group);
            return Ok(());
        }
        let version = u8::decode(&mut bytes)?;
        if version != VERSION {
            return Err(Error::new(format!("the saved state has format {version}; expected {VERSION}")));
        }
        let mut restored = Group { newest_us: i64::decode(&mut bytes)?, ..Group::default() };
        for (key, time_us) in Vec::<(String, i64)>::decode(&mut bytes)? {
            if key_group(&key) != group {
                return Err(Error::new(format!("the saved state of group {group} has a key of another group")));
            }
            restored.insert(&key, time_us);
        }
        self.groups.insert(group, restored);
        Ok(())
    }
}
