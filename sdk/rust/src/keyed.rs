//! State by key, in key groups, so that the host can save what changed and move a part.

use std::collections::{BTreeMap, BTreeSet};

use crate::state::{State, decode_bytes, encode_bytes};
use crate::{Error, Result};

/// How many groups keys are divided into: few enough that a snapshot of one is worth its overhead, many enough that
/// what one key changes is a small part of the state. It is part of the format: changing it orphans saved state.
pub const KEY_GROUPS: u32 = 64;

/// The group of a key: its 64-bit FNV-1a hash modulo [`KEY_GROUPS`]. The same on every machine and in every version.
#[must_use]
pub fn key_group(key: &str) -> u32 {
    let hash = key
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    // The remainder is below 64.
    (hash % u64::from(KEY_GROUPS)) as u32
}

/// State by key, saved after each batch in which it changed and given back wherever the stage runs next.
///
/// ```
/// use littoral_sdk::Keyed;
///
/// let mut seen: Keyed<u64> = Keyed::new();
/// *seen.entry("press") += 1;
/// assert_eq!(seen.get("press"), Some(&1));
/// ```
#[derive(Debug, Clone)]
pub struct Keyed<S> {
    groups: [BTreeMap<String, S>; KEY_GROUPS as usize],
    /// A bit for each group.
    dirty: u64,
}

impl<S> Default for Keyed<S> {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Keyed<S> {
    /// No state.
    #[must_use]
    pub fn new() -> Self {
        Self { groups: [const { BTreeMap::new() }; KEY_GROUPS as usize], dirty: 0 }
    }

    /// The state of a key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&S> {
        self.groups.get(key_group(key) as usize)?.get(key)
    }

    /// The state of a key, to be changed.
    pub fn get_mut(&mut self, key: &str) -> Option<&mut S> {
        let group = key_group(key);
        let state = self.groups.get_mut(group as usize)?.get_mut(key)?;
        self.dirty |= 1 << group;
        Some(state)
    }

    /// The state of a key, to be changed; the default if there is none.
    pub fn entry(&mut self, key: &str) -> &mut S
    where
        S: Default,
    {
        if self.get(key).is_none() {
            self.insert(key, S::default());
        }
        match self.get_mut(key) {
            Some(state) => state,
            None => unreachable!("the key was inserted above"),
        }
    }

    /// Sets the state of a key; answers what was there.
    pub fn insert(&mut self, key: &str, state: S) -> Option<S> {
        let group = key_group(key);
        self.dirty |= 1 << group;
        self.groups.get_mut(group as usize)?.insert(key.to_owned(), state)
    }

    /// Forgets a key; answers what was there.
    pub fn remove(&mut self, key: &str) -> Option<S> {
        let group = key_group(key);
        let removed = self.groups.get_mut(group as usize)?.remove(key)?;
        self.dirty |= 1 << group;
        Some(removed)
    }

    /// How many keys there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.groups.iter().map(BTreeMap::len).sum()
    }

    /// Whether there is no key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All keys and their states, group by group.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &S)> {
        self.groups.iter().flatten().map(|(key, state)| (key.as_str(), state))
    }
}

/// State that is saved by key group; what [`Stage::state`](crate::Stage::state) hands out.
pub trait KeyGroups {
    /// The groups that changed since the last call.
    fn take_dirty(&mut self) -> BTreeSet<u32>;
    /// The whole state of a group; nothing if there is none.
    fn snapshot(&self, group: u32) -> Vec<u8>;
    /// Takes the place of the state of a group.
    ///
    /// # Errors
    /// When the bytes are not what [`snapshot`](KeyGroups::snapshot) gave.
    fn restore(&mut self, group: u32, bytes: &[u8]) -> Result<()>;
}

impl<S: State> KeyGroups for Keyed<S> {
    fn take_dirty(&mut self) -> BTreeSet<u32> {
        let dirty = std::mem::take(&mut self.dirty);
        (0..KEY_GROUPS).filter(|group| dirty >> group & 1 == 1).collect()
    }

    fn snapshot(&self, group: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (key, state) in self.groups.get(group as usize).into_iter().flatten() {
            encode_bytes(key.as_bytes(), &mut bytes);
            state.encode(&mut bytes);
        }
        bytes
    }

    fn restore(&mut self, group: u32, mut bytes: &[u8]) -> Result<()> {
        let mut states = BTreeMap::new();
        while !bytes.is_empty() {
            let key = std::str::from_utf8(decode_bytes(&mut bytes)?)?.to_owned();
            if key_group(&key) != group {
                return Err(Error::new(format!(
                    "the saved state of group {group} has the key `{key}` of another group"
                )));
            }
            states.insert(key, S::decode(&mut bytes)?);
        }
        match self.groups.get_mut(group as usize) {
            Some(restored) => *restored = states,
            None => return Err(Error::new(format!("there is no group {group}"))),
        }
        Ok(())
    }
}

/// Several parts' state of one group as one; the parts' order is part of the format.
pub(crate) fn snapshot_all(parts: &[&mut dyn KeyGroups], group: u32) -> Vec<u8> {
    let snapshots: Vec<_> = parts.iter().map(|part| part.snapshot(group)).collect();
    if snapshots.iter().all(Vec::is_empty) {
        return Vec::new();
    }
    let mut bytes = Vec::new();
    snapshots.iter().for_each(|snapshot| encode_bytes(snapshot, &mut bytes));
    bytes
}

pub(crate) fn restore_all(parts: &mut [&mut dyn KeyGroups], group: u32, mut bytes: &[u8]) -> Result<()> {
    for part in parts {
        // A part that was added to the stage since then has no state yet.
        let snapshot = if bytes.is_empty() { &[] } else { decode_bytes(&mut bytes)? };
        part.restore(group, snapshot)?;
        part.take_dirty();
    }
    if bytes.is_empty() {
        Ok(())
    } else {
        Err(Error::new("the saved state has more parts than this version of the stage"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_stable() {
        // From the FNV specification: the hash of "" is the offset basis, of "a" 0xaf63dc4c8601ec8c.
        assert_eq!(key_group(""), (0xcbf2_9ce4_8422_2325_u64 % 64) as u32);
        assert_eq!(key_group("a"), (0xaf63_dc4c_8601_ec8c_u64 % 64) as u32);
    }

    #[test]
    fn only_what_changed_is_dirty() {
        let mut keyed: Keyed<u64> = Keyed::new();
        keyed.insert("a", 1);
        *keyed.entry("b") += 5;
        assert_eq!(keyed.take_dirty(), BTreeSet::from([key_group("a"), key_group("b")]));
        assert_eq!(keyed.get("b"), Some(&5));
        assert_eq!(keyed.remove("nobody"), None);
        assert_eq!(keyed.get_mut("nobody"), None);
        assert!(keyed.take_dirty().is_empty());
        assert_eq!(keyed.remove("a"), Some(1));
        assert_eq!(keyed.take_dirty(), BTreeSet::from([key_group("a")]));
        assert!(keyed.snapshot(key_group("a")).is_empty());
    }

    #[test]
    fn parts_survive_a_move() {
        let (mut counts, mut names): (Keyed<u64>, Keyed<String>) = (Keyed::new(), Keyed::new());
        counts.insert("a", 1);
        names.insert("a", "first".to_owned());
        let group = key_group("a");
        let bytes = snapshot_all(&[&mut counts, &mut names], group);
        let (mut counts, mut names): (Keyed<u64>, Keyed<String>) = (Keyed::new(), Keyed::new());
        restore_all(&mut [&mut counts, &mut names], group, &bytes).unwrap();
        assert_eq!((counts.get("a"), names.get("a").map(String::as_str)), (Some(&1), Some("first")));
        assert!(restore_all(&mut [&mut counts], group, &bytes).is_err());
        restore_all(&mut [&mut counts, &mut names], group, &[]).unwrap();
        assert_eq!(counts.get("a"), None);
    }

    #[test]
    fn foreign_state_is_refused() {
        let mut keyed: Keyed<u64> = Keyed::new();
        keyed.insert("a", 1);
        let bytes = keyed.snapshot(key_group("a"));
        assert!(keyed.restore(key_group("a") ^ 1, &bytes).is_err());
        assert!(keyed.restore(key_group("a"), &bytes[1..]).is_err());
    }
}
