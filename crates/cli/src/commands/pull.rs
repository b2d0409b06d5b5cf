//! `littoral pull`: a component from a registry.

use std::process::ExitCode;

use anyhow::Context as _;
use littoral_model::oci::{InvalidReference, OciReference};

use crate::args::PullArgs;
use crate::failure::Usage;
use crate::output;
use crate::transfer::{Transfer, registry};

/// Fetches and verifies a component, keeps it where wanted, and prints its reference with the digest.
pub(super) async fn run(args: &PullArgs) -> anyhow::Result<ExitCode> {
    let reference: OciReference = args
        .reference
        .parse()
        .map_err(|error: InvalidReference| Usage::new(error.to_string()).hint("for instance ghcr.io/acme/score:1.2"))?;
    let registry = registry(args.plain_http)?;
    let resolved = registry.resolve(&reference).await?;
    let transfer = Transfer::new(format!("pulling {reference}"));
    let component = registry.pull(&reference, &resolved.artifact, &|done, total| transfer.at(done, total)).await?;
    drop(transfer);
    if let Some(path) = &args.output {
        std::fs::write(path, &component).with_context(|| format!("cannot write {}", path.display()))?;
    }
    output::print(&format!("{}\n", resolved.reference))?;
    Ok(ExitCode::SUCCESS)
}
