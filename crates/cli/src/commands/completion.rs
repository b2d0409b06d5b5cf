//! `littoral completion`.

use std::process::ExitCode;

use clap::CommandFactory as _;

use crate::args::Cli;
use crate::output;

/// Prints the completion script of a shell.
pub(super) fn run(shell: clap_complete::Shell) -> anyhow::Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "littoral", &mut script);
    output::print(&String::from_utf8(script)?)?;
    Ok(ExitCode::SUCCESS)
}
