//! Which instances of a function answer a request, in the order in which they are asked.
//!
//! Near instances come first: those of one's own site, and those as near as if they were. Of these, two are drawn and
//! the one with the lower predicted latency is asked (the power of two choices: Mitzenmacher 2001), so that many nodes
//! with the same, slightly old, view of loads do not all run to the same one. When nothing near can serve, the request
//! escalates up the hierarchy, a tier at a time, and only then to anyone. Requests with a key go to the instance that
//! wins the rendezvous of the key (Thaler and Ravishankar 1998): it stays the same while it lives, and when it dies
//! only its keys move.

use std::cmp::Ordering;

use littoral_model::id::{NodeId, SiteId, Tier};

/// The most instances that are asked for one request: with more, a request that nobody can answer would keep them all
/// busy.
pub const TRIES_MAX: usize = 4;
/// Nodes of other sites within this round trip, in microseconds, are as near as those of one's own: two sites of one
/// town.
pub const NEAR_RTT_US: u64 = 5_000;

/// Who asks, and for what.
#[derive(Clone, Copy, Debug)]
pub struct Asking<'a> {
    /// The node that has the request.
    pub node: &'a NodeId,
    /// Its site.
    pub site: &'a SiteId,
    /// Its tier.
    pub tier: Tier,
    /// Requests with the same key go to the same instance.
    pub key: Option<&'a str>,
    /// The latency that would do, in microseconds; an instance that would take longer cannot serve.
    pub budget_us: u64,
    /// A random number, another one for each request.
    pub draw: u64,
}

/// An instance of the function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The node that serves it.
    pub node: NodeId,
    /// Its site.
    pub site: SiteId,
    /// Its tier.
    pub tier: Tier,
    /// The round trip to it, in microseconds.
    pub rtt_us: u64,
    /// How long it takes for one request alone, in microseconds.
    pub execution_us: u64,
    /// How many requests it has now.
    pub queue: u32,
    /// How many it works on at the same time without slowing down.
    pub cores: u32,
    /// Whether it answers at all, as far as is known: it did not fail just now, and has room.
    pub is_able: bool,
}

impl Candidate {
    /// How long a request would take, in microseconds: the way, and the work with what is ahead of it.
    #[must_use]
    pub fn predicted_us(&self) -> u64 {
        let cores = u64::from(self.cores.max(1));
        let turns = cores.saturating_add(u64::from(self.queue));
        self.rtt_us.saturating_add(self.execution_us.saturating_mul(turns) / cores)
    }
}

/// How far up an instance is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ring {
    /// Of the same site, or as near.
    Near,
    /// Of a tier above.
    Above(Tier),
    /// Anyone else.
    Anyone,
}

/// An instance to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The node.
    pub node: NodeId,
    /// How far up it is.
    pub ring: Ring,
    /// How long it would take, in microseconds.
    pub predicted_us: u64,
}

/// The instances to ask, one after the other, at most [`TRIES_MAX`]. Those that cannot serve come last: what is known of
/// them may be old.
#[must_use]
pub fn order(asking: &Asking<'_>, candidates: Vec<Candidate>) -> Vec<Choice> {
    let mut ranked: Vec<Ranked> = candidates.into_iter().map(|candidate| Ranked::new(asking, candidate)).collect();
    ranked.sort();
    if asking.key.is_none() {
        draw_two(asking, &mut ranked);
    }
    ranked.truncate(TRIES_MAX);
    ranked.into_iter().map(|ranked| ranked.choice).collect()
}

/// How long to wait for an answer before another instance is asked as well, in microseconds: as long as 95 of 100
/// requests take (Dean and Barroso 2013). A guess of the execution is doubled, for it is no measurement.
#[must_use]
pub fn hedge_after_us(rtt_us: u64, p95_us: Option<u64>, guess_us: u64) -> u64 {
    rtt_us.saturating_add(p95_us.unwrap_or(guess_us.saturating_mul(2)))
}

/// Whether an instance can serve.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Standing {
    Able,
    /// It would take longer than would do.
    Late,
    /// It does not answer, or has no room.
    Unable,
}

#[derive(PartialEq, Eq)]
struct Ranked {
    standing: Standing,
    /// The higher, the sooner; 0 without a key.
    rendezvous: u64,
    choice: Choice,
}

impl Ranked {
    fn new(asking: &Asking<'_>, candidate: Candidate) -> Self {
        let predicted_us = candidate.predicted_us();
        // A key stays where it is though it is slow there: what is kept there is worth more.
        let is_late = asking.key.is_none() && predicted_us > asking.budget_us;
        let rendezvous = asking.key.map_or(0, |key| weight(key, &candidate.node));
        // Nor does it move with each measurement of a round trip: only where an instance is counts for it.
        let is_near = candidate.site == *asking.site || (asking.key.is_none() && candidate.rtt_us <= NEAR_RTT_US);
        let ring = if is_near {
            Ring::Near
        } else if candidate.tier > asking.tier {
            Ring::Above(candidate.tier)
        } else {
            Ring::Anyone
        };
        let standing = match (candidate.is_able, is_late) {
            (false, _) => Standing::Unable,
            (true, true) => Standing::Late,
            (true, false) => Standing::Able,
        };
        Self { standing, rendezvous, choice: Choice { node: candidate.node, ring, predicted_us } }
    }

    /// Whether two are in one group, of which any may be taken.
    fn is_like(&self, other: &Self) -> bool {
        (self.standing, self.choice.ring) == (other.standing, other.choice.ring)
    }
}

impl Ord for Ranked {
    fn cmp(&self, other: &Self) -> Ordering {
        let key = |ranked: &Self| (ranked.standing, ranked.choice.ring, !ranked.rendezvous, ranked.choice.predicted_us);
        key(self).cmp(&key(other)).then_with(|| self.choice.node.cmp(&other.choice.node))
    }
}

impl PartialOrd for Ranked {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Puts the better of two drawn ones of the first group first. Oneself is always one of the two: the way there is free.
fn draw_two(asking: &Asking<'_>, ranked: &mut [Ranked]) {
    let Some(first) = ranked.first() else { return };
    let size = ranked.iter().take_while(|other| other.is_like(first)).count() as u64;
    let at = |number: u64| usize::try_from(number).unwrap_or(0);
    let one = ranked.iter().position(|ranked| ranked.choice.node == *asking.node);
    let one = one.filter(|one| (*one as u64) < size).unwrap_or(at(asking.draw % size));
    // Another one than the first.
    let step = if size > 1 { 1 + (asking.draw / size) % (size - 1) } else { 0 };
    let two = at((one as u64 + step) % size);
    // They are sorted: of the two, the first is the better.
    let best = one.min(two);
    if let Some(group) = ranked.get_mut(..=best) {
        group.rotate_right(1);
    }
}

/// The weight of a node for a key; all nodes compute the same.
fn weight(key: &str, node: &NodeId) -> u64 {
    let bytes = key.bytes().chain([0]).chain(node.as_str().bytes());
    let hash =
        bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    // FNV-1a alone hardly mixes the last bytes, in which names of nodes differ; the finaliser of SplitMix64 does.
    let hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

#[cfg(test)]
#[path = "route_tests.rs"]
mod tests;
