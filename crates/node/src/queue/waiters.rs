//! Who waits for the end of an invocation. The owner of its queue keeps them, so that a commit costs those nothing whose
//! invocations it does not touch, and however many wait, calls find a place before the owner's door.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use littoral_model::id::InvocationId;

/// How many wait at one queue. More are told at once how it stands, as if they had not asked to wait.
pub(super) const WAITERS_MAX: usize = 10_000;

/// Those that wait, each with what it is answered by.
pub(super) struct Waiters<T> {
    /// By a number of its own.
    waiting: BTreeMap<u64, Waiter<T>>,
    by_id: BTreeSet<(InvocationId, u64)>,
    by_end: BTreeSet<(Instant, u64)>,
    next: u64,
}

struct Waiter<T> {
    id: InvocationId,
    until: Instant,
    reply: T,
}

impl<T> Default for Waiters<T> {
    fn default() -> Self {
        Self { waiting: BTreeMap::new(), by_id: BTreeSet::new(), by_end: BTreeSet::new(), next: 0 }
    }
}

impl<T> Waiters<T> {
    /// One waits for the end of an invocation, until then at most; it is given back if too many do.
    pub(super) fn add(&mut self, id: InvocationId, until: Instant, reply: T) -> Result<(), T> {
        if self.waiting.len() >= WAITERS_MAX {
            return Err(reply);
        }
        let number = self.next;
        self.next += 1;
        self.by_id.insert((id, number));
        self.by_end.insert((until, number));
        self.waiting.insert(number, Waiter { id, until, reply });
        Ok(())
    }

    /// Takes out those that wait for an invocation.
    pub(super) fn of(&mut self, id: InvocationId) -> Vec<T> {
        let numbers: Vec<u64> = self.by_id.range((id, 0)..=(id, u64::MAX)).map(|(_, number)| *number).collect();
        numbers.into_iter().filter_map(|number| self.remove(number)).map(|waiter| waiter.reply).collect()
    }

    /// Takes out those that have waited long enough.
    pub(super) fn late(&mut self, now: Instant) -> Vec<(InvocationId, T)> {
        let late = self.by_end.iter().take_while(|(until, _)| *until <= now);
        let numbers: Vec<u64> = late.map(|(_, number)| *number).collect();
        let late = numbers.into_iter().filter_map(|number| self.remove(number));
        late.map(|waiter| (waiter.id, waiter.reply)).collect()
    }

    /// When the first has waited long enough.
    pub(super) fn next(&self) -> Option<Instant> {
        self.by_end.first().map(|(until, _)| *until)
    }

    fn remove(&mut self, number: u64) -> Option<Waiter<T>> {
        let waiter = self.waiting.remove(&number)?;
        self.by_id.remove(&(waiter.id, number));
        self.by_end.remove(&(waiter.until, number));
        Some(waiter)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn id(number: u64) -> InvocationId {
        InvocationId::from_parts(number, 7)
    }

    #[test]
    fn an_end_answers_those_that_wait_for_it_and_time_the_others() {
        let now = Instant::now();
        let at = |seconds| now + Duration::from_secs(seconds);
        let mut waiters = Waiters::default();
        for (of, until, name) in [(1, 9, "a"), (2, 5, "b"), (1, 3, "c")] {
            assert_eq!(waiters.add(id(of), at(until), name), Ok(()));
        }
        assert_eq!(waiters.next(), Some(at(3)));
        assert_eq!(waiters.late(at(2)), []);
        assert_eq!(waiters.of(id(1)), ["a", "c"]);
        assert_eq!((waiters.next(), waiters.late(at(5))), (Some(at(5)), vec![(id(2), "b")]));
        assert_eq!((waiters.next(), waiters.of(id(2))), (None, Vec::new()));
    }

    #[test]
    fn only_so_many_wait() {
        let (now, mut waiters) = (Instant::now(), Waiters::default());
        for number in 0..WAITERS_MAX {
            assert_eq!(waiters.add(id(number as u64), now, number), Ok(()));
        }
        assert_eq!(waiters.add(id(0), now, WAITERS_MAX), Err(WAITERS_MAX));
        assert_eq!(waiters.of(id(7)), [7]);
        assert_eq!(waiters.add(id(0), now, WAITERS_MAX), Ok(()));
    }
}
