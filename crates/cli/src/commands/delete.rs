//! `littoral delete`.

use std::process::ExitCode;

use crate::args::DeleteArgs;
use crate::client::Client;
use crate::edits::Editor;

/// Ends an app.
pub(super) async fn run(args: &DeleteArgs, client: &Client) -> anyhow::Result<ExitCode> {
    Editor::new(client, &args.sign)?.end(&args.app).await?;
    eprintln!("{} is being removed", args.app);
    Ok(ExitCode::SUCCESS)
}
