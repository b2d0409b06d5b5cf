//! Which nodes serve an HTTP function, at first and as things change.
//!
//! A placement says what the function asks of a node, how many nodes are to serve it, and which come first. Each node
//! finds out for itself, from the digests that it sees, whether it is one of them: the first admissible live nodes by an
//! order that is the same everywhere. Nobody is asked, so that it works on both sides of a partition. Nodes that see
//! different digests may for a while think differently. One that does not see an earlier node, or holds it for dead,
//! serves in addition, which harms nobody; one that still sees an earlier node which is gone serves as soon as it has
//! noticed, until which the others serve alone.

use std::collections::BTreeSet;

use littoral_model::id::{FunctionName, NodeId};
use littoral_model::manifest::{Affinity, Scope};
use serde::{Deserialize, Serialize};

use crate::admission::NodeFacts;
use crate::spec::Constraints;

/// What is wanted of an HTTP function.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Serving {
    /// Which function.
    pub function: FunctionName,
    /// The digest of its artefact.
    pub artifact: String,
    /// What each node that serves it has to satisfy.
    pub requires: Constraints,
    /// The memory that an instance may take, in bytes.
    pub memory_bytes: u64,
    /// How many nodes are to serve it.
    pub wanted: u32,
    /// Who comes first: the nodes that served it at first, the best one first.
    pub first: Vec<NodeId>,
}

/// A live node.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    /// Which.
    pub node: &'a NodeId,
    /// What is known of it.
    pub facts: NodeFacts<'a>,
    /// The memory that functions may use there, in bytes.
    pub memory_bytes: u64,
}

impl Serving {
    /// The nodes that are to serve it, of those that live. `located` has the nodes on which another function or stream of
    /// the app is, with their sites.
    pub fn nodes<'a, L>(
        &self,
        live: impl IntoIterator<Item = Candidate<'a>>,
        located: impl Fn(&str) -> L,
    ) -> Vec<&'a NodeId>
    where
        L: IntoIterator<Item = (NodeId, littoral_model::id::SiteId)>,
    {
        let is_there = |affinity: &Affinity, node: &Candidate<'_>| {
            located(&affinity.with).into_iter().any(|(other, site)| match affinity.scope {
                Scope::Node => other == *node.node,
                Scope::Site => site == *node.facts.site,
            })
        };
        let admits = |node: &Candidate<'_>| {
            node.memory_bytes >= self.memory_bytes
                && self.requires.admits(node.facts)
                && self.requires.affinity.iter().all(|affinity| is_there(affinity, node))
                && !self.requires.anti_affinity.iter().any(|affinity| is_there(affinity, node))
        };
        let rank = |node: &NodeId| self.first.iter().position(|first| first == node).unwrap_or(self.first.len());
        let mut ranked: Vec<(usize, u64, Candidate<'a>)> = live
            .into_iter()
            .filter(admits)
            .map(|candidate| (rank(candidate.node), self.spread_by(candidate.node), candidate))
            .collect();
        ranked.sort_by(|a, b| (a.0, a.1, a.2.node).cmp(&(b.0, b.1, b.2.node)));
        let mut chosen: Vec<Candidate<'a>> = Vec::new();
        let wanted = usize::try_from(self.wanted).unwrap_or(usize::MAX);
        for (_, _, candidate) in ranked {
            let spreads = |one: &Candidate<'_>| self.requires.spreads(one.facts.situation, candidate.facts.situation);
            if chosen.len() < wanted && chosen.iter().all(spreads) {
                chosen.push(candidate);
            }
        }
        chosen.into_iter().map(|candidate| candidate.node).collect()
    }

    /// Orders nodes of no preference differently for each function (rendezvous hashing, with FNV-1a), so that not all
    /// functions fall to the same node.
    fn spread_by(&self, node: &NodeId) -> u64 {
        let bytes = self.function.as_str().bytes().chain([0]).chain(node.as_str().bytes());
        bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
    }

    /// The names that it must be with or apart from.
    pub fn related(&self) -> BTreeSet<&str> {
        let all = self.requires.affinity.iter().chain(&self.requires.anti_affinity);
        all.map(|affinity| affinity.with.as_str()).collect()
    }
}
