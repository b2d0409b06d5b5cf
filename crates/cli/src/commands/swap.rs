//! `littoral swap`.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use littoral_model::id::FunctionName;
use littoral_model::manifest::{self, Function, Manifest, Query};
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
    let Some(of) = named(&manifest, function) else {
        let names: Vec<&str> = manifest.functions.keys().map(FunctionName::as_str).collect();
        return Err(Usage::new(format!("the app has no function {function}"))
            .hint(format!("it has {}", names.join(", ")))
            .into());
    };
    let with_it = stages_with(&manifest, function);
    let (bundle, artifact) = match (&args.variant, &args.component) {
        (Some(variant), _) => varied(bundle, of, variant)?,
        (None, Some(component)) => replaced(bundle, app.as_str(), of, component, client).await?,
        (None, None) => {
            return Err(Usage::new("there is nothing to swap in").hint("give a component, or --variant").into());
        }
    };
    Editor::new(client, &args.sign)?.deploy(app, bundle).await?;
    let waited = tokio::time::timeout(timeout, async {
        loop {
            let flows = client.flows().await?;
            if let Some(stages) = all_swapped(&flows, app.as_str(), &with_it, &artifact) {
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

/// The bundle with another component of a function, and the digest of that.
async fn replaced(
    bundle: AppBundle,
    app: &str,
    (name, function): (&FunctionName, &Function),
    component: &Path,
    client: &Client,
) -> anyhow::Result<(AppBundle, String)> {
    if function.component.is_empty() || function.registry().is_some() {
        let message = format!("{name} has no component in a file");
        return Err(Usage::new(message).hint("change the manifest, and deploy that").into());
    }
    if let Some(variant) = function.variant.as_ref().filter(|variant| *variant != name) {
        return Err(Usage::new(format!("{name} runs its variant {variant}, in whose place this does not come"))
            .hint(format!("`littoral swap {app}/{name} --variant {name}` has it run its own component first"))
            .into());
    }
    let content =
        std::fs::read(component).with_context(|| format!("the component {} cannot be read", component.display()))?;
    let artifact = upload(client, content.into()).await?;
    if bundle.artifacts.get(name.as_str()) == Some(&artifact) {
        return Err(Usage::new(format!("{name} is that component already")).hint("build the other one first").into());
    }
    let mut artifacts = bundle.artifacts.clone();
    artifacts.insert(name.to_string(), artifact.clone());
    Ok((AppBundle { artifacts, edit: None, signature: None, ..bundle }, artifact))
}

/// The bundle with another variant of a function as the one that runs, and the digest of that.
fn varied(
    bundle: AppBundle,
    (name, function): (&FunctionName, &Function),
    variant: &FunctionName,
) -> anyhow::Result<(AppBundle, String)> {
    let Some(fidelity) = function.fidelities(name).find(|fidelity| fidelity.name == variant) else {
        let names: Vec<&str> = function.fidelities(name).map(|fidelity| fidelity.name.as_str()).collect();
        return Err(Usage::new(format!("{name} has no variant {variant}"))
            .hint(format!("it has {}; `variants` in the manifest says which", names.join(", ")))
            .into());
    };
    if function.chosen_artifact(name) == fidelity.artifact {
        let message = format!("{variant} is the usual variant of {name} already");
        let hint = "`littoral get flows -o wide` shows what runs now: a cheaper one where an objective asked for it, until that holds";
        return Err(Usage::new(message).hint(hint).into());
    }
    let artifact = bundle.artifacts.get(&fidelity.artifact).cloned().unwrap_or_default();
    let Some(manifest) = manifest::with_variant(&bundle.manifest, name, variant) else {
        let message = format!("the deployed manifest is written such that `variant` of {name} cannot be set in it");
        return Err(hinted(message, format!("say `variant = \"{variant}\"` there, and deploy")));
    };
    Ok((AppBundle { manifest, edit: None, signature: None, ..bundle }, artifact))
}

/// A function of the app.
fn named<'m>(manifest: &'m Manifest, name: &str) -> Option<(&'m FunctionName, &'m Function)> {
    manifest.functions.iter().find(|(function, _)| function.as_str() == name)
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
