//! What functions use, measured: the CPU time of their guests, what memory these hold and how long, bytes and calls.
//!
//! CPU time is read from the clock of the thread (`CLOCK_THREAD_CPUTIME_ID`), before and after each poll of a guest: two
//! system calls of some 0.2 µs. Where the poll of one guest polls another one's, each is charged with its own part only.
//! Counters are atomics; nothing on the way of a request takes a lock.

use std::cell::Cell;
use std::pin::pin;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use littoral_model::manifest::Priority;
use rustix::time::{ClockId, clock_gettime};

use crate::logs::Allowance;
use crate::turns::Function;

/// What one function has used on this node since the process started. Shared by all of its instances.
#[derive(Debug, Default)]
pub struct Usage {
    cpu_ns: AtomicU64,
    memory_byte_us: AtomicU64,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    invocations: AtomicU64,
    /// The memories of instances that may live longer than a call.
    lasting: Mutex<Vec<Weak<Instance>>>,
    /// What it may still write to its log.
    allowance: Arc<Allowance>,
    /// Which guests it goes before; as a number of [`PRIORITIES`].
    priority: AtomicU8,
    /// What this is a part of: what is measured elsewhere counts there, too.
    whole: Option<Arc<Usage>>,
}

/// The first is that of a function of which nothing is said.
const PRIORITIES: [Priority; 3] = [Priority::Normal, Priority::Low, Priority::High];

/// What a function has used, at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct UsageTotals {
    /// CPU time, in nanoseconds.
    pub cpu_ns: u64,
    /// Memory times time, in byte-microseconds; it wraps around, so that only differences mean anything.
    pub memory_byte_us: u64,
    /// Bytes of the bodies of requests, or of rows handed in.
    pub bytes_in: u64,
    /// Bytes of the bodies of responses, or of rows put out.
    pub bytes_out: u64,
    /// Requests, or batches of rows.
    pub invocations: u64,
}

impl Usage {
    /// That of a part of a function, of which is known apart from the rest what was [measured elsewhere](Usage::used).
    #[must_use]
    pub fn part_of(whole: Arc<Self>) -> Self {
        Self { whole: Some(whole), ..Self::default() }
    }

    /// Counts a call.
    pub fn invoked(&self) {
        self.invocations.fetch_add(1, Ordering::Relaxed);
    }

    /// How much CPU time a call has taken on average, when `running` of those that were counted have not ended: what they
    /// have used so far makes it rather more.
    #[must_use]
    pub fn mean_cpu(&self, running: u64) -> Duration {
        let calls = self.invocations.load(Ordering::Relaxed).saturating_sub(running).max(1);
        Duration::from_nanos(self.cpu_ns.load(Ordering::Relaxed) / calls)
    }

    /// Which guests it goes before where they wait for their turns, from now on.
    pub fn set_priority(&self, priority: Priority) {
        let number = PRIORITIES.iter().position(|one| *one == priority).unwrap_or(0);
        self.priority.store(number as u8, Ordering::Relaxed);
    }

    fn priority(&self) -> Priority {
        PRIORITIES.get(usize::from(self.priority.load(Ordering::Relaxed))).copied().unwrap_or_default()
    }

    /// Counts bytes that came in.
    pub fn received(&self, bytes: u64) {
        self.bytes_in.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts bytes that went out.
    pub fn sent(&self, bytes: u64) {
        self.bytes_out.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts what was measured elsewhere, as of a container: CPU time, and memory times the time that it was held.
    pub fn used(&self, cpu: Duration, memory_bytes: u64, held: Duration) {
        if let Some(whole) = &self.whole {
            whole.used(cpu, memory_bytes, held);
        }
        let saturated = |number: u128| u64::try_from(number).unwrap_or(u64::MAX);
        self.cpu_ns.fetch_add(saturated(cpu.as_nanos()), Ordering::Relaxed);
        let byte_us = u128::from(memory_bytes).saturating_mul(held.as_micros());
        self.memory_byte_us.fetch_add(saturated(byte_us), Ordering::Relaxed);
    }

    /// What was used until now. The memory of an instance that lives for one request only is counted when it ends.
    #[must_use]
    pub fn now(&self) -> UsageTotals {
        self.lasting.lock().unwrap_or_else(PoisonError::into_inner).retain(|instance| match instance.upgrade() {
            Some(instance) => {
                instance.count_memory();
                true
            }
            None => false,
        });
        UsageTotals {
            cpu_ns: self.cpu_ns.load(Ordering::Relaxed),
            memory_byte_us: self.memory_byte_us.load(Ordering::Relaxed),
            bytes_in: self.bytes_in.load(Ordering::Relaxed),
            bytes_out: self.bytes_out.load(Ordering::Relaxed),
            invocations: self.invocations.load(Ordering::Relaxed),
        }
    }

    fn keep(&self, instance: &Arc<Instance>) {
        let mut lasting = self.lasting.lock().unwrap_or_else(PoisonError::into_inner);
        lasting.retain(|instance| instance.strong_count() > 0);
        lasting.push(Arc::downgrade(instance));
    }
}

/// Microseconds since this was first asked.
fn now_us() -> u64 {
    static ZERO: LazyLock<Instant> = LazyLock::new(Instant::now);
    u64::try_from(ZERO.elapsed().as_micros()).unwrap_or(u64::MAX)
}

/// How much CPU time the calling thread has used, in nanoseconds.
#[must_use]
pub(crate) fn thread_cpu_ns() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    // Neither is ever negative.
    (time.tv_sec as u64).saturating_mul(1_000_000_000).saturating_add(time.tv_nsec as u64)
}

thread_local! {
    /// What was charged on this thread within the poll that is under way; outside of any, in all.
    static CHARGED_NS: Cell<u64> = const { Cell::new(0) };
}

/// How long all guests ran on the calling thread that are not in the midst of a poll, in nanoseconds.
pub(crate) fn charged_ns() -> u64 {
    CHARGED_NS.get()
}

tokio::task_local! {
    /// The meter of the task of an instance that Wasmtime's machinery makes and runs.
    static OF_TASK: Meter;
}

/// Measures one instance. Clones are of the same instance.
#[derive(Debug, Clone)]
pub(crate) struct Meter(Arc<Instance>);

#[derive(Debug)]
struct Instance {
    usage: Arc<Usage>,
    /// The memory that it holds now.
    held_bytes: AtomicU64,
    /// Until when that is counted.
    counted_until_us: AtomicU64,
    /// What the instance used in polls that are over.
    spent_ns: AtomicU64,
    /// What it had used when its latest call began.
    spent_before_ns: AtomicU64,
    /// The thread's clock when the poll under way, or what led to it, began; 0 if none is.
    begun_ns: AtomicU64,
}

impl Meter {
    /// Of a new instance; `None` measures for nobody, for instance a command that is run once.
    pub(crate) fn new(usage: Option<&Arc<Usage>>) -> Self {
        Self(Arc::new(Instance {
            usage: usage.cloned().unwrap_or_default(),
            held_bytes: AtomicU64::new(0),
            counted_until_us: AtomicU64::new(now_us()),
            spent_ns: AtomicU64::new(0),
            spent_before_ns: AtomicU64::new(0),
            begun_ns: AtomicU64::new(0),
        }))
    }

    /// Whose instance it is; one that measures for nobody is a function of its own.
    pub(crate) fn function(&self) -> Function {
        Function { number: Arc::as_ptr(&self.0.usage).addr(), priority: self.0.usage.priority() }
    }

    /// What the function may still write to its log.
    pub(crate) fn allowance(&self) -> Arc<Allowance> {
        Arc::clone(&self.0.usage.allowance)
    }

    /// The meter of this task, if it is one of [`Meter::over_task`].
    pub(crate) fn of_task() -> Option<Self> {
        OF_TASK.try_with(Clone::clone).ok()
    }

    /// Its memory is counted each time somebody asks, too: it lives for longer than a call.
    pub(crate) fn lasts(&self) {
        self.0.usage.keep(&self.0);
    }

    /// The instance holds so much memory from now on, in bytes.
    pub(crate) fn holds(&self, bytes: u64) {
        self.0.count_memory();
        self.0.held_bytes.store(bytes, Ordering::Relaxed);
    }

    /// A call begins.
    pub(crate) fn begin_call(&self) {
        self.0.spent_before_ns.store(self.spent_ns(), Ordering::Relaxed);
    }

    /// What the latest call has used. Asked on the thread that polls the instance, if one does.
    pub(crate) fn call_cpu(&self) -> Duration {
        let before = self.0.spent_before_ns.load(Ordering::Relaxed);
        Duration::from_nanos(self.spent_ns().saturating_sub(before))
    }

    fn spent_ns(&self) -> u64 {
        let begun_ns = self.0.begun_ns.load(Ordering::Relaxed);
        let under_way =
            if begun_ns == 0 { 0 } else { thread_cpu_ns().saturating_sub(begun_ns).saturating_sub(CHARGED_NS.get()) };
        self.0.spent_ns.load(Ordering::Relaxed).saturating_add(under_way)
    }

    /// The first poll begins here already: what is done from now on, on this thread and before anything else is polled, is
    /// charged with it. Saves reading the clock twice more for each request.
    pub(crate) fn begin_poll(&self) {
        self.0.begun_ns.store(thread_cpu_ns(), Ordering::Relaxed);
    }

    /// Charges what `act` uses.
    pub(crate) fn charge<R>(&self, act: impl FnOnce() -> R) -> R {
        let _charging = Charging::new(self);
        act()
    }

    /// Charges what the polls of `future` use.
    pub(crate) async fn over<T>(&self, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        std::future::poll_fn(|context| self.charge(|| future.as_mut().poll(context))).await
    }

    /// The same for a task of its own, which can ask for this meter.
    pub(crate) async fn over_task<T>(self, future: impl Future<Output = T>) -> T {
        let meter = self.clone();
        OF_TASK.scope(self, async move { meter.over(future).await }).await
    }
}

impl Instance {
    fn count_memory(&self) {
        let now_us = now_us();
        let until_us = self.counted_until_us.fetch_max(now_us, Ordering::Relaxed);
        let byte_us = self.held_bytes.load(Ordering::Relaxed).wrapping_mul(now_us.saturating_sub(until_us));
        self.usage.memory_byte_us.fetch_add(byte_us, Ordering::Relaxed);
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.count_memory();
    }
}

/// A poll that is charged when this is dropped, also by a panic.
struct Charging<'a> {
    meter: &'a Instance,
    begun_ns: u64,
    /// What was charged before within the poll around this one.
    charged_before_ns: u64,
}

impl<'a> Charging<'a> {
    fn new(meter: &'a Meter) -> Self {
        let meter = &meter.0;
        let charged_before_ns = CHARGED_NS.replace(0);
        let begun_ns = match meter.begun_ns.load(Ordering::Relaxed) {
            0 => thread_cpu_ns(),
            begun_ns => begun_ns,
        };
        meter.begun_ns.store(begun_ns, Ordering::Relaxed);
        Self { meter, begun_ns, charged_before_ns }
    }
}

impl Drop for Charging<'_> {
    fn drop(&mut self) {
        let all_ns = thread_cpu_ns().saturating_sub(self.begun_ns);
        let own_ns = all_ns.saturating_sub(CHARGED_NS.get());
        CHARGED_NS.set(self.charged_before_ns.wrapping_add(all_ns));
        self.meter.begun_ns.store(0, Ordering::Relaxed);
        self.meter.spent_ns.fetch_add(own_ns, Ordering::Relaxed);
        self.meter.usage.cpu_ns.fetch_add(own_ns, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Works until the thread has used so much more CPU time; answers how much it was.
    fn burn(ns: u64) -> u64 {
        let begun = thread_cpu_ns();
        while thread_cpu_ns() - begun < ns {
            std::hint::black_box(());
        }
        thread_cpu_ns() - begun
    }

    #[test]
    fn each_is_charged_with_its_own_part() {
        const MS: u64 = 1_000_000;
        let (outer, inner) = (Arc::new(Usage::default()), Arc::new(Usage::default()));
        let (outside, inside) = (Meter::new(Some(&outer)), Meter::new(Some(&inner)));
        let begun = thread_cpu_ns();
        let (mut own, mut nested) = (0, 0);
        outside.charge(|| {
            own += burn(5 * MS);
            inside.charge(|| nested += burn(9 * MS));
            own += burn(3 * MS);
        });
        let all = thread_cpu_ns() - begun;
        let (outer, inner) = (outer.now().cpu_ns, inner.now().cpu_ns);
        assert!(outer >= own && inner >= nested, "{outer} of {own}, {inner} of {nested}");
        assert!(outer + inner <= all, "nothing is charged twice: {outer} and {inner} of {all}");
    }

    #[test]
    fn a_call_is_told_from_the_one_before() {
        let meter = Meter::new(None);
        let first = meter.charge(|| burn(4_000_000));
        assert!(meter.call_cpu() >= Duration::from_nanos(first));
        meter.begin_call();
        assert_eq!(meter.call_cpu(), Duration::ZERO);
        let (second, seen) = meter.charge(|| (burn(1_000_000), meter.call_cpu()));
        assert!(seen >= Duration::from_nanos(second) && seen < Duration::from_nanos(first + second), "{seen:?}");
    }

    #[test]
    fn memory_is_counted_for_as_long_as_it_is_held() {
        let usage = Arc::new(Usage::default());
        let meter = Meter::new(Some(&usage));
        meter.lasts();
        meter.holds(1_000);
        let begun_us = now_us();
        burn(3_000_000);
        let least = 1_000 * (now_us() - begun_us);
        assert!(usage.now().memory_byte_us >= least, "it is counted while it lasts");
        drop(meter);
        let ended = usage.now().memory_byte_us;
        burn(1_000_000);
        assert_eq!(usage.now().memory_byte_us, ended, "and not after its end");
    }
}
