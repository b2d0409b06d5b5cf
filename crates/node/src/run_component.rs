//! Serves one `wasi:http` component, or runs one `wasi:cli` command, with no manifest and no fabric:
//! `littoral run`.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use littoral_gateway::{Gateway, Settings, single};
use littoral_runtime::command::{self, CommandSettings};
pub use littoral_runtime::fabric::Device;
use littoral_runtime::fabric::Surroundings;
use littoral_runtime::http::{HttpFunction, HttpSettings};
pub use littoral_runtime::{Access, Directory, Limits};
use littoral_runtime::{
    Artifact, CompilerProcess, LoadError, LogSink, LogStream, Runtime, RuntimeOptions, Shards, StartError, preview1,
};
use tokio_util::sync::CancellationToken;

use crate::surveyor;

/// How long requests under way may go on after a stop was asked for.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
/// How many lines of the component may wait to be printed; a component does not wait for a slow terminal.
const LINES_WAITING_MAX: usize = 1_024;

/// What to serve, and how.
#[derive(Clone, Debug)]
pub struct ComponentSettings {
    /// The component's bytes.
    pub component: Bytes,
    /// Where to listen; port 0 takes a free one.
    pub address: SocketAddr,
    /// The component's environment.
    pub environment: Vec<(String, String)>,
    /// What one invocation may use; how long it may take stands below.
    pub limits: Limits,
    /// How many requests may run at once.
    pub concurrency_max: usize,
    /// How long one invocation may take; none is [`REQUEST_TIMEOUT`] for a request, and no limit for a command.
    pub timeout: Option<Duration>,
    /// What it may reach.
    pub access: Access,
    /// A command's arguments, the first of which is its name.
    pub arguments: Vec<String>,
    /// The folder of compiled components; without one, each run compiles.
    pub cache_dir: Option<PathBuf>,
    /// What compiles for it; this process, if there is nothing else.
    pub compiler: Option<CompilerProcess>,
}

/// How long a request may take if nothing else is said: as long as people wait for an answer.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// As good as no limit.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(10 * 365 * 86_400);

/// Runs a command to its end and answers its exit status, or serves requests until `shutdown` and lets those under way
/// finish. `listening` is told the address before the first request is taken. What the component prints goes to this
/// process's standard output and error.
///
/// # Errors
/// When the component is neither a `wasi:http` handler nor a command, the address cannot be had, or a command fails
/// otherwise than by exiting.
pub async fn run_component(
    settings: ComponentSettings,
    listening: impl FnOnce(SocketAddr),
    shutdown: CancellationToken,
) -> anyhow::Result<i32> {
    let runtime = start(&settings).context("the runtime does not start")?;
    if Runtime::is_module(&settings.component) {
        return run_command(&runtime, None, settings).await;
    }
    let artifact = runtime.load(settings.component.clone()).await.context("the component does not load")?;
    if let Some(import) = artifact.lacks().first() {
        return Err(LoadError::Unlinked((*import).to_owned())).context("the component does not run alone");
    }
    // A handler that was built as a program has a `main`, too, which does nothing.
    if artifact.is_command() && !artifact.is_handler() {
        return run_command(&runtime, Some(&artifact), settings).await;
    }
    serve(&runtime, &artifact, settings, listening, shutdown).await?;
    Ok(0)
}

/// Starts the runtime; without its cache if that cannot be used, which costs time but nothing else.
fn start(settings: &ComponentSettings) -> Result<Runtime, StartError> {
    let (cache_dir, compiler) = (settings.cache_dir.clone(), settings.compiler.clone());
    match Runtime::new(RuntimeOptions { cache_dir, compiler, ..RuntimeOptions::default() }) {
        Err(StartError::Cache { .. }) => Runtime::new(RuntimeOptions::default()),
        started => started,
    }
}

/// Runs a command, which is a module unless it was loaded as a component.
async fn run_command(
    runtime: &Runtime,
    component: Option<&Artifact>,
    settings: ComponentSettings,
) -> anyhow::Result<i32> {
    let (logs, printing) = printed()?;
    let timeout = settings.timeout.unwrap_or(COMMAND_TIMEOUT);
    let command = CommandSettings {
        limits: Limits { timeout, ..settings.limits },
        arguments: settings.arguments,
        surroundings: alone(&settings.environment),
        environment: settings.environment,
        access: Arc::new(settings.access),
        logs: Arc::new(logs),
    };
    let status = match component {
        Some(artifact) => command::run(runtime, artifact, &command).await,
        None => preview1::run(runtime, &settings.component, &command).await,
    };
    // What the host has to say of the command is said before this process ends.
    drop(command);
    let _ = tokio::task::spawn_blocking(move || printing.join()).await;
    Ok(status?)
}

async fn serve(
    runtime: &Runtime,
    artifact: &Arc<Artifact>,
    settings: ComponentSettings,
    listening: impl FnOnce(SocketAddr),
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    anyhow::ensure!(
        settings.arguments.len() <= 1,
        "the component answers requests and takes no arguments; give it settings with --env"
    );
    let (logs, _) = printed()?;
    let timeout = settings.timeout.unwrap_or(REQUEST_TIMEOUT);
    let function = HttpSettings {
        name: "component".to_owned(),
        limits: Limits { timeout, ..settings.limits },
        concurrency_max: settings.concurrency_max,
        surroundings: alone(&settings.environment),
        environment: settings.environment,
        access: Arc::new(settings.access),
        logs: Arc::new(logs),
        ..HttpSettings::default()
    };
    let function = HttpFunction::new(runtime, artifact, function).context(
        "the component is no command and does not answer requests: it must export wasi:http/incoming-handler 0.2, \
         wasi:http/handler 0.3, littoral:fabric/handler or wasi:cli/run",
    )?;
    let shards = Shards::for_this_machine().context("cannot start the data-plane threads")?;
    shards.linger(!surveyor::is_on_battery());
    let gateway = Gateway::serve(settings.address, &shards, single(Arc::new(function)), Settings::default()).await?;
    listening(gateway.address());
    shutdown.cancelled().await;
    if !gateway.drain(DRAIN_TIMEOUT).await.complete {
        tracing::warn!("requests that did not finish within {DRAIN_TIMEOUT:?} were cut");
    }
    Ok(())
}

/// No fabric, and a configuration that is the environment.
fn alone(environment: &[(String, String)]) -> Arc<Surroundings> {
    Arc::new(Surroundings { config: environment.to_vec(), attached: None })
}

fn printed() -> std::io::Result<(Printed, JoinHandle<()>)> {
    let (lines, waiting) = sync_channel(LINES_WAITING_MAX);
    let printing = std::thread::Builder::new().name("component-output".to_owned());
    Ok((Printed(lines), printing.spawn(move || print_lines(&waiting))?))
}

/// Hands a component's lines to the thread that prints them; those that find no room are dropped.
struct Printed(SyncSender<(LogStream, String)>);

impl LogSink for Printed {
    fn line(&self, stream: LogStream, text: &str) {
        if self.0.try_send((stream, text.to_owned())).is_err() {
            metrics::counter!("littoral_component_lines_dropped_total").increment(1);
        }
    }
}

fn print_lines(waiting: &Receiver<(LogStream, String)>) {
    for (stream, text) in waiting {
        // Where nobody reads it is nobody to tell.
        let _ = match stream {
            LogStream::Stdout => writeln!(std::io::stdout(), "{text}"),
            LogStream::Stderr => writeln!(std::io::stderr(), "{text}"),
        };
    }
}
