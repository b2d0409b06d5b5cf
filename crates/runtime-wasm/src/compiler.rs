//! Compiles components, one after the other, at the lowest priority, so that a deployment does not slow down what is being
//! served.
//!
//! With a cache, a process of its own compiles where there is a program for it ([`CompilerProcess`]): a compilation takes
//! hundreds of megabytes, which go with the process, a component that breaks the compiler does not break the node, and
//! the kernel bounds what it may take. What it writes is authenticated by this process and mapped. Else, a thread of this
//! process compiles.

use std::ffi::OsString;
use std::fmt;
use std::io::{Read as _, Write as _};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{self as std_mpsc, RecvTimeoutError};
use std::time::Duration;

use bytes::Bytes;
use rustix::process::{Pid, PidfdFlags, Resource, Rlimit, Signal, pidfd_open, pidfd_send_signal};
use tokio::sync::{mpsc, oneshot};
use wasmtime::Engine;
use wasmtime::component::Component;

use crate::artifact::LoadError;
use crate::cache::{Cache, Part};
use crate::engine::{self, Concurrency, Flavor};
use crate::native;

/// How many components may wait; a caller beyond that waits to be let in.
const QUEUE_MAX: usize = 16;
/// The lowest priority there is.
const NICE: i32 = 19;
/// What a compiling process may take; the largest components that we know take a tenth.
const PROCESS_MEMORY_BYTES_MAX: u64 = 6 << 30;
const PROCESS_CPU_S_MAX: u64 = 600;
/// How long it may take in all, also on a machine whose guests leave it hardly any time: others wait for it.
const PROCESS_TIME_MAX: Duration = Duration::from_secs(900);
/// How much of what a compiling process says of its failure is read.
const MESSAGE_BYTES_MAX: u64 = 16 << 10;
/// The exit status of a process that found the component invalid.
const INVALID: u8 = 65;
/// The exit status of a process that did not get as far as the component.
const NOT_STARTED: u8 = 69;

/// A program that calls [`compile_here`] with its last three arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompilerProcess {
    /// Its path.
    pub program: PathBuf,
    /// What it is given before these three.
    pub arguments: Vec<OsString>,
}

/// How code is made: everything that it depends on besides the component.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Recipe {
    pub(crate) concurrency: Concurrency,
    /// Whether instances live in a pool, which decides how memory is addressed.
    pub(crate) pooled: bool,
    /// A hash of all of it, the processor included; part of a file's name.
    pub(crate) compatibility: String,
}

/// The way to the compiling thread; it ends when this is dropped and the last component is done.
pub(crate) struct Compiler(mpsc::Sender<Job>);

struct Job {
    engine: Engine,
    recipe: Recipe,
    bytes: Bytes,
    /// The name in the cache.
    name: String,
    done: oneshot::Sender<Result<Component, LoadError>>,
}

impl Compiler {
    /// Starts the thread.
    pub(crate) fn start(cache: Option<Arc<Cache>>, process: Option<CompilerProcess>) -> std::io::Result<Self> {
        let (sender, mut jobs) = mpsc::channel::<Job>(QUEUE_MAX);
        std::thread::Builder::new().name("wasm-compile".to_owned()).spawn(move || {
            if let Err(error) = rustix::process::setpriority_process(None, NICE) {
                tracing::debug!(%error, "the compiling thread runs at ordinary priority");
            }
            while let Some(job) = jobs.blocking_recv() {
                let compiled = match &cache {
                    Some(cache) => job.compile_and_keep(cache, process.as_ref()),
                    None => job.compile(),
                };
                // Whoever asked may have gone; the next who asks finds it in the cache.
                let _ = job.done.send(compiled);
            }
        })?;
        Ok(Self(sender))
    }

    /// Compiles a component and keeps it in the cache.
    pub(crate) async fn compile(&self, flavor: &Flavor, bytes: Bytes, name: String) -> Result<Component, LoadError> {
        let (done, outcome) = oneshot::channel();
        let job = Job { engine: flavor.engine.clone(), recipe: flavor.recipe.clone(), bytes, name, done };
        self.0.send(job).await.map_err(|_| LoadError::Stopped)?;
        outcome.await.map_err(|_| LoadError::Stopped)?
    }
}

impl Job {
    fn compile(&self) -> Result<Component, LoadError> {
        Component::from_binary(&self.engine, &self.bytes).map_err(|error| LoadError::Invalid(format!("{error:#}")))
    }

    /// What was kept is mapped from the cache, so that only the code that runs takes memory.
    fn compile_and_keep(&self, cache: &Cache, process: Option<&CompilerProcess>) -> Result<Component, LoadError> {
        let kept = self.keep(cache, process)?;
        let mapped = kept.then(|| load(&self.engine, cache, &self.name)).flatten();
        mapped.map_or_else(|| self.compile(), Ok)
    }

    /// Writes the component's code to the cache; answers whether it is there now.
    fn keep(&self, cache: &Cache, process: Option<&CompilerProcess>) -> Result<bool, LoadError> {
        let written = cache.begin(&self.name).map_err(|error| Failed::Process(error.to_string())).and_then(|part| {
            match process {
                Some(process) => process.compile(&self.recipe, &self.bytes, &part)?,
                None => {
                    let code = self.engine.precompile_component(&self.bytes);
                    let code = code.map_err(|error| Failed::Component(format!("{error:#}")))?;
                    (&part.file).write_all(&code)?;
                }
            }
            Ok(cache.finish(&self.name, part)?)
        });
        match written {
            Ok(()) => Ok(true),
            Err(Failed::Component(reason)) => Err(LoadError::Invalid(reason)),
            Err(Failed::Process(reason)) => {
                tracing::warn!(
                    reason,
                    "a compiled component could not be kept; it will be compiled again after a restart"
                );
                Ok(false)
            }
        }
    }
}

/// Maps what the cache has under a name.
pub(crate) fn load(engine: &Engine, cache: &Cache, name: &str) -> Option<Component> {
    match native::load(engine, &cache.read(name)?) {
        Ok(component) => Some(component),
        Err(error) => {
            tracing::warn!(%error, name, "a file of the artefact cache was refused; compiling anew");
            None
        }
    }
}

/// Why nothing was kept.
enum Failed {
    /// The component cannot be compiled.
    Component(String),
    /// Something else went wrong; the component may be fine.
    Process(String),
}

impl From<std::io::Error> for Failed {
    fn from(error: std::io::Error) -> Self {
        Self::Process(error.to_string())
    }
}

impl CompilerProcess {
    /// Compiles a component in a process, which writes the code to the file.
    fn compile(&self, recipe: &Recipe, component: &[u8], into: &Part) -> Result<(), Failed> {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).args(recipe.arguments()).env_clear();
        command.stdin(Stdio::piped()).stdout(into.file.try_clone()?).stderr(Stdio::piped());
        let mut process = command.spawn()?;
        let _in_time = kill_after(PROCESS_TIME_MAX, &process);
        // It reads everything before it writes anything but a short message.
        let given = match process.stdin.take() {
            Some(mut input) => input.write_all(component),
            None => Ok(()),
        };
        let mut message = String::new();
        if let Some(output) = process.stderr.take() {
            // What it says matters less than how it ends.
            let _ = output.take(MESSAGE_BYTES_MAX).read_to_string(&mut message);
        }
        let status = process.wait()?;
        let message = message.trim().to_owned();
        match status.code() {
            Some(0) => Ok(given?),
            Some(code) if code == i32::from(INVALID) => Err(Failed::Component(message)),
            Some(code) if code == i32::from(NOT_STARTED) => Err(Failed::Process(message)),
            // It panicked, or took more than it may: to try the same here would do to the node what it did to that process.
            _ => Err(Failed::Component(format!("compiling it failed ({status}): {message}"))),
        }
    }
}

/// Kills a process that takes too long, unless what is returned is dropped before.
fn kill_after(limit: Duration, process: &Child) -> std::io::Result<std_mpsc::SyncSender<()>> {
    let process = pidfd_open(Pid::from_child(process), PidfdFlags::empty())?;
    let (in_time, ended) = std_mpsc::sync_channel(1);
    std::thread::Builder::new().name("wasm-compile-end".to_owned()).spawn(move || {
        if ended.recv_timeout(limit) == Err(RecvTimeoutError::Timeout)
            && let Err(error) = pidfd_send_signal(&process, Signal::KILL)
        {
            tracing::warn!(%error, "a compilation that takes too long could not be stopped");
        }
    })?;
    Ok(in_time)
}

impl Recipe {
    fn arguments(&self) -> [&str; 3] {
        let concurrency = match self.concurrency {
            Concurrency::Sequential => "sequential",
            Concurrency::Concurrent => "concurrent",
        };
        [concurrency, if self.pooled { "pooled" } else { "unpooled" }, &self.compatibility]
    }

    fn parse([concurrency, pooled, compatibility]: &[String; 3]) -> Option<Self> {
        let concurrency = match concurrency.as_str() {
            "sequential" => Concurrency::Sequential,
            "concurrent" => Concurrency::Concurrent,
            _ => return None,
        };
        let pooled = match pooled.as_str() {
            "pooled" => true,
            "unpooled" => false,
            _ => return None,
        };
        Some(Self { concurrency, pooled, compatibility: compatibility.clone() })
    }
}

/// Why a compiling process compiled nothing.
#[derive(Debug)]
pub struct CompileFailure {
    /// What to exit with.
    pub status: u8,
    /// What to say on standard error.
    pub message: String,
}

impl fmt::Display for CompileFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for CompileFailure {}

/// What a [`CompilerProcess`] does: compiles the component on standard input, and writes the code to standard output. Its
/// priority, memory and processor time are limited, and it ends with the process that started it.
///
/// # Errors
/// When the arguments are not those of this version, or the component cannot be compiled.
pub fn compile_here(arguments: &[String; 3]) -> Result<(), CompileFailure> {
    let failure = |message: String| CompileFailure { status: NOT_STARTED, message };
    let recipe = Recipe::parse(arguments).ok_or_else(|| failure(format!("these are no settings: {arguments:?}")))?;
    confine().map_err(|error| failure(error.to_string()))?;
    let engine = engine::compiling(&recipe).map_err(|error| failure(format!("{error:#}")))?;
    let mut component = Vec::new();
    std::io::stdin().lock().read_to_end(&mut component).map_err(|error| failure(error.to_string()))?;
    let code = engine.precompile_component(&component);
    let code = code.map_err(|error| CompileFailure { status: INVALID, message: format!("{error:#}") })?;
    std::io::stdout().lock().write_all(&code).map_err(|error| failure(error.to_string()))
}

fn confine() -> rustix::io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    let limit = |bound: u64| Rlimit { current: Some(bound), maximum: Some(bound) };
    rustix::process::setrlimit(Resource::Data, limit(PROCESS_MEMORY_BYTES_MAX))?;
    rustix::process::setrlimit(Resource::Cpu, limit(PROCESS_CPU_S_MAX))?;
    rustix::process::setrlimit(Resource::Core, limit(0))?;
    rustix::process::setpriority_process(None, NICE)
}
