//! `littoral deploy`: build, upload, deploy, wait.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::time::Duration;

use indicatif::ProgressBar;
use littoral_model::manifest::{self, Manifest};
use littoral_node::admin::types::{AppStatus, FlowStatus, Health, RescaledStatus, StageStatus};
use littoral_sql::Program;
use serde::Serialize;

use crate::app::{App, parse_time};
use crate::args::{DeployArgs, Format};
use crate::client::Client;
use crate::commands::{build_app, plan};
use crate::composition;
use crate::edits::Editor;
use crate::failure::hinted;
use crate::output::{self, Tabular};
use crate::transfer::registry;

/// How often to ask whether the app is healthy.
const ASK_INTERVAL: Duration = Duration::from_millis(250);

/// Deploys an app and waits until it is healthy.
pub(super) async fn run(args: &DeployArgs, client: &Client) -> anyhow::Result<ExitCode> {
    let timeout = parse_time("--timeout", &args.timeout)?;
    let app = App::load(&args.app, args.output)?;
    if args.dry_run {
        composition::check(&app)?;
        return plan::show(client, &app.bundle_of_what_is_there()?, args.output).await;
    }
    if !args.no_build {
        build_app(&app).await?;
    }
    composition::check(&app)?;
    eprintln!("deploying {} {}", app.manifest.name, app.manifest.version);
    let bundle = app.upload(client, &registry(args.plain_http)?).await?;
    let before = partitions_before(client, app.manifest.name.as_str()).await?;
    let changed = changed(&before, &partitions_by_key(&app.program));
    let changed = with_last_changes(client, app.manifest.name.as_str(), changed).await?;
    let editor = Editor::new(client, &args.sign)?.only_if(args.if_generation);
    let mut status = editor.deploy(&app.manifest.name, bundle).await?;
    if !args.no_wait {
        status = wait_healthy(client, status, timeout).await?;
    }
    let rescaled =
        if args.no_wait { Vec::new() } else { wait_rescaled(client, &status.name, &changed, timeout).await? };
    output::print(&output::render(&Deployed { status: status.clone(), rescaled }, args.output)?)?;
    if args.output == Format::Table && args.no_wait {
        eprintln!("see how it fares with `littoral get apps {} --watch`", status.name);
    }
    Ok(ExitCode::SUCCESS)
}

/// What was deployed, and how it went.
#[derive(Debug, Serialize)]
struct Deployed {
    #[serde(flatten)]
    status: AppStatus,
    /// The flows whose number of partitions by key was changed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    rescaled: Vec<RescaledFlow>,
}

#[derive(Debug, Serialize)]
struct RescaledFlow {
    flow: String,
    from: u32,
    to: u32,
    /// For how long handing over paused a partition at most, in milliseconds; nothing if that is not known.
    pause_ms: Option<f64>,
}

impl Tabular for Deployed {
    fn table(&self, wide: bool) -> String {
        let mut text = self.status.table(wide);
        for RescaledFlow { flow, from, to, pause_ms } in &self.rescaled {
            let unknown = || "how long that paused it is not known, for it was started anew meanwhile".to_owned();
            let pause = pause_ms.map_or_else(unknown, |ms| format!("handing over paused it for up to {ms:.1} ms"));
            text.push_str(&format!("flow {flow} has {to} partitions now, before {from}; {pause}\n"));
        }
        text
    }
}

/// Of the flows whose rows come together by their keys, over how many partitions.
fn partitions_by_key(program: &Program) -> BTreeMap<String, u32> {
    let flows = program.flows.iter();
    flows.filter_map(|(name, flow)| Some((name.to_string(), flow.plan.keyed_partitions()?))).collect()
}

/// The same of what is deployed; of what this program cannot read nothing.
async fn partitions_before(client: &Client, app: &str) -> anyhow::Result<BTreeMap<String, u32>> {
    let bundle = client.history(app).await?.holds.and_then(|holds| holds.bundle);
    let read = |text: &str| {
        let mut manifest: Manifest = manifest::parse("littoral.toml", text).ok()?;
        littoral_sql::expand(&mut manifest).ok()
    };
    let program = bundle.and_then(|bundle| read(&bundle.manifest));
    Ok(program.as_ref().map(partitions_by_key).unwrap_or_default())
}

/// The flows that have another number of partitions than before, and which.
fn changed(before: &BTreeMap<String, u32>, now: &BTreeMap<String, u32>) -> BTreeMap<String, u32> {
    let is_other = |(name, to): &(&String, &u32)| before.get(*name).is_some_and(|from| from != *to);
    now.iter().filter(is_other).map(|(name, to)| (name.clone(), *to)).collect()
}

/// A number of partitions that a flow is to have.
struct Wanted {
    to: u32,
    /// The last change before that.
    generation: u32,
}

/// The same flows with the last change that each is done with before they are deployed.
async fn with_last_changes(
    client: &Client,
    app: &str,
    changed: BTreeMap<String, u32>,
) -> anyhow::Result<BTreeMap<String, Wanted>> {
    if changed.is_empty() {
        return Ok(BTreeMap::new());
    }
    let flows = client.flows().await?;
    let generation = |name: &str| {
        let flow = flows.iter().find(|flow| flow.app == app && flow.name == name)?;
        Some(first_stages(flow).find(|stage| stage.partition == 0)?.runs.as_ref()?.rescaled.as_ref()?.generation)
    };
    let wanted = changed.into_iter().map(|(name, to)| {
        let generation = generation(&name).unwrap_or_default();
        (name, Wanted { to, generation })
    });
    Ok(wanted.collect())
}

/// The stages of a flow that take its rows.
fn first_stages(flow: &FlowStatus) -> impl Iterator<Item = &StageStatus> {
    let first = format!("{}.0", flow.name);
    flow.stages.iter().filter(move |stage| stage.name == first)
}

/// Waits until all stages of the flows have the partitions that they are to have.
async fn wait_rescaled(
    client: &Client,
    app: &str,
    wanted: &BTreeMap<String, Wanted>,
    timeout: Duration,
) -> anyhow::Result<Vec<RescaledFlow>> {
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let waited = tokio::time::timeout(timeout, async {
        loop {
            let flows = client.flows().await?;
            let of_app: Vec<&FlowStatus> = flows.iter().filter(|flow| flow.app == app).collect();
            let all =
                wanted.iter().map(|(name, wanted)| rescaled(of_app.iter().find(|flow| flow.name == *name)?, wanted));
            if let Some(all) = all.collect::<Option<Vec<_>>>() {
                return anyhow::Ok(all.into_iter().flatten().collect());
            }
            tokio::time::sleep(ASK_INTERVAL).await;
        }
    });
    let names: Vec<&str> = wanted.keys().map(String::as_str).collect();
    waited.await.map_err(|_| {
        hinted(
            format!(
                "{app} is deployed, but not all partitions of {} have changed within {timeout:?}",
                names.join(", ")
            ),
            "they do once all that feed them can be reached; until then rows of those that have switched wait: see `littoral get flows`",
        )
    })?
}

/// How a flow was changed, once all its stages are done with that; nothing of it if it had that number already.
fn rescaled(flow: &FlowStatus, wanted: &Wanted) -> Option<Option<RescaledFlow>> {
    let first = first_stages(flow).find(|stage| stage.partition == 0)?.runs.as_ref()?;
    first.partitions.filter(|partitions| *partitions == wanted.to)?;
    let Some(last) = first.rescaled.as_ref().filter(|last| last.generation > wanted.generation) else {
        return Some(None);
    };
    // One that never had rows is told nothing.
    let done = |stage: &StageStatus| match stage.runs.as_ref()?.rescaled.clone() {
        None if stage.partition >= last.from.max(last.to) => Some(None),
        done => done.filter(|done| done.generation >= last.generation).map(Some),
    };
    let all: Vec<Option<RescaledStatus>> = first_stages(flow).map(done).collect::<Option<_>>()?;
    let pause_ms = all.iter().flatten().filter_map(|done| done.pause_ms).max_by(f64::total_cmp);
    Some(Some(RescaledFlow { flow: flow.name.clone(), from: last.from, to: last.to, pause_ms }))
}

/// Waits until an app is healthy, saying what is still missing.
///
/// # Errors
/// When it is refused, or not healthy in time.
async fn wait_healthy(client: &Client, mut status: AppStatus, timeout: Duration) -> anyhow::Result<AppStatus> {
    let name = status.name.clone();
    let progress = Progress::new();
    let waited = tokio::time::timeout(timeout, async {
        loop {
            match status.state {
                Health::Healthy => return Ok(()),
                Health::Refused => {
                    return Err(hinted(
                        format!("{name} is refused: {}", status.reasons.join("; ")),
                        "see `littoral plan` for what stands in the way",
                    ));
                }
                Health::Starting | Health::Degraded | Health::Deleting => {}
            }
            progress.say(&name, &status.reasons);
            tokio::time::sleep(ASK_INTERVAL).await;
            match client.apps().await?.into_iter().find(|app| app.name == name) {
                Some(now) => status = now,
                None => return Err(hinted(format!("{name} was deleted meanwhile"), "deploy it again")),
            }
        }
    })
    .await;
    match waited {
        Ok(Ok(())) => Ok(status),
        Ok(Err(error)) => Err(error),
        Err(_) => {
            let reasons =
                if status.reasons.is_empty() { "it is still starting".into() } else { status.reasons.join("; ") };
            Err(hinted(
                format!("{name} is deployed, but not healthy after {timeout:?}: {reasons}"),
                format!("see `littoral get apps {name} --watch` and `littoral logs {name}`"),
            ))
        }
    }
}

/// What is still missing: one line that changes on a terminal, else a line for each change.
struct Progress {
    bar: Option<ProgressBar>,
    said: std::cell::RefCell<String>,
}

impl Progress {
    fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(ProgressBar::new_spinner);
        Self { bar, said: std::cell::RefCell::default() }
    }

    fn say(&self, name: &str, reasons: &[String]) {
        let reasons = if reasons.is_empty() { "starting".to_owned() } else { reasons.join("; ") };
        let line = format!("{name}: {reasons}");
        if let Some(bar) = &self.bar {
            bar.set_message(line);
            bar.tick();
        } else if self.said.replace(line.clone()) != line {
            eprintln!("{line}");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
