//! What functions use, measured: the CPU time of their guests, what memory these hold and how long, bytes and calls.
//!
//! A short poll of a guest is charged what it took by the monotonic clock, a longer one what it took by that of the thread
//! (`CLOCK_THREAD_CPUTIME_ID`): to read the latter is a system call of 0.2 to 0.5 µs, and between two of them there may be many polls.
//! Where the poll of one guest polls another one's, each is charged with its own part only. Counters are atomics; nothing on the way
//! of a request takes a lock.

use std::cell::Cell;
use std::pin::pin;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use arrow_array::cast::AsArray as _;
use arrow_array::{Array, ArrayRef};
use arrow_schema::DataType;
use littoral_model::manifest::Priority;
use rustix::time::{ClockId, clock_gettime};

use crate::logs::Allowance;
use crate::turns::{Function, Takes};

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
    /// How long its calls took lately.
    takes: Takes,
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

    /// The function, where it waits for its turns.
    pub(crate) fn function(self: &Arc<Self>) -> Function {
        Function { number: Arc::as_ptr(self).addr(), priority: self.priority() }
    }

    /// A call comes; how long it is expected to take, in nanoseconds.
    pub(crate) fn expect(&self) -> u64 {
        self.takes.begin(self.cpu_ns.load(Ordering::Relaxed))
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

/// What the rows of columns take, in bytes.
pub(crate) fn bytes_of(columns: &[ArrayRef]) -> u64 {
    columns.iter().map(|column| column_bytes(column.as_ref()) as u64).sum()
}

fn column_bytes(column: &dyn Array) -> usize {
    let rows = column.len();
    let texts = |offsets: &[i32]| {
        let used = offsets.last().zip(offsets.first()).map_or(0, |(last, first)| last - first);
        size_of_val(offsets) + used as usize
    };
    let values = match column.data_type() {
        DataType::Boolean => rows.div_ceil(8),
        DataType::Utf8 => texts(column.as_string::<i32>().offsets()),
        DataType::Binary => texts(column.as_binary::<i32>().offsets()),
        // Guests are given no others.
        other => other.primitive_width().map_or(0, |width| width * rows),
    };
    values + column.nulls().map_or(0, |_| rows.div_ceil(8))
}

/// Microseconds since this was first asked.
fn now_us() -> u64 {
    static ZERO: LazyLock<Instant> = LazyLock::new(Instant::now);
    u64::try_from(ZERO.elapsed().as_micros()).unwrap_or(u64::MAX)
}

/// How much CPU time the calling thread has used, in nanoseconds.
fn thread_cpu_ns() -> u64 {
    clock_ns(ClockId::ThreadCPUTime)
}

fn clock_ns(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    // Neither is ever negative.
    (time.tv_sec as u64).saturating_mul(1_000_000_000).saturating_add(time.tv_nsec as u64)
}

/// A poll that takes no longer than this by the monotonic clock is charged that. The kernel takes a thread off its processor for
/// longer, if it does.
const SHORT_NS: u64 = 100_000;
/// How old the latest reading of the thread's clock may be when a poll begins: a long poll that was interrupted may be charged what
/// the thread did between the two.
const READING_AGE_MAX_NS: u64 = 1_000_000;

/// What a thread's own clock said, and when, by the monotonic clock.
#[derive(Clone, Copy, Debug)]
struct Reading {
    cpu_ns: u64,
    at_ns: u64,
}

impl Reading {
    fn take(at_ns: u64) -> Self {
        let reading = Self { cpu_ns: thread_cpu_ns(), at_ns };
        READING.set(reading);
        reading
    }
}

/// The beginning of what is measured on the calling thread.
#[derive(Clone, Copy, Debug)]
struct Begun {
    at_ns: u64,
    /// The thread's clock then, or shortly before.
    cpu_ns: u64,
}

impl Begun {
    fn now() -> Self {
        let at_ns = clock_ns(ClockId::Monotonic);
        let latest = READING.get();
        let is_fresh = latest.at_ns > 0 && at_ns.saturating_sub(latest.at_ns) <= READING_AGE_MAX_NS;
        let latest = if is_fresh { latest } else { Reading::take(at_ns) };
        Self { at_ns, cpu_ns: latest.cpu_ns }
    }

    /// The CPU time since then.
    fn elapsed_ns(self) -> u64 {
        let at_ns = clock_ns(ClockId::Monotonic);
        let elapsed_ns = at_ns.saturating_sub(self.at_ns);
        if elapsed_ns <= SHORT_NS {
            return elapsed_ns;
        }
        elapsed_ns.min(Reading::take(at_ns).cpu_ns.saturating_sub(self.cpu_ns))
    }
}

thread_local! {
    /// The latest reading of the thread's clock; at 0 there is none.
    static READING: Cell<Reading> = const { Cell::new(Reading { cpu_ns: 0, at_ns: 0 }) };
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
    /// When the poll under way, or what led to it, [began](Begun); both are 0 if none is.
    begun_at_ns: AtomicU64,
    begun_cpu_ns: AtomicU64,
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
            begun_at_ns: AtomicU64::new(0),
            begun_cpu_ns: AtomicU64::new(0),
        }))
    }

    /// Whose instance it is; one that measures for nobody is a function of its own.
    pub(crate) fn function(&self) -> Function {
        self.0.usage.function()
    }

    /// How long a call of the function is expected to take, in nanoseconds.
    pub(crate) fn expects_ns(&self) -> u64 {
        self.0.usage.takes.expected_ns()
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
        let under_way = self.0.begun().map_or(0, |begun| begun.elapsed_ns().saturating_sub(CHARGED_NS.get()));
        self.0.spent_ns.load(Ordering::Relaxed).saturating_add(under_way)
    }

    /// The first poll begins here already: what is done from now on, on this thread and before anything else is polled, is
    /// charged with it.
    pub(crate) fn begin_poll(&self) {
        self.0.begin(Some(Begun::now()));
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
    /// When the poll under way began, if one is.
    fn begun(&self) -> Option<Begun> {
        let at_ns = self.begun_at_ns.load(Ordering::Relaxed);
        (at_ns > 0).then(|| Begun { at_ns, cpu_ns: self.begun_cpu_ns.load(Ordering::Relaxed) })
    }

    fn begin(&self, begun: Option<Begun>) {
        self.begun_at_ns.store(begun.map_or(0, |begun| begun.at_ns), Ordering::Relaxed);
        self.begun_cpu_ns.store(begun.map_or(0, |begun| begun.cpu_ns), Ordering::Relaxed);
    }

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
    begun: Begun,
    /// What was charged before within the poll around this one.
    charged_before_ns: u64,
}

impl<'a> Charging<'a> {
    fn new(meter: &'a Meter) -> Self {
        let meter = &meter.0;
        let charged_before_ns = CHARGED_NS.replace(0);
        let begun = meter.begun().unwrap_or_else(Begun::now);
        meter.begin(Some(begun));
        Self { meter, begun, charged_before_ns }
    }
}

impl Drop for Charging<'_> {
    fn drop(&mut self) {
        let all_ns = self.begun.elapsed_ns();
        let own_ns = all_ns.saturating_sub(CHARGED_NS.get());
        CHARGED_NS.set(self.charged_before_ns.wrapping_add(all_ns));
        self.meter.begin(None);
        self.meter.spent_ns.fetch_add(own_ns, Ordering::Relaxed);
        self.meter.usage.cpu_ns.fetch_add(own_ns, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By how much the two clocks may come to differ in what a test takes.
    const SKEW_NS: u64 = 100_000;
    const SKEW: Duration = Duration::from_nanos(SKEW_NS);

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
        assert!(outer + SKEW_NS >= own && inner + SKEW_NS >= nested, "{outer} of {own}, {inner} of {nested}");
        assert!(outer + inner <= all + SKEW_NS, "nothing is charged twice: {outer} and {inner} of {all}");
    }

    #[test]
    fn many_short_polls_amount_to_what_they_used() {
        const POLLS: u64 = 500;
        let usage = Arc::new(Usage::default());
        let meter = Meter::new(Some(&usage));
        let used: u64 = (0..POLLS).map(|_| meter.charge(|| burn(20_000))).sum();
        let charged = usage.now().cpu_ns;
        assert!(charged + SKEW_NS >= used, "{charged} of {used}");
    }

    #[test]
    fn a_poll_that_waits_is_charged_what_it_computes() {
        let usage = Arc::new(Usage::default());
        let meter = Meter::new(Some(&usage));
        let begun = thread_cpu_ns();
        meter.charge(|| std::thread::sleep(Duration::from_millis(20)));
        let used = thread_cpu_ns() - begun;
        assert!(usage.now().cpu_ns <= used + SKEW_NS, "{} of {used}", usage.now().cpu_ns);
    }

    #[test]
    fn columns_take_what_their_rows_do() {
        let columns: [ArrayRef; 5] = [
            Arc::new(arrow_array::Int64Array::from(vec![Some(1), None, Some(3), Some(4)])),
            Arc::new(arrow_array::Float32Array::from(vec![1.0, 2.0, 3.0, 4.0])),
            Arc::new(arrow_array::BooleanArray::from(vec![true, false, true, true])),
            Arc::new(arrow_array::StringArray::from(vec!["one", "", "three", "four"])),
            Arc::new(arrow_array::BinaryArray::from(vec![&b"a"[..], b"bc", b"", b"def"])),
        ];
        for column in columns.into_iter().flat_map(|column| [column.slice(1, 2), column]) {
            let expected = column.to_data().get_slice_memory_size();
            assert_eq!(bytes_of(&[Arc::clone(&column)]), expected.unwrap_or_default() as u64, "{column:?}");
        }
    }

    #[test]
    fn a_call_is_told_from_the_one_before() {
        let meter = Meter::new(None);
        let first = meter.charge(|| burn(4_000_000));
        assert!(meter.call_cpu() + SKEW >= Duration::from_nanos(first));
        meter.begin_call();
        assert_eq!(meter.call_cpu(), Duration::ZERO);
        let (second, seen) = meter.charge(|| (burn(1_000_000), meter.call_cpu()));
        assert!(seen + SKEW >= Duration::from_nanos(second) && seen < Duration::from_nanos(first + second), "{seen:?}");
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
