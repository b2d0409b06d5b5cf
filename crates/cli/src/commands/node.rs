//! `littoral node`: runs a node until it is told to stop.

use std::os::unix::fs::DirBuilderExt as _;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use littoral_node::{Abilities, CONTAINERS, Confinement, HostProcess, NodeSettings};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use crate::app::parse_time;
use crate::args::NodeArgs;
use crate::commands::compile::compiler;
use crate::commands::container::program;
use crate::commands::{init, told_to_end};
use crate::context::{Places, SOCKET_NAME};
use crate::failure::Usage;

/// What was started before the node was confined.
#[derive(Debug, Default)]
pub(crate) struct Prepared {
    containers: Option<Arc<HostProcess>>,
}

/// Runs a node.
pub(super) async fn run(args: &NodeArgs, places: &Places, prepared: Prepared) -> anyhow::Result<ExitCode> {
    let data = data_of(args, places);
    let name = match (&args.name, &args.join) {
        (Some(name), _) => Some(name.clone()),
        (None, Some(_)) => Some(init::machine_name()?),
        (None, None) => None,
    };
    let settings = NodeSettings {
        data: data.clone(),
        name,
        tier: args.tier,
        site: args.site.clone(),
        labels: args.label.iter().cloned().collect(),
        join: args.join.clone(),
        listen: args.listen.clone(),
        connect: args.connect.clone(),
        http: args.http,
        mqtt: args.mqtt,
        admin_listen: args.admin_listen,
        join_listen: args.join_listen,
        advertise: args.advertise.clone(),
        clients: args.clients.clone(),
        offer: args.offer.clone(),
        situation: args.situation.clone(),
        compiler: Some(compiler()),
        containers: prepared.containers,
        // Whoever holds its input sees to its data as well.
        ends_containers: args.stop_on_stdin_close,
        usage_period: Some(parse_time("--usage-period", &args.usage_period)?),
    };
    let shutdown = CancellationToken::new();
    let stop = shutdown.clone();
    tokio::spawn(async move {
        if let Err(error) = told_to_end().await {
            tracing::warn!(%error, "cannot wait for signals; the node stops only when it is asked to");
            return;
        }
        tracing::info!("stopping");
        stop.cancel();
    });
    if args.stop_on_stdin_close {
        let stop = shutdown.clone();
        tokio::spawn(async move {
            // Nothing is expected there; its end, or an error, is the sign.
            let _ = tokio::io::copy(&mut tokio::io::stdin(), &mut tokio::io::sink()).await;
            stop.cancel();
        });
    }
    littoral_node::run(settings, shutdown).await?;
    Ok(ExitCode::SUCCESS)
}

/// Where the node's data is.
fn data_of(args: &NodeArgs, places: &Places) -> std::path::PathBuf {
    args.data.clone().unwrap_or_else(|| places.data.clone())
}

/// What a node's process does before it starts any thread: it confines itself to its data directory, which threads that
/// run already would not be.
///
/// # Errors
/// When the directory cannot be made, or the kernel knows the confinement and refuses it.
pub(crate) fn prepare(args: &NodeArgs) -> anyhow::Result<Prepared> {
    let places = Places::of_user();
    let data = data_of(args, &places);
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&data);
    made.with_context(|| format!("cannot make {}", data.display()))?;
    start_logging(args)?;
    // So that `littoral get nodes` beside it needs no --socket. A node runs without it as well.
    if let Err(error) = places.record_socket(&data.join(SOCKET_NAME)) {
        tracing::debug!(%error, "cannot remember this node for other commands");
    }
    let containers = containers(&data);
    // The folder, because a file that is replaced is another one.
    let stated = args.situation.as_deref().and_then(std::path::Path::parent);
    let stated = stated.map(|folder| if folder.as_os_str().is_empty() { std::path::Path::new(".") } else { folder });
    let state = containers.as_ref().map(|host| host.state());
    let readable: Vec<&std::path::Path> = stated.into_iter().chain(state.as_deref()).collect();
    let confined = littoral_node::confine(&data, &args.offer, &readable);
    match confined.context("cannot confine the node to its data directory")? {
        Confinement::Full => {}
        Confinement::Partial => tracing::info!("the kernel confines this node to its data directory in part only"),
        Confinement::None => {
            tracing::warn!("the kernel cannot confine this node to its data directory: it has no Landlock")
        }
    }
    Ok(Prepared { containers })
}

/// The process that makes containers, where this machine can run any: a node that is confined could not start it.
fn containers(data: &std::path::Path) -> Option<Arc<HostProcess>> {
    let abilities = Abilities::find(std::env::var_os("PATH").as_deref());
    let cannot = |reason: &dyn std::fmt::Display, what| tracing::info!(%reason, "this node runs no {what}");
    abilities.images.as_ref().err().inspect(|reason| cannot(reason, "containers"));
    abilities.programs.as_ref().err().inspect(|reason| cannot(reason, "processes"));
    if !abilities.any() {
        return None;
    }
    let started = HostProcess::start(&data.join(CONTAINERS), abilities, &program());
    started.inspect_err(|reason| cannot(reason, "containers or processes")).ok().map(Arc::new)
}

fn start_logging(args: &NodeArgs) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&args.log).map_err(|error| {
        Usage::new(format!("--log: {error}")).hint("for instance `info` or `littoral_flow=debug,warn`")
    })?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_writer(std::io::stderr);
    let started = if args.log_json { builder.json().try_init() } else { builder.try_init() };
    started.map_err(|error| anyhow::anyhow!(error)).context("cannot start logging")
}
