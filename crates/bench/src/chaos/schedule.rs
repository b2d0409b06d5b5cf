//! What is done to the nodes, in an order that a seed decides: every disturbance that is in bounds once, shuffled, then
//! again.
//!
//! One disturbance at a time, and the next only when all has resumed and every record has its copies again. Out of bounds
//! is what nobody can survive, or what somebody has asked not to survive:
//!
//! * wiping a device: what it acknowledged is on its disk alone (`ack = "local"`), which the app's manifest asks for;
//! * wiping the node that made the fabric: nobody else can let a replacement in, as the manual says;
//! * striking a second node of a site while the first is away: of two copies both would be gone, of three voters two.

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;

use super::nodes::{ROLES, Role};

/// What happens to a node or a site.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// The process is killed, and started again from its disk later.
    Kill,
    /// The process stands still for a while.
    Pause,
    /// The process is killed and its disk lost; the node is shut out and another one takes its place.
    Wipe,
    /// All links between the site, with the devices beside it, and others are cut, and healed later.
    Cut,
}

impl Kind {
    pub(super) const ALL: [Self; 4] = [Self::Kill, Self::Pause, Self::Wipe, Self::Cut];

    /// What it is called, and what its end is.
    pub(super) fn names(self) -> [&'static str; 2] {
        match self {
            Self::Kill => ["kill", "restart"],
            Self::Pause => ["pause", "continue"],
            Self::Wipe => ["wipe", "replace"],
            Self::Cut => ["cut", "heal"],
        }
    }
}

/// One disturbance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Disturbance {
    pub(super) kind: Kind,
    /// The number of the struck node; of a cut, of any node of the site.
    pub(super) slot: usize,
}

impl Disturbance {
    fn role(self) -> Option<&'static Role> {
        ROLES.get(self.slot)
    }

    /// Whom it strikes.
    pub(super) fn target(self) -> &'static str {
        self.role().map_or("", |role| if self.kind == Kind::Cut { role.site } else { role.name })
    }
}

/// Disturbances without end.
pub(super) struct Schedule {
    random: StdRng,
    deck: Vec<Disturbance>,
}

impl Schedule {
    pub(super) fn new(seed: u64) -> Self {
        Self { random: StdRng::seed_from_u64(seed), deck: Vec::new() }
    }

    /// The first of each kind on a node that has work, for the short form.
    pub(super) fn short(seed: u64) -> Vec<Disturbance> {
        let mut schedule = Self::new(seed);
        schedule.shuffle();
        let with_work = |d: &&Disturbance| d.role().is_some_and(|role| role.site.starts_with("hall"));
        Kind::ALL
            .iter()
            .filter_map(|kind| schedule.deck.iter().filter(with_work).find(|d| d.kind == *kind))
            .copied()
            .collect()
    }

    fn shuffle(&mut self) {
        self.deck = all();
        self.deck.shuffle(&mut self.random);
    }
}

impl Iterator for Schedule {
    type Item = Disturbance;

    fn next(&mut self) -> Option<Disturbance> {
        if self.deck.is_empty() {
            self.shuffle();
        }
        self.deck.pop()
    }
}

/// Every disturbance in bounds.
fn all() -> Vec<Disturbance> {
    let mut found = Vec::new();
    for (slot, role) in ROLES.iter().enumerate() {
        found.extend([Kind::Kill, Kind::Pause].map(|kind| Disturbance { kind, slot }));
        if slot != 0 && role.tier != "device" {
            found.push(Disturbance { kind: Kind::Wipe, slot });
        }
        if ROLES.iter().position(|other| other.site == role.site) == Some(slot) {
            found.push(Disturbance { kind: Kind::Cut, slot });
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_disturbances_and_all_come() {
        let first = |seed| Schedule::new(seed).take(all().len()).collect::<Vec<_>>();
        assert_eq!(first(1), first(1));
        assert_ne!(first(1), first(2));
        assert!(all().iter().all(|disturbance| first(1).contains(disturbance)));
    }

    #[test]
    fn no_only_copy_is_wiped() {
        let is_only = |d: &Disturbance| d.role().is_some_and(|role| role.tier == "device" || role.name == "cloud-1");
        assert!(all().iter().all(|disturbance| disturbance.kind != Kind::Wipe || !is_only(disturbance)));
    }

    #[test]
    fn the_short_form_has_each_kind_once() {
        let kinds: Vec<Kind> = Schedule::short(7).iter().map(|disturbance| disturbance.kind).collect();
        assert_eq!(kinds, Kind::ALL);
    }
}
