//! Whether a request that states a deadline can meet it beside those that were admitted: the test of Sledge (P. K. Gadepalli
//! et al., "Sledge: a Serverless-first, Light-weight Wasm Runtime for the Edge", Middleware 2020).
//!
//! A request with `e` of processor time ahead of it and `d` until its deadline asks for the share `e / d` of a core. As long
//! as the shares add up to no more than the cores, serving the earliest deadline first meets the deadlines (on one core
//! surely: T. Abdelzaher et al., "A Utilization Bound for Aperiodic Tasks", 2004; on several about so). A share is given
//! back at its deadline, and not when its request ends, or those that wait would be overtaken by new ones for ever; but when
//! nothing admitted is left to do, nobody waits, and all are given back. What does not fit is refused at once, when another
//! node or a later moment may still do.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// One core, in the unit of shares: millionths.
const CORE: u64 = 1_000_000;
/// How many admitted requests are remembered; more are refused as if the cores were full. With less than a millionth of a
/// core each, what so many ask for would be lost in rounding.
const ADMITTED_MAX: usize = 100_000;

/// One of so many requests that have too little time by what others took is admitted nevertheless, while nothing else is: what is
/// never tried is never found to be quicker by now.
const TRIED_SHARE: u64 = 16;

/// The requests that were admitted on a node.
#[derive(Debug)]
pub struct Admission {
    cores: u64,
    /// The shares that are taken, by deadline and number.
    shares: BTreeMap<(u64, u64), u64>,
    total: u64,
    running: BTreeSet<u64>,
    numbers: u64,
    /// How many had too little time.
    too_short: u64,
}

/// A request that was admitted; to be given to [`Admission::ended`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admitted(u64);

/// A request that cannot be answered in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It takes longer than it has, on a core of its own.
    #[error("it takes about {} ms of processor time and has {} ms: give it more time", execution.as_millis(), deadline.as_millis())]
    TooShort {
        /// How much processor time it takes.
        execution: Duration,
        /// How long it has.
        deadline: Duration,
    },
    /// Those that were admitted need the cores.
    #[error("the node's cores are promised to requests that came before; try again in {} ms, or at another node", retry_after.as_millis())]
    Full {
        /// By then enough of them have reached their deadlines.
        retry_after: Duration,
    },
}

impl Admission {
    /// Of a node with so many cores.
    #[must_use]
    pub fn new(cores: u32) -> Self {
        let cores = CORE.saturating_mul(cores.max(1).into());
        Self { cores, shares: BTreeMap::new(), total: 0, running: BTreeSet::new(), numbers: 0, too_short: 0 }
    }

    /// Admits a request with so much processor time ahead of it and so long until its deadline. `now_us` is any time that
    /// rises steadily, in microseconds.
    ///
    /// # Errors
    /// When it could not meet its deadline, or would have others miss theirs.
    pub fn admit(&mut self, now_us: u64, execution: Duration, deadline: Duration) -> Result<Admitted, Refused> {
        if execution > deadline || deadline.is_zero() {
            self.too_short += 1;
            let is_tried = self.running.is_empty() && !deadline.is_zero();
            if !(is_tried && self.too_short.is_multiple_of(TRIED_SHARE)) {
                return Err(Refused::TooShort { execution, deadline });
            }
        }
        let execution = execution.min(deadline);
        self.pass(now_us);
        // What was never measured is counted, too.
        let share = execution.as_nanos().saturating_mul(CORE.into()) / deadline.as_nanos().max(1);
        let share = u64::try_from(share).unwrap_or(CORE).max(1);
        if self.total.saturating_add(share) > self.cores || self.shares.len() >= ADMITTED_MAX {
            return Err(Refused::Full {
                retry_after: Duration::from_micros(self.room_us(share).saturating_sub(now_us)),
            });
        }
        self.numbers += 1;
        let until_us = now_us.saturating_add(u64::try_from(deadline.as_micros()).unwrap_or(u64::MAX));
        self.shares.insert((until_us, self.numbers), share);
        self.total += share;
        self.running.insert(self.numbers);
        Ok(Admitted(self.numbers))
    }

    /// A request has ended.
    pub fn ended(&mut self, admitted: Admitted) {
        self.running.remove(&admitted.0);
        if self.running.is_empty() {
            self.shares.clear();
            self.total = 0;
        }
    }

    /// Shares whose deadline has passed are given back.
    fn pass(&mut self, now_us: u64) {
        while let Some((&key, &share)) = self.shares.first_key_value().filter(|((until, _), _)| *until <= now_us) {
            self.shares.remove(&key);
            self.total -= share;
        }
    }

    /// When enough is given back for such a share.
    fn room_us(&self, share: u64) -> u64 {
        let mut left = self.total;
        for ((until, _), given_back) in &self.shares {
            left -= given_back;
            if left.saturating_add(share) <= self.cores {
                return *until;
            }
        }
        0
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn requests_are_admitted_until_their_shares_fill_the_cores() {
        let mut node = Admission::new(2);
        // A fifth of a core each: ten on two cores.
        let admitted: Vec<Admitted> = (0..10).map(|at| node.admit(at * 1_000, ms(10), ms(50)).unwrap()).collect();
        assert_eq!(node.admit(20_000, ms(10), ms(50)), Err(Refused::Full { retry_after: ms(30) }));
        assert_eq!(node.admit(20_000, ms(20), ms(50)), Err(Refused::Full { retry_after: ms(31) }), "two must end");
        node.ended(*admitted.first().unwrap());
        assert!(node.admit(20_000, ms(10), ms(50)).is_err(), "what has ended keeps its share until its deadline");
        assert!(node.admit(50_000, ms(10), ms(50)).is_ok());
        assert!(node.admit(50_000, ms(10), ms(50)).is_err());
    }

    #[test]
    fn when_nothing_is_left_to_do_everything_is_free() {
        let mut node = Admission::new(1);
        let both = [node.admit(0, ms(50), ms(100)).unwrap(), node.admit(0, ms(50), ms(100)).unwrap()];
        assert!(node.admit(1, ms(50), ms(100)).is_err());
        both.into_iter().for_each(|admitted| node.ended(admitted));
        assert!(node.admit(2, ms(100), ms(100)).is_ok());
    }

    #[test]
    fn one_of_those_that_take_too_long_is_tried_now_and_then() {
        let mut node = Admission::new(1);
        let admitted = (0..2 * TRIED_SHARE).filter(|_| match node.admit(0, ms(600), ms(250)) {
            Ok(admitted) => {
                node.ended(admitted);
                true
            }
            Err(refused) => refused != Refused::TooShort { execution: ms(600), deadline: ms(250) },
        });
        assert_eq!(admitted.count(), 2);
        let _busy = node.admit(0, ms(1), ms(250)).unwrap();
        assert!((0..TRIED_SHARE).all(|_| node.admit(0, ms(600), ms(250)).is_err()));
    }

    #[test]
    fn a_request_that_cannot_make_it_alone_is_refused_on_an_idle_node() {
        let refused = Admission::new(64).admit(0, ms(60), ms(50)).unwrap_err();
        assert_eq!(refused, Refused::TooShort { execution: ms(60), deadline: ms(50) });
        assert!(refused.to_string().contains("60 ms") && refused.to_string().contains("50 ms"));
        assert!(Admission::new(64).admit(0, Duration::ZERO, Duration::ZERO).is_err());
    }

    #[test]
    fn those_that_were_admitted_are_bounded() {
        let mut node = Admission::new(64);
        assert!((0..ADMITTED_MAX).all(|_| node.admit(0, Duration::ZERO, ms(50)).is_ok()));
        assert!(matches!(node.admit(0, Duration::ZERO, ms(50)), Err(Refused::Full { .. })));
        assert!(node.admit(50_000, Duration::ZERO, ms(50)).is_ok());
    }

    /// The claim behind the test, on one core: whatever is admitted is done by its deadline if the earliest goes first. Arrivals
    /// and needs are drawn from seeds, in steps of a millisecond.
    #[test]
    fn whatever_is_admitted_meets_its_deadline_earliest_first() {
        let (mut refused, mut met) = (0, 0);
        for seed in 0..20_u64 {
            let mut draw = seed;
            let mut drawn = |below: u64| {
                draw = draw.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (draw >> 33) % below
            };
            let (mut node, mut running) = (Admission::new(1), Vec::<(u64, u64, Admitted)>::new());
            for now in 0..5_000 {
                if drawn(4) == 0 {
                    let (execution, deadline) = (1 + drawn(20), 5 + drawn(200));
                    match node.admit(now * 1_000, ms(execution), ms(deadline)) {
                        Ok(admitted) => running.push((now + deadline, execution, admitted)),
                        Err(_) => refused += 1,
                    }
                }
                running.sort_by_key(|(due, ..)| *due);
                if let Some((_, left, _)) = running.first_mut() {
                    *left -= 1;
                }
                running.retain(|(due, left, admitted)| {
                    assert!(*due > now || *left == 0, "seed {seed}: missed by {left} ms at {now}");
                    if *left == 0 {
                        node.ended(*admitted);
                        met += 1;
                    }
                    *left > 0
                });
            }
        }
        assert!(refused > 1_000 && met > 1_000, "{refused} refused, {met} met");
    }
}
