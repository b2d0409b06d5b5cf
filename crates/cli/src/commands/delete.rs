//! `littoral delete`.

use std::process::ExitCode;

use crate::args::DeleteArgs;
use crate::client::Client;

/// Ends an app.
pub(super) async fn run(args: &DeleteArgs, client: &Client) -> anyhow::Result<ExitCode> {
    client.delete(args.app.as_str()).await?;
    eprintln!("{} is being removed", args.app);
    Ok(ExitCode::SUCCESS)
}
