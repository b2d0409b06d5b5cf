//! Instances for one call each. One for each thread is made ready before its call comes.
//!
//! To make an instance takes longer than most calls. So a thread that has answered two calls of a function within a second makes
//! the next instance at once, while the answer is on its way and the caller thinks; it waits for a second at most, and then is let
//! go of. A call that finds none, as where many come at once, makes its own. See decision 35.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};
use wasmtime::{PoolConcurrencyLimitError, Store};
use wasmtime_wasi_http::p2::bindings::{Proxy, ProxyPre};

use super::HandlerSettings;
use crate::engine::{Concurrency, Place, Waits, Wasm};
use crate::fabric::bindings::typed::{Typed, TypedPre};
use crate::fabric::{CALL_DEPTH_MAX, Invocation};
use crate::fault::Fault;
use crate::host::{Host, within};
use crate::meter::Meter;
use crate::turns;

/// So many threads have what is theirs; more than there are cores on the machines that this is made for. Beyond that, threads
/// share.
pub(super) const THREADS_MAX: usize = 64;
/// How long an instance waits for its call: as long as one that is used again waits for the next. Two calls that are not so far
/// apart are worth making one for the third.
const READY_MAX: Duration = Duration::from_secs(1);

/// A number of the calling thread, counted from 0, below [`THREADS_MAX`].
pub(super) fn this_thread() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static NUMBER: usize = NEXT.fetch_add(1, Ordering::Relaxed) % THREADS_MAX;
    }
    NUMBER.with(|number| *number)
}

/// A component that was linked, and what calls an instance of it.
pub(super) trait Linked: Send + Sync + 'static {
    /// What calls an instance.
    type Guest: Send + 'static;

    /// Makes an instance within a store.
    fn instantiate(&self, store: &mut Store<Host>) -> impl Future<Output = wasmtime::Result<Self::Guest>> + Send;
}

impl Linked for ProxyPre<Host> {
    type Guest = Proxy;

    async fn instantiate(&self, store: &mut Store<Host>) -> wasmtime::Result<Proxy> {
        self.instantiate_async(store).await
    }
}

impl Linked for TypedPre<Host> {
    type Guest = Typed;

    async fn instantiate(&self, store: &mut Store<Host>) -> wasmtime::Result<Typed> {
        self.instantiate_async(store).await
    }
}

/// Makes instances. Clones make the same.
pub(super) struct Instances<L: Linked>(Arc<Making<L>>);

struct Making<L: Linked> {
    wasm: Wasm,
    concurrency: Concurrency,
    linked: L,
    settings: HandlerSettings,
    of_threads: Box<[OfThread<L::Guest>]>,
}

type OfThread<G> = OnceLock<Arc<Spare<G>>>;

/// What one thread has made ready.
struct Spare<G> {
    ready: Mutex<Option<Ready<G>>>,
    /// Whether somebody makes another one when it is wanted.
    is_kept: AtomicBool,
    wanted: Notify,
    /// When the latest call was answered while nobody made another one.
    answered: Mutex<Option<Instant>>,
}

/// An instance that waits for its call.
struct Ready<G> {
    store: Store<Host>,
    guest: G,
    meter: Meter,
    _place: Place,
}

/// An instance of somebody who is about to call it; nothing was done yet for one that is not ready.
pub(super) struct Reserved<G> {
    pub(super) meter: Meter,
    ready: Option<Ready<G>>,
}

/// An instance in a call.
pub(super) struct Instance<G> {
    pub(super) store: Store<Host>,
    pub(super) meter: Meter,
    guest: Option<G>,
}

impl<L: Linked> Clone for Instances<L> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<L: Linked> Instances<L> {
    pub(super) fn new(wasm: Wasm, concurrency: Concurrency, linked: L, settings: HandlerSettings) -> Self {
        let of_threads = (0..THREADS_MAX).map(|_| OnceLock::new()).collect();
        Self(Arc::new(Making { wasm, concurrency, linked, settings, of_threads }))
    }

    pub(super) fn wasm(&self) -> &Wasm {
        &self.0.wasm
    }

    pub(super) fn settings(&self) -> &HandlerSettings {
        &self.0.settings
    }

    /// The instance that this thread has ready, or the right to make one.
    pub(super) fn reserve(&self) -> Reserved<L::Guest> {
        let ready = self.0.of_threads.get(this_thread()).and_then(OnceLock::get).and_then(|spare| spare.take());
        let meter = ready.as_ref().map(|ready| ready.meter.clone());
        Reserved { meter: meter.unwrap_or_else(|| Meter::new(Some(&self.0.settings.usage))), ready }
    }

    /// Gives a call its instance.
    pub(super) fn begin(
        &self,
        reserved: Reserved<L::Guest>,
        invocation: Invocation,
    ) -> Result<Instance<L::Guest>, Fault> {
        let Reserved { meter, ready } = reserved;
        let limit = invocation.timeout(self.0.settings.limits.timeout);
        let (mut store, guest) = match ready {
            Some(Ready { mut store, guest, .. }) => {
                store.data_mut().wake(limit);
                (store, Some(guest))
            }
            None => (self.0.store(&meter, limit)?, None),
        };
        store.data_mut().present.begin(invocation);
        Ok(Instance { store, meter, guest })
    }

    /// What calls an instance, which is made first unless it was ready.
    pub(super) async fn guest(&self, store: &mut Store<Host>, made: Option<L::Guest>) -> wasmtime::Result<L::Guest> {
        if let Some(guest) = made {
            return Ok(guest);
        }
        match self.0.linked.instantiate(store).await {
            // Those that only wait go first.
            Err(error) if error.is::<PoolConcurrencyLimitError>() && self.0.wasm.let_waiting_go() => {
                self.0.linked.instantiate(store).await
            }
            made => made,
        }
    }

    /// A call was answered on this thread, and the guest did not fail: another one may follow.
    pub(super) fn another(&self) {
        let Some(of_thread) = self.0.of_threads.get(this_thread()) else { return };
        let spare = of_thread.get_or_init(|| {
            let spare = Arc::new(Spare::new());
            let waits: Weak<dyn Waits> = Arc::<Spare<L::Guest>>::downgrade(&spare) as _;
            self.0.wasm.keeps(waits);
            spare
        });
        if spare.is_kept.load(Ordering::Acquire) {
            spare.wanted.notify_one();
        } else if spare.is_called_again() && !spare.is_kept.swap(true, Ordering::AcqRel) {
            tokio::spawn(keep(Arc::downgrade(&self.0), Arc::clone(spare)));
        }
    }
}

impl<G> Instance<G> {
    /// Its parts: the store, and what calls it if it was ready.
    pub(super) fn into_parts(self) -> (Store<Host>, Option<G>) {
        (self.store, self.guest)
    }
}

impl<G: Send> Waits for Spare<G> {
    fn let_go(&self) -> bool {
        let ready = self.take();
        ready.is_some()
    }
}

impl<G> Spare<G> {
    fn new() -> Self {
        Self {
            ready: Mutex::default(),
            is_kept: AtomicBool::new(false),
            wanted: Notify::new(),
            answered: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Ready<G>>> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a call was answered; whether the one before was a short time ago.
    fn is_called_again(&self) -> bool {
        let now = Instant::now();
        let before = self.answered.lock().unwrap_or_else(PoisonError::into_inner).replace(now);
        before.is_some_and(|before| now.duration_since(before) < READY_MAX)
    }

    fn is_ready(&self) -> bool {
        self.lock().is_some()
    }

    fn take(&self) -> Option<Ready<G>> {
        self.lock().take()
    }

    fn put(&self, ready: Option<Ready<G>>) {
        let before = std::mem::replace(&mut *self.lock(), ready);
        // Outside the lock: to end an instance takes a while.
        drop(before);
    }
}

impl<L: Linked> Making<L> {
    fn store(&self, meter: &Meter, timeout: Duration) -> Result<Store<Host>, Fault> {
        let mut setup = self.settings.setup(meter);
        setup.limits.timeout = timeout;
        let store = Host::store(&self.wasm.flavor(self.concurrency).engine, setup);
        store.map_err(|error| Fault::Setup { reason: format!("{error:#}") })
    }

    /// An instance that waits, if there is room. Whatever fails here fails again in the call that makes its own, which tells.
    async fn ready(&self) -> Option<Ready<L::Guest>> {
        let meter = Meter::new(Some(&self.settings.usage));
        let limit = self.settings.limits.timeout;
        turns::first(meter.function(), 0, std::time::Instant::now() + limit).await.ok()?;
        let place = self.wasm.place()?;
        let _ticking = self.wasm.tick();
        let mut store = meter.charge(|| self.store(&meter, limit)).ok()?;
        // Without a call there is nobody on whose behalf it could call others; two that do so when they begin would never end.
        store.data_mut().present.begin(Invocation { depth: CALL_DEPTH_MAX, ..Invocation::default() });
        let deadline = Host::begin(&mut store);
        let guest = meter.over(within(deadline, self.linked.instantiate(&mut store))).await.ok()?;
        store.data().rest();
        Some(Ready { store, guest, meter, _place: place })
    }
}

impl<L: Linked> Drop for Making<L> {
    fn drop(&mut self) {
        // What waits goes with its function.
        self.of_threads.iter().filter_map(OnceLock::get).for_each(|spare| spare.wanted.notify_one());
    }
}

/// Somebody makes instances for a thread; nothing waits there any more when that ends.
struct Kept<G>(Arc<Spare<G>>);

impl<G> Drop for Kept<G> {
    fn drop(&mut self) {
        self.0.put(None);
        self.0.is_kept.store(false, Ordering::Release);
    }
}

/// Makes instances for a thread, one after the other, until one could not be made or was not wanted for a while.
async fn keep<L: Linked>(making: Weak<Making<L>>, spare: Arc<Spare<L::Guest>>) {
    let Kept(spare) = &Kept(spare);
    let mut until = Instant::now();
    loop {
        // Several calls may have ended since, of which one had what was ready.
        if !spare.is_ready() {
            let Some(making) = making.upgrade() else { return };
            let Some(ready) = making.ready().await else { return };
            spare.put(Some(ready));
            until = Instant::now() + READY_MAX;
        }
        if timeout_at(until, spare.wanted.notified()).await.is_err() || making.strong_count() == 0 {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
    use super::*;
    use crate::engine::WasmOptions;
    use crate::meter::Usage;

    /// A core module with a memory of 16 pages.
    const MODULE: &[u8] = &[0, b'a', b's', b'm', 1, 0, 0, 0, 5, 3, 1, 0, 16];
    const CALL: Duration = Duration::from_secs(7);

    /// Makes instances of a module, and counts them.
    struct Counted {
        module: wasmtime::Module,
        made: AtomicUsize,
    }

    impl Linked for Counted {
        type Guest = usize;

        async fn instantiate(&self, store: &mut Store<Host>) -> wasmtime::Result<usize> {
            wasmtime::Instance::new_async(store, &self.module, &[]).await?;
            Ok(self.made.fetch_add(1, Ordering::Relaxed))
        }
    }

    fn wasm(instances_max: u32) -> Wasm {
        Wasm::new(WasmOptions { instances_max: Some(instances_max), ..WasmOptions::default() }).unwrap()
    }

    fn instances(wasm: &Wasm, usage: &Arc<Usage>) -> Instances<Counted> {
        let module = wasmtime::Module::new(&wasm.flavor(Concurrency::Sequential).engine, MODULE).unwrap();
        let settings = HandlerSettings { usage: Arc::clone(usage), ..HandlerSettings::default() };
        let linked = Counted { module, made: AtomicUsize::new(0) };
        Instances::new(wasm.clone(), Concurrency::Sequential, linked, settings)
    }

    /// Calls: which instance it was, and whether it was ready.
    async fn call(instances: &Instances<Counted>) -> (usize, bool) {
        let due = Some(std::time::Instant::now() + CALL);
        let reserved = instances.reserve();
        let begun = instances.begin(reserved, Invocation { deadline: due, ..Invocation::default() }).unwrap();
        let (mut store, made) = begun.into_parts();
        assert!(store.data().limits().timeout <= CALL, "an instance that was ready has the deadline of its call");
        let was_ready = made.is_some();
        let number = instances.guest(&mut store, made).await.unwrap();
        drop(store);
        instances.another();
        (number, was_ready)
    }

    async fn until_ready(instances: &Instances<Counted>) {
        let spare = Arc::clone(instances.0.of_threads[this_thread()].get().unwrap());
        while !spare.is_ready() {
            // Where the clock is real, the machine may have been busy for a second.
            if !spare.is_kept.load(Ordering::Acquire) {
                call(instances).await;
            }
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_comes_after_another_finds_an_instance_that_nobody_had() {
        let (wasm, usage) = (wasm(16), Arc::default());
        let instances = instances(&wasm, &usage);
        assert_eq!(call(&instances).await, (0, false));
        let is_kept = || instances.0.of_threads[this_thread()].get().unwrap().is_kept.load(Ordering::Acquire);
        assert!(!is_kept(), "none is made for who may be alone");
        assert_eq!(call(&instances).await, (1, false));
        assert!(is_kept());
        for number in 2..6 {
            until_ready(&instances).await;
            assert_eq!(call(&instances).await, (number, true));
        }
        // Two at once: one finds what is ready, the other one makes its own, and one is made for the next.
        until_ready(&instances).await;
        let first = instances.reserve();
        assert!(first.ready.is_some() && instances.reserve().ready.is_none());
        drop(first);
        instances.another();
        instances.another();
        until_ready(&instances).await;
        tokio::task::yield_now().await;
        assert_eq!(instances.0.linked.made.load(Ordering::Relaxed), 8);
    }

    #[tokio::test]
    async fn an_instance_that_waits_costs_its_function_no_memory() {
        let (wasm, usage) = (wasm(16), Arc::<Usage>::default());
        let instances = instances(&wasm, &usage);
        call(&instances).await;
        let (reserved, before) = loop {
            until_ready(&instances).await;
            let before = usage.now().memory_byte_us;
            tokio::time::sleep(Duration::from_millis(20)).await;
            let reserved = instances.reserve();
            if reserved.ready.is_some() {
                break (reserved, before);
            }
        };
        let begun = instances.begin(reserved, Invocation::default()).unwrap();
        assert_eq!(usage.now().memory_byte_us, before, "so long it had waited, and not for its function");
        tokio::time::sleep(Duration::from_millis(20)).await;
        drop(begun);
        let used = usage.now().memory_byte_us - before;
        assert!(used >= (16 << 16) * 20_000, "from its call on it counts: {used}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_instance_that_nobody_wants_is_let_go_of() {
        let (wasm, usage) = (wasm(8), Arc::default());
        let (one, other) = (instances(&wasm, &usage), instances(&wasm, &usage));
        call(&one).await;
        call(&one).await;
        until_ready(&one).await;
        // There is room for one.
        call(&other).await;
        call(&other).await;
        tokio::time::sleep(READY_MAX / 2).await;
        assert!(other.reserve().ready.is_none() && wasm.place().is_none());
        tokio::time::sleep(READY_MAX).await;
        assert!(one.reserve().ready.is_none() && wasm.place().is_some());
        call(&other).await;
        call(&other).await;
        until_ready(&other).await;
        // What is deleted leaves nothing behind.
        assert!(wasm.place().is_none());
        drop(other);
        while wasm.place().is_none() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn an_instance_that_waits_keeps_nobody_out() {
        let (wasm, usage) = (wasm(8), Arc::default());
        let (one, other) = (instances(&wasm, &usage), instances(&wasm, &usage));
        call(&one).await;
        until_ready(&one).await;
        // The pool has room for sixteen memories, two for each instance.
        let mut stores = Vec::new();
        for _ in 0..16 {
            let begun = other.begin(Reserved { meter: Meter::new(None), ready: None }, Invocation::default());
            let (mut store, made) = begun.unwrap().into_parts();
            other.guest(&mut store, made).await.unwrap();
            stores.push(store);
        }
        assert!(one.reserve().ready.is_none(), "it has made room");
        let begun = other.begin(other.reserve(), Invocation::default());
        let (mut store, made) = begun.unwrap().into_parts();
        let refused = other.guest(&mut store, made).await.unwrap_err();
        assert!(refused.is::<PoolConcurrencyLimitError>(), "{refused}");
    }
}
