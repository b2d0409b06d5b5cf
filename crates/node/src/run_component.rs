//! Serves one `wasi:http` component with no manifest, no fabric and no disk: `littoral run`.

use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use littoral_gateway::{Gateway, Settings, single};
use littoral_runtime::http::{HttpFunction, HttpSettings};
use littoral_runtime::{Limits, LogSink, LogStream, Runtime, RuntimeOptions, Shards};
use tokio_util::sync::CancellationToken;

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
    /// The memory that one invocation may use, in bytes.
    pub memory_bytes: u64,
    /// How long one invocation may take.
    pub timeout: Duration,
}

/// Serves until `shutdown`, then lets requests under way finish. `listening` is told the address before the first
/// request is taken. What the component prints goes to this process's standard output and error.
///
/// # Errors
/// When the component is no `wasi:http` handler, or the address cannot be had.
pub async fn run_component(
    settings: ComponentSettings,
    listening: impl FnOnce(SocketAddr),
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let runtime = Runtime::new(RuntimeOptions::default()).context("the runtime does not start")?;
    let artifact = runtime.load(settings.component).await.context("the component does not load")?;
    let (lines, waiting) = sync_channel(LINES_WAITING_MAX);
    std::thread::Builder::new().name("component-output".to_owned()).spawn(move || print_lines(&waiting))?;
    let function = HttpSettings {
        name: "component".to_owned(),
        limits: Limits { memory_bytes: settings.memory_bytes, timeout: settings.timeout },
        environment: settings.environment,
        logs: Arc::new(Printed(lines)),
        ..HttpSettings::default()
    };
    let function = HttpFunction::new(&runtime, &artifact, function)
        .context("the component does not answer HTTP requests: it must export wasi:http/incoming-handler 0.2 or wasi:http/handler 0.3")?;
    let shards = Shards::for_this_machine().context("cannot start the data-plane threads")?;
    let gateway = Gateway::serve(settings.address, &shards, single(Arc::new(function)), Settings::default()).await?;
    listening(gateway.address());
    shutdown.cancelled().await;
    if !gateway.drain(DRAIN_TIMEOUT).await.complete {
        tracing::warn!("requests that did not finish within {DRAIN_TIMEOUT:?} were cut");
    }
    Ok(())
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
