//! How far guests have come on a thread since it last looked for I/O, and how long calls of a function take. All times are of guests
//! that ran, in nanoseconds.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

/// A slice, and for how long guests run before the thread looks for I/O.
pub(super) const SLICE_NS: u64 = 1_000_000;
/// What a call takes is the mean of so many: some of them have run before they were counted, or run afterwards.
const MEASURED_CALLS: u64 = 64;
/// Or of so many, once they took [`MEASURED_NS`] together: what one call more or less makes does not matter then.
const MEASURED_CALLS_FEW: u64 = 4;
const MEASURED_NS: u64 = 64 * SLICE_NS;

thread_local! {
    static PACE: Cell<Pace> = const { Cell::new(Pace { looked_at_ns: 0, expected_ns: 0 }) };
}

/// How far guests have come.
#[derive(Clone, Copy)]
pub(super) struct Pace {
    looked_at_ns: u64,
    /// What goes on or was begun since is expected to take so long.
    expected_ns: u64,
}

impl Pace {
    /// That of this thread, which may be changed.
    pub(super) fn of_this_thread<R>(act: impl FnOnce(&mut Self) -> R) -> R {
        let mut pace = PACE.get();
        let result = act(&mut pace);
        PACE.set(pace);
        result
    }

    /// The thread has looked for I/O.
    pub(super) fn look(&mut self, ran_ns: u64) {
        (self.looked_at_ns, self.expected_ns) = (ran_ns, 0);
    }

    /// Somebody begins, or goes on, and is expected to take so long.
    pub(super) fn expect(&mut self, takes_ns: u64) {
        self.expected_ns = self.expected_ns.saturating_add(takes_ns);
    }

    /// Whether the thread is to look for I/O before more goes on.
    pub(super) fn is_spent(&self, ran_ns: u64) -> bool {
        ran_ns.saturating_sub(self.looked_at_ns).max(self.expected_ns) >= SLICE_NS
    }
}

/// How long a function's calls took lately.
#[derive(Debug)]
pub(crate) struct Takes {
    call_ns: AtomicU64,
    begun: AtomicU64,
    /// How many had begun, and how long they had run, when this was last measured.
    measured: AtomicU64,
    measured_at_ns: AtomicU64,
}

impl Default for Takes {
    /// Of one of which nothing is known: a slice.
    fn default() -> Self {
        Self {
            call_ns: SLICE_NS.into(),
            begun: AtomicU64::new(0),
            measured: AtomicU64::new(0),
            measured_at_ns: AtomicU64::new(0),
        }
    }
}

impl Takes {
    /// How long a call is expected to take.
    pub(crate) fn expected_ns(&self) -> u64 {
        self.call_ns.load(Ordering::Relaxed)
    }

    /// A call comes, when the function has run for so long in all; how long it is expected to take.
    pub(crate) fn begin(&self, ran_ns: u64) -> u64 {
        let begun = self.begun.fetch_add(1, Ordering::Relaxed);
        let calls = begun.saturating_sub(self.measured.load(Ordering::Relaxed));
        let took_ns = ran_ns.saturating_sub(self.measured_at_ns.load(Ordering::Relaxed));
        if calls >= MEASURED_CALLS || (calls >= MEASURED_CALLS_FEW && took_ns >= MEASURED_NS) {
            // Of two threads that come here at once, one may find nothing left to measure.
            let calls = begun.saturating_sub(self.measured.swap(begun, Ordering::Relaxed));
            let took_ns = ran_ns.saturating_sub(self.measured_at_ns.swap(ran_ns, Ordering::Relaxed));
            if let Some(call_ns) = took_ns.checked_div(calls) {
                self.call_ns.store(call_ns, Ordering::Relaxed);
            }
        }
        self.expected_ns()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_calls_begin_after_a_look_for_io_as_fit_into_a_slice() {
        let (ran_ns, mut begun) = (7 * SLICE_NS, 0);
        let mut pace = Pace { looked_at_ns: 0, expected_ns: 0 };
        assert!(pace.is_spent(ran_ns));
        pace.look(ran_ns);
        while !pace.is_spent(ran_ns) {
            pace.expect(SLICE_NS * 2 / 5);
            begun += 1;
        }
        assert_eq!(begun, 3, "each takes two fifths of a slice");
        pace.look(ran_ns);
        assert!(!pace.is_spent(ran_ns + SLICE_NS - 1) && pace.is_spent(ran_ns + SLICE_NS), "what ran counts, too");
    }

    #[test]
    fn what_a_call_takes_is_the_mean_of_the_latest() {
        let takes = Takes::default();
        let mut ran_ns = 0;
        let mut after = |calls: u64, each_ns: u64| {
            (0..calls).fold(0, |_, _| {
                let expected_ns = takes.begin(ran_ns);
                ran_ns += each_ns;
                expected_ns
            })
        };
        assert_eq!(after(MEASURED_CALLS, 20_000), SLICE_NS, "nothing is known before");
        assert_eq!(after(1, 20_000), 20_000);
        assert_eq!(after(2 * MEASURED_CALLS, 900_000), 900_000);
        after(MEASURED_CALLS, 20 * SLICE_NS);
        assert_eq!(after(MEASURED_CALLS_FEW + 1, 30 * SLICE_NS), 30 * SLICE_NS, "of long calls a few say enough");
    }
}
