//! `littoral dev`: a continuum on this machine.

use std::process::ExitCode;

use crate::args::DevArgs;

/// Runs a continuum with an app deployed on it.
///
/// # Errors
/// Always, until it is built.
pub(crate) async fn run(args: &DevArgs) -> anyhow::Result<ExitCode> {
    anyhow::bail!("`littoral dev {}` is not part of this build", args.app.display())
}
