//! `littoral deploy`: build, upload, deploy, wait.

use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::time::Duration;

use indicatif::ProgressBar;
use littoral_node::admin::types::{AppStatus, Health};

use crate::app::{App, parse_time};
use crate::args::{DeployArgs, Format};
use crate::client::Client;
use crate::commands::{build_app, plan};
use crate::composition;
use crate::edits::Editor;
use crate::failure::hinted;
use crate::output;
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
    let editor = Editor::new(client, &args.sign)?.only_if(args.if_generation);
    let mut status = editor.deploy(&app.manifest.name, bundle).await?;
    if !args.no_wait {
        status = wait_healthy(client, status, timeout).await?;
    }
    output::print(&output::render(&status, args.output)?)?;
    if args.output == Format::Table && args.no_wait {
        eprintln!("see how it fares with `littoral get apps {} --watch`", status.name);
    }
    Ok(ExitCode::SUCCESS)
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
