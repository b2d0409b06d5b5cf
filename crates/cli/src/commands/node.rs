//! `littoral node`: runs a node until it is told to stop.

use std::process::ExitCode;

use anyhow::Context as _;
use littoral_node::NodeSettings;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use crate::args::NodeArgs;
use crate::commands::{init, told_to_end};
use crate::context::{Places, SOCKET_NAME};
use crate::failure::Usage;

/// Runs a node.
pub(super) async fn run(args: &NodeArgs, places: &Places) -> anyhow::Result<ExitCode> {
    start_logging(args)?;
    let data = args.data.clone().unwrap_or_else(|| places.data.clone());
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
        admin_listen: args.admin_listen,
        join_listen: args.join_listen,
        advertise: args.advertise.clone(),
    };
    // So that `littoral get nodes` beside it needs no --socket. A node runs without it as well.
    if let Err(error) = places.record_socket(&data.join(SOCKET_NAME)) {
        tracing::debug!(%error, "cannot remember this node for other commands");
    }
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
    littoral_node::run(settings, shutdown).await?;
    Ok(ExitCode::SUCCESS)
}

fn start_logging(args: &NodeArgs) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&args.log).map_err(|error| {
        Usage::new(format!("--log: {error}")).hint("for instance `info` or `littoral_flow=debug,warn`")
    })?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = if args.log_json { builder.json().try_init() } else { builder.try_init() };
    started.map_err(|error| anyhow::anyhow!(error)).context("cannot start logging")
}
