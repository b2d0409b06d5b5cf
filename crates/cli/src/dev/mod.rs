//! `littoral dev`: a continuum on this machine, with an app deployed on it.
//!
//! `topology` says which node connects to which, `cluster` runs them as processes with shaped links between them. `feed`
//! makes the records that sensors publish, `replay` publishes them, `strike` does harm to nodes and links meanwhile.
//! `collect` reads what came out and compares it with what went in, `incidents` judges the alarms, `report` tells it all.

mod cluster;
mod collect;
mod fault;
mod feed;
mod incidents;
mod progress;
mod replay;
mod report;
mod run;
mod strike;
mod topology;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use littoral_node::admin::types::{Health, PlanReport};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::app::App;
use crate::args::{DevArgs, Format};
use crate::commands::{build_app, told_to_end};
use crate::edits::Editor;
use crate::failure::Usage;
use crate::transfer::registry;
use cluster::{Cluster, Settings};
use fault::{Fault, Kind};
use topology::Topology;

/// How long a deployed app may take to become healthy.
const HEALTHY_TIMEOUT: Duration = Duration::from_secs(60);
/// How often is looked whether it is.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// The exit status of a process that was interrupted (128 and the number of SIGINT).
const INTERRUPTED: u8 = 130;

/// A continuum with an app on it.
struct Continuum {
    app: App,
    /// Where everything was to go, and why.
    plan: PlanReport,
    cluster: Arc<Mutex<Cluster>>,
    /// Where inputs, outputs and the report go.
    out: PathBuf,
    faults: Vec<Fault>,
}

/// Runs a continuum with an app deployed on it.
///
/// # Errors
/// When the app is not valid or cannot be built, or the nodes do not start.
pub(crate) async fn run(args: &DevArgs) -> anyhow::Result<ExitCode> {
    let app = App::load(&args.app, Format::Table)?;
    let topology = Topology::new(app.manifest.dev.as_ref())?;
    let faults = faults(args, &topology)?;
    // Nodes are given whole paths: they find by them what an app names.
    let offer =
        args.offer.iter().map(|path| path.canonicalize().with_context(|| format!("cannot offer {}", path.display())));
    let offer: Vec<PathBuf> = offer.collect::<anyhow::Result<_>>()?;
    let settings = Settings { found: !(args.once || args.demo), mqtt: !app.manifest.mqtt.is_empty(), offer };
    build_app(&app).await?;
    let folder = std::env::temp_dir().join(format!("littoral-dev-{}", std::process::id()));
    let out = args.out.clone().unwrap_or_else(|| folder.join("run"));
    std::fs::create_dir_all(&out).with_context(|| format!("cannot make {}", out.display()))?;
    if out.join("input").exists() {
        return Err(Usage::new(format!("{} has the files of another run", out.display()))
            .hint("give another --out")
            .into());
    }
    let begun = Instant::now();
    progress::say(&format!("starting {} nodes", topology.nodes.len()));
    let mut ended = tokio::select! {
        cluster = Cluster::start(topology, &folder, args.seed, settings) => Ok(Some(Arc::new(Mutex::new(cluster?)))),
        told = told_to_end() => told.map(|()| None),
    }?;
    let Some(cluster) = ended.take() else { return Ok(ExitCode::from(INTERRUPTED)) };
    let outcome = tokio::select! {
        outcome = deploy_and_run(args, app, Arc::clone(&cluster), out.clone(), faults, begun) => outcome,
        told = told_to_end() => told.map(|()| ExitCode::from(if args.once || args.demo { INTERRUPTED } else { 0 })).map_err(Into::into),
    };
    progress::say("stopping the nodes");
    if let Some(cluster) = Arc::into_inner(cluster) {
        cluster.into_inner().stop().await;
    }
    if args.keep || outcome.is_err() {
        eprintln!("the nodes' data and logs are in {}", folder.display());
    } else if args.out.is_some() || !(args.once || args.demo) {
        std::fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    } else {
        eprintln!("inputs, outputs and logs are in {}", folder.display());
    }
    outcome
}

/// The faults, each of which must strike somebody.
fn faults(args: &DevArgs, topology: &Topology) -> anyhow::Result<Vec<Fault>> {
    if !args.fault.is_empty() && !args.once {
        return Err(Usage::new("--fault needs --once").hint("faults strike while a replay is checked").into());
    }
    let faults: Vec<Fault> = args.fault.iter().map(|text| text.parse()).collect::<anyhow::Result<_>>()?;
    for fault in &faults {
        let struck = topology.named(&fault.target);
        let is_one = struck.len() == 1 && struck.first().is_some_and(|node| node.as_str() == fault.target);
        if struck.is_empty() || !(is_one || matches!(fault.kind, Kind::Cut(_))) {
            let names: Vec<&str> = topology.nodes.iter().map(|node| node.name.as_str()).collect();
            return Err(Usage::new(format!("--fault {}: there is no node `{}`", fault.text, fault.target))
                .hint(format!("the nodes are {}", names.join(", ")))
                .into());
        }
    }
    Ok(faults)
}

async fn deploy_and_run(
    args: &DevArgs,
    app: App,
    cluster: Arc<Mutex<Cluster>>,
    out: PathBuf,
    faults: Vec<Fault>,
    begun: Instant,
) -> anyhow::Result<ExitCode> {
    progress::say(&format!("deploying {} {}", app.manifest.name, app.manifest.version));
    let (client, key) = {
        let cluster = cluster.lock().await;
        (cluster.witness(&[])?.client(), cluster.tenant_key()?)
    };
    let bundle = app.upload(&client, &registry(false)?).await?;
    // Before anything is placed, so that it says why things go where they go.
    let plan = client.plan(&bundle).await?;
    Editor::with(&client, key).deploy(&app.manifest.name, bundle).await?;
    let deadline = Instant::now() + HEALTHY_TIMEOUT;
    loop {
        let apps = client.apps().await?;
        let status = apps.iter().find(|status| status.name == app.manifest.name.as_str());
        if status.is_some_and(|status| status.state == Health::Healthy) {
            break;
        }
        if Instant::now() >= deadline {
            let reasons = status.map(|status| status.reasons.join("\n  ")).unwrap_or_default();
            bail!("{} is not healthy after {} s:\n  {reasons}", app.manifest.name, HEALTHY_TIMEOUT.as_secs());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    progress::say(&format!("{} is healthy, {:.1} s after the start", app.manifest.name, begun.elapsed().as_secs_f64()));
    let continuum = Continuum { app, plan, cluster, out, faults };
    if args.once || args.demo { continuum.check(args).await } else { continuum.serve(args).await }
}
