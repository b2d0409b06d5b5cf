//! `littoral node revoke`.

use std::process::ExitCode;

use littoral_mesh::admin::AdminCredential;
use littoral_node::signing;

use crate::args::RevokeArgs;
use crate::client::Client;
use crate::edits::{author, now_us};
use crate::failure::hinted;

/// Shuts a node out of the fabric.
pub(super) async fn run(args: &RevokeArgs, client: &Client) -> anyhow::Result<ExitCode> {
    let folder = args.key.clone().unwrap_or_else(|| client.key_folder());
    let key = AdminCredential::load(&folder).map_err(|error| {
        hinted(
            format!("the administrator's key cannot be read: {error}"),
            "give the folder `admin` of the node where `littoral init` was run with --key",
        )
    })?;
    let by = args.author.clone().unwrap_or_else(author);
    client.revoke(&signing::revoke(args.node.clone(), by, now_us(), &key)?).await?;
    eprintln!("{} is shut out of the fabric, for good", args.node);
    Ok(ExitCode::SUCCESS)
}
