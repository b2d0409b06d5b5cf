//! `littoral pull`: a component or an image from a registry.

use std::process::ExitCode;

use anyhow::Context as _;
use littoral_model::oci::{InvalidReference, OciReference};

use crate::args::PullArgs;
use crate::failure::Usage;
use crate::output;
use crate::transfer::{Transfer, registry};

/// Fetches and verifies a component or an image, keeps it where wanted, and prints its reference with the digest.
pub(super) async fn run(args: &PullArgs) -> anyhow::Result<ExitCode> {
    let reference: OciReference = args
        .reference
        .parse()
        .map_err(|error: InvalidReference| Usage::new(error.to_string()).hint("for instance ghcr.io/acme/score:1.2"))?;
    let registry = registry(args.plain_http)?;
    let is_image = registry.is_image(&reference).await?;
    let transfer = Transfer::new(format!("pulling {reference}"));
    let progress = |done, total| transfer.at(done, total);
    let (pinned, content) = if is_image {
        let image = registry.pull_image(&reference, &progress).await?;
        (image.reference, image.archive)
    } else {
        let resolved = registry.resolve(&reference).await?;
        (resolved.reference, registry.pull(&reference, &resolved.artifact, &progress).await?)
    };
    drop(transfer);
    if let Some(path) = &args.output {
        std::fs::write(path, &content).with_context(|| format!("cannot write {}", path.display()))?;
    }
    output::print(&format!("{pinned}\n"))?;
    Ok(ExitCode::SUCCESS)
}
