//! `littoral swap`.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use littoral_model::id::FunctionName;
use littoral_model::manifest::{self, Manifest, Query};
use littoral_node::admin::types::{AppBundle, FlowStatus, StageStatus};
use serde::Serialize;

use crate::app::{parse_time, upload};
use crate::args::SwapArgs;
use crate::client::Client;
use crate::edits::Editor;
use crate::failure::{Usage, hinted};
use crate::output::{self, Table, Tabular};

/// How often to ask whether the stages run it.
const ASK_INTERVAL: Duration = Duration::from_millis(100);

/// What became of a swap.
#[derive(Debug, Serialize)]
struct Swapped {
    /// The digest of the component.
    artifact: String,
    /// The stages that run it now.
    stages: Vec<SwappedStage>,
}

#[derive(Debug, Serialize)]
struct SwappedStage {
    stage: String,
    partition: u32,
    node: String,
    /// From when what ran before was stopped until it took rows again, in milliseconds; nothing if nothing ran.
    pause_ms: Option<f64>,
}

/// Puts a component in the place of a function's, and waits until the stages run it.
pub(super) async fn run(args: &SwapArgs, client: &Client) -> anyhow::Result<ExitCode> {
    let timeout = parse_time("--timeout", &args.timeout)?;
    let (app, function) = (&args.of.app, &args.of.name);
    let bundle = client.history(app.as_str()).await?.holds.and_then(|holds| holds.bundle);
    let Some(bundle) = bundle else {
        return Err(hinted(format!("there is no app {app}"), "see `littoral get apps`"));
    };
    let manifest = read(&bundle)?;
    check(&manifest, function)?;
    let named = stages_with(&manifest, function);
    let component = std::fs::read(&args.component)
        .with_context(|| format!("the component {} cannot be read", args.component.display()))?;
    let artifact = upload(client, component.into()).await?;
    if bundle.artifacts.get(function) == Some(&artifact) {
        return Err(Usage::new(format!("{function} is that component already"))
            .hint("build the other one first")
            .into());
    }
    let mut artifacts = bundle.artifacts.clone();
    artifacts.insert(function.clone(), artifact.clone());
    let bundle = AppBundle { artifacts, edit: None, signature: None, ..bundle };
    Editor::new(client, &args.sign)?.deploy(app, bundle).await?;
    let waited = tokio::time::timeout(timeout, async {
        loop {
            let flows = client.flows().await?;
            if let Some(stages) = all_swapped(&flows, app.as_str(), &named, &artifact) {
                return anyhow::Ok(stages);
            }
            tokio::time::sleep(ASK_INTERVAL).await;
        }
    });
    let stages = waited.await.map_err(|_| {
        let text = format!(
            "{app} is to run it, and not all stages of {function} have said within {} that they do",
            args.timeout
        );
        hinted(text, format!("`littoral get flows` says why; `littoral history {app}` shows what was before"))
    })??;
    output::print(&output::render(&Swapped { artifact, stages }, args.output)?)?;
    Ok(ExitCode::SUCCESS)
}

/// The manifest, with what its flows in SQL came to.
fn read(bundle: &AppBundle) -> anyhow::Result<Manifest> {
    let unread = || hinted("what is deployed is of another version of this program", "upgrade this one");
    let mut manifest = manifest::parse("littoral.toml", &bundle.manifest).map_err(|_| unread())?;
    littoral_sql::expand(&mut manifest).map_err(|_| unread())?;
    Ok(manifest)
}

/// What runs a function in stages: itself, and the queries that call it.
fn stages_with(manifest: &Manifest, function: &str) -> BTreeSet<String> {
    let calls = |query: &Query| query.functions.iter().any(|called| called.as_str() == function);
    let queries = manifest.queries.iter().filter(|(_, query)| calls(query));
    queries.map(|(stage, _)| stage.to_string()).chain([function.to_owned()]).collect()
}

/// Refuses what is no function of the app with a component in a file.
fn check(manifest: &Manifest, name: &str) -> anyhow::Result<()> {
    let function = FunctionName::new(name).ok().and_then(|name| manifest.functions.get(&name));
    let Some(function) = function else {
        let names: Vec<&str> = manifest.functions.keys().map(FunctionName::as_str).collect();
        return Err(Usage::new(format!("the app has no function {name}"))
            .hint(format!("it has {}", names.join(", ")))
            .into());
    };
    if !function.component.is_empty() && function.registry().is_none() {
        return Ok(());
    }
    let message = format!("{name} has no component in a file");
    Err(Usage::new(message).hint("change the manifest, and deploy that").into())
}

/// The stages with one of these, by name and partition.
fn stages<'f>(flows: &'f [FlowStatus], app: &str, named: &BTreeSet<String>) -> impl Iterator<Item = &'f StageStatus> {
    let of_app = flows.iter().filter(move |flow| flow.app == app);
    let has_it = move |stage: &&StageStatus| stage.functions.iter().any(|name| named.contains(name));
    of_app.flat_map(|flow| &flow.stages).filter(has_it)
}

/// The stages with one of these, if each takes rows with that artefact.
fn all_swapped(flows: &[FlowStatus], app: &str, named: &BTreeSet<String>, artifact: &str) -> Option<Vec<SwappedStage>> {
    let swapped = |stage: &StageStatus| {
        let is_it = |run: &String| Query::is_made_of(run, artifact);
        let runs = stage.runs.as_ref().filter(|runs| runs.artifacts.iter().any(is_it))?;
        Some(SwappedStage {
            stage: stage.name.clone(),
            partition: stage.partition,
            node: stage.owner.clone().unwrap_or_default(),
            pause_ms: runs.pause_ms,
        })
    };
    stages(flows, app, named).map(swapped).collect()
}

impl Tabular for Swapped {
    fn table(&self, _wide: bool) -> String {
        if self.stages.is_empty() {
            return "deployed; no flow has it as a stage, and requests go to it once it is ready\n".to_owned();
        }
        let mut table = Table::new(&["STAGE", "PARTITION", "NODE", "PAUSE"]);
        for stage in &self.stages {
            let pause = stage.pause_ms.map_or_else(|| "none, nothing ran".to_owned(), |ms| format!("{ms:.1}ms"));
            table.row([stage.stage.clone(), stage.partition.to_string(), stage.node.clone(), pause]);
        }
        table.render()
    }
}
