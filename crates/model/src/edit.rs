//! Edits of intent: who said when what should be, and after which other edit.
//!
//! Intent is a replicated map from a key (an app, or a node that is shut out) to an edit. Edits are made anywhere, also
//! inside a cut, and spread as they were signed. Each names the edits that it follows, so that everybody who hears of two
//! can tell whether one was made in the knowledge of the other; `littoral-control::edits` decides between those that were not.

use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::hlc::{Clock, Hlc};

/// How many earlier edits an edit names: whoever is further behind than that is taken to have been heard.
pub const LINEAGE_MAX: usize = 32;
/// How many lost edits an edit names as put aside.
pub const PUT_ASIDE_MAX: usize = 16;
/// The longest name of an author, in bytes.
pub const AUTHOR_BYTES_MAX: usize = 128;
/// Larger numbers of incarnations and generations are refused, so that there is always a next one.
pub const NUMBER_MAX: u64 = 1 << 40;

/// Names an edit: the SHA-256 of what its author signed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EditId(pub [u8; 32]);

impl EditId {
    /// The first digits, enough to tell a few edits apart.
    #[must_use]
    pub fn short(&self) -> String {
        self.to_string().chars().take(12).collect()
    }
}

impl fmt::Display for EditId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for EditId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.short())
    }
}

/// A text that names no edit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an edit is named by 64 hexadecimal digits")]
pub struct InvalidEditId;

impl FromStr for EditId {
    type Err = InvalidEditId;

    fn from_str(text: &str) -> Result<Self, InvalidEditId> {
        let mut id = [0; 32];
        if text.len() != 64 || !text.is_ascii() {
            return Err(InvalidEditId);
        }
        for (byte, digits) in id.iter_mut().zip(text.as_bytes().chunks(2)) {
            let digits = std::str::from_utf8(digits).map_err(|_| InvalidEditId)?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| InvalidEditId)?;
        }
        Ok(Self(id))
    }
}

impl TryFrom<String> for EditId {
    type Error = InvalidEditId;
    fn try_from(text: String) -> Result<Self, InvalidEditId> {
        text.parse()
    }
}

impl From<EditId> for String {
    fn from(id: EditId) -> Self {
        id.to_string()
    }
}

impl JsonSchema for EditId {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "EditId".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^[0-9a-f]{64}$", "description": "Names an edit: the SHA-256 of what its author signed." })
    }
}

/// An edit, without what it says: its place among the others of its key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Edit {
    /// Counts how often the key began: a new one begins after an end. 0 is of a time when that was not counted.
    pub incarnation: u64,
    /// The parent's and one, also across incarnations; 1 for the first.
    pub generation: u64,
    /// Whether it ends its incarnation.
    pub ends: bool,
    /// The edits that it follows, its parent first; at most [`LINEAGE_MAX`].
    pub lineage: Vec<EditId>,
    /// Lost edits that its author, or the author of one that it follows, was shown; at most [`PUT_ASIDE_MAX`].
    pub puts_aside: Vec<EditId>,
    /// When it was made. Decides only between edits that are equal otherwise.
    pub time: Hlc,
    /// Who made it, for people; at most [`AUTHOR_BYTES_MAX`] bytes.
    pub author: String,
}

/// Why an edit is not one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the edit is not valid: {0}; make it with a current `littoral`")]
pub struct InvalidEdit(&'static str);

impl Edit {
    /// The first edit of a key. `now_us` is the time, microseconds since 1970.
    #[must_use]
    pub fn first(now_us: u64, author: String) -> Self {
        let time = Hlc { physical_us: now_us, logical: 0 };
        let (lineage, puts_aside) = (Vec::new(), Vec::new());
        Self { incarnation: 1, generation: 1, ends: false, lineage, puts_aside, time, author }
    }

    /// The next edit, by somebody who has seen this one, which has the id `own`, and the lost ones in `shown`. What is ended
    /// begins anew. A time that is far ahead is not followed.
    #[must_use]
    pub fn next(&self, own: EditId, shown: &[EditId], ends: bool, now_us: u64, author: String) -> Self {
        let mut clock = Clock::default();
        let time = clock.observe(self.time, now_us).unwrap_or_else(|_| clock.tick(now_us));
        let begins = self.ends || self.incarnation == 0;
        let mut puts_aside: Vec<EditId> = shown.iter().chain(&self.puts_aside).copied().collect();
        puts_aside.truncate(PUT_ASIDE_MAX);
        Self {
            incarnation: self.incarnation.saturating_add(u64::from(begins)),
            generation: self.generation.saturating_add(1),
            ends,
            lineage: std::iter::once(own).chain(self.lineage.iter().copied()).take(LINEAGE_MAX).collect(),
            puts_aside,
            time,
            author,
        }
    }

    /// What decides between two edits of a key: the greater holds. An end is stronger than whatever else was made of
    /// the same incarnation, so that what was deleted stays deleted.
    #[must_use]
    pub fn rank(&self, own: EditId) -> (u64, bool, u64, Hlc, &str, EditId) {
        let ended = self.ends && self.incarnation > 0;
        (self.incarnation, ended, self.generation, self.time, &self.author, own)
    }

    /// Whether it was made in the knowledge of another one: follows it, or puts it aside.
    #[must_use]
    pub fn knows(&self, other: &Self, id: EditId) -> bool {
        if self.puts_aside.contains(&id) {
            return true;
        }
        let Some(back) = self.generation.checked_sub(other.generation) else { return false };
        let behind = usize::try_from(back).unwrap_or(usize::MAX);
        behind > LINEAGE_MAX || behind.checked_sub(1).and_then(|at| self.lineage.get(at)) == Some(&id)
    }

    /// Checks what does not depend on others.
    ///
    /// # Errors
    /// Says what is wrong.
    pub fn check(&self) -> Result<(), InvalidEdit> {
        if self.incarnation > NUMBER_MAX || !(1..=NUMBER_MAX).contains(&self.generation) {
            return Err(InvalidEdit("its numbers are out of range"));
        }
        if self.lineage.len() > LINEAGE_MAX || self.puts_aside.len() > PUT_ASIDE_MAX {
            return Err(InvalidEdit("it names too many others"));
        }
        if self.author.is_empty() || self.author.len() > AUTHOR_BYTES_MAX || self.author.contains(char::is_control) {
            return Err(InvalidEdit("its author is not a name"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const A: EditId = EditId([1; 32]);
    const B: EditId = EditId([2; 32]);

    #[test]
    fn an_edit_follows_its_parent_and_begins_anew_after_an_end() {
        let first = Edit::first(5, "ann".to_owned());
        let second = first.next(A, &[], true, 6, "bob".to_owned());
        assert_eq!((second.incarnation, second.generation, second.lineage.as_slice()), (1, 2, &[A][..]));
        let third = second.next(B, &[], false, 7, "ann".to_owned());
        assert_eq!((third.incarnation, third.generation, third.lineage.as_slice()), (2, 3, &[B, A][..]));
        assert!(third.knows(&first, A) && third.knows(&second, B) && !first.knows(&third, EditId([3; 32])));
        assert!(!third.knows(&first, B), "of another one that is as old it knows nothing");
    }

    #[test]
    fn a_time_far_ahead_is_not_followed_and_one_a_little_ahead_is() {
        let ahead = Edit::first(1 << 60, "x".to_owned());
        assert_eq!(ahead.next(A, &[], false, 9, "y".to_owned()).time, Hlc { physical_us: 9, logical: 0 });
        let near = Edit::first(1_000, "x".to_owned());
        assert!(near.next(A, &[], false, 9, "y".to_owned()).time > near.time);
    }

    #[test]
    fn an_id_survives_being_written() {
        let id = EditId([0xab; 32]);
        assert_eq!(id.to_string().parse::<EditId>().unwrap(), id);
        assert!("ab".parse::<EditId>().is_err() && "zz".repeat(32).parse::<EditId>().is_err());
        assert_eq!(id.short(), "abababababab");
    }

    #[test]
    fn numbers_without_a_next_one_are_refused() {
        let good = Edit::first(1, "a".to_owned());
        good.check().unwrap();
        for bad in [
            Edit { generation: u64::MAX, ..good.clone() },
            Edit { generation: 0, ..good.clone() },
            Edit { incarnation: u64::MAX, ..good.clone() },
            Edit { author: "a\nb".to_owned(), ..good.clone() },
            Edit { lineage: vec![A; LINEAGE_MAX + 1], ..good },
        ] {
            bad.check().unwrap_err();
        }
    }
}
