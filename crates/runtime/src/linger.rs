//! Looking for work a while before sleeping, where work has come that soon.
//!
//! To be woken takes a thread as long as a short request does: 5 to 50 µs, most in a virtual machine whose processor has gone to sleep. So
//! a thread that had to wait for less than that last time looks for more before it sleeps, and one that had to wait for longer sleeps at
//! once: what is looked for in vain is [`PATIENCE`] once in a burst of work. It is what the guests of KVM do before a processor halts
//! (Linux, `Documentation/virt/guest-halt-polling.rst`), one level further up. A thread that others wait behind does not look on.
//!
//! What counts as work is said by who takes it in, with [`came`]: a request, a call from another thread, a message of another node. Timers
//! and commits do not.

use std::cell::{Cell, OnceCell};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::Waker;
use std::time::{Duration, Instant};

/// For how long a thread looks for work: some times of what it takes to wake one, so that a call to a near node is waited for, too.
const PATIENCE: Duration = Duration::from_micros(100);
/// Whoever gives way and has its processor back later than this had somebody behind it, and whoever looks again only after it did something
/// else meanwhile. To give way to nobody takes under a microsecond, and so does a look.
const GAVE_WAY: Duration = Duration::from_micros(20);

thread_local! {
    static OF_THIS_THREAD: OnceCell<Lingering> = const { OnceCell::new() };
}

/// Says that what this thread had waited for has come.
pub(crate) fn came() {
    OF_THIS_THREAD.with(|this| this.get().map(|lingering| lingering.came(Instant::now)));
}

/// Has this thread linger from now on, as long as it may. `waker` has its runtime look for I/O once more instead of sleeping.
pub(crate) fn begin(shared: Arc<Shared>, waker: Waker) {
    // A thread has one runtime, and its first waker is that of all.
    let _ = OF_THIS_THREAD.with(|this| this.set(Lingering::new(shared, waker)));
}

/// What a thread does whose runtime has nothing to do: looks once more, or nothing, so that it sleeps.
pub(crate) fn rest() {
    OF_THIS_THREAD.with(|this| {
        let Some(lingering) = this.get() else { return };
        let look = lingering.look(Instant::now, std::thread::yield_now);
        if look {
            lingering.waker.wake_by_ref();
        }
    });
}

/// Whether threads of this process may linger at all: not on a single processor, where who looks for work keeps others from making it, nor
/// where a control group has less than the processors that it sees, so that what is looked for is taken from what is done.
pub(crate) fn is_affordable() -> bool {
    static IS_AFFORDABLE: OnceLock<bool> = OnceLock::new();
    *IS_AFFORDABLE.get_or_init(|| {
        let seen = rustix::thread::sched_getaffinity(None).map_or(1, |processors| processors.count() as usize);
        // This knows of quotas.
        std::thread::available_parallelism().is_ok_and(|may_use| may_use.get() > 1 && may_use.get() >= seen)
    })
}

/// What a thread's lingering has to do with others.
#[derive(Default)]
pub(crate) struct Shared {
    /// Not where it would empty a battery.
    pub(crate) may: AtomicBool,
    /// For how long it has lingered so far.
    pub(crate) nanoseconds: AtomicU64,
}

/// A pause of a thread.
#[derive(Clone, Copy)]
struct Rest {
    since: Instant,
    /// When it looked for work last.
    looked: Instant,
    /// Whether it looks for work still.
    lingers: bool,
}

/// What a thread knows of its last rests.
struct Lingering {
    shared: Arc<Shared>,
    waker: Waker,
    /// Where it has had nothing to do since work last came.
    rest: Cell<Option<Rest>>,
    /// Whether it is worth while, by what was last.
    is_worth: Cell<bool>,
}

impl Lingering {
    fn new(shared: Arc<Shared>, waker: Waker) -> Self {
        Self { shared, waker, rest: Cell::default(), is_worth: Cell::default() }
    }

    fn came(&self, now: impl Fn() -> Instant) {
        let Some(rest) = self.rest.take() else { return };
        self.is_worth.set(now().saturating_duration_since(rest.since) <= PATIENCE);
        if rest.lingers {
            self.count(rest);
        }
    }

    /// Whether to look once more for work.
    fn look(&self, now: impl Fn() -> Instant, give_way: impl Fn()) -> bool {
        let begun = now();
        let Some(rest) = self.rest.get() else {
            let lingers = self.is_worth.get() && self.shared.may.load(Ordering::Relaxed);
            self.rest.set(Some(Rest { since: begun, looked: begun, lingers }));
            return lingers;
        };
        if !rest.lingers {
            return false;
        }
        let has_looked_on = begun.saturating_duration_since(rest.looked) <= GAVE_WAY;
        if has_looked_on && begun.saturating_duration_since(rest.since) <= PATIENCE {
            give_way();
            let looked = now();
            if looked.saturating_duration_since(begun) <= GAVE_WAY {
                self.rest.set(Some(Rest { looked, ..rest }));
                return true;
            }
        }
        self.rest.set(Some(Rest { lingers: false, ..rest }));
        self.count(rest);
        false
    }

    /// Counts a rest up to its last look: what was done since is none.
    fn count(&self, rest: Rest) {
        let lingered = rest.looked.saturating_duration_since(rest.since);
        self.shared.nanoseconds.fetch_add(u64::try_from(lingered.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A thread's clock, and how long it gives way.
    struct Thread {
        lingering: Lingering,
        epoch: Instant,
        passed: Cell<Duration>,
    }

    impl Thread {
        fn new() -> Self {
            let shared = Shared { may: AtomicBool::new(true), ..Shared::default() };
            let lingering = Lingering::new(Arc::new(shared), Waker::noop().clone());
            Self { lingering, epoch: Instant::now(), passed: Cell::default() }
        }

        fn lingered_us(&self) -> u64 {
            self.lingering.shared.nanoseconds.load(Ordering::Relaxed) / 1_000
        }

        fn pass(&self, us: u64) {
            self.passed.set(self.passed.get() + Duration::from_micros(us));
        }

        fn now(&self) -> Instant {
            self.epoch + self.passed.get()
        }

        /// Work comes so many microseconds after there was none.
        fn waits(&self, us: u64) {
            self.lingering.look(|| self.now(), || ());
            self.pass(us);
            self.lingering.came(|| self.now());
        }

        fn looks(&self, gives_way_us: u64) -> bool {
            self.lingering.look(|| self.now(), || self.pass(gives_way_us))
        }
    }

    #[test]
    fn a_thread_looks_for_work_where_the_last_came_soon_and_not_for_ever() {
        let thread = Thread::new();
        assert!(!thread.looks(0), "nothing has come yet");
        thread.waits(40);
        assert!(thread.looks(0));
        for _ in 0..10 {
            thread.pass(10);
            assert!(thread.looks(0));
        }
        thread.pass(10);
        assert!(!thread.looks(0), "it has looked for long enough");
        assert_eq!(thread.lingered_us(), 100);
        thread.pass(1_000);
        assert!(!thread.looks(0), "who was woken by a timer has not got work");
        thread.lingering.came(|| thread.now());
        assert!(!thread.looks(0), "the last came late");
        assert_eq!(thread.lingered_us(), 100);
    }

    #[test]
    fn a_thread_that_somebody_waits_behind_sleeps() {
        let thread = Thread::new();
        thread.waits(40);
        assert!(thread.looks(0), "it looks for I/O before it gives way");
        assert!(thread.looks(1));
        assert!(!thread.looks(50));
        assert!(!thread.looks(0), "nor does it look again in this rest");
        thread.lingering.came(|| thread.now());
        assert!(thread.looks(0), "work came soon again");
        assert_eq!(thread.lingered_us(), 1);
    }

    #[test]
    fn what_a_thread_does_between_two_looks_is_no_rest() {
        let thread = Thread::new();
        thread.waits(40);
        assert!(thread.looks(0));
        thread.pass(10);
        assert!(thread.looks(0));
        // Something else than work has come, and takes its time.
        thread.pass(10_000);
        assert!(!thread.looks(0), "it had something to do");
        assert_eq!(thread.lingered_us(), 10);
        thread.lingering.came(|| thread.now());
        thread.waits(40);
        assert!(thread.looks(0));
        thread.pass(10);
        assert!(thread.looks(0));
        thread.pass(10_000);
        thread.lingering.came(|| thread.now());
        assert_eq!(thread.lingered_us(), 20);
    }

    #[test]
    fn a_thread_that_may_not_does_not() {
        let thread = Thread::new();
        thread.waits(40);
        thread.lingering.shared.may.store(false, Ordering::Relaxed);
        assert!(!thread.looks(0));
    }
}
