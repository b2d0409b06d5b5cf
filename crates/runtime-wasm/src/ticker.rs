//! The clock by which guests give way: a thread that advances the engines' epochs each millisecond while a guest runs.
//!
//! It sleeps while none does, so that an idle device is not woken a thousand times a second.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::Thread;
use std::time::{Duration, Instant};

use wasmtime::Engine;

/// How often guests give way.
const TICK: Duration = Duration::from_millis(1);
/// How long the clock goes on after the last guest, so that one call after the other does not wake a thread each time.
const LINGER: Duration = Duration::from_millis(100);
/// The clock runs before ordinary threads, where the system allows it.
const NICE: i32 = -10;

/// Starts and stops the clock; it ends when this is dropped.
pub(crate) struct Ticker {
    shared: Arc<Shared>,
    thread: Thread,
}

#[derive(Default)]
struct Shared {
    running: AtomicUsize,
    stopped: AtomicBool,
}

/// Keeps the clock going while it lives.
pub(crate) struct Ticking(Arc<Shared>);

impl Ticker {
    /// Starts the thread.
    pub(crate) fn start(engines: [Engine; 2]) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let clock = Arc::clone(&shared);
        let handle = std::thread::Builder::new().name("wasm-epoch".to_owned()).spawn(move || run(&engines, &clock))?;
        Ok(Self { shared, thread: handle.thread().clone() })
    }

    /// Keeps the clock going until the answer is dropped.
    pub(crate) fn tick(&self) -> Ticking {
        if self.shared.running.fetch_add(1, Ordering::SeqCst) == 0 {
            self.thread.unpark();
        }
        Ticking(Arc::clone(&self.shared))
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        self.thread.unpark();
    }
}

impl Drop for Ticking {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}

fn run(engines: &[Engine], shared: &Shared) {
    if let Err(error) = rustix::process::setpriority_process(None, NICE) {
        tracing::debug!(%error, "the epoch thread runs at ordinary priority");
    }
    let mut last_ran = Instant::now();
    while !shared.stopped.load(Ordering::SeqCst) {
        if shared.running.load(Ordering::SeqCst) > 0 {
            last_ran = Instant::now();
        }
        if last_ran.elapsed() < LINGER {
            std::thread::sleep(TICK);
            engines.iter().for_each(Engine::increment_epoch);
        } else {
            // Whoever raises the count from zero unparks; if that happens before this line, it returns at once.
            std::thread::park();
            last_ran = Instant::now();
        }
    }
}
