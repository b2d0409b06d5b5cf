//! `littoral schema`.

use std::process::ExitCode;

use crate::output;

/// Prints the JSON Schema of the manifest.
pub(super) fn run() -> anyhow::Result<ExitCode> {
    let schema = serde_json::to_string_pretty(&littoral_model::manifest::schema())?;
    output::print(&format!("{schema}\n"))?;
    Ok(ExitCode::SUCCESS)
}
