//! What a node has offered to schedulers: memory that it keeps free for a while, so that nothing is promised twice.
//!
//! A scheduler calls for bids; the node *offers* memory under a lease, which holds for [`OFFER_MS`]. A *commit* takes what
//! is needed of it, until the deployment is there or [`COMMIT_MS`] have passed and it never came. Until the offer ends the
//! rest of it is kept free all the same: when another node refuses, the next plan may need more of this one. An app takes what intent
//! promises to it or what it has leased, whichever is more: so a lease ends to count once intent says the same, and whoever
//! deploys an app again does not compete with it. Time is the node's own, and never goes back (design, decision 1).

use std::collections::BTreeMap;

use littoral_model::id::AppId;
use serde::{Deserialize, Serialize};

/// How long an offer holds, in milliseconds: a scheduler decides within a second.
pub const OFFER_MS: u64 = 3_000;
/// How long a commit holds without the deployment that it is for, in milliseconds: intent arrives within seconds.
pub const COMMIT_MS: u64 = 60_000;
/// The most leases at once; what is offered beyond is refused.
pub const LEASES_MAX: usize = 256;

/// Names a lease of one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LeaseId(pub u64);

/// What is promised to whom.
#[derive(Clone, Debug, Default)]
pub struct Leases {
    held: BTreeMap<LeaseId, Lease>,
    issued: u64,
}

#[derive(Clone, Debug)]
struct Lease {
    app: AppId,
    /// What is kept free: what was offered, and when the offer has ended what is committed.
    bytes: u64,
    committed_bytes: Option<u64>,
    offered_until_ms: u64,
    until_ms: u64,
}

/// An offer of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Under which a scheduler commits to it.
    pub lease: LeaseId,
    /// How much, in bytes.
    pub bytes: u64,
}

/// Why an offer cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refused {
    /// It has expired, or never was.
    #[error("the offer has expired")]
    Expired,
    /// More is asked for than was offered.
    #[error("it was offered {offered_bytes} bytes")]
    TooMuch {
        /// What was offered.
        offered_bytes: u64,
    },
}

impl Leases {
    /// Offers an app what is free, at most what it asks for; nothing when there are too many leases already. `promised` is
    /// what intent promises to each app, in bytes.
    pub fn offer(
        &mut self,
        now_ms: u64,
        app: &AppId,
        asked_bytes: u64,
        capacity_bytes: u64,
        promised: &BTreeMap<AppId, u64>,
    ) -> Option<Offer> {
        self.expire(now_ms);
        // Its earlier offers were for the same needs; what it has committed to may be for another deployment of it.
        self.held.retain(|_, lease| lease.app != *app || lease.committed_bytes.is_some());
        if self.held.len() >= LEASES_MAX {
            return None;
        }
        let mut taken = self.leased();
        for (app, bytes) in promised {
            let leased = taken.entry(app).or_default();
            *leased = (*leased).max(*bytes);
        }
        taken.remove(app);
        let to_others = taken.into_values().fold(0, u64::saturating_add);
        let bytes = asked_bytes.min(capacity_bytes.saturating_sub(to_others));
        self.issued += 1;
        let lease = LeaseId(self.issued);
        let until_ms = now_ms.saturating_add(OFFER_MS);
        let offered = Lease { app: app.clone(), bytes, committed_bytes: None, offered_until_ms: until_ms, until_ms };
        self.held.insert(lease, offered);
        Some(Offer { lease, bytes })
    }

    /// Takes so much of an offer, in place of what was taken of it before; the rest is given back when the offer ends.
    ///
    /// # Errors
    /// When the offer has expired, or was of less. A commit that is repeated is no error, also when the offer has ended.
    pub fn commit(&mut self, now_ms: u64, lease: LeaseId, bytes: u64) -> Result<(), Refused> {
        self.expire(now_ms);
        let lease = self.held.get_mut(&lease).ok_or(Refused::Expired)?;
        if bytes > lease.bytes {
            return Err(Refused::TooMuch { offered_bytes: lease.bytes });
        }
        lease.committed_bytes = Some(bytes);
        lease.until_ms = now_ms.saturating_add(COMMIT_MS);
        Ok(())
    }

    /// The scheduler has no use for it.
    pub fn release(&mut self, lease: LeaseId) {
        self.held.remove(&lease);
    }

    /// What each app has leased at most, in bytes: of two deployments of one app only one will be.
    fn leased(&self) -> BTreeMap<&AppId, u64> {
        let mut leased: BTreeMap<&AppId, u64> = BTreeMap::new();
        for lease in self.held.values() {
            let bytes = leased.entry(&lease.app).or_default();
            *bytes = (*bytes).max(lease.bytes);
        }
        leased
    }

    fn expire(&mut self, now_ms: u64) {
        self.held.retain(|_, lease| now_ms < lease.until_ms);
        for lease in self.held.values_mut().filter(|lease| now_ms >= lease.offered_until_ms) {
            lease.bytes = lease.committed_bytes.unwrap_or(lease.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn app(number: u8) -> AppId {
        AppId { tenant: "t".parse().unwrap(), app: format!("a{number}").parse().unwrap() }
    }

    const CAPACITY: u64 = 100;

    fn offer(leases: &mut Leases, now_ms: u64, number: u8, asked_bytes: u64) -> Offer {
        leases.offer(now_ms, &app(number), asked_bytes, CAPACITY, &BTreeMap::new()).unwrap()
    }

    #[test]
    fn an_offer_holds_for_a_while_and_a_commit_for_longer() {
        let mut leases = Leases::default();
        let first = offer(&mut leases, 0, 1, 80);
        assert_eq!(first.bytes, 80);
        assert_eq!(offer(&mut leases, 1, 2, 80).bytes, 20, "what is offered is not offered twice");
        assert_eq!(leases.commit(2, first.lease, 90), Err(Refused::TooMuch { offered_bytes: 80 }));
        assert_eq!(leases.commit(2, first.lease, 60), Ok(()));
        assert_eq!(leases.commit(3, first.lease, 60), Ok(()), "the answer to the first may have been lost");
        assert_eq!(offer(&mut leases, OFFER_MS + 1, 3, 80).bytes, 40, "the other offer has expired");
        leases.commit(OFFER_MS + 2, first.lease, 60).unwrap();
        assert_eq!(
            offer(&mut leases, OFFER_MS + 2 + COMMIT_MS, 4, 200).bytes,
            100,
            "one that never came holds nothing"
        );
        assert_eq!(leases.commit(OFFER_MS + 2 + COMMIT_MS, first.lease, 1), Err(Refused::Expired));
    }

    #[test]
    fn a_commit_may_be_raised_to_what_was_offered_until_the_offer_ends() {
        let mut leases = Leases::default();
        let first = offer(&mut leases, 0, 1, 80);
        leases.commit(1, first.lease, 30).unwrap();
        assert_eq!(offer(&mut leases, 2, 2, 80).bytes, 20, "it may yet be needed");
        assert_eq!(leases.commit(3, first.lease, 70), Ok(()));
        assert_eq!(leases.commit(4, first.lease, 50), Ok(()), "and the next plan may need less");
        assert_eq!(leases.commit(OFFER_MS, first.lease, 70), Err(Refused::TooMuch { offered_bytes: 50 }));
        assert_eq!(offer(&mut leases, OFFER_MS, 3, 80).bytes, 30);
    }

    #[test]
    fn a_second_call_for_bids_replaces_the_first_and_what_was_given_back_is_to_be_had() {
        let mut leases = Leases::default();
        let first = offer(&mut leases, 0, 1, 80);
        let second = offer(&mut leases, 1, 1, 90);
        assert_eq!((second.bytes, leases.commit(2, first.lease, 1)), (90, Err(Refused::Expired)));
        leases.release(second.lease);
        assert_eq!(offer(&mut leases, 3, 2, 200).bytes, 100);
    }

    #[test]
    fn what_has_arrived_is_not_counted_twice_and_an_app_does_not_compete_with_itself() {
        let mut leases = Leases::default();
        let first = offer(&mut leases, 0, 1, 60);
        leases.commit(1, first.lease, 60).unwrap();
        let promised = BTreeMap::from([(app(1), 60)]);
        let again = leases.offer(2, &app(1), 80, CAPACITY, &promised).unwrap();
        assert_eq!(again.bytes, 80, "it is deployed anew at once");
        leases.release(again.lease);
        assert_eq!(leases.offer(3, &app(2), 80, CAPACITY, &promised).unwrap().bytes, 40);
    }

    #[test]
    fn leases_are_bounded() {
        let mut leases = Leases::default();
        let app = |number: usize| AppId { tenant: "t".parse().unwrap(), app: format!("a{number}").parse().unwrap() };
        let mut offer = |number| leases.offer(0, &app(number), 1, 1 << 40, &BTreeMap::new());
        assert!((0..LEASES_MAX).all(|number| offer(number).is_some()));
        assert_eq!(offer(255).map(|offer| offer.bytes), Some(1), "its own is replaced");
        assert_eq!(offer(LEASES_MAX), None);
    }

    proptest! {
        /// Whatever schedulers do, and whether what they commit to is deployed or not: all apps together never take more
        /// than the node has.
        #[test]
        fn nothing_is_promised_twice(steps in prop::collection::vec((0..6u8, 0..5u8, 1..120u64, 0..2_000u64), 1..80)) {
            let mut leases = Leases::default();
            let mut now_ms = 0;
            let (mut offers, mut committed) = (Vec::new(), BTreeMap::new());
            let mut promised: BTreeMap<AppId, u64> = BTreeMap::new();
            for (number, what, bytes, passes_ms) in steps {
                now_ms += passes_ms;
                match what {
                    0 | 1 => {
                        let offer = leases.offer(now_ms, &app(number), bytes, CAPACITY, &promised).unwrap();
                        offers.push((number, offer));
                    }
                    2 => if let Some((of, offer)) = offers.pop()
                        && leases.commit(now_ms, offer.lease, bytes.min(offer.bytes)).is_ok()
                    {
                        committed.insert(of, bytes.min(offer.bytes));
                    },
                    // What was committed to arrives while its lease holds.
                    3 => if let Some((of, bytes)) = committed.pop_first() {
                        leases.expire(now_ms);
                        if leases.leased().get(&app(of)).is_some_and(|leased| *leased >= bytes) {
                            promised.insert(app(of), bytes);
                        }
                    },
                    _ => if let Some((_, offer)) = offers.pop() { leases.release(offer.lease) },
                }
                leases.expire(now_ms);
                let mut taken = promised.clone();
                for (app, bytes) in leases.leased() {
                    let all = taken.entry(app.clone()).or_default();
                    *all = (*all).max(bytes);
                }
                prop_assert!(taken.values().sum::<u64>() <= CAPACITY, "{taken:?}");
            }
        }
    }
}
