//! Merging of intent: edits of one key, made anywhere and heard of in any order and any number of times, come to the same
//! result on every node.
//!
//! Of all edits of a key only the tips are kept: those that no other was made in the knowledge of. The greatest by
//! [`Edit::rank`] holds; the others lost to it without their author knowing, and are kept to be shown. Which they are
//! depends on the set of edits alone, so merging is commutative, associative and idempotent. Where more than [`LOST_MAX`]
//! are lost the least of them are forgotten; what holds is not touched by that.

use littoral_model::edit::{Edit, EditId};

/// How many lost edits of a key are kept: as many people as one would talk to about it.
pub const LOST_MAX: usize = 8;

/// An edit with what it says; whoever keeps it decides what that is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version<T> {
    /// Its id.
    pub id: EditId,
    /// Its place among the others.
    pub edit: Edit,
    /// What it says, as it was signed.
    pub says: T,
}

/// What is known of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tips<T> {
    /// The greatest first.
    tips: Vec<Version<T>>,
}

impl<T> Default for Tips<T> {
    fn default() -> Self {
        Self { tips: Vec::new() }
    }
}

/// What became of an edit that was merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Merged {
    /// It was known, or another one was made in its knowledge.
    Old,
    /// It holds now.
    Holds,
    /// Another one holds, whose author did not know it.
    Lost,
}

impl<T> Tips<T> {
    /// Takes in an edit.
    pub fn merge(&mut self, version: Version<T>) -> Merged {
        let is_old = |tip: &Version<T>| tip.id == version.id || tip.edit.knows(&version.edit, version.id);
        if self.tips.iter().any(is_old) {
            return Merged::Old;
        }
        let id = version.id;
        self.tips.retain(|tip| !version.edit.knows(&tip.edit, tip.id));
        let rank = version.edit.rank(id);
        let at = self.tips.partition_point(|tip| tip.edit.rank(tip.id) > rank);
        self.tips.insert(at, version);
        self.tips.truncate(1 + LOST_MAX);
        match self.tips.iter().position(|tip| tip.id == id) {
            Some(0) => Merged::Holds,
            Some(_) => Merged::Lost,
            None => Merged::Old,
        }
    }

    /// What holds; none before the first edit.
    #[must_use]
    pub fn holds(&self) -> Option<&Version<T>> {
        self.tips.first()
    }

    /// What lost to it unknown to its author, the greatest first.
    #[must_use]
    pub fn lost(&self) -> &[Version<T>] {
        self.tips.get(1..).unwrap_or_default()
    }

    /// All of it.
    #[must_use]
    pub fn all(&self) -> &[Version<T>] {
        &self.tips
    }
}
