//! `littoral plan`.

use std::process::ExitCode;

use littoral_node::admin::types::AppBundle;

use crate::app::App;
use crate::args::{Format, PlanArgs};
use crate::client::Client;
use crate::composition;
use crate::output;

/// Shows where everything of an app would run. Status 1 if it would be refused.
pub(super) async fn run(args: &PlanArgs, client: &Client) -> anyhow::Result<ExitCode> {
    let app = App::load(&args.app, args.output)?;
    composition::check(&app)?;
    show(client, &app.bundle_of_what_is_there()?, args.output).await
}

/// Asks for the plan of a bundle and prints it.
pub(super) async fn show(client: &Client, bundle: &AppBundle, format: Format) -> anyhow::Result<ExitCode> {
    let report = client.plan(bundle).await?;
    output::print(&output::render(&report, format)?)?;
    Ok(if report.accepted { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
