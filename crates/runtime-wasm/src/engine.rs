//! The engine: configured once per process, sized from what the machine has.

use std::hash::{Hash, Hasher};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use bytes::Bytes;
use littoral_model::manifest::limits::TABLE_ELEMENTS_MAX;
use wasmtime::component::Linker;
use wasmtime::{Config, Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig};

use crate::artifact::{Artifact, Artifacts, LoadError};
use crate::cache::Cache;
use crate::compiler::{Compiler, CompilerProcess, Recipe};
use crate::fabric;
use crate::host::Host;
use crate::ticker::{Ticker, Ticking};

/// How many instances a large machine runs at once: what Wasmtime's address space allows for on every processor.
const INSTANCES_MAX: u32 = 1_000;
/// How many a small machine has slots for.
const INSTANCES_MIN: u32 = 32;
/// A slot for each so much memory; few guests use less once they run.
const MEMORY_BYTES_PER_INSTANCE: u64 = 8 << 20;
/// Core instances, tables and memories of one component, on average: its own, and an adapter's or a shim's.
const CORE_INSTANCES_PER_COMPONENT: u32 = 6;
const TABLES_PER_COMPONENT: u32 = 4;
const MEMORIES_PER_COMPONENT: u32 = 2;
/// Memory that a slot keeps for the next instance instead of giving it back: what a guest touches that makes a body of a
/// mebibyte. To clear a page costs a third of having it faulted in anew.
const KEPT_RESIDENT_BYTES: usize = 1280 << 10;
/// So many slots stay prepared for the component that used them last; more would keep pages of idle functions in memory.
const WARM_SLOTS_MAX: u32 = 16;
/// How deep a guest's stack may be; also what Wasmtime allows by default.
const STACK_BYTES: usize = 512 << 10;
/// A guest's stack and what the host needs on it.
const FIBER_BYTES: usize = 2 << 20;
/// How many frames of a trapped guest are looked at.
const BACKTRACE_FRAMES_MAX: NonZeroUsize = NonZeroUsize::MIN.saturating_add(31);
/// Address space for a memory where there is no room for a pool; it moves when it grows beyond.
const UNPOOLED_RESERVATION_BYTES: u64 = 16 << 20;

/// One of so many slots of the pool may hold an instance that waits for its call.
const INSTANCES_PER_READY: u32 = 8;

/// How to start.
#[derive(Debug, Clone, Default)]
pub struct WasmOptions {
    /// The folder of compiled components; without one, nothing is kept over a restart.
    pub cache_dir: Option<PathBuf>,
    /// The file with the key that authenticates them, made on first use; `cache.key` beside the folder by default.
    pub cache_key: Option<PathBuf>,
    /// How many instances may exist at once; sized from the machine's memory by default.
    pub instances_max: Option<u32>,
    /// What compiles for the cache; without it, or without a cache, this process does.
    pub compiler: Option<CompilerProcess>,
}

/// Why the engine did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Wasmtime refused.
    #[error("the WebAssembly engine does not start on this machine: {0}")]
    Engine(String),
    /// A thread could not be started.
    #[error("a thread could not be started: {0}; raise the limit on processes")]
    Thread(std::io::Error),
    /// The cache cannot be used.
    #[error("the artefact cache {path} cannot be used: {error}; make it writable or remove it")]
    Cache {
        /// Where.
        path: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
}

/// The WebAssembly engine of a process. Cheap to clone.
#[derive(Clone)]
pub struct Wasm(Arc<Inner>);

struct Inner {
    /// For components that know nothing of WASI 0.3's concurrency, which makes each call and each instance dearer.
    sequential: Flavor,
    /// For those that use it.
    concurrent: Flavor,
    ticker: Ticker,
    compiler: Compiler,
    cache: Option<Arc<Cache>>,
    artifacts: Artifacts,
    /// For how many more instances there is room that wait for their calls.
    ready: Arc<AtomicUsize>,
    /// Who has them.
    waiting: Mutex<Vec<Weak<dyn Waits>>>,
}

/// Who may have an instance that waits for its call.
pub(crate) trait Waits: Send + Sync {
    /// Lets it go; whether there was one.
    fn let_go(&self) -> bool;
}

/// The room for an instance that waits for its call.
pub(crate) struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// One of the two ways in which components are compiled and run.
pub(crate) struct Flavor {
    pub(crate) engine: Engine,
    pub(crate) linker: Linker<Host>,
    /// How its code is made.
    pub(crate) recipe: Recipe,
}

/// Which of the two ways a component needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Concurrency {
    /// One call at a time: WASI 0.2.
    Sequential,
    /// Several calls at a time: WASI 0.3.
    Concurrent,
}

impl Wasm {
    /// Starts the engine, its clock and its compiling thread.
    ///
    /// # Errors
    /// When the machine does not allow it; see [`StartError`].
    pub fn new(options: WasmOptions) -> Result<Self, StartError> {
        let instances = options.instances_max.unwrap_or_else(instances_for_this_machine);
        let sequential = Flavor::new(Concurrency::Sequential, instances)?;
        let concurrent = Flavor::new(Concurrency::Concurrent, instances)?;
        let cache = match options.cache_dir {
            Some(folder) => {
                let key = options.cache_key.unwrap_or_else(|| folder.with_extension("key"));
                let opened = Cache::open(folder.clone(), &key);
                Some(Arc::new(opened.map_err(|error| StartError::Cache { path: folder, error })?))
            }
            None => None,
        };
        let engines = [sequential.engine.clone(), concurrent.engine.clone()];
        Ok(Self(Arc::new(Inner {
            ticker: Ticker::start(engines).map_err(StartError::Thread)?,
            compiler: Compiler::start(cache.clone(), options.compiler).map_err(StartError::Thread)?,
            sequential,
            concurrent,
            cache,
            artifacts: Artifacts::default(),
            ready: Arc::new(AtomicUsize::new((instances / INSTANCES_PER_READY) as usize)),
            waiting: Mutex::default(),
        })))
    }

    /// Whether these bytes are a core module, which only [`preview1`](crate::preview1) runs, and no component.
    #[must_use]
    pub fn is_module(bytes: &[u8]) -> bool {
        wasmparser::Parser::is_core_wasm(bytes)
    }

    /// Makes a component ready to run. It is compiled if neither memory nor disk has it; those who ask for the same one
    /// at once wait for the first.
    ///
    /// # Errors
    /// When it is no valid component, or needs or offers interfaces that this node does not know.
    pub async fn load(&self, component: Bytes) -> Result<Arc<Artifact>, LoadError> {
        self.0.artifacts.load(self, component).await
    }

    /// The component of this digest, if it is in use already: then nobody needs its bytes.
    #[must_use]
    pub fn held(&self, digest: &str) -> Option<Arc<Artifact>> {
        self.0.artifacts.held(digest)
    }

    pub(crate) fn flavor(&self, concurrency: Concurrency) -> &Flavor {
        match concurrency {
            Concurrency::Sequential => &self.0.sequential,
            Concurrency::Concurrent => &self.0.concurrent,
        }
    }

    pub(crate) fn compiler(&self) -> &Compiler {
        &self.0.compiler
    }

    pub(crate) fn cache(&self) -> Option<&Arc<Cache>> {
        self.0.cache.as_ref()
    }

    /// Room for an instance that waits for its call, if there is any.
    pub(crate) fn place(&self) -> Option<Place> {
        let ready = &self.0.ready;
        let had = ready.try_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        had.ok().map(|_| Place(Arc::clone(ready)))
    }

    /// Takes note of somebody who may have an instance that waits.
    pub(crate) fn keeps(&self, waits: Weak<dyn Waits>) {
        let mut waiting = self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.retain(|one| one.strong_count() > 0);
        waiting.push(waits);
    }

    /// Lets all instances go that wait for their calls, where the pool has no room; whether there were any.
    pub(crate) fn let_waiting_go(&self) -> bool {
        let waiting = self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner).clone();
        waiting.iter().filter_map(Weak::upgrade).filter(|one| one.let_go()).count() > 0
    }

    pub(crate) fn tick(&self) -> Ticking {
        self.0.ticker.tick()
    }
}

impl std::fmt::Debug for Wasm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wasm").field("recipe", &self.0.sequential.recipe).finish_non_exhaustive()
    }
}

impl Flavor {
    fn new(concurrency: Concurrency, instances: u32) -> Result<Self, StartError> {
        let refused = |error: wasmtime::Error| StartError::Engine(format!("{error:#}"));
        let (engine, pooled) = match Engine::new(&config(concurrency, Some(instances))) {
            Ok(engine) => (engine, true),
            Err(error) => {
                tracing::info!(%error, instances, "no address space for a pool of instances; allocating each on demand");
                (Engine::new(&config(concurrency, None)).map_err(refused)?, false)
            }
        };
        let mut linker = Linker::new(&engine);
        wasmtime_wasi::p2::add_to_linker_async(&mut linker).map_err(refused)?;
        wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker).map_err(refused)?;
        fabric::add_to_linker(&mut linker).map_err(refused)?;
        if concurrency == Concurrency::Concurrent {
            wasmtime_wasi::p3::add_to_linker(&mut linker).map_err(refused)?;
            wasmtime_wasi_http::p3::add_to_linker(&mut linker).map_err(refused)?;
        }
        let recipe = Recipe { concurrency, pooled, compatibility: compatibility(&engine) };
        Ok(Self { engine, recipe, linker })
    }
}

/// An engine that only compiles: what it makes runs where this recipe was made.
pub(crate) fn compiling(recipe: &Recipe) -> wasmtime::Result<Engine> {
    let engine = Engine::new(&config(recipe.concurrency, recipe.pooled.then_some(1)))?;
    let own = compatibility(&engine);
    wasmtime::ensure!(own == recipe.compatibility, "this program's code, {own}, is not {}", recipe.compatibility);
    Ok(engine)
}

fn config(concurrency: Concurrency, instances: Option<u32>) -> Config {
    let mut config = Config::new();
    config.epoch_interruption(true);
    let concurrent = concurrency == Concurrency::Concurrent;
    config.concurrency_support(concurrent);
    config.wasm_component_model_async(concurrent);
    config.memory_init_cow(true);
    config.max_wasm_stack(STACK_BYTES);
    config.async_stack_size(FIBER_BYTES);
    config.wasm_backtrace_max_frames(Some(BACKTRACE_FRAMES_MAX));
    // One thread compiles, at the lowest priority; a pool of threads would not have it.
    config.parallel_compilation(false);
    // Traps name functions, for which neither is needed; both would grow each artefact by a third.
    config.generate_address_map(false);
    config.native_unwind_info(false);
    match instances {
        Some(instances) => config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool(instances))),
        None => config
            .allocation_strategy(InstanceAllocationStrategy::OnDemand)
            .memory_reservation(UNPOOLED_RESERVATION_BYTES),
    };
    config
}

fn pool(instances: u32) -> PoolingAllocationConfig {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(instances);
    pool.total_core_instances(instances.saturating_mul(CORE_INSTANCES_PER_COMPONENT));
    pool.total_memories(instances.saturating_mul(MEMORIES_PER_COMPONENT));
    pool.total_tables(instances.saturating_mul(TABLES_PER_COMPONENT));
    pool.total_stacks(instances);
    pool.table_elements(TABLE_ELEMENTS_MAX as usize);
    // Where the kernel tells which pages were written, only these are reset, and the next instance faults none of them in.
    pool.pagemap_scan(Enabled::Auto);
    pool.max_unused_warm_slots(WARM_SLOTS_MAX);
    pool.linear_memory_keep_resident(KEPT_RESIDENT_BYTES);
    pool
}

fn instances_for_this_machine() -> u32 {
    let system = rustix::system::sysinfo();
    let memory_bytes = (system.totalram as u64).saturating_mul(u64::from(system.mem_unit));
    let instances = memory_bytes / MEMORY_BYTES_PER_INSTANCE;
    u32::try_from(instances).unwrap_or(INSTANCES_MAX).clamp(INSTANCES_MIN, INSTANCES_MAX)
}

/// A hash of everything that compiled code depends on: Wasmtime's version, its settings, the processor.
fn compatibility(engine: &Engine) -> String {
    struct Sha(ring::digest::Context);
    impl Hasher for Sha {
        fn write(&mut self, bytes: &[u8]) {
            self.0.update(bytes);
        }
        fn finish(&self) -> u64 {
            let digest = self.0.clone().finish();
            digest.as_ref().iter().take(8).fold(0, |hash, byte| hash << 8 | u64::from(*byte))
        }
    }
    let mut hasher = Sha(ring::digest::Context::new(&ring::digest::SHA256));
    engine.precompile_compatibility_hash().hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}
